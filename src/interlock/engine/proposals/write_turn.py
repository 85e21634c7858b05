"""A proposal's turn to write in the workspace, as the gate's steps see it. How turns are taken is in `runs/write_lease`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from interlock.engine.tools.registry import Registered
from interlock.model.decision import Refusal
from interlock.model.proposal import Action


class Caller(Protocol):
    """An action on its way (`ActionRun`)."""

    index: int
    spec: Action
    tool: Registered | None
    parameters: dict[str, Any]
    in_turn: bool
    """True while the action may be writing."""
    waited_ns: int
    shown: tuple[tuple[Any, str | None], ...]


class WriteTurn(Protocol):
    """The turn of one proposal. It is given back whenever all that is left to do is to wait, and taken again in step 7."""

    def try_enter(self, action: Caller) -> bool:
        """Enter if the proposal has its turn already. False if it has to be taken: `enter` does."""
        ...

    async def enter(self, action: Caller) -> Refusal | None:
        """Step 7: wait for the turn. Time that was waited is added to the action's. Raises: StoreError."""
        ...

    def leave(self, action: Caller) -> None:
        """The action has ended, or waits: it writes no more."""
        ...

    def pause(self, action: Caller) -> AbstractContextManager[None]:
        """The block waits (for a person, for time to pass): meanwhile others may write, if nothing of the proposal does."""
        ...

    async def take_for_commit(self) -> None:
        """Before the layer of the proposal is committed: the turn to write everything, however long that takes."""
        ...

    async def take_for_undo(self) -> None:
        """Before the proposal is rolled back: the turn to write all that this may touch, however long that takes."""
        ...
