"""What runtime, fork server and supervisor say to each other. Standard library only: the fork server imports this.

Every message is one datagram on a SOCK_SEQPACKET socket pair; bodies of any size travel as JSON in a sealed memory file,
passed by descriptor. Nothing is ever pickled.

Runtime to server, once per action: `run_message` with the descriptors `control, body, cwd, stdin` and those that the request's
`descriptors` names, in that order. From then on the runtime speaks with that action's supervisor on `control`:

    supervisor: STARTED + its pidfd     about to start the program: before this, nothing has run
    runtime:    STOP                    end the tree: TERM, grace, KILL
    runtime:    LATE                    the same because of the time-out, which the supervisor has let pass
    runtime:    end of file             the runtime is gone: KILL at once
                                        Each of them resumes a supervisor that a program has stopped (`layer0.resume_on`).
    runtime:    OUTPUT                  say what there is so far: a Report that is not `ended`, and the output
    supervisor: a Report as JSON, a newline, standard output, then standard error; more than `INLINE_BYTES` of it come in a
                memory file instead
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from typing import Any, Literal, NotRequired, TypedDict

RUN = b"run"
RUN_CONFINED = b"run confined"
RUN_INSIDE = b"run inside"
"""What the server must know before it forks: whether the program is confined without namespaces, or the supervisor starts in
namespaces of its own.
"""
CHANNEL = "channel"
ROOT = "root"
EGRESS = "egress"
VIEW_USER = "view_user"
VIEW_MOUNTS = "view_mounts"
STDOUT = "stdout"
RECORD = "record"
INWARD = "inward"
"""Names of the descriptors that may come with a request: what a function call writes its messages to; the merged root of a
workspace layer; the socket on which listeners are passed out; without walls, the user and the mount namespace in which
such a layer is at the workspace's path; what a program has as its standard output, in place of a pipe to the supervisor; the
pipe to which a recorder writes, if the action is to be recorded; the socket on which others ask for a socket of the program's
network namespace (`inward`)."""
RECORDED = b", recorded"
"""At the end of such a message: a recorder is to be forked too."""
STARTED = b"started"
STOP = b"stop"
LATE = b"late"
OUTPUT = b"output"

MESSAGE_BYTES = 16 * 1024
"""A report is some 600 bytes."""
INLINE_BYTES = 8 * 1024
_IN_FLIGHT_S = 10.0
"""How long a message may wait for others to be received: the kernel bounds the descriptors that a user has on their way."""


class Limits(TypedDict):
    """What an action is held to. Exceeding `processes`, `memory_bytes` or `cpu_ms` as a tree ends it (`meter`)."""

    memory_bytes: int
    """Of the whole tree: by its cgroup, else measured. Without a cgroup each process has RLIMIT_DATA (writable private memory)
    too. Address space would forbid what Node, Go and Java reserve."""
    file_bytes: int
    """Size of a file that is written. Not below twice `keep_bytes`: a supervisor behind the walls is held to it too."""
    open_files: int
    """Of each process."""
    processes: int
    """Of the whole tree at once."""
    cpu_ms: int | None
    """CPU time of the whole tree, user and system."""


Profile = Literal["ns", "nons", "none"]
"""`ns`: namespaces, seccomp, Landlock. `nons`: Landlock and seccomp. `none`: a clean environment and limits."""
Network = Literal["none", "proxied", "ports", "machine"]
"""`none`: no way out. `machine`: the machine's own, unwalled: for a person's own command (`foreground`). `proxied`: a
network namespace whose only listeners are ours. `ports`: without namespaces (`nons`), TCP connections of the machine's
network to given ports, for a program that connects to an address which was judged before (the git tools)."""


class Bind(TypedDict):
    """A path of the machine that the process sees too, at the same place."""

    path: str
    writable: bool


class Walls(TypedDict):
    """A `spec.WallSpec` on the wire."""

    profile: Profile
    workspace: str
    layer: bool
    copy: str
    """A copy of the workspace that is shown in its place, by path; empty if there is none."""
    writable: list[str]
    readable: list[str]
    protected: list[str]
    guarded: bool
    hidden: list[str]
    binds: list[Bind]
    network: Network
    tcp_ports: list[int]
    egress: Any
    tmp_bytes: int


class Request(TypedDict):
    """One action. `call` is set for a function call in a module host, `argv` otherwise."""

    argv: list[str]
    search: str
    """Where a program named without a slash is looked for, as PATH."""
    environment: dict[str, str]
    home: bool
    """Make a fresh, private HOME and remove it afterwards."""
    home_files: dict[str, str]
    """Files that are copied into it: the name there (a relative path), and where they are."""
    timeout_ms: int | None
    grace_ms: int
    keep_bytes: int
    """How much is kept of each output stream; all of it is read."""
    keep_last: bool
    """Keep the last bytes, not the first."""
    limits: Limits
    call: Any
    walls: Walls | None
    """None: layer L0 alone."""
    directory: str
    """The absolute path of the working directory, for a process that has a root of its own."""
    descriptors: list[str]
    """The names of the descriptors after the first four: `CHANNEL`, `ROOT`, `EGRESS` and the like."""


class Launch(TypedDict):
    """How a fork server is set up, as its third argument."""

    namespaces: bool
    """Its actions may have namespaces of their own (profile `ns`)."""
    groups: NotRequired[bool]
    """Each action gets a control group of its own. False if left out."""
    machine_network: NotRequired[bool]
    """Names are looked up as on the machine, not through the egress proxy. False if left out."""
    shown: list[str]
    """Directories of the machine that walled actions are shown, read-only, besides the system's."""


class Command(TypedDict):
    """A person's own command, for `foreground`."""

    argv: list[str]
    environment: dict[str, str]
    search: str
    walls: Walls | None
    launch: Launch
    directory: str
    """The working directory."""
    home: bool
    """Make a fresh home behind the walls of `ns`. Else HOME is as in the environment."""
    mask: list[int]
    """Signals that the program blocks: those that its starter had blocked."""
    timeout_ms: int | None
    recorder: int | None
    """The descriptor of the pipe that a recorder writes to, if the command is to be recorded."""
    sdk: int | None
    """A descriptor that the program inherits: the socket of an agent's shim."""


class CommandEnd(TypedDict):
    """How a command ended: `failure`, or a wait status."""

    failure: Failure | None
    status: int
    strays: int
    """Processes that it left behind and that were ended."""
    timed_out: bool


class Failure(TypedDict):
    """Why nothing was started: the step (`request`, `home`, `fork`, `walls`, `cwd`, `exec`; of the walls `namespaces`, `network`,
    `root`, `capabilities`, `landlock`, `seccomp`) and the errno.
    """

    step: str
    errno: int


class Report(TypedDict):
    """The outcome of an action. Times in milliseconds, sizes in bytes."""

    failure: Failure | None
    pid: int
    """Of the supervisor, whose descendants the action's processes were, as this machine counts; filled in by the runtime."""
    ended: bool
    """False in the answer to OUTPUT: the program still runs, and the rest is what holds so far."""
    exit_code: int | None
    signal: int | None
    stopped: str | None
    """Why the supervisor ended the tree: `timeout`, `asked`, `limit`, `runtime_gone`, `recorder_lost`; None if it ended by
    itself."""
    exceeded: str | None
    """The limit that was seen to be exceeded: `processes`, `memory`, `cpu`, `file_size`, `tmp`, `open_files`. Only the first
    three end the tree (`limit`). Of the last two it is known that nothing was left, not that the program failed for it.
    """
    grouped: bool
    """True if a cgroup held the tree to its memory."""
    strays_killed: int
    """Processes that were still there when the program had ended."""
    strays_left: bool
    """True if some could not be killed (they belong to another user, or hang in the kernel)."""
    duration_ms: float
    cpu_user_ms: float
    cpu_system_ms: float
    memory_bytes: int
    """Largest resident set of one process of the tree. Never less than that of the fork server, some 14 MB."""
    read_bytes: int
    written_bytes: int
    stdout_kept: int
    stderr_kept: int
    stdout_bytes: int
    stderr_bytes: int


def run_message(request: Request) -> bytes:
    """The datagram that announces a request."""
    walls = request["walls"]
    recorded = RECORDED if RECORD in request["descriptors"] else b""
    if walls is None or walls["profile"] == "none":
        return RUN + recorded
    if walls["profile"] == "nons":
        return RUN_CONFINED + recorded
    return RUN_INSIDE + recorded


def send_message(to: socket.socket, message: bytes, fds: list[int]) -> None:
    """Send a message with descriptors, also when many of this user's are on their way already. Raises: OSError."""
    until = time.monotonic() + _IN_FLIGHT_S
    while True:
        try:
            socket.send_fds(to, [message], fds)
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS or time.monotonic() > until:
                raise
            time.sleep(0.002)
        else:
            return


def memory_file(name: str, *parts: bytes | bytearray) -> int:
    """A sealed memory file with these bytes, at offset 0: readable by every holder of the descriptor, never changed."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_memory_file(fd: int) -> bytes:
    """All of a memory file."""
    size = os.fstat(fd).st_size
    data = bytearray()
    while len(data) < size:
        part = os.pread(fd, size - len(data), len(data))
        if not part:
            break
        data += part
    return bytes(data)
