"""One request to a model's endpoint, over the same code as `http.fetch`: checked addresses, bounded waits, bounded reads.

Redirects are never followed: the endpoint is what the operator configured, and the key is sent nowhere else. An
endpoint's own error message is quoted only in `output.excerpt`, truncated and without the key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from interlock.detect import address_is_private
from interlock.executors.http_fetch import Fetcher
from interlock.executors.inference.models import Model, Post, ReportedError, ShapeError, at
from interlock.model.clock import Clock
from interlock.model.errors import ToolError
from interlock.model.hosts import endpoint
from interlock.model.tool import Context

ANSWER_BYTES_MAX: Final = 8 * 1024 * 1024
_SAID_CHARS_MAX: Final = 300
_CONNECTION_CODES: Final = frozenset(("connection_failed", "private_address"))
_RETRY_AFTER_MAX_S: Final = 3600

Assemble = Callable[[Sequence[Any]], Any]
"""Assembles the document that the events of a stream represent; None if the stream ended too early."""


class Unsent(ToolError):  # noqa: N818 - a kind of ToolError, identified by its code
    """The endpoint did not process the request, so nothing was used."""


class Endpoint:
    """Sends requests to the endpoint of one model. Stateless between requests."""

    def __init__(self, model: Model, clock: Clock) -> None:
        """Connects to nothing yet."""
        self._model = model
        there = endpoint(model.endpoint)
        own = (_pattern(there.host, there.port),) if address_is_private(there.host) else ()
        self._fetcher = Fetcher(clock, allow_private=(*model.private, *own), body_bytes_max=ANSWER_BYTES_MAX)

    def ask(self, post: Post, ctx: Context, assemble: Assemble | None = None) -> Any:
        """Send a request and return the endpoint's document. Blocks until the context's deadline or cancellation at most.

        Raises: Unsent if nothing was used; ToolError `connection_failed`, `timeout`, `cancelled`, `model_unavailable`,
        `model_answer_too_large`, `model_answer_invalid`.
        """
        answer = self._send(post, ctx)
        if answer["status"] != 200:
            raise self._failure(answer)
        if answer["truncated"]:
            raise ToolError(
                f"`{self._model.name}`: the answer is larger than {ANSWER_BYTES_MAX // 2**20} MiB",
                code="model_answer_too_large", retryable=False,
            )  # fmt: skip
        if answer["body_encoding"] != "utf-8":
            raise self.invalid("it is not text")
        is_stream = "text/event-stream" in answer["headers"].get("content-type", "").lower()
        if not is_stream:
            return self._decode(answer["body"])
        if assemble is None:
            raise self.invalid("it is a stream of events")
        try:
            document = assemble([self._decode(data) for data in event_data(answer["body"])])
        except ReportedError:
            message = f"`{self._model.name}`: the endpoint reported an error in its stream"
            raise ToolError(message, code="model_unavailable") from None
        if document is None:
            raise self.invalid("the stream ended before the answer was complete")
        return document

    def invalid(self, why: str | ShapeError) -> ToolError:
        """Returns the error for an unusable answer."""
        return ToolError(f"`{self._model.name}`: the answer cannot be used: {why}", code="model_answer_invalid")

    def shown(self, text: str) -> str:
        """Returns a text from the endpoint without the key, in case the endpoint repeated it."""
        secret = self._model.secret
        return text.replace(secret, "[key]") if secret else text

    def _send(self, post: Post, ctx: Context) -> dict[str, Any]:
        model = self._model
        if model.key_env is not None and model.key is None:
            raise Unsent(
                f"`{model.name}`: the environment variable `{model.key_env}` is not set",
                code="model_key_missing", retryable=False, hint="set it where Interlock is started",
            )  # fmt: skip
        accept = "text/event-stream, application/json" if model.stream else "application/json"
        parameters = {
            "url": model.endpoint + post.path,
            "method": "POST",
            "headers": {**post.headers, "Content-Type": "application/json", "Accept": accept},
            "body": msgspec.json.encode(post.body).decode(),
        }
        sent: list[int] = []
        try:
            return self._fetcher.send(parameters, _Watched(ctx, sent))
        except ToolError as error:
            if error.code not in _CONNECTION_CODES:
                raise
            private = error.code == "private_address"
            kind = ToolError if any(sent) else Unsent
            # Retrying is safe: repeating a question costs again but does no other harm.
            raise kind(
                f"`{model.name}`: {error.message}", code=error.code, retryable=not private,
                hint="`[network] private` lists hosts that may have private addresses" if private else error.hint,
            ) from None  # fmt: skip

    def _failure(self, answer: dict[str, Any]) -> ToolError:
        """Returns the error for a status other than 200."""
        status, name = answer["status"], self._model.name
        output: dict[str, Any] = {"status": status, "excerpt": self._excerpt(answer)}
        if 300 <= status < 400:
            message = f"`{name}`: the endpoint answered with a redirect ({status}), which is not followed"
            return Unsent(message, code="redirect_refused", retryable=False, output=output)
        if status == 429:
            wait = answer["headers"].get("retry-after", "")
            if wait.isascii() and wait.isdigit() and int(wait[:8]) <= _RETRY_AFTER_MAX_S:
                output["retry_after_s"] = int(wait)
            return Unsent(f"`{name}`: the endpoint limits requests (429)", code="model_rate_limited", output=output)
        if 400 <= status < 500:
            message = f"`{name}`: the endpoint refused the request ({status})"
            return Unsent(message, code="model_refused", retryable=False, output=output)
        message = f"`{name}`: the endpoint failed ({status})"
        return ToolError(message, code="model_unavailable", output=output)

    def _excerpt(self, answer: dict[str, Any]) -> str:
        """Returns the endpoint's own error message if it has one, else the start of its body."""
        if answer["body_encoding"] != "utf-8":
            return ""
        text = answer["body"]
        try:
            document = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            document = None
        for found in (at(document, "error", "message"), at(document, "message"), at(document, "error")):
            if isinstance(found, str):
                text = found
                break
        return self.shown(text)[:_SAID_CHARS_MAX]

    def _decode(self, text: str) -> Any:
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
            raise self.invalid("it is not JSON" if text.strip() else "it is empty") from None


class _Watched:
    """A context that also records how many bytes were sent."""

    def __init__(self, ctx: Context, sent: list[int]) -> None:
        self._ctx = ctx
        self._sent = sent

    def resources(self, usage: dict[str, Any]) -> None:
        self._sent.append(int(usage.get("sent_bytes", 0)))
        self._ctx.resources(usage)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)


def event_data(text: str) -> list[str]:
    """Returns the data of each complete event in a stream, without OpenAI's end marker."""
    found: list[str] = []
    lines: list[str] = []
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]:
        if line.startswith("data:"):
            lines.append(line[5:].removeprefix(" "))
        elif not line and lines:
            found.append("\n".join(lines))
            lines = []
    return [data for data in found if data.strip() != "[DONE]"]


def _pattern(host: str, port: int | None) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
