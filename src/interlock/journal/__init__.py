"""Remembers what happened: a run's write-ahead log, its seals, recovery, and the list of runs.

The journal of a run is the truth about it. One process writes it (`JournalWriter`), anybody may read it (`read`, `scan`), and
after a crash it is put in order first (`recover`).
"""

from interlock.journal.heads import decode_head, read_head, sign_head, verify_head
from interlock.journal.index import RunIndex, RunRow, SessionRow
from interlock.journal.private import delete_private, read_private
from interlock.journal.prune import keep, prune
from interlock.journal.reader import Corruption, JournalStatus, Torn, read, scan
from interlock.journal.recovery import RecoveryReport, TornIntent, intents_in_torn_tail, recover
from interlock.journal.sealing import Head
from interlock.journal.writer import Durability, JournalWriter

__all__ = [
    "Corruption",
    "Durability",
    "Head",
    "JournalStatus",
    "JournalWriter",
    "RecoveryReport",
    "RunIndex",
    "RunRow",
    "SessionRow",
    "Torn",
    "TornIntent",
    "decode_head",
    "delete_private",
    "intents_in_torn_tail",
    "keep",
    "prune",
    "read",
    "read_head",
    "read_private",
    "recover",
    "scan",
    "sign_head",
    "verify_head",
]
