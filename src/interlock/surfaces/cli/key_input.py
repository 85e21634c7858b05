"""Reads single keys from the terminal, without Enter, and lines where text is needed.

A key answers a hold, so input that cannot be a single key press does not count: pasted text, and keys typed before the
hold could be read. The terminal's settings are restored whenever nothing is being asked, and at every exit.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

ENDED: Final = "ended"
"""Returned instead of a key: the input has ended."""
PASTED: Final = "pasted"
"""Returned instead of a key: several arrived at once."""
NOTHING: Final = ""
"""Returned instead of a key: none arrived in time."""
_LOOK_S: Final = 0.5
_TOGETHER_S: Final = 0.02
"""Keys that follow each other faster than this were not pressed one by one."""
_QUIET_S: Final = 0.25
"""Silence required before a hold is shown, so that a key held down answers only one."""
_QUIET_LOOKS: Final = 40
_PASTE_ON, _PASTE_OFF = "\x1b[?2004h", "\x1b[?2004l"
_END_OF_INPUT: Final = b"\x04"
_LFLAG: Final = 3
_CC: Final = 6


class KeyInput:
    """The keys of the terminal that is standard input."""

    def __init__(self) -> None:
        """Store the terminal's settings; nothing is changed yet."""
        self._fd = sys.stdin.fileno()
        self._before: list[Any] | None = None
        self._lock = threading.RLock()
        self._closed = False

    @contextlib.contextmanager
    def keys(self) -> Iterator[None]:
        """Within the block, keys arrive one by one and are not echoed. Ctrl-C keeps its meaning."""
        self._begin()
        try:
            yield
        finally:
            self.restore()

    @contextlib.contextmanager
    def lines(self) -> Iterator[None]:
        """Within the block (inside `keys`), the terminal has its original settings: for a line, a PIN, or a program."""
        self.restore()
        try:
            yield
        finally:
            self._begin()

    def close(self) -> None:
        """Restore the terminal permanently, even if another thread is using it."""
        with self._lock:
            self._closed = True
            self.restore()

    def restore(self) -> None:
        """Restore the terminal's settings."""
        with self._lock:
            before, self._before = self._before, None
            if before is not None:
                atexit.unregister(self.close)
                _OPEN.discard(self)
                with contextlib.suppress(termios.error, OSError):
                    termios.tcsetattr(self._fd, termios.TCSADRAIN, before)
                    _say(_PASTE_OFF)

    def settle(self) -> None:
        """Discard everything typed so far, and wait until nothing more arrives, for at most ten seconds."""
        for _ in range(_QUIET_LOOKS):
            with contextlib.suppress(termios.error):
                termios.tcflush(self._fd, termios.TCIFLUSH)
            if not self._ready(_QUIET_S) or not self._take():
                return

    def key(self, timeout_s: float = _LOOK_S) -> str:
        """The next key, or one of `ENDED`, `PASTED`, `NOTHING`. Enter is a line feed."""
        self._keep()
        if not self._ready(timeout_s):
            return NOTHING
        data = self._take()
        if data in (b"", _END_OF_INPUT):
            return ENDED
        while self._ready(_TOGETHER_S) and (more := self._take()):
            data += more
        text = data.decode(errors="replace")
        if len(text.rstrip("\r\n")) > 1:
            return NOTHING if text.startswith("\x1b") and "\x1b[200~" not in text else PASTED  # such as an arrow key
        return text[:1].replace("\r", "\n")

    def line(self, prompt: str, wanted: Callable[[], bool]) -> str | None:
        """A typed line without its end; None if the input has ended, or an answer is no longer `wanted`."""
        _say(prompt)
        data = b""
        with self.lines():
            while wanted():
                if not self._ready(_LOOK_S):
                    continue
                more = self._take()
                data += more
                if not more:
                    return None
                if data.endswith(b"\n"):
                    return data.decode(errors="backslashreplace").strip()
        return None

    def _begin(self) -> None:
        with self._lock:
            if self._closed or self._before is not None:
                return
            with contextlib.suppress(termios.error, OSError):
                self._before = termios.tcgetattr(self._fd)
                atexit.register(self.close)
                _OPEN.add(self)
                self._set()
                _say(_PASTE_ON)

    def _keep(self) -> None:
        """Set the mode again: after a stop (Ctrl-Z), the shell has restored its own settings."""
        with self._lock, contextlib.suppress(termios.error, OSError):
            if self._before is not None and os.tcgetpgrp(self._fd) == os.getpgrp():
                self._set()

    def _set(self) -> None:
        now = termios.tcgetattr(self._fd)
        wanted = [*now]
        wanted[_LFLAG] = now[_LFLAG] & ~(termios.ICANON | termios.ECHO)
        wanted[_CC] = [*now[_CC]]
        wanted[_CC][termios.VMIN], wanted[_CC][termios.VTIME] = 1, 0
        if wanted[_LFLAG] != now[_LFLAG]:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, wanted)

    def _ready(self, timeout_s: float) -> bool:
        return bool(select.select([self._fd], [], [], timeout_s)[0])

    def _take(self) -> bytes:
        try:
            return os.read(self._fd, 65_536)
        except OSError:  # the terminal is gone
            return b""


_OPEN: Final[set[KeyInput]] = set()


def restore_terminal() -> None:
    """Restore the terminal before the process ends without cleaning up."""
    for one in list(_OPEN):
        one.restore()


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()
