#!/usr/bin/env python3
"""The lint of shell scripts: what it must find, and what it must let pass."""
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tools"))
from lint_shell import errors  # noqa: E402

GNU = ["sed -i 's/a/b/' f", "sed -E -i.bak p f", "echo x | sed -r 's/(a)/b/'", "stat -c %s f", "date -d yesterday", "date +%s%N",
       "readlink -e f", "grep -oP 'x' f", "grep -E '\\bx' f", "sed 's/\\s*//'", "mktemp -d -p /tmp", "mktemp --suffix=.x",
       "sha256sum f", "make -j$(nproc)", "timeout 5 x", "x | tac f", "head -n -1 f", "xargs -r rm", "find . -printf '%p'",
       "cp --parents a b", "mv -t d f", "ls -l --color", "base64 -w0", "declare -A map", "local -n name=x",
       "mapfile -t lines", "wait -n", 'echo "${x,,}"', 'echo "${x[0]^^}"', 'echo "${x@Q}"', 'echo "${x[-1]}"', "a |& b",
       "a &>> f", "printf '%(%F)T'", 'x=()\necho "${x[@]}"']
PORTABLE = ["sed -E 's/(a)/b/' f > g", "sed '/\\]/q'", "date +%F", "readlink -f x", "grep -rnEi 'x' --exclude=f .", "mktemp -d",
            'mktemp -d "$cache/fetch-XXXXXX"', "head -n 3 f", "tail -n 25 f", "xargs -0 rm", "find . -name x", "cp -r a b",
            "cut -c1-200", '"$program" ls --json', "pip download --quiet", 'echo "${x:-y}" "${x##*/}" "${x:?}"', "a || b && c",
            "x=(a)\necho \"${x[@]}\"", 'x=()\n[ ${#x[@]} -gt 0 ] || exit\necho "${x[@]}"', "# sed -i, as GNU has it", "case $x in a) b ;; esac",
            "cmake --install b --prefix p"]


class Lint(unittest.TestCase):
    def test_gnu_forms_are_found(self):
        for text in GNU:
            self.assertEqual(len(errors(text, "a.sh")), 1, (text, errors(text, "a.sh")))

    def test_portable_ones_pass(self):
        for text in PORTABLE:
            self.assertEqual(errors(text, "a.sh"), [])

    def test_place(self):
        self.assertEqual(errors("a\nsha256sum x\n", "b.sh"), ["b.sh:2: sha256sum: python3's hashlib"])


if __name__ == "__main__":
    unittest.main()
