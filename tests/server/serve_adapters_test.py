#!/usr/bin/env python3
"""Adapters of `metal-marlin serve`, which requests choose as their model.

Usage: serve_adapters_test.py METAL_MARLIN MODEL_FOLDER
"""
import concurrent.futures
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

from served import ENDLESS, Server, make_model

PROGRAM, MODEL = sys.argv[1], pathlib.Path(sys.argv[2])
ADAPTERS = MODEL.parent.parent / "adapters"
REGEX, EMBEDDING = ADAPTERS / "qwen3-tiny-regex", ADAPTERS / "qwen3-tiny-embedding"
WORK = pathlib.Path(tempfile.mkdtemp())


def asked(model, **fields):
    return {"model": model, "prompt": "once upon a time", "max_tokens": 16, "logprobs": 1} | ENDLESS | fields


def listed(server):
    return json.loads(server.get("/v1/models")[1])["data"]


def states(server):
    return {model["id"]: model["state"] for model in listed(server)}


def generated(*arguments):
    """What `metal-marlin generate` answers the same prompt."""
    done = subprocess.run([PROGRAM, "generate", str(FOLDER), "-p", "once upon a time", "-n", "16", "--temperature", "0", "--ignore-eos",
                           "--threads", "2", "--json", *map(str, arguments)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)["text"]


class OneModel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--context", 256, "--lora", f"tales={REGEX}", "--lora", f"law={EMBEDDING}", "--lora", f"faint={REGEX}:0.25")

    @classmethod
    def tearDownClass(cls):
        if cls.server.stop() != 0:
            raise AssertionError(cls.server.errors)

    def choice(self, **fields):
        answer = self.server.post("/v1/completions", asked(**fields))
        self.assertEqual(answer["model"], fields["model"])
        return answer["choices"][0]

    def answer(self, **fields):
        return self.choice(**fields)["text"]

    def test_the_model_of_a_request_chooses(self):
        for name, arguments in [("model", []), ("tales", ["--lora", REGEX]), ("law", ["--lora", EMBEDDING]), ("faint", ["--lora", f"{REGEX}:0.25"])]:
            self.assertEqual(self.answer(model=name), generated(*arguments), name)
        choices = {name: self.choice(model=name) for name in ["model", "tales", "law", "faint"]}
        self.assertEqual(len({json.dumps(choice) for choice in choices.values()}), 4, choices)
        body = asked("")
        del body["model"]  # there is one model: its adapters are none that could be meant
        self.assertEqual(self.server.post("/v1/completions", body)["choices"][0], choices["model"])
        self.assertEqual(self.server.refused("/v1/completions", asked("other"), 404)["message"],
                         "model other is not served here; there is model, tales, law, faint")
        names = ["tales", "model", "law", "faint", "model", "law"] * 4
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            together = list(pool.map(lambda name: self.choice(model=name), names))
        self.assertEqual(together, [choices[name] for name in names])

    def test_chats_and_streams(self):
        body = {"messages": [{"role": "user", "content": "once"}], "max_tokens": 8, "logprobs": True} | ENDLESS
        answers = {name: self.server.post("/v1/chat/completions", body | {"model": name}) for name in ["model", "tales"]}
        self.assertEqual([answer["model"] for answer in answers.values()], ["model", "tales"])
        self.assertNotEqual(answers["model"]["choices"], answers["tales"]["choices"])
        events = self.server.stream("/v1/completions", asked("tales"))
        self.assertEqual({event["model"] for event in events}, {"tales"})
        self.assertEqual("".join(event["choices"][0]["text"] for event in events), self.answer(model="tales"))

    def test_they_are_listed_with_their_parent(self):
        models = listed(self.server)
        self.assertEqual([(model["id"], model.get("parent")) for model in models],
                         [("model", None), ("tales", "model"), ("law", "model"), ("faint", "model")])
        self.assertEqual({(model["state"], model["max_model_len"]) for model in models}, {("loaded", 256)})
        self.assertEqual(json.loads(self.server.get("/v1/models/law")[1]), models[2])
        lines = "".join(self.server.lines)
        self.assertIn("adapter tales of model\nadapter law of model\nadapter faint of model\n", lines)
        self.assertEqual(lines.count("model model: "), 1)

    def test_metrics_are_of_one_engine(self):
        self.answer(model="law")
        for name in ["model_loaded", "num_requests_running", "prefix_cache_queries_total", "model_loads_total"]:
            self.assertIsNotNone(self.server.metric(name, 'model_name="model"'), name)
            self.assertIsNone(self.server.metric(name, 'model_name="law"'), name)
        before = self.server.metric("generation_tokens_total", 'model_name="law"')
        queries = self.server.metric("prefix_cache_queries_total", 'model_name="model"')
        self.answer(model="law", max_tokens=5)
        self.assertEqual(self.server.metric("generation_tokens_total", 'model_name="law"'), before + 5)
        self.assertEqual(self.server.metric("prefix_cache_queries_total", 'model_name="model"'), queries + 16)

    def test_vectors(self):
        texts = ["once upon a time", "a"]
        for name, arguments in [("model", []), ("law", ["--lora", EMBEDDING])]:
            lines = subprocess.run([PROGRAM, "embed", str(FOLDER), "--threads", "2", *map(str, arguments)], input="\n".join(texts) + "\n",
                                   capture_output=True, text=True, check=True).stdout.splitlines()
            answer = self.server.post("/v1/embeddings", {"model": name, "input": texts})
            self.assertEqual(answer["model"], name)
            for line, found in zip(lines, answer["data"], strict=True):
                self.assertLess(max(abs(a - b) for a, b in zip(json.loads(line), found["embedding"], strict=True)), 1e-6, name)
        vectors = [self.server.post("/v1/embeddings", {"model": name, "input": "once"})["data"][0]["embedding"] for name in ["model", "law"]]
        self.assertGreater(max(abs(a - b) for a, b in zip(*vectors)), 1e-3)


class SeveralModels(unittest.TestCase):
    def start(self, *arguments):
        server = Server("--lora", f"one:tales={REGEX}", "--lora", f"two:law={EMBEDDING}", *arguments,
                        models=["--alias", f"one={FOLDER}", "--alias", f"two={FOLDER}"])
        self.addCleanup(server.stop)
        return server

    def test_they_come_and_go_with_their_model(self):
        server = self.start("--idle-unload", 0.3)
        unloaded = dict.fromkeys(["one", "tales", "two", "law"], "unloaded")
        self.assertEqual(states(server), unloaded)
        self.assertEqual([model.get("parent") for model in listed(server)], [None, "one", None, "two"])
        answer = server.post("/v1/completions", asked("law"))
        self.assertEqual(answer["model"], "law")
        self.assertEqual(answer["choices"][0]["text"], generated("--lora", EMBEDDING))
        self.assertEqual(server.metric("model_loads_total", 'model_name="two"'), 1)
        self.assertEqual(server.metric("model_loads_total", 'model_name="one"'), 0)
        server.wait_until(lambda: states(server) == unloaded)
        self.assertEqual(server.post("/v1/completions", asked("law"))["choices"], answer["choices"])
        stream, _ = server.open_stream(model="tales", max_tokens=200)
        self.assertEqual(states(server)["one"], "loaded")
        self.assertEqual(states(server)["tales"], "loaded")
        stream.close()
        server.wait_until(lambda: states(server) == unloaded)

    def test_an_adapter_in_use_keeps_its_model(self):
        server = self.start("--max-loaded", 1, "--load-wait", 0.5)
        stream, _ = server.open_stream(model="tales")
        self.assertEqual(server.refused("/v1/completions", asked("two"), 503)["code"], "model_loading")
        self.assertEqual(states(server)["tales"], "loaded")
        stream.close()
        server.wait_until(lambda: server.metric("num_requests_running") == 0)
        self.assertEqual(server.post("/v1/completions", asked("law"))["model"], "law")
        self.assertEqual(states(server), {"one": "unloaded", "tales": "unloaded", "two": "loaded", "law": "loaded"})

    def test_one_that_cannot_be_loaded_is_a_failure_of_its_model(self):
        broken = WORK / "broken"
        shutil.copytree(ADAPTERS / "llama-tiny-patterns", broken)
        server = self.start("--lora", f"one:broken={broken}")
        for name in ["one", "broken", "tales"]:
            status, _, text = server.ask("POST", "/v1/completions", asked(name))
            error = json.loads(text)["error"]
            self.assertEqual((status, error["code"]), (503, "model_failed"))
            self.assertIn(str(broken), error["message"])
            self.assertEqual(states(server)[name], "failed")
        self.assertEqual(server.post("/v1/completions", asked("law"))["model"], "law")

    def test_flags_that_cannot_be(self):
        two = ["--alias", f"one={FOLDER}", "--alias", f"two={FOLDER}"]
        for code, models, loras, text in [
                (2, [FOLDER], ["tales"], "--lora tales: expected NAME=PATH"),
                (2, [FOLDER], [f"={REGEX}"], "expected NAME=PATH"),
                (2, [FOLDER], [f"model={REGEX}"], "another model or adapter is called model already"),
                (2, [FOLDER], [f"a={REGEX}", f"a={EMBEDDING}"], "another model or adapter is called a already"),
                (2, [FOLDER], [f"a={REGEX}:x"], "x is no scale"),
                (3, [FOLDER], ["a=/nonexistent"], "--lora a=/nonexistent: no such folder"),
                (2, two, [f"a={REGEX}"], "of several models it takes MODEL:NAME=PATH; there is one, two"),
                (2, two, [f"three:a={REGEX}"], "of several models it takes MODEL:NAME=PATH; there is one, two"),
                (2, two, [f"one:a={REGEX}", f"two:a={EMBEDDING}"], "another model or adapter is called a already")]:
            with self.assertRaisesRegex(AssertionError, f"it ended with {code}: .*{re.escape(text)}"):
                Server(*[part for lora in loras for part in ("--lora", lora)], models=models)


if __name__ == "__main__":
    FOLDER = make_model(MODEL, WORK / "model")
    Server.program, Server.folder, Server.work = PROGRAM, FOLDER, WORK
    try:
        unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
    finally:
        shutil.rmtree(WORK)
