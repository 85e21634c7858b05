"""Layers: one view, what differs from the workspace, what is committed, and what is left alone."""

import contextlib
import hashlib
import mmap
import os
import signal
import sqlite3
import stat
import subprocess
import sys

import msgspec
import pytest
from layer_world import Dying, NoMounts, NoOverlay, Stop, World, fill, inside, tree

from interlock.disk import Disk
from interlock.model.errors import ToolError
from interlock.workspace import Origin, effects
from interlock.workspace.backups import Change
from interlock.workspace.layer_commit import commit_layer, plan_commit
from interlock.workspace.layer_mounts import LayerMounts, UnmountableError
from interlock.workspace.layer_places import kept_layers, layer_directories
from interlock.workspace.layers import remove_layer, reopen_layer
from interlock.workspace.nodes import ABSENT, identity

CHANGES = (
    "echo b >> a; echo n > new; mkdir -p deep/er; echo f > deep/er/f; rm -r gone; chmod 755 same; ln -sfn d/x link;"
    "rm -r d; mkdir d; echo 2 > d/y"
)


def test_tools_and_processes_share_one_view_and_the_workspace_sees_nothing(world):
    fill(world.root)
    before = world.tree()
    with world.layer() as layer:
        effects.put_file(layer.workspace, effects.NewFile((b"from_tool",), [b"t"], 0o644, None, b".t"))
        inside(layer, f"cat from_tool > copied; cat {world.root}/a > {world.root}/by_absolute_path")
        assert layer.workspace.lstat((b"copied",)) is not None
        assert layer.workspace.lstat((b"by_absolute_path",)) is not None
    assert world.tree() == before


def test_the_diff_names_what_was_added_changed_deleted_and_how(world):
    fill(world.root)
    with world.layer() as layer:
        inside(layer, CHANGES)
        found, left = layer.differences()
    assert left == []
    assert {(b"/".join(one.path).decode(), one.kind) for one in found} == {
        ("a", "changed"), ("new", "added"), ("deep", "added"), ("deep/er", "added"), ("deep/er/f", "added"),
        ("gone", "deleted"), ("gone/z", "deleted"), ("same", "mode"), ("link", "changed"), ("d/x", "deleted"), ("d/y", "changed"),
    }  # fmt: skip


def test_a_commit_makes_the_workspace_what_the_layer_shows_and_undo_restores_it(world):
    fill(world.root)
    before = world.tree()
    with world.layer() as layer:
        inside(layer, CHANGES)
        inside(layer, f"cd / && tar cf {world.run}/view.tar -C {world.root} .")
        world.commit(layer)
    view = world.run / "view"
    view.mkdir()
    subprocess.run(["tar", "xpf", world.run / "view.tar", "-C", view], check=True)
    assert world.tree() == tree(view)
    world.undo()
    assert world.tree() == before


def test_a_layer_that_is_removed_leaves_no_trace(world):
    fill(world.root)
    before = world.tree()
    layer = world.layer()
    inside(layer, CHANGES + "; mkdir locked; echo x > locked/x; chmod 000 locked")
    layer.close()
    remove_layer(layer.directory, Disk())
    assert world.tree() == before
    assert layer_directories(world.run) == []


@pytest.mark.parametrize("edit", ["echo person > a", "rm a", "echo person > new", "echo person > gone/added"])
def test_what_somebody_else_changed_meanwhile_is_a_conflict_and_the_rest_can_be_committed(world, edit):
    fill(world.root)
    with world.layer() as layer:
        inside(layer, "echo agent > a; echo agent > new; rm -r gone; echo agent > other")
        subprocess.run(["sh", "-ec", edit], cwd=world.root, check=True)
        person = world.tree()
        plan = world.commit(layer)
    blocked = {one.path for one in plan.blocked}
    assert {one.why for one in plan.blocked} == {"conflict"}
    assert edit.split()[-1] in blocked
    after = world.tree()
    assert after[b"other"][1] == b"agent\n"
    for path in blocked:
        assert after.get(path.encode()) == person.get(path.encode())


def test_a_commit_of_named_paths_leaves_the_rest_in_the_layer(world):
    fill(world.root)
    with world.layer() as layer:
        inside(layer, "mkdir -p new/deep; echo 1 > new/deep/f; echo 2 > new/g; echo 3 > a")
        plan = world.commit(layer, only=[(b"new", b"deep")])
        assert plan.left == 2
        assert (world.root / "new" / "deep" / "f").read_text() == "1\n"
        assert not (world.root / "new" / "g").exists()
        assert world.commit(layer).changes
    assert (world.root / "new" / "g").exists()
    assert (world.root / "a").read_text() == "3\n"


def test_what_runs_later_is_held_until_it_is_named(world):
    (world.root / ".git" / "hooks").mkdir(parents=True)
    with world.layer() as layer:
        inside(
            layer,
            "mkdir -p .github/workflows .vscode sub; for f in .git/hooks/pre-commit .git/config .envrc .github/workflows/ci.yml"
            " .vscode/tasks.json sub/.bashrc code.py; do echo x > $f; done",
        )
        plan = world.commit(layer)
        held = {one.path for one in plan.blocked if one.why == "runs_later"}
        assert held == {
            ".git/hooks/pre-commit", ".git/config", ".envrc", ".github/workflows/ci.yml", ".vscode/tasks.json", "sub/.bashrc",
        }  # fmt: skip
        assert (world.root / "code.py").exists()
        assert not (world.root / ".envrc").exists()
        world.commit(layer, only=[(b".envrc",)])
    assert (world.root / ".envrc").exists()
    assert not (world.root / ".git" / "config").exists()


def test_what_the_loader_reads_is_never_committed_even_by_name(world):
    (world.root / "policy").mkdir()
    (world.root / "policy" / "p.cedar").write_text("permit")
    with world.layer() as layer:
        inside(layer, "echo 'x=1' > interlock.toml; rm -r policy; echo ok > fine")
        for only in (None, [(b"interlock.toml",), (b"policy",)]):
            plan = world.commit(layer, only=only)
            assert {one.path for one in plan.blocked if one.why == "protected"} >= {
                "interlock.toml",
                "policy",
                "policy/p.cedar",
            }
    assert not (world.root / "interlock.toml").exists()
    assert (world.root / "policy" / "p.cedar").exists()
    assert (world.root / "fine").exists()


def test_set_id_bits_are_stripped_and_special_files_refused(world):
    with world.layer() as layer:
        inside(
            layer, "echo x > tool; chmod 6755 tool; mkfifo pipe; ln -s /etc/passwd out; ln -s ../.. up; ln -s tool in"
        )
        plan = world.commit(layer)
    assert stat.S_IMODE((world.root / "tool").stat().st_mode) == 0o755
    assert {(one.path, one.why) for one in plan.blocked} == {("pipe", "unsupported")}
    assert {one.path[-1] for one in plan.changes if one.leaves_workspace} == {b"out", b"up"}


def test_a_link_created_at_a_path_of_a_commit_is_not_followed(world, tmp_path):
    fill(world.root)
    outside = tmp_path / "outside"
    outside.mkdir()
    with world.layer() as layer:
        inside(layer, "echo evil > d/x")
        plan = plan_commit(layer, world.run)
        (world.root / "d").rename(world.root / "d2")
        (world.root / "d").symlink_to(outside)
        with pytest.raises(ToolError):
            commit_layer(layer, world.run, world.main, plan, Origin("p1", "sh"))
    assert list(outside.iterdir()) == []


def test_kept_layers_lie_over_each_other_and_are_committed_in_order(world):
    fill(world.root)
    with world.layer("p1") as one:
        inside(one, "echo first > a; echo first > only_first; rm -r gone")
        one.keep("never")
    with world.layer("p2") as two:
        inside(two, "grep -q first a; test ! -e gone; echo second >> a; mkdir gone; echo again > gone/z")
        two.keep("never")
    assert [path.name for path in kept_layers(world.run)] == ["1", "2"]
    for directory in kept_layers(world.run):
        with reopen_layer(directory, world.base, world.mounts) as layer:
            assert world.commit(layer).blocked == []
    assert (world.root / "a").read_text() == "first\nsecond\n"
    assert (world.root / "gone" / "z").read_text() == "again\n"


class NoSecondOverlay(LayerMounts):
    """A machine on which a layer can be an overlay, and the next one over it cannot, such as one that processes must see."""

    def mount_overlay(self, at, lower, upper, work, *, attach=False):
        if len(lower) > 1:
            raise UnmountableError("overlayfs refuses this workspace")
        return super().mount_overlay(at, lower, upper, work, attach=attach)


@pytest.mark.parametrize("order", ["one", "both", "two"])
@pytest.mark.parametrize("kind", [LayerMounts, NoOverlay, NoSecondOverlay])
def test_a_layer_over_a_kept_one_is_compared_with_the_workspace_whatever_both_are(tmp_path, kind, order):
    """A copy of a kept layer has other files than the workspace, which are no sign of an edit by a person."""
    with contextlib.closing(kind()) as mounts, contextlib.closing(World(tmp_path, mounts)) as world:
        fill(world.root)
        with world.layer("p1") as one:
            inside(one, "echo first > a; echo first > new; rm -r gone")
            one.keep("never")
        with world.layer("p2") as two:
            assert two.manifest.kind == ("overlay" if kind is LayerMounts else "copy")
            inside(two, "echo second >> a; echo second >> new; echo second > same; rm d/x; echo second > d/y")
            two.keep("never")
            (world.root / "person").write_text("person\n")
            (world.root / "d" / "y").write_text("person\n")
        for number in (1, 2):
            if order in ("both", {1: "one", 2: "two"}[number]):
                with reopen_layer(world.run / "workspace" / str(number), world.base, mounts) as layer:
                    plan = world.commit(layer)
                    assert {one.path for one in plan.blocked} == ({"d/y"} if number == 2 else set())
        texts = {name: (world.root / name).read_text() for name in ("a", "d/y", "person")}
        assert texts == {"a": "first\n" + "second\n" * (order != "one"), "d/y": "person\n", "person": "person\n"}
        assert (world.root / "d" / "x").exists() == (order == "one")


def test_an_undo_of_one_action_restores_what_that_action_left(world):
    fill(world.root)
    with world.layer() as layer:
        inner = layer.backups(world.clock)
        seen = layer.workspace.examine((b"a",), read=inner.keep)
        for action, text in (("one", b"1"), ("two", b"2")):
            seen = layer.workspace.examine((b"a",), read=inner.keep)
            after = msgspec_replace(seen.node, text)
            entry = inner.record(Origin("p1", action), [Change((b"a",), seen.node, after)])[0]
            effects.put_file(
                layer.workspace, effects.NewFile((b"a",), [text], 0o644, seen.identity, inner.temporary(entry))
            )
        inner.close()
        world.commit(layer)
    assert (world.root / "a").read_text() == "2"
    world.undo(action="two")
    assert (world.root / "a").read_text() == "1"
    world.undo(action="one")
    assert (world.root / "a").read_text() == "a\n"


def msgspec_replace(node, content):
    return msgspec.structs.replace(
        node, sha256=hashlib.sha256(content).hexdigest(), size=len(content), mtime_ns=None, owner=None, attributes=None
    )


def test_a_commit_that_was_cut_off_anywhere_is_done_again(world):
    fill(world.root)
    before = world.tree()
    with world.layer() as layer:
        inside(layer, CHANGES)
        for after in range(1, 12):
            world.base.disk = Dying(after)
            with contextlib.suppress(Stop):
                world.commit(layer)
            world.base.disk = Disk()
            assert plan_commit(layer, world.run).blocked == []
        world.commit(layer)
        assert layer.differences()[0] == []
    assert (world.root / "deep" / "er" / "f").read_text() == "f\n"
    world.undo()
    assert world.tree() == before


# -- the traps


def test_commas_and_colons_in_the_path(tmp_path, mounts):
    place = tmp_path / "a,b:c\\d e"
    place.mkdir()
    world = World(place, mounts)
    with world.layer() as layer:
        inside(layer, "echo x > f")
        world.commit(layer)
    assert (world.root / "f").exists()


def test_names_that_are_not_utf8(world):
    with world.layer() as layer:
        inside(layer, "printf x > \"$(printf 'n\\377\\n')\"")
        world.commit(layer)
    assert os.path.exists(os.fsencode(world.root) + b"/n\xff")


def test_a_directory_of_the_workspace_is_moved_across_layers(world):
    fill(world.root)
    with world.layer() as layer:
        before = layer.workspace.lstat((b"d",))
        effects.move(layer.workspace, (b"d",), (b"e",), expect=identity(before), fields=("source", "destination"))
        world.commit(layer)
    assert (world.root / "e" / "x").read_text() == "x\n"
    assert not (world.root / "d").exists()


@pytest.mark.timeout(180)
def test_a_sparse_file_of_a_gigabyte_stays_sparse(world):
    with open(world.root / "small", "wb") as file:
        file.truncate(32 << 20)
    with world.layer() as layer:
        inside(layer, "printf x | dd of=small bs=1 seek=5 conv=notrunc 2>/dev/null; truncate -s 1G big")
        world.commit(layer)
    for name, size in (("small", 32 << 20), ("big", 1 << 30)):
        found = (world.root / name).stat()
        assert found.st_size == size
        assert found.st_blocks * 512 < 8 << 20


def test_hard_links_change_only_the_name_that_was_written(world):
    fill(world.root)
    os.link(world.root / "a", world.root / "b")
    with world.layer() as layer:
        inside(layer, "echo changed > a; echo n > n1; ln n1 n2")
        world.commit(layer)
    assert (world.root / "a").read_text() == "changed\n"
    assert (world.root / "n1").read_text() == (world.root / "n2").read_text() == "n\n"


def test_attributes_of_overlayfs_set_by_a_process_mean_nothing(world):
    fill(world.root)
    with world.layer() as layer:
        inside(
            layer,
            f"{sys.executable} -I -S -c \"import os\nfor p in ('d','a'):\n for n in ('opaque','whiteout','redirect'):\n"
            "  try: os.setxattr(p,'user.overlay.'+n,b'y')\n  except OSError: pass\"",
        )
        plan = world.commit(layer)
    assert (world.root / "d" / "x").exists()
    assert not [one for one in plan.changes if one.after is ABSENT]


def test_sqlite_wal_mmap_and_inotify_work_in_a_layer(world):
    connection = sqlite3.connect(world.root / "db")
    connection.execute("pragma journal_mode = wal")
    connection.execute("create table t (x)")
    connection.commit()
    connection.close()
    script = (
        "import ctypes, mmap, os, select, sqlite3, struct\n"
        "c = sqlite3.connect('db'); c.execute('insert into t values (1)'); c.commit()\n"
        "assert c.execute('pragma journal_mode').fetchone() == ('wal',); c.close()\n"
        "f = open('m', 'w+b'); f.truncate(4096); m = mmap.mmap(f.fileno(), 4096); m[0:2] = b'ok'; m.flush()\n"
        "libc = ctypes.CDLL(None); i = libc.inotify_init(); assert libc.inotify_add_watch(i, b'.', 0x100) >= 0\n"
        "open('seen', 'w').close(); assert select.select([i], [], [], 5)[0]\n"
    )
    (world.run / "script.py").write_text(script)
    with world.layer() as layer:
        inside(layer, f"{sys.executable} -I {world.run}/script.py")
        world.commit(layer)
    assert sqlite3.connect(world.root / "db").execute("select x from t").fetchall() == [(1,)]
    assert (world.root / "m").read_bytes()[:2] == b"ok"
    assert mmap.PAGESIZE


def test_git_worktrees_work_in_a_layer(world):
    def git(*arguments, cwd=world.root):
        subprocess.run(
            ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", *arguments],
            cwd=cwd,
            check=True,
            capture_output=True,
        )

    git("init", "-q")
    (world.root / "f").write_text("1")
    git("add", "f")
    git("commit", "-qm", "one")
    git("worktree", "add", "-q", str(world.root / "tree"), "-b", "side")
    with world.layer() as layer:
        inside(
            layer,
            "cd tree; echo 2 > f; git -c user.name=n -c user.email=e@example.org commit -qam two; git status --porcelain",
        )
        plan = world.commit(layer)
    assert plan.blocked == []
    git("fsck", "--strict")
    shown = subprocess.run(
        ["git", "log", "--format=%s", "side"], cwd=world.root, capture_output=True, text=True, check=True
    )
    assert shown.stdout == "two\none\n"


def test_git_submodules_work_in_a_layer_and_a_new_one_is_held(world, tmp_path):
    git = "git -c user.name=n -c user.email=e@example.org -c protocol.file.allow=always"
    library = tmp_path / "library"

    def sh(script, cwd=world.root):
        return subprocess.run(["sh", "-ec", script], cwd=cwd, check=True, capture_output=True, text=True).stdout

    library.mkdir()
    sh(f"git init -q; echo 1 > l; git add l; {git} commit -qm one", library)
    sh(f"git init -q; {git} submodule add -q {library} sub; {git} commit -qm sub")
    with world.layer() as layer:
        inside(layer, f"cd sub; echo 2 > l; {git} commit -qam two; cd ..; git add sub; {git} commit -qm bump")
        assert world.commit(layer).blocked == []
    sh("git fsck --strict; git -C sub fsck --strict; git diff --exit-code; git -C sub diff --exit-code")
    assert sh("git log --format=%s; git -C sub log --format=%s") == "bump\nsub\ntwo\none\n"
    with world.layer("p2") as layer:
        inside(
            layer, f"{git} submodule add -q {library} more; git -C sub config core.fsmonitor /tmp/x; echo x > sub/.git"
        )
        held = {one.path for one in plan_commit(layer, world.run).blocked if one.why == "runs_later"}
    assert {".gitmodules", ".git/config", ".git/modules/more/config", "more/.git"} <= held
    assert {".git/modules/sub/config", "sub/.git"} <= held


def test_without_mount_namespaces_a_copy_serves_tools_alone(tmp_path):
    world = World(tmp_path, NoMounts())
    fill(world.root)
    with world.layer() as layer:
        assert layer.namespaces is None
        effects.put_file(layer.workspace, effects.NewFile((b"n",), [b"x"], 0o644, None, b".t"))
        assert not (world.root / "n").exists()
        world.commit(layer)
    assert (world.root / "n").exists()


def test_many_files_take_time_for_what_changed_only(world):
    for number in range(2_000):
        (world.root / f"f{number}").write_text("x")
    with world.layer() as layer:
        inside(layer, "echo y > f7; rm f8")
        if layer.manifest.kind == "overlay":
            assert sorted(set(layer.candidates())) == [(b"f7",), (b"f8",)]
        assert len(layer.differences()[0]) == 2


def test_a_changed_path_is_named_once_to_who_looks_again(world):
    fill(world.root)
    with world.layer() as layer:
        layer.changed_since_look()
        inside(layer, "echo n > new")
        assert (b"new",) in layer.changed_since_look()
        assert [path for path in layer.changed_since_look() if path == (b"new",)] == []
        inside(layer, "rm new; echo o > a")
        assert {(b"new",), (b"a",)} <= set(layer.changed_since_look())


def test_walls_in_namespaces_of_their_own_attach_the_view_as_often_as_they_like(tmp_path):
    mounts = LayerMounts()
    world = World(tmp_path, mounts)
    at = tmp_path / "at"
    at.mkdir()
    code = (
        "import os, sys\n"
        "from interlock.isolation import syscalls\n"
        "syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)\n"
        "try:\n    syscalls.attach_tree(int(sys.argv[1]), sys.argv[2])\n"
        "except OSError as error:\n    sys.exit(f'kernel {os.uname().release}: {error}')\n"
        "open(os.path.join(sys.argv[2], sys.argv[3]), 'w').close()\n"
    )
    with world.layer() as layer:
        for name in ("one", "two"):
            fd = layer.workspace.fd
            done = subprocess.run(
                [sys.executable, "-c", code, str(fd), str(at), name],
                pass_fds=[fd],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode and tuple(map(int, os.uname().release.split(".")[:2])) < (6, 15):
                pytest.skip(done.stderr)
            assert done.returncode == 0, done.stderr
        assert {(b"one",), (b"two",)} == set(layer.candidates())
    world.close()
    mounts.close()


def test_the_mounting_process_is_replaced_when_it_dies(tmp_path):
    mounts = LayerMounts()
    world = World(tmp_path, mounts)
    world.layer("p1").close()
    os.kill(mounts.pid, signal.SIGKILL)
    with world.layer("p2") as layer:
        assert layer.posture == "overlay"
    mounts.close()
