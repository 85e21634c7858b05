"""The program that a client runs as a hook: passes the event to the resident gate, and its answer back.

Run with `-I -S` and as the only import, without any of Interlock's or of the larger standard modules: it is started for
every tool call, so its start is the cost of a hook. (It also works when run by its path, but is then compiled each
time.) Any failure ends with exit code 2 and a reason on standard error, which every client takes as a refusal. It
decides nothing.

    hook_program.py CLIENT [event=NAME] [project=DIRECTORY] [agent=NAME] [mode=replace] [state=DIRECTORY] [seconds=N] [wait=N]

Wire format, version 1. Request: a line `interlock 1 hook`, the lengths of two parts, 8 bytes each, big-endian, and the
parts: NUL-terminated `name=value` pairs, and the event from the client. Answer: an exit code (1 byte), two lengths of 8
bytes, standard output and standard error. If the connection ends without an answer, the gate has exited, and the event
is sent again, to the next gate. Then the program closes the connection; if the client is gone by then, so that nothing
was allowed, it sends `N` before. While it waits, it exits if the client does.
"""

import _signal  # type: ignore[import-not-found]
import _socket
import os
import select
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_REFUSAL = 2
_INPUT_MAX = 64 * 1024 * 1024
_START_SECONDS = 20.0
_PAUSE_SECONDS = 0.02
_ENVIRONMENT = ("INTERLOCK_", "CLAUDE_PROJECT_DIR", "CURSOR_PROJECT_DIR", "GEMINI_PROJECT_DIR")


class Failure(Exception):  # noqa: N818, D101 - the only exception of this program
    pass


class Gate:
    """The resident gate of this user."""

    def __init__(self, state: str, until: float) -> None:
        """`state` is the state directory, `until` the deadline in terms of `time.monotonic`."""
        self._home = os.path.join(state, "gate")
        self._until = until
        self._started = False

    def ask_once(self, request: bytes) -> "bytes | None":
        """The answer of the running gate; None if there is none. Raises: Failure."""
        try:
            connection = self._connected()
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return None
        return self._exchange(connection, request)

    def ask(self, request: bytes, deliver: "Callable[[bytes], None] | None" = None) -> bytes:
        """The gate's answer. Starts a gate if none is running. `deliver` passes the answer on, and raises
        BrokenPipeError if the client is gone. Raises: Failure.
        """
        while time.monotonic() < self._until:
            answer = self._exchange(self._connect(), request, deliver)
            if answer is not None:
                return answer
            self._started = False  # the gate exited, and another one may have to be started
            time.sleep(_PAUSE_SECONDS)
        raise Failure("the gate did not answer in time")

    def _exchange(
        self, connection: _socket.socket, request: bytes, deliver: "Callable[[bytes], None] | None" = None
    ) -> "bytes | None":
        try:
            connection.settimeout(max(0.1, self._until - time.monotonic()))
            connection.sendall(request)
            if deliver is not None:
                self._wait(connection)
            answer = _receive(connection)
        except ConnectionError:
            answer = None
        except TimeoutError:
            connection.close()
            raise Failure("the gate did not answer in time") from None
        try:
            if answer is not None and deliver is not None:
                deliver(answer)
        except BrokenPipeError:
            connection.sendall(b"N")
            raise Failure("the client is gone") from None
        finally:
            connection.close()
        return answer

    def _wait(self, connection: _socket.socket) -> None:
        """Wait until the gate answers, as long as the client reads standard output."""
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        poll.register(1, 0)
        for fd, _ in poll.poll(max(0.0, self._until - time.monotonic()) * 1000):
            if fd == 1:
                raise Failure("the client is gone")

    def _connect(self) -> _socket.socket:
        while True:
            try:
                return self._connected()
            except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
                pass
            if not self._started:
                self._started = True
                self._start()
            if time.monotonic() > self._until:
                raise Failure(f"no gate could be started; `{self._home}/log` may show the reason")
            time.sleep(_PAUSE_SECONDS)

    def _connected(self) -> _socket.socket:
        directory = os.open(self._home, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(directory)
            if found.st_uid != os.geteuid() or found.st_mode & 0o077:
                raise Failure(f"`{self._home}` is not a private directory of this user")
            connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
            try:
                connection.settimeout(5)
                # Connect through the descriptor, because a socket's path is limited to 107 bytes.
                connection.connect(f"/proc/self/fd/{directory}/socket")
            except BaseException:
                connection.close()
                raise
            peer = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
            if int.from_bytes(peer[4:8], sys.byteorder) != os.geteuid():
                connection.close()
                raise Failure("the gate's socket belongs to another user")
            return connection
        finally:
            os.close(directory)

    def _start(self) -> None:
        """Start a gate that outlives this program. Of several started at once, one stays."""
        environment = {
            name: value
            for name, value in os.environ.items()
            if name in ("HOME", "PATH", "LANG", "TZ", "USER", "LOGNAME", "TMPDIR") or name.startswith(("LC_", "XDG_"))
        }
        environment["INTERLOCK_STATE_DIR"] = os.path.dirname(self._home)
        os.makedirs(self._home, 0o700, exist_ok=True)
        null = os.open(os.devnull, os.O_RDWR)
        log = os.open(os.path.join(self._home, "log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        module = "interlock.surfaces.resident.program"
        os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-m", module],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, null, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setsid=True,
        )
        os.close(null)
        os.close(log)


def _receive(connection: _socket.socket) -> "bytes | None":
    """The whole answer; None if the connection ended before it."""
    parts = bytearray()
    wanted = 17
    while len(parts) < wanted:
        chunk = connection.recv(1 << 16)
        if not chunk:
            return None
        parts += chunk
        if wanted == 17 and len(parts) >= 17:
            wanted += int.from_bytes(parts[1:9], "big") + int.from_bytes(parts[9:17], "big")
    return bytes(parts)


def _read_input() -> bytes:
    parts = bytearray()
    while chunk := os.read(0, 1 << 20):
        parts += chunk
        if len(parts) > _INPUT_MAX:
            raise Failure(f"the event is larger than {_INPUT_MAX} bytes")
    return bytes(parts)


def _request(given: dict[str, str], data: bytes) -> bytes:
    for name, value in os.environ.items():
        if name.startswith(_ENVIRONMENT):
            given[f"env.{name}"] = value
    try:
        given["cwd"] = os.getcwd()
    except FileNotFoundError:
        given["cwd"] = ""  # the directory was deleted; the event names one, and the project is known otherwise
    head = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in given.items())
    return b"interlock 1 hook\n" + len(head).to_bytes(8, "big") + len(data).to_bytes(8, "big") + head + data


def _state_directory(named: str) -> str:
    """The same directory as from `workspace.registry.state_directory`."""
    named = named or os.environ.get("INTERLOCK_STATE_DIR", "")
    if named:
        return named
    home = os.environ.get("HOME") or os.path.expanduser("~")
    return os.path.join(os.environ.get("XDG_STATE_HOME") or os.path.join(home, ".local", "state"), "interlock")


def _version() -> str:
    """The version of the code beside this program, as text."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "_version.py"), "rb") as file:
        return file.read(4096).decode()


def _overdue(_number: int, _frame: object) -> None:
    raise Failure("the gate did not answer in time")


def main() -> int:
    """Send the event to the gate, and pass on its answer."""
    client, *pairs = sys.argv[1:]
    given = {"client": client, **dict(pair.split("=", 1) for pair in pairs)}
    seconds = int(given.pop("seconds", "100"))
    _signal.signal(_signal.SIGALRM, _overdue)
    _signal.alarm(seconds)
    until = time.monotonic() + seconds - 1
    given["version"] = _version()
    gate = Gate(_state_directory(given.pop("state", "")), until)
    return gate.ask(_request(given, _read_input()), _deliver)[0]


def _deliver(answer: bytes) -> None:
    size = int.from_bytes(answer[1:9], "big")
    _write(1, answer[17 : 17 + size])
    _write(2, answer[17 + size :])


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def run() -> None:
    """Run the program, and exit without the interpreter's clean-up."""
    try:
        code = main()
    except BaseException as error:  # noqa: BLE001 - whatever the error, nothing may run
        reason = str(error) if isinstance(error, Failure) else f"{type(error).__name__}: {error}"
        try:
            os.write(2, f"Interlock: nothing is allowed: {reason}\n".encode(errors="replace"))
        finally:
            os._exit(_REFUSAL)
    os._exit(code)


if __name__ == "__main__":
    run()
