"""A change is on disk as a backup before it happens, and a backup that was not finished was not needed."""

from __future__ import annotations

import os
import tracemalloc

import pytest

from interlock.disk import Disk
from interlock.model.errors import IntegrityError, StoreError, ToolError
from interlock.testing import FakeClock
from interlock.workspace import ABSENT, Backups, Change, Node, Origin, read_entries

ORIGIN = Origin("prop_1", "a1", 2)
FILE = Node("file", mode=0o644, size=1, sha256="0" * 64)


def kept(backups, path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return backups.keep(fd)
    finally:
        os.close(fd)


def test_entries_come_back_as_they_were_recorded(workspace, root, new_run):
    (root / "f").write_bytes(b"content")
    backups = new_run("run_1")
    seen = workspace.examine((b"f",), read=backups.keep)
    backups.record(ORIGIN, [Change((b"f",), seen.node, ABSENT), Change((b"\xff\n", b"x"), ABSENT, FILE)])
    first, second = read_entries(backups.run)
    assert (first.seq, first.proposal, first.action, first.attempt) == (0, "prop_1", "a1", 2)
    assert first.ts == FakeClock().now_us()
    assert first.rel == (b"f",)
    assert first.before == seen.node
    assert first.before.size == 7
    assert first.before.mtime_ns == (root / "f").stat().st_mtime_ns
    assert (second.rel, second.before, second.after) == ((b"\xff\n", b"x"), ABSENT, FILE)
    assert backups.content(seen.node.sha256).read_bytes() == b"content"


def test_nothing_is_made_before_the_first_change(new_run):
    backups = new_run("run_1")
    assert read_entries(backups.run) == []
    assert list(backups.run.iterdir()) == []


def test_one_content_is_kept_once_and_private(root, new_run):
    (root / "a").write_bytes(b"same")
    (root / "b").write_bytes(b"same")
    backups = new_run("run_1")
    assert kept(backups, root / "a") == kept(backups, root / "b")
    backups.record(ORIGIN, [])
    kept(backups, root / "a")
    backups.record(ORIGIN, [])
    names = sorted(path.name for path in backups.directory.iterdir())
    assert len(names) == 2
    assert "index.ndjson" in names
    assert {path.stat().st_mode & 0o777 for path in backups.directory.iterdir()} == {0o600}
    assert backups.directory.stat().st_mode & 0o777 == 0o700


def test_many_contents_at_once(workspace, root, new_run):
    backups = new_run("run_1")
    for i in range(50):
        (root / str(i)).write_text(str(i))
    nodes = [workspace.examine((str(i).encode(),), read=backups.keep).node for i in range(50)]
    backups.record(ORIGIN, [Change((str(i).encode(),), node, ABSENT) for i, node in enumerate(nodes)])
    assert [backups.content(e.before.sha256).read_text() for e in read_entries(backups.run)] == [
        str(i) for i in range(50)
    ]


def test_sequence_continues_in_the_next_process(new_run):
    new_run("run_1").record(ORIGIN, [Change((b"a",), ABSENT, FILE)])
    new_run("run_1").record(ORIGIN, [Change((b"b",), ABSENT, FILE)])
    assert [e.seq for e in read_entries(new_run("run_1").run)] == [0, 1]


@pytest.mark.parametrize("cut", range(1, 400, 13))
def test_a_torn_last_line_is_left_out_and_cut_off(new_run, cut):
    backups = new_run("run_1")
    backups.record(ORIGIN, [Change((b"a",), ABSENT, FILE)])
    whole = (backups.directory / "index.ndjson").read_bytes()
    backups.record(ORIGIN, [Change((b"b",), ABSENT, FILE)])
    index = backups.directory / "index.ndjson"
    os.truncate(index, max(len(whole), index.stat().st_size - cut))
    assert [e.rel for e in read_entries(backups.run)] == [(b"a",)]
    again = new_run("run_1")
    again.record(ORIGIN, [Change((b"c",), ABSENT, FILE)])
    assert [(e.seq, e.rel) for e in read_entries(backups.run)] == [(0, (b"a",)), (1, (b"c",))]


def test_every_flipped_byte_is_noticed(new_run):
    backups = new_run("run_1")
    backups.record(ORIGIN, [Change((b"a",), ABSENT, FILE), Change((b"b",), ABSENT, FILE)])
    index = backups.directory / "index.ndjson"
    good, entries = index.read_bytes(), read_entries(backups.run)
    first = good.index(b"\n")
    for at in range(first):
        index.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(IntegrityError, match="damaged"):
            assert read_entries(backups.run) != entries


class FailingDisk(Disk):
    def __init__(self, at):
        self.left = at

    def _count(self):
        self.left -= 1
        if self.left < 0:
            raise StoreError("disk full", code="disk_full")

    def write(self, fd, data):
        self._count()
        super().write(fd, data)

    def sync(self, fd):
        self._count()
        super().sync(fd)

    def sync_data(self, fd):
        self._count()
        super().sync_data(fd)

    def rename(self, source, destination):
        self._count()
        super().rename(source, destination)


def test_a_disk_that_fails_anywhere_leaves_only_whole_entries(workspace, root, new_run):
    (root / "f").write_bytes(b"content")
    failed, codes = 0, set()
    for at in range(12):
        backups = new_run(f"run_{at}", FailingDisk(at))
        try:
            seen = workspace.examine((b"f",), read=backups.keep)
            backups.record(ORIGIN, [Change((b"f",), seen.node, ABSENT)])
        except (StoreError, ToolError) as error:
            failed += 1
            codes.add(error.code)
        again = new_run(f"run_{at}")
        seen = workspace.examine((b"f",), read=again.keep)
        again.record(ORIGIN, [Change((b"f",), seen.node, ABSENT)])
        for entry in read_entries(again.run):
            assert again.content(entry.before.sha256).read_bytes() == b"content"
        assert not list(again.directory.glob("incoming-*"))
    assert failed >= 4
    assert "backup_failed" in codes


def test_a_huge_file_is_copied_in_little_memory(root, new_run):
    with open(root / "huge", "wb") as file:
        file.truncate(64 << 20)
    backups = Backups(new_run("run_1").run, Disk(), FakeClock())
    tracemalloc.start()
    try:
        _, size = kept(backups, root / "huge")
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
        backups.close()
    assert size == 64 << 20
