"""Listens, serves the application, resumes runs beside it, and stops cleanly on SIGINT, SIGTERM or SIGHUP.

Binds to loopback by default: there is no TLS, so over a network a token would be sent unencrypted. One process, one
event loop; database calls run in threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn

from interlock.engine.background_resume import Continuing
from interlock.engine.people.answers import Answering
from interlock.engine.runtime import Runtime
from interlock.model.errors import InterlockError, StoreError, UsageError
from interlock.model.result import ProposalResult
from interlock.surfaces.http_connection import ACCEPTED_MAX, Connection
from interlock.surfaces.web.app import build
from interlock.surfaces.web.middleware import log

PORT: Final = 7417
CONNECTIONS_MAX: Final = 256
SHUTDOWN_S: Final = 5

Say = Callable[[str], None]


def run(
    runtime: Runtime,
    *,
    host: str = "127.0.0.1",
    port: int = PORT,
    allow_remote: bool = False,
    continue_runs: bool = True,
    quiet: bool = False,
    ready: Say,
    warn: Say,
) -> None:
    """Serve until a signal arrives. `port` 0 takes a free port; `ready` is called with the URL once connections are
    accepted. The log goes to standard error; with `quiet` only warnings and errors.

    Raises: UsageError if `host` is not loopback and `allow_remote` is false, or if there is no state to serve;
    StoreError if it cannot listen on the address.
    """
    desk = runtime.approvals.desk
    if not desk.outlives:
        raise UsageError("this runtime stores nothing, so there is nothing to serve")
    listening = _listen(host, port, allow_remote=allow_remote)
    with contextlib.closing(listening), _logging(quiet=quiet):
        answering = Answering(desk, "rest")
        if not _is_loopback(listening.getsockname()[0]):
            warn("there is no TLS: tokens are sent unencrypted; use a TLS proxy or an SSH tunnel")
        if not answering.has_approvers():
            warn("no approver has a token yet, so nobody can approve here; `interlock approvers add` creates one")
        app = build(answering, runtime.clock, _names(listening, host), runtime.refresh)
        config = uvicorn.Config(
            app,
            http=Connection,
            ws="none",
            lifespan="off",
            interface="asgi3",
            proxy_headers=False,  # other machines could claim to be this user
            server_header=False,
            access_log=False,
            log_config=None,
            limit_concurrency=CONNECTIONS_MAX,
            backlog=ACCEPTED_MAX,
            timeout_graceful_shutdown=SHUTDOWN_S,
        )
        server = _Server(config, lambda: ready(_url(listening)))
        with _stop_on_signals(server):
            asyncio.run(_serve(server, listening, Continuing(runtime, _log_resumed) if continue_runs else None))


class _Server(uvicorn.Server):
    """Uvicorn, with a callback once it accepts connections."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()


async def _serve(server: _Server, listening: socket.socket, continuing: Continuing | None) -> None:
    work = asyncio.create_task(continuing.go()) if continuing is not None else None
    serving = asyncio.create_task(server.serve([listening]))
    try:
        await asyncio.wait({serving, work} if work else {serving}, return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            # The background task ends only because of a bug. Stop, rather than silently doing half of the job.
            server.should_exit = True
        await serving
    finally:
        if work is not None:
            work.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work


@contextlib.contextmanager
def _stop_on_signals(server: uvicorn.Server) -> Iterator[None]:
    """Stop the server on SIGINT, SIGTERM and SIGHUP (unless `nohup` ignores it), even before it has started.

    Uvicorn raises SIGINT and SIGTERM again when it has shut down.
    """

    def stop(_number: int, _frame: object) -> None:
        server.should_exit = True

    heard = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        heard.append(signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen(host: str, port: int, *, allow_remote: bool) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"`{host}` is not an address to listen on: {error}", path="--host") from None
    family, kind, protocol, _, address = found[0]
    if not _is_loopback(str(address[0])) and not allow_remote:
        raise UsageError(
            f"`{host}` can be reached from other machines, and there is no TLS",
            path="--host",
            hint="omit `--host`, or add `--allow-remote` if this is intended",
        )
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise StoreError(
            f"cannot listen on {host} port {port}: {error.strerror}", code="listen_failed", hint="use another `--port`"
        ) from None
    return listening


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _names(listening: socket.socket, host: str) -> Callable[[str], bool]:
    """A test for Host headers that name this server: its address, and `localhost` for loopback.

    If other machines may connect, every plain IP address is accepted (rebinding needs a name), and this machine's own
    name.
    """
    bound = str(listening.getsockname()[0])
    names = {host.lower(), bound}
    local = _is_loopback(bound)
    names |= {"localhost"} if local else {"localhost", socket.gethostname().lower()}

    def known(name: str) -> bool:
        if name in names:
            return True
        try:
            return not local and bool(ipaddress.ip_address(name))
        except ValueError:
            return False

    return known


def _url(listening: socket.socket) -> str:
    address, port = listening.getsockname()[:2]
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


def _log_resumed(run_id: str, came: list[ProposalResult] | Exception) -> None:
    if isinstance(came, InterlockError):
        log.warning("run %s cannot be resumed: %s (%s)", run_id or "-", came.message, came.code)
    elif isinstance(came, Exception):
        log.error("a bug in Interlock: run %s cannot be resumed", run_id, exc_info=came)
    else:
        log.info("resumed run %s: %s", run_id, ", ".join(result.status for result in came) or "nothing was left to do")


@contextlib.contextmanager
def _logging(*, quiet: bool) -> Iterator[None]:
    """Log to standard error while serving; only warnings and errors from uvicorn."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    loggers = ((log, logging.WARNING if quiet else logging.INFO), (logging.getLogger("uvicorn.error"), logging.WARNING))
    for logger, level in loggers:
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, _ in loggers:
            logger.removeHandler(handler)
