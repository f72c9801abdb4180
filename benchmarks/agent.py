#!/usr/bin/env python3
"""A coding agent's session, replayed from a script: a long system prompt, ten tools, forty turns, each of which sends the
whole conversation again and asks for the next message. What the agent had answered is in the script, so that every
server is given the same. Seconds to the first token and to the end of each turn, and how much of the prompt was found
in the server's cache; beside llama.cpp's server, in turns. Prints a Markdown table.

Both serve the same GGUF with as many threads and the same chat template, a file of one that takes tools (as Qwen3's,
whose markers are SmolLM2's too). Every answer has --answer tokens.

Example: benchmarks/agent.py --binary build/release/bin/metal-marlin --llama-server PATH/llama-server \\
    --model SmolLM2-135M-Instruct.Q4_0.gguf --chat-template Qwen3.jinja --threads 2
"""
import argparse
import http.client
import json
import pathlib
import random
import statistics
import tempfile
import time

from serve import WORDS, Peer, free_port
from speed import processor

TOOLS = (("read_file", "Read a file of the workspace", ("path", "first_line", "last_line")),
         ("write_file", "Write a file, whole", ("path", "content")),
         ("edit_file", "Replace a text that stands once in a file", ("path", "old_text", "new_text")),
         ("list_folder", "List a folder", ("path", "depth")),
         ("search", "Find lines that match a regular expression", ("pattern", "path", "most")),
         ("run", "Run a command in a shell", ("command", "timeout_seconds")),
         ("run_tests", "Run tests by name", ("filter",)),
         ("git_diff", "What has changed since a commit", ("commit", "path")),
         ("fetch_page", "Fetch a page as text", ("address",)),
         ("ask_user", "Ask the user a question", ("question",)))


def tools():
    return [{"type": "function", "function": {
        "name": name, "description": f"{description}. Returns its text, or an error that says what was wrong.",
        "parameters": {"type": "object", "required": list(fields[:1]), "properties": {
            field: {"type": "integer" if field in ("first_line", "last_line", "depth", "most", "timeout_seconds") else "string",
                    "description": f"the {field.replace('_', ' ')}"} for field in fields}}}} for name, description, fields in TOOLS]


def words(draw, count):
    return " ".join(draw.choice(WORDS) for _ in range(count))


def session(turns):
    """The messages up to each turn's request: what a turn adds is a call of a tool and its result, now and then a user's words."""
    draw = random.Random(0)
    messages = [{"role": "system", "content": "You are a careful programmer who works on a repository by tools. " + words(draw, 1200)},
                {"role": "user", "content": "Find out why the reader of tables fails on empty lines, and mend it. " + words(draw, 60)}]
    for turn in range(turns):
        yield list(messages)
        name, _, fields = TOOLS[turn % len(TOOLS)]
        if turn % 8 == 7:
            messages += [{"role": "assistant", "content": words(draw, 30)}, {"role": "user", "content": words(draw, 25)}]
            continue
        arguments = {fields[0]: words(draw, 4).replace(" ", "/")}
        call = {"id": f"call_{turn}", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
        messages += [{"role": "assistant", "content": words(draw, 8), "tool_calls": [call]},
                     {"role": "tool", "tool_call_id": call["id"], "content": words(draw, 45)}]


def ask(peer, messages, answer):
    """Seconds to the first token, to the end, tokens of the prompt and how many of them were in the cache."""
    body = {"messages": messages, "tools": tools(), "max_tokens": answer, "temperature": 0, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True}}
    connection = http.client.HTTPConnection("127.0.0.1", peer.port, timeout=600)
    began = time.monotonic()
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    if reply.status != 200:
        raise SystemExit(f"error: {reply.status}: {reply.read().decode()}")
    first, usage = None, None
    for line in reply:
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        delta = chunk["choices"][0]["delta"] if chunk.get("choices") else {}
        if first is None and any(delta.get(part) for part in ("content", "reasoning_content", "tool_calls")):
            first = time.monotonic() - began
        usage = chunk.get("usage") or usage
    end = time.monotonic() - began
    connection.close()
    if usage is None or usage["completion_tokens"] != answer:
        raise SystemExit(f"error: usage {usage}, expected {answer} tokens of an answer")
    # A token that a template's parser keeps back is not told: then the answer's end is its first sign.
    return end if first is None else first, end, usage["prompt_tokens"], (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)


def commands(options):
    ours = [options.binary, "serve", options.model, "--threads", options.threads, "--parallel", 1, "--context", 8192,
            "--chat-template", options.chat_template, "--log-file", "/dev/null"]
    out = {"ours": ours}
    if options.speculate:
        out["ours, --speculate ngram"] = ours + ["--speculate", "ngram"]
    if options.llama_server:
        out["llama.cpp"] = [options.llama_server, "-m", options.model, "-t", options.threads, "-np", 1, "-c", 8192, "--jinja",
                            "--chat-template-file", options.chat_template, "--no-webui"]
    return out


def measure(options):
    """{server: [[what ask() says of a turn] of a round]}, a server at a time running."""
    results = {name: [] for name in commands(options)}
    for _ in range(options.rounds):
        for name, command in commands(options).items():
            with tempfile.TemporaryFile("w") as log:
                peer = Peer(command, free_port(), log)
                results[name].append([ask(peer, messages, options.answer) for messages in session(options.turns)])
                peer.stop()
    return results


def report(options, results):
    def middle(name, what):
        return statistics.median(what(turns) for turns in results[name])
    rows = [("the session, seconds", "{:.2f}", lambda turns: sum(turn[1] for turn in turns))]
    rows += [(f"turn {number}, seconds to the first token", "{:.3f}", lambda turns, at=number - 1: turns[at][0])
             for number in (1, 2, 10, 20, 30, 40) if number <= options.turns]
    rows += [("all turns but the first, the same, median", "{:.3f}", lambda turns: statistics.median(turn[0] for turn in turns[1:])),
             ("tokens of prompts", "{:.0f}", lambda turns: sum(turn[2] for turn in turns)),
             ("found in the cache, %", "{:.1f}", lambda turns: 100 * sum(turn[3] for turn in turns) / sum(turn[2] for turn in turns))]
    if options.json:
        return json.dumps({"model": pathlib.Path(options.model).name, "threads": options.threads, "processor": processor(),
                           "results": {name: {title: middle(name, what) for title, _, what in rows} for name in results}})
    lines = [f"{pathlib.Path(options.model).name}, {options.threads} threads, {processor()}; {options.turns} turns, {len(TOOLS)} tools, answers "
             f"of {options.answer} tokens, median of {options.rounds} rounds", "",
             "| | " + " | ".join(results) + " |", "|---|" + "---:|" * len(results)]
    lines += [f"| {title} | " + " | ".join(shape.format(middle(name, what)) for name in results) + " |" for title, shape, what in rows]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--llama-server")
    parser.add_argument("--model", required=True)
    parser.add_argument("--chat-template", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--answer", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--speculate", action="store_true", help="also ours with n-gram speculation")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    print(report(options, measure(options)))


if __name__ == "__main__":
    main()
