"""Journals: a run's write-ahead log, its seals, recovery, and the list of runs.

The journal of a run is its authoritative record. One process writes it (`JournalWriter`), any process may read it (`read`,
`scan`), and after a crash it is recovered first (`recover`).

Exported names are imported on first use, because the list of runs needs neither keys nor an event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interlock.lazy import lazy_exports

if TYPE_CHECKING:
    from interlock.journal.heads import decode_head, read_head, sign_head, verify_head
    from interlock.journal.index import RunIndex, RunRow, SessionRow
    from interlock.journal.memory import KeptRuns, MemoryJournal
    from interlock.journal.private import delete_private, read_private
    from interlock.journal.pruning import keep, prune
    from interlock.journal.reader import Corruption, JournalStatus, Tail, Torn, read, read_batches, scan
    from interlock.journal.recovery import RecoveryReport, TornIntent, intents_in_torn_tail, recover
    from interlock.journal.sealed_file import Durability
    from interlock.journal.sealing import Head
    from interlock.journal.writer import JournalWriter
else:
    __getattr__ = lazy_exports(
        __name__,
        {
            "Corruption": "reader",
            "Durability": "sealed_file",
            "Head": "sealing",
            "JournalStatus": "reader",
            "JournalWriter": "writer",
            "KeptRuns": "memory",
            "MemoryJournal": "memory",
            "RecoveryReport": "recovery",
            "RunIndex": "index",
            "RunRow": "index",
            "SessionRow": "index",
            "Tail": "reader",
            "Torn": "reader",
            "TornIntent": "recovery",
            "decode_head": "heads",
            "delete_private": "private",
            "intents_in_torn_tail": "recovery",
            "keep": "pruning",
            "prune": "pruning",
            "read": "reader",
            "read_batches": "reader",
            "read_head": "heads",
            "read_private": "private",
            "recover": "recovery",
            "scan": "reader",
            "sign_head": "heads",
            "verify_head": "heads",
        },
    )

__all__ = [
    "Corruption",
    "Durability",
    "Head",
    "JournalStatus",
    "JournalWriter",
    "KeptRuns",
    "MemoryJournal",
    "RecoveryReport",
    "RunIndex",
    "RunRow",
    "SessionRow",
    "Tail",
    "Torn",
    "TornIntent",
    "decode_head",
    "delete_private",
    "intents_in_torn_tail",
    "keep",
    "prune",
    "read",
    "read_batches",
    "read_head",
    "read_private",
    "recover",
    "scan",
    "sign_head",
    "verify_head",
]
