"""Reads the proposals of a run so that memory does not grow with their actions.

A proposal with more than `WINDOW` actions is *long*. Its events are not yielded but only noted, and afterwards it is read again,
some actions at a time (a *window*).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Collection, Container, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from interlock.journal import read_batches
from interlock.journal.reader import KINDS, Batch, Place, decode_event, kind_of
from interlock.journal.sealing import SAMPLES_KEPT
from interlock.model import events as e
from interlock.model import typed
from interlock.model.errors import IntegrityError

WINDOW: Final = 2048
"""Maximum number of actions that are in memory at a time."""
_PLACE_BYTES: Final = 1 << 18
"""Distance of the places in a journal from which its events can be read again."""
_BEGINS: Final = frozenset({"action_intent", "action_held"})
"""The kinds that set the time of an action until it has an outcome."""
_ENDS: Final = frozenset(
    {
        "action_succeeded", "action_deduplicated", "action_failed", "action_rejected", "action_skipped",
        "action_unknown_outcome", "action_cancelled",
    }
)  # fmt: skip
"""The kinds that end an action."""
_SAMPLED: Final = "machine_sampled"


class _Line(msgspec.Struct, gc=False):
    """The fields of an event that say which action it is about, and when it was."""

    kind: str
    seq: int
    ts: int
    proposal: str | None = None
    action: str | None = None
    final: bool = True


_decoder: Final[msgspec.json.Decoder[_Line]] = typed.json_decoder(_Line)


class Window(NamedTuple):
    """Some actions of a proposal, with its events about them and about all of its actions, in order, without the receipt."""

    actions: Sequence[str]
    events: Iterator[e.Event | e.Unknown]


class LongProposal:
    """A proposal with many actions: what it is, and where the events of its actions are."""

    def __init__(
        self, directory: Path, received: e.ProposalReceived, places: list[Place], samples: Iterable[int]
    ) -> None:
        """`places` in the journal are added by the caller; `samples` are the numbers of the last readings of the machine."""
        self.received = received
        self._directory = directory
        self.places = places
        self._samples = array("q", samples)
        self._own: list[e.Event] = []
        """Its events that are not about an action."""
        self._actions: dict[str, int] = {}
        """The position, in the next two lists, of each action that the journal mentions; in the order of their first events."""
        self._at_us = array("q")
        self._outcomes = array("q")
        self.seqs = array("q")
        """The numbers of the events about its actions, with the position of the action in the next list."""
        self._owners = array("l")

    @property
    def proposal(self) -> str | None:
        """Its id."""
        return self.received.proposal

    @property
    def mentioned(self) -> Collection[str]:
        """The actions that the journal mentions, in the order of their first events."""
        return self._actions.keys()

    def note(self, line: _Line) -> None:
        """Note an event about one of its actions."""
        action = line.action or ""
        at = self._actions.get(action)
        if at is None:
            at = self._actions[action] = len(self._actions)
            self._at_us.append(0)
            self._outcomes.append(-1)
        self.seqs.append(line.seq)
        self._owners.append(at)
        if line.kind in _BEGINS:
            self._at_us[at] = line.ts
        elif line.kind in _ENDS and line.final:
            self._at_us[at], self._outcomes[at] = line.ts, line.seq

    def note_own(self, event: e.Event) -> None:
        """Note an event of the proposal that is not about an action."""
        self._own.append(event)

    def note_sample(self, seq: int) -> None:
        """Note the number of a reading of the machine."""
        self._samples.append(seq)

    def by_time(self) -> list[str]:
        """The mentioned actions, in the order of the times of their outcomes, or of their last events without one."""
        names = list(self._actions)
        order = sorted(range(len(names)), key=lambda at: (self._at_us[at], self._outcomes[at]))
        return [names[at] for at in order]

    def windows(self, actions: Sequence[str]) -> Iterator[Window]:
        """The windows of some actions, in their order; at least one.

        The events of a window raise as `journal.read`.
        """
        count = max(1, -(-len(actions) // WINDOW))
        window_of = array("l", [-1]) * len(self._actions)
        for number, action in enumerate(actions):
            if action in self._actions:
                window_of[self._actions[action]] = number // WINDOW
        found = [array("q") for _ in range(count)]
        for seq, owner in zip(self.seqs, self._owners, strict=True):
            if window_of[owner] >= 0:
                found[window_of[owner]].append(seq)
        for number, seqs in enumerate(found):
            yield Window(actions[number * WINDOW : (number + 1) * WINDOW], self._events(seqs))

    def _events(self, seqs: Sequence[int]) -> Iterator[e.Event | e.Unknown]:
        """The events of these numbers with the readings that they refer to, and the proposal's own events, in order."""
        if seqs:
            first = bisect_left(self._samples, seqs[0])
            samples = self._samples[max(0, first - SAMPLES_KEPT - 1) : bisect_left(self._samples, seqs[-1])]
            seqs = sorted((*samples, *seqs))
        own = deque(self._own)
        for event in _read_at(self._directory, self.places, seqs):
            while own and own[0].seq < event.seq:
                yield own.popleft()
            yield event
        yield from own


def read_run(directory: Path, wants: Container[str] | None = None) -> Iterator[e.Event | e.Unknown | LongProposal]:
    """The events of a run, in order, without those about actions of long proposals, whose receipt becomes a `LongProposal`.

    It is complete when its end is yielded, or after all events. With `wants`, the events of other kinds are verified, but neither
    decoded nor yielded. Raises as `journal.read`.
    """
    going: dict[str | None, LongProposal] = {}
    places: list[Place] = []
    samples: deque[int] = deque(maxlen=SAMPLES_KEPT + 1)
    for batch in read_batches(directory):
        if not places or batch.place.offset - places[-1].offset >= _PLACE_BYTES:
            places.append(batch.place)
        for number, line in enumerate(batch.lines):
            about = _read_line(line) if going else None
            one = None if about is None else going.get(about.proposal)
            if one is not None and about is not None and about.action is not None:
                one.note(about)
                continue
            kind = kind_of(line)
            if kind == _SAMPLED:
                samples.append(batch.seal.first + number)
                for each in going.values():
                    each.note_sample(samples[-1])
            if one is None and wants is not None and kind not in wants:
                continue
            event = decode_event(batch, number, directory)
            if isinstance(event, e.ProposalReceived) and event.action_count > WINDOW:
                going[event.proposal] = one = LongProposal(directory, event, places, samples)
                yield one
                continue
            if one is not None and not isinstance(event, e.Unknown):
                one.note_own(event)
                if isinstance(event, e.ProposalFinished):
                    del going[event.proposal]
            yield event


def read_rest(directory: Path, proposals: Sequence[LongProposal]) -> Iterator[e.Event | e.Unknown]:
    """The events of a run, in order, without those about actions of some proposals that were read. Raises as `journal.read`."""
    end = max((one.seqs[-1] + 1 for one in proposals if one.seqs), default=0)
    left = bytearray(b"\1") * end
    for one in proposals:
        for seq in one.seqs:
            left[seq] = 0
    places = proposals[0].places if proposals else []
    yield from _read_at(directory, places, (seq for seq in range(end) if left[seq]))
    for batch in read_batches(directory, _place_of(places, end) if end else None):
        for number in range(max(0, end - batch.seal.first), len(batch.lines)):
            yield decode_event(batch, number, directory)


def _read_at(directory: Path, places: Sequence[Place], seqs: Iterable[int]) -> Iterator[e.Event | e.Unknown]:
    """The events of these numbers, which are in order."""
    batch: Batch | None = None
    rest: Iterator[Batch] = iter(())
    for seq in seqs:
        if batch is None or batch.seal.last < seq:
            if batch is None or seq > batch.seal.last + 1:
                place = _place_of(places, seq)
                if batch is None or batch.seal.last < place.head.seq:
                    rest = read_batches(directory, place)
            batch = next((one for one in rest if one.seal.last >= seq), None)
            if batch is None:
                raise IntegrityError(
                    f"the journal of run `{directory.name}` was shortened while it was read",
                    code="journal_corrupt",
                    hint="`interlock runs check RUN` says what is left of it",
                )
        yield decode_event(batch, seq - batch.seal.first, directory)


def _place_of(places: Sequence[Place], seq: int) -> Place:
    """The last place that is not after an event."""
    return places[bisect_right(places, seq - 1, key=lambda one: one.head.seq) - 1]


def _read_line(line: bytes) -> _Line | None:
    """What an event is about; None if that cannot be read, which decoding it as an event reports."""
    try:
        about = _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return about if about.kind in KINDS else None
