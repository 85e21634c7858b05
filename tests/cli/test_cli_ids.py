"""Ids as people type them, and completion in real shells."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cli_driving import Terminal, call

from interlock.surfaces.cli.ids import described

READ = call("fs.list")
BIN = Path(sys.executable).parent


def test_any_unambiguous_beginning_names_a_run(cli):
    run_id = cli.run(READ)["run_id"]
    digits = run_id.removeprefix("run_")
    for text in (run_id, run_id[:9], digits[:6], digits, "last"):
        assert cli("runs", "show", text, "--json").json["run_id"] == run_id, text
    assert cli("runs", "check", digits[:5]).code == 0
    assert cli("undo", digits[:8], "--json").json["status"] == "succeeded"
    assert cli("runs", "show", "last", "--json").json["run_id"] != run_id


def test_a_beginning_of_several_runs_is_an_error_that_names_them(cli):
    ids = sorted(cli.run(READ)["run_id"] for _ in range(5))
    error = cli("runs", "show", "run_", "--json").error
    assert error["code"] == "ambiguous_id"
    assert all(run_id in error["message"] for run_id in ids[:3])
    assert "and others" in error["message"]
    assert ids[4] not in error["message"]


@pytest.mark.parametrize("text", ["", "x", "run_x", "%", "_", "run_%", "*", "a" * 5000, "\ud800"])
def test_what_names_no_run_is_not_found(cli, text):
    assert cli("runs", "show", "last", "--json").error["code"] == "not_found"
    cli.run(READ)
    done = cli("runs", "show", text, "--json")
    assert done.code == 2
    assert done.error["code"] in ("not_found", "usage")


def test_any_unambiguous_beginning_names_a_question(cli):
    (cli.root / "a").write_text("a")
    cli.run(call("fs.move", source="a", destination="b"), flags=("--no-wait",))
    (hold,) = cli("approvals", "list", "--json").json
    for text in (hold["id"], hold["id"][:6], "last"):
        assert cli("approvals", "show", text, "--json").json["id"] == hold["id"]
    assert cli("approvals", "show", "zz", "--json").error["code"] == "not_found"
    assert cli("approvals", "deny", hold["id"][:8]).code == 0
    assert cli("approvals", "show", hold["id"][:8], "--json").json["status"] == "denied"
    assert cli("approvals", "show", "last", "--json").error["code"] == "not_found"


def test_help_is_in_groups(cli):
    lines = cli("--help").out.splitlines()
    for heading in ("Set up:", "Run:", "Look ahead:", "Look back:", "Answer:", "Rules:", "Machine:"):
        assert heading in lines


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_printed(cli, shell):
    done = cli("completion", shell)
    assert done.code == 0
    assert "_INTERLOCK_COMPLETE" in done.out
    assert cli("completion", shell, "--json").json["shell"] == shell


def completed(cli, words: list[str], incomplete: str) -> list[str]:
    """What bash offers, asked through the script that we print."""
    script = cli("completion", "bash").out
    line = " ".join(["interlock", *words, incomplete])
    program = f"""
{script}
COMP_WORDS=({line}{' ""' if not incomplete else ""})
COMP_CWORD={len(words) + 1}
_interlock_completion interlock
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    env = {**cli.env, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", program], capture_output=True, cwd=cli.root, env=env, text=True, check=False)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
def test_bash_completes_commands_runs_questions_and_tools(cli):
    run_id = cli.run(READ)["run_id"]
    (cli.root / "a").write_text("a")
    cli.run(call("fs.move", source="a", destination="b"), flags=("--no-wait",))
    (hold,) = cli("approvals", "list", "--json").json
    assert completed(cli, [], "appro") == ["approvals", "approvers"]
    assert completed(cli, ["runs"], "sh") == ["show"]
    assert run_id in completed(cli, ["undo"], "")
    assert completed(cli, ["runs", "show"], run_id[:10]) == [run_id]
    assert completed(cli, ["undo"], "la") == completed(cli, ["approvals", "approve"], "l") == ["last"]
    assert completed(cli, ["approvals", "deny"], hold["id"][:3]) == [hold["id"]]
    assert "fs.write" in completed(cli, ["policy", "explain"], "fs.w")
    assert completed(cli, ["install"], "c") == ["claude-code", "codex", "copilot", "cursor"]


def test_bash_completes_names(cli):
    run_id = cli.run(call("fs.read", path="nothing"), flags=("--session", "nightly"))["run_id"]
    cli("keys", "make", "second")
    assert run_id in completed(cli, ["evidence", "export"], "run_")
    assert (
        completed(cli, ["runs", "show", "last", "--action"], "")
        == completed(cli, ["undo", run_id, "--action"], "a")
        == ["a1"]
    )
    assert completed(cli, ["log", "--session"], "n") == completed(cli, ["sessions", "show"], "") == ["nightly"]
    assert completed(cli, ["run", "--agent"], "c") == completed(cli, ["gateway", "--agent"], "") == ["coder"]
    assert completed(cli, ["keys", "export"], "s") == ["second"]
    (cli.root / "interlock.toml").write_text("[mcp.servers.files]\n[capsules.hello]\n")
    assert completed(cli, ["tools", "lock"], "") == ["files"]
    assert completed(cli, ["capsule", "run"], "") == completed(cli, ["capsule", "config", "list"], "h") == ["hello"]
    (cli.root / "interlock.toml").write_text("[mcp")
    assert completed(cli, ["tools", "lock"], "") == []


def in_fish(cli, line: str) -> dict[str, str]:
    """What fish offers for a line, with descriptions, through the script that we print."""
    script = cli("completion", "fish").out
    env = {**cli.env, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "XDG_CONFIG_HOME": str(cli.root.parent)}
    command = ["fish", "--no-config", "-c", f"{script}\ncomplete -C '{line}'"]
    done = subprocess.run(command, capture_output=True, cwd=cli.root, env=env, text=True, check=False)
    assert done.stderr == ""
    rows = (row.partition("\t") for row in done.stdout.splitlines())
    return {value: description for value, _, description in rows}


def test_fish_completes_commands_runs_holds_and_tools_with_whole_descriptions(cli):
    ids = [cli.run(READ)["run_id"] for _ in range(3)]
    (cli.root / "a").write_text("a")
    cli.run(call("fs.move", source="a", destination="b"), flags=("--no-wait",))
    (hold,) = cli("approvals", "list", "--json").json
    assert list(in_fish(cli, "interlock appro")) == ["approvals", "approvers"]
    assert in_fish(cli, "interlock runs sh")["show"].startswith("Show a run: ")
    newest = in_fish(cli, "interlock runs show ")
    assert [one for one in newest if one in ids] == ids[::-1]
    assert newest[ids[0]] == f"succeeded, {cli('runs', 'show', ids[0], '--json').json['agent']}"
    assert in_fish(cli, "interlock runs show la") == {"last": "the newest run"}
    assert in_fish(cli, f"interlock approvals deny {hold['id'][:6]}") == {hold["id"]: hold["summary"]}
    assert "fs.write" in in_fish(cli, "interlock policy explain fs.w")


@pytest.fixture
def zsh(cli):
    """An interactive zsh with our script."""
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    shell = Terminal(cli, "-f", "-i", program=["zsh"], PATH=path, PROMPT="ready> ", ZDOTDIR=str(cli.root.parent))
    shell.wait_for("ready> ")
    shell.type('autoload -Uz compinit; compinit -D -u; eval "$(interlock completion zsh)"; echo loa"ded"\n')
    shell.wait_for("loaded")
    yield shell
    shell.close()


def test_zsh_completes_commands_runs_holds_and_tools(cli, zsh):
    run_id = cli.run(READ)["run_id"]
    (cli.root / "a").write_text("a")
    cli.run(call("fs.move", source="a", destination="b"), flags=("--no-wait",))
    (hold,) = cli("approvals", "list", "--json").json
    for line, whole in (
        ("interlock approva", "approvals"),
        (f"interlock undo {run_id[:10]}", f"{run_id}"),
        (f"interlock approvals deny {hold['id'][:8]}", f"{hold['id']}"),
        ("interlock policy explain fs.wri", "fs.write"),
    ):
        zsh.wait_for("ready> ")
        zsh.type(f"{line}\t\x01echo \n")  # to the beginning of the line, which is then printed
        zsh.wait_for(f"\n{line.rpartition(' ')[0]} {whole}")
    zsh.wait_for("ready> ")
    zsh.type("interlock runs \t")
    zsh.wait_for("-- Show a run: ")


@pytest.mark.parametrize("words", [["tools", "no-such"], ["nonsense", "x"], ["runs", "show", "--nonsense"]])
def test_a_line_that_makes_no_sense_is_completed_without_a_word(cli, words):
    assert completed(cli, words, "x") == []


def test_what_an_agent_wrote_is_one_line_of_a_completion():
    """A shell reads one line per item: a second line would be an item of the agent's choice."""
    shown = described("x", "move a file\nplain,rm -rf /\t\x1b[31m" + "x" * 200).help
    assert shown.isprintable()
    assert len(shown) <= 72


def test_where_there_is_no_project_nothing_is_completed(cli, tmp_path, monkeypatch):
    (cli.root / "interlock.toml").write_text("[")
    assert completed(cli, ["undo"], "") == []
