"""The scheduler: which actions may start now. Pure: the same events always give the same commands, and nothing waits here.

`step(event)` advances the state and returns what follows from the event. Live runs and the replay of a journal both go
through it, so a resumed run continues exactly where the journal says. Time over a whole proposal is O(V + E).
"""

from __future__ import annotations

from enum import IntEnum

from interlock.verify.graph import Graph


class Outcome(IntEnum):
    """How an action ended, as far as the order of the other actions is concerned."""

    DONE = 1
    """It succeeded: the actions that wait for it may continue."""
    FAILED = 2
    """It did not succeed, and the proposal continues: the actions that need it are skipped."""
    ABORT = 3
    """It did not succeed, and no other action may start."""


_WAITING, _DOOMED, _ENDED = 0, 1, 2
_DONE = Outcome.DONE


class Scheduler:
    """Decides which actions of a proposal may start. Actions are indices into the graph."""

    __slots__ = ("_dependents", "_order", "_reserved", "_state", "_waits", "halted", "remaining")

    def __init__(self, graph: Graph) -> None:
        """No action has run yet; call `start` next."""
        self._waits = graph.waits.copy()
        self._dependents = graph.dependents
        self._order = graph.order
        self._reserved = graph.reserved
        self._state = bytearray(graph.size)
        self.remaining = graph.size - len(graph.reserved)
        self.halted = False

    def start(self) -> tuple[list[int], list[int]]:
        """The first commands: (actions that may start, in order; actions that are skipped)."""
        ready: list[int] = []
        skipped: list[int] = []
        for i in self._reserved:
            # It runs only as a compensation: actions that need it cannot run, and it has no place in the order.
            self._state[i] = _ENDED
        ready = [i for i in self._order if not self._waits[i] and self._state[i] == _WAITING]
        for i in sorted(self._reserved):
            self._release(i, failed=True, ready=ready, skipped=skipped)
        return ready, skipped

    def step(self, action: int, outcome: Outcome) -> tuple[list[int], list[int]]:
        """Record that an action ended. Returns (actions that may start now, actions that are skipped because of it)."""
        state = self._state
        assert state[action] != _ENDED, "an action ends once"
        state[action] = _ENDED
        self.remaining -= 1
        ready: list[int] = []
        skipped: list[int] = []
        if outcome is _DONE:
            waits = self._waits
            for j in self._dependents[action]:
                k = j if j >= 0 else ~j
                waits[k] -= 1
                if not waits[k]:
                    if state[k] == _WAITING:
                        ready.append(k)
                    elif state[k] == _DOOMED:
                        self._skip(k, ready, skipped)
        elif outcome is Outcome.ABORT:
            self.halted = True
        else:
            self._release(action, failed=True, ready=ready, skipped=skipped)
        return ([] if self.halted else ready), skipped

    def halt(self) -> None:
        """Let no other action start (budget used up, deadline passed, caller gone)."""
        self.halted = True

    def ended(self, action: int) -> bool:
        """True once `step` was called for the action, or it was skipped, or it is reserved as a compensation."""
        return self._state[action] == _ENDED

    def _release(self, action: int, *, failed: bool, ready: list[int], skipped: list[int]) -> None:
        """Remove the edges that leave an ended action.

        An action whose dependency failed will be skipped, but it keeps its place in the order until everything before it has
        ended: otherwise a later action could overtake an earlier one.
        """
        waits, state, dependents = self._waits, self._state, self._dependents
        for j in dependents[action]:
            k = j if j >= 0 else ~j
            waits[k] -= 1
            if state[k] == _ENDED:
                continue
            if failed and j >= 0:
                state[k] = _DOOMED
            if not waits[k]:
                if state[k] == _WAITING:
                    ready.append(k)
                else:
                    self._skip(k, ready, skipped)

    def _skip(self, action: int, ready: list[int], skipped: list[int]) -> None:
        """Skip an action and those that depend on it, without recursion: a chain may be 100,000 long."""
        stack = [action]
        while stack:
            i = stack.pop()
            self._state[i] = _ENDED
            self.remaining -= 1
            skipped.append(i)
            for j in self._dependents[i]:
                k = j if j >= 0 else ~j
                self._waits[k] -= 1
                if self._state[k] == _ENDED:
                    continue
                if j >= 0:
                    self._state[k] = _DOOMED
                if not self._waits[k]:
                    if self._state[k] == _DOOMED:
                        stack.append(k)
                    else:
                        ready.append(k)
