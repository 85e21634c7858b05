"""The format of OpenAI's Chat Completions and Embeddings APIs, which most endpoints support.

Source: OpenAI, "API reference", Chat Completions and Embeddings; vLLM, "OpenAI-Compatible Server".
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
    vectors_of,
)

_REASONS: Final[dict[str, FinishReason]] = {"stop": "stop", "length": "length", "content_filter": "content_filter"}
_OPENAI: Final = "https://api.openai.com/"


def ask(model: Model, question: Question) -> Post:
    """Build the request for an answer."""
    messages = [] if question.system is None else [{"role": "system", "content": question.system}]
    messages += [{"role": one.role, "content": one.content} for one in question.messages]
    # OpenAI's newer models accept only the new name; most other endpoints know only the old one.
    bound = "max_completion_tokens" if model.endpoint.startswith(_OPENAI) else "max_tokens"
    body: dict[str, Any] = {"model": model.id, "messages": messages, bound: question.max_tokens}
    if question.temperature is not None:
        body["temperature"] = question.temperature
    if model.structured and question.native_schema is not None:
        schema = {"name": "answer", "schema": question.native_schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if model.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return Post("/chat/completions", _headers(model), body)


def read(document: Any) -> Answer:
    """Read the answer from a document. Raises: ShapeError."""
    message = at(document, "choices", 0, "message")
    content = at(message, "content")
    if isinstance(content, list):
        content = "".join(part for one in content if isinstance(part := at(one, "text"), str))
    refusal = at(message, "refusal")
    if isinstance(refusal, str) and not content:
        return Answer(refusal, "content_filter", _usage(document))
    if not isinstance(content, str):
        raise ShapeError("it has no text at `choices[0].message.content`")
    reason = at(document, "choices", 0, "finish_reason")
    return Answer(content, _REASONS.get(str(reason), "other"), _usage(document))


def assemble(events: Sequence[Any]) -> Any:
    """Assemble the document that a stream represents; None if it ended too early. Raises: ReportedError."""
    text: list[str] = []
    reason = usage = None
    for event in events:
        if at(event, "error") is not None:
            raise ReportedError
        part = at(event, "choices", 0, "delta", "content")
        text += [part] if isinstance(part, str) else []
        reason = at(event, "choices", 0, "finish_reason") or reason
        usage = at(event, "usage") or usage
    if reason is None:
        return None
    return {"choices": [{"message": {"content": "".join(text)}, "finish_reason": reason}], "usage": usage}


def embed(model: Model, texts: Sequence[str]) -> Post:
    """Build the request for vectors."""
    body = {"model": model.id, "input": list(texts), "encoding_format": "float"}
    return Post("/embeddings", _headers(model), body)


def read_vectors(document: Any, count: int) -> tuple[list[list[float]], Usage | None]:
    """Read the vectors from a document, in the order of the texts. Raises: ShapeError."""
    rows = at(document, "data")
    if not isinstance(rows, list):
        raise ShapeError("it has no list at `data`")
    places = [at(row, "index") for row in rows]
    if sorted(place for place in places if type(place) is int) == list(range(len(rows))):
        rows = sorted(rows, key=lambda row: int(row["index"]))
    return vectors_of([at(row, "embedding") for row in rows], count), usage_of(
        at(document, "usage", "prompt_tokens"), 0
    )


def _headers(model: Model) -> dict[str, str]:
    return {} if model.key is None else {"Authorization": f"Bearer {model.key}"}


def _usage(document: Any) -> Usage | None:
    return usage_of(at(document, "usage", "prompt_tokens"), at(document, "usage", "completion_tokens"))
