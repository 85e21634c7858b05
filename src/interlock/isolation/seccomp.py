"""Layer L1: the system calls that a walled process may make, as a table, and the BPF program generated from it.

The table denies; what it does not name is allowed, because programs need more calls than any list names, and the other
layers are effective without it. Uses only the standard library. `program` is pure and the same on every machine; `load`
activates it.

The program checks, in this order: the architecture (kills if foreign: `int 0x80` has other numbers); x32 and calls
newer than this table (ENOSYS); then the call's number, by binary search: the calls of `DENIED` (EPERM), those of
`MISSING` (ENOSYS, so that libc falls back to an older call that can be checked), and those whose arguments are checked.
"""

from __future__ import annotations

import errno
import functools
import struct
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from interlock.isolation import syscalls

DENIED: Final[dict[str, str]] = {
    "mounts": "mount umount2 pivot_root chroot fsopen fsconfig fsmount fspick move_mount open_tree open_tree_attr mount_setattr",
    "namespaces": "setns unshare",
    "other processes": "ptrace process_vm_readv process_vm_writev kcmp pidfd_getfd process_madvise process_mrelease",
    "kernel code": "bpf init_module finit_module delete_module kexec_load kexec_file_load perf_event_open",
    "wide attack surface": "io_uring_setup io_uring_enter io_uring_register userfaultfd lookup_dcookie nfsservctl modify_ldt "
    "uselib vmsplice",
    "keys of the user": "add_key request_key keyctl",
    "files by handle": "open_by_handle_at name_to_handle_at fanotify_init",
    "the machine": "swapon swapoff reboot acct quotactl quotactl_fd settimeofday clock_settime clock_adjtime adjtimex iopl "
    "ioperm syslog vhangup sethostname setdomainname ustat",
    "memory of other nodes": "move_pages migrate_pages mbind set_mempolicy set_mempolicy_home_node",
    "other security modules": "lsm_set_self_attr",
}
"""Calls refused with EPERM, by reason."""
MISSING: Final = ("clone3", "openat2", "memfd_secret")
"""Calls refused with ENOSYS, so that libraries use the older call.

The arguments of clone3 and openat2 (namespaces, set-id bits) are behind a pointer that no filter can read.
"""
ALONE: Final[dict[str, str]] = {
    "memory and messages of the user's other processes": "shmget shmat shmctl msgget msgsnd msgrcv msgctl semget semop semctl "
    "semtimedop mq_open mq_unlink",
    "attributes of the user's other files": "setxattr lsetxattr setxattrat removexattr lremovexattr removexattrat file_setattr",
}
"""Calls also refused with EPERM if a process has no namespaces, because Landlock does not cover them."""
_BY_DESCRIPTOR: Final = ("fsetxattr", "fremovexattr")
"""The same calls by a descriptor, which may be open only for reading.

Refused with ENOTSUP, as on a file system without attributes: programs that copy files accept that.
"""
_LEASES: Final = (1024, 1040)
"""F_SETLEASE and F_SETDELEG of fcntl.

With a lease on a file that it can only read, a program could delay everyone who opens the file for the machine's
`fs.lease-break-time`, repeatedly.
"""
_FILE_SYSTEMS: Final = (0x6600, 0x5800, 0x7600, 0x9400)
"""The kinds of ioctl (its second byte) that file systems answer: `f`, `X`, `v` and that of btrfs.

They work on a descriptor that is open only for reading, and change flags and projects, make a file immutable, or create
subvolumes.
"""
_HARMLESS: Final = (
    0x80086601, 0x80046601, 0x801C581F, 0x80087601, 0xC020660B,
    0xC0046686, 0xC0096616, 0x40049409, 0x4020940D, 0xC0189436,
)  # fmt: skip
"""The allowed calls among these: queries (flags, version, extents, verity, encryption), and clones into a writable file."""
_SELF_ONLY: Final = {
    "sched_setaffinity": 0,
    "sched_setscheduler": 0,
    "sched_setparam": 0,
    "sched_setattr": 0,
    "setpriority": 1,
    "ioprio_set": 1,
}
"""Also without namespaces: the argument that names another process. Only 0, the caller itself, is allowed."""
_OF_A_USER: Final = {"setpriority": 2, "ioprio_set": 3}
"""The first argument that makes these calls affect all processes of a user."""
_SET_ID: Final = 0o6000
_MODES: Final = {"chmod": 1, "fchmod": 1, "fchmodat": 2, "fchmodat2": 2, "creat": 1, "mknod": 1, "mknodat": 2}
"""The mode argument of each call.

A program could otherwise leave its user's rights in the workspace to everyone who runs the file.
"""
_OPEN_FLAGS: Final = {"open": 1, "openat": 2}
_CREATES: Final = 0o20000100
"""O_CREAT and O_TMPFILE: only these take a mode, the argument after the flags."""

Sockets = Literal["pairs", "tcp", "inet", "all"]
FAMILIES: Final[dict[str, tuple[int, ...]]] = {
    "pairs": (),
    "tcp": (2, 10, 16),
    "inet": (2, 10, 16),
    "all": (1, 2, 10, 16),
}
"""Address families that `socket` may use: AF_UNIX, AF_INET, AF_INET6 and AF_NETLINK.

AF_UNIX is allowed only with a private root, because nothing else keeps a process from the host's sockets (such as
docker's). AF_VSOCK, AF_ALG, AF_PACKET and others are never allowed, because a network namespace does not confine them.
"""
_TYPES: Final = {"tcp": (1,), "inet": (1, 2), "all": (1, 2)}
"""SOCK_STREAM and SOCK_DGRAM of AF_INET and AF_INET6. AF_UNIX may use SOCK_SEQPACKET too."""
_PROTOCOLS: Final = {"tcp": (0, 6), "inet": (0, 1, 6, 17, 58), "all": (0, 1, 6, 17, 58)}
"""Any, ICMP, TCP, UDP, ICMPv6; not MPTCP (262), SCTP and other code that hardly any program needs."""
_FAST_OPEN: Final = 0x20000000
"""MSG_FASTOPEN connects by sending, which Landlock's rule for ports does not cover. The socket options do the same."""
_FAST_OPEN_FLAGS: Final = {"sendto": 3, "sendmsg": 2, "sendmmsg": 3}
"""The flags argument of each call."""
_FAST_OPEN_OPTIONS: Final = (23, 30)
"""TCP_FASTOPEN and TCP_FASTOPEN_CONNECT."""

_NAMESPACES: Final = 0x7E020000
"""All CLONE_NEW* flags that clone accepts."""
_TERMINAL: Final = (0x5412, 0x541C, 0x5423)
"""TIOCSTI and TIOCLINUX: typing into another user's terminal. TIOCSETD: line disciplines, which hardly any program needs."""
_ADDR_NO_RANDOMIZE_OK: Final = (0x0, 0x0008, 0x20000, 0x20008, 0xFFFFFFFF)
"""What `personality` may set: nothing, no address randomisation, or the 2.6 uname; or it may only query."""

_O_TRUNC, _O_ACCMODE = 0x200, 0x3
_CUTS_FROM: Final = 3
_LEAF: Final = 4
"""Maximum number of calls that are compared linearly."""

_AUDIT: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_LOAD, _EQUAL, _GREATER, _SET, _RETURN, _AND, _JUMP = 0x20, 0x15, 0x35, 0x45, 0x06, 0x54, 0x05
_KILL, _ERRNO, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16


class Instruction(NamedTuple):
    """One BPF instruction: code, jump if true, jump if false, operand."""

    code: int
    true: int
    false: int
    operand: int


def program(sockets: Sockets, machine: str = syscalls.MACHINE, *, truncation: bool = True) -> list[Instruction]:
    """Returns the filter for one of `syscalls.MACHINES`.

    Without `truncation`, files can be truncated only through writable descriptors.
    """
    alone = "" if sockets == "all" else " ".join(ALONE.values())
    checks = {
        "clone": _clone(),
        "ioctl": _terminal(),
        "personality": _personality(),
        "socket": _socket(sockets),
        "socketpair": _family((1,)),
        "prlimit64": _only_self("prlimit64", 0),  # pid 1 is a supervisor
        "fcntl": [_argument(1), *_none_of(_LEASES, errno.EPERM)],
    }
    if sockets == "tcp":
        checks |= {name: _no_flag(index, _FAST_OPEN) for name, index in _FAST_OPEN_FLAGS.items()}
        checks["setsockopt"] = _no_fast_open()
    checks |= {name: _no_set_id(index) for name, index in _MODES.items()}
    for name, index in _OPEN_FLAGS.items():
        checks[name] = [*([] if truncation else _no_cut(index)), *_no_set_id_created(index)]
    if sockets != "all":
        checks |= {name: _only_self(name, index) for name, index in _SELF_ONLY.items()}
        checks |= {name: [_answer(_ERRNO | errno.ENOTSUP)] for name in _BY_DESCRIPTOR}
        checks["ioctl"] += _no_file_system()
    if not truncation:
        checks["truncate"] = [_answer(_ERRNO | errno.EACCES)]
    return _filter([*" ".join(DENIED.values()).split(), *alone.split()], MISSING, checks, machine)


class Rule(NamedTuple):
    """A line of the filter for people: which call is refused, when, with which error, and why."""

    call: str
    condition: str
    """Empty if the rule applies to any arguments."""
    answer: str
    """The name of an errno."""
    reason: str


def rules() -> list[Rule]:
    """Returns the filter as a table, which the tests compare with `program`. Calls that it does not name are allowed."""
    found = [Rule(call, "", "EPERM", reason) for reason, calls in DENIED.items() for call in calls.split()]
    found += [Rule(call, "", "ENOSYS", "the arguments are behind a pointer, or it hides memory") for call in MISSING]
    found.append(Rule("clone", "with a flag for namespaces", "EPERM", "namespaces"))
    found.append(Rule("ioctl", "TIOCSTI, TIOCLINUX, TIOCSETD", "EPERM", "terminals"))
    found.append(Rule("fcntl", "F_SETLEASE, F_SETDELEG", "EPERM", "files that others cannot open"))
    found.append(Rule("personality", "except the randomisation of addresses", "EPERM", "data that can be executed"))
    found.append(Rule("socket", "by family, type and protocol", "EAFNOSUPPORT", "networks that no namespace confines"))
    found.append(Rule("socketpair", "except AF_UNIX", "EAFNOSUPPORT", "networks that no namespace confines"))
    found.append(Rule("prlimit64", "of another process", "EPERM", "other processes"))
    found += [Rule(call, "with a set-id bit", "EPERM", "rights left behind") for call in (*_MODES, *_OPEN_FLAGS)]
    alone = "without namespaces"
    found += [Rule(call, alone, "EPERM", reason) for reason, calls in ALONE.items() for call in calls.split()]
    found += [Rule(call, alone, "ENOTSUP", "attributes of the user's other files") for call in _BY_DESCRIPTOR]
    found.append(
        Rule("ioctl", f"{alone}, what changes a file by its file system", "ENOTTY", "files that are only read")
    )
    found += [Rule(call, f"{alone}, of another process", "EPERM", "other processes") for call in _SELF_ONLY]
    fast = f"{alone}, where git connects: with TCP fast open"
    found += [Rule(call, fast, "EOPNOTSUPP", "ports that Landlock does not see") for call in _FAST_OPEN_FLAGS]
    return [*found, Rule("setsockopt", fast, "ENOPROTOOPT", "ports that Landlock does not see")]


def container_program(machine: str = syscalls.MACHINE) -> list[Instruction]:
    """Returns an imitation of Docker's default profile for a container without capabilities.

    The profile `nons` must work in such a container.

    It refuses namespaces and mounts, and allows tracing, Landlock and nested filters.
    """
    left = (
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "chroot",
        "name_to_handle_at",
        "vmsplice",
        "process_mrelease",
    )
    denied = [name for name in " ".join(DENIED.values()).split() if name not in left]
    return _filter(denied, ("clone3", "memfd_secret"), {"clone": _clone()}, machine)


def assemble(instructions: list[Instruction]) -> bytes:
    """Encode the program for the kernel."""
    return b"".join(struct.pack("<HBBI", *one) for one in instructions)


def load(sockets: Sockets) -> None:
    """Activate the filter for this thread and everything that it starts, including no_new_privs. Raises: OSError."""
    syscalls.forbid_new_privileges()
    syscalls.load_filter(assembled(sockets))


@functools.cache
def assembled(sockets: Sockets) -> bytes:
    """Returns the encoded program for this machine. A fork server generates it before forking, so that its children inherit it.

    Landlock covers truncation from ABI 3 on (Linux 6.2). On older kernels, where it is the only wall around files, the
    filter does.
    """
    return assemble(program(sockets, truncation=sockets == "all" or syscalls.landlock_version() >= _CUTS_FROM))


def _filter(
    denied: Sequence[str], missing: Sequence[str], checks: dict[str, list[Instruction]], machine: str
) -> list[Instruction]:
    """Check the architecture, x32 and newer calls, then each call; `checks` fall through if a call is allowed."""
    numbers = syscalls.numbers(machine)
    code = [_load(_ARCH_AT), Instruction(_EQUAL, 1, 0, _AUDIT[machine]), _answer(_KILL), _load(_NUMBER_AT)]
    if machine == "x86_64":
        code += [Instruction(_GREATER, 0, 1, 0x40000000), _answer(_ERRNO | errno.ENOSYS)]
    code += [Instruction(_GREATER, 0, 1, syscalls.LAST + 1), _answer(_ERRNO | errno.ENOSYS)]
    bodies = {name: [*body, _answer(_ALLOW)] for name, body in checks.items()}
    bodies |= {name: [_answer(_ERRNO | errno.ENOSYS)] for name in missing}
    bodies |= {name: [_answer(_ERRNO | errno.EPERM)] for name in denied}
    return code + _search(sorted((numbers[name], body) for name, body in bodies.items() if name in numbers))


def _search(bodies: Sequence[tuple[int, list[Instruction]]]) -> list[Instruction]:
    """Find the code for a call by binary search, because the kernel runs the filter for every call number when it is loaded."""
    if len(bodies) <= _LEAF:
        found = [part for number, body in bodies for part in (Instruction(_EQUAL, 0, len(body), number), *body)]
        return [*found, _answer(_ALLOW)]
    middle = len(bodies) // 2
    low, high = _search(bodies[:middle]), _search(bodies[middle:])
    return [Instruction(_GREATER, 0, 1, bodies[middle][0]), Instruction(_JUMP, 0, 0, len(low)), *low, *high]


def _load(offset: int) -> Instruction:
    return Instruction(_LOAD, 0, 0, offset)


def _argument(index: int) -> Instruction:
    """Load the lower half of an argument: the kernel takes these arguments as 32-bit integers."""
    return _load(_ARGUMENTS_AT + 8 * index)


def _answer(value: int) -> Instruction:
    return Instruction(_RETURN, 0, 0, value)


def _one_of(values: tuple[int, ...], refusal: int) -> list[Instruction]:
    """Fall through if the loaded value is in `values`, else refuse."""
    tests = [Instruction(_EQUAL, len(values) - index, 0, value) for index, value in enumerate(values)]
    return [*tests, _answer(_ERRNO | refusal)]


def _clone() -> list[Instruction]:
    return [_argument(0), Instruction(_SET, 0, 1, _NAMESPACES), _answer(_ERRNO | errno.EPERM)]


def _none_of(values: tuple[int, ...], refusal: int) -> list[Instruction]:
    """Fall through if the loaded value is not in `values`, else refuse."""
    return [part for value in values for part in (Instruction(_EQUAL, 0, 1, value), _answer(_ERRNO | refusal))]


def _terminal() -> list[Instruction]:
    return [_argument(1), *_none_of(_TERMINAL, errno.EPERM)]


def _no_file_system() -> list[Instruction]:
    """Refuse the ioctls of file systems, but those that are harmless; fall through for all others."""
    tests = [Instruction(_EQUAL, len(_FILE_SYSTEMS) - index, 0, kind) for index, kind in enumerate(_FILE_SYSTEMS)]
    known = [_argument(1), *_one_of(_HARMLESS, errno.ENOTTY)]
    return [_argument(1), Instruction(_AND, 0, 0, 0xFF00), *tests, Instruction(_JUMP, 0, 0, len(known)), *known]


def _personality() -> list[Instruction]:
    return [_argument(0), *_one_of(_ADDR_NO_RANDOMIZE_OK, errno.EPERM)]


def _no_set_id(index: int) -> list[Instruction]:
    return [_argument(index), Instruction(_SET, 0, 1, _SET_ID), _answer(_ERRNO | errno.EPERM)]


def _no_set_id_created(flags: int) -> list[Instruction]:
    """Check the mode only if the call may create a file; otherwise the argument is whatever was in the register."""
    mode = _no_set_id(flags + 1)
    return [_argument(flags), Instruction(_SET, 0, len(mode), _CREATES), *mode]


def _only_self(name: str, index: int) -> list[Instruction]:
    code = [_argument(index), Instruction(_EQUAL, 1, 0, 0), _answer(_ERRNO | errno.EPERM)]
    if name in _OF_A_USER:
        code += [_argument(0), Instruction(_EQUAL, 0, 1, _OF_A_USER[name]), _answer(_ERRNO | errno.EPERM)]
    return code


def _family(families: tuple[int, ...]) -> list[Instruction]:
    return [_argument(0), *_one_of(families, errno.EAFNOSUPPORT)]


def _no_flag(index: int, flag: int) -> list[Instruction]:
    return [_argument(index), Instruction(_SET, 0, 1, flag), _answer(_ERRNO | errno.EOPNOTSUPP)]


def _no_cut(index: int) -> list[Instruction]:
    """Refuse O_TRUNC unless a file is opened for writing: with O_RDONLY, or with access mode 3, which is neither."""
    return [
        _argument(index),
        Instruction(_AND, 0, 0, _O_TRUNC | _O_ACCMODE),
        Instruction(_EQUAL, 1, 0, _O_TRUNC),
        Instruction(_EQUAL, 0, 1, _O_TRUNC | _O_ACCMODE),
        _answer(_ERRNO | errno.EACCES),
    ]


def _no_fast_open() -> list[Instruction]:
    """Refuse the two options at level IPPROTO_TCP; fall through for all others."""
    options = [_argument(2)]
    for option in _FAST_OPEN_OPTIONS:
        options += [Instruction(_EQUAL, 0, 1, option), _answer(_ERRNO | errno.ENOPROTOOPT)]
    return [_argument(1), Instruction(_EQUAL, 0, len(options), 6), *options]


def _socket(sockets: Sockets) -> list[Instruction]:
    families = FAMILIES[sockets]
    code = _family(families)
    if not families:
        return code
    # Netlink: only NETLINK_ROUTE, with which `ip`, Go and Node read addresses.
    netlink = [_argument(2), *_one_of((0,), errno.EPROTONOSUPPORT), _answer(_ALLOW)]
    code += [_argument(0), Instruction(_EQUAL, 0, len(netlink), 16), *netlink]
    code += [_argument(0), Instruction(_EQUAL, 0, 1, 1), _answer(_ALLOW)]
    code += [_argument(1), Instruction(_AND, 0, 0, 0xF), *_one_of(_TYPES[sockets], errno.ESOCKTNOSUPPORT)]
    return [*code, _argument(2), *_one_of(_PROTOCOLS[sockets], errno.EPROTONOSUPPORT)]
