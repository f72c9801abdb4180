#!/usr/bin/env python3
"""Patterns of Oniguruma's syntax, and what the tokenizers library matches with them: --write FILE writes vectors for the
tests, --binary PROGRAM compares random patterns with metal-marlin's own engine, which may refuse a pattern by name.

Needs: tokenizers==0.23.3
"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

from tokenizers import Regex, normalizers, pre_tokenizers

FIXED = [
    ("[a-z&&[^aeiou]]", "abcde"), ("[^(\\s|[.,])]", "a(b|c), [d"), ("^a|b$", "a\nab\nb"), ("\\h+", "xfz09"), ("\\H", "a g"), ("a{2}+", "aaaaa"),
    ("a{2}?", "aaab"), ("a{,2}", "aaab"), ("x(?i)b|c", "xB xC xb C"), ("[[:^alpha:]]+", "a1 b"), ("\\w+", "न a² x① _"), ("[\\W]", "a b"),
    ("\\p{^L}", "a1"), ("\\P{L}", "a1"), ("[\\S]", "a \u180eb"), ("[\\d\\-x]", "1-x y"), ("(?m:.)", "a\n"), (".", "a\n"), ("(?x) a b # c\n c", "abc"),
    ("(?#x)a", "a"), ("\\R", "a\r\nb\u2028"), ("\\bb", "ab b"), ("(?<n>a)\\k<n>(b)", "aab"), ("(a)\\1", "aa"), ("\\u0061\\x62\\t", "ab\t"), ("", "ab"),
    ("b*", "abc"), ("(?:ab)*", "xababab"), ("\\p{Han}", "世ab"), ("[\\p{Lu}&&\\p{ASCII}]", "AÉ"), ("[]a]", "a]"), ("[a-c-e]", "abc-de"),
    ("\\Ab|c\\z", "bcc"), ("a++a", "aaa"), ("(?>a+)a", "aaa"), ("\\p{Alphabetic}", "a1"), ("[a&&b]", "ab"), ("a**", "aab"), ("\\X", "e\u0301a"),
    ("[[:punct:]]", "a+b.c"), ("\\p{Punct}", "a+b.c"), ("\\O", "\n"), ("\\N", "a\n"), ("a|", "ba"), ("(?=b)", "abb"), ("\\Z", "a\n"), ("\\G.", "ab"),
    ("[\\p{Lu}]", "aA"), ("(?i)[\\p{Lu}]", "aA"), ("(?i)\\p{Lu}", "aA"), ("(?i:'s)", "'S'ſ"), ("\\x{61}", "a"), ("{a", "{a"), ("a{1,", "a{1,"),
    ("\\Qa", "Qa"), ("[\\x00-\\x7f]", "aé"), ("(?i:[[:upper:]])", "aÉé Ⅷ1"), ("(?i:[^[:lower:]\\n])", "aÉé Ⅷ1\n"), ("(?i:[[:alpha:]&&\\w])", "aXx 1_"),
    ("(?i:[\\d&&[:upper:]])", "a1A"), ("(?:ab?){2,}", "abaab a"),
]
TEXT = "The Fox's (3.14, x=_a2) aab ſK\n\n é\u0301 世界。Ünïcode  ÀB\t\r\n-]^[&& 12345 Ⅷ² ½ abc.\n"
ATOMS = ["a", "b", "o", "x", "é", "世", " ", "\\.", "\\n", ".", "\\w", "\\W", "\\d", "\\D", "\\s", "\\S", "\\h", "\\H", "\\p{L}", "\\p{Lu}", "\\P{N}",
         "\\p{^M}", "\\R", "\\N", "\\O", "'"]
CLASS_ITEMS = ["a", "b-f", "x", "é", "0-9", " ", ".", "_", "\\]", "\\[", "\\-", "\\w", "\\s", "\\S", "\\d", "\\D", "\\W", "\\h", "\\p{L}", "\\P{Lu}", "\\p{^N}",
               "[:alpha:]", "[:^digit:]", "[:punct:]", "[:upper:]", "&", "^", "\\n"]
ANCHORS = ["^", "$", "\\b", "\\B", "\\A", "\\z", "\\Z", "\\G"]
QUANTIFIERS = ["*", "+", "?", "*?", "+?", "??", "*+", "++", "?+", "{2}", "{1,2}", "{,2}", "{2,}", "{1,2}?", "{2}+"]


def character_class(rng, depth):
    def part():
        items = [rng.choice(CLASS_ITEMS) for _ in range(rng.randint(1, 3))]
        items = [f"[{i}]" if i.startswith("[:") else i for i in items]
        if depth < 2 and rng.random() < 0.3:
            items.append(character_class(rng, depth + 1))
        return "".join(items)
    parts = [part() for _ in range(rng.choice([1, 1, 1, 2, 3]))]
    return "[" + rng.choice(["", "", "^"]) + "&&".join(parts) + "]"


def expression(rng, depth=0):
    def term():
        kind = rng.random()
        if kind < 0.45 or depth > 2:
            atom = rng.choice(ATOMS)
        elif kind < 0.7:
            atom = character_class(rng, 0)
        elif kind < 0.78:
            return rng.choice(ANCHORS)
        else:
            atom = rng.choice(["(?:", "(", "(?>", "(?i:", "(?m:", "(?=", "(?!", "(?<=", "(?<!"])
            inner = rng.choice(ATOMS[:8]) if atom.startswith("(?<") else expression(rng, depth + 1)
            if "=" in atom or "!" in atom:
                return atom + inner + ")"
            atom += inner + ")"
        return atom + (rng.choice(QUANTIFIERS) if rng.random() < 0.4 else "")
    return "|".join("".join(term() for _ in range(rng.randint(1, 3))) for _ in range(rng.choice([1, 1, 2])))


def reference(pattern, text):
    try:
        return normalizers.Replace(Regex(pattern), "¦").normalize_str(text)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return None


def random_cases(count, seed):
    rng = random.Random(seed)
    for _ in range(count):
        pattern = expression(rng)
        expected = reference(pattern, TEXT)
        if expected is not None:
            yield pattern, TEXT, expected


def compare(binary, count, seed):
    alphabet = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    same = refused = 0
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        (root / "text").write_text(TEXT, encoding="utf-8", newline="")
        for pattern, _, expected in random_cases(count, seed):
            replace = {"type": "Replace", "pattern": {"Regex": pattern}, "content": "¦"}
            (root / "tokenizer.json").write_text(json.dumps({"normalizer": replace, "pre_tokenizer": level, "decoder": level,
                                                             "model": {"type": "BPE", "vocab": alphabet, "merges": []}}))
            done = subprocess.run([binary, "tokenize", root, "-f", root / "text", "--json"], capture_output=True, text=True)
            if done.returncode != 0 and "pattern" in done.stderr:
                refused += 1
                continue
            spelled = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(expected)
            if done.returncode != 0 or json.loads(done.stdout) != [alphabet[c] for word, _ in spelled for c in word]:
                sys.exit(f"pattern {pattern!r}: expected {expected!r}\n{done.stderr}")
            same += 1
    print(f"{same} patterns alike, {refused} refused by name")
    if same < refused * 9:
        sys.exit("too many refusals")


parser = argparse.ArgumentParser()
parser.add_argument("--write")
parser.add_argument("--binary")
parser.add_argument("--count", type=int, default=3000)
parser.add_argument("--seed", type=int, default=2)
args = parser.parse_args()
if args.write:
    fixed = [(p, t, reference(p, t)) for p, t in FIXED]
    lines = [json.dumps(case, ensure_ascii=False) for case in [*fixed, *((p, "", e) for p, _, e in random_cases(400, 1))]]
    text = json.dumps(TEXT, ensure_ascii=False)
    pathlib.Path(args.write).write_text(f'{{"text": {text}, "fixed": {len(fixed)}, "cases": [\n' + ",\n".join(lines) + "\n]}\n", encoding="utf-8")
if args.binary:
    compare(args.binary, args.count, args.seed)
