"""At a terminal: questions are asked there, untrusted configuration is shown there, progress is drawn there."""

from __future__ import annotations

import os
import re

import pytest
from cli_driving import call


@pytest.fixture
def move(cli):
    (cli.root / "a.txt").write_text("1")
    return cli.plan(call("fs.move", source="a.txt", destination="b.txt"))


def test_a_hold_asks_at_the_terminal_and_continues_after_the_answer(cli, terminal, move):
    shell = terminal("run", move)
    shell.wait_for("coder asks: fs.move")
    shell.wait_for("[e]dit, [s]how all?")
    shell.type("s")
    shell.wait_for("digest:")
    shell.type("a")
    code, text = shell.end()
    assert code == 0, text
    assert (cli.root / "b.txt").exists()
    (vote,) = cli("approvals", "list", "--status", "all", "--json").json[0]["votes"]
    assert (vote["surface"], vote["decision"]) == ("tty", "approve")


def test_what_was_cut_is_shown_before_it_can_be_approved(cli, terminal):
    (cli.root / "a.txt").write_text("1")
    shell = terminal("run", cli.plan(call("fs.move", source="a.txt", destination="d/" * 1200 + "b.txt")))
    shell.wait_for("NOT ALL of this call is shown")
    shell.wait_for("[s]how all")
    shell.type("a")
    shell.wait_for("not accepted: part of the call has not been shown")
    shell.type("e")
    shell.wait_for("not accepted: part of the call has not been shown")
    assert not (cli.root / "c.txt").exists()
    shell.type("s")
    shell.wait_for("digest:")
    shell.type("e")
    shell.wait_for("goes back")
    shell.type('{"destination": "c.txt"}\n')
    assert shell.end()[0] == 0
    assert (cli.root / "c.txt").exists()


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["colours", "none", "dumb"])
def test_no_parameter_can_look_like_another_line_of_the_hold(cli, terminal, environment):
    (cli.root / "a.txt").write_text("1")
    imitated = ("  runs:   git status", "  file:   README.md (exists)", "[a]pprove once; [d]eny?")
    lead = 80 - len("  destination = ")  # so that the rest would begin at the left of the screen
    for start in (lead, lead - 12):
        destination = "x" * (start - 1) + "/" + "".join(line.ljust(79) + "/" for line in imitated) + "b.txt"
        plan = cli.plan(call("fs.move", source="a.txt", destination=destination))
        shell = terminal("run", plan, columns=80, **environment)
        text = re.sub(r"\x1b\[[0-9;]*m", "", shell.wait_for("[s]how all"))
        rows = [
            line[at : at + 80] for line in text.replace("\r", "").split("\n") for at in range(0, max(len(line), 1), 80)
        ]
        assert any("git status" in row for row in rows)
        assert not [row for row in rows for line in imitated if line.strip() in row[: len(line) + 4]]


def test_the_original_is_shown_at_the_terminal_on_purpose(cli, terminal):
    token = "gh" + "p_" + "aB3dE5gH7jK9mN1pQ3sT5vX7zA9cD1eF3gH5"
    (cli.root / token).write_text("1")
    shell = terminal("run", cli.plan(call("fs.move", source=token, destination="b.txt")))
    assert token not in shell.wait_for("[s]how all, [o]riginal")
    shell.type("o")
    shell.wait_for(f"source = {token}")
    shell.type("a")
    assert shell.end()[0] == 0


def test_a_denial_with_a_reason_and_an_edit(cli, terminal, move):
    shell = terminal("run", move)
    shell.wait_for("[s]how all")
    shell.type("r")
    shell.wait_for("goes back")
    shell.type("not today\n")
    code, text = shell.end()
    assert code == 1
    assert "not today" in text
    shell = terminal("run", move)
    shell.wait_for("[s]how all")
    shell.type("e")
    shell.wait_for("goes back")
    shell.type('{"destination":\n')
    shell.wait_for("the text is not JSON")
    shell.type("e")
    shell.wait_for("goes back")
    shell.type('{"destination": "c.txt"}\n')
    assert shell.end()[0] == 0
    assert (cli.root / "c.txt").exists()


def test_another_surface_may_answer_first(cli, terminal, move):
    shell = terminal("run", move)
    shell.wait_for("[s]how all")
    hold = cli("approvals", "list", "--json").json[0]
    assert cli("approvals", "deny", hold["id"]).code == 0
    code, text = shell.end()
    assert code == 1
    assert "answered elsewhere: denied" in text or "approval_denied" in text


def test_what_another_approver_has_edited_is_shown_before_it_can_be_approved(cli, terminal, move, two_of_ops):
    shell = terminal("run", move)
    shell.wait_for("[s]how all")
    hold = cli("approvals", "list", "--json").json[0]
    assert cli("approvals", "edit", hold["id"], '{"destination": "c.txt"}', "--token-file", "bob").code == 0
    shell.wait_for("the call was edited")
    shell.wait_for("destination = c.txt")
    shell.wait_for("[s]how all")
    assert cli("approvals", "show", hold["id"], "--json").json["status"] == "pending"
    shell.type("a")
    assert shell.end()[0] == 0
    assert (cli.root / "c.txt").exists()


def test_what_was_typed_before_a_question_was_shown_does_not_answer_it(cli, terminal):
    for name in ("a.txt", "b.txt"):
        (cli.root / name).write_text("1")
    plan = cli.plan(
        call("fs.move", source="a.txt", destination="c.txt"), call("fs.move", source="b.txt", destination="d.txt")
    )
    shell = terminal("run", plan)
    shell.wait_for("[s]how all")
    shell.type("a")
    shell.wait_for("approved")
    shell.type("aaa")  # before or after the question is shown: neither is an answer
    shell.wait_for("[s]how all")
    statuses = [h["status"] for h in cli("approvals", "list", "--status", "all", "--json").json]
    assert statuses == ["approved", "pending"]
    shell.type("d")
    assert shell.end()[0] == 1


def test_an_edit_that_does_not_fit_is_reported_and_asked_about_again(cli, terminal, move):
    shell = terminal("run", move)
    shell.wait_for("[s]how all")
    shell.type("e")
    shell.wait_for("goes back")
    shell.type('{"destination": 5}\n')
    shell.wait_for("not accepted: $.destination")
    shell.wait_for("[s]how all")
    os.write(shell._master, b"\xff")
    shell.wait_for("unknown key")
    shell.type("a")
    assert shell.end()[0] == 0


def test_a_person_who_may_not_answer_is_told_why_and_the_question_stays_open(cli, terminal, move):
    path = cli.root / "interlock.toml"
    path.write_text(path.read_text() + "separation = true\n")
    assert cli("trust", "--yes").code == 0
    shell = terminal("run", move)
    shell.wait_for("[s]how all")
    shell.type("a")
    shell.wait_for("not accepted: the user who started the run may not answer its holds")
    shell.wait_for("[s]how all")
    assert len(cli("approvals", "list", "--json").json) == 1


def test_ctrl_c_while_a_question_is_asked(cli, terminal, move):
    shell = terminal("run", move)
    shell.wait_for("[s]how all")
    shell.process.send_signal(2)
    code, text = shell.end()
    assert code == 1
    assert "interlock resume" in text


def test_an_untrusted_configuration_is_shown_and_trusted_if_the_person_says_so(cli, terminal):
    path = cli.root / "interlock.toml"
    path.write_text(path.read_text() + "# an edit\n")
    plan = cli.plan(call("fs.list"))
    shell = terminal("run", plan)
    shell.wait_for("# an edit")
    shell.wait_for("Trust this?")
    shell.type("n\n")
    code, text = shell.end()
    assert code == 2
    assert "untrusted_configuration" in text
    shell = terminal("run", plan)
    shell.wait_for("Trust this?")
    shell.type("y\n")
    assert shell.end()[0] == 0
    assert cli("run", plan).code == 0


def test_progress_is_drawn_and_colours_can_be_switched_off(cli, terminal):
    plan = cli.plan(call("shell", command="sleep 1"))
    shell = terminal("run", plan)
    text = shell.wait_for("ok")
    assert "[0/1]" in text
    code, _ = shell.end()
    assert code == 0
    shell = terminal("run", plan, "--no-color", "--quiet")
    assert shell.end() == (0, "")


def test_a_pin_is_asked_at_the_terminal(cli, terminal, move):
    cli("approvers", "add", "alice", "--pin", stdin="1234\n")
    held = cli("run", move, "--no-wait", "--json").json["results"][0]["output"]["approval"]
    assert cli("approvals", "approve", held, "--json").error["code"] == "unauthenticated"
    shell = terminal("approvals", "approve", held, "--approver", "alice")
    shell.wait_for("PIN of alice")
    shell.type("9999\n")
    assert shell.end()[0] == 2
    shell = terminal("approvals", "approve", held, "--approver", "alice")
    shell.wait_for("PIN of alice")
    shell.type("1234\n")
    assert shell.end()[0] == 0
