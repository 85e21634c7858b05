"""Diffs of the files that a run changed, before and after each action, redacted and as far as the contents still exist.

The previous content is in the run's backups. The new content is in the backups of a later change or undo, or in the file
itself, if its digest is still the recorded one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from interlock.detect import Redactor
from interlock.disk import open_regular
from interlock.model.difference import compare
from interlock.model.errors import InterlockError
from interlock.workspace.backups import Entry, read_entries
from interlock.workspace.names import show
from interlock.workspace.nodes import Node

CONTENT_BYTES_MAX: Final = 256 * 1024
DIFFERENCE_LINES_MAX: Final = 400


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One action's change of one path."""

    proposal_id: str
    action_id: str
    path: str
    """The path for people, on one line."""
    what: str
    """`created`, `changed`, `deleted`, or `dir to file` (any two kinds); with `, and put back` if its proposal was aborted."""
    by_process: bool
    lines: list[str]
    """A unified diff without its header, redacted; empty if it cannot be shown."""
    note: str = ""
    """The reason why there are no lines, or not all of them."""


def read_differences(
    run: Path,
    root: Path,
    others: list[Path],
    redactor: Redactor,
    limit: int,
    only: Container[tuple[str, str]] | None = None,
) -> Iterator[Difference]:
    """The changes of a run, at most `limit`. `others` are runs that undid it; `only` are the ids of a proposal and its action.

    Raises: IntegrityError, StoreError.
    """
    first: dict[tuple[str, str, bytes], Entry] = {}
    last: dict[tuple[str, str, bytes], Entry] = {}
    for entry in read_entries(run):
        if only is not None and (entry.proposal, entry.action) not in only:
            continue
        key = (entry.proposal, entry.action, b"/".join(entry.rel))
        first.setdefault(key, entry)
        last[key] = entry
    for key, entry in islice(first.items(), limit):
        # An aborted proposal has restored its files: the diff shows its change, not the restored state.
        put_back = last[key] is not entry and entry.before.same(last[key].after)
        after = entry.after if put_back else last[key].after
        what = _what(entry.before, after) + (", and put back" if put_back else "")
        places = [run / "backups", *(other / "backups" for other in others)]
        file = root.joinpath(*(name.decode("utf-8", "surrogateescape") for name in entry.rel))
        lines, note = _compare(entry.before, after, places, file, redactor)
        yield Difference(
            proposal_id=entry.proposal, action_id=entry.action, path=show(entry.rel), what=what,
            by_process=last[key].by != "action", lines=lines, note=note,
        )  # fmt: skip


def _what(before: Node, after: Node) -> str:
    if before.kind == "absent":
        return "created"
    if after.kind == "absent":
        return "deleted"
    return "changed" if before.kind == after.kind else f"{before.kind} to {after.kind}"


def _compare(before: Node, after: Node, places: list[Path], file: Path, redactor: Redactor) -> tuple[list[str], str]:
    texts = []
    for node in (before, after):
        if node.kind == "absent":
            texts.append("")
            continue
        if node.kind != "file" or node.sha256 is None:
            return [], "" if node.kind == "dir" else "this is not a file"
        data = _find(node.sha256, node.size, places, file)
        if data is None:
            return [], "the content is not there any more, or too large to show"
        try:
            # Redacted before it is compared, so that a secret over several lines is recognised.
            texts.append(redactor.redact_text(data.decode()))
        except UnicodeDecodeError:
            return [], "this is not text in UTF-8"
    found = list(compare(*texts).lines)
    note = "" if len(found) <= DIFFERENCE_LINES_MAX else f"{len(found) - DIFFERENCE_LINES_MAX} more lines are not shown"
    return found[:DIFFERENCE_LINES_MAX], note or ("" if found else "only what cannot be shown differs")


def _find(sha256: str, size: int | None, places: list[Path], file: Path) -> bytes | None:
    """The content with that digest, which proves that it is the recorded one, wherever it is read from."""
    if size is not None and size > CONTENT_BYTES_MAX:
        return None
    for path in (*(place / sha256 for place in places), file):
        try:
            with open_regular(path) as opened:
                data = opened.read(CONTENT_BYTES_MAX + 1)
        except (OSError, InterlockError):
            continue
        if hashlib.sha256(data).hexdigest() == sha256:
            return data
    return None
