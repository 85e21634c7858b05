"""Calls the caller's own function with held actions: `on_question=`.

The function replaces a prompt at the run's terminal: it is code of the program that started the run, so it answers as the person
who runs the program, without a token.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, cast

from interlock.engine.people.answers import Answering, Choice, Hold
from interlock.engine.people.approval_desk import ASKING, Asking, Desk
from interlock.engine.people.identity import at_own_terminal, require
from interlock.engine.tools.threads import DaemonThreads
from interlock.model import typed
from interlock.model.errors import StoreError, UsageError

Reply = bool | Mapping[str, Any] | None
"""True approves, False denies, a mapping (a JSON merge patch) edits the parameters and approves them; None leaves it open."""

OnQuestion = Callable[[Hold], Reply | Awaitable[Reply]]
"""Called with each question. An async function runs on the event loop, a plain one on a thread: it may call `input()`."""


_WAIT: Final = Asking(wait=True, tell=None)


class asking:  # noqa: N801 - used like a function; a class, because every proposal enters one and a generator costs more
    """Handle the questions of the work in the block. With `wait=False`, `on_question` is not called: a held action is left open.

    Raises: the error of `on_question`; the question is then withdrawn, so the action is rejected.
    """

    __slots__ = ("_asking", "_questions", "_token")

    def __init__(self, desk: Desk, threads: DaemonThreads, *, wait: bool, on_question: OnQuestion | None) -> None:
        """Has no effect until the block is entered."""
        self._questions: _Questions | None = None
        typed.require_function(on_question, "on_question")
        if on_question is not None and wait:
            self._questions = _Questions(desk, threads, on_question)
            self._asking = Asking(wait=True, tell=self._questions.tell)
        else:
            self._asking = _WAIT if wait else Asking(wait=False, tell=None)

    async def __aenter__(self) -> None:
        self._token = ASKING.set(self._asking)

    async def __aexit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        ASKING.reset(self._token)
        questions = self._questions
        if questions is not None:
            await questions.close()
            if questions.failure is not None and error is None:
                raise questions.failure


class _Questions:
    """The questions of one piece of work, each in a separate task."""

    def __init__(self, desk: Desk, threads: DaemonThreads, on_question: OnQuestion) -> None:
        self._desk = desk
        self._threads = threads
        self._answering = Answering(desk, "python")
        self._on_question = on_question
        self._tasks: set[asyncio.Task[None]] = set()
        self.failure: Exception | None = None

    def tell(self, hold: Hold) -> None:
        """Start to ask a question."""
        self._tasks.add(asyncio.get_running_loop().create_task(self._ask(hold)))

    async def close(self) -> None:
        """End: questions that are still open were answered elsewhere, or withdrawn."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _ask(self, hold: Hold) -> None:
        try:
            while not self._answer(hold, await self._reply(hold)):
                edited = self._answering.hold(hold.id)  # if another person edited it: only the seen version counts
                assert edited is not None, "questions are never deleted"
                hold = edited
        except Exception as error:  # noqa: BLE001 - whatever the caller's function raises, the action must not run
            self.failure = self.failure or error
            # Not a denial: no person gave one. If this cannot be written, the question stays open and then expires.
            with contextlib.suppress(StoreError):
                self._desk.store.cancel(hold.id, f"`on_question` failed: {type(error).__name__}", who=self._desk.user)

    async def _reply(self, hold: Hold) -> Reply:
        function = self._on_question
        if inspect.iscoroutinefunction(function):
            return cast("Reply", await function(hold))
        reply: Any = await self._threads.run(asyncio.get_running_loop(), function, hold)
        return cast("Reply", await reply if inspect.isawaitable(reply) else reply)

    def _answer(self, hold: Hold, reply: Reply) -> bool:
        """Pass the reply on. False if the question has changed meanwhile."""
        patch: dict[str, Any] | None = None
        if reply is None:
            return True
        if reply is True or reply is False:
            choice: Choice = "approve" if reply else "deny"
        elif isinstance(reply, Mapping):
            choice, patch = "edit", dict(reply)
        else:
            raise UsageError(
                f"`on_question` returned a `{type(reply).__name__}`",
                hint="True approves, False denies, a mapping edits the parameters, None leaves the question open",
            )
        outcome = self._answering.answer(hold.id, at_own_terminal(self._desk), choice, digest=hold.digest, patch=patch)
        if outcome.code == "changed":
            return False
        if outcome.code != "already_resolved":  # another person was faster, which is fine
            require(outcome, hold.id)
        return True
