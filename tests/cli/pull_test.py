#!/usr/bin/env python3
"""`metal-marlin pull` against a small hub on this machine.

Usage: pull_test.py METAL_MARLIN MODEL_FOLDER

The hub speaks the API of huggingface.co: a repository's files with sizes and checksums, and the files
themselves, large ones by a redirection to another host. It can be told to misbehave.
"""
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROGRAM, MODEL = sys.argv[1], pathlib.Path(sys.argv[2])
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Files and moods, shared by the hub and the host that it redirects to."""

    def __init__(self):
        self.files = {path.name: path.read_bytes() for path in MODEL.iterdir() if path.name != "golden.safetensors"}
        self.files["README.md"] = b"a model\n"
        self.files["original/consolidated.00.pth"] = b"not wanted\n"
        self.requests = []  # (host, path, range, authorization)
        self.token = None  # that is asked for
        self.cut_after = []  # bytes after which the next answers break off
        self.ignore_range = False
        self.spoil = False
        self.failures = 0  # 503s before an answer
        self.slow = 0  # seconds between pieces
        self.extra = {}  # fields of the answer that are replaced

    def listing(self):
        siblings = []
        for name, data in self.files.items():
            entry = {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}
            if name.endswith(".safetensors"):
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            siblings.append(entry)
        return {"id": "org/model", "sha": COMMIT, "siblings": siblings} | self.extra


class Handler(BaseHTTPRequestHandler):
    hub = None
    host = "hub"
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        hub = self.hub
        path = self.path.split("?")[0]
        hub.requests.append((self.host, path, self.headers.get("Range"), self.headers.get("Authorization")))
        if hub.failures > 0:
            hub.failures -= 1
            return self.answer(503)
        if self.host == "hub" and hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.answer(401)
        if re.fullmatch(r"/api/models/org/model/revision/(main|v1)", path):
            return self.answer(200, json.dumps(hub.listing()).encode())
        name = path.removeprefix(f"/org/model/resolve/{COMMIT}/")
        if name not in hub.files:
            return self.answer(404)
        if self.host == "hub" and name.endswith(".safetensors"):
            port = self.server.other.server_address[1]
            return self.answer(302, headers=[("Location", f"http://localhost:{port}{path}")])
        self.send_file(hub.files[name])

    def send_file(self, data):
        hub = self.hub
        if hub.spoil:
            data = data[:-1] + bytes([data[-1] ^ 1])
        begin = 0
        if self.headers.get("Range") and not hub.ignore_range:
            begin = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        end = len(data)
        if hub.cut_after:
            end = min(end, begin + hub.cut_after.pop(0))
        try:
            for at in range(begin, end, 65536):
                self.wfile.write(data[at:min(at + 65536, end)])
                if hub.slow:
                    self.wfile.flush()
                    time.sleep(hub.slow)
        except OSError:
            pass
        if end < len(data):
            self.close_connection = True
            self.connection.close()


def serve(host, hub):
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("H", (Handler,), {"hub": hub, "host": host}))
    server.handle_error = lambda *arguments: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class Pull(unittest.TestCase):
    def setUp(self):
        self.hub = Hub()
        self.server = serve("hub", self.hub)
        self.server.other = serve("files", self.hub)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        for server in (self.server, self.server.other):
            self.addCleanup(server.server_close)
            self.addCleanup(server.shutdown)
        self.folder = pathlib.Path(folder.name)
        self.out = self.folder / "out"
        self.environment = {k: v for k, v in os.environ.items() if k != "HF_TOKEN"} | {"no_proxy": "*"}
        self.environment["HF_ENDPOINT"] = f"http://127.0.0.1:{self.server.server_address[1]}/"

    def start(self, *arguments):
        return subprocess.Popen([PROGRAM, "pull", *arguments], env=self.environment, cwd=self.folder, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def pull(self, *arguments, code=0, says=""):
        process = self.start(*(arguments or ("org/model", "-o", str(self.out))))
        out, errors = process.communicate(timeout=120)
        self.assertEqual(process.returncode, code, out + errors)
        self.assertIn(says, out + errors)
        return out

    def expect_model(self, folder=None):
        found = {path.name: path.read_bytes() for path in (folder or self.out).iterdir()}
        wanted = {k: v for k, v in self.hub.files.items() if k != "README.md" and "/" not in k}
        self.assertEqual(found, wanted)

    def test_a_model_arrives_whole_and_is_not_fetched_twice(self):
        report = json.loads(self.pull("org/model", "-o", str(self.out), "--json"))
        self.expect_model()
        self.assertEqual(report["commit"], COMMIT)
        self.assertEqual(report["files"][-1]["name"], "config.json")
        self.assertEqual(report["bytes"], sum(file["bytes"] for file in report["files"]))
        self.assertTrue(all(file["fetched"] for file in report["files"]))
        self.hub.requests.clear()
        again = json.loads(self.pull("org/model", "-o", str(self.out), "--json"))
        self.assertFalse(any(file["fetched"] for file in again["files"]))
        self.assertEqual(len(self.hub.requests), 1)
        subprocess.run([PROGRAM, "inspect", self.out], check=True, stdout=subprocess.DEVNULL)

    def test_the_folder_is_named_after_the_model(self):
        self.pull("org/model", "--revision", "v1")
        self.expect_model(self.folder / "model")

    def test_a_token_goes_to_the_hub_alone(self):
        self.hub.token = "secret"
        self.pull(code=3, says="HF_TOKEN")
        self.environment["HF_TOKEN"] = "secret"
        self.pull()
        self.expect_model()
        elsewhere = [request for request in self.hub.requests if request[0] == "files"]
        self.assertTrue(elsewhere)
        self.assertTrue(all(request[3] is None for request in elsewhere))

    def test_broken_connections_are_taken_up_where_they_broke(self):
        self.hub.cut_after = [10, 100000, 50000]
        self.hub.failures = 2
        self.pull()
        self.expect_model()
        self.assertTrue(any(request[2] for request in self.hub.requests))

    def test_a_server_without_ranges_begins_anew(self):
        self.hub.cut_after = [100000]
        self.hub.ignore_range = True
        self.pull("org/model", "-o", str(self.out), "--include", "safetensors$")
        self.assertEqual((self.out / "model.safetensors").read_bytes(), self.hub.files["model.safetensors"])

    def test_a_killed_run_is_gone_on_with(self):
        self.hub.slow = 0.2
        process = self.start("org/model", "-o", str(self.out), "--include", "safetensors$")
        while not (partial := list(self.out.glob("*.partial"))) or partial[0].stat().st_size < 100000:
            self.assertIsNone(process.poll())
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        self.assertFalse((self.out / "model.safetensors").exists())
        self.hub.slow = 0
        self.hub.requests.clear()
        self.pull()
        self.expect_model()
        begins = [int(request[2][6:-1]) for request in self.hub.requests if request[2]]
        self.assertGreaterEqual(max(begins), 100000)

    def test_an_interrupted_run_says_so(self):
        self.hub.slow = 0.2
        process = self.start("org/model", "-o", str(self.out), "--include", "safetensors$")
        while not list(self.out.glob("*.partial")):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        self.assertEqual(process.returncode, 130, errors)

    def test_a_wrong_checksum_is_named_and_the_file_removed(self):
        self.hub.spoil = True
        self.pull(code=4, says="checksum")
        self.assertFalse(any("config" in path.name for path in self.out.iterdir()))
        self.hub.spoil = False
        self.pull()
        self.expect_model()

    def test_what_is_missing_is_named(self):
        self.pull("org/none", code=3, says="no model org/none")
        self.pull("org/model", "--revision", "none", code=3, says="no revision none")
        self.pull("org/model", "--include", "nothing", code=2, says="no file is left")
        self.pull("a/b/c", code=2, says="expected ORG/NAME")
        self.hub.failures = 100
        self.pull(code=6, says="503")
        self.server.shutdown()
        self.server.server_close()
        self.pull(code=6, says="onnect")

    def test_a_choice_of_gguf_files_is_listed(self):
        self.hub.files = {"a-q4.gguf": b"1" * 100, "a-q8.gguf": b"2" * 100, "README.md": b""}
        self.pull("org/model", "-o", str(self.out), code=2, says="a-q8.gguf")
        self.pull("org/model", "-o", str(self.out), "--include", "q8")
        self.assertEqual([path.name for path in self.out.iterdir()], ["a-q8.gguf"])

    def test_answers_that_are_none_are_refused(self):
        for name in ("../evil.json", "/etc/evil.json", "a/../../evil.json", ""):
            self.hub.extra = {"siblings": [{"rfilename": name, "size": 1, "blobId": "0"}]}
            self.pull(code=4, says="a path within the repository")
        self.hub.extra = {"siblings": [{"rfilename": "config.json", "size": 1, "blobId": "../../evil"}]}
        self.pull(code=4, says="a checksum of hexadecimal digits")
        self.hub.extra = {"siblings": 5}
        self.pull(code=4, says="a list of files")
        self.hub.extra = {"siblings": [{"rfilename": "config.json", "size": -1}]}
        self.pull(code=4, says="size")
        self.hub.extra = {"sha": None}
        self.pull(code=4, says="sha")
        self.hub.extra = {}
        listing = self.hub.listing()["siblings"]
        for entry in listing:
            entry["size"] -= 1
        self.hub.extra = {"siblings": listing}
        self.pull(code=4, says="more than the")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
