"""The data of models, questions and answers, common to all providers."""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

from interlock.model.limits import INTEGER_MAX

LOCAL: Final = "local"
"""The provider of models that run on this machine, without a request."""
FinishReason = Literal["stop", "length", "content_filter", "other"]


class Prices(NamedTuple):
    """The prices of a million tokens."""

    input: float
    output: float


class Model(NamedTuple):
    """A configured model."""

    name: str
    """Its name in the configuration, used by calls and policies."""
    provider: str
    """`openai-compatible`, `anthropic`, `google` or `LOCAL`."""
    endpoint: str
    """A URL without a trailing slash; empty for `LOCAL`."""
    id: str
    """The provider's name for the model."""
    key: str | None
    """None if the model needs no key, or if the variable `key_env` is not set."""
    key_env: str | None
    prices: Prices | None
    output_tokens: int
    """Maximum number of tokens of one answer."""
    tools: tuple[str, ...]
    """Which of `infer`, `classify` and `embed` may use the model."""
    structured: bool
    """True if the endpoint accepts JSON Schemas for answers."""
    stream: bool
    private: tuple[str, ...] = ()
    """Host patterns whose addresses may be private."""

    @property
    def secret(self) -> str:
        """The key, which must never be shown; empty if there is none."""
        return self.key or ""


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    """`user` or `assistant`."""
    content: str


class Question(NamedTuple):
    """A question to a model."""

    messages: tuple[Message, ...]
    system: str | None
    max_tokens: int
    temperature: float | None = None
    schema: dict[str, Any] | None = None
    """The JSON Schema that the answer must fit; None for text."""

    @property
    def native_schema(self) -> dict[str, Any] | None:
        """The schema if providers accept it directly, which requires an object at its top; else None."""
        return self.schema if self.schema is not None and self.schema.get("type") == "object" else None


class Usage(NamedTuple):
    """The tokens that an answer took, as reported by the provider."""

    input_tokens: int
    output_tokens: int


class Answer(NamedTuple):
    """A model's answer, which is untrusted data."""

    text: str
    """Text, or JSON if a schema was given."""
    finish_reason: FinishReason
    usage: Usage | None
    """None if the provider did not report it."""


class Post(NamedTuple):
    """A request in a provider's format."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class ShapeError(Exception):
    """An answer is not in its provider's format. The message repeats none of it."""


class ReportedError(Exception):
    """The provider reported an error within a stream."""


def at(value: Any, *path: str | int) -> Any:
    """Returns the value at a path in a decoded document; None if any step is missing or has another type."""
    for step in path:
        if isinstance(step, str):
            value = value.get(step) if isinstance(value, dict) else None
        else:
            value = value[step] if isinstance(value, list) and -len(value) <= step < len(value) else None
    return value


def usage_of(input_tokens: Any, output_tokens: Any) -> Usage | None:
    """Returns the usage, if both are valid numbers of tokens; else None."""
    counts = (input_tokens, output_tokens)
    if any(type(count) is not int or not 0 <= count <= INTEGER_MAX for count in counts):
        return None
    return Usage(*counts)


def vectors_of(found: list[Any], wanted: int) -> list[list[float]]:
    """Check embeddings: as many as texts, all numbers, all of the same length. Raises: ShapeError."""
    if len(found) != wanted:
        raise ShapeError(f"it has {len(found)} vectors for {wanted} texts")
    lengths = {len(vector) if isinstance(vector, list) else 0 for vector in found}
    if len(lengths) != 1 or 0 in lengths:
        raise ShapeError("its vectors are not lists of the same length")
    if any(type(number) not in (float, int) for vector in found for number in vector):
        raise ShapeError("its vectors contain values that are not numbers")
    return [[float(number) for number in vector] for vector in found]
