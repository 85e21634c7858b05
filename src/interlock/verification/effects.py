"""Maps calls of the kernel layer to values of the surface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from interlock.verification.facts import Line, host_of

_OPENS: Final = "open openat openat2 creat open_by_handle_at"
_CHANGES: Final = (
    "unlink unlinkat rmdir mkdir mkdirat mknod mknodat chmod fchmodat fchmodat2 chown lchown fchownat truncate setxattr "
    "lsetxattr removexattr lremovexattr symlink symlinkat"
)
_RENAMES: Final = "rename renameat renameat2"
_LINKS: Final = "link linkat"
_EXECS: Final = "execve execveat"
_SENDS: Final = "connect sendto sendmsg sendmmsg"


class Values(Protocol):
    """Collects the values of one kind."""

    def take(self, value: str, grade: str | None = None) -> None:
        """Add a value; `grade` says whether it was an attempt or an outcome."""


class Effects(Protocol):
    """Collects the values found in lines."""

    @property
    def files_read(self) -> Values:
        """Paths."""

    @property
    def files_written(self) -> Values:
        """Paths that were written, created, moved or removed."""

    @property
    def programs(self) -> Values:
        """Paths of executed files."""

    @property
    def hosts(self) -> Values:
        """`HOST:PORT`."""


def take_effect(facts: Effects, line: Line) -> None:
    """Add the values of a `call` line to `facts`."""
    rule = _RULES.get(line["call"])
    if rule is not None:
        rule(facts, line)


def _open(facts: Effects, line: Line) -> None:
    path = _path(line)
    if path is None:
        return
    access, flags, grade = line.get("access"), line.get("flags", ()), line["grade"]
    if access in ("read", "read_write"):
        facts.files_read.take(path, grade)
    if access in ("write", "read_write") or "create" in flags or "truncate" in flags:
        facts.files_written.take(path, grade)


def _change(facts: Effects, line: Line) -> None:
    _written(facts, _path(line), line)


def _rename(facts: Effects, line: Line) -> None:
    _written(facts, _path(line), line)
    _written(facts, line.get("to"), line)


def _link(facts: Effects, line: Line) -> None:
    _written(facts, line.get("to"), line)


def _written(facts: Effects, path: str | None, line: Line) -> None:
    if path is not None:
        facts.files_written.take(path, line["grade"])


def _execute(facts: Effects, line: Line) -> None:
    path = _path(line)
    if path is not None:
        facts.programs.take(path, line["grade"])


def _send(facts: Effects, line: Line) -> None:
    host = line.get("host")
    if host is not None and line.get("family") in ("inet", "inet6"):
        facts.hosts.take(host_of(host, line.get("port")), line["grade"])


def _path(line: Line) -> str | None:
    real: str | None = line.get("real")
    return line.get("path") if real is None else real


_RULES: Final[dict[str, Callable[[Effects, Line], None]]] = {
    call: rule
    for calls, rule in (
        (_OPENS, _open), (_CHANGES, _change), (_RENAMES, _rename), (_LINKS, _link), (_EXECS, _execute), (_SENDS, _send),
    )
    for call in calls.split()
}  # fmt: skip
