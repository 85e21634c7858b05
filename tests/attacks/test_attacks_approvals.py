"""An agent that wants more out of an answer than was asked for."""

import asyncio
import base64
import threading
import time

import pytest
from engine_world import call, execute, plan, reasons, statuses

from interlock.approvals import Approver
from interlock.model.decode import proposal_from_builtins
from interlock.model.errors import ProposalError
from interlock.surfaces.cli.holds import hold_lines
from interlock.surfaces.cli.output import Output

ASK = """
agent = "coder"

[rules]
allow = ["fs.read"]
ask = ["fs.write", "shell"]

[grants.coder]
tools = ["fs.*", "shell"]
"""
BOB = Approver(id="bob", groups=("*",))


class Human:
    """Answers questions with yes, as they come; `first` is called before the first answer."""

    def __init__(self, rt, first=None):
        self.store = rt.services.desk.store
        self.first = first
        self.answered = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _work(self):
        while not self._stop.is_set():
            for hold in self.store.list_holds("pending"):
                if self.first is not None and not self.answered:
                    self.first()
                self.answered.append(hold)
                self.store.vote(hold.id, BOB, "cli", "approve", digest=hold.digest)
            time.sleep(0.01)


def test_an_answer_is_not_used_again_by_a_proposal_of_the_same_name(victim):
    project = victim(ASK)
    rt = project.open()
    proposal = proposal_from_builtins(plan(call("shell", "a", parameters={"command": "echo x >> count"}), id="p"))

    async def twice():
        run = rt.runs.start()
        try:
            first = await run.execute(proposal)
            with pytest.raises(ProposalError) as refused:
                await run.execute(proposal)
            return first, refused.value
        finally:
            run.finish()

    with Human(rt) as human:
        first, error = asyncio.run(twice())
    assert statuses(first) == ["succeeded"]
    assert (error.code, error.path) == ("duplicate_id", "$.id")
    assert len(human.answered) == 1
    assert (project.root / "count").read_text() == "x\n"


def test_an_answer_is_not_used_by_the_same_call_of_another_run(victim):
    rt = victim(ASK).open()
    with Human(rt) as human:
        for _ in range(2):
            execute(rt, call("shell", "a", parameters={"command": "true"}), id="p")
    assert len(human.answered) == 2


@pytest.mark.parametrize("encoded", ["", '"', base64.b64encode(b"real").decode() + '"}'])
def test_a_name_that_looks_like_the_other_spelling_of_paths_is_an_ordinary_name(victim, encoded):
    project = victim(ASK, {"real": "mine"})
    rt = project.open()
    name = '{"b64":' + ('"' if encoded.endswith("}") else "") + encoded
    with Human(rt) as human:
        result = execute(rt, call("fs.write", parameters={"path": name, "content": "x"}), deadline_ms=10_000)
    assert statuses(result) == ["succeeded"]
    assert len(human.answered) == 1
    assert (project.root / name).read_text() == "x"
    assert (project.root / "real").read_text() == "mine"


@pytest.mark.parametrize("mode", ["direct", "layer"])
@pytest.mark.parametrize("name", ["new.txt", "same.txt"])
def test_a_link_that_leads_elsewhere_after_the_question_does_not_lead_the_call_there(victim, name, mode):
    """Directly the call is asked about again; a layer continues with the link that it has seen."""
    project = victim(f'{ASK}[workspace]\nmode = "{mode}"\n', {"harmless/same.txt": "x", "important/same.txt": "x"})
    (project.root / "link").symlink_to("harmless")
    rt = project.open()

    def swap():
        (project.root / "link").unlink()
        (project.root / "link").symlink_to("important")

    with Human(rt, swap) as human:
        execute(rt, call("fs.write", parameters={"path": f"link/{name}", "content": "new"}), deadline_ms=10_000)
    if mode == "direct" or len(human.answered) == 2:
        assert len(human.answered) == 2
    else:
        assert (project.root / "harmless" / name).read_text() == "new"
        assert [path.read_text() for path in (project.root / "important").iterdir()] == ["x"]


def test_an_approved_parameter_is_the_one_that_is_used_whatever_it_refers_to(victim):
    project = victim(ASK, {"a.txt": "echo harmless", "b.txt": "x"})
    rt = project.open()

    def change():
        (project.root / "a.txt").write_text("echo evil > owned")

    read = call("fs.read", "r", parameters={"path": "a.txt"})
    with Human(rt, change) as human:
        result = execute(rt, read, call("shell", "s", parameters={"command": "$r.output.content"}))
    assert human.answered[0].parameters == {"command": "echo harmless"}
    assert result.results[1].output["stdout"] == "harmless\n"
    assert not (project.root / "owned").exists()


def test_what_an_agent_says_cannot_draw_on_the_terminal(victim):
    rt = victim(ASK).open()
    evil = "\x1b[2J\x1b]0;x\x07\r\u202eapproved\u2066 a\u0085b\n  why: it is harmless"
    with Human(rt) as human:
        execute(rt, call("shell", parameters={"command": evil, "check": False}))
    text = "\n".join(hold_lines(Output(), human.answered[0], full=True))
    assert not set(text) & set("\x1b\x07\r\u202e\u2066\u0085")
    assert "\n  why: it is harmless" not in text


def test_the_agent_does_not_answer_for_itself(victim):
    rt = victim(ASK).open()
    codes = []

    def answer():
        while not codes:
            for hold in rt.services.desk.store.list_holds("pending"):
                me = Approver(id="coder", groups=("*",))
                codes.append(rt.services.desk.store.vote(hold.id, me, "cli", "approve", digest=hold.digest).code)
                rt.services.desk.store.vote(hold.id, BOB, "cli", "deny", digest=hold.digest)
            time.sleep(0.01)

    thread = threading.Thread(target=answer)
    thread.start()
    result = execute(rt, call("shell", parameters={"command": "true"}))
    thread.join()
    assert codes == ["agent_may_not_approve"]
    assert reasons(result) == ["approval_denied"]
