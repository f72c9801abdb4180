"""MSL source as tokens, with the place in the user's file that each came from."""
import io
import os
import re
import subprocess

CLANG = os.environ.get("METAL_MARLIN_CLANG", "clang-19")
HERE = os.path.dirname(os.path.abspath(__file__))

_TOKEN = re.compile(
    r'(?P<space>[ \t\r\f\v]+)|(?P<newline>\n)'
    r'|(?P<string>"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\')'
    r'|(?P<name>[A-Za-z_]\w*)|(?P<number>\.?\d(?:[eEpP][+-]|[\w.])*)'
    r'|(?P<punct>::|->\*|->|<<=|>>=|<<|==|!=|<=|&&|\|\||\+\+|--|[+\-*/%&|^]=|.)')
_MARKER = re.compile(r'# (\d+) "((?:\\.|[^"\\])*)"')


class SourceError(Exception):
    """A fault in a shader, placed."""

    def __init__(self, file, line, message):
        super().__init__(f"{file}:{line}: error: {message}")


class Token:
    __slots__ = ("kind", "text", "file", "line")

    def __init__(self, kind, text, file, line):
        self.kind, self.text, self.file, self.line = kind, text, file, line

    @property
    def blank(self):
        return self.kind in ("space", "newline", "marker")

    def __repr__(self):
        return f"{self.text!r}@{self.line}"


def decoded(text, file):
    """The text of bytes, in which lines may be marked with the places that they came from."""
    try:
        return text.decode().replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as e:
        line = 1
        for before in text[:e.start].decode().split("\n")[:-1]:
            marker = _MARKER.match(before)
            file, line = (marker.group(2), int(marker.group(1))) if marker else (file, line + 1)
        raise SourceError(file, line, f"byte {text[e.start]:#04x} is not UTF-8") from None


def preprocess(path, includes=(), defines=(), version=310):
    """The file's text after clang's preprocessor, its own macros resolved."""
    command = [CLANG, "-E", "-x", "c++", "-std=c++14", "-nostdinc", "-Wno-everything",
               f"-D__METAL_VERSION__={version}", "-D__METAL__=1", "-D__HAVE_BFLOAT__=1", "-D__METAL_MACOS__=1",
               "-I" + os.path.join(HERE, "stub")]
    command += ["-I" + i for i in includes] + ["-D" + d for d in defines] + [path]
    done = subprocess.run(command, capture_output=True)
    if done.returncode != 0:
        raise SourceError(path, 0, "preprocessing failed\n" + done.stderr.decode(errors="replace").strip())
    return decoded(done.stdout, path)


def included_files(text):
    """The files that preprocessed text came from."""
    names = {m.group(2) for m in re.finditer(r'^# (\d+) "((?:\\.|[^"\\])*)"', text, re.MULTILINE)}
    return sorted(n for n in names if not n.startswith("<") and os.path.isfile(n))


def flat_text(path, includes=(), seen=None):
    """A file with the headers that it includes by "name" in their places, each once, so that it can
    be compiled as one string; errors still name file and line. Headers must be meant to be included
    once, with no conditions."""
    seen = set() if seen is None else seen
    name = os.path.basename(path)
    lines = [f'#line 1 "{name}"\n']
    with open(path, "rb") as f:
        for number, line in enumerate(io.StringIO(decoded(f.read(), path)), 1):
            include = re.match(r'\s*#\s*include\s*"([^"]+)"', line)
            if include is None:
                lines.append("\n" if re.match(r"\s*#\s*pragma\s+once\b", line) else line)
                continue
            places = [os.path.join(folder, include.group(1)) for folder in [os.path.dirname(path), *includes]]
            found = next((os.path.realpath(p) for p in places if os.path.exists(p)), None)
            if found is None:
                raise SourceError(path, number, f"{include.group(1)} is not there")
            if found not in seen:
                seen.add(found)
                lines.append(flat_text(found, includes, seen))
            lines.append(f'#line {number + 1} "{name}"\n')
    return "".join(lines)


def tokenize(text, file="<text>"):
    """Tokens of preprocessed text. Lines that begin with # are one token."""
    tokens, line, start = [], 1, True
    i = 0
    while i < len(text):
        if start and text[i] == "#":
            end = text.find("\n", i)
            end = len(text) if end < 0 else end
            directive = text[i:end]
            marker = _MARKER.match(directive)
            tokens.append(Token("marker", directive, file, line))
            if marker:
                file, line = marker.group(2), int(marker.group(1)) - 1  # the newline adds one
            i, start = end, False
            continue
        found = _TOKEN.match(text, i)
        token = Token(found.lastgroup, found.group(), file, line)
        tokens.append(token)
        i = found.end()
        if token.kind == "newline":
            line, start = line + 1, True
        elif token.kind != "space":
            start = False
    return tokens


def significant(tokens):
    return [t for t in tokens if not t.blank]


def join(tokens):
    """Text of some tokens on one line, words apart."""
    out = ""
    for t in tokens:
        word = t.kind in ("name", "number")
        if t.blank or (word and out and (out[-1].isalnum() or out[-1] == "_")):
            out += " "
        if not t.blank:
            out += t.text
    return re.sub(r"\s+", " ", out).strip()


def closing(tokens, i):
    """Index of the bracket that closes tokens[i]."""
    pairs = {"(": ")", "[": "]", "{": "}"}
    opener, closer, depth = tokens[i].text, pairs[tokens[i].text], 0
    for j in range(i, len(tokens)):
        if tokens[j].text == opener:
            depth += 1
        elif tokens[j].text == closer:
            depth -= 1
            if depth == 0:
                return j
    raise SourceError(tokens[i].file, tokens[i].line, f"'{opener}' is never closed")


def closing_angle(tokens, i):
    """Index of the '>' that closes a template list opened at i, or None when it is no list."""
    depth = 0
    j = i
    while j < len(tokens):
        text = tokens[j].text
        if text == "<":
            depth += 1
        elif text == ">":
            depth -= 1
            if depth == 0:
                return j
        elif text in "([{":
            j = closing(tokens, j)
        elif text in (";", "}", ")", "]", "&&", "||"):
            return None
        j += 1
    return None


def split(tokens, separator=","):
    """Splits at separators outside of all brackets."""
    parts, part, i = [], [], 0
    while i < len(tokens):
        token = tokens[i]
        if token.text in "([{" and token.kind == "punct":
            end = closing(tokens, i)
            part += tokens[i:end + 1]
            i = end + 1
            continue
        if token.text == "<":
            end = closing_angle(tokens, i)
            if end is not None:
                part += tokens[i:end + 1]
                i = end + 1
                continue
        if token.text == separator:
            parts.append(part)
            part = []
        else:
            part.append(token)
        i += 1
    if part or parts:
        parts.append(part)
    return parts
