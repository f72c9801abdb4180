#!/usr/bin/env python3
"""Anthropic's API of `metal-marlin serve`, with a small model that knows nothing: its words are biased or forced by grammars.

Usage: serve_messages_test.py METAL_MARLIN MODEL_FOLDER
"""
import json
import pathlib
import shutil
import sys
import tempfile
import unittest

from served import Server, make_model

PROGRAM, MODEL = sys.argv[1], pathlib.Path(sys.argv[2])
WORK = pathlib.Path(tempfile.mkdtemp())

TEMPLATE = """{% if tools %}{{ tools | tojson }}{% endif %}\
{% for m in messages %}<|{{ m.role }}|>{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}{{ m.content }}\
{% if m.role == 'tool' %}({{ m.name }}){% endif %}\
{% for c in m.tool_calls or [] %}<|call|>{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}</call>{% endfor %}\
<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>\
{% if enable_thinking is defined and enable_thinking %}<think>\n{% endif %}{% endif %}{# </think> #}"""
SCHEMA = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
          "required": ["city", "days"], "additionalProperties": False}
WEATHER = {"name": "get_weather", "description": "Of a city.", "input_schema": SCHEMA}
NOW = {"name": "now", "input_schema": {"type": "object", "additionalProperties": False}}
USER = {"role": "user", "content": "a"}
CALL = {"type": "tool_use", "id": "c1", "name": "now", "input": {"a": [1]}}
RESULT = {"type": "tool_result", "tool_use_id": "c1", "content": "t"}
# A model that says A and nothing else, and never begins a thought.
SAYS_A = {"temperature": 0, "ignore_eos": True, "logit_bias": {"65": 100}}
NO_THOUGHT = {"logit_bias": {"256": -100}, "seed": 1}


def without_ids(message):
    blocks = [{key: value for key, value in block.items() if key != "id"} for block in message["content"]]
    return {key: value for key, value in message.items() if key not in ("id", "usage")} | {"content": blocks}


class Messages(unittest.TestCase):
    path = "/v1/messages"

    @classmethod
    def setUpClass(cls):
        cls.server = Server("--context", "1024")

    @classmethod
    def tearDownClass(cls):
        if cls.server.stop() != 0:
            raise AssertionError(cls.server.errors)

    def ask(self, status=200, path=None, headers=None, **fields):
        found, headers, text = self.server.ask("POST", path or self.path, {"messages": [USER], "max_tokens": 8} | fields, headers)
        self.assertEqual(found, status, text)
        answer = json.loads(text)
        self.assertEqual(headers["request-id"], headers["X-Request-Id"])
        if status != 200:
            self.assertEqual((answer["type"], answer["request_id"]), ("error", headers["request-id"]))
        return answer

    def events(self, **fields):
        """What a stream says, in the order that the API has, and the message that it adds up to."""
        status, _, text = self.server.ask("POST", self.path, {"messages": [USER], "max_tokens": 8, "stream": True} | fields)
        self.assertEqual(status, 200, text)
        lines = [event.split("\n") for event in text.split("\n\n")[:-1]]
        events = [json.loads(data.removeprefix("data: ")) for _, data in lines]
        self.assertEqual([name for name, _ in lines], [f"event: {event['type']}" for event in events])
        kinds = [event["type"] for event in events]
        self.assertEqual((kinds[:3], kinds[-2:]), (["message_start", "content_block_start", "ping"], ["message_delta", "message_stop"]))
        message = events[0]["message"]
        self.assertEqual((message["content"], message["stop_reason"]), ([], None))
        place = None
        for event in events[1:-2]:
            if event["type"] == "content_block_start":
                self.assertEqual((place, event["index"]), (None, len(message["content"])))
                place, block = event["index"], event["content_block"]
                message["content"].append(block)
                written = ""
            elif event["type"] == "content_block_delta":
                self.assertEqual(event["index"], place)
                delta = event["delta"]
                key = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature", "input_json_delta": "partial_json"}[delta["type"]]
                if key == "partial_json":
                    written += delta[key]
                else:
                    block[key] += delta[key]
            elif event["type"] == "content_block_stop":
                self.assertEqual(event["index"], place)
                if block["type"] == "tool_use" and written:
                    block["input"] = written
                place = None
        self.assertIsNone(place)
        message |= events[-2]["delta"]
        message["usage"] |= events[-2]["usage"]
        return kinds, message

    def both(self, **fields):
        """The whole answer; the stream says the same."""
        whole = self.ask(**fields)
        _, streamed = self.events(**fields)
        for block in streamed["content"]:
            if block["type"] == "tool_use" and isinstance(block["input"], str):
                block["input"] = json.loads(block["input"])
        self.assertEqual(without_ids(streamed), without_ids(whole))
        self.assertEqual(streamed["usage"]["output_tokens"], whole["usage"]["output_tokens"])
        return whole

    def refused(self, param, code=None, status=400, kind="invalid_request_error", **fields):
        error = self.ask(status, **fields)["error"]
        self.assertEqual((error["param"], error["code"], error["type"]), (param, code, kind), error["message"])
        return error["message"]

    def prompt(self, **fields):
        """What the model is asked, as its tokens, which are bytes and marks, are counted."""
        return self.ask(path="/v1/messages/count_tokens", max_tokens=None, **fields)["input_tokens"]

    def test_text(self):
        answer = self.both(**SAYS_A)
        self.assertEqual(answer["content"], [{"type": "text", "text": "A" * 8}])
        self.assertEqual((answer["type"], answer["role"], answer["stop_reason"], answer["stop_sequence"]), ("message", "assistant", "max_tokens", None))
        self.assertTrue(answer["id"].startswith("msg_"))
        usage = answer["usage"]
        self.assertEqual((usage["input_tokens"] + usage["cache_read_input_tokens"], usage["output_tokens"], usage["cache_creation_input_tokens"]),
                         (self.prompt(), 8, 0))
        self.assertEqual(self.ask(path=self.path + "?beta=true", **SAYS_A)["content"], answer["content"])

    def test_ends(self):
        fields = {"guided_regex": "AB{40}"} | NO_THOUGHT
        self.assertEqual(self.both(**fields)["content"][0]["text"], "AB" + "B" * 6)
        answer = self.both(**fields, stop_sequences=["zz", "B"])
        self.assertEqual((answer["content"][0]["text"], answer["stop_reason"], answer["stop_sequence"]), ("A", "stop_sequence", "B"))
        ended = self.both(temperature=0, logit_bias={"65": 100}, stop_token_ids=[65])
        self.assertEqual((ended["content"], ended["stop_reason"]), ([{"type": "text", "text": ""}], "end_turn"))
        size = self.prompt()
        full = self.both(**SAYS_A | {"max_tokens": 5000})
        self.assertEqual((full["stop_reason"], full["usage"]["output_tokens"]), ("model_context_window_exceeded", 1024 - size))

    def test_prefix_cache_is_told_of(self):
        system = "x" * 200
        first = self.ask(system=system, **SAYS_A)["usage"]
        again = self.both(system=system, **SAYS_A)["usage"]
        self.assertEqual(first["input_tokens"] + first["cache_read_input_tokens"], again["input_tokens"] + again["cache_read_input_tokens"])
        self.assertGreaterEqual(again["cache_read_input_tokens"], 192)
        _, streamed = self.events(system=system, **SAYS_A)
        self.assertEqual(streamed["usage"]["cache_read_input_tokens"], again["cache_read_input_tokens"])
        self.assertEqual(self.server.logged()[-1]["cached_tokens"], again["cache_read_input_tokens"])

    def test_billing_line(self):
        line = "x-anthropic-billing-header: cc_version=1.2.{}; cch={};"
        system = [[{"type": "text", "text": line.format(i, i * 77)}, {"type": "text", "text": "y" * 200, "cache_control": {"type": "ephemeral"}}] for i in (1, 2)]
        self.assertEqual(self.prompt(system=system[0]), self.prompt(system="y" * 200))
        self.assertEqual(self.prompt(system=line + "\n" + "y" * 200), self.prompt(system="y" * 200))
        self.assertEqual(self.prompt(system=line), self.prompt())
        self.assertGreater(self.prompt(system="y\n" + line), self.prompt(system="y"))
        self.ask(system=system[0], **SAYS_A)
        self.assertGreaterEqual(self.ask(system=system[1], **SAYS_A)["usage"]["cache_read_input_tokens"], 192)
        keeping = Server("--context", "1024", "--keep-billing-line")
        try:
            found = [keeping.post(self.path, {"messages": [USER], "max_tokens": 1, "system": each})["usage"] for each in system]
            self.assertGreater(found[0]["input_tokens"], 240)
            self.assertLess(found[1]["cache_read_input_tokens"], 64)
        finally:
            self.assertEqual(keeping.stop(), 0)

    def test_messages(self):
        text = {"type": "text", "text": "b", "cache_control": {"type": "ephemeral"}}
        thought = {"type": "thinking", "thinking": "why", "signature": "s"}
        chats = [
            ({"system": "s"}, [{"role": "system", "content": "s"}, USER]),
            ({"system": [{"type": "text", "text": "s"}, text]}, [{"role": "system", "content": "s\nb"}, USER]),
            ({"messages": [USER, {"role": "user", "content": [text, text]}]}, [{"role": "user", "content": "a\nb\nb"}]),
            ({"messages": [USER, {"role": "system", "content": "s"}, USER]}, [USER, {"role": "system", "content": "s"}, USER]),
            ({"messages": [USER, {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "x"}, thought, text, CALL]},
                           {"role": "user", "content": [RESULT, text]}]},
             [USER, {"role": "assistant", "content": "b", "reasoning_content": "why", "tool_calls": [{"id": "c1", "function": {"name": "now", "arguments": {"a": [1]}}}]},
              {"role": "tool", "tool_call_id": "c1", "content": "t"}, {"role": "user", "content": "b"}]),
            ({"messages": [USER, {"role": "assistant", "content": [CALL]}, {"role": "user", "content": [RESULT | {"is_error": True, "content": [text, text]}]}]},
             [USER, {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "function": {"name": "now", "arguments": {"a": [1]}}}]},
              {"role": "tool", "tool_call_id": "c1", "content": "Error: b\nb"}]),
            ({"messages": [USER, {"role": "assistant", "content": []}, USER]}, [USER, {"role": "assistant", "content": ""}, USER])]
        for fields, chat in chats:
            with self.subTest(fields=fields):
                self.assertEqual(self.prompt(**fields), len(self.server.post("/tokenize", {"messages": chat})["tokens"]))
        begun = [USER, {"role": "assistant", "content": "A"}]
        self.assertEqual(self.prompt(messages=begun),
                         len(self.server.post("/tokenize", {"messages": begun, "continue_final_message": True, "add_generation_prompt": False})["tokens"]))
        self.assertEqual(self.both(messages=begun, **SAYS_A)["content"][0]["text"], "A" * 8)

    def test_tools_are_shown_as_to_chats(self):
        shown = [{"type": "function", "function": {"name": "get_weather", "description": "Of a city.", "parameters": SCHEMA}},
                 {"type": "function", "function": {"name": "now", "parameters": NOW["input_schema"]}}]
        expected = self.server.post("/tokenize", {"messages": [USER], "tools": shown})["count"]
        own = [WEATHER | {"type": "custom", "cache_control": {"type": "ephemeral"}, "eager_input_streaming": True, "allowed_callers": ["direct"]}, NOW]
        for choice in [None, {"type": "auto"}, {"type": "none"}, {"type": "any"}, {"type": "tool", "name": "now"}]:
            self.assertEqual(self.prompt(tools=own, tool_choice=choice), expected)
        self.assertGreater(self.prompt(tools=[WEATHER, NOW | {"input_examples": [{}]}]), expected)

    def test_calls(self):
        forced = {"tools": [WEATHER, NOW], "max_tokens": 300} | NO_THOUGHT
        for choice in [{"type": "tool", "name": "get_weather"}, {"type": "any", "disable_parallel_tool_use": True}]:
            answer = self.both(**forced, tool_choice=choice)
            [block] = answer["content"]
            self.assertEqual((block["type"], answer["stop_reason"]), ("tool_use", "tool_use"))
            self.assertTrue(block["id"])
            if block["name"] == "get_weather":
                self.assertIn(block["input"]["city"], ["Oslo", "Rome"])
                self.assertIn(block["input"]["days"], range(1, 10))
            elif choice["type"] == "any":
                self.assertEqual((block["name"], block["input"]), ("now", {}))
        kinds, _ = self.events(**forced, tool_choice={"type": "tool", "name": "get_weather"})
        self.assertGreater(kinds.count("content_block_delta"), 3)
        free = self.both(tools=[WEATHER], tool_choice={"type": "none"}, **SAYS_A)
        self.assertEqual(free["content"], [{"type": "text", "text": "A" * 8}])

    def test_a_call_that_is_cut_off(self):
        fields = {"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "get_weather"}, "max_tokens": 60} | NO_THOUGHT
        answer = self.ask(**fields)
        self.assertEqual(([block["type"] for block in answer["content"]], answer["stop_reason"]), (["text"], "max_tokens"))
        self.assertTrue(answer["content"][0]["text"].startswith('<|call|>{"name": "get_weather"'), answer)
        _, streamed = self.events(**fields)
        self.assertEqual(([block["type"] for block in streamed["content"]], streamed["stop_reason"]), (["tool_use", "text"], "max_tokens"))
        self.assertEqual(streamed["content"][1], answer["content"][0])
        self.assertTrue(streamed["content"][0]["input"].startswith('{"'), streamed)

    def test_thinking(self):
        fields = SAYS_A | {"max_tokens": 9}
        self.assertEqual([block["type"] for block in self.both(**fields)["content"]], ["text"])
        self.assertEqual(self.both(**fields, thinking={"type": "disabled"})["content"][0]["text"], "A" * 9)
        endless = self.both(**fields, thinking={"type": "adaptive"})
        self.assertEqual((endless["content"], endless["stop_reason"]), ([{"type": "thinking", "thinking": "A" * 9, "signature": "unsigned"}], "max_tokens"))
        self.assertEqual(endless["usage"]["output_tokens_details"], {"thinking_tokens": 9})
        for display, told in [("summarized", "AAA"), ("omitted", "")]:
            answer = self.both(**fields, thinking={"type": "enabled", "budget_tokens": 3, "display": display})
            self.assertEqual(answer["content"], [{"type": "thinking", "thinking": told, "signature": "unsigned"}, {"type": "text", "text": "A" * 6}])
            self.assertEqual(answer["usage"]["output_tokens_details"], {"thinking_tokens": 3})
        kinds, _ = self.events(**fields, thinking={"type": "enabled", "budget_tokens": 3, "display": "omitted"})
        self.assertEqual(kinds[3:5], ["content_block_delta", "content_block_stop"])
        self.refused("thinking.budget_tokens", "conflicting_parameters", thinking={"type": "enabled", "budget_tokens": 8})

    def test_answers_of_a_schema(self):
        schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
        form = {"type": "json_schema", "schema": schema}
        for fields in [{"output_format": form}, {"output_config": {"format": form, "effort": "low"}}]:
            answer = self.both(**fields, max_tokens=40, **NO_THOUGHT)
            self.assertIn(json.loads(answer["content"][0]["text"]), [{"a": 1}, {"a": 2}])
            self.assertEqual(answer["stop_reason"], "end_turn")
        self.refused("output_config.format.schema", "conflicting_parameters", output_format=form, output_config={"format": form})
        self.refused("output_format.type", output_format={"type": "json_object"})
        self.refused("output_format.schema", "invalid_grammar", output_format={"type": "json_schema", "schema": {"not": {}}})
        strict = [WEATHER | {"strict": True}]
        self.assertEqual(self.both(tools=strict, **SAYS_A)["content"][0]["text"], "A" * 8)

    def test_refusals(self):
        image = {"type": "image", "source": {"type": "url", "url": "x"}}
        blocks = [(image, "type", "unsupported_content"), ({"type": "document"}, "type", "unsupported_content"), ({"type": "text"}, "text", None), (CALL, "type", "unsupported_content"),
                  (RESULT, "tool_use_id", "conflicting_parameters"), ({"text": "a"}, "type", "unsupported_content")]
        for block, key, code in blocks:
            self.refused(f"messages[0].content[0].{key}", code, messages=[{"role": "user", "content": [block]}])
        self.assertIn("image", self.refused("messages[2].content[0].content[0].type", "unsupported_content", messages=[
            USER, {"role": "assistant", "content": [CALL]}, {"role": "user", "content": [RESULT | {"content": [image]}]}]))
        for fields, param, code in [
                ({"max_tokens": None}, "max_tokens", None), ({"max_tokens": 0}, "max_tokens", None), ({"messages": []}, "messages", None),
                ({"messages": [{"role": "tool", "content": "a"}]}, "messages[0].role", None), ({"messages": [{"role": "user"}]}, "messages[0].content", None),
                ({"messages": [USER, {"role": "assistant", "content": [CALL]}]}, "messages", "conflicting_parameters"),
                ({"messages": [USER, {"role": "assistant", "content": [CALL | {"input": "{}"}]}]}, "messages[1].content[0].input", None),
                ({"system": 5}, "system", None), ({"system": [image]}, "system[0].type", "unsupported_content"),
                ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type", "unsupported_tool"),
                ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0].type", "unsupported_tool"),
                ({"tools": [{"name": "a"}]}, "tools[0].input_schema", None), ({"tools": [WEATHER, WEATHER]}, "tools[1].name", "conflicting_parameters"),
                ({"tools": [WEATHER | {"parameters": {}}]}, "tools[0].parameters", "unsupported_parameter"),
                ({"tools": [WEATHER | {"defer_loading": True}]}, "tools[0].defer_loading", None),
                ({"tools": [WEATHER | {"allowed_callers": ["code_execution_20250825"]}]}, "tools[0].allowed_callers", None),
                ({"tool_choice": {"type": "any"}}, "tool_choice", "conflicting_parameters"), ({"tool_choice": "auto"}, "tool_choice", None),
                ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "b"}}, "tool_choice.name", "conflicting_parameters"),
                ({"tools": [WEATHER], "tool_choice": {"type": "required"}}, "tool_choice.type", None),
                ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens", None), ({"thinking": {"type": "sometimes"}}, "thinking.type", None),
                ({"thinking": {"type": "adaptive", "display": "all"}}, "thinking.display", None), ({"metadata": {"user_id": 5}}, "metadata.user_id", None),
                ({"stop_sequences": [""]}, "stop_sequences", None), ({"stop": "a"}, "stop", "unsupported_parameter"), ({"n": 1}, "n", "unsupported_parameter"),
                ({"mcp_servers": [{}]}, "mcp_servers", "unsupported_parameter"), ({"container": "a"}, "container", "unsupported_parameter"),
                ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, "context_management", "unsupported_parameter"),
                ({"colour": 1}, "colour", "unsupported_parameter")]:
            with self.subTest(fields=fields):
                self.refused(param, code, **fields)
        kept = self.ask(400, thread={"type": "create"})["error"]
        self.assertEqual((kept["param"], kept["details"]), ("thread", {"error_code": "thread_unsupported_request"}))
        size = self.prompt(system="a" * 2000)
        self.assertEqual(self.refused("messages", "context_length_exceeded", system="a" * 2000), f"prompt is too long: {size} tokens > 1023 maximum")
        self.refused("model", "model_not_found", 404, "not_found_error", model="other")
        for fields in [{"service_tier": "auto"}, {"metadata": {"user_id": "u"}}, {"cache_control": {"type": "ephemeral"}}, {"mcp_servers": []},
                       {"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}}]:
            self.ask(**fields)

    def test_errors_of_the_server(self):
        for path in [self.path, self.path + "/count_tokens"]:
            for method, body, headers, status, kind in [("POST", "{", {}, 400, "invalid_request_error"), ("GET", None, {}, 405, "invalid_request_error"),
                                                        ("POST", "{}", {"Content-Type": "text/plain"}, 415, "invalid_request_error"),
                                                        ("POST", "{}", {"Host": "example.org"}, 403, "permission_error")]:
                found, _, text = self.server.ask(method, path, body, headers)
                self.assertEqual((found, json.loads(text)["type"], json.loads(text)["error"]["type"]), (status, "error", kind))
        self.assertNotIn("type", json.loads(self.server.ask("POST", "/v1/messagesx", "{}")[2]))
        self.assertNotIn("request-id", self.server.ask("GET", "/v1/models")[1])

    def test_models_for_both_clients(self):
        listed = json.loads(self.server.get("/v1/models")[1])
        [model] = listed["data"]
        self.assertEqual((listed["has_more"], listed["first_id"], listed["last_id"], model["id"], model["type"], model["object"]),
                         (False, model["id"], model["id"], model["display_name"], "model", "model"))
        self.assertRegex(model["created_at"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        self.assertEqual(json.loads(self.server.get("/v1/models/" + model["id"])[1]), model)


class Guarded(unittest.TestCase):
    def test_keys_and_limits(self):
        server = Server("--max-body", "1000", environment={"METAL_MARLIN_API_KEY": "one,two"})
        try:
            body = {"messages": [USER], "max_tokens": 1}
            for headers, status in [({"x-api-key": "two"}, 200), ({"Authorization": "Bearer one"}, 200), ({"x-api-key": "none", "Authorization": "Bearer one"}, 200),
                                    ({"x-api-key": "one", "Authorization": "Bearer none"}, 200), ({"x-api-key": "on"}, 401), ({}, 401), ({"Authorization": "one"}, 401)]:
                found, _, text = server.ask("POST", "/v1/messages", body, headers | {"anthropic-version": "2023-06-01"})
                self.assertEqual(found, status, text)
                if status == 401:
                    self.assertEqual(json.loads(text)["error"]["type"], "authentication_error")
                self.assertEqual(server.ask("GET", "/v1/models", None, headers)[0], status)
            found, _, text = server.ask("POST", "/v1/messages?beta=true", body | {"system": "a" * 2000}, {"x-api-key": "one"})
            self.assertEqual((found, json.loads(text)["error"]["type"]), (413, "request_too_large"))
        finally:
            self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    Server.program, Server.work = PROGRAM, WORK
    Server.folder = make_model(MODEL, WORK / "messages", TEMPLATE, ["<|tool|>", "<|call|>"])
    try:
        unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
    finally:
        shutil.rmtree(WORK)
