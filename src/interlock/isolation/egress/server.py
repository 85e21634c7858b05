"""The egress proxy: one process for all actions of a runtime. It always ends when the runtime does.

It is a separate process because it reads what untrusted programs wrote, must not block the engine's event loop, and must hold
neither keys nor the runtime's environment in memory. Each action has its own `Network`: rules, names, records, limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from interlock.isolation.egress.box import CONNECTIONS_MAX, Network
from interlock.isolation.egress.dial import Dialer, Resolver, system_resolver
from interlock.isolation.egress.ledger import Ledger
from interlock.isolation.egress.programs import Program, Programs
from interlock.isolation.egress.rules import Rules
from interlock.isolation.egress.wire import MESSAGE_BYTES, OPEN, Box, Record, decode, encode
from interlock.isolation.wire import read_memory_file, receive_message
from interlock.model.errors import ConfigurationError
from interlock.model.hosts import Endpoint

_DESCRIPTORS: Final = 128
_RESOLVERS: Final = 64
_WAITING_MAX: Final = 4096
"""Maximum number of records that the runtime has not read yet; further ones are only counted."""
_ASK_S: Final = 30.0
_SHARE: Final = 6
"""An action may use a third of the descriptors (a connection takes two), so that it cannot block others."""
_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38


def main(resolver: Resolver = system_resolver) -> None:
    """Run the proxy. Standard input is the socket; the first argument is the runtime's pid."""
    asyncio.run(serve(int(sys.argv[1]), resolver))


async def serve(runtime_pid: int, resolver: Resolver) -> None:
    """Serve the runtime on descriptor 0 until either ends. Never returns."""
    _prepare()
    channel = socket.socket(fileno=os.dup(0))
    channel.setblocking(False)
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(_RESOLVERS, "resolve"))
    try:
        runtime = os.pidfd_open(runtime_pid)
    except ProcessLookupError:
        os._exit(0)
    if os.getppid() != runtime_pid:
        os._exit(0)
    loop.add_reader(runtime, os._exit, 0)
    tasks: set[asyncio.Task[None]] = set()

    def receive() -> None:
        with contextlib.suppress(BlockingIOError):
            message, fds, flags = receive_message(channel, 64, _DESCRIPTORS)
            if not message:
                os._exit(0)
            if message != OPEN or flags & socket.MSG_CTRUNC or len(fds) < 2:
                for fd in fds:  # the runtime sees the end of the action's socket
                    os.close(fd)
                return
            task = asyncio.create_task(_serve_action(fds, resolver))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    loop.add_reader(channel, receive)
    await asyncio.Event().wait()


async def _serve_action(fds: list[int], resolver: Resolver) -> None:
    """Serve one action until its runtime closes the socket."""
    control = socket.socket(fileno=fds[0])
    control.setblocking(False)
    sockets = [socket.socket(fileno=fd) for fd in fds[2:]]
    with contextlib.ExitStack() as stack:
        stack.enter_context(control)
        for sock in sockets:
            stack.enter_context(sock).setblocking(False)
        try:
            box: Box = json.loads(read_memory_file(fds[1]))
            rules = Rules(box["grants"], box["private"])
        except (OSError, ValueError, KeyError, ConfigurationError):
            return  # the runtime sees that its request was not understood; nothing gets out
        finally:
            os.close(fds[1])
        action = _Action(control)
        kinds, served = box["listeners"], box["programs"]
        listeners = [(kind, port, sock) for (kind, port), sock in zip(kinds, sockets, strict=False)]
        channels = sockets[len(kinds) :]
        programs = Programs(
            (Program(one["name"], sock), one["ports"]) for one, sock in zip(served, channels, strict=True)
        )
        dialer = Dialer(rules, action.ask if box["ask"] else None, resolver, programs)
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = max(1, min(CONNECTIONS_MAX, files // _SHARE))
        await action.run(Network(listeners, dialer, action.ledger, most))


class _Action:
    """The communication with the runtime about one action."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(_WAITING_MAX)
        self._asked: dict[int, asyncio.Future[str | None]] = {}
        self._last_id = 0
        self.ledger = Ledger(self._emit)

    async def run(self, network: Network) -> None:
        """Serve until the runtime sends `close` or ends."""
        writer = asyncio.create_task(self._write())
        try:
            network.open()
            if await self._listen():
                await network.close()
                self.ledger.close()
                await self._waiting.put(encode({"say": "closed", "dropped": self.ledger.dropped}))
                rest = asyncio.create_task(self._waiting.join())
                await asyncio.wait((rest, writer), return_when=asyncio.FIRST_COMPLETED)
                rest.cancel()
        finally:
            await network.drop()
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def ask(self, there: Endpoint) -> str | None:
        """Ask the runtime about a connection; without an answer it is refused."""
        self._last_id += 1
        number = self._last_id
        answer = self._asked[number] = self._loop.create_future()
        try:
            question = {"say": "ask", "id": number, "host": there.host, "port": there.port}
            self._waiting.put_nowait(encode(question))
            async with asyncio.timeout(_ASK_S):
                refusal: str | None = await answer
        except (asyncio.QueueFull, TimeoutError):
            refusal = "policy_error"
        finally:
            del self._asked[number]
        return refusal

    async def _listen(self) -> bool:
        """Handle the runtime's messages. Returns True after `close`, False if the runtime has ended."""
        while data := await self._heard():
            message: dict[str, Any] = decode(data)
            if message["say"] == "close":
                return True
            answer = self._asked.get(message["id"])
            if answer is not None and not answer.done():
                answer.set_result(message["refusal"])
        return False

    async def _heard(self) -> bytes:
        try:
            return await self._loop.sock_recv(self._control, MESSAGE_BYTES)
        except OSError:  # it ended with unread data from us
            return b""

    def _emit(self, record: Record) -> None:
        try:
            self._waiting.put_nowait(encode({"say": "record", **record}))
        except asyncio.QueueFull:
            self.ledger.dropped += record["count"]

    async def _write(self) -> None:
        while True:
            data = await self._waiting.get()
            try:
                await self._loop.sock_sendall(self._control, data)
            finally:
                self._waiting.task_done()


def _prepare() -> None:
    """Disable core dumps, tracing and new privileges, and raise the limit on descriptors."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the runtime, which then ends the actions in an orderly way
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_DUMPABLE, 0), (_PR_SET_NO_NEW_PRIVS, 1)):
        libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
