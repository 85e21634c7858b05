"""`interlock exec --agent`: a command through the gate as an agent's action, with the exit codes of `exec`."""

from __future__ import annotations

import json

import pytest

CONFIGURATION = """
agent = "coder"
[rules]
allow = ["exec"]
[grants.coder]
tools = ["exec"]
[approvals]
groups = { ops = ["alice"] }
ttl = "1s"
"""


@pytest.fixture
def agent(cli):
    (cli.root / "interlock.toml").write_text(CONFIGURATION)
    assert cli("trust", "--yes").code == 0

    def run(*argv):
        return cli.real("exec", "--agent", "coder", *argv)

    return run


@pytest.mark.parametrize(
    ("script", "code", "out", "err"),
    [
        ("echo out; echo err >&2", 0, "out\n", "err\n"),
        ("printf '\\377'; exit 7", 7, "\udcff", ""),
        ("kill -KILL $$", 137, "", ""),
    ],
)
def test_output_and_exit_code_are_the_commands_own(agent, script, code, out, err):
    said = agent("--", "sh", "-c", script)
    assert (said.code, said.out) == (code, out)
    assert said.err.startswith(err)
    assert "run run_" in said.err


def test_it_is_an_action_on_record_and_its_files_are_undone(agent, cli):
    assert agent("--json-to", str(cli.root.parent / "r.json"), "--", "sh", "-c", "echo x > made").code == 0
    document = json.loads((cli.root.parent / "r.json").read_text())
    assert (document["tool"], document["output"]["exit_code"]) == ("exec", 0)
    assert (cli.root / "made").exists()
    assert cli("runs", "log", document["run_id"], "--json").json[1]["kind"] == "proposal_received"
    assert cli("undo", document["run_id"]).code == 0
    assert not (cli.root / "made").exists()


def test_what_does_not_run_is_125_126_or_127(agent, cli):
    assert agent("--", "nope").code == 127
    path = cli.root / "interlock.toml"
    path.write_text(CONFIGURATION.replace('allow = ["exec"]', 'ask = ["exec(touch *)"]'))
    assert cli("trust", "--yes").code == 0
    refused = agent("--", "cat", "x")
    assert (refused.code, "policy_denied" in refused.err) == (125, True)
    held = agent("--json-to", str(cli.root.parent / "h.json"), "--", "touch", "made")
    assert (held.code, "waiting: exec: touch made" in held.err) == (125, True)
    assert not (cli.root / "made").exists()


@pytest.mark.parametrize(
    "option", [["--profile", "none"], ["--env-clean"], ["--agent-shim", "none"], ["--timeout", "1s"]]
)
def test_options_of_a_persons_own_command_are_refused(agent, option):
    said = agent(*option, "--", "sh", "-c", "echo ran")
    assert (said.code, said.out) == (125, "")
    assert f"`{option[0]}` cannot be combined with `--agent`" in said.err
