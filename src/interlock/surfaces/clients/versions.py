"""Which version of a client is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from typing import Final

from interlock.surfaces.clients.client import Client

_SECONDS: Final = 20
_VERSION: Final = re.compile(r"\d+\.\d+\.\d+[-.\w]*")


def found_version(client: Client, env: Mapping[str, str]) -> str | None:
    """The version of the program that the PATH leads to; None if there is none, or if it does not say."""
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
