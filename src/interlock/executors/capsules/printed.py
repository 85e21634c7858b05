"""Buffers what capsules print through WASI, in a worker, until the next message to the runtime, which logs it."""

from __future__ import annotations

import threading
from typing import Final

import wasmtime

BYTES_MAX: Final = 64 * 1024
"""Maximum size between two messages."""
_MORE: Final = b"\n(more was printed than is kept)\n"


class Printed:
    """Standard output and standard error of the running call. wasmtime writes to it from its own threads."""

    def __init__(self) -> None:
        """Starts empty."""
        self._lock = threading.Lock()
        self._data = bytearray()
        self._full = False

    def configuration(self) -> wasmtime.WasiConfig:
        """Returns a WASI configuration without resources except the two streams."""
        config = wasmtime.WasiConfig()
        config.stdout_custom = self.write
        config.stderr_custom = self.write
        return config

    def write(self, data: bytes) -> None:
        """Buffer data while there is room. A capsule that prints too much is not stopped."""
        with self._lock:
            room = BYTES_MAX - len(self._data)
            self._data += data[:room]
            if len(data) > room and not self._full:
                self._full = True
                self._data += _MORE

    def lines(self, *, rest: bool) -> list[str]:
        """Returns the lines since the last call. An incomplete last line is left for the next call unless `rest` is set."""
        with self._lock:
            end = len(self._data) if rest or self._full else self._data.rfind(b"\n") + 1
            taken = bytes(self._data[:end])
            del self._data[:end]
            self._full = False
        return [line for line in taken.decode("utf-8", "replace").splitlines() if line.strip()]
