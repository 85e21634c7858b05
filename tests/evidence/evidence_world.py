"""Words for the tests beside this file: runs to export, and a reader of archives that knows only tar, gzip and JSON."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

import msgspec

from interlock.disk import Disk
from interlock.evidence.export import Batch, Source, export
from interlock.evidence.redaction import Redaction
from interlock.journal import JournalWriter, read_batches
from interlock.journal.sealing import seal_line
from interlock.model import events as e
from interlock.testing.clock import FakeClock
from interlock.verification.verify import verify

KEY = b"k" * 32
RUN = "run_" + "a" * 32


class Archive:
    """A finished archive, read with the standard library alone."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.tar = gzip.decompress(data)
        with tarfile.open(fileobj=io.BytesIO(self.tar)) as tar:
            self.infos = tar.getmembers()
            self.members = {info.name: tar.extractfile(info).read() for info in self.infos}

    def document(self, name):
        return json.loads(self.members[name])

    def lines(self, name):
        return [json.loads(line) for line in self.members[name].splitlines()]

    @property
    def health(self):
        return self.document("observation-health.json")

    @property
    def surface(self):
        return self.document("capability-surface.json")

    @property
    def correlation(self):
        return self.document("correlation-report.json")

    @property
    def manifest(self):
        return self.document("manifest.json")

    def events(self):
        return [line for line in self.lines("events.ndjson") if line["kind"] != "seal"]

    def claim(self, name):
        return self.surface[name]["values"]


def ambiguities(archive):
    return {found["code"]: found["subjects"] for found in archive.correlation["ambiguities"]}


class Run:
    """A run whose journal and layers a test writes itself, with the real writer."""

    def __init__(self, directory: Path, *events, kernel=(), seal_each=False) -> None:
        """`kernel` are lines of recorders, which the journal closes before its last event."""
        self.directory = directory / RUN
        self.directory.mkdir()
        self.kernel: list[dict] = list(kernel)
        events = [*events[:-1], *closings(self.kernel), *events[-1:]]
        self.sdk: list[dict] = []
        disk, clock = Disk(), FakeClock()
        started = e.RunStarted(
            version=e.FORMAT_VERSION, run=RUN, interlock="1", workspace="w", agent="coder", configuration="c"
        )
        with_ends = [started, *events]
        writer = JournalWriter.open(self.directory, run_id=RUN, disk=disk, clock=clock, durability="full", create=True)
        for event in with_ends:
            writer.append(event)
            if seal_each:
                writer.flush()
        writer.close()

    def source(self, **changes):
        kernel = [line if isinstance(line, bytes) else msgspec.json.encode(line) + b"\n" for line in self.kernel]
        sdk = [
            line if isinstance(line, bytes) else msgspec.json.encode(line, order="sorted") + b"\n" for line in self.sdk
        ]
        made = Source(
            run_id=RUN,
            batches=lambda: (Batch(b.lines, seal_line(b.seal)) for b in read_batches(self.directory)),
            kernel=lambda: [kernel] if kernel else [],
            sdk=lambda: sdk,
        )
        return msgspec.structs.replace(made, **changes)

    def export(self, tmp_path, signers=(), **changes) -> Archive:
        """The archive of the run; whatever is written, the verifier finds nothing wrong with it."""
        written = []
        export(self.source(**changes), Redaction(KEY), signers, written.append, tmp_path)
        found = verify(io.BytesIO(b"".join(written)), [signer.keyid for signer in signers]).verdict
        assert found.errors == ()
        return Archive(b"".join(written))


def intent(action="a", attempt=1, tool="shell", **fields):
    return e.ActionIntent(proposal="p", action=action, step=8, attempt=attempt, tool=tool, **fields)


def decided(action="a", decision="allow", tool="shell", **fields):
    return e.PolicyDecided(proposal="p", action=action, step=5, decision=decision, tool=tool, **fields)


KEPT = e.Kept(digest="sha256:" + "0" * 64, bytes=4, view=None)


def succeeded(action="a", attempt=1, **fields):
    return e.ActionSucceeded(
        proposal="p", action=action, step=10, attempt=attempt, duration_ms=1, output=KEPT, **fields
    )


FINISHED = e.RunFinished(status="succeeded")


def command(shim="none", recorder="none", platform="linux", **fields):
    return e.CommandStarted(agent_shim=shim, platform=platform, command=("x",), recorder=recorder, **fields)


ENDED = e.CommandFinished(exit_code=0, success=True, window_elapsed_ms=5)


def kernel_lines(*bodies, recorder="rec_1", start=0, ended=True, **where):
    """The lines of one recorder; `where` is proposal, action and attempt, or nothing for a command."""
    made = [{"kind": "recorder_started", "mechanism": "notify", "profile": "ns", "calls": ["openat"]}]
    made += [{"kind": "call", "pid": 5, "tid": 5, "grade": "attempt", **body} for body in bodies]
    if ended is not False:
        made.append(
            {
                "kind": "recorder_ended",
                "calls": len(bodies),
                "dropped": 0,
                "refused": 0,
                **(ended if ended is not True else {}),
            }
        )
    common = {"schema": "interlock.layer.kernel.v1", "run_id": RUN, **where, "recorder": recorder, "ts": 1, "mono": 1}
    return [{"kind": line.pop("kind"), **common, "seq": start + n, **line} for n, line in enumerate(made)]


def closings(lines):
    """What the journal says of the recorders of these lines."""
    for recorder in dict.fromkeys(line["recorder"] for line in lines):
        own = [line for line in lines if line["recorder"] == recorder]
        digest = digest_of([msgspec.json.encode(line) + b"\n" for line in own])
        end = own[-1] if own[-1]["kind"] == "recorder_ended" else {}
        yield e.ActionRecorded(
            proposal=own[0].get("proposal"), action=own[0].get("action"), step=9, recorder=recorder, lines=len(own),
            digest=digest, calls=sum(line["kind"] == "call" for line in own),
            dropped=end.get("dropped", 0), refused=end.get("refused", 0), lost=end.get("lost", False),
        )  # fmt: skip


def sdk_line(kind, seq, writer="w1", writer_seq=None, ts=1, **fields):
    return {
        "kind": kind, "schema": "interlock.layer.sdk.v1", "run_id": RUN, "seq": seq, "writer": writer,
        "writer_seq": seq if writer_seq is None else writer_seq, "ts": ts, **fields,
    }  # fmt: skip


def tool_call(seq, call, tool="search", kind="tool_call_started", source="provider", **fields):
    extra = {"status": "succeeded"} if kind == "tool_call_completed" else {}
    return sdk_line(kind, seq, tool_call_id=call, call_id_source=source, tool=tool, **extra, **fields)


def digest_of(lines):
    return "sha256:" + hashlib.sha256(b"".join(lines)).hexdigest()
