"""Facts about this machine and this user that the rooms may not look up themselves."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from interlock.disk import Disk


def user_name() -> str:
    """The name of the user that runs this process."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid-{os.getuid()}"


def boot_id() -> str:
    """The id of this boot of the machine; empty if the kernel does not provide one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def redaction_key(state: Path, disk: Disk) -> bytes:
    """The key for the fingerprints of secrets; made once per state directory. Raises StoreError."""
    return own_key(state, disk, "redaction")


def own_key(state: Path, disk: Disk, name: str) -> bytes:
    """A secret of this state directory, made when it is first needed. Raises StoreError."""
    path = state / "keys" / f"{name}.key"
    if not path.exists():
        disk.make_directory(path.parent)
        disk.write_atomic(path, os.urandom(32))
    return path.read_bytes()
