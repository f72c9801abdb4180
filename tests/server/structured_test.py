#!/usr/bin/env python3
"""Answers of `metal-marlin serve` that are held to a grammar, as clients ask for them.

Usage: structured_test.py METAL_MARLIN MODEL_FOLDER
"""
import json
import pathlib
import re
import shutil
import sys
import tempfile
import threading
import time
import unittest

from served import ENDLESS, Server, make_model

PROGRAM, MODEL = sys.argv[1], pathlib.Path(sys.argv[2])
WORK = pathlib.Path(tempfile.mkdtemp())
PLACE = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "side": {"enum": ["left", "right"]}},
         "required": ["n", "side"], "additionalProperties": False}
IS_PLACE = r'\{"n": ?[1-9]?[0-9], ?"side": ?"(left|right)"\}'
CODE = 'root ::= "a" [b-c]{2}'
# A schema of which each part holds the next one twice: 2^20 in all.
BOMB = {"$defs": {f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2, "minItems": i} for i in range(20)} | {"d20": {"maxItems": 3}},
        "allOf": [{"$ref": "#/$defs/d0"}, {"type": "object"}]}
THINKING = {"chat_template_kwargs": {"enable_thinking": True}}


def named(schema):
    return {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": schema}}


# What every route takes, and the pattern of what comes of it.
COMMON = [({"guided_json": PLACE}, IS_PLACE), ({"guided_json": json.dumps(PLACE)}, IS_PLACE), ({"json_schema": PLACE}, IS_PLACE),
          ({"structured_outputs": {"json": PLACE}}, IS_PLACE), ({"guided_regex": "[0-9]{3}"}, "[0-9]{3}"),
          ({"structured_outputs": {"regex": "[0-9]{3}"}}, "[0-9]{3}"), ({"guided_choice": ["left", "right"]}, "left|right"),
          ({"structured_outputs": {"choice": ["left"]}}, "left"), ({"guided_grammar": CODE}, "a[bc]{2}"), ({"grammar": CODE}, "a[bc]{2}"),
          ({"structured_outputs": {"grammar": CODE}}, "a[bc]{2}")]
FORMATS = [({"response_format": named(PLACE)}, IS_PLACE), ({"response_format": {"type": "json_object", "schema": PLACE}}, IS_PLACE)]


class Structured(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()

    @classmethod
    def tearDownClass(cls):
        code = cls.server.stop()
        if code != 0:
            raise AssertionError(f"it ended with {code}: {cls.server.errors}")

    def chat(self, **fields):
        # 256 opens a thought.
        return {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 80, "temperature": 1.0, "seed": 5, "logit_bias": {"256": -100}} | fields

    def test_chats(self):
        for fields, pattern in COMMON + FORMATS:
            with self.subTest(fields=fields):
                choice = self.server.post("/v1/chat/completions", self.chat(**fields))["choices"][0]
                text = choice["message"]["content"]
                self.assertIsNotNone(re.fullmatch(pattern, text), text)
                self.assertEqual(choice["finish_reason"], "stop")
                chunks = self.server.stream("/v1/chat/completions", self.chat(**fields))
                self.assertEqual("".join(c["choices"][0]["delta"].get("content", "") for c in chunks), text)

    def test_completions(self):
        for fields, pattern in COMMON + FORMATS:
            with self.subTest(fields=fields):
                answer = self.server.post("/v1/completions", {"prompt": ["a", "b"], "n": 2, "max_tokens": 80, "temperature": 1.0, "seed": 3} | fields)
                self.assertEqual([c["finish_reason"] for c in answer["choices"]], ["stop"] * 4)
                for choice in answer["choices"]:
                    self.assertIsNotNone(re.fullmatch(pattern, choice["text"]), choice["text"])

    def test_responses(self):
        form = {"type": "json_schema", "name": "place", "schema": PLACE, "strict": True}
        for fields, pattern in COMMON + [({"text": {"format": form, "verbosity": "low"}}, IS_PLACE)]:
            with self.subTest(fields=fields):
                answer = self.server.post("/v1/responses", {"input": "hi", "max_output_tokens": 80, "seed": 5, "logit_bias": {"256": -100}} | fields)
                self.assertEqual((answer["status"], len(answer["output"])), ("completed", 1))
                text = answer["output"][0]["content"][0]["text"]
                self.assertIsNotNone(re.fullmatch(pattern, text), text)
                self.assertEqual(answer["text"], fields.get("text", {"format": {"type": "text"}}))

    def test_any_object(self):
        for fields in [{"response_format": {"type": "json_object"}}, {"structured_outputs": {"json_object": True}}]:
            # A bias for the closing brace, as nothing else ends a random model's object.
            choice = self.server.post("/v1/chat/completions", self.chat(**fields, logit_bias={"256": -100, str(ord("}")): 12}))["choices"][0]
            self.assertEqual(choice["finish_reason"], "stop", choice)
            self.assertIsInstance(json.loads(choice["message"]["content"]), dict)

    def test_nothing_asked_for(self):
        plain = self.server.post("/v1/chat/completions", self.chat())["choices"][0]["message"]
        for fields in [{"response_format": {"type": "text"}}, {"response_format": None, "guided_json": None}, {"structured_outputs": {}}]:
            self.assertEqual(self.server.post("/v1/chat/completions", self.chat(**fields))["choices"][0]["message"], plain)

    def test_cut_off(self):
        choice = self.server.post("/v1/chat/completions", self.chat(response_format=named(PLACE), max_tokens=4))["choices"][0]
        self.assertEqual((choice["finish_reason"], choice["message"]["content"][:4]), ("length", '{"n"'))
        answer = self.server.post("/v1/responses", {"input": "hi", "max_output_tokens": 4, "guided_json": PLACE, "logit_bias": {"256": -100}})
        self.assertEqual((answer["status"], answer["incomplete_details"]), ("incomplete", {"reason": "max_output_tokens"}))

    def test_behind_a_thought(self):
        fields = self.chat(response_format=named(PLACE), max_tokens=300, **THINKING)
        for more in [{"logit_bias": {"257": 4}}, {"logit_bias": {"257": -100}, "thinking_budget": 9}, {"logit_bias": {"257": 8}, "thinking_budget": 12}]:
            with self.subTest(more=more):
                choice = self.server.post("/v1/chat/completions", fields | more)["choices"][0]
                self.assertIsNotNone(re.fullmatch(IS_PLACE, choice["message"]["content"]), choice)
                self.assertEqual(choice["finish_reason"], "stop")
        whole = self.server.post("/v1/chat/completions", fields | {"logit_bias": {"257": 4}, "separate_reasoning": False})["choices"][0]["message"]["content"]
        self.assertIsNotNone(re.fullmatch(IS_PLACE, whole.rsplit("</think>", 1)[1].lstrip("\n")), whole)

    def test_a_budget_that_ends_within_the_text(self):
        """The thought is over before its budget is, which ends within the grammar's text: that goes on as it is."""
        fields = self.chat(guided_regex="[a-z]{30}", logit_bias={"257": 100}, **THINKING)
        plain = self.server.post("/v1/chat/completions", fields | {"temperature": 0})["choices"][0]["message"]
        cut = self.server.post("/v1/chat/completions", fields | {"temperature": 0, "thinking_budget": 7})["choices"][0]["message"]
        self.assertEqual(len(cut["content"]), 30)
        self.assertEqual(cut, plain)

    def test_refusals(self):
        schema = "response_format.json_schema.schema"
        for fields, param, code in [({"response_format": "json"}, "response_format", None), ({"response_format": {"type": "xml"}}, "response_format.type", None),
                                    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", None),
                                    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, schema, None),
                                    ({"response_format": named({"not": {}})}, schema, "invalid_grammar"), ({"response_format": named({"type": "float"})}, schema, "invalid_grammar"),
                                    ({"response_format": {"type": "json_object", "colour": 1}}, "response_format.colour", "unsupported_parameter"),
                                    ({"guided_json": 5}, "guided_json", None), ({"guided_json": "{"}, "guided_json", "invalid_grammar"),
                                    ({"guided_json": json.dumps({str(i): 1 for i in range(5000)})}, "guided_json", "invalid_grammar"),
                                    ({"guided_regex": "(?=a)"}, "guided_regex", "invalid_grammar"), ({"guided_regex": ""}, "guided_regex", None),
                                    ({"guided_choice": []}, "guided_choice", None), ({"guided_choice": ["a", 1]}, "guided_choice", None),
                                    ({"guided_grammar": "root ::= x"}, "guided_grammar", "invalid_grammar"), ({"grammar": "a"}, "grammar", "invalid_grammar"),
                                    ({"structured_outputs": {"regex": "a", "structural_tag": "x"}}, "structured_outputs.structural_tag", "unsupported_parameter"),
                                    ({"structured_outputs": {"regex": "a", "choice": ["b"]}}, "structured_outputs.choice", "conflicting_parameters"),
                                    ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "guided_regex", "conflicting_parameters"),
                                    ({"guided_regex": "()"}, "guided_regex", "invalid_grammar"), ({"text": {"format": {"type": "json_object"}}}, "text", "unsupported_parameter")]:
            with self.subTest(fields=fields):
                error = self.server.refused("/v1/chat/completions", self.chat(**fields))
                self.assertEqual((error["param"], error["code"], error["type"]), (param, code, "invalid_request_error"), error)
        error = self.server.refused("/v1/chat/completions", self.chat(response_format=named({"properties": {"a": {"not": {}}}})))
        self.assertIn("/properties/a: the keyword not is not supported", error["message"])
        for fields, param in [({"response_format": {"type": "json_object"}}, "response_format"), ({"text": {"format": {"type": "x"}}}, "text.format.type"),
                              ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema")]:
            self.assertEqual(self.server.refused("/v1/responses", {"input": "hi"} | fields)["param"], param)

    def test_bombs(self):
        for fields in [{"guided_json": BOMB}, {"guided_regex": "[ab]*a[ab]{40}"}, {"guided_regex": "(([ab]*a[ab]{30}){90}){90}"},
                       {"guided_json": {"type": "array", "maxItems": 100000, "items": {"type": "array", "maxItems": 100000, "items": {"type": "string", "maxLength": 100000}}}},
                       {"guided_json": {"type": "string", "pattern": "(a|b)*a(a|b){14}c", "maxLength": 20000}},
                       {"grammar": "root ::= " + "(" * 20000}]:
            with self.subTest(fields=str(fields)[:80]):
                start = time.monotonic()
                error = self.server.refused("/v1/completions", {"prompt": "a"} | fields)
                self.assertLess(time.monotonic() - start, 10)  # a second, where the machine does nothing else
                self.assertEqual(error["code"], "invalid_grammar", error)

    def test_others_go_on_beside_bombs(self):
        """Grammars are compiled one at a time, and others are answered meanwhile."""
        bombs = [threading.Thread(target=self.server.ask, args=("POST", "/v1/completions", {"prompt": "a", "guided_regex": f"[ab]*a[ab]{{{40 + i}}}"}))
                 for i in range(6)]
        for bomb in bombs:
            bomb.start()
        self.server.post("/v1/completions", {"prompt": "a", "max_tokens": 1} | ENDLESS)
        self.assertTrue(any(bomb.is_alive() for bomb in bombs), "the request waited for all grammars")
        for bomb in bombs:
            bomb.join()


if __name__ == "__main__":
    Server.program, Server.work = PROGRAM, WORK
    Server.folder = make_model(MODEL, WORK / "model")
    try:
        result = unittest.main(argv=[sys.argv[0], *sys.argv[3:]], exit=False).result
    finally:
        shutil.rmtree(WORK)
    sys.exit(0 if result.wasSuccessful() else 1)
