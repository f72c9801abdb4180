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
    try:
        if not re.fullmatch(r"[\s0-9a-fA-FxX+*()-]+", text):
            raise ValueError
        octal = re.sub(r"\b0(?=[0-7])", "0o", text)
        return int(eval(octal, {"__builtins__": {}}))
    except (ValueError, SyntaxError, TypeError):
        raise SourceError(token.file, token.line, f"'{text}' is no number") from None


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
            k = _zero_initializer(t, k, declared)
        if k < len(t) and t[k].text == ",":
            k += 1
            continue
        break
    text.replace(begin, k, "; ".join(out))
    return k


def _zero_initializer(t, i, declared):
    """Behind the initializer at i. Apple's compiler takes zeros, and stores none when the kernel runs;
    so there is nothing to do, and the detectors find kernels that read what they did not write."""
    k = i + 1
    while t[k].text not in (",", ";"):
        k = closing(t, k) + 1 if t[k].text in ("{", "(") else k + 1
    if any(x.text not in ("{", "}", ",") and not re.fullmatch(r"0*\.?0+[fhu]?", x.text) for x in t[i + 1:k]):
        raise SourceError(t[i].file, t[i].line, f"threadgroup variable {declared} has an initializer that is not zero")
    return k


def _initializer(tokens, i):
    """Index of the ';' that ends the statement at i."""
    k = i
    while k < len(tokens) and tokens[k].text != ";":
        k = closing(tokens, k) + 1 if tokens[k].text in "([{" else k + 1
    return k


# As the Itanium C++ ABI mangles them, for the names of AIR's variables.
_MANGLED = {"bool": "b", "char": "c", "uchar": "h", "short": "s", "ushort": "t", "int": "i", "uint": "j", "long": "l",
            "ulong": "m", "half": "Dh", "float": "f"}


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
                kind = join([x for x in t[i + 1:name] if x.text not in ("const", "constexpr")])
                following = attribute_at(t, name + 1) if name + 1 < len(t) else None
                index = dict(following[1]).get("function_constant") if following else None
                if index is not None:
                    slot = len(found)
                    found.append((t[name].text, kind, number(index, t[name])))
                    known.add(t[name].text)
                    label = f"_Z{len(t[name].text)}{t[name].text}.MTL_FC_INIT_{found[-1][2]}_{_MANGLED.get(kind, kind)}"
                    text.replace(i, end, f"MSL_FUNCTION_CONSTANT({t[name].text}, \"{label}\", {slot}, {kind})")
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


def _declaration_end(t, i):
    """Behind the declaration that begins at i: its body or its semicolon."""
    while i < len(t) and t[i].text not in (";", "{"):
        i = closing(t, i) + 1 if t[i].text in ("(", "[") else i + 1
    return closing(t, i) + 1 if i < len(t) and t[i].text == "{" else i + 1


def _templates(t):
    """(begin of the parameters, end of the parameters, end of the declaration) of each."""
    for i in range(len(t) - 2):
        if t[i].text == "template" and t[i + 1].text == "<":
            header = closing_angle(t, i + 1)
            if header is not None:
                yield i + 2, header, _declaration_end(t, header + 1)


def _type_names(t):
    """For each token the names that stand for types there, of template parameters,
    typedefs and aliases: a list of (begin, end, name)."""
    found = [(header, end, t[k + 1].text) for begin, header, end in _templates(t) for k in range(begin, header)
             if t[k].text in ("typename", "class") and t[k + 1].kind == "name"]
    for i in range(len(t) - 2):
        if t[i].text == "using" and t[i + 2].text == "=":
            found.append((i + 2, len(t), t[i + 1].text))
        elif t[i].text == "typedef":
            end = _declaration_end(t, i)
            if t[end - 2].kind == "name":
                found.append((end, len(t), t[end - 2].text))
    return found


def _is_cast(t, i, types):
    """Whether ( NAME ) at i casts what follows. C++ would reinterpret a vector, or
    refuse; and behind a template's type there may be a vector."""
    if not (t[i].text == "(" and t[i + 1].kind == "name" and t[i + 2].text == ")" and i + 3 < len(t)):
        return False
    before, after = (t[i - 1] if i else None), t[i + 3]
    if before is not None and (before.kind == "name" and before.text != "return" or before.text in (">", ")", "]")):
        return False
    operand = after.kind in ("name", "number") and after.text not in _NO_CAST_AFTER
    if VECTOR.match(t[i + 1].text):
        return operand or after.text in ("(", "-", "+", "~", "!", "*")
    return operand or t[i + 1].text in types and after.text in ("(", "-", "+", "~", "!", "*", "&")


def _is_conversion(t, i, types):
    """Whether T(x) or T(x, y) at i makes what may be a vector."""
    if t[i].text not in types or t[i + 1].text != "(" or t[i + 2].text in (")", "{"):
        return False
    before = t[i - 1] if i else None
    return before is None or not (before.kind == "name" and before.text not in ("return", "else", "case") or
                                  before.text in (".", "->", "::", "~"))


def vector_definitions(tokens):
    """In a body, `float2 a(x, y);` makes a variable of its constructor's arguments."""
    text = Text(tokens)
    t = text.tokens
    bodies = []
    for i in range(len(t) - 3):
        if t[i].text == "{":
            bodies.append(i > 0 and t[i - 1].text in (")", "else", "do", ";", "{", "}", ":"))
        elif t[i].text == "}" and bodies:
            bodies.pop()
        elif bodies and bodies[-1] and VECTOR.match(t[i].text) and t[i + 1].kind == "name" and t[i + 2].text == "(" \
                and t[i + 3].text != ")" and t[closing(t, i + 2) + 1].text == ";":
            t[i + 1].text += f" = metal::msl_make<{t[i].text}>"


def vector_casts(tokens):
    """(float4) x, (T) x, T(x), static_cast<T>(x) and vec<T, 4>(...) become conversions."""
    text = Text(tokens)
    t = text.tokens
    scopes = sorted(_type_names(t))
    opened, open_scopes, types, change, i = 0, [], set(), 0, 0
    while i + 2 < len(t):
        if i >= change:  # a scope opens or ends
            open_scopes = [s for s in open_scopes if s[1] > i]
            while opened < len(scopes) and scopes[opened][0] <= i:
                open_scopes.append(scopes[opened])
                opened += 1
            types = {name for _, end, name in open_scopes if end > i}
            change = min([end for _, end, _ in open_scopes] + [begin for begin, _, _ in scopes[opened:opened + 1]],
                         default=len(t))
        if _is_cast(t, i, types):
            text.replace(i, i + 3, f"metal::msl_cast<{t[i + 1].text}>() ->*")
            i += 3
            continue
        if t[i].text == "static_cast" and t[i + 1].text == "<" and t[i + 3].text == ">" and \
                (t[i + 2].text in types or t[i + 2].text in ("bfloat", "half")):
            text.replace(i, i + 1, "metal::msl_convert")
            i += 4
            continue
        if _is_conversion(t, i, types):
            text.replace(i, i + 1, f"metal::msl_convert<{t[i].text}>")
            i += 1
            continue
        if t[i].text == "vec" and t[i + 1].text == "<" and t[i + 2].text == "bool" and t[i + 3].text == ",":
            text.replace(i, i + 3, "msl_bool_vector<")  # clang's own vector of bool is one of bits
            t[i + 3].text = ""
            i += 4
            continue
        if t[i].text == "vec" and t[i + 1].text == "<" and t[i - 1].text != "operator":
            end = closing_angle(t, i + 1)
            # What begins with & declares a reference to an array.
            if end is not None and end + 2 < len(t) and t[end + 1].text == "(" and t[end + 2].text != "&":
                kind = join(t[i:end + 1])
                metal = i >= 2 and t[i - 1].text == "::"
                text.replace(i, end + 1, f"msl_make<{kind}>" if metal else f"metal::msl_make<{kind}>")
                i = end + 1
                continue
        i += 1


def braced_arguments(tokens):
    """f({a, b}): what is in braces converts to what f takes. C++ does not do so for vectors."""
    text = Text(tokens)
    t = text.tokens
    opens = []
    for i, token in enumerate(t):
        if token.text == "{" and opens and opens[-1][0] == "(" and t[i - 1].text in ("(", ","):
            called = t[opens[-1][1] - 1] if opens[-1][1] else None
            end = closing(t, i)
            if called is not None and (called.kind == "name" or called.text == ">") and t[end + 1].text in (",", ")"):
                # Each one token with its bracket, so that what counts brackets counts neither.
                token.text, t[end].text = "metal::msl_braces(", " )"
                opens.append(("braces", i))
                continue
        if token.text in ("(", "[", "{"):
            opens.append((token.text, i))
        elif token.text in (")", "]", "}", " )") and opens:
            opens.pop()


def _conditional_operand_end(t, i, stops):
    """Index of the token among `stops` that ends the operand at i, or None."""
    depth = 0
    while i < len(t):
        word = t[i].text
        if word in ("(", "[", "{"):
            i = closing(t, i)
        elif word == "?":
            depth += 1
        elif word == ":" and depth > 0:
            depth -= 1
        elif word in stops:
            return i
        elif word in (";", ")", "]", "}"):
            return None
        i += 1
    return None


def _is_place(t, begin, end):
    """Whether the tokens are a name, with members and indices: something that lies in memory."""
    k = begin
    while k < end:
        if t[k].kind == "name" and t[k].text not in ("this", "true", "false", "nullptr"):
            k += 1
        elif t[k].text in (".", "->", "::") and k > begin:
            k += 1
        elif t[k].text == "[" and k > begin:
            k = closing(t, k) + 1
        else:
            return False
    return begin < end


def conditional_operands(tokens):
    """c ? a[i] : b in a template: structures of one type in two address spaces are values."""
    text = Text(tokens)
    t = text.tokens
    inside = 0  # the end of the template that we are in
    templates = {begin: end for begin, _, end in _templates(t)}
    for i in range(len(t)):
        inside = max(inside, templates.get(i, 0))
        if t[i].text != "?" or i >= inside:
            continue
        middle = _conditional_operand_end(t, i + 1, (":",))
        last = middle and _conditional_operand_end(t, middle + 1, (",", ";", ")", "]", "}", ":"))
        if not last:
            continue
        for begin, end in ((i + 1, middle), (middle + 1, last)):
            if _is_place(t, begin, end):
                t[begin].text = "MSL_OPERAND(" + t[begin].text
                t[end - 1].text += ")"


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


_SPACES = ("thread", "threadgroup", "device", "constant")


def member_spaces(tokens):
    """A member function may be declared once for each address space of its object. In
    C++ one serves all, since pointers convert: the first stays, without the space."""
    text = Text(tokens)
    t = text.tokens
    seen, opens, gone, i = set(), [], 0, 0
    while i + 2 < len(t):
        if t[i].text == "{":
            opens.append(i)
        elif t[i].text == "}" and opens:
            opens.pop()
        space = i + 2 if t[i + 1].text == "const" else i + 1
        if t[i].text == ")" and opens and space + 1 < len(t) and t[space].text in _SPACES and \
                t[space + 1].text in ("{", ":", ";", "="):
            begin = i
            while begin > gone and t[begin - 1].text not in (";", "{", "}"):
                begin -= 1
            signature = (opens[-1], *(x.text for x in t[begin:space]))
            if signature in seen:
                end = _declaration_end(t, space)
                text.blank_out(begin, end)
                gone = i = end
                continue
            seen.add(signature)
            text.blank_out(space, space + 1)
        i += 1


_DOUBLE = re.compile(r"(?:0[xX][\da-fA-F.]*[pP][+-]?\d+|(?!0[xX])(?=\w*\.|\w*[eE])[\d.]+(?:[eE][+-]?\d+)?)$")

_OWN_SUFFIX = re.compile(r"((?!0[xX])(?=\w*\.|\w*[eE])[\d.]+(?:[eE][+-]?\d+)?)(H|bf|BF)$")


def float_literals(tokens):
    """MSL has no double: a literal without suffix is a float. A blank that follows
    gives way, so that columns stay as they were. Suffixes that clang refuses are called by name."""
    for i, token in enumerate(tokens):
        if token.kind == "number" and (own := _OWN_SUFFIX.match(token.text)):
            token.text = f'operator""{own[2]}({own[1]}L)'
            continue
        if token.kind != "number" or not _DOUBLE.match(token.text):
            continue
        token.text += "f"
        if i + 1 < len(tokens) and tokens[i + 1].kind == "space":
            tokens[i + 1].text = tokens[i + 1].text[1:]


def string_literals(tokens):
    """A literal that is an argument lies in constant memory."""
    text = Text(tokens)
    t = text.tokens
    calls = []
    for i, token in enumerate(t):
        if token.text in ("(", "[", "{"):
            calls.append(t[i - 1].text if i else "")
        elif token.text in (")", "]", "}") and calls:
            calls.pop()
        elif token.text.startswith('"') and calls and calls[-1] not in ("static_assert", "asm", "__attribute__", "[") \
                and t[i - 1].text in ("(", ","):
            token.text = f"(constant const char*){token.text}"


def rewrite(tokens):
    """In place; returns the function constants."""
    for token in tokens:
        # The preprocessor leaves macros in pragmas alone, and they are gone afterwards.
        if token.kind == "marker" and re.match(r"#\s*pragma\s+unroll\b.*[A-Za-z_]\w*\s*\(", token.text):
            token.text = "#pragma unroll"
    align_columns(tokens)
    constants = function_constants(tokens)
    remove_attributes(tokens)
    member_spaces(tokens)
    vector_definitions(tokens)
    conditional_operands(tokens)
    vector_casts(tokens)
    braced_arguments(tokens)
    float_literals(tokens)
    string_literals(tokens)
    threadgroup_variables(tokens)
    return constants


def text_of(tokens):
    return "".join(t.text for t in tokens)
