"""`interlock learn`: what the last days needed, as a change of the configuration that only narrows it."""

from __future__ import annotations

import subprocess
import tomllib

import pytest
from cli_driving import call

from interlock.engine.tools.registry import Registry

TOML = """agent = "coder"
[rules]
allow = ["fs.*", "git.status", "state_write"]  # what is free
ask = ["shell"]
deny = ["path(secret/**)"]
[grants.coder]
tools = ["*"]
[grants.other]
tools = ["fs.read"]
[workspace]
mode = "direct"
"""


@pytest.fixture
def used(cli):
    """A project in which an agent wrote a file, read it, listed its directory and wrote a state key."""
    (cli.root / "interlock.toml").write_text(TOML)
    (cli.root / "src").mkdir()
    assert cli("trust", "--yes").code == 0
    done = cli.run(
        call("fs.write", path="src/a.txt", content="1"), call("fs.read", path="src/a.txt"), call("fs.list", path="src"),
        {"type": "state_write", "parameters": {"key": "build", "value": 1}},
    )  # fmt: skip
    assert done["status"] == "succeeded"
    return cli


def test_the_proposal_is_the_smallest_and_says_who_used_what(used):
    found = used("learn", "--json").json
    assert [(one["agent"], one["tool"], one["calls"], one["asked"], one["covered"]) for one in found["uses"]] == [
        ("coder", "fs.list", 1, 0, True), ("coder", "fs.read", 1, 0, True), ("coder", "fs.write", 1, 0, True),
        ("coder", "state_write", 1, 0, True),
    ]  # fmt: skip
    assert all(len(one["examples"]) == 1 for one in found["uses"])
    assert found["unused"] == ["rules.allow: git.status"]
    assert found["notes"] == ["grants.other: as it is, because nothing used it"]
    assert (found["replayed"], found["refused"]) == (4, [])


def test_the_change_applies_and_allows_the_same_again_and_nothing_else(used):
    (used.root / "change").write_text(used("learn", "--diff").out)
    subprocess.run(["git", "apply", "change"], cwd=used.root, check=True)
    text = (used.root / "interlock.toml").read_text()
    document = tomllib.loads(text)
    assert document["rules"] == {
        "allow": ["fs.list", "fs.read", "fs.write", "state_write"], "ask": ["shell"], "deny": ["path(secret/**)"],
    }  # fmt: skip
    assert document["grants"]["coder"] == {
        "tools": ["fs.list", "fs.read", "fs.write"], "state_keys": ["build"],
        "paths": {"read": ["src/**"], "write": ["src/a.txt"]},
    }  # fmt: skip
    assert document["grants"]["other"] == {"tools": ["fs.read"]}
    assert "# what is free" in text
    assert used("trust", "--yes").code == 0
    again = used.run(call("fs.write", path="src/a.txt", content="2"), call("fs.list", path="src"))
    assert again["status"] == "succeeded"
    assert used.run(call("fs.read", path="interlock.toml"))["results"][0]["reason"] == "path_denied"
    assert "allows no more than was needed" in used("learn").out


def test_what_it_would_have_refused_is_named(used):
    assert used.run(call("fs.read", path="gone"))["status"] == "failed"  # allowed, and not needed: it failed
    found = used("learn", "--json").json
    assert [(one["tool"], one["was"], one["would_be"], one["needed"]) for one in found["refused"]] == [
        ("fs.read", "allow", "path_denied", False)
    ]
    assert "of 5 stored calls it would have refused 1" in used("learn").out


def test_what_was_rolled_back_or_a_person_did_is_not_needed(used):
    failed = used.run(call("fs.write", path="b.txt", content="1"), call("fs.read", path="gone"))
    assert failed["status"] == "failed"
    assert used("undo", failed["run_id"]).code in (0, 1)
    found = used("learn", "--json").json
    assert sum(one["calls"] for one in found["uses"]) == 4
    assert {one["agent"] for one in found["uses"]} == {"coder"}


def test_what_a_temporary_grant_allowed_is_reported_and_not_proposed(used):
    text = (used.root / "interlock.toml").read_text().replace('tools = ["*"]', 'tools = ["fs.read"]')
    (used.root / "interlock.toml").write_text(text)
    assert used("trust", "--yes").code == 0
    found = used("learn", "--json").json
    assert {one["tool"] for one in found["uses"] if not one["covered"]} == {"fs.list", "fs.write"}
    assert "fs.write" not in found["change"].partition("[grants.coder]")[2]


def test_where_processes_ran_paths_and_hosts_stay(used):
    text = (used.root / "interlock.toml").read_text().replace('ask = ["shell"]', "")
    (used.root / "interlock.toml").write_text(text.replace('"git.status"', '"exec"'))
    assert used("trust", "--yes").code == 0
    assert used.run(call("exec", argv=["true"]))["status"] == "succeeded"
    found = used("learn", "--json").json
    assert any("because processes ran" in note for note in found["notes"])
    assert "paths" not in found["change"]


def test_a_grant_that_used_a_tool_that_is_not_known_here_stays(used):
    def learnt():
        found = used("learn", "--json").json
        return found["notes"], found["change"].partition("[grants.coder]")[2], found["refused"]

    with pytest.MonkeyPatch.context() as patch:  # as for a tool of an MCP server
        find = Registry.find
        patch.setattr(Registry, "find", lambda self, name: None if name == "fs.list" else find(self, name))
        notes, change, refused = learnt()
    assert "grants.coder: as it is, because it used tools whose needs are not known here: fs.list" in notes
    assert ("-tools" in change, refused) == (False, [])


def test_nothing_is_proposed_where_nothing_was_done(cli):
    assert "no call succeeded in this period" in cli("learn", "--since", "1h").out


def test_rules_about_what_is_learnt_and_models_are_checked(cli):
    (cli.root / "interlock.toml").write_text(
        TOML.replace('"git.status"', '"infer", "infer.grounded", "memory.read", "skills.run"')
        + '[models.fast]\nprovider = "anthropic"\n[learning]\nmemory = true\ndistill = true\n'
    )
    found = cli("policy", "check")
    assert (found.code, "no tool" in found.err) == (0, False)
    assert cli("policy", "explain", "skills.run", "--parameters", '{"name": "x"}').out.startswith("allow")
