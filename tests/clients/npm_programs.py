"""Programs from npm, each version installed once into the user's cache."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path


def installed(package: str, version: str, program: str) -> Path:
    """The program of a package, installed if need be. Two test processes do not install side by side."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "interlock-tests"
    cache.mkdir(parents=True, exist_ok=True)
    home = cache / f"{package.rpartition('/')[2]}-{version}"
    found = home / "node_modules" / ".bin" / program
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            home.mkdir(exist_ok=True)
            subprocess.run(
                ["npm", "install", "--silent", "--no-fund", "--no-audit", "--prefix", home, f"{package}@{version}"],
                check=True,
                timeout=500,
            )
            (home / "complete").touch()
    return found
