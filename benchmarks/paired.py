#!/usr/bin/env python3
"""Two of our programs, such as this commit's and an earlier one's, on the same models by turns: prefill and decode in
tokens a second, the best of the rounds, and how they compare; prints a Markdown table.

Example: benchmarks/paired.py --before OLD/metal-marlin --now build/user/bin/metal-marlin --threads 2 --model fp4=SmolLM2-fp4
"""
import argparse
import json
import pathlib
import tempfile

from speed import GENERATE, PROMPT, measure_ours, processor


def best(options, binary, model, folder, found):
    """The larger of each speed found so far and of one more run."""
    run = argparse.Namespace(binary=binary, threads=options.threads)
    return tuple(map(max, found, measure_ours(run, model, folder, options.flag)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True)
    parser.add_argument("--now", required=True)
    parser.add_argument("--model", action="append", required=True, metavar="NAME=PATH")
    parser.add_argument("--flag", action="append", default=[], help="of `generate`, such as --flag=--exact")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, path in (model.split("=", 1) for model in options.model):
            found = {options.before: (0.0, 0.0), options.now: (0.0, 0.0)}
            for _ in range(options.rounds):
                for binary in found:
                    found[binary] = best(options, binary, path, folder, found[binary])
            results[name] = [found[options.before], found[options.now]]
    print(json.dumps(results) if options.json else table(options, results))


def table(options, results):
    lines = [f"{processor()}, {options.threads} threads {' '.join(options.flag)}; prefill of {PROMPT} tokens and decode of {GENERATE}, tokens/s, "
             f"best of {options.rounds} alternating rounds", "",
             "| weights | prefill, before | now | now / before | decode, before | now | now / before |", "|---|" + "---:|" * 6]
    for name, (before, now) in results.items():
        cells = [f"{b:.1f} | {n:.1f} | {n / b:.3f}" for b, n in zip(before, now)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
