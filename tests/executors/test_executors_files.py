"""The file tools, each as a caller sees it."""

from __future__ import annotations

import base64
import hashlib
import itertools
import os
import socket
import tempfile
from pathlib import Path

import psutil
import pytest
from test_executors_files_undo import Tools

from interlock.model.errors import ToolError
from interlock.workspace import Workspace


@pytest.fixture
def root(workspace):
    return workspace.root


@pytest.fixture
def tools(workspace, tmp_path, context):
    made = Tools(workspace, tmp_path / "runs" / "run_1", context())
    yield made
    made.close()


def code(call, *arguments, **parameters):
    with pytest.raises(ToolError) as caught:
        call(*arguments, **parameters)
    return caught.value.code


def digest(data):
    return hashlib.sha256(data).hexdigest()


# --- definitions


def test_definitions_say_what_the_tools_are():
    found = {name: binding.tool for name, binding in Tools.BINDINGS.items()}
    assert set(found) == {"fs.read", "fs.list", "fs.search", "fs.write", "fs.edit", "fs.delete", "fs.move"}
    for tool in found.values():
        looks = tool.name in {"fs.read", "fs.list", "fs.search"}
        assert tool.read_only is looks
        assert ("read_only" in tool.tags) is looks
        assert tool.reversibility == "reversible"
        assert not tool.open_world
        marks = [part.get("x-interlock") for name, part in tool.parameters["properties"].items()]
        assert ("path.read" if looks else "path.write") in marks
        assert tool.version.startswith("sha256:")


# --- read


def test_read_text_and_parts_of_it(tools, root):
    data = "grün\nzwei\n".encode()
    (root / "f").write_bytes(data)
    whole = {
        "content": data.decode(), "encoding": "utf-8", "size": 11, "offset": 0, "next_offset": None, "truncated": False,
        "sha256": digest(data),
    }  # fmt: skip
    assert tools.read(path="f") == whole
    part = {**whole, "content": "gr", "next_offset": 2, "truncated": True}
    assert tools.read(path="f", max_bytes=2) == part
    assert tools.read(path="f", max_bytes=3) == part  # never half a character
    assert tools.read(path="f", offset=6) == {**whole, "offset": 6, "content": "zwei\n"}
    assert tools.read(path="f", offset=11) == {**whole, "offset": 11, "content": ""}
    assert tools.read(path="f", offset=999) == {**whole, "offset": 999, "content": ""}


@pytest.mark.parametrize("data", [b"\xff\xfd", b"a\0b", b"\x01", b"caf\xe9", b"\x80" * 5])
def test_read_binary_as_base64(tools, root, data):
    (root / "f").write_bytes(data)
    got = tools.read(path="f")
    assert got["encoding"] == "base64"
    assert base64.b64decode(got["content"]) == data


def test_read_a_huge_file_in_little(tools, root):
    with open(root / "huge", "wb") as file:
        file.truncate(1 << 40)
        file.seek(1 << 39)
        file.write(b"middle")
    got = tools.read(path="huge", offset=1 << 39, max_bytes=6)
    assert (got["content"], got["size"], got["truncated"], got["sha256"]) == ("middle", 1 << 40, True, None)


def test_read_refuses_what_is_not_a_file(tools, root):
    os.mkfifo(root / "fifo")
    (root / "d").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(root)
        server.bind("sock")
    assert code(tools.read, path="fifo") == "special_file"
    assert code(tools.read, path="sock") == "special_file"
    assert code(tools.read, path="d") == "not_a_file"
    assert code(tools.read, path="none") == "not_found"
    assert code(tools.read, path="../x") == "path_outside_workspace"


# --- list


def test_list_sorted_with_what_is_there(tools, root):
    (root / "b").write_text("12")
    (root / "a").mkdir(mode=0o750)
    (root / "a" / "x.py").write_text("")
    (root / "c").symlink_to("/etc/passwd")
    os.mkfifo(root / "d")
    (root / "b").chmod(0o640)
    os.utime(root / "b", ns=(1_000, 1_700_000_000_123_456_789))
    got = tools.list()
    assert [(e["path"], e["type"]) for e in got["entries"]] == [
        ("a", "dir"), ("b", "file"), ("c", "symlink"), ("d", "special"),
    ]  # fmt: skip
    entry = got["entries"][1]
    assert entry == {"path": "b", "type": "file", "size": 2, "mode": "0640", "mtime": 1_700_000_000_123_456}
    assert got["truncated"] is False
    assert [e["path"] for e in tools.list(recursive=True)["entries"]] == ["a", "a/x.py", "b", "c", "d"]
    assert [e["path"] for e in tools.list(recursive=True, glob="*.py")["entries"]] == ["a/x.py"]
    assert [e["path"] for e in tools.list(path="a", glob="x.*")["entries"]] == ["a/x.py"]
    assert tools.list(recursive=True, glob="b/**")["entries"][0]["path"] == "b"


def test_listed_names_can_be_read_back(tools, root):
    names = [b"\xff", b"~x", b"new\nline", b"-r", b"a b", b"c:"]
    for name in names:
        with open(os.fsencode(root) + b"/" + name, "wb") as file:
            file.write(name)
    os.mkdir(os.fsencode(root) + b"/http:")
    with open(os.fsencode(root) + b"/http:/x", "wb") as file:
        file.write(b"y")
    entries = [e for e in tools.list(recursive=True)["entries"] if e["type"] == "file"]
    assert len(entries) == 7
    for entry in entries:
        assert tools.read(path=entry["path"])["size"] == entry["size"]
    assert {"b64": "/w=="} in [e["path"] for e in entries]


def test_list_is_bounded(tools, root):
    (root / "many").mkdir()
    fd = os.open(root / "many", os.O_RDONLY)
    for i in range(12_000):
        os.close(os.open(f"f{i:05}", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    for recursive in (False, True):
        got = tools.list(path="many", recursive=recursive)
        assert got["truncated"] is True
        assert [e["path"] for e in got["entries"]] == [f"many/f{i:05}" for i in range(10_000)]
    got = tools.list(path="many", glob="f119*")
    assert (len(got["entries"]), got["truncated"]) == (100, False)


def test_list_does_not_follow_links_and_survives_circles(tools, root):
    (root / "d").mkdir()
    (root / "d" / "up").symlink_to("..")
    assert [e["path"] for e in tools.list(recursive=True)["entries"]] == ["d", "d/up"]
    assert [e["path"] for e in tools.list(path="d/up")["entries"]] == ["d"]
    assert code(tools.list, path="none") == "not_found"
    (root / "f").write_text("")
    assert code(tools.list, path="f") == "not_a_directory"
    assert code(tools.list, path="f", recursive=True) == "not_a_directory"
    assert code(tools.list, glob="../x") == "pattern_invalid"


# --- search


def test_search_lines(tools, root):
    (root / "src").mkdir()
    (root / "src" / "a.py").write_text("import os\n\nclass A:\n    pass\r\n")
    (root / "src" / "b.txt").write_text("class B")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("class C")
    (root / "binary").write_bytes(b"class D\0")
    got = tools.search(pattern=r"class \w|pass$")
    assert got == {
        "matches": [
            {"path": "src/a.py", "line": 3, "column": 1, "text": "class A:"},
            {"path": "src/a.py", "line": 4, "column": 5, "text": "    pass"},
            {"path": "src/b.txt", "line": 1, "column": 1, "text": "class B"},
        ],
        "truncated": False,
    }
    assert len(tools.search(pattern="class", glob="*.py")["matches"]) == 1
    assert len(tools.search(pattern="class", path="src/b.txt")["matches"]) == 1
    assert len(tools.search(pattern="class", path=".git")["matches"]) == 1
    limited = tools.search(pattern="class", max_matches=1)
    assert (len(limited["matches"]), limited["truncated"]) == (1, True)
    exactly = tools.search(pattern="class", max_matches=2)
    assert (len(exactly["matches"]), exactly["truncated"]) == (2, False)


def test_search_counts_lines_over_many_pieces(tools, root):
    with open(root / "big", "w") as file:
        file.writelines(f"line {i}\n" for i in range(100_000))
        file.write("x" * 200_000 + "needle\n")
        file.write("needle at the end")
    got = tools.search(pattern="^line 99999$|needle")["matches"]
    assert [(m["line"], m["column"]) for m in got] == [(100_000, 1), (100_001, 200_001), (100_002, 1)]
    assert [m["text"][-17:] for m in got] == ["line 99999", "xxxxxxxxxxxneedle", "needle at the end"]


@pytest.mark.parametrize("pattern", ["(", "[", "*", "(?P<a>x)(?P<a>y)", "\\"])
def test_search_refuses_what_is_not_a_pattern(tools, pattern):
    assert code(tools.search, pattern=pattern) == "pattern_invalid"


def test_a_catastrophic_pattern_ends_and_the_next_search_works(tools, root, monkeypatch):
    monkeypatch.setattr("interlock.executors.file_search._SILENT_POLLS_MAX", 6)
    (root / "f").write_text("a" * 60 + "!\n")
    assert code(tools.search, pattern="(a+)+$") == "pattern_too_slow"
    assert len(tools.search(pattern="a+!")["matches"]) == 1


def test_looking_for_what_is_not_there_ends_when_cancelled(tools, root, monkeypatch):
    for i in range(20):
        (root / f"f{i}").write_text("x")
    asked = itertools.count()
    monkeypatch.setattr(type(tools.context), "cancelled", property(lambda _: next(asked) % 10 == 9), raising=False)
    assert tools.list(recursive=True, glob="none") == {"entries": [], "truncated": True}
    assert code(tools.search, pattern="x", glob="none") == "cancelled"


def test_a_cancelled_search_ends(tools, root):
    (root / "f").write_text("a" * 60 + "!\n")
    tools.context.cancelled = True
    assert code(tools.search, pattern="(a+)+$") == "cancelled"


def test_search_leaves_no_process_behind(tools, root):
    (root / "f").write_text("x")
    before = {child.pid for child in psutil.Process().children()}  # other tests' fork servers may still be there
    tools.search(pattern="x")
    assert {child.pid for child in psutil.Process().children()} <= before


# --- write


def test_write_makes_replaces_and_appends(tools, root):
    assert tools.write(path="d/e/f", content="one\n") == {"size": 4, "sha256": digest(b"one\n"), "created": True}
    assert tools.write(path="d/e/f", content="two\n")["created"] is False
    assert tools.write(path="d/e/f", content="end", append=True) == {
        "size": 7, "sha256": digest(b"two\nend"), "created": False,
    }  # fmt: skip
    assert (root / "d/e/f").read_bytes() == b"two\nend"
    assert tools.write(path="new", content="x", append=True)["created"] is True
    tools.write(path="bin", content=base64.b64encode(b"\xff\0").decode(), encoding="base64")
    assert (root / "bin").read_bytes() == b"\xff\0"
    assert code(tools.write, path="bin", content="%", encoding="base64") == "encoding_invalid"
    assert [p.name for p in root.iterdir() if p.name.startswith(".interlock")] == []


def test_write_keeps_the_mode_but_no_set_id_bits(tools, root):
    (root / "f").write_text("#!/bin/sh")
    (root / "f").chmod(0o6755)
    tools.write(path="f", content="x")
    assert (root / "f").stat().st_mode & 0o7777 == 0o755


def test_write_follows_a_link_inside_and_keeps_it(tools, root):
    (root / "real").write_text("old")
    (root / "link").symlink_to("real")
    tools.write(path="link", content="new")
    assert (root / "link").is_symlink()
    assert (root / "real").read_text() == "new"


def test_write_does_not_change_another_name_of_the_same_file(tools, root, tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("theirs")
    os.link(outside, root / "f")
    tools.write(path="f", content="ours")
    tools.write(path="f", content="!", append=True)
    assert outside.read_text() == "theirs"


def test_write_refusals(tools, root):
    (root / "d").mkdir()
    os.mkfifo(root / "fifo")
    (root / "out").symlink_to("/tmp")
    (root / "f").write_text("x")
    assert code(tools.write, path="d", content="x") == "not_a_file"
    assert code(tools.write, path="f/x", content="x") == "not_a_directory"
    assert code(tools.write, path="fifo", content="x") == "special_file"
    assert code(tools.write, path="out/x", content="x") == "path_outside_workspace"
    assert code(tools.write, path="interlock.toml", content="x") == "path_protected"
    assert code(tools.write, path="policy/x", content="x") == "path_protected"
    assert code(tools.write, path=".", content="x") == "path_protected"
    assert code(tools.write, path="x" * 256, content="x") == "path_invalid"
    assert sorted(p.name for p in root.iterdir()) == ["d", "f", "fifo", "out"]


def test_write_respects_the_files_own_permissions(tools):
    """As an ordinary user: root may write anything."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        (root / "f").write_text("x")
        (root / "f").chmod(0o400)
        owner = os.geteuid() or 65534
        for path in (root, root / "f"):
            os.chown(path, owner, -1)
        with Workspace(root) as workspace:
            tools.context.workspace, tools.context.backups = workspace, None
            child = os.fork()
            if child == 0:
                try:
                    os.setuid(owner)
                    refused = code(tools.write, path="f", content="y") == "access_denied"
                    done = tools.write(path="g", content="y")["created"]
                    os._exit(0 if refused and done else 1)
                finally:
                    os._exit(2)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert (root / "f").read_text() == "x"


# --- edit


def test_edit_replaces_exactly(tools, root):
    (root / "f").write_text("a b a\n")
    assert tools.edit(path="f", old="b", new="c") == {
        "replacements": 1,
        "encoding": "utf-8",
        "sha256": digest(b"a c a\n"),
    }
    assert code(tools.edit, path="f", old="a", new="x") == "edit_mismatch"
    assert code(tools.edit, path="f", old="none", new="x") == "edit_mismatch"
    assert tools.edit(path="f", old="a", new="", count=2)["replacements"] == 2
    assert (root / "f").read_text() == " c \n"
    with pytest.raises(ToolError) as caught:
        tools.edit(path="f", old="q", new="x", count=3)
    assert caught.value.output == {"occurrences": 0, "nearest": []}
    assert caught.value.retryable is False


def test_edit_of_a_file_that_is_not_text(tools, root):
    (root / "f").write_bytes(b"\xff old \xfe")
    tools.edit(path="f", old="old", new="new")
    assert (root / "f").read_bytes() == b"\xff new \xfe"
    with open(root / "huge", "wb") as file:
        file.truncate(17 << 20)
    assert code(tools.edit, path="huge", old="x", new="y") == "file_too_large"
    assert code(tools.edit, path="none", old="x", new="y") == "not_found"


# --- delete


def test_delete(tools, root, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "f").write_text("theirs")
    (root / "d" / "e").mkdir(parents=True)
    (root / "d" / "f").write_text("x")
    (root / "d" / "out").symlink_to(outside)
    (root / "empty").mkdir()
    assert code(tools.delete, path="d") == "directory_not_empty"
    assert tools.delete(path="empty") == {"deleted": 1}
    assert tools.delete(path="d", recursive=True) == {"deleted": 4}
    assert list(root.iterdir()) == []
    assert (outside / "f").read_text() == "theirs"
    assert code(tools.delete, path="d") == "not_found"


def test_delete_refuses_protected_parts_and_what_it_could_not_restore(tools, root):
    (root / "d").mkdir()
    os.mkfifo(root / "d" / "fifo")
    (root / "d" / "f").write_text("x")
    assert code(tools.delete, path="d", recursive=True) == "special_file"
    (root / "policy").mkdir()
    (root / "policy" / "p").write_text("forbid")
    assert code(tools.delete, path="policy", recursive=True) == "path_protected"
    assert code(tools.delete, path=".", recursive=True) == "path_protected"
    (root / "h").mkdir()
    os.link(root / "policy" / "p", root / "h" / "innocent")
    assert code(tools.delete, path="h", recursive=True) == "path_protected"
    assert (root / "d" / "f").exists()


# --- move


def test_move(tools, root):
    (root / "a").mkdir()
    (root / "a" / "f").write_text("x")
    (root / "a" / "link").symlink_to("f")
    assert tools.move(source="a", destination="new/b") == {"moved": 3}
    assert (root / "new/b/link").read_text() == "x"
    assert os.readlink(root / "new/b/link") == "f"
    (root / "taken").write_text("")
    assert code(tools.move, source="new/b/f", destination="taken") == "already_exists"
    assert code(tools.move, source="new/b/f", destination="new/b/f") == "already_exists"
    assert code(tools.move, source="new", destination="new/b/c") == "path_invalid"
    assert code(tools.move, source="none", destination="x") == "not_found"


def test_move_refuses_what_the_loader_reads(tools, root):
    (root / "policy").mkdir()
    (root / "tmp").mkdir()
    (root / "tmp" / "interlock.toml").write_text("allow all")
    for source, destination in (
        ("policy", "old"),
        ("tmp", "policy/sub"),
        ("tmp", "POLICY"),
        ("tmp/interlock.toml", "interlock.toml"),
        ("tmp/interlock.toml", "Interlock.toml"),
        ("tmp", ".mcp.json"),
    ):
        assert code(tools.move, source=source, destination=destination) == "path_protected"
    assert (root / "tmp" / "interlock.toml").exists()


# --- all of them


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("write", {"path": "new/f", "content": "x"}),
        ("write", {"path": "f", "content": "x", "append": True}),
        ("edit", {"path": "f", "old": "o", "new": "n"}),
        ("delete", {"path": "d", "recursive": True}),
        ("move", {"source": "d", "destination": "n/m"}),
    ],
)
def test_a_dry_run_says_the_same_and_does_nothing(tools, root, name, parameters):
    (root / "f").write_text("o")
    (root / "d").mkdir()
    (root / "d" / "x").write_text("x")
    tools.context.dry_run = True
    dry = getattr(tools, name)(**parameters)
    assert sorted(p.name for p in root.rglob("*")) == ["d", "f", "x"]
    assert (root / "f").read_text() == "o"
    assert not (tools.run / "backups").exists()
    tools.context.dry_run = False
    real = getattr(tools, name)(**parameters)
    assert {key: dry[key] for key in real} == real


def test_a_cancelled_change_does_not_begin(tools, root):
    (root / "f").write_text("o")
    tools.context.cancelled = True
    assert code(tools.write, path="d/g", content="x") == "cancelled"
    assert code(tools.edit, path="f", old="o", new="n") == "cancelled"
    assert code(tools.delete, path="f") == "cancelled"
    assert code(tools.move, source="f", destination="g") == "cancelled"
    assert [(p.name, p.read_text()) for p in root.iterdir()] == [("f", "o")]


def test_without_backups_the_change_is_said_not_to_be_undoable(tools, root):
    tools.context.backups = None
    tools.write(path="d/f", content="x")
    tools.write(path="d/f", content="y", append=True)
    tools.move(source="d", destination="e")
    tools.delete(path="e", recursive=True)
    assert list(root.iterdir()) == []
    assert len(tools.context.undoable) == 4


def test_messages_never_repeat_the_path(tools, root):
    (root / "secret-name").mkdir()
    for call, parameters in (
        (tools.read, {"path": "secret-name"}),
        (tools.read, {"path": "secret-name/none"}),
        (tools.read, {"path": "../secret-name"}),
        (tools.write, {"path": "secret-name", "content": "secret-name"}),
        (tools.delete, {"path": "secret-name/x"}),
    ):
        with pytest.raises(ToolError) as caught:
            call(**parameters)
        assert "secret-name" not in caught.value.message
        assert caught.value.path == "$.parameters.path"
