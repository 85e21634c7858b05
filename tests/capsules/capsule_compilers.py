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
from interlock.model.capsule import Manifest
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


def python_component(source: Path, manifest: Manifest) -> bytes:
    """What `capsule_build` makes of a source in Python, or made before of the same source and world with the same compiler."""
    exports = list(capsule_files.OPTIONAL_EXPORTS)
    world = capsule_files.world_of(manifest, exports).encode()
    parts = (source.read_bytes(), world, REQUIREMENTS.read_bytes(), Path(capsule_build.__file__).read_bytes())
    kept = cache() / f"capsule-{hashlib.sha256(b'/'.join(parts)).hexdigest()[:16]}.wasm"
    if not kept.exists():
        part = kept.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(_build_python(source, manifest))
        part.replace(kept)
    return kept.read_bytes()


_build_python = capsule_build.COMPILERS["python"]


def copy_code(place: Path, to: Path) -> None:
    """Copy the compiled code of a state directory, and its key, to another: what is there is kept."""
    for part in ("keys/capsules.key", "capsule-code"):
        if (place / part).is_dir():
            shutil.copytree(place / part, to / part, dirs_exist_ok=True)
        elif (place / part).exists():
            (to / part).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.copy(place / part, to / part)
