#!/usr/bin/env python3
"""What `metal-marlin serve` answers by OpenAI's API, with a small model that knows nothing: completions, chats, responses.

Usage: serve_answers_test.py METAL_MARLIN MODEL_FOLDER
"""
import json
import pathlib
import shutil
import sys
import tempfile
import unittest
from served import ENDLESS, Case, Server, make_model

PROGRAM, MODEL = sys.argv[1], pathlib.Path(sys.argv[2])
WORK = pathlib.Path(tempfile.mkdtemp())


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
                              ({"chat_template_kwargs": {"bos_token": "x"}}, "chat_template_kwargs"),
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


if __name__ == "__main__":
    FOLDER = make_model(MODEL, WORK / "model")
    Server.program, Server.folder, Server.work = PROGRAM, FOLDER, WORK
    try:
        unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
    finally:
        shutil.rmtree(WORK)
