"""What schemathesis checks beside its own: tools/check_openapi.py loads it."""
import schemathesis

# Why a request that its document allows may be refused: what a JSON Schema cannot say.
UNSAID = {"conflicting_parameters", "context_length_exceeded", "template_error", "invalid_grammar", "tools_unsupported",
          "invalid_tool_arguments"}


@schemathesis.check
def refusals_have_a_reason(ctx, response, case):
    """A request that the document allows is refused for one of these reasons alone."""
    positive = case.meta is not None and case.meta.generation.mode.is_positive
    if not positive or response.status_code != 400:
        return
    error = response.json()["error"]
    if error["code"] not in UNSAID:
        raise AssertionError(f"the document allows it, but {error['param']} is refused: {error['message']}")


@schemathesis.check
def streams_are_whole(ctx, response, case):
    """A stream ends with its mark, or its last event says that it is over, and none of its events is an error."""
    if not response.headers.get("content-type", [""])[0].startswith("text/event-stream"):
        return
    text = response.content.decode()
    last = text.rstrip("\n").rsplit("\n\n", 1)[-1]
    if last != "data: [DONE]" and not last.startswith(("event: response.completed\n", "event: response.incomplete\n", "event: message_stop\n")):
        raise AssertionError(f"the stream ends with {last[:200]}")
    if 'data: {"error"' in text or "event: error\n" in text:
        raise AssertionError(f"the stream has an error: {text[-400:]}")
