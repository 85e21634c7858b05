"""A commit that fails takes back what it had done; one that was interrupted is taken back where a person has edited meanwhile."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from layer_world import Dying, Failing, Stop, World, fill, inside

from interlock.disk import Disk
from interlock.workspace.layer_commit import CommitStoppedError, take_back_commit

CHANGES = (
    "echo b >> a; echo n > new; mkdir -p deep/er; echo f > deep/er/f; rm -r gone; chmod 755 same; rm -r d; echo d > d"
)


@pytest.fixture
def world(tmp_path, mounts):
    made = World(tmp_path, mounts)
    yield made
    made.close()


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, "workspace_full"), (errno.EIO, "file_failed")])
def test_a_commit_that_fails_anywhere_is_taken_back_and_can_be_done_again(world, number, code):
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
        with pytest.raises(CommitStoppedError, match=r"at `d/x`: .* no space left; nothing of it is in the workspace"):
            world.commit(layer)


def test_an_interrupted_commit_is_taken_back_but_for_what_a_person_has_edited_since(world):
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
        assert take_back_commit(layer, world.run) == {edited: "someone else has changed it since"}
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
import subprocess, os
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
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system in a mount namespace of its own")
def test_a_file_system_that_is_full_half_way_is_as_it_was(tmp_path):
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", FULL, str(tmp_path), os.path.dirname(__file__)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "taken back\n", done.stderr


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
