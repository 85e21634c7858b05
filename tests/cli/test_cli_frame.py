"""What every command has in common: options, errors, exit codes, output that cannot hurt, quick starts."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys

import pytest
from cli_driving import COMMAND, call

import interlock
from interlock.surfaces.cli import app
from interlock.surfaces.cli.output import clean


def test_the_version_is_reported_without_importing_the_tree_of_commands():
    script = (
        "import sys; from interlock.surfaces.cli.main import main; main(['--version']);"
        "sys.stderr.write(' '.join(m for m in ('click', 'msgspec', 'apsw', 'asyncio') if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=25, check=True)
    assert done.stdout == f"interlock {interlock.__version__}\n"
    assert done.stderr == ""


def test_the_version_as_a_document(bare):
    assert bare("--version", "--json").json == {"version": interlock.__version__}
    assert bare("--json", "--version").json == {"version": interlock.__version__}


def test_a_list_of_runs_imports_no_tool_and_draws_nothing(cli):
    cli("runs", "list")
    script = (
        "import sys; from interlock.surfaces.cli.app import run; code = run(['runs', 'list', '--json']);"
        "heavy = ('rich', 'cedarpy', 'jsonschema_rs', 'interlock.engine.assemble', 'interlock.executors', 'cryptography');"
        "sys.stderr.write(' '.join(m for m in heavy if m in sys.modules)); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=cli.root,
        env=cli.env,
        timeout=25,
        check=False,
    )
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, [], "")


def test_every_command_has_help_and_the_common_options(bare):
    def walk(command, path):
        assert {"--json", "--quiet", "--no-color"} <= {o for p in command.params for o in getattr(p, "opts", ())}, path
        said = bare(*path, "--help")
        assert said.code == 0, path
        assert "Usage: interlock" in said.out, path
        for name in getattr(command, "commands", ()):
            walk(command.commands[name], [*path, name])

    for name in app.COMMANDS:
        walk(app.root.get_command(None, name), [name])


def test_help_of_the_root_lists_every_command_and_imports_none():
    script = (
        "import sys; from interlock.surfaces.cli.app import run; run(['--help']);"
        "sys.stderr.write(' '.join(m for m in sys.modules if m.startswith('interlock.engine')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=25, check=True)
    assert all(f"  {name}" in done.stdout for name in app.COMMANDS)
    assert done.stderr == ""


@pytest.mark.parametrize(
    "argv",
    [
        ["--json", "bogus"],
        ["bogus", "--json"],
        ["runs", "--json", "list", "--bogus"],
        ["runs", "list", "--bogus", "--json"],
        ["run", "--json"],
        ["--json"],
        ["runs", "--json"],
        ["runs", "list", "--limit", "x", "--json"],
    ],
)
def test_bad_usage_is_one_document_and_exit_2(cli, argv):
    said = cli(*argv)
    assert said.code == 2
    assert said.error["code"] == "usage"
    assert said.error["hint"]
    assert said.err == ""


def test_bad_usage_for_people(bare):
    said = bare("runs", "lst")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("error: there is no command `lst`; did you mean `list`?")
    assert "--help" in said.err


@pytest.mark.parametrize("name", ["rnu\x1b[2J", "x" * 5000])
def test_what_somebody_typed_steers_no_terminal(bare, name):
    said = bare(name)
    assert said.code == 2
    assert said.err.startswith("error: there is no command `")
    assert "\x1b" not in said.err
    assert len(said.err) < 300


def test_without_a_command_the_help_is_shown(bare):
    said = bare()
    assert said.code == 2
    assert "Usage: interlock" in said.err


def test_bad_usage_quotes_as_every_message_and_names_the_command(cli):
    said = cli("log", "--since")
    assert "Option `--since` requires an argument" in said.err
    assert "`interlock log --help`" in said.err
    assert "`--status`: `foo` is not one of" in cli("runs", "list", "--status", "foo").err
    assert "`interlock exec -- ls -la`" in cli("exec", "ls", "-la").err


def test_an_error_says_what_where_and_what_to_do(bare):
    said = bare("runs", "list")
    assert (said.code, said.out) == (2, "")
    assert "no `interlock.toml` in this directory or any parent (configuration)" in said.err
    assert str(bare.root) in said.err
    assert "interlock init" in said.err


def test_the_options_may_stand_before_and_after_the_command(cli):
    for argv in (["--json", "runs", "list"], ["runs", "--json", "list"], ["runs", "list", "--json"]):
        assert cli(*argv).json == []


def test_an_unexpected_error_is_one_line_without_a_traceback_and_without_values(cli, monkeypatch):
    def broken(*_args, **_kwargs):
        raise RuntimeError("a secret value")

    monkeypatch.setattr("interlock.surfaces.cli.runs.history", broken)
    said = cli("runs", "list", "--json")
    assert (said.code, said.error["code"]) == (5, "internal")
    assert "RuntimeError" in said.error["message"]
    assert "secret" not in said.out + said.err
    assert "Traceback" not in said.err
    monkeypatch.setenv("INTERLOCK_DEBUG", "1")
    assert "Traceback" in cli("runs", "list", "--json").err


def test_the_debugging_variable_is_not_a_setting(cli, monkeypatch):
    monkeypatch.setenv("INTERLOCK_DEBUG", "1")
    assert cli("run", cli.plan(call("fs.list"))).code == 0


def test_a_reader_that_disconnects_is_not_an_error(cli):
    run_id = cli.run(*[call("fs.list")] * 40)["run_id"]
    done = subprocess.run(
        f"{' '.join(map(repr, COMMAND))} runs log {run_id} | head -1",
        shell=True, capture_output=True, text=True, cwd=cli.root, env=cli.env, timeout=25, check=True,
    )  # fmt: skip
    assert "run_started" in done.stdout
    assert done.stderr == ""


def test_text_of_an_agent_cannot_steer_the_terminal(cli):
    plan = cli.plan(
        {"type": "state_write", "parameters": {"key": "k", "value": "\x1b]0;evil\x07\x1b[2J\u202e"}},
        {"type": "state_read", "parameters": {"key": "k"}},
    )
    said = cli("run", plan)
    run_id = cli("runs", "list", "--json").json[0]["run_id"]
    for text in (said.out, cli("runs", "log", run_id).out, cli("runs", "show", run_id).out, cli("simulate", plan).out):
        assert "evil" in text
        assert not {"\x1b", "\x07", "\u202e"} & set(text)


def test_any_output_encoding_and_any_file_name_will_do(cli):
    (cli.root / "ä\udcff").write_text("x")
    for argv in (["run", cli.plan(call("fs.list"))], ["run", "plan.json", "--json"]):
        said = cli.real(*argv, PYTHONIOENCODING="ascii", LC_ALL="C", PYTHONUTF8="0")
        assert (said.code, said.err) == (0, "")
    assert json.loads(said.out)["status"] == "succeeded"


def test_quiet_says_nothing_but_errors(cli):
    plan = cli.plan(call("fs.list"))
    said = cli("run", plan, "--quiet")
    assert (said.code, said.out, said.err) == (0, "", "")
    assert cli("run", "missing.json", "-q").err != ""
    assert cli("run", plan, "-q", "--json").json["status"] == "succeeded"


def test_quiet_says_no_warnings_not_even_beside_a_failure(cli):
    path = cli.root / "interlock.toml"
    path.write_text(path.read_text().replace("allow = [", 'allow = ["nothing.of.this.name", ', 1))
    assert cli("trust", "--yes", "-q").code == 0
    plan, bad = cli.plan(call("fs.list")), cli.plan(call("fs.read", path="missing"), name="bad.json")
    assert "no tool is named `nothing.of.this.name`" in cli("run", plan).err
    for argv in (["run", plan], ["simulate", plan], ["verify", plan], ["policy", "check"], ["tools", "list"]):
        assert cli(*argv, "-q").err == "", argv
    said = cli("run", bad, "-q")
    assert (said.code, "missing" in said.err, "no tool is named" in said.err) == (1, True, False)


def test_quiet_says_what_failed(cli):
    """A failure is said whatever the command: nothing on standard output, and the answer on standard error."""
    (cli.root / "bad.json").write_text(
        cli.plan(call("fs.read", path="nothing.txt")) and (cli.root / "plan.json").read_text()
    )
    said = cli("run", "bad.json", "-q")
    assert (said.code, said.out) == (1, "")
    assert "nothing.txt" in said.err or "no such file" in said.err.lower()
    (cli.root / "wrong.json").write_text('{"actions": [{"type": "tool_call", "tool": "fs.raed"}]}')
    said = cli("verify", "wrong.json", "-q")
    assert (said.code != 0, said.out) == (True, "")
    assert "fs.raed" in said.err


def test_clean_keeps_what_is_plain():
    assert clean("plain äöü 漢字") == "plain äöü 漢字"
    assert clean("a\nb\tc") == "a\\nb\\tc"
    assert clean("a\nb\tc", lines=True) == "a\nb\tc"
    assert clean("\x1b[31m\udcff\u200b") == "\\x1b[31m\\udcff\\u200b"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_not_an_error(cli, closed):
    plan = cli.plan(call("fs.write", path="made", content="1"))
    command = f"{' '.join(map(shlex.quote, COMMAND))} run {plan} {closed}"
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=cli.root, env=cli.env, capture_output=True, timeout=25, check=False
    )
    assert (done.returncode, (cli.root / "made").read_text()) == (0, "1")
    (row,) = cli("runs", "list", "--json").json
    assert cli("runs", "check", row["run_id"]).code == 0


def test_a_plan_from_a_closed_or_empty_input_is_empty(cli):
    for redirect in ("<&-", "</dev/null"):
        command = f"{' '.join(map(shlex.quote, COMMAND))} run - --json {redirect}"
        done = subprocess.run(
            ["/bin/sh", "-c", command], cwd=cli.root, env=cli.env, capture_output=True, timeout=25, check=False
        )
        assert (done.returncode, json.loads(done.stdout)["error"]["message"]) == (2, "the plan is empty")


@pytest.mark.parametrize(
    "line",
    ["init --agent", "runs show", "runs list --session", "undo", "recover", "grants revoke", "grants issue a --tool"],
)
def test_what_is_not_text_is_refused_wherever_text_is_expected(cli, line):
    said = cli(*line.split(), "\udcff", "--json")
    assert (said.code, said.error["code"]) == (2, "usage")
    assert "the argument is not UTF-8" in said.error["message"]


def test_the_name_of_a_plan_need_not_be_text(cli):
    plan = cli.root / "plan\udcff.json"
    plan.write_text('{"actions": [{"type": "state_read", "parameters": {"key": "k"}}]}')
    assert cli("verify", plan.name).code == 0


def test_a_missing_choice_is_one_line(bare):
    said = bare("completion", "--json")
    assert said.code == 2
    assert said.error["message"] == "Missing argument `{bash|zsh|fish}`. Choose from: bash, zsh, fish"


def test_a_full_device_is_no_bug_of_interlock(cli):
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "runs", "list"],
            check=False,
            cwd=cli.root,
            env=cli.env,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=25,
        )
    assert done.returncode == 5
    assert "standard output cannot be written: No space left on device" in done.stderr
    assert "bug" not in done.stderr
