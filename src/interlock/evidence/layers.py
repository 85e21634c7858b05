"""Reads the layers of a run strictly: a malformed line raises an error that names the line and field."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from interlock.evidence.format import KERNEL, SDK, SdkRecord
from interlock.evidence.observed import KernelLine
from interlock.model import typed
from interlock.model.canonical import canonical
from interlock.model.errors import IntegrityError


def read_kernel(run_id: str, blocks: Iterable[list[bytes]]) -> Iterator[tuple[list[bytes], list[KernelLine]]]:
    """Read the kernel layer: blocks of lines with their decoded records. Raises: IntegrityError `layer_malformed`."""
    decode = typed.json_decoder(KernelLine).decode
    seq = 0
    for lines in blocks:
        records: list[KernelLine] = []
        for line in lines:
            try:
                record = decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise _malformed(KERNEL, seq + 1, str(error)) from None
            if record.seq != seq or record.run_id != run_id:
                field = "$.seq" if record.run_id == run_id else "$.run_id"
                raise _malformed(KERNEL, seq + 1, f"it does not continue the previous line - at `{field}`")
            records.append(record)
            seq += 1
        yield lines, records


def read_sdk(run_id: str, lines: Iterable[bytes]) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Read the SDK layer: lines with their values. Raises: IntegrityError `layer_malformed`."""
    decode = typed.json_decoder(SdkRecord).decode
    following: dict[str, int] = {}
    for seq, line in enumerate(lines):
        try:
            record = decode(line)
            value: dict[str, Any] = msgspec.json.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise _malformed(SDK, seq + 1, str(error)) from None
        wrong = (
            "$.run_id" if record.run_id != run_id
            else "$.seq" if record.seq != seq
            else "$.writer_seq" if record.writer_seq != following.get(record.writer, 0)
            else "$" if canonical(value) + b"\n" != line
            else None
        )  # fmt: skip
        if wrong is not None:
            raise _malformed(SDK, seq + 1, f"it does not continue the previous line - at `{wrong}`")
        following[record.writer] = record.writer_seq + 1
        yield line, value


def _malformed(layer: str, line: int, why: str) -> IntegrityError:
    return IntegrityError(
        f"a line of the layer is malformed: {why}",
        code="layer_malformed",
        path=f"{layer}:{line}",
        hint="something other than Interlock wrote it; nothing was exported",
    )


BLOCK_BYTES: Final = 1024 * 1024


def blocks_of(lines: Iterable[bytes], size: int = BLOCK_BYTES) -> Iterator[list[bytes]]:
    """Group lines into blocks of about `size` bytes."""
    block: list[bytes] = []
    taken = 0
    for line in lines:
        block.append(line)
        taken += len(line)
        if taken >= size:
            yield block
            block, taken = [], 0
    if block:
        yield block
