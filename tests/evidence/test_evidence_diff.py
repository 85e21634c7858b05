"""`interlock evidence diff`: what changed from one run to another, as a gate for CI, and in formats that others read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evidence_world import FINISHED, Run, decided, intent, kernel_lines, succeeded
from jsonschema_rs import validator_for
from junitparser import JUnitXml

from interlock.model import events as e
from interlock.signing import Signer
from interlock.surfaces.cli import app
from interlock.surfaces.evidence.reports import junit, sarif
from interlock.verification.difference import KINDS, Change

WHERE = {"proposal": "p", "action": "a", "attempt": 1}
SIGNER = Signer.generate()
SARIF = validator_for(json.loads((Path(__file__).with_name("sarif-2.1.0.schema.json")).read_bytes()))


def read(path):
    return {"call": "openat", "path": path, "access": "read"}


def write(path):
    return {"call": "openat", "path": path, "access": "write", "flags": ["create"]}


def execute(path):
    return {"call": "execve", "path": path}


def connect(host, port=443):
    return {"call": "connect", "family": "inet", "host": host, "port": port}


USUAL = [read("/w/in"), write("/w/out"), execute("/bin/sh"), connect("10.0.0.1")]


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes an archive of one recorded action; returns its file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INTERLOCK_STATE_DIR", "/proc/none")

    def archive(name, calls, *more, decision="allow", tool="shell", ended=True, recorded=True, signers=(SIGNER,)):
        room = tmp_path / f"of-{name}"
        room.mkdir()
        run = Run(
            room, decided(decision=decision, tool=tool), intent(tool=tool), *more,
            succeeded(posture={"net": "active", "record": "active"}), FINISHED,
            kernel=kernel_lines(*calls, ended=ended, **WHERE) if recorded else (),
        )  # fmt: skip
        path = tmp_path / f"{name}.tar.gz"
        path.write_bytes(run.export(room, signers).data)
        return path

    return archive


@pytest.fixture
def diff(capsys):
    """Runs the command; returns the exit code and the document."""

    def run(*argv):
        code = app.run(["evidence", "diff", *map(str, argv), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return run


def shown(document):
    return [(change["kind"], change["value"]) for change in document["changes"]]


def test_the_same_run_has_no_change(make, diff):
    a, b = make("a", USUAL), make("b", USUAL)
    code, found = diff(
        a, b, "--fail-on", "new-host,new-program,new-file-written,new-file-read,less-observed,new-ambiguity"
    )
    assert (code, found["failed"], found["changes"]) == (0, False, [])


def test_what_is_new_and_what_is_gone_is_listed_by_kind(make, diff):
    changed = [
        read("/w/other"),
        write("/w/out"),
        write("/etc/x"),
        execute("/usr/bin/curl"),
        connect("evil.example", 80),
    ]
    a, b = make("a", USUAL), make("b", changed, decision="ask", tool="exec")
    code, found = diff(a, b)
    assert (code, found["failed"]) == (0, False)
    assert shown(found) == [
        ("new-host", "evil.example:80"),
        ("gone-host", "10.0.0.1:443"),
        ("new-program", "/usr/bin/curl"),
        ("gone-program", "/bin/sh"),
        ("new-file-read", "/w/other"),
        ("gone-file-read", "/w/in"),
        ("new-file-written", "/etc/x"),
        ("new-tool", "exec"),
        ("gone-tool", "shell"),
        ("new-decision", "ask:exec"),
        ("gone-decision", "allow:shell"),
    ]


def test_a_gate_fails_on_what_it_was_asked_to(make, diff):
    a, b = make("a", USUAL), make("b", [*USUAL, connect("evil.example"), read("/w/new")])
    code, found = diff(a, b, "--fail-on", "new-host,new-program")
    assert code == 1
    assert [(change["value"], change["fails"]) for change in found["changes"]] == [
        ("evil.example:443", True),
        ("/w/new", False),
    ]
    assert diff(a, b, "--fail-on", "new-program", "--fail-on", "new-tool")[0] == 0
    assert diff(b, a, "--fail-on", "new-host")[0] == 0
    assert diff(b, a, "--fail-on", "gone-host")[0] == 1


def test_a_gate_fails_where_nobody_looked(make, diff):
    """No new host in a list that does not claim to have all of them is no answer."""
    a, b = make("a", USUAL), make("b", USUAL, recorded=False)
    code, found = diff(a, b, "--fail-on", "new-program")
    assert code == 1
    assert {(c["kind"], c["value"]) for c in found["changes"] if c["fails"]} == {("unobserved-program", "programs")}
    assert ("less-observed", "kernel: complete -> absent") in shown(found)
    assert ("new-note", "contract_only_mode") in shown(found)
    assert diff(a, b, "--fail-on", "new-program", "--allow-unobserved")[0] == 0
    assert diff(b, b, "--fail-on", "new-program")[0] == 1, "neither run was observed"
    assert diff(b, b, "--fail-on", "new-tool")[0] == 0, "tools of the gate are always known"
    assert diff(a, b, "--fail-on", "less-observed", "--allow-unobserved")[0] == 1


def test_drops_and_ambiguities_are_changes(make, diff):
    a = make("a", USUAL)
    b = make("b", USUAL, ended={"dropped": 7})
    found = diff(a, b)[1]
    assert {("less-observed", "kernel: complete -> partial"), ("new-note", "kernel_drops")} <= set(shown(found))
    c = make("c", [])
    assert ("new-ambiguity", "policy_without_effects: 0 -> 1") in shown(diff(a, c, "--fail-on", "new-ambiguity")[1])
    assert diff(a, c, "--fail-on", "new-ambiguity")[0] == 1
    assert diff(c, c, "--fail-on", "new-ambiguity")[0] == 0


def test_values_that_do_not_count_are_left_out(make, diff):
    a, b = make("a", USUAL), make("b", [*USUAL, write("/tmp/x1/y"), write("/tmp/x2"), write("/w/new")])
    code, found = diff(a, b, "--ignore", "/tmp/*", "--fail-on", "new-file-written")
    assert (code, shown(found)) == (1, [("new-file-written", "/w/new")])
    assert diff(a, b, "--ignore", "/tmp/*", "--ignore", "/w/n?w", "--fail-on", "new-file-written")[0] == 0


def test_a_bad_archive_is_never_compared(make, diff, tmp_path):
    a, b = make("a", USUAL), make("b", USUAL)
    b.write_bytes(b.read_bytes()[:-9])
    for pair in ((a, b), (b, a)):
        code, found = diff(*pair)
        assert (code, found["error"]["code"]) == (4, "archive_bad")
        assert "archive_truncated" in found["error"]["message"]
        assert found["error"]["path"].startswith(str(b))
    assert diff(a, tmp_path / "none")[1]["error"]["code"] == "not_found"
    stranger = make("s", USUAL, signers=(Signer.generate(),))
    assert diff(a, stranger, "--key", SIGNER.keyid)[0] == 4
    assert diff(a, make("u", USUAL, signers=()), "--require-signature")[0] == 4
    assert diff(a, a, "--key", SIGNER.keyid, "--require-signature")[0] == 0


def test_a_kind_that_does_not_exist_is_a_mistake(make, diff):
    a = make("a", USUAL)
    code, found = diff(a, a, "--fail-on", "new-hosts")
    assert (code, found["error"]["code"]) == (2, "usage")
    assert "new-host," in found["error"]["hint"]


def test_people_see_each_kind_with_its_values(make, capsys):
    a = make("a", USUAL)
    b = make(
        "b",
        [*USUAL, *(read(f"/w/{n:03}\x1b[2J") for n in range(25))],
        e.ActionLog(proposal="p", action="a", message="x"),
    )
    assert app.run(["evidence", "diff", str(a), str(b), "--fail-on", "new-file-read"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "new-file-read: 25, which fails"
    assert lines[1] == r"  /w/000\x1b[2J"
    assert lines[-1] == "  and 5 more (`--json` shows all)"
    assert app.run(["evidence", "diff", str(a), str(a)]) == 0
    assert capsys.readouterr().out == "no change\n"


def test_the_guide_names_every_kind():
    page = (Path(__file__).parents[2] / "docs/guides/evidence.md").read_text()
    for kind in KINDS:
        first, _, word = kind.partition("-")
        assert f"`{kind}`" in page or (f"`{first}-X`" in page and f"`{word}`" in page), kind


# -- what others read


def test_sarif_is_of_its_schema_and_names_every_change(make, diff, tmp_path):
    a, b = make("a", USUAL), make("b", [*USUAL, connect("evil.example"), write("/w/n \u00fc\x01")])
    path = tmp_path / "out.sarif"
    code, found = diff(a, b, "--fail-on", "new-host", "--sarif", path)
    log = json.loads(path.read_bytes())
    SARIF.validate(log)
    assert code == 1
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == list(KINDS)
    results = {result["ruleId"]: result for result in run["results"]}
    assert (results["new-host"]["level"], results["new-file-written"]["level"]) == ("error", "note")
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    assert len(run["results"]) == len(found["changes"])
    prints = [result["partialFingerprints"]["interlockChange/v1"] for result in run["results"]]
    assert len(set(prints)) == len(prints)


def test_sarif_keeps_what_fails_when_there_is_too_much():
    many = [Change(kind="new-file-read", value=f"/w/{n}", fails=False) for n in range(5100)]
    log = json.loads(sarif([*many, Change(kind="new-host", value="x", fails=True)], "b.tar.gz"))
    SARIF.validate(log)
    (run,) = log["runs"]
    assert (len(run["results"]), run["properties"]["leftOut"]) == (5000, 101)
    assert run["results"][0]["level"] == "error"


def test_no_change_is_an_empty_sarif_run():
    log = json.loads(sarif([], "b.tar.gz"))
    SARIF.validate(log)
    assert log["runs"][0]["results"] == []


def test_junit_has_a_case_for_each_kind(make, diff, tmp_path):
    a, b = make("a", USUAL), make("b", [*USUAL, connect("evil.example"), connect("worse\x01\ufffe.example")])
    path = tmp_path / "out.xml"
    assert diff(a, b, "--fail-on", "new-host,new-program", "--junit", path)[0] == 1
    (suite,) = JUnitXml.fromfile(str(path))
    cases = {case.name: case for case in suite}
    assert (suite.tests, suite.failures) == (2, 1)
    assert cases["new-program"].is_passed
    (failure,) = cases["new-host"].result
    assert "evil.example:443" in failure.text
    assert "worse\ufffd\ufffd.example:443" in failure.text


def test_junit_shows_a_kind_that_nobody_asked_for_but_that_failed(make, diff, tmp_path):
    a, b = make("a", USUAL), make("b", USUAL, recorded=False)
    path = tmp_path / "out.xml"
    diff(a, b, "--fail-on", "new-host", "--junit", path)
    (suite,) = JUnitXml.fromfile(str(path))
    assert [case.name for case in suite] == ["new-host"]
    diff(a, b, "--fail-on", "new-program", "--junit", path)
    (suite,) = JUnitXml.fromfile(str(path))
    assert [(case.name, case.is_passed) for case in suite] == [("new-program", True), ("unobserved-program", False)]


def test_junit_without_a_kind_is_an_empty_suite():
    (suite,) = JUnitXml.fromstring(junit([], [], "b.tar.gz"))
    assert (suite.tests, suite.failures) == (0, 0)


def test_a_report_that_cannot_be_written_is_reported(make, diff):
    a = make("a", USUAL)
    code, found = diff(a, a, "--sarif", "/proc/none/x.sarif")
    assert code == 2
    assert found["error"]["path"] == "/proc/none/x.sarif"
