"""The process that mounts layers. It uses only the standard library, has one thread, and holds no secrets.

A mount needs a mount namespace, and an ordinary user needs a user namespace for it, which a process with threads cannot
enter. So the runtime starts this process once. For each request it forks a child that enters a new mount namespace,
mounts the layer over the workspace's own path there, passes three descriptors back (the merged root, its user
namespace, its mount namespace) and exits: the descriptors keep the mount alive. A process that joins these namespaces
sees the layer in place of the workspace.

A request is one datagram of JSON: `{"at", "lower": [...], "upper", "work"}` for overlayfs (topmost lower directory
first), or `{"at", "tree"}` to show another tree at `at`. Paths are text with surrogate escapes. The answer is `{"ok":
true, "attachable"}` with the descriptors, or `{"ok": false, "step", "errno"}`.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
from typing import Any

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_MS_NOSUID = 2
_MS_NODEV = 4
_MS_BIND = 4096
_MS_REC = 16384
_MS_PRIVATE = 1 << 18
# The numbers of these system calls are the same on every architecture.
_SYS_OPEN_TREE, _SYS_MOVE_MOUNT, _SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 428, 429, 430, 431, 432
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6  # linux/mount.h, FSCONFIG_*
_MOUNT_NOSUID, _MOUNT_NODEV = 2, 4  # MOUNT_ATTR_*
_CLOEXEC = 1  # FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC
_OPEN_TREE_CLONE = 1
_MOVE_EMPTY_PATH = 4  # MOVE_MOUNT_F_EMPTY_PATH
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_MESSAGE_BYTES = 64 * 1024

_libc = ctypes.CDLL(None, use_errno=True)


class RefusedError(Exception):
    """The kernel refused a step; `step` names it, `number` is the errno."""

    def __init__(self, step: str, number: int) -> None:
        """See the class."""
        super().__init__(step, number)
        self.step = step
        self.number = number


def main() -> None:
    """Serve requests on descriptor 0 until its other end closes, as it does when the runtime ends."""
    channel = socket.socket(fileno=os.dup(0))
    while True:
        data = channel.recv(_MESSAGE_BYTES)
        if not data:
            return
        child = os.fork()
        if child == 0:
            try:
                _answer(channel, json.loads(data))
            finally:
                os._exit(0)
        os.waitpid(child, 0)


def _answer(channel: socket.socket, request: dict[str, Any]) -> None:
    descriptors: list[int] = []
    attachable = False
    try:
        enter_namespaces()
        if "tree" in request:
            mount(os.fsencode(request["tree"]), os.fsencode(request["at"]), None, _MS_BIND, None, "bind")
            descriptors.append(_root(os.fsencode(request["at"])))
        else:
            root, attachable = mount_overlay(request)
            descriptors.append(root)
        descriptors += [os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in ("user", "mnt")]
        answer: dict[str, Any] = {"ok": True, "attachable": attachable}
    except RefusedError as refused:
        answer = {"ok": False, "step": refused.step, "errno": refused.number}
    except OSError as error:
        answer = {"ok": False, "step": "open", "errno": error.errno}
    socket.send_fds(channel, [json.dumps(answer).encode()], descriptors if answer["ok"] else [])


def enter_namespaces() -> None:
    """Enter a new mount namespace, with a new user namespace if the user needs one for it. Raises: RefusedError."""
    uid, gid = os.geteuid(), os.getegid()
    if uid != 0 or _libc.unshare(_CLONE_NEWNS) != 0:
        if _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS) != 0:
            raise RefusedError("namespaces", ctypes.get_errno())
        try:
            for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
                with open(f"/proc/self/{name}", "w", encoding="ascii") as file:  # noqa: PTH123 - quick to start
                    file.write(text)
        except OSError as error:
            raise RefusedError("namespaces", error.errno or 0) from error
    mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None, "namespaces")


def mount_overlay(request: dict[str, Any]) -> tuple[int, bool]:
    """Mount overlayfs at `at`. Returns a descriptor of its root, and whether other namespaces can attach it.

    Raises: RefusedError.

    The directories are passed as descriptors, because commas and colons in their paths are syntax in mount options.
    They are opened here, because descriptors from before the new namespace are refused. The returned descriptor belongs
    to a mount outside any namespace, so that walls in other namespaces can attach copies of it. Where the kernel cannot
    copy such a mount (before 6.15), it belongs to the mount at `at`.
    """
    at = os.fsencode(request["at"])
    paths = [*request["lower"], request["upper"], request["work"]]
    fds = [os.open(os.fsencode(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) for path in paths]
    names = [f"/proc/self/fd/{fd}" for fd in fds]
    options = {"lowerdir": ":".join(names[:-2]), "upperdir": names[-2], "workdir": names[-1]}
    try:
        tree = _call("overlay", _SYS_FSOPEN, b"overlay", _CLOEXEC)
        for key, value in options.items():
            _call("overlay", _SYS_FSCONFIG, tree, _SET_STRING, key.encode(), value.encode(), 0)
        _call("overlay", _SYS_FSCONFIG, tree, _SET_FLAG, b"userxattr", None, 0)
        _call("overlay", _SYS_FSCONFIG, tree, _CREATE, None, None, 0)
        detached = _call("overlay", _SYS_FSMOUNT, tree, _CLOEXEC, _MOUNT_NOSUID | _MOUNT_NODEV)
        copy = _call("overlay", _SYS_OPEN_TREE, detached, b"", _OPEN_TREE_CLONE | _AT_EMPTY_PATH | os.O_CLOEXEC)
        _call("overlay", _SYS_MOVE_MOUNT, copy, b"", _AT_FDCWD, at, _MOVE_EMPTY_PATH)
    except RefusedError:
        text = ",".join(f"{key}={value}" for key, value in options.items()) + ",userxattr"
        mount(b"overlay", at, b"overlay", _MS_NOSUID | _MS_NODEV, text.encode(), "overlay")
        return _root(at), False
    finally:
        for fd in fds:
            os.close(fd)
    return detached, True


def _root(at: bytes) -> int:
    return os.open(at, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def _call(step: str, number: int, *arguments: int | bytes | None) -> int:
    given = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    found = int(_libc.syscall(ctypes.c_long(number), *given))
    if found < 0:
        raise RefusedError(step, ctypes.get_errno())
    return found


def mount(
    source: bytes | None, target: bytes, kind: bytes | None, flags: int, options: bytes | None, step: str
) -> None:
    """Mount a file system. `step` names it in the refusal. Raises: RefusedError."""
    if _libc.mount(source, target, kind, ctypes.c_ulong(flags), options) != 0:
        raise RefusedError(step, ctypes.get_errno())


if __name__ == "__main__":
    main()
