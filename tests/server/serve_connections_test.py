#!/usr/bin/env python3
"""`metal-marlin serve` and the connections of its clients: bodies that nobody wants or that take long, clients with
many requests, the ends of TLS.

Usage: serve_connections_test.py METAL_MARLIN MODEL_FOLDER
"""
import contextlib
import json
import pathlib
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from served import Case, Server, make_model

PROGRAM, MODEL = sys.argv[1], pathlib.Path(sys.argv[2])
WORK = pathlib.Path(tempfile.mkdtemp())
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def head(path="/tokenize", length=14, version="1.1", **headers):
    fields = {"Host": "localhost", "Content_Type": "application/json", "Content_Length": length} | headers
    lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items() if value is not None]
    return f"POST {path} HTTP/{version}\r\n{''.join(lines)}\r\n".encode()


def read_all(connection):
    """Until the server ends it."""
    text = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            text += piece
    return text


class Bodies(Case):
    """What the head of a request says is answered before there is a body."""
    @classmethod
    def setUpClass(cls):
        cls.server = Server(environment={"METAL_MARLIN_API_KEY": "secret"})
        cls.key = {"Authorization": "Bearer secret"}

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=15)

    def test_refused_by_the_head(self):
        long = 16000000
        for request, status, code in [(head(length=long), 401, "invalid_api_key"), (head(length=long, Expect="100-continue"), 401, "invalid_api_key"),
                                      (head(length=None, Transfer_Encoding="chunked"), 401, "invalid_api_key"),
                                      (head("/nothing", length=long, **self.key), 404, "not_found"),
                                      (head("/health", length=long, **self.key), 405, "method_not_allowed"),
                                      (head(length=long, Host="evil.example", **self.key), 403, "bad_host"),
                                      (head(length=long, Content_Type="text/plain", **self.key), 415, "unsupported_media_type")]:
            with self.subTest(request=request), self.connect() as connection:
                begin = time.monotonic()
                connection.sendall(request)
                answer = read_all(connection)  # nothing of the body is ever sent
                self.assertLess(time.monotonic() - begin, 10)
                top, body = answer.split(b"\r\n\r\n", 1)
                self.assertTrue(top.startswith(b"HTTP/1.1 %d " % status), top)
                self.assertEqual(json.loads(body)["error"]["code"], code)
                self.assertIn(b"Connection: close", top)
                self.assertEqual(status == 401, b"WWW-Authenticate: Bearer" in top)
                self.assertIn(b"X-Request-Id", top)
        self.server.wait_until(lambda: [line["status"] for line in self.server.logged()].count(401) >= 3)

    def test_clients_that_send_all_before_they_read(self):
        """They get their answer too, and what they sent is no request."""
        inner = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for _ in range(3):
            status, headers, text = self.server.ask("POST", "/tokenize", inner * (12000000 // len(inner)))
            self.assertEqual((status, headers["Connection"], json.loads(text)["error"]["code"]), (401, "close", "invalid_api_key"))
        with self.connect() as connection:
            connection.sendall(head(length=1000) + inner)
            self.assertEqual(read_all(connection).count(b"HTTP/1.1 "), 1)

    def test_client_that_never_ends_its_body(self):
        """It is read from for a while, and not for ever."""
        server = Server("--read-timeout", 1, environment={"METAL_MARLIN_API_KEY": "secret"})
        with socket.create_connection(("127.0.0.1", server.port), timeout=15) as connection:
            connection.sendall(head(length=16000000))
            begin = time.monotonic()
            with self.assertRaises(ConnectionError):
                while time.monotonic() < begin + 10:
                    connection.sendall(b"a")
                    time.sleep(0.05)
            self.assertLess(time.monotonic() - begin, 4)
        self.assertEqual(server.stop(), 0)

    def test_leave_to_send(self):
        with self.connect() as connection:
            connection.sendall(head(Expect="100-Continue", **self.key))
            self.assertEqual(connection.recv(100), CONTINUE)
            connection.sendall(b'{"prompt":"A"}' + head(Expect="100-continue", **self.key))  # and the next, on the same connection
            answer = b""
            while not answer.endswith(CONTINUE):
                answer += connection.recv(4096)
            self.assertIn(b'"tokens":[65]', answer)
            connection.sendall(b'{"prompt":"B"}')
            self.assertIn(b'"tokens":[66]', connection.recv(4096))
        with self.connect() as connection:  # HTTP/1.0 knows no such thing
            connection.sendall(head(version="1.0", Expect="100-continue", **self.key))
            time.sleep(0.2)
            connection.sendall(b'{"prompt":"A"}')
            self.assertTrue(read_all(connection).startswith(b"HTTP/1.1 200 "))
        with self.connect() as connection:
            connection.sendall(head(Expect="a miracle", **self.key))
            self.assertTrue(read_all(connection).startswith(b"HTTP/1.1 417 "))


class Askers:
    """Clients of one request each, in the order in which they were answered."""

    def __init__(self, server):
        self.server = server
        self.answered = []
        self.threads = []

    def ask(self, name, body, headers=None):
        def run():
            status = self.server.ask("POST", "/v1/completions", body, headers)[0]
            self.answered.append((name, status))
        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()

    def join(self):
        for thread in self.threads:
            thread.join()
        return self.answered


class Turns(unittest.TestCase):
    """Nobody is kept waiting by what others ask."""

    def test_large_texts(self):
        server = Server()
        askers = Askers(server)
        for _ in range(10):
            askers.ask("long", {"prompt": "a" * 2000000})
        server.wait_until(lambda: askers.answered)
        before = len(askers.answered)
        askers.ask("short", {"prompt": "A", "max_tokens": 1})
        answered = askers.join()
        self.assertEqual(sorted(answered), [("long", 400)] * 10 + [("short", 200)])
        self.assertLess(answered.index(("short", 200)) - before, 4)
        self.assertEqual(server.stop(), 0)

    def test_large_texts_of_clients_that_went(self):
        """Of them only the one that is on its way is encoded to its end."""
        server = Server()

        def seconds(size):
            begin = time.monotonic()
            self.assertEqual(server.ask("POST", "/v1/completions", {"prompt": "a" * size})[0], 400)
            return time.monotonic() - begin
        one = seconds(4000000)
        text = json.dumps({"prompt": "a" * 4000000}).encode()
        gone = []
        for _ in range(24):
            gone.append(socket.create_connection(("127.0.0.1", server.port), timeout=15))
            gone[-1].sendall(head("/v1/completions", length=len(text)) + text)
        for connection in gone:
            connection.close()
        self.assertLess(seconds(100000), 12 * one)
        self.assertEqual(server.stop(), 0)

    def test_large_texts_that_wait_for_a_model(self):
        other = make_model(MODEL, WORK / "other")
        server = Server("--max-loaded", 1, models=["--alias", f"one={Server.folder}", "--alias", f"two={other}"])
        stream, _ = server.open_stream(model="one")  # the other waits for this one's end
        askers = Askers(server)
        for _ in range(10):
            askers.ask("long", {"model": "two", "prompt": "a" * 2000000})
        time.sleep(1)  # nothing says who waits; where these come late, the short one is only answered sooner
        askers.ask("short", {"model": "two", "prompt": "A", "max_tokens": 1})
        time.sleep(0.3)
        stream.close()
        answered = askers.join()
        self.assertEqual(sorted(answered), [("long", 400)] * 10 + [("short", 200)])
        self.assertLess(answered.index(("short", 200)), 5)
        self.assertEqual(server.stop(), 0)

    def test_keys_take_turns(self):
        """One that asks for much does not keep another waiting until it has all."""
        server = Server("--parallel", 2, environment={"METAL_MARLIN_API_KEY": "greedy, modest"})
        askers = Askers(server)
        for i in range(40):
            askers.ask("greedy", {"prompt": f"once {i}", "max_tokens": 100, "ignore_eos": True}, {"Authorization": "Bearer greedy"})
        server.wait_until(lambda: len([line for line in server.logged() if line.get("generated_tokens")]) >= 2)
        before = len(askers.answered)
        askers.ask("modest", {"prompt": "once", "max_tokens": 100, "ignore_eos": True}, {"Authorization": "Bearer modest"})
        answered = askers.join()
        self.assertEqual(sorted(answered), [("greedy", 200)] * 40 + [("modest", 200)])
        self.assertLess(answered.index(("modest", 200)) - before, 8)
        self.assertEqual(server.stop(), 0)


class Tls(unittest.TestCase):
    """Each side says its last word, so that no end is taken for a cut, nor a cut for an end."""

    @classmethod
    def setUpClass(cls):
        cls.certificate, key = WORK / "cert.pem", WORK / "key.pem"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cls.certificate, "-days", "2",
                        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"], check=True, capture_output=True)
        try:
            cls.server = Server("--tls-certificate", cls.certificate, "--tls-key", key, environment={"METAL_MARLIN_API_KEY": "secret"})
        except AssertionError as error:
            if "built without OpenSSL" in str(error):
                raise unittest.SkipTest("the program has no TLS") from error
            raise
        cls.context = ssl.create_default_context(cafile=cls.certificate)
        cls.key = {"Authorization": "Bearer secret"}

    @classmethod
    def tearDownClass(cls):
        code = cls.server.stop()
        if code != 0:
            raise AssertionError(f"it ended with {code}: {cls.server.errors}")

    @contextlib.contextmanager
    def connect(self, version=None):
        context = ssl.create_default_context(cafile=self.certificate)
        if version:
            context.maximum_version = version
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=15) as plain:
            # An end without the last word is an error here.
            with context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as connection:
                yield connection

    def ask(self, connection, body=b'{"prompt":"A"}', **fields):
        connection.sendall(head(length=len(body), **self.key, **fields) + body)

    def test_last_word(self):
        for version in [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]:
            with self.subTest(version=version):
                with self.connect(version) as connection:  # the server ends it
                    self.ask(connection, Connection="close")
                    self.assertIn(b'"tokens":[65]', read_all(connection))
                    connection.unwrap()
                with self.connect(version) as connection:  # the client ends it, and is answered
                    self.ask(connection)
                    self.assertIn(b'"tokens":[65]', connection.recv(65536))
                    connection.unwrap()
                with self.connect(version) as connection:  # it does not want the body that the client still sends
                    connection.sendall(head(length=1000000) + b"a" * 1000000)
                    self.assertIn(b"HTTP/1.1 401 ", read_all(connection))
                with self.connect(version) as connection:  # what is no request
                    connection.sendall(b"nonsense\r\n\r\n")
                    self.assertIn(b"HTTP/1.1 400 ", read_all(connection))

    def test_last_word_when_it_ends(self):
        server = Server("--tls-certificate", self.certificate, "--tls-key", WORK / "key.pem")
        with socket.create_connection(("127.0.0.1", server.port), timeout=15) as plain, \
                self.context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as connection:
            self.ask(connection)
            self.assertIn(b'"tokens":[65]', connection.recv(65536))
            begin = time.monotonic()
            server.process.terminate()
            self.assertEqual(read_all(connection), b"")
            self.assertLess(time.monotonic() - begin, 2)
            self.assertEqual(server.process.wait(10), 0)
        server.close()

    def test_clients_that_end_half(self):
        """One that ends its side has gone; nothing stays of it, whichever way it goes."""
        body = json.dumps({"prompt": "once", "max_tokens": 3900, "stream": True, "ignore_eos": True}).encode()
        for gone, way in enumerate(["word", "word and end", "end", "reset", "nothing heard"], 1):
            with self.subTest(way=way), self.connect() as connection:
                self.ask(connection, body, path="/v1/completions")
                self.assertIn(b"data: ", connection.recv(65536) + connection.recv(65536))
                if way.startswith("word"):
                    connection.setblocking(False)
                    with contextlib.suppress(ssl.SSLError, OSError):
                        connection.unwrap()
                if way.endswith("end"):
                    connection.shutdown(socket.SHUT_WR)
                if way == "reset":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    connection.close()
                if way == "nothing heard":
                    connection.close()
            self.server.wait_until(lambda: [line.get("client_gone") for line in self.server.logged() if line["path"] == "/v1/completions"] == [True] * gone)
        with self.connect() as connection:
            self.ask(connection)
            self.assertIn(b'"tokens":[65]', connection.recv(65536))

    def test_other_clients(self):
        url = f"https://localhost:{self.server.port}/health"
        found = subprocess.run(["curl", "-sS", "--cacert", self.certificate, "-H", "Connection: close", url], capture_output=True, text=True, timeout=30, check=False)
        self.assertEqual((found.returncode, found.stdout, found.stderr), (0, '{"status":"ok"}', ""))
        found = subprocess.run(["openssl", "s_client", "-connect", f"localhost:{self.server.port}", "-CAfile", self.certificate, "-verify_return_error", "-ign_eof"],
                               input="GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", capture_output=True, text=True, timeout=30, check=False)
        self.assertEqual(found.returncode, 0, found.stderr)
        self.assertIn('{"status":"ok"}', found.stdout)
        self.assertNotIn("unexpected eof", found.stderr)


if __name__ == "__main__":
    Server.program, Server.folder, Server.work = PROGRAM, make_model(MODEL, WORK / "model"), WORK
    try:
        unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
    finally:
        shutil.rmtree(WORK)
