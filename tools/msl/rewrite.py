"""Turns MSL into the C++ that clang takes, keeping every line's number and, where
no macro was expanded, every column: attributes go, threadgroup variables and
function constants become macros, casts to vectors become conversions."""
import re

from source import SourceError, Token, closing, closing_angle, join

SPACES = ("device", "constant", "threadgroup")
KEPT_ATTRIBUTES = {"maybe_unused", "nodiscard", "fallthrough", "likely", "unlikely", "deprecated", "noreturn",
                   "clang", "gnu"}
_SCALARS = "bool|char|uchar|short|ushort|int|uint|long|ulong|half|bfloat|float"
VECTOR = re.compile(rf"(?:{_SCALARS})[234]$")


def number(text, token):
    """An index: a literal, or a sum or product of some after preprocessing."""
    if not re.fullmatch(r"[\s0-9a-fA-FxX+*()-]+", text):
        raise SourceError(token.file, token.line, f"'{text}' is no number")
    return int(eval(text, {"__builtins__": {}}))


class Text:
    """Tokens without blanks, each with its index in the full list."""

    def __init__(self, tokens):
        self.all = tokens
        self.at = [i for i, t in enumerate(tokens) if not t.blank]
        self.tokens = [tokens[i] for i in self.at]

    def blank_out(self, begin, end):
        """Replaces the significant tokens [begin, end) by spaces."""
        for k in range(begin, end):
            token = self.tokens[k]
            token.text, token.kind = " " * len(token.text), "space"

    def replace(self, begin, end, text):
        self.blank_out(begin, end)
        self.tokens[begin].text, self.tokens[begin].kind = text, "name"


def attribute_at(tokens, i):
    """(end, [(name, arguments)]) of an attribute list [[...]] at i, or None."""
    if not (tokens[i].text == "[" and i + 1 < len(tokens) and tokens[i + 1].text == "["):
        return None
    inner = closing(tokens, i + 1)
    if inner + 1 >= len(tokens) or tokens[inner + 1].text != "]":
        return None
    attributes, k = [], i + 2
    while k < inner:
        name = tokens[k].text
        k += 1
        if k < inner and tokens[k].text == "::":
            k += 2
        arguments = None
        if k < inner and tokens[k].text == "(":
            end = closing(tokens, k)
            arguments = join(tokens[k + 1:end])
            k = end + 1
        attributes.append((name, arguments))
        if k < inner and tokens[k].text == ",":
            k += 1
    return inner + 2, attributes


def remove_attributes(tokens):
    text = Text(tokens)
    i = 0
    while i < len(text.tokens):
        found = attribute_at(text.tokens, i)
        if found is None:
            i += 1
            continue
        end, attributes = found
        if not all(name in KEPT_ATTRIBUTES for name, _ in attributes):
            text.blank_out(i, end)
        i = end


def _declarator_end(tokens, i):
    """From the first token of a type, the index of the declared name, or None when
    what follows is a pointer, a reference or no declaration."""
    k, name = i, None
    while k < len(tokens):
        t = tokens[k]
        if t.kind == "name":
            name = k
            k += 1
        elif t.text == "::":
            k += 1
        elif t.text == "<":
            end = closing_angle(tokens, k)
            if end is None:
                return None
            name, k = None, end + 1
        elif t.text in ("[", ";", ",", "="):
            return name
        else:
            return None
    return None


def _dimensions(tokens, k):
    begin = k
    while k < len(tokens) and tokens[k].text == "[" and attribute_at(tokens, k) is None:
        k = closing(tokens, k) + 1
    return k, "".join("[" + join(tokens[a + 1:b]) + "]" for a, b in _groups(tokens, begin, k))


def _groups(tokens, begin, end):
    out, k = [], begin
    while k < end:
        close = closing(tokens, k)
        out.append((k, close))
        k = close + 1
    return out


def threadgroup_variables(tokens):
    text = Text(tokens)
    t = text.tokens
    parens = 0
    previous = None
    i = 0
    while i < len(t):
        word = t[i].text
        if word == "(":
            parens += 1
        elif word == ")":
            parens -= 1
        starts = previous in (None, ";", "{", "}", ":", ")", "const", "static")
        if word == "threadgroup" and parens == 0 and starts:
            name = _declarator_end(t, i + 1)
            if name is not None and name > i + 1:
                i = _rewrite_variable(text, i, name)
                previous = ";"
                continue
        if word in SPACES and parens > 0:
            name = _declarator_end(t, i + 1)
            if name is not None and name > i + 1 and name + 1 < len(t) and t[name + 1].text == "[" \
                    and attribute_at(t, name + 1) is None:
                end, dims = _dimensions(t, name + 1)
                rest = dims[dims.index("]") + 1:]
                text.replace(name, end, f"(*{t[name].text}){rest}" if rest else f"*{t[name].text}")
                i = end
                previous = "]"
                continue
        previous = word
        i += 1


def _rewrite_variable(text, begin, name):
    t = text.tokens
    kind = join(text.all[text.at[begin + 1]:text.at[name]])
    out, k = [], name
    while True:
        declared = t[k].text
        k, dims = _dimensions(t, k + 1)
        out.append(f"MSL_THREADGROUP_VARIABLE({declared}, {dims}, {kind})")
        if k < len(t) and t[k].text == "=":
            raise SourceError(t[k].file, t[k].line, f"threadgroup variable {declared} has an initializer")
        if k < len(t) and t[k].text == ",":
            k += 1
            continue
        break
    text.replace(begin, k, "; ".join(out))
    return k


def _initializer(tokens, i):
    """Index of the ';' that ends the statement at i."""
    k = i
    while k < len(tokens) and tokens[k].text != ";":
        k = closing(tokens, k) + 1 if tokens[k].text in "([{" else k + 1
    return k


def function_constants(tokens):
    """Rewrites them; returns [(name, type, index)]. What is derived from one
    becomes a function of no arguments that reads like a value."""
    text = Text(tokens)
    t = text.tokens
    found, known = [], set()
    i = depth = 0
    while i < len(t):
        word = t[i].text
        if word in ("{", "}"):
            depth += 1 if word == "{" else -1
        at_start = i == 0 or t[i - 1].text in (";", "}", "{", "static", "constexpr")
        if word == "constant" and at_start:
            end = _initializer(t, i)
            name = _declarator_end(t, i + 1)
            if name is not None and name < end:
                kind = join(text.all[text.at[i + 1]:text.at[name]])
                following = attribute_at(t, name + 1) if name + 1 < len(t) else None
                index = dict(following[1]).get("function_constant") if following else None
                if index is not None:
                    slot = len(found)
                    found.append((t[name].text, kind, number(index, t[name])))
                    known.add(t[name].text)
                    text.replace(i, end, f"static const msl_function_constant<{kind}, {slot}> {t[name].text}{{}}")
                elif t[name + 1].text == "=" and any(x.text in known for x in t[name + 2:end]):
                    value = join(text.all[text.at[name + 2]:text.at[end]])
                    known.add(t[name].text)
                    text.replace(i, end, f"static const struct {{ operator {kind}() const {{ return {value}; }} }} "
                                         f"{t[name].text}{{}}")
            i = end
            continue
        i += 1
    return found


_NO_CAST_AFTER = {"const", "volatile", "and", "or", "not", "xor", "override", "noexcept"}


def _is_cast(t, i):
    """Whether ( NAME ) at i casts what follows. C++ would reinterpret a vector, or
    refuse; and behind a template's type there may be a vector."""
    if not (t[i].text == "(" and t[i + 1].kind == "name" and t[i + 2].text == ")" and i + 3 < len(t)):
        return False
    before, after = (t[i - 1] if i else None), t[i + 3]
    if before is not None and (before.kind == "name" and before.text != "return" or before.text in (">", ")", "]")):
        return False
    if VECTOR.match(t[i + 1].text) and (after.kind in ("name", "number") or after.text in ("(", "-", "+", "~", "!")):
        return True
    return after.kind in ("name", "number") and after.text not in _NO_CAST_AFTER


def vector_casts(tokens):
    """(float4) x, (T) x and vec<T, 4>(...) become conversions."""
    text = Text(tokens)
    t = text.tokens
    i = 0
    while i + 2 < len(t):
        if _is_cast(t, i):
            text.replace(i, i + 3, f"metal::msl_cast<{t[i + 1].text}>() ->*")
            i += 3
            continue
        if t[i].text == "vec" and t[i + 1].text == "<":
            end = closing_angle(t, i + 1)
            if end is not None and end + 1 < len(t) and t[end + 1].text == "(":
                kind = join(t[i:end + 1])
                metal = i >= 2 and t[i - 1].text == "::"
                text.replace(i, end + 1, f"msl_make<{kind}>" if metal else f"metal::msl_make<{kind}>")
                i = end + 1
                continue
        i += 1


def align_columns(tokens):
    """Spaces between a line's tokens as in the file that it came from."""
    files = {}

    def original(token):
        if token.file not in files:
            try:
                with open(token.file, encoding="utf-8", errors="replace") as f:
                    files[token.file] = f.read().split("\n")
            except OSError:
                files[token.file] = []
        lines = files[token.file]
        return lines[token.line - 1] if 0 < token.line <= len(lines) else None

    out, column, place = [], 0, 0
    for token in tokens:
        if token.kind == "newline" or token.kind == "marker":
            out.append(token)
            column = place = 0
            continue
        if token.kind != "space":
            line = original(token)
            at = -1 if line is None else line.find(token.text, place)
            if at >= 0:
                if at > column:
                    out.append(Token("space", " " * (at - column), token.file, token.line))
                    column = at
                place = at + len(token.text)
        out.append(token)
        column += len(token.text)
    tokens[:] = out


def rewrite(tokens):
    """In place; returns the function constants."""
    for token in tokens:
        # The preprocessor leaves macros in pragmas alone, and they are gone afterwards.
        if token.kind == "marker" and re.match(r"#\s*pragma\s+unroll\b.*[A-Za-z_]\w*\s*\(", token.text):
            token.text = "#pragma unroll"
    align_columns(tokens)
    constants = function_constants(tokens)
    remove_attributes(tokens)
    vector_casts(tokens)
    threadgroup_variables(tokens)
    return constants


def text_of(tokens):
    return "".join(t.text for t in tokens)
