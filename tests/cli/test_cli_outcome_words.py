"""Rows that succeeded say what happened in words, with `run`, `resume` and `runs show` alike."""

from __future__ import annotations

import pytest
from cli_driving import call

from interlock.surfaces.cli.outcome_words import Call, outcome

CALLS = [
    (call("fs.write", path="w.txt", content="one\ntwo\n"), "wrote 2 lines to w.txt, a new file"),
    (call("fs.write", path="w.txt", content="one"), "wrote 1 line to w.txt"),
    (call("fs.edit", path="w.txt", old="one", new="two"), "1 replacement in w.txt"),
    (call("fs.read", path="w.txt"), "read 1 line of w.txt"),
    (call("fs.list", path="."), "3 entries"),
    (call("fs.delete", path="w.txt"), "deleted w.txt"),
    (call("shell", command="echo one; echo two"), "exit 0: two  (and 1 line before it)"),
    (call("shell", command="exit 3", check=False), "exit 3"),
    (call("shell", command="true"), "exit 0"),
]


def test_each_built_in_tool_says_what_it_did(cli):
    plan = cli.plan(*(action for action, _ in CALLS))
    for text in (cli("run", plan).out, cli("runs", "show", "last").out):
        said = [line.strip() for line in text.splitlines() if line.startswith(" " * 12)]
        assert said == [words for _, words in CALLS]


def test_a_background_program_reports_its_state(cli):
    path = cli.root / "interlock.toml"
    path.write_text(path.read_text().replace('"shell", ', '"shell", "proc.start", "proc.wait", "proc.stop", '))
    assert cli("trust", "--yes").code == 0
    handle = {"handle": "$s.output.handle"}
    plan = cli.plan(
        call("proc.start", command="echo ready; sleep 60") | {"id": "s"},
        call("proc.wait", output="ready", **handle),
        call("proc.stop", **handle),
        order="declared",
    )
    said = [line.strip() for line in cli("run", plan).out.splitlines() if line.startswith(" " * 12)]
    assert said[0].startswith("started proc-")
    assert said[0].endswith(", which ends with the run")
    assert said[1:] == ["running: ready", "signal SIGTERM: ready"]


def test_hooks_that_were_not_run_are_named():
    output = {"commit": "a" * 40, "files": ["f"], "truncated": False, "hooks_not_run": ["pre-commit"]}
    assert outcome(Call("git.commit"), output) == "commit aaaaaaaaaaaa: 1 file; pre-commit was not run (`[git] hooks`)"
    moved = {"branch": "main", "commit": "b" * 40, "updated": True, "hooks_not_run": ["post-merge", "post-checkout"]}
    assert outcome(Call("git.pull"), moved).endswith("; post-merge, post-checkout were not run (`[git] hooks`)")
    assert outcome(Call("git.commit"), output | {"hooks_not_run": []}) == "commit aaaaaaaaaaaa: 1 file"


def test_filled_in_parameters_are_named_as_they_were_used(cli):
    first = call("fs.write", path="a.txt", content="b.txt") | {"id": "w"}
    second = call("fs.read", path="a.txt") | {"id": "r"}
    third = call("fs.write", path="$r.output.content", content="x") | {"id": "x"}
    assert "wrote 1 line to b.txt, a new file" in cli("run", cli.plan(first, second, third)).out


@pytest.mark.parametrize("output", [None, "text", {}, {"size": "x"}, {"matches": 3}, []])
def test_an_output_that_does_not_fit_has_no_words(output):
    for tool in ("fs.write", "fs.search", "shell", "git.commit", "own"):
        assert outcome(Call(tool, "a"), output) is None


def test_a_secret_is_not_repeated(cli):
    token = "gh" + "p_" + "aB3dE5gH7jK9mN1pQ3sT5vX7zA9cD1eF3gH5"
    text = cli("run", cli.plan(call("fs.write", path=f"{token}.txt", content="1"))).out
    assert "wrote 1 line to [redacted:" in text
