"""Reads tool calls from a vendor's message, and converts results to the vendor's format.

Three formats are supported: OpenAI's Chat Completions (and compatible servers), OpenAI's Responses, and Anthropic's Messages. A
message may be the object of the vendor's SDK, which is read by attribute, or a dictionary; no SDK is imported. A malformed call
gets a result that describes the mistake.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from interlock.model.decode import decode_value
from interlock.model.errors import InterlockError, UsageError

Shape = Literal["chat", "responses", "anthropic"]


class ToolCall(NamedTuple):
    """One call of a message. `problem` says why `parameters` are not an object, if they are not."""

    id: str
    name: str
    parameters: dict[str, Any]
    problem: str | None = None


class CallText(NamedTuple):
    """The text about a call for the model."""

    call: ToolCall
    text: str
    is_error: bool


class Message(NamedTuple):
    """A message and its calls, in order."""

    shape: Shape
    calls: list[ToolCall]


def read_message(message: Any) -> Message:
    """The calls of a message, a whole response, or a list of output items. Raises: UsageError `message_unknown`."""
    choices = _get(message, "choices")
    if _is_list(choices):
        if len(choices) != 1:
            raise _unknown(f"the completion has {len(choices)} choices", "pass the message to continue with")
        message = _get(choices[0], "message")
    items = message if _is_list(message) else _get(message, "output")
    if _is_list(items):
        if any(_get(item, "type") in (None, "text", "tool_use") for item in items):
            raise _unknown("the list is not the output of a response", "pass the model's whole message")
        calls = [_response_call(item) for item in items if _get(item, "type") == "function_call"]
        return Message("responses", calls)
    if _get(message, "type") == "function_call":
        return Message("responses", [_response_call(message)])
    content, role = _get(message, "content"), _get(message, "role")
    tool_calls = _get(message, "tool_calls")
    if _is_list(tool_calls):
        return Message("chat", [_chat_call(each) for each in tool_calls])
    if _get(message, "function_call") is not None:
        raise _unknown("the message has a `function_call` of the old kind", "offer the model `tools`, not `functions`")
    if role == "assistant" and _is_list(content):
        return Message("anthropic", [_anthropic_call(each) for each in content if _get(each, "type") == "tool_use"])
    if role == "assistant":
        return Message("chat", [])
    raise _unknown(
        f"a `{type(message).__name__}` is not an assistant's message in a known shape",
        "pass a message of Chat Completions, a response (or its output) of Responses, or a message of Anthropic",
    )


def result_messages(shape: Shape, texts: Iterable[CallText]) -> list[dict[str, Any]]:
    """The messages to append to the conversation; empty if there were no calls."""
    found = list(texts)
    match shape:
        case "chat":
            return [{"role": "tool", "tool_call_id": each.call.id, "content": each.text} for each in found]
        case "responses":
            return [{"type": "function_call_output", "call_id": each.call.id, "output": each.text} for each in found]
        case "anthropic":
            blocks = [
                {"type": "tool_result", "tool_use_id": each.call.id, "content": each.text, "is_error": each.is_error}
                for each in found
            ]
            return [{"role": "user", "content": blocks}] if blocks else []


def _chat_call(item: Any) -> ToolCall:
    function = _get(item, "function")
    if function is None:
        name = _text(_get(_get(item, "custom"), "name"))
        return ToolCall(_text(_get(item, "id")), name, {}, "only calls of functions are carried out")
    return _call(_get(item, "id"), _get(function, "name"), _get(function, "arguments"))


def _response_call(item: Any) -> ToolCall:
    return _call(_get(item, "call_id"), _get(item, "name"), _get(item, "arguments"))


def _anthropic_call(block: Any) -> ToolCall:
    return _call(_get(block, "id"), _get(block, "name"), _get(block, "input"))


def _call(call_id: Any, name: Any, arguments: Any) -> ToolCall:
    parameters, problem = _parameters(arguments)
    return ToolCall(_text(call_id), _text(name), parameters, problem)


def _parameters(arguments: Any) -> tuple[dict[str, Any], str | None]:
    """The arguments as an object, or why they are not one. Models may leave them out if there are none."""
    if arguments is None or (isinstance(arguments, str) and not arguments.strip()):
        return {}, None
    if isinstance(arguments, str):
        try:
            arguments = decode_value(arguments.encode("utf-8", "surrogatepass"))
        except InterlockError as error:
            where = f"{error.path}: " if error.path else ""
            return {}, f"the arguments are not JSON: {where}{error.message}"
    if isinstance(arguments, Mapping):
        return dict(arguments), None
    return {}, "the arguments must be a JSON object"


def _get(value: Any, name: str) -> Any:
    """A field of a dictionary, or an attribute of an SDK's object; None if it is absent."""
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _unknown(message: str, hint: str) -> UsageError:
    return UsageError(message, code="message_unknown", hint=hint)
