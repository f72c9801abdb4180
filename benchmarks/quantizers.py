#!/usr/bin/env python3
"""Quantizes a model by every method to several formats and measures perplexity and KL divergence against the
source on one half of a text, calibrated on the other; prints a Markdown table.

Example: benchmarks/quantizers.py --binary build/release/bin/metal-marlin \\
    --model offgrid --text wikitext-2-test.txt > benchmarks/quantizers.md
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

# name, flags
FORMATS = [("fp4 g32", ["--format", "fp4"]), ("mxfp4", ["--format", "mxfp4"]), ("nvfp4", ["--format", "nvfp4"]),
           ("s4 g128", ["--format", "s4", "--group", "128"]), ("u4 g128", ["--format", "u4", "--group", "128"]),
           ("int3 g64", ["--format", "int3", "--group", "64"]), ("nf3 g32", ["--format", "nf3"]),
           ("int2 g32", ["--format", "int2"]), ("nf2 g32", ["--format", "nf2"])]
METHODS = ["rtn", "rtn-weighted", "gptq"]


def run(*command):
    return json.loads(subprocess.run([str(c) for c in command], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                     text=True).stdout)


def halves(path, folder):
    """The text cut in two at a line's end near its middle."""
    with open(path, encoding="utf-8") as f:
        text = f.read()
    middle = text.index("\n", len(text) // 2) + 1
    names = [os.path.join(folder, "calibration.txt"), os.path.join(folder, "evaluation.txt")]
    for name, part in zip(names, [text[:middle], text[middle:]]):
        with open(name, "w", encoding="utf-8") as f:
            f.write(part)
    return names


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--tokens", type=int, default=32768, help="of the evaluation")
    parser.add_argument("--calibration-tokens", type=int, default=16384)
    parser.add_argument("--formats", nargs="+", default=[name for name, _ in FORMATS])
    options = parser.parse_args()
    print(f"Calibrated on the first {options.calibration_tokens} tokens of the text's first half, measured on the first "
          f"{options.tokens} of its second, context 512; embeddings and head int8.\n")
    print("| format | bits/weight, linear layers | method | perplexity | mean KL | against rtn | top-1 agreement | seconds |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        calibration, evaluation = halves(options.text, folder)
        for name, flags in FORMATS:
            if name not in options.formats:
                continue
            nearest = None
            for method in METHODS:
                target = pathlib.Path(folder) / "model"
                text = [] if method == "rtn" else ["--calibration", calibration, "--calibration-tokens", options.calibration_tokens]
                report = run(options.binary, "quantize", options.model, "-o", target, "--overwrite", *flags, "--method", method,
                             *text, "--json")
                linear = [t for t in report["tensors"] if ".layers." in t["name"] and t["name"].endswith("_proj.weight")]
                bits = 8 * sum(t["bytes"] for t in linear) / sum(t["shape"][0] * t["shape"][1] for t in linear)
                result = run(options.binary, "eval", target, "--text", evaluation, "--max-tokens", options.tokens, "--reference",
                             options.model, "--json")
                found = result["reference"]
                nearest = nearest or found["mean_kl"]
                print(f"| {name} | {bits:.3f} | {method} | {result['perplexity']:.3f} | {found['mean_kl']:.4f} ± "
                      f"{found['mean_kl_error']:.4f} | {100 * (found['mean_kl'] / nearest - 1):+.0f}% | "
                      f"{100 * found['top1_agreement']:.1f}% | {report['seconds']:.0f} |", flush=True)
    print(f"\nSource: perplexity {found['perplexity']:.4f}.")


if __name__ == "__main__":
    sys.exit(main())
