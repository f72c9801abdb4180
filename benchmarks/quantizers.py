#!/usr/bin/env python3
"""Quantizes a model by every method to several formats and measures perplexity and KL divergence against the
source on one half of a text, calibrated on the other; prints Markdown tables. With --targets also by numbers of
bits, and with --llama beside llama.cpp's quantizer with an importance matrix of the same calibration text, whose
files this project evaluates (its K-quants as f16).

Example: benchmarks/quantizers.py --binary build/release/bin/metal-marlin \\
    --model offgrid --text wikitext-2-test.txt > benchmarks/quantizers.md
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

# name, flags
FORMATS = [("mxfp4", ["--format", "mxfp4"]), ("s4 g128", ["--format", "s4", "--group", "128"]),
           ("int3 g64", ["--format", "int3", "--group", "64"]), ("fp4 g32", ["--format", "fp4"]), ("nvfp4", ["--format", "nvfp4"]),
           ("u4 g128", ["--format", "u4", "--group", "128"]), ("nf3 g32", ["--format", "nf3"]), ("int2 g32", ["--format", "int2"]),
           ("nf2 g32", ["--format", "nf2"]), ("s4 g128 2:4", ["--format", "s4", "--group", "128", "--sparsity", "2:4"]),
           ("fp4 g32 2:4", ["--format", "fp4", "--sparsity", "2:4"])]
METHODS = ["rtn", "rtn-weighted", "gptq", "mr-gptq"]
KINDS = ["Q5_K_S", "Q4_K_M", "Q4_K_S", "IQ4_XS", "IQ4_NL", "Q4_0", "Q3_K_M", "Q3_K_S", "Q2_K"]  # of llama.cpp
UNIFORM = ["int3 128", "int3 32"]
CACHES = ["int8", "fp8", "int4", "fp4"]


def run(*command):
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{command}: {done.stderr[-2000:]}")
    return done.stdout


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


class Bench:
    def __init__(self, options, folder):
        self.options, self.folder = options, pathlib.Path(folder)
        self.calibration, self.evaluation = halves(options.text, folder)

    def evaluate(self, model, *flags, threads=None):
        return json.loads(run(self.options.binary, "eval", model, "--text", self.evaluation, "--max-tokens", self.options.tokens,
                              "--reference", self.options.model, "--reference-cache", self.folder / "reference", "--threads",
                              self.options.threads if threads is None else threads, "--exact", "--json", *flags))

    def quantized(self, name, flags, method):
        target = self.folder / f"{name} {method}".replace(" ", "-")
        text = ["--calibration", self.calibration, "--calibration-tokens", self.options.calibration_tokens]
        report = json.loads(run(self.options.binary, "quantize", self.options.model, "-o", target, *flags, "--method", method,
                                "--threads", self.options.threads, *(text if method != "rtn" or "--target-bpw" in flags else []), "--json"))
        linear = [t for t in report["tensors"] if ".layers." in t["name"] and t["name"].endswith("_proj.weight")]
        bits = 8 * sum(t["bytes"] for t in linear) / sum(t["weights"] for t in linear)
        result = self.evaluate(target)
        shutil.rmtree(target)
        return bits, result, report["seconds"]

    def llama(self, kind):
        target = self.folder / f"{kind}.gguf"
        run(os.path.join(self.options.llama, "llama-quantize"), "--imatrix", self.folder / "imatrix.gguf", "--token-embedding-type",
            "q8_0", "--output-tensor-type", "q8_0", self.options.gguf, target, kind, self.options.threads)
        report = json.loads(run(self.options.binary, "inspect", target, "--json"))
        linear = [t for t in report["tensors"] if ".layers." in t["name"] and t["name"].endswith("_proj.weight")]
        weights = [t["shape"][0] * t["shape"][1] for t in linear]
        bits = sum(t["bits_per_weight"] * n for t, n in zip(linear, weights)) / sum(weights)
        result = self.evaluate(target, "--gguf-f16")
        target.unlink()
        return bits, result, 0


def cells(found):
    reference = found["reference"]
    return (f"{found['perplexity']:.3f} | {reference['mean_kl']:.4f} ± {reference['mean_kl_error']:.4f} | "
            f"{100 * reference['top1_agreement']:.1f}%")


def method_rows(bench, pool, options):
    print("| format | bits/weight, linear layers | method | perplexity | mean KL | top-1 agreement | against rtn | seconds |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    wanted = [(name, flags, method) for name, flags in FORMATS if name in options.formats for method in options.methods]
    results = pool.map(lambda w: (w, bench.quantized(*w)), wanted)
    nearest = None
    for (name, _, method), (bits, found, seconds) in results:
        kl = found["reference"]["mean_kl"]
        nearest = kl if method == "rtn" else nearest
        print(f"| {name} | {bits:.3f} | {method} | {cells(found)} | {100 * (kl / nearest - 1):+.0f}% | {seconds:.0f} |", flush=True)
    print(f"\nSource: perplexity {found['reference']['perplexity']:.4f}.\n")


def target_rows(bench, pool, options):
    print("| linear layers | bits/weight | perplexity | mean KL | top-1 agreement |")
    print("|---|---|---|---|---|", flush=True)
    curves = ["--curves", bench.folder / "curves.json"]
    if not curves[1].exists():  # measured once, by all threads
        run(options.binary, "quantize", options.model, "-o", bench.folder / "measured", "--target-bpw", options.targets[0], *curves,
            "--calibration", bench.calibration, "--overwrite")
        shutil.rmtree(bench.folder / "measured")
    wanted = [(f"target {target}", ["--target-bpw", target, *curves], "gptq") for target in options.targets]
    wanted += [(f"all {spec}", ["--format", spec.split()[0], "--group", spec.split()[1]], "gptq") for spec in UNIFORM]
    for (name, _, _), (bits, found, _) in pool.map(lambda w: (w, bench.quantized(*w)), wanted):
        print(f"| {name} | {bits:.3f} | {cells(found)} |", flush=True)
    print()


def llama_rows(bench, pool, options):
    run(os.path.join(options.llama, "llama-imatrix"), "-m", options.gguf, "-f", bench.calibration, "-o", bench.folder / "imatrix.gguf",
        "-c", "512", "--chunks", options.calibration_tokens // 512, "-t", os.cpu_count())
    print("| llama.cpp's kind, with importance matrix | bits/weight, linear layers | perplexity | mean KL | top-1 agreement |")
    print("|---|---|---|---|---|", flush=True)
    for kind, (bits, found, _) in pool.map(lambda k: (k, bench.llama(k)), KINDS):
        print(f"| {kind} | {bits:.3f} | {cells(found)} |", flush=True)
    print()


def cache_rows(bench, pool):
    print("| cache of the source, unquantized | perplexity | mean KL | top-1 agreement |")
    print("|---|---|---|---|", flush=True)
    for cache, found in pool.map(lambda c: (c, bench.evaluate(bench.options.model, "--kv-cache", c)), CACHES):
        print(f"| {cache} | {cells(found)} |", flush=True)
    print()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--tokens", type=int, default=32768, help="of the evaluation")
    parser.add_argument("--calibration-tokens", type=int, default=16384)
    parser.add_argument("--formats", nargs="*", default=[name for name, _ in FORMATS])
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--targets", nargs="*", default=[], help="bits a weight")
    parser.add_argument("--llama", help="folder of llama-quantize and llama-imatrix")
    parser.add_argument("--gguf", help="the model for them: what offgrid_gguf.py writes")
    parser.add_argument("--caches", action="store_true", help="also what quantized caches cost")
    parser.add_argument("--folder", help="where the reference's logits and curves are kept; default: a temporary one")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=0, help="of each; 0: one per core")
    options = parser.parse_args()
    print(f"Calibrated on the first {options.calibration_tokens} tokens of the text's first half, measured on the first "
          f"{options.tokens} of its second, context 512, f32 activations; embeddings and head int8.\n")
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(options.model))) as folder, \
            concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        bench = Bench(options, options.folder or folder)
        bench.evaluate(options.model, threads=0)  # keeps the reference's logits
        if options.formats:
            method_rows(bench, pool, options)
        if options.targets:
            target_rows(bench, pool, options)
        if options.llama:
            llama_rows(bench, pool, options)
        if options.caches:
            cache_rows(bench, pool)


if __name__ == "__main__":
    sys.exit(main())
