#!/usr/bin/env python3
"""Speed of attention, experts and decode steps on an NVIDIA GPU beside PyTorch and transformers
(bf16), in one run on one machine.

  msl_models.py --binary build/release/benchmarks/msl_models_benchmark [--markdown FILE]

Needs PyTorch with CUDA and transformers. Ratio: the peer's time over ours. Bandwidth: the bytes
that must be read (cache, or weights of the experts that are used) over the time, beside a copy's.
"""
import argparse
import json
import subprocess

import torch
import torch.nn.functional as F
from msl_linear import copy_bandwidth, graph_time

HEADS, KV_HEADS, WIDTH = 32, 8, 128
EXPERTS, HIDDEN, INTERMEDIATE, CHOSEN = 64, 2048, 1536, 4


def sdpa(batch, queries, keys):
    kind = dict(device="cuda", dtype=torch.bfloat16)
    q = torch.randn(batch, HEADS, queries, WIDTH, **kind)
    k, v = (torch.randn(batch, KV_HEADS, keys, WIDTH, **kind) for _ in range(2))
    return graph_time([lambda: F.scaled_dot_product_attention(q, k, v, is_causal=queries > 1, enable_gqa=True)] * 4, 9)


def grouped(tokens):
    """Gate, up and down of the chosen experts, each a bf16 product over its own tokens."""
    kind = dict(device="cuda", dtype=torch.bfloat16)
    up = torch.randn(EXPERTS, 2 * INTERMEDIATE, HIDDEN, **kind)
    down = torch.randn(EXPERTS, HIDDEN, INTERMEDIATE, **kind)
    counts = torch.bincount(torch.stack([torch.randperm(EXPERTS)[:CHOSEN] for _ in range(tokens)]).flatten(), minlength=EXPERTS)
    x = torch.randn(tokens * CHOSEN, HIDDEN, **kind)
    offsets = torch.cumsum(counts, 0).to(device="cuda", dtype=torch.int32)

    def run():
        h = torch._grouped_mm(x, up.transpose(1, 2), offs=offsets)
        gate, value = h.chunk(2, -1)
        return torch._grouped_mm(F.silu(gate) * value, down.transpose(1, 2), offs=offsets)

    return graph_time([run] * 4, 9)


def transformers_step():
    from transformers import Qwen3Config, Qwen3ForCausalLM, StaticCache
    config = Qwen3Config(vocab_size=151936, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32,
                         num_key_value_heads=8, head_dim=128, tie_word_embeddings=True, max_position_embeddings=2048)
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        model = Qwen3ForCausalLM(config).eval()
    cache = StaticCache(config=config, max_cache_len=1024)
    ids = torch.full((1, 1), 17, device="cuda")
    position = torch.full((1, 1), 220, device="cuda")
    with torch.no_grad():
        model(torch.randint(0, 1000, (1, 220), device="cuda"), past_key_values=cache, use_cache=True)
        step = lambda: model(ids, past_key_values=cache, use_cache=True, position_ids=position, cache_position=position[0])  # noqa: E731
        return graph_time([step], 30)


def peer(row, cache={}):
    key = json.dumps({k: v for k, v in row.items() if k != "us"} | {"op": row["op"].replace("flash_attention_v2", "prefill").replace(
        "simdgroup_attention", "prefill")})
    if key not in cache:
        try:
            cache[key] = (transformers_step() if row["op"] == "decode step" else grouped(row["tokens"]) if row["op"] == "experts" else
                          sdpa(row["batch"], 1 if row["op"] == "decode attention" else row["context"], row["context"]))
        except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError) as e:
            print(f"{row['op']}: {e}")
            cache[key] = None
    return cache[key]


def share(row, bandwidth):
    seconds = row["us"] * 1e-6
    if row["op"] == "decode attention":
        return f"{100 * row['batch'] * row['context'] * KV_HEADS * WIDTH * 4 / seconds / bandwidth:.0f}% of bandwidth"
    if row["op"] == "experts":
        used = EXPERTS * (1 - (1 - CHOSEN / EXPERTS) ** row["tokens"])
        return f"{100 * used * 3 * HIDDEN * INTERMEDIATE * 4.5 / 8 / seconds / bandwidth:.0f}% of bandwidth"
    if row["op"] == "decode step":
        return f"{100 * 2.73 * 2**30 / seconds / bandwidth:.0f}% of bandwidth"
    return f"{2 * row['context'] ** 2 * HEADS * WIDTH / seconds / 1e12:.0f} TFLOP/s"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True, nargs="+")
    parser.add_argument("--markdown")
    args = parser.parse_args()
    ours = json.loads(subprocess.run(args.binary, check=True, stdout=subprocess.PIPE, text=True).stdout)
    bandwidth = copy_bandwidth()
    lines = [f"Device: {ours['device']}, copy {bandwidth / 1e12:.2f} TB/s, PyTorch {torch.__version__}.", "",
             "| op | case | us | | peer us | ratio |", "|---|---|---|---|---|---|"]
    for row in ours["results"]:
        case = ", ".join(f"{k} {v}" for k, v in row.items() if k not in ("op", "us"))
        time = peer(row)
        lines.append(f"| {row['op']} | {case} | {row['us']:.1f} | {share(row, bandwidth)} | "
                     + ("- | - |" if time is None else f"{time * 1e6:.1f} | {time * 1e6 / row['us']:.2f} |"))
    text = "\n".join(lines)
    print(text)
    if args.markdown:
        with open(args.markdown, "w") as f:
            f.write(text + "\n")


if __name__ == "__main__":
    main()
