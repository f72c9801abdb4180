"""Arrays in threadgroup and thread memory that are read as wider vectors than they are aligned for: what a cast
demands of a pointer is asked of the array that it comes from, through pointers and through calls. Types that a
template leaves open count as 2 bytes, structures are not looked into."""
from source import closing, closing_angle

SIZES = {"bool": 1, "char": 1, "uchar": 1, "short": 2, "ushort": 2, "half": 2, "bfloat": 2, "int": 4, "uint": 4,
         "float": 4, "long": 8, "ulong": 8}
OPEN = 2
CONTROL = {"if", "for", "while", "switch", "return", "sizeof", "alignas"}


def _of_name(name, open_types):
    if name[-1] in "234" and name[:-1] in SIZES:
        return SIZES[name[:-1]] * (4 if name[-1] == "3" else int(name[-1]))
    return OPEN if name in open_types else SIZES.get(name)


def _type_at(tokens, i, open_types):
    """(alignment or None, index behind) of the type that begins at i."""
    if tokens[i].text == "vec" and i + 1 < len(tokens) and tokens[i + 1].text == "<":
        end = closing_angle(tokens, i + 1)
        inside = [t.text for t in tokens[i + 2:end] if t.kind in ("name", "number")]
        if len(inside) == 2 and inside[1].isdigit():
            size = _of_name(inside[0], open_types)
            return size and size * (4 if inside[1] == "3" else int(inside[1])), end + 1
        return None, end + 1
    return _of_name(tokens[i].text, open_types), i + 1


class Function:
    def __init__(self, name, parameters, body):
        self.name, self.parameters, self.body = name, parameters, body
        self.needs = {}    # of a pointer or an array by name: (alignment, the type that a cast names)
        self.sources = {}  # a pointer's: the name that it was made from
        self.arrays = {}   # (alignment, type, token)


def _split(tokens, begin, end):
    """Ranges between the commas of [begin, end)."""
    out, start, i = [], begin, begin
    while i < end:
        text = tokens[i].text
        if text == ",":
            out.append((start, i))
            start = i + 1
        if text == "<" and (angle := closing_angle(tokens, i)) is not None and angle < end:
            i = angle
        elif text in "([{":
            i = closing(tokens, i)
        i += 1
    return out + [(start, end)] if end > begin else []


def _functions(tokens):
    i = 0
    while i < len(tokens):
        if tokens[i].text == "(" and i and tokens[i - 1].kind == "name" and tokens[i - 1].text not in CONTROL:
            close = closing(tokens, i)
            body = close + 1
            while body < len(tokens) and tokens[body].text in ("const", "thread", "noexcept"):
                body += 1
            if body < len(tokens) and tokens[body].text == "{":
                end = closing(tokens, body)
                names = []
                for begin, stop in _split(tokens, i + 1, close):
                    words = []
                    k = begin
                    while k < stop and tokens[k].text not in ("[", "="):
                        words.append(tokens[k])
                        k += 1
                    names.append(next((t.text for t in reversed(words) if t.kind == "name"), ""))
                yield Function(tokens[i - 1].text, names, (body + 1, end))
                i = end
        i += 1


def _base(tokens, begin, end, known):
    """The first of the known names in an expression, indices left out."""
    k = begin
    while k < end:
        if tokens[k].text == "[":
            k = closing(tokens, k)
        elif tokens[k].kind == "name" and tokens[k].text in known and (k == 0 or tokens[k - 1].text not in (".", "->")):
            return tokens[k].text
        k += 1
    return None


def _declarations(tokens, function, open_types):
    """Arrays, and pointers with what they are made from, of a function's body."""
    known = set(function.parameters)
    begin, end = function.body
    i = begin - 1
    for k in range(begin, end - 2):
        if k <= i or tokens[k - 1].text not in (";", "{", "}", ")"):
            continue
        i, aligned = k, 0
        while i < end and tokens[i].text in ("alignas", "threadgroup", "thread", "const", "device"):
            if tokens[i].text == "alignas":
                close = closing(tokens, i + 1)
                aligned = int(tokens[i + 2].text) if tokens[i + 2].text.isdigit() else 16
                i = close
            i += 1
        if i >= end or tokens[i].kind != "name":
            continue
        size, after = _type_at(tokens, i, open_types)
        if after >= end:
            continue
        stop = next((n for n in range(after, end) if tokens[n].text in (";", "{")), end)
        if tokens[after].text == "*":
            while after < stop and tokens[after].text in ("*", "const"):
                after += 1
            if after + 1 < stop and tokens[after + 1].text == "=":
                source = _base(tokens, after + 2, stop, known)
                if source is not None:
                    function.sources[tokens[after].text] = source
                    known.add(tokens[after].text)
        elif size is not None:
            for first, last in _split(tokens, after, stop):
                if last - first > 1 and tokens[first].kind == "name" and tokens[first + 1].text == "[":
                    function.arrays[tokens[first].text] = (max(size, aligned), tokens[i].text, tokens[first])
                    known.add(tokens[first].text)
    return known


def _need(function, name, alignment, kind):
    """Asks it of what the name was made from; whether that is news."""
    while name in function.sources:
        name = function.sources[name]
    if function.needs.get(name, (0, ""))[0] >= alignment:
        return False
    function.needs[name] = (alignment, kind)
    return True


def _casts(tokens, function, known, open_types):
    begin, end = function.body
    for k in range(begin, end):
        if tokens[k].text != "(" or tokens[k + 1].text not in ("threadgroup", "thread"):
            continue
        close = closing(tokens, k)
        i = k + 2
        while tokens[i].text == "const":
            i += 1
        alignment, after = _type_at(tokens, i, open_types)
        if alignment is None or tokens[after].text != "*" or close > after + 2:
            continue
        i = close + 1
        while tokens[i].text in ("&", "("):
            i += 1
        if tokens[i].text in known:
            _need(function, tokens[i].text, alignment, "".join(t.text for t in tokens[k + 1:after]
                                                               if t.text not in ("threadgroup", "thread", "const")))


def _calls(tokens, function, known, by_name):
    """Asks of arguments what is asked of parameters; whether anything is news."""
    news = False
    begin, end = function.body
    for k in range(begin, end):
        callees = by_name.get(tokens[k].text, ()) if tokens[k].kind == "name" else ()
        if not callees:
            continue
        i = k + 1
        if tokens[i].text == "<":
            i = (closing_angle(tokens, i) or i) + 1
        if i >= end or tokens[i].text != "(":
            continue
        arguments = _split(tokens, i + 1, closing(tokens, i))
        for callee in callees:
            if len(callee.parameters) != len(arguments):
                continue
            for name, (first, last) in zip(callee.parameters, arguments):
                base = _base(tokens, first, last, known)
                if base is not None and name in callee.needs:
                    news |= _need(function, base, *callee.needs[name])
    return news


def errors(tokens):
    """tokens: without blanks."""
    open_types = {tokens[k + 1].text for k in range(len(tokens) - 1) if tokens[k].text in ("typename", "class")}
    functions = list(_functions(tokens))
    by_name = {}
    known = {}
    for function in functions:
        by_name.setdefault(function.name, []).append(function)
        known[function] = _declarations(tokens, function, open_types)
        _casts(tokens, function, known[function], open_types)
    while any([_calls(tokens, f, known[f], by_name) for f in functions]):
        pass
    for function in functions:
        for name, (alignment, kind, token) in function.arrays.items():
            wanted, wide = function.needs.get(name, (0, ""))
            if wanted > alignment:
                yield (f"{token.file}:{token.line}: error: array {name} of {kind} is aligned to {alignment} bytes, and "
                       f"read as {wide}, which needs {wanted}: make it an array of such vectors")
