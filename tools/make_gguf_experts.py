#!/usr/bin/env python3
"""Writes tests/data/field/gguf-experts: a random Qwen3-MoE in GGUF, experts of one projection in one tensor, in the types
that people have them in, and the logits of 12 tokens by a forward pass in double precision over the values that the gguf
package reads.

Needs: numpy==2.4.6 gguf==0.19.0 safetensors==0.8.0
"""
import json
import pathlib

import gguf
import numpy as np
from gguf.quants import dequantize, quantize
from safetensors.numpy import save_file

HIDDEN, HEADS, KV_HEADS, HEAD, EXPERTS, USED, WIDTH, LAYERS, VOCAB, THETA, EPS = 256, 2, 1, 32, 4, 2, 32, 2, 64, 1e6, 1e-6
# Types of the experts' gate, up and down by layer; K-quants need rows of 256.
TYPES = [("Q4_0", "Q8_0", "F16"), ("Q4_K", "Q6_K", "Q4_0")]
HALVES = {"Q4_K": [0, 2], "Q6_K": [208]}  # offsets of a block's f16 scales

rng = np.random.default_rng(11)
folder = pathlib.Path(__file__).parent.parent / "tests/data/field/gguf-experts"
folder.mkdir(parents=True, exist_ok=True)
writer = gguf.GGUFWriter(folder / "m.gguf", "qwen3moe")
weights = {}


def add(name, shape, kind="F32", mean=0.0):
    if kind in HALVES:  # the package only reads these: random blocks
        _, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
        raw = rng.integers(0, 256, (*shape[:-1], shape[-1] // 256, size), dtype=np.uint8)
        for offset in HALVES[kind]:
            scale = rng.uniform(1e-4, 2e-4, raw.shape[:-1]).astype(np.float16)
            raw[..., offset:offset + 2] = scale[..., None].view(np.uint8)
        raw = raw.reshape(*shape[:-1], -1)
    else:
        values = (mean + rng.standard_normal(shape) * (0.1 if mean else shape[-1] ** -0.5)).astype(np.float32)
        raw = quantize(values, gguf.GGMLQuantizationType[kind])
    writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType[kind])
    weights[name] = dequantize(raw, gguf.GGMLQuantizationType[kind]).astype(np.float64)
    assert weights[name].shape == tuple(shape), name


def norm(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * weight


def rotate(x):  # [tokens, heads, HEAD]
    angles = np.arange(x.shape[0])[:, None] * THETA ** (-np.arange(HEAD // 2) * 2 / HEAD)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    low, high = x[..., :HEAD // 2], x[..., HEAD // 2:]
    return np.concatenate([low * cos - high * sin, high * cos + low * sin], -1)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def layer(x, at):
    w = lambda name: weights[f"blk.{at}.{name}.weight"]
    h = norm(x, w("attn_norm"))
    q, k, v = ((h @ w(f"attn_{n}").T).reshape(len(x), -1, HEAD) for n in "qkv")
    q, k = rotate(norm(q, w("attn_q_norm"))), rotate(norm(k, w("attn_k_norm")))
    k, v = (np.repeat(t, HEADS // KV_HEADS, axis=1) for t in (k, v))
    scores = np.einsum("thd,shd->hts", q, k) / np.sqrt(HEAD)
    scores[:, np.triu(np.ones((len(x), len(x)), bool), 1)] = -np.inf
    x = x + np.einsum("hts,shd->thd", softmax(scores), v).reshape(len(x), -1) @ w("attn_output").T
    h = norm(x, w("ffn_norm"))
    out = np.zeros_like(x)
    for t, share in enumerate(softmax(h @ w("ffn_gate_inp").T)):
        chosen = np.argsort(-share)[:USED]
        for e in chosen:
            gate, up = w("ffn_gate_exps")[e] @ h[t], w("ffn_up_exps")[e] @ h[t]
            out[t] += share[e] / share[chosen].sum() * (w("ffn_down_exps")[e] @ (gate / (1 + np.exp(-gate)) * up))
    return x + out


writer.add_context_length(64)
writer.add_embedding_length(HIDDEN)
writer.add_block_count(LAYERS)
writer.add_feed_forward_length(WIDTH * USED)
writer.add_expert_feed_forward_length(WIDTH)
writer.add_head_count(HEADS)
writer.add_head_count_kv(KV_HEADS)
writer.add_key_length(HEAD)
writer.add_value_length(HEAD)
writer.add_rope_freq_base(THETA)
writer.add_layer_norm_rms_eps(EPS)
writer.add_expert_count(EXPERTS)
writer.add_expert_used_count(USED)
add("token_embd.weight", (VOCAB, HIDDEN), "F16")
add("output.weight", (VOCAB, HIDDEN), "F16")
add("output_norm.weight", (HIDDEN,), mean=1.0)
for at, (gate, up, down) in enumerate(TYPES):
    for name, shape in (("attn_q", (HEADS * HEAD, HIDDEN)), ("attn_k", (KV_HEADS * HEAD, HIDDEN)), ("attn_v", (KV_HEADS * HEAD, HIDDEN)),
                        ("attn_output", (HIDDEN, HEADS * HEAD))):
        add(f"blk.{at}.{name}.weight", shape, "Q8_0")
    for name, width in (("attn_norm", HIDDEN), ("ffn_norm", HIDDEN), ("attn_q_norm", HEAD), ("attn_k_norm", HEAD)):
        add(f"blk.{at}.{name}.weight", (width,), mean=1.0)
    add(f"blk.{at}.ffn_gate_inp.weight", (EXPERTS, HIDDEN))
    add(f"blk.{at}.ffn_gate_exps.weight", (EXPERTS, WIDTH, HIDDEN), gate)
    add(f"blk.{at}.ffn_up_exps.weight", (EXPERTS, WIDTH, HIDDEN), up)
    add(f"blk.{at}.ffn_down_exps.weight", (EXPERTS, HIDDEN, WIDTH), down)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()

ids = rng.integers(0, VOCAB, 12)
x = weights["token_embd.weight"][ids]
for at in range(LAYERS):
    x = layer(x, at)
logits = norm(x, weights["output_norm.weight"]) @ weights["output.weight"].T
save_file({"logits": logits.astype(np.float32)}, folder / "expected.safetensors")
(folder / "ids.json").write_text(json.dumps(ids.tolist()), encoding="utf-8")
