"""How fast a run is exported, and where the time goes; and that memory does not grow with the size of its layers.

    python benchmarks/evidence.py [--quick] [--json]

A kernel layer of opens with paths that repeat as those of real programs do, one line in a hundred with a secret in it. Each
part is the same work by itself: reading the lines strictly, redaction, the sweep, SHA-256, compression.
"""

from __future__ import annotations

import hashlib
import resource
import subprocess
import sys
import time
import zlib
from pathlib import Path

from measuring import alternate, options, scratch, show

from interlock.evidence.export import Source, export
from interlock.evidence.layers import blocks_of, read_kernel
from interlock.evidence.redaction import Redaction

RUN = "run_" + "a" * 32
SIZES_MB, QUICK_SIZES_MB = (32, 256), (8, 32)
ROUNDS, QUICK_ROUNDS = 5, 2
TOKEN = "ghp_q7Zk2Lw9Xv4Bn8Rt1Yp6Mc3Hd5Jf0GsAaEuQ"
HEAD = b'{"kind":"%s","schema":"interlock.layer.kernel.v1","run_id":"' + RUN.encode() + b'","seq":%d,'
OWNER = b'"proposal":"p","action":"a","attempt":1,"recorder":"rec_0011223344556677","ts":1700000000000000,"mono":1'


def layer(path: Path, size_mb: int) -> None:
    """Write a kernel layer of about that size."""
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
    """A run that has this kernel layer and no event."""

    def blocks():
        with path.open("rb") as file:
            yield from blocks_of(file)

    return Source(run_id=RUN, batches=list, kernel=blocks, sdk=list)


def timed(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def parts(path: Path, room: Path) -> dict:
    """Each part of an export by itself."""
    made, data = source(path), path.read_bytes()
    redaction = Redaction(b"k" * 32)
    clean = [line for block in made.kernel() for line in redaction.clean_block(block, _body)]

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

    return {
        "export": lambda: timed(whole),
        "read strictly": lambda: timed(read),
        "redaction": lambda: timed(redact),
        "sweep": lambda: timed(sweep),
        "SHA-256": lambda: timed(lambda: hashlib.sha256(data)),
        "gzip": lambda: timed(compress),
    }


def _body(line: bytes) -> bytes:
    return line[max(0, line.find(b',"ts":')) :]


def peak_mb(path: Path, room: Path) -> float:
    """The most memory that an export in a process of its own takes."""
    code = f"import evidence, pathlib; evidence.alone(pathlib.Path({str(path)!r}), pathlib.Path({str(room)!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def alone(path: Path, room: Path) -> None:
    export(source(path), Redaction(b"k" * 32), (), lambda _data: None, room)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


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
                "to reach": "20 MB/s" if name == "export" else "",
            }
            for name, seconds in found.items()
        ]
        for mb, name in ((small, "small"), (large, "large")):
            rows.append(
                {"part": f"peak memory, {mb} MB", "speed": f"{peak_mb(room / name, room):,.0f} MB", "to reach": ""}
            )
    show(rows, as_json=chosen.json)


if __name__ == "__main__":
    main()
