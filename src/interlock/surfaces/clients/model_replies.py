"""Answers in the formats of model services: a text or one tool call, streamed, for four APIs.

Used by `scripted_model.py`.

Sources: the documentation of Anthropic's Messages, OpenAI's Responses and chat completions, and Gemini's
`generateContent`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple


class Turn(NamedTuple):
    """The model's answer: a text, or one call."""

    text: str = ""
    call_id: str = ""
    tool: str = ""
    input: Any = None
    """The parameters; a text for a tool without a schema."""
    namespace: str | None = None
    """The tool's group, if the API groups tools."""


def anthropic(turn: Turn) -> bytes:
    """A message of Anthropic's Messages API."""
    return b"".join(f"event: {event['type']}\n".encode() + _data(event) for event in _anthropic(turn))


def _anthropic(turn: Turn) -> Iterator[dict[str, Any]]:
    usage = {"input_tokens": 1, "output_tokens": 1}
    message: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "scripted",
        "content": [],
    }
    ends: dict[str, Any] = {"stop_reason": None, "stop_sequence": None}
    start: dict[str, Any]
    if turn.tool:
        start = {"type": "tool_use", "id": turn.call_id, "name": turn.tool, "input": {}}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(turn.input)}
    else:
        start, delta = {"type": "text", "text": ""}, {"type": "text_delta", "text": turn.text}
    yield {"type": "message_start", "message": {**message, **ends, "usage": usage}}
    yield {"type": "content_block_start", "index": 0, "content_block": start}
    yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    reason = "tool_use" if turn.tool else "end_turn"
    yield {"type": "message_delta", "delta": {**ends, "stop_reason": reason}, "usage": usage}
    yield {"type": "message_stop"}


def responses(turn: Turn) -> bytes:
    """A response of OpenAI's Responses API."""
    item: dict[str, Any]
    if not turn.tool:
        content = [{"type": "output_text", "text": turn.text, "annotations": []}]
        item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}
    else:
        item = {"id": f"item_{turn.call_id}", "call_id": turn.call_id, "name": turn.tool, "status": "completed"}
        if isinstance(turn.input, str):
            item |= {"type": "custom_tool_call", "input": turn.input}
        else:
            item |= {"type": "function_call", "arguments": json.dumps(turn.input)}
        if turn.namespace is not None:
            item["namespace"] = turn.namespace
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    usage_details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    response = {"id": "resp_1", "object": "response", "created_at": 0, "model": "scripted", "status": "completed"}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**response, "status": "in_progress", "output": []}},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "status": "in_progress"}},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": {**response, "output": [item], "usage": {**usage, **usage_details}}},
    ]
    return b"".join(
        f"event: {event['type']}\n".encode() + _data({**event, "sequence_number": number})
        for number, event in enumerate(events)
    )


def chat(turn: Turn) -> bytes:
    """A chunked answer of OpenAI's chat completions."""
    delta: dict[str, Any] = {"role": "assistant", "content": turn.text or None}
    if turn.tool:
        function = {"name": turn.tool, "arguments": json.dumps(turn.input)}
        delta["tool_calls"] = [{"index": 0, "id": turn.call_id, "type": "function", "function": function}]
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": "scripted"}
    reason = "tool_calls" if turn.tool else "stop"
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return b"".join(
        (
            _data({**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}),
            _data({**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}),
            _data({**chunk, "choices": [], "usage": usage}),
            b"data: [DONE]\n\n",
        )
    )


def gemini(turn: Turn) -> bytes:
    """An answer of Gemini's `streamGenerateContent`."""
    return _data(_gemini(turn))


def gemini_at_once(turn: Turn) -> bytes:
    """An answer of Gemini's `generateContent`, which is not streamed."""
    return json.dumps(_gemini(turn)).encode()


def _gemini(turn: Turn) -> dict[str, Any]:
    call = {"functionCall": {"id": turn.call_id, "name": turn.tool, "args": turn.input}, "thoughtSignature": "c2ln"}
    part: dict[str, Any] = call if turn.tool else {"text": turn.text}
    candidate = {"index": 0, "content": {"role": "model", "parts": [part]}, "finishReason": "STOP"}
    usage = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "scripted", "responseId": "1"}


def _data(event: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(event)}\n\n".encode()
