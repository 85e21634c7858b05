"""Tries a gateway by starting it as a client would: it must start in the client's directory, answer, and offer tools."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from interlock.model import json_rpc
from interlock.model.json_rpc import Response

_SECONDS: Final = 60
_PRINTED_CHARS_MAX: Final = 300
_REVISION: Final = "2025-11-25"
_LIST: Final = 2


class GatewayStart(NamedTuple):
    """How a client starts the gateway."""

    command: tuple[str, ...]
    env: tuple[tuple[str, str], ...]


class GatewayTrial(NamedTuple):
    """The result of the trial."""

    status: Literal["ok", "warning", "problem"]
    detail: str
    hint: str | None = None


def find_starts(value: Any) -> Iterator[GatewayStart]:
    """The gateway starts in a client's settings, in each form that clients use for a server."""
    if isinstance(value, dict):
        command, more = value.get("command"), value.get("args", [])
        words = [command, *more] if isinstance(command, str) and isinstance(more, list | tuple) else command
        if isinstance(words, list | tuple) and len(words) > 1 and words[1] == "gateway":
            env = value.get("env", value.get("environment", {}))
            yield GatewayStart(tuple(map(str, words)), tuple(sorted(env.items())) if isinstance(env, dict) else ())
            return
    if isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from find_starts(inner)


def try_gateway(start: GatewayStart, directory: Path, env: Mapping[str, str]) -> GatewayTrial:
    """Start the gateway in a directory, list its tools, and stop it."""
    client = {"protocolVersion": _REVISION, "capabilities": {}, "clientInfo": {"name": "doctor", "version": "1"}}
    frames = (
        json_rpc.request(1, "initialize", client),
        json_rpc.notification("notifications/initialized", {}),
        json_rpc.request(_LIST, "tools/list", {}),
    )
    try:
        done = subprocess.run(
            start.command,
            input=b"".join(frames),
            capture_output=True,
            cwd=directory,
            env={**env, **dict(start.env)},
            timeout=_SECONDS,
            check=False,
        )
    except OSError as error:
        return GatewayTrial("problem", f"`{start.command[0]}` cannot be started: {error.strerror}", _AGAIN)
    except subprocess.TimeoutExpired:
        return GatewayTrial("problem", f"it did not answer within {_SECONDS} s")
    tools = _tools(done.stdout.splitlines())
    printed = " ".join(done.stderr.decode(errors="replace").split())[:_PRINTED_CHARS_MAX]
    if tools is None:
        return GatewayTrial("problem", f"it exited with code {done.returncode} after its start: {printed}", _LOOK)
    if not tools:
        return GatewayTrial(
            "warning", f"it starts, but offers no tools: {printed}", "`[grants.NAME]` in interlock.toml"
        )
    return GatewayTrial("ok", f"it starts, and offers {tools} tools")


_AGAIN: Final = "the client cannot start it either: set the client up again with `interlock install`"
_LOOK: Final = "the client gets no tools until that is fixed"


def _tools(lines: Sequence[bytes]) -> int | None:
    """How many tools were listed; None if there was no answer."""
    for line in lines:
        message = json_rpc.read_frame(line)
        if isinstance(message, Response) and message.id == _LIST and message.result is not None:
            found = message.result.get("tools")
            return len(found) if isinstance(found, list) else None
    return None
