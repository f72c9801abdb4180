#!/usr/bin/env python3
"""Writes tests/data/tokenizers/fields.json: small tokenizers of which one field of a stage, a model, an added token,
truncation or padding is missing or holds something else, and what the tokenizers library makes of each: no ids where it
refuses the file, null where it fails on a text.

Usage: make_tokenizer_fields.py [OUTPUT]. Needs: tokenizers==0.23.3
"""
import json
import pathlib
import sys

from make_tokenizer_differential import attempt
from tokenizers import Tokenizer

TOKENS = ["<s>", "</s>", "<unk>", *"abc ▁Ġ1.'é_", "ab", "abc", "##b", "a</w>", "b</w>", " a", "▁a", "<0x61>", "<0xC3>", "<0xA9>", " n't"]
VOCAB = {token: i for i, token in enumerate(TOKENS)}
TEXTS = ["", "abc a", " a <s>b", "é1.b▁a"]
IDS = [[], [3, 4], [14, 15, 16, 17, 18], [3, 3, 19, 19, 20], [21, 22, 23, 22], [3, 24, 9, 200, 6]]
MISSING = object()
VALUES = [MISSING, None, "", "a", "é", "ab", 0, 1, -1, 1.0, 2**32, 2**64, True, False, [], {}, [1]]
EXTRA = {"behavior": ["Removed", "removed"], "prepend_scheme": ["never", "first", "Never"], "direction": ["Left"], "pattern": [{"String": ""}, {"Regex": ""}, {"String": "a", "Regex": "b"}],
         "strategy": ["OnlyFirst", "BatchLongest", {"Fixed": 2}, {"Fixed": "a"}], "merges": [["a b"], ["a b", ["ab", "c"]], [["a", ""]], ["a"], ["a  b"], ["#version: 1", "a b"]],
         "vocab": [{"a": 0, "b": 9, "c": 4}, {"": 0}, [["a", 0]], [["", 0.0], ["a", -1]]]}


def stage(kind, **fields):
    return {"type": kind} | fields


def models():
    scores = [[token, -1.0 - i / 10] for i, token in enumerate(TOKENS)]
    return [stage("BPE", dropout=None, unk_token="<unk>", continuing_subword_prefix=None, end_of_word_suffix=None, fuse_unk=False, byte_fallback=False,
                  ignore_merges=False, vocab=VOCAB, merges=[["a", "b"], ["ab", "c"]]),
            stage("Unigram", unk_id=2, vocab=scores, byte_fallback=False),
            stage("WordPiece", unk_token="<unk>", continuing_subword_prefix="##", max_input_chars_per_word=100, vocab=VOCAB),
            stage("WordLevel", unk_token="<unk>", vocab=VOCAB)]


def stages():
    byte_level = stage("ByteLevel", add_prefix_space=True, trim_offsets=True, use_regex=True)
    metaspace = stage("Metaspace", replacement="▁", prepend_scheme="always", split=True, str_rep="▁")
    ends = {"sep": ["</s>", 1], "cls": ["<s>", 0]}
    special, text = {"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    template = stage("TemplateProcessing", single=[special, text], pair=[text, special], special_tokens={"x": {"id": "x", "ids": [0, 1], "tokens": ["<s>", "</s>"]}})
    yield "normalizer", [stage("Prepend", prepend="▁"), stage("Replace", pattern={"String": "a"}, content="b"), stage("Strip", strip_left=True, strip_right=True),
                         stage("BertNormalizer", clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True)]
    yield "pre_tokenizer", [byte_level, metaspace, stage("Split", pattern={"Regex": "a"}, behavior="Isolated", invert=False), stage("Digits", individual_digits=True),
                            stage("Punctuation", behavior="Isolated"), stage("CharDelimiterSplit", delimiter="a"), stage("FixedLength", length=2)]
    yield "decoder", [byte_level, metaspace, stage("Replace", pattern={"String": "a"}, content="b"), stage("WordPiece", prefix="##", cleanup=True),
                      stage("Strip", content="a", start=1, stop=0), stage("BPEDecoder", suffix="</w>"), stage("CTC", pad_token="a", word_delimiter_token="b", cleanup=True)]
    yield "post_processor", [byte_level, template, stage("BertProcessing", **ends), stage("Sequence", processors=[stage("BertProcessing", **ends), template])]
    yield "truncation", [{"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}]
    yield "padding", [{"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "<s>"}]
    yield "added_tokens", [[{"id": 0, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}]]


# Paths to fields, but for those of a vocabulary and the names of types.
def fields(value, path=()):
    if path:
        yield path
    if path[-1:] == ("vocab",):
        return
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        if key != "type":
            yield from fields(inner, (*path, key))


def changed(value, path, to):
    value = json.loads(json.dumps(value))  # pieces that are used twice are two
    owner = value
    for key in path[:-1]:
        owner = owner[key]
    if to is MISSING:
        del owner[path[-1]]
    else:
        owner[path[-1]] = to
    return value


# What the program reads as it was meant where the library does not, refuses by name where the library fails on each text
# or garbles it, or bounds.
def own_ways(kind, path, to):
    name = path[-1] if path else None
    return ((name == "prepend" and to == "") or (name == "length" and to == 0) or "single" in path and isinstance(to, (str, list)) or name == "x" or
            name == "special_tokens" or (name == "add_prefix_space" and to is False) or (isinstance(kind, dict) and name in ("dropout", "unk_id", "processors")) or
            (name in ("cls", "sep", "ids") and to == []) or name in (0, 1) and to == 2**32)


# A case is a base with a model and a stage, and what the field at `path` holds instead.
def main():
    output = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/data/tokenizers/fields.json")
    base = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": None, "post_processor": None, "decoder": None}
    known = models()
    kinds = [(key, kind) for key, all_kinds in stages() for kind in all_kinds]
    changes = [(0, None, (key,), value) for key in base for value in VALUES]
    for i, model in enumerate(known):
        changes += [(i, None, ("model", *path), to) for path in fields(model) for to in VALUES + EXTRA.get(path[-1], []) if not own_ways(model, path, to)]
        for at, (key, kind) in enumerate(kinds):
            if i == 0 or key == "decoder":
                changes += [(i, at, (key, *path), to) for path in fields(kind) for to in (VALUES + EXTRA.get(path[-1], []) if i == 0 else [""]) if not own_ways(kind, path, to)]
    cases = []
    for model, at, path, to in changes:
        whole = base | {"model": known[model]} | ({} if at is None else {kinds[at][0]: kinds[at][1]})
        tokenizer = attempt(lambda: Tokenizer.from_str(json.dumps(changed(whole, path, to))))
        case = {"model": model, "stage": at, "path": "/" + "/".join(map(str, path))} | ({} if to is MISSING else {"value": to})
        if tokenizer:
            attempt(tokenizer.no_truncation)
            attempt(tokenizer.no_padding)
            case["ids"] = [attempt(lambda: tokenizer.encode(text).ids) for text in TEXTS]
            case["texts"] = [attempt(lambda: tokenizer.decode(ids, skip_special_tokens=False)) for ids in IDS]
        cases.append(case)
    compact = lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    lines = ",\n".join(map(compact, cases))
    output.write_text(f'{{"base":{compact(base)},\n"models":{compact(known)},\n"stages":{compact(kinds)},\n"texts":{compact(TEXTS)},\n"ids":{compact(IDS)},\n"cases":[\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
