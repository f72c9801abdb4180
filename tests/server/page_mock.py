"""A server for the chat page's test: the page's files as the program serves them, and a scripted API."""
import json
import pathlib
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SOURCE = pathlib.Path(__file__).resolve().parents[2] / "src/server"
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}


def header_fields():
    """Those of page.h, which the program sends."""
    text = re.sub(r'"\s*\n\s*"', "", (SOURCE / "page.h").read_text(encoding="utf-8"))
    fields = re.findall(r'\{"([\w-]+)",\s*"([^"]+)"\}', text)
    assert dict(fields)["Content-Security-Policy"].startswith("default-src 'none'"), fields
    return fields


def chunk(content=None, reasoning=None, finish=None):
    delta = {key: value for key, value in (("content", content), ("reasoning_content", reasoning)) if value is not None}
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


def event(value):
    return b"data: " + (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)).encode() + b"\n\n"


class Answer:
    """What a request for an answer gets: events, a pause before each, and how it ends."""

    def __init__(self, *pieces, thoughts=(), pause=0.0, finish="stop", end="done", split=None, status=200, headers=(), body=""):
        self.pieces, self.thoughts, self.pause, self.finish, self.end = pieces, thoughts, pause, finish, end
        self.split, self.status, self.headers, self.body = split, status, headers, body

    def events(self, messages):
        yield event({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
        for piece in self.thoughts:
            yield event(chunk(reasoning=piece))
        for piece in self.pieces:
            yield piece if isinstance(piece, bytes) else event(chunk(content=piece))
        if self.end == "done":
            yield event(chunk(finish=self.finish))
            asked = sum(len(message["content"]) for message in messages) // 4 + 8
            count = len(self.pieces) + len(self.thoughts)
            yield event({"choices": [], "usage": {"prompt_tokens": asked, "completion_tokens": count, "total_tokens": asked + count}})
            yield event("[DONE]")


class Mock:
    def __init__(self):
        self.reset()
        self.fields = header_fields()
        self.closed = False
        handler = type("Handler", (Handler,), {"mock": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"

    def reset(self):
        self.answers = []  # of the next requests; then an echo
        self.requests = []  # bodies of those for answers
        self.key = None  # that is asked for
        self.models = [{"id": "qwen3-4b-fp4", "object": "model", "max_model_len": 4096}, {"id": "other", "object": "model", "max_model_len": 512}]
        self.tokenize_context = None
        self.left = threading.Event()  # a client went away in the middle of an answer

    def close(self):
        self.closed = True
        self.server.shutdown()
        self.server.server_close()


class Handler(BaseHTTPRequestHandler):
    mock = None
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def send(self, status, body, content_type="application/json", headers=()):
        data = body if isinstance(body, bytes) else body.encode()
        self.send_response(status)
        for name, value in (("Content-Type", content_type), ("Content-Length", str(len(data))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def refused(self):
        if self.mock.key is None or self.headers.get("Authorization") == f"Bearer {self.mock.key}":
            return False
        self.send(401, json.dumps({"error": {"message": "invalid API key", "type": "invalid_request_error"}}))
        return True

    def do_GET(self):
        if self.path == "/v1/models":
            if not self.refused():
                self.send(200, json.dumps({"object": "list", "data": self.mock.models}))
            return
        name = "index.html" if self.path == "/" else self.path.removeprefix("/page/") if self.path.startswith("/page/") else ""
        file = SOURCE / "page" / name
        if re.fullmatch(r"\w+\.(html|css|js)", name) and file.exists():
            self.send(200, file.read_bytes(), TYPES[file.suffix], self.mock.fields)
        else:
            self.send(404, json.dumps({"error": {"message": f"no {self.path}"}}))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.mock.closed:  # on a connection that was open
            self.close_connection = True
            return
        if self.refused():
            return
        if self.path == "/tokenize" and self.mock.tokenize_context:
            self.send(200, json.dumps({"count": len(body["prompt"]), "max_model_len": self.mock.tokenize_context, "tokens": []}))
        elif self.path == "/v1/chat/completions":
            self.answer(body)
        else:
            self.send(404, json.dumps({"error": {"message": f"no {self.path}"}}))

    def answer(self, body):
        self.mock.requests.append(body)
        last = body["messages"][-1]["content"]
        answer = self.mock.answers.pop(0) if self.mock.answers else Answer(*re.findall(r"\s*\S+", f"You said: {last}"))
        if answer.status != 200:
            self.send(answer.status, answer.body, headers=answer.headers)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self.stream(answer, body["messages"])
        except OSError:
            self.mock.left.set()
            self.close_connection = True

    def stream(self, answer, messages):
        for data in answer.events(messages):
            if answer.pause:
                time.sleep(answer.pause)
            for part in ([data] if not answer.split else [data[i:i + answer.split] for i in range(0, len(data), answer.split)]):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                if answer.pause or answer.split:
                    self.wfile.flush()
        if answer.end == "cut":  # no last chunk: the connection breaks
            self.close_connection = True
        else:
            self.wfile.write(b"0\r\n\r\n")
