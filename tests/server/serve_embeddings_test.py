#!/usr/bin/env python3
"""Vectors and reranking of `metal-marlin serve`, beside those of `metal-marlin embed`.

Usage: serve_embeddings_test.py METAL_MARLIN MODEL_FOLDER
"""
import base64
import concurrent.futures
import json
import math
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import unittest

from served import Server, make_model

PROGRAM, MODEL = sys.argv[1], pathlib.Path(sys.argv[2])
WORK = pathlib.Path(tempfile.mkdtemp())
TEXTS = ["once upon a time", "a", "Füße, 東京"]
PAIRS = """{% for m in messages %}{% if m.role == 'query' %}Q:{{ m.content }}{% elif m.role == 'document' %} D:{{ m.content }}{% else %}\
<|{{ m.role }}|>{{ m.content }}{% endif %}{% endfor %} A:"""


def command(*arguments, folder=None, texts=TEXTS):
    """What `metal-marlin embed` prints."""
    lines = "\n".join(texts) + "\n"
    return subprocess.run([PROGRAM, "embed", str(folder or FOLDER), "--threads", "2", *map(str, arguments)], input=lines, capture_output=True,
                          text=True, check=False)


def with_modules(folder, modules, **files):
    """sentence-transformers' files beside a model's."""
    listed = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for kind, config in modules:
        listed.append({"path": f"{len(listed)}_{kind}", "type": f"sentence_transformers.models.{kind}"})
        (folder / listed[-1]["path"]).mkdir()
        if config is not None:
            (folder / listed[-1]["path"] / "config.json").write_text(json.dumps(config))
    (folder / "modules.json").write_text(json.dumps(listed))
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


class Vectors(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--context", 256)

    @classmethod
    def tearDownClass(cls):
        if cls.server.stop() != 0:
            raise AssertionError(cls.server.errors)

    def embed(self, given, **fields):
        answer = self.server.post("/v1/embeddings", {"input": given} | fields)
        self.assertEqual((answer["object"], answer["model"]), ("list", "model"))
        self.assertEqual([item["index"] for item in answer["data"]], list(range(len(answer["data"]))))
        return [item["embedding"] for item in answer["data"]]

    def test_every_kind_of_input(self):
        vectors = self.embed(TEXTS)
        self.assertEqual(len(vectors[0]), 128)
        self.assertAlmostEqual(sum(x * x for x in vectors[0]), 1, 5)
        self.assertEqual(self.embed(TEXTS[0]), vectors[:1])
        ids = [self.server.post("/tokenize", {"prompt": text})["tokens"] for text in TEXTS]
        self.assertEqual(self.embed(ids), vectors)
        self.assertEqual(self.embed(ids[0]), vectors[:1])
        self.assertEqual(self.embed([TEXTS[0], ids[1], TEXTS[2]]), vectors)
        usage = self.server.post("/v1/embeddings", {"input": TEXTS})["usage"]
        self.assertEqual(usage, {"prompt_tokens": sum(map(len, ids)), "total_tokens": sum(map(len, ids))})

    def test_the_command_gives_the_same(self):
        report = json.loads(command("--json").stdout)
        self.assertEqual((report["pooling"], report["normalized"], report["dimensions"]), ("mean", True, 128))
        single = [struct.unpack("f", struct.pack("f", x))[0] for x in self.embed(TEXTS)[2]]
        self.assertEqual([struct.unpack("f", struct.pack("f", x))[0] for x in report["embeddings"][2]], single)
        lines = command("--pooling", "last", "--no-normalize", "--dimensions", 3).stdout.splitlines()
        self.assertEqual([len(json.loads(line)) for line in lines], [3, 3, 3])
        command("-o", WORK / "x.npy")
        raw = (WORK / "x.npy").read_bytes()
        self.assertIn(b"'shape': (3, 128)", raw)
        self.assertEqual(list(struct.unpack("<128f", raw[-512:])), single)
        for arguments, texts, text in [([], ["a", "", "b"], "line 2 is empty"), (["--context", 4], TEXTS, "input 0 has 16 tokens, the context of embeddings has 4"),
                                       (["--dimensions", 129], TEXTS, "dimensions is 129"), (["--prompt-name", "query"], TEXTS, "no prompts")]:
            failed = command(*arguments, texts=texts)
            self.assertNotEqual(failed.returncode, 0)
            self.assertIn(text, failed.stderr)

    def test_base64_and_dimensions(self):
        [plain] = self.embed("abc", dimensions=5)
        [packed] = self.embed("abc", dimensions=5, encoding_format="base64")
        unpacked = struct.unpack("<5f", base64.b64decode(packed, validate=True))
        self.assertEqual(list(unpacked), [struct.unpack("f", struct.pack("f", x))[0] for x in plain])
        self.assertAlmostEqual(sum(x * x for x in plain), 1, 5)
        whole = self.embed("abc")[0][:5]
        length = math.sqrt(sum(x * x for x in whole))
        for ours, theirs in zip(plain, whole):
            self.assertAlmostEqual(ours, theirs / length, 5)

    def test_what_is_refused(self):
        for body, param, text in [({}, "input", "missing"), ({"input": []}, "input", "empty list"), ({"input": ""}, "input", "no tokens"),
                                  ({"input": ["a", ""]}, "input", "input[1] has no tokens"), ({"input": [1, 2, 5000]}, "input", "token id"),
                                  ({"input": ["a", 1]}, "input", "input[1]"), ({"input": "a", "dimensions": 129}, "dimensions", "128"),
                                  ({"input": "a", "encoding_format": "hex"}, "encoding_format", "float, base64"), ({"input": "a", "n": 2}, "n", "n"),
                                  ({"input": ["a"] * 2049}, "input", "2048"), ({"input": "a", "prompt_name": "query"}, "prompt_name", "query")]:
            error = self.server.refused("/v1/embeddings", body)
            self.assertEqual(error["param"], param, error)
            self.assertIn(text, error["message"])
        error = self.server.refused("/v1/embeddings", {"input": "a" * 300})
        self.assertEqual((error["code"], "300 tokens" in error["message"], "256" in error["message"]), ("context_length_exceeded", True, True))

    def test_many_at_once_beside_a_stream(self):
        expected = self.embed(TEXTS)
        stream, _ = self.server.open_stream(max_tokens=200)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda i: self.embed(TEXTS[i % 3]), range(40)))
        self.assertEqual(answers, [[expected[i % 3]] for i in range(40)])
        stream.close()

    def test_a_client_that_goes_has_its_request_cancelled(self):
        body = json.dumps({"input": ["word " * 50] * 2048})
        gone = socket.create_connection(("127.0.0.1", self.server.port))
        gone.sendall(f"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        self.server.wait_until(lambda: self.server.metric("num_embedding_requests") == 1)
        gone.close()
        self.server.wait_until(lambda: self.server.metric("num_embedding_requests") == 0)
        self.assertGreater(self.server.metric("request_success_total", 'finished_reason="error"'), 0)

    def test_reranking_by_vectors(self):
        documents = ["zzz", {"text": "once upon a time"}, "b"]
        body = {"query": "once upon a time", "documents": documents, "return_documents": True}
        answer = self.server.post("/v1/rerank", body)
        self.assertEqual(answer["results"][0]["index"], 1)
        self.assertAlmostEqual(answer["results"][0]["relevance_score"], 1, 5)
        self.assertEqual(answer["results"][0]["document"], {"text": "once upon a time"})
        scores = [result["relevance_score"] for result in answer["results"]]
        self.assertEqual(scores, sorted(scores, reverse=True))
        query, *others = self.embed(["once upon a time", "zzz", "b"])
        by_index = {result["index"]: result["relevance_score"] for result in answer["results"]}
        for index, vector in zip([0, 2], others):
            self.assertAlmostEqual(by_index[index], sum(a * b for a, b in zip(query, vector)), 5)
        short = self.server.post("/rerank", {"query": "a", "documents": ["b", "c"], "top_n": 1})
        self.assertEqual([set(result) for result in short["results"]], [{"index", "relevance_score"}])
        for body, param in [({"documents": ["a"]}, "query"), ({"query": "a", "documents": []}, "documents"), ({"query": "a", "documents": [1]}, "documents"),
                            ({"query": "a", "documents": ["a"], "top_n": 0}, "top_n"), ({"query": "a", "documents": [{"title": "a", "text": "b"}]}, "documents[0].title")]:
            self.assertEqual(self.server.refused("/v1/rerank", body)["param"], param)


class Described(unittest.TestCase):
    """Folders whose files tell how vectors are made."""

    def test_pooling_and_prompts_of_the_folder(self):
        folder = with_modules(make_model(MODEL, WORK / "described"), [("Pooling", {"pooling_mode": "lasttoken"})],
                              config_sentence_transformers={"prompts": {"query": "Find: ", "document": ""}})
        server = Server(models=[folder])

        def embed(text, **fields):
            return server.post("/v1/embeddings", {"input": text} | fields)["data"][0]["embedding"]
        self.assertEqual(embed("a", prompt_name="query"), embed("Find: a"))
        self.assertNotAlmostEqual(sum(x * x for x in embed("a")), 1, 2)  # no module normalizes
        report = json.loads(command("--json", "--prompt-name", "query", folder=folder, texts=["a"]).stdout)
        self.assertEqual((report["pooling"], report["normalized"]), ("last", False))
        for ours, theirs in zip(report["embeddings"][0], embed("Find: a")):
            self.assertAlmostEqual(ours, theirs, 5)
        answer = server.post("/v1/rerank", {"query": "a", "documents": ["Find: a", "b"]})
        self.assertEqual(answer["results"][0]["index"], 0)
        self.assertAlmostEqual(answer["results"][0]["relevance_score"], 1, 5)
        self.assertEqual(server.stop(), 0)

    def test_quantized_folders_keep_the_files(self):
        folder = with_modules(make_model(MODEL, WORK / "to_quantize"), [("Pooling", {"pooling_mode_cls_token": True}), ("Normalize", None)])
        subprocess.run([PROGRAM, "quantize", str(folder), "-o", str(WORK / "quantized"), "--format", "int8"], check=True, capture_output=True)
        report = json.loads(command("--json", folder=WORK / "quantized").stdout)
        self.assertEqual((report["pooling"], report["normalized"]), ("cls", True))

    def test_modules_that_are_not_there(self):
        folder = with_modules(make_model(MODEL, WORK / "dense"), [("Pooling", {}), ("Dense", {})])
        self.assertIn("Dense", command(folder=folder).stderr)
        server = Server(models=[folder])  # it still talks
        self.assertEqual(server.refused("/v1/embeddings", {"input": "a"})["code"], "unsupported_model")
        server.post("/v1/completions", {"prompt": "a", "max_tokens": 1})
        self.assertEqual(server.stop(), 0)

    def test_reranking_by_a_model_that_answers_yes_or_no(self):
        yes, no = ord("y"), ord("n")
        folder = with_modules(make_model(MODEL, WORK / "asked", template=PAIRS), [("LogitScore", {"true_token_id": yes, "false_token_id": no})])
        server = Server(models=[folder])
        documents = ["one", "two", "three"]
        answer = server.post("/v1/rerank", {"query": "what", "documents": documents})
        for result in answer["results"]:
            prompt = f"Q:what D:{documents[result['index']]} A:"
            # The probabilities of both, each of the prompt that goes on with it.
            logprob = {}
            for token in [yes, no]:
                ids = server.post("/tokenize", {"prompt": prompt})["tokens"] + [token]
                logprob[token] = server.post("/v1/completions", {"prompt": ids, "max_tokens": 0, "echo": True, "logprobs": 0}
                                             )["choices"][0]["logprobs"]["token_logprobs"][-1]
            odds = math.exp(logprob[yes]) / (math.exp(logprob[yes]) + math.exp(logprob[no]))
            self.assertAlmostEqual(result["relevance_score"], odds, 4)
        scores = [result["relevance_score"] for result in answer["results"]]
        self.assertEqual(scores, sorted(scores, reverse=True))
        self.assertIn("128", server.refused("/v1/rerank", {"query": "a", "documents": ["a"] * 129})["message"])
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    FOLDER = make_model(MODEL, WORK / "model")
    Server.program, Server.folder, Server.work = PROGRAM, FOLDER, WORK
    try:
        unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
    finally:
        shutil.rmtree(WORK)
