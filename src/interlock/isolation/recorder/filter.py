"""The filter that makes the kernel notify the recorder before a system call. Uses only the standard library.

It is added to the filter of the walls, whose refusals take precedence: what they refuse is not recorded. It must also be
effective without walls (profile `none`), so it refuses what would bypass it: calls of another architecture, and io_uring.
"""

from __future__ import annotations

import errno
import functools
from typing import Final

from interlock.isolation import syscalls
from interlock.isolation.seccomp import Instruction, assemble

CALLS: Final = (
    "open",
    "openat",
    "openat2",
    "creat",
    "execve",
    "execveat",
    "connect",
    "bind",
    "sendto",
    "sendmsg",
    "sendmmsg",
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
    "mkdir",
    "mkdirat",
    "mknod",
    "mknodat",
    "chmod",
    "fchmodat",
    "fchmodat2",
    "chown",
    "lchown",
    "fchownat",
    "truncate",
    "setxattr",
    "lsetxattr",
    "removexattr",
    "lremovexattr",
    "memfd_create",
    "open_by_handle_at",
    "chroot",
    "pivot_root",
    "mount",
    "move_mount",
    "setns",
)
"""The recorded calls, if the architecture has them. `sendto` only with an address."""
_PAST: Final = ("io_uring_setup", "io_uring_enter", "io_uring_register")
_PR_SET_DUMPABLE: Final = 4
_ADDRESS_OF_SENDTO: Final = 4

_AUDIT: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LOAD, _EQUAL, _GREATER, _RETURN = 0x20, 0x15, 0x35, 0x06
_KILL, _ERRNO, _NOTIFY, _ALLOW = 0x80000000, 0x00050000, 0x7FC00000, 0x7FFF0000
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16


def program(machine: str = syscalls.MACHINE) -> list[Instruction]:
    """Returns the filter for one of `syscalls.MACHINES`."""
    numbers = syscalls.numbers(machine)
    answer = functools.partial(Instruction, _RETURN, 0, 0)
    code = [_load(_ARCH_AT), Instruction(_EQUAL, 1, 0, _AUDIT[machine]), answer(_KILL), _load(_NUMBER_AT)]
    if machine == "x86_64":
        code += [Instruction(_GREATER, 0, 1, 0x40000000), answer(_ERRNO | errno.ENOSYS)]
    for name in _PAST:
        code += [Instruction(_EQUAL, 0, 1, numbers[name]), answer(_ERRNO | errno.EPERM)]
    for name in CALLS:
        if name in numbers and name != "sendto":
            code += [Instruction(_EQUAL, 0, 1, numbers[name]), answer(_NOTIFY)]
    low = _ARGUMENTS_AT + 8 * _ADDRESS_OF_SENDTO
    address = [
        *(_load(low), Instruction(_EQUAL, 0, 2, 0), _load(low + 4), Instruction(_EQUAL, 1, 0, 0)),
        *(answer(_NOTIFY), answer(_ALLOW)),
    ]
    code += [Instruction(_EQUAL, 0, len(address), numbers["sendto"]), *address]
    # A process that others cannot read could not be recorded, so the call that makes it so is ignored but reports success.
    dumpable = [
        *(_load(_ARGUMENTS_AT), Instruction(_EQUAL, 0, 3, _PR_SET_DUMPABLE)),
        *(_load(_ARGUMENTS_AT + 8), Instruction(_EQUAL, 1, 0, 1), answer(_ERRNO), answer(_ALLOW)),
    ]
    code += [Instruction(_EQUAL, 0, len(dumpable), numbers["prctl"]), *dumpable]
    return [*code, answer(_ALLOW)]


def _load(offset: int) -> Instruction:
    return Instruction(_LOAD, 0, 0, offset)


@functools.cache
def assembled() -> bytes:
    """Returns the encoded program for this machine."""
    return assemble(program())


def listen() -> int:
    """Activate the filter for this thread and everything that it starts. Returns the notification descriptor.

    From then on, this thread's own calls wait for the recorder. Raises: OSError.
    """
    flags = syscalls.SECCOMP_FILTER_FLAG_NEW_LISTENER
    try:
        return syscalls.load_filter(assembled(), flags | syscalls.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return syscalls.load_filter(assembled(), flags)  # before Linux 5.19, a signal may repeat a record
