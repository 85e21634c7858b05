"""`interlock.lock`: the tool definitions and capsule builds that a person has reviewed. It is trusted with the configuration.

Agents are shown these definitions and no others. A definition that its server has changed since is hidden until it is
locked again, and a capsule with another build is not loaded.

The file is sorted JSON, so that diffs are readable. Versions: 1 (first).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from interlock.executors.mcp.definitions import (
    Definition,
    UnusableDefinition,
    check_definition,
    check_shown,
    read_instructions,
)
from interlock.executors.mcp.prompts import PromptDefinition
from interlock.model import typed
from interlock.model.capsule import LockedCapsule
from interlock.model.errors import ConfigurationError, ProposalError
from interlock.model.values import parse_json

FILE: Final = "interlock.lock"
VERSION: Final = 1


class LockedServer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The locked state of one server."""

    program: str = ""
    """Name and version that the server reports for itself; for people."""
    instructions: str = ""
    tools: tuple[Definition, ...] = ()
    """Sorted by name."""
    prompts: tuple[PromptDefinition, ...] = ()
    """Sorted by name."""
    resources: bool = False
    """True if the server has resources. These are data, like results of tools, and are not locked."""

    def by_name(self) -> dict[str, Definition]:
        """Returns the tools by name."""
        return {tool.name: tool for tool in self.tools}

    def prompts_by_name(self) -> dict[str, PromptDefinition]:
        """Returns the prompts by name."""
        return {prompt.name: prompt for prompt in self.prompts}


class Lock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole lock file."""

    version: int = VERSION
    servers: dict[str, LockedServer] = {}
    capsules: dict[str, LockedCapsule] = {}


def decode_lock(data: bytes) -> Lock:
    """Decode a lock file. Raises: ConfigurationError `lock_invalid`."""
    try:
        value = parse_json(data)
        if isinstance(value, dict) and value.get("version") != VERSION:
            raise _invalid(
                f"its version is {str(value.get('version'))[:20]}, but this Interlock reads version {VERSION}"
            )
        lock = typed.convert(value, Lock)
        for name, server in lock.servers.items():
            if len(server.by_name()) != len(server.tools):
                raise _invalid(f"the server `{name[:80]}` lists a tool twice")
            if len(server.prompts_by_name()) != len(server.prompts):
                raise _invalid(f"the server `{name[:80]}` lists a prompt twice")
            if server.instructions != read_instructions(server.instructions):
                raise _invalid(f"the instructions of `{name[:80]}` are too long, or contain invisible characters")
            for tool in server.tools:
                check_definition(tool)
            for prompt in server.prompts:
                check_shown(prompt.name, prompt.as_dict())
    except (ProposalError, msgspec.ValidationError) as error:
        raise _invalid(str(error)) from None
    except UnusableDefinition as problem:
        raise _invalid(f"`{problem.name}` cannot be used: {problem.why}") from None
    return lock


def encode_lock(servers: Mapping[str, LockedServer], capsules: Mapping[str, LockedCapsule]) -> bytes:
    """Encode the file; the bytes are the same for the same definitions and builds."""
    ordered = {
        name: msgspec.structs.replace(
            server,
            tools=tuple(sorted(server.tools, key=lambda tool: tool.name)),
            prompts=tuple(sorted(server.prompts, key=lambda prompt: prompt.name)),
        )
        for name, server in sorted(servers.items())
    }
    document = {"version": VERSION, "servers": ordered} | ({"capsules": dict(capsules)} if capsules else {})
    data = msgspec.json.encode(document, order="sorted")
    return msgspec.json.format(data, indent=2) + b"\n"


def as_text(value: Any) -> str:
    """Format a part of the lock for a diff, with one field per line."""
    return msgspec.json.format(msgspec.json.encode(value, order="sorted"), indent=2).decode()


def _invalid(why: str) -> ConfigurationError:
    return ConfigurationError(
        f"the lock cannot be used: {why}",
        code="lock_invalid",
        path=FILE,
        hint="restore the last good version, or delete the file and run `interlock tools lock` (and `interlock capsule lock`)",
    )
