"""Undo brings back exactly what was there, or says why it does not touch anything."""

from __future__ import annotations

import hashlib
import os

import pytest
from trees import picture, swapping

from interlock.model.errors import ConflictError, IntegrityError, ToolError
from interlock.workspace import (
    ABSENT,
    Change,
    Node,
    Origin,
    UndoConflictError,
    Workspace,
    effects,
    plan_undo,
    read_entries,
    restore,
)

UNDO = Origin("undo", "undo", 0)


class Hand:
    """Makes recorded changes, as the file tools do."""

    def __init__(self, workspace, backups):
        self.workspace, self.backups = workspace, backups

    def write(self, path, content, action="a1", effect=True):
        seen = self.workspace.examine(path, read=self.backups.keep)
        sha256 = hashlib.sha256(content).hexdigest()
        mode = seen.node.mode or 0o644
        after = Node("file", mode=mode, size=len(content), sha256=sha256)
        (entry,) = self.backups.record(Origin("p1", action), [Change(path, seen.node, after)])
        if effect:
            temporary = self.backups.temporary(entry)
            effects.put_file(self.workspace, effects.NewFile(path, [content], mode, seen.identity, temporary))
        return entry

    def delete(self, path, action="a1", effect=True):
        seen = self.workspace.examine(path, read=self.backups.keep)
        self.backups.record(Origin("p1", action), [Change(path, seen.node, ABSENT)])
        if effect:
            effects.remove(self.workspace, path, expect=seen.identity)

    def make(self, path, action="a1"):
        self.backups.record(Origin("p1", action), [Change(path, ABSENT, Node("dir", mode=0o755))])
        effects.put_directory(self.workspace, path, mode=0o755)


@pytest.fixture
def hand(workspace, new_run):
    return Hand(workspace, new_run("run_1"))


@pytest.fixture
def undo(workspace, hand, new_run):
    def go(run="run_1", into="run_2", **options):
        changed = options.pop("changed", "refuse")
        path = hand.backups.run.parent / run
        return restore(workspace, path, plan_undo(path, **options), new_run(into), UNDO, changed=changed)

    return go


def told(done):
    return {(r.path, r.how) for r in done}


def test_contents_modes_creations_and_deletions(root, hand, undo):
    (root / "kept").write_bytes(b"old")
    (root / "kept").chmod(0o4751)
    os.utime(root / "kept", ns=(10**18, 10**18 + 123))
    (root / "gone").write_bytes(b"gone")
    (root / "link").symlink_to("nowhere\n")
    before = picture(root)
    hand.write((b"kept",), b"new")
    hand.write((b"made",), b"made")
    hand.delete((b"gone",))
    hand.delete((b"link",))
    hand.make((b"d",))
    hand.write((b"d", b"x"), b"x")
    assert told(undo()) == {
        ("kept", "restored"),
        ("made", "removed"),
        ("gone", "restored"),
        ("link", "restored"),
        ("d", "removed"),
        ("d/x", "removed"),
    }
    assert picture(root) == before
    assert (root / "kept").stat().st_mtime_ns == 10**18 + 123


def test_one_action_of_many(root, hand, undo):
    hand.write((b"a",), b"1", "a1")
    hand.write((b"b",), b"1", "a2")
    assert told(undo(action="a2")) == {("b", "removed")}
    assert picture(root).keys() == {b"a"}


def test_one_action_under_another_change_is_a_conflict(root, hand, undo):
    hand.write((b"a",), b"1", "a1")
    hand.write((b"a",), b"2", "a2")
    with pytest.raises(UndoConflictError):
        undo(action="a1")
    assert (root / "a").read_bytes() == b"2"
    undo(action="a2")
    undo(action="a1", into="run_3")
    assert picture(root) == {}


def test_action_by_action_may_be_begun_again(root, hand, undo):
    (root / "a").write_bytes(b"old")
    for i in range(4):
        hand.write((b"a",), str(i).encode(), f"a{i}")
    for run, actions in (("run_2", ("a3", "a2")), ("run_3", ("a3", "a2", "a1", "a0")), ("run_4", ("a3", "a0"))):
        for i, action in enumerate(actions):
            undo(action=action, into=f"{run}_{i}")
    assert (root / "a").read_bytes() == b"old"
    (root / "a").write_bytes(b"somebody else")
    with pytest.raises(UndoConflictError):
        undo(action="a3", into="run_5")


def test_the_same_action_id_in_two_proposals(root, hand, undo):
    hand.write((b"a",), b"1")
    assert told(undo(proposal="p2")) == set()
    assert told(undo(proposal="p1")) == {("a", "removed")}


def test_somebody_elses_edit_is_a_conflict_and_nothing_is_touched(root, hand, undo):
    (root / "a").write_bytes(b"old")
    hand.write((b"a",), b"new")
    hand.write((b"b",), b"new")
    hand.write((b"c",), b"new")
    (root / "a").write_bytes(b"somebody else")
    (root / "b").unlink()
    (root / "c").chmod(0o600)
    with pytest.raises(UndoConflictError) as caught:
        undo()
    assert caught.value.code == "undo_conflict"
    assert caught.value.conflicts == ["a", "c"]  # `b` is as it was before the run
    assert "`a`" in caught.value.message
    assert (root / "a").read_bytes() == b"somebody else"
    assert (root / "c").read_bytes() == b"new"


def test_an_edit_between_two_changes_is_a_conflict_too(root, hand, undo):
    hand.write((b"a",), b"1")
    (root / "a").write_bytes(b"somebody else")
    hand.write((b"a",), b"2")
    with pytest.raises(UndoConflictError):
        undo()


def test_force_keeps_what_it_overwrites(root, hand, undo):
    (root / "a").write_bytes(b"old")
    hand.write((b"a",), b"new")
    hand.make((b"d",))
    (root / "a").write_bytes(b"somebody else")
    (root / "d" / "sub").mkdir()
    (root / "d" / "sub" / "theirs").write_bytes(b"theirs")
    edited = picture(root)
    with pytest.raises(UndoConflictError) as caught:
        undo()
    assert set(caught.value.conflicts) == {"a", "d/sub", "d/sub/theirs"}
    undo(changed="overwrite")
    assert picture(root) == {b"a": ("file", 0o644, b"old")}
    undo("run_2", "run_3")
    assert picture(root) == edited


def test_what_others_changed_can_be_left_with_what_depends_on_it(root, hand, undo):
    for name in ("edited", "gone", "untouched", "kept"):
        (root / name).write_bytes(b"old")
    for name in ("deep", "replaced", "special"):
        (root / name).mkdir()
        (root / name / "f").write_bytes(b"old")
    for name in (b"edited", b"gone", b"untouched"):
        hand.write((name,), b"new")
    for name in (b"made", b"theirs"):
        hand.make((name,))
        hand.write((name, b"f"), b"new")
    hand.write((b"special", b"f"), b"new")
    hand.delete((b"replaced", b"f"))
    hand.delete((b"deep", b"f"))
    effects.remove(hand.workspace, (b"replaced",), expect=hand.workspace.examine((b"replaced",)).identity)
    (root / "edited").write_bytes(b"person")
    (root / "gone").unlink()
    (root / "theirs" / "sub").mkdir()
    os.mkfifo(root / "theirs" / "sub" / "fifo")
    (root / "special" / "f").unlink()
    os.mkfifo(root / "special" / "f")
    (root / "replaced").write_bytes(b"person")
    done = undo(changed="skip")
    for fifo in (root / "theirs" / "sub" / "fifo", root / "special" / "f"):
        assert fifo.is_fifo()
        fifo.unlink()
    assert told(done) == {
        ("edited", "left"),
        ("gone", "left"),
        ("untouched", "restored"),
        ("made", "removed"),
        ("made/f", "removed"),
        ("theirs", "left"),
        ("theirs/f", "removed"),
        ("special/f", "left"),
        ("replaced/f", "left"),
        ("deep/f", "restored"),
    }
    why = {one.path: one.why for one in done if one.how == "left"}
    assert why["edited"] == "others have changed it since"
    assert why["theirs"] == "others have changed `theirs/sub/fifo` in it since"
    assert why["replaced/f"] == "others have changed `replaced` since"
    after = {path: found[-1] for path, found in picture(root).items() if found[0] == "file"}
    assert after == {
        b"edited": b"person",
        b"replaced": b"person",
        b"untouched": b"old",
        b"kept": b"old",
        b"deep/f": b"old",
    }
    (root / "edited").write_bytes(b"new")  # the person takes the edit back: the rest can be undone now
    assert ("edited", "restored") in told(undo(into="run_3", changed="skip"))


def test_undo_can_be_undone_again_and_again(root, hand, undo):
    (root / "a").write_bytes(b"old")
    (root / "d").mkdir(0o700)
    before = picture(root)
    hand.write((b"a",), b"new")
    hand.delete((b"d",))
    hand.write((b"d",), b"a file now")
    after = picture(root)
    undo("run_1", "run_2")
    assert picture(root) == before
    undo("run_2", "run_3")
    assert picture(root) == after
    undo("run_3", "run_4")
    assert picture(root) == before


def test_undoing_twice_does_nothing_more(root, hand, undo):
    (root / "a").write_bytes(b"old")
    hand.write((b"a",), b"1")
    hand.write((b"a",), b"2")
    undo()
    assert told(undo(into="run_3")) == {("a", "unchanged")}
    assert read_entries(root.parent / "runs" / "run_3") == []


def test_a_crash_between_backup_and_change(root, hand, undo):
    (root / "a").write_bytes(b"old")
    hand.write((b"b",), b"1")
    hand.write((b"a",), b"new", effect=False)
    hand.delete((b"a",), effect=False)
    before = {b"a": ("file", 0o644, b"old")}
    undo()
    assert picture(root) == before


def test_a_change_that_never_happened_and_its_retry(root, hand, undo):
    (root / "a").write_bytes(b"old")
    hand.write((b"a",), b"new", effect=False)
    hand.write((b"a",), b"new")
    hand.write((b"a",), b"newer")
    undo()
    assert (root / "a").read_bytes() == b"old"


def test_a_leftover_temporary_file_is_removed(root, hand, undo):
    entry = hand.write((b"a",), b"new", effect=False)
    (root / os.fsdecode(hand.backups.temporary(entry))).write_bytes(b"ne")
    undo()
    assert picture(root) == {}


def test_a_missing_directory_on_the_way_is_made_again(root, hand, undo):
    (root / "d" / "e").mkdir(parents=True)
    (root / "d" / "e" / "f").write_bytes(b"x")
    hand.delete((b"d", b"e", b"f"))
    (root / "d" / "e").rmdir()
    (root / "d").rmdir()
    undo()
    assert (root / "d" / "e" / "f").read_bytes() == b"x"
    undo("run_2", "run_3")
    assert picture(root) == {}


def test_a_closed_directory_comes_back_closed(root, hand, undo):
    (root / "d").mkdir()
    (root / "d" / "f").write_bytes(b"x")
    (root / "d").chmod(0o500)
    before = picture(root)
    hand.delete((b"d", b"f"))
    hand.delete((b"d",))
    undo()
    assert picture(root) == before


def test_a_link_created_at_the_path_does_not_lead_out(root, hand, undo, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_bytes(b"new")
    (root / "d").mkdir()
    (root / "d" / "f").write_bytes(b"old")
    hand.write((b"d", b"f"), b"new")
    (root / "d").rename(root / "parked")
    (root / "d").symlink_to(outside)
    for changed in ("refuse", "overwrite"):
        with pytest.raises(ConflictError):
            undo(changed=changed)
    undo(changed="skip")
    assert (outside / "f").read_bytes() == b"new"
    assert os.listdir(outside) == ["f"]


def test_a_link_in_place_of_the_file_is_a_conflict_and_replaced_by_force(root, hand, undo, tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"new")
    (root / "f").write_bytes(b"old")
    hand.write((b"f",), b"new")
    (root / "f").unlink()
    (root / "f").symlink_to(victim)
    with pytest.raises(UndoConflictError):
        undo()
    undo(changed="overwrite")
    assert (root / "f").read_bytes() == b"old"
    assert not (root / "f").is_symlink()
    assert victim.read_bytes() == b"new"


def test_a_fifo_at_the_path_stops_the_undo_and_never_hangs(root, hand, undo):
    hand.write((b"f",), b"new")
    (root / "f").unlink()
    os.mkfifo(root / "f")
    with pytest.raises(ConflictError) as caught:
        undo(changed="overwrite")
    assert caught.value.code == "undo_blocked"


def test_a_path_that_is_protected_now_is_not_restored(root, hand, undo, new_run, access):
    hand.write((b"f",), b"new")
    path = hand.backups.run
    with Workspace(root, protected=["f"], access=access) as stricter, pytest.raises(ToolError) as caught:
        restore(stricter, path, plan_undo(path), new_run("run_2"), UNDO, changed="overwrite")
    assert caught.value.code == "path_protected"
    assert (root / "f").read_bytes() == b"new"


@pytest.mark.parametrize("damage", ["missing", "short", "flipped"])
def test_a_damaged_backup_restores_nothing(root, hand, undo, damage):
    for name in ("a", "b"):
        (root / name).write_bytes(b"old " + name.encode())
    hand.write((b"a",), b"new")
    hand.write((b"b",), b"new")
    content = hand.backups.content(hashlib.sha256(b"old b").hexdigest())
    if damage == "missing":
        content.unlink()
    else:
        content.write_bytes(b"old" if damage == "short" else b"old c")
    with pytest.raises(IntegrityError) as caught:
        undo()
    assert caught.value.code == ("backup_missing" if damage == "missing" else "backup_damaged")
    assert (root / "a").read_bytes() == b"new"
    assert (root / "b").read_bytes() == b"new"


class Stop(BaseException):
    pass


def test_undo_stopped_anywhere_can_be_begun_again(root, hand, new_run, workspace, monkeypatch):
    (root / "a").write_bytes(b"old")
    (root / "d").mkdir()
    (root / "d" / "f").write_bytes(b"f")
    (root / "t").mkdir()
    before = picture(root)
    hand.write((b"a",), b"new")
    hand.delete((b"d", b"f"))
    hand.delete((b"d",))
    hand.write((b"d",), b"a file where a directory was")
    hand.delete((b"t",))
    hand.make((b"n",))
    hand.write((b"n", b"x"), b"x")
    after = picture(root)
    path = hand.backups.run
    names = ("put_file", "put_link", "put_directory", "set_mode", "remove")
    real = {name: getattr(effects, name) for name in names}
    stopped = 0
    for at in range(40):
        left = at

        def counted(name):
            def call(*arguments, **options):
                nonlocal left
                if left == 0:
                    raise Stop
                left -= 1
                return real[name](*arguments, **options)

            return call

        for name in names:
            monkeypatch.setattr(effects, name, counted(name))
        try:
            restore(workspace, path, plan_undo(path), new_run(f"undo_{at}"), UNDO)
        except Stop:
            stopped += 1
        for name in names:
            monkeypatch.setattr(effects, name, real[name])
        restore(workspace, path, plan_undo(path), new_run(f"again_{at}"), UNDO)
        assert picture(root) == before
        runs = path.parent
        # Back to where the run had left it, by undoing the undos, newest first.
        for name in (f"again_{at}", f"undo_{at}"):
            restore(workspace, runs / name, plan_undo(runs / name), new_run(f"back_{name}"), UNDO)
        assert picture(root) == after
    assert stopped >= 8


def test_a_racing_swap_of_a_directory_never_leads_out(root, hand, new_run, workspace, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (root / "d").mkdir()
    (root / "link").symlink_to(outside)
    (root / "d" / "f").write_bytes(b"old")
    hand.write((b"d", b"f"), b"new")
    path = hand.backups.run
    outcomes = set()
    with swapping(root / "d", root / "link"):
        for i in range(3_000):
            if i >= 60 and len(outcomes) > 1:
                break
            try:
                restore(workspace, path, plan_undo(path), new_run(f"undo_{i}"), UNDO, changed="overwrite")
                outcomes.add("restored")
            except (ToolError, ConflictError) as error:
                outcomes.add(error.code)
    assert os.listdir(outside) == []
    assert len(outcomes) > 1
