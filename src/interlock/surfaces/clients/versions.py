"""Finds the installed version of a client."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from typing import Final

from interlock.surfaces.clients.client import Client

_SECONDS: Final = 20
_VERSION: Final = re.compile(r"\d+\.\d+\.\d+(?:[-.+]\w+)*")


def found_version(client: Client, env: Mapping[str, str]) -> str | None:
    """The version of the program on the PATH; None if there is none, or it does not report one."""
    path = shutil.which(client.program, path=env.get("PATH"))
    if path is None:
        return None
    try:
        done = subprocess.run(
            [path, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            env=dict(env),
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = _VERSION.search(done.stdout.decode(errors="replace"))
    return None if found is None else found.group()


def untested(client: Client, version: str) -> str | None:
    """A warning about a version that was not tested with Interlock; None for a tested one."""
    if version in client.tested:
        return None
    if not client.tested:
        return f"{client.name} {version} was never tested with Interlock: it is set up from its documentation"
    return f"{client.name} {version} was not tested with Interlock; {' and '.join(client.tested)} was"
