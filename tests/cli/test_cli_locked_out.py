"""The ways back do not depend on files that an agent can write: broken, edited, torn or gone, they say so and continue."""

from __future__ import annotations

import os

import pytest
from cli_driving import CONFIGURATION, call

from interlock.engine.people.identity import open_desk

MODULE = """
import interlock

@interlock.tool
def greet(name: str) -> str:
    return name
"""
TOML = CONFIGURATION.replace(
    "[rules]", '[tools]\nmodules = ["greeting"]\n[policy]\nfiles = ["policy/*.cedar"]\n[rules]', 1
)


@pytest.fixture
def cli(bare):
    """A trusted project that has all kinds of files: configuration, a policy, a tool module."""
    (bare.root / "policy").mkdir()
    (bare.root / "policy" / "one.cedar").write_text(
        '@id("none") forbid (principal, action == Action::"none", resource);\n'
    )
    (bare.root / "greeting.py").write_text(MODULE)
    (bare.root / "interlock.toml").write_text(TOML)
    said = bare("trust", "--yes")
    assert said.code == 0, said.err
    return bare


def pyproject_unclosed(root):
    (root / "pyproject.toml").write_text('[tool.interlock\nagent = "me"\n')


def pyproject_beside(root):
    (root / "pyproject.toml").write_text('[tool.interlock]\nagent = "me"\n')


def toml_unclosed(root):
    (root / "interlock.toml").write_text("[rules\n")


def toml_gone(root):
    (root / "interlock.toml").unlink()


def toml_a_link(root):
    (root / "interlock.toml").unlink()
    (root / "interlock.toml").symlink_to("/dev/zero")


def toml_a_directory(root):
    (root / "interlock.toml").unlink()
    (root / "interlock.toml").mkdir()


def toml_edited(root):
    (root / "interlock.toml").write_text(TOML.replace('deny = ["proc.kill"]', "deny = []"))


def toml_not_available(root):
    (root / "interlock.toml").write_text(TOML + '[isolation]\nprofile = "ns"\n')


def policy_broken(root):
    (root / "policy" / "one.cedar").write_text("forbid (")


def policy_added(root):
    (root / "policy" / "two.cedar").write_text("\xff")


def policies_gone(root):
    (root / "policy" / "one.cedar").unlink()
    (root / "policy").rmdir()


def module_broken(root):
    (root / "greeting.py").write_text("def (")


def module_a_fifo(root):
    (root / "greeting.py").unlink()
    os.mkfifo(root / "greeting.py")


def module_a_device(root):
    (root / "greeting.py").unlink()
    (root / "greeting.py").symlink_to("/dev/zero")


def module_gone(root):
    (root / "greeting.py").unlink()


def beside_the_module(root):
    (root / "greeting").mkdir()
    (root / "greeting" / "__init__.py").write_text("")


BREAKERS = [
    pyproject_unclosed, pyproject_beside, toml_unclosed, toml_gone, toml_a_link, toml_a_directory, toml_edited,
    toml_not_available, policy_broken, policy_added, policies_gone, module_broken, module_gone, beside_the_module,
    module_a_fifo, module_a_device,
]  # fmt: skip
HARMLESS = {pyproject_unclosed}
"""Beside our own file it takes nothing away, so nothing has to be said."""


@pytest.mark.parametrize("breaker", BREAKERS, ids=lambda breaker: breaker.__name__)
def test_every_way_back_works(cli, breaker):
    (cli.root / "a.txt").write_text("one\n")
    run = cli.run(call("fs.write", path="a.txt", content="two\n"))["run_id"]
    held = cli.run(call("fs.move", source="a.txt", destination="b.txt"), flags=("--no-wait",))["run_id"]
    (question,) = (one["id"] for one in cli("approvals", "list", "--json").json)
    breaker(cli.root)

    assert {one["run_id"] for one in cli("runs", "list", "--json").json} == {run, held}
    for command in (("show", run), ("log", run), ("check", run), ("head", run)):
        assert cli("runs", *command).code == 0, command
    assert cli("sessions", "list").code == 0
    assert cli("recover").code == 0
    assert cli("approvals", "show", question).code == 0
    assert cli("approvers", "list").code == 0
    assert cli("grants", "list").code == 0
    assert cli("doctor").code in (0, 1)
    assert cli("keys", "show").code == 0
    said = cli("approvals", "deny", question)
    assert said.code == 0, said.err
    said = cli("undo", run)
    assert said.code == 0, said.err
    assert (cli.root / "a.txt").read_text() == "one\n"
    if breaker not in HARMLESS:
        assert "the configuration cannot be used" in said.err
        assert "what was last trusted counts" in said.err
    assert cli("undo", held).code in (0, 1)
    assert cli("runs", "checkpoint", run, "--output", str(cli.root.parent / "saved")).code == 0
    assert cli("runs", "prune", run, "--yes").code == 0


@pytest.mark.parametrize("breaker", [b for b in BREAKERS if b not in HARMLESS], ids=lambda breaker: breaker.__name__)
def test_no_proposal_is_carried_out_and_no_authority_given_under_a_broken_configuration(cli, breaker):
    held = cli.run(call("fs.move", source="a.txt", destination="b.txt"), flags=("--no-wait",))["run_id"]
    breaker(cli.root)
    for command in (
        ("run", cli.plan(call("fs.list"))),
        ("resume", held),
        ("grants", "issue", "coder", "--tool", "fs.read"),
        ("approvers", "add", "ann"),
    ):
        said = cli(*command, "--json")
        assert said.code == 2, command


def test_who_may_answer_is_what_was_last_trusted(cli):
    """An edit that nobody has trusted puts nobody into a group."""
    for name in ("alice", "mallory"):
        with open_desk(cli.root, os.environ) as desk:
            desk.approvers.add(name)
    (cli.root / "interlock.toml").write_text(TOML.replace('["alice"]', '["mallory"]'))
    warned = []
    with open_desk(cli.root, os.environ, warn=warned.append) as desk:
        assert {row.name: row.groups for row in desk.approvers.all()} == {"alice": ("ops",), "mallory": ()}
    assert "interlock.toml (changed)" in warned[0]


def test_a_directory_that_is_not_a_project_does_not_become_one(bare):
    said = bare("runs", "list", "--json")
    assert (said.code, said.error["code"]) == (2, "configuration")
    (bare.root / "pyproject.toml").write_text("[tool.interlock\n")
    assert bare("runs", "list", "--json").code == 2


def test_from_a_directory_beneath_a_broken_project_it_is_found_too(cli, monkeypatch):
    run = cli.run(call("fs.write", path="sub/a.txt", content="two\n"))["run_id"]
    toml_gone(cli.root)
    monkeypatch.chdir(cli.root / "sub")
    assert [one["run_id"] for one in cli("runs", "list", "--json").json] == [run]
