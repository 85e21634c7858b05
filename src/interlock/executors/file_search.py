"""`fs.search`: lines that match a regular expression, in the files beneath a path.

Patterns are Python's `re`. They are matched in a separate process (`search_worker.py`, which explains why); it is
killed when a batch of text takes too long or the action is stopped. Each line is matched separately, up to its first 4
MiB (`truncated` is set if a line was longer). A byte order mark is not part of the first line. Files with a NUL byte in
their first 8 KiB are binary and skipped, as are directories named `.git`.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, Self, cast

from interlock.executors.file_reads import matcher
from interlock.model.errors import ToolError
from interlock.model.text import BOM
from interlock.model.tool import Context
from interlock.workspace.names import Rel, refusal, to_json
from interlock.workspace.open_files import open_files
from interlock.workspace.tree import Workspace

MATCHES: Final = 200
MATCHES_MAX: Final = 2_000
LINE_BYTES_MAX: Final = 4 * 1024 * 1024
_FRAME_BYTES: Final = 256 * 1024
_PIPE_BYTES: Final = 1024 * 1024
_FRAME_TEXTS: Final = 512
_WHOLE_BYTES: Final = 1024 * 1024
"""Files up to this size are read in one piece."""
_PROBE_BYTES: Final = 8 * 1024
_POLL_MS: Final = 50
_SILENT_POLLS_MAX: Final = 100  # for one frame, which normally takes milliseconds
_WORKER: Final = Path(__file__).with_name("search_worker.py")
_SKIPPED: Final = frozenset((b".git",))


def search(parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
    """Returns the function of `fs.search`."""
    workspace: Workspace = ctx.workspace
    base = workspace.locate(parameters.get("path", "."))
    matches_glob = matcher(parameters.get("glob"), base)

    def wanted(path: Rel) -> bool:
        _check_stopped(ctx)
        return matches_glob(path)

    most = int(parameters.get("max_matches", MATCHES))
    matches: list[dict[str, Any]] = []
    cut = False
    with _Worker(ctx, parameters["pattern"]) as worker:
        for frame, found in worker.match(_frames(workspace, base, wanted), most + 1):
            cut = cut or any(text.cut for text in frame)
            for number, index, column, line in found:
                if len(matches) == most:
                    return {"matches": matches, "truncated": True}
                text = frame[number]
                matches.append({"path": to_json(text.path), "line": text.first + index, "column": column, "text": line})
    return {"matches": matches, "truncated": cut}


class _Text(NamedTuple):
    """Consecutive lines of one file."""

    path: Rel
    data: bytes
    first: int = 1
    """Number of the first line."""
    cut: bool = False
    """True if a line was too long and only its beginning is included."""


_Found = list[tuple[int, int, int, str]]
"""The worker's answer: index of the text, index of the line, column from 1, and the line or the part around the match."""


class _Worker:
    """The matching process of one search. It matches one frame of texts while the next frame is read."""

    def __init__(self, ctx: Context, pattern: str) -> None:
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
        os.set_blocking(self._input.fileno(), False)
        with contextlib.suppress(OSError):  # the user's limit on pipe memory may be reached
            fcntl.fcntl(self._input, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        self._poll = select.poll()
        self._answers = bytearray()
        self._pattern = pattern

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._input.close()
        self._output.close()

    def match(self, frames: Iterable[list[_Text]], most: int) -> Iterator[tuple[list[_Text], _Found]]:
        """Yield each frame with its matching lines, at most `most`.

        Raises: ToolError `pattern_invalid`, `pattern_too_slow`, `cancelled`.
        """
        self._send(json.dumps({"pattern": self._pattern}).encode() + b"\n")
        compiled, before = False, list[_Text]()
        for frame in frames:
            if not compiled:
                self._require_compiled()
                compiled = True
            header = json.dumps({"texts": [len(text.data) for text in frame], "most": most}).encode() + b"\n"
            self._send(b"".join((header, *(text.data for text in frame))))
            if before:
                yield before, self._receive()
            before = frame
        if not compiled:
            self._require_compiled()
        if before:
            yield before, self._receive()

    def _require_compiled(self) -> None:
        answer = self._receive()
        if answer["error"] is not None:
            raise ToolError(
                f"pattern: {answer['error']}",
                code="pattern_invalid",
                path="$.parameters.pattern",
                retryable=False,
                hint="the pattern is a Python regular expression; escape special characters to match them literally",
            )

    def _send(self, message: bytes) -> None:
        """Write a message while reading answers to earlier ones, because the worker may block until they are read."""
        view = memoryview(message)
        while view:
            if self._wait_ready(writing=True):
                try:
                    view = view[self._input.write(view) or 0 :]
                except BrokenPipeError:
                    raise _too_slow() from None

    def _receive(self) -> Any:
        """Wait for the next answer."""
        while (end := self._answers.find(b"\n")) < 0:
            self._wait_ready(writing=False)
        answer = json.loads(self._answers[:end])
        del self._answers[: end + 1]
        return answer

    def _wait_ready(self, *, writing: bool) -> bool:
        """Wait until output can be read, and read it, or input can be written. Returns True if it can. Raises: ToolError."""
        self._poll.register(self._output, select.POLLIN)
        if writing:
            self._poll.register(self._input, select.POLLOUT)
        try:
            for _ in range(_SILENT_POLLS_MAX):
                _check_stopped(self._ctx)
                ready = dict(self._poll.poll(_POLL_MS))
                if self._output.fileno() in ready:
                    piece = self._output.read(1024 * 1024)
                    if not piece:
                        raise _too_slow()
                    self._answers += piece
                if ready:
                    return self._input.fileno() in ready
        finally:
            if writing:
                self._poll.unregister(self._input)
        raise _too_slow()


def _check_stopped(ctx: Context) -> None:
    """Raises: ToolError `cancelled` once the action is stopped."""
    if ctx.cancelled:
        raise ToolError("the search was stopped", code="cancelled", retryable=False)


def _too_slow() -> ToolError:
    return ToolError(
        "pattern: matching it takes too long or too much memory",
        code="pattern_too_slow",
        path="$.parameters.pattern",
        retryable=False,
        hint="avoid nested repeats such as `(a+)+`, or search a smaller part",
    )


def _frames(workspace: Workspace, base: Rel, wanted: Callable[[Rel], bool]) -> Iterator[list[_Text]]:
    """Yields the text files beneath a path, in frames of about `_FRAME_BYTES`.

    Skips an unreadable file unless the call named it.
    """
    frame: list[_Text] = []
    size = 0
    for path, fd, length in open_files(workspace, base, wanted, skip=_SKIPPED):
        for text in _texts(path, fd, length, named=path == base):
            frame.append(text)
            size += len(text.data)
            if size >= _FRAME_BYTES or len(frame) == _FRAME_TEXTS:
                yield frame
                frame, size = [], 0
    if frame:
        yield frame


def _texts(path: Rel, fd: int, size: int, *, named: bool) -> Iterator[_Text]:
    """Yields the lines of a file, in pieces if it is large; nothing for a binary file. Closes the descriptor."""
    try:
        if size > _WHOLE_BYTES:
            with io.BufferedReader(io.FileIO(fd, closefd=False), _FRAME_BYTES) as file:
                yield from _pieces(path, file)
            return
        data = os.read(fd, size + 1)
        while len(data) > size and (more := os.read(fd, _WHOLE_BYTES)):  # the file has grown
            data += more
    except OSError as error:
        if named:
            raise refusal(error, "path") from error
        return
    finally:
        os.close(fd)
    if data and b"\0" not in data[:_PROBE_BYTES]:
        yield _Text(path, data.removeprefix(BOM).removesuffix(b"\n"))


def _pieces(path: Rel, file: io.BufferedReader[Any]) -> Iterator[_Text]:
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
            yield _Text(path, b"\n".join(lines), first, cut)
            first, size, cut = number + 1, 0, False
            lines = []
    if lines:
        yield _Text(path, b"\n".join(lines), first, cut)
