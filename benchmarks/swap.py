#!/usr/bin/env python3
"""A server on a GPU whose cache holds less than its requests want, by turns with swapping to host memory and without, where
requests that made room are computed again: tokens a second, and how often room was made. Prints a Markdown
table.

Example: benchmarks/swap.py --binary build/release/bin/metal-marlin --model Qwen3-4B-fp4 --backend msl-cuda
"""
import argparse
import http.client
import json
import pathlib
import random
import re
import statistics
import tempfile

from serve import WORDS, Peer, free_port, run_clients

CLIENTS = 16


def counters(peer):
    connection = http.client.HTTPConnection("127.0.0.1", peer.port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return {name: sum(float(value) for value in re.findall(rf"^vllm:{name}(?:{{.*?}})? (\S+)$", text, re.M))
            for name in ("num_preemptions_total", "num_swaps_out_total", "num_swaps_in_total")}


def measure(options, swap, turn, log):
    """Tokens a second of all clients, and the counters."""
    room = CLIENTS * (options.prompt + options.answer) // 2
    peer = Peer([options.binary, "serve", options.model, "--backend", options.backend, "--parallel", CLIENTS, "--cache-tokens", room,
                 "--swap-space", swap, "--no-prefix-cache", "--log-file", "/dev/null"], free_port(), log)
    draw = random.Random(turn)
    prompts = [" ".join(draw.choice(WORDS) for _ in range(options.prompt)) for _ in range(CLIENTS)]
    run_clients(peer, [["warm up"]], 8)
    speed, _ = run_clients(peer, [[prompt] for prompt in prompts], options.answer)
    counted = counters(peer)
    peer.stop()
    return speed, counted


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--backend", default="msl-cuda")
    parser.add_argument("--prompt", type=int, default=1500, help="words of a prompt")
    parser.add_argument("--answer", type=int, default=600, help="tokens of an answer")
    parser.add_argument("--swap", type=float, default=8, help="GiB to swap to")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = {swap: [] for swap in (options.swap, 0)}
    with tempfile.TemporaryFile("w") as log:
        for turn in range(options.rounds):
            for swap, runs in results.items():
                runs.append(measure(options, swap, turn, log))
    print(report(options, results))


def report(options, results):
    rows = {("swapped" if swap else "computed again"):
            {"tokens/s": statistics.median(speed for speed, _ in runs), "least": min(speed for speed, _ in runs),
             "most": max(speed for speed, _ in runs)} | {name: statistics.median(c[name] for _, c in runs) for name in runs[0][1]}
            for swap, runs in results.items()}
    if options.json:
        return json.dumps({"model": pathlib.Path(options.model).name, "backend": options.backend, "results": rows})
    lines = [f"{pathlib.Path(options.model).name}, {options.backend}; {CLIENTS} clients, prompts of {options.prompt} words, answers of "
             f"{options.answer} tokens, a cache for half of them, median of {options.rounds} rounds", "",
             "| what makes room is | tokens/s | least, most | times room was made | copied out | copied back |", "|---|---:|---:|---:|---:|---:|"]
    for name, row in rows.items():
        lines.append(f"| {name} | {row['tokens/s']:.0f} | {row['least']:.0f}, {row['most']:.0f} | {row['num_preemptions_total']:.0f} | "
                     f"{row['num_swaps_out_total']:.0f} | {row['num_swaps_in_total']:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
