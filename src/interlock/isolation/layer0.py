"""Layer L0: what every process gets, on every Linux, without any privilege. Standard library only.

The payload calls `enter` between fork and exec (or before the function of a module host runs): descriptors, session,
working directory, limits, no_new_privs, death signal. A step that fails is an error: nothing runs behind half a wall.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import signal
from collections.abc import Sequence

from interlock.isolation.wire import Limits

_libc = ctypes.CDLL(None, use_errno=True)

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_SYS_CLOSE_RANGE = 436  # the same number on every architecture
_LAST_DESCRIPTOR = 0xFFFFFFFF


class RefusedError(Exception):
    """A step between fork and exec failed; `step` names it."""

    def __init__(self, step: str, number: int) -> None:
        """`number` is an errno."""
        super().__init__(step, number)
        self.step = step
        self.number = number


def become_subreaper() -> None:
    """Orphaned descendants become children of this process, so that none can get away by forking twice."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def resume_on(socket: int) -> None:
    """Have the kernel send SIGCONT to this process when something arrives on `socket`, or when its other end closes.

    A program of the same user can stop a process of ours with SIGSTOP. Stopped, it could not read that it has to act.
    """
    fcntl.fcntl(socket, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(socket, fcntl.F_SETSIG, signal.SIGCONT)
    fcntl.fcntl(socket, fcntl.F_SETFL, fcntl.fcntl(socket, fcntl.F_GETFL) | os.O_ASYNC)


def enter(*, parent: int, cwd: int, descriptors: Sequence[int], spare: int, limits: Limits) -> None:
    """Raise the walls of L0 around this process, which was forked by `parent`.

    `descriptors` become 0, 1, 2 ...; everything else is closed but `spare`, which must be 10 or higher and closes on exec.
    Raises: RefusedError.
    """
    try:
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # the parent died before the death signal was set
        _limit(limits)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    except (OSError, ValueError) as error:
        raise RefusedError("walls", getattr(error, "errno", None) or errno.EINVAL) from error
    try:
        os.fchdir(cwd)
    except OSError as error:
        raise RefusedError("cwd", error.errno or errno.EINVAL) from error
    try:
        for target, fd in enumerate(descriptors):
            if fd == target:
                os.set_inheritable(fd, True)
            else:
                os.dup2(fd, target)
        _close(len(descriptors), spare - 1)
        _close(spare + 1, _LAST_DESCRIPTOR)
    except OSError as error:
        raise RefusedError("walls", error.errno or errno.EINVAL) from error
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # the two that Python ignores; ignoring survives exec
        signal.signal(number, signal.SIG_DFL)


def execute(argv: list[str], environment: dict[str, str], search: str) -> None:
    """Become the program. A name without a slash is looked for in `search`, never in the current directory.

    Raises: RefusedError, with the errno that says most (EACCES rather than ENOENT).
    """
    name = argv[0]
    candidates = [name] if "/" in name else [f"{d}/{name}" for d in search.split(":") if d.startswith("/")]
    worst = errno.ENOENT
    for path in candidates:
        try:
            os.execve(path, argv, environment)  # noqa: S606 - no shell is the point
        except ValueError as error:  # an empty name, a NUL, a variable's name with `=`, text that no file system has
            raise RefusedError("exec", errno.EINVAL) from error
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                worst = error.errno or errno.EINVAL
                if worst != errno.EACCES:
                    break
    raise RefusedError("exec", worst)


def machine_tasks() -> int | None:
    """How many processes and threads the whole machine has; None where /proc does not tell. Costs one small read."""
    try:
        with open("/proc/loadavg", "rb") as file:
            return int(file.read().split()[3].split(b"/")[1])
    except (OSError, ValueError, IndexError):
        return None


def _limit(limits: Limits) -> None:
    wanted = {
        resource.RLIMIT_DATA: (limits["memory_bytes"], limits["memory_bytes"]),
        resource.RLIMIT_FSIZE: (limits["file_bytes"], limits["file_bytes"]),
        # Programs raise the soft limit when they need more; a low soft limit keeps those alive that loop over all.
        resource.RLIMIT_NOFILE: (min(1024, limits["open_files"]), limits["open_files"]),
        resource.RLIMIT_CORE: (0, 0),
    }
    tasks = machine_tasks()
    if tasks is not None:
        # The kernel counts all tasks of the user, not of the tree. So this only stops a bomb that outruns the
        # supervisor's count; and not for root, whom the kernel exempts.
        bound = tasks + 16 * limits["processes"]
        wanted[resource.RLIMIT_NPROC] = (bound, bound)
    for what, pair in wanted.items():
        _, ceiling = resource.getrlimit(what)
        soft, hard = pair if ceiling == resource.RLIM_INFINITY else (min(pair[0], ceiling), min(pair[1], ceiling))
        resource.setrlimit(what, (soft, hard))


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _close(first: int, last: int) -> None:
    """Close a range of descriptors. os.closerange would try each number up to the limit where libc is old."""
    if first > last:
        return
    arguments = (ctypes.c_uint(first), ctypes.c_uint(last), ctypes.c_uint(0))
    if _libc.syscall(ctypes.c_long(_SYS_CLOSE_RANGE), *arguments) < 0:  # kernels before 5.9, and old seccomp profiles
        for name in os.listdir("/proc/self/fd"):
            if first <= int(name) <= last:
                try:
                    os.close(int(name))
                except OSError as error:
                    if error.errno != errno.EBADF:  # the descriptor of the listing itself
                        raise
