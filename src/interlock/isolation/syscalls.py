"""The system calls used to build walls, through ctypes: numbers for x86-64 and aarch64, and one typed wrapper each.

Uses only the standard library. Every wrapper raises OSError with the kernel's errno. Constants have the kernel's own
names; structures are packed only here.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import functools
import os
import signal
import socket
import stat
import struct
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [ctypes.c_long, *[ctypes.c_void_p] * 6]
"""Each argument fills a register, whether it is a number or an address."""

MACHINES: Final = ("x86_64", "aarch64")
"""The architectures covered by the tables below, in the order of their columns."""

_NUMBERS: Final = """
accept 43 202|accept4 288 242|acct 163 89|add_key 248 217|adjtimex 159 171|bind 49 200|bpf 321 280|capset 126 91
chroot 161 51|clock_adjtime 305 266|clock_settime 227 112|clone 56 220|clone3 435 435|close_range 436 436|connect 42 203
delete_module 176 106|execve 59 221|execveat 322 281|exit_group 231 94|fanotify_init 300 262|fcntl 72 25
finit_module 313 273|fremovexattr 199 16|fsetxattr 190 7
fsconfig 431 431|fsmount 432 432|fsopen 430 430|fspick 433 433|init_module 175 105|io_uring_enter 426 426
io_uring_register 427 427|io_uring_setup 425 425|ioctl 16 29|ioperm 173 -|iopl 172 -|kcmp 312 272|kexec_file_load 320 294
kexec_load 246 104|keyctl 250 219|landlock_add_rule 445 445|landlock_create_ruleset 444 444|landlock_restrict_self 446 446
listmount 458 458|listen 50 201|lookup_dcookie 212 18|lsm_set_self_attr 460 460|mbind 237 235|memfd_create 319 279
memfd_secret 447 447|migrate_pages 256 238|mknod 133 -|mknodat 259 33|modify_ldt 154 -|mount 165 40|mount_setattr 442 442
move_mount 429 429|move_pages 279 239|name_to_handle_at 303 264|nfsservctl 180 42|open_by_handle_at 304 265|open_tree 428 428
open_tree_attr 467 467|openat 257 56|openat2 437 437|perf_event_open 298 241|personality 135 92|pidfd_getfd 438 438
pidfd_open 434 434|pidfd_send_signal 424 424|pivot_root 155 41|prctl 157 167|process_madvise 440 440|process_mrelease 448 448
process_vm_readv 310 270|process_vm_writev 311 271|ptrace 101 117|quotactl 179 60|quotactl_fd 443 443|read 0 63|reboot 169 142
request_key 249 218|seccomp 317 277|sendmmsg 307 269|sendmsg 46 211|sendto 44 206|set_mempolicy 238 237
set_mempolicy_home_node 450 450|setdomainname 171 162|sethostname 170 161|setns 308 268|settimeofday 164 170|socket 41 198
setsockopt 54 208|socketpair 53 199|statmount 457 457|stime - -|swapoff 168 225|swapon 167 224|syslog 103 116
truncate 76 45|umount2 166 39
unshare 272 97|uselib 134 -|userfaultfd 323 282|ustat 136 -|vhangup 153 58|vmsplice 278 75|write 1 64
chmod 90 -|fchmod 91 52|fchmodat 268 53|fchmodat2 452 452|open 2 -|creat 85 -|shmget 29 194|shmat 30 196|shmctl 31 195
msgget 68 186|msgsnd 69 189|msgrcv 70 188|msgctl 71 187|semget 64 190|semop 65 193|semctl 66 191|semtimedop 220 192
mq_open 240 180|mq_unlink 241 181|setxattr 188 5|lsetxattr 189 6|removexattr 197 14|lremovexattr 198 15|setxattrat 463 463
rename 82 -|renameat 264 38|renameat2 316 276|mkdir 83 -|mkdirat 258 34|rmdir 84 -|link 86 -|linkat 265 37|symlink 88 -
symlinkat 266 36|unlink 87 -|unlinkat 263 35|openat2 437 437|chown 92 -|lchown 94 -|fchownat 260 54
removexattrat 466 466|file_setattr 469 469|prlimit64 302 261|sched_setaffinity 203 122|sched_setscheduler 144 119
sched_setparam 142 118|sched_setattr 314 274|setpriority 141 140|ioprio_set 251 30
"""


LAST: Final = 470
"""The last call number that was reviewed (Linux 6.18); later kernels may add anything."""


def numbers(machine: str) -> dict[str, int]:
    """Maps names to system call numbers for one of `MACHINES`, without calls that the architecture does not have."""
    column = 1 + MACHINES.index(machine)
    rows = (row.split() for row in _NUMBERS.replace("\n", "|").split("|") if row.strip())
    return {row[0]: int(row[column]) for row in rows if row[column] != "-"}


MACHINE: Final = os.uname().machine
SUPPORTED: Final = MACHINE in MACHINES
NUMBER: Final[dict[str, int]] = numbers(MACHINE) if SUPPORTED else {}

CLONE_NEWNS: Final = 0x20000
CLONE_NEWUTS: Final = 0x4000000
CLONE_NEWIPC: Final = 0x8000000
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWNET: Final = 0x40000000

MS_RDONLY: Final = 1
MS_NOSUID: Final = 2
MS_NODEV: Final = 4
MS_NOEXEC: Final = 8
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
MS_REC: Final = 16384
MS_PRIVATE: Final = 1 << 18
MS_SLAVE: Final = 1 << 19
MNT_DETACH: Final = 2

MOUNT_ATTR_RDONLY: Final = 1
MOUNT_ATTR_NOSUID: Final = 2
MOUNT_ATTR_NODEV: Final = 4
MOUNT_ATTR_NOEXEC: Final = 8

RESOLVE_NO_XDEV: Final = 1
RESOLVE_NO_MAGICLINKS: Final = 2
RESOLVE_NO_SYMLINKS: Final = 4
RESOLVE_BENEATH: Final = 8
RESOLVE_IN_ROOT: Final = 16

SECCOMP_FILTER_FLAG_NEW_LISTENER: Final = 8
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: Final = 32

_CLONE_INTO_CGROUP: Final = 1 << 33
_AT_FDCWD: Final = -100
_AT_EMPTY_PATH: Final = 0x1000
_AT_RECURSIVE: Final = 0x8000
_OPEN_TREE_CLONE: Final = 1
_MOVE_MOUNT_F_EMPTY_PATH: Final = 4
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_DROP: Final = 24
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_CAP_LAST_MAX: Final = 63
_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP_RUNNING: Final = 0x41
_UNUSED: Final = (0,) * 6
_LAST_DESCRIPTOR: Final = 0xFFFFFFFF
_CLOSE_RANGE_CLOEXEC: Final = 4


def call(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Make a system call by name. Integers are passed as long, bytes by address with a terminating NUL. Raises: OSError.

    Data that the kernel only reads is passed as bytes, because every length of a ctypes array is a class, which each
    supervisor would have to create.
    """
    number = NUMBER.get(name)
    if number is None:
        raise OSError(errno.ENOSYS, f"{name} has no number on {MACHINE}")
    result: int = _syscall(number, *arguments, *_UNUSED[len(arguments) :])
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
    return result


def clone(namespaces: int) -> int:
    """Fork into new namespaces; returns 0 in the child. Only for a single-threaded process that will do little afterwards.

    Neither libc's nor Python's fork hooks are run.
    """
    return call("clone", namespaces | signal.SIGCHLD)


def clone_into(namespaces: int, group: int) -> int:
    """Like `clone`, with the child in the control group of a directory descriptor from the start (Linux 5.7)."""
    record = struct.pack("<11Q", namespaces | _CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, group)
    return call("clone3", record, len(record))


def unshare(namespaces: int) -> None:
    """Move this process into new namespaces (a pid namespace applies to its children)."""
    call("unshare", namespaces)


def setns(fd: int, namespace: int = 0) -> None:
    """Join the namespace of a descriptor."""
    call("setns", fd, namespace)


def map_ids(uid: int, gid: int) -> None:
    """Map one user and one group to themselves in the user namespace that this process has just created."""
    for path, text in (
        ("/proc/self/setgroups", "deny"),
        ("/proc/self/uid_map", f"{uid} {uid} 1"),
        ("/proc/self/gid_map", f"{gid} {gid} 1"),
    ):
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)


def mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """Mount a file system, or (MS_BIND) a path at another path."""
    call("mount", _text(source), os.fsencode(target), _text(kind), flags, _text(data))


def umount(target: str, flags: int = MNT_DETACH) -> None:
    """Detach a mount."""
    call("umount2", os.fsencode(target), flags)


def pivot_root(new: str, old: str) -> None:
    """Make `new` the root of this mount namespace, with the old root mounted at `old`."""
    call("pivot_root", os.fsencode(new), os.fsencode(old))


def set_mount(target: str, attributes: int, *, clear: int = 0, recursive: bool = True) -> None:
    """Add or clear `MOUNT_ATTR_*` on the mount at a path, and on those beneath it if `recursive`."""
    record = struct.pack("<QQQQ", attributes, clear, 0, 0)
    call("mount_setattr", _AT_FDCWD, os.fsencode(target), _AT_RECURSIVE if recursive else 0, record, len(record))


def attach_tree(directory: int, target: str) -> None:
    """Mount a copy of the mount behind a descriptor (a layer that another process created) at a path of this mount namespace.

    Raises: OSError EINVAL on kernels that cannot copy mounts of another namespace (before 6.15); there the descriptor
    must be a detached mount that is not attached yet, and is moved.
    """
    try:
        tree = call("open_tree", directory, b"", _OPEN_TREE_CLONE | _AT_EMPTY_PATH | _AT_RECURSIVE | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        tree = os.dup(directory)
    try:
        call("move_mount", tree, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(tree)


def open_beneath(directory: int, path: str, flags: int) -> int:
    """Open a path beneath a directory, without following symbolic links.

    Raises: OSError EXDEV or ELOOP for a path that leads elsewhere.

    With O_PATH and O_NOFOLLOW the last name may be a link itself.
    """
    try:
        return _open_beneath(directory, path, flags)
    except OSError as error:
        if error.errno != errno.ENOSYS:  # a filter around us, such as the one that Interlock puts around others
            raise
    names = [name for name in path.split("/") if name not in ("", ".")]
    here = os.open(".", os.O_PATH | os.O_CLOEXEC, dir_fd=directory)
    for number, name in enumerate(names):
        last = number == len(names) - 1
        try:
            if name == "..":
                raise OSError(errno.EXDEV, "a path that leads upwards", path)
            inner = os.open(name, os.O_NOFOLLOW | os.O_CLOEXEC | (flags if last else os.O_PATH), dir_fd=here)
        finally:
            os.close(here)
        if stat.S_ISLNK(os.fstat(inner).st_mode) and not (last and flags & os.O_NOFOLLOW):
            os.close(inner)
            raise OSError(errno.ELOOP, "a symbolic link", path)
        here = inner
    return here


def _open_beneath(directory: int, path: str, flags: int) -> int:
    how = struct.pack("<QQQ", flags | os.O_CLOEXEC, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)
    return call("openat2", directory, os.fsencode(path or "."), how, len(how))


def raise_loopback() -> None:
    """Bring up `lo` in a new network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
        fcntl.ioctl(link, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP_RUNNING))


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process."""
    call("prctl", option, value, 0, 0, 0)


def die_with_parent() -> None:
    """Make the kernel send SIGKILL to this process when the thread that forked it ends."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def set_dumpable(*, dumpable: bool) -> None:
    """Set whether processes of the same user may trace this one and open its files in /proc."""
    prctl(_PR_SET_DUMPABLE, int(dumpable))


def become_subreaper() -> None:
    """Make orphaned descendants become children of this process."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def forbid_new_privileges() -> None:
    """Keep programs that this process executes from gaining privileges through set-id bits or file capabilities."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def drop_bounding_set() -> None:
    """Give up the ability to gain any capability by executing a program. The process keeps its present capabilities."""
    for number in range(_CAP_LAST_MAX + 1):
        try:
            prctl(_PR_CAPBSET_DROP, number)
        except OSError as error:
            if error.errno == errno.EPERM:  # an ordinary user has none to lose
                break
            if error.errno == errno.EINVAL:  # beyond the last capability that this kernel knows
                break
            raise


def drop_capabilities() -> None:
    """Give up every capability. Raises: OSError."""
    try:
        call("prctl", _PR_CAP_AMBIENT, 4, 0, 0, 0)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    call("capset", struct.pack("<Ii", 0x20080522, 0), bytes(24))


def close_range(first: int, last: int = _LAST_DESCRIPTOR) -> None:
    """Close a range of descriptors. With an old libc, os.closerange would try each number up to the limit."""
    if first > last:
        return
    try:
        call("close_range", first, last, 0)
    except OSError:  # kernels before 5.9, and old seccomp profiles
        for name in os.listdir("/proc/self/fd"):
            if first <= int(name) <= last:
                try:
                    os.close(int(name))
                except OSError as error:
                    if error.errno != errno.EBADF:  # the descriptor of the listing itself
                        raise


def close_on_exec(first: int) -> None:
    """Mark all descriptors from this number on as close-on-exec."""
    try:
        call("close_range", first, _LAST_DESCRIPTOR, _CLOSE_RANGE_CLOEXEC)
    except OSError:  # kernels before 5.11
        for name in os.listdir("/proc/self/fd"):
            if int(name) >= first:
                try:
                    os.set_inheritable(int(name), False)
                except OSError as error:
                    if error.errno != errno.EBADF:
                        raise


def load_filter(program: bytes, flags: int = 0) -> int:
    """Install a seccomp filter on this thread (needs `forbid_new_privileges`). Returns the listener if the flags request one."""
    code = ctypes.c_char_p(program)
    record = struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.c_void_p.from_buffer(code).value)
    return call("seccomp", 1, flags, record)


@functools.cache
def landlock_version() -> int:
    """Returns the Landlock ABI version of this kernel; 0 if there is none."""
    try:
        return call("landlock_create_ruleset", None, 0, 1)
    except OSError:
        return 0


def landlock_ruleset(files: int, network: int, scoped: int, version: int) -> int:
    """Create a ruleset that handles these rights, and return its descriptor."""
    record = struct.pack("<QQQ", files, network, scoped)[: 8 if version < 4 else 16 if version < 6 else 24]
    return call("landlock_create_ruleset", record, len(record), 0)


def landlock_allow(ruleset: int, directory: int, rights: int) -> None:
    """Allow rights beneath an open path."""
    record = struct.pack("<Qi", rights, directory)
    call("landlock_add_rule", ruleset, 1, record, 0)


def landlock_allow_port(ruleset: int, port: int, rights: int) -> None:
    """Allow rights on a TCP port."""
    record = struct.pack("<QQ", rights, port)
    call("landlock_add_rule", ruleset, 2, record, 0)


def landlock_restrict(ruleset: int) -> None:
    """Apply a ruleset to this thread and everything that it starts."""
    call("landlock_restrict_self", ruleset, 0)


def read_kernel_file(path: str) -> bytes:
    """Read a file of /proc, up to 64 KiB, with three system calls. Raises: OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, 65536)
    finally:
        os.close(fd)


def open_path(path: str) -> int | None:
    """Open an O_PATH descriptor. Returns None if nothing is at the path, or it cannot be reached."""
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None


def _text(value: str | None) -> bytes | None:
    return None if value is None else os.fsencode(value)
