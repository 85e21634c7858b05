"""What a question shows: every word that could be code, no secret in its summary, and no more than that to notifiers."""

import json

import msgspec
import pytest
from engine_world import TOML, call, execute

from interlock.approvals import Approver
from interlock.approvals.hold import ANY_GROUP
from interlock.engine.people import answers as answering_module
from interlock.engine.people.answers import Answering
from interlock.journal import delete_private
from interlock.model.decision import Requirement
from interlock.model.errors import IntegrityError, StoreError

ASKING = TOML % 'ask = ["shell", "exec", "fs.*"]\n'
TOKEN = "gh" + "p_" + "aB3dE5gH7jK9mN1pQ3sT5vX7zA9cD1eF3gH5"


@pytest.fixture
def asking(new_project):
    return new_project(toml=ASKING)


class Told:
    """A notifier that remembers."""

    name = "told"

    def __init__(self):
        self.holds = []

    def notify(self, hold, timeout_s):
        self.holds.append(hold)


def ask(project, *actions):
    """The question about a call that nobody waits for, and what notifiers were told."""
    rt = project.open()
    told = Told()
    rt.services.desk.notify_through([told])
    rt.services.desk.wait = False
    result = execute(rt, *actions)
    (hold,) = rt.services.desk.store.list_holds("pending")
    rt.services.desk.close()
    return result, hold, told.holds[0]


@pytest.mark.parametrize(
    ("tool", "parameters", "code"),
    [
        ("shell", {"command": "echo https://ci:x;touch${IFS}pwned;:@artifacts.example/build.tgz"}, "touch${IFS}pwned"),
        ("shell", {"command": "cat <<X\n-----BEGIN PRIVATE KEY-----\n$(touch pwned)\n-----END PRIVATE KEY-----\nX"}, "touch"),
        ("exec", {"argv": ["sh", "-c", "$PASSWORD"], "env": {"PASSWORD": "rm -rf important"}}, "rm -rf important"),
        ("fs.write", {"path": "x", "content": "-----BEGIN PRIVATE KEY-----\ntouch pwned\n-----END PRIVATE KEY-----\n"}, "pwned"),
    ],
)  # fmt: skip
def test_what_runs_is_what_was_shown(asking, tool, parameters, code):
    _, hold, _ = ask(asking, call(tool, parameters=parameters))
    assert hold.parameters == parameters
    assert code in json.dumps(hold.parameters)


@pytest.mark.parametrize(
    ("tool", "parameters", "secret"),
    [
        ("exec", {"argv": ["mysql", "--password", "hunter2-hunter2"]}, "hunter2-hunter2"),
        ("exec", {"argv": ["curl", "-u", "me:" + TOKEN, "https://example.org"]}, TOKEN),
        ("shell", {"command": f"GITHUB_TOKEN={TOKEN} gh release list"}, TOKEN),
    ],
)
def test_the_summary_is_made_of_what_is_shown(asking, tool, parameters, secret):
    result, hold, told = ask(asking, call(tool, "c", parameters=parameters))
    assert "[redacted:" in hold.summary
    for text in (repr(hold), repr(told), repr(result["c"])):
        assert secret not in text
    for file in asking.state.rglob("interlock.db*"):
        assert secret.encode() not in file.read_bytes()


def test_the_summary_of_an_argument_vector_is_as_one_would_type_it(asking):
    _, hold, _ = ask(asking, call("exec", parameters={"argv": ["printf", "%s\n", "a b", "plain"]}))
    assert hold.summary == "exec: printf '%s\n' 'a b' plain"


def test_notifiers_are_told_less_than_an_approver_sees(asking):
    parameters = {"command": "PASSWORD=hunter2; echo $PASSWORD https://ci:p;w@example.org"}
    _, hold, told = ask(asking, call("shell", parameters=parameters))
    assert hold.parameters == parameters
    for secret in ("hunter2", "p;w"):
        assert secret in hold.summary
        assert secret not in repr(told)


ME = Approver(id="me", display="Me", groups=(ANY_GROUP,))


def looks(rt, hold_id):
    return [(r.event, r.who, r.surface) for r in rt.services.desk.store.audit.records(hold_id) if "original" in r.event]


def test_who_may_answer_can_see_the_original_and_that_is_on_record(asking):
    parameters = {"command": f"GITHUB_TOKEN={TOKEN} gh release list"}
    _, hold, _ = ask(asking, call("shell", parameters=parameters))
    rt = asking.open()
    answering = Answering(rt.services.desk, "cli")
    outcome, shown = answering.original(hold.id, ME, digest=hold.digest)
    assert (outcome.code, shown) == ("recorded", parameters)
    assert looks(rt, hold.id) == [("original_shown", "me", "cli")]
    journal = (asking.state / rt.services.workspace_id / "runs" / hold.run / "journal.ndjson").read_bytes()
    assert TOKEN.encode() not in journal


def test_the_record_comes_before_what_it_records(asking, monkeypatch):
    _, hold, _ = ask(asking, call("shell", parameters={"command": f"echo {TOKEN}"}))
    rt = asking.open()

    def full(*_args, **_more):
        raise StoreError("the disk is full", code="disk_full")

    monkeypatch.setattr(rt.services.desk.store.audit, "write", full)
    monkeypatch.setattr(answering_module, "original_parameters", lambda *_: pytest.fail("it was read"))
    with pytest.raises(StoreError):
        Answering(rt.services.desk, "cli").original(hold.id, ME, digest=hold.digest)


def test_an_edited_question_shows_the_edited_original(asking):
    _, hold, _ = ask(asking, call("exec", parameters={"argv": ["echo", TOKEN], "env": {"API_TOKEN": TOKEN}}))
    rt = asking.open()
    two = Requirement(policy="two", content="sha256:2", quorum=2)
    question = msgspec.json.decode(rt.services.db.execute("select question from approvals")[0][0])
    question["requirements"] = [msgspec.to_builtins(two)]
    rt.services.db.execute("update approvals set question = ?", (msgspec.json.encode(question).decode(),))
    answering = Answering(rt.services.desk, "cli")
    edited = answering.answer(hold.id, ME, "edit", digest=hold.digest, patch={"argv": ["true"]}).hold
    assert answering.original(hold.id, ME, digest=hold.digest)[0].code == "changed"
    _, shown = answering.original(hold.id, ME, digest=edited.digest)
    assert shown == {"argv": ["true"], "env": {"API_TOKEN": TOKEN}}


def test_the_original_is_for_who_may_answer_while_the_question_is_open(asking):
    _, hold, _ = ask(asking, call("shell", parameters={"command": f"echo {TOKEN}"}))
    rt = asking.open()
    answering = Answering(rt.services.desk, "cli")
    agent = Approver(id=hold.agent, groups=(ANY_GROUP,))
    outcome, shown = answering.original(hold.id, agent, digest=hold.digest)
    assert (outcome.code, shown) == ("agent_may_not_approve", None)
    answering.answer(hold.id, ME, "deny")
    outcome, shown = answering.original(hold.id, ME, digest=hold.digest)
    assert (outcome.code, shown) == ("already_resolved", None)
    assert looks(rt, hold.id) == []
    assert answering.original("hold_none", ME, digest="")[0].code == "not_found"


def test_an_original_that_is_not_what_is_approved_is_not_shown(asking):
    _, hold, _ = ask(asking, call("shell", parameters={"command": f"echo {TOKEN}"}))
    rt = asking.open()
    delete_private(asking.state / rt.services.workspace_id / "runs" / hold.run, rt.services.disk)
    with pytest.raises(IntegrityError) as found:
        Answering(rt.services.desk, "cli").original(hold.id, ME, digest=hold.digest)
    assert found.value.code == "original_missing"
