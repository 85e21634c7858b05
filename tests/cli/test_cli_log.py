"""The record answers "what did it do last night?": `log`, the filters of `runs list` and `show`, and bare `undo`."""

from __future__ import annotations

import json
import re
import signal

import pytest
from cli_driving import Terminal, call, work_directly

SECRET = "sk-proj-" + "Zq8vT1" * 8


def write(path, content="x\n"):
    return call("fs.write", path=path, content=content)


def state(key, value=1):
    return {"type": "state_write", "parameters": {"key": key, "value": value}}


def test_the_log_has_a_line_an_action_across_runs_in_the_order_of_time(cli):
    first = cli.run(write("a"), call("shell", command="echo hi"))["run_id"]
    second = cli.run(call("fs.read", path="a"), call("fs.move", source="a", destination="b"), flags=("--no-wait",))
    lines = cli("log", "--json").json
    assert [(line["run_id"], line["tool"], line["about"], line["status"]) for line in lines] == [
        (first, "fs.write", "a", "succeeded"),
        (first, "shell", "echo hi", "succeeded"),
        (second["run_id"], "fs.read", "a", "succeeded"),
        (second["run_id"], "fs.move", "a -> b", "held"),
    ]
    assert [line["at_us"] for line in lines] == sorted(line["at_us"] for line in lines)
    text = cli("log").out.splitlines()
    assert len(text) == 4
    assert "fs.move a -> b" in text[3]


def test_a_line_of_the_log_is_at_most_100_columns(cli):
    cli.run(call("shell", command=f"echo {'long ' * 60}\necho \x1b[31mred"), call("fs.read", path="missing" * 20))
    lines = cli("log").out.splitlines()
    assert len(lines) == 2
    assert max(map(len, lines)) <= 100
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("columns", [80, 100])
def test_at_a_terminal_no_id_or_time_is_broken_and_no_line_is_too_long(cli, terminal, columns):
    command = "echo " + " ".join(str(number) for number in range(80))
    cli.run(call("shell", command=command), call("shell", command="exit 3"))
    held = cli.run(call("fs.move", source="a" * 60, destination="b"), flags=("--no-wait",))
    (hold,) = cli("approvals", "list", "--json").json
    for argv in (("log",), ("runs", "list"), ("approvals", "list"), ("tools", "list")):
        shell = terminal(*argv, columns=columns, NO_COLOR="1")
        code, text = shell.end()
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip("\r") for line in text.split("\n")]
        assert code == 0
        assert max(map(len, lines)) <= columns, argv
        if argv[0] != "tools":
            one = [line for line in lines if held["run_id"][:12] in line or hold["id"][:13] in line]
            assert len(one) == 1, lines
            assert re.search(r"\d\d-\d\d \d\d:\d\d:\d\d", one[0]), one
            assert len(lines) <= 5


def test_a_log_without_matches_says_so(cli):
    cli.run(write("a"))
    said = cli("log", "--tool", "nothing.*")
    assert (said.out, said.err) == ("", "no actions\n")
    assert cli("log", "--tool", "nothing.*", "--json").json == []


def test_a_held_action_of_a_stopped_run_does_not_wait_any_more(cli):
    run = cli.run(call("fs.move", source="a", destination="b"), flags=("--no-wait",))["run_id"]
    assert cli("log").out.split()[4:6] == ["held", "fs.move"]
    cli("stop", run)
    assert [line["status"] for line in cli("log", "--json").json] == ["cancelled"]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--tool", "fs.*"), ["a", "secret/.env"]),
        (("--grep", r"\.ENV"), ["secret/.env"]),
        (("--grep", "needle"), ["a"]),
        (("--agent", "nobody"), []),
        (("--agent", "coder", "--tool", "shell"), ["true"]),
        (("--since", "1h"), ["a", "true", "secret/.env"]),
        (("--since", "2999-01-01"), []),
    ],
)
def test_the_log_is_filtered(cli, flags, expected):
    cli.run(write("a", "needle"), call("shell", command="true"), write("secret/.env"))
    assert [line["about"] for line in cli("log", "--json", *flags).json] == expected


@pytest.mark.parametrize("flags", [("--since", "yesterdayish"), ("--grep", "(")])
def test_a_filter_that_cannot_be_read_is_the_users_fault(cli, flags):
    for command in (("log",), ("runs", "list")):
        error = cli(*command, *flags, "--json").error
        assert error["code"] == "usage"
        assert flags[0] in error["message"]


def test_what_was_undone_since_is_marked_until_the_undo_is_undone(cli):
    run_id = cli.run(write("a"), state("k"), call("fs.list"))["run_id"]
    marks = lambda: [line["undone"] for line in cli("log", "--json").json if line["run_id"] == run_id]
    assert marks() == [None, None, None]
    undo = cli("undo", run_id, "--json").json["run_id"]
    assert marks() == ["rolled_back", "rolled_back", None]
    assert {line["undone_by"] for line in cli("log", "--json").json} == {None, undo}
    shown = cli("runs", "show", run_id, "--json").json["proposals"][0]["results"]
    assert [row["undone_by"] for row in shown] == [undo, undo, None]
    assert "undone       a1  fs.write a" in cli("runs", "show", run_id).out
    assert [row["undone_by"] for row in cli("runs", "list", "--json").json] == [None, undo]
    assert "succeeded, undone" in cli("runs", "list").out
    cli("undo", undo)
    assert marks() == [None, None, None]
    assert [row["undone_by"] is None for row in cli("runs", "list", "--json").json] == [True, False, True]


def test_an_undo_of_one_action_marks_that_one(cli):
    run_id = cli.run(write("a"), write("b"))["run_id"]
    cli("undo", run_id, "--action", "a2")
    assert [line["undone"] for line in cli("log", "--json").json][:2] == [None, "rolled_back"]
    assert cli("runs", "list", "--json").json[1]["undone_by"] is None


def test_what_an_undo_could_not_undo_is_not_marked_as_undone(cli):
    work_directly(cli)
    run_id = cli.run(call("shell", command="true"))["run_id"]
    cli("undo", run_id)
    assert cli("log", "--json").json[0]["undone"] == "not_undone"
    assert cli("runs", "list", "--json").json[1]["undone_by"] is None, "nothing of the run was undone"
    assert "undone" not in cli("runs", "list").out


def test_a_run_of_which_a_part_was_undone_is_marked_as_undone(cli):
    work_directly(cli)
    run_id = cli.run(write("a"), call("shell", command="true"))["run_id"]
    cli("undo", run_id)
    assert "succeeded, undone" in cli("runs", "list").out


def test_an_aborted_proposal_was_already_rolled_back(cli):
    last = call("fs.read", path="missing") | {"dependencies": ["a1", "a2"]}  # side by side, it could cancel the others
    cli.run(write("a"), call("fs.list"), last)
    assert sorted(line["status"] for line in cli("log", "--json").json) == ["failed", "rolled_back", "succeeded"]


def test_a_rejected_proposal_is_in_the_log(cli):
    cli("run", cli.plan(call("nothing")))
    (line,) = cli("log", "--json").json
    assert line["status"] == "rejected"
    assert "nothing" in line["error"]


def test_what_the_journal_has_redacted_stays_redacted(cli):
    run_id = cli.run(write("a", f"token = {SECRET}\n"), call("shell", command=f"echo {SECRET}"))["run_id"]
    shown = [
        cli("log", "--json").out,
        cli("log").out,
        cli("runs", "list").out,
        cli("runs", "show", run_id, "--action", "a1").out,
    ]
    assert SECRET not in "".join(shown)
    assert cli("log", "--json", "--grep", SECRET[:12]).json == []


def test_a_proposal_that_is_too_large_for_the_journal_has_its_tools_and_paths(cli):
    cli.run(write("big", "x" * 300_000), write(SECRET, "x" * 300_000), state("k"), call("fs.read", path="missing"))
    shown = cli("log", "--json")
    assert SECRET not in shown.out
    assert [(line["tool"], line["about"]) for line in shown.json] == [
        ("fs.write", "big"),
        ("fs.write", ""),  # a path in which there is a secret
        ("state_write", "k"),
        ("fs.read", "missing"),
    ]
    assert cli("runs", "list", "--json").json[0]["first_tool"] == "fs.write"


def test_a_damaged_journal_hides_no_other_run(cli):
    first, second = (cli.run(write(name))["run_id"] for name in "ab")
    (path,) = (cli.root.parent / "state").glob(f"*/runs/{first}/journal.ndjson")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"proposal_received", b"proposal_deceived", 1))
    said = cli("log")
    assert said.code == 4
    assert second[:12] in said.out
    assert "damaged" in said.err


def test_runs_are_listed_with_their_first_action_and_by_what_they_did(cli):
    first = cli.run(write("a"), call("shell", command="true"))["run_id"]
    second = cli.run(call("fs.list"))["run_id"]
    rows = cli("runs", "list", "--json").json
    assert [(row["run_id"], row["first_tool"], row["first_about"]) for row in rows] == [
        (second, "fs.list", ""),
        (first, "fs.write", "a"),
    ]
    assert [row["run_id"] for row in cli("runs", "list", "--json", "--tool", "shell").json] == [first]
    assert cli("runs", "list", "--json", "--tool", "shell").json[0]["first_about"] == "true"
    assert cli("runs", "list", "--json", "--grep", "nowhere").json == []
    assert cli("runs", "list", "--json", "--since", "2999-01-01").json == []
    assert "fs.write a" in cli("runs", "list").out


def test_show_has_the_full_output_of_one_action(cli):
    run_id = cli.run(call("shell", command="seq 500"), call("fs.list"))["run_id"]
    said = cli("runs", "show", run_id, "--action", "a1").out
    assert "  1\n  2\n  3\n" in said
    assert "  500\n" in said
    assert "seq 500" in said
    assert "fs.list" not in said
    (row,) = cli("runs", "show", run_id, "--action", "a1", "--json").json["proposals"][0]["results"]
    assert (row["tool"], row["parameters"], row["output"]["stdout"][:4]) == ("shell", {"command": "seq 500"}, "1\n2\n")
    assert cli("runs", "show", run_id, "--action", "a9", "--json").error["code"] == "not_found"


def test_show_is_filtered_by_tool_and_by_text(cli):
    run_id = cli.run(write("a"), call("shell", command="echo needle"))["run_id"]
    for flags in (("--tool", "shell"), ("--grep", "needle")):
        (row,) = cli("runs", "show", run_id, "--json", *flags).json["proposals"][0]["results"]
        assert row["action_id"] == "a2", flags


def test_the_log_is_followed_as_actions_end(cli):
    cli.run(write("before"))
    with cli.start("log", "--follow", "--json") as following:
        try:
            assert json.loads(following.stdout.readline())["about"] == "before"
            cli.run(write("after"), call("fs.read", path="missing"))
            seen = [json.loads(following.stdout.readline()) for _ in range(3)]
        finally:
            following.send_signal(signal.SIGINT)
        assert following.wait(timeout=20) == 0
        assert following.stderr.read() == b""
    assert [(line["about"], line["status"]) for line in seen] == [
        ("after", "succeeded"),
        ("missing", "failed"),
        ("after", "rolled_back"),
    ]


def test_following_ends_when_nobody_reads_any_more(cli):
    cli.run(write("a"))
    with cli.start("log", "--follow") as following:
        following.stdout.readline()
        following.stdout.close()
        cli.run(write("b"))
        assert following.wait(timeout=20) == 0


def test_bare_undo_without_a_terminal_says_to_name_a_run(cli):
    cli.run(write("a"))
    said = cli.real("undo", "--json")
    assert (said.code, said.error["code"]) == (2, "usage")
    assert "undo last" in said.error["hint"]
    assert (cli.root / "a").exists()


@pytest.mark.parametrize(("answer", "code"), [("y", 1), ("n", 1)])
def test_bare_undo_shows_what_it_would_undo_and_asks(cli, answer, code):
    work_directly(cli)
    cli.run(write("old"))
    run_id = cli.run(write("a"), call("shell", command="echo hi"), call("fs.list"))["run_id"]
    terminal = Terminal(cli, "undo")
    try:
        seen = terminal.wait_for("Undo this run?")
        terminal.type(f"{answer}\r")
        ended, last = terminal.end()
    finally:
        terminal.close()
    assert run_id in seen
    assert "files: a\r\n" in seen
    assert ("nothing was undone\r\n" in last) == (answer == "n")
    assert "error" not in last
    assert "fs.write a" in seen
    assert "shell echo hi" in seen
    assert "cannot be undone: " in seen
    assert "fs.list" not in seen
    assert ended == code
    assert (cli.root / "a").exists() == (answer == "n")
    assert (cli.root / "old").exists()


def bare_undo(cli):
    """Answer yes to what `interlock undo` offers. Returns what is shown before."""
    terminal = Terminal(cli, "undo")
    try:
        seen = terminal.wait_for("Undo this run?")
        terminal.type("y\r")
        assert terminal.end()[0] == 0
    finally:
        terminal.close()
    return seen


def test_bare_undo_after_an_undo_offers_the_run_before(cli):
    run_id = cli.run(write("old"))["run_id"]
    undo_id = cli("undo", cli.run(write("a"))["run_id"], "--json").json["run_id"]
    seen = bare_undo(cli)
    assert run_id in seen
    assert f"interlock undo {undo_id}` redoes" in seen
    assert not (cli.root / "old").exists()


def test_bare_undo_offers_the_newest_run_that_has_something_to_undo(cli):
    run_id = cli.run(write("old"))["run_id"]
    cli.run(write("a"), call("fs.read", path="missing"))  # rolled back
    cli.run(call("fs.list"))
    seen = bare_undo(cli)
    assert run_id in seen
    assert "have nothing that can be undone" in seen
    assert not (cli.root / "old").exists()


def test_all_views_agree_about_an_undo_that_could_not_undo_anything(cli):
    work_directly(cli)
    run_id = cli.run(call("shell", command="true"), call("fs.list"))["run_id"]
    undo_id = cli("undo", run_id, "--json").json["run_id"]
    assert [line["undone"] for line in cli("log", "--json").json[:2]] == ["not_undone", None]
    listed = {one["run_id"]: one["undone_by"] for one in cli("runs", "list", "--json").json}
    assert listed[run_id] is None
    shown = cli("runs", "show", run_id)
    assert f"tried by {undo_id}" in shown.out
    assert [row["undone"] for row in cli("runs", "show", run_id, "--json").json["proposals"][0]["results"]] == [
        "not_undone",
        None,
    ]
    assert cli("runs", "report", run_id, "--output", "report.html").code == 0
    page = (cli.root / "report.html").read_text()
    assert f"Could not be undone by run {undo_id}." in page
    assert "Undone by" not in page


def test_a_run_with_numbers_beyond_2_53_is_undone_too(cli):
    """Canonical JSON writes 1e20 like an integer, and an integer of that size is refused."""
    large = {f"k{n}": 1e20 for n in range(9)}
    run_id = cli.run(write("a"), state("k", {"x": [1e20, -1e17]}))["run_id"]
    many = cli.run(*(state(f"s{n}", large) for n in range(700)), write("b"))["run_id"]  # not shown in the journal
    for one in (many, run_id):
        assert cli("undo", one, "--json").json["results"][0]["status"] == "succeeded"
    assert not (cli.root / "a").exists()
    assert not (cli.root / "b").exists()


def test_bare_undo_of_a_run_that_did_nothing_says_so(cli):
    cli.run(call("fs.list"))
    terminal = Terminal(cli, "undo")
    try:
        terminal.wait_for("no run has anything that can be undone")
        assert terminal.end()[0] == 2
    finally:
        terminal.close()


def test_a_run_that_continued_since_it_was_shown_is_not_undone(cli):
    run_id = cli.run(write("a"), write("b"))["run_id"]
    terminal = Terminal(cli, "undo")
    try:
        terminal.wait_for("Undo this run?")
        cli("undo", run_id, "--action", "a2")
        terminal.type("y\r")
        terminal.wait_for("since it was shown")
        assert terminal.end()[0] == 2
    finally:
        terminal.close()
    assert (cli.root / "a").exists()
