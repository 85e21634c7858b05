"""The compilers of capsules, each installed once into the user's cache; and what the slow one has made before."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from interlock.engine.inspect import capsule_files
from interlock.surfaces.cli import capsule_build

REQUIREMENTS = Path(__file__).parents[2] / "requirements/capsule-compilers.txt"
QJS = "componentize-qjs@0.4.5"


def cache() -> Path:
    """Where they are."""
    found = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "interlock-tests"
    found.mkdir(parents=True, exist_ok=True)
    return found


def python_packages() -> Path:
    """The directory of `ziglang` and `componentize-py`."""
    mark = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    home = cache() / f"capsule-compilers-{mark}"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    return _once(home, [*install, "--target", str(home), "-r", str(REQUIREMENTS)])


def npm_packages() -> Path:
    """The directory that has `node_modules` with `componentize-qjs`."""
    home = cache() / QJS.replace("@", "-")
    return _once(home, ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(home), QJS])


def _once(home: Path, command: list[str]) -> Path:
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            shutil.rmtree(home, ignore_errors=True)
            subprocess.run(command, check=True, timeout=600)
            (home / "complete").touch()
    return home


def build_once(directory: Path) -> None:
    """Build a capsule in Python, or take what the same source, world and compiler gave before."""
    manifest = capsule_files.open_manifest(directory)
    source = (directory / "capsule.py").read_bytes()
    exports = list(capsule_files.OPTIONAL_EXPORTS)
    parts = (source, capsule_files.world_of(manifest, exports).encode(), REQUIREMENTS.read_bytes())
    kept = cache() / f"capsule-{hashlib.sha256(b'/'.join(parts)).hexdigest()[:16]}.wasm"
    if not kept.exists():
        made = capsule_build.build(directory)
        part = kept.with_suffix(f".{os.getpid()}.part")
        shutil.copy(made, part)
        part.replace(kept)
    shutil.copy(kept, directory / manifest.component.file)
