"""What a shader calls of the standard library, by signature: read from the code that clang makes of
it when nothing is inlined. names.txt says which of these Apple's compiler takes every day."""
import os
import re
import subprocess

from rewrite import VECTOR
from source import HERE

_SCALARS = {"unsigned char": "uchar", "unsigned short": "ushort", "unsigned int": "uint", "unsigned long": "ulong",
            "_Float16": "half", "long double": "bfloat", "signed char": "char"}
_SPACES = {"AS1": "device", "SYglobal": "device", "AS2": "constant", "SYdevice": "constant", "AS3": "threadgroup",
           "SYlocal": "threadgroup"}
_CONVERSIONS = {"msl_make", "msl_convert", "operator->*"}


def _opening(text, end, brackets):
    """Index of the bracket that text[end] closes."""
    depth = 0
    for i in range(end, -1, -1):
        depth += {brackets[1]: 1, brackets[0]: -1}.get(text[i], 0)
        if depth == 0:
            return i
    raise ValueError(text)


def _top_level(text, separator):
    """The parts of text between separators outside of brackets."""
    parts, depth, begin = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "<(") - (c in ">)")
        if c == separator and depth == 0:
            parts.append(text[begin:i].strip())
            begin = i + 1
    return [p for p in parts + [text[begin:].strip()] if p]


def _spelled(kind):
    """A demangled type as MSL spells it."""
    for old, new in _SCALARS.items():
        kind = kind.replace(old, new)
    kind = re.sub(r"(\w+) (?:__vector\((\d+)\)|vector\[(\d+)\])", lambda m: m[1] + (m[2] or m[3]), kind)
    kind = kind.replace("metal::", "").replace("msl_bool_vector<", "vec<bool, ").replace("msl_atomic<", "atomic<")
    kind = re.sub(r"msl_element<([a-z]+)\d?>::type", r"\1", kind)
    return re.sub(r"^(.*?)((?: const| volatile)*) (AS\d|SY\w+)([*&])$",
                  lambda m: f"{_SPACES[m[3]]}{m[2]} {m[1]}{m[4]}", kind)


def _width(kind):
    """Elements of a type."""
    found = re.fullmatch(r"[a-z]+([234])|vec<bool, ([234])>", kind)
    return int(found[1] or found[2]) if found else 1


def signature(text):
    """`max(float, float)`, `as_type<half2>(uint)`, `float2(half2)`; None for what the language itself does."""
    text = text.removesuffix(" const")
    if re.match(r"(llvm\.|msl_(?!function)|metal::msl_braced<|msl::|_ZN3msl)", text):
        return None
    if not text.endswith(")"):
        return text
    begin = _opening(text, len(text) - 1, "()")
    parameters = [_spelled(p) for p in _top_level(text[begin + 1:-1], ",")]
    head, arguments = text[:begin], []
    if head.startswith("msl_function_constant<"):
        return "is_function_constant_defined()" if head.endswith("defined") else None
    if "operator\"\"" in head:
        return "literal suffix " + head.split()[-1]
    if head.endswith(">"):
        i = _opening(head, len(head) - 1, "<>")
        head, arguments = head[:i], [_spelled(a) for a in _top_level(head[i + 1:-1], ",")]
    name = _spelled(_top_level(head, " ")[-1])
    if name in _CONVERSIONS:  # the first argument is the type that is made
        made, parts = arguments[0], ["scalar" if _width(a) == 1 else a for a in arguments[1:]]
        return f"{made}({', '.join(parts)})" if _width(made) > 1 and parts != [made] else None
    if name == "as_type":
        name = f"as_type<{arguments[0]}>"
    return None if name.startswith("msl_") else f"{name}({', '.join(parameters)})"


def _debug_places(lines):
    """(file of each function's metadata, (line, scope) of each location) from LLVM's text."""
    files, scopes, locations = {}, {}, {}
    for line in lines:
        found = re.match(r"!(\d+) = (?:distinct )?!DI(\w+)\((.*)\)$", line)
        if not found:
            continue
        number, kind, rest = found.groups()
        if kind == "File":
            file, folder = re.search(r'filename: "([^"]*)", directory: "([^"]*)"', rest).groups()
            files[number] = os.path.join(folder, file).removeprefix(os.getcwd() + "/")
        elif kind in ("Subprogram", "LexicalBlock", "LexicalBlockFile"):
            file = re.search(r"file: !(\d+)", rest)
            scopes[number] = file[1] if file else None
        elif kind == "Location":
            locations[number] = (re.search(r"line: (\d+)", rest)[1], re.search(r"scope: !(\d+)", rest)[1])
    return {n: files.get(f, "") for n, f in scopes.items()}, locations


def calls(llvm_text):
    """[(caller, callee, "file:line")] where the caller is not the shim's, in LLVM's names; and the functions
    that the shader defines."""
    lines = llvm_text.split("\n")
    file_of, locations = _debug_places(lines)
    found, own, masks, caller = [], set(), set(), None
    for line in lines:
        place = re.search(r"!dbg !(\d+)", line)
        if line.startswith("define "):
            caller, masks = None, set()
            if place and "include/msl" not in file_of.get(place[1], ""):
                caller = re.search(r'@("[^"]+"|[\w.$]+)\(', line)[1].strip('"')
                own.add(caller)
        elif line.startswith("}"):
            caller = None
        elif caller is not None:
            # What clang's own vectors can and Metal's cannot: their comparisons give vectors of bool.
            if widened := re.match(r"\s*(%[\w.]+) = sext <\d+ x i1>", line):
                masks.add(widened[1])
            stored = re.match(r"\s*store <[^>]*> (%[\w.]+),", line)
            turned = re.match(r"\s*%[\w.]+ = xor <[^>]*> (%[\w.]+),", line)
            sized = re.match(r"\s*%[\w.]+ = alloca .*, i\d+ %", line)
            other = "array whose size is a variable" if sized else \
                "vector for a condition of ?:" if turned and turned[1] in masks else \
                "comparison of vectors that gives integers" if stored and stored[1] in masks else None
            called = re.search(r'\b(?:call|invoke)\b.*?@("[^"]+"|[\w.$]+)\(', line)
            if called or other:
                at, scope = locations.get(place[1], ("0", "")) if place else ("0", "")
                found.append((caller, other or called[1].strip('"'), f"{file_of.get(scope, '')}:{at}"))
    return found, own


def demangled(mangled):
    """As GNU's c++filt has it or LLVM's, which is a Mac's. Neither knows bfloat in all its versions; long double stands
    for it, which MSL has not. On a Mac -n keeps the underscores that names begin with."""
    text = "\n".join(mangled).replace("DF16b", "e")
    return subprocess.run(["c++filt", "-n"], input=text, capture_output=True, text=True, check=True).stdout.splitlines()


def used(found, own):
    """{signature: place} of what a shader calls of the standard library itself."""
    places = {}
    for _, callee, place in found:
        if callee not in own:
            places.setdefault(callee, place)
    out = {}
    for text, place in zip(demangled(places), places.values()):
        name = signature(text)
        if name is not None:
            out.setdefault(name, place)
    return out


# In names.txt's signatures: the same letter is the same type throughout; ... is anything.
_CLASSES = {
    "F": r"(?:half|float)[234]?", "I": r"(?:u?(?:char|short|int|long))[234]?",
    "W": r"(?:half|float|u?(?:char|short|int))[234]?",  # what lanes exchange
    "E": r"(?:half|float|u?(?:char|short|int|long))", "G": r"(?:half|bfloat|float)",
    "B": r"(?:bool|vec<bool, [234]>|(?:short|int)[234])", "A": r"(?:half|float|bool|u?(?:char|short|int|long))[234]?",
    "M": r"matrix<.*>", "P": r"(?:device|threadgroup)(?: const)? ",
    # atomic_float is of device memory alone; atomic_ulong has minimum and maximum alone.
    "N": r"(?:device|threadgroup)(?: const)? volatile atomic<(?:int|uint|bool)>|device(?: const)? volatile atomic<float>",
    "K": r"(?:device|threadgroup) volatile atomic<(?:int|uint|bool)>",
}


def _pattern(name):
    out, classes = "", set()
    for word in re.split(r"(\.\.\.|\b[A-Z](?=\W)|\bPG)", name):
        if word == "...":
            out += ".*"
            continue
        for letter in ("P", "G") if word == "PG" else (word,):
            if letter not in _CLASSES:
                out += re.escape(letter)
            elif letter in classes and letter not in "PE" and name.count("simdgroup_matrix") < 2:
                out += f"(?P={letter})"
            elif letter in classes:
                out += _CLASSES[letter]
            else:
                out += f"(?P<{letter}>{_CLASSES[letter]})"
                classes.add(letter)
    return re.compile(out)


class Table:
    """names.txt: what kernels that Apple's compiler takes every day call, what else the specification
    has, and what of the latter our own shaders may call, with the reason."""

    def __init__(self, path=os.path.join(HERE, "names.txt")):
        self.seen, self.reasons, self.words, self.patterns, self.sections = {}, {}, {}, [], []
        with open(path, encoding="utf-8") as f:
            for line in f:
                if line.startswith("#") or not line.strip():
                    continue
                name, column, evidence = line.rstrip("\n").split("\t")
                if column == "spec":
                    self.patterns.append(_pattern(name))
                    if "(" not in name and "." not in name:
                        self.words[re.sub(r"^\w+::|\W", "", name)] = name
                    self.sections.append((_pattern(re.split(r"[(<]", name)[0]), evidence))
                else:
                    {"seen": self.seen, "read": self.seen, "own": self.reasons}[column][name] = evidence

    def only_specified(self, word):
        """Whether a type, macro, enumerator or attribute is in the specification alone, with no reason given."""
        name = self.words.get(word)
        return name is not None and name not in self.seen and name not in self.reasons

    def section(self, name):
        """Where the specification has a name, of a function without its parameters."""
        for pattern, section in self.sections:
            if pattern.fullmatch(name):
                return section
        return None

    def column(self, name):
        """"seen", "spec", or None for neither."""
        if name in self.seen:
            return "seen"
        made = re.match(r"(\w+[234]|vec<bool, \d>)\((.*)\)$", name)
        if made and (VECTOR.match(made[1]) or "<" in made[1]):  # a constructor, and not max3
            widths = [_width(a) for a in _top_level(made[2], ",")]
            return "spec" if widths == [1] or sum(widths) == _width(made[1]) else None
        return "spec" if any(p.fullmatch(name) for p in self.patterns) else None


def _recursion(found):
    """Functions of the shader that call themselves, in whatever way."""
    graph = {}
    for caller, callee, place in found:
        graph.setdefault(caller, {})[callee] = place
    state = {}

    def visit(name):
        state[name] = "open"
        for callee, place in graph.get(name, {}).items():
            if state.get(callee) == "open":
                yield f"{place}: error: MSL has no recursion"
            elif callee not in state and callee in graph:
                yield from visit(callee)
        state[name] = "done"

    for name in graph:
        if name not in state:
            yield from visit(name)


_UNSEEN = "is in Metal's specification, but in no kernel that tools/msl/names.txt knows"


def errors(llvm_text, tokens, own):
    """What names.txt has neither seen nor specified; own: what it has not seen, and gives no reason for."""
    (found, own_functions), table = calls(llvm_text), Table()
    for name, place in used(found, own_functions).items():
        column = table.column(name)
        if column is None:
            yield f"{place}: error: Metal has no {name}, as far as is known (tools/msl/names.txt)"
        elif own and column == "spec" and name not in table.reasons:
            yield f"{place}: error: {name} {_UNSEEN}"
    for token in tokens if own else ():
        if token.kind == "name" and table.only_specified(token.text):
            yield f"{token.file}:{token.line}: error: {token.text} {_UNSEEN}"
    yield from _recursion(found)
