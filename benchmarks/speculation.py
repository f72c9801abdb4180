#!/usr/bin/env python3
"""Decode with and without speculation, by turns: rewriting a given text, where what comes was mostly read before, and
free text, where it was not. The answers must be the same, token for token. Prints a Markdown table; times are the best of
the rounds.

Example: benchmarks/speculation.py build/user/bin/metal-marlin SmolLM2-135M-Instruct-fp4
Exit codes: 0 as fast as --rewrite-target and --free-target say, 1 slower, or answers differed.
"""
import argparse
import json
import subprocess
import sys
import tempfile

LIGHTHOUSE = """The lighthouse at the end of the bay had been dark for eleven years when Marta bought it. The stairs were rotten, \
the lamp was gone, and gulls had made the upper room their own. She began with the roof, because rain does not wait, and spent \
the first winter carrying slates up a ladder while her neighbours shook their heads. In spring she found the old logbook behind \
a loose board: forty years of weather, ships and lonely remarks about the soup."""
CODE = """def read_table(path, separator=","):
    rows = []
    with open(path, encoding="utf-8") as file:
        header = file.readline().rstrip("\\n").split(separator)
        for number, line in enumerate(file, 2):
            values = line.rstrip("\\n").split(separator)
            if len(values) != len(header):
                raise ValueError(f"{path}:{number}: {len(values)} values, expected {len(header)}")
            rows.append(dict(zip(header, values)))
    return rows"""
LETTER = """Dear Mr Okafor, thank you for your letter of the third of May. The parcel that you sent on the twelfth of April arrived on \
the second of May, but two of the six cups were broken, and the saucers were not in it. Please send two cups and six saucers to \
the address below, and let me know whether you want the broken ones back. I have paid the invoice but for the price of the cups."""
TASKS = {
    "rewrite": ([f"Repeat the following text exactly, and correct its spelling:\n\n{text}" for text in (LIGHTHOUSE, CODE, LETTER)],
                ["--temperature", "0"]),
    "free": (["Write a story about a dog who learns to sail.", "Explain why the sea is salty.", "Describe a market in the morning."],
             ["--temperature", "0.8", "--seed", "3"]),
}


def generate(options, prompt, flags):
    """The tokens, and how many of them came in a second."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write(prompt)
        file.flush()
        command = [options.program, "generate", options.model, "--chat", "--prompt-file", file.name, "-n", str(options.tokens),
                   "--threads", str(options.threads), "--json", *flags]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measure(options, task):
    """Of a task: seconds without and with, tokens guessed and right, and whether all answers were the same."""
    prompts, flags = TASKS[task]
    seconds = [0.0, 0.0]
    guessed = right = 0
    same = True
    for prompt in prompts:
        times = ([], [])
        for _ in range(options.rounds):
            answers = [generate(options, prompt, flags + how) for how in ([], options.speculate)]
            for found, answer in zip(times, answers):
                found.append((len(answer["tokens"]) - 1) / answer["decode_tokens_per_second"])
            same = same and answers[0]["tokens"] == answers[1]["tokens"]
        guessed += answers[1]["draft_tokens"]
        right += answers[1]["accepted_tokens"]
        seconds = [total + min(found) for total, found in zip(seconds, times)]
    return *seconds, guessed, right, same


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--task", choices=TASKS, action="append", help="default: all")
    parser.add_argument("--draft", help="a draft model, instead of look-up")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rewrite-target", type=float, default=1.8)
    parser.add_argument("--free-target", type=float, default=0.97)
    options = parser.parse_args()
    options.speculate = ["--draft", options.draft] if options.draft else ["--speculate", "ngram"]
    print("| task | decode without, s | with, s | times as fast | guessed | right | same answers |\n|---|---:|---:|---:|---:|---:|---|")
    ok = True
    for task in options.task or TASKS:
        without, with_it, guessed, right, same = measure(options, task)
        print(f"| {task} | {without:.2f} | {with_it:.2f} | {without / with_it:.2f} | {guessed} | {right} | {'yes' if same else 'NO'} |", flush=True)
        ok = ok and same and without / with_it >= (options.rewrite_target if task == "rewrite" else options.free_target)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
