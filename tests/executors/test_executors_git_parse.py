"""Whatever git (or something that looks like it) prints, the parsers end and give JSON."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from interlock.executors import git_parse as parse

WORDS = st.lists(
    st.one_of(
        st.binary(max_size=12),
        st.sampled_from(
            [
                b"1 .M N... 100644 100644 100644 a b f\0",
                b"2 R. N... 100644 100644 100644 a b R100 new\0old\0",
                b"u UU N... 1 2 3 4 a b c f\0",
                b"? x\0",
                b"# branch.ab +1 -2\0",
                b"# branch.head main\0",
                b"diff --git a/f b/f\n",
                b":100644 100755 a b M\0f\0",
                b":000000 000000 a b U\0f\0",
                b"1\t2\tf\0",
                b"-\t-\tf\0",
                b'diff --git "a/\\303" "b/\\303"\n',
                b"@@ -1,2 +3 @@ x\n",
                b"@@ -0,0 +1 @@\n",
                b"+x\n",
                b"-y\n",
                b" z\n",
                b"\\ No newline\n",
                b"M\0f\0",
            ]
        ),
    ),
    max_size=12,
).map(b"".join)


@given(WORDS)
def test_anything_gives_json(data):
    parsed = [
        parse.diff(data, data, data, (b"top",))[0],
        parse.name_status(data, ()),
        parse.status(data, ()),
        parse.log(data),
    ]
    assert msgspec.json.decode(msgspec.json.encode(parsed)) == parsed


def test_a_renamed_file_names_both():
    data = b"2 R. N... 100644 100644 100644 a b R100 new name\0old\0? q\0"
    assert parse.status(data, (b"r",))["entries"] == [
        {"path": "r/new name", "index": "renamed", "worktree": "unchanged", "from": "r/old"},
        {"path": "r/q", "index": "untracked", "worktree": "untracked"},
    ]


def test_output_that_was_cut_off_is_parsed_as_far_as_it_is_whole():
    data = b"? one\0? two"
    assert [e["path"] for e in parse.status(data, ())["entries"]] == ["one"]
    patch = b"diff --git a/f b/f\n@@ -1,9 +1,9 @@\n x\n-y"
    raw = b":100644 100644 a b M\0f\0:100644 000000 a b D\0g\0"
    files, truncated = parse.diff(raw, b"7\t1\tf\x000\t3\tg\0", patch, (), cut=True)
    assert truncated
    assert [(f["path"], f["additions"], f["deletions"], f["truncated"]) for f in files] == [
        ("f", 7, 1, True),
        ("g", 0, 3, True),
    ]
    assert files[0]["hunks"][0]["lines"] == [" x", "-y"]
