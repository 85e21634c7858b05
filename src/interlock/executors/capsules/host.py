"""What the runtime answers to the host functions of one call. Nothing here raises: a capsule is given an error as a value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Protocol

from interlock.executors.capsules import interfaces
from interlock.model.errors import InterlockError
from interlock.model.tool import Context

KEY_CHARS_MAX: Final = 512
VALUE_BYTES_MAX: Final = 1024 * 1024
KEYS_LISTED_MAX: Final = 10_000
LOG_LINES_MAX: Final = 100
"""Lines of one call that are kept."""
LOG_CHARS_MAX: Final = 2_000
"""Of one line."""
_SECRET_CHARS_MIN: Final = 4
"""A secret that is shorter is not looked for in log lines: it would occur in ordinary words."""


class KeyValues(Protocol):
    """The keys and values of one capsule and agent; others have their own."""

    def get(self, key: str) -> bytes | None:
        """The value, or None. Raises: StoreError."""
        ...

    def set(self, key: str, value: bytes) -> bool:
        """Store a value; False if the capsule's share is used up. Raises: StoreError."""
        ...

    def delete(self, key: str) -> None:
        """Remove a key. Raises: StoreError."""
        ...

    def keys(self, prefix: str, most: int) -> list[str]:
        """The keys that begin so, in order. Raises: StoreError."""
        ...


class Host:
    """The host functions of one call."""

    def __init__(self, capsule: str, ctx: Context, values: KeyValues | None, secrets: Mapping[str, str]) -> None:
        """`values` is None if the manifest does not declare them. `secrets` are configured values, which no log line shows."""
        self._capsule = capsule
        self._ctx = ctx
        self._values = values
        self._secrets = [value for value in secrets.values() if len(value) >= _SECRET_CHARS_MIN]
        self._lines = 0

    async def answer(self, function: str, arguments: list[Any], body: bytes) -> tuple[int, bytes]:
        """The kind of the reply, and its bytes."""
        try:
            match function, arguments:
                case "log.write", [int(), str(text)]:
                    return self._log(text)
                case (("kv.get" | "kv.set" | "kv.delete" | "kv.list"), [str(key)]):
                    return self._key_values(function, key, body)
        except InterlockError as error:
            return _error(error.code, error.message)
        return _error("unknown_function", "there is no such host function")

    def _log(self, text: str) -> tuple[int, bytes]:
        self._lines += 1
        if self._lines > LOG_LINES_MAX:
            if self._lines == LOG_LINES_MAX + 1:
                self._ctx.log(f"{self._capsule}: more than {LOG_LINES_MAX} lines; the others of this call are not kept")
            return _error("log_full", f"a call may log {LOG_LINES_MAX} lines")
        for secret in self._secrets:
            text = text.replace(secret, "[secret]")
        self._ctx.log(f"{self._capsule}: {text[:LOG_CHARS_MAX]}")
        return interfaces.OK, b""

    def _key_values(self, function: str, key: str, body: bytes) -> tuple[int, bytes]:
        values = self._values
        if values is None:
            return _error("not_declared", "the manifest does not declare `capabilities.kv`")
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
        self._ctx.not_exactly_undoable("a capsule changed values that it keeps")
        if function == "kv.delete":
            values.delete(key)
        elif not values.set(key, body):
            return _error(
                "kv_full", "the values that the capsule keeps for this agent take all the space that they may"
            )
        return interfaces.OK, b""


def _error(code: str, message: str) -> tuple[int, bytes]:
    return interfaces.ERROR, json.dumps({"code": code, "message": message}).encode()
