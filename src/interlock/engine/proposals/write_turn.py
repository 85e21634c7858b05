"""A proposal's turn to write in the workspace, as the gate's steps see it. `runs/write_lease` implements it."""

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
    """The turn of one proposal. It is released while the proposal only waits, and taken again in step 7."""

    def try_enter(self, action: Caller) -> bool:
        """Enter if the proposal already has its turn. False if `enter` has to take it first."""
        ...

    async def enter(self, action: Caller) -> Refusal | None:
        """Step 7: wait for the turn. The waiting time is added to the action's. Raises: StoreError."""
        ...

    def leave(self, action: Caller) -> None:
        """Leave, because the action has ended or waits, and does not write any more."""
        ...

    def pause(self, action: Caller) -> AbstractContextManager[None]:
        """The block waits (for a person, or for time to pass): others may write meanwhile, if no action of the proposal does."""
        ...

    async def take_for_commit(self) -> None:
        """Take the turn to write everything, before the proposal's layer is committed, however long that takes."""
        ...

    async def take_for_undo(self) -> None:
        """Take the turn to write everything that a rollback may change, however long that takes."""
        ...
