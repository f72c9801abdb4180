"""What MSL forbids and C++ allows, by tokens: forbidden words, lambdas and memory orders before
MSL 3.2, standard headers, pointers or references that name no address space, variables in
places where their address space has none, types of positions, indices of bindings and function
constants, kernels that call kernels, and arrays that are read as wider vectors than they are
aligned for."""
import re

import alignment
from rewrite import SPACES, attribute_at, number
from source import closing, closing_angle, significant

FORBIDDEN = {
    "try": "exceptions", "catch": "exceptions", "throw": "exceptions", "virtual": "virtual functions",
    "dynamic_cast": "run-time type information", "typeid": "run-time type information", "double": "double",
    "new": "new", "delete": "delete", "goto": "goto", "thread_local": "thread_local", "asm": "inline assembly",
    "co_await": "coroutines", "co_yield": "coroutines", "co_return": "coroutines", "concept": "concepts",
    "requires": "concepts", "consteval": "consteval", "wchar_t": "wchar_t",
}
ADDRESS_SPACES = set(SPACES) | {"thread", "ray_data", "object_data", "threadgroup_imageblock"}


def _place(token, message):
    return f"{token.file}:{token.line}: error: {message}"


def _forbidden(tokens):
    for k, token in enumerate(tokens):
        if token.kind != "name" or token.text not in FORBIDDEN:
            continue
        before = tokens[k - 1].text if k else ""
        after = tokens[k + 1].text if k + 1 < len(tokens) else ""
        if token.text == "delete" and before == "=":
            continue  # = delete
        if before in (".", "->", "::") or after == "::":
            continue
        yield _place(token, f"MSL has no {FORBIDDEN[token.text]}")


def _lambdas(tokens):
    for k, token in enumerate(tokens):
        if token.text != "[" or k == 0:
            continue
        before = tokens[k - 1]
        starts = before.text in ("(", ",", "=", "return", "{", ";", "?", ":", "&&", "||") and tokens[k + 1].text != "["
        if not starts or (before.text == "[" or before.kind == "number"):
            continue
        end = closing(tokens, k)
        if end + 1 < len(tokens) and tokens[end + 1].text in ("(", "{"):
            yield _place(token, "lambdas came with MSL 3.2")


def _pointers(tokens):
    """In a declaration `T * name`, T must name an address space: look back to where
    the declaration begins."""
    for k, token in enumerate(tokens):
        if token.text not in ("*", "&") or k == 0 or k + 1 >= len(tokens):
            continue
        name = tokens[k + 1]
        if name.kind != "name":
            continue
        begin = k - 1
        words = []
        while begin >= 0:
            text = tokens[begin].text
            if text == ">":
                depth = 0
                while begin >= 0:
                    depth += {">": 1, "<": -1}.get(tokens[begin].text, 0)
                    if depth == 0:
                        break
                    begin -= 1
                begin -= 1
                continue
            if tokens[begin].kind == "name" or text == "::":
                words.append(text)
                begin -= 1
                continue
            break
        before = tokens[begin].text if begin >= 0 else ";"
        declares = before in ("(", ",", ";", "{", "}", ")") and bool(words)
        if not declares or words[0] == "auto" or words[-1] in ("return", "else", "case"):
            continue
        # `a * b` in an argument list is a product; a declaration has a type's name before it.
        following = tokens[k + 2].text if k + 2 < len(tokens) else ";"
        is_type = len(words) - 2 * words.count("::") > 1 or words[0] in TYPES
        if not is_type or following not in (",", ")", ";", "=", "["):
            continue
        if not ADDRESS_SPACES & set(words):
            yield _place(token, f"pointer or reference {name.text} names no address space")


TYPES = {"float", "half", "bfloat", "int", "uint", "char", "uchar", "short", "ushort", "long", "ulong", "bool", "void"}
TYPES |= {t + n for t in TYPES - {"void"} for n in "234"}


def _recursion(tokens):
    """A cycle among the functions that the file defines."""
    calls = {}
    for head, _ in _bodies(tokens):
        name, body = head
        called = {t.text for k, t in enumerate(body) if t.kind == "name" and k + 1 < len(body) and body[k + 1].text == "("
                  and (k == 0 or body[k - 1].text not in (".", "->", "::"))}
        calls.setdefault(name.text, (name, set()))[1].update(called)
    state = {}

    def visit(name):
        state[name] = 1
        for other in sorted(calls[name][1]):
            if other not in calls:
                continue
            if state.get(other) == 1 and other == name:
                yield _place(calls[name][0], f"MSL has no recursion: {name} calls itself")
            elif other not in state:
                yield from visit(other)
            elif state[other] == 1:
                yield _place(calls[name][0], f"MSL has no recursion: {name} calls {other}, which calls it")
        state[name] = 2

    for name in list(calls):
        if name not in state:
            yield from visit(name)


def _bodies(tokens):
    """((name, body), None) of functions at namespace scope that are no templates:
    overloads and specialisations of one name are not told apart."""
    names = {}
    out = []
    i = start = 0
    while i < len(tokens):
        text = tokens[i].text
        if text == "{":
            head = tokens[start:i]
            if head and head[0].text in ("namespace", "extern"):
                i += 1
            else:
                end = closing(tokens, i)
                opening = next((k for k, t in enumerate(head) if t.text == "(" and k and head[k - 1].kind == "name"), None)
                if opening is not None and head[0].text not in ("struct", "class", "enum", "union", "template"):
                    name = head[opening - 1]
                    names[name.text] = names.get(name.text, 0) + 1
                    out.append(((name, tokens[i:end]), None))
                i = end + 1
            start = i
        elif text in ("}", ";"):
            i += 1
            start = i
        elif text in "([":
            i = closing(tokens, i) + 1
        else:
            i += 1
    return [o for o in out if names[o[0][0].text] == 1]


def _scope_kind(head, outer):
    """What a brace behind these tokens of a statement opens."""
    if head and head[0].text == "template":
        end = closing_angle(head, 1)
        head = head[end + 1:] if end is not None else head
    top, k = [], 0  # the words outside of brackets
    while k < len(head):
        top.append(head[k].text)
        k = closing(head, k) + 1 if head[k].text in ("(", "[") else k + 1
    if top and top[0] in ("namespace", "extern"):
        return "namespace"
    if {"struct", "class", "union", "enum"} & set(top[:2]) and "=" not in top:
        return "class"
    if outer in ("function", "block"):
        return "block" if not top or top[-1] in ("(", "else", "do") else "initializer"
    return "function" if "(" in top and ("=" not in top or "operator" in top) else "initializer"


def _statements(tokens):
    """(begin, end, kinds of the scopes around it, whether these are a kernel's) of each statement; a
    body's statements come after the head that opens it, which ends before the brace."""
    scopes, kernels = [], []
    begin = i = 0
    while i < len(tokens):
        text = tokens[i].text
        if text in ("(", "["):
            i = closing(tokens, i) + 1
            continue
        if text == "{":
            head = tokens[begin:i]
            kind = _scope_kind(head, scopes[-1] if scopes else "namespace")
            if kind == "initializer":
                i = closing(tokens, i) + 1
                continue
            yield begin, i, tuple(scopes), any(kernels)
            scopes.append(kind)
            kernels.append(kind == "function" and any(t.text == "kernel" for t in head))
        elif text == "}":
            if scopes:
                scopes.pop()
                kernels.pop()
        elif text == ";":
            yield begin, i, tuple(scopes), any(kernels)
        else:
            i += 1
            continue
        i += 1
        begin = i


_NO_VARIABLE = {"using", "typedef", "template", "struct", "class", "enum", "union", "static_assert", "namespace", "friend",
                "extern", "public", "private", "protected", "return", "if", "for", "while", "switch", "case", "default"}


def _variable(statement):
    """The token that names the variable which a statement declares, or None; no pointers or references."""
    words = [t.text for t in statement]
    if not words or words[0] in _NO_VARIABLE or "operator" in words:
        return None
    k, name, types = 0, None, 0
    while k < len(statement):
        t = statement[k]
        if t.kind == "name":
            types += name is not None
            name = t
        elif t.text == "<":
            end = closing_angle(statement, k)
            if end is None:
                return None
            k = end
        elif t.text in ("=", "[", "{"):
            break
        elif t.text == "(" and name is not None and name.text == "alignas":
            k = closing(statement, k)
        elif t.text != "::":
            return None
        k += 1
    return name if types else None


def _variables(tokens):
    """MSL has variables of the program in the constant address space alone, and of a threadgroup in
    kernels alone."""
    for begin, end, scopes, in_kernel in _statements(tokens):
        statement = tokens[begin:end]
        name = _variable(statement)
        if name is None:
            continue
        words = {t.text for t in statement[:statement.index(name)]}
        inside = scopes[-1] if scopes else "namespace"
        if inside == "namespace" and "constant" not in words:
            yield _place(name, f"variable {name.text} of the program is not in the constant address space")
        elif inside == "class" and "static" in words and "constant" not in words:
            yield _place(name, f"static member {name.text} is not in the constant address space")
        elif inside in ("function", "block"):
            if words & {"static", "constant"}:
                yield _place(name, f"variable {name.text} of the program is declared in a function")
            if "threadgroup" in words and statement[-1] is not name and "=" in {t.text for t in statement}:
                yield _place(name, f"threadgroup variable {name.text} has an initializer, but threadgroup memory is not "
                                   "initialised")
            if "threadgroup" in words and not in_kernel:
                yield _place(name, f"threadgroup variable {name.text} is declared outside of a kernel")


def _swizzles(tokens):
    """clang's vectors have halves and numbered elements; Metal's have x, y, z, w and r, g, b, a."""
    members = {t.text for k, t in enumerate(tokens) if k and tokens[k - 1].text not in (".", "->")}
    for k, token in enumerate(tokens):
        if k and tokens[k - 1].text == "." and re.fullmatch(r"lo|hi|even|odd|s[0-9a-fA-F]+", token.text) \
                and token.text not in members:
            yield _place(token, f"vectors have no .{token.text}")


_SCALARS = {"thread_index_in_threadgroup", "thread_index_in_simdgroup", "simdgroup_index_in_threadgroup",
            "threads_per_simdgroup", "simdgroups_per_threadgroup", "thread_index_in_quadgroup",
            "quadgroup_index_in_threadgroup", "quadgroups_per_threadgroup", "thread_execution_width"}
_POSITIONS = {"thread_position_in_grid", "threads_per_grid", "thread_position_in_threadgroup",
              "threadgroup_position_in_grid", "threads_per_threadgroup", "threadgroups_per_grid",
              "dispatch_threads_per_threadgroup", "grid_origin", "grid_size"}
_LAST_INDEX = 30  # of a kernel's buffers, and of its threadgroup allocations


def _position(name, declaration):
    """What is wrong with the type of an argument that has a position attribute; types that a template or an alias
    names are left to clang."""
    words = [t.text for t in declaration[-3:-1] if t.text != "const"] or [""]
    if words[-1] not in TYPES or "unsigned" in words:
        return None
    scalar, width = re.fullmatch(r"([a-z]+)(\d?)", words[-1]).groups()
    if scalar in ("ushort", "uint") and width in (("",) if name in _SCALARS else ("", "2", "3")):
        return None
    vectors = "" if name in _SCALARS else " or a vector of 2 or 3 of them"
    return f"[[{name}]] is of type {words[-1]}; expected ushort or uint{vectors}"


def _attributes(tokens):
    """Types of positions, of one width in a kernel; indices of bindings; and function constants: each index once,
    and no initializer."""
    constants, first = {}, None
    for k, token in enumerate(tokens):
        first = None if token.text == "kernel" else first
        found = attribute_at(tokens, k) if token.text == "[" else None
        for name, value in found[1] if found else ():
            if name in _SCALARS | _POSITIONS:
                kind = tokens[k - 2].text
                if wrong := _position(name, tokens[max(0, k - 3):k]):
                    yield _place(token, wrong)
                elif name in _POSITIONS and kind in TYPES:
                    first = first or (name, kind)
                    if re.sub("[a-z]", "", first[1]) != re.sub("[a-z]", "", kind):
                        yield _place(token, f"[[{name}]] is of type {kind} where [[{first[0]}]] is of type {first[1]}: "
                                            "positions of a kernel are of one width")
            elif name in ("buffer", "threadgroup") and value and number(value, token) > _LAST_INDEX:
                yield _place(token, f"[[{name}({value})]]: the last index is {_LAST_INDEX}")
            elif name == "function_constant" and re.match(r"[\d(]", value or ""):
                declared, after = tokens[k - 1], tokens[found[0]].text if found[0] < len(tokens) else ";"
                if after in ("=", "{", "("):
                    yield _place(declared, f"function constant {declared.text} has an initializer")
                other = constants.setdefault(number(value, token), declared)
                if other is not declared:
                    yield _place(declared, f"function constants {other.text} and {declared.text} share index "
                                           f"{number(value, token)}")


_MATRIX_ELEMENTS = {"half", "float", "bfloat"}


def _types(tokens, version):
    """Literals of long double, elements of matrices, and memory orders of a later version."""
    for k, token in enumerate(tokens):
        if token.kind == "number" and re.fullmatch(r"(?!0[xX]).*[.eE].*[lL]|0[xX].*[pP].*[lL]", token.text):
            yield _place(token, f"MSL has no long double: {token.text}")
        elif token.text == "simdgroup_matrix" and tokens[k + 1].text == "<" and tokens[k + 3].text == ",":
            if tokens[k + 2].text in TYPES - _MATRIX_ELEMENTS:
                yield _place(token, f"simdgroup_matrix of {tokens[k + 2].text}; expected half, bfloat or float")
        elif version < 320 and re.fullmatch(r"memory_order_(acquire|release|acq_rel|seq_cst)", token.text):
            yield _place(token, f"{token.text} came with MSL 3.2; before it there is memory_order_relaxed alone")


def _function(head):
    """The token that names the function which a head opens, or None."""
    k = 0
    while k < len(head):
        if head[k].text == "(" and k and head[k - 1].kind == "name":
            return head[k - 1]
        if head[k].text == "<" and (end := closing_angle(head, k)) is not None:
            k = end
        elif head[k].text in ("(", "["):
            k = closing(head, k)
        k += 1
    return None


_BEFORE_CALLS = {";", "{", "}", "(", ",", ")", ":", "?", "=", "return", "else", "do", "!"}


def _kernels(tokens):
    """Kernels that call kernels, by names that no other function has; and their arguments that are pointers to
    pointers, of which the outer names no address space."""
    kernels, others, inside = set(), set(), []
    for begin, end, scopes, in_kernel in _statements(tokens):
        if in_kernel:
            inside.append((begin, end))
        elif tokens[end].text == "{" and (name := _function(tokens[begin:end])) is not None:
            is_kernel = any(t.text == "kernel" for t in tokens[begin:end])
            (kernels if is_kernel else others).add(name.text)
            for k in range(tokens.index(name) + 1, end if is_kernel else 0):
                if tokens[k].text == tokens[k - 1].text == "*":
                    yield _place(tokens[k], f"the outer pointer of {tokens[k + 1].text} names no address space")
    kernels -= others
    for k in (k for begin, end in inside for k in range(begin, end - 1)):
        if tokens[k].text in kernels and tokens[k - 1].text in _BEFORE_CALLS:
            after = closing_angle(tokens, k + 1) if tokens[k + 1].text == "<" else k
            if after is not None and tokens[after + 1].text == "(":
                yield _place(tokens[k], f"a kernel calls the kernel {tokens[k].text}")


def errors(all_tokens, version):
    tokens = significant(all_tokens)
    found = [*_forbidden(tokens), *_pointers(tokens), *_recursion(tokens), *_variables(tokens), *_swizzles(tokens),
             *_attributes(tokens), *_types(tokens, version), *_kernels(tokens), *alignment.errors(tokens)]
    if version < 320:
        found += list(_lambdas(tokens))
    return found
