#!/usr/bin/env python3
"""What tokenizer_config.json, special_tokens_map.json and added_tokens.json beside a tokenizer.json make of texts, by
Transformers: writes tests/data/tokenizers/config_cases.json. Random added tokens are by tokenizers.

Needs: transformers==5.17.0 tokenizers==0.23.3
"""
import json
import pathlib
import random
import tempfile

from tokenizers import Tokenizer, pre_tokenizers
from transformers import AutoTokenizer

TEXTS = ["a<|tool|>b<plain>c<|end|>", "<s>hello </s> . n't  <x> y", "ab <t1> cd <t2>", " a , b ! c ? d 's n ' t", ""]
LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
VOCABULARY = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
BASE = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None, "pre_tokenizer": LEVEL,
        "post_processor": None, "decoder": LEVEL,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": VOCABULARY, "merges": []}}
WORDS = {"pre_tokenizer": {"type": "WhitespaceSplit"}, "decoder": None,
         "model": {"type": "WordLevel", "unk_token": "[UNK]",
                   "vocab": {w: i for i, w in enumerate(["[UNK]", "a", "b", "c", "d", ".", ",", "!", "?", "n't", "'s", "n", "'", "t"])}}}


def token(content, **flags):
    return {"content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True, **flags}


def configured():
    """Name, what differs from BASE, and the files beside it."""
    added = {"added_tokens": [{"id": 256, **token("<t1>")}]}
    template = {"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "a", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                                   "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                                   "special_tokens": {"a": {"id": "a", "ids": [3], "tokens": ["a"]}}}}
    config = lambda **fields: {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", **fields}}
    typed = lambda content, **flags: {"__type": "AddedToken", **token(content, **flags)}
    yield "ends", {}, config(bos_token="<s>", eos_token="</s>", add_bos_token=True, add_eos_token=True)
    yield "ends_beside_a_template", template, config(bos_token="<s>", eos_token="</s>", add_bos_token=False, add_eos_token=True)
    yield "named_objects", {}, config(bos_token=typed("<s>", lstrip=True), pad_token=typed("<x>", rstrip=True))
    yield "additional", {}, config(additional_special_tokens=["<t1>", typed("<t2>", lstrip=True)])
    yield "extra", {}, config(extra_special_tokens=["<t2>", "<t1>"])
    yield "extra_by_name", {}, config(extra_special_tokens={"z_token": "<t1>", "a_token": "<t2>"})
    yield "extra_and_additional", {}, config(additional_special_tokens=["<t1>"], extra_special_tokens=["<t2>"])
    yield "own_names", {}, config(z_token="<t1>", a_token="<t2>", pad_token="<x>", extra_special_tokens=["<s>"])
    yield "decoder_by_id", {}, config(added_tokens_decoder={"300": token("<t1>"), "299": token("<t2>", special=False, lstrip=True)})
    yield "decoder_changes_flags", added, config(added_tokens_decoder={"256": token("<t1>", lstrip=True)})
    yield "split_special_tokens", added, config(split_special_tokens=True)
    yield "map", {}, {**config(), "special_tokens_map.json": {"bos_token": "<s>", "additional_special_tokens": ["<t1>"]}}
    yield "map_of_objects", {}, {**config(), "special_tokens_map.json": {"bos_token": token("<s>", lstrip=True), "extra_special_tokens": ["<t2>"]}}
    yield "map_beside_a_decoder", {}, {**config(added_tokens_decoder={"256": token("<t1>")}), "special_tokens_map.json": {"bos_token": "<s>"}}
    yield "added_file", {}, {**config(), "added_tokens.json": {"<t2>": 301, "<t1>": 300}}
    yield "added_file_alone", {}, {"added_tokens.json": {"<t1>": 300}}
    yield "added_file_of_named", {}, {**config(eos_token="</s>"), "added_tokens.json": {"</s>": 300, "<t1>": 301}}
    yield "clean_up_bpe", {}, config(clean_up_tokenization_spaces=True)
    yield "clean_up_bpe_forced", {}, config(clean_up_tokenization_spaces=True, clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output=True)
    yield "clean_up_words", WORDS, config(clean_up_tokenization_spaces=True)
    yield "no_clean_up_words", WORDS, config()


def by_transformers(tokenizer, files):
    with tempfile.TemporaryDirectory() as folder:
        for name, text in {"tokenizer.json": tokenizer, **files}.items():
            (pathlib.Path(folder) / name).write_text(json.dumps(text), encoding="utf-8")
        reference = AutoTokenizer.from_pretrained(folder)
        return [[text, ids, reference.decode(ids)] for text in TEXTS for ids in [reference.encode(text)]]


def random_added(rng):
    """Added tokens that meet in white space, which some of them take."""
    words = ["".join(rng.choice("ab  \n<") for _ in range(rng.randint(1, 3))) for _ in range(rng.randint(1, 4))]
    flags = lambda: {key: rng.random() < 0.4 for key in ("lstrip", "rstrip", "normalized", "special")}
    tokens = [{"id": 256 + i, **token(word, single_word=rng.random() < 0.2, **flags())} for i, word in enumerate(words)]
    text = "".join(rng.choice("ab  \n<c") for _ in range(14))
    try:
        reference = Tokenizer.from_str(json.dumps({**BASE, "added_tokens": tokens}))
        ids = reference.encode(text).ids
        return {"name": "random", "tokenizer": {"added_tokens": tokens}, "files": {}, "texts": [[text, ids, reference.decode(ids, skip_special_tokens=False)]]}
    except BaseException as error:  # its own panics
        if isinstance(error, KeyboardInterrupt):
            raise
        return None


cases = [{"name": name, "tokenizer": change, "files": files, "texts": by_transformers({**BASE, **change}, files)} for name, change, files in configured()]
rng = random.Random(5)
cases += [case for _ in range(120) for case in [random_added(rng)] if case]
target = pathlib.Path(__file__).parent.parent / "tests/data/tokenizers/config_cases.json"
lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
target.write_text(f'{{"base": {json.dumps(BASE, ensure_ascii=False)},\n"cases": [\n{lines}\n]}}\n', encoding="utf-8")
