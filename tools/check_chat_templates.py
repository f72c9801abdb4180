#!/usr/bin/env python3
"""Renders conversations by real chat templates with `metal-marlin render` and with transformers, and compares.

  check_chat_templates.py --binary metal-marlin --templates FOLDER [--table FILE] [--only NAME]

FOLDER holds templates, *.jinja. Every template gets every conversation: the same prompt byte for byte, or an error from
both. Prints a table of templates by conversations, ok or what differs. Needs: jinja2==3.1.6 transformers==5.17.0
Exit codes: 0 all equal, 1 something differs.
"""
import argparse
import concurrent.futures
import datetime
import json
import pathlib
import subprocess
import sys
import tempfile

from transformers.utils import chat_template_utils


class Clock(datetime.datetime):
    """A clock that stands still, where the program's --now is."""

    @classmethod
    def now(cls, tz=None):
        return cls(2026, 3, 4, 5, 6, 7)


chat_template_utils.datetime = Clock


def call(name, arguments, number=1):
    return {"id": f"call0000{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


def message(role, content, **more):
    return {"role": role, "content": content, **more}


TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "Current weather.\nSecond line with \"quotes\" & <tags>.",
        "parameters": {"type": "object", "required": ["city"], "properties": {
            "city": {"type": "string", "description": "City, e.g. Zürich 東京"},
            "unit": {"type": "string", "enum": ["c", "f"], "default": "c"},
            "days": {"type": ["integer", "null"], "minimum": 0, "maximum": 1.5e1},
            "where": {"type": "object", "properties": {"lat": {"type": "number"}, "tags": {
                "type": "array", "items": {"type": "string"}}}, "required": ["lat"]}}}}},
    {"type": "function", "function": {"name": "noop", "description": "", "parameters": {"type": "object", "properties": {}}}},
    {"type": "function", "function": {"name": "any", "description": "Union", "parameters": {
        "type": "object", "properties": {"v": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
                                         "l": {"type": "array", "items": {"type": "object", "properties": {
                                             "k": {"type": "boolean", "nullable": True}}}}}},
        "return": {"type": "string", "description": "what"}}},
]
SIMPLE = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer", "description": "one"}, "b": {"type": "number"},
                                     "s": {"type": "array", "items": {"type": "string"}}}, "required": ["a"]}}}]
USER, HELLO = message("user", "What is 2 + 2?"), message("assistant", "Hello! 4.")
WEATHER = {"city": "Zürich", "unit": "c", "days": 3, "f": 1.0, "n": None, "t": True, "l": [1, "x"], "d": {"a": "b"}}
ROUND = [message("user", "Weather in Zürich?"), message("assistant", "", tool_calls=[call("get_weather", WEATHER)]),
         message("tool", "{\"temp\": 21}", name="get_weather", tool_call_id="call00001")]
THOUGHT = [USER, message("assistant", "<think>\nadd\n</think>\n\n4", reasoning_content="add"), message("user", "And 3 + 3?")]
IMAGES = [message("user", [{"type": "text", "text": "See "}, {"type": "image", "image": "x.png"}, {"type": "text", "text": "this"}])]

CONVERSATIONS = {
    "user": dict(messages=[USER]),
    "no_prompt": dict(messages=[USER], add_generation_prompt=False),
    "system": dict(messages=[message("system", "Be brief."), USER]),
    "turns": dict(messages=[message("system", "Be brief."), USER, HELLO, message("user", "Thanks"), HELLO, USER]),
    "ends_assistant": dict(messages=[USER, HELLO], add_generation_prompt=False),
    "ends_assistant_prompt": dict(messages=[USER, HELLO]),
    "system_middle": dict(messages=[USER, HELLO, message("system", "Now in French."), USER]),
    "two_systems": dict(messages=[message("system", "a"), message("system", "b"), USER]),
    "system_only": dict(messages=[message("system", "Only this.")]),
    "developer": dict(messages=[message("developer", "Be kind."), USER]),
    "two_users": dict(messages=[USER, message("user", "again")]),
    "assistant_first": dict(messages=[HELLO, USER]),
    "none": dict(messages=[]),
    "unknown_role": dict(messages=[message("critic", "hm"), USER]),
    "no_content": dict(messages=[{"role": "user"}]),
    "null_content": dict(messages=[message("user", None)]),
    "empty": dict(messages=[message("system", ""), message("user", ""), message("assistant", ""), message("user", " ")]),
    "odd_text": dict(messages=[message("system", "  \n<|im_end|> {{ x }} {% if %} "), message(
        "user", "\t é 日本語 😀 \u2028\u00a0\x1f\x7f 'q' \"d\" \\n <|eot_id|> [INST] </s>\r\n\n ")]),
    "long": dict(messages=[message("user", "word " * 2000 + "\n" * 50), message("assistant", "ab" * 3000), USER]),
    "thinking": dict(messages=THOUGHT),
    "thinking_on": dict(messages=THOUGHT, enable_thinking=True),
    "thinking_off": dict(messages=THOUGHT, enable_thinking=False),
    "thinking_kwarg": dict(messages=THOUGHT, thinking=True, reasoning_effort="high"),
    "thinking_last": dict(messages=THOUGHT + [message("assistant", "6", reasoning_content="three and\nthree")],
                          add_generation_prompt=False),
    "thinking_field": dict(messages=[USER, message("assistant", "4", thinking="sum", reasoning="sum"), USER]),
    "half_thought": dict(messages=[USER, message("assistant", "a</think>b</think>c"), USER]),
    "tools": dict(messages=[USER], tools=TOOLS),
    "tools_system": dict(messages=[message("system", "Use tools."), USER], tools=TOOLS[:1]),
    "simple_tools": dict(messages=ROUND, tools=SIMPLE),
    "simple_tools_user": dict(messages=[message("system", "s"), USER], tools=SIMPLE, enable_thinking=False),
    "simple_tools_turns": dict(messages=[USER, HELLO, *ROUND, message("assistant", "21"), USER], tools=SIMPLE),
    "simple_tools_calls": dict(messages=[message("system", "s"), ROUND[0], message("assistant", "I call.", tool_calls=[
        call("add", {"a": 1, "b": 2.5}), call("add", {"a": -1, "s": ["é", "\""]}, 2)]), message("tool", "3.5", name="add"),
        message("tool", "x", name="add")], tools=SIMPLE),
    "simple_tools_thinking": dict(messages=THOUGHT, tools=SIMPLE, add_generation_prompt=False),
    "no_tools": dict(messages=[USER], tools=[]),
    "call": dict(messages=ROUND[:2], tools=TOOLS, add_generation_prompt=False),
    "round": dict(messages=ROUND, tools=TOOLS),
    "round_answered": dict(messages=ROUND + [message("assistant", "21 degrees."), USER], tools=TOOLS),
    "round_no_tools": dict(messages=ROUND),
    "round_thinking": dict(messages=[ROUND[0], dict(ROUND[1], reasoning_content="look it up", content="Let me see."),
                                     ROUND[2]], tools=TOOLS, enable_thinking=True),
    "two_calls": dict(messages=[ROUND[0], message("assistant", None, tool_calls=[
        call("get_weather", WEATHER), call("noop", {}, 2)]), ROUND[2], message(
            "tool", "ok", name="noop", tool_call_id="call00002")], tools=TOOLS),
    "text_arguments": dict(messages=[ROUND[0], message("assistant", None, tool_calls=[
        call("get_weather", json.dumps(WEATHER))]), ROUND[2]], tools=TOOLS),
    "bare_call": dict(messages=[ROUND[0], message("assistant", "", tool_calls=[{"name": "noop", "arguments": {}}]),
                                message("tool", "x")], tools=TOOLS),
    "call_no_content": dict(messages=[ROUND[0], {"role": "assistant", "tool_calls": ROUND[1]["tool_calls"]}, ROUND[2]],
                            tools=TOOLS),
    "empty_calls": dict(messages=[USER, message("assistant", "x", tool_calls=[]), USER]),
    "tool_object": dict(messages=ROUND[:2] + [message("tool", {"temp": 21.5, "l": [None, True]}, name="get_weather")],
                        tools=TOOLS),
    "tool_parts": dict(messages=ROUND[:2] + [message("tool", [{"type": "text", "text": "21"}], name="get_weather",
                                                     tool_call_id="call00001")], tools=TOOLS),
    "tool_list": dict(messages=ROUND[:2] + [message("tool", [{"name": "get_weather", "output": "21"}])], tools=TOOLS),
    "ipython": dict(messages=ROUND[:2] + [message("ipython", "out")], tools=TOOLS),
    "plain_tools": dict(messages=[USER], tools=[t["function"] for t in TOOLS]),
    "parts": dict(messages=[message("system", [{"type": "text", "text": "Sys"}]), message(
        "user", [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}])]),
    "images": dict(messages=IMAGES),
    "no_parts": dict(messages=[message("user", [])]),
    "number_content": dict(messages=[message("user", 5)]),
    "documents": dict(messages=[USER], documents=[{"title": "T", "text": "body", "contents": "c"}], citations=True),
    "builtin_tools": dict(messages=[USER], builtin_tools=["browser", "python"], tools=TOOLS[:1], tools_in_user_message=False),
    "dated": dict(messages=[USER], date_string="1 Jan 2030", current_date="2030-01-01", reasoning_effort="low",
                  model_identity="You are X."),
    "no_tokens": dict(messages=[USER, HELLO, USER], bos_token=None),
}


def prepared(conversation):
    """What a template sees, as apply_chat_template gives it."""
    values = {"tools": None, "documents": None, "add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>", **conversation}
    return {key: value for key, value in values.items() if value is not None or not key.endswith("_token")}


def expected(text, conversation):
    """The prompt, or None and the error."""
    try:
        return chat_template_utils._compile_jinja_template(text).render(**prepared(conversation)), ""
    except Exception as error:  # noqa: BLE001: whatever a template raises
        return None, f"{type(error).__name__}: {error}"


def found(binary, path, conversation, work):
    values = prepared(conversation)
    command = [binary, "render", str(path), "--now", "2026-03-04T05:06:07"]
    for key in ["messages", "tools", "documents"]:
        if values[key] is None:
            continue
        file = work / f"{key}.json"
        file.write_text(json.dumps(values[key]), encoding="utf-8")
        command += [f"--{key}", str(file)]
    command += [] if values["add_generation_prompt"] else ["--no-generation-prompt"]
    for key, value in values.items():
        if key in ["bos_token", "eos_token"]:
            command += [f"--{key.removesuffix('_token')}", value]
        elif key not in ["messages", "tools", "documents", "add_generation_prompt"]:
            command += ["--set", f"{key}={json.dumps(value)}"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode == 0:
        return done.stdout.decode("utf-8"), ""
    return None, f"exit {done.returncode}: {done.stderr.decode('utf-8').strip()}"


def compare(binary, path, name):
    text = path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as work:
        ours, our_error = found(binary, path, CONVERSATIONS[name], pathlib.Path(work))
    theirs, their_error = expected(text, CONVERSATIONS[name])
    refused = ours is None and not our_error.startswith("exit 2")
    if ours == theirs and not refused:
        return "ok" if ours is not None else "error", ""
    return "DIFFERS", f"{path.name} {name}:\n  jinja2: {theirs!r} {their_error}\n  ours:   {ours!r} {our_error}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--templates", required=True)
    parser.add_argument("--table", help="write the whole table, as Markdown")
    parser.add_argument("--only", default="", help="templates whose names hold this")
    options = parser.parse_args()
    paths = [p for p in sorted(pathlib.Path(options.templates).glob("*.jinja")) if options.only in p.name]
    if not paths:
        sys.exit(f"no templates in {options.templates}")
    rows, differences = [], []
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for path in paths:
            results = list(pool.map(lambda name, path=path: compare(options.binary, path, name), CONVERSATIONS))
            rows.append((path.stem, [result for result, _ in results]))
            differences += [text for _, text in results if text]
            count = {kind: rows[-1][1].count(kind) for kind in ["ok", "error", "DIFFERS"]}
            print(f"{path.stem}: {count['ok']} equal, {count['error']} errors in both, {count['DIFFERS']} differ", flush=True)
    if options.table:
        lines = ["| template | " + " | ".join(CONVERSATIONS) + " |", "|---" * (len(CONVERSATIONS) + 1) + "|"]
        lines += [f"| {name} | " + " | ".join(results) + " |" for name, results in rows]
        pathlib.Path(options.table).write_text("\n".join(lines) + "\n", encoding="utf-8")
    total = [result for _, results in rows for result in results]
    print("\n".join(text[:2000] for text in differences))
    print(f"{len(rows)} templates x {len(CONVERSATIONS)} conversations: {total.count('ok')} equal prompts, "
          f"{total.count('error')} errors in both, {total.count('DIFFERS')} differ")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
