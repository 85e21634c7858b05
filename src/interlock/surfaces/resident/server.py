"""Connections on the gate's socket, one request each.

The socket's peer credentials identify the caller: only this user.

The wire format is described in `clients/hook_program.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from interlock._version import __version__
from interlock.model.errors import InterlockError, ProposalError
from interlock.surfaces.clients.client import Client
from interlock.surfaces.clients.gateway_name import find_impostor
from interlock.surfaces.clients.hooks import Dialect, GatewayCall, HookEvent, Reply, Verdict, deny, failure, placed
from interlock.surfaces.clients.known import find_speaker
from interlock.surfaces.resident.native_calls import WAIT_S, Caller, NativeCalls
from interlock.surfaces.resident.projects import Project, Projects

HEAD_BYTES_MAX: Final = 1024 * 1024
BODY_BYTES_MAX: Final = 64 * 1024 * 1024
READ_SECONDS: Final = 10.0
"""Maximum time for a request to arrive."""
_NOT_DELIVERED: Final = b"N"
_BANNER: Final = b"interlock 1 "
_HOOK: Final = ("client", "project", "agent", "mode")
"""What distinguishes the hooks that `interlock install` has written in several places."""


class _Heard:
    """The call that a hook was allowed to make."""

    calls: NativeCalls | None = None
    event: HookEvent
    caller: Caller


class Server:
    """Answers the requests of one gate."""

    def __init__(self, projects: Projects, version_text: bytes, warn: Callable[[str], None]) -> None:
        """`version_text` is the content of `_version.py` as this process has loaded it."""
        self._projects = projects
        self._version = version_text
        self._warn = warn
        self.stopping = asyncio.Event()
        """Set when the gate is to exit: on request, or because a newer Interlock wants to take over."""
        self.used = asyncio.Event()
        """Set by each request."""
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def is_busy(self) -> bool:
        """True while a call is in progress or waits for approval."""
        return any(project.calls.open_count or project.calls.waiting for project in self._projects.all())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass  # it disconnected, or sent no request
        except asyncio.CancelledError:
            if not self.stopping.is_set():
                raise
        finally:
            self._connections.discard(task)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def close(self) -> None:
        """End every connection without an answer; waiting hooks ask the next gate again."""
        for task in self._connections:
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if _peer_uid(writer) != os.geteuid():
            return
        async with asyncio.timeout(READ_SECONDS):
            banner = await reader.readuntil(b"\n")
            sizes = await reader.readexactly(16)
            head, body = (int.from_bytes(part, "big") for part in (sizes[:8], sizes[8:]))
            if not banner.startswith(_BANNER) or head > HEAD_BYTES_MAX or body > BODY_BYTES_MAX:
                _send(writer, failure("the request does not follow the protocol, or is too large"))
                return
            given, data = _pairs(await reader.readexactly(head)), await reader.readexactly(body)
        self.used.set()
        match banner[len(_BANNER) :].strip():
            case b"hook":
                await self._serve_hook(reader, writer, given, data)
                return
            case b"status":
                reply = Reply(0, msgspec.json.encode(self._status()))
            case b"stop":
                self.stopping.set()
                reply = Reply(0, b"{}")
            case _:
                reply = failure("the request does not follow the protocol")
        _send(writer, reply)
        await writer.drain()

    async def _serve_hook(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, given: Mapping[str, str], data: bytes
    ) -> None:
        """Answer a hook. If the hook ends meanwhile, or has to ask another gate, nothing continues."""
        named = given.get("version", "").encode()
        if named != self._version and _is_newer(named, self._version):
            self.stopping.set()  # the code beside the hook differs from what this process has loaded
            return
        heard = _Heard()
        work = asyncio.ensure_future(self._hook(given, data, heard))
        ended = asyncio.ensure_future(reader.read(1))
        try:
            ends: list[asyncio.Future[Any]] = [work, ended]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return
            _send(writer, work.result())
            await writer.drain()
            async with asyncio.timeout(READ_SECONDS):
                if await ended == _NOT_DELIVERED and heard.calls is not None:
                    await heard.calls.revoke(heard.event, heard.caller)
        finally:
            ended.cancel()
            if not work.done():
                work.cancel()
                await asyncio.wait([work])

    async def _hook(self, given: Mapping[str, str], data: bytes, heard: _Heard) -> Reply:
        """The answer to an event. Any failure is a refusal, with a reason that the model and the person can read."""
        try:
            client = find_speaker(given.get("client", ""), data)
            if client is None or client.dialect is None:
                return failure(f"`{given.get('client', '')[:80]}` is not a client with hooks")
            event = client.dialect.read(data, given.get("event", ""))
            if event.kind == "other" and event.tool:
                return failure(f"the tool call is in an event that Interlock does not know, `{event.name[:80]}`")
            return client.dialect.reply(event, await self._decide(client, event, given, heard))
        except (ValueError, ProposalError) as error:
            return failure(f"Interlock does not understand the event: {error}")
        except Exception as error:  # noqa: BLE001 - a bug refuses the call, and ends nothing else
            self._warn(f"a bug in Interlock: {type(error).__name__}: {error!r}")
            return failure("an internal error; see the gate's log")

    async def _decide(self, client: Client, event: HookEvent, given: Mapping[str, str], heard: _Heard) -> Verdict:
        """The verdict on an event. Any failure is a refusal."""
        try:
            hook = tuple(given.get(name, "") for name in _HOOK)
            caller = Caller(client.name, given.get("agent") or None, float(given.get("wait") or WAIT_S), hook)
            return await self._verdict(client, event, given, caller, heard)
        except InterlockError as error:
            hint = f" ({error.hint})" if error.hint else ""
            return deny(f"Interlock: {error.code}: {error.message}{hint}")
        except ValueError as error:  # an invalid input of a tool
            return deny(f"Interlock: the input does not fit `{event.tool}`: {error}")
        except Exception as error:  # noqa: BLE001 - as above, in the client's own form
            self._warn(f"a bug in Interlock: {type(error).__name__}: {error!r}")
            return deny("Interlock: an internal error; see the gate's log")

    async def _verdict(
        self, client: Client, event: HookEvent, given: Mapping[str, str], caller: Caller, heard: _Heard
    ) -> Verdict:
        """Raises: ValueError for an input that does not fit its tool; ConfigurationError, StoreError, UsageError."""
        dialect = client.dialect
        assert dialect is not None
        env = {name.removeprefix("env."): value for name, value in given.items() if name.startswith("env.")}
        told = "" if event.cwd_is_chosen else event.cwd
        start = given.get("project") or env.get(dialect.project_variable or "") or told or given.get("cwd", "")
        if event.kind == "settings":
            return deny("Interlock: settings cannot change in the middle of a session: start a new one")
        if event.kind == "other":
            return Verdict("allow")
        if not start:
            return deny("Interlock: the event names no project, and its directory was removed")
        project = await self._projects.find(start, env)
        match event.kind:
            case "start":
                return Verdict(
                    "allow", f"Interlock checks each tool call in {project.root}; a refusal gives the reason."
                )
            case "end":
                await project.calls.end_session(caller.client, event.session)
                return Verdict("allow")
            case "after" | "failed":
                await project.calls.after(event, caller)
                return Verdict("allow")
            case _:
                return await self._call_verdict(project, client, dialect, event, given, caller, heard)

    async def _call_verdict(
        self,
        project: Project,
        client: Client,
        dialect: Dialect,
        event: HookEvent,
        given: Mapping[str, str],
        caller: Caller,
        heard: _Heard,
    ) -> Verdict:
        """The verdict on an event before a tool call. Raises: as `_verdict`."""
        found = dialect.translate(event)
        if isinstance(found, GatewayCall):
            return _judge_gateway_call(project, client, found)
        if isinstance(found, Verdict):
            return found
        if given.get("mode") == "replace":
            return deny(f"`{event.tool}` is off here: use the tools of the MCP server `interlock`. Nothing was done.")
        call = placed(found, project.root, event.cwd)
        if isinstance(call, Verdict):
            return call
        if event.kind == "permission":
            return project.calls.permission(event, call, caller.client)
        verdict = await project.calls.before(event, call, caller)
        if verdict.decision == "allow":
            heard.calls, heard.event, heard.caller = project.calls, event, caller
        return verdict

    def _status(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "pid": os.getpid(),
            "projects": [
                {"root": one.root, "open": one.calls.open_count, "waiting": one.calls.waiting}
                for one in self._projects.all()
            ],
        }


def _judge_gateway_call(project: Project, client: Client, call: GatewayCall) -> Verdict:
    """Leave a call to the gateway, unless another server has its name, or one that begins with it."""
    if project.runtime.tool_named(call.tool, "mcp") is None:
        return deny(f"`{call.tool[:80]}` is not a tool of `interlock gateway`; tools of other servers are not allowed.")
    if (name := find_impostor(client, project.root)) is not None:
        return deny(f"`{name}` cannot be read, or gives the name of Interlock's gateway to another server.")
    return Verdict("allow", "Interlock: the gateway checks it")


def _pairs(head: bytes) -> dict[str, str]:
    pairs = (part.split(b"=", 1) for part in head.split(b"\0") if b"=" in part)
    return {os.fsdecode(name): os.fsdecode(value) for name, value in pairs}


def _send(writer: asyncio.StreamWriter, reply: Reply) -> None:
    sizes = len(reply.stdout).to_bytes(8, "big") + len(reply.stderr).to_bytes(8, "big")
    writer.write(bytes([reply.exit_code]) + sizes + reply.stdout + reply.stderr)


def _peer_uid(writer: asyncio.StreamWriter) -> int:
    connection = writer.get_extra_info("socket")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])


def _is_newer(text: bytes, own: bytes) -> bool:
    """True if the version text names a later version. Hooks of an older installation are served by the newer gate."""
    return _numbers(text) > _numbers(own)


def _numbers(text: bytes) -> list[int]:
    version = text.decode(errors="replace").rpartition("=")[2].strip().strip("\"'")
    return [int(part) for part in version.split(".") if part.isdecimal()]
