"""Which function constants each kernel uses: by the names that it, and what it names, mention. Overloads
and specialisations of one name are not told apart, so a kernel may be said to use too many."""
from source import closing, closing_angle, significant

NAMESPACES = ("namespace", "inline", "extern")


def _declared(head):
    """The name that a declaration at namespace scope gives, or None."""
    i = 0
    while i < len(head) and head[i].text == "template" and i + 1 < len(head) and head[i + 1].text == "<":
        i = (closing_angle(head, i + 1) or i) + 1
    name = None
    while i < len(head):
        text = head[i].text
        if text in ("struct", "class", "enum", "union") and i + 1 < len(head):
            return head[i + 1].text
        if text == "[":
            i = closing(head, i) + 1  # attributes, dimensions
            continue
        if text == "(" and name is not None:
            return name
        if text == "=":
            return name
        if text == "<":
            i = (closing_angle(head, i) or i) + 1
            continue
        if head[i].kind == "name":
            name = text
        i += 1
    return name


def _declarations(tokens):
    """(head, all tokens) of every declaration at namespace scope."""
    i = start = 0
    while i < len(tokens):
        text = tokens[i].text
        if text == "{" and i > start and tokens[start].text in NAMESPACES and tokens[i - 1].text not in (")", "="):
            i = start = i + 1
        elif text == "{":
            end = closing(tokens, i)
            yield tokens[start:i], tokens[start:end]
            i = start = end + 1
        elif text in (";", "}"):
            yield tokens[start:i], tokens[start:i]
            i = start = i + 1
        else:
            i = closing(tokens, i) + 1 if text in "([" else i + 1


def constants_of_kernels(all_tokens, kernels, constants):
    """For each kernel one bool a constant."""
    mentions = {}
    for head, body in _declarations(significant(all_tokens)):
        name = _declared(head)
        if name is not None:
            mentions.setdefault(name, set()).update(t.text for t in body if t.kind == "name")
    out = []
    for kernel in kernels:
        words = "".join(c if c.isalnum() or c == "_" else " " for c in kernel.function).split()
        seen, todo = set(), words
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += mentions.get(name, ())
        out.append([name in seen for name, _, _ in constants])
    return out
