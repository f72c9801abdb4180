#!/usr/bin/env python3
"""Models of a hub, by name: `chat ORG/NAME`, and `metal-marlin models`.

Usage: models_test.py METAL_MARLIN MODEL_FOLDER
"""
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

import pull_test
from chat_model import make_chat_model

PROGRAM, FIXTURE = os.path.abspath(sys.argv[1]), sys.argv[2]


class Models(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        holder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(holder.cleanup)
        pull_test.MODEL = make_chat_model(FIXTURE, pathlib.Path(holder.name) / "published")

    def setUp(self):
        self.hub = pull_test.Hub()
        self.server = pull_test.serve("hub", self.hub)
        self.server.other = pull_test.serve("files", self.hub)
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        for server in (self.server, self.server.other):
            self.addCleanup(server.server_close)
            self.addCleanup(server.shutdown)
        self.folder = pathlib.Path(holder.name)
        self.cache = self.folder / "cache" / "models"
        self.environment = {k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "XDG_CACHE_HOME")} | {
            "no_proxy": "*", "METAL_MARLIN_CACHE": str(self.cache.parent),
            "HF_ENDPOINT": f"http://127.0.0.1:{self.server.server_address[1]}"}

    def start(self, *arguments):
        return subprocess.Popen([PROGRAM, *arguments], env=self.environment, cwd=self.folder, text=True,
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def end(self, process, text="", code=0, says=""):
        out, errors = process.communicate(text, timeout=120)
        self.assertEqual(process.returncode, code, out + errors)
        self.assertIn(says, out + errors)
        return out

    def chat(self, *flags, model="org/model", **expected):
        return self.end(self.start("chat", model, "-n", "4", "--threads", "1", *flags), "hello\n", **expected)

    def models(self):
        return {model["name"]: model for model in json.loads(self.end(self.start("models", "--json")))}

    def remove(self, *names, **expected):
        return self.end(self.start("models", "remove", *names), **expected)

    def test_a_name_is_fetched_once(self):
        self.assertEqual(self.models(), {})
        before = time.time()
        answer = self.chat()
        self.assertEqual(answer, self.chat(model=str(pull_test.MODEL)))
        self.hub.requests.clear()
        self.assertEqual(self.chat(), answer)
        self.assertEqual(self.hub.requests, [])
        model = self.models()["org/model"]
        self.assertTrue(model["complete"])
        self.assertFalse(model["in_use"])
        self.assertGreater(model["bytes"], sum(path.stat().st_size for path in pull_test.MODEL.iterdir()) - 1)
        self.assertEqual(model["path"], str(self.cache / "org/model"))
        self.assertGreaterEqual(model["last_used"], time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(before)))
        self.assertRegex(self.end(self.start("models")), r"org/model +as published +\d.* complete")
        # A folder of this name is meant where there is one.
        (self.folder / "org/model").mkdir(parents=True)
        self.chat(code=3, says="no chat template")

    def test_a_format_is_made_once_and_needs_its_source_no_more(self):
        answer = self.chat("--format", "int8")
        self.assertEqual(set(self.models()), {"org/model", "org/model@int8"})
        self.remove("org/model", "--yes")
        self.hub.requests.clear()
        made = (self.cache / "org/model@int8/config.json").stat().st_mtime_ns
        self.assertEqual(self.chat("--format", "int8"), answer)
        self.assertEqual((self.cache / "org/model@int8/config.json").stat().st_mtime_ns, made)
        self.assertEqual(self.hub.requests, [])
        self.assertEqual(self.models()["org/model@int8"]["format"], "int8")
        self.chat("--format", "none", code=2, says="unknown format 'none'")
        self.chat("--recipe", "none", code=2, says="neither a file nor one of")
        self.assertEqual(self.hub.requests, [])

    def test_serve_takes_names_too(self):
        process = self.start("serve", "org/model", "--format", "fp4", "--port", "0", "--threads", "1")
        while not (line := process.stdout.readline()).startswith("listening on "):
            self.assertTrue(line, "it ended")
        with urllib.request.urlopen(line.split()[-1] + "/v1/models") as answer:
            self.assertEqual([model["id"] for model in json.load(answer)["data"]], ["org/model"])
        self.assertTrue(self.models()["org/model@fp4"]["in_use"])
        process.send_signal(signal.SIGTERM)
        self.end(process)

    def test_recipes_are_kept_by_their_text(self):
        recipe = self.folder / "mine.json"
        for group in (32, 64):
            recipe.write_text(json.dumps({"rules": [{"format": "s4", "group": group}]}))
            self.chat("--recipe", "mine.json")
        made = [name for name in self.models() if name.startswith("org/model@recipe-mine-")]
        self.assertEqual(len(made), 2)

    def test_a_fetch_that_was_killed_is_gone_on_with(self):
        self.hub.slow = 0.2
        process = self.start("chat", "org/model")
        while not any(path.stat().st_size >= 100000 for path in self.cache.glob("org/model/*.partial")):
            self.assertIsNone(process.poll())
            time.sleep(0.01)
        self.assertTrue(self.models()["org/model"]["in_use"])
        process.send_signal(signal.SIGKILL)
        process.communicate()
        model = self.models()["org/model"]
        self.assertEqual((model["complete"], model["in_use"]), (False, False))
        self.hub.slow = 0
        self.hub.requests.clear()
        self.chat()
        self.assertTrue(any(request[2] for request in self.hub.requests))
        self.assertTrue(self.models()["org/model"]["complete"])
        # What lost a file is no longer complete.
        (self.cache / "org/model/tokenizer.json").unlink()
        self.assertFalse(self.models()["org/model"]["complete"])
        self.chat()

    def test_processes_side_by_side_do_the_work_once(self):
        self.hub.slow = 0.02
        processes = [self.start("chat", "org/model", "-n", "4", "--threads", "1", "--format", "fp4") for _ in range(3)]
        answers = {self.end(process, "hello\n") for process in processes}
        self.assertEqual(len(answers), 1)
        fetched = [request for request in self.hub.requests if request[0] == "files"]
        self.assertEqual(len(fetched), 1, fetched)
        self.assertEqual(list(self.cache.glob("org/*partial*")), [])

    def test_removing(self):
        self.chat("--format", "fp4")
        self.remove("org/model", code=2, says="--yes is needed")
        self.remove("org/model", "org/none", "--yes", code=3, says="org/none: no such model")
        for name in ("../cache", "org/..", "org", "/etc/x", "org/model/x", ".a/b"):
            self.remove(name, "--yes", code=2, says="expected ORG/NAME")
        self.assertEqual(len(self.models()), 2)
        process = self.start("chat", "org/model")
        while not self.models()["org/model"]["in_use"]:
            self.assertIsNone(process.poll())
            time.sleep(0.02)
        self.remove("org/model", "--yes", code=6, says="in use")
        self.end(process)
        self.remove("org/model", "org/model", "org/model@fp4", "--yes", says="removed org/model@fp4")
        self.assertEqual(list(self.cache.iterdir()), [])

    def test_links_are_not_followed(self):
        kept = self.folder / "kept"
        kept.mkdir()
        (kept / "file").write_text("mine")
        self.chat()
        (self.cache / "org/link").symlink_to(kept)
        (self.cache / "other").symlink_to(kept.parent)
        (self.cache / "org/model/more").symlink_to(kept)
        self.remove("org/link", "--yes", code=2, says="is a link")
        self.remove("other/kept", "--yes", code=2, says="is a link")
        self.assertEqual(set(self.models()), {"org/model"})
        self.remove("org/model", "--yes")
        self.assertEqual((kept / "file").read_text(), "mine")

    def test_what_is_no_model(self):
        self.chat(model="./none", code=3, says="no such file or folder, and not ORG/NAME")
        self.chat(model="a/b/c", code=3, says="no such file or folder, and not ORG/NAME")
        self.chat(model="org/none", code=3, says="no such file or folder here; ")
        self.chat("--format", "fp4", model=str(pull_test.MODEL), code=2, says="is here already")
        self.chat("--format", "fp4", "--recipe", "x", code=2, says="excludes")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
