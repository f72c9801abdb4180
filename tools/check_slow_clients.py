#!/usr/bin/env python3
"""A thousand slow clients on `metal-marlin serve`: half send their requests a byte at a time or not at all (slow loris),
half do not read what they asked for. First with room for all of them, where ordinary clients must get their answers all
the while; then without, where the server must take clients again once the time of the slow ones is over.

Example: tools/check_slow_clients.py --binary build/release/bin/metal-marlin --model tests/data/fixtures/qwen3-tiny
"""
import argparse
import asyncio
import contextlib
import json
import os
import pathlib
import re
import resource
import socket
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../tests/server"))
from served import ENDLESS, Server, make_model  # noqa: E402

HEAD = "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
QUESTION = json.dumps({"prompt": "once upon", "max_tokens": 12} | ENDLESS)
LARGE = json.dumps({"prompt": "a" * 100000, "return_token_strs": True})  # its answer is larger than what sockets hold
STREAM = json.dumps({"prompt": "a", "max_tokens": 3900, "stream": True} | ENDLESS)
TIMEOUT = 5  # of the server, for reading and for writing


def request(path, body):
    return (HEAD.format(path, len(body)) + body).encode()


async def connect(port, receive_buffer=None):
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    return connection


async def send_slowly(port, number, seconds):
    """Seconds until the server closed it, or None. Three kinds: nothing, a head, a body that comes a byte a second."""
    loop = asyncio.get_running_loop()
    connection = await connect(port)
    begin = time.monotonic()
    begun = [b"", b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nX: ", HEAD.format("/tokenize", 1000).encode() + b"{"][number % 3]
    try:
        if begun:
            await loop.sock_sendall(connection, begun)
        while time.monotonic() < begin + seconds:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    if await loop.sock_recv(connection, 100) == b"":
                        return time.monotonic() - begin
            if begun:
                await loop.sock_sendall(connection, b"a")
        return None
    except OSError:
        return time.monotonic() - begin
    finally:
        connection.close()


async def read_nothing(port, number, seconds):
    """Whether the server gave it up: after a while less has come than the whole answer, and then an end."""
    loop = asyncio.get_running_loop()
    connection = await connect(port, receive_buffer=4096)
    try:
        await loop.sock_sendall(connection, request("/v1/completions", STREAM) if number % 10 == 0 else request("/tokenize", LARGE))
        await asyncio.sleep(seconds)
        found = b""
        async with asyncio.timeout(10):
            while piece := await loop.sock_recv(connection, 1 << 16):
                found += piece
        length = re.search(rb"Content-Length: (\d+)", found)
        return not found.endswith(b"0\r\n\r\n") and (length is None or len(found) < int(length.group(1)))
    except OSError:
        return True
    except TimeoutError:
        return False
    finally:
        connection.close()


async def ask_all_the_while(port, expected, stop, seconds):
    """Ordinary clients: how long each answer took; an answer that is another, or none, is an exception."""
    while not stop.is_set():
        begin = time.monotonic()
        async with asyncio.timeout(60):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request("/v1/completions", QUESTION))
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(int(re.search(rb"Content-Length: (\d+)", head).group(1)))
            writer.close()
        if json.loads(body)["choices"] != expected:
            raise AssertionError(f"a wrong answer: {body}")
        seconds.append(time.monotonic() - begin)
        await asyncio.sleep(0.1)


def figures(server):
    status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text(encoding="utf-8")
    return {"descriptors": len(os.listdir(f"/proc/{server.process.pid}/fd")),
            "mib": round(int(re.search(r"VmRSS:\s*(\d+) kB", status).group(1)) / 1024, 1),
            "peak_mib": round(int(re.search(r"VmHWM:\s*(\d+) kB", status).group(1)) / 1024, 1)}


def require(what, said):
    if not what:
        raise AssertionError(said)


async def with_room(server, clients):
    expected = server.post("/v1/completions", json.loads(QUESTION))["choices"]
    before = figures(server)
    stop, seconds = asyncio.Event(), []
    ordinary = [asyncio.create_task(ask_all_the_while(server.port, expected, stop, seconds)) for _ in range(4)]
    wait = 4 * TIMEOUT + 20
    slow = asyncio.gather(*(send_slowly(server.port, i, wait) for i in range(clients // 2)))
    readers = asyncio.gather(*(read_nothing(server.port, i, wait) for i in range(clients - clients // 2)))
    closed, given_up = await slow, await readers
    stop.set()
    await asyncio.gather(*ordinary)
    require(None not in closed, f"{closed.count(None)} slow senders were never closed")
    require(max(closed) < 2 * TIMEOUT + 5, f"a slow sender was closed after {max(closed):.1f} s")
    require(all(given_up), f"{given_up.count(False)} readers that read nothing were never given up")
    await asyncio.to_thread(server.wait_until, lambda: server.metric("num_requests_running") == 0 == server.metric("kv_cache_usage_perc"))
    await asyncio.to_thread(server.wait_until, lambda: figures(server)["descriptors"] <= before["descriptors"])
    after = figures(server)
    seconds.sort()
    print(f"{clients} slow clients with room: senders closed after {min(closed):.1f} to {max(closed):.1f} s; {len(seconds)} ordinary answers, "
          f"median {seconds[len(seconds) // 2]:.3f} s, slowest {seconds[-1]:.2f} s\n  {before['mib']} MiB before, at most {after['peak_mib']}, "
          f"{after['mib']} after; descriptors {before['descriptors']} and {after['descriptors']}", flush=True)


async def again_and_again(server, clients):
    """Nothing is left of those that were dropped. How much a process keeps depends on how many answers there were at a
    time, so there are few readers, all of which are answered at once."""
    kinds = [("senders", lambda: [send_slowly(server.port, i, 3 * TIMEOUT) for i in range(clients)]),
             ("readers", lambda: [read_nothing(server.port, 1, TIMEOUT + 5) for _ in range(60)])]
    for name, start in kinds:
        sizes = []
        for _ in range(4):
            await asyncio.gather(*start())
            sizes.append(figures(server)["mib"])
        require(sizes[-1] < 1.1 * sizes[1], f"{name}: after each round {sizes} MiB")
        print(f"{name}, four rounds: after each {sizes} MiB", flush=True)


async def without_room(server, clients):
    begin = time.monotonic()
    # Those beyond the limit are closed at once.
    slow = asyncio.gather(*(send_slowly(server.port, i, 4 * TIMEOUT + 20) for i in range(clients)))
    await asyncio.sleep(1)

    def served():
        with contextlib.suppress(OSError):
            return server.get("/health")[0] == 200
    await asyncio.to_thread(server.wait_until, served, 2 * TIMEOUT + 5)
    again = time.monotonic() - begin
    closed = await slow
    require(None not in closed, f"{closed.count(None)} slow senders were never closed")
    at_once = sum(seconds < TIMEOUT / 2 for seconds in closed)
    require(at_once >= clients - 512, f"{at_once} of {clients} were turned away, expected all but 512")
    print(f"{clients} slow clients, room for 512: {at_once} turned away at once, a client was served after {again:.1f} s")


def run(part, clients, *arguments):
    server = Server("--read-timeout", TIMEOUT, "--write-timeout", TIMEOUT, *arguments)
    try:
        asyncio.run(part(server, clients))
    finally:
        code = server.stop()
    require(code == 0, f"it ended with {code}: {server.errors}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", required=True, type=pathlib.Path, help="one of the tests' fixtures")
    parser.add_argument("--clients", type=int, default=1000)
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as work:
        Server.program, Server.work = options.binary, pathlib.Path(work)
        Server.folder = make_model(options.model, Server.work / "model")
        run(with_room, options.clients, "--max-connections", options.clients + 64)
        run(again_and_again, options.clients, "--max-connections", options.clients + 64)
        run(without_room, options.clients)


if __name__ == "__main__":
    main()
