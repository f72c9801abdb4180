#!/usr/bin/env python3
"""Speed beside llama.cpp on the same machine in the same run; prints a Markdown table.

Pairs are timed alternately and the median taken. llama.cpp is built elsewhere (its
source comes in the PyPI package llama-cpp-python; GGML_NATIVE on) and given by the
path of its llama-bench.

Example: benchmarks/speed.py --binary build/release/bin/metal-marlin --llama-bench PATH/llama-bench \\
    --pair 'Q4_1 (5.0 bits)' SmolLM2.Q4_1.gguf SmolLM2.Q4_1.gguf --pair 'Q4_0 (4.5 bits)' SmolLM2-s4 SmolLM2.Q4_0.gguf
"""
import argparse
import json
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

PROMPT, GENERATE = 512, 128


def ours(options, model, ids, tokens, flags):
    out = subprocess.run([options.binary, "generate", model, "--prompt-ids", ids, "-n", str(tokens), "--ignore-eos", "--json", "--threads",
                          str(options.threads), *flags], check=True, capture_output=True, text=True).stdout
    return json.loads(out)


def measure_ours(options, model, folder, flags=()):
    prompt = pathlib.Path(folder) / "prompt.json"
    short = pathlib.Path(folder) / "short.json"
    prompt.write_text(json.dumps([(i * 7919) % 40000 + 100 for i in range(PROMPT)]))
    short.write_text("[1]")
    return (ours(options, model, prompt, 1, flags)["prompt_tokens_per_second"], ours(options, model, short, GENERATE + 1, flags)["decode_tokens_per_second"])


def measure_peer(options, model):
    out = subprocess.run([options.llama_bench, "-m", model, "-p", str(PROMPT), "-n", str(GENERATE), "-t", str(options.threads), "-r", "1", "-o",
                          "json"], check=True, capture_output=True, text=True).stdout
    rows = json.loads(out)
    return (next(r["avg_ts"] for r in rows if r["n_prompt"] == PROMPT), next(r["avg_ts"] for r in rows if r["n_gen"] == GENERATE))


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--llama-bench", required=True)
    parser.add_argument("--pair", nargs=3, action="append", required=True, metavar=("NAME", "OURS", "THEIRS"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    status = json.loads(subprocess.run([options.binary, "status", "--json"], check=True, capture_output=True, text=True).stdout)
    print(f"{processor()}, {options.threads} threads, {status['instruction_sets'][0]}; prefill of {PROMPT} tokens and decode of {GENERATE}, "
          f"median of {options.rounds} alternating rounds, tokens/s.\n")
    print("| weights | prefill, ours | llama.cpp | ratio | decode, ours | llama.cpp | ratio |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, our_model, peer_model in options.pair:
            ours_runs, peer_runs = [], []
            for _ in range(options.rounds):
                ours_runs.append(measure_ours(options, our_model, folder))
                peer_runs.append(measure_peer(options, peer_model))
            prefill, decode = (statistics.median(run[i] for run in ours_runs) for i in (0, 1))
            peer_prefill, peer_decode = (statistics.median(run[i] for run in peer_runs) for i in (0, 1))
            print(f"| {name} | {prefill:.0f} | {peer_prefill:.0f} | {prefill / peer_prefill:.2f} | {decode:.1f} | {peer_decode:.1f} | "
                  f"{decode / peer_decode:.2f} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
