"""Paths that leave the workspace, and text that only has slashes and dots in it."""

# Look-alike letters are what is tested, and tables read better in one line a case.
# ruff: noqa: RUF001, E501

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.detect import find_escapes

TRUE = [
    ("parent", ["..", "../x", "a/../../x", "./../x", "../../etc/passwd", "..\\x", "a/..//../x", "cp x ../y", "--out=../x"]),
    ("parent", ["%2e%2e/x", "%2e%2e%2fx", "..%2fx", "%252e%252e%252fx", "..%5cx", "%c0%ae%c0%ae/x", "..%c0%afx", "．．/x", "‥/x", "..∕x"]),
    ("absolute", ["/etc/passwd", "//etc/passwd", "/", "cat /etc/shadow", "x >/etc/motd", "'/home/x/.ssh'", "file:///etc/passwd", "FILE:/etc/x"]),
    ("absolute", ["%2fetc%2fpasswd", "-I/usr/include", "PATH=/bin:x", "host:/var/lib", "cat </etc/passwd", "/*"]),
    ("home", ["~", "~/.ssh/id_rsa", "~root/x", "$HOME/.aws", "${HOME}/x", "cd ~", "$XDG_CONFIG_HOME/x"]),
    ("windows", ["C:\\Windows", "c:/Windows", "\\\\server\\share", "\\\\?\\C:\\x"]),
]  # fmt: skip

FALSE = [
    "src/main.py", "a/../b", "./x", "a/b/../../c", "...", "a..b", "x/...", "1/2", "3 / 4", "and/or", "https://example.org/a/b", "http://example.org",
    "git+ssh://git@example.org/x", "</div><br/>", "ls >/dev/null 2>/dev/stderr", "a~b", "~5 minutes", "n/a", "100%", "%20", "key: value",
    "def f(): return a / b", "s3://bucket/key",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in TRUE for text in texts])
def test_a_path_out_of_the_workspace_is_found(kind: str, text: str) -> None:
    assert [f.kind for f in find_escapes(text)] == [kind]


@pytest.mark.parametrize("text", FALSE)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert find_escapes(text) == []


@given(st.lists(st.sampled_from(["..", ".", "a", "b", ""]), min_size=1, max_size=8))
def test_a_relative_path_leaves_exactly_if_it_climbs_above_its_start(segments: list[str]) -> None:
    depth, leaves = 0, False
    for segment in segments:
        depth += {"..": -1, ".": 0, "": 0}.get(segment, 1)
        leaves = leaves or depth < 0
    path = "/".join(segments)
    if path.startswith("/"):
        return
    assert bool(find_escapes(path)) == leaves


@given(st.text(max_size=80))
def test_any_text_can_be_searched(text: str) -> None:
    for found in find_escapes(text):
        assert 0 <= found.start < found.end <= len(text)
