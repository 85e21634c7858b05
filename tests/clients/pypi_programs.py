"""Python packages in environments of their own, each set of pinned requirements installed once into the user's cache."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path


def python_with(requirements: Path) -> Path:
    """The Python of an environment with these requirements, made if need be. Two test processes do not make one side by side."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "interlock-tests"
    cache.mkdir(parents=True, exist_ok=True)
    mark = hashlib.sha256(requirements.read_bytes() + sys.version.encode()).hexdigest()[:12]
    home = cache / f"{requirements.stem}-{mark}"
    found = home / "bin" / "python"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True, timeout=200)
            install = [found, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
            subprocess.run([*install, "-r", requirements], check=True, timeout=600)
            (home / "complete").touch()
    return found
