"""Fuzzes the verifier with atheris, which looks for bytes that reach new lines of it.

    python tests/evidence/fuzz_verification.py CORPUS [-runs=N | -max_total_time=SECONDS]

CORPUS is a directory for what it finds; begin with an empty one.

The first byte of an input says what the rest is: the gzip file, the tar in it, or the content of one member (the hashes are then
made anew, so that the content is looked at). Whatever it is, a verification ends with a verdict.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["interlock.verification"]):
    from interlock.verification import container
    from interlock.verification.verify import verify

from damage import ATTESTATION, MANIFEST, compress, members_of, pack, resealed
from evidence_world import ENDED, FINISHED, Run, command, decided, intent, kernel_lines, succeeded, tool_call

from interlock.model.canonical import canonical
from interlock.signing import Signer

SIGNER = Signer.from_secret("11" * 32)


def sound() -> dict[str, bytes]:
    """The members of an archive that has something of everything."""
    with tempfile.TemporaryDirectory() as directory:
        run = Run(
            Path(directory), command("openai-agents", "notify"), decided(), intent(), succeeded(), ENDED, FINISHED
        )
        run.kernel = kernel_lines(
            {"call": "openat", "path": "/w/in", "access": "read"}, proposal="p", action="a", attempt=1
        )
        run.sdk = [canonical(tool_call(0, "c1", arguments={"x": 1.5})) + b"\n"]
        return members_of(run.export(Path(directory), [SIGNER]).data)


MEMBERS = sound()
PATHS = container.MEMBERS


def archive_of(data: bytes) -> bytes:
    """The file that the fuzzer's bytes stand for."""
    kind, rest = data[0] if data else 0, data[1:]
    if kind == 0:
        return rest
    if kind == 1:
        return compress(rest)
    path = PATHS[kind % len(PATHS)]
    changed = {**MEMBERS, path: rest}
    return pack(changed) if path in (ATTESTATION, MANIFEST) else resealed(changed, SIGNER)


def one_input(data: bytes) -> None:
    """What the fuzzer calls."""
    found = verify(io.BytesIO(archive_of(data)), [SIGNER.keyid]).verdict
    assert found.valid == (not found.errors)


def write_corpus(directory: Path) -> None:
    """What it starts from: each kind of input, sound."""
    seeds = {"file": b"\0" + pack(MEMBERS)}
    for number, path in enumerate(PATHS):
        seeds[path.replace("/", "-")] = bytes([number + len(PATHS)]) + MEMBERS[path]
    for name, data in seeds.items():
        (directory / name).write_bytes(data)


if __name__ == "__main__":
    write_corpus(Path(sys.argv[1]))
    atheris.Setup([*sys.argv, "-keep_seed=1", "-len_control=0", "-max_len=20000", "-rss_limit_mb=2048"], one_input)
    atheris.Fuzz()
