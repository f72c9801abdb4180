#!/usr/bin/env python3
"""Many clients at once on `metal-marlin serve`, of which a fifth of the requests are left midway: whether every other
answer is, byte for byte, the one that the same request gets alone, whether memory stays flat, and whether all is
given back. A model folder without a tokenizer, as the tests' fixtures are, is served with one of bytes.

Example: tools/check_load.py --binary build/release/bin/metal-marlin --model SmolLM2-135M-fp4 --clients 64 --seconds 120
"""
import argparse
import asyncio
import collections
import contextlib
import json
import os
import pathlib
import random
import re
import socket
import statistics
import struct
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/server"))
from served import TOOL_TEMPLATE, Server, make_model  # noqa: E402

WORDS = ("the of and to in is you that it he was for on are as with his they at be this have from or one had by word but not what all "
         "were we when your can said there use an each which she do how their if will up other about out many then them these so some "
         "her would make like him into time has look two more write go see number no way could people my than first water been call "
         "who oil its now find long down day did get come made may part").split()
SHARED = "Here is a story that many of them begin with, so that its pages are found again by those that come later: "
# What a third of the requests hold their answers to.
PLACE = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "size": {"type": "integer", "minimum": 0, "maximum": 999},
                                          "kind": {"enum": ["town", "river", "hill"]}},
         "required": ["name", "size", "kind"], "additionalProperties": False}
TOOLS = [{"type": "function", "function": {"name": "find_place", "description": "Finds one.", "parameters": PLACE}},
         {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}}]
MODELS = ["first", "second"]
# What differs between two answers to one request though both are right.
OF_THE_TIME = re.compile(rb'"(created|created_at|completed_at|cached_tokens)":\s*\d+')
ABORTED = struct.pack("ii", 1, 0)  # SO_LINGER: the connection is reset


class Wrong(Exception):
    """An answer that is not what it should be: (kind, what was found)."""


def make_requests(count, tokens):
    """Requests of every kind: path and body. `tokens`: of the longest answers."""
    requests = []
    for i in range(count):
        draw = random.Random(i)
        size = draw.choice([1, 4, 12, 40, 150])
        text = (SHARED if i % 3 == 0 else "") + " ".join(draw.choice(WORDS) for _ in range(size))
        fields = {"temperature": 0} if i % 2 else {"temperature": 0.9, "seed": i, "top_p": 0.95}
        fields |= {"stream": i % 4 < 2, "ignore_eos": i % 5 > 0, "priority": i % 3}  # larger ones lose their place
        most = draw.choice([1, tokens // 8, tokens // 4, tokens // 2, tokens])
        fields["model"] = MODELS[i % 7 % 2]
        if i % 3 == 2:
            requests.append(shaped_request(i, fields, text, most))
        elif i % 10 == 7:
            requests.append(("/v1/responses", fields | {"input": text, "max_output_tokens": most}))
        elif i % 10 < 4:
            fields |= {"logprobs": True, "top_logprobs": 2} if i % 7 == 0 else {}
            requests.append(("/v1/chat/completions", fields | {"messages": [{"role": "user", "content": text}], "max_tokens": most}))
        else:
            fields |= {"logprobs": 1} if i % 7 == 0 else {"stop": ["\n\n"]} if i % 7 == 1 else {}
            fields |= {"n": 2} if i % 10 == 5 else {"echo": True} if i % 10 == 6 else {}
            prompt = [text, text[: len(text) // 2 + 1]] if i % 10 == 8 else text
            requests.append(("/v1/completions", fields | {"prompt": prompt, "max_tokens": most}))
    return requests


def shaped_request(i, fields, text, most):
    """One whose answer is of a schema or another grammar, or calls a tool."""
    messages = {"messages": [{"role": "user", "content": text}], "max_tokens": most}
    kind = i // 3 % 5
    if kind == 0:
        return "/v1/chat/completions", fields | messages | {"tools": TOOLS, "tool_choice": "required"}
    if kind == 1:
        return "/v1/chat/completions", fields | messages | {"tools": TOOLS}
    if kind == 2:
        schema = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE}}
        return "/v1/chat/completions", fields | messages | {"response_format": schema}
    if kind == 3:
        return "/v1/completions", fields | {"prompt": text, "max_tokens": most, "guided_json": PLACE}
    return "/v1/completions", fields | {"prompt": text, "max_tokens": most, "guided_regex": "(ab|cd){1,9} [0-9]{3}"}


def comparable(body, request_id):
    """An answer without what belongs to its time, and the events of each choice of a stream together."""
    body = OF_THE_TIME.sub(rb'"\1":0', body.replace(request_id.encode(), b"ID"))
    if not body.startswith((b"data: ", b"event: ")):
        return body
    index = re.compile(rb'"choices":\[\{"index":(\d+)')

    def choice(event):
        found = index.search(event)
        return int(found.group(1)) if found else 1000
    return b"\n\n".join(sorted(body.split(b"\n\n"), key=choice))


class Connection:
    """A client's connection, with as much of HTTP as an answer of the server needs."""

    def __init__(self, port):
        self.port = port
        self.reader = self.writer = None

    async def send(self, path, body, request_id, most=None):
        """`most`: only so many bytes of it."""
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        head = (f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nX-Request-Id: {request_id}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n")
        self.writer.write((head.encode() + body)[:most])
        await self.writer.drain()

    async def receive(self, most=None):
        """Status and body; with `most` None where so many bytes of the body came."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head.split(b" ", 2)[1])
        length = re.search(rb"content-length: (\d+)", head)
        if length:
            size = int(length.group(1))
            if most is not None and most < size:
                await self.reader.readexactly(most)
                return None
            return status, await self.reader.readexactly(size)
        pieces, total = [], 0
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            pieces.append((await self.reader.readexactly(size + 2))[:-2])
            total += size
            if most is not None and total >= most:
                return None
        await self.reader.readexactly(2)
        return status, b"".join(pieces)

    def close(self, reset=False):
        if self.writer is not None:
            if reset:
                self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORTED)
            self.writer.transport.abort() if reset else self.writer.close()
        self.reader = self.writer = None


class Load:
    def __init__(self, options, server, requests):
        self.options = options
        self.server = server
        self.requests = [(path, json.dumps(body).encode()) for path, body in requests]
        self.alone = []
        self.asked = 0
        self.finished = []  # ids
        self.cut = 0
        self.failures = collections.Counter()
        self.seconds = collections.deque(maxlen=500)  # that answers took
        self.memory = []  # (time, bytes)
        self.end = 0

    def fail(self, kind, what):
        self.failures[kind] += 1
        if self.failures[kind] <= 5:
            print(f"{kind}: {what}", file=sys.stderr, flush=True)

    def next_id(self):
        self.asked += 1
        return f"load-{self.asked:06d}-of-one"

    async def answer(self, connection, index):
        """The comparable answer of a request."""
        request_id = self.next_id()
        path, body = self.requests[index]
        await connection.send(path, body, request_id)
        status, text = await connection.receive()
        if status != 200:
            raise Wrong(f"status {status}", f"request {index}: {text[:300]}")
        others = set(re.findall(rb"load-\d{6}-of-one", text)) - {request_id.encode()}
        if others:
            raise Wrong("mixed", f"request {index}: {request_id} has the answer of {others}")
        self.finished.append(request_id)
        return comparable(text, request_id)

    async def ask_alone(self):
        connection = Connection(self.server.port)
        answers = [await self.answer(connection, index) for index in range(len(self.requests))]
        connection.close()
        return answers

    async def ask_whole(self, connection, index):
        begin = time.monotonic()
        found = await self.answer(connection, index)
        self.seconds.append(time.monotonic() - begin)
        if found != self.alone[index]:
            raise Wrong("wrong", f"request {index}: {found[-600:]}, alone {self.alone[index][-600:]}")

    async def ask_and_leave(self, connection, index, draw):
        """Leaves while it asks, while it waits, or while the answer comes."""
        path, body = self.requests[index]
        self.cut += 1
        kind = draw.random()
        if kind < 0.2:
            await connection.send(path, body, self.next_id(), draw.randrange(1, 150 + len(body)))
        else:
            await connection.send(path, body, self.next_id())
            usual = statistics.median(self.seconds) if self.seconds else 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(draw.uniform(0, 2) * usual if kind < 0.6 else None):
                    await connection.receive(draw.randrange(len(self.alone[index])))
        connection.close(reset=draw.random() < 0.5)

    async def run_client(self, number):
        draw = random.Random(number)
        connection = Connection(self.server.port)
        await asyncio.sleep(draw.uniform(0, 2))
        while time.monotonic() < self.end:
            index = draw.randrange(len(self.requests))
            try:
                async with asyncio.timeout(self.options.patience):
                    if draw.random() < 0.2:
                        await self.ask_and_leave(connection, index, draw)
                    else:
                        await self.ask_whole(connection, index)
            except Wrong as error:
                self.fail(*error.args)
                connection.close()
            except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
                self.fail("lost", f"request {index}: {type(error).__name__} {error}")
                connection.close()
            if draw.random() < 0.3:
                connection.close()
        connection.close()

    def resident(self):
        text = pathlib.Path(f"/proc/{self.server.process.pid}/status").read_text(encoding="utf-8")
        return int(re.search(r"VmRSS:\s*(\d+) kB", text).group(1)) * 1024

    async def watch(self):
        told = time.monotonic()
        while True:
            self.memory.append((time.monotonic(), self.resident()))
            if time.monotonic() - told >= 10:
                told = time.monotonic()
                print(f"{len(self.finished)} answers, {self.cut} left, {sum(self.failures.values())} failures, "
                      f"{self.memory[-1][1] / 2**20:.1f} MiB", file=sys.stderr, flush=True)
            await asyncio.sleep(0.25)

    async def run(self):
        self.alone = await self.ask_alone()
        begin = time.monotonic() + self.options.warm_up
        self.end = begin + self.options.seconds
        watcher = asyncio.create_task(self.watch())
        await asyncio.gather(*(self.run_client(i) for i in range(self.options.clients)))
        watcher.cancel()
        self.check_memory(begin)
        await asyncio.to_thread(self.check_given_back)
        for index, found in enumerate(await self.ask_alone()):
            if found != self.alone[index]:
                self.fail("wrong", f"request {index}, alone again: {found[-600:]}, before {self.alone[index][-600:]}")

    def check_memory(self, begin):
        """The second half of the time beside the first."""
        middle = (begin + self.end) / 2
        self.first = statistics.median(size for when, size in self.memory if begin <= when < middle)
        self.last = statistics.median(size for when, size in self.memory if middle <= when < self.end)
        if self.options.flat and abs(self.last - self.first) > 0.02 * self.first:
            self.fail("memory", f"{self.first / 2**20:.1f} MiB in the first half, {self.last / 2**20:.1f} MiB in the last")

    def check_given_back(self):
        try:
            for name in ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"]:  # pages that are kept are not held
                self.server.wait_until(lambda name=name: self.server.metric(name) == 0)
        except AssertionError:
            self.fail("held", {n: self.server.metric(n) for n in ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"]})
        for line in self.server.get("/metrics")[1].splitlines():
            if re.match(r'metal_marlin:http_requests_total\{status="5', line):
                self.fail("5xx", line)

    def check_end(self):
        """Each answer has its line in the log, and the program had nothing to complain of."""
        code = self.server.stop()
        lines = collections.Counter(line["id"] for line in self.server.logged() if line.get("status") == 200 and "client_gone" not in line)
        missing = [request_id for request_id in self.finished if lines[request_id] != 1]
        if missing:
            self.fail("log", f"{len(missing)} answers have not one line: {missing[:3]}")
        complaints = [line for line in self.server.errors.splitlines() if not line.startswith("shutting down:")]
        if code != 0 or complaints:
            self.fail("end", f"exit code {code}: " + "\n".join(complaints[:60]))

    def summary(self):
        took = sorted(self.seconds) or [0]
        return {"clients": self.options.clients, "seconds": self.options.seconds, "answers": len(self.finished), "left": self.cut,
                "failures": dict(self.failures), "median_seconds": round(statistics.median(took), 2),
                "p99_seconds": round(took[len(took) * 99 // 100], 2), "first_half_mib": round(self.first / 2**20, 1),
                "last_half_mib": round(self.last / 2**20, 1), "preemptions": self.preemptions}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", required=True, type=pathlib.Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120, help="under load, after the warm-up")
    parser.add_argument("--warm-up", type=float, default=20, help="seconds under load before memory is looked at")
    parser.add_argument("--requests", type=int, default=40, help="different ones")
    parser.add_argument("--tokens", type=int, default=32, help="of the longest answers")
    parser.add_argument("--cache-tokens", type=int, default=8192, help="so few that some have to wait")
    parser.add_argument("--patience", type=float, default=900, help="seconds after which an answer is lost")
    parser.add_argument("--no-flat", dest="flat", action="store_false", help="do not compare memory: sanitizers keep what was freed")
    parser.add_argument("--json", action="store_true", help="the summary as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        Server.program, Server.work = options.binary, pathlib.Path(work)
        has_tokenizer = (options.model / "tokenizer.json").exists()
        Server.folder = options.model if has_tokenizer else make_model(options.model, Server.work / "model")
        template = Server.work / "tools.jinja"
        template.write_text(TOOL_TEMPLATE)
        server = Server("--served-name", MODELS[0], "--alias", f"{MODELS[1]}={Server.folder}", "--chat-template", template,
                        "--cache-tokens", options.cache_tokens, "--parallel", 64, "--queue", 2 * options.clients + 16,
                        "--max-connections", 2 * options.clients + 16)
        load = Load(options, server, make_requests(options.requests, options.tokens))
        try:
            asyncio.run(load.run())
            load.preemptions = server.metric("num_preemptions_total")
        finally:
            load.check_end()
    summary = load.summary()
    print(json.dumps(summary) if options.json else "\n".join(f"{name}: {value}" for name, value in summary.items()))
    sys.exit(1 if load.failures else 0)


if __name__ == "__main__":
    main()
