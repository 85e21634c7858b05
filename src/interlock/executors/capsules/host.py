"""The runtime's answers to the host functions of one call. Nothing here raises: a capsule receives errors as values."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from interlock.executors.capsules import interfaces
from interlock.executors.capsules.bus import Owner
from interlock.executors.capsules.host_files import Files
from interlock.executors.capsules.host_http import Http
from interlock.executors.capsules.host_messages import Messages, Post
from interlock.executors.capsules.rights import Denied, Rights
from interlock.model.capsule import Manifest
from interlock.model.clock import Clock
from interlock.model.errors import InterlockError, ProposalError
from interlock.model.globs import name_matcher
from interlock.model.limits import DEFAULT_LIMITS
from interlock.model.tool import Context
from interlock.model.values import check_value, parse_json

KEY_CHARS_MAX: Final = 512
VALUE_BYTES_MAX: Final = 1024 * 1024
KEYS_LISTED_MAX: Final = 10_000
LOG_LINES_MAX: Final = 100
"""Maximum number of log lines kept per call."""
LOG_CHARS_MAX: Final = 2_000
"""Maximum length of a log line."""
LATE_S: Final = 0.25
"""How long a worker may take to end an overdue call itself."""
QUESTION_CHARS_MAX: Final = 2_000
TOOL_CALLS_MAX: Final = 100
"""Maximum number of tool calls per call."""
REFUSALS: Final = frozenset(
    {
        "access_denied",
        "approval_required",
        "budget_exceeded",
        "capability_denied",
        "file_too_large",
        "grant_expired",
        "grant_missing",
        "grant_revoked",
        "grant_used_up",
        "host_denied",
        "key_invalid",
        "kv_full",
        "limit_exceeded",
        "not_available",
        "not_declared",
        "path_denied",
        "path_outside_workspace",
        "path_protected",
        "policy_denied",
        "policy_error",
        "private_address",
        "rate_limited",
        "special_file",
        "state_key_denied",
        "symlink_loop",
        "unknown_function",
        "unscoped_denied",
        "value_too_large",
    }
)
"""Error codes which mean that a capsule is not allowed to do something, as opposed to a failure."""
REFUSALS_MAX: Final = 100
"""Maximum number of refusals recorded per call."""
_NAME_CHARS: Final = 100
_OF_PROPOSALS: Final = frozenset({"fs-read", "fs-write", "tools"})
"""Interfaces whose effects belong to a proposal."""
_RENEWED_S: Final = 60
"""Interval at which the limits of a call that runs indefinitely are reset."""
_SECRET_CHARS_MIN: Final = 4
"""Shorter secrets are not masked in log lines, because they would occur in ordinary words."""
T = TypeVar("T")


class KeyValues(Protocol):
    """The keys and values of one capsule and agent, separate from those of others."""

    def get(self, key: str) -> bytes | None:
        """Returns the value of a key, or None. Raises: StoreError."""
        ...

    def set(self, key: str, value: bytes) -> bool:
        """Store a value. Returns False if the capsule's quota is used up. Raises: StoreError."""
        ...

    def delete(self, key: str) -> None:
        """Remove a key. Raises: StoreError."""
        ...

    def keys(self, prefix: str, most: int) -> list[str]:
        """Returns the keys with this prefix, sorted, at most `most`. Raises: StoreError."""
        ...


class Caller(NamedTuple):
    """The capsule and context of a call."""

    capsule: str
    instance: str
    """Id of the loaded capsule."""
    ctx: Context
    manifest: Manifest
    secrets: Mapping[str, str]
    """Configured secrets, which are masked in log lines and questions."""


class Host:
    """The host functions of one call."""

    def __init__(self, caller: Caller, values: KeyValues, rights: Rights, clock: Clock, post: Post) -> None:
        """`limit` must be set before the first answer."""
        self._capsule = caller.capsule
        self._instance = caller.instance
        self._ctx = caller.ctx
        self._manifest = caller.manifest
        capabilities = caller.manifest.capabilities
        self._values = values
        self._rights = rights
        self._clock = clock
        self._secrets = [value for value in caller.secrets.values() if len(value) >= _SECRET_CHARS_MIN]
        self._may_call = name_matcher(capabilities.tools)
        self._files = Files(caller.ctx, rights, capabilities)
        self._bounded = Bounded(caller.ctx)
        self._http = Http(rights, capabilities.net, clock)
        self.messages = Messages(Owner(caller.capsule, caller.ctx.agent), caller.manifest, post)
        self._lines = 0
        self._tool_calls = 0
        self._refusals = 0
        self.step_s: float | None = None
        """For a call that runs indefinitely: time limit of a host function, and of the capsule between two host functions."""
        self._renewed = 0.0
        self.limit: asyncio.Timeout | None = None
        """The time limit of the call; extended while people are asked."""
        self.parked: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
        """Returns a context manager in which another call may use this call's worker slot."""

    async def answer(self, function: str, arguments: list[Any], body: bytes) -> tuple[int, bytes]:
        """Answer a host function within the call's time limit. Returns the reply's kind and bytes. Refusals are recorded."""
        self._begin_step()
        try:
            kind, data = await self._answered(function, arguments, body)
        finally:
            self._begin_step()
        if kind == interfaces.ERROR:
            error = json.loads(data)
            if error["code"] in REFUSALS and self._refusals < REFUSALS_MAX:
                self._refusals += 1
                detail = self._masked(error["message"])
                denied = Denied(self._capsule, self._instance, function[:_NAME_CHARS], error["code"], detail)
                self._rights.record_denied(self._ctx, denied)
        return kind, data

    async def _answered(self, function: str, arguments: list[Any], body: bytes) -> tuple[int, bytes]:
        interface = function.partition(".")[0]
        if interface not in interfaces.INTERFACES or not interfaces.is_declared(interface, self._manifest):
            return _error("not_declared", f"the manifest does not declare `{interface}`")
        if self.step_s is not None and interface in _OF_PROPOSALS:
            return _error("not_available", f"`run` does not belong to a proposal, so it has no `{interface}`")
        try:
            if function == "approval.request":
                return await self._ask(arguments)
            async with asyncio.timeout_at(self._until()):
                return await self._answer(function, arguments, body)
        except InterlockError as error:
            return _error(error.code, self._masked(error.message))
        except TimeoutError:
            return _error("timeout", "the call's time is used up")

    async def _answer(self, function: str, arguments: list[Any], body: bytes) -> tuple[int, bytes]:
        match function, arguments:
            case "log.write", [int(), str(text)]:
                return self._log(text)
            case "clock.sleep", [int(milliseconds)]:
                await asyncio.sleep(milliseconds / 1000)
                return interfaces.OK, b""
            case (("kv.get" | "kv.set" | "kv.delete" | "kv.list"), [str(key)]):
                return self._key_values(function, key, body)
            case "fs-read.read", [str(path)]:
                return interfaces.OK, await self._on_thread(lambda: self._files.read(path))
            case "fs-read.list", [str(path)]:
                return interfaces.OK, await self._on_thread(lambda: self._files.list_(path))
            case "fs-write.write", [str(path)]:
                await self._on_thread(lambda: self._files.write(path, body))
                return interfaces.OK, b""
            case "fs-write.delete", [str(path)]:
                await self._on_thread(lambda: self._files.delete(path))
                return interfaces.OK, b""
            case "http.fetch", [str(request)]:
                return await self._fetch(request)
            case "tools.call", [str(name), str(text)]:
                return await self._call_tool(name, text)
        return self._message(function, arguments, body)

    def _message(self, function: str, arguments: list[Any], body: bytes) -> tuple[int, bytes]:
        messages = self.messages
        match function, arguments:
            case "ipc-publish.publish", [str(topic)]:
                self._ctx.not_exactly_undoable("a capsule published messages")
                messages.publish(topic, body)
            case "ipc-subscribe.subscribe", [str(topic)]:
                return interfaces.OK, str(messages.subscribe(topic)).encode()
            case "ipc-subscribe.unsubscribe", [int(number)]:
                messages.unsubscribe(number)
            case "ipc-subscribe.poll", [int(number), int(most)]:
                return interfaces.OK, messages.poll(number, most)
            case "uplink.register-connector", [str(name), str(platform), str(profile)]:
                messages.register(name, platform, profile)
            case "uplink.send", [str(text)]:
                self._ctx.not_exactly_undoable("a capsule passed on people's messages")
                messages.send(text)
            case _:
                return _error("unknown_function", "there is no such host function")
        return interfaces.OK, b""

    def _log(self, text: str) -> tuple[int, bytes]:
        self._lines += 1
        if self._lines > LOG_LINES_MAX:
            if self._lines == LOG_LINES_MAX + 1:
                self._ctx.log(
                    f"{self._capsule}: more than {LOG_LINES_MAX} lines; the rest of this call's lines are not kept"
                )
            return _error("log_full", f"a call may log {LOG_LINES_MAX} lines")
        self._ctx.log(f"{self._capsule}: {self._masked(text)[:LOG_CHARS_MAX]}")
        return interfaces.OK, b""

    def _masked(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[secret]")
        return text

    def _key_values(self, function: str, key: str, body: bytes) -> tuple[int, bytes]:
        values = self._values
        if function == "kv.list":
            return interfaces.OK, json.dumps(values.keys(key[:KEY_CHARS_MAX], KEYS_LISTED_MAX)).encode()
        if not key or "\0" in key or len(key) > KEY_CHARS_MAX:
            return _error("key_invalid", f"a key has 1 to {KEY_CHARS_MAX} characters, and none is NUL")
        if function == "kv.get":
            found = values.get(key)
            return (interfaces.NONE, b"") if found is None else (interfaces.OK, found)
        if function == "kv.set" and len(body) > VALUE_BYTES_MAX:
            return _error("value_too_large", f"a value has at most {VALUE_BYTES_MAX} bytes")
        if self._ctx.dry_run:
            return interfaces.OK, b""
        self._ctx.not_exactly_undoable("a capsule changed its stored values")
        if function == "kv.delete":
            values.delete(key)
        elif not values.set(key, body):
            return _error("kv_full", "the capsule's stored values for this agent have reached their size limit")
        return interfaces.OK, b""

    async def _fetch(self, request: str) -> tuple[int, bytes]:
        self._bounded.deadline_ns = self._clock.mono_ns() + self._left_ms() * 1_000_000
        fetched = await self._on_thread(lambda: self._http.fetch(request, self._ctx, self._bounded))
        self._rights.record_connections(self._ctx, fetched.records)
        if fetched.error is not None:
            raise fetched.error
        return interfaces.OK, fetched.data

    async def _call_tool(self, name: str, text: str) -> tuple[int, bytes]:
        self._tool_calls += 1
        if self._tool_calls > TOOL_CALLS_MAX:
            return _error("limit_exceeded", f"a call may call {TOOL_CALLS_MAX} tools")
        if not self._may_call(name):
            return _error("not_declared", f"the manifest does not name `{name[:200]}` in `capabilities.tools`")
        try:
            parameters = parse_json(text.encode())
            check_value([parameters], "$", DEFAULT_LIMITS)
        except ProposalError as error:
            return _error("invalid_parameters", f"the arguments are not JSON: {error.message}")
        if not isinstance(parameters, dict):
            return _error("invalid_parameters", "the arguments are not a JSON object")
        value = await self._rights.call_tool(self._ctx, name, parameters, self._left_ms())
        return interfaces.OK, json.dumps(value).encode()

    async def _ask(self, arguments: list[Any]) -> tuple[int, bytes]:
        """Ask people; their time does not count towards the call."""
        limit, loop = self.limit, asyncio.get_running_loop()
        summary, reason = (str(text) for text in arguments)
        assert limit is not None
        left = (limit.when() or loop.time()) - loop.time()
        shown = f"{self._capsule}: {self._masked(summary)[:QUESTION_CHARS_MAX]}"
        limit.reschedule(None)
        try:
            with self.parked():
                given = await self._ctx.ask(shown, self._masked(reason)[:QUESTION_CHARS_MAX])
        finally:
            if not limit.expired():
                limit.reschedule(loop.time() + left)
        return interfaces.OK, json.dumps(bool(given)).encode()

    def _begin_step(self) -> None:
        """Reset the time of a call that runs indefinitely, and once a minute its other limits."""
        if self.step_s is None or self.limit is None:
            return
        now = asyncio.get_running_loop().time()
        with contextlib.suppress(RuntimeError):  # the call is just ending
            self.limit.reschedule(now + self.step_s + LATE_S)
        if now > self._renewed + _RENEWED_S:
            self._renewed, self._lines, self._tool_calls, self._refusals = now, 0, 0, 0
            self._http.renew()

    def _until(self) -> float:
        """When a host function must end (the loop's time), which is before an unresponsive worker is killed."""
        when = None if self.limit is None else self.limit.when()
        return asyncio.get_running_loop().time() if when is None else when - LATE_S

    def _left_ms(self) -> int:
        return max(1, int((self._until() - asyncio.get_running_loop().time()) * 1000))

    async def _on_thread(self, work: Callable[[], T]) -> T:
        """Run a blocking function on a thread and wait for it to finish, even when cancelled. Raises what it raises."""
        running = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            self._files.stopped = True
            self._bounded.cancelled = True
            while not running.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([running])
            raise


class Bounded:
    """A context with the call's deadline and cancellation."""

    def __init__(self, ctx: Context) -> None:
        """`ctx` is the context of the attempt."""
        self._ctx = ctx
        self.deadline_ns = ctx.deadline_ns
        self.cancelled = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)


def _error(code: str, message: str) -> tuple[int, bytes]:
    return interfaces.ERROR, json.dumps({"code": code, "message": message}).encode()
