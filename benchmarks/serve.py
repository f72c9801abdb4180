#!/usr/bin/env python3
"""Throughput of `metal-marlin serve` for several clients, and time to the first token with and without a shared prompt,
beside llama.cpp's server in the same run; prints a Markdown table.

Both serve the same GGUF with as many threads. Rounds alternate; the median is taken. llama.cpp is built elsewhere (its
source comes in the PyPI package llama-cpp-python; GGML_NATIVE on); without --llama-server ours is measured alone.

Example: benchmarks/serve.py --binary build/release/bin/metal-marlin --llama-server PATH/llama-server \\
    --model SmolLM2-135M-Instruct.Q4_1.gguf --threads 2
"""
import argparse
import http.client
import json
import pathlib
import random
import signal
import socket
import statistics
import subprocess
import tempfile
import threading
import time

from speed import processor

CLIENTS = (1, 8, 32)
PROMPT_WORDS, ANSWER, SHARED_TOKENS = 96, 64, 1500
WORDS = ("time water people word day part sound work place year back thing name sentence man line boy farm end men land home hand "
         "picture air animal house page letter point mother answer city tree plant food sun story").split()


class Peer:
    """A server that was started, until it answers."""

    def __init__(self, command, port, log):
        self.port = port
        self.process = subprocess.Popen([*map(str, command), "--port", str(port)], stdout=log, stderr=log)
        end = time.monotonic() + 120
        while True:
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise SystemExit(f"error: {command[0]} does not serve; its output: {log.name}")
            try:
                if self.request("GET", "/health")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)

    def request(self, method, path, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        try:
            connection.request(method, path, json.dumps(body) if body else None, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def complete(self, prompt, tokens):
        """Seconds to the first token and to the end, and tokens that came, of a streamed greedy answer."""
        body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True,
                "stream_options": {"include_usage": True}}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        began = time.monotonic()
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise SystemExit(f"error: {answer.status}: {answer.read().decode()}")
        first, generated = None, 0
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            if first is None:
                first = time.monotonic() - began
            usage = json.loads(line[6:]).get("usage")
            generated = usage["completion_tokens"] if usage else generated
        connection.close()
        return first, time.monotonic() - began, generated

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def prompt_of(draw):
    return " ".join(draw.choice(WORDS) for _ in range(PROMPT_WORDS))


def load(peer, clients, rounds_each, draw):
    """Generated tokens a second of all clients, and the median of the seconds to a first token."""
    return run_clients(peer, [[prompt_of(draw) for _ in range(rounds_each)] for _ in range(clients)], ANSWER)


def run_clients(peer, prompts, answer):
    """The same for a list of prompts a client, with answers of so many tokens."""
    results, failures = [], []

    def client(own):
        try:
            results.extend(peer.complete(prompt, answer) for prompt in own)
        except BaseException as error:  # in a thread SystemExit would be lost
            failures.append(error)
    threads = [threading.Thread(target=client, args=(own,)) for own in prompts]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - began
    if failures:
        raise failures[0]
    if any(tokens != answer for _, _, tokens in results):
        raise SystemExit(f"error: answers of {sorted({tokens for _, _, tokens in results})} tokens, expected {answer}")
    return sum(tokens for _, _, tokens in results) / seconds, statistics.median(first for first, _, _ in results)


def shared_prompt(peer, draw):
    """Seconds to a first token behind a prompt of some 1500 tokens that is new, and behind one that was there."""
    shared = " ".join(draw.choice(WORDS) for _ in range(SHARED_TOKENS))
    new = peer.complete(shared + " one", 4)[0]
    return new, statistics.median(peer.complete(f"{shared} {word}", 4)[0] for word in ("two", "three", "four"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--llama-server")
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        print(report(options, measure(options, pathlib.Path(work))))


def commands(options):
    out = {"ours": [options.binary, "serve", options.model, "--threads", options.threads, "--parallel", max(CLIENTS), "--log-file", "/dev/null"]}
    if options.llama_server:
        tokens = max(CLIENTS) * 512
        out["llama.cpp"] = [options.llama_server, "-m", options.model, "-t", options.threads, "-np", max(CLIENTS), "-c", max(tokens, 32 * 2048),
                            "--no-webui"]
    return out


def measure(options, work):
    """{server: {clients: [(tokens/s, seconds)], "shared": [(new, known)]}}, a server at a time running."""
    results = {name: {clients: [] for clients in CLIENTS} | {"shared": []} for name in commands(options)}
    for turn in range(options.rounds):
        for name, command in commands(options).items():
            with open(work / f"{name}.log", "w", encoding="utf-8") as log:
                peer = Peer(command, free_port(), log)
                draw = random.Random(turn)
                load(peer, 1, 1, random.Random(-1))  # warm
                for clients in CLIENTS:
                    results[name][clients].append(load(peer, clients, max(1, 16 // clients), draw))
                results[name]["shared"].append(shared_prompt(peer, draw))
                peer.stop()
    return results


def report(options, results):
    middle = {name: {what: tuple(map(statistics.median, zip(*found))) for what, found in of.items()} for name, of in results.items()}
    if options.json:
        return json.dumps({"model": pathlib.Path(options.model).name, "threads": options.threads, "processor": processor(),
                           "results": {name: {str(what): pair for what, pair in of.items()} for name, of in middle.items()}})
    lines = [f"{pathlib.Path(options.model).name}, {options.threads} threads, {processor()}; prompts of {PROMPT_WORDS} words, answers of "
             f"{ANSWER} tokens, median of {options.rounds} rounds", "",
             "| | " + " | ".join(middle) + " | ratio |", "|---|" + "---:|" * (len(middle) + 1)]
    rows = [(f"{clients} client{'s' * (clients > 1)}, tokens/s", clients, 0, "{:.1f}") for clients in CLIENTS]
    rows += [(f"{clients} client{'s' * (clients > 1)}, seconds to the first token", clients, 1, "{:.3f}") for clients in CLIENTS]
    rows += [("prompt of 1500 words, new, seconds to the first token", "shared", 0, "{:.3f}"),
             ("the same beginning again", "shared", 1, "{:.3f}")]
    for title, what, at, shape in rows:
        values = [of[what][at] for of in middle.values()]
        ratio = f"{values[0] / values[1]:.2f}" if len(values) == 2 else ""
        lines.append(f"| {title} | " + " | ".join(map(shape.format, values)) + f" | {ratio} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
