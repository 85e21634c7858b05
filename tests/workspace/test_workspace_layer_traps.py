"""What overlayfs does unlike other file systems, and what a layer makes of it. The same of a copy, where it applies."""

import contextlib
import errno
import grp
import os
import shlex
import shutil
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from layer_world import Stop, World, fill, inside

from interlock.disk import Disk
from interlock.model.errors import ToolError
from interlock.workspace import Backups, Origin, Workspace
from interlock.workspace.layer_commit import commit_layer, plan_commit
from interlock.workspace.layer_mounts import LayerMounts

NOBODY, GROUP = 65534, 4242


def kinds(plan):
    return {b"/".join(one.path).decode(): one.kind for one in plan.changes}


def test_a_directory_that_is_made_again_hides_what_lay_beneath(world):
    fill(world.root)
    with world.layer() as layer:
        inside(layer, "rm -r d; mkdir d; echo new > d/n")
        assert layer.workspace.names((b"d",)) == [b"n"]
        plan = world.commit(layer)
    assert kinds(plan) == {"d/n": "added", "d/x": "deleted", "d/y": "deleted"}
    assert sorted(path.name for path in (world.root / "d").iterdir()) == ["n"]


def test_a_name_that_was_deleted_and_came_back_as_something_else(world):
    fill(world.root)
    with world.layer() as layer:
        inside(layer, "rm -r d; echo f > d; rm a; mkdir a; echo in > a/b; rm link; mkdir link")
        world.commit(layer)
    assert (world.root / "d").read_text() == "f\n"
    assert (world.root / "a" / "b").read_text() == "in\n"
    assert (world.root / "link").is_dir()
    world.undo()
    assert (world.root / "d" / "x").read_text() == "x\n"
    assert os.readlink(world.root / "link") == "a"


def test_a_process_cannot_make_the_mark_of_a_deletion_itself(world):
    fill(world.root)
    with world.layer() as layer:
        inside(layer, "mknod mark c 0 0 2>/dev/null || true; rm -f a; mknod a c 0 0 2>/dev/null || true")
        plan = plan_commit(layer, world.run)
    assert kinds(plan).get("a", "deleted") == "deleted"
    assert {one.why for one in plan.blocked} <= {"unsupported"}
    assert "mark" not in kinds(plan)


def test_a_directory_of_the_workspace_is_renamed_by_copying_it(world):
    fill(world.root)
    with world.layer() as layer:
        inside(layer, "mv d e; mv gone deeper; mkdir made; mv made made2; mv deeper/z made2/z")
        plan = world.commit(layer)
    assert plan.blocked == []
    assert (world.root / "e" / "x").read_text() == "x\n"
    assert (world.root / "made2" / "z").read_text() == "z\n"
    assert not (world.root / "d").exists()
    assert not (world.root / "gone").exists()


def test_who_has_opened_a_file_before_it_is_written_reads_the_old_content_and_nobody_else_does(world):
    """Copy-up makes another inode. So nothing here keeps a descriptor of a file over an action."""
    fill(world.root)
    with world.layer() as layer:
        fd = layer.workspace.open_file((b"a",))
        inside(layer, "echo more >> a")
        old = os.pread(fd, 100, 0)
        os.close(fd)
        assert old in (b"a\n", b"a\nmore\n")  # the latter in a copy
        assert layer.workspace.examine((b"a",)).node.size == 7
        inside(layer, "test $(stat -c %h a) = 1; test $(find . -samefile a | wc -l) = 1")


def test_attributes_of_a_file_survive_copy_up_and_commit(world):
    fill(world.root)
    try:
        os.setxattr(world.root / "a", "user.mine", b"kept")
    except OSError as error:
        pytest.skip(f"this file system has no attributes: {error}")
    with world.layer() as layer:
        inside(layer, "echo more >> a; echo new > n")
        code = "import os; os.setxattr('n', 'user.other', b'made'); assert os.getxattr('a', 'user.mine') == b'kept'"
        inside(layer, f'{sys.executable} -I -S -c "{code}"')
        world.commit(layer)
    assert os.getxattr(world.root / "a", "user.mine") == b"kept"
    assert os.getxattr(world.root / "n", "user.other") == b"made"
    assert [name for name in os.listxattr(world.root / "a") if "overlay" in name] == []


def test_access_control_lists_survive_copy_up_and_commit_and_go_to_what_is_made_beneath_them(world):
    def rows(*permissions):
        numbers = zip((1, 2, 4, 16, 32), permissions, (0xFFFFFFFF, 4242, *[0xFFFFFFFF] * 3), strict=True)
        return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in numbers)

    access, default = "system.posix_acl_access", "system.posix_acl_default"
    for name in ("edited", "unset"):
        (world.root / name).write_text("x\n")
        try:
            os.setxattr(world.root / name, access, rows(6, 6, 4, 6, 4))
        except OSError as error:
            pytest.skip(f"this file system has no access control lists: {error.strerror}")
    (world.root / "plain").write_text("x\n")
    (world.root / "d").mkdir()
    os.setxattr(world.root / "d", default, rows(7, 6, 5, 7, 0))

    def seen():
        paths = [world.root, *world.root.rglob("*")]
        return {path.name: {name: os.getxattr(path, name) for name in os.listxattr(path)} for path in paths}

    before = seen()
    with world.layer() as layer:
        given = rows(6, 4, 4, 6, 0)
        code = f"import os; os.setxattr('plain', '{access}', {given!r}); os.removexattr('unset', '{access}')"
        inside(layer, f"echo new > edited; echo n > d/new; mkdir d/sub; {sys.executable} -c {shlex.quote(code)}")
        world.commit(layer)
        assert layer.differences()[0] == []
    after = seen()
    assert {name: after[name] for name in ("edited", "unset", "plain", "d", "new")} == {
        "edited": before["edited"],
        "unset": {},
        "plain": {access: given},
        "d": before["d"],
        "new": {access: rows(6, 6, 5, 6, 0)},
    }
    assert after["sub"][default] == before["d"][default]
    world.undo()
    assert seen() == before


def test_a_change_of_permissions_alone_does_not_write_the_content(world):
    with open(world.root / "big", "wb") as file:
        file.truncate(64 << 20)
    before = (world.root / "big").stat()
    with world.layer() as layer:
        inside(layer, "chmod 700 big; touch -d @5 big")
        assert kinds(world.commit(layer)) == {"big": "mode"}
    after = (world.root / "big").stat()
    assert (after.st_ino, after.st_blocks, stat.S_IMODE(after.st_mode)) == (before.st_ino, before.st_blocks, 0o700)
    assert after.st_mtime == 5
    world.undo()
    assert stat.S_IMODE((world.root / "big").stat().st_mode) == stat.S_IMODE(before.st_mode)


def test_hard_links_made_in_a_layer_are_committed_as_files(world):
    fill(world.root)
    with world.layer() as layer:
        inside(
            layer, "ln a linked; ln same d/same2; echo more >> linked; mkdir p; for i in 1 2 3; do ln linked p/$i; done"
        )
        world.commit(layer)
    assert {(world.root / name).read_text() for name in ("linked", "p/1", "p/3")} == {"a\nmore\n"}
    assert (world.root / "d" / "same2").read_text() == "same\n"


@pytest.mark.parametrize("beside", ["", "person"])
def test_a_file_that_is_moved_or_linked_in_a_layer_is_new_where_it_goes(world, beside):
    fill(world.root)
    with world.layer() as layer:
        inside(layer, "mv a b; mv d/x d/moved; mv same new; ln d/y d/linked; mkdir f; mv link f/link; echo 1 >> b")
        if beside:  # work in the same directories is not in the way
            (world.root / "theirs").write_text("person")
            (world.root / "d" / "theirs").write_text("person")
        plan = world.commit(layer)
    assert plan.blocked == []
    assert (world.root / "b").read_text() == "a\n1\n"
    assert (world.root / "d" / "moved").read_text() == "x\n"
    assert (world.root / "d" / "linked").read_text() == "y\n"
    assert os.readlink(world.root / "f" / "link") == "a"
    assert not (world.root / "a").exists()


def test_a_changed_file_that_somebody_has_deleted_meanwhile_does_not_come_back(world):
    fill(world.root)
    with world.layer() as layer:
        inside(layer, "echo agent >> a; echo agent >> d/x")
        (world.root / "a").unlink()
        (world.root / "d" / "x").unlink()
        plan = world.commit(layer)
    assert {(one.path, one.why) for one in plan.blocked} == {("a", "conflict"), ("d/x", "conflict")}
    assert not (world.root / "a").exists()


def test_what_lies_beneath_is_edited_between_the_plan_and_the_commit(world):
    fill(world.root)
    with world.layer() as layer:
        inside(layer, "echo agent > a; echo agent > same")
        plan = plan_commit(layer, world.run)
        (world.root / "same").write_text("person\n")
        with pytest.raises(ToolError) as caught:
            commit_layer(layer, world.run, world.main, plan, Origin("p1", "sh"))
        assert caught.value.code == "file_changed"
        assert (world.root / "same").read_text() == "person\n"
        again = plan_commit(layer, world.run)
        assert [(one.path, one.why) for one in again.blocked] == [("same", "conflict")]


def test_an_edit_that_overlayfs_does_not_promise_to_show_is_found_all_the_same(world):
    """A file that the layer has not touched is edited below while the layer is mounted, and only then changed inside."""
    fill(world.root)
    with world.layer() as layer:
        inside(layer, "cat a > /dev/null; ls d > /dev/null")
        (world.root / "a").write_text("person\n")
        (world.root / "d" / "new").write_text("person\n")
        inside(layer, "echo agent > a; echo agent > d/other; rm -rf d/x")
        plan = world.commit(layer)
    assert "a" in {one.path for one in plan.blocked}
    assert (world.root / "a").read_text() == "person\n"
    assert (world.root / "d" / "new").read_text() == "person\n"
    assert (world.root / "d" / "other").read_text() == "agent\n"


def test_what_a_diff_and_a_commit_look_at_does_not_grow_with_the_tree(tmp_path, monkeypatch):
    looks = []
    for size in (3, 100):
        place = tmp_path / str(size)
        place.mkdir()
        with contextlib.closing(World(place, LayerMounts())) as here:
            for number in range(size * 20):
                (here.root / f"d{number % size}").mkdir(exist_ok=True)
                (here.root / f"d{number % size}" / f"f{number}").write_text("x")
            with here.layer() as layer:
                inside(layer, "echo y > d0/f0; rm d1/f1; mkdir new; echo n > new/n; mv d2/f2 new/moved")
                count = 0

                def counted(self, *arguments, real=Workspace.lstat, **options):
                    nonlocal count
                    count += 1
                    return real(self, *arguments, **options)

                monkeypatch.setattr(Workspace, "lstat", counted)
                assert len(here.commit(layer).changes) == 6
                monkeypatch.undo()
                looks.append(count)
            here.mounts.close()
    assert looks[0] == looks[1]


def test_the_work_directory_of_mode_zero_is_removed_with_the_layer(world):
    layer = world.layer()
    inside(layer, "mkdir -p a/b; chmod 000 a")
    directory = layer.directory
    layer.close()
    from interlock.workspace.layers import remove_layer  # noqa: PLC0415

    remove_layer(directory, Disk())
    assert not directory.exists()


def test_a_commit_that_is_cut_off_at_any_write_is_done_again(tmp_path, request):
    """Each operation of the disk is the last one, once."""
    real, mounted = Disk._do, LayerMounts()
    request.addfinalizer(mounted.close)
    for number in range(1, 200):
        place = tmp_path / str(number)
        place.mkdir()
        with contextlib.closing(World(place, mounted)) as here:
            fill(here.root)
            before = here.tree()
            left = number

            def counted(what, operation, *arguments):
                nonlocal left
                left -= 1
                if left == 0:
                    raise Stop
                return real(what, operation, *arguments)

            with here.layer() as layer:
                inside(
                    layer, "echo b >> a; rm -r gone; mkdir -p m/n; echo 1 > m/n/f; rm -r d; ln -s a d; chmod 755 same"
                )
                Disk._do = staticmethod(counted)
                try:
                    with contextlib.suppress(Stop):
                        here.commit(layer)
                finally:
                    Disk._do = staticmethod(real)
                here.main.close()
                here.main = Backups(here.run, Disk(), here.clock)
                assert plan_commit(layer, here.run).blocked == [], number
                here.commit(layer)
                assert layer.differences()[0] == [], number
            assert (here.root / "m" / "n" / "f").read_text() == "1\n"
            here.undo()
            assert here.tree() == before, number
        if left > 0:
            break
    else:
        raise AssertionError("it never came to an end")
    assert number > 20


NESTED = """
import os, subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from layer_world import World, inside
from interlock.workspace.layer_mounts import LayerMounts
top = Path(sys.argv[1])
for name in ("lower/project", "upper", "work", "merged", "apart"):
    (top / name).mkdir(parents=True)
(top / "lower/project/a").write_text("a\\n")
subprocess.run(["mount", "-t", "overlay", "o", "-o", f"lowerdir={top}/lower,upperdir={top}/upper,workdir={top}/work",
                f"{top}/merged"], check=True)
(top / "merged/project/b").write_text("b\\n")
mounts = LayerMounts()
for number, state in enumerate(("merged", "apart")):
    world = World(top / "merged", mounts)
    world.run = top / state / "run"
    world.run.mkdir()
    world.main.close()
    from interlock.disk import Disk
    from interlock.workspace import Backups
    world.main = Backups(world.run, Disk(), world.clock)
    with world.layer() as layer:
        inside(layer, f"echo {number} > n{number}; rm -f a; echo more >> b")
        plan = world.commit(layer)
        assert plan.blocked == [], plan
        print(state, layer.posture)
    assert (world.root / f"n{number}").exists() and not (world.root / "a").exists()
    world.close()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts an overlay in a namespace of its own")
def test_a_workspace_on_an_overlay_as_in_docker_has_a_layer_too(tmp_path):
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", NESTED, str(tmp_path), os.path.dirname(__file__)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert said["apart"] == "overlay"
    assert said["merged"] == "overlay" or said["merged"].startswith("copy(overlayfs refuses")


NESTED_MOUNTS = """
import os, subprocess, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from layer_world import World, inside, tree
from interlock.workspace.layer_commit import plan_commit
from interlock.workspace.layer_mounts import LayerMounts
world = World(Path(sys.argv[1]), LayerMounts())
root = world.root
for name in ("node_modules", "volume", "rootfs/proc"):
    (root / name).mkdir(parents=True)
(root / "a").write_text("a\\n")
(root / "bound").write_text("under\\n")
outside = Path(sys.argv[1], "outside")
outside.write_text("bound\\n")
subprocess.run(["mount", "-t", "tmpfs", "none", root / "node_modules"], check=True)
subprocess.run(["mount", "-t", "tmpfs", "none", root / "volume"], check=True)
subprocess.run(["mount", "-t", "proc", "none", root / "rootfs" / "proc"], check=True)
subprocess.run(["mount", "--bind", outside, root / "bound"], check=True)
(root / "node_modules" / "sub").mkdir()
(root / "node_modules" / "sub" / "x").write_text("x\\n")

def seen():
    return [tree(root / name) for name in ("node_modules", "volume")], [(root / name).read_text() for name in ("a", "bound")]

before = seen()
with world.layer() as layer:
    print(layer.posture)
    inside(layer, "cat node_modules/sub/x bound a; ls rootfs/proc; echo new > node_modules/new; rm -r volume; echo 2 > bound")
    inside(layer, "echo two > a; rm -r rootfs")
    plan = plan_commit(layer, world.run)
    print(sorted(one.path for one in plan.changes))
    print([(one.path, one.detail) for one in plan.blocked])
    world.commit(layer)
world.undo()
assert seen() == before, seen()
assert (root / "rootfs" / "proc" / "self").exists()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems in a namespace of its own")
def test_what_is_mounted_inside_the_workspace_is_seen_in_a_copy_and_stays_mounted(tmp_path):
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", sys.executable, "-c", NESTED_MOUNTS, str(tmp_path), os.path.dirname(__file__)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    posture, *lines = done.stdout.splitlines()
    assert posture.startswith(f"copy(another file system is mounted inside the workspace, at {tmp_path}/project/")
    mounted = "something is mounted there"
    assert lines == [
        *("x", "bound", "a"),
        "[(b'a',), (b'node_modules', b'new')]",
        str(
            [
                ("bound", mounted),
                ("rootfs", "something in it is not committed"),
                ("rootfs/proc", mounted),
                ("volume", mounted),
            ]
        ),
    ]


OPEN = 'mount --bind "$1" "$3"; mount -t tmpfs -o mode=755 none "$2"; mkdir -p "$1"; mount --bind "$3" "$1"; shift 3; exec "$@"'


def as_nobody(place: Path) -> list[str]:
    """Run as an ordinary user with a group beside its own; in a mount namespace where that user can reach this Python."""
    base = Path(sys.base_prefix)
    closed = next((path for path in reversed(base.parents) if not path.stat().st_mode & 0o001), None)
    hold = place / "python"
    hold.mkdir()
    opened = (
        [] if closed is None else ["unshare", "--mount", "sh", "-ec", OPEN, "sh", str(base), str(closed), str(hold)]
    )
    return [*opened, "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", f"--groups={GROUP}"]


SUPPLEMENTARY = """
import errno, os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
top = Path(sys.argv[1])
from layer_world import World, inside
from interlock.workspace import effects
from interlock.workspace.layer_mounts import LayerMounts
world = World(top, LayerMounts())
(world.root / "theirs").write_text("x\\n")
os.chown(world.root / "theirs", -1, 4242)
with world.layer() as layer:
    print(layer.posture)
    inside(layer, "echo more >> theirs 2>/dev/null && exit 1; cat theirs; echo new > t; mv -f t theirs")
    effects.put_file(layer.workspace, effects.NewFile((b"n",), [b"x"], 0o644, None, b".t"))
    plan = world.commit(layer)
assert plan.blocked == [], plan
assert (world.root / "theirs").read_text() == "new\\n"
"""


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"), reason="becomes another user, with a group beside its own"
)
def test_a_file_of_a_group_beside_ones_own_can_be_replaced_and_not_changed_in_place(tmp_path):
    with contextlib.suppress(KeyError):
        pytest.skip(f"the group {grp.getgrgid(GROUP).gr_name} is in use")
    place = Path("/tmp") / f"interlock-traps-{os.getpid()}"
    place.mkdir(mode=0o755)
    os.chown(place, NOBODY, NOBODY)
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [*as_nobody(tmp_path), sys.executable, "-c", SUPPLEMENTARY, str(place), os.path.dirname(__file__)],
            capture_output=True, text=True, check=False, env=environment,
        )  # fmt: skip
    finally:
        subprocess.run(["rm", "-rf", str(place)], check=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "overlay"


def test_what_eoverflow_means_is_reported_by_its_own_code():
    from interlock.workspace.names import refusal  # noqa: PLC0415

    assert refusal(OSError(errno.EOVERFLOW, "")).code == "owner_not_mapped"
