#!/usr/bin/env python3
"""`metal-marlin serve` with a small model, as clients see it.

Usage: serve_test.py METAL_MARLIN MODEL_FOLDER
"""
import contextlib
import http.client
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from served import ENDLESS, Case, Server, make_model

PROGRAM, MODEL = sys.argv[1], pathlib.Path(sys.argv[2])
WORK = pathlib.Path(tempfile.mkdtemp())


class Rest(Case):
    def test_openapi(self):
        document = json.loads(self.server.get("/openapi.json")[1])
        self.assertEqual(len(document["paths"]), 20)
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                self.assertNotIn(self.server.ask(method.upper(), path.replace("{name}", "model"), "{}" if method == "post" else None)[0], [404, 405])
                for name in operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {}).get("properties", {}):
                    error = self.server.ask(method.upper(), path, {"model": "model", name: {"x": 1}})[2]
                    self.assertNotIn(f"{name} is not a field", error)

    def test_openapi_says_what_is_taken(self):
        schemas = {path: methods["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
                   for path, methods in json.loads(self.server.get("/openapi.json")[1])["paths"].items() if path.startswith("/v1/") and "post" in methods}
        for path in ["/v1/embeddings", "/v1/rerank"]:
            self.assertEqual(schemas.pop(path)["model"]["anyOf"][0]["enum"], ["model", ""])
        for path, fields in schemas.items():
            self.assertEqual(fields["tools"] == {"enum": [None, []]}, path == "/v1/completions")
            self.assertEqual(fields["model"]["anyOf"][0]["enum"], ["model", ""])
            if path.startswith("/v1/messages"):
                self.assertEqual((fields["container"], fields["speed"], "best_of" in fields, "stop" in fields), ({"enum": [None]}, {}, False, False))
            else:
                self.assertEqual((fields["best_of"], fields["user"]), ({"enum": [None, 1]}, {}))
            if path == "/v1/messages/count_tokens":  # nothing is drawn
                self.assertNotIn("temperature", fields)
                continue
            self.assertIn({"type": "null"}, fields["temperature"]["anyOf"])
            ids, = fields["logit_bias"]["anyOf"][0]["patternProperties"]
            vocabulary = fields["stop_token_ids"]["anyOf"][0]["items"]["maximum"] + 1
            self.assertEqual([i for i in range(10 * vocabulary) if re.search(ids, str(i))], list(range(vocabulary)))
            self.assertFalse(any(re.search(ids, text) for text in ["", "-0", "01", "1 ", "+1", "a"]))

    def test_headers_are_sent_once(self):
        for path, cache in (("/", "no-cache"), ("/v1/models", "no-store"), ("/none", "no-store")):
            with contextlib.closing(self.server.connect()) as connection:
                connection.request("GET", path)
                headers = [(name.lower(), value) for name, value in connection.getresponse().getheaders()]
            names = [name for name, _ in headers]
            self.assertEqual(sorted(names), sorted(set(names)), path)
            self.assertEqual((dict(headers)["cache-control"], dict(headers)["x-content-type-options"]), (cache, "nosniff"), path)

    def test_page(self):
        for path, kind in (("/", "text/html"), ("/page/chat.css", "text/css"), ("/page/chat.js", "text/javascript")):
            status, headers, body = self.server.ask("GET", path)[:3]
            self.assertEqual(status, 200)
            self.assertTrue(dict(headers)["Content-Type"].startswith(kind))
            self.assertIn("default-src 'none'", dict(headers)["Content-Security-Policy"])
        self.assertEqual(self.server.get("/page/none.js")[0], 404)

    def test_models(self):
        listed = json.loads(self.server.get("/v1/models")[1])
        self.assertEqual((listed["object"], listed["data"][0]["id"], listed["data"][0]["max_model_len"]), ("list", "model", 4096))
        self.assertEqual(json.loads(self.server.get("/v1/models/model")[1])["id"], "model")
        self.assertEqual(self.server.get("/v1/models/other")[0], 404)

    def test_tokens(self):
        found = self.server.post("/tokenize", {"prompt": "Aé", "return_token_strs": True})
        self.assertEqual((found["count"], found["tokens"], found["token_strs"][0]), (3, [65, 0xc3, 0xa9], "A"))
        self.assertEqual(self.server.post("/detokenize", {"tokens": found["tokens"]}), {"prompt": "Aé"})
        self.assertEqual(self.server.post("/tokenize", {"messages": [{"role": "user", "content": "A"}]})["tokens"], [258, 65, 261, 259])
        self.assertEqual(self.server.refused("/detokenize", {"tokens": [-1]})["param"], "tokens")
        self.assertEqual(self.server.refused("/tokenize", {})["param"], "prompt")
        both = {"prompt": "a", "messages": [{"role": "user", "content": "A"}]}
        self.assertEqual(self.server.refused("/tokenize", both)["code"], "conflicting_parameters")

    def test_status(self):
        self.assertEqual([self.server.get(path)[0] for path in ["/health", "/ready", "/version", "/metrics"]], [200] * 4)
        self.assertEqual(self.server.get("/nothing")[0], 404)
        for method, path, allowed in [("GET", "/v1/completions", "POST"), ("DELETE", "/v1/models/model", "GET, HEAD")]:
            status, headers, _ = self.server.ask(method, path)
            self.assertEqual((status, headers["Allow"]), (405, allowed))
        status, headers, text = self.server.ask("HEAD", "/health")
        self.assertEqual((status, text), (200, ""))
        self.assertGreater(int(headers["Content-Length"]), 0)
        self.assertEqual(self.server.ask("GET", "/health", headers={"X-Request-Id": "mine-1"})[1]["X-Request-Id"], "mine-1")

    def test_metrics_and_log(self):
        before = self.server.metric("generation_tokens_total") or 0
        self.server.post("/v1/completions", {"prompt": "secret words", "max_tokens": 5} | ENDLESS)
        self.assertEqual(self.server.metric("generation_tokens_total"), before + 5)
        self.assertGreaterEqual(self.server.metric("request_success_total", 'finished_reason="length"'), 1)
        text = self.server.get("/metrics")[1]
        for name in ["time_to_first_token_seconds_count", "time_per_output_token_seconds_bucket", "e2e_request_latency_seconds_sum",
                     "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "prefix_cache_queries_total",
                     "prefix_cache_hits_total", "prompt_tokens_total", "num_preemptions_total", "num_requests_swapped", "cpu_cache_usage_perc",
                     "num_swaps_out_total", "num_swaps_in_total",
                     "spec_decode_num_drafts_total", "spec_decode_num_draft_tokens_total", "spec_decode_num_accepted_tokens_total"]:
            self.assertIn(f"metal_marlin:{name}{{", text)
        self.server.wait_until(lambda: any(line.get("generated_tokens") == 5 for line in self.server.logged()))
        line = next(line for line in self.server.logged() if line.get("generated_tokens") == 5)
        self.assertEqual((line["path"], line["status"], line["prompt_tokens"]), ("/v1/completions", 200, 12))
        self.assertNotIn("secret", self.server.log.read_text())

    def test_answers_are_counted_once(self):
        def counts():
            lines = [line for line in self.server.get("/metrics")[1].splitlines() if line.startswith("metal_marlin:http_requests_total{")]
            found = {line.split('"')[1]: float(line.split()[1]) for line in lines}
            return {status: found.get(str(status), 0) for status in (200, 400, 404, 500)}
        before = counts()
        self.server.post("/v1/completions", {"prompt": "a", "max_tokens": 1})
        self.server.stream("/v1/completions", {"prompt": "a", "max_tokens": 1})
        self.server.get("/nothing")
        self.raw(b"nonsense\r\n\r\n")
        after = counts()  # the question itself is counted when it was answered
        self.assertEqual({status: after[status] - before[status] for status in after}, {200: 3, 400: 1, 404: 1, 500: 0})

    def test_bad_host(self):
        for host, status in [("evil.example", 403), ("127.0.0.1.evil.example", 403), ("localhost:1", 200), ("[::1]:80", 200), ("127.9.9.9", 200)]:
            self.assertEqual(self.server.get("/health", Host=host)[0], status, host)

    def test_no_cors(self):
        status, headers, _ = self.server.ask("OPTIONS", "/v1/models", headers={"Origin": "http://a", "Access-Control-Request-Method": "GET"})
        self.assertEqual(status, 405)
        self.assertNotIn("Access-Control-Allow-Origin", self.server.ask("GET", "/health", headers={"Origin": "http://a"})[1])

    def raw(self, data):
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=10) as connection:
            connection.sendall(data)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
            return answer

    def test_protocol(self):
        host = b"Host: localhost\r\n"
        for data, status in [(b"nonsense\r\n\r\n", 400), (b"GET /health HTTP/1.1\r\n\r\n", 400), (b"GET /health HTTP/1.1\r\n" + host * 2 + b"\r\n", 400),
                             (b"GET http://localhost/health HTTP/1.1\r\n" + host + b"\r\n", 400),
                             (b"GET / HTTP/1.1\r\n" + host + b"X: " + b"a" * 40000 + b"\r\n\r\n", 431),
                             (b"POST / HTTP/1.1\r\n" + host + b"Content-Length: 99999999\r\n\r\n", 413),
                             (b"POST / HTTP/1.1\r\n" + host + b"Content-Length: -1\r\n\r\n", 400),
                             (b"POST / HTTP/1.1\r\n" + host + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
                             (b"GET /health HTTP/1.1\r\n" + host + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 400)]:
            answer = self.raw(data)
            self.assertTrue(answer.startswith(b"HTTP/1.1 %d " % status), (data[:60], answer[:200]))
            self.assertIn("error", json.loads(answer.split(b"\r\n\r\n", 1)[1]))
        # Two requests at once, the second in pieces; a body in chunks; a client that waits for leave to send its body.
        two = self.raw(b"GET /health HTTP/1.1\r\n" + host + b"\r\nGET /version HTTP/1.1\r\n" + host + b"Connection: close\r\n\r\n")
        self.assertEqual(two.count(b"HTTP/1.1 200 OK"), 2)
        chunks = b"POST /tokenize HTTP/1.1\r\n" + host + b"Connection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.assertIn(b'"tokens":[65]', self.raw(chunks + b'8\r\n{"prompt\r\n6\r\n":"A"}\r\n0\r\n\r\n'))
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=10) as connection:
            connection.sendall(b"POST /tokenize HTTP/1.1\r\n" + host + b"Content-Type: application/json\r\nContent-Length: 14\r\nExpect: 100-continue\r\n\r\n")
            self.assertEqual(connection.recv(100), b"HTTP/1.1 100 Continue\r\n\r\n")
            connection.sendall(b'{"prompt":"A"}')
            self.assertIn(b'"tokens":[65]', connection.recv(4096))

    def test_lengths_that_are_not_told(self):
        """What another server would take for the rest of a body is never a request of its own."""
        inner = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        for coding in (b"xchunked", b"identity", b"gzip", b"chunked, identity", b"gzip, chunked"):
            answer = self.raw(head + b"Transfer-Encoding: " + coding + b"\r\n\r\n" + inner)
            self.assertRegex(answer, rb"^HTTP/1.1 (400|501) ")  # 400 where the parser reads a chunk and finds none
            self.assertEqual(answer.count(b"HTTP/1.1 "), 1)
        answer = self.raw(head + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}")
        self.assertTrue(answer.startswith(b"HTTP/1.1 415 "), answer)

    def test_lines_of_chunks_are_bounded(self):
        head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        for endless in (b"f;" + b"a" * 100_000, b"2\r\n{}\r\n0\r\n" + b"A: b\r\n" * 20_000):
            answer = self.raw(head + endless)
            self.assertTrue(answer.startswith(b"HTTP/1.1 431 "), answer)

    def test_messages_are_whole(self):
        for body, name in [({"model": "a\0b", "prompt": "a"}, "a\\x00b"), ({"a\0": 1, "prompt": "a"}, "a\\x00")]:
            status, _, text = self.server.ask("POST", "/v1/completions", body)
            self.assertIn(name, json.loads(text)["error"]["message"], status)

    def test_old_clients(self):
        """HTTP/1.0 knows no chunks: the stream ends with the connection."""
        body = json.dumps({"prompt": "a", "max_tokens": 3, "stream": True} | ENDLESS).encode()
        answer = self.raw(b"POST /v1/completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        self.assertNotIn(b"chunked", answer)
        self.assertTrue(answer.endswith(b"data: [DONE]\n\n"))

    def test_large_bodies_take_turns(self):
        """What is quickly done does not wait for many large prompts."""
        refused = []
        body = {"prompt": "a large prompt " * 150_000}

        def ask():
            self.server.refused("/v1/completions", body)
            refused.append(time.monotonic())
        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        self.server.wait_until(lambda: refused)
        self.server.post("/tokenize", {"prompt": "short"})
        before = len(refused)
        for thread in threads:
            thread.join()
        self.assertLess(before, 10)

    @unittest.skipUnless(os.path.exists("/proc/self/stat"), "the time that a process took is asked for there")
    def test_large_bodies_of_clients_that_went_are_left(self):
        """Their turns are no work: one takes a second of the processor's time."""
        body = json.dumps({"prompt": "a large prompt " * 150_000}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()

        def spent():
            times = pathlib.Path(f"/proc/{self.server.process.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
            return sum(map(int, times))
        before = spent()
        self.server.refused("/v1/completions", body.decode())
        one = spent() - before
        connections = [socket.create_connection(("127.0.0.1", self.server.port), timeout=60) for _ in range(16)]
        for connection in connections:
            connection.sendall(head + body)
        for connection in connections:
            connection.close()
        self.server.refused("/v1/completions", body.decode())  # behind all of them
        self.assertLess(spent() - before - one, 8 * one)

    def test_what_is_no_request_is_logged(self):
        for text, method, path, status in [(b"nonsense\r\n\r\n", None, None, 400),
                                           (b"POST /tokenize?a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n", "POST", "/tokenize", 413)]:
            def lines():
                known = {"client": "127.0.0.1", "id": None, "method": method, "path": path, "status": status}
                return [line for line in self.server.logged() if known.items() <= line.items() and line["error"]]
            before = len(lines())
            self.raw(text)
            self.server.wait_until(lambda: len(lines()) == before + 1)

    def test_client_goes(self):
        for fields in [{}, {"n": 2, "prompt": ["a", "b"]}]:
            aborted = self.server.metric("request_success_total", 'finished_reason="abort"') or 0
            connection, _ = self.server.open_stream(**fields)
            self.assertGreaterEqual(self.server.metric("num_requests_running"), 1)
            connection.close()
            self.server.wait_until(lambda: self.server.metric("num_requests_running") == 0, 5)
            self.assertGreater(self.server.metric("request_success_total", 'finished_reason="abort"'), aborted)
        self.server.wait_until(lambda: any(line.get("client_gone") for line in self.server.logged()))

    def test_client_goes_before_there_is_an_answer(self):
        def gone():
            return self.server.metric("http_requests_total", 'status="none"') or 0
        before = gone()
        connection = self.server.connect()
        connection.request("POST", "/v1/completions", json.dumps({"prompt": "once", "max_tokens": 3900} | ENDLESS), {"Content-Type": "application/json"})
        self.server.wait_until(lambda: self.server.metric("num_requests_running") == 1)
        connection.close()
        self.server.wait_until(lambda: gone() == before + 1)
        self.assertIsNone(self.server.metric("http_requests_total", 'status="0"') or None)
        self.server.wait_until(lambda: any(line["status"] is None and line["client_gone"] for line in self.server.logged()))


class Limits(Case):
    arguments = ("--read-timeout", "0.5", "--write-timeout", "0.5", "--max-connections", "8", "--queue", "1", "--parallel", "1",
                 "--max-body", "2000000", "--log-prompts")

    def test_slow_requests(self):
        for begun in [b"", b"GET /health HTTP/1.1\r\nHost: loc", b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"]:
            with socket.create_connection(("127.0.0.1", self.server.port), timeout=10) as connection:
                start = time.monotonic()
                ended = False
                connection.sendall(begun)
                while time.monotonic() < start + 5 and not ended:  # a byte now and then is no excuse
                    connection.settimeout(0.1)
                    with contextlib.suppress(TimeoutError):
                        try:
                            ended = connection.recv(100) == b""
                        except ConnectionError:
                            ended = True
                    with contextlib.suppress(OSError):
                        if begun:
                            connection.sendall(b"a")
                self.assertTrue(ended)
                self.assertLess(time.monotonic() - start, 3)

    def test_many_connections(self):
        held = [socket.create_connection(("127.0.0.1", self.server.port), timeout=10) for _ in range(8)]
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=10) as one_more:
            try:
                self.assertEqual(one_more.recv(1), b"")
            except ConnectionResetError:
                pass
        for connection in held:
            connection.close()
        self.server.wait_until(lambda: self.reachable())

    def reachable(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.server.get("/health")[0] == 200

    def test_body(self):
        self.assertEqual(self.server.ask("POST", "/tokenize", {"prompt": "a" * 3000000})[0], 413)

    def test_slow_reader(self):
        body = json.dumps({"prompt": "a" * 200000, "return_token_strs": True})
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", self.server.port))
            connection.sendall(f"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
            self.server.wait_until(lambda: any(line["path"] == "/tokenize" and line.get("client_gone") for line in self.server.logged()))

    def test_prompts_are_logged_where_asked(self):
        self.server.post("/v1/completions", {"prompt": "plain words", "max_tokens": 1})
        self.server.wait_until(lambda: any(line.get("prompt") == "plain words" for line in self.server.logged()))

    def test_full_queue(self):
        streams = [self.server.open_stream()[0]]  # it runs
        waiting = socket.create_connection(("127.0.0.1", self.server.port), timeout=10)
        body = json.dumps({"prompt": "b", "max_tokens": 3000, "stream": True} | ENDLESS)
        waiting.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        self.server.wait_until(lambda: self.server.metric("num_requests_waiting") == 1)
        status, headers, text = self.server.ask("POST", "/v1/completions", {"prompt": "c"})
        self.assertEqual((status, headers["Retry-After"], json.loads(text)["error"]["code"]), (429, "1", "queue_full"))
        for stream in [*streams, waiting]:
            stream.close()
        self.server.wait_until(lambda: self.server.metric("num_requests_running") == 0)


class Keys(unittest.TestCase):
    def test_keys(self):
        file = WORK / "keys"
        file.write_text("# ours\nfirst\n  second \n")
        server = Server("--api-key-file", str(file), environment={"METAL_MARLIN_API_KEY": "third, fourth"})

        def status(key, path="/v1/models"):
            return server.get(path, **({"Authorization": f"Bearer {key}"} if key else {}))[0]
        self.assertEqual([status(key) for key in ["first", "second", "third", "fourth"]], [200] * 4)
        self.assertEqual([status(key) for key in [None, "", "fifth", "firs", "firstfirst", "# ours", "third, fourth"]], [401] * 7)
        self.assertEqual([status(None, path) for path in ["/health", "/ready", "/metrics", "/version"]], [200, 200, 401, 401])
        answer = server.ask("GET", "/v1/models")
        self.assertEqual((answer[1]["WWW-Authenticate"], json.loads(answer[2])["error"]["code"]), ("Bearer", "invalid_api_key"))
        file.write_text("another one\n")
        self.assertEqual([status(key) for key in ["first", "another one", "third"]], [401, 200, 200])
        # Another file in its place, as large and of the same time.
        before = file.stat()
        other = WORK / "other_keys"
        other.write_text("another two\n")
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        other.replace(file)
        self.assertEqual([status(key) for key in ["another one", "another two"]], [401, 200])
        file.write_text("another one\n")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        self.assertEqual([status(key) for key in ["another one", "another two"]], [200, 401])
        file.write_text("")
        self.assertEqual(status("another one"), 200)
        file.unlink()
        self.assertEqual(status("another one"), 200)
        self.assertIn("Bearer KEY", "".join(server.lines))
        self.assertEqual(server.stop(), 0)
        self.assertNotIn("another one", server.log.read_text())

    def test_cors(self):
        server = Server("--cors-origin", "http://page.example")
        asked = {"Origin": "http://page.example", "Access-Control-Request-Method": "POST",
                 "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os"}
        status, headers, _ = server.ask("OPTIONS", "/v1/completions", headers=asked)
        self.assertEqual((status, headers["Access-Control-Allow-Origin"]), (204, "http://page.example"))
        self.assertEqual(headers["Access-Control-Allow-Headers"], asked["Access-Control-Request-Headers"])
        self.assertEqual(server.ask("GET", "/health", headers=asked)[1]["Access-Control-Allow-Origin"], "http://page.example")
        self.assertNotIn("Access-Control-Allow-Origin", server.ask("GET", "/health", headers={"Origin": "http://other.example"})[1])
        self.assertEqual(server.stop(), 0)


class Ends(unittest.TestCase):
    def run_serve(self, *arguments):
        return subprocess.run([PROGRAM, "serve", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)

    def test_wrong_arguments(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            found = self.run_serve(FOLDER, "--port", port)
            self.assertEqual(found.returncode, 6)
            self.assertIn(f"127.0.0.1:{port}: cannot listen: Address already in use; --port", found.stderr)
            # Before a model is looked at, as of all that has nothing to do with one.
            self.assertEqual(self.run_serve(WORK / "none", "--port", port).returncode, 6)
        for arguments, code in [(("--api-key-file", os.devnull), 2), (("--tls-certificate", "x", "--tls-key", "x"), 2), (("--log-file", "/nothing/x"), 6)]:
            self.assertEqual(self.run_serve(WORK / "none", "--port", "0", *arguments).returncode, code)
        for arguments, code, text in [((WORK / "none",), 3, "none"), ((FOLDER, "--served-name", "a", "--served-name", "b"), 2, "--served-name"),
                                      ((FOLDER, FOLDER), 2, "two models are called model"), ((FOLDER, "--api-key-file", "/nothing"), 3, "/nothing"),
                                      ((FOLDER, "--api-key-file", os.devnull), 2, "has no key"), ((FOLDER, "--tls-key", "x"), 2, "go together"),
                                      ((FOLDER, "--port", "0", "--swap-space", "1"), 2, "swap_bytes is 1073741824, expected 0, as this backend's caches"),
                                      ((FOLDER, "--port", "0", "--log-file", "/nothing/x"), 6, "--log-file")]:
            found = self.run_serve(*arguments)
            self.assertEqual(found.returncode, code, found.stderr)
            self.assertIn(text, found.stderr)

    def test_what_it_says(self):
        server = Server("--served-name", "tiny")
        self.assertIn("model tiny: context 4096 tokens", server.lines[0])
        self.assertIn(f"curl http://127.0.0.1:{server.port}/v1/chat/completions", server.lines[-1])
        example = json.loads(server.lines[-1].split("-d '")[1].rsplit("'", 1)[0])
        self.assertEqual(server.post("/v1/chat/completions", example)["model"], "tiny")
        self.assertEqual(server.stop(), 0)

    def test_names_that_a_shell_or_terminal_takes_apart(self):
        name = "it's \"a\" \x1b[31m mod\u00e9l"
        server = Server("--served-name", name)
        self.assertNotIn("\x1b", "".join(server.lines))
        self.assertTrue(server.lines[0].startswith("model it's \"a\" \\x1b[31m mod\u00e9l: "), server.lines[0])
        command = shlex.split(server.lines[-1].removeprefix("try: "))
        self.assertEqual(json.loads(command[command.index("-d") + 1])["model"], name)
        self.assertEqual(server.stop(), 0)

    def test_drain(self):
        server = Server("--drain", "60")
        connection, text = server.open_stream(max_tokens=600)
        idle = server.connect()
        idle.request("GET", "/health")
        idle.getresponse().read()
        server.process.send_signal(signal.SIGTERM)
        while piece := connection.recv(65536):
            text += piece
        self.assertTrue(text.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"), text[-200:])
        with self.assertRaises(OSError):
            server.get("/health")
        self.assertEqual(server.process.wait(10), 0)
        server.stop()

    def test_drain_that_takes_too_long(self):
        server = Server("--drain", "0.2")
        connection, text = server.open_stream()
        server.process.send_signal(signal.SIGTERM)
        while piece := connection.recv(65536):
            text += piece
        self.assertIn(b'"code":"shutting_down"', text)
        self.assertEqual(server.process.wait(10), 8)
        server.stop()

    def test_second_signal(self):
        server = Server("--drain", "60")
        connection, _ = server.open_stream()
        start = time.monotonic()
        self.assertEqual(server.stop(signals=2), 130)
        self.assertLess(time.monotonic() - start, 3)
        connection.close()

    def test_full_disk_under_the_log(self):
        server = Server(log=pathlib.Path("/dev/full"))
        self.assertEqual([server.get("/health")[0] for _ in range(3)], [200] * 3)
        self.assertGreaterEqual(server.metric("log_lines_lost_total") or 0, 2)
        self.assertEqual(server.stop(), 0)

    def test_model_defaults(self):
        """What a request does not say, generation_config.json does; what it says goes before it."""
        def draw(server, **fields):
            body = {"prompt": "once upon", "max_tokens": 16, "ignore_eos": True} | fields
            return [server.post("/v1/completions", body | {"seed": seed})["choices"][0]["text"] for seed in range(3)]
        plain = Server()
        config = {"temperature": 0.6, "top_p": 0.7, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.4}
        unsaid, said = draw(plain), draw(plain, **config)
        self.assertEqual(plain.stop(), 0)
        self.assertNotEqual(unsaid, said)
        folder = make_model(MODEL, WORK / "with_defaults")
        (folder / "generation_config.json").write_text(json.dumps(config | {"do_sample": True, "eos_token_id": [2, 65]}))
        server = Server(models=[folder])
        self.assertEqual(draw(server), said)
        self.assertEqual(draw(server, temperature=1, top_p=1, top_k=0, min_p=0, repetition_penalty=1), unsaid)
        response = server.post("/v1/responses", {"input": "a", "max_output_tokens": 1})
        self.assertAlmostEqual(response["temperature"], 0.6, 6)
        self.assertAlmostEqual(response["top_p"], 0.7, 6)
        ended = server.post("/v1/completions", {"prompt": "a", "logit_bias": {"65": 100}})
        self.assertEqual((ended["choices"][0]["text"], ended["choices"][0]["finish_reason"]), ("", "stop"))
        self.assertEqual(server.stop(), 0)
        (folder / "generation_config.json").write_text('{"top_p": 2}')
        found = self.run_serve(folder)
        self.assertEqual(found.returncode, 4, found.stderr)
        self.assertIn("top_p", found.stderr)

    def test_templates_that_refuse(self):
        server = Server(models=[make_model(MODEL, WORK / "refuses", template="{{ raise_exception('no') }}")])
        error = server.refused("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]})
        self.assertEqual((error["param"], error["code"]), ("messages", "template_error"))
        self.assertTrue(error["message"].startswith("chat_template.jinja, line 1: "), error["message"])  # of the server's folders nothing
        self.assertEqual(server.stop(), 0)

    def test_several_models(self):
        server = Server(models=[FOLDER, make_model(MODEL, WORK / "plain", template=None)])
        self.assertEqual([m["id"] for m in json.loads(server.get("/v1/models")[1])["data"]], ["model", "plain"])
        self.assertEqual(server.post("/v1/completions", {"model": "plain", "prompt": "a", "max_tokens": 1})["model"], "plain")
        self.assertEqual(server.refused("/v1/completions", {"prompt": "a"})["param"], "model")
        messages = [{"role": "user", "content": "a"}]
        self.assertEqual(server.refused("/v1/chat/completions", {"model": "plain", "messages": messages})["code"], "no_chat_template")
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    FOLDER = make_model(MODEL, WORK / "model")
    Server.program, Server.folder, Server.work = PROGRAM, FOLDER, WORK
    try:
        unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
    finally:
        shutil.rmtree(WORK)
