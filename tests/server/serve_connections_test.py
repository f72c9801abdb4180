#!/usr/bin/env python3
"""`metal-marlin serve` and the connections of its clients: bodies that nobody wants.

Usage: serve_connections_test.py METAL_MARLIN MODEL_FOLDER
"""
import contextlib
import json
import pathlib
import shutil
import socket
import sys
import tempfile
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


if __name__ == "__main__":
    Server.program, Server.folder, Server.work = PROGRAM, make_model(MODEL, WORK / "model"), WORK
    try:
        unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
    finally:
        shutil.rmtree(WORK)
