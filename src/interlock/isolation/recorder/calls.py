"""The meaning of each recorded call: which arguments are paths, flags, addresses. Uses only the standard library.

A `Seen` is read while the call waits, and written afterwards. Nothing is decided here.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterable
from json.encoder import encode_basestring as quote
from typing import Final, NamedTuple

from interlock.isolation.recorder.memory import read_argv, read_exactly, read_text
from interlock.isolation.recorder.places import AT_FDCWD, Places

_AT_SYMLINK_NOFOLLOW: Final = 0x100
_AT_SYMLINK_FOLLOW: Final = 0x400
_ADDRESS_BYTES: Final = 128
_RESOLVE_IN_ROOT: Final = 0x10
"""Of `openat2`: the start directory is the root of the path and of every link on it."""
_MESSAGES_MAX: Final = 1024
_MESSAGE_BYTES: Final = 64
_TMPFILE: Final = os.O_TMPFILE & ~os.O_DIRECTORY
_CREATES: Final = os.O_CREAT | _TMPFILE
_KNOWN_OPENS_MAX: Final = 256
_known_opens: dict[int, tuple[bool, str]] = {}
"""Caches the meaning of flags of opens that create nothing."""
_ACCESS: Final = ("read", "write", "read_write", "path")
_FLAGS: Final = (
    (os.O_CREAT, "create"),
    (os.O_EXCL, "exclusive"),
    (os.O_TRUNC, "truncate"),
    (os.O_APPEND, "append"),
    (os.O_DIRECTORY, "directory"),
    (os.O_NOFOLLOW, "nofollow"),
    (_TMPFILE, "temporary"),
)
_FAMILIES: Final = {
    socket.AF_UNIX: "unix",
    socket.AF_INET: "inet",
    socket.AF_INET6: "inet6",
    socket.AF_NETLINK: "netlink",
}


class Seen(NamedTuple):
    """What was read of a call."""

    path: str | None = None
    follow: bool = True
    real: str | None = None
    """The target, if already known: for paths that mean a different file in each process."""
    to: str | None = None
    more: str = ""
    """The rest of the record, as JSON members that start with a comma."""


Read = Callable[[Places, int, tuple[int, ...]], tuple[Seen, ...]]
"""Reads the arguments of a call. Raises: OSError if that fails. An empty result is not recorded."""


def _place(places: Places, pid: int, address: int, directory: int = AT_FDCWD) -> str:
    """Returns the absolute path of an argument. Raises: OSError."""
    text = os.fsdecode(read_text(pid, address))
    return text if text[:1] == "/" else places.join(pid, directory, text)


def _path(
    directory: int | None, path: int, *, follow: bool = True, flags: int | None = None, mode: int | None = None
) -> Read:
    """Returns a call with one path. The numbers are argument indexes; `flags` holds AT_SYMLINK_NOFOLLOW."""

    def read(places: Places, pid: int, a: tuple[int, ...]) -> tuple[Seen, ...]:
        found = _place(places, pid, a[path], AT_FDCWD if directory is None else a[directory])
        followed = follow and (flags is None or not a[flags] & _AT_SYMLINK_NOFOLLOW)
        return (
            Seen(found, followed, places.own(pid, found), None, "" if mode is None else f',"mode":{a[mode] & 0o7777}'),
        )

    return read


def _two(first: tuple[int | None, int], second: tuple[int | None, int], flags: int | None = None) -> Read:
    def read(places: Places, pid: int, a: tuple[int, ...]) -> tuple[Seen, ...]:
        one, other = (
            _place(places, pid, a[path], AT_FDCWD if directory is None else a[directory])
            for directory, path in (first, second)
        )
        return (Seen(one, flags is not None and bool(a[flags] & _AT_SYMLINK_FOLLOW), None, other),)

    return read


def _symlink(directory: int | None, path: int) -> Read:
    def read(places: Places, pid: int, a: tuple[int, ...]) -> tuple[Seen, ...]:
        target = os.fsdecode(read_text(pid, a[0]))
        place = _place(places, pid, a[path], AT_FDCWD if directory is None else a[directory])
        return (Seen(place, follow=False, to=target),)

    return read


def opened(flags: int, mode: int) -> tuple[bool, str]:
    """Returns whether an open follows a final link, and its JSON members."""
    known = _known_opens.get(flags)
    if known is not None:
        return known
    access = "path" if flags & os.O_PATH else _ACCESS[flags & 3]
    more = f',"access":"{access}"'
    if flags & (_CREATES | os.O_EXCL | os.O_TRUNC | os.O_APPEND | os.O_DIRECTORY | os.O_NOFOLLOW):
        names = ",".join(f'"{name}"' for bit, name in _FLAGS if flags & bit)
        more += f',"flags":[{names}]'
    follow = not (flags & os.O_NOFOLLOW or flags & os.O_EXCL)
    if flags & _CREATES:
        return follow, f'{more},"mode":{mode & 0o7777}'
    if len(_known_opens) < _KNOWN_OPENS_MAX:
        _known_opens[flags] = follow, more
    return follow, more


def _open(directory: int | None, path: int, flags: int) -> Read:
    def read(places: Places, pid: int, a: tuple[int, ...]) -> tuple[Seen, ...]:
        found = _place(places, pid, a[path], AT_FDCWD if directory is None else a[directory])
        follow, more = opened(a[flags], a[flags + 1])
        return (Seen(found, follow, places.own(pid, found), None, more),)

    return read


def _creat(places: Places, pid: int, a: tuple[int, ...]) -> tuple[Seen, ...]:
    found = _place(places, pid, a[0])
    follow, more = opened(os.O_CREAT | os.O_WRONLY | os.O_TRUNC, a[1])
    return (Seen(found, follow, places.own(pid, found), None, more),)


def _openat2(places: Places, pid: int, a: tuple[int, ...]) -> tuple[Seen, ...]:
    flags, mode, resolve = struct.unpack("<QQQ", read_exactly(pid, a[2], 24))
    follow, more = opened(flags, mode)
    if not resolve & _RESOLVE_IN_ROOT:
        found = _place(places, pid, a[1], a[0])
        return (Seen(found, follow, places.own(pid, found), None, more),)
    top = places.join(pid, a[0], "")
    found = places.beneath(top, os.fsdecode(read_text(pid, a[1])), follow=follow)
    return (Seen(found, follow, found, None, more),)


def _exec(directory: int | None, path: int, argv: int) -> Read:
    def read(places: Places, pid: int, a: tuple[int, ...]) -> tuple[Seen, ...]:
        found = _place(places, pid, a[path], AT_FDCWD if directory is None else a[directory])
        arguments, cut = read_argv(pid, a[argv])
        return (Seen(found, True, places.own(pid, found), None, argv_members(arguments, cut=cut)),)

    return read


def argv_members(arguments: Iterable[bytes], *, cut: bool) -> str:
    """Returns the arguments of a program as JSON members."""
    shown = ",".join(quote(argument.decode("utf-8", "backslashreplace")) for argument in arguments)
    return f',"argv":[{shown}]' + (',"argv_cut":true' if cut else "")


def _address(data: bytes) -> str:
    """Returns a socket address as JSON members."""
    if len(data) < 2:
        return ',"family":"0"'
    number = struct.unpack_from("<H", data)[0]
    more = f',"family":"{_FAMILIES.get(number, str(number))}"'
    if number == socket.AF_INET and len(data) >= 8:
        return f'{more},"host":"{socket.inet_ntop(number, data[4:8])}","port":{int.from_bytes(data[2:4], "big")}'
    if number == socket.AF_INET6 and len(data) >= 24:
        return f'{more},"host":"{socket.inet_ntop(number, data[8:24])}","port":{int.from_bytes(data[2:4], "big")}'
    if number == socket.AF_UNIX:
        name = data[2:].partition(b"\0")[0] if data[2:3] != b"\0" else b"@" + data[3:]
        return f'{more},"host":{quote(name.decode("utf-8", "backslashreplace"))}'
    return more


def _connect(places: Places, pid: int, a: tuple[int, ...]) -> tuple[Seen, ...]:  # noqa: ARG001
    size = min(a[2] & 0xFFFFFFFF, _ADDRESS_BYTES)
    return (Seen(more=_address(read_exactly(pid, a[1], size))),)


def _sendto(places: Places, pid: int, a: tuple[int, ...]) -> tuple[Seen, ...]:  # noqa: ARG001
    size = min(a[5] & 0xFFFFFFFF, _ADDRESS_BYTES)
    return (Seen(more=_address(read_exactly(pid, a[4], size))),)


def _messages(pid: int, data: bytes, size: int) -> tuple[Seen, ...]:
    found: dict[str, None] = {}
    for at in range(0, len(data), size):
        name, length = struct.unpack_from("<QI", data, at)
        if name:
            found[_address(read_exactly(pid, name, min(length, _ADDRESS_BYTES)))] = None
    return tuple(Seen(more=more) for more in found)


def _sendmsg(places: Places, pid: int, a: tuple[int, ...]) -> tuple[Seen, ...]:  # noqa: ARG001
    return _messages(pid, read_exactly(pid, a[1], 16), 16)


def _sendmmsg(places: Places, pid: int, a: tuple[int, ...]) -> tuple[Seen, ...]:  # noqa: ARG001
    count = min(a[2] & 0xFFFFFFFF, _MESSAGES_MAX)
    return _messages(pid, read_exactly(pid, a[1], count * _MESSAGE_BYTES), _MESSAGE_BYTES) if count else ()


def _memfd(places: Places, pid: int, a: tuple[int, ...]) -> tuple[Seen, ...]:  # noqa: ARG001
    name = read_text(pid, a[0]).decode("utf-8", "backslashreplace")
    return (Seen(more=f',"path":{quote("memfd:" + name)}'),)


def _handle(places: Places, pid: int, a: tuple[int, ...]) -> tuple[Seen, ...]:  # noqa: ARG001
    return (Seen(more=opened(a[2], 0)[1]),)


def _without_path(_places: Places, _pid: int, _a: tuple[int, ...]) -> tuple[Seen, ...]:
    return (Seen(),)


READERS: Final[dict[str, Read]] = {
    "open": _open(None, 0, 1),
    "openat": _open(0, 1, 2),
    "openat2": _openat2,
    "creat": _creat,
    "execve": _exec(None, 0, 1),
    "execveat": _exec(0, 1, 2),
    "connect": _connect,
    "bind": _connect,
    "sendto": _sendto,
    "sendmsg": _sendmsg,
    "sendmmsg": _sendmmsg,
    "unlink": _path(None, 0, follow=False),
    "unlinkat": _path(0, 1, follow=False),
    "rmdir": _path(None, 0, follow=False),
    "rename": _two((None, 0), (None, 1)),
    "renameat": _two((0, 1), (2, 3)),
    "renameat2": _two((0, 1), (2, 3)),
    "link": _two((None, 0), (None, 1)),
    "linkat": _two((0, 1), (2, 3), 4),
    "symlink": _symlink(None, 1),
    "symlinkat": _symlink(1, 2),
    "mkdir": _path(None, 0, follow=False, mode=1),
    "mkdirat": _path(0, 1, follow=False, mode=2),
    "mknod": _path(None, 0, follow=False, mode=1),
    "mknodat": _path(0, 1, follow=False, mode=2),
    "chmod": _path(None, 0, mode=1),
    "fchmodat": _path(0, 1, mode=2),
    "fchmodat2": _path(0, 1, flags=3, mode=2),
    "chown": _path(None, 0),
    "lchown": _path(None, 0, follow=False),
    "fchownat": _path(0, 1, flags=4),
    "truncate": _path(None, 0),
    "setxattr": _path(None, 0),
    "lsetxattr": _path(None, 0, follow=False),
    "removexattr": _path(None, 0),
    "lremovexattr": _path(None, 0, follow=False),
    "memfd_create": _memfd,
    "open_by_handle_at": _handle,
    "chroot": _path(None, 0),
    "pivot_root": _path(None, 0),
    "mount": _path(None, 1),
    "move_mount": _path(2, 3),
    "setns": _without_path,
}
CHANGES_LINKS: Final = frozenset(
    [
        "unlink",
        "unlinkat",
        "rmdir",
        "rename",
        "renameat",
        "renameat2",
        "link",
        "linkat",
        "symlink",
        "symlinkat",
        "chroot",
    ]
)
"""Calls after which a path may have a different target."""
EXECS: Final = frozenset(("execve", "execveat"))
