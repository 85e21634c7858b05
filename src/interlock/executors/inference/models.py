"""What is known of a model, what it is asked, and what it answers: the same for every provider."""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

from interlock.model.limits import INTEGER_MAX

LOCAL: Final = "local"
"""The provider of models that are asked without a request."""
FinishReason = Literal["stop", "length", "content_filter", "other"]


class Prices(NamedTuple):
    """What a million tokens cost."""

    input: float
    output: float


class Model(NamedTuple):
    """A configured model."""

    name: str
    """Its name in the configuration, which calls and policies use."""
    provider: str
    """`openai-compatible`, `anthropic`, `google` or `LOCAL`."""
    endpoint: str
    """URL without a slash at its end; empty for `LOCAL`."""
    id: str
    """The provider's name for it."""
    key: str | None
    """None if it needs none, or (with `key_env`) if it is not set."""
    key_env: str | None
    prices: Prices | None
    output_tokens: int
    """The most that one answer may have."""
    tools: tuple[str, ...]
    """Which of `infer`, `classify` and `embed` may ask it."""
    structured: bool
    """True if the endpoint takes JSON Schemas for answers."""
    stream: bool
    private: tuple[str, ...] = ()
    """Patterns of hosts whose addresses need not be public."""

    @property
    def secret(self) -> str:
        """What must never be shown; empty if there is none."""
        return self.key or ""


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    """`user` or `assistant`."""
    content: str


class Question(NamedTuple):
    """What a model is asked."""

    messages: tuple[Message, ...]
    system: str | None
    max_tokens: int
    temperature: float | None = None
    schema: dict[str, Any] | None = None
    """What the answer has to fit; None for text."""

    @property
    def native_schema(self) -> dict[str, Any] | None:
        """The schema, if providers take it as it is: they want an object at its top."""
        return self.schema if self.schema is not None and self.schema.get("type") == "object" else None


class Usage(NamedTuple):
    """What the provider says that an answer took."""

    input_tokens: int
    output_tokens: int


class Answer(NamedTuple):
    """What a model answered. Data from a stranger: nothing of it is trusted."""

    text: str
    """Text, or JSON if a schema was given."""
    finish_reason: FinishReason
    usage: Usage | None
    """None if the provider did not say."""


class Post(NamedTuple):
    """A request in the shape of a provider."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class ShapeError(Exception):
    """An answer is not in its provider's shape. The message repeats none of it."""


class ReportedError(Exception):
    """The provider reported an error in the middle of a stream."""


def at(value: Any, *path: str | int) -> Any:
    """What is at a path of a decoded document; None if something on the way is missing or of another type."""
    for step in path:
        if isinstance(step, str):
            value = value.get(step) if isinstance(value, dict) else None
        else:
            value = value[step] if isinstance(value, list) and -len(value) <= step < len(value) else None
    return value


def usage_of(input_tokens: Any, output_tokens: Any) -> Usage | None:
    """The usage, if both are numbers of tokens; otherwise it is not known."""
    counts = (input_tokens, output_tokens)
    if any(type(count) is not int or not 0 <= count <= INTEGER_MAX for count in counts):
        return None
    return Usage(*counts)


def vectors_of(found: list[Any], wanted: int) -> list[list[float]]:
    """Embeddings, checked: as many as texts, of numbers, of one length. Raises: ShapeError."""
    if len(found) != wanted:
        raise ShapeError(f"it has {len(found)} vectors for {wanted} texts")
    lengths = {len(vector) if isinstance(vector, list) else 0 for vector in found}
    if len(lengths) != 1 or 0 in lengths:
        raise ShapeError("its vectors are not lists of one length")
    if any(type(number) not in (float, int) for vector in found for number in vector):
        raise ShapeError("its vectors hold something other than numbers")
    return [[float(number) for number in vector] for vector in found]
