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

from served import ENDLESS, Server, make_model

PROGRAM, MODEL = sys.argv[1], pathlib.Path(sys.argv[2])
WORK = pathlib.Path(tempfile.mkdtemp())


class Case(unittest.TestCase):
    """Tests of one server."""
    arguments = ()

    @classmethod
    def setUpClass(cls):
        cls.server = Server(*cls.arguments)

    @classmethod
    def tearDownClass(cls):
        code = cls.server.stop()
        if code != 0:
            raise AssertionError(f"it ended with {code}: {cls.server.errors}")


class Completions(Case):
    path = "/v1/completions"

    def complete(self, prompt="once upon", **fields):
        return self.server.post(self.path, {"prompt": prompt, "max_tokens": 8} | ENDLESS | fields)

    def test_answer(self):
        answer = self.complete(model="model")
        self.assertEqual((answer["object"], answer["model"]), ("text_completion", "model"))
        self.assertEqual([(c["index"], c["finish_reason"], c["logprobs"]) for c in answer["choices"]], [(0, "length", None)])
        self.assertEqual(answer["usage"]["prompt_tokens"], 9)
        self.assertEqual(answer["usage"]["completion_tokens"], 8)
        self.assertEqual(answer["usage"]["total_tokens"], 17)
        self.assertEqual(self.complete()["choices"][0]["text"], answer["choices"][0]["text"])

    def test_stream(self):
        whole = self.complete(max_tokens=40)
        chunks = self.server.stream(self.path, {"prompt": "once upon", "max_tokens": 40, "stream_options": {"include_usage": True}} | ENDLESS)
        self.assertEqual("".join(c["choices"][0]["text"] for c in chunks[:-1]), whole["choices"][0]["text"])
        self.assertEqual([c["choices"][0]["finish_reason"] for c in chunks[:-1]][-1], "length")
        self.assertEqual((chunks[-1]["choices"], chunks[-1]["usage"]["completion_tokens"]), ([], 40))
        self.assertTrue(all(chunk["usage"] is None for chunk in chunks[:-1]))
        options = {"include_usage": True, "continuous_usage_stats": True}
        counts = [chunk["usage"] for chunk in self.server.stream(self.path, {"prompt": "once upon", "max_tokens": 40, "stream_options": options} | ENDLESS)]
        said = [count["completion_tokens"] for count in counts]
        self.assertEqual((said, said[-1], {count["prompt_tokens"] for count in counts}), (sorted(said), 40, {9}))
        self.assertTrue(1 <= said[0] < 40, said)

    def test_prompts(self):
        text = self.complete("abc")["choices"][0]["text"]
        ids = self.server.post("/tokenize", {"prompt": "abc"})["tokens"]
        self.assertEqual(self.complete(ids)["choices"][0]["text"], text)
        both = self.complete(["abc", "once upon"], n=2)
        self.assertEqual([c["index"] for c in both["choices"]], [0, 1, 2, 3])
        self.assertEqual([c["text"] for c in both["choices"][:2]], [text, text])
        self.assertEqual(both["choices"][3]["text"], self.complete()["choices"][0]["text"])
        self.assertEqual(both["usage"]["prompt_tokens"], 12)
        self.assertEqual(both["usage"]["completion_tokens"], 32)
        self.assertEqual(self.complete([ids, ids])["choices"][1]["text"], text)

    def test_sampling(self):
        def draw(**fields):
            return [c["text"] for c in self.complete(temperature=1.5, max_tokens=24, **fields)["choices"]]
        self.assertEqual(draw(seed=7), draw(seed=7))
        self.assertNotEqual(draw(seed=7), draw(seed=8))
        self.assertNotEqual(draw(), draw())
        several = draw(seed=7, n=3)
        self.assertEqual(several[0], draw(seed=7)[0])
        self.assertEqual(several[1], draw(seed=8)[0])
        greedy = self.complete(max_tokens=24)["choices"][0]["text"]
        self.assertEqual(draw(seed=1, top_k=1), [greedy])
        self.assertEqual(draw(seed=1, min_p=1), [greedy])
        self.assertEqual(draw(seed=1, top_p=1e-6), [greedy])
        self.assertNotEqual(self.complete(max_tokens=24, frequency_penalty=2)["choices"][0]["text"], greedy)

    def test_bias_and_stop(self):
        self.assertEqual(self.complete(logit_bias={"65": 100}, max_tokens=5)["choices"][0]["text"], "AAAAA")
        stopped = self.complete(logit_bias={"65": 100}, stop=["zz", "AAA"], max_tokens=9)["choices"][0]
        self.assertEqual((stopped["text"], stopped["finish_reason"]), ("", "stop"))
        # What may begin a stop text, which is of several tokens, is held back in streams.
        chunks = self.server.stream(self.path, {"prompt": "a", "logit_bias": {"65": 100}, "stop": "AAA", "max_tokens": 9} | ENDLESS)
        self.assertEqual([("".join(c["choices"][0]["text"] for c in chunks)), chunks[-1]["choices"][0]["finish_reason"]], ["", "stop"])
        shown = {"include_stop_str_in_output": True, "logit_bias": {"65": 100}, "stop": ["zz", "AAA"], "max_tokens": 9}
        self.assertEqual(self.complete(**shown)["choices"][0], stopped | {"text": "AAA"})
        chunks = self.server.stream(self.path, {"prompt": "a"} | shown | ENDLESS)
        self.assertEqual("".join(c["choices"][0]["text"] for c in chunks), "AAA")
        chunks = self.server.stream(self.path, {"prompt": "a", "logit_bias": {"65": 100}, "stop": "AAAB", "max_tokens": 9} | ENDLESS)
        self.assertEqual("".join(c["choices"][0]["text"] for c in chunks), "A" * 9)
        by_token = self.complete(logit_bias={"65": 100}, stop_token_ids=[65])["choices"][0]
        self.assertEqual((by_token["text"], by_token["finish_reason"]), ("", "stop"))
        ended = self.complete(logit_bias={"2": 100}, ignore_eos=False)
        self.assertEqual((ended["choices"][0]["finish_reason"], ended["usage"]["completion_tokens"]), ("stop", 0))

    def test_logprobs(self):
        choice = self.complete("ab", max_tokens=3, logprobs=2, logit_bias={"65": 100})["choices"][0]
        found = choice["logprobs"]
        self.assertEqual((found["tokens"], found["text_offset"]), (["A"] * 3, [0, 1, 2]))
        # By their texts; the one that was drawn is among them, or comes beside them.
        self.assertTrue(all(1 <= len(top) <= 3 and max(top.values()) <= 0 for top in found["top_logprobs"]))
        self.assertEqual([top["A"] for top in found["top_logprobs"]], found["token_logprobs"])
        self.assertTrue(all(value <= 0 for value in found["token_logprobs"]))
        echo = self.complete("ab", max_tokens=1, logprobs=1, echo=True, logit_bias={"65": 100})["choices"][0]
        self.assertEqual((echo["text"], echo["logprobs"]["tokens"]), ("abA", ["a", "b", "A"]))
        self.assertIsNone(echo["logprobs"]["token_logprobs"][0])
        self.assertLessEqual(echo["logprobs"]["token_logprobs"][1], 0)
        scored = self.complete("ab", max_tokens=0, logprobs=0, echo=True)
        self.assertEqual((scored["choices"][0]["text"], scored["usage"]["completion_tokens"]), ("ab", 0))
        self.assertEqual(scored["choices"][0]["logprobs"]["token_logprobs"], echo["logprobs"]["token_logprobs"][:2])
        self.assertEqual(scored["choices"][0]["logprobs"]["top_logprobs"], [None, {"b": echo["logprobs"]["token_logprobs"][1]}])
        self.assertEqual(self.complete("ab", max_tokens=0, echo=True)["choices"][0]["text"], "ab")
        # Offsets count characters, as the text does: here those that stand for a byte of one.
        self.assertEqual(self.complete("éa", max_tokens=0, logprobs=0, echo=True)["choices"][0]["logprobs"]["text_offset"], [0, 1, 2])

    def test_whole_context(self):
        for limit, text in [({"max_tokens": 6}, 6), ({"max_tokens": None}, 6)]:
            answer = self.complete([65] * 4090, **limit)
            self.assertEqual((answer["usage"]["total_tokens"], answer["choices"][0]["finish_reason"]), (4096, "length"))
        self.assertEqual(self.complete(max_tokens=None)["usage"]["completion_tokens"], 16)

    def test_penalties(self):
        """Those of frequency and presence are of what was said: a token of the prompt alone is not penalized."""
        fields = {"logit_bias": {"65": 100, "66": 98.5}, "max_tokens": 3}
        self.assertEqual(self.complete("AAAA", **fields)["choices"][0]["text"], "AAA")
        for penalty in ("presence_penalty", "frequency_penalty"):
            self.assertEqual(self.complete("AAAA", **fields, **{penalty: 2})["choices"][0]["text"], "ABA")
        # That of repetition is of the prompt too.
        self.assertEqual(self.complete("AAAA", **fields, repetition_penalty=1.5)["choices"][0]["text"][0], "B")
        self.assertEqual(self.complete("CCCC", **fields, repetition_penalty=1.5)["choices"][0]["text"][:2], "AB")

    def test_numbers(self):
        self.assertEqual(self.complete(max_tokens=3.0, logit_bias={"65": 100}, stop_token_ids=[7.0])["choices"][0]["text"], "AAA")

    def test_refusals(self):
        for fields, param, code in [({"prompt": 5}, "prompt", None), ({"prompt": []}, "prompt", None), ({"prompt": ""}, "prompt", None),
                                    ({"prompt": [1, 600]}, "prompt", None), ({"prompt": [[1], ["a"]]}, "prompt[1]", None),
                                    ({"prompt": [1] * 5000}, "prompt", "context_length_exceeded"), ({"prompt": None}, "prompt", None),
                                    ({"n": 0}, "n", None), ({"n": 129}, "n", None), ({"prompt": ["a"] * 80, "n": 2}, "n", "conflicting_parameters"),
                                    ({"max_tokens": 0, "echo": True, "n": 2}, "n", "conflicting_parameters"), ({"min_tokens": 9}, "min_tokens", "conflicting_parameters"),
                                    ({"max_tokens": 4096}, "max_tokens", "context_length_exceeded"),
                                    ({"temperature": 3}, "temperature", None), ({"temperature": "x"}, "temperature", None),
                                    ({"top_p": 0}, "top_p", None), ({"max_tokens": -1}, "max_tokens", None), ({"max_tokens": 0}, "max_tokens", "conflicting_parameters"),
                                    ({"logit_bias": {"512": 1}}, "logit_bias", None), ({"logit_bias": {"1": 101}}, "logit_bias", None),
                                    ({"logit_bias": {"01": 1}}, "logit_bias", None), ({"logit_bias": {"-0": 1}}, "logit_bias", None), ({"stop": [""]}, "stop", None), ({"stop": [1]}, "stop", None),
                                    ({"stream_options": {}}, "stream_options", "conflicting_parameters"), ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "unsupported_parameter"),
                                    ({"stream": True, "stream_options": {"continuous_usage_stats": True}}, "stream_options.continuous_usage_stats", "conflicting_parameters"),
                                    ({"prompt_logprobs": 1}, "prompt_logprobs", "unsupported_parameter"),
                                    ({"suffix": "x"}, "suffix", "unsupported_parameter"), ({"best_of": 2}, "best_of", "unsupported_parameter"),
                                    ({"colour": "red"}, "colour", "unsupported_parameter"), ({"seed": 1.5}, "seed", None),
                                    ({"logprobs": 21}, "logprobs", None), ({"echo": 1}, "echo", None)]:
            with self.subTest(fields=str(fields)[:60]):
                error = self.server.refused(self.path, {"prompt": "a", "max_tokens": 8} | fields)
                self.assertEqual((error["param"], error["code"], error["type"]), (param, code, "invalid_request_error"), error)
                self.assertIn(param.split(".")[-1], error["message"])
        self.assertEqual(self.server.refused(self.path, {"prompt": "a", "model": "other"}, 404)["code"], "model_not_found")
        for harmless in [{"user": "me"}, {"metadata": {"a": "b"}}, {"store": True}, {"suffix": ""}, {"best_of": 1}, {"logit_bias": None}]:
            self.complete(**harmless)

    def test_messages(self):
        for fields, text in [({"prompt": ["a", 5]}, "prompt[1] is 5, expected a text or a list of token ids"), ({"prompt": []}, "prompt is an empty list, expected a text"),
                             ({"logit_bias": {"65": 101}}, "logit_bias.65 is 101, expected a number from -100 to 100"), ({"stop": ["a", 1]}, "stop[1] is 1, expected a text"),
                             ({"logit_bias": {"65": [1]}}, "logit_bias.65 is a list of 1, expected"), ({"temperature": "x" * 61}, "temperature is a text of 61 bytes, expected")]:
            self.assertIn(text, self.server.refused(self.path, {"prompt": "a"} | fields)["message"])

    def test_bodies(self):
        for body, code in [("{", "invalid_json"), ("[]", "invalid_json"), (b'{"prompt": "\xff"}', "invalid_json"),
                           ('{"prompt": ' + "[" * 100 + "]" * 100 + "}", "json_too_deep"),
                           ('{"metadata": ' + '{"a": ' * 50000 + "1" + "}" * 50001, "json_too_deep"),
                           (json.dumps({"prompt": "a", "metadata": {str(i): 1 for i in range(5000)}}), "json_too_large"),
                           (json.dumps({"prompt": "a", "metadata": {str(i): 1 for i in range(500_000)}}), "json_too_large")]:
            self.assertEqual(self.server.refused(self.path, body)["code"], code)
        for body, text in [('{"a":\n 1,}', "line 2, column 4: unexpected '}'"), ('{"a": ', "line 1, column 7: unexpected end"),
                           ('{"a": 1e999}', "a number that is too large"), ("[]", "the body is a list in JSON, expected an object")]:
            message = self.server.refused(self.path, body)["message"]
            self.assertIn(text, message)
            self.assertNotIn("exception", message)
        for kind in ["text/plain", "application/jsonp", "application/json-seq", "text/plain; application/json", ""]:
            status, _, text = self.server.ask("POST", self.path, "{}", {"Content-Type": kind})
            self.assertEqual((status, json.loads(text)["error"]["code"]), (415, "unsupported_media_type"), kind)
        for kind in ["application/json;charset=utf-8", "Application/JSON ; charset=utf-8"]:
            self.assertEqual(self.server.ask("POST", self.path, {"prompt": "a", "max_tokens": 1}, {"Content-Type": kind})[0], 200, kind)


class Chat(Case):
    path = "/v1/chat/completions"
    messages = [{"role": "user", "content": "hi"}]

    def chat(self, messages=None, **fields):
        return self.server.post(self.path, {"messages": messages or self.messages, "max_tokens": 8} | ENDLESS | fields)

    def test_answer(self):
        answer = self.chat(max_completion_tokens=4)
        choice = answer["choices"][0]
        self.assertEqual((answer["object"], choice["message"]["role"], choice["finish_reason"]), ("chat.completion", "assistant", "length"))
        prompt = self.server.post("/apply-template", {"messages": self.messages})["prompt"]
        self.assertEqual(prompt, "<|user|>hi<|end|><|assistant|>")
        same = self.server.post("/v1/completions", {"prompt": prompt, "max_tokens": 4} | ENDLESS)
        self.assertEqual(choice["message"]["content"], same["choices"][0]["text"])
        self.assertEqual(answer["usage"]["prompt_tokens"], 5)

    def test_stream(self):
        whole = self.chat(n=2, temperature=1, seed=3)
        chunks = self.server.stream(self.path, {"messages": self.messages, "max_tokens": 8, "n": 2, "seed": 3, "temperature": 1, "ignore_eos": True})
        for index, choice in enumerate(whole["choices"]):
            mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
            self.assertEqual(mine[0]["delta"], {"role": "assistant", "content": ""})
            self.assertEqual("".join(c["delta"].get("content", "") for c in mine), choice["message"]["content"])
            self.assertEqual([c["finish_reason"] for c in mine][-1], "length")
        self.assertTrue(all(c["object"] == "chat.completion.chunk" for c in chunks))

    def test_logprobs(self):
        found = self.chat(logprobs=True, top_logprobs=2, max_tokens=2, logit_bias={"65": 100})["choices"][0]["logprobs"]["content"]
        self.assertEqual([(e["token"], e["bytes"], len(e["top_logprobs"])) for e in found], [("A", [65], 2)] * 2)
        self.assertEqual(self.server.refused(self.path, {"messages": self.messages, "top_logprobs": 1})["param"], "top_logprobs")

    def test_conversations(self):
        def prompt(messages, **fields):
            return self.server.post("/apply-template", {"messages": messages} | fields)["prompt"]
        self.assertEqual(prompt([{"role": "developer", "content": "x"}]), "<|system|>x<|end|><|assistant|>")
        self.assertEqual(prompt([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]),
                         "<|user|>a\nb<|end|><|assistant|>")
        prefilled = self.messages + [{"role": "assistant", "content": "Sure"}]
        self.assertEqual(prompt(prefilled, continue_final_message=True), "<|user|>hi<|end|><|assistant|>Sure")
        answer = self.chat(prefilled, continue_final_message=True)
        same = self.server.post("/v1/completions", {"prompt": "<|user|>hi<|end|><|assistant|>Sure", "max_tokens": 8} | ENDLESS)
        self.assertEqual(answer["choices"][0]["message"]["content"], same["choices"][0]["text"])

    def test_thoughts(self):
        # What the model says is decided by biases and stops: a thought in which it says A, and what comes after.
        fields = {"logit_bias": {"65": 100}, "max_tokens": 4}
        plain = self.chat(**fields)["choices"][0]["message"]
        self.assertEqual((plain["content"], plain["reasoning_content"]), ("AAAA", None))
        thinking = {"chat_template_kwargs": {"enable_thinking": True}}
        thought = self.chat(**fields, **thinking)["choices"][0]["message"]
        self.assertEqual((thought["content"], thought["reasoning_content"]), ("", "AAAA"))
        budget = self.chat(**(fields | {"max_tokens": 6}), **thinking, thinking_budget=4)
        self.assertEqual((budget["choices"][0]["message"]["reasoning_content"], budget["choices"][0]["message"]["content"]), ("AAAA", "AA"))
        self.assertEqual((budget["choices"][0]["finish_reason"], budget["usage"]["completion_tokens"]), ("length", 6))
        self.assertEqual(self.chat(**fields, **thinking, thinking_budget=10**6)["choices"][0]["message"]["reasoning_content"], "AAAA")
        least = self.chat(**(fields | {"max_tokens": 8}), **thinking, thinking_budget=2, min_tokens=7, ignore_eos=False)
        self.assertGreaterEqual(least["usage"]["completion_tokens"], 7)
        # The tag that closes the thought takes of the context, so that the answer is shorter than it might be.
        long = [{"role": "user", "content": "a" * 4000}]
        room = 4096 - self.server.post("/tokenize", {"messages": long} | thinking)["count"]
        full = self.chat(long, **(fields | {"max_tokens": room}), **thinking, thinking_budget=3)
        self.assertEqual(full["choices"][0]["finish_reason"], "length")
        self.assertLess(full["usage"]["completion_tokens"], room)
        self.assertGreater(full["usage"]["completion_tokens"], room - 20)
        chunks = self.server.stream(self.path, {"messages": self.messages, "thinking_budget": 3} | ENDLESS | fields | thinking)
        deltas = [c["choices"][0]["delta"] for c in chunks]
        self.assertEqual("".join(d.get("reasoning_content", "") for d in deltas), "AAA")
        self.assertEqual("".join(d.get("content", "") for d in deltas), "A")
        # What was said of the answer before the cut is penalized after it.
        choosing = {"logit_bias": {"65": 100, "66": 98.5, "67": 97}, "max_tokens": 3, "presence_penalty": 1.6}
        cut = self.chat(**choosing, **thinking, thinking_budget=1)["choices"][0]["message"]
        self.assertEqual((cut["reasoning_content"], cut["content"]), ("A", "BA"))
        whole = self.chat(**fields, **thinking, separate_reasoning=False)["choices"][0]["message"]
        self.assertEqual(whole["content"], "AAAA")

    def test_refusals(self):
        for fields, param in [({"messages": []}, "messages"), ({"messages": "hi"}, "messages"), ({"messages": [{"role": "user"}]}, "messages[0].content"),
                              ({"messages": [{"content": "a"}]}, "messages[0].role"), ({"messages": ["a"]}, "messages[0]"),
                              ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages[0].content[0].type"),
                              ({"tools": [{"type": "function"}]}, "tools[0].function"), ({"functions": [{"name": "a b"}]}, "functions[0].name"),
                              ({"continue_final_message": True}, "continue_final_message"), ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
                              ({"max_completion_tokens": 0}, "max_completion_tokens"), ({"max_completion_tokens": 5000}, "max_completion_tokens"),
                              ({"messages": [{"role": "assistant", "tool_calls": 5}]}, "messages[0].tool_calls"), ({"prompt": "x"}, "prompt"), ({"thinking_budget": 4, "n": 2}, "thinking_budget")]:
            with self.subTest(fields=fields):
                self.assertEqual(self.server.refused(self.path, {"messages": self.messages} | fields)["param"], param)
        roles = "system, developer, user, assistant, tool, function"
        for messages, text in [([], "messages is an empty list, expected a list of at least one message"),
                               ([*self.messages, {"role": "robot", "content": "a"}], f'messages[1].role is "robot", expected one of {roles}'),
                               ([{"role": 5, "content": "a"}], f"messages[0].role is 5, expected one of {roles}"),
                               ([{"content": "a"}], f"messages[0].role is missing, expected one of {roles}")]:
            self.assertEqual(self.server.refused(self.path, {"messages": messages})["message"], text)
        for role in roles.split(", "):
            self.chat([{"role": role, "content": "a"}])
        for harmless in [{"tools": []}, {"tool_choice": "none"}, {"response_format": {"type": "text"}}, {"parallel_tool_calls": True}]:
            self.chat(**harmless)


class Responses(Case):
    path = "/v1/responses"

    def respond(self, value="hi", **fields):
        return self.server.post(self.path, {"input": value, "max_output_tokens": 4, "logit_bias": {"65": 100}} | ENDLESS | fields)

    def events(self, **fields):
        status, _, text = self.server.ask("POST", self.path, {"input": "hi", "max_output_tokens": 4, "stream": True, "logit_bias": {"65": 100}} | ENDLESS | fields)
        self.assertEqual(status, 200, text)
        events = [event.split("\n") for event in text.split("\n\n")[:-1]]
        found = [json.loads(data.removeprefix("data: ")) for _, data in events]
        self.assertEqual([name for name, _ in events], [f"event: {event['type']}" for event in found])
        self.assertEqual([event["sequence_number"] for event in found], list(range(len(found))))
        return found

    def test_answer(self):
        answer = self.respond(instructions="be brief", metadata={"a": "b"})
        self.assertEqual((answer["object"], answer["status"], answer["incomplete_details"]), ("response", "incomplete", {"reason": "max_output_tokens"}))
        self.assertEqual([item["type"] for item in answer["output"]], ["message"])
        self.assertEqual(answer["output"][0]["content"][0]["text"], "AAAA")
        self.assertEqual(answer["usage"]["input_tokens_details"], {"cached_tokens": 0, "cache_write_tokens": 0})
        self.assertEqual((answer["instructions"], answer["metadata"], answer["usage"]["output_tokens"]), ("be brief", {"a": "b"}, 4))
        self.assertEqual(answer["output"][0]["status"], "incomplete")
        whole = self.respond(logit_bias={"2": 100}, ignore_eos=False)
        self.assertEqual((whole["status"], whole["output"][0]["status"]), ("completed", "completed"))

    def test_thoughts(self):
        thinking = {"chat_template_kwargs": {"enable_thinking": True}}
        answer = self.respond(**thinking)
        self.assertEqual([(item["type"], item["content"][0]["text"]) for item in answer["output"]], [("reasoning", "AAAA")])
        self.assertEqual(answer["usage"]["output_tokens_details"]["reasoning_tokens"], 4)
        items = [{"role": "user", "content": "a"}, *answer["output"], {"role": "user", "content": [{"type": "input_text", "text": "b"}]}]
        self.assertEqual(self.respond(items)["output"][0]["content"][0]["text"], "AAAA")

    def test_stream(self):
        events = self.events()
        self.assertEqual([e["type"] for e in events if not e["type"].endswith("delta")],
                         ["response." + name for name in ["created", "in_progress", "output_item.added", "content_part.added", "output_text.done",
                                                          "content_part.done", "output_item.done", "incomplete"]])
        self.assertEqual("".join(e["delta"] for e in events if e["type"] == "response.output_text.delta"), "AAAA")
        self.assertEqual(events[-1]["response"]["output"][0]["content"][0]["text"], "AAAA")
        thought = self.events(chat_template_kwargs={"enable_thinking": True})
        self.assertEqual("".join(e["delta"] for e in thought if e["type"] == "response.reasoning_text.delta"), "AAAA")

    def test_logprobs(self):
        asked = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
        for fields in [{}, {"chat_template_kwargs": {"enable_thinking": True}, "logit_bias": {"257": 100}, "stop": "zz", "max_output_tokens": 3}]:
            found = self.respond(**asked, **fields)["output"][-1]["content"][0]["logprobs"]
            self.assertTrue(found)
            self.assertEqual({len(entry["top_logprobs"]) for entry in found}, {2})
        answer = self.respond(**asked)
        part = answer["output"][0]["content"][0]
        self.assertEqual(([entry["token"] for entry in part["logprobs"]], answer["top_logprobs"]), (["A"] * 4, 2))
        events = self.events(**asked)
        deltas = [entry for e in events if e["type"] == "response.output_text.delta" for entry in e["logprobs"]]
        self.assertEqual(deltas, part["logprobs"])
        for kind in ("response.output_text.done", "response.content_part.done"):
            event = next(e for e in events if e["type"] == kind)
            self.assertEqual(event.get("part", event)["logprobs"], part["logprobs"])
        self.assertEqual(self.respond(text={"verbosity": "low", "format": {"type": "text"}})["output"][0]["content"][0]["logprobs"], [])
        # Of a token whose text ended the answer.
        stopped = self.respond(**asked, stop="AA")["output"][0]["content"][0]
        self.assertEqual((stopped["text"], [entry["token"] for entry in stopped["logprobs"]]), ("", ["A", "A"]))

    def test_messages(self):
        for fields, text in [({"input": [{"role": "robot", "content": "a"}]}, 'input[0].role is "robot", expected one of system, developer, user, assistant'),
                             ({"input": []}, "input is an empty list, expected a text or a list of at least one item"),
                             ({"top_logprobs": 21}, "top_logprobs is 21, expected an integer from 0 to 20"), ({"n": 2}, "n is 2, expected 1: a response is one"),
                             ({"top_logprobs": 1}, "top_logprobs needs message.output_text.logprobs in include"),
                             ({"include": ["reasoning.encrypted_content"]}, "include: message.output_text.logprobs alone can be included here"),
                             ({"include": {}}, "include is an empty object, expected a list")]:
            self.assertEqual(self.server.refused(self.path, {"input": "hi"} | fields)["message"], text)

    def test_refusals(self):
        for fields, param in [({"input": []}, "input"), ({"input": 1}, "input"), ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
                              ({"input": [{"type": "web_search_call"}]}, "input[0].type"), ({"input": [{"type": "reasoning", "content": "hm"}]}, "input"),
                              ({"max_output_tokens": 5000}, "max_output_tokens"), ({"max_output_tokens": 0}, "max_output_tokens"), ({"previous_response_id": "x"}, "previous_response_id"),
                              ({"tools": [{}]}, "tools[0].type"), ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"), ({"text": {"form": 1}}, "text.form"), ({"n": 2}, "n"), ({"max_tokens": 1}, "max_tokens")]:
            with self.subTest(fields=fields):
                self.assertEqual(self.server.refused(self.path, {"input": "a"} | fields)["param"], param)


class Rest(Case):
    def test_openapi(self):
        document = json.loads(self.server.get("/openapi.json")[1])
        self.assertEqual(len(document["paths"]), 18)
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
