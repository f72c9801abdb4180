"""What tools/check_anthropic.py checks of a server: functions by the name of the server that they are for."""
import contextlib
import json
from typing import Literal

import anthropic
import pydantic
from api_report import holds, same

CHECKS = {"plain": [], "thinking": [], "tools": [], "guarded": []}
MODEL = "smol"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
SHORT = "Answer in one word."
WEATHER = {"name": "get_weather", "description": "The weather of a city.",
           "input_schema": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
                            "required": ["city", "days"], "additionalProperties": False}}
WHERE = [{"role": "user", "content": "What is the weather in Oslo for two days?"}]
FORCED = {"tools": [WEATHER], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}, "max_tokens": 100}


def check(server):
    """Registers a check; its docstring is what its line says."""
    def add(function):
        CHECKS[server].append(function)
        return function
    return add


class Api:
    """A server as the anthropic package and plain HTTP see it."""

    def __init__(self, server, key="none", **options):
        self.server = server
        options = {"api_key": key} | options
        # What does not have the types of the API is an error of the package.
        self.client = anthropic.Anthropic(base_url=server.url, max_retries=0, timeout=300, _strict_response_validation=True, **options)

    @staticmethod
    def fields(fields):
        """As the package takes them: how tokens are drawn is no argument of its own any more."""
        drawn = {"temperature": 0} | {key: value for key, value in fields.items() if key in ("temperature", "top_p", "top_k")}
        others = {key: value for key, value in fields.items() if key not in drawn and key != "extra"}
        return {"model": MODEL, "messages": QUESTION, "max_tokens": 24, "extra_body": drawn | fields.get("extra", {})} | others

    def ask(self, **fields):
        return self.client.messages.create(**self.fields(fields))

    def stream(self, **fields):
        """Events as the package has them, its own too, and the message that they add up to."""
        with self.client.messages.stream(**self.fields(fields)) as stream:
            events = list(stream)
            return events, stream.get_final_message()

    def raw(self, **fields):
        return list(self.client.messages.create(**self.fields(fields), stream=True))

    def count(self, **fields):
        return self.client.messages.count_tokens(**{"model": MODEL, "messages": QUESTION} | fields).input_tokens

    def both(self, **fields):
        """The message, which the stream adds up to as well."""
        whole = self.ask(**fields)
        _, streamed = self.stream(**fields)
        same([without_id(block) for block in streamed.content], [without_id(block) for block in whole.content], "content of the stream")
        same((streamed.stop_reason, streamed.stop_sequence, streamed.usage.output_tokens), (whole.stop_reason, whole.stop_sequence, whole.usage.output_tokens))
        return whole

    def tokens(self, text):
        return self.server.post("/tokenize", {"prompt": text, "add_special_tokens": False})["count"]


def without_id(block):
    return block.model_dump(exclude={"id"}, exclude_none=True)


def text_of(message):
    return "".join(block.text for block in message.content if block.type == "text")


@contextlib.contextmanager
def refused(kind, error_type, text):
    """The request is refused with this class of the client's errors, and says what is meant."""
    try:
        yield
    except kind as error:
        same((error.body["type"], error.body["error"]["type"], error.body["request_id"]), ("error", error_type, error.request_id))
        holds(text in error.body["error"]["message"], error.body)
        return
    raise AssertionError(f"nothing was refused, expected {text}")


def asks_for(block):
    """What a call asks for, which is of its schema."""
    same((block.type, block.name, set(block.input)), ("tool_use", "get_weather", {"city", "days"}))
    holds(len(block.input["city"]) <= 20 and block.input["days"] in range(1, 8), block.input)
    return block.input


# Messages.

@check("plain")
def message(api):
    """an answer: role, reason, usage as count_tokens counts, its id and that of the request"""
    answer = api.both(max_tokens=64)
    holds("Paris" in text_of(answer), answer)
    same((answer.type, answer.role, answer.model, answer.stop_reason, answer.stop_sequence), ("message", "assistant", MODEL, "end_turn", None))
    same([block.type for block in answer.content], ["text"])
    usage = answer.usage
    same(usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens, api.count(), "input")
    same(usage.output_tokens, api.tokens(text_of(answer)), "output_tokens")
    holds(answer.id.startswith("msg_") and answer._request_id, answer)
    cut = api.both(max_tokens=3)
    same((cut.stop_reason, cut.usage.output_tokens), ("max_tokens", 3))
    holds(text_of(answer).startswith(text_of(cut)), cut)


@check("plain")
def events(api):
    """a stream's events come in the order that the API has"""
    found = api.raw(max_tokens=5)
    kinds = [event.type for event in found]
    same((kinds[:2], kinds[-3:]), (["message_start", "content_block_start"], ["content_block_stop", "message_delta", "message_stop"]))
    same(set(kinds[2:-3]), {"content_block_delta"})
    start, last = found[0].message, found[-2]
    same((start.content, start.stop_reason, start.usage.input_tokens + start.usage.cache_read_input_tokens), ([], None, api.count()))
    same((last.delta.stop_reason, last.usage.output_tokens), ("max_tokens", 5))
    same("".join(event.delta.text for event in found[2:-3]), text_of(api.ask(max_tokens=5)))
    body = {"model": MODEL, "messages": QUESTION, "max_tokens": 2, "stream": True}
    _, _, text = api.server.ask("POST", "/v1/messages", body)
    holds('event: ping\ndata: {"type":"ping"}' in text and text.endswith('event: message_stop\ndata: {"type":"message_stop"}\n\n'), text)


@check("plain")
def beta(api):
    """client.beta.messages, whose path has ?beta=true, answers the same"""
    fields = api.fields({"betas": ["context-management-2025-06-27"]})
    answer = api.client.beta.messages.create(**fields)
    same(text_of(answer), text_of(api.ask()))
    with api.client.beta.messages.stream(**fields) as stream:
        same(text_of(stream.get_final_message()), text_of(answer))
    same(api.client.beta.messages.count_tokens(model=MODEL, messages=QUESTION).input_tokens, api.count())


@check("plain")
def system(api):
    """a system prompt as a text and as blocks, which are what a chat's system message is"""
    blocks = [{"type": "text", "text": SHORT, "cache_control": {"type": "ephemeral"}}]
    expected = api.server.post("/tokenize", {"messages": [{"role": "system", "content": SHORT}, *QUESTION]})["count"]
    same({api.count(system=value) for value in (SHORT, blocks)}, {expected})
    same(text_of(api.ask(system=blocks)), text_of(api.ask(system=SHORT)))
    chat = api.server.post("/v1/chat/completions", {"messages": [{"role": "system", "content": SHORT}, *QUESTION], "temperature": 0, "max_tokens": 24})
    same(text_of(api.ask(system=SHORT)), chat["choices"][0]["message"]["content"], "as a chat")


@check("plain")
def turns(api):
    """messages of one role that follow each other are one; the last of the assistant is gone on from"""
    parts = [{"role": "user", "content": "What is"}, {"role": "user", "content": [{"type": "text", "text": "the capital of France?"}]}]
    same(api.count(messages=parts), api.count(messages=[{"role": "user", "content": "What is\nthe capital of France?"}]))
    begun = [*QUESTION, {"role": "assistant", "content": "The capital of France is"}]
    answer = api.both(messages=begun, max_tokens=4)
    holds(text_of(answer).strip().startswith("Paris"), answer)
    same(api.count(messages=begun), api.server.post("/tokenize", {"messages": begun, "continue_final_message": True, "add_generation_prompt": False})["count"])


@check("plain")
def stops(api):
    """stop_sequences end an answer, which says which it was"""
    whole = text_of(api.ask(max_tokens=40))
    stop = whole[5:9]
    answer = api.both(stop_sequences=["never to be", stop], max_tokens=40)
    same((text_of(answer), answer.stop_reason, answer.stop_sequence), (whole[:whole.index(stop)], "stop_sequence", stop))


@check("plain")
def sampling(api):
    """temperature, top_p, top_k and a seed beside them; other options of the server are taken too"""
    greedy = text_of(api.ask())
    same([text_of(api.ask(temperature=1, top_k=1)), text_of(api.ask(temperature=1, top_p=1e-6))], [greedy, greedy])
    drawn = {seed: text_of(api.ask(temperature=1, extra={"seed": seed})) for seed in (1, 2)}
    same(drawn[1], text_of(api.ask(temperature=1, extra={"seed": 1})))
    holds(drawn[1] != drawn[2], drawn)
    same(api.ask(extra={"ignore_eos": True, "min_tokens": 30}, max_tokens=40).usage.output_tokens, 40)
    for fields in ({"metadata": {"user_id": "u"}}, {"service_tier": "auto"}, {"cache_control": {"type": "ephemeral"}}, {"thinking": {"type": "disabled"}},
                   {"thinking": {"type": "enabled", "budget_tokens": 5}}, {"thinking": {"type": "adaptive"}}):
        same(text_of(api.ask(**fields)), greedy, fields)


@check("plain")
def context(api):
    """an answer ends with the context where max_tokens is more; a prompt beyond it is refused as clients know it"""
    size = api.count(messages=[{"role": "user", "content": "word " * 480}])
    answer = api.ask(messages=[{"role": "user", "content": "word " * 480}], max_tokens=32000, extra={"ignore_eos": True})
    same((answer.stop_reason, answer.usage.output_tokens), ("model_context_window_exceeded", 512 - size))
    with refused(anthropic.BadRequestError, "invalid_request_error", "prompt is too long: "):
        api.ask(messages=[{"role": "user", "content": "word " * 600}])


@check("plain")
def cache(api):
    """usage says what the prefix cache had; a billing line that changes does not keep it from being found"""
    long = "Remember: " + "the sea is blue and the sand is white. " * 12
    api.ask(system=long)
    for system in (long, [{"type": "text", "text": "x-anthropic-billing-header: cc_version=2.0.1; cch=1a2b3;"}, {"type": "text", "text": long}]):
        usage = api.ask(system=system).usage
        holds(usage.cache_read_input_tokens >= 96 and usage.input_tokens <= 32, usage)
        same((usage.cache_creation_input_tokens, usage.input_tokens + usage.cache_read_input_tokens), (0, api.count(system=long)))
        same(api.server.logged()[-2]["cached_tokens"], usage.cache_read_input_tokens, "in the log")
    changed = api.ask(system="Today is Monday. " + long).usage
    holds(changed.cache_read_input_tokens < 32, changed)


class Place(pydantic.BaseModel):
    city: str = pydantic.Field(max_length=30)
    continent: Literal["Africa", "Asia", "Europe"]


@check("plain")
def shapes(api):
    """output_config.format and output_format hold an answer to a schema; parse() makes objects of it"""
    schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 30}, "continent": {"enum": ["Africa", "Asia", "Europe"]}},
              "required": ["city", "continent"], "additionalProperties": False}
    form = {"type": "json_schema", "schema": schema}
    answer = api.both(output_config={"format": form, "effort": "low"}, max_tokens=100)
    Place.model_validate_json(text_of(answer))
    same(text_of(api.ask(extra={"output_format": form}, max_tokens=100)), text_of(answer))
    parsed = api.client.messages.parse(**api.fields({"max_tokens": 200}), output_format=Place)
    holds(isinstance(parsed.parsed_output, Place), parsed)
    with refused(anthropic.BadRequestError, "invalid_request_error", "output_config.format.schema"):
        api.ask(output_config={"format": {"type": "json_schema", "schema": {"not": {}}}})


@check("plain")
def refusals(api):
    """what models here cannot take is refused by name, with the class of the package's errors"""
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "a"}}
    for fields, text in [({"messages": [{"role": "user", "content": [image]}]}, "image"), ({"messages": [{"role": "user", "content": [document]}]}, "document"),
                         ({"messages": []}, "messages"), ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role"), ({"max_tokens": 0}, "max_tokens"),
                         ({"temperature": 3}, "temperature"), ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "web_search_20250305"),
                         ({"tools": [WEATHER]}, "tools"), ({"extra": {"n": 2}}, "n is not"), ({"extra": {"colour": "red"}}, "colour"), ({"container": "c"}, "container"),
                         ({"extra": {"mcp_servers": [{"url": "x"}]}}, "mcp_servers")]:
        with refused(anthropic.BadRequestError, "invalid_request_error", text):
            api.ask(**fields)
    with refused(anthropic.NotFoundError, "not_found_error", "other"):
        api.ask(model="other")


@check("plain")
def models(api):
    """/v1/models as the package reads it"""
    page = api.client.models.list()
    same(([model.id for model in page], page.has_more, page.first_id, page.last_id), ([MODEL], False, MODEL, MODEL))
    model = api.client.models.retrieve(MODEL)
    same((model, model.type, model.display_name, model.max_input_tokens), (page.data[0], "model", MODEL, 511))
    holds(model.created_at.year >= 2024, model)
    with contextlib.suppress(anthropic.NotFoundError):
        api.client.models.retrieve("other")
        raise AssertionError("a model that is not there")


# Thoughts.

@check("thinking")
def thoughts(api):
    """thinking enabled and adaptive give thinking blocks, without it and disabled there are none"""
    for fields in ({}, {"thinking": {"type": "disabled"}}):
        same([block.type for block in api.both(**fields).content], ["text"])
    for thinking in ({"type": "adaptive"}, {"type": "enabled", "budget_tokens": 23}):
        answer = api.ask(thinking=thinking, extra={"ignore_eos": True})
        holds(answer.content[0].type == "thinking" and answer.content[0].thinking and answer.content[0].signature, answer)
        holds(answer.usage.output_tokens_details.thinking_tokens > 0, answer.usage)
    with refused(anthropic.BadRequestError, "invalid_request_error", "budget_tokens"):
        api.ask(thinking={"type": "enabled", "budget_tokens": 24})


@check("thinking")
def budget(api):
    """budget_tokens ends a thought, and an answer follows within max_tokens; the thought can be sent back, or left out"""
    fields = {"thinking": {"type": "enabled", "budget_tokens": 6}, "extra": {"ignore_eos": True}}
    answer = api.both(**fields)
    same(([block.type for block in answer.content], answer.stop_reason, answer.usage.output_tokens), (["thinking", "text"], "max_tokens", 24))
    holds(api.tokens(answer.content[0].thinking) <= 6 and text_of(answer), answer)
    found = api.raw(**fields)
    same([event.delta.type for event in found if event.type == "content_block_delta" and event.index == 0][-1], "signature_delta")
    hidden = api.both(**fields | {"thinking": fields["thinking"] | {"display": "omitted"}})
    same((hidden.content[0].thinking, text_of(hidden)), ("", text_of(answer)))
    again = [*QUESTION, {"role": "assistant", "content": answer.content}, {"role": "user", "content": "Sure?"}]
    holds(text_of(api.ask(messages=again)), "an answer to a conversation that has thoughts")


@check("thinking")
def structured_thinking(api):
    """a schema begins behind the thought"""
    form = {"type": "json_schema", "schema": {"enum": ["yes", "no"]}}
    answer = api.both(thinking={"type": "enabled", "budget_tokens": 5}, output_config={"format": form}, max_tokens=60)
    same([block.type for block in answer.content], ["thinking", "text"])
    holds(json.loads(text_of(answer)) in ("yes", "no"), answer)


# Tools.

@check("tools")
def calls(api):
    """a call that is asked for comes, whole and as a stream, and what came of it is taken"""
    answer = api.both(messages=WHERE, **FORCED)
    same((answer.stop_reason, len(answer.content)), ("tool_use", 1))
    asked = asks_for(answer.content[0])
    same(asks_for(api.ask(messages=WHERE, **FORCED | {"tool_choice": {"type": "tool", "name": "get_weather"}}).content[0]), asked)
    events, final = api.stream(messages=WHERE, **FORCED)
    deltas = [event for event in events if event.type == "input_json"]
    holds(len(deltas) > 3, deltas)
    same((json.loads("".join(event.partial_json for event in deltas)), deltas[-1].snapshot, final.content[0].input), (asked, asked, asked))
    for content in ("Sunny.", [{"type": "text", "text": "Sunny."}]):
        result = {"type": "tool_result", "tool_use_id": answer.content[0].id, "content": content, "cache_control": {"type": "ephemeral"}}
        follow = [*WHERE, {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
        holds(api.ask(messages=follow, tools=[WEATHER], tool_choice={"type": "none"}).content, "an answer to what came of a call")
    failed = [*follow[:2], {"role": "user", "content": [result | {"is_error": True}]}]
    same(api.count(messages=failed) - api.count(messages=follow), api.tokens("Error: Sunny.") - api.tokens("Sunny."))


@check("tools")
def free_answers(api):
    """without a choice, and with none, the model says what it likes; strict tools hold it to their schemas"""
    for fields in ({}, {"tool_choice": {"type": "auto"}}, {"tool_choice": {"type": "none"}}, {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}):
        same([block.type for block in api.both(tools=[WEATHER], **fields).content], ["text"])
    strict = api.ask(messages=WHERE, tools=[WEATHER | {"strict": True}], max_tokens=60)
    for block in strict.content:
        holds(block.type == "text" or asks_for(block), block)
    with refused(anthropic.BadRequestError, "invalid_request_error", "tool_choice"):
        api.ask(tool_choice={"type": "any"})
    with refused(anthropic.BadRequestError, "invalid_request_error", "tool_use_id"):
        api.ask(messages=[*WHERE, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "other", "content": "a"}]}])


@check("tools")
def runner(api):
    """the package's own loop calls a function and sends what it says back"""
    said = []

    @anthropic.beta_tool
    def get_weather(city: str, days: int) -> str:
        """The weather of a city.

        Args:
            city: Which.
            days: How many.
        """
        said.append((city, days))
        return "Sunny."
    fields = api.fields({"messages": WHERE, "max_tokens": 100, "tool_choice": {"type": "tool", "name": "get_weather"}})
    run = api.client.beta.messages.tool_runner(**fields, tools=[get_weather], max_iterations=2)
    answers = list(run)
    same((len(answers), len(said)), (2, 2))
    holds(all(isinstance(city, str) and isinstance(days, int) for city, days in said), said)


# Keys.

@check("guarded")
def keys(api):
    """x-api-key and Authorization hold a key each; without a right one it is 401"""
    for options in ({"api_key": "secret-1"}, {"api_key": None, "auth_token": "secret-1"}):
        same(api.count(), Api(api.server, **options).count())
    for options in ({"api_key": "wrong"}, {"api_key": None, "auth_token": "wrong"}):
        with refused(anthropic.AuthenticationError, "authentication_error", "API key"):
            Api(api.server, **options).ask()


@check("guarded")
def limits(api):
    """a body beyond --max-body is 413 and request_too_large"""
    try:
        api.ask(system="a" * 20000)
    except anthropic.APIStatusError as error:
        same((error.status_code, error.body["error"]["type"]), (413, "request_too_large"))
        return
    raise AssertionError("nothing was refused")
