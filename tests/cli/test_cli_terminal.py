"""At a terminal: questions are asked there, untrusted configuration is shown there, progress is drawn there."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time

import pytest
from cli_driving import COMMAND, call


class Terminal:
    """The real command on a pseudo-terminal."""

    def __init__(self, cli, *argv):
        self._master, slave = pty.openpty()
        env = {k: v for k, v in cli.env.items() if k != "NO_COLOR"} | {"TERM": "xterm"}
        self.process = subprocess.Popen(
            [*COMMAND, *argv], cwd=cli.root, env=env, stdin=slave, stdout=slave, stderr=slave, close_fds=True
        )
        os.close(slave)
        self.text = ""

    def wait_for(self, text):
        """Read until the text is there."""
        end = time.monotonic() + 20
        while text not in self.text:
            assert time.monotonic() < end, self.text
            self._read()
        seen, self.text = self.text, self.text.partition(text)[2]
        return seen

    def type(self, text):
        os.write(self._master, text.encode())

    def end(self):
        """The exit code and the rest of the text."""
        end = time.monotonic() + 20
        while self._read():
            assert time.monotonic() < end, self.text
        return self.process.wait(timeout=20), self.text

    def _read(self):
        ready, _, _ = select.select([self._master], [], [], 0.2)
        if not ready:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # the other side is closed
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

    def close(self):
        self.process.kill()
        self.process.wait(timeout=20)
        os.close(self._master)


@pytest.fixture
def terminal(cli):
    opened = []

    def start(*argv):
        opened.append(Terminal(cli, *argv))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.fixture
def move(cli):
    (cli.root / "a.txt").write_text("1")
    return cli.plan(call("fs.move", source="a.txt", destination="b.txt"))


def test_a_hold_asks_at_the_terminal_and_an_answer_goes_on(cli, terminal, move):
    shell = terminal("run", move)
    shell.wait_for("coder asks: fs.move")
    shell.wait_for("[a]pprove, [d]eny, [e]dit, [s]how?")
    shell.type("s\n")
    shell.wait_for("digest:")
    shell.type("a\n")
    code, text = shell.end()
    assert code == 0, text
    assert (cli.root / "b.txt").exists()
    (vote,) = cli("approvals", "list", "--status", "all", "--json").json[0]["votes"]
    assert (vote["surface"], vote["decision"]) == ("tty", "approve")


def test_what_was_cut_is_shown_before_it_can_be_approved(cli, terminal):
    (cli.root / "a.txt").write_text("1")
    shell = terminal("run", cli.plan(call("fs.move", source="a.txt", destination="d/" * 1200 + "b.txt")))
    shell.wait_for("NOT ALL of this question is shown")
    shell.wait_for("[s]how?")
    shell.type("a\n")
    shell.wait_for("not accepted: part of the question has not been shown")
    shell.type('e {"destination": "c.txt"}\n')
    shell.wait_for("not accepted: part of the question has not been shown")
    assert not (cli.root / "c.txt").exists()
    shell.type("s\n")
    shell.wait_for("digest:")
    shell.type('e {"destination": "c.txt"}\n')
    assert shell.end()[0] == 0
    assert (cli.root / "c.txt").exists()


def test_the_original_is_shown_at_the_terminal_on_purpose(cli, terminal):
    token = "gh" + "p_" + "aB3dE5gH7jK9mN1pQ3sT5vX7zA9cD1eF3gH5"
    (cli.root / token).write_text("1")
    shell = terminal("run", cli.plan(call("fs.move", source=token, destination="b.txt")))
    assert token not in shell.wait_for("[o]riginal, [s]how?")
    shell.type("o\n")
    shell.wait_for(f"source = {token}")
    shell.type("a\n")
    assert shell.end()[0] == 0


def test_a_denial_with_a_reason_and_an_edit(cli, terminal, move):
    shell = terminal("run", move)
    shell.wait_for("[s]how?")
    shell.type("d not today\n")
    code, text = shell.end()
    assert code == 1
    assert "not today" in text
    shell = terminal("run", move)
    shell.wait_for("[s]how?")
    shell.type('e {"destination": \n')
    shell.wait_for("this is not JSON")
    shell.type('e {"destination": "c.txt"}\n')
    assert shell.end()[0] == 0
    assert (cli.root / "c.txt").exists()


def test_another_surface_may_answer_first(cli, terminal, move):
    shell = terminal("run", move)
    shell.wait_for("[s]how?")
    hold = cli("approvals", "list", "--json").json[0]
    assert cli("approvals", "deny", hold["id"]).code == 0
    code, text = shell.end()
    assert code == 1
    assert "answered elsewhere: denied" in text or "approval_denied" in text


def test_what_another_approver_has_edited_is_shown_before_it_can_be_approved(cli, terminal, move, two_of_ops):
    shell = terminal("run", move)
    shell.wait_for("[s]how?")
    hold = cli("approvals", "list", "--json").json[0]
    assert cli("approvals", "edit", hold["id"], '{"destination": "c.txt"}', "--token-file", "bob").code == 0
    shell.wait_for("the question was edited")
    shell.wait_for("destination = c.txt")
    shell.wait_for("[s]how?")
    assert cli("approvals", "show", hold["id"], "--json").json["status"] == "pending"
    shell.type("a\n")
    assert shell.end()[0] == 0
    assert (cli.root / "c.txt").exists()


def test_what_was_typed_before_a_question_was_shown_is_no_answer_to_it(cli, terminal):
    for name in ("a.txt", "b.txt"):
        (cli.root / name).write_text("1")
    plan = cli.plan(
        call("fs.move", source="a.txt", destination="c.txt"), call("fs.move", source="b.txt", destination="d.txt")
    )
    shell = terminal("run", plan)
    shell.wait_for("[s]how?")
    shell.type("a\na\n")
    shell.wait_for("approved")
    shell.wait_for("[s]how?")
    statuses = [h["status"] for h in cli("approvals", "list", "--status", "all", "--json").json]
    assert statuses == ["approved", "pending"]
    shell.type("d\n")
    assert shell.end()[0] == 1


def test_an_edit_that_does_not_fit_is_told_and_asked_about_again(cli, terminal, move):
    shell = terminal("run", move)
    shell.wait_for("[s]how?")
    shell.type('e {"destination": 5}\n')
    shell.wait_for("not accepted: $.destination")
    shell.wait_for("[s]how?")
    os.write(shell._master, b"a \xff\n")
    assert shell.end()[0] == 0


def test_who_may_not_answer_is_told_why_and_the_question_stays(cli, terminal, move):
    path = cli.root / "interlock.toml"
    path.write_text(path.read_text() + "separation = true\n")
    assert cli("trust", "--yes").code == 0
    shell = terminal("run", move)
    shell.wait_for("[s]how?")
    shell.type("a\n")
    shell.wait_for("not accepted: the user who started the run may not answer its questions")
    shell.wait_for("[s]how?")
    assert len(cli("approvals", "list", "--json").json) == 1


def test_ctrl_c_while_a_question_is_asked(cli, terminal, move):
    shell = terminal("run", move)
    shell.wait_for("[s]how?")
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
