"""What tools/check_openai.py checks of a server: functions by the name of the server that they are for."""
import contextlib
import json
import math
import re
from typing import Literal

import openai
import pydantic
from api_report import holds, same

CHECKS = {"plain": [], "thinking": [], "tools": [], "guarded": []}
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
STORY = "Once upon a time, in a village by the sea,"
MODEL = "smol"
# Texts of more bytes than characters, and of characters that are several tokens.
UNICODE = "Füße, 東京 and 🐟:"


def check(server):
    """Registers a check; its docstring is what its line says."""
    def add(function):
        CHECKS[server].append(function)
        return function
    return add


@contextlib.contextmanager
def refused(kind, param=None, code=None):
    """The request is refused with this class of the client's errors; the body names the field and why."""
    try:
        yield
    except kind as error:
        same(set(error.body), {"message", "type", "param", "code"}, "fields of the error")
        same((error.body["param"], error.body["code"]), (param, code), error.body["message"])
        holds(error.body["message"] and error.body["type"], error.body)
        holds(param is None or param.split(".")[-1].split("[")[0] in error.body["message"], f"{error.body['message']} does not name {param}")
        return
    raise AssertionError(f"nothing was refused, expected {param} {code}")


class Api:
    """A server as the openai package and plain HTTP see it."""

    def __init__(self, server, key="none"):
        self.server = server
        # What does not have the types of OpenAI's API is an error of the package. But those of completions do not know
        # null, which reasons of chunks and the first logprob of a prompt are.
        self.client, self.lenient = [openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=300, _strict_response_validation=strict)
                                     for strict in (True, False)]

    def chat(self, messages=None, extra=None, **fields):
        fields = {"model": MODEL, "messages": messages or QUESTION, "temperature": 0, "max_tokens": 24} | fields
        return self.client.chat.completions.create(**fields, extra_body=extra)

    def text(self, messages=None, extra=None, **fields):
        return self.chat(messages, extra, **fields).choices[0].message.content

    def complete(self, prompt=STORY, extra=None, **fields):
        fields = {"model": MODEL, "prompt": prompt, "temperature": 0, "max_tokens": 24} | fields
        client = self.lenient if "stream" in fields or "echo" in fields else self.client
        return client.completions.create(**fields, extra_body=extra)

    def go_on(self, prompt=STORY, extra=None, **fields):
        return self.complete(prompt, extra, **fields).choices[0].text

    def respond(self, value="What is the capital of France?", extra=None, **fields):
        fields = {"model": MODEL, "input": value, "temperature": 0, "max_output_tokens": 24} | fields
        return self.client.responses.create(**fields, extra_body=extra)

    def post(self, path, **body):
        return self.server.post(path, body)

    def tokens(self, prompt, **fields):
        return self.post("/tokenize", prompt=prompt, **fields)["tokens"]

    def count(self, messages):
        return self.post("/tokenize", messages=messages)["count"]


def joined(chunks, index=0, field="content"):
    return "".join(getattr(c.delta, field, None) or "" for chunk in chunks for c in chunk.choices if c.index == index)


def last_reason(chunks, index=0):
    reasons = [c.finish_reason for chunk in chunks for c in chunk.choices if c.index == index]
    same([r for r in reasons[:-1] if r], [], "a reason before the end")
    return reasons[-1]


# Models and what is beside them.

@check("plain")
def models(api):
    """/v1/models lists the model, /v1/models/NAME is it, another is 404"""
    listed = list(api.client.models.list())
    same([m.id for m in listed], [MODEL])
    same(api.client.models.retrieve(MODEL), listed[0])
    with refused(openai.NotFoundError, "model", "model_not_found"):
        api.client.models.retrieve("other")
    with refused(openai.NotFoundError, "model", "model_not_found"):
        api.complete(model="other")


@check("plain")
def tokens(api):
    """/tokenize and /detokenize are each other's inverse, for text of several scripts"""
    for text in [STORY, UNICODE, " leading", "\n\n\ttabs", "<|im_start|>user"]:
        found = api.post("/tokenize", prompt=text, return_token_strs=True, add_special_tokens=False)
        same(found["count"], len(found["tokens"]))
        same(len(found["token_strs"]), found["count"])
        same(api.post("/detokenize", tokens=found["tokens"]), {"prompt": text})
    marks = [len(api.tokens("<|im_start|>", parse_special=special)) for special in (True, False)]
    holds(marks[0] == 1 < marks[1], f"a mark is one token, and several where it is text: {marks}")


@check("plain")
def embeddings(api):
    """embeddings.create: texts and tokens give the same vectors, as floats and as base64, shorter ones are beginnings"""
    texts = [STORY, UNICODE, "a"]
    made = api.client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    same([item.index for item in made.data], [0, 1, 2])
    ids = [api.tokens(text) for text in texts]
    same((made.usage.prompt_tokens, made.usage.total_tokens), (sum(map(len, ids)),) * 2)
    for item in made.data:
        holds(abs(sum(x * x for x in item.embedding) - 1) < 1e-4, "a vector is of length 1")
    for given in (texts, ids):  # as the package asks by itself: base64
        packed = api.lenient.embeddings.create(model=MODEL, input=given)  # whose types do not know what it asked for
        for ours, theirs in zip(packed.data, made.data, strict=True):
            holds(max(abs(a - b) for a, b in zip(ours.embedding, theirs.embedding, strict=True)) < 1e-6, "base64 is as floats are")
    short = api.lenient.embeddings.create(model=MODEL, input=STORY, dimensions=8).data[0].embedding
    whole = made.data[0].embedding[:8]
    length = math.sqrt(sum(x * x for x in whole))
    holds(max(abs(a - b / length) for a, b in zip(short, whole, strict=True)) < 1e-5, "the first elements, at length 1")
    with refused(openai.BadRequestError, "dimensions"):
        api.client.embeddings.create(model=MODEL, input="a", dimensions=1 << 20)
    with refused(openai.BadRequestError, "input", "context_length_exceeded"):
        api.client.embeddings.create(model=MODEL, input="word " * 3000)


@check("plain")
def template(api):
    """/apply-template is what a chat is asked with"""
    prompt = api.post("/apply-template", messages=QUESTION)["prompt"]
    holds(QUESTION[0]["content"] in prompt, prompt)
    same(api.tokens(prompt, add_special_tokens=False), api.post("/tokenize", messages=QUESTION)["tokens"])
    same(api.go_on(prompt), api.text())
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    same(api.post("/apply-template", messages=parts), api.post("/apply-template", messages=[{"role": "user", "content": "a\nb"}]))
    developer = [[{"role": role, "content": "Be brief."}, *QUESTION] for role in ("developer", "system")]
    same(*[api.post("/apply-template", messages=messages) for messages in developer])


@check("plain")
def status(api):
    """/health, /ready, /version and /metrics, with vLLM's names that count what was done"""
    for path in ("/health", "/ready"):
        same(api.server.ask("GET", path)[::2], (200, '{"status":"ok"}'))
    holds(json.loads(api.server.ask("GET", "/version")[2])["version"], "a version")
    names = {"prompt_tokens_total": 0, "generation_tokens_total": 0, "time_to_first_token_seconds_count": 0, "e2e_request_latency_seconds_count": 0,
             "request_prompt_tokens_sum": 0, "request_generation_tokens_sum": 0, "request_queue_time_seconds_count": 0, "prefix_cache_queries_total": 0}
    api.complete(max_tokens=1)
    before = {name: api.server.metric(name) for name in names}
    answer = api.complete(max_tokens=7, extra={"ignore_eos": True})
    found = {name: api.server.metric(name) - before[name] for name in names}
    size = answer.usage.prompt_tokens
    same(found, names | {"prompt_tokens_total": size, "generation_tokens_total": 7, "time_to_first_token_seconds_count": 1, "e2e_request_latency_seconds_count": 1,
                         "request_prompt_tokens_sum": size, "request_generation_tokens_sum": 7, "request_queue_time_seconds_count": 1,
                         "prefix_cache_queries_total": found["prefix_cache_queries_total"]})
    holds(found["prefix_cache_queries_total"] > 0, "the prefix cache was asked")
    same([api.server.metric(name) for name in ("num_requests_running", "num_requests_waiting")], [0, 0])
    holds(api.server.metric("request_success_total", 'finished_reason="length"') >= 1, "samples that ended, by reason")


# Chats.

@check("plain")
def chat(api):
    """a chat's answer: role, reason, usage as /tokenize counts"""
    answer = api.chat(max_tokens=64)
    choice = answer.choices[0]
    same((answer.object, answer.model, choice.index, choice.message.role, choice.finish_reason), ("chat.completion", MODEL, 0, "assistant", "stop"))
    holds("Paris" in choice.message.content, choice.message.content)
    same(answer.usage.prompt_tokens, api.count(QUESTION), "prompt_tokens")
    same(answer.usage.completion_tokens, len(api.tokens(choice.message.content, add_special_tokens=False)), "completion_tokens")
    same(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens, "total_tokens")
    for limit in ({"max_tokens": 3}, {"max_tokens": openai.NOT_GIVEN, "max_completion_tokens": 3}, {"max_tokens": 9, "max_completion_tokens": 3}):
        cut = api.chat(**limit)
        same((cut.choices[0].finish_reason, cut.usage.completion_tokens), ("length", 3))
        holds(choice.message.content.startswith(cut.choices[0].message.content), cut)


@check("plain")
def chat_stream(api):
    """a chat's stream: the same text, reason and usage, several answers side by side"""
    fields = {"n": 3, "temperature": 1, "seed": 5}
    whole = api.chat(**fields)
    chunks = list(api.chat(stream=True, stream_options={"include_usage": True}, **fields))
    same({c.object for c in chunks}, {"chat.completion.chunk"})
    same(len({c.id for c in chunks}), 1, "ids")
    for choice in whole.choices:
        mine = [c for chunk in chunks for c in chunk.choices if c.index == choice.index]
        same((mine[0].delta.role, [c.delta.role for c in mine[1:] if c.delta.role]), ("assistant", []), "roles")
        same(joined(chunks, choice.index), choice.message.content, "text")
        same(last_reason(chunks, choice.index), choice.finish_reason, "reason")
    holds(all(c.usage is None for c in chunks[:-1]), "usage before the end")
    same((chunks[-1].choices, chunks[-1].usage.completion_tokens, chunks[-1].usage.total_tokens),
         ([], whole.usage.completion_tokens, whole.usage.total_tokens))
    holds(all(c.usage is None and c.choices for c in api.chat(stream=True)), "usage that was not asked for")


@check("plain")
def prefill(api):
    """an assistant's message is gone on from"""
    begun = [*QUESTION, {"role": "assistant", "content": "The capital city is"}]
    prompt = api.post("/apply-template", messages=begun, continue_final_message=True)["prompt"]
    holds(prompt.endswith("The capital city is"), prompt)
    extra = {"continue_final_message": True, "add_generation_prompt": False}
    same(api.text(begun, extra), api.go_on(prompt))
    with refused(openai.BadRequestError, "continue_final_message", "conflicting_parameters"):
        api.chat(begun, {"continue_final_message": True, "add_generation_prompt": True})
    with refused(openai.BadRequestError, "continue_final_message", "conflicting_parameters"):
        api.chat(QUESTION, {"continue_final_message": True})


@check("plain")
def chat_logprobs(api):
    """a chat's logprobs: not above 0, the greedy token is the likeliest, bytes are the text's; in streams too"""
    answer = api.chat(logprobs=True, top_logprobs=4)
    entries = answer.choices[0].logprobs.content
    same(len(entries), answer.usage.completion_tokens)
    same(b"".join(bytes(e.bytes) for e in entries).decode(), answer.choices[0].message.content)
    for entry in entries:
        top = [t.logprob for t in entry.top_logprobs]
        same(len(top), 4)
        same(top, sorted(top, reverse=True))
        holds(top[0] <= 0 and sum(map(math.exp, top)) <= 1 + 1e-4, top)
        same((entry.token, entry.logprob), (entry.top_logprobs[0].token, top[0]), "the greedy token")
    chunks = list(api.chat(logprobs=True, top_logprobs=4, stream=True))
    same([e for chunk in chunks for c in chunk.choices if c.logprobs for e in c.logprobs.content], entries)
    drawn = api.chat(logprobs=True, top_logprobs=0, temperature=1.5, seed=3).choices[0].logprobs.content
    holds(all(e.logprob <= 0 and e.top_logprobs == [] for e in drawn), "without others")
    same(api.chat().choices[0].logprobs, None)


# Completions.

@check("plain")
def completion(api):
    """a completion of a text, of tokens and of lists of them; usage counts every prompt"""
    answer = api.complete()
    ids = api.tokens(STORY)
    same((answer.object, answer.choices[0].finish_reason, answer.usage.prompt_tokens, answer.usage.completion_tokens), ("text_completion", "length", len(ids), 24))
    text = answer.choices[0].text
    same(api.go_on(ids), text)
    other = api.go_on("The sun")
    several = api.complete([STORY, "The sun"], n=2)
    same([c.text for c in several.choices], [text, text, other, other])
    same((several.usage.prompt_tokens, several.usage.completion_tokens), (len(ids) + len(api.tokens("The sun")), 96))
    same([c.text for c in api.complete([ids, api.tokens("The sun")]).choices], [text, other])
    same(api.complete(max_tokens=openai.NOT_GIVEN).usage.completion_tokens, 16, "max_tokens by default")


@check("plain")
def completion_stream(api):
    """a completion's stream: the same text, logprobs and usage"""
    whole = api.complete(logprobs=2)
    chunks = list(api.complete(logprobs=2, stream=True, stream_options={"include_usage": True}))
    same("".join(c.choices[0].text for c in chunks[:-1]), whole.choices[0].text)
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        same([x for c in chunks[:-1] if c.choices[0].logprobs for x in getattr(c.choices[0].logprobs, name)], getattr(whole.choices[0].logprobs, name), name)
    same((chunks[-1].choices, chunks[-1].usage), ([], whole.usage))
    same([c.choices[0].finish_reason for c in chunks[:-1]][-1], "length")


@check("plain")
def echo(api):
    """echo repeats the prompt, its logprobs are those of an answer in its place, offsets count characters"""
    answer = api.complete(logprobs=3, max_tokens=8)
    said = answer.choices[0]
    again = api.complete(STORY + said.text, logprobs=3, max_tokens=0, echo=True)
    same((again.choices[0].text, again.usage.completion_tokens), (STORY + said.text, 0))
    same(again.choices[0].logprobs.token_logprobs[0], None)
    for found, expected in zip(again.choices[0].logprobs.token_logprobs[-8:], said.logprobs.token_logprobs, strict=True):
        holds(abs(found - expected) < 1e-4, f"{found} for {expected}")
    same(api.complete(echo=True).choices[0].text, STORY + api.go_on())
    same("".join(c.choices[0].text for c in api.complete(echo=True, stream=True)), STORY + api.go_on())
    same([c.text for c in api.complete([STORY, "The sun"], echo=True, max_tokens=2).choices], [STORY + api.go_on(max_tokens=2), "The sun" + api.go_on("The sun", max_tokens=2)])
    text = "Füße und Bäume: äöü."
    marks = api.complete(text, logprobs=1, echo=True, max_tokens=4).choices[0]
    for token, offset in zip(marks.logprobs.tokens, marks.logprobs.text_offset, strict=True):
        if "\ufffd" in token:
            break
        same(marks.text[offset:offset + len(token)], token, f"what is at {offset}")


# What answers are drawn by.

@check("plain")
def seed(api):
    """seed gives the same answer twice, without one they differ; answer i of n is that of seed + i"""
    def draw(**fields):
        return [c.message.content for c in api.chat(temperature=1.2, **fields).choices]
    first = draw(seed=11)
    same(draw(seed=11), first)
    holds(draw(seed=12) != first, "two seeds")
    holds(len({draw()[0] for _ in range(3)}) > 1, "no seed")
    same(draw(seed=11, n=2), [*first, *draw(seed=12)])
    same(draw(seed=-1), draw(seed=-1))


@check("plain")
def several(api):
    """n answers differ, but where the temperature is 0"""
    same(len({c.message.content for c in api.chat(n=4).choices}), 1)
    answer = api.chat(n=4, temperature=1)
    holds(len({c.message.content for c in answer.choices}) > 1, "four answers are the same")
    same((len(answer.choices), [c.index for c in answer.choices]), (4, [0, 1, 2, 3]))
    same(answer.usage.prompt_tokens, api.count(QUESTION), "the prompt is counted once")


@check("plain")
def stops(api):
    """stop texts cut exactly, also across tokens and in streams; stop_token_ids end without a trace"""
    for text, ask in [(api.go_on(), api.complete), (api.text(), api.chat)]:
        for begin in (3, len(text) // 2):
            stop = text[begin:begin + 6]
            cut = text[:text.index(stop)]
            for value in (stop, [stop], ["@@@", stop, text]):
                choice = ask(stop=value).choices[0]
                found = choice.text if hasattr(choice, "text") else choice.message.content
                same((found, choice.finish_reason), ("" if value == ["@@@", stop, text] and text.startswith(cut) and not cut else cut, "stop"), f"stop {value}")
            chunks = list(ask(stop=stop, stream=True))
            same("".join((getattr(c.choices[0], "text", None) if hasattr(c.choices[0], "text") else c.choices[0].delta.content) or "" for c in chunks), cut)
            same(chunks[-1].choices[0].finish_reason, "stop")
    ids = api.tokens(STORY + api.go_on())[len(api.tokens(STORY)):]
    at = ids.index(ids[5])
    ended = api.complete(extra={"stop_token_ids": [ids[5]]})
    same((ended.choices[0].text, ended.choices[0].finish_reason, ended.usage.completion_tokens), (api.post("/detokenize", tokens=ids[:at])["prompt"], "stop", at))
    later = api.complete(extra={"stop_token_ids": [ids[5]], "min_tokens": at + 4})
    holds(later.usage.completion_tokens >= at + 4, f"{later.usage.completion_tokens} tokens, of {at + 4}")


@check("plain")
def ends(api):
    """ignore_eos goes on where the model would end; without it the end's token is not in the text"""
    ended = api.chat(max_tokens=64)
    same(ended.choices[0].finish_reason, "stop")
    further = api.chat(max_tokens=64, extra={"ignore_eos": True})
    same((further.choices[0].finish_reason, further.usage.completion_tokens), ("length", 64))
    holds(further.choices[0].message.content.startswith(ended.choices[0].message.content), further)
    longer = api.chat(max_tokens=64, extra={"min_tokens": ended.usage.completion_tokens + 3})
    holds(longer.usage.completion_tokens >= ended.usage.completion_tokens + 3, longer)


@check("plain")
def biases(api):
    """logit_bias: +100 forces a token, -100 forbids it"""
    token = api.tokens(" fish", add_special_tokens=False)[0]
    same(api.go_on(logit_bias={str(token): 100}, max_tokens=5), " fish" * 5)
    same(api.text(logit_bias={str(token): 100}, max_tokens=5), " fish" * 5)
    first = api.tokens(STORY + api.go_on(max_tokens=1))[-1]
    likeliest = list(api.complete(max_tokens=1, logprobs=2).choices[0].logprobs.top_logprobs[0])
    same(api.go_on(max_tokens=1, logit_bias={str(first): -100}), likeliest[1], "the second likeliest")


@check("plain")
def greedy(api):
    """top_k 1, min_p 1, top_p and typical_p near 0 are greedy; temperature near 0 too"""
    best = api.go_on()
    hot = {"temperature": 2, "seed": 4}
    holds(api.go_on(**hot) != best, "a temperature of 2 is greedy")
    for extra in ({"top_k": 1}, {"min_p": 1}):
        same(api.go_on(extra=extra, **hot), best, str(extra))
    same(api.go_on(top_p=1e-6, **hot), best, "top_p")
    same(api.go_on(temperature=1e-4, seed=4), best, "temperature")
    same(api.go_on(extra={"top_k": -1, "min_p": 0, "typical_p": 1, "repetition_penalty": 1}, **hot), api.go_on(**hot), "what restricts nothing")
    few = api.complete(extra={"top_k": 3}, logprobs=3, **hot).choices[0].logprobs
    for chosen, top in zip(few.token_logprobs, few.top_logprobs, strict=True):
        holds(chosen >= sorted(top.values())[-3], f"{chosen} is not among the 3 likeliest of {top}")


def penalized(api, fields, extra, penalty):
    """Every greedy token is the likeliest of the 20 likeliest after `penalty`(logprob, times in the prompt, times said)."""
    found = api.complete(logprobs=20, max_tokens=40, extra=extra, **fields).choices[0].logprobs
    prompt = api.post("/tokenize", prompt=STORY, return_token_strs=True)["token_strs"]
    said = []
    for token, top in zip(found.tokens, found.top_logprobs, strict=True):
        if len(top) >= 20:  # texts that are of one token each, and what was said where it is none of the 20 likeliest
            values = {text: penalty(value, prompt.count(text), said.count(text)) for text, value in top.items()}
            # A token that is not among them may come before those that are: only what is there and better is wrong.
            better = [text for text in values if values[text] > values.get(token, -math.inf) + 1e-3]
            holds(token not in values or not better, f"{token!r} after {said[-8:]}, where {better} are better")
        said.append(token)
    return "".join(said)


@check("plain")
def penalties(api):
    """frequency and presence penalties are of what was said, and not of the prompt: each token is the best after them"""
    plain = penalized(api, {}, {}, lambda value, *_: value)
    for fields, penalty in [({"frequency_penalty": 1.5}, lambda value, _, said: value - 1.5 * said),
                            ({"presence_penalty": 2}, lambda value, _, said: value - 2 * (said > 0)),
                            ({"frequency_penalty": -0.5}, lambda value, _, said: value + 0.5 * said)]:
        holds(penalized(api, fields, {}, penalty) != plain, f"{fields} change nothing")
    # The repetition penalty divides logits, of which logprobs say the differences alone: what it leads to is known of its limits.
    text = api.complete(extra={"repetition_penalty": 100, "ignore_eos": True}, logprobs=1, max_tokens=30).choices[0].logprobs.tokens
    prompt = api.post("/tokenize", prompt=STORY, return_token_strs=True)["token_strs"]
    same(len(set(text) | set(prompt)), len(text) + len(set(prompt)), f"a token comes again: {text}")
    same(api.go_on(extra={"repetition_penalty": 1}), api.go_on())


# Responses.

@check("plain")
def responses(api):
    """/v1/responses: text, usage, status; items, instructions and the stream's events say the same"""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is the capital of France?"}]
    answer = api.respond(instructions="Be brief.", max_output_tokens=64)
    same(answer.output_text, api.text(messages, max_tokens=64))
    same((answer.status, answer.incomplete_details, answer.instructions), ("completed", None, "Be brief."))
    same((answer.usage.input_tokens, answer.usage.output_tokens), (api.count(messages), len(api.tokens(answer.output_text))))
    cut = api.respond(max_output_tokens=3)
    same((cut.status, cut.incomplete_details.reason, cut.usage.output_tokens), ("incomplete", "max_output_tokens", 3))
    items = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": [{"type": "input_text", "text": messages[1]["content"]}]}]
    same(api.respond(items, max_output_tokens=64).output_text, answer.output_text)
    further = [*items, *[item.model_dump(exclude_none=True) for item in answer.output], {"role": "user", "content": "And of Spain?"}]
    holds(api.respond(further).usage.input_tokens > answer.usage.total_tokens, "the conversation goes on")
    events = list(api.respond(instructions="Be brief.", max_output_tokens=64, stream=True))
    same("".join(e.delta for e in events if e.type == "response.output_text.delta"), answer.output_text)
    same([e.sequence_number for e in events], list(range(len(events))))
    same(events[-1].type, "response.completed")
    same((events[-1].response.output_text, events[-1].response.usage.total_tokens), (answer.output_text, answer.usage.total_tokens))
    same(api.respond(temperature=1, extra={"seed": 4}).output_text, api.respond(temperature=1, extra={"seed": 4}).output_text)


# Answers that are held to a grammar.

class Place(pydantic.BaseModel):
    city: str = pydantic.Field(max_length=40)
    kind: Literal["town", "village", "capital"]
    people: int = pydantic.Field(ge=0, le=50_000_000)
    tags: list[str] = pydantic.Field(max_length=3)


PLACE_FORMAT = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": Place.model_json_schema() | {"additionalProperties": False}}}


@check("plain")
def structured(api):
    """parse() of the package gives the objects that it was told of, whole and as a stream, of chats and of responses"""
    question = [{"role": "user", "content": "Tell me about Paris."}]
    whole = api.client.chat.completions.parse(model=MODEL, messages=question, response_format=Place, temperature=0, max_tokens=600)
    holds(isinstance(whole.choices[0].message.parsed, Place), whole)
    same(whole.choices[0].finish_reason, "stop")
    chunks = list(api.chat(question, stream=True, response_format=PLACE_FORMAT, max_tokens=600))
    same((Place.model_validate_json(joined(chunks)), last_reason(chunks)), (whole.choices[0].message.parsed, "stop"))
    for seed in range(3):
        drawn = api.chat(question, response_format=PLACE_FORMAT, max_tokens=600, temperature=1.2, n=2, seed=seed)
        for choice in drawn.choices:
            holds(choice.finish_reason == "length" or Place.model_validate_json(choice.message.content), choice)
    response = api.client.responses.parse(model=MODEL, input="Tell me about Paris.", text_format=Place, temperature=0, max_output_tokens=600)
    holds(isinstance(response.output_parsed, Place), response)
    any_object = api.chat(question, response_format={"type": "json_object"}, max_tokens=600).choices[0]
    holds(any_object.finish_reason == "length" or isinstance(json.loads(any_object.message.content), dict), any_object)
    cut = api.chat(question, response_format=PLACE_FORMAT, max_tokens=3)
    same((cut.choices[0].finish_reason, cut.choices[0].message.content[:1]), ("length", "{"))


@check("plain")
def guided(api):
    """guided_*, structured_outputs, grammar and json_schema hold an answer to what they say"""
    number = {"type": "number", "minimum": 1.5, "maximum": 2.5}
    for extra, pattern in [({"guided_choice": ["yes", "no"]}, "yes|no"), ({"guided_regex": r"\d{4}-\d{2}"}, r"\d{4}-\d{2}"), ({"guided_json": number}, r"[12](\.\d+)?"),
                           ({"guided_grammar": 'root ::= "x" [yz]{3}'}, "x[yz]{3}"), ({"grammar": 'root ::= "x" [yz]{3}'}, "x[yz]{3}"), ({"json_schema": number}, r"[12](\.\d+)?"),
                           ({"structured_outputs": {"choice": ["é", "東京"]}}, "é|東京"), ({"structured_outputs": {"regex": "[🐟a]{5}"}}, "[🐟a]{5}")]:
        for text in (api.text(extra=extra), api.go_on(extra=extra), api.respond(extra=extra).output_text):
            holds(re.fullmatch(pattern, text), f"{extra} gave {text!r}")


# Errors.

@check("plain")
def errors(api):
    """errors have OpenAI's shape, and name field and reason"""
    bad = openai.BadRequestError
    for fields, param, code in [({"temperature": 2.5}, "temperature", None), ({"top_p": 0}, "top_p", None), ({"n": 0}, "n", None), ({"stop": ["a"] * 17}, "stop", None),
                                ({"max_tokens": 0}, "max_tokens", None), ({"max_tokens": openai.NOT_GIVEN, "max_completion_tokens": 0}, "max_completion_tokens", None),
                                ({"max_tokens": 10**6}, "max_tokens", "context_length_exceeded"), ({"top_logprobs": 2}, "top_logprobs", "conflicting_parameters"),
                                ({"logit_bias": {"a": 1}}, "logit_bias", None), ({"logit_bias": {"1": 101}}, "logit_bias", None), ({"presence_penalty": 3}, "presence_penalty", None),
                                ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "tools_unsupported"),
                                ({"response_format": {"type": "xml"}}, "response_format.type", None),
                                ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}}, "response_format.json_schema.schema", "invalid_grammar"),
                                ({"extra": {"guided_regex": "(?=a)"}}, "guided_regex", "invalid_grammar"),
                                ({"stream_options": {"include_usage": True}}, "stream_options", "conflicting_parameters"),
                                ({"extra": {"colour": "red"}}, "colour", "unsupported_parameter"), ({"extra": {"top_k": "x"}}, "top_k", None),
                                ({"extra": {"min_tokens": 30}}, "min_tokens", "conflicting_parameters"), ({"extra": {"min_p": -1}}, "min_p", None),
                                ({"extra": {"thinking_budget": 5}}, "thinking_budget", "conflicting_parameters"),
                                ({"messages": [{"role": "user"}]}, "messages[0].content", None), ({"messages": [{"role": "user", "content": "a " * 10000}]}, "messages", "context_length_exceeded")]:
        with refused(bad, param, code):
            api.chat(**fields)
    for fields, param, code in [({"prompt": []}, "prompt", None), ({"prompt": [1, 10**6]}, "prompt", None), ({"prompt": ""}, "prompt", None), ({"logprobs": 21}, "logprobs", None),
                                ({"suffix": "x"}, "suffix", "unsupported_parameter"), ({"best_of": 3}, "best_of", "unsupported_parameter"),
                                ({"max_tokens": 0}, "max_tokens", "conflicting_parameters"), ({"prompt": ["a"] * 100, "n": 2}, "n", "conflicting_parameters")]:
        with refused(bad, param, code):
            api.complete(**fields)
    for fields, param, code in [({"value": []}, "input", None), ({"previous_response_id": "x"}, "previous_response_id", "unsupported_parameter"), ({"max_output_tokens": 0}, "max_output_tokens", None)]:
        with refused(bad, param, code):
            api.respond(**fields)
    for body, code in [("{", "invalid_json"), ("[]", "invalid_json")]:
        answer = api.server.ask("POST", "/v1/completions", body)
        same((answer[0], json.loads(answer[2])["error"]["code"]), (400, code))
    same(api.server.ask("POST", "/v1/completions", "{}", {"Content-Type": "text/plain"})[0], 415)
    answer = api.server.ask("DELETE", "/v1/models")
    same((answer[0], answer[1]["Allow"]), (405, "GET, HEAD"))
    same(api.server.ask("GET", "/v2")[0], 404)


@check("plain")
def whole_context(api):
    """an answer may fill the context to its last token, and no more"""
    context = api.post("/tokenize", prompt="a")["max_model_len"]
    ids = (api.tokens(STORY) * context)[:context - 3]
    answer = api.complete(ids, max_tokens=3, extra={"ignore_eos": True})
    same((answer.usage.total_tokens, answer.choices[0].finish_reason), (context, "length"))
    same(api.complete(ids, max_tokens=openai.NOT_GIVEN, extra={"ignore_eos": True}).usage.total_tokens, context, "max_tokens by default")
    with refused(openai.BadRequestError, "max_tokens", "context_length_exceeded"):
        api.complete(ids, max_tokens=4)


@check("plain")
def pages_of_others(api):
    """no other site's page is let in: CORS is off, and the Host header must be this machine"""
    origin = {"Origin": "http://page.example"}
    preflight = api.server.ask("OPTIONS", "/v1/models", headers=origin | {"Access-Control-Request-Method": "GET"})
    same(preflight[0], 405)
    for found in (preflight, api.server.ask("GET", "/v1/models", headers=origin)):
        same([name for name in found[1] if name.lower().startswith("access-control")], [])
    for host, status_code in [("page.example", 403), ("127.0.0.1.page.example", 403), ("localhost", 200), ("[::1]:80", 200)]:
        found = api.server.ask("GET", "/v1/models", headers={"Host": host})
        same(found[0], status_code, host)
        same(json.loads(found[2]).get("error", {}).get("code"), "bad_host" if status_code == 403 else None)


# A model whose template thinks, and which has a generation_config.json.

def thoughts(answer):
    return getattr(answer.choices[0].message, "reasoning_content", None)


@check("thinking")
def thinking(api):
    """reasoning_content is what is said before the closing tag, on and off, in streams too"""
    on, off = {"chat_template_kwargs": {"enable_thinking": True}}, {"chat_template_kwargs": {"enable_thinking": False}}
    plain = api.chat(extra=off)
    same(thoughts(plain), None)
    same(api.text(reasoning_effort="none"), plain.choices[0].message.content, "reasoning_effort none")
    thought = api.chat(extra=on)
    prompt = api.post("/apply-template", messages=QUESTION, **on)["prompt"]
    holds(prompt.endswith("<think>\n"), prompt)
    same((thought.choices[0].message.content, thoughts(thought)), ("", api.go_on(prompt).strip("\n")), "a thought that does not end")
    # The assistant's message is begun with a whole thought, then with one that the model is inside of.
    begun = [*QUESTION, {"role": "assistant", "content": "<think>\nEasy: Paris.\n</think>\n\nIt is"}]
    go_on = {"continue_final_message": True, "add_generation_prompt": False}
    after = api.chat(begun, go_on)
    same((thoughts(after), "<think>" in after.choices[0].message.content), (None, False))
    inside = [*QUESTION, {"role": "assistant", "content": "<think>\nEasy: Paris"}]
    raw = api.text(inside, go_on | {"separate_reasoning": False})
    same(thoughts(api.chat(inside, go_on)), raw)
    chunks = list(api.chat(extra=on, stream=True))
    same((joined(chunks, field="reasoning_content"), joined(chunks)), (thoughts(thought), ""))


@check("thinking")
def structured_thinking(api):
    """a grammar begins behind the thought, also where a budget ends that"""
    fields = {"response_format": PLACE_FORMAT, "max_tokens": 400}
    for extra in ({"thinking_budget": 20}, {"thinking_budget": 1}):
        answer = api.chat(**fields, extra=extra | {"chat_template_kwargs": {"enable_thinking": True}, "ignore_eos": True}).choices[0]
        holds(answer.message.reasoning_content, answer)
        holds(answer.finish_reason == "length" or Place.model_validate_json(answer.message.content), answer)
        holds(answer.message.content.startswith("{"), answer)


@check("thinking")
def budget(api):
    """a thinking budget closes the thought after so many tokens, and the answer goes on within max_tokens"""
    on = {"chat_template_kwargs": {"enable_thinking": True}, "ignore_eos": True}
    free = api.chat(extra=on, max_tokens=10)
    for size in (1, 4, 10):
        answer = api.chat(extra=on | {"thinking_budget": size}, max_tokens=24)
        same((answer.choices[0].finish_reason, answer.usage.completion_tokens), ("length", 24))
        said = thoughts(answer)
        holds(thoughts(free).startswith(said.rstrip()), f"{said!r} of {thoughts(free)!r}")
        holds(len(api.tokens(said, add_special_tokens=False)) <= size, said)
        holds(answer.choices[0].message.content, "the answer after the thought")
        prompt = api.post("/apply-template", messages=QUESTION, chat_template_kwargs=on["chat_template_kwargs"])["prompt"]
        rest = api.go_on(api.tokens(prompt + said, add_special_tokens=False) + api.tokens("\n</think>\n\n", add_special_tokens=False), {"ignore_eos": True}, max_tokens=24 - size)
        same(answer.choices[0].message.content, rest.lstrip("\n"), "what follows the closing tag")
        chunks = list(api.chat(extra=on | {"thinking_budget": size}, stream=True, max_tokens=24))
        same((joined(chunks, field="reasoning_content"), joined(chunks)), (said, answer.choices[0].message.content))
    same(thoughts(api.chat(extra=on | {"thinking_budget": 10**6}, max_tokens=10)), thoughts(free), "a budget beyond the context")
    most = api.chat(extra=on | {"thinking_budget": 2, "min_tokens": 12}, max_tokens=14)
    same(most.usage.completion_tokens, 14)
    context = api.post("/tokenize", prompt="a")["max_model_len"]
    long = [{"role": "user", "content": "sea " * (context - 80)}]
    room = context - api.post("/tokenize", messages=long, chat_template_kwargs=on["chat_template_kwargs"])["count"]
    holds(8 < room < 80, f"{room} tokens of room")
    full = api.chat(long, extra=on | {"thinking_budget": 2}, max_tokens=room)
    same(full.choices[0].finish_reason, "length")
    holds(full.usage.completion_tokens < room, "the closing tag takes its place in the context")


@check("thinking")
def response_thoughts(api):
    """/v1/responses has the thought as an item of its own, counted"""
    on = {"chat_template_kwargs": {"enable_thinking": True}}
    answer = api.respond(extra=on)
    same([item.type for item in answer.output], ["reasoning"])
    same(answer.output[0].content[0].text, thoughts(api.chat([{"role": "user", "content": "What is the capital of France?"}], on)))
    same(answer.usage.output_tokens_details.reasoning_tokens, answer.usage.output_tokens)
    events = list(api.respond(extra=on, stream=True))
    same("".join(e.delta for e in events if e.type == "response.reasoning_text.delta"), answer.output[0].content[0].text)
    same([item.type for item in api.respond(reasoning={"effort": "none"}).output], ["message"])


def neutral_draws(api):
    """Of a request that says itself that nothing is restricted."""
    extra = {"top_k": 0, "repetition_penalty": 1, "ignore_eos": True}
    return [api.go_on(extra=extra, temperature=1, top_p=1, seed=value) for value in range(3)]


@check("thinking")
def model_defaults(api):
    """generation_config.json says how answers without these fields are drawn, and a request's fields go before it"""
    unsaid = {"temperature": openai.NOT_GIVEN}
    config = api.server.generation
    said = {"temperature": config["temperature"], "top_p": config["top_p"], "extra": {"top_k": config["top_k"], "repetition_penalty": config["repetition_penalty"]}}
    for value in range(4):
        same(api.go_on(seed=value, **unsaid), api.go_on(seed=value, **said), f"seed {value}")
    drawn = neutral_draws(api)
    same(drawn, api.server.plain_draws, "fields of a request go before those of the model")
    holds(drawn != [api.go_on(extra={"ignore_eos": True}, seed=value, **unsaid) for value in range(3)], "the model's change nothing")
    response = api.respond(temperature=openai.NOT_GIVEN)
    holds(abs(response.temperature - config["temperature"]) < 1e-6 and abs(response.top_p - config["top_p"]) < 1e-6, (response.temperature, response.top_p))
    end = api.server.end_text
    best = api.complete(STORY, {"top_k": 1, "repetition_penalty": 1, "ignore_eos": True}).choices[0].text
    ended = api.complete(STORY, {"top_k": 1, "repetition_penalty": 1})
    same((ended.choices[0].text, ended.choices[0].finish_reason), (best[:best.index(end)], "stop"), "eos_token_id of generation_config.json")


# A server with keys, an origin, and small limits.

WEATHER = {"name": "get_weather", "description": "The weather of a city.",
           "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"type": "integer", "minimum": 1, "maximum": 7}},
                          "required": ["city", "days"], "additionalProperties": False}}
TOOLS = [{"type": "function", "function": WEATHER}]
FORCED = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 100}
WHERE = [{"role": "user", "content": "What is the weather in Oslo for two days?"}]


def weather(call):
    """What a call asks for; its arguments are of their schema."""
    same((call.type, call.function.name), ("function", "get_weather"))
    arguments = json.loads(call.function.arguments)
    same(set(arguments), {"city", "days"})
    holds(len(arguments["city"]) <= 20 and arguments["days"] in range(1, 8), arguments)
    return arguments


@check("tools")
def calls(api):
    """a call that is asked for comes, whole and as a stream, and what came of it is taken"""
    choice = api.chat(WHERE, **FORCED).choices[0]
    same((choice.finish_reason, choice.message.content, len(choice.message.tool_calls)), ("tool_calls", None, 1))
    asked = weather(choice.message.tool_calls[0])
    named = api.chat(WHERE, **FORCED | {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}}).choices[0].message.tool_calls
    same(weather(named[0]), asked)
    with api.client.chat.completions.stream(model=MODEL, messages=WHERE, temperature=0, **FORCED) as stream:
        events = list(stream)
        final = stream.get_final_completion().choices[0]
    same((final.finish_reason, weather(final.message.tool_calls[0])), ("tool_calls", asked))
    deltas = [event.arguments_delta for event in events if event.type == "tool_calls.function.arguments.delta"]
    same("".join(deltas), choice.message.tool_calls[0].function.arguments)
    holds(len(deltas) > 3, deltas)
    answered = [*WHERE, choice.message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": choice.message.tool_calls[0].id, "content": "Sunny."}]
    same(api.chat(answered, tools=TOOLS).choices[0].finish_reason in ("stop", "length", "tool_calls"), True)


@check("tools")
def free_answers(api):
    """without a choice, and with none, the model says what it likes"""
    for choice in ["auto", "none"]:
        message = api.chat(tools=TOOLS, tool_choice=choice).choices[0].message
        same((bool(message.content), message.tool_calls), (True, None))
    with refused(openai.BadRequestError, "tool_choice", "conflicting_parameters"):
        api.chat(tools=[], tool_choice="required")
    with refused(openai.BadRequestError, "tools", None):
        api.chat(WHERE, **FORCED | {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "not": {}}}}]})


@check("tools")
def response_calls(api):
    """items of calls, whole and as a stream, and what came of them is taken"""
    fields = {"model": MODEL, "input": WHERE[0]["content"], "tools": [{"type": "function", "strict": True} | WEATHER], "tool_choice": "required",
              "parallel_tool_calls": False, "temperature": 0, "max_output_tokens": 100}
    answer = api.client.responses.create(**fields)
    [item] = answer.output
    same((item.type, item.name, item.status), ("function_call", "get_weather", "completed"))
    with api.client.responses.stream(**fields) as stream:
        deltas = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        final = stream.get_final_response()
    same(("".join(deltas), final.output[0].arguments), (item.arguments, item.arguments))
    follow = [{"role": "user", "content": fields["input"]}, item.model_dump(exclude_none=True),
              {"type": "function_call_output", "call_id": item.call_id, "output": "Sunny."}]
    holds(api.client.responses.create(**fields | {"input": follow, "tool_choice": "none"}).output_text, "no answer to what came of the call")


@check("guarded")
def keys(api):
    """without a key, and with a wrong one, all but /health and /ready is 401"""
    for key in ("wrong", "secret-1,secret-2", "secret-"):
        with refused(openai.AuthenticationError, None, "invalid_api_key"):
            Api(api.server, key).complete()
    for key in ("secret-1", "secret-2"):
        same([m.id for m in Api(api.server, key).client.models.list()], [MODEL])
    statuses = {path: api.server.ask("GET", path)[0] for path in ("/health", "/ready", "/v1/models", "/metrics", "/version", "/openapi.json")}
    same(statuses, {"/health": 200, "/ready": 200, "/v1/models": 401, "/metrics": 401, "/version": 401, "/openapi.json": 401})
    same(api.server.ask("GET", "/v1/models")[1]["WWW-Authenticate"], "Bearer")


@check("guarded")
def origins(api):
    """pages of --cors-origin may ask, others may not"""
    asked = {"Access-Control-Request-Method": "POST"}
    allowed = api.server.ask("OPTIONS", "/v1/completions", headers=asked | {"Origin": "http://page.example"})
    same((allowed[0], allowed[1]["Access-Control-Allow-Origin"]), (204, "http://page.example"))
    other = api.server.ask("OPTIONS", "/v1/completions", headers=asked | {"Origin": "http://other.example"})
    same("Access-Control-Allow-Origin" in other[1], False)
    same(api.server.ask("GET", "/health", headers={"Host": "more.example"})[0], 200, "--allowed-host")


@check("guarded")
def limits(api):
    """a body beyond --max-body is 413, heads of more than 32 KiB 431, JSON nested beyond 64 is 400"""
    key = {"Authorization": "Bearer secret-1"}
    same(api.server.ask("POST", "/tokenize", json.dumps({"prompt": "a" * 20000}), key)[0], 413)
    same(api.server.ask("POST", "/tokenize", json.dumps({"prompt": "a" * 9000}), key)[0], 200)
    same(api.server.ask("GET", "/health", headers={"X-Long": "a" * 40000})[0], 431)
    deep = api.server.ask("POST", "/tokenize", '{"prompt": ' + "[" * 80 + "]" * 80 + "}", key)
    same((deep[0], json.loads(deep[2])["error"]["code"]), (400, "json_too_deep"))
