"""Starts a stdio server behind this machine's walls, and communicates with it over two pipes.

The server has the walls of a process action: an allow-listed environment, a HOME of its own, and a process tree that
ends with the runtime. It can read the project's files, and write them only if the operator allows it. It reaches only
the hosts that the operator names.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec

from interlock.executors.enclosure import Enclosure
from interlock.executors.network import ProcessNetwork, environment_of
from interlock.executors.process import ProcessRunner
from interlock.isolation.background import Background
from interlock.isolation.egress.background import BackgroundWatch
from interlock.isolation.egress.client import Policy
from interlock.isolation.spec import WallSpec
from interlock.isolation.wire import Bind, Network
from interlock.model.errors import ToolError
from interlock.model.json_rpc import Id, LineSplitter

_STDERR_BYTES: Final = 16 * 1024
_STDERR_SHOWN: Final = 500
_UNSENT_BYTES_MAX: Final = 64 * 1024 * 1024
"""A server that leaves this much unread is considered gone."""
_CHUNK: Final = 256 * 1024


class ServerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One configured server, fully resolved."""

    name: str
    command: tuple[str, ...] = ()
    url: str | None = None
    environment: dict[str, str] = {}
    """Added to the base environment of every process."""
    headers: dict[str, str] = {}
    """Sent with every request to `url`."""
    hosts: tuple[str, ...] = ()
    """`host:port` patterns that a started server may connect to."""
    private: tuple[str, ...] = ()
    """The hosts among them that may have private addresses."""
    reads: tuple[str, ...] = ()
    """Absolute paths that it may read besides the project."""
    writes: bool = False
    """True if it may write in the project."""
    asks: tuple[str, ...] = ("elicitation",)
    """What it may ask of a client: `elicitation`, `sampling`, `roots`."""
    read_only: tuple[str, ...] = ()
    """Globs for the names of its tools that the operator declares to be read-only."""


class Receive(Protocol):
    """Receives frames."""

    def __call__(self, line: bytes | None, about: Id | None = None) -> None:
        """`line` is None for a frame that was too long.

        `about` is the request on whose stream it arrived, if the transport has such.
        """


Lost = Callable[[str], None]


class Link(Protocol):
    """A connection to a server."""

    def send(self, frame: bytes) -> None:
        """Send a frame. Never blocks, never raises."""
        ...

    async def describe_end(self) -> str:
        """Returns the last text that the server wrote for people; empty if there is none."""
        ...

    def disconnect(self) -> None:
        """Close the connection, on the event loop's thread or after the loop has ended. Can be called again."""
        ...

    def end(self) -> None:
        """End the server if it was started for this connection. May block briefly; safe on any thread."""
        ...


class Launcher:
    """Starts servers for one runtime."""

    def __init__(self, runner: ProcessRunner, network: ProcessNetwork, workspace: Any) -> None:
        """`workspace` is the workspace itself, never a layer, because a server outlives layers."""
        self._runner = runner
        self._network = network
        self._workspace = workspace
        self._postures: dict[Network, tuple[Enclosure, dict[str, str]]] = {}

    def posture(self, spec: ServerSpec) -> dict[str, str]:
        """Returns the posture of the server's processes. Raises: ToolError `isolation_failed`."""
        enclosure, network = self._runner.enclosure, _network_of(spec)
        behind, found = self._postures.get(network, (None, {}))
        if behind is not enclosure:
            found = enclosure.posture_unrecorded(network)
            self._postures[network] = enclosure, found
        return found.copy()

    async def start(self, spec: ServerSpec, receive: Receive, lost: Lost) -> Link:
        """Start a server. Raises: ToolError `spawn_failed`, `isolation_failed`, `process_lost`."""
        self.posture(spec)  # raises if `isolation.require` names `record`
        walls, watch = await self._walls(spec)
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        try:
            process = await self._runner.serve(
                spec.command,
                workspace=self._workspace,
                walls=walls,
                env={**environment_of(walls), **spec.environment},
                stdin=theirs_in,
                stdout=theirs_out,
                stderr_bytes_max=_STDERR_BYTES,
            )
        except BaseException:
            os.close(ours_out)
            os.close(ours_in)
            if watch is not None:
                watch.drop()
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        return _Pipes(process, watch, (ours_in, ours_out), receive, lost)

    async def _walls(self, spec: ServerSpec) -> tuple[WallSpec | None, BackgroundWatch | None]:
        binds: list[Bind] = [{"path": path, "writable": False} for path in spec.reads]
        walls = self._runner.enclosure.around(self._workspace, network=_network_of(spec), binds=binds)
        if walls is None:
            return None, None
        walls = walls._replace(writable=("",) if spec.writes else ())
        return await self._network.open_for(Policy(((spec.hosts,),), spec.private), walls)


def _network_of(spec: ServerSpec) -> Network:
    return "proxied" if spec.hosts else "none"


class _Pipes:
    """Frames over the pipes of a started server, without a thread. Bound to the event loop on which it was created."""

    def __init__(
        self, process: Background, watch: BackgroundWatch | None, pipes: tuple[int, int], receive: Receive, lost: Lost
    ) -> None:
        """`pipes` are the descriptors to read from and to write to; `disconnect` closes both."""
        self._process = process
        self._watch = watch
        self._receive = receive
        self._lost = lost
        self._lines = LineSplitter()
        self._loop = asyncio.get_running_loop()
        self._reader, self._writer = pipes
        self._unsent = bytearray()
        self._blocked = False
        """True while the pipe is full."""
        self._gathering = False
        """True after the first frame of a turn of the loop: the others are written together, at its end."""
        self._open = True
        for pipe in pipes:
            os.set_blocking(pipe, False)
        self._loop.add_reader(self._reader, self._read)

    def send(self, frame: bytes) -> None:
        if not self._open:
            return
        self._unsent += frame
        if self._blocked:
            if len(self._unsent) > _UNSENT_BYTES_MAX:
                self._end("it does not read its input")
        elif not self._gathering:
            self._gathering = True
            self._loop.call_soon(self._gathered)
            self._write()

    async def describe_end(self) -> str:
        """Returns the end of its standard error."""
        try:
            outcome = await asyncio.to_thread(self._process.look)
        except ToolError:
            return ""
        words = " ".join(outcome.stderr.decode("utf-8", "replace").split())
        return words if len(words) <= _STDERR_SHOWN else "..." + words[-_STDERR_SHOWN:]

    def disconnect(self) -> None:
        """Close the pipes, which asks the server to end. On the event loop's thread, or after the loop has ended."""
        if not self._open:
            return
        if self._unsent and not self._blocked:
            with contextlib.suppress(OSError):  # the frames of this turn of the loop
                os.write(self._writer, self._unsent[:_CHUNK])
        self._open = False
        if not self._loop.is_closed():
            self._loop.remove_reader(self._reader)
            self._loop.remove_writer(self._writer)
        os.close(self._reader)
        os.close(self._writer)
        if self._watch is not None:
            self._watch.drop()

    def end(self) -> None:
        """End the server's processes and wait until they have ended. Safe on any thread; blocks briefly."""
        self._process.close()

    def _gathered(self) -> None:
        self._gathering = False
        if self._unsent and self._open and not self._blocked:
            self._write()

    def _write(self) -> None:
        """Write what the pipe takes; the rest follows when it takes more."""
        try:
            del self._unsent[: os.write(self._writer, self._unsent[:_CHUNK])]
        except BlockingIOError:
            pass
        except OSError:
            self._end("it ended")
            return
        if self._unsent and not self._blocked:
            self._loop.add_writer(self._writer, self._write)
        elif self._blocked and not self._unsent:
            self._loop.remove_writer(self._writer)
        self._blocked = bool(self._unsent)

    def _read(self) -> None:
        try:
            data = os.read(self._reader, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end("it ended")
            return
        for line in self._lines.feed(data):
            self._receive(line)

    def _end(self, why: str) -> None:
        self.disconnect()
        self._lost(why)
