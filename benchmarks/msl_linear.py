#!/usr/bin/env python3
"""Speed of the linear op's kernels on an NVIDIA GPU beside cuBLAS (bf16) and PyTorch's
_weight_int4pack_mm, in one run on one machine.

  msl_linear.py --binary build/release/benchmarks/msl_benchmark [--markdown RESULTS.md] [--json FILE]

Needs PyTorch with CUDA. Weights rotate among copies larger than the cache; times are
medians over graph replays, microseconds a product.
"""
import argparse
import json
import subprocess
import sys

import torch


def graph_time(products, repeats=15):
    """Median seconds of one of the calls, replayed in a CUDA graph."""
    for f in products[:2]:
        f()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for f in products:
            f()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3 / len(products))
    return sorted(times)[len(times) // 2]


def cublas(rows, cols, tokens):
    copies = max(2, min(32, (256 << 20) // (rows * cols * 2)))
    w = [torch.randn(rows, cols, device="cuda", dtype=torch.bfloat16) for _ in range(copies)]
    x = torch.randn(tokens, cols, device="cuda", dtype=torch.bfloat16)
    products = [lambda m=m: torch.nn.functional.linear(x, m) for m in w]
    return graph_time(products * max(1, 24 // copies))


def int4pack(rows, cols, tokens, group=128):
    copies = max(2, min(64, (256 << 20) // (rows * cols // 2)))
    try:
        w = []
        for _ in range(copies):
            codes = torch.randint(0, 255, (rows, cols // 2), device="cuda", dtype=torch.uint8)
            w.append(torch._convert_weight_to_int4pack(codes, 8))
        scales = torch.ones(cols // group, rows, 2, device="cuda", dtype=torch.bfloat16)
        x = torch.randn(tokens, cols, device="cuda", dtype=torch.bfloat16)
        products = [lambda m=m: torch._weight_int4pack_mm(x, m, group, scales) for m in w]
        return graph_time(products * max(1, 24 // copies))
    except RuntimeError as e:
        print("int4pack:", e, file=sys.stderr)
        return None


def copy_bandwidth():
    a = torch.empty(1 << 30, device="cuda", dtype=torch.uint8)
    b = torch.empty_like(a)
    return 2 * a.numel() / graph_time([lambda: b.copy_(a)] * 4)


def weight_bytes(row):
    scale_bits = 16 / row["group"]
    return row["rows"] * row["cols"] * (4 + scale_bits) / 8


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True, nargs="+")
    parser.add_argument("--markdown")
    parser.add_argument("--json")
    args = parser.parse_args()
    ours = json.loads(subprocess.run(args.binary, check=True, stdout=subprocess.PIPE, text=True).stdout)
    bandwidth = copy_bandwidth()
    peers = {}
    for row in ours["results"]:
        key = (row["rows"], row["cols"], row["tokens"])
        if key not in peers:
            peers[key] = (cublas(*key), int4pack(*key))
        row["cublas_us"], row["int4pack_us"] = (None if v is None else v * 1e6 for v in peers[key])
    lines = [f"Device: {ours['device']}, copy {bandwidth / 1e12:.2f} TB/s, PyTorch {torch.__version__}.", "",
             "| N x K | tokens | format | us | % of bandwidth | TFLOP/s | cuBLAS bf16 us | ratio | int4pack us | ratio |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    for r in ours["results"]:
        flops = 2 * r["rows"] * r["cols"] * r["tokens"] / r["us"] * 1e-6
        ratio = lambda v: "-" if v is None else f"{v / r['us']:.2f}"  # noqa: E731
        show = lambda v: "-" if v is None else f"{v:.1f}"  # noqa: E731
        lines.append(f"| {r['rows']}x{r['cols']} | {r['tokens']} | {r['format']} g{r['group']} | {r['us']:.2f} | "
                     f"{100 * weight_bytes(r) / (r['us'] * 1e-6) / bandwidth:.0f} | {flops:.1f} | "
                     f"{show(r['cublas_us'])} | {ratio(r['cublas_us'])} | {show(r['int4pack_us'])} | "
                     f"{ratio(r['int4pack_us'])} |")
    text = "\n".join(lines)
    print(text)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(ours, f, indent=1)
    if args.markdown:
        with open(args.markdown, "w") as f:
            f.write(text + "\n")


if __name__ == "__main__":
    main()
