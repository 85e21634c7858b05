"""Text in files: pages, encodings, line ends, several edits at once, and what a mismatch says."""

from __future__ import annotations

import codecs
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_executors_files import code
from test_executors_files_undo import Tools

from interlock.executors.text_edits import Edit, apply
from interlock.model.errors import ToolError


@pytest.fixture
def root(workspace):
    return workspace.root


@pytest.fixture
def tools(workspace, tmp_path, context):
    made = Tools(workspace, tmp_path / "runs" / "run_1", context())
    yield made
    made.close()


def failure(call, **parameters):
    with pytest.raises(ToolError) as caught:
        call(**parameters)
    return caught.value


def edited(text, old, new, times=1):
    return apply(text, [Edit(old, new, times, "$.parameters")])


# --- pages


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 64])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "gb18030"])
def test_pages_end_at_characters_and_together_are_the_file(tools, root, encoding, size):
    text = "grün, 漢字, 😀😀, end\n" * 3
    (root / "f").write_bytes(text.encode(encoding))
    found, offset = "", 0
    while offset is not None:
        page = tools.read(path="f", offset=offset, max_bytes=size, encoding=encoding)
        assert (page["encoding"], page["offset"]) == (encoding, offset)
        found, offset = found + page["content"], page["next_offset"]
        assert page["truncated"] is (offset is not None)
    assert found == text


def test_an_offset_within_a_character_begins_with_it(tools, root):
    (root / "f").write_bytes("a😀b".encode())
    for offset in (1, 2, 3, 4):
        page = tools.read(path="f", offset=offset)
        assert (page["content"], page["offset"]) == ("😀b", 1)


def test_binary_comes_in_pages_too(tools, root):
    (root / "f").write_bytes(b"\x00\x01\x02\x03")
    page = tools.read(path="f", max_bytes=3)
    assert (page["content"], page["encoding"], page["next_offset"]) == ("AAEC", "base64", 3)
    assert tools.read(path="f", offset=3)["next_offset"] is None


# --- encodings


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [(codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")],
)
def test_a_byte_order_mark_is_recognised_and_kept(tools, root, mark, encoding):
    (root / "f").write_bytes(mark + "eins\r\nzwei\r\n".encode(encoding))
    page = tools.read(path="f")
    assert (page["content"], page["encoding"], page["offset"]) == ("eins\r\nzwei\r\n", encoding, len(mark))
    assert tools.edit(path="f", old="eins\nzwei", new="ä\nö\nü")["encoding"] == encoding
    assert (root / "f").read_bytes() == mark + "ä\r\nö\r\nü\r\n".encode(encoding)
    tools.write(path="f", content="neu\n")
    tools.write(path="f", content="mehr\n", append=True)
    assert (root / "f").read_bytes() == mark + "neu\nmehr\n".encode(encoding)
    tools.write(path="f", content="plain", encoding="utf-8")
    assert (root / "f").read_bytes() == b"plain"


def test_an_encoding_can_be_given(tools, root):
    (root / "f").write_bytes(b"caf\xe9\n")
    assert tools.read(path="f")["encoding"] == "base64"
    assert tools.read(path="f", encoding="latin-1")["content"] == "café\n"
    tools.edit(path="f", old="é", new="è", encoding="latin-1")
    assert (root / "f").read_bytes() == b"caf\xe8\n"
    wrong = failure(tools.edit, path="f", old="è", new="漢", encoding="latin-1")
    assert (wrong.code, "U+6F22" in wrong.message) == ("encoding_invalid", True)
    assert code(tools.edit, path="f", old="è", new="e", encoding="utf-8") == "encoding_invalid"
    assert code(tools.write, path="f", content="漢", encoding="latin-1") == "encoding_invalid"
    assert (root / "f").read_bytes() == b"caf\xe8\n"
    tools.write(path="g", content="é", encoding="latin-1")
    assert (root / "g").read_bytes() == b"\xe9"


# --- line ends


@pytest.mark.parametrize(
    ("text", "old", "new", "result"),
    [
        ("a\r\nb\r\nc\r\n", "a\nb", "x\ny", "x\r\ny\r\nc\r\n"),
        ("a\r\nb\r\n", "a", "x\ny", "x\r\ny\r\nb\r\n"),
        ("a\r\nb\r\n", "a\n", "x\r\ny\r\n", "x\r\ny\r\nb\r\n"),
        ("a\r\nb\nc\r\nd\n", "a\nb\nc", "A\nb\nC", "A\r\nb\nC\r\nd\n"),
        ("a\nb\r\nc\n", "b\n", "b\nnew\n", "a\nb\r\nnew\r\nc\n"),
        ("a\rb\nc\n", "b\nc", "x\ny", "a\rx\ny\n"),
        ("a\rb\rc", "a\nb", "x\ny", "x\ry\rc"),
        ("a\r\nb\r\n", "a\r\nb", "a\nb", "a\nb\r\n"),
        ("a\r\nb", "\n", " ", "a b"),
        ("a\nb\n", "a\nb", "x\r\ny", "x\ny\n"),
        ("one", "one", "x\ny", "x\ny"),
        ("a\nb\n", "a\r\nb", "x\r\ny", "x\ny\n"),
        ("a\r\nb\nc", "a\r\nb\r\nc", "x\r\ny\r\nz", "x\r\ny\nz"),
    ],
)
def test_lf_matches_and_writes_the_line_ends_of_the_file(text, old, new, result):
    assert edited(text, old, new) == result


LINES = st.lists(st.sampled_from(["", "a", "b", "é"]), min_size=1, max_size=6)
ENDS = st.lists(st.sampled_from(["\n", "\r\n"]), min_size=5, max_size=5)


@settings(max_examples=300, deadline=None)
@given(LINES, ENDS, LINES)
@example(["a", "b"], ["\r\n"] * 5, ["x"])
def test_what_is_not_replaced_stays_byte_for_byte(lines, ends, new):
    inner = "".join(line + end for line, end in zip(lines, ends, strict=False))
    text = "<1>\r\n\n<[" + inner + "]>\n\r\n<2>"
    old = "[" + inner.replace("\r\n", "\n") + "]"
    result = edited(text, old, "{" + "\n".join(new) + "}")
    assert result.startswith("<1>\r\n\n<{")
    assert result.endswith("}>\n\r\n<2>")
    assert result.replace("\r\n", "\n") == "<1>\n\n<{" + "\n".join(new) + "}>\n\n<2>"


@settings(max_examples=200, deadline=None)
@given(LINES, ENDS)
def test_lines_that_an_edit_repeats_keep_their_ends(lines, ends):
    inner = "".join(line + end for line, end in zip(lines, ends, strict=False))
    plain = inner.replace("\r\n", "\n")
    assert edited(f"({inner})", f"({plain})", f"[{plain}]") == f"[{inner}]"


# --- several edits, and what does not fit


def test_several_edits_are_made_in_order_all_or_none(tools, root):
    (root / "f").write_bytes(b"a\r\nb\r\nc\r\n")
    edits = [{"old": "a\nb", "new": "b\nb"}, {"old": "b", "new": "x", "count": 2}]
    assert tools.edit(path="f", edits=edits)["replacements"] == 3
    assert (root / "f").read_bytes() == b"x\r\nx\r\nc\r\n"
    wrong = failure(tools.edit, path="f", edits=[{"old": "x", "new": "y", "count": 2}, {"old": "q", "new": "y"}])
    assert (wrong.code, wrong.path) == ("edit_mismatch", "$.parameters.edits[1].old")
    assert "`edits[1].old` occurs 0 times" in wrong.message  # a model sees the message, not the path
    assert (root / "f").read_bytes() == b"x\r\nx\r\nc\r\n"


@pytest.mark.parametrize("more", [{}, {"old": "a"}, {"old": "a", "new": "b", "edits": [{"old": "a", "new": "b"}]}])
def test_an_edit_is_one_or_several(tools, root, more):
    (root / "f").write_text("a")
    assert failure(tools.edit, path="f", **more).code == "invalid_parameters"


def test_an_edit_that_changes_nothing_is_an_error(tools, root):
    (root / "f").write_text("a")
    assert failure(tools.edit, path="f", old="a", new="a").code == "edit_unchanged"
    (root / "f").write_bytes(b"a\nb\n")
    assert failure(tools.edit, path="f", old="a\r\nb", new="a\nb").code == "edit_unchanged"


def test_a_mismatch_names_the_nearest_lines(tools, root):
    (root / "f").write_text("import os\n\ndef run(self, name):\n    return name\n")
    wrong = failure(tools.edit, path="f", old="def run(self, nam):\n", new="x")
    assert "line 3" in wrong.message
    assert "def" not in wrong.message
    assert wrong.output == {"occurrences": 0, "nearest": [{"line": 3, "text": "def run(self, name):"}]}


def test_a_mismatch_in_a_file_of_unknown_encoding_says_so(tools, root):
    (root / "f").write_bytes("café\n".encode("latin-1"))
    wrong = failure(tools.edit, path="f", old="café", new="thé")
    assert "the file is not UTF-8: give its `encoding`" in wrong.message
    assert json.loads(json.dumps(wrong.output)) == {"occurrences": 0, "nearest": [{"line": 1, "text": "caf\ufffd"}]}


def test_a_mismatch_names_the_lines_where_it_occurs(tools, root):
    (root / "f").write_bytes(b"x\r\ny\r\nx\r\n")
    wrong = failure(tools.edit, path="f", old="x", new="z")
    assert "occurs 2 times, at lines 1, 3," in wrong.message
    assert "occurs once, at line 2," in failure(tools.edit, path="f", old="y", new="z", count=2).message
    assert wrong.output == {"occurrences": 2, "lines": [1, 3]}


# --- search and list


def test_the_first_line_behind_a_byte_order_mark_is_found(tools, root):
    (root / "f").write_bytes(codecs.BOM_UTF8 + b"import os\n")
    assert tools.search(pattern="^import")["matches"] == [{"path": "f", "line": 1, "column": 1, "text": "import os"}]


def test_a_match_far_along_a_line_is_shown(tools, root):
    (root / "f").write_text("x" * 300_000 + " needle " + "y" * 300_000)
    (match,) = tools.search(pattern="needle")["matches"]
    assert match["column"] == 300_002
    assert "needle" in match["text"]
    assert len(match["text"]) == 500


def test_what_was_not_looked_at_is_reported(tools, root):
    (root / "f").write_text("x" * (4 * 1024 * 1024) + "needle\n")
    assert tools.search(pattern="needle") == {"matches": [], "truncated": True}


def paths(answer, rows="entries"):
    return [row["path"] for row in answer[rows]]


def test_globs_say_what_they_mean(tools, root):
    for name in ("dir/a.py", "dir/b.js", "dir/c.md", "d.py"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("x")
    assert paths(tools.list(glob="dir/*.py")) == ["dir/a.py"]
    assert paths(tools.list(glob="*.{py,js}")) == ["d.py"]
    assert paths(tools.list(glob="*.{py,js}", recursive=True)) == ["d.py", "dir/a.py", "dir/b.js"]
    assert paths(tools.list(glob="{dir/{a,c}.*,d.py}")) == ["d.py", "dir/a.py", "dir/c.md"]
    assert paths(tools.search(pattern="x", glob="*.{js,md}"), "matches") == ["dir/b.js", "dir/c.md"]
    assert code(tools.list, glob="{a,b}" * 20) == "pattern_invalid"


def test_a_slash_at_the_end_names_a_directory(tools, root):
    (root / "f").write_text("x")
    assert code(tools.write, path="trail/", content="x") == "not_a_file"
    assert code(tools.write, path="f/", content="y") == "not_a_file"
    assert code(tools.edit, path="f/", old="x", new="y") == "not_a_file"
    assert code(tools.read, path="f/") == "not_a_file"
    assert code(tools.delete, path="f/") == "not_a_file"
    assert code(tools.move, source="f", destination="g/") == "not_a_file"
    assert [path.name for path in root.iterdir()] == ["f"]
    (root / "d").mkdir()
    tools.move(source="d/", destination="e/")
    tools.delete(path="e/")
    assert (root / "f").read_text() == "x"
