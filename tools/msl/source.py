"""MSL source as tokens, with the place in the user's file that each came from."""
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


def preprocess(path, includes=(), defines=(), version=310):
    """The file's text after clang's preprocessor, its own macros resolved."""
    command = [CLANG, "-E", "-x", "c++", "-std=c++14", "-nostdinc", "-Wno-everything",
               f"-D__METAL_VERSION__={version}", "-D__METAL__=1", "-D__HAVE_BFLOAT__=1", "-D__METAL_MACOS__=1",
               "-I" + os.path.join(HERE, "stub")]
    command += ["-I" + i for i in includes] + ["-D" + d for d in defines] + [path]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SourceError(path, 0, "preprocessing failed\n" + done.stderr.strip())
    return done.stdout


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
