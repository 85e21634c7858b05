"""Divides the calls of a session, which do not say where a task begins, into tasks. Pure and deterministic.

A task is what is repeated: two adjacent parts of the same shapes (tools and names of parameters, step by step) are the
same task done twice. The calls after the last repetition, at the end of a session, are also one task.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class _Call(NamedTuple, Generic[T]):
    shape: str | None
    payload: T


class SessionCalls(Generic[T]):
    """The calls of one session that succeeded, in order."""

    def __init__(self, *, shortest: int, longest: int) -> None:
        """`shortest` and `longest` limit the number of calls in a task."""
        self._shortest, self._longest = shortest, longest
        self._calls: list[_Call[T]] = []
        self._told = 0
        """The number of calls that belong to tasks already returned."""

    def add(self, shape: str | None, payload: T) -> list[list[T]]:
        """Add a call. Returns the tasks that it completes, oldest first. A call without a shape belongs to no task."""
        calls = self._calls
        calls.append(_Call(shape, payload))
        found: list[list[T]] = []
        for length in range(self._shortest, min(self._longest, len(calls) // 2) + 1):
            middle, first = len(calls) - length, len(calls) - 2 * length
            block = [call.shape for call in calls[middle:]]
            if None in block or block != [call.shape for call in calls[first:middle]] or len(set(block)) == 1:
                continue
            if middle >= self._told:
                parts = [(first, middle)] if first >= self._told else []
                found = [[call.payload for call in calls[a:b]] for a, b in (*parts, (middle, len(calls)))]
                self._told = len(calls)
            break
        if len(calls) > 4 * self._longest:
            gone = len(calls) - 2 * self._longest
            del calls[:gone]
            self._told = max(0, self._told - gone)
        return found

    def rest(self) -> list[T]:
        """End the session. Returns its last calls if they form a task; they then belong to no other task."""
        left = self._calls[self._told :]
        self._told = len(self._calls)
        for index in range(len(left) - 1, -1, -1):
            if left[index].shape is None:
                left = left[index + 1 :]
                break
        fits = self._shortest <= len(left) <= self._longest
        return [call.payload for call in left] if fits else []

    def remove(self, payload_is_gone: set[int]) -> None:
        """Remove the calls at these positions, which were undone."""
        self._told -= sum(index < self._told for index in payload_is_gone)
        self._calls = [call for index, call in enumerate(self._calls) if index not in payload_is_gone]

    @property
    def payloads(self) -> list[T]:
        """Returns the calls that were added, in order."""
        return [call.payload for call in self._calls]
