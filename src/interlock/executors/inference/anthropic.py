"""The format of Anthropic's Messages API, version 2026-10-21: a bearer token, `output_config`, and no `temperature`.

Source: Anthropic, "Messages API", "Streaming Messages" and "Structured outputs".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

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

_VERSION: Final = "2026-10-21"
_REASONS: Final[dict[str, FinishReason]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
_INPUTS: Final = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


def ask(model: Model, question: Question) -> Post:
    """Build the request for an answer."""
    messages = [{"role": one.role, "content": one.content} for one in question.messages]
    body: dict[str, Any] = {"model": model.id, "max_tokens": question.max_tokens, "messages": messages}
    if question.system is not None:
        body["system"] = question.system
    if model.structured and question.native_schema is not None:
        body["output_config"] = {"format": {"type": "json_schema", "schema": question.native_schema}}
    if model.stream:
        body["stream"] = True
    headers = {"anthropic-version": _VERSION}
    if model.key is not None:
        headers["Authorization"] = f"Bearer {model.key}"
    return Post("/v1/messages", headers, body)


def read(document: Any) -> Answer:
    """Read the answer from a document. Raises: ShapeError."""
    blocks = at(document, "content")
    if not isinstance(blocks, list):
        raise ShapeError("it has no list at `content`")
    reason = _REASONS.get(str(at(document, "stop_reason")), "other")
    texts = [at(block, "text") for block in blocks if at(block, "type") == "text"]
    if not all(isinstance(text, str) for text in texts) or (not texts and reason in ("stop", "other")):
        raise ShapeError("it has no text in `content`")
    return Answer("".join(texts), reason, _usage(document))


def assemble(events: Sequence[Any]) -> Any:
    """Assemble the document that a stream represents; None if it ended too early. Raises: ReportedError."""
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
                return {"content": [blocks[index] for index in sorted(blocks)], "stop_reason": reason, "usage": usage}
    return None


def _add(blocks: dict[int, dict[str, Any]], event: Any) -> None:
    """Add the start of a block, or a delta to an existing block."""
    index, begun = at(event, "index"), at(event, "content_block")
    if type(index) is not int:
        return
    if isinstance(begun, dict):
        blocks[index] = dict(begun)
    if isinstance(text := at(event, "delta", "text"), str) and index in blocks:
        blocks[index]["text"] = f"{blocks[index].get('text') or ''}{text}"


def _usage(document: Any) -> Usage | None:
    usage = at(document, "usage")
    if type(at(usage, "input_tokens")) is not int:
        return None
    read_tokens = sum(count for name in _INPUTS if type(count := at(usage, name)) is int)
    return usage_of(read_tokens, at(usage, "output_tokens"))
