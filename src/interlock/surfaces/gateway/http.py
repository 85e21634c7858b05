"""`interlock gateway --http`: serves the application on a loopback port."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import secrets
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import uvicorn

from interlock.disk import Disk
from interlock.model.errors import UsageError
from interlock.surfaces.gateway.http_app import PATH, HttpApp
from interlock.surfaces.gateway.http_sessions import SESSIONS_MAX
from interlock.surfaces.http_connection import ACCEPTED_MAX, Connection

_TOKEN_BYTES_MAX: Final = 4096
_TOKEN_CHARS_MIN: Final = 32
_GRACE_S: Final = 5
CONNECTIONS_MAX: Final = 5 * SESSIONS_MAX


def listen(address: str) -> socket.socket:
    """A socket on `PORT`, or `HOST:PORT` with a loopback host. Raises: UsageError."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    host = "127.0.0.1" if host == "localhost" else host
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local or not port.isascii() or not port.isdigit() or int(port) > 65_535:
        raise UsageError(
            f"`{address}` is not a loopback port of this machine",
            hint="for example 127.0.0.1:8765, or 0 for any port; there is no TLS, so use a tunnel from elsewhere",
        )
    try:
        found = socket.create_server((host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        # Inherited by connections. Without it, the second part of an answer waits for the client's delayed
        # acknowledgement, 40 ms.
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise UsageError(f"cannot listen on `{address}`: {os.strerror(error.errno or 0)}") from None
    return found


def token_in(path: Path, disk: Disk) -> str:
    """The token in a file that only its owner can read. Creates the file with a new token if it is missing.

    Raises: UsageError, StoreError.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        token = secrets.token_urlsafe(32)
        disk.write_atomic(path, f"{token}\n".encode())
        return token
    except OSError as error:
        raise UsageError(f"the token file cannot be read: {os.strerror(error.errno or 0)}", path=str(path)) from None
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise UsageError("the token file can be read by others", path=str(path), hint=f"chmod 600 {path}")
        token = file.read(_TOKEN_BYTES_MAX).decode("ascii", "replace").strip()
    if len(token) < _TOKEN_CHARS_MIN or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(
            f"the token is shorter than {_TOKEN_CHARS_MIN} characters, or has other than ASCII characters",
            path=str(path),
            hint="remove the file, and a new token will be written",
        )
    return token


def url_of(listening: socket.socket) -> str:
    """The URL of the application."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}{PATH}" if ":" in host else f"http://{host}:{port}{PATH}"


class _Server(uvicorn.Server):
    """A server that leaves signal handling to the caller."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do not capture signals."""
        yield


async def serve(app: HttpApp, listening: socket.socket, stop: asyncio.Event, ready: Callable[[], None]) -> None:
    """Serve until `stop`. `ready` is called once clients can connect."""
    config = uvicorn.Config(
        app, log_level="error", lifespan="off", ws="none", server_header=False, date_header=False, access_log=False,
        proxy_headers=False, http=Connection, limit_concurrency=CONNECTIONS_MAX, backlog=ACCEPTED_MAX,
        timeout_graceful_shutdown=_GRACE_S, timeout_keep_alive=60,
    )  # fmt: skip
    server = _Server(config)
    task = asyncio.get_running_loop().create_task(server.serve([listening]))
    stopped = asyncio.get_running_loop().create_task(stop.wait())
    while not server.started and not task.done():  # noqa: ASYNC110 - uvicorn has no notification for this
        await asyncio.sleep(0.01)
    ready()
    await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    await app.close()
    server.should_exit = True
    await task
