#!/usr/bin/env python3
"""Finds what bash 3.2 and BSD's tools, which macOS has, do not take in shell scripts.

  lint_shell.py SCRIPT...

Exit codes: 0 nothing found, 1 something was.
"""
import re
import sys

BASH_4 = "bash 3.2 has it not"
FORMS = [(re.compile(pattern), advice) for pattern, advice in [
    (r"\bsed\b[^|;]*\s(-[a-zA-Z]*i|--in-place)", "BSD's sed -i takes a suffix: write to another file"),
    (r"\bsed\b[^|;]*\s(-[a-zA-Z]*r\b|--regexp-extended)", "sed -E"),
    (r"\bstat\s+(-c|-[a-zA-Z]*f|--)", "stat's formats differ: wc -c < FILE, or python3"),
    (r"\bdate\b[^|;)]*\s(-d|-I|--)|\bdate\b[^|;)]*%N", "BSD's date knows +FORMAT alone, without %N"),
    (r"\breadlink\s+(-[a-zA-Z]*[em]|--)", "readlink -f"),
    (r"\bgrep\b[^|;]*\s(-[a-zA-Z]*P|--perl)", "grep -E"),
    (r"\b(grep|sed)\b.*\\[sSwWbBdD<>]", "[[:space:]], [[:alnum:]_] and the like"),
    (r"\bmktemp\b[^|;)]*\s(-p|--)", "mktemp -d, or mktemp FOLDER/name-XXXXXX"),
    (r"\b(md5|sha\d+)sum\b", "python3's hashlib"),
    (r"\bnproc\b", "getconf _NPROCESSORS_ONLN"),
    (r"(^|[|;&(])\s*(timeout|tac|numfmt|setsid)\s", "macOS has it not"),
    (r"\bhead\s+(-n\s*|-c\s*|--\w+=)-", "BSD's head counts from the front alone"),
    (r"\bxargs\b[^|;]*\s(-r|-d|--)", "BSD's xargs has it not"),
    (r"\bfind\b[^|;]*\s-(printf|regextype)", "find -exec, or python3"),
    (r"(^|[|;&(])\s*(cp|mv|rm|ln|ls|mkdir|touch|chmod|cut|wc|du|sort|tail|cat|tr|uniq|seq|install)\s(.*\s)?--[a-z]",
     "BSD's tools have short flags alone"),
    (r"\b(cp|mv|ln)\b[^|;]*\s-[a-zA-Z]*[tT]\b|\bcp\b[^|;]*\s-[a-zA-Z]*u", "BSD's cp, mv and ln have it not"),
    (r"\b(du\s+-[a-z]*b|base64\s+-w|touch\s+-d)", "BSD's has it not"),
    (r"\b(declare|local|typeset)\s+-[a-zA-Z]*[Anlu]", BASH_4),
    (r"\b(mapfile|readarray|coproc|globstar|EPOCHSECONDS|EPOCHREALTIME|BASHPID)\b|\bwait\s+-n", BASH_4),
    (r"\$\{\w+(\[[^]]*\])?(,|\^|@[A-Za-z]\})|\$\{\w+\[-\d", BASH_4),
    (r"\|&|&>>|;;?&|printf\s+['\"]?%\(|(?<![\\])\$'[^']*\\[uU]", BASH_4),
]]
EMPTY = re.compile(r"^\s*(?:local\s+)?(\w+)=\(\)", re.MULTILINE)


def errors(text, name):
    """`file:line: form: advice` of each; comments may say what they like."""
    found = []
    empty = [array for array in EMPTY.findall(text) if "${#" + array + "[@]}" not in text]
    for number, line in enumerate(text.splitlines(), 1):
        code = re.sub(r"(^|\s)#.*", "", line)
        matches = [(m.group(0).strip(), advice) for form, advice in FORMS if (m := form.search(code))]
        matches += [(array, "under set -u, bash 3.2 takes an empty array for an unset one") for array in empty
                    if '"${' + array + '[@]}"' in code]
        found += [f"{name}:{number}: {form}: {advice}" for form, advice in matches]
    return found


def main():
    found = []
    for path in sys.argv[1:]:
        with open(path, encoding="utf-8") as f:
            found += errors(f.read(), path)
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
