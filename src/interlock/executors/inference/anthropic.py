"""The shape of Anthropic's Messages. An answer with a schema is asked for as the call of a tool, which every version knows.

Source: Anthropic, "Messages API" and "Streaming Messages".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from interlock.executors.inference.models import (
    Answer,
    FinishReason,
    Model,
    Post,
    Question,
    ReportedError,
    ShapeError,
    Usage,
    at,
    usage_of,
)

_REASONS: Final[dict[str, FinishReason]] = {
    "end_turn": "stop", "stop_sequence": "stop", "tool_use": "stop", "max_tokens": "length", "refusal": "content_filter",
}  # fmt: skip
_INPUTS: Final = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


def ask(model: Model, question: Question) -> Post:
    """The request for an answer."""
    messages = [{"role": one.role, "content": one.content} for one in question.messages]
    body: dict[str, Any] = {"model": model.id, "max_tokens": question.max_tokens, "messages": messages}
    if question.system is not None:
        body["system"] = question.system
    if question.temperature is not None:
        body["temperature"] = question.temperature
    if model.structured and question.native_schema is not None:
        tool = {"name": "answer", "description": "Gives the answer.", "input_schema": question.native_schema}
        body |= {"tools": [tool], "tool_choice": {"type": "tool", "name": "answer"}}
    if model.stream:
        body["stream"] = True
    headers = {"anthropic-version": "2023-06-01"}
    if model.key is not None:
        headers["x-api-key"] = model.key
    return Post("/v1/messages", headers, body)


def read(document: Any) -> Answer:
    """The answer of a document. Raises: ShapeError."""
    blocks = at(document, "content")
    if not isinstance(blocks, list):
        raise ShapeError("it has no list at `content`")
    reason = _REASONS.get(str(at(document, "stop_reason")), "other")
    for block in blocks:
        if at(block, "type") == "tool_use" and at(block, "name") == "answer":
            return Answer(msgspec.json.encode(at(block, "input")).decode(), reason, _usage(document))
    texts = [at(block, "text") for block in blocks if at(block, "type") == "text"]
    if not all(isinstance(text, str) for text in texts) or (not texts and reason in ("stop", "other")):
        raise ShapeError("it has no text in `content`")
    return Answer("".join(texts), reason, _usage(document))


def assemble(events: Sequence[Any]) -> Any:
    """The document that a stream adds up to; None if it ended too early. Raises: ReportedError."""
    blocks: dict[int, dict[str, Any]] = {}
    usage: dict[str, Any] = {}
    reason = None
    for event in events:
        match at(event, "type"):
            case "error":
                raise ReportedError
            case "message_start":
                usage |= at(event, "message", "usage") or {}
            case "content_block_start" | "content_block_delta":
                _add(blocks, event)
            case "message_delta":
                reason = at(event, "delta", "stop_reason") or reason
                usage |= at(event, "usage") or {}
            case "message_stop":
                return _document(blocks, reason, usage)
    return None


def _add(blocks: dict[int, dict[str, Any]], event: Any) -> None:
    """Take the begin of a block, or what is added to one."""
    index, begun = at(event, "index"), at(event, "content_block")
    if type(index) is not int:
        return
    if isinstance(begun, dict):
        blocks[index] = {**begun, "partial": ""}
    block = blocks.setdefault(index, {"partial": ""})
    if isinstance(text := at(event, "delta", "text"), str):
        block["text"] = f"{block.get('text') or ''}{text}"
    if isinstance(part := at(event, "delta", "partial_json"), str):
        block["partial"] += part


def _document(blocks: dict[int, dict[str, Any]], reason: Any, usage: dict[str, Any]) -> Any:
    for block in blocks.values():
        if partial := block.pop("partial"):
            try:
                block["input"] = msgspec.json.decode(partial)
            except (msgspec.DecodeError, RecursionError):
                block["input"] = partial  # cut off at the limit of tokens: it will not fit the schema
    return {"content": [blocks[index] for index in sorted(blocks)], "stop_reason": reason, "usage": usage}


def _usage(document: Any) -> Usage | None:
    usage = at(document, "usage")
    if type(at(usage, "input_tokens")) is not int:
        return None
    read_tokens = sum(count for name in _INPUTS if type(count := at(usage, name)) is int)
    return usage_of(read_tokens, at(usage, "output_tokens"))
