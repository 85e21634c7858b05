"""The process in which `fs.search` matches, so that a bad pattern stops only this process.

Python's `re` backtracks, cannot be interrupted and holds the interpreter lock, so a pattern such as `(a+)+$` would
block the whole runtime. This file runs as a script, without site packages, environment or files: it reads text from
standard input and writes each answer to standard output as one line of JSON. It imports nothing from Interlock.

    <- {"pattern": "..."}               -> {"error": null | "..."}
    <- {"texts": [n, ...], "most": m} + the bytes of the texts
                                        -> [[text, line, column, part of the line], ...], at most m; text and line count
                                           from 0, the column from 1
"""

from __future__ import annotations

import json
import re
import resource
import sys

TYPE_CHECKING = False  # importing `typing` would take longer than everything else here
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

MEMORY_BYTES = 512 * 1024 * 1024
CPU_SECONDS = 120  # ends the process even if its parent is gone
TEXT_CHARS_MAX = 500
TEXT_CHARS_BEFORE = 200


def main() -> None:
    """Serve until standard input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    source = sys.stdin.buffer
    pattern = json.loads(source.readline())["pattern"]
    try:
        search, needed = re.compile(pattern).search, required_text(pattern)
    except (re.error, OverflowError, RecursionError) as refused:
        _answer({"error": str(refused)})
        return
    _answer({"error": None})
    while line := source.readline():
        frame = json.loads(line)
        _answer(_matches(search, needed, [source.read(size) for size in frame["texts"]], frame["most"]))


def _matches(
    search: Callable[[str], re.Match[str] | None], needed: str, texts: Sequence[bytes], most: int
) -> list[tuple[int, int, int, str]]:
    literal, found = needed.encode(), list[tuple[int, int, int, str]]()
    for number, data in enumerate(texts):
        if literal not in data:
            continue
        for index, row in enumerate(data.decode("utf-8", "replace").split("\n")):
            if needed not in row:
                continue
            text = row.removesuffix("\r")
            match = search(text)
            if match is not None:
                # for a long line, the part around the match
                start = max(0, min(match.start() - TEXT_CHARS_BEFORE, len(text) - TEXT_CHARS_MAX))
                found.append((number, index, match.start() + 1, text[start : start + TEXT_CHARS_MAX]))
                if len(found) == most:
                    return found
    return found


def required_text(pattern: str) -> str:
    """Returns the longest text that every match of the pattern contains; empty if none is known.

    Searching for it first avoids the regular expression on most lines. Counts only literal characters that must match.
    """
    tree: Any = re._parser.parse(pattern)  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public API for this
    if tree.state.flags & re.IGNORECASE:
        return ""
    found = max(_runs(tree), key=len, default="")
    # Bytes that are not UTF-8 are matched as U+FFFD; no text contains a lone surrogate.
    return "" if any(c == "\ufffd" or "\ud800" <= c <= "\udfff" for c in found) else found


def _runs(tree: Iterable[tuple[Any, Any]]) -> Iterator[str]:
    """Yields the texts that every match of a parsed pattern must contain."""
    run = ""
    for operation, argument in tree:
        name = str(operation)
        if name == "LITERAL":
            run += chr(argument)
            continue
        yield run
        run = ""
        if name == "SUBPATTERN" and not argument[1] and not argument[2]:  # without flags
            yield from _runs(argument[3])
    yield run


def _answer(value: object) -> None:
    sys.stdout.buffer.write(json.dumps(value).encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
