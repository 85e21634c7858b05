"""The filter, run instruction by instruction as the kernel does, for both architectures."""

from __future__ import annotations

import errno
import struct

import pytest

from interlock.isolation import seccomp, syscalls

AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL = "allow", "kill"


def run(program, machine, number, *arguments, arch=None):
    """What the filter answers: `allow`, `kill`, or the errno's name."""
    data = struct.pack("<iIQ6Q", number, arch or AUDIT[machine], 0, *(*arguments, *[0] * (6 - len(arguments))))
    accumulator, at = 0, 0
    while True:
        code, true, false, operand = program[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, operand)
            case 0x05:
                at += operand
            case 0x54:
                accumulator &= operand
            case 0x15:
                at += true if accumulator == operand else false
            case 0x35:
                at += true if accumulator >= operand else false
            case 0x45:
                at += true if accumulator & operand else false
            case 0x06:
                if operand == 0x80000000:
                    return KILL
                return ALLOW if operand == 0x7FFF0000 else errno.errorcode[operand & 0xFFFF]


@pytest.fixture(params=syscalls.MACHINES)
def ask(request):
    """Ask the filter of one architecture about a call by name."""
    numbers = syscalls.numbers(request.param)

    def asked(name, *arguments, sockets="all", **options):
        if name not in numbers:
            pytest.skip(f"no {name} on {request.param}")
        return run(seccomp.program(sockets, request.param, **options), request.param, numbers[name], *arguments)

    return asked


@pytest.mark.parametrize("name", sorted(set(" ".join(seccomp.DENIED.values()).split())))
def test_every_call_of_the_table_is_refused(ask, name):
    assert ask(name) == "EPERM"


@pytest.mark.parametrize(
    "name", ["read", "write", "openat", "execve", "connect", "sendto", "sendmsg", "bind", "listen", "accept4"]
)
def test_the_system_calls_of_ordinary_programs_are_allowed(ask, name):
    assert ask(name) == ALLOW


@pytest.mark.parametrize("name", seccomp.MISSING)
def test_what_no_filter_can_read_seems_not_to_exist(ask, name):
    assert ask(name) == "ENOSYS"


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (("clone", 0x01200011), ALLOW),  # fork
        (("clone", 0x003D0F00), ALLOW),  # a thread
        (("clone", 0x10000011), "EPERM"),  # a user namespace
        (("clone", 0x00020011), "EPERM"),
        (("clone", 0x40000011), "EPERM"),
        (("ioctl", 0, 0x5401), ALLOW),
        (("ioctl", 0, 0x5412), "EPERM"),  # TIOCSTI
        (("ioctl", 0, 0x1_0000_5412), "EPERM"),  # the kernel looks at the lower half only
        (("ioctl", 0, 0x541C), "EPERM"),
        (("personality", 0xFFFFFFFF), ALLOW),
        (("personality", 0x400000), "EPERM"),  # READ_IMPLIES_EXEC
        (("socket", 1, 1, 0), ALLOW),
        (("socket", 2, 1, 0), ALLOW),
        (("socket", 10, 0x80802, 17), ALLOW),
        (("socket", 2, 1, 262), "EPROTONOSUPPORT"),  # MPTCP
        (("socket", 2, 3, 1), "ESOCKTNOSUPPORT"),  # raw
        (("socket", 2, 5, 132), "ESOCKTNOSUPPORT"),
        (("socket", 16, 3, 0), ALLOW),  # netlink: routes
        (("socket", 16, 3, 12), "EPROTONOSUPPORT"),  # netlink: netfilter
        (("socket", 17, 3, 0), "EAFNOSUPPORT"),  # packets
        (("socket", 38, 5, 0), "EAFNOSUPPORT"),  # AF_ALG
        (("socket", 40, 1, 0), "EAFNOSUPPORT"),  # AF_VSOCK
        (("socketpair", 1, 1, 0), ALLOW),
        (("socketpair", 16, 3, 0), "EAFNOSUPPORT"),
        (("ioctl", 0, 0x5423), "EPERM"),  # TIOCSETD
        (("chmod", 0, 0o755), ALLOW),
        (("chmod", 0, 0o4755), "EPERM"),
        (("fchmod", 0, 0o2755), "EPERM"),
        (("fchmodat", 0, 0, 0o4755), "EPERM"),
        (("fchmodat2", 0, 0, 0o1777), ALLOW),
        (("fchmodat2", 0, 0, 0o6755), "EPERM"),
        (("mknodat", 0, 0, 0o104755), "EPERM"),
        (("creat", 0, 0o4755), "EPERM"),
        (("open", 0, 0o101, 0o4755), "EPERM"),
        (("openat", 0, 0, 0o101, 0o2755), "EPERM"),
        (("openat", 0, 0, 0o20200001, 0o4755), "EPERM"),  # O_TMPFILE
        (("openat", 0, 0, 0o101, 0o644), ALLOW),
        (("openat", 0, 0, 0, 0o4755), ALLOW),  # makes nothing: the mode is whatever was there
        (("prlimit64", 0, 7), ALLOW),
        (("prlimit64", 1, 7), "EPERM"),  # the supervisor
        (("shmget", 5), ALLOW),  # in namespaces of its own
        (("setpriority", 0, 77, 19), ALLOW),
        (("fcntl", 3, 2, 1), ALLOW),
        (("fcntl", 3, 1024, 0), "EPERM"),  # F_SETLEASE
        (("fcntl", 3, 0x1_0000_0400, 0), "EPERM"),
        (("fcntl", 3, 1040, 0), "EPERM"),  # F_SETDELEG
        (("ioctl", 3, 0x40086602), ALLOW),  # with a root of its own, other files are read-only
        (("fsetxattr", 3), ALLOW),
    ],
)
def test_arguments_decide(ask, call, answer):
    assert ask(*call) == answer


@pytest.mark.parametrize("family", [1, 2, 10, 16, 17, 38, 40])
def test_without_a_root_of_its_own_a_process_makes_no_socket(ask, family):
    assert ask("socket", family, 1, 0, sockets="pairs") == "EAFNOSUPPORT"
    assert ask("socketpair", 1, 1, 0, sockets="pairs") == ALLOW


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (("socket", 2, 1, 6), ALLOW),
        (("socket", 10, 0x80801, 0), ALLOW),
        (("socket", 1, 1, 0), "EAFNOSUPPORT"),  # the machine's own services
        (("socket", 2, 2, 17), "ESOCKTNOSUPPORT"),  # UDP: its address was not judged, and Landlock knows no rule for it
        (("socket", 2, 1, 262), "EPROTONOSUPPORT"),  # MPTCP passes Landlock
        (("sendto", 3, 0, 1, 0x20004000), "ENOTSUP"),  # MSG_FASTOPEN connects, past Landlock
        (("sendmsg", 3, 0, 0x20000000), "ENOTSUP"),
        (("sendmmsg", 3, 0, 1, 0x20000000), "ENOTSUP"),
        (("sendto", 3, 0, 1, 0x4000), ALLOW),
        (("sendmsg", 3, 0x20000000, 0x4000), ALLOW),
        (("setsockopt", 3, 6, 30), "ENOPROTOOPT"),  # TCP_FASTOPEN_CONNECT
        (("setsockopt", 3, 6, 1), ALLOW),  # TCP_NODELAY
        (("setsockopt", 3, 1, 30), ALLOW),
    ],
)
def test_git_without_namespaces_may_connect_by_tcp_and_no_other_way(ask, call, answer):
    assert ask(*call, sockets="tcp") == answer


@pytest.mark.parametrize("name", sorted(" ".join(seccomp.ALONE.values()).split()))
def test_what_landlock_does_not_see_is_refused_without_namespaces(ask, name):
    assert ask(name, sockets="pairs") == ask(name, sockets="tcp") == ask(name, sockets="inet") == "EPERM"
    assert ask(name) == ALLOW


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (("setpriority", 0, 0, 5), ALLOW),
        (("setpriority", 0, 77, 5), "EPERM"),
        (("setpriority", 2, 0, 5), "EPERM"),  # all processes of the user
        (("ioprio_set", 1, 0), ALLOW),
        (("ioprio_set", 3, 0), "EPERM"),
        (("sched_setaffinity", 0), ALLOW),
        (("sched_setaffinity", 77), "EPERM"),
        (("sched_setattr", 77), "EPERM"),
    ],
)
def test_without_namespaces_a_process_changes_only_itself(ask, call, answer):
    assert ask(*call, sockets="pairs") == answer


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (("fsetxattr", 3), "ENOTSUP"),
        (("fremovexattr", 3), "ENOTSUP"),
        (("ioctl", 3, 0x80086601), ALLOW),  # FS_IOC_GETFLAGS
        (("ioctl", 3, 0x40086602), "ENOTTY"),  # FS_IOC_SETFLAGS
        (("ioctl", 3, 0x401C5820), "ENOTTY"),  # FS_IOC_FSSETXATTR
        (("ioctl", 3, 0x40806685), "ENOTTY"),  # FS_IOC_ENABLE_VERITY
        (("ioctl", 3, 0x800C6613), "ENOTTY"),  # FS_IOC_SET_ENCRYPTION_POLICY
        (("ioctl", 3, 0x5000940E), "ENOTTY"),  # BTRFS_IOC_SUBVOL_CREATE
        (("ioctl", 3, 0x40087602), "ENOTTY"),  # FS_IOC_SETVERSION
        (("ioctl", 3, 0x40049409), ALLOW),  # FICLONE
        (("ioctl", 3, 0x5412), "EPERM"),
        (("ioctl", 3, 0x5401), ALLOW),  # TCGETS
        (("ioctl", 3, 0x5451), ALLOW),  # FIOCLEX
    ],
)
def test_without_namespaces_a_descriptor_that_reads_changes_nothing(ask, call, answer):
    assert ask(*call, sockets="pairs") == ask(*call, sockets="tcp") == answer


@pytest.mark.parametrize("machine", syscalls.MACHINES)
def test_calls_that_are_newer_than_the_table_seem_not_to_exist(machine):
    program = seccomp.program("all", machine)
    assert run(program, machine, syscalls.LAST + 1) == "ENOSYS"
    assert run(program, machine, syscalls.LAST) == ALLOW


@pytest.mark.parametrize(
    ("call", "answer"),
    [
        (("truncate",), "EACCES"), (("openat", 0, 0, 0x200), "EACCES"),
        (("openat", 0, 0, 0x203), "EACCES"), (("open", 0, 0x200), "EACCES"), (("openat", 0, 0, 0x241), ALLOW),
        (("openat", 0, 0, 0x202), ALLOW), (("openat", 0, 0, 0x80000), ALLOW), (("open", 0, 0x241), ALLOW),
    ],
)  # fmt: skip
def test_where_landlock_does_not_hold_it_files_are_cut_by_writable_descriptors_only(ask, call, answer):
    assert ask(*call, sockets="pairs", truncation=False) == answer
    assert ask(*call, sockets="pairs") == ALLOW


@pytest.mark.parametrize("machine", syscalls.MACHINES)
def test_the_table_is_the_filter(machine, capsys):
    """Printed, and compared number by number: what the table refuses whatever the arguments, and nothing else, is refused."""
    numbers = syscalls.numbers(machine)
    for rule in seccomp.rules():
        print(*rule, sep=" | ")
    assert "ptrace |  | EPERM | other processes" in capsys.readouterr().out
    always = {numbers[r.call]: r.answer for r in seccomp.rules() if not r.condition and r.call in numbers}
    alone = {
        numbers[r.call]: r.answer for r in seccomp.rules() if r.condition == "without namespaces" and r.call in numbers
    }
    looked_at = {numbers[r.call] for r in seccomp.rules() if r.condition and r.call in numbers} - set(alone)
    for sockets, refused in (
        ("all", always),
        ("pairs", always | alone),
        ("tcp", always | alone),
        ("inet", always | alone),
    ):
        program = seccomp.program(sockets, machine)
        for number in set(range(syscalls.LAST + 1)) - looked_at:
            assert run(program, machine, number) == refused.get(number, ALLOW), (sockets, number)


@pytest.mark.parametrize("machine", syscalls.MACHINES)
def test_another_architecture_is_killed(machine):
    program = seccomp.program("all", machine)
    assert run(program, machine, 1, arch=0x40000003) == KILL  # i386: int 0x80


def test_x32_calls_seem_not_to_exist():
    program = seccomp.program("all", "x86_64")
    assert run(program, "x86_64", 0x40000000 + 39) == "ENOSYS"


@pytest.mark.parametrize("machine", syscalls.MACHINES)
@pytest.mark.parametrize("sockets", seccomp.FAMILIES)
def test_the_program_is_one_that_the_kernel_takes(machine, sockets):
    """No jump is further than a byte can say, or past the end; the last instruction answers."""
    program = seccomp.program(sockets, machine, truncation=False)
    assert len(program) < 4096
    for at, (code, true, false, operand) in enumerate(program):
        furthest = operand if code == 0x05 else max(true, false)
        assert max(true, false) < 256
        assert at + 1 + furthest < len(program) or code == 0x06
    assert program[-1].code == 0x06
    assert len(seccomp.assemble(program)) == 8 * len(program)
