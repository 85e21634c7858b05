"""What capsules print by WASI, in a worker: kept until the next message to the runtime, which writes it to the log."""

from __future__ import annotations

import threading
from typing import Final

import wasmtime

BYTES_MAX: Final = 64 * 1024
"""Between two messages."""
_MORE: Final = b"\n(more was printed than is kept)\n"


class Printed:
    """Standard output and standard error of the call that runs. wasmtime writes to it from threads of its own."""

    def __init__(self) -> None:
        """Nothing was printed."""
        self._lock = threading.Lock()
        self._data = bytearray()
        self._full = False

    def configuration(self) -> wasmtime.WasiConfig:
        """WASI with nothing behind it, except for the two streams."""
        config = wasmtime.WasiConfig()
        config.stdout_custom = self.write
        config.stderr_custom = self.write
        return config

    def write(self, data: bytes) -> None:
        """Keep it, if there is room; a program that prints much is not stopped."""
        with self._lock:
            room = BYTES_MAX - len(self._data)
            self._data += data[:room]
            if len(data) > room and not self._full:
                self._full = True
                self._data += _MORE

    def lines(self, *, rest: bool) -> list[str]:
        """The lines since the last time; the one that is not ended stays, unless it is the `rest`."""
        with self._lock:
            end = len(self._data) if rest or self._full else self._data.rfind(b"\n") + 1
            taken = bytes(self._data[:end])
            del self._data[:end]
            self._full = False
        return [line for line in taken.decode("utf-8", "replace").splitlines() if line.strip()]
