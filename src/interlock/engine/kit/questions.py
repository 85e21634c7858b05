"""Asks the caller's own function about held actions: `on_question=`.

The function stands where a prompt at the run's own terminal would: it is code of the program that started the run, so it
answers as the person who runs the program, without a token.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, cast

from interlock.engine.people.answers import Answering, Choice, Hold
from interlock.engine.people.approval_desk import ASKING, Asking, Desk
from interlock.engine.people.identity import at_own_terminal, require
from interlock.engine.services import Services
from interlock.model.errors import ConflictError, UsageError

Reply = bool | Mapping[str, Any] | None
"""True approves, False denies, a mapping is a JSON merge patch of the parameters and approves them so; None leaves it open."""

OnQuestion = Callable[[Hold], Reply | Awaitable[Reply]]
"""Called with each question. An async function runs on the event loop, a plain one on a thread: it may call `input()`."""


@asynccontextmanager
async def asking(services: Services, *, wait: bool, on_question: OnQuestion | None) -> AsyncIterator[None]:
    """The work inside is asked about in this way. With `wait=False` nobody is asked here: a held action is left open.

    Raises: what `on_question` raised; the question is then denied.
    """
    desk = services.desk
    questions = None if on_question is None or desk is None or not wait else _Questions(services, desk, on_question)
    token = ASKING.set(Asking(wait=wait, tell=None if questions is None else questions.tell))
    try:
        yield
    finally:
        ASKING.reset(token)
        if questions is not None:
            await questions.close()
    if questions is not None and questions.failure is not None:
        raise questions.failure


class _Questions:
    """The questions of one piece of work, each in a task of its own."""

    def __init__(self, services: Services, desk: Desk, on_question: OnQuestion) -> None:
        self._services = services
        self._desk = desk
        self._answering = Answering(desk, "python")
        self._on_question = on_question
        self._tasks: set[asyncio.Task[None]] = set()
        self.failure: Exception | None = None

    def tell(self, hold: Hold) -> None:
        """Begin to ask."""
        self._tasks.add(asyncio.get_running_loop().create_task(self._ask(hold)))

    async def close(self) -> None:
        """The work is over: what is still being asked was answered elsewhere, or withdrawn."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _ask(self, hold: Hold) -> None:
        try:
            self._answer(hold, await self._reply(hold))
        except Exception as error:  # noqa: BLE001 - whatever the caller's function raises, the question must be denied
            self.failure = self.failure or error
            self._vote(hold, "deny", reason=f"the program's own question failed: {type(error).__name__}")

    async def _reply(self, hold: Hold) -> Reply:
        function = self._on_question
        if inspect.iscoroutinefunction(function):
            return cast("Reply", await function(hold))
        reply: Any = await self._services.threads.run(asyncio.get_running_loop(), function, hold)
        return cast("Reply", await reply if inspect.isawaitable(reply) else reply)

    def _answer(self, hold: Hold, reply: Reply) -> None:
        if reply is None:
            return
        if reply is True or reply is False:
            self._vote(hold, "approve" if reply else "deny")
        elif isinstance(reply, Mapping):
            self._vote(hold, "edit", patch=dict(reply))
        else:
            raise UsageError(
                f"`on_question` returned a `{type(reply).__name__}`",
                hint="True approves, False denies, a mapping edits the parameters, None leaves the question open",
            )

    def _vote(self, hold: Hold, choice: Choice, *, reason: str = "", patch: dict[str, Any] | None = None) -> None:
        approver = at_own_terminal(self._desk)
        outcome = self._answering.answer(hold.id, approver, choice, digest=hold.digest, reason=reason, patch=patch)
        try:
            require(outcome, hold.id)
        except ConflictError as error:
            if error.code != "already_resolved":  # somebody else was quicker, which is fine
                raise
