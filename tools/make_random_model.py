#!/usr/bin/env python3
"""Writes a model of random bf16 weights from a recipe's description of one: real widths, as many layers as
wanted, a tokenizer from another model's folder. Needs no packages. Weights repeat a block of normal numbers of
prime length, so that rows differ.

Usage: tools/make_random_model.py recipes/glm-4.7-flash.json TOKENIZER_FOLDER OUT [--layers 4]
"""
import argparse
import json
import os
import random
import shutil
import struct
import sys
from array import array

BLOCK = 2097143  # numbers; prime
SHARD = 2 << 30


def bf16_block(seed, deviation):
    """BLOCK normal numbers as bf16, rounded toward zero."""
    rng = random.Random(seed)
    raw = array("f", (rng.gauss(0, deviation) for _ in range(BLOCK))).tobytes()
    out = bytearray(2 * BLOCK)
    out[0::2], out[1::2] = raw[2::4], raw[3::4]
    return bytes(out)


def tensors_of(c, layers):
    """(name, shape) of all weights of a model, in order of name."""
    hidden = c["hidden_size"]
    out = [("model.embed_tokens.weight", [c["vocab_size"], hidden]), ("model.norm.weight", [hidden])]
    if not c.get("tie_word_embeddings"):
        out.append(("lm_head.weight", [c["vocab_size"], hidden]))
    predicting = c.get("num_nextn_predict_layers", 0)
    for layer in range(layers, layers + predicting):
        prefix = f"model.layers.{layer}."
        out.extend((prefix + name + ".weight", [hidden]) for name in ("enorm", "hnorm", "shared_head.norm"))
        out.append((prefix + "eh_proj.weight", [hidden, 2 * hidden]))
    for layer in range(layers + predicting):
        prefix = f"model.layers.{layer}."
        out.extend([(prefix + "input_layernorm.weight", [hidden]), (prefix + "post_attention_layernorm.weight", [hidden])])
        if c["model_type"] == "glm4_moe_lite":
            out.extend(latent_attention(prefix + "self_attn.", c))
        else:
            out.extend(attention(prefix + "self_attn.", c))
        if layer < c.get("first_k_dense_replace", layers):
            out.extend(feed_forward(prefix + "mlp.", hidden, c["intermediate_size"]))
        else:
            out.extend(experts(prefix + "mlp.", c))
    return sorted(out)


def feed_forward(prefix, hidden, width):
    return [(prefix + "gate_proj.weight", [width, hidden]), (prefix + "up_proj.weight", [width, hidden]),
            (prefix + "down_proj.weight", [hidden, width])]


def experts(prefix, c):
    hidden, width, count = c["hidden_size"], c["moe_intermediate_size"], c["n_routed_experts"]
    out = [(prefix + "gate.weight", [count, hidden]), (prefix + "gate.e_score_correction_bias", [count])]
    for expert in range(count):
        out.extend(feed_forward(f"{prefix}experts.{expert}.", hidden, width))
    return out + feed_forward(prefix + "shared_experts.", hidden, width * c["n_shared_experts"])


def attention(prefix, c):
    hidden, width = c["hidden_size"], c["head_dim"]
    queries, keys = c["num_attention_heads"] * width, c["num_key_value_heads"] * width
    return [(prefix + "q_proj.weight", [queries, hidden]), (prefix + "k_proj.weight", [keys, hidden]),
            (prefix + "v_proj.weight", [keys, hidden]), (prefix + "o_proj.weight", [hidden, queries]),
            (prefix + "q_norm.weight", [width]), (prefix + "k_norm.weight", [width])]


def latent_attention(prefix, c):
    heads, rope, nope = c["num_attention_heads"], c["qk_rope_head_dim"], c["qk_nope_head_dim"]
    hidden, rank = c["hidden_size"], c["kv_lora_rank"]
    return [(prefix + "q_a_proj.weight", [c["q_lora_rank"], hidden]), (prefix + "q_a_layernorm.weight", [c["q_lora_rank"]]),
            (prefix + "q_b_proj.weight", [heads * (nope + rope), c["q_lora_rank"]]),
            (prefix + "kv_a_proj_with_mqa.weight", [rank + rope, hidden]), (prefix + "kv_a_layernorm.weight", [rank]),
            (prefix + "kv_b_proj.weight", [heads * (nope + c["v_head_dim"]), rank]),
            (prefix + "o_proj.weight", [hidden, heads * c["v_head_dim"]])]


def write_numbers(f, name, count, block):
    if name.endswith("norm.weight"):
        f.write(struct.pack("<H", 0x3F80) * count)  # ones
        return
    if name.endswith("bias"):
        f.write(bytes(2 * count))
        return
    at = random.Random(name).randrange(BLOCK)
    while count > 0:
        part = min(count, BLOCK - at)
        f.write(memoryview(block)[2 * at:2 * (at + part)])
        count, at = count - part, 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("tokenizer")
    parser.add_argument("out")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--prediction", action="store_true", help="with a layer for the next tokens, of GLM")
    options = parser.parse_args()
    with open(options.recipe, encoding="utf-8") as f:
        config = json.load(f)["models"][0]["config"]
    if config["model_type"] not in ("glm4_moe_lite", "qwen3"):
        sys.exit(f"{options.recipe}: model_type is {config['model_type']}, expected glm4_moe_lite or qwen3")
    config.update(num_hidden_layers=options.layers, torch_dtype="bfloat16")
    if config["model_type"] == "glm4_moe_lite":
        config["num_nextn_predict_layers"] = int(options.prediction)
    block = bf16_block(1, 0.03)
    shards, size = [[]], 0
    for name, shape in tensors_of(config, options.layers):
        count = 1
        for n in shape:
            count *= n
        if size and size + 2 * count > SHARD:
            shards.append([])
            size = 0
        shards[-1].append((name, shape, count))
        size += 2 * count
    os.makedirs(options.out)
    index = {}
    for i, tensors in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        header, offset = {}, 0
        for name, shape, count in tensors:
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + 2 * count]}
            offset += 2 * count
            index[name] = file
        text = json.dumps(header).encode()
        with open(os.path.join(options.out, file), "wb") as f:
            f.write(struct.pack("<Q", len(text)) + text)
            for name, _, count in tensors:
                write_numbers(f, name, count, block)
    for name, value in [("model.safetensors.index.json", {"weight_map": index}), ("config.json", config)]:
        with open(os.path.join(options.out, name), "w", encoding="utf-8") as f:
            json.dump(value, f, indent=2)
    for name in ["tokenizer.json", "tokenizer_config.json"]:
        shutil.copy(os.path.join(options.tokenizer, name), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
