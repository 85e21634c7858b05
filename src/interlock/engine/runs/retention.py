"""Once a day: deletes the private originals and backups of runs that are older than `[journal] keep`, and old state history.

Journals stay until `interlock runs prune`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from interlock.journal import keep
from interlock.model.errors import StoreError

if TYPE_CHECKING:
    from interlock.engine.services import Services

_DAY_US: Final = 24 * 60 * 60 * 1_000_000
_JUMP_US: Final = 30 * _DAY_US
"""After a longer pause, the first check deletes nothing: a clock that jumped ahead would otherwise delete all backups."""


def keep_once_a_day(services: Services) -> None:
    """Delete old data, at most once a day. Called when a project is opened. If deleting fails, it is tried again the next day."""
    home = services.state_dir
    if home is None:
        return
    mark, now = home / "kept", services.clock.now_us()
    since_us = 0
    with contextlib.suppress(FileNotFoundError, ValueError):
        since_us = now - int(mark.read_text(encoding="ascii"))  # below 0: the clock was wrong then
        if 0 <= since_us < _DAY_US:
            return
    before = now - services.settings.journal.keep_ms * 1000
    try:
        services.disk.write_atomic(mark, str(now).encode())
        if since_us > _JUMP_US:
            return  # the clock may be wrong: believe it only if it is the same tomorrow
        keep(home / "runs", services.index, services.disk, before_us=before)
        services.store.prune(before)
    except StoreError as error:
        services.hooks.warnings.append(f"journal.keep: nothing was deleted: {error.message}")
