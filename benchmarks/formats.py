#!/usr/bin/env python3
"""Quantizes a model to every format and measures perplexity and KL divergence
against the source; prints a Markdown table.

Example: benchmarks/formats.py --binary build/release/bin/metal-marlin \\
    --model SmolLM2-135M-Instruct.Q4_1.gguf --text wikitext-2-test.txt > benchmarks/formats.md
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

FORMATS = ["fp8-e4m3", "int8", "u4", "s4", "fp4", "nvfp4", "mxfp4", "nf3", "int3", "nf2", "int2"]


def run(*command):
    return json.loads(subprocess.run([str(c) for c in command], check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--tokens", type=int, default=32768)
    parser.add_argument("--context", type=int, default=512)
    options = parser.parse_args()
    print(f"First {options.tokens} tokens, context {options.context}, group 32 (NVFP4: 16), scales f16 where open; embedding int8.\n")
    print("| format | bits/weight, linear layers | bits/weight, all | perplexity | against source | mean KL | top-1 agreement |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in FORMATS:
            target = pathlib.Path(folder) / name
            report = run(options.binary, "quantize", options.model, "-o", target, "--format", name, "--json")
            linear = [t for t in report["tensors"] if t["format"] == name and ".layers." in t["name"]]
            weights = sum(t["shape"][0] * t["shape"][1] for t in linear)
            bits = 8 * sum(t["bytes"] for t in linear) / weights
            result = run(options.binary, "eval", target, "--text", options.text, "--max-tokens", options.tokens, "--context",
                         options.context, "--reference", options.model, "--json")
            reference = result["reference"]
            change = 100 * (result["perplexity"] / reference["perplexity"] - 1)
            print(f"| {name} | {bits:.3f} | {report['bits_per_weight']:.3f} | {result['perplexity']:.3f} | {change:+.2f}% | "
                  f"{reference['mean_kl']:.5f} ± {reference['mean_kl_error']:.5f} | {100 * reference['top1_agreement']:.2f}% |", flush=True)
    print(f"\nSource: perplexity {reference['perplexity']:.4f}.")


if __name__ == "__main__":
    sys.exit(main())
