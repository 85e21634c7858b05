"""Gets the hashes by which Codex identifies hooks. It silently skips hooks that its user has not trusted.

`codex app-server` computes them in a temporary home that contains the new hooks. Setting up Codex with `interlock
install` trusts the hooks that it writes, and only those; other hooks stay as they are.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from interlock.model.errors import UsageError

_SECONDS: Final = 60
_SUFFIX: Final = "hooks.json"


def hook_hashes(hooks: bytes, ours: str, env: Mapping[str, str]) -> dict[str, str]:
    """The hash of each hook that starts `ours`, by its place in a hook file (`:pre_tool_use:0:0`).

    Raises: UsageError `client_program` if Codex is not installed, or does not answer.
    """
    found = shutil.which("codex", path=env.get("PATH"))
    if found is None:
        raise _silent("`codex` is not on the PATH")
    with tempfile.TemporaryDirectory(prefix="interlock-codex-") as name:
        home = Path(name).resolve()
        (home / ".codex").mkdir()
        (home / ".codex" / _SUFFIX).write_bytes(hooks)
        try:
            listed = _ask(found, home, env)
        except OSError as error:
            raise _silent(f"`codex app-server` could not be asked: {type(error).__name__}") from None
    hashes = {
        str(hook["key"]).rpartition(_SUFFIX)[2]: str(hook["currentHash"])
        for hook in listed
        if hook.get("command") == ours and hook.get("key") and hook.get("currentHash")
    }
    if not hashes:
        raise _silent("`codex app-server` does not list the hooks")
    return hashes


def _ask(program: str, home: Path, env: Mapping[str, str]) -> list[dict[str, Any]]:
    requests = [
        {"id": 1, "method": "initialize", "params": {"clientInfo": {"name": "interlock", "version": "1"}}},
        {"method": "initialized"},
        {"id": 2, "method": "hooks/list", "params": {"cwds": [str(home)]}},
    ]
    with subprocess.Popen(
        [program, "app-server"],
        cwd=home,
        env={"PATH": env.get("PATH", os.defpath), "HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        limit = threading.Timer(_SECONDS, process.kill)
        limit.start()
        try:
            process.stdin.write(b"".join(json.dumps(each).encode() + b"\n" for each in requests))
            process.stdin.flush()
            return list(_hooks(process.stdout))
        finally:
            limit.cancel()
            process.kill()


def _hooks(lines: Any) -> Iterator[dict[str, Any]]:
    """The hooks in the answer to the second request."""
    for line in lines:
        try:
            message = json.loads(line)
        except ValueError:
            return
        if isinstance(message, dict) and message.get("id") == 2:
            for place in (message.get("result") or {}).get("data", ()):
                yield from place.get("hooks", ())
            return


def _silent(why: str) -> UsageError:
    return UsageError(
        f"Codex runs only hooks whose hash is in its settings, and only Codex can compute the hash: {why}",
        code="client_program",
        hint="install it first, or use --mode replace, which needs no hooks",
    )
