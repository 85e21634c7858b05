"""`runs report`: a run as one page that loads nothing and hides nothing."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from cli_driving import call, work_directly

SECRET = "sk-proj-" + "Zq8vT1" * 8
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Checks that every element is closed, and keeps the text and the tags."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.attributes = [], set(), "", []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def report(cli, run_id="last"):
    assert cli("runs", "report", run_id, "--output", "r.html").code == 0
    text = (cli.root / "r.html").read_text()
    (cli.root / "r.html").unlink()
    return text, Page(text)


def test_a_report_has_actions_answers_and_differences(cli):
    work_directly(cli)
    (cli.root / "a").write_text("one\ntwo\n")
    cli.run(
        call("fs.write", path="a", content="one\nthree\n"),
        call("fs.move", source="a", destination="b"),
        flags=("--no-wait",),
    )
    (hold,) = cli("approvals", "list", "--json").json
    assert cli("approvals", "deny", hold["id"]).code == 0
    run_id = cli("runs", "list", "--json").json[0]["run_id"]
    cli("resume", run_id)
    _, page = report(cli, run_id)
    for text in (run_id, "fs.write", "fs.move", "a -> b", "denied by", "Time line", "-two", "+three", "and put back"):
        assert text in page.text, text


def test_a_report_says_in_words_what_happened_and_shows_text_as_text(cli):
    cli.run(call("fs.write", path="a.txt", content="one\ntwo\n"), call("shell", command="echo a; echo b"))
    cli("runs", "report", "last", "-o", "r.html")
    page = (cli.root / "r.html").read_text()
    assert "<p>Wrote 2 lines to a.txt, a new file.</p>" in page
    assert "<small>Parameters: content</small><pre>one\ntwo</pre>" in page
    assert "<small>Output: stdout</small><pre>a\nb</pre>" in page


def test_the_time_line_says_what_failed_and_when_without_colours_and_without_the_day(cli):
    cli.run(
        {**call("fs.read", path="no"), "failure_behavior": "skip"},
        call("shell", command="echo " + "x" * 300),
    )
    text, page = report(cli)
    line = text.partition("<h2>Time line</h2>")[2].partition("<h2>Actions</h2>")[0]
    assert "<b>failed</b>" in line
    assert not re.search(r"\d{4}-\d\d-\d\d", line)
    assert len(re.findall(r"<small>\d\d:\d\d:\d\d</small>", line)) == 2
    assert "<code></code>" not in text
    assert "unknown" not in page.text


def test_a_report_names_the_hosts_that_were_refused(cli):
    cli.run(call("shell", command="getent hosts evil.test; true"))
    _, page = report(cli)
    assert "Refused evil.test: host_denied" in page.text


def test_a_report_of_an_undone_run_says_so_and_still_has_the_differences(cli):
    run_id = cli.run(call("fs.write", path="a", content="new text\n"))["run_id"]
    undo = cli("undo", run_id, "--json").json["run_id"]
    _, page = report(cli, run_id)
    assert f"Undone by run {undo}" in page.text
    assert "+new text" in page.text


def test_what_an_agent_wrote_is_text_and_nothing_else(cli):
    attack = "<script>alert(1)</script><img src=x onerror=y>&\u202e"
    (cli.root / "attack").mkdir()
    cli.run(
        call("fs.write", path="attack/<b>x", content=attack + "\n"),
        call("shell", command=f"echo '{attack}'"),
        session="<i>",
    )
    text, page = report(cli)
    assert not page.tags & {"script", "img", "link", "iframe", "form", "a"}
    assert "<script>alert(1)</script>" in page.text
    assert "\u202e" not in text
    assert not [name for name, _ in page.attributes if name in ("src", "href") or name.startswith("on")]
    assert not re.search(r"https?://|url\(|@import", text)
    assert "default-src 'none'" in text
    assert "width=device-width" in text
    assert "@media print" in text


def test_a_secret_is_neither_in_parameters_nor_outputs_nor_differences(cli):
    (cli.root / "a").write_text(f"key = {SECRET}\n")
    cli.run(
        call("fs.read", path="a"),
        call("shell", command=f"echo {SECRET}"),
        call("fs.write", path="a", content=f"key = {SECRET}\nmore\n"),
    )
    text, page = report(cli)
    assert SECRET not in text
    assert "+more" in page.text


def test_a_file_that_exists_is_not_overwritten(cli):
    run_id = cli.run(call("fs.list"))["run_id"]
    assert cli("runs", "report", run_id).out == f"wrote {run_id}.html\n"
    (cli.root / "mine").write_text("mine")
    said = cli("runs", "report", run_id, "--output", "mine", "--json")
    assert (said.code, said.error["code"]) == (2, "already_exists")
    assert (cli.root / "mine").read_text() == "mine"


@pytest.mark.parametrize("kind", [b"action_intent", b"action_succeeded"], ids=["in-the-middle", "at-the-end"])
def test_a_damaged_record_is_reported_as_far_as_it_goes(cli, kind):
    run_id = cli.run(call("fs.list"))["run_id"]
    (path,) = (cli.root.parent / "state").glob(f"*/runs/{run_id}/journal.ndjson")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(kind, kind.swapcase(), 1))
    assert path.read_bytes() != whole
    assert cli("runs", "report", run_id, "--output", "r.html").code == 4
    assert "could not be read to its end" in (cli.root / "r.html").read_text()


def test_a_report_of_a_run_in_a_layer_has_the_differences_that_it_committed(cli):
    (cli.root / "a").write_text("one\ntwo\n")
    cli.run(call("fs.write", path="a", content="one\nthree\n"), call("shell", command="echo new > b"))
    _, page = report(cli)
    for text in ("-two", "+three", "+new", "by a process"):
        assert text in page.text, text


def test_one_page_has_the_runs_that_are_asked_for_oldest_first_with_only_the_actions_that_are_asked_for(cli):
    work_directly(cli)
    first = cli.run(call("fs.write", path="a", content="alpha\n"), call("fs.list"))["run_id"]
    second = cli.run(call("fs.write", path="b", content="beta\n"))["run_id"]
    other = cli.run(call("fs.list", path="."), call("shell", command="echo gamma"))["run_id"]
    undo = cli("undo", first, "--json").json["run_id"]
    said = cli("runs", "report", "--tool", "fs.write", "--since", "1h", "--output", "n.html", "--json")
    assert (said.code, said.json["runs"]) == (0, [first, second])
    text = (cli.root / "n.html").read_text()
    page = Page(text)
    assert text.index(f'<section id="{first}">') < text.index(f'<section id="{second}">')
    assert [value for name, value in page.attributes if name == "href"] == [f"#{first}", f"#{second}"]
    for expected in ("+alpha", "+beta", f"undone by run {undo}", "Runs since 20", "tool fs.write", "2 runs"):
        assert expected in page.text, expected
    assert not any(absent in page.text for absent in (other, "gamma", "fs.list"))
    cli("runs", "report", "--since", "1h", "--output", "all.html")
    whole = (cli.root / "all.html").read_text()
    assert "gamma" in whole
    assert f'<section id="{undo}">' in whole


def test_the_limits_of_a_page_hold_for_all_of_its_runs_together(cli, monkeypatch):
    monkeypatch.setattr("interlock.engine.inspect.report.ACTIONS_MAX", 3)
    for _ in range(3):
        cli.run(call("fs.list"), call("fs.list"))
    assert cli("runs", "report", "--tool", "fs.*", "-o", "n.html").code == 0
    text = (cli.root / "n.html").read_text()
    assert (text.count("<article>"), text.count("has more than this page shows")) == (3, 2)


def test_a_damaged_record_among_several_is_named_and_the_others_are_there(cli):
    damaged = cli.run(call("fs.write", path="x", content="y"))["run_id"]
    cli.run(call("shell", command="echo whole"))
    (path,) = (cli.root.parent / "state").glob(f"*/runs/{damaged}/journal.ndjson")
    path.write_bytes(path.read_bytes().replace(b"action_intent", b"ACTION_INTENT", 1))
    assert cli("runs", "report", "--since", "1h", "-o", "n.html").code == 4
    text = (cli.root / "n.html").read_text()
    assert text.count("could not be read to its end") == 1
    assert "<pre>whole</pre>" in text


@pytest.mark.parametrize("arguments", [(), ("last", "--since", "1h")], ids=["neither", "both"])
def test_a_report_is_about_one_run_or_about_those_asked_for(cli, arguments):
    cli.run(call("fs.list"))
    said = cli("runs", "report", *arguments, "--json")
    assert (said.code, said.error["code"]) == (2, "usage")
