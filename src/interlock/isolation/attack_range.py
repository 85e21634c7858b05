"""Runs the attacks of `attacks`: natively, where they can do no harm, and behind walls.

Runs as a separate program (`python -I -S`), as the given user. The native leg shows whether a case is meaningful. It
runs in its own mount, pid, ipc and network namespaces, as a throw-away user if Interlock is root, with kernel settings
read-only. Uses only the standard library and the launcher.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, TypedDict

from interlock.isolation import syscalls
from interlock.isolation.attacks import ATTACKS, BATCH, PRELUDE, Attack
from interlock.isolation.client import ForkServer, Stopped, fork_server_command
from interlock.isolation.spec import WallSpec
from interlock.isolation.wire import Profile, Request
from interlock.server_process import module_command

ESCAPED, STOPPED, HUNG = "escaped", "stopped", "hung"
NOBODY: Final = 64_999
"""The throw-away user and group id."""
_ATTACK_S: Final = 4.0
_NATIVE_S: Final = 20.0
"""How long an attack may take, behind walls and natively; longer counts as hung."""
_OUTLASTED_S: Final = 2.0
"""The time-out of an attack that checks what survives a time-out."""
_BATCH_S: Final = 120.0
"""How long all attacks that share an action may take; attacks not tried by then count as hung."""
_SECRET: Final = {"INTERLOCK_ATTACK_SECRET": "secret"}
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_FILTERED: Final = """
from interlock.isolation import seccomp, syscalls
syscalls.forbid_new_privileges()
syscalls.load_filter(seccomp.assemble(seccomp.container_program()))
"""


class Order(TypedDict):
    """The input of a range, as JSON in its argument."""

    leg: str
    """`native`, `ns`, `nons`, or `container`: `nons` inside an imitation of Docker's default filter."""
    user: int | None
    """The user to switch to; None to keep the present one."""
    directory: str
    """An empty directory owned by that user."""
    only: list[str]
    """Names of the attacks to run; empty for all."""


def main() -> None:
    """Run the attacks and print one JSON object, which maps each name to `escaped`, `stopped` or `hung`."""
    order: Order = json.loads(sys.argv[1])
    if order["leg"] == "native":
        _enter_guard(order["user"])
    elif order["user"] is not None:
        _become(order["user"])
    chosen = [attack for attack in ATTACKS if not order["only"] or attack.name in order["only"]]
    with _targets(order["directory"]) as facts:
        if order["leg"] == "native":
            found = asyncio.run(_all(chosen, facts, _NATIVE_S, _native))
        else:
            found = asyncio.run(_walled(order["leg"], chosen, facts))
    print(json.dumps(found), flush=True)  # noqa: T201 - the result
    os._exit(0)


def _become(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    syscalls.set_dumpable(dumpable=True)


def _enter_guard(user: int | None) -> None:
    """Enter new namespaces. Returns in the process that is pid 1 in them, without any capability."""
    spaces = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS
    uid, gid = os.getuid(), os.getgid()
    syscalls.unshare(spaces | syscalls.CLONE_NEWNET | (0 if uid == 0 else syscalls.CLONE_NEWUSER))
    if uid != 0:
        syscalls.map_ids(uid, gid)
    pid = os.fork()
    if pid:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) & 0xFF)
    syscalls.die_with_parent()
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("proc", "/proc", "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)
    syscalls.mount("/proc/sys", "/proc/sys", None, syscalls.MS_BIND | syscalls.MS_REC)
    syscalls.set_mount("/proc/sys", syscalls.MOUNT_ATTR_RDONLY)
    syscalls.mount("tmpfs", "/dev/shm", "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV)  # noqa: S108
    os.chmod("/dev/shm", 0o1777)  # noqa: S103, S108 - its usual mode
    syscalls.raise_loopback()
    if uid == 0:
        _become(NOBODY if user is None else user)
    else:
        header = ctypes.create_string_buffer(b"\x22\x05\x08\x20".ljust(8, b"\0"), 8)
        syscalls.call("capset", header, ctypes.create_string_buffer(24))


@contextlib.contextmanager
def _targets(directory: str) -> Iterator[dict[str, Any]]:
    """Create the targets of the attacks, and yield the facts about them."""
    facts: dict[str, Any] = {"directory": directory, "outside": f"{directory}/outside"}
    os.mkdir(facts["outside"])
    for name in ("secret", "mine", "spare"):
        facts[name] = f"{facts['outside']}/{name}"
    facts["program"] = f"{facts['outside']}/program"
    _write(facts["secret"], "secret")
    _write(facts["program"], "#!/bin/sh\necho ESCAPED\n", 0o700)
    facts |= {"link": f"{facts['outside']}/link", "chain": f"{directory}/chain"}
    os.symlink("where", facts["link"])
    os.mkdir(facts["chain"])
    _write(f"{facts['chain']}/tool", "#!/bin/sh\n", 0o700)
    master, terminal = os.openpty()
    facts["terminal"] = os.ttyname(terminal)
    mark = f"interlock-attack-{os.getpid()}-{time.monotonic_ns()}"
    for name, place in (("temporary", "/tmp"), ("shared", "/dev/shm")):  # noqa: S108 - of the machine, on purpose
        facts[name] = f"{place}/{mark}"
        _write(facts[name], "secret")
    held = os.open(facts["secret"], os.O_RDONLY)
    inherited = os.open(facts["secret"], os.O_RDONLY)
    os.set_inheritable(inherited, True)
    script = "import time\ntime.sleep(600)"
    victim = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", script], env=_SECRET, cwd=facts["outside"], pass_fds=[held],
        preexec_fn=syscalls.die_with_parent,  # noqa: PLW1509 - there are no threads yet
    )  # fmt: skip
    libc = ctypes.CDLL(None, use_errno=True)
    facts |= {"victim": victim.pid, "victim_fd": held, "inherited": inherited, "shm": os.getpid() | 0x49000000}
    segment = libc.shmget(facts["shm"], 4096, 0o1600)
    messages = libc.msgget(facts["shm"], 0o1600)
    semaphores = libc.semget(facts["shm"], 1, 0o1600)
    facts["queue"] = mark
    syscalls.call("mq_open", mark.encode(), os.O_CREAT | os.O_RDWR, 0o600, None)
    sockets = _listen(facts, mark)
    try:
        yield facts
    finally:
        victim.kill()
        victim.wait()
        libc.shmctl(segment, 0, None)
        libc.msgctl(messages, 0, None)
        libc.semctl(semaphores, 0, 0)
        syscalls.call("mq_unlink", mark.encode())
        os.close(master)
        os.close(terminal)
        for made in sockets:
            made.close()
        for name in ("temporary", "shared"):
            os.unlink(facts[name])


def _listen(facts: dict[str, Any], mark: str) -> list[socket.socket]:
    tcp, tcp6 = socket.create_server(("127.0.0.1", 0)), None
    with contextlib.suppress(OSError):
        tcp6 = socket.create_server(("::1", 0), family=socket.AF_INET6)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 0))
    stream, datagram, path = (socket.socket(socket.AF_UNIX, kind) for kind in (1, 2, 1))
    stream.bind(f"\0{mark}")
    datagram.bind(f"\0{mark}-d")
    path.bind(f"{facts['outside']}/socket")
    for made in (stream, path):
        made.listen(64)
    facts |= {
        "tcp": tcp.getsockname()[1],
        "tcp6": tcp6.getsockname()[1] if tcp6 is not None else 1,
        "udp": udp.getsockname()[1],
        "abstract": mark,
        "unix": f"{facts['outside']}/socket",
    }
    threading.Thread(target=_echo, args=(udp,), daemon=True).start()
    return [one for one in (tcp, tcp6, udp, stream, datagram, path) if one is not None]


def _echo(udp: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            data, sender = udp.recvfrom(64)
            udp.sendto(data, sender)


def _write(path: str, text: str, mode: int = 0o600) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)


def _fresh(facts: dict[str, Any]) -> dict[str, Any]:
    """Reset the targets, and return the facts for one attack, with a new workspace."""
    workspace = f"{facts['directory']}/work"
    shutil.rmtree(workspace, ignore_errors=True)
    os.makedirs(f"{workspace}/tools/deep")
    _write(f"{workspace}/interlock.toml", "")
    _write(f"{workspace}/tools/deep/mod.py", "")
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{workspace}/server.sock")
    server.listen(8)
    facts["server"] = server  # this closes the previous server
    for name in ("mine", "spare"):
        _write(facts[name], "mine")
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, facts["victim"], 0)
    os.kill(facts["victim"], signal.SIGCONT)
    return {**{name: fact for name, fact in facts.items() if name != "server"}, "workspace": workspace}


Perform = Callable[[list[str], str, float], Awaitable[tuple[bytes, bool]]]
"""Runs a program in a workspace, with a time limit in seconds. Returns its output, and whether it was late.

Raises: TimeoutError if not even that was reported.
"""


async def _all(chosen: list[Attack], facts: dict[str, Any], seconds: float, perform: Perform) -> dict[str, str]:
    """Try the attacks, each with a time limit in seconds: in one action where possible, the others one by one."""
    found = dict.fromkeys((attack.name for attack in chosen), HUNG)
    together = [attack for attack in chosen if not attack.alone]
    if together:
        own = _fresh(facts)
        cases = json.dumps([seconds, [(attack.name, attack.code) for attack in together]])
        with contextlib.suppress(TimeoutError):
            output, _ = await perform(_program(PRELUDE + BATCH, own, cases), own["workspace"], _BATCH_S)
            found |= _judge_each(output)
    for attack in chosen:
        if attack.alone:
            own, limit_s = _fresh(facts), _OUTLASTED_S if attack.outlasts else seconds
            with contextlib.suppress(TimeoutError):
                output, late = await perform(_program(PRELUDE + attack.code, own), own["workspace"], limit_s)
                found[attack.name] = _judge(own["workspace"], output, late)
    return found


def _program(code: str, facts: dict[str, Any], *arguments: str) -> list[str]:
    return [os.path.realpath(sys.executable), "-I", "-S", "-c", code, json.dumps(facts), *arguments]


def _judge_each(output: bytes) -> dict[str, str]:
    """Returns the results of the attacks that `BATCH` completed."""
    lines = [json.loads(line) for line in output.splitlines()]
    return {name: ESCAPED if escaped else HUNG if late else STOPPED for name, escaped, late in lines}


def _judge(workspace: str, output: bytes, late: bool) -> str:
    if b"ESCAPED" in output or _beats(f"{workspace}/beat"):
        return ESCAPED
    return HUNG if late and not os.path.exists(f"{workspace}/beat") else STOPPED


def _beats(path: str) -> bool:
    """Returns True if something still writes to the file."""
    if not os.path.exists(path):
        return False
    before = os.path.getsize(path)
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        if os.path.getsize(path) != before:
            return True
        time.sleep(0.02)
    return False


async def _native(argv: list[str], workspace: str, seconds: float) -> tuple[bytes, bool]:
    environment = {**_SECRET, "PATH": _PATH}
    done = subprocess.Popen(  # noqa: ASYNC220 - nothing else waits in this loop
        ["/bin/sh", "-c", '"$@"; exit 0', "sh", *argv],  # a parent that can be attacked
        env=environment, cwd=workspace, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, close_fds=False,
        start_new_session=True,
    )  # fmt: skip
    output = bytearray()
    assert done.stdout is not None
    reader = threading.Thread(target=_read_all, args=(done.stdout.fileno(), output), daemon=True)
    reader.start()
    late = False
    try:
        done.wait(seconds)
    except subprocess.TimeoutExpired:
        late = True
        os.killpg(done.pid, signal.SIGKILL)
        done.wait()
    reader.join(0.5)  # a surviving process may hold the pipe open
    return bytes(output), late


def _read_all(pipe: int, output: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(pipe, 1 << 16):
            output.extend(data)


async def _walled(leg: str, chosen: list[Attack], facts: dict[str, Any]) -> dict[str, str]:
    profile: Profile = "ns" if leg == "ns" else "nons"
    command = fork_server_command()
    if leg == "container":
        command = module_command("interlock.isolation.server", first=_FILTERED)
    os.environ.update(_SECRET)
    python = sys.base_prefix if not sys.base_prefix.startswith("/usr") else "/usr"
    server = ForkServer(command, launch=lambda: {"namespaces": profile == "ns", "shown": [python, facts["chain"]]})

    async def perform(argv: list[str], workspace: str, seconds: float) -> tuple[bytes, bool]:
        protected, hidden = ("interlock.toml", "tools/deep/mod.py"), (f"{workspace}/server.sock",)
        spec = WallSpec(
            profile=profile,
            workspace=workspace,
            protected=protected,
            hidden=hidden if profile == "ns" else (),
            binds=({"path": facts["chain"], "writable": False},),
        )
        cwd = os.open(workspace, os.O_PATH | os.O_CLOEXEC)
        try:
            async with asyncio.timeout(4 * seconds):
                outcome = await server.run(_request(argv, spec, seconds), cwd=cwd)
        except Stopped:
            raise TimeoutError from None
        finally:
            os.close(cwd)
        if outcome.report["failure"] is not None:
            raise OSError(outcome.report["failure"]["errno"], f"the walls were not raised: {outcome.report['failure']}")
        return outcome.stdout, outcome.report["stopped"] == "timeout"

    try:
        return await _all(chosen, facts, _ATTACK_S, perform)
    finally:
        server.close()


def _request(argv: list[str], spec: WallSpec, seconds: float) -> Request:
    return {
        "argv": argv,
        "search": _PATH,
        "environment": {"PATH": _PATH},
        "home": True,
        "home_files": {},
        "timeout_ms": round(seconds * 1000),
        "grace_ms": 200,
        "keep_bytes": 65_536,
        "keep_last": False,
        "limits": {
            "memory_bytes": 256 << 20,
            "file_bytes": 64 << 20,
            "open_files": 1024,
            "processes": 64,
            "cpu_ms": None,
        },
        "call": None,
        "walls": spec.wire(),
        "directory": "",
        "descriptors": [],
    }
