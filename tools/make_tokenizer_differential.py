#!/usr/bin/env python3
"""Writes tests/data/tokenizers/differential.json: 200 tokenizers made of all stages at random, and the ids and texts that
the tokenizers library gives for them. Models and texts are shared; null stands for what the library refuses.

The models are those of the committed file, so that a seed gives the same vectors each time: the library's trainers go by
the order of hash tables, which is another in each run, whatever the threads. --train makes new ones.

Usage: make_tokenizer_differential.py [--train] [OUTPUT [COUNT [SEED]]]. Needs: tokenizers==0.23.3
"""
import argparse
import json
import pathlib
import random

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and they'll say it isn't far: she's sure that we've won!",
    "In 1984 there were 12345 houses; in 2024 about 67890. for (int i = 0; i < count; ++i) { total += x[i]; }",
    "Быстрая лиса прыгает. größere Füße mögen süße Äpfel. Le cœur déçu. 敏捷的狐狸跳过了狗。 素早い茶色の狐。 빠른 갈색 여우.",
]
TEXTS = [
    "", " ", "   ", "\n", "a", " a", "a ", "  The  quick brown   fox ", "Hello, world! They'll say it isn't far...",
    "HELLO World'S 12345 houses; 6.7%", "wait!!! what?!... (a--b)", "x=1;\n\n  y += x[12];\r\n\treturn y;\n", "größere FÜSSE déçu ÀÉÎ",
    "e\u0301 o\u0308 A\u030a \u00c5", "敏捷的狐狸 jumps 过了狗。a世b", "素早い茶色の狐カタカナー", "빠른 갈색 여우", "Быстрая Лиса, 45 лис",
    "😀 a👩‍👩‍👧b 🇩🇪", "½ ² ③ Ⅷ x² ٣", "\u00a0\u2003x\u3000y\u200bz\u00adw", "a\x00b\x01c\td\x7f", "ﬁ ™ ① ｶﾞ Ａ", "▁a ▁▁b a▁ c",
    "<s>The dog</s> <mask>  fox<sep>  x [MASK]", "the<word> <word> x<word>", "a<s><s>b </s>", "aaaaaaaaaaaaaaaaaaaaaaaaaaaa", "'s 'T 're don't",
    "foo_bar-baz http://x.org/?q=1&r=2#z", "\u2028x\u0085y", "İstanbul ǅ ẞ ſ",
]
PATTERNS = [
    r"\s+", r"\d{1,3}", r"[\p{L}&&[^a-m]]+", r"\p{N}+|\p{L}+", r"(?i:the|dog)", r"[^\s\p{P}]+", r"^\w+", r"\w+$", r"[[:punct:]]", r"[[:upper:]]+",
    r"\b", r"(?=o)", r"x*", r"a|b|", r"(?<=a)b", r"(?<!\s)\s", r"\h+", r"[\S&&[^,.]]+", r"\R", r"(\w)\1", r"a{2}?", r"(?>a+)b?", r"[^(\s|[.,!?])]+",
    r"\p{^L}+", r"[\W]+", r"(?m:.+)", r".", r"\p{Han}+|\p{Hiragana}+", r"[\p{Lu}\p{Lt}][\p{Ll}]*", r"(?x) a # the letter",
]


def pattern(rng):
    if rng.random() < 0.4:
        return {"String": rng.choice([" ", "  ", "▁", "a", ".", "th", "\n", "(", "é", ""])}
    return {"Regex": rng.choice(PATTERNS)}


BEHAVIORS = ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
flag = lambda rng: rng.random() < 0.5
scheme = lambda rng: rng.choice(["always", "never", "first"])
NORMALIZERS = [
    lambda r: {"type": r.choice(["NFC", "NFD", "NFKC", "NFKD"])},
    lambda r: {"type": "BertNormalizer", "clean_text": flag(r), "handle_chinese_chars": flag(r), "strip_accents": r.choice([None, True, False]),
               "lowercase": flag(r)},
    lambda r: {"type": "Strip", "strip_left": flag(r), "strip_right": flag(r)},
    lambda r: {"type": "StripAccents"},
    lambda r: {"type": "Lowercase"},
    lambda r: {"type": "Nmt"},
    lambda r: {"type": "Prepend", "prepend": r.choice(["▁", " ", "ab"])},
    lambda r: {"type": "Replace", "pattern": pattern(r), "content": r.choice(["", "▁", " ", "b", "é!"])},
    lambda r: {"type": "ByteLevel"},
]
PRE_TOKENIZERS = [
    lambda r: {"type": "ByteLevel", "add_prefix_space": flag(r), "trim_offsets": True, "use_regex": flag(r)},
    lambda r: {"type": "BertPreTokenizer"},
    lambda r: {"type": "CharDelimiterSplit", "delimiter": r.choice(["a", " ", "-", "狐"])},
    lambda r: {"type": "Metaspace", "replacement": r.choice(["▁", "▁", "_"]), "prepend_scheme": scheme(r), "split": flag(r)},
    lambda r: {"type": "Whitespace"},
    lambda r: {"type": "WhitespaceSplit"},
    lambda r: {"type": "Split", "pattern": pattern(r), "behavior": r.choice(BEHAVIORS), "invert": r.random() < 0.3},
    lambda r: {"type": "Punctuation", "behavior": r.choice(BEHAVIORS)},
    lambda r: {"type": "Digits", "individual_digits": flag(r)},
    lambda r: {"type": "FixedLength", "length": r.randint(1, 5)},
]
DECODERS = [
    lambda r: {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    lambda r: {"type": "WordPiece", "prefix": "##", "cleanup": flag(r)},
    lambda r: {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme(r), "split": True},
    lambda r: {"type": "BPEDecoder", "suffix": "</w>"},
    lambda r: {"type": "CTC", "pad_token": r.choice(["<pad>", "a"]), "word_delimiter_token": "▁", "cleanup": flag(r)},
    lambda r: {"type": "Replace", "pattern": pattern(r), "content": r.choice(["", " ", "▁"])},
    lambda r: {"type": "Fuse"},
    lambda r: {"type": "Strip", "content": r.choice([" ", "▁", "a"]), "start": r.randint(0, 2), "stop": 0},
    lambda r: {"type": "ByteFallback"},
]


def stages(rng, kinds, members):
    count = rng.choice([0, 1, 1, 2, 2, 3])
    chosen = [rng.choice(kinds)(rng) for _ in range(count)]
    if count == 0:
        return None
    if count == 1:
        return chosen[0]
    if count == 3:  # one Sequence in another
        chosen = [chosen[0], {"type": "Sequence", members: chosen[1:]}]
    return {"type": "Sequence", members: chosen}


def post_processor(rng):
    text = {"Sequence": {"id": "A", "type_id": 0}}
    special = lambda label: {"SpecialToken": {"id": label, "type_id": 0}}
    kinds = [
        lambda: {"type": "BertProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0]},
        lambda: {"type": "RobertaProcessing", "sep": ["</s>", 1], "cls": ["<s>", 0], "trim_offsets": True, "add_prefix_space": False},
        lambda: {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        lambda: {"type": "TemplateProcessing", "single": rng.choice([[special("B"), text], [text, special("E")], [special("B"), text, special("E"), text]]),
                 "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
                 "special_tokens": {"B": {"id": "B", "ids": [0], "tokens": ["<s>"]}, "E": {"id": "E", "ids": [1, 2], "tokens": ["</s>", "<unk>"]}}},
    ]
    count = rng.choice([0, 0, 1, 1, 2])
    chosen = [rng.choice(kinds)() for _ in range(count)]
    return None if count == 0 else chosen[0] if count == 1 else {"type": "Sequence", "processors": chosen}


def added(content, **flags):
    token = {"id": 0, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return token | flags


def trained_models():
    specials = ["<s>", "</s>", "<unk>"]
    out = []
    for seed, pre in enumerate([pre_tokenizers.ByteLevel(add_prefix_space=False), pre_tokenizers.Metaspace(), pre_tokenizers.Whitespace()]):
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet()) if seed == 0 else ["▁"]
        extra = [f"<0x{i:02X}>" for i in range(256)] if seed == 1 else []
        options = {"end_of_word_suffix": "</w>"} if seed == 2 else {}
        tokenizer.train_from_iterator(CORPUS * 3, trainers.BpeTrainer(vocab_size=len(extra) + 420, special_tokens=specials + extra, initial_alphabet=alphabet,
                                                                      show_progress=False, **options))
        out.append(json.loads(tokenizer.to_str())["model"])
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(CORPUS * 3, trainers.UnigramTrainer(vocab_size=260, special_tokens=specials, unk_token="<unk>", show_progress=False))
    model = json.loads(tokenizer.to_str())["model"]
    model["vocab"] = [[token, round(score, 4)] for token, score in model["vocab"]] + [[f"<0x{i:02X}>", -9.0] for i in range(0xC0)]
    out.append(model)
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(CORPUS * 3, trainers.WordPieceTrainer(vocab_size=340, special_tokens=specials, show_progress=False))
    out.append(json.loads(tokenizer.to_str())["model"])
    words = sorted({word for line in CORPUS for word in line.split()})
    out.append({"type": "WordLevel", "vocab": {word: i for i, word in enumerate(specials + words + list("abcdefgh .,!▁"))}, "unk_token": "<unk>"})
    return out


def changes_of(rng, model):
    if model["type"] == "BPE":
        out = {"fuse_unk": flag(rng), "byte_fallback": flag(rng), "ignore_merges": flag(rng)}
        if rng.random() < 0.3:
            out["unk_token"] = rng.choice([None, "<missing>"])
        return out
    if model["type"] == "Unigram":
        return {"byte_fallback": flag(rng)} | ({"unk_id": None} if rng.random() < 0.2 else {})
    if model["type"] == "WordPiece":
        return {"max_input_chars_per_word": rng.choice([3, 100])}
    return {"unk_token": "<missing>"} if rng.random() < 0.2 else {}


def attempt(action):
    try:
        return action()
    except BaseException as error:  # the library's panics are no Exceptions
        if isinstance(error, KeyboardInterrupt):
            raise
        return None


def case(rng, bases):
    index = rng.randrange(len(bases))
    tokens = [added("<s>", special=True), added("</s>", special=True), added("<unk>", special=True)]
    tokens += rng.sample([added("<mask>", lstrip=True), added("<sep>", rstrip=True), added("<word>", single_word=True), added("FÜ", normalized=True),
                          added("[MASK]", normalized=True, special=True), added(" fox", normalized=True)], rng.randint(0, 3))
    config = {"added_tokens": tokens, "normalizer": stages(rng, NORMALIZERS, "normalizers"),
              "pre_tokenizer": stages(rng, PRE_TOKENIZERS, "pretokenizers"), "post_processor": post_processor(rng),
              "decoder": stages(rng, DECODERS, "decoders")}
    changes = changes_of(rng, bases[index])
    whole = {"version": "1.0", "truncation": None, "padding": None, "model": bases[index] | changes} | config
    tokenizer = attempt(lambda: Tokenizer.from_str(json.dumps(whole)))
    vectors = []
    for text in rng.sample(range(len(TEXTS)), 8):
        ids = attempt(lambda: tokenizer.encode(TEXTS[text]).ids) if tokenizer else None
        vectors.append([text, ids, attempt(lambda: tokenizer.decode(ids, skip_special_tokens=False)) if ids is not None else None])
    if tokenizer:  # ids in no order that a text would give
        ids = [rng.randrange(tokenizer.get_vocab_size()) for _ in range(12)]
        vectors.append([-1, ids, attempt(lambda: tokenizer.decode(ids, skip_special_tokens=True))])
    return {"model": index, "changes": changes, "config": config, "vectors": vectors}


COMMITTED = pathlib.Path(__file__).parent.parent / "tests/data/tokenizers/differential.json"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("output", nargs="?", type=pathlib.Path, default=COMMITTED)
    parser.add_argument("count", nargs="?", type=int, default=200)
    parser.add_argument("seed", nargs="?", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    bases = trained_models() if options.train else json.loads(COMMITTED.read_text(encoding="utf-8"))["models"]
    cases = [case(rng, bases) for _ in range(options.count)]
    compact = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    lines = ",\n".join(map(compact, cases))
    options.output.write_text(f'{{"models":{compact(bases)},\n"texts":{compact(TEXTS)},\n"cases":[\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
