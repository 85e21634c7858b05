"""Parses git's machine-readable output. Pure: bytes in, JSON values out.

Sources: git-status(1) "Porcelain Format Version 2", git-diff(1) "Generating patch text with -p", git-log(1) "PRETTY
FORMATS". Output that was truncated at a limit is parsed up to its last complete record. Paths are returned as JSON
paths relative to the workspace; `top` is the repository's directory beneath the workspace.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from interlock.workspace.names import NameJson, Rel, parts, to_json

_STATES: Final = {
    "M": "modified",
    "T": "type_changed",
    "A": "added",
    "D": "deleted",
    "R": "renamed",
    "C": "copied",
    "U": "unmerged",
    ".": "unchanged",
}
_FIELDS: Final = {b"1": 7, b"2": 8, b"u": 9}
_AHEAD_BEHIND: Final = re.compile(r"\+(\d+) -(\d+)")
_SECONDS: Final = re.compile(r"[0-9]{1,10}")  # in microseconds this stays below 2^53, and far beyond the present
_HUNK: Final = re.compile(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_ESCAPE: Final = re.compile(rb"\\([0-7]{3}|.)", re.DOTALL)
_ESCAPES: Final = {
    b"a": b"\a", b"b": b"\b", b"t": b"\t", b"n": b"\n", b"v": b"\v", b"f": b"\f", b"r": b"\r", b'"': b'"', b"\\": b"\\",
}  # fmt: skip
_LOG_FIELDS: Final = 7
FILE_BYTES: Final = 128 * 1024
"""Maximum size of the lines of one file in a diff."""
DIFF_BYTES: Final = 1024 * 1024
"""Maximum size of the lines of a whole diff."""
LOG_FORMAT: Final = "%H%x00%P%x00%an%x00%ae%x00%at%x00%ct%x00%B"


def place(name: bytes, top: Rel) -> NameJson:
    """Convert a path from git (relative to the repository) to a path in the workspace."""
    return to_json((*top, *parts(name)))


def status(data: bytes, top: Rel, above: int = 0) -> dict[str, Any]:
    """Parse `git status --porcelain=v2 --branch -z`. The first `above` names of each path are outside the workspace.

    Returns `{branch, commit, upstream, ahead, behind, entries: [{path, index, worktree, from?}]}`, with null for what
    git does not know.
    """

    def shown(name: bytes) -> NameJson:
        return to_json((*top, *parts(name)[above:]))

    out: dict[str, Any] = dict.fromkeys(("branch", "commit", "upstream", "ahead", "behind"))
    entries: list[dict[str, Any]] = []
    rest_of = iter(records(data))
    for record in rest_of:
        kind, _, rest = record.partition(b" ")
        if kind == b"#":
            _header(rest, out)
        elif kind in (b"?", b"!"):
            state = "untracked" if kind == b"?" else "ignored"
            entries.append({"path": shown(rest), "index": state, "worktree": state})
        elif kind in (b"1", b"2", b"u"):
            fields = rest.split(b" ", _FIELDS[kind])
            if len(fields) <= _FIELDS[kind] or len(fields[0]) != 2:
                continue  # not git's format
            x, y = (_STATES.get(chr(c), "unknown") for c in fields[0])
            entry = {"path": shown(fields[-1]), "index": x, "worktree": y}
            if kind == b"2":
                entry["from"] = shown(next(rest_of, b""))
            entries.append(entry)
    return {**out, "entries": entries}


def name_status(data: bytes, top: Rel) -> list[dict[str, Any]]:
    """Parse `--name-status --no-renames -z`. Returns `[{path, status}]`."""
    fields = records(data)
    return [
        {"path": place(name, top), "status": _STATES.get(state.decode("ascii", "replace")[:1], "unknown")}
        for state, name in zip(fields[::2], fields[1::2], strict=False)
    ]


def log(data: bytes) -> list[dict[str, Any]]:
    """Parse `git log -z` with `LOG_FORMAT`. Returns commits, newest first.

    Each is `{commit, parents, author, email, time, committed, subject, body}`. Times are microseconds since the epoch.
    """
    fields = data.split(b"\0")
    found = []
    for at in range(0, len(fields) - _LOG_FIELDS + 1, _LOG_FIELDS):
        commit, parents, author, email, time, committed, message = (
            f.decode("utf-8", "replace") for f in fields[at : at + _LOG_FIELDS]
        )
        subject, _, body = message.strip("\n").partition("\n")
        found.append(
            {
                "commit": commit,
                "parents": parents.split(),
                "author": author,
                "email": email,
                "time": _micros(time),
                "committed": _micros(committed),
                "subject": subject,
                "body": body.strip("\n"),
            }
        )
    return found


def diff(raw: bytes, numstat: bytes, patch: bytes, top: Rel, *, cut: bool = False) -> tuple[list[dict[str, Any]], bool]:
    r"""Parse `git diff --no-renames`, printed as `--raw -z`, `--numstat -z` and `-p` (prefixes `a/`, `b/`; `cut` if truncated).

    Returns `[{path, status, old_mode, new_mode, binary, additions, deletions, hunks, truncated}]`, and whether anything
    was left out. The counts cover the whole file, even if hunks are left out. A hunk is `{old_start, old_lines,
    new_start, new_lines, lines}`; each line keeps its first character (` `, `+`, `-` or `\`). Bytes that are not UTF-8
    are replaced. Modes are octal, and null if there is no file.
    """
    rows = _raw_rows(raw, top)
    for record in records(numstat):
        added, _, rest = record.partition(b"\t")
        deleted, _, name = rest.partition(b"\t")
        if (row := rows.get(name)) is not None:
            row["binary"] = row["binary"] or added == b"-"
            row["additions"] += int(added) if added.isdigit() else 0
            row["deletions"] += int(deleted) if deleted.isdigit() else 0
    patches = _patches(patch)
    last = next(reversed(patches), None)
    left = DIFF_BYTES
    for name, row in rows.items():
        hunks, whole = patches.get(name, ([], not cut))
        row["hunks"], size, bounded = _bounded(hunks, min(left, FILE_BYTES))
        left -= size
        row["truncated"] = bounded or not whole or (cut and name == last)
    return list(rows.values()), any(row["truncated"] for row in rows.values())


def _raw_rows(raw: bytes, top: Rel) -> dict[bytes, dict[str, Any]]:
    rows: dict[bytes, dict[str, Any]] = {}
    fields = records(raw)
    for head, name in zip(fields[::2], fields[1::2], strict=False):
        words = head.decode("ascii", "replace").removeprefix(":").split(" ")
        if len(words) != 5:
            continue  # not git's format
        old, new = (None if mode == "000000" else mode for mode in words[:2])
        row = rows.setdefault(name, {"path": place(name, top), "status": _STATES.get(words[4][:1], "unknown")})
        # An unmerged file has a second line, for the version that is compared.
        row |= {"old_mode": old, "new_mode": new, "binary": False, "additions": 0, "deletions": 0, "hunks": []}
    return rows


def _bounded(hunks: list[dict[str, Any]], most: int) -> tuple[list[dict[str, Any]], int, bool]:
    """Limit hunks to a number of characters. Returns them, their size, and whether lines were left out."""
    kept: list[dict[str, Any]] = []
    size = 0
    for hunk in hunks:
        for number, line in enumerate(hunk["lines"]):
            size += len(line) + 1
            if size > most:
                kept += [{**hunk, "lines": hunk["lines"][:number]}] if number else []
                return kept, most, True
        kept.append(hunk)
    return kept, size, False


def _patches(data: bytes) -> dict[bytes, tuple[list[dict[str, Any]], bool]]:
    """Maps each file to its hunks, and whether the last one is complete."""
    files: dict[bytes, tuple[list[dict[str, Any]], bool]] = {}
    name, hunks = b"", list[dict[str, Any]]()
    lines = iter(data.split(b"\n"))
    for line in lines:
        if line.startswith(b"diff --git "):
            both = line[11:]  # `a/X b/X`, or both quoted: two halves of equal length
            name, hunks = _unquote(both[: len(both) // 2]).removeprefix(b"a/"), []
            files[name] = hunks, True
        elif not files:
            continue
        elif found := _HUNK.match(line):
            if not _hunk(hunks, found, lines):
                files[name] = hunks, False
        elif line.startswith(b"\\ ") and hunks:  # "\ No newline at end of file"
            hunks[-1]["lines"].append(line.decode("utf-8", "replace"))
    return files


def _micros(seconds: str) -> int:
    """Returns a commit's time in microseconds; 0 if it is out of range, since the committer chooses it."""
    return int(seconds) * 1_000_000 if _SECONDS.fullmatch(seconds) else 0


def _hunk(hunks: list[dict[str, Any]], found: re.Match[bytes], lines: Iterator[bytes]) -> bool:
    """Parse one hunk. Returns False if the output ends within it."""
    old_start, old_lines, new_start, new_lines = (int(n) if n is not None else 1 for n in found.groups())
    hunk: dict[str, Any] = {
        "old_start": old_start,
        "old_lines": old_lines,
        "new_start": new_start,
        "new_lines": new_lines,
        "lines": [],
    }
    hunks.append(hunk)
    old, new = old_lines, new_lines
    # The counts decide where the hunk ends, because a line may look like a header.
    while old > 0 or new > 0:
        line = next(lines, None)
        if line is None:
            return False
        mark = line[:1]
        old -= mark in (b" ", b"-", b"")
        new -= mark in (b" ", b"+", b"")
        hunk["lines"].append(line.decode("utf-8", "replace"))
    return True


def _header(rest: bytes, out: dict[str, Any]) -> None:
    key, _, value = rest.decode("utf-8", "replace").partition(" ")
    if key == "branch.oid":
        out["commit"] = None if value == "(initial)" else value
    elif key == "branch.head":
        out["branch"] = None if value == "(detached)" else value
    elif key == "branch.upstream":
        out["upstream"] = value
    elif key == "branch.ab" and (found := _AHEAD_BEHIND.fullmatch(value)):
        out["ahead"], out["behind"] = int(found[1]), int(found[2])


def _unquote(text: bytes) -> bytes:
    """Decode a name that git may have quoted like a C string."""
    if not (len(text) >= 2 and text.startswith(b'"') and text.endswith(b'"')):
        return text

    def one(match: re.Match[bytes]) -> bytes:
        code = match[1]
        return bytes([int(code, 8) & 0xFF]) if len(code) == 3 else _ESCAPES.get(code, code)

    return _ESCAPE.sub(one, text[1:-1])


def records(data: bytes) -> list[bytes]:
    """Returns the NUL-terminated records of `-z` output, without an incomplete last one."""
    return data.split(b"\0")[:-1]
