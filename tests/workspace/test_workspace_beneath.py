"""Nothing outside the root is ever reached, by neither way of opening a path."""

from __future__ import annotations

import os

import pytest
from trees import swapping

from interlock.model.errors import InterlockError, ToolError, UsageError
from interlock.workspace import Workspace
from interlock.workspace.beneath import OpenAt2, Walk, best
from interlock.workspace.names import stored, to_json


def code(call, *arguments, **options):
    with pytest.raises(ToolError) as caught:
        call(*arguments, **options)
    return caught.value.code


def read(workspace, value):
    fd = workspace.open_file(workspace.locate(value))
    try:
        return os.read(fd, 1 << 20)
    finally:
        os.close(fd)


def test_this_machine_has_openat2(root):
    fd = os.open(root, os.O_PATH)
    assert isinstance(best(fd), OpenAt2)
    os.close(fd)


def test_the_walk_takes_over_where_openat2_is_filtered(root, monkeypatch):
    def filtered(*_):
        raise PermissionError(1, "no")

    monkeypatch.setattr(OpenAt2, "open", filtered)
    fd = os.open(root, os.O_PATH)
    assert isinstance(best(fd), Walk)
    os.close(fd)


def test_a_missing_root_is_the_users_fault(tmp_path):
    with pytest.raises(UsageError) as caught:
        Workspace(tmp_path / "none")
    assert caught.value.code == "workspace_missing"


@pytest.mark.parametrize("path", ["..", "../x", "a/../../x", "/etc/passwd", "/", "a/b/../../../x"])
def test_paths_that_leave_are_refused(workspace, path):
    assert code(workspace.locate, path) == "path_outside_workspace"


@pytest.mark.parametrize("path", ["a\0b", {"b64": "!"}, {"b64": "YQ==", "x": 1}, 7, None, ["a"], "x" * 5000])
def test_what_is_not_a_path_is_refused(workspace, path):
    assert code(workspace.locate, path) == "path_invalid"


def test_an_absolute_path_beneath_the_root_is_accepted(workspace, root):
    (root / "a").mkdir()
    (root / "a" / "f").write_text("x")
    assert workspace.locate(str(root / "a" / "f")) == (b"a", b"f")
    assert code(workspace.locate, str(root) + "-other/f") == "path_outside_workspace"


@pytest.mark.parametrize(
    "name",
    [
        b"new\nline",
        b"\xff\xfe",
        b" ",
        b"-rf",
        b"~home",
        b"a:",
        b"\x1b[31m",
        "ä".encode(),
        b"{}",
        b"*",
        b"." * 3,
        b"x" * 255,
    ],
)
def test_any_name_is_an_ordinary_name(workspace, root, name):
    directory = os.fsencode(root) + b"/" + name
    os.mkdir(directory)
    with open(directory + b"/" + name, "wb") as file:
        file.write(b"here")
    spelled = to_json((name, name))
    assert workspace.locate(spelled) == (name, name)
    assert stored(spelled) == (name, name)
    assert read(workspace, spelled) == b"here"
    assert [path for path, _ in workspace.walk(())] == [(), (name,), (name, name)]


def test_a_tree_deeper_than_the_kernel_takes_in_one_call(workspace, root):
    fd = os.open(root, os.O_RDONLY)
    names = [b"d" * 200] * 30
    for name in names:
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    with open(os.open(b"f", os.O_CREAT | os.O_WRONLY, dir_fd=fd), "w") as file:
        file.write("deep")
    os.close(fd)
    *_, (path, found) = workspace.walk(())
    assert path == (*names, b"f")
    assert found.st_size == 4
    assert workspace.examine(path).node.size == 4


def test_links_inside_are_followed(workspace, root):
    (root / "a").mkdir()
    (root / "a" / "f").write_text("x")
    (root / "rel").symlink_to("a")
    (root / "abs").symlink_to(root / "a")
    (root / "a" / "up").symlink_to("../rel/f")
    (root / "dangling").symlink_to("a/new")
    for path in ("rel/f", "abs/f", "a/up", "rel/up", "abs/../a/f"):
        assert workspace.locate(path) == (b"a", b"f")
    assert workspace.locate("dangling") == (b"a", b"new")
    assert workspace.locate("a/up", follow=False) == (b"a", b"up")
    assert workspace.locate("rel/up", follow=False) == (b"a", b"up")


@pytest.mark.parametrize("target", ["/etc", "..", "../..", "a/../../outside", "/proc/self/root", "./../outside"])
def test_links_that_lead_out_are_refused(workspace, root, tmp_path, target):
    (tmp_path / "outside").mkdir()
    (root / "a").mkdir()
    (root / "link").symlink_to(target)
    assert code(workspace.locate, "link") == "path_outside_workspace"
    assert code(workspace.locate, "link/x") == "path_outside_workspace"
    assert workspace.locate("link", follow=False) == (b"link",)
    assert code(workspace.open, (b"link", b"x"), os.O_RDONLY) in {"path_changed", "not_a_directory"}
    assert code(workspace.open, (b"link",), os.O_RDONLY) == "path_changed"


def test_links_in_a_circle_end(workspace, root):
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    (root / "self").symlink_to("self/x")
    for path in ("a", "a/x", "self", "self/y"):
        assert code(workspace.locate, path) == "symlink_loop"


def test_special_files_are_refused_and_never_waited_for(workspace, root):
    os.mkfifo(root / "fifo")
    assert code(workspace.open_file, (b"fifo",)) == "special_file"
    assert code(workspace.examine, (b"fifo",)) == "special_file"
    (root / "to-device").symlink_to("/dev/zero")
    assert code(workspace.locate, "to-device") == "path_outside_workspace"


def test_what_is_missing_or_of_the_wrong_kind(workspace, root):
    (root / "f").write_text("x")
    assert code(workspace.open_file, (b"none",)) == "not_found"
    assert code(workspace.open_file, ()) == "not_a_file"
    assert code(workspace.locate, "f/x") == "not_a_directory"
    assert code(workspace.open_directory, (b"f",)) == "not_a_directory"
    assert workspace.lstat((b"none",)) is None


def test_descriptors_are_not_inherited_and_not_leaked(workspace, root):
    (root / "a").mkdir()
    (root / "a" / "f").write_text("x")
    before = set(os.listdir("/proc/self/fd"))
    fd = workspace.open((b"a", b"f"), os.O_RDONLY)
    assert not os.get_inheritable(fd)
    os.close(fd)
    for path in ("a/f", "a/none", "none/x"):
        with open(os.devnull):
            workspace.locate(path)
    for path in ((b"a", b"f", b"x"), (b"none", b"x")):
        with pytest.raises(ToolError):
            workspace.open(path, os.O_RDONLY)
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_directory_swapped_for_a_link_by_a_racing_thread_never_leads_out(workspace, root, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("secret")
    (root / "d").mkdir()
    (root / "d" / "f").write_text("inside")
    (root / "link").symlink_to(outside)
    seen, wanted = set(), {b"inside", "path_outside_workspace"}
    with swapping(root / "d", root / "link"):
        for i in range(100_000):
            if i >= 1_500 and wanted <= seen:
                break
            try:
                seen.add(read(workspace, "d/f"))
            except InterlockError as error:
                seen.add(error.code)
    assert b"secret" not in seen
    assert wanted <= seen
