#!/usr/bin/env python3
"""`metal-marlin serve` where something fails: it is killed, told to end while many ask, its disk fills, its model is
cut or too large, descriptors and memory run out.

Usage: serve_failures_test.py METAL_MARLIN MODEL_FOLDER
LIMITS=1 in the environment: address spaces are limited here too (no sanitizer, no emulator).
"""
import contextlib
import ctypes
import http.client
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from served import ENDLESS, Server, make_model

PROGRAM, MODEL = sys.argv[1], pathlib.Path(sys.argv[2])
WORK = pathlib.Path(tempfile.mkdtemp())
QUESTION = {"prompt": "once upon", "max_tokens": 12} | ENDLESS


class Asker(threading.Thread):
    """A client with one request: its status and body, or that the connection broke."""

    def __init__(self, server, tokens, stream):
        super().__init__()
        self.connection = server.connect()
        self.body = {"prompt": f"once {tokens}", "max_tokens": tokens, "stream": stream} | ENDLESS
        self.stream = stream
        self.status = self.text = None
        self.broke = False
        self.start()

    def run(self):
        try:
            self.connection.request("POST", "/v1/completions", json.dumps(self.body), {"Content-Type": "application/json"})
            answer = self.connection.getresponse()
            self.status = answer.status
            self.text = answer.read().decode()
        except (OSError, http.client.HTTPException):
            self.broke = True
        finally:
            self.connection.close()

    def is_whole(self):
        end = '"finish_reason":"length"'
        return not self.broke and self.status == 200 and end in self.text and (not self.stream or self.text.endswith("data: [DONE]\n\n"))

    def has_error(self):
        """It was told that the server ends, by a status or by the last event but [DONE]."""
        if self.stream and self.status == 200:
            return '"code":"shutting_down"' in self.text.split("\n\n")[-3] and self.text.endswith("data: [DONE]\n\n")
        return self.status == 503 and json.loads(self.text)["error"]["code"] == "shutting_down"


WALL = 0x40000000  # waitpid's __WALL: threads too


def hold_step(server, stream):
    """Stops the threads that compute, as a device that does not answer would, until a stream is silent. Their ids, and
    what the stream gave until then."""
    if sys.platform != "linux":
        raise unittest.SkipTest("threads are held by Linux's ptrace")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long] * 4
    seize, interrupt = 0x4206, 0x4207

    def times():
        found = {}
        for task in pathlib.Path(f"/proc/{server.process.pid}/task").iterdir():
            fields = (task / "stat").read_text().rsplit(")", 1)[1].split()
            found[int(task.name)] = int(fields[11]) + int(fields[12])
        return found
    held, text = [], b""
    stream.settimeout(1)
    while True:
        before = times()
        time.sleep(0.3)
        after = times()
        thread = max(before.keys() - held, key=lambda each: after[each] - before[each])
        if libc.ptrace(seize, thread, 0, 0) != 0:
            server.stop(signals=2)
            raise unittest.SkipTest(f"no leave to hold a thread: {os.strerror(ctypes.get_errno())}")
        if libc.ptrace(interrupt, thread, 0, 0) != 0 or os.waitpid(thread, WALL)[0] != thread:
            raise AssertionError("the thread is not held")
        held.append(thread)
        try:  # a thread that helped may not be missed
            end = time.monotonic() + 2
            while time.monotonic() < end:
                text += stream.recv(65536)
        except TimeoutError:
            stream.settimeout(60)
            return held, text


def many_askers(server, tokens, count=32):
    """Half of them streams; more than run at a time, so that some wait in the queue. All have arrived, none has to be there yet
    or still: on a slow machine the first may have ended before the last one came."""
    askers = [Asker(server, tokens, stream=i % 2 == 0) for i in range(count)]

    def arrived():
        waiting, running, ended = (each or 0 for each in server.metrics(
            ["num_requests_waiting", "num_requests_running", "request_success_total"]))
        if waiting + running + ended < count:
            return False
        assert waiting > 0, "none of them waits any more: they ask for too few tokens"
        return True

    server.wait_until(arrived)
    return askers


class Ends(unittest.TestCase):
    def test_killed_and_started_again(self):
        server = Server()
        expected = server.post("/v1/completions", QUESTION)["choices"]
        stream, text = server.open_stream()
        asker = Asker(server, 3900, stream=False)
        server.wait_until(lambda: server.metric("num_requests_running") == 2)
        server.process.kill()
        server.process.wait()
        with contextlib.suppress(ConnectionError):
            while piece := stream.recv(65536):
                text += piece
        stream.close()
        asker.join()
        self.assertNotIn(b"[DONE]", text)  # nobody takes what came for a whole answer
        self.assertTrue(asker.broke)
        server.close()
        with server.log.open("a") as log:
            log.write('{"a line that the kill cut')
        again = Server(port=server.port, log=server.log)
        self.assertEqual(again.post("/v1/completions", QUESTION)["choices"], expected)
        self.assertEqual(again.stop(), 0)
        lines = server.log.read_text().splitlines()
        self.assertEqual(lines.pop(-2), '{"a line that the kill cut')
        self.assertEqual([json.loads(line)["status"] for line in lines][-1], 200)

    def test_drain_under_load(self):
        server = Server("--parallel", 4, "--drain", 100)
        askers = many_askers(server, 600)
        server.process.send_signal(signal.SIGTERM)
        for asker in askers:
            asker.join()
        self.assertTrue(all(asker.is_whole() for asker in askers))
        self.assertEqual(server.process.wait(10), 0)
        server.stop()
        self.assertEqual(len([line for line in server.logged() if line["path"] == "/v1/completions"]), len(askers))

    def test_drain_under_load_that_takes_too_long(self):
        server = Server("--parallel", 4, "--drain", 0.5)
        askers = many_askers(server, 3800)
        begin = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        for asker in askers:
            asker.join()
        self.assertEqual(server.process.wait(10), 8)
        self.assertLess(time.monotonic() - begin, 5)
        self.assertEqual([asker for asker in askers if not asker.has_error()], [])
        server.stop()

    def test_second_signal_under_load(self):
        server = Server("--parallel", 4, "--drain", 100)
        askers = many_askers(server, 3800)
        begin = time.monotonic()
        self.assertEqual(server.stop(signals=2), 130)
        self.assertLess(time.monotonic() - begin, 5)
        for asker in askers:
            asker.join()
        self.assertFalse(any(asker.is_whole() for asker in askers))


    def test_signal_while_a_step_hangs(self):
        """Open requests end with an error soon after --drain, and so does the process."""
        server = Server("--drain", 0.5)
        stream, text = server.open_stream()
        held, more = hold_step(server, stream)
        text += more
        begin = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        while piece := stream.recv(65536):
            text += piece
        stream.close()
        for thread in held:  # they are ours to bury, and before that the process does not end
            server.wait_until(lambda each=thread: os.waitpid(each, WALL | os.WNOHANG)[0] == each)
        self.assertEqual(server.process.wait(10), 8)
        self.assertLess(time.monotonic() - begin, 20)
        self.assertIn(b"a step of the engine hangs", text)
        self.assertTrue(text.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), text[-200:])
        server.close()


class Shortages(unittest.TestCase):
    def test_disk_that_fills_under_the_log(self):
        """Answers go on, lines are lost and counted, and what comes after is whole lines again."""
        server = Server()
        self.assertEqual(server.get("/health")[0], 200)
        server.wait_until(lambda: server.logged())
        size = server.log.stat().st_size
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size + 40, resource.RLIM_INFINITY))
        self.assertEqual([server.post("/v1/completions", QUESTION)["object"] for _ in range(3)], ["text_completion"] * 3)
        server.wait_until(lambda: (server.metric("log_lines_lost_total") or 0) >= 3)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        server.post("/v1/completions", QUESTION)
        self.assertEqual(server.stop(), 0)
        lines = server.log.read_text().splitlines()
        self.assertEqual(len(lines.pop(1)), 40)  # the only one that was cut
        self.assertTrue(all(json.loads(line)["status"] == 200 for line in lines))

    def test_log_that_nobody_reads(self):
        """A pipe that is full loses lines, and holds up no answer."""
        pipe = WORK / "pipe"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        server = Server(log=pipe)
        with contextlib.closing(server.connect(timeout=20)) as connection:
            for _ in range(600):  # lines of 200 bytes, into 64 KiB
                connection.request("GET", "/health", headers={"X-Request-Id": "a" * 64})
                self.assertEqual(connection.getresponse().read(), b'{"status":"ok"}')
        lost = server.metric("log_lines_lost_total")
        text = os.read(reader, 1 << 20).decode()

        def more():
            with contextlib.suppress(BlockingIOError):  # where the line is not yet there
                return os.read(reader, 1 << 20).decode()
            return ""
        server.get("/version")
        server.wait_until(lambda: "/version" in more())
        self.assertEqual(server.stop(), 0)
        os.close(reader)
        self.assertGreater(lost, 50)
        lines = text.splitlines()
        self.assertGreater(len(lines), 100)
        self.assertTrue(all(json.loads(line)["status"] == 200 for line in lines[:-1]))  # the last may be cut

    def test_no_descriptors(self):
        server = Server()
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (32, 32))
        held = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(60)]
        time.sleep(0.3)
        for connection in held:
            connection.close()
        self.assertEqual(server.post("/v1/completions", QUESTION)["object"], "text_completion")
        self.assertEqual(server.stop(), 0)


class Models(unittest.TestCase):
    def refused(self, model, code, text, *arguments, memory=None):
        """It ends by itself, with this code and message, and has not listened."""
        def limit():
            if memory:
                resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        found = subprocess.run([PROGRAM, "serve", str(model), "--port", "0", "--threads", "2", *map(str, arguments)], capture_output=True,
                               text=True, timeout=60, check=False, preexec_fn=limit)
        self.assertEqual((found.returncode, found.stdout), (code, ""), found.stderr)
        self.assertIn(text, found.stderr)

    def test_truncated(self):
        whole = (Server.folder / "model.safetensors").read_bytes()
        for size, text in [(0, "too short"), (100, "header of"), (5000, "outside the file"), (len(whole) - 1, "outside the file")]:
            with self.subTest(size=size), tempfile.TemporaryDirectory(dir=WORK) as folder:
                shutil.copytree(Server.folder, folder, dirs_exist_ok=True)
                (pathlib.Path(folder) / "model.safetensors").write_bytes(whole[:size])
                self.refused(folder, 4, text)
                self.refused(folder, 4, "model.safetensors: ")
        for name in ["config.json", "tokenizer.json"]:
            with self.subTest(name=name), tempfile.TemporaryDirectory(dir=WORK) as folder:
                shutil.copytree(Server.folder, folder, dirs_exist_ok=True)
                (pathlib.Path(folder) / name).write_bytes((Server.folder / name).read_bytes()[:300])
                self.refused(folder, 4, f"{name}: not valid JSON")

    def test_too_large(self):
        self.refused(Server.folder, 7, f"a cache of {1 << 40} tokens needs 1536.0 TiB; of", "--cache-tokens", 1 << 40)

    def test_small_address_spaces(self):
        """Whatever is too little, a message says that memory or threads are, or it serves: it never hangs or dies."""
        if "LIMITS" not in os.environ:
            self.skipTest("no LIMITS")
        for mebibytes in range(36, 132, 8):
            def limit(size=mebibytes << 20):
                resource.setrlimit(resource.RLIMIT_AS, (size, size))
            # Neither the kernel nor the loader could begin the program: it is not its own end that is seen.
            if subprocess.run([PROGRAM, "--version"], capture_output=True, preexec_fn=limit).returncode in (127, -signal.SIGSEGV):
                self.assertLess(mebibytes, 84, "the program is not loaded")
                continue
            with self.subTest(mebibytes=mebibytes):
                process = subprocess.Popen([PROGRAM, "serve", str(Server.folder), "--port", "0", "--threads", "2"], text=True,
                                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=limit)
                begun = threading.Timer(20, process.kill)
                begun.start()
                serves = any(line.startswith("listening on") for line in process.stdout)
                if serves:
                    process.send_signal(signal.SIGTERM)
                code, errors = process.wait(), process.stderr.read()
                begun.cancel()
                process.stdout.close()
                process.stderr.close()
                self.assertEqual(code, 0 if serves else 7, errors)
                if not serves:
                    self.assertRegex(errors, "memory|MiB|threads|cannot map|room for")


if __name__ == "__main__":
    Server.program, Server.folder, Server.work = PROGRAM, make_model(MODEL, WORK / "model"), WORK
    try:
        unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
    finally:
        shutil.rmtree(WORK)
