"""`metal-marlin serve` as tests and checks start it, and the small model that it serves them."""
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import unittest

TEMPLATE = """{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}\
{% if add_generation_prompt %}<|assistant|>{% if enable_thinking is defined and enable_thinking %}<think>\n{% endif %}{% endif %}\
{# </think> #}"""
# ChatML with tools, without thoughts.
TOOL_TEMPLATE = """{% if tools %}<|im_start|>system
Tools: {{ tools | tojson }}<|im_end|>
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content or '' }}{% for call in m.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
ENDLESS = {"temperature": 0, "ignore_eos": True}


def byte_names():
    """How byte-level vocabularies write each byte: GPT-2's printable stand-ins."""
    plain = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    names, others = {}, 0
    for byte in range(256):
        names[byte] = chr(byte) if byte in plain else chr(256 + others)
        others += byte not in plain
    return names


def make_model(fixture, folder, template=TEMPLATE, marks=()):
    """A fixture's weights with a tokenizer whose first 256 tokens are the bytes."""
    shutil.copytree(fixture, folder)
    names = byte_names()
    marks = ["<think>", "</think>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", *marks]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    tokenizer = {"added_tokens": [{"id": 256 + i, "content": mark, "single_word": False, "lstrip": False, "rstrip": False,
                                   "normalized": False, "special": mark.startswith("<|")} for i, mark in enumerate(marks)],
                 "decoder": level,
                 "model": {"type": "BPE", "vocab": {names[b]: b for b in range(256)}, "merges": []},
                 "pre_tokenizer": level}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    if template:
        (folder / "chat_template.jinja").write_text(template)
    return folder


class Server:
    """The program, started; it says itself where it listens."""

    program = None  # these three are for whoever starts some to say
    folder = None
    work = None

    def __init__(self, *arguments, models=None, environment=None, log=None, port=0):
        self.log = log or self.work / f"log-{time.monotonic_ns()}"
        self.error_file = tempfile.TemporaryFile("w+")  # no pipe: a server must not wait for who reads its errors
        self.process = subprocess.Popen(
            [self.program, "serve", *map(str, models or [self.folder]), "--port", str(port), "--threads", "2", "--log-file", str(self.log),
             *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=self.error_file, text=True, env=os.environ | (environment or {}))
        self.lines = []
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("try:"):
                break
        else:
            self.process.wait(60)
            self.close()
            raise AssertionError(f"it ended with {self.process.returncode}: {self.errors}")
        where = next(line for line in self.lines if line.startswith("listening on"))
        self.url = where.split()[-1]
        self.port = int(where.rsplit(":", 1)[1])

    def connect(self, timeout=300):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(self, method, path, body=None, headers=None):
        """Status, headers and text of an answer."""
        with contextlib.closing(self.connect()) as connection:
            text = body if body is None or isinstance(body, (str, bytes)) else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"} | (headers or {}))
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode()

    def get(self, path, **headers):
        status, _, text = self.ask("GET", path, headers=headers)
        return status, text

    def post(self, path, body, status=200):
        found, _, text = self.ask("POST", path, body)
        if found != status:
            raise AssertionError(f"{path}: {found}, expected {status}: {text}")
        return json.loads(text)

    def refused(self, path, body, status=400):
        return self.post(path, body, status)["error"]

    def stream(self, path, body):
        """The data of a stream's events, without the last, which says that it is done."""
        status, headers, text = self.ask("POST", path, body | {"stream": True})
        if status != 200 or not headers["Content-Type"].startswith("text/event-stream"):
            raise AssertionError(text)
        events = text.split("\n\n")
        if events[-2:] != ["data: [DONE]", ""] or not all(event.startswith("data: ") for event in events[:-1]):
            raise AssertionError(text)
        return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]

    def open_stream(self, path="/v1/completions", **fields):
        """A connection on which a long stream has begun, and what was read of it."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        body = json.dumps({"prompt": "once", "max_tokens": 3900, "stream": True} | ENDLESS | fields)
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                           f"Content-Length: {len(body)}\r\n\r\n{body}".encode())
        begun = b""
        while b"data: " not in begun:
            piece = connection.recv(4096)
            if not piece:
                raise AssertionError(begun)
            begun += piece
        return connection, begun

    def metric(self, name, labels=""):
        """The sum over all labels that hold `labels`; None where there is none."""
        return self.metrics([name], labels)[0]

    def metrics(self, names, labels=""):
        """As metric, for each of `names`, all of one moment."""
        lines = [line for line in self.get("/metrics")[1].splitlines() if labels in line]
        found = [[float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"metal_marlin:{name}{{", f"metal_marlin:{name} "))]
                 for name in names]
        return [sum(each) if each else None for each in found]

    def logged(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def wait_until(self, what, seconds=20):
        end = time.monotonic() + seconds
        while not what():
            if time.monotonic() > end:
                raise AssertionError("it did not come to be")
            time.sleep(0.02)

    def stop(self, signals=1):
        for _ in range(signals):
            self.process.send_signal(signal.SIGTERM)
            time.sleep(0.05 if signals > 1 else 0)
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()
            self.close()
        return self.process.returncode

    def close(self):
        self.error_file.seek(0)
        self.errors = self.error_file.read()
        self.error_file.close()
        self.process.stdout.close()


class Case(unittest.TestCase):
    """Tests of one server."""
    arguments = ()

    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.arguments)

    @classmethod
    def tearDownClass(cls):
        code = cls.server.stop()
        if code != 0:
            raise AssertionError(f"it ended with {code}: {cls.server.errors}")
