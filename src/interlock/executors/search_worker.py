"""The process in which `fs.search` matches, so that a bad pattern stops only this process.

Python's `re` backtracks, cannot be interrupted and holds the interpreter lock, so a pattern such as `(a+)+$` would stop the
whole runtime. This file is run as a script, without site packages, environment or files: it reads text from standard input
and answers on standard output, one line of JSON each time. It imports nothing of Interlock.

    <- {"pattern": "..."}               -> {"error": null | "..."}
    <- {"bytes": n, "most": m} + n bytes of lines   -> [[index, column, text], ...], at most m
"""

import json
import re
import resource
import sys

MEMORY_BYTES = 512 * 1024 * 1024
CPU_SECONDS = 120  # ends the process even if its parent is gone
TEXT_CHARS_MAX = 500
TEXT_CHARS_BEFORE = 200


def main() -> None:
    """Serve until standard input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    source = sys.stdin.buffer
    try:
        search, error = re.compile(json.loads(source.readline())["pattern"]).search, None
    except (re.error, OverflowError, RecursionError) as refused:
        search, error = None, str(refused)
    _answer({"error": error})
    while search is not None and (line := source.readline()):
        frame = json.loads(line)
        found = []
        for index, row in enumerate(source.read(frame["bytes"]).decode("utf-8", "replace").split("\n")):
            text = row.removesuffix("\r")
            match = search(text)
            if match is not None:
                # the part of a long line around the match
                start = max(0, min(match.start() - TEXT_CHARS_BEFORE, len(text) - TEXT_CHARS_MAX))
                found.append((index, match.start() + 1, text[start : start + TEXT_CHARS_MAX]))
                if len(found) == frame["most"]:
                    break
        _answer(found)


def _answer(value: object) -> None:
    sys.stdout.buffer.write(json.dumps(value).encode() + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
