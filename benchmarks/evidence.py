"""Export and verification of a run: speed, where the time goes, and that memory does not grow with the layers.

    python benchmarks/evidence.py [--quick] [--json]

The run has a kernel layer of file opens, whose paths repeat as those of real programs do; one line in a hundred has a
secret. Each part is the same work in isolation: for an export, strict reading of lines, redaction, the final sweep,
SHA-256 and compression; for a verification, decompression, strict JSON and the schemas.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
import zlib
from pathlib import Path

from measuring import alternate, options, scratch, show

from interlock.evidence.export import Source, export
from interlock.evidence.layers import blocks_of, read_kernel
from interlock.evidence.redaction import Redaction
from interlock.verification import schemas
from interlock.verification.strict_json import parse
from interlock.verification.verify import verify

RUN = "run_" + "a" * 32
SIZES_MB, QUICK_SIZES_MB = (32, 256), (8, 32)
ROUNDS, QUICK_ROUNDS = 5, 2
TOKEN = "ghp_q7Zk2Lw9Xv4Bn8Rt1Yp6Mc3Hd5Jf0GsAaEuQ"
HEAD = b'{"kind":"%s","schema":"interlock.layer.kernel.v1","run_id":"' + RUN.encode() + b'","seq":%d,'
OWNER = b'"proposal":"p","action":"a","attempt":1,"recorder":"rec_0011223344556677","ts":1700000000000000,"mono":1'


def layer(path: Path, size_mb: int) -> None:
    """Write a kernel layer of about this size."""
    with path.open("wb") as file:
        file.write(
            HEAD % (b"recorder_started", 0) + OWNER + b',"mechanism":"notify","profile":"ns","calls":["openat"]}\n'
        )
        seq, written = 1, 0
        while written < size_mb * 1_000_000:
            name = TOKEN if seq % 100 == 0 else f"module_{seq % 5000}_of_a_package"
            body = f',"pid":{4000 + seq % 50},"tid":4000,"call":"openat","grade":"attempt","access":"read",'
            body += f'"path":"/usr/lib/python3/site-packages/some_package/{name}.py"}}\n'
            line = HEAD % (b"call", seq) + OWNER + body.encode()
            file.write(line)
            seq, written = seq + 1, written + len(line)
        file.write(HEAD % (b"recorder_ended", seq) + OWNER + b',"calls":1,"dropped":0,"refused":0}\n')


def source(path: Path) -> Source:
    """A run with this kernel layer and no events."""

    def blocks():
        with path.open("rb") as file:
            yield from blocks_of(file)

    return Source(run_id=RUN, batches=list, kernel=blocks, sdk=list)


def timed(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def parts(path: Path, room: Path) -> dict:
    """Each part of an export in isolation."""
    made, data = source(path), path.read_bytes()
    redaction = Redaction(b"k" * 32)
    clean = [line for block in made.kernel() for line in redaction.clean_block(block, _body)]
    archive = path.with_suffix(".tar.gz")
    with archive.open("wb") as file:
        export(made, redaction, (), file.write, room)
    check = schemas.line("kernel-line")
    values = [parse(line) for line in clean]

    def whole():
        export(made, redaction, (), lambda _data: None, room)

    def redact():
        for block in made.kernel():
            redaction.clean_block(block, _body)

    def read():
        for _ in read_kernel(RUN, made.kernel()):
            pass

    def sweep():
        for block in blocks_of(clean):
            redaction.sweep("layers/kernel.ndjson", block, 1)

    def compress():
        stream = zlib.compressobj(6, zlib.DEFLATED, 31)
        for at in range(0, len(data), 1 << 20):
            stream.compress(data[at : at + (1 << 20)])

    def verified():
        with archive.open("rb") as file:
            assert verify(file).verdict.valid

    def decompress():
        zlib.decompress(archive.read_bytes(), 31)

    return {
        "export": lambda: timed(whole),
        "verify": lambda: timed(verified),
        "read strictly": lambda: timed(read),
        "redaction": lambda: timed(redact),
        "sweep": lambda: timed(sweep),
        "SHA-256": lambda: timed(lambda: hashlib.sha256(data)),
        "gzip": lambda: timed(compress),
        "gunzip": lambda: timed(decompress),
        "strict JSON": lambda: timed(lambda: [parse(line) for line in clean]),
        "schemas": lambda: timed(lambda: [check(value) for value in values]),
    }


def _body(line: bytes) -> bytes:
    return line[max(0, line.find(b',"ts":')) :]


def peak_mb(work: str, path: Path, room: Path) -> float:
    """The peak memory of an export or a verification in a separate process."""
    code = (
        f"import evidence, pathlib; evidence.alone({work!r}, pathlib.Path({str(path)!r}), pathlib.Path({str(room)!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def alone(work: str, path: Path, room: Path) -> None:
    archive = path.with_suffix(".tar.gz")
    if work == "export":
        with archive.open("wb") as file:
            export(source(path), Redaction(b"k" * 32), (), file.write, room)
    else:
        with archive.open("rb") as file:
            assert verify(file).verdict.valid
    # Not getrusage, which includes the memory of the parent process.
    (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    print(int(peak.split()[1]) / 1024)


def main() -> None:
    chosen = options(__doc__ or "")
    small, large = QUICK_SIZES_MB if chosen.quick else SIZES_MB
    with scratch() as room:
        layer(room / "small", small)
        layer(room / "large", large)
        found = alternate(parts(room / "small", room), QUICK_ROUNDS if chosen.quick else ROUNDS)
        size = (room / "small").stat().st_size / 1e6
        rows = [
            {
                "part": name,
                "speed": f"{size / seconds:,.0f} MB/s",
                "to reach": "20 MB/s" if name in ("export", "verify") else "",
            }
            for name, seconds in found.items()
        ]
        for work in ("export", "verify"):
            for mb, name in ((small, "small"), (large, "large")):
                peak = f"{peak_mb(work, room / name, room):,.0f} MB"
                rows.append({"part": f"peak memory of {work}, {mb} MB", "speed": peak, "to reach": ""})
    show(rows, as_json=chosen.json)


if __name__ == "__main__":
    main()
