"""Globs match what they say and nothing else, quickly; a path has one spelling."""

import base64
import itertools
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from interlock.model.errors import ConfigurationError
from interlock.model.globs import PathGlob, name_covers, name_matcher, path_matcher, workspace_path

NAMES = st.text(alphabet="ab.*/", max_size=6)
SEGMENT = st.text(alphabet="ab.*?", min_size=1, max_size=3).filter(lambda s: "**" not in s and s not in {".", ".."})
GLOBS = st.lists(st.one_of(SEGMENT, st.just("**")), min_size=1, max_size=4).map("/".join)
PATHS = st.lists(
    st.text(alphabet="ab.", min_size=1, max_size=3).filter(lambda s: s not in {".", ".."}), max_size=4
).map(lambda s: "/".join(s) or ".")


def reference_path_match(glob: str, path: str) -> bool:
    """A second implementation: recursive, by the definition."""

    def segment(pattern: str, text: str) -> bool:
        return bool(re.fullmatch("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in pattern), text, re.DOTALL))

    def match(pattern: list[str], parts: list[str]) -> bool:
        if not pattern:
            return not parts
        if pattern[0] == "**":
            return any(match(pattern[1:], parts[i:]) for i in range(len(parts) + 1))
        return bool(parts) and segment(pattern[0], parts[0]) and match(pattern[1:], parts[1:])

    return match([s for s in glob.split("/") if s not in {"", "."}], [] if path == "." else path.split("/"))


@given(st.lists(NAMES, max_size=4), NAMES)
def test_a_name_glob_is_its_literals_with_anything_between(globs, name):
    patterns = [".*".join(map(re.escape, glob.split("*"))) for glob in globs]
    assert name_matcher(globs)(name) is any(re.fullmatch(each, name, re.DOTALL) is not None for each in patterns)


@pytest.mark.parametrize(
    ("glob", "name", "matches"),
    [
        ("fs.*", "fs.read", True),
        ("fs.*", "fs", False),
        ("fs.*", "FS.read", False),
        ("fs.*", "xfs.read", False),
        ("github/*", "github/create_issue", True),
        ("*", "a/b.c", True),
        ("fs.read", "fs.read\n", False),
        ("a.c", "abc", False),
        ("f?", "fs", False),
        ("f?", "f?", True),
        ("", "", True),
        ("", "a", False),
    ],
)
def test_name_globs(glob, name, matches):
    assert name_matcher([glob])(name) is matches


def test_no_globs_match_nothing():
    assert not name_matcher([])("a")
    assert not path_matcher([])("a")


@given(NAMES, NAMES, NAMES)
@example("a*b*", "a*b", "ab")
def test_a_covering_name_glob_matches_all_that_the_covered_one_does(outer, inner, name):
    if name_covers(outer, inner) and name_matcher([inner])(name):
        assert name_matcher([outer])(name)


@given(GLOBS, PATHS)
@example("**/a/**/b", "a/a/b/b")
def test_a_path_glob_agrees_with_its_definition(glob, path):
    assert PathGlob(glob).matches(path) is reference_path_match(glob, path)


@given(GLOBS, GLOBS, PATHS)
@example("*/**", "**", ".")
@example("?", "*", "aa")
def test_a_covering_path_glob_matches_all_that_the_covered_one_does(outer, inner, path):
    if PathGlob(outer).covers(PathGlob(inner)) and PathGlob(inner).matches(path):
        assert PathGlob(outer).matches(path)


@pytest.mark.parametrize(
    ("outer", "inner", "covers"),
    [
        ("**", "src/**", True),
        ("src/**", "src/a/*.py", True),
        ("src/**", "src", True),
        ("src/*", "src/**", False),
        ("*", "?", True),
        ("?", "*", False),
        ("src/**", "**", False),
        ("**/*.py", "src/**/*.py", True),
    ],
)
def test_covering(outer, inner, covers):
    assert PathGlob(outer).covers(PathGlob(inner)) is covers


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("src/**", "src", True),
        ("src/**", "src/.hidden/x", True),
        ("src/*", "src/a/b", False),
        ("src/*", "src", False),
        ("*.py", "a/b.py", False),
        ("**/*.py", "b.py", True),
        ("**", ".", True),
        ("*", ".", False),
        ("src/[id].tsx", "src/[id].tsx", True),
        ("src/[id].tsx", "src/i.tsx", False),
        ("src/", "src", True),
        ("./src/**", "src/a", True),
        ("a\n*", "a\nb", True),
        ("Src/**", "src/a", False),
    ],
)
def test_path_globs(glob, path, matches):
    assert PathGlob(glob).matches(path) is matches
    assert path_matcher([glob])(path) is matches


@pytest.mark.parametrize("glob", ["", "/etc/*", "../x", "a/../b", "**.py", "a/b**", "a\0b", "***"])
def test_a_senseless_path_glob_is_a_configuration_error(glob):
    with pytest.raises(ConfigurationError):
        PathGlob(glob)


def test_matching_is_not_exponential():
    assert not name_matcher(["*a" * 50 + "b"])("a" * 1024)
    assert not PathGlob("/".join(["**", "*a*a*a"] * 20) + "/b").matches("/".join(["aaaaaaaa"] * 400))


@pytest.mark.parametrize(
    ("value", "normal"),
    [
        ("a", "a"),
        ("./a", "a"),
        ("a/", "a"),
        ("a//b", "a/b"),
        ("a/./b", "a/b"),
        ("a/../b", "b"),
        ("a/b/../../c", "c"),
        ("", "."),
        (".", "."),
        ("a/..", "."),
        ("/ws/a", "a"),
        ("/ws", "."),
        ("//ws/../ws/a", "a"),
        ("./~x", "~x"),
        ("a b\n", "a b\n"),
        ({"b64": base64.b64encode(b"a/../b\xff/").decode()}, "b\udcff"),
        ({"b64": base64.b64encode("ä".encode()).decode()}, "ä"),
    ],
)
def test_every_spelling_of_a_path_comes_to_one(value, normal):
    assert workspace_path(value, "/ws") == normal


@pytest.mark.parametrize(
    "value",
    [
        "..",
        "a/../../b",
        "/etc/passwd",
        "/ws/../etc",
        "/wsx/a",
        "/",
        "a\0b",
        "~",
        "~/x",
        "~root/x",
        "file:///etc/passwd",
        "https://example.org/x",
        "\udcff",
        "a/" * 2049,
        7,
        None,
        True,
        ["a"],
        {},
        {"b64": "%%"},
        {"b64": 7},
        {"b64": "YQ==", "x": 1},
        {"b64": base64.b64encode(b"/etc/passwd").decode()},
        {"b64": base64.b64encode(b"a\0b").decode()},
        {"b64": base64.b64encode(b"../x").decode()},
    ],
)
def test_what_is_not_a_path_in_the_workspace_is_refused_without_being_repeated(value):
    with pytest.raises(ValueError) as caught:
        workspace_path(value, "/ws")
    assert "passwd" not in str(caught.value)


def test_an_absolute_path_needs_a_known_workspace():
    with pytest.raises(ValueError):
        workspace_path("/ws/a", None)


@given(st.lists(st.sampled_from(["a", "b", "..", ".", "", "c d"]), max_size=8))
def test_a_normal_path_never_leaves_and_stays_what_it_is(parts):
    depth = list(itertools.accumulate((-1 if p == ".." else p not in {"", "."} for p in parts), initial=0))
    text = "./" + "/".join(parts)
    if min(depth) < 0:
        with pytest.raises(ValueError):
            workspace_path(text)
    else:
        normal = workspace_path(text)
        assert not {"", "..", "."} & set(normal.split("/")) or normal == "."
        assert workspace_path(normal) == normal


@pytest.mark.parametrize(
    ("glob", "path", "within"),
    [
        ("policy/*.cedar", "policy", True),
        ("policy/*.cedar", ".", True),
        ("policy/*.cedar", "policy/a.cedar", True),
        ("policy/*.cedar", "policy/a.txt", False),
        ("interlock.toml", "src", False),
        ("interlock.toml", "interlock.toml/x", False),
        ("**/capsule.toml", "src", False),
    ],
)
def test_what_lies_within_a_directory_that_is_replaced(glob, path, within):
    assert PathGlob(glob).within(path) is within
