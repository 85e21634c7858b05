"""What a person does in the workspace while a process runs in a layer over it is never lost: it is a conflict, or untouched."""

import contextlib
import os
import random
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from layer_world import fill, inside

from interlock.disk import Disk
from interlock.model.errors import ToolError
from interlock.workspace import Origin, ProcessWatch, effects, layers
from interlock.workspace.backups import Change, read_entries
from interlock.workspace.layer_commit import commit_layer, plan_commit
from interlock.workspace.nodes import ABSENT, identity
from interlock.workspace.undo import count_changed


def during(world, layer, agent, person):
    """A recorded process of the layer works, then a person does, and then the process ends."""
    backups = layer.backups(world.clock)
    watch = ProcessWatch(layer.workspace, backups, Origin("p1", "sh"))
    watch.begin()
    inside(layer, agent)
    subprocess.run(["sh", "-ec", person], cwd=world.root, check=True)
    watch.end()
    backups.close()


def fill_more(root):
    fill(root)
    (root / "spare").mkdir()
    (root / "spare" / "x").write_text("spare\n")
    (root / "spare" / "old").write_text("old\n")


@pytest.mark.parametrize(
    ("agent", "person"),
    [
        ("echo two > a", "echo person > a"),
        ("echo two > a", "echo person > t; mv t a"),
        ("echo two > t; mv t a", "echo person > a"),
        ("rm a", "echo person > a"),
        ("chmod 600 a", "echo person > a"),
        ("echo agent > new", "echo person > new"),
        ("rm -rf d; mkdir -p d/s", "echo person > d/mine"),
        ("rm -rf d; mkdir -p d/s", "mkdir d/s; echo person > d/s/mine"),
        ("rm -rf d", "echo person > d/mine"),
        ("rm -rf d; echo file > d", "echo person > d/mine"),
        ("rm -rf d; mkdir -p n/s; mv n d", "mkdir -p d/s; echo person > d/s/mine"),
        ("rm -rf d; mkdir d", "mv spare d/kept"),
        ("echo two > a", "rm a"),
        ("echo two > a", "mv a renamed"),
        ("echo two > d/x", "mv d renamed"),
        ("echo two > d/x", "rm -r d"),
        ("echo two > d/x", "mv d renamed; mv spare d"),
        ("rm -rf d", "mv d renamed; mv spare d"),
        ("rm d/x", "mv d renamed; mv spare d"),
    ],
)
def test_a_persons_work_during_a_process_is_a_conflict(world, agent, person):
    fill_more(world.root)
    with world.layer() as layer:
        during(world, layer, agent, person)
        before = world.tree()
        plan = plan_commit(layer, world.run)
        # A copy deletes nothing that it has not copied, so what was put in a directory that is made again may stay there.
        made_again = layer.manifest.kind == "copy" and "mkdir" in agent
        assert made_again or "conflict" in {one.why for one in plan.blocked}
        commit_layer(layer, world.run, world.main, plan, Origin("p1", "sh"))  # also by name, nothing of theirs is taken
    after = world.tree()
    assert {
        path: seen for path, seen in before.items() if seen[1] in (b"person\n", b"spare\n", b"old\n")
    }.items() <= after.items()
    assert all(path in before or seen[1] != b"two\n" for path, seen in after.items())


@pytest.mark.parametrize(
    "person",
    ["echo person > theirs", "echo person > d/theirs", "mkdir -p d/deep; echo person > d/deep/f", "mv gone away"],
)
def test_a_persons_work_beside_a_process_is_not_a_conflict(world, person):
    fill(world.root)
    with world.layer() as layer:
        during(world, layer, "echo two > a; echo 2 >> d/x; rm d/y; mkdir new; mv same new/same; echo n > d/new", person)
        assert world.commit(layer).blocked == []
    assert (world.root / "a").read_text() == "two\n"
    assert not (world.root / "d" / "y").exists()
    if "person" in person:
        assert (world.root / person.split()[-1]).read_text() == "person\n"


def test_an_edit_after_the_clock_was_set_back_is_a_conflict(world):
    (world.root / "edited").write_text("before\n")
    with world.layer() as layer:
        # As if the clock was an hour ahead when the layer began, and is set right now.
        ahead = {name: getattr(layer.manifest, name) + 3_600 * 10**9 for name in ("began_ns", "ahead_ns")}
        layer.manifest = msgspec.structs.replace(layer.manifest, **ahead)
        (world.root / "edited").write_text("person\n")
        inside(layer, "echo agent > edited")
        assert [(one.path, one.why) for one in plan_commit(layer, world.run).blocked] == [("edited", "conflict")]


def test_another_proposal_of_the_run_that_committed_meanwhile_is_a_conflict(world):
    fill(world.root)
    with world.layer("p1") as one:
        with world.layer("p2") as two:
            inner = two.backups(world.clock)
            inside(two, "echo from-B > a")
            seen, new = world.base.examine((b"a",)), two.workspace.examine((b"a",))
            inner.record(Origin("p2", "write"), [Change((b"a",), seen.node, new.node)], by="process")
            inner.close()
            inside(one, "echo from-A >> a")
            plan = plan_commit(two, world.run)
            commit_layer(two, world.run, world.main, plan, Origin("p2", "write"))
        plan = plan_commit(one, world.run)
        assert [(each.path, each.why) for each in plan.blocked] == [("a", "conflict")]
    assert (world.root / "a").read_text() == "from-B\n"


def test_a_directory_from_which_a_part_was_committed_by_name_can_be_committed_later(world):
    fill(world.root)
    with world.layer() as layer:
        inside(layer, "rm -r d; mkdir -p d/s; chmod 700 gone; echo 2 > gone/z")
        assert world.commit(layer, only=[(b"d", b"x")]).blocked == []
        assert world.commit(layer, only=[(b"gone", b"z")]).blocked == []
        assert world.commit(layer).blocked == []
    assert os.listdir(world.root / "d") == ["s"]


@pytest.mark.parametrize(
    "script",
    [
        "rm -rf dist; mkdir -p out/assets; echo n > out/assets/new.js; mv out dist",
        "rm -rf dist; mkdir -p dist/assets; echo n > dist/assets/new.js",
        "mkdir -p out/a/assets; echo n > out/a/assets/new.js; rm -rf dist; mv out/a dist; rmdir out",
    ],
)
def test_deletions_deep_in_a_directory_that_is_made_again_are_found(world, script):
    for name in ("assets/old.js", "assets/deep/older.js", "index.html"):
        (world.root / "dist" / name).parent.mkdir(parents=True, exist_ok=True)
        (world.root / "dist" / name).write_text("old")
    before = world.tree()
    with world.layer() as layer:
        inside(layer, script)
        plan = world.commit(layer)
        assert layer.differences() == ([], [])
    assert {b"/".join(one.path) for one in plan.changes if one.kind == "deleted"} == {
        b"dist/assets/old.js", b"dist/assets/deep", b"dist/assets/deep/older.js", b"dist/index.html",
    }  # fmt: skip
    assert sorted(path.name for path in (world.root / "dist").rglob("*")) == ["assets", "new.js"]
    world.undo()
    assert world.tree() == before


class Saving(Disk):
    """A person saves a file, in place or by a rename, once, just before the rename of it aside."""

    def __init__(self, save):
        self.save = save

    def rename_at(self, *arguments, **options):
        save, self.save = self.save, lambda: None
        save()
        return super().rename_at(*arguments, **options)


def test_a_save_between_the_check_and_the_removal_of_a_file_is_kept(workspace):
    root = workspace.root
    (root / "a").write_text("old")
    (root / "b").write_text("old")

    def save_by_rename():
        (root / "t").write_text("person")
        (root / "t").rename(root / "a")

    for name, save in ((b"a", save_by_rename), (b"b", lambda: (root / "b").write_text("person"))):
        workspace.disk = Saving(save)
        with pytest.raises(ToolError) as caught:
            effects.remove(workspace, (name,), expect=identity(workspace.lstat((name,))))
        assert caught.value.code == "file_changed"
    assert {path.name: path.read_text() for path in root.iterdir()} == {"a": "person", "b": "person"}


@pytest.mark.parametrize(("left", "kept"), [("old", False), ("person", True)])
def test_what_an_interrupted_removal_left_aside_is_removed_or_put_back(workspace, left, kept):
    root = workspace.root
    (root / "a").write_text("old")
    removed = workspace.examine((b"a",)).node
    (root / "a").write_text(left)
    (root / "a").rename(root / effects.aside_name(b"a").decode())
    effects.discard_temporary(workspace, (b"a",), b".t", change=(removed, ABSENT))
    assert [path.name for path in root.iterdir()] == (["a"] if kept else [])
    effects.discard_temporary(workspace, (b"a",), b".t", change=(ABSENT, ABSENT))


@pytest.mark.parametrize("swapped_out", ["old", "person"])
def test_what_an_interrupted_replacement_swapped_out_is_removed_or_put_back(workspace, swapped_out):
    root = workspace.root
    (root / "a").write_text("old")
    before = workspace.examine((b"a",)).node
    (root / "a").write_text("new")
    after = workspace.examine((b"a",)).node
    (root / ".t").write_text(swapped_out)
    effects.discard_temporary(workspace, (b"a",), b".t", change=(before, after))
    assert {path.name: path.read_text() for path in root.iterdir()} == {
        "a": "new" if swapped_out == "old" else "person"
    }


def test_an_unfinished_temporary_is_removed(workspace):
    root = workspace.root
    (root / "a").write_text("old")
    before = workspace.examine((b"a",)).node
    (root / "b").write_text("new")
    after = workspace.examine((b"b",)).node
    (root / ".t").write_text("ne")
    effects.discard_temporary(workspace, (b"a",), b".t", change=(before, after))
    assert {path.name: path.read_text() for path in root.iterdir()} == {"a": "old", "b": "new"}


AGENT = (
    "echo two > a", "echo two >> d/x", "echo two > t; mv t a", "rm -rf d; mkdir -p d/s", "rm -rf gone", "rm -f link a",
    "mkdir -p n/s; echo two > n/s/f; rm -rf d; mv n d", "mkdir -p n; echo two > n/f", "chmod 700 same", "rm -rf d; echo two > d",
)  # fmt: skip


def test_whatever_a_person_saves_at_any_moment_is_in_the_workspace_or_in_the_backups(world):
    chance = random.Random(7)
    for _ in range(6):
        subprocess.run(["sh", "-ec", "rm -rf -- *"], cwd=world.root, check=True)
        fill(world.root)
        saved = []
        stop = threading.Event()
        seed = chance.random()

        def person(saved=saved, stop=stop, seed=seed):
            own = random.Random(seed)
            while not stop.is_set():
                text = f"person {own.random()}"
                path = world.root / own.choice(
                    ["a", "d/x", "d/mine", "d/s/f", "gone/z", "gone/more", "n/f", "same", "theirs"]
                )
                if any(text_path == path for _, text_path in saved):
                    continue
                try:
                    path.parent.mkdir(exist_ok=True)
                    temporary = path.with_name(f"{path.name}~")
                    temporary.write_text(text)
                    temporary.rename(path)
                    saved.append((text, path))
                except OSError:
                    pass
                stop.wait(own.random() / 20)

        with world.layer(f"p{chance.random()}") as layer:
            backups = layer.backups(world.clock)
            watch = ProcessWatch(layer.workspace, backups, Origin("p1", "sh"))
            watch.begin()
            thread = threading.Thread(target=person)
            thread.start()
            try:
                for line in chance.sample(AGENT, 4):
                    inside(layer, line)
                watch.end()
                plan = plan_commit(layer, world.run)
                if all(one.why != "conflict" for one in plan.blocked):
                    with contextlib.suppress(ToolError):  # a save between the plan and the commit
                        commit_layer(layer, world.run, world.main, plan, Origin("p1", "sh"))
            finally:
                stop.set()
                thread.join()
            backups.close()
        found = {path.read_text() for path in world.root.rglob("*") if path.is_file()}
        found |= {path.read_text(errors="replace") for path in (world.run / "backups").rglob("*") if path.is_file()}
        assert [text for text, _ in saved if text not in found] == []


def test_a_path_that_a_person_has_edited_since_does_not_count_as_committed(world):
    fill(world.root)
    with world.layer() as layer:
        inside(layer, "echo two > a; echo two > d/x; rm d/y; rm same")
        world.commit(layer)
    (world.root / "a").write_text("person\n")
    (world.root / "d" / "y").write_text("y\n")  # as it was
    assert count_changed(world.base, read_entries(world.run)) == 2


@pytest.mark.parametrize("new_on", ["the same disk", "a file system in memory"])
def test_a_layer_begins_after_every_timestamp_before_it_and_before_every_one_after_it(world, tmp_path, new_on):
    """Also where a file that was looked at gets an exact timestamp, and another one that of the last tick."""
    with tempfile.TemporaryDirectory(dir=tmp_path if new_on == "the same disk" else "/dev/shm") as other:
        for number in range(200):
            old, new = tmp_path / f"old{number}", Path(other, f"new{number}")
            stamps = []
            for text in ("1", "2", "3"):
                old.write_text(text)
                stamps.append(old.stat().st_ctime_ns)
            began = layers.fresh_timestamp_ns(world.base)
            new.write_text("")
            assert max(stamps) < began <= new.stat().st_ctime_ns


def test_a_layer_waits_for_a_tick_that_is_late(world, monkeypatch):
    """As before Linux 6.13. The processor that keeps the time of a virtual machine may be stopped for some time by its host."""
    start, stale = time.monotonic(), time.time_ns()
    later = stale + 10**12
    monkeypatch.setattr(layers, "_stamp_ns", lambda _fd: later if time.monotonic() > start + 0.2 else stale)
    assert layers.fresh_timestamp_ns(world.base) == later
    start += 60
    monkeypatch.setattr(layers, "_TICK_SECONDS_MAX", 0.05)
    assert layers.fresh_timestamp_ns(world.base) == stale, "and not for ever: then too much counts as edited"


@pytest.mark.parametrize("step", [500_000_000, 10_000_000])
def test_a_layer_waits_for_the_next_timestamp_of_a_file_system_that_stores_few(world, monkeypatch, step):
    """With one timestamp a second, an edit within the second in which the layer begins would look older than it."""
    monkeypatch.setattr(layers, "_step_ns", lambda _base: step)
    before = time.time_ns()
    began = layers.fresh_timestamp_ns(world.base)
    assert before // step * step < began == began // step * step <= time.time_ns()
    start, stale = time.monotonic(), began + 1
    monkeypatch.setattr(layers, "_stamp_ns", lambda _fd: stale)
    monkeypatch.setattr(layers, "_TICK_SECONDS_MAX", 0.05)
    assert layers.fresh_timestamp_ns(world.base) == began
    assert time.monotonic() < start + 10


@pytest.mark.parametrize(
    ("stored", "step"),
    [
        (1_700_000_000_123_456_789, 1),
        (1_700_000_000_123_456_700, 100),
        (1_700_000_000_123_456_000, 1000),
        (1_700_000_001_000_000_000, 10**9),
        (1_700_000_000_000_000_000, 2 * 10**9),
    ],
)
def test_the_steps_of_timestamps_are_known_by_that_of_the_directory(world, monkeypatch, stored, step):
    with monkeypatch.context() as patch:
        patch.setattr(layers.os, "fstat", lambda _fd: SimpleNamespace(st_ctime_ns=stored))
        found = layers._step_ns(world.base)
    assert found == step
