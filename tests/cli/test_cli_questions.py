"""What a question shows at a terminal, and which keys answer it: what is approved is what was seen, by a person who meant it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys

import pytest
from cli_driving import CONFIGURATION, call

KEYS = "[s]how all"


@pytest.fixture
def asking(cli):
    """A project in which whatever changes something is asked about."""
    path = cli.root / "interlock.toml"
    path.write_text(CONFIGURATION.replace('ask = ["fs.move"]', 'ask = ["fs.*", "shell"]').replace('"fs.write", ', ""))
    assert cli("trust", "--yes").code == 0
    return cli


def held(cli, *actions, **fields):
    """The id of the question about an action that nobody waits for."""
    return cli.run(*actions, flags=("--no-wait",), **fields)["results"][0]["output"]["approval"]


def plain(text):
    """The text without colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def last_vote(cli):
    return cli("approvals", "list", "--status", "all", "--json").json[-1]["votes"][-1]


# -- what is shown


def test_a_file_is_shown_as_a_coloured_difference(asking, terminal):
    (asking.root / "a.py").write_text("one\ntwo\n")
    shell = terminal("run", asking.plan(call("fs.edit", path="a.py", old="two", new="2\x1b[2J")))
    text = shell.wait_for(KEYS)
    assert "\x1b[31m-" in text
    assert "\x1b[32m+" in text
    assert "+2\\x1b[2J" in plain(text)  # a control character steers no terminal
    assert "old =" not in text  # the difference says it
    shell.type("s")
    assert "old = two" in shell.wait_for(KEYS)
    shell.type("a")
    assert shell.end()[0] == 0


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_without_colours_nothing_but_text_is_shown(asking, terminal, env):
    (asking.root / "a.py").write_text("one\n")
    shell = terminal("run", asking.plan(call("fs.write", path="a.py", content="two\n")), **env)
    text = shell.wait_for(KEYS)
    assert "-one" in text
    assert "\x1b[3" not in text
    if "TERM" in env:
        assert "\x1b[1" not in text
    shell.type("d")
    assert shell.end()[0] == 1


def test_at_80_columns_no_line_is_wider(asking, terminal):
    shell = terminal("run", asking.plan(call("fs.write", path="a", content="word " * 60)), columns=80)
    text = plain(shell.wait_for("[a]pprove"))
    difference = text[text.index("@@") :]
    assert max(len(line.strip("\r")) for line in difference.split("\n")) <= 80
    assert re.sub(r"\s+", "", difference).count("word") == 60
    shell.type("d")
    assert shell.end()[0] == 1


def test_a_long_difference_is_cut_and_must_be_seen_before_it_is_approved(asking, terminal):
    content = "".join(f"line {n}\n" for n in range(1_000))
    shell = terminal("run", asking.plan(call("fs.write", path="a", content=content)))
    text = shell.wait_for(KEYS)
    assert "more lines of this difference" in text
    assert "NOT ALL of this call is shown" in text
    assert "line 999" not in text
    shell.type("a")
    shell.wait_for("not accepted: part of the call has not been shown")
    shell.wait_for(KEYS)
    shell.type("s")
    shell.wait_for("+line 999")
    shell.wait_for(KEYS)
    shell.type("a")
    assert shell.end()[0] == 0


def test_the_parts_of_a_command_are_marked_and_listed(asking, terminal):
    shell = terminal("run", asking.plan(call("shell", command="A=1 git status && echo $HOME | tee out.txt")))
    text = shell.wait_for(KEYS)
    assert "\x1b[35mA=1" in text
    assert "\x1b[36m&&" in text
    seen = plain(text)
    assert "runs:   git status  (sets A)" in seen
    assert "runs:   echo $HOME  (not certain" in seen
    assert "runs:   tee out.txt" in seen
    shell.type("d")
    assert shell.end()[0] == 1


def test_show_prints_the_difference_in_a_pipe_and_as_json(asking):
    (asking.root / "a").write_text("one\n")
    hold = held(asking, call("fs.write", path="a", content="two\n"))
    text = asking("approvals", "show", hold).out
    assert "change: a changes (1 added, 1 removed)\n    @@ -1 +1 @@\n    -one\n    +two\n" in text
    assert "\x1b" not in text
    document = asking("approvals", "show", hold, "--json").json
    assert document["changes"][0]["lines"] == ["@@ -1 +1 @@", "-one", "+two"]


# -- keys


@pytest.mark.parametrize(("key", "scope"), [("t", "session"), ("w", "always")])
def test_an_answer_for_later_calls_is_confirmed(asking, terminal, key, scope):
    plan = asking.plan(call("fs.write", path="a", content="1"), session="s1")
    shell = terminal("run", plan)
    shell.wait_for(KEYS)
    shell.type(key)
    assert "without asking" in shell.wait_for("[y]es, [n]o?")
    shell.type("n")
    shell.wait_for(KEYS)
    assert asking("approvals", "list", "--json").json[0]["status"] == "pending"
    shell.type(key)
    shell.wait_for("[y]es, [n]o?")
    shell.type("y")
    assert shell.end()[0] == 0
    assert last_vote(asking)["standing"]["scope"] == scope
    assert asking("run", plan).code == 0  # it is not asked again


def test_without_a_session_there_is_no_answer_for_it(asking, terminal):
    shell = terminal("run", asking.plan(call("fs.write", path="a", content="1")))
    assert "[t]his" not in shell.wait_for(KEYS)
    shell.type("t")
    shell.wait_for("unknown key")
    shell.type("d")
    assert shell.end()[0] == 1


def test_pasted_text_is_not_an_answer(asking, terminal):
    shell = terminal("run", asking.plan(call("fs.write", path="a", content="1")))
    for pasted in ("aaaaaaaa\naaaa\n" * 50, "\x1b[200~a\x1b[201~"):
        shell.wait_for(KEYS)
        shell.type(pasted)
        shell.wait_for("several keys at once do not count as an answer")
    shell.wait_for(KEYS)
    shell.type("d")
    assert shell.end()[0] == 1
    assert last_vote(asking)["decision"] == "deny"


def test_two_questions_at_once_are_asked_one_after_the_other(asking, terminal):
    actions = [call("fs.write", path=name, content="1") for name in "ab"]
    shell = terminal("run", asking.plan(*actions))
    assert "fs.write: b" not in shell.wait_for(KEYS)
    shell.type("a")
    assert "fs.write: b" in shell.wait_for(KEYS)
    shell.type("a")
    assert shell.end()[0] == 0


def test_the_keys_are_shown_again_when_the_window_changes(asking, terminal):
    shell = terminal("run", asking.plan(call("fs.write", path="a", content="1")))
    shell.wait_for(KEYS)
    shell.resize(60)
    shell.wait_for(KEYS)
    shell.type("a")
    assert shell.end()[0] == 0


def test_the_end_of_input_answers_nothing_and_the_question_stays(asking, terminal):
    shell = terminal("run", asking.plan(call("fs.write", path="a", content="1")))
    shell.wait_for(KEYS)
    shell.type("\x04")
    shell.wait_for("it cannot be answered here; answer with `interlock approvals approve")
    (hold,) = asking("approvals", "list", "--json").json
    assert asking("approvals", "approve", hold["id"]).code == 0
    assert shell.end()[0] == 0


@pytest.mark.parametrize("how", ["ctrl-c", "twice", "terminated", "elsewhere"])
def test_the_terminal_is_left_as_it_was(asking, terminal, how):
    shell = terminal("run", asking.plan(call("fs.write", path="a", content="1")))
    shell.wait_for(KEYS)
    assert shell.modes() == (False, False)
    if how == "elsewhere":
        (hold,) = asking("approvals", "list", "--json").json
        assert asking("approvals", "deny", hold["id"]).code == 0
    elif how == "terminated":
        shell.process.send_signal(signal.SIGTERM)
    else:
        shell.process.send_signal(signal.SIGINT)
        if how == "twice":
            shell.process.send_signal(signal.SIGINT)
    shell.end()
    assert shell.modes() == (True, True)


def test_an_answer_from_elsewhere_ends_a_line_that_is_being_typed(asking, terminal):
    shell = terminal("run", asking.plan(call("fs.write", path="a", content="1")))
    shell.wait_for(KEYS)
    shell.type("r")
    shell.wait_for("goes back")
    shell.type("not fini")
    (hold,) = asking("approvals", "list", "--json").json
    assert asking("approvals", "approve", hold["id"]).code == 0
    assert shell.end()[0] == 0
    assert shell.modes() == (True, True)


# -- approvals watch


def test_watch_answers_with_the_same_keys(asking, terminal):
    shell = terminal("approvals", "watch", "--count", "2")
    shell.wait_for("waiting for held calls")
    (asking.root / "a").write_text("one\n")
    first = held(asking, call("fs.write", path="a", content="two\n"))
    assert "-one" in plain(shell.wait_for(KEYS))
    shell.type("a")
    shell.wait_for("approved")
    second = held(asking, call("fs.write", path="a", content="three\n"), name="other.json")
    shell.wait_for(KEYS)
    shell.type("d")
    assert shell.end()[0] == 0
    statuses = {hold["id"]: hold["status"] for hold in asking("approvals", "list", "--status", "all", "--json").json}
    assert statuses == {first: "approved", second: "denied"}
    assert last_vote(asking)["surface"] == "cli"


def test_watch_needs_the_proof_that_approve_needs(asking, terminal):
    asking("approvers", "add", "alice", "--pin", stdin="1234\n")
    held(asking, call("fs.write", path="a", content="1"))
    shell = terminal("approvals", "watch", "--count", "1", "--approver", "alice")
    shell.wait_for(KEYS)
    shell.type("a")
    shell.wait_for("PIN of alice")
    shell.type("9999\n")
    shell.wait_for("not accepted")
    shell.wait_for(KEYS)
    shell.type("a")
    shell.wait_for("PIN of alice")
    shell.type("1234\n")
    assert shell.end()[0] == 0
    assert last_vote(asking)["approver"] == "alice"


def test_watch_ends_with_ctrl_c_and_leaves_the_terminal_as_it_was(asking, terminal):
    held(asking, call("fs.write", path="a", content="1"))
    shell = terminal("approvals", "watch")
    shell.wait_for(KEYS)
    shell.process.send_signal(signal.SIGINT)
    assert shell.end()[0] == 0
    assert shell.modes() == (True, True)


def test_watch_in_a_pipe_only_shows(asking):
    held(asking, call("fs.write", path="a", content="1"))
    said = asking("approvals", "watch", "--count", "1")
    assert (said.code, "+1" in said.out) == (0, True)
    assert len(json.loads(asking("approvals", "watch", "--count", "1", "--json").out)) == 1


def test_rich_is_not_imported_where_there_is_no_terminal(asking):
    held(asking, call("fs.write", path="a", content="1"))
    for argv in (("approvals", "show", "last"), ("runs", "list"), ("tools", "list")):
        probe = (
            "import sys; from interlock.surfaces.cli import app; app.run(sys.argv[1:]); "
            "sys.exit(7 if any(name.partition('.')[0] == 'rich' for name in sys.modules) else 0)"
        )
        done = subprocess.run(
            [sys.executable, "-c", probe, *argv], cwd=asking.root, env=asking.env | {"TERM": "xterm"}, capture_output=True,
            timeout=25, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
