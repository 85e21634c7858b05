"""`fs.search`: lines that match a regular expression, in the files beneath a path.

Patterns are Python's `re`. They are matched in a process of their own (`search_worker.py`), which is killed when one piece of
text takes too long or the action is stopped; that file explains why. Each line is matched by itself, up to 4 MiB of it
(`truncated` tells whether a line was longer); a byte order mark is not part of the first line. Files with a NUL byte in their
first 8 KiB are binary and left out, and so are directories named `.git`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, Self, cast

from interlock.executors.file_reads import matcher
from interlock.model.errors import ToolError
from interlock.model.text import BOM
from interlock.model.tool import Context
from interlock.workspace.names import Rel, to_json
from interlock.workspace.tree import Workspace, refused

MATCHES: Final = 200
MATCHES_MAX: Final = 2_000
LINE_BYTES_MAX: Final = 4 * 1024 * 1024
_FRAME_BYTES: Final = 256 * 1024
_PROBE_BYTES: Final = 8 * 1024
_POLL_MS: Final = 50
_SILENT_POLLS_MAX: Final = 100  # for one frame, which normally takes milliseconds
_WORKER: Final = Path(__file__).with_name("search_worker.py")
_SKIPPED: Final = frozenset((b".git",))


def search(parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """The function of `fs.search`."""
    workspace: Workspace = ctx.workspace
    base = workspace.locate(parameters.get("path", "."))
    wanted = matcher(parameters.get("glob"), base)
    most = int(parameters.get("max_matches", MATCHES))
    matches: list[dict[str, Any]] = []
    cut = False
    with _Worker(ctx) as worker:
        worker.compile(parameters["pattern"])
        for path, found in workspace.walk(base, lenient=True, skip=_SKIPPED):
            worker.go_on()
            if not stat.S_ISREG(found.st_mode) or not (path == base or wanted(path)):
                continue
            for first, lines, shortened in _frames(workspace, path, named=path == base):
                cut = cut or shortened
                for index, column, text in worker.match(lines, most + 1 - len(matches)):
                    if len(matches) == most:
                        return {"matches": matches, "truncated": True}
                    matches.append({"path": to_json(path), "line": first + index, "column": column, "text": text})
    return {"matches": matches, "truncated": cut}


class _Worker:
    """The matching process of one search."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", os.fspath(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,
            bufsize=0,
        )
        self._input = cast(BinaryIO, self._process.stdin)
        self._output = cast(BinaryIO, self._process.stdout)
        self._poll = select.poll()
        self._poll.register(self._output, select.POLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._input.close()
        self._output.close()

    def compile(self, pattern: str) -> None:
        """Raises: ToolError `pattern_invalid`, `pattern_too_slow`."""
        answer = self._ask(json.dumps({"pattern": pattern}).encode() + b"\n")
        if answer["error"] is not None:
            raise ToolError(
                f"pattern: {answer['error']}",
                code="pattern_invalid",
                path="$.parameters.pattern",
                retryable=False,
                hint="the pattern is a Python regular expression; escape characters that are meant literally",
            )

    def match(self, lines: bytes, most: int) -> list[tuple[int, int, str]]:
        """The matching lines: index, column of the match (from 1), and the line, or the part of it around the match.

        Raises: ToolError `pattern_too_slow`, `cancelled`.
        """
        header = json.dumps({"bytes": len(lines), "most": most}).encode() + b"\n"
        return [(index, column, text) for index, column, text in self._ask(header + lines)]

    def go_on(self) -> None:
        """Raises: ToolError `cancelled` once the action is stopped."""
        if self._ctx.cancelled:
            raise ToolError("the search was stopped", code="cancelled", retryable=False)

    def _ask(self, message: bytes) -> Any:
        answer = bytearray()
        with contextlib.suppress(BrokenPipeError):
            view = memoryview(message)
            while view:
                view = view[self._input.write(view) :]
            silent = 0
            while not answer.endswith(b"\n"):
                self.go_on()
                if not self._poll.poll(_POLL_MS):
                    silent += 1
                    if silent > _SILENT_POLLS_MAX:
                        break
                    continue
                piece = self._output.read(1024 * 1024)
                if not piece:
                    break
                answer += piece
        if not answer.endswith(b"\n"):
            raise ToolError(
                "pattern: matching it takes too long or too much memory",
                code="pattern_too_slow",
                path="$.parameters.pattern",
                retryable=False,
                hint="avoid nested repeats such as `(a+)+`, or search a smaller part",
            )
        return json.loads(answer)


def _frames(workspace: Workspace, path: Rel, *, named: bool) -> Iterator[tuple[int, bytes, bool]]:
    """A text file's lines in pieces, each with the number of its first line (from 1) and whether a line was too long.

    A file that cannot be read is left out, unless it is the one that was `named`.
    """
    try:
        fd = workspace.open_file(path)
    except ToolError:
        if named:
            raise
        return
    with io.BufferedReader(io.FileIO(fd), _FRAME_BYTES) as file, refused("path"):
        if b"\0" in file.peek(_PROBE_BYTES)[:_PROBE_BYTES]:
            return
        if file.peek(len(BOM)).startswith(BOM):
            file.read(len(BOM))
        first, number, size, cut = 1, 0, 0, False
        lines: list[bytes] = []
        while line := file.readline(LINE_BYTES_MAX):
            rest = line
            while rest and not rest.endswith(b"\n"):
                cut = cut or len(line) == LINE_BYTES_MAX
                rest = file.readline(LINE_BYTES_MAX)
            number += 1
            lines.append(line.removesuffix(b"\n"))
            size += len(line)
            if size >= _FRAME_BYTES:
                yield first, b"\n".join(lines), cut
                first, size, cut = number + 1, 0, False
                lines = []
        if lines:
            yield first, b"\n".join(lines), cut
