"""`interlock evidence report`: one page from an archive, which shows what was not observed, and cannot be made to do anything."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

from evidence_world import FINISHED, Run, command, decided, intent, succeeded
from hypothesis import given
from hypothesis import strategies as st

from interlock.model import events as e
from interlock.surfaces.cli import app
from interlock.surfaces.evidence import page as pages
from interlock.surfaces.evidence.graph import graph
from interlock.surfaces.evidence.story import Process, children, read_story
from interlock.verification.verify import verify

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=y> \u202e\x1b[31m & \"'"
FORMAT = Path(__file__).parents[2] / "docs/reference/evidence-format.md"
VOID = {"meta", "br", "img", "path", "rect"}


class Page(HTMLParser):
    """The text of a page, with every tag and attribute that is in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.words: list[str] = []
        self.feed(text)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {(name, value or "") for name, value in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag, "tags are closed in their order"

    def handle_data(self, data):
        self.words.append(data)


def page_of(archive) -> str:
    checked = verify(io.BytesIO(archive.data))
    assert checked.documents is not None, checked.verdict.errors
    story = read_story(io.BytesIO(archive.data))
    return "".join(pages.page(story, checked.documents, checked.verdict))


def kept(value):
    data = json.dumps(value).encode()
    return e.Kept(digest="sha256:" + "0" * 64, bytes=len(data), view=value)


def received(*actions):
    document = kept({"id": "p", "actions": list(actions)})
    return e.ProposalReceived(
        proposal="p", step=1, source="test", agent="coder", action_count=len(actions), digest="d", document=document
    )


def test_it_shows_what_was_decided_answered_and_done(tmp_path):
    run = Run(
        tmp_path,
        received(
            {"id": "a", "type": "tool_call", "tool": "shell", "parameters": {"command": "make"}},
            {"id": "b", "type": "tool_call", "tool": "fs.write", "parameters": {"content": "$a.output"}},
        ),
        decided("a", "ask", policies=("ask:shell",)),
        e.ActionHeld(proposal="p", action="a", step=6, approval="hold_1"),
        e.HoldResolved(proposal="p", action="a", step=6, approval="hold_1", decision="approved", approver="ann"),
        intent("a"),
        succeeded("a"),
        decided("b", "deny", tool="fs.write"),
        e.ActionRejected(proposal="p", action="b", step=5, reason="policy_denied", detail="no policy permits it"),
        e.ProposalFinished(proposal="p", status="rejected", cost={}),
        FINISHED,
    )
    page = Page(page_of(run.export(tmp_path)))
    assert page.open == []
    for words in (
        "Decision: ask by ask:shell",
        "approved by ann",
        "make",
        "policy_denied: no policy permits it",
        "Effects were not observed in the kernel",
        "Signed by no one",
        "No recorder watched this action",
        "Correlation",
    ):
        assert words in page.text
    assert "path" in page.tags, "b waits for a: the graph has an edge"


def test_a_host_that_was_refused_is_not_shown_as_one_that_was_reached(tmp_path):
    def connection(host, outcome, reason=None):
        return e.ActionConnection(
            proposal="p", action="a", step=9, host=host, port=443, via="connect", outcome=outcome, reason=reason
        )

    run = Run(
        tmp_path,
        received({"id": "a", "type": "tool_call", "tool": "shell", "parameters": {"command": "make"}}),
        decided(),
        intent(),
        connection("ok.example.org", "connected"),
        connection("evil.example.org", "refused", "host_denied"),
        connection("down.example.org", "failed"),
        succeeded(),
        FINISHED,
    )
    page = page_of(run.export(tmp_path))
    hosts = re.search("<small>Hosts</small><pre>(.*?)</pre>", page, re.DOTALL)[1].splitlines()
    assert hosts == [
        "ok.example.org:443",
        "evil.example.org:443 (refused: host_denied)",
        "down.example.org:443 (failed)",
    ]


def test_an_action_without_a_recorder_says_why_if_that_is_known(tmp_path):
    spec = {"id": "a", "type": "tool_call", "tool": "mcp.read", "parameters": {}}
    posture = {"record": "absent(what several runs can use is not recorded: MCP servers)"}
    run = Run(tmp_path, received(spec), decided(tool="mcp.read"), intent(), succeeded(posture=posture), FINISHED)
    assert (
        f"No recorder watched this action in the kernel: {posture['record']}."
        in Page(page_of(run.export(tmp_path))).text
    )


def test_nothing_in_an_archive_can_act_on_who_reads_the_page(tmp_path):
    run = Run(
        tmp_path,
        received(
            {"id": "a", "type": "tool_call", "tool": HOSTILE, "parameters": {HOSTILE: HOSTILE}, "dependencies": ["a"]}
        ),
        decided("a", tool=HOSTILE, policies=(HOSTILE,)),
        intent("a", tool=HOSTILE),
        e.ActionFailed(proposal="p", action="a", step=10, attempt=1, reason="failed", error=HOSTILE),
        FINISHED,
    )
    text = page_of(run.export(tmp_path))
    page = Page(text)
    assert page.open == []
    assert not page.tags & {"script", "img", "link", "iframe", "object", "form", "a"}
    assert not {name for name, _ in page.attributes if name.startswith("on") or name in ("src", "href")}
    assert not [value for _, value in page.attributes if "://" in value and value != "http://www.w3.org/2000/svg"]
    assert re.search(r"[\x00-\x08\x0b-\x1f\u202e]", text) is None
    assert "default-src 'none'" in text


def test_of_a_measured_run_it_shows_the_processes_as_a_tree(tmp_path):
    tree = [
        Process(1, 0, "/bin/sh", ("sh", "-c", "x")),
        Process(2, 1, "/opt/x", ("x",)),
        Process(2, 1, "/usr/bin/x", ("x",)),
        Process(3, 2, "/bin/y", ("y",)),
        Process(4, 1, "/bin/z", ("z",)),
    ]
    assert [(depth, [one.program for one in programs]) for depth, programs in children(tree)] == [
        (0, ["/bin/sh"]), (1, ["/usr/bin/x"]), (2, ["/bin/y"]), (1, ["/bin/z"])
    ]  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6))))
def test_every_process_is_shown_once_whatever_the_parents(pairs):
    tree = [Process(pid, parent, "p", (str(number),)) for number, (pid, parent) in enumerate(pairs)]
    shown = [one for _, programs in children(tree) for one in programs]
    assert sorted(shown) == sorted(tree)


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdefx")), min_size=1))
def test_a_graph_with_circles_can_be_drawn(needs):
    text = graph(needs, {name: f"{name}&amp;{'x' * 30}" for name in needs})
    assert text.count("<rect") == len(needs)
    Page(text)


def test_every_note_of_the_format_is_explained():
    text = FORMAT.read_text().partition("\n| note ")[2].partition("\n\n")[0]
    rows = [line.split("|")[1] for line in text.splitlines()[2:]]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(pages.NOTES)


def test_the_command_verifies_first_and_overwrites_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    archive = Run(tmp_path, command(), e.CommandFinished(exit_code=3, success=False, window_elapsed_ms=5), FINISHED)
    data = archive.export(tmp_path).data
    (tmp_path / "r.tar.gz").write_bytes(data)
    assert app.run(["evidence", "report", "r.tar.gz"]) == 0
    assert "exit code 3" in Page((tmp_path / "r.html").read_text()).text
    assert app.run(["evidence", "report", "r.tar.gz"]) == 2
    assert "--output" in capsys.readouterr().err
    (tmp_path / "bad.tar.gz").write_bytes(data[:-40])
    assert app.run(["evidence", "report", "bad.tar.gz"]) == 4
    assert not (tmp_path / "bad.html").exists()
    assert app.run(["evidence", "report", "none.tar.gz"]) == 2
    assert app.run(["evidence", "report", "r.tar.gz", "-o", "no/such/place"]) != 0
    assert app.run(["evidence", "report", "r.tar.gz", "-o", "signed.html", "--require-signature"]) == 4
    capsys.readouterr()


def test_the_page_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("interlock.surfaces.evidence.story.ACTIONS_MAX", 3)
    actions = [{"id": f"a{n}", "type": "tool_call", "tool": "t", "parameters": {}} for n in range(10)]
    run = Run(tmp_path, received(*actions), FINISHED)
    assert "7 more actions are in the archive" in Page(page_of(run.export(tmp_path))).text


def test_a_file_that_is_not_an_archive_is_not_read_further(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert app.run(["evidence", "report", "/dev/zero", "-o", "x.html"]) == 4
    said = capsys.readouterr().err
    assert "not_an_archive" in said
    assert "in this machine" not in said
    assert list(tmp_path.iterdir()) == []
