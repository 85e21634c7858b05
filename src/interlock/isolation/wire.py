"""The messages between runtime, fork server and supervisor. Uses only the standard library, because the fork server imports it.

Every message is one datagram on a SOCK_SEQPACKET socket pair; bodies of any size are sent as JSON in a sealed memory
file, passed by descriptor. Nothing is ever pickled.

Runtime to server, once per action: `run_message` with the descriptors `control, body, cwd, stdin` and those that the
request's `descriptors` names, in that order. From then on, the runtime communicates with that action's supervisor on
`control`:

    supervisor: STARTED + its pidfd     about to start the program: before this, nothing has run
    runtime:    STOP                    end the tree: SIGTERM, grace period, SIGKILL
    runtime:    LATE                    the same, because the supervisor missed the time-out
    runtime:    end of file             the runtime has ended: SIGKILL at once
                                        Each of these resumes a supervisor that a program has stopped (`layer0.resume_on`).
    runtime:    OUTPUT                  request the present state: a Report that is not `ended`, and the output
    supervisor: a Report as JSON, a newline, standard output, then standard error; if the output exceeds `INLINE_BYTES`,
                it is sent in a memory file instead
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
RUN_PROXIED = b"run inside, proxied"
"""What the server must know before it forks.

It says whether the program is confined without namespaces, or the supervisor starts in its own namespaces, and then
whether its network is `proxied`.
"""
CHANNEL = "channel"
ROOT = "root"
EGRESS = "egress"
VIEW_USER = "view_user"
VIEW_MOUNTS = "view_mounts"
STDOUT = "stdout"
RECORD = "record"
INWARD = "inward"
"""Names of the descriptors that may come with a request.

In order: where a function call writes its messages; the merged root of a workspace layer; the socket over which
listeners are passed out; without walls, the user and the mount namespace in which such a layer is mounted at the
workspace's path; a program's standard output, instead of a pipe to the supervisor; the pipe that a recorder writes to,
if the action is to be recorded; the socket on which others request sockets of the program's network namespace
(`inward`).
"""
RECORDED = b", recorded"
"""Suffix of such a message: also fork a recorder."""
STARTED = b"started"
STOP = b"stop"
LATE = b"late"
OUTPUT = b"output"

MESSAGE_BYTES = 16 * 1024
"""A report is about 600 bytes."""
INLINE_BYTES = 8 * 1024
_IN_FLIGHT_S = 10.0
"""How long a message may wait for others to be received, because the kernel bounds a user's descriptors in flight."""


class Limits(TypedDict):
    """The limits of an action. Exceeding `processes`, `memory_bytes` or `cpu_ms` as a tree ends it (`meter`)."""

    memory_bytes: int
    """Memory of the whole tree: limited by its cgroup, else measured.

    Without a cgroup, each process also has RLIMIT_DATA (writable private memory). A limit on address space would forbid
    what Node, Go and Java reserve.
    """
    file_bytes: int
    """Maximum size of a written file. At least twice `keep_bytes`, because a supervisor behind the walls has the same limit."""
    open_files: int
    """Limit per process."""
    processes: int
    """Concurrent processes of the whole tree."""
    cpu_ms: int | None
    """CPU time of the whole tree, user plus system."""


Profile = Literal["ns", "nons", "none"]
"""`ns`: namespaces, seccomp, Landlock. `nons`: Landlock and seccomp. `none`: a clean environment and limits."""
Network = Literal["none", "proxied", "ports", "machine"]
"""`none`: no connections. `proxied`: a network namespace whose only listeners are ours.

`machine`: the machine's own network without walls, for a person's own command (`foreground`). `ports`: without
namespaces (`nons`), TCP connections on the machine's network to given ports, for a program that connects to a checked
address (the git tools).
"""


class Bind(TypedDict):
    """A path of the machine that the process also sees, at the same path."""

    path: str
    writable: bool


class Walls(TypedDict):
    """A `spec.WallSpec` as JSON."""

    profile: Profile
    workspace: str
    layer: bool
    copy: str
    """The path of a copy of the workspace that is shown in its place; empty if there is none."""
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
    """Where a program named without a slash is looked up, like PATH."""
    environment: dict[str, str]
    home: bool
    """Create a new, private HOME, and remove it afterwards."""
    home_files: dict[str, str]
    """Files to copy into HOME: maps the relative path there to the source path."""
    timeout_ms: int | None
    grace_ms: int
    keep_bytes: int
    """Bytes kept of each output stream; all of it is read."""
    keep_last: bool
    """Keep the last bytes instead of the first."""
    limits: Limits
    call: Any
    walls: Walls | None
    """None: only layer L0."""
    directory: str
    """The absolute path of the working directory, for a process with a private root."""
    descriptors: list[str]
    """The names of the descriptors after the first four, such as `CHANNEL`, `ROOT` and `EGRESS`."""


class Launch(TypedDict):
    """The setup of a fork server, as its third argument."""

    namespaces: bool
    """Actions may have their own namespaces (profile `ns`)."""
    groups: NotRequired[bool]
    """Each action gets its own control group. Defaults to False."""
    machine_network: NotRequired[bool]
    """Names are resolved as on the machine, not through the egress proxy. Defaults to False."""
    shown: list[str]
    """Directories of the machine shown to walled actions, read-only, besides the system's."""


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
    """Create a new home behind the walls of `ns`. Otherwise HOME is as in the environment."""
    mask: list[int]
    """Signals that the program blocks, because its starter had blocked them."""
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
    """Number of processes that it left behind and that were ended."""
    timed_out: bool


class Failure(TypedDict):
    """Why nothing was started: the step and the errno.

    Steps: `request`, `home`, `fork`, `walls`, `cwd`, `exec`; for walls `namespaces`, `network`, `root`, `capabilities`,
    `landlock`, `seccomp`.
    """

    step: str
    errno: int


class Report(TypedDict):
    """The outcome of an action. Times in milliseconds, sizes in bytes."""

    failure: Failure | None
    pid: int
    """The pid of the supervisor, as seen on this machine; the action's processes were its descendants. Set by the runtime."""
    ended: bool
    """False in the answer to OUTPUT: the program is still running, and the rest is the present state."""
    exit_code: int | None
    signal: int | None
    stopped: str | None
    """Why the supervisor ended the tree; None if it ended by itself.

    One of `timeout`, `asked`, `limit`, `runtime_gone`, `recorder_lost`.
    """
    exceeded: str | None
    """The limit that was exceeded: `processes`, `memory`, `cpu`, `file_size`, `tmp`, `open_files`.

    Only the first three end the tree (`limit`). For the last two it is known that nothing was left, but not that the
    program failed because of it.
    """
    grouped: bool
    """True if a cgroup limited the tree's memory."""
    strays_killed: int
    """Processes that were still running when the program had ended."""
    strays_left: bool
    """True if some could not be killed (they belong to another user, or hang in the kernel)."""
    duration_ms: float
    cpu_user_ms: float
    cpu_system_ms: float
    memory_bytes: int
    """Largest resident set of one process of the tree. At least that of the fork server, about 14 MB."""
    read_bytes: int
    written_bytes: int
    stdout_kept: int
    stderr_kept: int
    stdout_bytes: int
    stderr_bytes: int


def run_message(request: Request) -> bytes:
    """Returns the datagram that announces a request."""
    walls = request["walls"]
    recorded = RECORDED if RECORD in request["descriptors"] else b""
    if walls is None or walls["profile"] == "none":
        return RUN + recorded
    if walls["profile"] == "nons":
        return RUN_CONFINED + recorded
    return (RUN_PROXIED if walls["network"] == "proxied" else RUN_INSIDE) + recorded


def send_message(to: socket.socket, message: bytes, fds: list[int]) -> None:
    """Send a message with descriptors, waiting if too many of this user's descriptors are in flight. Raises: OSError."""
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


def receive_message(
    channel: socket.socket, size: int, descriptors: int, flags: int = 0
) -> tuple[bytes, list[int], int]:
    """Returns a message, its descriptors, which are close-on-exec, and the flags of recvmsg. Raises: OSError.

    `socket.recv_fds` ignores its flags in Python 3.11, and programs that are started later would inherit the descriptors.
    """
    space = socket.CMSG_LEN(descriptors * 4)
    message, parts, received, _ = channel.recvmsg(size, space, flags | socket.MSG_CMSG_CLOEXEC)
    return message, [fd for *_, numbers in parts for fd in memoryview(numbers).cast("i")], received


def memory_file(name: str, *parts: bytes | bytearray) -> int:
    """Create a sealed memory file with these bytes, at offset 0: readable by every holder of the descriptor, never changed."""
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
    """Returns the whole content of a memory file."""
    size = os.fstat(fd).st_size
    data = bytearray()
    while len(data) < size:
        part = os.pread(fd, size - len(data), len(data))
        if not part:
            break
        data += part
    return bytes(data)
