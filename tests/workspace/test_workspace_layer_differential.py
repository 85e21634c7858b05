"""An overlay and a copy do the same with everything that a process may leave: seen, committed, and undone alike."""

import contextlib
import os
import stat

from layer_world import NoOverlay, World, inside

from interlock.disk import Disk
from interlock.workspace.layer_mounts import LayerMounts
from interlock.workspace.layers import remove_layer

PYTHON = "python3 -I -S -c"
CASES = {
    "touched": "touch -d @5 a; touch -d @5 d",
    "attribute": f"{PYTHON} \"import os; os.setxattr('a', 'user.z', b'1'); os.setxattr('d', 'user.z', b'1')\"",
    "attribute-gone": f"{PYTHON} \"import os; os.removexattr('exe', 'user.k')\"",
    "fifo-removed": "rm fifo",
    "fifo-made": "mkfifo new; mkdir s; mkfifo s/f; echo x > s/g",
    "fifo-replaced": "rm fifo; echo x > fifo",
    "fifo-for-file": "rm a; mkfifo a",
    "fifo-used": "cat fifo > got & echo word > fifo; wait",
    "socket": f"{PYTHON} \"import socket; socket.socket(socket.AF_UNIX).bind('sock')\"",
    "closed": "chmod 000 a; mkdir nd; echo q > nd/f; chmod 000 nd",
    "set-id": "echo more >> suid; cp exe s2; chmod 6755 s2; chmod u+s exe; mkdir g; chmod 2775 g; mkdir t; chmod 1777 t",
    "set-id-moved": "mv suid suid2",
    "all-gone": "rm -rf ./*",
    "chain": "mv a b; mv d/x a; mv b d/x",
    "swapped": "mv a t; mv same a; mv t same",
    "one-link": "echo x >> same",
    "link-mode": "chmod 700 same; touch -d @9 same",
    "links-removed": "rm same same-link; echo new > same-link",
    "links-replaced": "for f in same same-link; do echo new > t; mv t $f; done",
    "links-made": "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do ln a l$i; done; echo 1 >> l1; chmod 600 l2",
    "names": "printf x > 'new\nline'; printf x > $(printf 'z\\376'); mkdir 'c:'; echo > 'c:/x'; echo > '~x'",
    "changed-name": "printf y >> $(printf 'bad\\377')",
    "long": "echo > $(printf 'x%.0s' $(seq 255))",
    "hidden": "echo > .wh.a; mkdir .wh.d; echo > .wh..wh..opq",
    "opaque": "rm -rf d; mkdir d; rm -rf d; mkdir d; echo 1 > d/q",
    "opaque-deep": "rm -rf deep; mkdir -p deep/1/2; echo n > deep/1/2/n",
    "file-for-directory": "rm -rf deep; echo f > deep; rm deep; mkdir deep; echo g > deep/g; rm -rf d; echo f > d",
    "link-for-directory": "rm -rf d; ln -s gone d; rm dirlink; mkdir dirlink; echo x > dirlink/x",
    "through-link": "echo x > dirlink/new",
    "leading-out": "ln -s /etc/passwd p; ln -s ../../x q; mkdir l; ln -s ../.. l/up",
    "sparse": "truncate -s 20M big; echo end >> big",
    "empty": "rmdir empty; mkdir empty; mkdir e2",
    "made-again": "cp -p a t; rm a; mv t a; cp -a d t; rm -rf d; mv t d",
    "moved": "mv d d2; mv deep/1 up",
    "read-only": "chmod 555 ro; echo x > ro/f",
    "reserved": "echo x > .interlock-run_1-0.tmp; echo y > .INTERLOCK-remove-aa.tmp",
}  # fmt: skip


def fill(place):
    """What each case begins with."""
    for name in ("d", "gone", "ro", "empty", "deep/1/2/3"):
        (place / name).mkdir(parents=True)
    for name in ("a", "d/x", "d/y", "gone/z", "ro/f", "exe", "suid", "same", "deep/1/2/3/f", "n\nl"):
        (place / name).write_text(f"{name}\n")
    with open(os.fsencode(place) + b"/bad\xff", "w", encoding="ascii") as file:
        file.write("bad\n")
    (place / "exe").chmod(0o755)
    (place / "suid").chmod(0o4755)
    os.setxattr(place / "exe", "user.k", b"v")
    os.mkfifo(place / "fifo")
    os.link(place / "same", place / "same-link")
    (place / "dangling").symlink_to("nowhere")
    (place / "dirlink").symlink_to("d")


def everything(root):
    """Kinds, permissions, contents, attributes, and times that a case has set."""
    found = {}
    for where, directories, files in os.walk(os.fsencode(root)):
        for name in (*directories, *files):
            path = os.path.join(where, name)
            seen = os.lstat(path)
            content, attributes, time = None, {}, 0
            if stat.S_ISLNK(seen.st_mode):
                content = os.readlink(path)
            else:
                attributes = {name: os.getxattr(path, name) for name in os.listxattr(path)}
            if stat.S_ISREG(seen.st_mode):
                with open(path, "rb") as file:
                    content = seen.st_size, file.read()[-100:]
                time = seen.st_mtime if seen.st_mtime < 100 else 0
            found[os.path.relpath(path, os.fsencode(root))] = stat.filemode(seen.st_mode), content, attributes, time
    return found


def outcome(place, mounts):
    place.mkdir()
    with contextlib.closing(World(place, mounts)) as world:
        for name in CASES:
            fill(world.root / name)
        before = everything(world.root)
        layer = world.layer()
        with layer:
            for name, script in CASES.items():
                inside(layer, f"cd {name}; {script}")
            assert everything(world.root) == before
            plan = world.commit(layer)
            after = everything(world.root)
            left = {one.path for one in layer.differences()[0]}
        kinds = sorted((b"/".join(one.path), one.kind) for one in plan.changes)
        blocked = sorted((str(one.path), one.why) for one in plan.blocked)
        assert left == {(b"reserved", b".interlock-run_1-0.tmp"), (b"reserved", b".INTERLOCK-remove-aa.tmp")}
        world.undo()
        assert everything(world.root) == before
        remove_layer(layer.directory, Disk())
        assert not layer.directory.exists()
    return kinds, blocked, after


def test_an_overlay_and_a_copy_do_the_same(tmp_path):
    with contextlib.closing(LayerMounts()) as overlays, contextlib.closing(NoOverlay()) as copies:
        kinds, blocked, after = outcome(tmp_path / "overlay", overlays)
        assert outcome(tmp_path / "copy", copies) == (kinds, blocked, after)
    assert (b"touched/a", "times") in kinds
    assert after[b"touched/a"][3] == 5
    assert {(b"attribute/a", "attributes"), (b"attribute/d", "attributes")} <= set(kinds)
    assert after[b"attribute/d"][2] == {"user.z": b"1"}
    assert after[b"attribute-gone/exe"][2] == {}
    assert after[b"link-mode/same"][0] == "-rwx------"
    assert after[b"link-mode/same-link"][0] == "-rw-r--r--"
    assert after[b"one-link/same-link"][1] == (5, b"same\n")
    assert [path for path in after if path.startswith(b"all-gone/")] == [b"all-gone/fifo"]
    assert {path for path, _ in blocked} == {
        "all-gone/fifo", "fifo-removed/fifo", "fifo-made/new", "fifo-made/s/f", "fifo-replaced/fifo", "fifo-for-file/a",
        "socket/sock", "reserved/.interlock-run_1-0.tmp", "reserved/.INTERLOCK-remove-aa.tmp",
    }  # fmt: skip


def test_a_file_with_a_name_outside_of_the_workspace_changes_only_inside(world, tmp_path):
    outside = tmp_path / "outside"
    for name in ("mode", "time", "gone", "written"):
        outside.with_name(f"outside-{name}").write_text("shared\n")
        os.link(outside.with_name(f"outside-{name}"), world.root / name)
        outside.with_name(f"outside-{name}").chmod(0o644)
    seen = {path.name: path.stat() for path in tmp_path.glob("outside-*")}
    with world.layer() as layer:
        inside(layer, "chmod 755 mode; touch -d @5 time; rm gone; echo agent > written")
        assert world.commit(layer).blocked == []
    assert stat.S_IMODE((world.root / "mode").stat().st_mode) == 0o755
    assert (world.root / "time").stat().st_mtime == 5
    for path in tmp_path.glob("outside-*"):
        now = path.stat()
        assert (now.st_mode, now.st_mtime_ns, now.st_size) == (
            seen[path.name].st_mode, seen[path.name].st_mtime_ns, seen[path.name].st_size,
        )  # fmt: skip
    world.undo()
    assert {path.read_text() for path in world.root.iterdir()} == {"shared\n"}


NEST = "import os\nfor _ in range(300):\n os.mkdir('n' * 20); os.chdir('n' * 20)\nopen('f', 'w').write('x')"


def test_directories_nested_deeper_than_a_path_can_name_are_named_and_go_with_the_layer(world):
    layer = world.layer()
    with layer:
        inside(layer, f'echo b > b; python3 -c "{NEST}"')
        plan = world.commit(layer)
        (deep,) = plan.blocked
        assert (deep.why, deep.path.count("/")) == ("unsupported", 256)
        assert (world.root / "b").exists()
        world.undo()
        assert os.listdir(world.root) == []
    remove_layer(layer.directory, Disk())
    assert not layer.directory.exists()
