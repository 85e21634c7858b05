"""Calls that clients execute with their own tools: allowed, held or refused, and how they ended.

The gate's steps are the same as for any call, except that in step 9 the client works, between the hook before the call
and the hook after it. A held call waits for its approval for a while; then the model is told to call again, and that
call continues.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from interlock.engine.runtime import Runtime
from interlock.model.errors import HeldError, InterlockError, ProposalError
from interlock.model.result import CallResult
from interlock.surfaces.clients.hooks import HookEvent, NativeCall, Verdict, deny
from interlock.surfaces.resident.performer import Performer

WAIT_S: Final = 45.0
"""How long a held call waits for its approval inside the hook."""
_LOOK_S: Final = 10.0
_MESSAGE_CHARS_MAX: Final = 2000
_UNFINISHED: Final = "run_finished"
_UNDER_WAY: Final = "another call with this id is in progress: repeat this one when it has ended."

Use = tuple[str, str, str]
"""Client, session with sub-agent, and the client's id of the call."""


class Caller(NamedTuple):
    """The caller of a hook."""

    client: str
    agent: str | None
    """None for the configuration's agent."""
    wait_s: float = WAIT_S
    """How long a held call waits for its approval."""
    hook: tuple[str, ...] = ()
    """Which of the client's hooks asks: those of several scopes may be asked about one call, each once."""


class _Asked(NamedTuple):
    call: NativeCall
    moment: str
    hooks: set[tuple[str, ...]]

    def may_ask(self, call: NativeCall, moment: str, hook: tuple[str, ...]) -> bool:
        """True if another hook asks about the same call. The same hook asks again only about another call that looks the same."""
        if (call, moment) != (self.call, self.moment) or hook in self.hooks:
            return False
        self.hooks.add(hook)
        return True


class _Open(NamedTuple):
    asked: _Asked
    performer: Performer
    task: asyncio.Task[CallResult]
    run_id: str


class _Judged(NamedTuple):
    asked: _Asked
    task: asyncio.Task[Verdict]


class NativeCalls:
    """The native calls of one project. Not thread-safe: use it on one event loop."""

    def __init__(self, runtime: Runtime, warn: Callable[[str], None]) -> None:
        """`warn` is called for errors that occur after the answer was given."""
        self._runtime = runtime
        self._warn = warn
        self._uses = runtime.client_uses
        self._open: dict[Use, _Open] = {}
        self._judged: dict[Use, _Judged] = {}
        """Calls that are being judged, or wait for approval."""
        self.waiting = 0
        """How many calls wait for approval."""

    @property
    def open_count(self) -> int:
        """How many calls clients are executing now."""
        return len(self._open)

    async def before(self, event: HookEvent, call: NativeCall, caller: Caller) -> Verdict:
        """Decide whether the client may make the call.

        If cancelled, nothing of it continues. Raises: StoreError, ConfigurationError.
        """
        use = _use_of(event, caller)
        if not event.call_id:
            return deny("Interlock: the event has no id for the call.")
        while (judged := self._judged.get(use)) is not None or use in self._open:
            if judged is not None:  # hooks of two scopes ask at the same time
                if not judged.asked.may_ask(call, event.moment, caller.hook):
                    return deny(_UNDER_WAY)
                await asyncio.wait([judged.task])
                if not judged.task.cancelled():
                    return judged.task.result()
                continue
            known = self._open[use]
            if known.asked.moment == event.moment:
                may = known.asked.may_ask(call, event.moment, caller.hook)
                return _allowed(known.run_id) if may else deny(_UNDER_WAY)
            await self._give_up([use])  # the same call again: the end of the first one was never reported
        asked = _Asked(call, event.moment, {caller.hook})
        task = asyncio.get_running_loop().create_task(self._judge(use, asked, event, caller))
        self._judged[use] = _Judged(asked, task)
        try:
            return await task
        finally:
            del self._judged[use]

    async def _judge(self, use: Use, asked: _Asked, event: HookEvent, caller: Caller) -> Verdict:
        deadline = asyncio.get_running_loop().time() + caller.wait_s
        while True:
            try:
                return await self._try(use, asked, event, caller)
            except HeldError as held:
                if not await self._answered(held, deadline):
                    return deny(_held(held))
            except ProposalError as error:
                where = (error.path or "").replace("$.actions[0].parameters", "$")
                return deny(f"{f'{where}: ' if where else ''}{error.message}. Nothing was done.")

    async def after(self, event: HookEvent, caller: Caller) -> None:
        """Record the client's report of how a call ended. Unknown calls were never allowed, or are settled already."""
        use = _use_of(event, caller)
        known = self._open.pop(use, None)
        if known is None:
            await self._settle_late(use, succeeded=event.kind == "after")
            return
        if event.kind == "failed":
            known.performer.fail(_cut(str(event.output)))
        else:
            known.performer.end(event.output)
        await asyncio.wait([known.task])

    async def revoke(self, event: HookEvent, caller: Caller) -> None:
        """Revoke the permission: the client was gone before it received it, so nothing was done."""
        known = self._open.pop(_use_of(event, caller), None)
        if known is not None:
            known.performer.released = False
            known.task.cancel()
            await asyncio.wait([known.task])

    async def end_session(self, client: str, session: str) -> None:
        """The client's session is over, so the outcome of its open calls is unknown."""
        ended = [use for use in self._open if use[0] == client and f"{use[1]}/".startswith(f"{session}/")]
        await self._give_up(ended)

    def permission(self, event: HookEvent, call: NativeCall, client: str) -> Verdict:
        """Decide when the client wants to ask its own user.

        This may only narrow: calls that were not allowed here are refused.
        """
        for use, known in self._open.items():
            if use[:2] == (client, _session_of(event)) and known.asked.call == call:
                return Verdict("ask")
        return deny("Interlock: the client asks its user about a call that Interlock has not allowed")

    async def drain(self) -> None:
        """Wait until clients have reported the end of all open calls."""
        while self._open:
            await asyncio.wait([known.task for known in self._open.values()])

    async def close(self) -> None:
        """Stop while clients execute calls: their runs stay unfinished, for the next gate to settle."""
        for known in self._open.values():
            known.task.add_done_callback(_forget)
        self._open.clear()

    async def _try(self, use: Use, asked: _Asked, event: HookEvent, caller: Caller) -> Verdict:
        """Raises: HeldError, ProposalError, and as `Runtime.call`."""
        call = asked.call
        performer = Performer(caller.client, call)
        session = f"{caller.client}-{event.session}" if event.session else None
        work = self._runtime.call(
            call.tool,
            call.parameters,
            agent=caller.agent,
            session=session,
            wait=False,
            resume_held=True,
            client=performer,
        )
        task = asyncio.get_running_loop().create_task(work)
        try:
            ends: list[asyncio.Future[Any]] = [task, performer.ready]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if not performer.ready.done():
                return deny(task.result().for_model())
            run_id = performer.ready.result()
            self._uses.begin(*use, run_id)
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([task])
            raise
        performer.release()
        self._open[use] = _Open(asked, performer, task, run_id)
        task.add_done_callback(lambda done: self._done(use, run_id, done))
        return _allowed(run_id)

    def _done(self, use: Use, run_id: str, task: asyncio.Task[CallResult]) -> None:
        known = self._open.get(use)
        if known is not None and known.task is task:
            del self._open[use]
        if task.cancelled():
            return
        if task.exception() is not None:
            self._warn(f"run {run_id}: {task.exception()}")
        with contextlib.suppress(InterlockError):
            self._uses.end(*use, run_id)

    async def _settle_late(self, use: Use, *, succeeded: bool) -> None:
        """Handle a report about a call that an earlier gate allowed."""
        run_id = self._uses.find(*use)
        if run_id is None:
            return
        try:
            await self._uses.settle(use[0], run_id, succeeded=succeeded)
        except InterlockError as error:
            if error.code != _UNFINISHED:
                self._warn(f"run {run_id}: {error.message}")
                return
        self._uses.end(*use, run_id)

    async def _give_up(self, uses: list[Use]) -> None:
        tasks = [self._open.pop(use).task for use in uses]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _answered(self, held: HeldError, deadline: float) -> bool:
        """Wait for an approval until the deadline of the loop's clock."""
        if held.code != "held":
            return False
        loop = asyncio.get_running_loop()
        self.waiting += 1
        try:
            while (left := deadline - loop.time()) > 0:
                if await self._runtime.approvals.wait(held.approval, min(left, _LOOK_S)):
                    return True
        finally:
            self.waiting -= 1
        return False


def _session_of(event: HookEvent) -> str:
    return event.session if event.sub_agent is None else f"{event.session}/{event.sub_agent}"


def _use_of(event: HookEvent, caller: Caller) -> Use:
    return caller.client, _session_of(event), event.call_id


def _allowed(run_id: str) -> Verdict:
    return Verdict("allow", f"Interlock: allowed ({run_id})")


def _cut(message: str) -> str:
    """The beginning of a message, without the word in which it is cut off: half a secret would not be recognised."""
    if len(message) <= _MESSAGE_CHARS_MAX:
        return message
    return re.sub(r"\S+\Z", "", message[:_MESSAGE_CHARS_MAX]) + "..."


def _held(held: HeldError) -> str:
    if held.code != "held":
        return (
            f"[HELD] {held.code}: {held.message}. Settle it with `interlock recover {held.run_id}`. Nothing was done."
        )
    return (
        f"[HELD] {held.message}. Nothing was done yet. A person can answer with `interlock approvals approve {held.approval}` or"
        " `deny`. Make the same call again: once it is approved, it continues."
    )


def _forget(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
