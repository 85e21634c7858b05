"""Files: whole or not at all, clear errors, locks that die with their holder."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from interlock.disk import Disk
from interlock.model.errors import StoreError
from interlock.testing import CrashingDisk, SimulatedCrash


def code(call: object) -> str:
    with pytest.raises(StoreError) as caught:
        call()
    return caught.value.code


def test_write_atomic_replaces_a_file_and_sets_its_mode(tmp_path: Path):
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)
    Disk().write_atomic(path, b"new")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", 0o600)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("fault", ["crash", "full", "failed"])
@pytest.mark.parametrize("survives", [0, 1])
@pytest.mark.parametrize("names", [False, True])
def test_write_atomic_leaves_the_old_or_the_new_file_whatever_happens(
    tmp_path: Path, fault: str, survives: int, names: bool
):
    counting = CrashingDisk()
    counting.write_atomic(tmp_path / "count", b"x")
    for at in range(len(counting.operations)):
        path = tmp_path / f"file_{at}"
        path.write_bytes(b"old")
        disk = CrashingDisk(at=at, fault=fault)
        with contextlib.suppress(SimulatedCrash, StoreError):
            disk.write_atomic(path, b"the new content")
        disk.power_loss(survives=lambda n: n * survives, names=names)
        assert path.read_bytes() in (b"old", b"the new content")
    disk = CrashingDisk()
    disk.write_atomic(tmp_path / "last", b"acknowledged")
    disk.power_loss()
    assert (tmp_path / "last").read_bytes() == b"acknowledged"


def test_a_write_that_fails_leaves_no_temporary_file(tmp_path: Path):
    disk = CrashingDisk(at=0, fault="full")
    assert code(lambda: disk.write_atomic(tmp_path / "file", b"x")) == "disk_full"
    assert os.listdir(tmp_path) == []


def test_a_directory_is_made_with_its_parents_for_the_user_only(tmp_path: Path):
    disk = CrashingDisk()
    disk.make_directory(tmp_path / "a" / "b")
    disk.make_directory(tmp_path / "a" / "b")
    disk.power_loss()
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_appending_never_follows_a_symbolic_link(tmp_path: Path):
    (tmp_path / "target").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(StoreError):
        Disk().open_append(tmp_path / "link")
    assert (tmp_path / "target").read_text() == "x"


def test_a_tree_is_removed_without_following_links(tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("x")
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep" / "link").symlink_to(outside)
    Disk().remove_tree(tree)
    Disk().remove_tree(tree)
    assert not tree.exists()
    assert (outside / "file").exists()


def test_a_link_in_place_of_the_tree_is_refused(tmp_path: Path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(StoreError):
        Disk().remove_tree(tmp_path / "link")
    assert (tmp_path / "outside").exists()


def test_errors_of_the_machine_have_their_codes(tmp_path: Path):
    fd = os.open("/dev/full", os.O_WRONLY)
    assert code(lambda: Disk().write(fd, b"x")) == "disk_full"
    os.close(fd)
    assert code(lambda: Disk().make_directory(Path("/proc/interlock"))) in ("store", "read_only", "permission_denied")
    assert code(lambda: Disk().open_append(tmp_path)) == "store"
    assert code(lambda: Disk().make_directory(tmp_path / ("x" * 300))) == "store"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        error = code(lambda: Disk().open_append(tmp_path / "file"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert error == "too_many_files"


def test_a_file_larger_than_one_write_takes_is_written_whole(tmp_path: Path):
    reader, writer = os.pipe()
    data = os.urandom(1 << 20)
    with subprocess.Popen([sys.executable, "-c", "import sys; print(len(sys.stdin.buffer.read()))"],
                          stdin=reader, stdout=subprocess.PIPE) as other:  # fmt: skip
        os.close(reader)
        Disk().write(writer, data)
        os.close(writer)
        assert int(other.stdout.read()) == len(data)


def test_a_lock_excludes_other_processes_and_dies_with_its_holder(tmp_path: Path):
    path = tmp_path / "lock"
    program = "import sys, pathlib, interlock.disk as d; print(d.Disk().lock(pathlib.Path(sys.argv[1])) is not None, flush=True)"
    ask = [sys.executable, "-c", program, str(path)]
    fd = Disk().lock(path)
    assert subprocess.check_output(ask) == b"False\n"
    assert Disk().lock(path) is None
    os.close(fd)
    assert subprocess.check_output(ask) == b"True\n"  # and it has ended by now
    os.close(Disk().lock(path, wait=True))


# -- the fake itself ------------------------------------------------------------------------------------------------------


def test_the_fake_forgets_exactly_what_was_not_synced(tmp_path: Path):
    disk = CrashingDisk()
    fd = disk.open_append(tmp_path / "file")
    disk.sync_directory(tmp_path)
    disk.write(fd, b"synced")
    disk.sync_data(fd)
    disk.write(fd, b"unsynced")
    os.close(fd)
    disk.power_loss(survives=lambda n: n - 6)
    assert (tmp_path / "file").read_bytes() == b"syncedun"


def test_the_fake_forgets_a_name_that_was_not_synced(tmp_path: Path):
    disk = CrashingDisk()
    fd = disk.open_append(tmp_path / "file")
    disk.write(fd, b"x")
    disk.sync_data(fd)
    os.close(fd)
    disk.power_loss()
    assert os.listdir(tmp_path) == []


def test_the_fake_reverts_a_rename_and_a_truncation_that_were_not_synced(tmp_path: Path):
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name * 5)
    disk = CrashingDisk()
    disk.rename(tmp_path / "a", tmp_path / "b")
    fd = disk.open_append(tmp_path / "c")
    disk.truncate(fd, 1)
    os.close(fd)
    disk.power_loss()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a": "aaaaa", "b": "bbbbb", "c": "ccccc"}


def test_after_a_crash_the_fake_does_nothing_any_more(tmp_path: Path):
    disk = CrashingDisk(at=1)
    fd = disk.open_append(tmp_path / "file")
    for _ in range(2):
        with pytest.raises(SimulatedCrash):
            disk.write(fd, b"1234")
    os.close(fd)
    assert (tmp_path / "file").read_bytes() == b"12"
    assert disk.operations == ["open_append", "write"]


def test_what_a_failed_sync_should_have_kept_is_lost_even_if_a_later_sync_succeeds(tmp_path: Path):
    disk = CrashingDisk(at=3, fault="failed")
    fd = disk.open_append(tmp_path / "file")
    disk.sync_directory(tmp_path)
    disk.write(fd, b"x")
    assert code(lambda: disk.sync_data(fd)) == "disk_failed"
    disk.sync_data(fd)
    os.close(fd)
    disk.power_loss()
    assert (tmp_path / "file").read_bytes() == b""


def test_a_tree_with_directories_that_its_owner_may_not_enter_is_removed():
    """As overlayfs and processes leave them: an ordinary user could not prune a run that had kept its layer."""
    top = Path(tempfile.mkdtemp())  # outside of pytest's own directory, which other users cannot enter
    tree = top / "tree"
    for name in ("work/work", "upper/closed/deep", "upper/read_only"):
        (tree / name).mkdir(parents=True)
        (tree / name / "file").write_text("x")
    (top / "kept").mkdir(0o500)
    (tree / "upper" / "link").symlink_to(top / "kept")
    user = os.geteuid() or 65534
    for place in (top, *top.rglob("*")):
        os.chown(place, user, -1, follow_symlinks=False)
    for name, mode in (("work/work", 0), ("upper/read_only", 0o555), ("upper/closed/deep", 0o100), ("upper/closed", 0)):
        (tree / name).chmod(mode)
    shutil.rmtree(top / "no such directory", ignore_errors=True)  # imported now: the child may not be able to
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            os.setresuid(user, user, user)
            Disk().remove_tree(tree)
            os._exit(0)
        os._exit(1)
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert not tree.exists()
        assert stat.S_IMODE((top / "kept").stat().st_mode) == 0o500
    finally:
        shutil.rmtree(top)
