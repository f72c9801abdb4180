#!/usr/bin/env python3
"""Writes the seeds in tests/fuzz/corpus: small well-formed files and files that
are wrong in one way each.

Needs: numpy==2.4.6 gguf==0.19.0
"""
import base64
import hashlib
import json
import pathlib
import struct
import sys

import gguf
import numpy as np

root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/fuzz/corpus")


def put(kind, name, data):
    (root / kind / name).write_bytes(data)


def safetensors(header, data=b"", size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


entry = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
put("safetensors", "good", safetensors({"a": entry, "__metadata__": {"format": "pt"}}, bytes(16)))
put("safetensors", "two", safetensors({"a": entry, "b": {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]}}, bytes(24)))
put("safetensors", "overlap", safetensors({"a": entry, "b": {"dtype": "U8", "shape": [4], "data_offsets": [14, 18]}}, bytes(18)))
put("safetensors", "past_end", safetensors({"a": {**entry, "data_offsets": [8, 24]}}, bytes(16)))
put("safetensors", "huge_header", safetensors({"a": entry}, bytes(16), size=1 << 60))
put("safetensors", "huge_shape", safetensors({"a": {**entry, "shape": [1 << 40, 1 << 40]}}, bytes(16)))
put("safetensors", "negative", safetensors({"a": {**entry, "shape": [-1, -4]}}, bytes(16)))
put("safetensors", "bad_dtype", safetensors({"a": {**entry, "dtype": "F7"}}, bytes(16)))
put("safetensors", "not_json", safetensors(b"{\"a\": [1, 2", bytes(16)))
put("safetensors", "deep", safetensors(b"[" * 5000))
put("safetensors", "array", safetensors(b"[1]"))
put("safetensors", "empty_tensor", safetensors({"a": {"dtype": "I64", "shape": [0], "data_offsets": [0, 0]}}))

writer = gguf.GGUFWriter(root / "gguf" / "good", "llama")
writer.add_block_count(1)
writer.add_context_length(64)
writer.add_embedding_length(32)
writer.add_feed_forward_length(64)
writer.add_head_count(2)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("smollm")
alphabet = [chr(c) for c in range(33, 127)]
writer.add_token_list(alphabet + ["He", "ll", "Ġ", "<s>"])
writer.add_token_types([1] * (len(alphabet) + 3) + [3])
writer.add_token_merges(["H e", "l l"])
writer.add_bos_token_id(97)
writer.add_array("test.integers", [1, 2, 3])
rng = np.random.default_rng(1)
for name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "MXFP4"):
    kind = gguf.GGMLQuantizationType[name]
    writer.add_tensor(name, rng.integers(0, 128, (2, gguf.GGML_QUANT_SIZES[kind][1]), dtype=np.uint8), raw_dtype=kind)
writer.add_tensor("token_embd.weight", np.zeros((98, 32), np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

writer = gguf.GGUFWriter(root / "gguf" / "experts", "qwen3moe")
for add in (writer.add_block_count, writer.add_embedding_length, writer.add_feed_forward_length, writer.add_head_count, writer.add_expert_count,
            writer.add_expert_used_count):
    add(2)
for name in ("gate", "up", "down"):
    writer.add_tensor(f"blk.0.ffn_{name}_exps.weight", np.ones((2, 2, 2), np.float32))
writer.add_tensor("blk.0.ffn_gate_inp.weight", np.ones((2, 2), np.float32))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()


def text(value):
    return struct.pack("<Q", len(value)) + value


def head(tensors, values, version=3):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, values)


put("gguf", "many_tensors", head(1 << 50, 0))
put("gguf", "many_values", head(0, 1 << 50))
put("gguf", "version", head(0, 0, 9))
put("gguf", "huge_array", head(0, 1) + text(b"k") + struct.pack("<IIQ", 9, 4, 1 << 61))
put("gguf", "huge_strings", head(0, 1) + text(b"k") + struct.pack("<IIQ", 9, 8, 1 << 58) + bytes(32))
put("gguf", "nested", head(0, 1) + text(b"k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 40)
put("gguf", "alignment", head(0, 1) + text(b"general.alignment") + struct.pack("<II", 4, 0))
tensor = text(b"t") + struct.pack("<IQQIQ", 2, 32, 2, 2, 0)
put("gguf", "tensor", head(1, 0) + tensor + bytes(64))
put("gguf", "tensor_past_end", head(1, 0) + text(b"t") + struct.pack("<IQQIQ", 2, 32, 2, 2, 1 << 40) + bytes(64))
put("gguf", "tensor_overflow", head(1, 0) + text(b"t") + struct.pack("<IQQIQ", 2, 1 << 33, 1 << 33, 0, 0) + bytes(64))
put("gguf", "twice", head(2, 0) + tensor + text(b"t") + struct.pack("<IQQIQ", 2, 32, 2, 2, 64) + bytes(256))
put("gguf", "kind", head(1, 0) + text(b"t") + struct.pack("<IQQIQ", 2, 32, 2, 77, 0) + bytes(64))

config = {"model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
          "num_attention_heads": 2, "rope_scaling": {"type": "yarn", "factor": 4.0}, "eos_token_id": [1, 2]}
put("json", "config", json.dumps(config).encode())
put("json", "config_odd", json.dumps({**config, "num_key_value_heads": 0, "head_dim": -4}).encode())
put("json", "config_wide", json.dumps({**config, "num_hidden_layers": 1 << 62}).encode())
put("json", "config_text", json.dumps({**config, "hidden_size": "32"}).encode())
quantization = {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head", "re:("],
                "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}}}}
put("json", "quantization", json.dumps(quantization).encode())
put("json", "marlin", json.dumps({"quant_method": "metal-marlin", "version": 1, "tensors": {
    "model.layers.0.mlp.up_proj": {"format": "fp4", "group": 32, "scale_type": "f16", "zero": "none", "shape": [4, 32]}}}).encode())
def added(content, **flags):
    return {"id": 7, "content": content, "single_word": False, "lstrip": True, "rstrip": False, "normalized": False, "special": True} | flags


byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
template = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
tokenizer = {"model": {"type": "BPE", "vocab": {"H": 0, "e": 1, "l": 2, "o": 3, "He": 4, "ll": 5, "Ġ": 6}, "merges": [["H", "e"], ["l", "l"]]},
             "added_tokens": [added("<s>")], "normalizer": {"type": "NFC"}, "pre_tokenizer": byte_level,
             "post_processor": {"type": "TemplateProcessing", "single": template, "pair": template,
                                "special_tokens": {"<s>": {"id": "<s>", "ids": [7], "tokens": ["<s>"]}}},
             "decoder": byte_level}
put("tokenizer", "bpe", json.dumps(tokenizer).encode())
put("tokenizer", "id", json.dumps({**tokenizer, "added_tokens": [added("x", id=1 << 25)]}).encode())
put("tokenizer", "merge", json.dumps({**tokenizer, "model": {"vocab": {"a": 0}, "merges": [["a", "b"]]}}).encode())
put("tokenizer", "pattern", json.dumps({**tokenizer, "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+$|["}, "behavior": "Isolated", "invert": False}}).encode())
spm = {**tokenizer, "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
       "pre_tokenizer": {"type": "Metaspace", "replacement": "▁"}, "decoder": {"type": "Sequence", "decoders": [
           {"type": "Replace", "pattern": {"Regex": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}}
put("tokenizer", "spm", json.dumps(spm, ensure_ascii=False).encode())
def put_tokenizer(name, model, **stages):
    data = {"added_tokens": tokenizer["added_tokens"], "model": model, **stages}
    put("tokenizer", name, json.dumps(data, ensure_ascii=False).encode())


# Templates with statements: those that jinja2's answers are kept for.
vectors = json.loads((root / "../../data/chat_template/vectors.json").read_text(encoding="utf-8"))
for template in sorted({entry["template"] for entry in vectors["cases"] if "{%" in entry["template"]}):
    put("chat_template", hashlib.sha1(template.encode()).hexdigest()[:12], template.encode())

charsmap = base64.b64encode(struct.pack("<5I", 16, 1 << 10, 0, ord("a") | 1 << 8 | 1 << 10, 0) + b"b\0").decode()
pieces = [["<unk>", 0.0], ["▁", -2.0], ["a", -3.5], ["▁a", -3.0], ["<0xC3>", -9.0], ["<0xA9>", -9.0]]
put_tokenizer("unigram", {"type": "Unigram", "vocab": pieces, "unk_id": 0, "byte_fallback": True},
              normalizer={"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": charsmap}, {"type": "Nmt"}, {"type": "Lowercase"},
                                                              {"type": "Replace", "pattern": {"Regex": "[\\s&&[^\\n]]{2,}|(?i:x)\\b"}, "content": " "}]},
              pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"},
              decoder={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"})
put_tokenizer("wordpiece", {"type": "WordPiece", "vocab": {"[UNK]": 0, "hello": 1, "##1": 2, "x": 3, "12": 4, "##23": 5}, "unk_token": "[UNK]",
                            "continuing_subword_prefix": "##", "max_input_chars_per_word": 100},
              normalizer={"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
              pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "BertPreTokenizer"}, {"type": "Digits", "individual_digits": True}, {"type": "FixedLength", "length": 3}]},
              post_processor={"type": "BertProcessing", "sep": ["x", 3], "cls": ["hello", 1]}, decoder={"type": "WordPiece", "prefix": "##", "cleanup": True})
put_tokenizer("wordlevel", {"type": "WordLevel", "vocab": {"Hello": 0, "x": 1, "<unk>": 2}, "unk_token": "<unk>"},
              normalizer={"type": "Sequence", "normalizers": [{"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "NFKD"}, {"type": "StripAccents"}]},
              pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, {"type": "Punctuation", "behavior": "Contiguous"},
                                                                   {"type": "CharDelimiterSplit", "delimiter": "e"}]},
              decoder={"type": "Sequence", "decoders": [{"type": "CTC", "pad_token": "x", "word_delimiter_token": "|", "cleanup": True}, {"type": "Fuse"},
                                                        {"type": "Strip", "content": "H", "start": 1, "stop": 1}]})
put("tokenizer", "config", json.dumps({"added_tokens_decoder": {"2": {"content": "<x>", "special": True}}, "bos_token": "<s>", "eos_token": {"content": "a"},
                                       "add_bos_token": True, "add_eos_token": True, "additional_special_tokens": ["<y>"]}).encode())
put("tokenizer", "config_names", json.dumps({"z_token": "<z>", "a_token": {"__type": "AddedToken", "content": "<a>"}, "clean_up_tokenization_spaces": True,
                                             "extra_special_tokens": {"b": "<b>", "c": {"content": "<c>", "lstrip": True}}}).encode())
put("tokenizer", "added_tokens", json.dumps({"<x>": 300, "<y>": 5}).encode())
put("tokenizer", "words", json.dumps({"version": "1.0", "model": {"type": "WordLevel", "vocab": {"Hello": 0, " .": 1, " n't": 2, "n": 3}, "unk_token": "n"},
                                      "added_tokens": [added(" ", rstrip=True, normalized=True, special=False)], "decoder": {"type": "Fuse"}}).encode())
put("json", "deep", b'{"a":' * 3000)


def npy(header, data, version=1):
    text = header.encode()
    size = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + size + text + data


HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n"
put("npy", "good", npy(HEADER, bytes(24)))
put("npy", "version2", npy(HEADER, bytes(24), 2))
put("npy", "short", npy(HEADER, bytes(23)))
put("npy", "fortran", npy(HEADER.replace("False", "True"), bytes(24)))
put("npy", "scalar", npy(HEADER.replace("(2, 3)", "()"), bytes(4)))
put("npy", "huge", npy(HEADER.replace("(2, 3)", "(281474976710656, 65536)"), bytes(4)))
put("npy", "open", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3", bytes(24)))
put("npy", "no_type", npy("{'fortran_order': False, 'shape': (2,), }", bytes(8)))
put("npy", "long_header", b"\x93NUMPY\x01\x00\xff\xff{}")
put("npy", "object", npy(HEADER.replace("<f4", "|O"), bytes(24)))


def field(number, value):
    if isinstance(value, int):
        return bytes([number * 8, value])
    data = value.encode() if isinstance(value, str) else value
    return bytes([number * 8 + 2, len(data)]) + data


def onnx_tensor(name, rest, dims=(2,), kind=1):
    return b"".join(field(1, n) for n in dims) + field(2, kind) + field(8, name) + rest


def onnx_model(*tensors, nodes=()):
    return field(7, b"".join(field(1, n) for n in nodes) + b"".join(field(5, t) for t in tensors))


matmul = field(1, "h") + field(1, "x") + field(3, "/model/a_proj/MatMul") + field(4, "MatMul")
external = field(13, field(1, "location") + field(2, "data")) + field(13, field(1, "offset") + field(2, "8")) + field(14, 1)
put("onnx", "good", onnx_model(onnx_tensor("a.weight", field(9, bytes(8))), onnx_tensor("x", field(9, bytes(16)), (2, 2)), nodes=[matmul]))
put("onnx", "fields", onnx_model(onnx_tensor("a.weight", field(4, bytes(8))), onnx_tensor("b.weight", field(5, b"\1\2"), kind=10)))
put("onnx", "external", onnx_model(onnx_tensor("a.weight", external)))
put("onnx", "short", onnx_model(onnx_tensor("a.weight", field(9, bytes(4)))))
put("onnx", "no_graph", field(1, 10))


def tags(**values):
    return b"".join(name.encode() + struct.pack("<H", len(value)) + value for name, value in values.items()) + b"ENDT"


def sized(content):
    return struct.pack("<I", 4 + len(content)) + content


def metallib(functions, public, private, bitcode, more=b"ENDT", tail=b"", count=None, size=None):
    listed = b"".join(sized(f) for f in functions)
    at, offsets = 92 + len(listed) + len(more), []
    for part in (public, private, bitcode):
        offsets += [at, len(part)]
        at += len(part)
    head = b"MTLB" + struct.pack("<HHHBBHHQ", 0x8001, 2, 7, 0, 0x81, 14, 0, at + len(tail) if size is None else size)
    return (head + struct.pack("<8Q", 88, len(listed), *offsets) +
            struct.pack("<I", len(functions) if count is None else count) + listed + more + public + private + bitcode + tail)


def function(name=b"add\0", **changed):
    values = {"NAME": name, "TYPE": b"\2", "HASH": hashlib.sha256(module).digest(), "OFFT": struct.pack("<3Q", 0, 0, 0),
              "VERS": struct.pack("<4H", 2, 6, 3, 1), "MDSZ": struct.pack("<Q", len(module)), **changed}
    return tags(**{k: v for k, v in values.items() if v is not None})


module = struct.pack("<5I", 0x0B17C0DE, 0, 20, 8, 0xFFFFFFFF) + b"BC\xc0\xde" + bytes(8)
none, constant = sized(b"ENDT"), sized(tags(CNST=struct.pack("<H", 1) + b"wide\0\x35\3\0\1", MORE=b"x"))
put("metallib", "good", metallib([function()], constant, none, module))
listed = tags(HDYN=struct.pack("<2Q", 0, 0), RLST=struct.pack("<2Q", 0, 0), UUID=bytes(range(16)))
reflected = function(RFLT=struct.pack("<Q", 4), NEWS=b"?")
more_at = len(metallib([reflected], constant, none, module, listed))
dynamic, reflection = tags(NAME=b"lib\0"), struct.pack("<I", 1) + sized(b"RBUF" + struct.pack("<I", 3) + b"abcENDT")
listed = tags(HDYN=struct.pack("<2Q", more_at, len(dynamic)), UUID=bytes(range(16)),
              RLST=struct.pack("<2Q", more_at + len(dynamic), len(reflection)))
put("metallib", "all_tags", metallib([reflected], constant, none, module, listed, dynamic + reflection))
put("metallib", "empty", metallib([], b"", b"", b""))
put("metallib", "short", metallib([function()], constant, none, module)[:-1])
put("metallib", "size", metallib([function()], constant, none, module, size=1 << 60))
put("metallib", "count", metallib([function()], constant, none, module, count=1 << 31))
put("metallib", "hash", metallib([function(HASH=bytes(32))], constant, none, module))
put("metallib", "no_versions", metallib([function(VERS=None)], constant, none, module))
put("metallib", "name", metallib([function(b"add")], constant, none, module))
put("metallib", "tag_size", metallib([function(MDSZ=bytes(4))], constant, none, module))
put("metallib", "module_size", metallib([function(MDSZ=struct.pack("<Q", 1 << 63))], constant, none, module))
put("metallib", "offset", metallib([function(OFFT=struct.pack("<3Q", 0, 1 << 40, 0))], constant, none, module))
put("metallib", "shared", metallib([function(), function(b"sub\0")], constant, none, module))
put("metallib", "constants", metallib([function()], sized(tags(CNST=b"\xff\xffa\0\x35")), none, module))
put("metallib", "open_list", metallib([function()[:-4]], constant, none, module))
put("metallib", "reflection", metallib([reflected.replace(b"RFLT\x08\0\4", b"RFLT\x08\0Z")], constant, none, module, listed, dynamic + reflection))

sampling = {"n": 2, "temperature": 0.5, "top_p": 0.9, "top_k": -1, "seed": -3, "logit_bias": {"7": -100, "8": 2.5}, "stop": ["a", "b"],
            "stop_token_ids": [1, 2], "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 5, "user": "me"}
parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "<think>b</think>c"}]
for name, request in [
        ("completion", {"prompt": [[1, 2], "x"], "echo": True, "logprobs": 2, "best_of": 1, **sampling}),
        ("chat", {"messages": [{"role": "developer", "content": parts}, {"role": "assistant", "content": "x"}], "continue_final_message": True,
                  "chat_template_kwargs": {"enable_thinking": False}, "reasoning_effort": "none", "response_format": {"type": "text"}, **sampling}),
        ("response", {"input": [{"role": "user", "content": [{"type": "input_text", "text": "a"}]},
                                {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "b"}]},
                                {"type": "message", "role": "assistant", "content": "c"}], "instructions": "d", "reasoning": {"effort": "low"}}),
        ("message", {"system": [{"type": "text", "text": "x-anthropic-billing-header: a\nb", "cache_control": {"type": "ephemeral"}}], "max_tokens": 9, "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "b", "signature": "c"}, {"type": "tool_use", "id": "d", "name": "f", "input": {"e": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "d", "content": [{"type": "text", "text": "g"}], "is_error": True}]},
            {"role": "assistant", "content": "h"}], "tools": [{"name": "f", "input_schema": {"type": "object"}, "strict": True}],
            "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True}, "thinking": {"type": "enabled", "budget_tokens": 3, "display": "omitted"},
            "output_config": {"effort": "low"}, "stop_sequences": ["i"], "metadata": {"user_id": "j"}}),
        ("functions", {"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}, {"role": "function", "name": "f", "content": "a"}],
                       "functions": [{"name": "f"}], "function_call": {"name": "f"}}),
        ("allowed", {"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function", "function": {"name": "f"}}],
                     "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"type": "function", "function": {"name": "f"}}]}}}),
        ("tokens", {"tokens": [1, 511, 0], "tools": [], "colour": None})]:
    put("request", name, json.dumps(request).encode())
put("request", "deep", b'{"a": ' * 100)
put("request", "target", b"/v1/models/a%2Fb%zz%4?x")

for name, text in [
        ("gbnf", 'groot ::= "a" (root | x){0,3} [^"\\n]*\n# c\nx ::= "\\u00e9"? . | "b"+\n'), ("gbnf_left", 'groot ::= x root | "b"\nx ::= "y"?'),
        ("gbnf_bomb", 'groot ::= ((("a"{999}){999}){999})'), ("regex", r"r^(?:a|[^\d\u{1F600}-\u{1F64F}]{2,5})+\w*\.$"), ("regex_refused", r"r(?<=a)b\1"),
        ("schema", 's{"type":"object","properties":{"a":{"type":"integer","minimum":-3,"maximum":250,"multipleOf":7},"b":{"enum":[1,"x",null]},"c":{"format":"date"}},'
                   '"required":["a"],"additionalProperties":{"type":"string","minLength":1,"maxLength":4}}'),
        ("schema_ref", 's{"$ref":"#/$defs/n","$defs":{"n":{"anyOf":[{"type":"null"},{"type":"array","prefixItems":[{"$ref":"#/$defs/n"}],"items":{"pattern":"^a|b"},"maxItems":3}]}}}'),
        ("schema_all", 's{"allOf":[{"properties":{"a":{"type":"number"}}},{"oneOf":[{"type":"object","required":["a"]},{"const":3}]}],"type":["object","integer"]}'),
        ("schema_texts", 's{"anyOf":[{"type":"string","pattern":"^(a|é)+$","minLength":2,"maxLength":9},{"type":"string","format":"ipv6","pattern":"^::"}]}'),
        ("schema_numbers", 's{"prefixItems":[{"type":"number","exclusiveMinimum":-0.5,"maximum":10.25},{"type":"number","multipleOf":0.075},{"type":"integer","multipleOf":2500}]}'),
        ("schema_circle", 's{"enum":[{"a":1}],"properties":{"a":{"$ref":"#"}}}')]:
    put("grammar", name, text.encode())

# The first byte is the format's place among known_tool_formats(), the second one where the text is cut in two.
for index, (name, text) in enumerate([
        ("harmony", '<|channel|>analysis<|message|>x<|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"a":"b"}<|call|>'),
        ("kimi", "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>"),
        ("deepseek_v3", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
        ("deepseek_v31", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
        ("deepseek_v32", '<｜DSML｜function_calls>\n<｜DSML｜invoke name="f">\n<｜DSML｜parameter name="b" string="false">1</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>'),
        ("deepseek_v4", '<｜DSML｜tool_calls><｜DSML｜invoke name="f"></｜DSML｜invoke></｜DSML｜tool_calls>'),
        ("gemma", '<|tool_call>call:f{a:<|"|>x<|"|>,b:[1,{c:true}]}<tool_call|>'),
        ("minimax", '<minimax:tool_call>\n<invoke name="f">\n<parameter name="a">x</parameter>\n</invoke>\n</minimax:tool_call>'),
        ("qwen3_coder", "<tool_call>\n<function=f>\n<parameter=a>\nx\ny\n</parameter>\n<parameter=c>\nnull\n</parameter>\n</function>\n</tool_call>"),
        ("seed", "<seed:tool_call>\n<function=f>\n<parameter=b>7</parameter>\n</function>\n</seed:tool_call>"),
        ("glm_47", "a <tool_call>f<arg_key>a</arg_key><arg_value><</arg_value></tool_call><tool_call>now</tool_call>"),
        ("glm_45", "<tool_call>f\n<arg_key>b</arg_key>\n<arg_value>True</arg_value>\n</tool_call>"),
        ("minicpm", '<function name="f"><param name="a">x</param></function>'),
        ("mistral_name", '[TOOL_CALLS]f[CALL_ID]abc123456[ARGS]{"a": "\\u00e9"}[TOOL_CALLS]now[ARGS]{}'),
        ("mistral_list", '[TOOL_CALLS][{"name": "f", "arguments": {}, "id": "abc123456"}, {"name": "now", "arguments": "{}"}]'),
        ("cohere", '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "f", "parameters": {"a": 1}}]<|END_ACTION|>'),
        ("apertus", '<|tools_prefix|>[{"f": {"a": 1}}]<|tools_suffix|>'),
        ("hermes", '```\n<tool_call>\n```\n<tool_call>\n{"arguments": {"a": [1, -2.5e3]}, "name": "f"}\n</tool_call>\n<tool_call>{"name'),
        ("llama_functions", '<function=f>{"a": "<"}</function>'), ("lfm2", "<|tool_call_start|>[f(a='x\\'', b=None), now()]<|tool_call_end|>"),
        ("llama4", '[f(c={"d": [True,]})]'), ("llama3", '<|python_tag|>{"name": "f", "parameters": {}}; {"name": "now", "parameters": {}}')]):
    put("tool_calls", name, bytes([index, 7]) + text.encode())
