"""Compares the layers of a run at home with what its journal says of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from interlock.disk import open_regular
from interlock.evidence.format import KERNEL, SDK
from interlock.journal.kernel_layer import layer_files
from interlock.model import typed
from interlock.model.errors import IntegrityError
from interlock.model.events import ActionRecorded, SdkRecorded


class _Line(msgspec.Struct):
    """What is read of a line of the kernel layer."""

    recorder: str


class LayerCheck:
    """Takes the events of a run, and then says which layers are not as recorded."""

    def __init__(self, directory: Path) -> None:
        """`directory` is the run's."""
        self._directory = directory
        self._recorders: dict[str, tuple[int, str]] = {}
        self._sdk: tuple[int, str] | None = None

    def take(self, event: object) -> None:
        """Note what an event says of a layer."""
        if isinstance(event, ActionRecorded):
            self._recorders[event.recorder] = (event.lines, event.digest)
        elif isinstance(event, SdkRecorded):
            self._sdk = (event.records, event.digest)

    def problems(self) -> Iterator[IntegrityError]:
        """What differs. A recorder without an event is not compared: its process was killed."""
        if self._recorders:
            yield from self._kernel()
        if self._sdk is not None and self._digest_of_sdk() != self._sdk:
            yield _mismatch(SDK, "what the agent's SDK reported")

    def _kernel(self) -> Iterator[IntegrityError]:
        decode = typed.json_decoder(_Line).decode
        found: dict[str, tuple[int, Any]] = {}
        for path in layer_files(self._directory):
            name = str(path.relative_to(self._directory))
            try:
                with open_regular(path) as file:
                    for line in file:
                        if not line.endswith(b"\n"):
                            continue  # what a killed process left of a line
                        recorder = decode(line).recorder
                        if recorder in self._recorders:
                            count, hashed = found.setdefault(recorder, (0, hashlib.sha256()))
                            hashed.update(line)
                            found[recorder] = (count + 1, hashed)
            except (OSError, msgspec.MsgspecError, UnicodeError):
                yield _mismatch(name, "the file")
                return
        for recorder, recorded in self._recorders.items():
            count, hashed = found.get(recorder, (0, hashlib.sha256()))
            if (count, "sha256:" + hashed.hexdigest()) != recorded:
                yield _mismatch(KERNEL, f"recorder `{recorder}`")

    def _digest_of_sdk(self) -> tuple[int, str] | None:
        path, hashed, count = self._directory / SDK, hashlib.sha256(), 0
        try:
            if path.exists():
                with open_regular(path) as file:
                    for line in file:
                        hashed.update(line)
                        count += 1
        except OSError:
            return None
        return count, "sha256:" + hashed.hexdigest()


def _mismatch(layer: str, what: str) -> IntegrityError:
    return IntegrityError(
        f"{what} is not as the journal recorded it",
        code="layer_mismatch",
        path=layer,
        hint="the file was changed or cut since the run; restore it from a backup",
    )
