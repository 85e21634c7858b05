"""Whatever the file tools have done, undo brings the tree back exactly; and whatever races them, nothing leads out."""

from __future__ import annotations

import base64
import ctypes
import itertools
import os
import stat
import struct
import tempfile
import threading
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from interlock.disk import Disk
from interlock.executors.files import bindings
from interlock.model.errors import ConflictError, ToolError
from interlock.testing import FakeClock
from interlock.workspace import Backups, Origin, Workspace, plan_undo, restore
from interlock.workspace.names import to_json


class Tools:
    """The tools as methods: `tools.read(path="f")`. Output is checked against the tool's own schema."""

    BINDINGS: ClassVar = {binding.tool.name: binding for binding in bindings(lambda _ctx, _path: True)}

    def __init__(self, workspace, run, context):
        run.mkdir(parents=True, exist_ok=True)
        self.run, self.context, self.workspace = run, context, workspace
        context.backups = Backups(run, Disk(), FakeClock())

    def __getattr__(self, name):
        binding = self.BINDINGS[f"fs.{name}"]

        def call(**parameters):
            output = binding.function(parameters, self.context)
            shown = {"difference", "note"} if self.context.dry_run else set()
            assert set(output) - shown == set(binding.tool.returns["required"])
            return output

        return call

    def undo(self, into, **options):
        into = self.run.parent / into
        into.mkdir()
        backups = Backups(into, Disk(), FakeClock())
        try:
            return restore(self.workspace, self.run, plan_undo(self.run), backups, Origin("u", "u", 0), **options)
        finally:
            backups.close()

    def close(self):
        if self.context.backups is not None:
            self.context.backups.close()


def picture(root):
    found = {}
    for directory, names, files in os.walk(os.fsencode(root)):
        for name in names + files:
            path = os.path.join(directory, name)
            seen = os.lstat(path)
            kind, mode = stat.S_IFMT(seen.st_mode), stat.S_IMODE(seen.st_mode)
            if stat.S_ISLNK(seen.st_mode):
                found[path] = (kind, os.readlink(path))
            elif stat.S_ISREG(seen.st_mode):
                with open(path, "rb") as file:
                    found[path] = (kind, mode, seen.st_mtime_ns, file.read())
            else:
                found[path] = (kind, mode)
    return found


NAMES = [b"a", b"b", b"c", b"\xff", b"x\ny", b"d d"]
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(tuple)
STEPS = st.one_of(
    st.tuples(st.just("write"), PATHS, st.binary(max_size=6), st.booleans()),
    st.tuples(st.just("edit"), PATHS),
    st.tuples(st.just("delete"), PATHS, st.booleans()),
    st.tuples(st.just("move"), PATHS, PATHS),
)
START = st.dictionaries(PATHS, st.sampled_from(["file", "dir", "link", "ro-dir"]), max_size=6)


def build(root, start):
    for path, kind in sorted(start.items()):
        place = os.fsencode(root) + b"/" + b"/".join(path)
        try:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            if kind == "file":
                with open(place, "xb") as file:
                    file.write(b"start" + path[-1])
                os.chmod(place, 0o640)
            elif kind == "link":
                os.symlink(path[0], place)
            else:
                os.mkdir(place, 0o700 if kind == "dir" else 0o755)
        except OSError:
            continue  # the name is taken by something else that was drawn


def apply(tools, step):
    name, path, *rest = step
    try:
        match name:
            case "write":
                content = base64.b64encode(rest[0]).decode()
                tools.write(path=to_json(path), content=content, encoding="base64", append=rest[1])
            case "edit":
                tools.edit(path=to_json(path), old="start", new="edited")
            case "delete":
                tools.delete(path=to_json(path), recursive=rest[0])
            case "move":
                tools.move(source=to_json(path), destination=to_json(rest[0]))
    except ToolError:
        return False
    return True


class Plain:
    proposal_id, action_id, attempt, agent = "p", "a", 1, "coder"
    dry_run = cancelled = False
    backups = None

    def __init__(self, workspace):
        self.workspace = workspace

    def not_exactly_undoable(self, what):
        raise AssertionError(what)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(start=START, steps=st.lists(STEPS, max_size=10))
@example(start={(b"a",): "file"}, steps=[("write", (b"a",), b"", True)])
@example(start={(b"a",): "file"}, steps=[("delete", (b"a",), False), ("write", (b"a", b"b"), b"x", False)])
def test_any_sequence_of_operations_is_undone_exactly(start, steps):
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "project"
        root.mkdir()
        build(root, start)
        before = picture(root)
        with Workspace(root) as workspace:
            tools = Tools(workspace, Path(place) / "runs" / "run_1", Plain(workspace))
            for step in steps:
                apply(tools, step)
            after = picture(root)
            tools.undo("run_2")
            assert picture(root) == before
            again = Tools(workspace, Path(place) / "runs" / "run_2", Plain(workspace))
            again.undo("run_3")
            assert {k: v[:2] + v[3:] for k, v in picture(root).items()} == {k: v[:2] + v[3:] for k, v in after.items()}
            tools.close()
            again.close()


@pytest.fixture
def root(workspace):
    return workspace.root


@pytest.fixture
def tools(workspace, tmp_path, context):
    made = Tools(workspace, tmp_path / "runs" / "run_1", context())
    yield made
    made.close()


class Killed(BaseException):
    pass


class DyingDisk(Disk):
    """Dies at the nth operation of any kind, for good: nothing is cleaned up after it through it."""

    def __init__(self):
        self.left = None

    def _step(self):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Killed

    def write(self, fd, data):
        self._step()
        super().write(fd, data)

    def sync(self, fd):
        self._step()
        super().sync(fd)

    def sync_data(self, fd):
        self._step()
        super().sync_data(fd)

    def sync_filesystem(self, fd):
        self._step()
        super().sync_filesystem(fd)

    def rename(self, source, destination):
        self._step()
        super().rename(source, destination)

    def rename_at(self, source_directory, source, directory, name, *, replace=True):
        self._step()
        super().rename_at(source_directory, source, directory, name, replace=replace)

    def swap_at(self, directory, one, other):
        self._step()
        return super().swap_at(directory, one, other)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("write", {"path": "new/deep/f", "content": "x"}),
        ("write", {"path": "f", "content": "x", "append": True}),
        ("edit", {"path": "f", "old": "old", "new": "new"}),
        ("delete", {"path": "d", "recursive": True}),
        ("move", {"source": "d", "destination": "n/m"}),
    ],
)
def test_dying_at_any_point_can_be_undone(tmp_path, name, parameters):
    died = 0
    for at in range(60):
        place = tmp_path / str(at)
        root = place / "project"
        (root / "d" / "e").mkdir(parents=True)
        (root / "d" / "e" / "x").write_text("x")
        (root / "f").write_text("old")
        before = picture(root)
        disk = DyingDisk()
        with Workspace(root, disk=disk) as workspace:
            tools = Tools(workspace, place / "runs" / "run_1", Plain(workspace))
            tools.close()
            tools.context.backups = Backups(tools.run, disk, FakeClock())
            disk.left = at
            try:
                getattr(tools, name)(**parameters)
            except Killed:
                died += 1
            tools.close()
            disk.left = None
            tools.undo("run_2")
        after = picture(root)
        assert after == before
        if died <= at:
            break
    assert died >= 4


def test_an_undo_of_many_files_that_dies_at_any_point_can_be_begun_again(tmp_path):
    died = 0
    for at in range(120):
        place = tmp_path / str(at)
        root = place / "project"
        for i in range(12):
            (root / "d" / str(i % 3)).mkdir(parents=True, exist_ok=True)
            (root / "d" / str(i % 3) / f"f{i}").write_text(str(i))
        before = picture(root)
        disk = DyingDisk()
        with Workspace(root, disk=disk) as workspace:
            tools = Tools(workspace, place / "runs" / "run_1", Plain(workspace))
            tools.delete(path="d", recursive=True)
            tools.write(path="d", content="in its place")
            tools.close()
            disk.left = at
            try:
                tools.undo("run_2")
            except Killed:
                died += 1
            disk.left = None
            tools.undo("run_3")
        after = {path: what for path, what in picture(root).items() if b"/.interlock-" not in path}
        assert after == before
        if died <= at:
            break
    assert died >= 15


class CountingDisk(Disk):
    """Counts what makes something durable."""

    syncs = 0

    def sync(self, fd):
        self.syncs += 1
        super().sync(fd)

    def sync_filesystem(self, fd):
        self.syncs += 1
        super().sync_filesystem(fd)


def test_the_syncs_of_a_large_tree_do_not_grow_with_its_files(tmp_path):
    """A sync takes milliseconds: one a file, and a directory of 5,000 files is not deleted within the time-out."""
    root = tmp_path / "project"
    for i in range(400):
        (root / "d" / str(i % 4)).mkdir(parents=True, exist_ok=True)
        (root / "d" / str(i % 4) / f"f{i}").write_text(str(i))
    before = picture(root)
    disk = CountingDisk()
    with Workspace(root, disk=disk) as workspace:
        tools = Tools(workspace, tmp_path / "runs" / "run_1", Plain(workspace))
        tools.delete(path="d", recursive=True)
        assert os.listdir(root) == []
        assert disk.syncs < 10
        tools.undo("run_2")
        tools.close()
    assert picture(root) == before
    assert disk.syncs < 40


def access_list(user):
    """What setxattr takes for `user::rw-, user:USER:r--, group::r--, mask::r--, other::---` (linux/posix_acl_xattr.h)."""
    rows = ((1, 6, 2**32 - 1), (2, 4, user), (4, 4, 2**32 - 1), (16, 4, 2**32 - 1), (32, 0, 2**32 - 1))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in rows)


def attributes(path):
    return {name: os.getxattr(path, name) for name in os.listxattr(path) if not name.startswith("security.")}


@pytest.fixture
def marked(root):
    """A file and a directory with extended attributes and an access control list."""
    (root / "d").mkdir()
    (root / "d" / "f").write_text("old")
    try:
        for path in (root / "d", root / "d" / "f"):
            os.setxattr(path, "user.origin", b"\0\xff")
            os.setxattr(path, "system.posix_acl_access", access_list(12_345))
    except OSError as error:
        pytest.skip(f"the file system has no such attributes: {error}")
    return {path: attributes(path) for path in (root / "d", root / "d" / "f")}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("write", {"path": "d/f", "content": "new"}),
        ("write", {"path": "d/f", "content": "new", "append": True}),
        ("edit", {"path": "d/f", "old": "old", "new": "new"}),
    ],
)
def test_a_change_keeps_who_may_read_the_file(tools, root, marked, name, parameters):
    getattr(tools, name)(**parameters)
    assert attributes(root / "d" / "f") == marked[root / "d" / "f"]
    tools.undo("run_2")
    assert attributes(root / "d" / "f") == marked[root / "d" / "f"]


def test_undo_gives_attributes_back(tools, root, marked):
    tools.delete(path="d", recursive=True)
    tools.undo("run_2")
    assert {path: attributes(path) for path in marked} == marked


def test_only_a_forced_undo_takes_attributes_away_that_came_later(tools, root, marked):
    (root / "plain").write_text("old")
    tools.write(path="plain", content="new")
    os.setxattr(root / "plain", "user.late", b"x")
    with pytest.raises(ConflictError):
        tools.undo("run_2")
    assert attributes(root / "plain") != {}
    tools.undo("run_3", changed="overwrite")
    assert attributes(root / "plain") == {}


def test_copies_of_a_sparse_file_are_sparse(tools, root):
    with (root / "f").open("wb") as file:
        file.truncate(64 * 2**20)
        file.seek(40 * 2**20)
        file.write(b"data")
    before = picture(root)
    tools.delete(path="f")
    assert sum(one.stat().st_blocks * 512 for one in (tools.run / "backups").iterdir()) < 8 * 2**20
    tools.undo("run_2")
    assert picture(root) == before
    assert (root / "f").stat().st_blocks * 512 < 8 * 2**20


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("delete", {"path": "f"}),
        ("write", {"path": "f", "content": "x"}),
        ("write", {"path": "f", "content": "x", "append": True}),
    ],
)
def test_a_long_copy_is_stopped_with_its_action(tools, root, monkeypatch, name, parameters):
    """A thread cannot be ended: it has to look by itself whether it still should continue."""
    (root / "f").write_bytes(b"x" * 5 * 2**20)
    before = picture(root)
    asked = itertools.count()
    monkeypatch.setattr(type(tools.context), "cancelled", property(lambda _: next(asked) >= 4), raising=False)
    with pytest.raises(ToolError) as caught:
        getattr(tools, name)(**parameters)
    assert caught.value.code == "cancelled"
    assert picture(root) == before
    assert [one.name for one in (tools.run / "backups").iterdir()] == ["index.ndjson"]


def test_a_target_swapped_for_a_link_by_a_racing_thread(tools, root, tmp_path):
    """The racer exchanges a file, and a directory, for links that lead out, while they are written to."""
    outside = tmp_path / "outside"
    outside.mkdir()
    victim = outside / "victim"
    victim.write_text("untouched")
    (root / "d").mkdir()
    (root / "f").write_text("x")
    (root / "to-file").symlink_to(victim)
    (root / "to-dir").symlink_to(outside)
    libc = ctypes.CDLL(None)
    stop = threading.Event()

    def swap():
        while not stop.is_set():
            for one, other in (("f", "to-file"), ("d", "to-dir")):
                libc.renameat2(-100, os.fsencode(root / one), -100, os.fsencode(root / other), 2)

    racer = threading.Thread(target=swap)
    racer.start()
    outcomes = set()
    wanted = {"done", "path_outside_workspace"}
    try:
        for i in range(3_000):
            if i >= 150 and wanted <= outcomes:
                break
            for call, parameters in (
                (tools.write, {"path": "f", "content": str(i)}),
                (tools.write, {"path": "d/victim", "content": str(i)}),
                (tools.edit, {"path": "f", "old": str(i), "new": "y"}),
                (tools.delete, {"path": "d/victim"}),
            ):
                try:
                    call(**parameters)
                    outcomes.add("done")
                except ToolError as error:
                    outcomes.add(error.code)
    finally:
        stop.set()
        racer.join()
    assert victim.read_text() == "untouched"
    assert os.listdir(outside) == ["victim"]
    assert wanted <= outcomes


class RacedDisk(Disk):
    """Somebody saves `f` in the very moment before ours takes its place, as often as there are `texts`."""

    def __init__(self, root, texts, *, swaps=True):
        self.root, self.texts, self.swaps = root, list(texts), swaps

    def swap_at(self, directory, one, other):
        if self.texts:
            (self.root / ".theirs").write_text(self.texts.pop(0))
            os.rename(self.root / ".theirs", self.root / "f")
        return self.swaps and super().swap_at(directory, one, other)


@pytest.mark.parametrize("texts", [["theirs"], ["theirs", "theirs again"]])
def test_a_save_of_the_very_moment_is_not_overwritten(tmp_path, texts):
    root = tmp_path / "project"
    root.mkdir()
    (root / "f").write_text("old")
    with Workspace(root, disk=RacedDisk(root, texts)) as workspace:
        tools = Tools(workspace, tmp_path / "runs" / "run_1", Plain(workspace))
        with pytest.raises(ToolError) as caught:
            tools.write(path="f", content="ours")
        tools.close()
    assert caught.value.code == "file_changed"
    assert (root / "f").read_text() == texts[-1]
    assert os.listdir(root) == ["f"]


def test_a_file_system_that_cannot_swap_still_replaces(tmp_path):
    root = tmp_path / "project"
    root.mkdir()
    (root / "f").write_text("old")
    with Workspace(root, disk=RacedDisk(root, [], swaps=False)) as workspace:
        tools = Tools(workspace, tmp_path / "runs" / "run_1", Plain(workspace))
        tools.write(path="f", content="ours")
        assert (root / "f").read_text() == "ours"
        tools.undo("run_2")
        tools.close()
    assert (root / "f").read_text() == "old"
    assert os.listdir(root) == ["f"]


def test_somebody_who_writes_at_the_same_time_is_noticed_or_backed_up(tools, root):
    """Every content that was ever there is either still there or in the backups: nobody's work is lost."""
    (root / "f").write_text("0")
    written = []
    stop = threading.Event()

    def edit():
        n = 0
        while not stop.is_set():
            n += 1
            text = f"theirs {n}"
            temporary = root / ".theirs"
            temporary.write_text(text)
            os.rename(temporary, root / "f")
            written.append(text)
            stop.wait(0.002 * (n % 30))

    racer = threading.Thread(target=edit)
    racer.start()
    refused = done = 0
    try:
        for i in range(3_000):
            if i >= 120 and done:
                break
            try:
                tools.write(path="f", content=f"ours {i}")
                done += 1
            except ToolError as error:
                assert error.code in {"file_changed", "not_found", "path_changed"}  # noqa: PT017
                refused += 1
    finally:
        stop.set()
        racer.join()
    assert done
    with pytest.raises(ConflictError):
        tools.undo("run_2")


def test_one_after_another_in_this_process(tools, root):
    """Parallel appends to one file lose nothing, because each looks and changes under one lock."""
    tools.write(path="f", content="")

    def append(i):
        for _ in range(10):
            tools.write(path="f", content=f"{i}\n", append=True)

    threads = [threading.Thread(target=append, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((root / "f").read_text().split()) == sorted(str(i) for i in range(4) for _ in range(10))
    tools.undo("run_2")
    assert picture(root) == {}
