"""The kernel layer's files: numbered lines of several recorders, secrets replaced, files rotated, drops counted."""

from __future__ import annotations

import hashlib
import json

import pytest

from interlock.detect import Redactor
from interlock.disk import Disk
from interlock.journal.kernel_layer import KernelLayer, layer_files
from interlock.model.kernel_layer import KernelCall, RecorderEnded, decode_record


def call(path, access="read", **more):
    fields = {"kind": "call", "ts": 1, "mono": 2, "pid": 7, "tid": 7, "call": "openat", "grade": "attempt"}
    return json.dumps({**fields, "path": path, "access": access, **more}, separators=(",", ":")).encode()


def ended(calls, dropped):
    return json.dumps(
        {"kind": "recorder_ended", "ts": 3, "mono": 4, "calls": calls, "dropped": dropped, "refused": 0},
        separators=(",", ":"),
    ).encode()


@pytest.fixture
def open_layer(tmp_path):
    made = []

    def open_one(**bounds):
        directory = tmp_path / "run_1"
        directory.mkdir(exist_ok=True)
        made.append(KernelLayer(directory, Disk(), Redactor(b"k" * 32), **bounds))
        return made[-1]

    yield open_one
    for layer in made:
        layer.close()


def records(tmp_path):
    files = layer_files(tmp_path / "run_1")
    return [decode_record(line) for file in files for line in file.read_bytes().splitlines()]


def test_lines_of_recorders_are_numbered_together_and_a_digest_covers_each_of_them(open_layer, tmp_path):
    layer = open_layer()
    one, two = layer.writer("k1", "p", "a", 1), layer.writer("k2", "p", "b", 2)
    one.add([call("/one")])
    two.add([call("/two"), call("/three")])
    one.add([ended(1, 0)])
    found = records(tmp_path)
    assert [r.seq for r in found] == [0, 1, 2, 3]
    assert [(r.recorder, r.action, r.attempt) for r in found] == [
        ("k1", "a", 1),
        ("k2", "b", 2),
        ("k2", "b", 2),
        ("k1", "a", 1),
    ]
    assert [r.path for r in found if isinstance(r, KernelCall)] == ["/one", "/two", "/three"]
    assert isinstance(found[3], RecorderEnded)
    lines = layer_files(tmp_path / "run_1")[0].read_bytes().splitlines(keepends=True)
    assert one.digest == "sha256:" + hashlib.sha256(lines[0] + lines[3]).hexdigest()
    assert (one.lines, two.lines, two.calls) == (2, 2, 2)


def test_a_later_process_continues_with_the_numbers_and_cuts_half_a_line_off(open_layer, tmp_path):
    layer = open_layer()
    layer.writer("k1", "p", "a", 1).add([call("/one")])
    layer.close()
    file = layer_files(tmp_path / "run_1")[0]
    with file.open("ab") as half:
        half.write(b'{"kind":"call","sche')
    open_layer().writer("k2", "p", "b", 1).add([call("/two")])
    assert [(r.seq, r.path) for r in records(tmp_path)] == [(0, "/one"), (1, "/two")]


def test_files_are_rotated_and_the_numbers_continue(open_layer, tmp_path):
    writer = open_layer(file_bytes=1000).writer("k1", "p", "a", 1)
    for number in range(20):
        writer.add([call(f"/{number}")])
    files = layer_files(tmp_path / "run_1")
    assert len(files) > 3
    assert all(file.stat().st_size <= 1000 for file in files)
    assert [r.seq for r in records(tmp_path)] == list(range(20))


def test_past_its_bound_a_recorder_counts_what_it_drops_and_files_that_are_only_read_are_dropped_first(
    open_layer, tmp_path
):
    writer = open_layer(recorder_bytes=4000).writer("k1", "p", "a", 1)
    for number in range(100):
        writer.add([call(f"/read{number}", count=3)])
    assert writer.dropped > 200
    assert writer.dropped % 3 == 0
    reads = writer.dropped
    writer.add([call("/written", "write")])
    assert writer.dropped == reads
    for _ in range(100):
        writer.add([call("/written", "write")])
    assert writer.dropped > reads
    assert writer.calls == 401
    writer.add([ended(401, writer.dropped)])
    found = records(tmp_path)
    assert "/written" in [r.path for r in found if isinstance(r, KernelCall)]
    assert isinstance(found[-1], RecorderEnded)


def test_secrets_in_arguments_and_paths_are_replaced_before_they_are_written(open_layer, tmp_path):
    token = "ghp_" + "a1B2c3D4e5F6g7H8i9J0" + "k1L2m3N4o5P6q7R8"
    writer = open_layer().writer("k1", "p", "a", 1)
    writer.add([call(f"/tmp/{token}"), call("/clean"), call("/bin/x", argv=["x", "--password", "hunter2hunter2"])])
    data = layer_files(tmp_path / "run_1")[0].read_bytes()
    assert token.encode() not in data
    assert b"hunter2hunter2" not in data
    assert data.count(b"[redacted:") == 2
    assert [r.seq for r in records(tmp_path)] == [0, 1, 2]


STARTED = b'{"kind":"recorder_started","ts":1,"mono":1,"mechanism":"notify","profile":"ns","calls":[]}'
BODIES = [
    call("/one"),
    call('/a "kind":"call" b', count=3),
    call("/two", "write"),
    call("/ghp_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"),
    call('/x","count":9'),
    call("/long" * 40, count=2),
]


@pytest.mark.parametrize("room", [1 << 20, 1600, 900, 10])
@pytest.mark.parametrize("size", [1, 2, 3, len(BODIES)])
def test_how_lines_arrive_together_changes_nothing(tmp_path, room, size):
    def written(name, batches):
        layer = KernelLayer(tmp_path / name / "run_1", Disk(), Redactor(b"k" * 32), recorder_bytes=room)
        (tmp_path / name / "run_1").mkdir(parents=True)
        writer = layer.writer("k1", "p", "a", 1)
        writer.add([STARTED])
        for batch in batches:
            writer.add(batch)
        writer.add([ended(1, 0)], always=True)
        layer.close()
        lines = (tmp_path / name / "run_1/layers/kernel.ndjson").read_bytes()
        assert writer.digest == "sha256:" + hashlib.sha256(lines).hexdigest()
        return lines, writer.calls, writer.dropped, writer.lines

    one = written("one", [[body] for body in BODIES])
    several = written("several", [BODIES[at : at + size] for at in range(0, len(BODIES), size)])
    assert one == several
    assert one[1] == 9
