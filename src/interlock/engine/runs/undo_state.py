"""The part of an undo that restores the previous values of state keys."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from typing import Final

from interlock.engine.gate.entailed import UNDO_TOOL
from interlock.engine.judges.reach import Reach
from interlock.engine.proposals.proposal_run import ProposalRun
from interlock.engine.record.replay import ReplayedProposal
from interlock.model.canonical import canonical
from interlock.model.errors import UsageError
from interlock.state.store import Transition

_KEYS_AT_ONCE: Final = 1000
Leave = Callable[[str, str, str], None]
"""Reports an effect that is not undone: the action's id, the reason, and a sentence."""
_Writer = tuple[str, str | None, str | None]
"""A run, a proposal and an action."""


class StateUndo:
    """The keys that one undo restores, for all of its actions, newest first."""

    def __init__(self, run: ProposalRun, index: int, reach: Reach, leave: Leave, *, force: bool) -> None:
        """`run` and `index` are the undo's own; with `force` a key is restored even if it was changed since."""
        self.keys: list[str] = []
        """The restored keys."""
        self._run = run
        self._index = index
        self._reach = reach
        self._leave = leave
        self._force = force
        self._at: dict[str, int] = {}
        """The restored version of each key: an older action finds its own write there."""
        # Read once for all actions: an undo may have a hundred thousand.
        self._written: dict[str, dict[str, dict[str, None]]] = {}
        self._coming: list[str] = []
        """Keys whose history is not read yet, the next to be restored last."""
        self._pasts: dict[str, _Past] = {}

    def restore(self, known: ReplayedProposal, action_id: str) -> bool:
        """Restore the previous values of the keys that the action wrote. True if it had written any."""
        keys = self._keys_of(known).get(action_id)
        if keys is not None and known.committed is not None:
            writer = (known.run_id, known.received.proposal, action_id)
            for key in reversed(keys):
                self._restore_key(writer, action_id, key)
        return keys is not None

    def _restore_key(self, writer: _Writer, action_id: str, key: str) -> None:
        if self._reach.state_key(key) is not None:
            self._leave(action_id, "state_key_denied", f"no grant of the agent allows state `{key}`")
            return
        past = self._past(key)
        mine = past.of.get(writer)
        now = self._run.buffer.get(key)
        if not mine:
            return
        before = past.before(mine[0].version)
        gone = before is None or before.deleted
        if now is None if gone else now is not None and before is not None and _is_same(now.value, before.value):
            self._at[key] = mine[0].version - 1  # already restored
            return
        current = self._at.get(key) or (now.version if now is not None else past.versions[-1])
        between = mine[-1].version - mine[0].version >= len(mine)
        if (between or not self._is_as_left(past, mine[-1], current)) and not self._force:
            self._leave(action_id, "state_conflict", f"state `{key}` was changed since")
            return
        self._run.write_state(self._index, key, None if before is None else before.value, delete=gone)
        self._at[key] = mine[0].version - 1
        self.keys.append(key)

    def _keys_of(self, known: ReplayedProposal) -> dict[str, dict[str, None]]:
        """The keys that each action of a proposal wrote, in the order of the last writes."""
        proposal_id = known.received.proposal or ""
        found = self._written.get(proposal_id)
        if found is None:
            found = self._written[proposal_id] = {}
            for owner, change in known.writes:
                keys = found.get(owner)
                if keys is None:
                    found[owner] = {change.key: None}
                else:
                    keys.pop(change.key, None)
                    keys[change.key] = None
            self._coming = list(dict.fromkeys(change.key for _, change in known.writes))
        return found

    def _past(self, key: str) -> _Past:
        """The history of a key, which is read together with those of the next keys."""
        if key not in self._pasts:
            some = {key, *self._coming[-_KEYS_AT_ONCE:]}
            del self._coming[-_KEYS_AT_ONCE:]
            new = [one for one in some if one not in self._pasts]
            for one, history in self._run.buffer.histories(new).items():
                self._pasts[one] = _Past(history)
        return self._pasts[key]

    def _is_as_left(self, past: _Past, left: Transition, current: int) -> bool:
        """True if the key is as a run left it: nothing has written it since, except undos that restored the same value.

        A value from another writer is not undone, even if it is equal, because it may mean something else.
        """
        since = past.between(left.version, current)
        if since is None:
            return False
        return not since or (
            (since[-1].deleted, canonical(since[-1].value)) == (left.deleted, canonical(left.value))
            and all(self._is_undo(run) for run in {change.run for change in since})
        )

    def _is_undo(self, run_id: str) -> bool:
        try:
            return self._run.services.index.get(run_id).source == UNDO_TOOL
        except UsageError:  # pruned, or a write without a run
            return False


class _Past:
    """The changes of a key with their authors, oldest first."""

    __slots__ = ("_history", "of", "versions")

    def __init__(self, history: list[Transition]) -> None:
        self.versions = [change.version for change in history]
        self.of: dict[_Writer, list[Transition]] = {}
        self._history = history
        for change in history:
            self.of.setdefault((change.run, change.proposal, change.action), []).append(change)

    def before(self, version: int) -> Transition | None:
        """The last change before a version."""
        at = bisect_left(self.versions, version)
        return self._history[at - 1] if at else None

    def between(self, version: int, last: int) -> list[Transition] | None:
        """The changes after `version`, up to `last`; None if they are not all known, or `last` is earlier."""
        start, end = bisect_right(self.versions, version), bisect_right(self.versions, last)
        return self._history[start:end] if end - start == last - version else None


def _is_same(one: object, other: object) -> bool:
    """True if two values of state are the same JSON."""
    return canonical(one) == canonical(other)
