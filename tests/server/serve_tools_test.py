#!/usr/bin/env python3
"""Tools of `metal-marlin serve` with a small model that knows nothing of them: its calls are forced by grammars.

Usage: serve_tools_test.py METAL_MARLIN MODEL_FOLDER
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

# Calls between marks, of which one is a special token; what came of them says whose it is.
TEMPLATE = """{% if tools %}[{{ tools | map(attribute='function.name') | join(',') }}]{% endif %}\
{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.role == 'tool' %}({{ m.name }}){% endif %}\
{% for c in m.tool_calls or [] %}<|call|>{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}</call>{% endfor %}\
<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>\
{% if enable_thinking is defined and enable_thinking %}<think>\n{% endif %}{% endif %}{# </think> #}"""
PARAMETERS = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
              "required": ["city", "days"], "additionalProperties": False}
WEATHER = {"name": "get_weather", "description": "Of a city.", "parameters": PARAMETERS}
NOW = {"name": "now", "parameters": {"type": "object", "additionalProperties": False}}
TOOLS = [{"type": "function", "function": WEATHER}, {"type": "function", "function": NOW}]
FLAT = [{"type": "function"} | WEATHER, {"type": "function"} | NOW]
MESSAGES = [{"role": "user", "content": "a"}]


def add_up(deltas):
    """A message's calls, as clients add up what streams have of them."""
    calls = []
    for delta in deltas:
        for entry in delta.get("tool_calls", []):
            if entry["index"] == len(calls):
                calls.append({"id": entry["id"], "type": entry["type"], "function": dict(entry["function"])})
            else:
                calls[entry["index"]]["function"]["arguments"] += entry["function"]["arguments"]
    return calls


class Tools(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()

    @classmethod
    def tearDownClass(cls):
        if cls.server.stop() != 0:
            raise AssertionError(cls.server.errors)

    def body(self, **fields):
        return {"messages": MESSAGES, "tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 300, "seed": 1,
                "logit_bias": {"256": -100}} | fields  # no thought, which this model would never end

    def chat(self, **fields):
        return self.server.post("/v1/chat/completions", self.body(**fields))["choices"][0]

    def refused(self, param, path="/v1/chat/completions", code=None, **fields):
        error = self.server.refused(path, self.body(**fields) if "chat" in path else fields)
        self.assertEqual((error["param"], error["code"]), (param, code), error["message"])

    def check_weather(self, call):
        self.assertEqual((call["type"], call["function"]["name"]), ("function", "get_weather"))
        arguments = json.loads(call["function"]["arguments"])
        self.assertIn(arguments["city"], ["Oslo", "Rome"])
        self.assertIn(arguments["days"], range(1, 10))

    def test_required(self):
        found = set()
        for first in "gn":
            choice = self.chat(logit_bias={"256": -100, str(ord(first)): 20})
            message = choice["message"]
            self.assertEqual((choice["finish_reason"], message["content"], len(message["tool_calls"])), ("tool_calls", None, 1))
            found.add(message["tool_calls"][0]["function"]["name"])
        self.assertEqual(found, {"get_weather", "now"})

    def test_named_and_streamed(self):
        named = {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}}
        whole = self.chat(**named)["message"]["tool_calls"]
        self.check_weather(whole[0])
        chunks = self.server.stream("/v1/chat/completions", self.body(**named))
        choices = [chunk["choices"][0] for chunk in chunks]
        calls = add_up([choice["delta"] for choice in choices])
        self.assertEqual([call["function"] for call in calls], [call["function"] for call in whole])
        self.assertEqual(choices[-1]["finish_reason"], "tool_calls")
        self.assertEqual("".join(choice["delta"].get("content", "") for choice in choices), "")
        self.assertGreater(sum("tool_calls" in choice["delta"] for choice in choices), 3)

    def test_thoughts_come_first(self):
        choice = self.chat(chat_template_kwargs={"enable_thinking": True}, logit_bias={"65": 30, "257": 31}, temperature=0.5)
        self.assertEqual(choice["finish_reason"], "tool_calls")
        self.assertTrue(choice["message"]["reasoning_content"] is None or set(choice["message"]["reasoning_content"]) <= {"A"})
        self.assertEqual(len(choice["message"]["tool_calls"]), 1)

    def test_cut_off_calls_are_text(self):
        choice = self.chat(tool_choice={"type": "function", "function": {"name": "get_weather"}}, max_tokens=60)
        self.assertEqual(choice["finish_reason"], "length")
        self.assertTrue(choice["message"]["content"].startswith('<|call|>{"name": "get_weather", "arguments": {"'), choice)
        self.assertNotIn("tool_calls", choice["message"])

    def test_free_answers(self):
        answer = {"logit_bias": {"65": 100}, "max_tokens": 4}
        for choice in ["auto", "none"]:
            found = self.chat(tool_choice=choice, **answer)
            self.assertEqual((found["finish_reason"], found["message"]["content"]), ("length", "AAAA"))

    def test_messages(self):
        def prompt(messages, **fields):
            return self.server.post("/apply-template", {"messages": messages} | fields)["prompt"]
        call = {"id": "c1", "type": "function", "function": {"name": "now", "arguments": '{"a": [1]}'}}
        messages = [*MESSAGES, {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c1", "content": "t"}]
        expected = '<|user|>a<|end|><|assistant|><|call|>{"name": "now", "arguments": {"a": [1]}}</call><|end|><|tool|>t(now)<|end|><|assistant|>'
        self.assertEqual(prompt(messages), expected)
        self.assertEqual(prompt(messages, tools=TOOLS), "[get_weather,now]" + expected)
        for arguments in ["[1]", json.dumps({str(i): 1 for i in range(5000)})]:
            call["function"]["arguments"] = arguments
            error = self.server.refused("/apply-template", {"messages": messages})
            self.assertEqual(error["param"], "messages[1].tool_calls[0].function.arguments")
        call["function"] = {"arguments": "{}"}
        self.assertEqual(self.server.refused("/apply-template", {"messages": messages})["param"], "messages[1].tool_calls[0].function.name")

    def test_refused(self):
        self.refused("tools", tools={})
        self.refused("tools[0].type", code="unsupported_tool", tools=[{"type": "web_search"}])
        self.refused("tools[0].function", tools=[{"type": "function"}])
        self.refused("tools[0].function.name", tools=[{"type": "function", "function": {"name": "a b"}}])
        self.refused("tools[1].function.name", code="conflicting_parameters", tools=[TOOLS[0], TOOLS[0]])
        self.refused("tools[0].function.parameters", tools=[{"type": "function", "function": {"name": "a", "parameters": []}}])
        self.refused("tools", tools=[{"type": "function", "function": {"name": "a", "parameters": {"type": "object", "properties": {"b": {"if": {}}}}}}])
        self.refused("tool_choice", tool_choice="sometimes")
        self.refused("tool_choice", code="conflicting_parameters", tools=[])
        self.refused("tool_choice.function.name", code="conflicting_parameters", tool_choice={"type": "function", "function": {"name": "other"}})
        self.refused("tool_choice.type", code="unsupported_tool", tool_choice={"type": "custom"})
        self.refused("tool_choice.allowed_tools", tool_choice={"type": "allowed_tools"})
        some = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "now"}}]}
        for change, param in [({"mode": "none"}, "mode"), ({"tools": []}, "tools")]:
            self.refused(f"tool_choice.allowed_tools.{param}", tool_choice={"type": "allowed_tools", "allowed_tools": some | change})
        self.refused("parallel_tool_calls", parallel_tool_calls=1)
        other = {"type": "function", "function": {"name": "other"}}
        self.refused("tool_choice.allowed_tools.tools[0].function.name", code="conflicting_parameters",
                     tool_choice={"type": "allowed_tools", "allowed_tools": some | {"tools": [other]}})
        self.refused("functions", code="conflicting_parameters", functions=[WEATHER])
        self.refused("functions[0].name", tools=None, tool_choice=None, functions=[{"name": "a b"}])
        self.refused("function_call.name", code="conflicting_parameters", tools=None, tool_choice=None, functions=[WEATHER], function_call={"name": "other"})
        self.refused("function_call", tools=None, tool_choice=None, functions=[WEATHER], function_call="required")
        self.refused("functions", path="/v1/completions", code="unsupported_parameter", prompt="a", functions=[WEATHER])
        self.refused("tools", path="/v1/completions", code="unsupported_parameter", prompt="a", tools=TOOLS)

    def test_some_of_the_tools(self):
        shown = self.server.post("/tokenize", {"messages": MESSAGES, "tools": TOOLS})["count"]
        for name in ["get_weather", "now"]:
            some = {"mode": "required", "tools": [{"type": "function", "function": {"name": name}}] * 2}
            choice = {"type": "allowed_tools", "allowed_tools": some}
            self.assertEqual(self.chat(tool_choice=choice)["message"]["tool_calls"][0]["function"]["name"], name)
            flat = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": name}]}
            answer = self.server.post("/v1/responses", {"input": "a", "tools": FLAT, "tool_choice": flat, "seed": 1, "max_output_tokens": 300,
                                                        "logit_bias": {"256": -100}, "parallel_tool_calls": False})
            self.assertEqual((answer["output"][0]["name"], answer["tool_choice"]), (name, flat))
            self.assertEqual(self.server.post("/tokenize", {"messages": MESSAGES, "tools": TOOLS, "tool_choice": choice})["count"], shown)
        free = {"type": "allowed_tools", "allowed_tools": some | {"mode": "auto"}}
        self.assertEqual(self.chat(tool_choice=free, logit_bias={"65": 100}, max_tokens=4)["message"]["content"], "AAAA")

    def test_functions(self):
        old = {"tools": None, "tool_choice": None, "parallel_tool_calls": None, "functions": [WEATHER, NOW], "function_call": {"name": "get_weather"}}
        choice = self.chat(**old)
        message = choice["message"]
        self.assertEqual((choice["finish_reason"], message["content"], "tool_calls" in message), ("function_call", None, False))
        self.check_weather({"type": "function", "function": message["function_call"]})
        choices = [chunk["choices"][0] for chunk in self.server.stream("/v1/chat/completions", self.body(**old))]
        deltas = [choice["delta"]["function_call"] for choice in choices if "function_call" in choice["delta"]]
        self.assertEqual(deltas[0]["name"], "get_weather")
        self.assertEqual("".join(delta["arguments"] for delta in deltas), message["function_call"]["arguments"])
        self.assertEqual(choices[-1]["finish_reason"], "function_call")
        for call in ["none", "auto"]:
            self.assertEqual(self.chat(**old | {"function_call": call, "logit_bias": {"65": 100}, "max_tokens": 4})["message"]["content"], "AAAA")
        said = {"role": "assistant", "content": None, "function_call": {"name": "now", "arguments": "{}"}}
        result = {"role": "function", "name": "now", "content": "t"}
        prompt = self.server.post("/apply-template", {"messages": [*MESSAGES, said, result], "functions": [WEATHER, NOW]})["prompt"]
        self.assertEqual(prompt, '[get_weather,now]<|user|>a<|end|><|assistant|><|call|>{"name": "now", "arguments": {}}</call><|end|><|tool|>t(now)<|end|><|assistant|>')
        error = self.server.refused("/apply-template", {"messages": [said | {"function_call": {"arguments": "{}"}}]})
        self.assertEqual(error["param"], "messages[0].function_call.name")

    def test_response(self):
        body = {"input": "a", "tools": FLAT, "tool_choice": {"type": "function", "name": "get_weather"}, "seed": 1, "max_output_tokens": 300}
        answer = self.server.post("/v1/responses", body)
        [item] = answer["output"]
        self.assertEqual((item["type"], item["name"], item["status"], answer["tools"]), ("function_call", "get_weather", "completed", FLAT))
        self.check_weather({"type": "function", "function": {"name": item["name"], "arguments": item["arguments"]}})
        _, _, text = self.server.ask("POST", "/v1/responses", body | {"stream": True})
        events = [json.loads(part.split("data: ", 1)[1]) for part in text.split("\n\n") if part]
        self.assertEqual("".join(e["delta"] for e in events if e["type"] == "response.function_call_arguments.delta"), item["arguments"])
        [done] = [e for e in events if e["type"] == "response.function_call_arguments.done"]
        self.assertEqual((done["arguments"], done["name"]), (item["arguments"], "get_weather"))
        self.assertEqual(events[-1]["response"]["output"][0]["arguments"], item["arguments"])
        called = {"type": "function_call", "call_id": item["call_id"], "name": item["name"], "arguments": item["arguments"]}
        output = {"type": "function_call_output", "call_id": item["call_id"], "output": "Sun"}
        again = self.server.post("/v1/responses", {"input": [{"role": "user", "content": "a"}, called, output], "tools": FLAT, "max_output_tokens": 2,
                                                   "logit_bias": {"65": 100}})
        self.assertEqual(again["output"][0]["content"][0]["text"], "AA")
        self.assertEqual(self.server.refused("/v1/responses", {"input": [output | {"call_id": None}]})["param"], "input[0].call_id")


class NoTools(unittest.TestCase):
    def test_templates_without_calls(self):
        server = Server(models=[make_model(MODEL, WORK / "none")])
        body = {"messages": MESSAGES, "tools": TOOLS, "max_tokens": 1}
        error = server.refused("/v1/chat/completions", body)
        self.assertEqual((error["param"], error["code"]), ("tools", "tools_unsupported"))
        server.post("/v1/chat/completions", body | {"tool_choice": "none"})
        self.assertEqual(server.stop(), 0)


if __name__ == "__main__":
    FOLDER = make_model(MODEL, WORK / "model", TEMPLATE, marks=["<|call|>"])
    Server.program, Server.folder, Server.work = PROGRAM, FOLDER, WORK
    try:
        unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
    finally:
        shutil.rmtree(WORK)
