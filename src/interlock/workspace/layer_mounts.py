"""Mounts the view of a layer through the process in `layer_server`, and explains why if that is impossible."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from interlock.model.errors import StoreError
from interlock.server_process import ServerProcess, module_command
from interlock.workspace.names import Rel, parts, show

_ANSWER_BYTES: Final = 4096
_ANSWER_SECONDS: Final = 20.0
_CLOSE_MS: Final = 2_000


class Mounted(NamedTuple):
    """A mounted view. The caller closes the descriptors; the mount lives as long as one of them is open."""

    root: int
    """Descriptor of the merged root, only for `*at()` calls: its name in /proc/self/fd does not lead there."""
    namespaces: tuple[int, int]
    """Descriptors of the user and the mount namespace in which the view is at the workspace's path."""


class UnmountableError(Exception):
    """The kernel refused the mount. The message gives the reason, for the posture."""


class LayerMounts:
    """Mounts layers. One instance per runtime; thread-safe. The process starts with the first mount."""

    def __init__(self) -> None:
        """Create it without starting the process."""
        self._lock = threading.Lock()
        self._process = ServerProcess(module_command("interlock.workspace.layer_server"))

    @property
    def pid(self) -> int | None:
        """The id of the mounting process; None if it is not running."""
        return self._process.pid

    def mount_overlay(
        self, at: Path, lower: Sequence[Path], upper: Path, work: Path, *, attach: bool = False
    ) -> Mounted:
        """Mount `upper` over `lower` (topmost first), at the path `at`. Raises: UnmountableError.

        With `attach`, it must be possible to attach the mount in walls with their own root.
        """
        for inside in nested_mounts(at):
            where = show((*parts(os.fsencode(at)), *inside))
            raise UnmountableError(f"another file system is mounted inside the workspace, at /{where}")
        request = {"at": str(at), "lower": [str(path) for path in lower], "upper": str(upper), "work": str(work)}
        mounted, attachable = self._ask(request)
        if attach and not attachable:
            for fd in (mounted.root, *mounted.namespaces):
                os.close(fd)
            raise UnmountableError(
                "this kernel cannot show an overlay inside the walls of profile `ns` (Linux 6.15 can)"
            )
        return mounted

    def mount_tree(self, at: Path, tree: Path) -> Mounted:
        """Show `tree` at the path `at`. Raises: UnmountableError."""
        return self._ask({"at": str(at), "tree": str(tree)})[0]

    def close(self) -> None:
        """End the process. A mount stays as long as one of its descriptors is open."""
        with self._lock:
            self._process.close(_CLOSE_MS)

    def _ask(self, request: Mapping[str, object]) -> tuple[Mounted, bool]:
        body = json.dumps(request).encode()
        data, fds, channel = b"", list[int](), None
        with self._lock:
            for last in (False, True):
                try:
                    channel = self._process.connect()
                    channel.settimeout(_ANSWER_SECONDS)
                    channel.send(body)
                    data, fds = _receive(channel)
                except OSError as error:
                    data, fds = b"", []
                    if last:
                        raise UnmountableError(
                            f"the mounting process failed: {os.strerror(error.errno or 0)}"
                        ) from None
                if data:
                    break
                if channel is not None:
                    self._process.forget(channel)
        answer: dict[str, Any] = json.loads(data) if data else {"ok": False, "step": "server", "errno": errno.EPIPE}
        if answer["ok"] and len(fds) == 3:
            return Mounted(fds[0], (fds[1], fds[2])), bool(answer.get("attachable"))
        for fd in fds:
            os.close(fd)
        raise UnmountableError(_why(answer.get("step", "descriptors"), answer.get("errno", errno.EMFILE)))


def _receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """Returns an answer and its descriptors, close-on-exec, because `socket.recv_fds` ignores its flags in Python 3.11."""
    data, parts, _, _ = channel.recvmsg(_ANSWER_BYTES, socket.CMSG_SPACE(3 * 4), socket.MSG_CMSG_CLOEXEC)
    return data, [fd for *_, numbers in parts for fd in memoryview(numbers).cast("i")]


def nested_mounts(root: Path) -> dict[Rel, bytes]:
    """The mount points beneath a directory, which an overlay would not show, with their file system types.

    Source: proc_pid_mountinfo(5), field 5 with octal escapes, and the first field after the separator.
    """
    above = os.fsencode(root).rstrip(b"/") + b"/"
    try:
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        own, _, mounted = line.partition(b" - ")
        point = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), own.split(b" ")[4])
        if point.startswith(above):
            found[parts(point[len(above) :])] = mounted.split(b" ")[0]
    return found


def _why(step: str, number: int) -> str:
    reason = os.strerror(number)
    match step:
        case "namespaces":
            return f"no mount namespace can be created here: {reason}"
        case "overlay":
            return f"overlayfs refuses this workspace or the state directory's file system: {reason}"
        case "bind":
            return f"the copy cannot be shown at the workspace's path: {reason}"
    return f"{step}: {reason}"


def unmountable(error: UnmountableError) -> StoreError:
    """The error for a required view that cannot be mounted."""
    return StoreError(
        f"the layer cannot be mounted: {error}",
        code="layer_unavailable",
        hint='`interlock doctor` shows what is missing; `[workspace] mode = "direct"` works without layers',
    )
