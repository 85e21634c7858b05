"""A commit that fails undoes what it had done; one that was interrupted is undone where a person has edited meanwhile."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from layer_world import Dying, Failing, Stop, World, fill, inside

from interlock.disk import Disk
from interlock.workspace import Backups, Origin, effects
from interlock.workspace.backups import read_entries
from interlock.workspace.layer_commit import CommitStoppedError, clear_interrupted, plan_commit, undo_commit
from interlock.workspace.undo import discard_temporaries, plan_undo, restore

CHANGES = (
    "echo b >> a; echo n > new; mkdir -p deep/er; echo f > deep/er/f; rm -r gone; chmod 755 same; rm -r d; echo d > d"
)


@pytest.fixture
def world(tmp_path, mounts):
    made = World(tmp_path, mounts)
    yield made
    made.close()


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, "workspace_full"), (errno.EIO, "file_failed")])
def test_a_commit_that_fails_anywhere_is_undone_and_can_be_done_again(world, number, code):
    fill(world.root)
    before = world.tree()
    with world.layer() as layer:
        inside(layer, CHANGES)
        failures = 0
        for at in range(200):
            world.base.disk = Failing(at, number)
            failed = None
            try:
                world.commit(layer)
            except CommitStoppedError as error:
                failed = error
            if failed is None:
                break
            failures += 1
            assert (failed.code, failed.is_conflict) == (code, False)
            assert failed.left == {}
            assert world.tree() == before, at
        assert failures > 5
        assert layer.differences()[0] == []
    world.base.disk = Disk()
    assert (world.root / "d").read_text() == "d\n"
    world.undo()
    assert world.tree() == before


def test_the_path_that_could_not_be_changed_is_named(world):
    fill(world.root)
    with world.layer() as layer:
        inside(layer, "echo more >> d/x")
        world.base.disk = Failing(0, errno.ENOSPC)
        with pytest.raises(CommitStoppedError, match=r"at `d/x`: .* no space left; its changes were undone"):
            world.commit(layer)


def test_an_interrupted_commit_is_undone_but_for_what_a_person_has_edited_since(world):
    fill(world.root)
    before = world.tree()
    with world.layer() as layer:
        inside(layer, "for i in 1 2 3 4; do echo agent > f$i; done; echo agent > a; echo agent > same")
        world.base.disk = Dying(4)
        with pytest.raises(Stop):
            world.commit(layer)
        world.base.disk = Disk()
        done = [path for path in ("a", "f1", "f2", "f3", "f4", "same") if (world.root / path).exists()]
        assert world.tree() != before
        edited = next(path for path in done if (world.root / path).read_text() == "agent\n")
        (world.root / edited).write_text("person\n")
        assert undo_commit(layer, world.run) == {edited: "someone else has changed it since"}
        assert (world.root / edited).read_text() == "person\n"
        now = world.tree()
        now.pop(os.fsencode(edited))
        before.pop(os.fsencode(edited), None)
        assert now == before


FULL = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from layer_world import World, inside, tree
from interlock.workspace.layer_commit import CommitStoppedError
from interlock.workspace.layer_mounts import LayerMounts
top = Path(sys.argv[1])
import os, resource, subprocess
(top / "project").mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(top / "project")], check=True)
world = World(top, LayerMounts())
for number in range(10):
    (world.root / f"f{number}").write_bytes(os.urandom(100_000))
(world.root / "z").mkdir()
(world.root / "z" / "z").write_text("z")
before = tree(world.root)
with world.layer() as layer:
    inside(layer, "rm -r z; echo file > z; for i in 0 1 2 3 4 5 6 7 8 9; do head -c 300000 /dev/urandom > f$i; done")
    try:
        world.commit(layer)
    except CommitStoppedError as error:
        assert error.code == "workspace_full", error.code
        assert error.left == {}, error.left
        assert tree(world.root) == before
        print("taken back")
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, -1))
    try:
        world.commit(layer)
    except CommitStoppedError as error:
        assert (error.code, error.left) == ("workspace_full", {}), error
        assert "`ulimit -f`" in error.message, error
        assert tree(world.root) == before
        print("taken back from a limit")
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
(top / "two" / "state").mkdir(parents=True)
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(top / "two" / "state")], check=True)
world = World(top / "two", LayerMounts())
(world.root / "a").write_text("a\\n")
(world.root / "large").write_bytes(os.urandom(2_000_000))
before = tree(world.root)
with world.layer() as layer:
    inside(layer, "echo small > large; echo two > a")
    try:
        world.commit(layer)
    except CommitStoppedError as error:
        assert (error.code, error.left) == ("backup_failed", {}), error
        assert str(top / "two" / "state") in error.message, error
        assert tree(world.root) == before
        print("the state directory is full")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system in a mount namespace of its own")
def test_a_file_system_that_is_full_half_way_is_as_it_was(tmp_path):
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", FULL, str(tmp_path), os.path.dirname(__file__)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "taken back\ntaken back from a limit\nthe state directory is full\n", done.stderr


READ_ONLY = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from layer_world import World, inside, tree
from interlock.workspace.layer_mounts import LayerMounts
world = World(Path(sys.argv[1]), LayerMounts())
for name in ("ro", "ro2", "kept"):
    (world.root / name).mkdir()
    (world.root / name / "r").write_text("r\\n")
    (world.root / name).chmod(0o555)
before = tree(world.root)
with world.layer() as layer:
    inside(layer, "chmod u+w ro; echo new > ro/r; chmod -R u+w ro2; rm -rf ro2; chmod u+w kept; echo 1 > kept/n; chmod 555 kept")
    plan = world.commit(layer)
    assert plan.blocked == [], plan
    assert layer.differences()[0] == []
after = tree(world.root)
assert (world.root / "ro" / "r").read_text() == "new\\n"
assert not (world.root / "ro2").exists()
assert oct((world.root / "kept").stat().st_mode)[-3:] == "555"
world.undo()
assert tree(world.root) == before, tree(world.root)
print("undone")
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="becomes another user")
def test_an_ordinary_user_commits_and_undoes_changes_in_read_only_directories(tmp_path):
    from test_workspace_layer_traps import NOBODY, as_nobody  # noqa: PLC0415

    place = Path("/tmp") / f"interlock-read-only-{os.getpid()}"
    place.mkdir(mode=0o755)
    os.chown(place, NOBODY, NOBODY)
    try:
        done = subprocess.run(
            [*as_nobody(tmp_path), sys.executable, "-c", READ_ONLY, str(place), os.path.dirname(__file__)],
            capture_output=True, text=True, check=False, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
    finally:
        subprocess.run(["rm", "-rf", str(place)], check=True)
    assert done.stdout == "undone\n", done.stderr


KILLED = (
    "echo b >> a; rm -r gone; mkdir -p m/n; echo 1 > m/n/f; rm -r d; ln -s a d; chmod 755 same; rm h1; echo h >> h2"
)
EVENTS = {"open", "os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.symlink", "os.chmod", "os.utime"}


def fill_linked(root):
    fill(root)
    (root / "h1").write_text("h\n")
    for name in ("h2", "h3"):
        os.link(root / "h1", root / name)


def killed_at(number, work):
    """Do the work in a process that is killed at its call number `number`, beneath Python too. False if it came to its end."""
    pid = os.fork()
    if pid == 0:
        left = number

        def count(*_):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        real = Disk._do
        Disk._do = staticmethod(lambda *arguments: (count(), real(*arguments))[1])
        sys.addaudithook(lambda event, _: count() if event in EVENTS else None)
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def test_a_commit_that_is_killed_at_any_call_is_done_again_or_undone(tmp_path, mounts):
    number = 5
    while True:
        place = tmp_path / str(number)
        place.mkdir()
        world = World(place, mounts)
        fill_linked(world.root)
        before = world.tree()
        with world.layer() as layer:
            inside(layer, KILLED)
            killed = killed_at(number, lambda world=world, layer=layer: world.commit(layer))
            world.main.close()
            world.main = Backups(world.run, Disk(), world.clock)
            if number % 2:
                assert all(".interlock" not in one.path for one in plan_commit(layer, world.run).blocked), number
                clear_interrupted(layer, world.run)
                assert world.commit(layer).blocked == [], number
                assert layer.differences()[0] == [], number
        world.undo()
        assert world.tree() == before, number
        world.close()
        if not killed:
            break
        number += 24
    assert number > 50


def test_an_undo_that_is_killed_at_any_call_is_done_again(tmp_path, mounts):
    number = 4
    while True:
        place = tmp_path / str(number)
        place.mkdir()
        world = World(place, mounts)
        fill_linked(world.root)
        before = world.tree()
        with world.layer() as layer:
            inside(layer, KILLED)
            world.commit(layer)
        dead, again = world.run.parent / "run_2", world.run.parent / "run_3"
        dead.mkdir()
        again.mkdir()

        def undo(run, world=world):
            with contextlib.closing(Backups(run, Disk(), world.clock)) as backups:
                restore(world.base, world.run, plan_undo(world.run), backups, Origin("undo", "u"))

        killed = killed_at(number, lambda undo=undo, dead=dead: undo(dead))
        discard_temporaries(world.base, dead, read_entries(dead))
        undo(again)
        assert world.tree() == before, number
        world.close()
        if not killed:
            break
        number += 24
    assert number > 50


def test_a_directory_has_its_permissions_as_soon_as_it_has_its_name(world, monkeypatch):
    real = os.fchmod

    def die(fd, mode):
        real(fd, mode)
        raise Stop

    monkeypatch.setattr(effects.os, "fchmod", die)
    with pytest.raises(Stop):
        effects.put_directory(world.base, (b"d",), mode=0o755)
    assert os.listdir(world.root) == []


def test_what_a_cut_commit_left_beside_its_files_is_not_a_conflict(world):
    """It died between the rename aside and the removal, and before a directory that it made got its name."""
    fill(world.root)
    before = world.tree()
    with world.layer() as layer:
        inside(layer, "rm -r d; mkdir -p m/n")
        plan = plan_commit(layer, world.run)
        assert killed_at_rename_aside(world, layer)
        left = {path.name for path in world.root.rglob(".interlock-*")}
        assert len(left) == 1
        (world.root / effects.made_name(b"m").decode()).mkdir()
        assert plan_commit(layer, world.run).blocked == []  # as `diff` sees it
        clear_interrupted(layer, world.run)
        assert world.commit(layer).blocked == []
        assert len(plan.changes) == 5
    assert sorted(os.listdir(world.root)) == ["a", "gone", "link", "m", "same"]
    world.undo()
    assert world.tree() == before


def killed_at_rename_aside(world, layer):
    """Commit in a process that dies at its first removal, after the rename aside."""

    def work():
        os.unlink = lambda *arguments, **options: os.kill(os.getpid(), signal.SIGKILL)
        world.commit(layer)

    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    killed = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    world.main.close()
    world.main = Backups(world.run, Disk(), world.clock)
    return killed


def test_the_name_of_a_layer_is_durable_before_anything_happens_in_it(world):
    """After a power failure, a layer that is gone would mean that the rest of its proposal works without what it began."""

    class Naming(Disk):
        def sync_directory(self, path):
            synced.append((path, sorted(one.name for one in path.iterdir())))
            super().sync_directory(path)

    synced = []
    world.base.disk = Naming()
    for proposal in ("p1", "p2"):
        world.layer(proposal).close()
    assert synced[-1] == (world.run / "workspace", ["1", "2"])
    assert (world.run / "workspace", ["1"]) in synced
