"""Layer L0: what every process gets, on every Linux, without privileges. Uses only the standard library.

The payload calls `enter` between fork and exec (or before a module host's function runs): descriptors, session, working
directory, limits, no_new_privs, death signal. A failed step is an error: nothing runs behind incomplete walls.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
from collections.abc import Callable, Sequence
from typing import TypeVar

from interlock.isolation import syscalls
from interlock.isolation.wire import Limits

T = TypeVar("T")
_OOM_PREFERENCE = 500
"""Per mille of the memory limit: the program counts as half the limit larger than it is."""

DEFAULT_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)
"""The two signals that Python ignores; exec would preserve that."""


class RefusedError(Exception):
    """A step between fork and exec failed; `step` names it."""

    def __init__(self, step: str, number: int) -> None:
        """`number` is an errno."""
        super().__init__(step, number)
        self.step = step
        self.number = number


def resume_on(socket: int) -> None:
    """Make the kernel send SIGCONT to this process when data arrives on `socket`, or its other end closes.

    A program of the same user can stop our process with SIGSTOP. While stopped, it could not read that it must act.
    """
    fcntl.fcntl(socket, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(socket, fcntl.F_SETSIG, signal.SIGCONT)
    fcntl.fcntl(socket, fcntl.F_SETFL, fcntl.fcntl(socket, fcntl.F_GETFL) | os.O_ASYNC)


def enter(
    *,
    parent: int,
    cwd: int,
    descriptors: Sequence[int],
    spare: int,
    also: int | None = None,
    limits: Limits,
    grouped: bool,
    path: str | None = None,
) -> None:
    """Raise the walls of L0 around this process, which `parent` forked.

    `grouped` is passed to `limit`. The process enters the directory `cwd`; if `path` is given, as `enter_directory`
    does. `descriptors` become 0, 1, 2 ...; all others are closed except `spare` and `also`, which must be 10 or higher
    and close-on-exec. Raises: RefusedError.
    """
    try:
        os.setsid()
        syscalls.die_with_parent()
        if os.getppid() != parent:
            os._exit(1)  # the parent died before the death signal was set
        limit(limits, grouped=grouped)
        syscalls.forbid_new_privileges()
    except (OSError, ValueError) as error:
        raise RefusedError("walls", getattr(error, "errno", None) or errno.EINVAL) from error
    if path is not None:
        enter_directory(cwd, path)
    else:
        try:
            os.fchdir(cwd)
        except OSError as error:
            raise RefusedError("cwd", error.errno or errno.EINVAL) from error
    place(descriptors, spare, also)


def place(descriptors: Sequence[int], spare: int, also: int | None = None) -> None:
    """Renumber descriptors to 0, 1, 2 ..., and close all others except `spare` and `also`. Raises: RefusedError."""
    try:
        for target, fd in enumerate(descriptors):
            if fd == target:
                os.set_inheritable(fd, True)
            else:
                os.dup2(fd, target)
        first = len(descriptors)
        for kept in sorted({spare, spare if also is None else also}):
            syscalls.close_range(first, kept - 1)
            first = kept + 1
        syscalls.close_range(first)
    except OSError as error:
        raise RefusedError("walls", error.errno or errno.EINVAL) from error
    for number in DEFAULT_SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def enter_directory(opened: int, path: str) -> None:
    """Enter the directory at `path`, resolved in this process's root.

    Entering `opened` itself would allow `..` to lead outside.

    Raises: RefusedError if it is missing, or is not the same directory as `opened`.
    """
    try:
        os.chdir(path)
        wanted, found = os.fstat(opened), os.stat(".")
    except OSError as error:
        raise RefusedError("cwd", error.errno or errno.EINVAL) from error
    if (wanted.st_dev, wanted.st_ino) != (found.st_dev, found.st_ino):
        raise RefusedError("cwd", errno.ESTALE)


def join_view(user: int, mounts: int) -> None:
    """Enter the namespaces in which a workspace layer is mounted at the workspace's path. Raises: RefusedError."""
    try:
        if os.fstat(user).st_ino != os.stat("/proc/self/ns/user").st_ino:
            syscalls.setns(user, syscalls.CLONE_NEWUSER)
        syscalls.setns(mounts, syscalls.CLONE_NEWNS)
    except OSError as error:
        raise RefusedError("view", error.errno or errno.EINVAL) from error


def execute(argv: list[str], environment: dict[str, str], search: str) -> None:
    """Execute the program. A name without a slash is looked up in `search`, never in the current directory.

    Raises: RefusedError with the most informative errno (EACCES rather than ENOENT).
    """
    _first_that_runs(argv, search, lambda path: os.execve(path, argv, environment))  # noqa: S606 - deliberately without a shell


def spawn(
    argv: list[str],
    environment: dict[str, str],
    search: str,
    descriptors: Sequence[int],
    announce: Callable[[str], None] | None = None,
) -> int:
    """Start the program as a child in a new session, looked up as by `execute`. Returns its pid.

    It gets `descriptors` as 0, 1, 2, and no others if all of ours are close-on-exec. `announce` is called with each
    path before it is executed. Raises: RefusedError.
    """
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(descriptors)]

    def start(path: str) -> int:
        if announce is not None:
            announce(path)
        return os.posix_spawn(path, argv, environment, file_actions=actions, setsid=True, setsigdef=DEFAULT_SIGNALS)

    return _first_that_runs(argv, search, start)


def spawn_in_session(
    argv: list[str],
    environment: dict[str, str],
    search: str,
    *,
    mask: Sequence[int],
    announce: Callable[[str], None] | None = None,
) -> int:
    """Start the program as a child in this session and process group, so that it has the terminal. Returns its pid.

    It inherits 0, 1, 2, and blocks the signals in `mask`. `announce` as for `spawn`. Raises: RefusedError.
    """

    def start(path: str) -> int:
        if announce is not None:
            announce(path)
        return os.posix_spawn(path, argv, environment, setsigmask=mask, setsigdef=DEFAULT_SIGNALS)

    return _first_that_runs(argv, search, start)


def _first_that_runs(argv: list[str], search: str, run: Callable[[str], T]) -> T:
    name = argv[0]
    candidates = [name] if "/" in name else [f"{d}/{name}" for d in search.split(":") if d.startswith("/")]
    worst = errno.ENOENT
    for path in candidates:
        try:
            return run(path)
        except (
            ValueError
        ) as error:  # an empty name, a NUL, a variable name with `=`, or text that no file system can have
            raise RefusedError("exec", errno.EINVAL) from error
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                worst = error.errno or errno.EINVAL
                if worst != errno.EACCES:
                    break
    raise RefusedError("exec", worst)


def machine_tasks() -> int | None:
    """Returns the number of processes and threads of the whole machine, at the cost of one small read.

    None if /proc does not report it.
    """
    try:
        return int(syscalls.read_kernel_file("/proc/loadavg").split()[3].split(b"/")[1])
    except (OSError, ValueError, IndexError):
        return None


def prefer_for_oom() -> tuple[int, bytes]:
    """Make the kernel end this process and its children before the supervisor when the group's memory is used up.

    Returns how to reverse it: a descriptor, and what to write to it at offset 0. Raises: OSError.
    """
    fd = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
    before = os.read(fd, 16).strip()
    os.pwrite(fd, str(max(_OOM_PREFERENCE, int(before))).encode(), 0)
    return fd, before


def limit(limits: Limits, *, grouped: bool) -> None:
    """Set the limits that the kernel enforces per process. Raises: OSError, ValueError.

    A process in a control group (`grouped`) has no memory limit of its own, because the group limits the whole tree.
    """
    wanted = {
        resource.RLIMIT_FSIZE: (limits["file_bytes"], limits["file_bytes"]),
        # Programs raise the soft limit when necessary; a low one helps programs that loop over all descriptors.
        resource.RLIMIT_NOFILE: (min(1024, limits["open_files"]), limits["open_files"]),
        resource.RLIMIT_CORE: (0, 0),
    }
    if not grouped:
        wanted[resource.RLIMIT_DATA] = (limits["memory_bytes"], limits["memory_bytes"])
    tasks = machine_tasks()
    if tasks is not None:
        # The kernel counts all tasks of the user, not only of the tree. So this only stops a fork bomb that is faster
        # than the supervisor's count, and does not affect root, which the kernel exempts.
        bound = tasks + 16 * limits["processes"]
        wanted[resource.RLIMIT_NPROC] = (bound, bound)
    for what, pair in wanted.items():
        _, ceiling = resource.getrlimit(what)
        soft, hard = pair if ceiling == resource.RLIM_INFINITY else (min(pair[0], ceiling), min(pair[1], ceiling))
        resource.setrlimit(what, (soft, hard))
