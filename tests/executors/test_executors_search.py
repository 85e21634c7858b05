"""`fs.search`: the same lines as a search of each line by itself, over many files, large ones, and links."""

import os
import re
import string
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.executors import file_search
from interlock.executors.search_worker import required_text
from interlock.model.errors import ToolError
from interlock.workspace.open_files import open_files
from interlock.workspace.tree import Workspace

LETTERS = st.text("ab\n", max_size=12)
PATTERN = st.recursive(
    st.sampled_from(["a", "b", "ab", ".", "[ab]", "[^a]", r"\w", "^", "$", r"\b", ""]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        inner.map(lambda one: f"({one})?"),
        inner.map(lambda one: f"({one})"),
        inner.map(lambda one: f"(?:{one})*"),
        inner.map(lambda one: f"(?={one})"),
        inner.map(lambda one: f"(?!{one})"),
        inner.map(lambda one: f"(?i:{one})"),
    ),
    max_leaves=6,
)


@given(PATTERN, st.sampled_from(["", "(?i)", "(?x)", "(?s)"]), LETTERS)
def test_what_a_pattern_cannot_do_without_is_in_all_that_it_matches(pattern, flags, text):
    needed = required_text(flags + pattern)
    for line in text.split("\n"):
        if re.search(flags + pattern, line):
            assert needed in line


@pytest.mark.parametrize(
    ("pattern", "needed"),
    [
        ("needle", "needle"),
        (r"def (\w+_test)\(", "_test"),
        (r"\bfoo\b.*barbaz", "barbaz"),
        ("(abc)+", ""),
        ("abc?", "ab"),
        ("(?i)needle", ""),
        ("(?i:nee)dle", "dle"),
        ("cat|dog", ""),
        ("a[b]c", "abc"),
        ("\ufffdx", ""),
        ("\ud800", ""),
    ],
)
def test_the_text_that_is_looked_for_first(pattern, needed):
    assert required_text(pattern) == needed


@pytest.fixture
def search(tmp_path):
    workspace = Workspace(tmp_path)
    yield lambda **parameters: file_search.search(parameters, SimpleNamespace(workspace=workspace, cancelled=False))
    workspace.close()


def test_matches_come_in_the_order_of_the_walk_over_many_frames(search, tmp_path):
    for name in ("b", "a/z", "a/b/c", "c"):
        (tmp_path / name).mkdir(parents=True)
    lines = "".join(f"{letter} needle\n" for letter in string.ascii_lowercase) + "x" * 200_000 + "\n"
    names = ["a.txt", "a/1", "a/b/c/2", "a/b/c/3", "a/z/4", "b.txt", "b/5", "c/6", "d"]
    for name in names:
        (tmp_path / name).write_text(lines)
    found = search(pattern="needle", max_matches=1000)
    expected = [
        (n, i)
        for n in ["a/1", "a/b/c/2", "a/b/c/3", "a/z/4", "a.txt", "b/5", "b.txt", "c/6", "d"]
        for i in range(1, 27)
    ]
    assert [(one["path"], one["line"]) for one in found["matches"]] == expected
    assert found["truncated"] is False


def test_a_large_file_is_searched_in_pieces_with_the_numbers_of_its_lines(search, tmp_path):
    lines = [f"line {n} of this file" for n in range(1, 100_001)]
    (tmp_path / "large").write_text("\n".join(lines))
    assert (tmp_path / "large").stat().st_size > 2 * 1024 * 1024
    found = search(pattern=r"line \d+7777 of")["matches"]
    assert [one["line"] for one in found] == [n for n in range(1, 100_001) if re.search(r"\d7777$", str(n))]


def test_no_link_is_followed_and_nothing_but_files_is_read(search, tmp_path):
    outside = tmp_path.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "secret").write_text("needle")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/file").write_text("needle")
    (tmp_path / "link").symlink_to(outside / "secret")
    (tmp_path / "way").symlink_to(outside)
    os.mkfifo(tmp_path / "dir/fifo")
    assert [one["path"] for one in search(pattern="needle")["matches"]] == ["dir/file"]


def test_no_directory_stays_open(search, tmp_path):
    for n in range(40):
        (tmp_path / f"d{n}/e").mkdir(parents=True)
        (tmp_path / f"d{n}/f").write_text("needle")
        (tmp_path / f"d{n}/e/f").write_text("needle")
    before = len(os.listdir("/proc/self/fd"))
    assert search(pattern="needle", max_matches=3)["truncated"] is True
    assert len(search(pattern="needle")["matches"]) == 80
    assert len(os.listdir("/proc/self/fd")) == before


class Granted(Workspace):
    """A workspace of which the grants allow some paths; they may be replaced after a number of questions."""

    def __init__(self, root, globs, allowed, until=None):
        super().__init__(root)
        self.globs, self.allowed, self.until, self.asked = globs, allowed, until, 0

    @property
    def readable(self):
        self.asked += 1
        return () if self.until is not None and self.asked > self.until else self.globs

    def permit(self, path, field="path", access=None):
        if self.until is not None or not self.allowed(path):
            raise ToolError("no grant allows it", code="path_denied")


def found(workspace):
    with workspace:
        paths = []
        for path, fd, _ in open_files(workspace, (), lambda _: True):
            os.close(fd)
            paths.append(path)
        return paths


def test_grants_of_everything_find_what_is_found_when_each_path_is_checked(tmp_path):
    for path in ("a", "b/c", "b/~x", "http:/y", "deep/" + "/".join("d" * 30) + "/z"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x")
    one_by_one = found(Granted(tmp_path, ("*", "*/**"), lambda _: True))
    assert len(one_by_one) == 5
    assert found(Granted(tmp_path, ("**",), lambda path: len(path) > 15)) == one_by_one
    assert found(Granted(tmp_path, ("b/**",), lambda path: path[0] == b"b")) == [(b"b", b"c"), (b"b", b"~x")]


def test_grants_that_are_revoked_during_a_search_count_soon(tmp_path):
    for number in range(1_000):
        (tmp_path / f"f{number}").write_text("x")
    assert len(found(Granted(tmp_path, ("**",), lambda _: True))) == 1_000
    assert len(found(Granted(tmp_path, ("**",), lambda _: True, until=2))) == 512
