"""What a measured run is to run: `RunSpec`, a value."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Self

import msgspec

from interlock.engine.local.clock import SystemIds
from interlock.model import typed
from interlock.model.errors import UsageError

SHIMS: Final = ("none", "openai-agents", "gemini-google-genai", "claude-agent-sdk")
"""The shims that report tool calls from within an agent's program. `none`: no reports."""
RUN_ID_CHARS_MAX: Final = 128
LAST: Final = "last"
"""Stands for the newest run wherever a run is named."""
_SAFE: Final = re.compile(r"[A-Za-z0-9_-]*\Z")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class RunSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A measured run. `RunSpec.of(["make", "test"]).with_env("CI", "1")`; the same as JSON: `to_json`, `from_json`."""

    command: tuple[str, ...]
    """The program and its arguments."""
    run_id: str = msgspec.field(default_factory=lambda: SystemIds.new("run"))
    platform: str = sys.platform
    """Recorded as given. Effects are observed only on `linux`."""
    agent_shim: str = "none"
    env: dict[str, str] = {}
    """Set for the command in addition to what it inherits. Only the names are recorded."""

    @classmethod
    def of(cls, command: Sequence[str]) -> Self:
        """The spec of a command, with a new id. Raises: UsageError `empty_command` for a text, or no words at all."""
        if isinstance(command, (str, bytes)) or not command:
            raise UsageError(
                "a command must be a list of words, with the program first",
                code="empty_command",
                hint='such as `["make", "test"]`; for a command line, `["sh", "-c", "..."]`',
            )
        return cls(command=tuple(command))

    def with_run_id(self, run_id: str) -> Self:
        """A copy with another run id."""
        return msgspec.structs.replace(self, run_id=run_id)

    def with_platform(self, platform: str) -> Self:
        """A copy with another platform."""
        return msgspec.structs.replace(self, platform=platform)

    def with_agent_shim(self, shim: str) -> Self:
        """A copy with another shim."""
        return msgspec.structs.replace(self, agent_shim=shim)

    def with_env(self, name: str, value: str) -> Self:
        """A copy with one more variable."""
        return msgspec.structs.replace(self, env={**self.env, name: value})

    def validate(self, taken: Collection[str] = ()) -> None:
        """Check the spec; `taken` are the ids of existing runs. Raises the first error that applies, in this order.

        Raises: UsageError `empty_command`, `empty_run_id`, `run_id_colon`, `run_id_unsafe`, `run_id_too_long`,
        `run_id_ambiguous`, `unknown_shim`, `run_exists`, `bad_environment`.
        """
        if not self.command or not self.command[0]:
            raise UsageError("the command is empty", code="empty_command", path="command", hint="name a program to run")
        if any("\0" in word for word in self.command):
            raise UsageError("the command contains a NUL character", code="empty_command", path="command")
        self._check_run_id(taken)
        if self.agent_shim not in SHIMS:
            raise UsageError(
                f"there is no agent shim `{self.agent_shim[:80]}`",
                code="unknown_shim",
                path="agent_shim",
                hint=f"one of {', '.join(SHIMS)}",
            )
        if self.run_id in taken:
            raise UsageError(f"run `{self.run_id}` exists already", code="run_exists", hint="use another run id")
        for name, value in self.env.items():
            if not _NAME.match(name) or "\0" in value:
                raise UsageError(
                    "`env` has an invalid variable name, or a value with a NUL character",
                    code="bad_environment",
                    path="env",
                )

    def _check_run_id(self, taken: Collection[str]) -> None:
        run_id, where = self.run_id, "run_id"
        if not run_id:
            raise UsageError("the run id is empty", code="empty_run_id", path=where, hint="omit it to get a new one")
        if ":" in run_id:
            raise UsageError(
                "the run id contains `:`, which separates decision and tool in a report",
                code="run_id_colon",
                path=where,
            )
        if not _SAFE.match(run_id):
            raise UsageError(
                "the run id has characters other than ASCII letters, digits, `_` and `-`",
                code="run_id_unsafe",
                path=where,
            )
        if len(run_id) > RUN_ID_CHARS_MAX:
            raise UsageError(
                f"the run id has {len(run_id)} characters, more than {RUN_ID_CHARS_MAX}",
                code="run_id_too_long",
                path=where,
            )
        starts = (run_id, f"run_{run_id}")
        if run_id == LAST or any(other != run_id and other.startswith(starts) for other in taken):
            raise UsageError(
                f"`{run_id}` would refer to another run: it is `{LAST}`, or a prefix of another run's id",
                code="run_id_ambiguous",
                path=where,
                hint="use another run id",
            )

    def to_json(self) -> bytes:
        """The spec as JSON, including the values of variables."""
        return msgspec.json.encode(self)

    @classmethod
    def from_json(cls, data: bytes | str) -> Self:
        """Read a spec; omitted fields have their defaults. It is not validated yet. Raises: UsageError `malformed_spec`."""
        try:
            return typed.decode(data, cls)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise UsageError(f"the run spec cannot be read: {error}", code="malformed_spec") from None

    def recorded(self) -> Mapping[str, Any]:
        """The recorded form of the spec, before redaction."""
        return {
            "agent_shim": self.agent_shim,
            "platform": self.platform,
            "command": list(self.command),
            "env_keys": sorted(self.env),
        }
