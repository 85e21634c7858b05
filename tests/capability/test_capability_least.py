"""Lists that cover what was used, and nothing that was not allowed before."""

from hypothesis import given
from hypothesis import strategies as st

from interlock.capability.least import entries, globs
from interlock.model.globs import PathGlob, path_matcher

PATHS = st.lists(
    st.lists(st.sampled_from(["a", "b", "src", "x.py"]), min_size=1, max_size=4).map("/".join), min_size=1, max_size=40
)


def test_entries_become_the_tools_that_were_used():
    assert entries(
        ["fs.*", "shell(pytest *)", "shell(git *)", "git.log", "tag:model", "exec"],
        {"fs.*": ["fs.read", "fs.list"], "shell(pytest *)": ["shell"], "tag:model": ["infer"], "exec": ["exec"]},
    ) == ("fs.list", "fs.read", "shell(pytest *)", "infer", "exec")


@given(PATHS, st.sampled_from([["**"], ["src/**", "a/**", "b/**", "x.py"], ["a/*"]]))
def test_globs_cover_all_that_was_used_and_no_more_than_was_given(paths, allowed):
    used = list(filter(path_matcher(allowed), paths))
    found = globs(used, allowed, most=3)
    assert all(map(path_matcher(found), used))
    assert all(any(PathGlob(outer).covers(PathGlob(one)) for outer in allowed) for one in found)


def test_few_paths_are_listed_and_many_become_directories():
    assert globs(["b", "a", "a"], ["**"]) == ("a", "b")
    many = [f"src/{n}.py" for n in range(20)]
    assert globs([*many, "docs/a.md"], ["**"]) == ("docs/a.md", "src/**")
    assert globs(many, ["src/*.py"]) == ("src/*.py",)
    assert globs([f"{n}.txt" for n in range(20)], ["**"]) == ("**",)
