#!/usr/bin/env python3
"""Several models of `metal-marlin serve` by name: loaded when they are asked for, and unloaded when they are idle.

Usage: serve_models_test.py METAL_MARLIN MODEL_FOLDER
"""
import concurrent.futures
import json
import pathlib
import re
import shutil
import socket
import sys
import tempfile
import time
import unittest

from served import ENDLESS, Server, make_model

PROGRAM, MODEL = sys.argv[1], pathlib.Path(sys.argv[2])
WORK = pathlib.Path(tempfile.mkdtemp())


def asked(name, **fields):
    return {"model": name, "prompt": "once", "max_tokens": 4} | ENDLESS | fields


class SeveralModels(unittest.TestCase):
    def start(self, *arguments, models=(), environment=None):
        server = Server(*arguments, models=models or [*(item for name, folder in self.models.items() for item in ("--alias", f"{name}={folder}"))],
                        environment=environment)
        self.addCleanup(lambda: self.assertEqual(server.stop(), 0))
        return server

    @classmethod
    def setUpClass(cls):
        cls.models = {"one": FOLDER, "two": make_model(MODEL, WORK / "two")}

    def states(self, server):
        return {model["id"]: model["state"] for model in json.loads(server.get("/v1/models")[1])["data"]}

    def resident(self, server):
        text = pathlib.Path(f"/proc/{server.process.pid}/status").read_text(encoding="utf-8")
        return int(re.search(r"VmRSS:\s*(\d+) kB", text).group(1))

    def test_loaded_on_demand_and_unloaded_when_idle(self):
        server = self.start("--idle-unload", 0.3)
        self.assertEqual(self.states(server), {"one": "unloaded", "two": "unloaded"})
        self.assertIsNone(json.loads(server.get("/v1/models/one")[1])["max_model_len"])
        self.assertEqual(server.get("/health")[0], 200)
        answer = server.post("/v1/completions", asked("one"))
        self.assertEqual(answer["model"], "one")
        self.assertEqual(server.metric("model_loaded", 'model_name="one"'), 1)
        self.assertEqual(server.metric("model_loaded", 'model_name="two"'), 0)
        server.wait_until(lambda: self.states(server) == {"one": "unloaded", "two": "unloaded"})
        self.assertGreater(json.loads(server.get("/v1/models/one")[1])["max_model_len"], 0)  # as it was
        self.assertEqual(server.post("/v1/completions", asked("one"))["choices"], answer["choices"])
        server.wait_until(lambda: server.metric("model_unloads_total", 'model_name="one"') == 2)
        self.assertEqual(server.metric("model_loads_total", 'model_name="one"'), 2)
        # What engines counted goes on when the next one counts from 0.
        self.assertEqual(server.metric("generation_tokens_total", 'model_name="one"'), 8)
        self.assertEqual(server.metric("prefix_cache_queries_total", 'model_name="one"'), 8)

    def test_memory_is_given_back(self):
        server = self.start("--idle-unload", 0.2)

        def round_of_requests():
            for name in self.models:
                body = asked(name, prompt="word " * 100, max_tokens=40, n=4, temperature=1, seed=1)
                server.post("/v1/completions", body)
                server.post("/v1/embeddings", {"model": name, "input": ["word " * 100] * 4})
            server.wait_until(lambda: set(self.states(server).values()) == {"unloaded"})
            return self.resident(server)
        first = round_of_requests()  # what the process needs once: threads, tables of the allocator
        later = [round_of_requests() for _ in range(3)]  # threads that take turns with the allocator make some of them more
        self.assertLess(abs(min(later) - first), 0.05 * first, f"{first} and then {later} kB")

    def test_the_least_used_goes_for_another_and_pinned_ones_stay(self):
        self.models["three"] = make_model(MODEL, WORK / "three")
        self.addCleanup(self.models.pop, "three")
        server = self.start("--max-loaded", 2, "--pin", "one")
        self.assertEqual(self.states(server), {"one": "loaded", "two": "unloaded", "three": "unloaded"})
        for name in ["two", "one", "three", "two"]:
            server.post("/v1/completions", asked(name))
            self.assertEqual(self.states(server)[name], "loaded")
            self.assertEqual(self.states(server)["one"], "loaded")
            self.assertEqual(list(self.states(server).values()).count("loaded"), 2)

    def test_a_model_in_use_is_not_unloaded_for_another(self):
        server = self.start("--max-loaded", 1, "--load-wait", 0.5)
        stream, _ = server.open_stream(model="one")
        status, headers, text = server.ask("POST", "/v1/completions", asked("two"))
        self.assertEqual((status, headers["Retry-After"], json.loads(text)["error"]["code"]), (503, "10", "model_loading"))
        stream.close()
        server.wait_until(lambda: server.metric("num_requests_running") == 0)
        self.assertEqual(server.post("/v1/completions", asked("two"))["model"], "two")
        self.assertEqual(self.states(server), {"one": "unloaded", "two": "loaded"})

    def test_requests_to_models_that_come_and_go(self):
        server = self.start("--max-loaded", 1, "--idle-unload", 0.01)
        expected = server.post("/v1/completions", asked("one"))["choices"]  # both have the same weights
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda i: server.post("/v1/completions", asked(["one", "two"][i % 3 % 2])), range(60)))
        self.assertEqual([answer["choices"] for answer in answers], [expected] * 60)
        self.assertGreater(server.metric("model_unloads_total"), 2)

    def test_a_client_that_goes_while_its_model_loads(self):
        server = self.start("--max-loaded", 1, "--load-wait", 30)
        stream, _ = server.open_stream(model="one")
        body = json.dumps(asked("two"))
        gone = socket.create_connection(("127.0.0.1", server.port))
        gone.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nX-Request-Id: gone\r\n"
                     f"Content-Length: {len(body)}\r\n\r\n{body}".encode())
        time.sleep(0.2)
        gone.close()
        server.wait_until(lambda: any(line["id"] == "gone" and line["status"] is None for line in server.logged()))
        stream.close()
        server.wait_until(lambda: server.metric("num_requests_running") == 0)
        time.sleep(0.2)
        self.assertEqual(self.states(server), {"one": "loaded", "two": "unloaded"})  # nobody wants it any more
        self.assertEqual(server.post("/v1/completions", asked("one"))["model"], "one")

    def test_a_model_that_cannot_be_loaded(self):
        broken = make_model(MODEL, WORK / "broken")
        weights = broken / "model.safetensors"
        whole = weights.read_bytes()
        weights.write_bytes(whole[:len(whole) // 2])
        self.models["broken"] = broken
        self.addCleanup(self.models.pop, "broken")
        server = self.start()
        for _ in range(2):
            status, _, text = server.ask("POST", "/v1/completions", asked("broken"))
            error = json.loads(text)["error"]
            self.assertEqual((status, error["code"], error["param"]), (503, "model_failed", "model"))
            self.assertIn("model broken cannot be loaded: ", error["message"])
            self.assertIn("model.safetensors", error["message"])
        self.assertEqual(self.states(server)["broken"], "failed")
        self.assertIn("model.safetensors", json.loads(server.get("/v1/models/broken")[1])["failure"])
        self.assertEqual(server.get("/health")[0], 200)
        self.assertEqual(server.post("/v1/completions", asked("one"))["model"], "one")
        weights.write_bytes(whole)
        self.assertEqual(server.post("/v1/completions", asked("broken"))["model"], "broken")
        self.assertEqual(self.states(server)["broken"], "loaded")

    def test_unknown_and_missing_names_load_nothing(self):
        server = self.start()
        self.assertEqual(server.refused("/v1/completions", asked("none"), 404)["code"], "model_not_found")
        self.assertEqual(server.refused("/v1/completions", {"prompt": "a"})["param"], "model")
        self.assertEqual(server.get("/v1/models/none")[0], 404)
        self.assertEqual(set(self.states(server).values()), {"unloaded"})
        names = json.loads(server.get("/openapi.json")[1])["paths"]["/v1/embeddings"]["post"]["requestBody"]["content"]["application/json"]
        self.assertEqual(names["schema"]["properties"]["model"]["anyOf"][0]["enum"], ["one", "two"])

    def test_one_model_with_a_time_to_be_idle(self):
        server = self.start("--idle-unload", 0.2, models=[FOLDER])
        self.assertEqual(self.states(server), {"model": "loaded"})
        server.wait_until(lambda: self.states(server) == {"model": "unloaded"})
        self.assertEqual(server.post("/v1/completions", {"prompt": "a", "max_tokens": 1})["model"], "model")

    def test_flags_that_do_not_go_together(self):
        for arguments, text in [(["--alias", "one"], "--alias one: expected NAME=MODEL"), ([FOLDER, "--pin", "two"], "--pin two: no model is called so"),
                                ([FOLDER, "--alias", f"model={FOLDER}"], "two models are called model"),
                                (["--alias", f"a={FOLDER}", "--alias", f"b={FOLDER}", "--pin", "a", "--pin", "b", "--max-loaded", "1"],
                                 "--max-loaded is 1, but 2 models are pinned"), (["--pin", "a"], "serve: no model is named")]:
            with self.assertRaisesRegex(AssertionError, f"it ended with 2: .*{re.escape(text)}"):
                Server(models=arguments)

    def test_the_end_while_a_request_waits(self):
        server = Server("--max-loaded", 1, "--drain", 0, models=["--alias", f"one={FOLDER}", "--alias", f"two={FOLDER}"])
        stream, _ = server.open_stream(model="one")
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(server.ask, "POST", "/v1/completions", asked("two"))
            time.sleep(0.3)
            self.assertEqual(server.stop(), 8)
            status, _, text = waiting.result()
        self.assertEqual((status, json.loads(text)["error"]["code"]), (503, "shutting_down"))
        stream.close()


if __name__ == "__main__":
    FOLDER = make_model(MODEL, WORK / "model")
    Server.program, Server.folder, Server.work = PROGRAM, FOLDER, WORK
    try:
        unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
    finally:
        shutil.rmtree(WORK)
