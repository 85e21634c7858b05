"""The format of Google's Gemini API: `generateContent` and `batchEmbedContents`.

Source: Google, "Gemini API reference", Generating content and Embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

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

_FILTERS: Final = ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII")
_REASONS: Final[dict[str, FinishReason]] = {
    "STOP": "stop", "MAX_TOKENS": "length", **dict.fromkeys(_FILTERS, "content_filter"),
}  # fmt: skip


def ask(model: Model, question: Question) -> Post:
    """Build the request for an answer."""
    contents = [
        {"role": "model" if one.role == "assistant" else "user", "parts": [{"text": one.content}]}
        for one in question.messages
    ]
    how: dict[str, Any] = {"maxOutputTokens": question.max_tokens}
    if question.temperature is not None:
        how["temperature"] = question.temperature
    if model.structured and question.schema is not None:
        how["responseMimeType"] = "application/json"
        if question.native_schema is not None:
            how["responseJsonSchema"] = question.native_schema
    body: dict[str, Any] = {"contents": contents, "generationConfig": how}
    if question.system is not None:
        body["systemInstruction"] = {"parts": [{"text": question.system}]}
    action = "streamGenerateContent?alt=sse" if model.stream else "generateContent"
    return Post(f"{_path(model)}:{action}", _headers(model), body)


def read(document: Any) -> Answer:
    """Read the answer from a document. Raises: ShapeError."""
    if at(document, "promptFeedback", "blockReason") is not None:
        return Answer("", "content_filter", _usage(document))
    candidate = at(document, "candidates", 0)
    reason = _REASONS.get(str(at(candidate, "finishReason")), "other")
    parts = at(candidate, "content", "parts")
    if not isinstance(parts, list):
        if candidate is not None and reason in ("length", "content_filter"):
            return Answer("", reason, _usage(document))
        raise ShapeError("it has no list at `candidates[0].content.parts`")
    texts = [at(part, "text") for part in parts if not at(part, "thought")]
    return Answer("".join(text for text in texts if isinstance(text, str)), reason, _usage(document))


def assemble(events: Sequence[Any]) -> Any:
    """Assemble the document that a stream represents; None if it ended too early. Raises: ReportedError."""
    parts: list[Any] = []
    last: dict[str, Any] = {}
    reason = None
    for event in events:
        if at(event, "error") is not None:
            raise ReportedError
        if at(event, "promptFeedback", "blockReason") is not None:
            return event
        parts += at(event, "candidates", 0, "content", "parts") or []
        reason = at(event, "candidates", 0, "finishReason") or reason
        last = event if at(event, "usageMetadata") is not None else last
    if reason is None:
        return None
    return {
        "candidates": [{"content": {"parts": parts}, "finishReason": reason}],
        "usageMetadata": at(last, "usageMetadata"),
    }


def embed(model: Model, texts: Sequence[str]) -> Post:
    """Build the request for vectors."""
    requests = [{"model": f"models/{model.id}", "content": {"parts": [{"text": text}]}} for text in texts]
    return Post(f"{_path(model)}:batchEmbedContents", _headers(model), {"requests": requests})


def read_vectors(document: Any, count: int) -> tuple[list[list[float]], Usage | None]:
    """Read the vectors from a document. Usage may be None, because Google does not always report it. Raises: ShapeError."""
    rows = at(document, "embeddings")
    if not isinstance(rows, list):
        raise ShapeError("it has no list at `embeddings`")
    return vectors_of([at(row, "values") for row in rows], count), _usage(document)


def _path(model: Model) -> str:
    return f"/v1/models/{quote(model.id, safe='')}"


def _headers(model: Model) -> dict[str, str]:
    return {} if model.key is None else {"x-goog-api-key": model.key}


def _usage(document: Any) -> Usage | None:
    usage = at(document, "usageMetadata")
    written = [at(usage, name) for name in ("candidatesTokenCount", "thoughtsTokenCount")]
    return usage_of(at(usage, "promptTokenCount"), sum(count for count in written if type(count) is int))
