#!/usr/bin/env python3
"""Slots of `metal-marlin serve`: what runs, and conversations that are saved, restored and erased, as llama.cpp's clients ask.

Usage: serve_slots_test.py METAL_MARLIN MODEL_FOLDER
"""
import json
import os
import pathlib
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import unittest

from served import ENDLESS, Server, make_model

PROGRAM, MODEL = sys.argv[1], pathlib.Path(sys.argv[2])
ADAPTER = MODEL.parent.parent / "adapters/qwen3-tiny-regex"
WORK = pathlib.Path(tempfile.mkdtemp())
SAVED = WORK / "saved"
OPTIONS = ["--context", 512, "--parallel", 3, "--slot-save-path", SAVED]
OTHER_NAMES = ["", ".", "..", "../a", "a/b", "/etc/passwd", "a\\b", "a\nb", "a\u0000", "a\u007f", ".hidden", "a..b", "a.", "a.partial", "a b", "\u00e9", "a" * 129,
               1, None, ["a"]]


def act(server, action, slot=0, status=200, **body):
    return server.post(f"/slots/{slot}?action={action}", body, status)


def slots(server, query=""):
    status, text = server.get(f"/slots{query}")
    if status != 200:
        raise AssertionError(text)
    return json.loads(text)


def asked(server, messages, **fields):
    body = {"messages": messages, "max_tokens": 24, "logprobs": True} | ENDLESS | fields
    answer = server.post("/v1/chat/completions", body)
    return answer["choices"][0], answer["usage"]["prompt_tokens_details"]["cached_tokens"]


class Started(unittest.TestCase):
    """Tests that start servers of their own."""

    def serve(self, *arguments, **how):
        server = Server(*arguments, **how)
        self.addCleanup(server.process.kill)
        return server

    def started(self, *arguments, **how):
        return self.serve(*OPTIONS, *arguments, **how)


class AConversation(Started):
    """What it was goes on in a server that was started anew."""

    def conversation(self, *arguments, slot=1, **fields):
        first = [{"role": "system", "content": "Tales of the sea. " * 10}, {"role": "user", "content": "once upon a time"}]
        server = self.started(*arguments)
        answer, cached = asked(server, first, id_slot=slot, **fields)
        self.assertEqual(cached, 0)
        saved = act(server, "save", slot, filename="tale.bin")
        self.assertEqual(set(saved), {"id_slot", "filename", "n_saved", "n_written", "timings"})
        self.assertEqual((saved["id_slot"], saved["filename"], saved["n_saved"] % 16), (slot, "tale.bin", 0))
        self.assertGreater(saved["n_saved"], 200)
        path = SAVED / "tale.bin"
        self.assertEqual(saved["n_written"], path.stat().st_size)
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        second = [*first, {"role": "assistant", "content": answer["message"]["content"]}, {"role": "user", "content": "and then?"}]
        expected, _ = asked(server, second, **fields)
        self.assertEqual(server.stop(), 0, server.errors)

        server = self.started(*arguments)
        without, cached = asked(server, second, **fields)
        self.assertEqual((without, cached), (expected, 0))
        self.assertEqual(server.stop(), 0, server.errors)

        server = self.started(*arguments)
        restored = act(server, "restore", 0, filename="tale.bin")
        self.assertEqual((restored["n_restored"], restored["n_read"], set(restored["timings"])), (saved["n_saved"], saved["n_written"], {"restore_ms"}))
        self.assertEqual(slots(server)[0]["n_past"], saved["n_saved"])
        self.assertEqual(server.metric("prefix_cache_hits_total"), 0)
        found, cached = asked(server, second, **fields)
        self.assertEqual(found, expected)
        # Its first token came of a step without what was saved, but for what templates say of answers in another way.
        self.assertGreaterEqual(cached, 192)
        self.assertEqual(server.metric("prefix_cache_hits_total"), cached)
        self.assertEqual(server.metric("prefix_cache_queries_total"), server.metric("prompt_tokens_total"))
        self.assertEqual(slots(server)[0]["cached_tokens"], cached)
        self.assertEqual(server.stop(), 0, server.errors)

    def test_goes_on(self):
        self.conversation()

    def test_goes_on_with_its_adapter(self):
        self.conversation("--lora", f"tales={ADAPTER}", model="tales")
        server = self.started("--lora", f"tales={ADAPTER}:0.5")
        error = act(server, "restore", 0, 400, filename="tale.bin")["error"]
        self.assertRegex(error["message"], r"^tale\.bin: a sequence with the adapter tales \([0-9a-f]{16}\), which was not loaded; there is tales \([0-9a-f]{16}\)$")
        self.assertEqual(server.stop(), 0, server.errors)

    def test_goes_on_with_another_cache(self):
        self.conversation("--kv-cache", "int8")
        server = self.started()
        error = act(server, "restore", 0, 400, filename="tale.bin")["error"]
        self.assertEqual((error["message"], error["param"], error["code"]), ("tale.bin: a sequence of another model: kv_cache is int8, expected f16", "filename", "invalid_slot_file"))
        self.assertEqual(server.stop(), 0, server.errors)


class OneServer(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server(*OPTIONS)

    @classmethod
    def tearDownClass(cls):
        if cls.server.stop() != 0:
            raise AssertionError(cls.server.errors)

    def fill(self, slot):
        self.server.post("/v1/completions", {"prompt": f"tale {slot} " * 12, "max_tokens": 8, "id_slot": slot} | ENDLESS)

    def test_what_runs(self):
        connection, _ = self.server.open_stream(prompt="in slot two", id_slot=2, max_tokens=490)
        slot = slots(self.server)[2]
        if slot["is_processing"]:  # 490 tokens are drawn in a moment
            self.assertIn(slot["state"], ["prompt", "generating"])
            self.assertEqual((slot["prompt_tokens"], slot["model"], slot["adapter"], slot["n_ctx"]), (11, "model", None, 512))
            self.assertLess(slot["seconds"], 60)
        connection.close()
        self.server.wait_until(lambda: not slots(self.server)[2]["is_processing"])
        slot = slots(self.server)[2]
        self.assertEqual([each["id"] for each in slots(self.server)], [0, 1, 2])
        self.assertEqual((slot["state"], slot["prompt_tokens"]), ("idle", 11))
        self.assertEqual(slot["n_past"], 10 + slot["generated_tokens"])
        self.assertEqual([each["id"] for each in slots(self.server, "?model=model")], [0, 1, 2])
        status, text = self.server.get("/slots?model=other")
        self.assertEqual(status, 404, text)
        status, text = self.server.get("/slots?fail_on_no_slot=1")
        self.assertEqual((status, json.loads(text)["error"]["param"]), (400, "fail_on_no_slot"))

    def test_names(self):
        self.fill(0)
        before = sorted(path.name for path in SAVED.iterdir())
        for name in OTHER_NAMES:
            for action in ["save", "restore"]:
                error = act(self.server, action, 0, 400, filename=name)["error"]
                self.assertEqual(error["param"], "filename", name)
        self.assertEqual(sorted(path.name for path in SAVED.iterdir()), before)
        for name in ["a", "a-b_c.d.bin", "A" * 128, "0"]:
            self.assertEqual(act(self.server, "save", 0, filename=name)["filename"], name)
            (SAVED / name).unlink()

    def test_wrong_requests(self):
        self.fill(0)
        for path, status, code in [("/slots/3?action=save", 404, "no_such_slot"), ("/slots/-1?action=save", 404, "no_such_slot"), ("/slots/a?action=erase", 404, "no_such_slot"),
                                   ("/slots/0?action=move", 400, None), ("/slots/0", 400, None), ("/slots/0?action=save&more=1", 400, None)]:
            self.assertEqual(self.server.refused(path, {"filename": "a"}, status)["code"], code, path)
        self.assertEqual(act(self.server, "save", 0, 400, filename="a", other=1)["error"]["param"], "other")
        self.assertEqual(act(self.server, "save", 0, 404, filename="a", model="other")["error"]["code"], "model_not_found")
        self.assertEqual(act(self.server, "restore", 0, 404, filename="none")["error"]["code"], "no_such_file")
        error = self.server.refused("/v1/completions", {"prompt": "a", "id_slot": 3})
        self.assertEqual((error["param"], error["code"]), ("id_slot", "no_such_slot"))
        status, _, text = self.server.ask("POST", "/slots/0?action=erase", "", {"Content-Type": "text/plain"})
        self.assertEqual(status, 415, text)

    def test_erased(self):
        self.fill(1)
        held = slots(self.server)[1]["n_past"]
        status, _, text = self.server.ask("POST", "/slots/1?action=erase")
        self.assertEqual((status, json.loads(text)), (200, {"id_slot": 1, "n_erased": held}))
        self.assertEqual(slots(self.server)[1]["n_past"], 0)
        self.assertEqual(act(self.server, "save", 1, 409, filename="a")["error"]["code"], "slot_empty")
        self.fill(1)
        self.assertEqual(slots(self.server)[1]["cached_tokens"], 0)

    def test_other_files(self):
        self.fill(0)
        act(self.server, "save", 0, filename="whole")
        whole = (SAVED / "whole").read_bytes()
        middle = len(whole) // 2
        for name, data in [("empty", b""), ("text", b"hello"), ("cut", whole[:-1]), ("changed", whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1:]),
                           ("weights", (MODEL / "model.safetensors").read_bytes())]:
            (SAVED / name).write_bytes(data)
            error = act(self.server, "restore", 2, 400, filename=name)["error"]
            self.assertEqual(error["code"], "invalid_slot_file")
            self.assertTrue(error["message"].startswith(f"{name}: "), error)
        (SAVED / "folder").mkdir()
        self.assertEqual(act(self.server, "restore", 2, 400, filename="folder")["error"]["message"], "folder: not a regular file")
        self.assertEqual(act(self.server, "save", 0, 507, filename="folder")["error"]["message"], "folder: not a regular file, cannot be replaced")
        os.mkfifo(SAVED / "pipe")
        self.assertEqual(act(self.server, "restore", 2, 400, filename="pipe")["error"]["message"], "pipe: not a regular file")
        act(self.server, "restore", 2, filename="whole")


class OtherServers(Started):
    def test_another_model(self):
        server = self.started()
        server.post("/v1/completions", {"prompt": "of one model " * 10, "max_tokens": 8, "id_slot": 0} | ENDLESS)
        act(server, "save", 0, filename="of_one")
        self.assertEqual(server.stop(), 0, server.errors)
        other = make_model(MODEL.parent / "llama-tiny", WORK / "other")
        server = self.started("--pin", "model", "--pin", "other", models=[FOLDER, other])
        error = act(server, "restore", 0, 400, filename="of_one", model="other")["error"]
        self.assertEqual((error["message"], error["code"]), ("of_one: a sequence of another model: architecture is qwen3, expected llama", "invalid_slot_file"))
        self.assertEqual(act(server, "restore", 0, 400, filename="of_one")["error"]["param"], "model")
        self.assertGreater(act(server, "restore", 0, filename="of_one", model="model")["n_restored"], 0)
        self.assertEqual([(slot["model"], slot["id"]) for slot in slots(server)], [(name, i) for name in ["model", "other"] for i in range(3)])
        self.assertEqual([slot["n_past"] for slot in slots(server, "?model=other")], [0, 0, 0])
        self.assertEqual(server.stop(), 0, server.errors)

    def test_keys(self):
        """Each has its own conversations and files; a server that is started anew with its keys in another order finds them."""
        keys = {name: {"Authorization": f"Bearer secret-{name}"} for name in "ab"}

        def ask(server, name, method, path, body=None):
            status, _, text = server.ask(method, path, body, keys.get(name))
            return status, json.loads(text)

        server = self.started(environment={"METAL_MARLIN_API_KEY": "secret-a,secret-b"})
        for method, path in [("GET", "/slots"), ("POST", "/slots/0?action=erase"), ("POST", "/slots/0?action=save")]:
            self.assertEqual(ask(server, None, method, path, {} if method == "POST" else None)[0], 401, path)
        for name, slot in [("a", 0), ("b", 1)]:
            self.assertEqual(ask(server, name, "POST", "/v1/completions", {"prompt": f"{name} asks " * 12, "max_tokens": 4, "id_slot": slot} | ENDLESS)[0], 200)
        self.assertEqual([[slot["is_own"] for slot in ask(server, name, "GET", "/slots")[1]] for name in "ab"], [[True, False, False], [False, True, False]])
        for slot, action in [(1, "save"), (1, "erase")]:
            status, answer = ask(server, "a", "POST", f"/slots/{slot}?action={action}", {"filename": "talk"})
            self.assertEqual((status, answer["error"]["code"], answer["error"]["message"]), (409, "slot_empty", "slot 1 holds no conversation of this key"))
        status, saved = ask(server, "a", "POST", "/slots/0?action=save", {"filename": "talk"})
        self.assertEqual((status, saved["filename"]), (200, "talk"))
        self.assertEqual(ask(server, "b", "POST", "/slots/1?action=restore", {"filename": "talk"})[1]["error"]["code"], "no_such_file")
        folders = [path for path in SAVED.iterdir() if path.is_dir() and path.name.startswith("key-")]
        self.assertEqual([(stat.S_IMODE(path.stat().st_mode), [each.name for each in path.iterdir()]) for path in folders], [(0o700, ["talk"])])
        self.assertEqual(server.stop(), 0, server.errors)
        server = self.started(environment={"METAL_MARLIN_API_KEY": "secret-b,secret-a"})
        self.assertEqual(ask(server, "b", "POST", "/slots/0?action=restore", {"filename": "talk"})[0], 404)
        self.assertEqual(ask(server, "a", "POST", "/slots/0?action=restore", {"filename": "talk"})[1]["n_restored"], saved["n_saved"])
        self.assertEqual([slot["is_own"] for slot in ask(server, "a", "GET", "/slots")[1]], [True, False, False])
        self.assertEqual(server.stop(), 0, server.errors)

    def test_without_a_folder(self):
        server = self.serve("--parallel", 2)
        self.assertEqual([slot["id"] for slot in slots(server)], [0, 1])
        for action in ["save", "restore", "erase"]:
            error = act(server, action, 0, 501, filename="a")["error"]
            self.assertEqual((error["message"], error["code"]), ("this server was started without --slot-save-path", "slots_unsupported"))
        self.assertEqual(server.stop(), 0, server.errors)
        for arguments, message, code in [(["--slot-save-path", WORK / "none"], "no such folder", 3),
                                         (["--slot-save-path", SAVED, "--no-prefix-cache"], "--no-prefix-cache leaves none", 2)]:
            done = subprocess.run([PROGRAM, "serve", FOLDER, "--port", "0", *arguments], capture_output=True, text=True, check=False)
            self.assertEqual((done.returncode, message in done.stderr), (code, True), done.stderr)

    def test_a_full_disk(self):
        """The limit is one of the size of files, which says the same as a disk that is full: what was there stays."""
        server = self.started()
        server.post("/v1/completions", {"prompt": "much to say " * 12, "max_tokens": 8, "id_slot": 0} | ENDLESS)
        act(server, "save", 0, filename="full")
        before = (SAVED / "full").read_bytes()
        names = sorted(path.name for path in SAVED.iterdir())
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        for name in ["full", "new"]:
            error = act(server, "save", 0, 507, filename=name)["error"]
            self.assertRegex(error["message"], rf"^{name}\.partial: cannot (extend|write): File too large$")
            self.assertEqual(error["code"], "not_written")
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        self.assertEqual(sorted(path.name for path in SAVED.iterdir()), names)
        self.assertEqual((SAVED / "full").read_bytes(), before)
        self.assertGreater(act(server, "restore", 1, filename="full")["n_restored"], 0)
        self.assertEqual(server.stop(), 0, server.errors)

if __name__ == "__main__":
    FOLDER = make_model(MODEL, WORK / "model")
    SAVED.mkdir()
    Server.program, Server.folder, Server.work = PROGRAM, FOLDER, WORK
    try:
        unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
    finally:
        shutil.rmtree(WORK)
