"""Questions in the engine: asked, answered from elsewhere, withdrawn, asked again; and grants that change meanwhile."""

import asyncio
import contextlib
import threading
import time

import pytest
from engine_world import AGENT, TOML, binding, call, change_services, execute, expect, plan, reasons, statuses, write

import interlock
from interlock.approvals import Approver
from interlock.approvals.hold import ANY_GROUP, Standing
from interlock.engine.runs.resume import resume
from interlock.model.errors import UsageError
from interlock.model.events import ActionWaiting
from interlock.model.grant import Grant
from interlock.model.tool import RateLimit
from interlock.surfaces.cli.holds import hold_lines
from interlock.surfaces.cli.output import Output

ASKING = TOML % 'ask = ["risky", "fs.write"]\n'
ME = Approver(id="me", display="Me", groups=(ANY_GROUP,))
SECRET = "ghp_" + "aB3dE5gH7jK9mN1pQ3sT5vX7zA9cD1eF3gH5"


@pytest.fixture
def asking(new_project):
    return new_project(toml=ASKING)


def risky(log, **definition):
    async def tool(parameters, ctx):
        log.append(parameters)
        return parameters

    return binding("risky", tool, **definition)


def answer(rt, decision="approve", **fields):
    """A listener that answers each question from another thread, as another process would: through the database."""

    def told(hold):
        def vote():
            rt.services.desk.store.vote(hold.id, ME, "cli", decision, digest=hold.digest, **fields)

        threading.Thread(target=vote).start()

    rt.services.desk.listeners.append(told)


def asked(rt):
    """Everything that was ever asked, oldest first."""
    return rt.services.desk.store.list_holds(None, limit=1000)


def test_an_approved_action_runs(asking):
    log = []
    rt = asking.open(risky(log))
    answer(rt)
    result = execute(rt, call("risky", "r", parameters={"x": 1}), write("k", 1))
    assert result.ok
    assert log == [{"x": 1}]
    assert result["r"].waited_ms > 0
    kinds = asking.kinds(result.run_id, "r")
    assert kinds == [
        "policy_decided", "action_held", "action_waiting", "hold_resolved", "policy_decided", "action_intent",
        "action_succeeded",
    ]  # fmt: skip


@pytest.mark.parametrize(("decision", "reason"), [("deny", "approval_denied")])
def test_a_denied_action_aborts(asking, decision, reason):
    log = []
    rt = asking.open(risky(log))
    answer(rt, decision, reason="not today")
    result = execute(rt, write("k", 1), call("risky", "r"))
    assert (statuses(result), reasons(result)[1]) == (["rolled_back", "rejected"], reason)
    assert "not today" in result["r"].error
    assert log == []


def test_nobody_answers(new_project):
    project = new_project(toml=ASKING + '[approvals]\nttl = "150ms"\n')
    log = []
    rt = project.open(risky(log))
    result = execute(rt, call("risky", failure_behavior="skip"), write("k", 1))
    assert reasons(result) == ["approval_expired", None]
    assert log == []


def test_an_edit_is_judged_and_reported(asking):
    log = []
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}
    rt = asking.open(risky(log, parameters=schema))
    answer(rt, "edit", patch={"x": 2})
    result = execute(rt, call("risky", "r", parameters={"x": 1, "y": 1}))
    assert result.ok
    assert log == [{"x": 2, "y": 1}]
    intent = next(e for e in asking.journal(result.run_id) if e["kind"] == "action_intent")
    assert intent["parameters"]["view"] == {"x": 2, "y": 1}


def misfit(rt, patches, *, gate):
    """A listener that edits in ways that do not fit and notes what is said, then approves; with `gate`, past the door."""
    said = []

    def told(hold):
        def vote():
            store = rt.services.desk.store
            if gate:
                rt.services.db.execute("update approvals set schema = null")  # as a row of an older version
            for patch in patches:
                try:
                    store.vote(hold.id, ME, "cli", "edit", digest=hold.digest, patch=patch)
                except UsageError as error:
                    said.append((error.code, error.path))
            store.vote(hold.id, ME, "cli", "approve", digest=hold.digest)

        threading.Thread(target=vote).start()

    rt.services.desk.listeners.append(told)
    return said


INTEGER = {"type": "object", "properties": {"x": {"type": "integer"}}, "additionalProperties": False}


def test_an_edit_that_does_not_fit_is_refused_and_the_question_stays_open(asking):
    log = []
    rt = asking.open(risky(log, parameters=INTEGER))
    said = misfit(rt, [{"x": "two"}, {"y": 1}], gate=False)
    assert execute(rt, call("risky", parameters={"x": 1})).ok
    assert said == [("invalid_parameters", "$.x"), ("invalid_parameters", "$")]
    assert log == [{"x": 1}]


def test_the_gate_looks_at_an_edit_too(asking):
    log = []
    rt = asking.open(risky(log, parameters=INTEGER))
    misfit(rt, [{"x": "two"}], gate=True)
    assert reasons(execute(rt, call("risky", parameters={"x": 1}))) == ["invalid_parameters"]
    assert log == []


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("patch", [{"key": "secret.x"}, {"key": None}, {"key": 5}, {"more": 1}])
def test_an_edit_cannot_give_a_state_action_another_key(new_project, patch, gate):
    toml = TOML.replace('tools = ["*"]', 'tools = ["*"]\nstate_keys = ["public.*"]') % 'ask = ["state_write"]\n'
    rt = new_project(toml=toml).open()
    said = misfit(rt, [patch], gate=gate)
    result = execute(rt, write("public.a", 1))
    if gate:
        assert reasons(result) == ["invalid_parameters"]
    else:
        assert result.ok
        assert said[0][0] == "invalid_parameters"
    assert rt.services.store.get("secret.x") is None


def test_an_edit_of_what_is_written(new_project):
    rt = new_project(toml=TOML % 'ask = ["state_write"]\n').open()
    answer(rt, "edit", patch={"value": 2})
    assert execute(rt, write("k", 1)).ok
    assert rt.services.store.get("k").value == 2


def test_retries_need_no_second_answer(asking):
    attempts = []

    async def flaky(parameters, ctx):
        attempts.append(1)
        if len(attempts) < 3:
            raise ValueError("again")

    rt = asking.open(binding("risky", flaky))
    change_services(rt, jitter=lambda: 0.0)
    answer(rt)
    assert execute(rt, call("risky", failure_behavior="retry")).ok
    assert (len(attempts), len(asked(rt))) == (3, 1)


def test_each_action_is_asked_about(asking):
    log = []
    rt = asking.open(risky(log))
    answer(rt)
    assert execute(rt, call("risky", parameters={"x": 1}), call("risky", parameters={"x": 1})).ok
    assert len(asked(rt)) == 2


def test_two_hundred_questions_at_once_and_no_more_than_the_limit_run_at_once(asking):
    running, most, log = 0, 0, []

    async def tool(parameters, ctx):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.002)
        running -= 1
        log.append(1)

    rt = asking.open(binding("risky", tool), binding("free", tool))

    async def main():
        task = asyncio.get_running_loop().create_task(
            rt.execute(plan(*[call("risky") for _ in range(200)], call("free", "free"), order="free"))
        )
        store = rt.services.desk.store
        while len(store.list_holds("pending", limit=1000)) < 200:
            await asyncio.sleep(0.02)
        while not log:
            await asyncio.sleep(0.01)  # what needs no answer is not held up
        with rt.services.db.transaction():
            for hold in store.list_holds("pending", limit=1000):
                store.vote(hold.id, ME, "cli", "approve", digest=hold.digest)
        return await task

    result = asyncio.run(main())
    assert result.ok
    assert len(log) == 201
    assert most <= rt.services.bounds.concurrency_max


def test_without_waiting_the_action_is_held_and_resume_asks_nothing_twice(asking):
    log = []
    rt = asking.open(risky(log))
    rt.services.desk.wait = False
    last = [write("k", 2, dependencies=["r"]), call("risky", "s", failure_behavior="skip")]
    result = execute(rt, write("k", 1), call("risky", "r"), *last, order="free")
    assert result.status == "held"
    assert statuses(result) == ["succeeded", "held", "skipped", "held"]
    assert reasons(result)[2] == "held"
    assert rt.services.store.get("k") is None
    rt.close()

    rt = asking.open(risky(log))
    first, second = sorted(asked(rt), key=lambda hold: hold.action)  # `r`, `s`
    rt.services.desk.wait = False
    (again,) = asyncio.run(resume(rt.services, result.run_id))
    assert again.status == "held"
    assert {h.id for h in asked(rt)} == {first.id, second.id}
    rt.services.desk.store.vote(first.id, ME, "cli", "approve", digest=first.digest)
    rt.services.desk.store.vote(second.id, ME, "cli", "deny", digest=second.digest)
    (done,) = asyncio.run(resume(rt.services, result.run_id))
    assert statuses(done) == ["succeeded", "succeeded", "succeeded", "rejected"]
    assert reasons(done)[3] == "approval_denied"
    assert len(log) == 1
    assert len(asked(rt)) == 2
    assert rt.services.store.get("k").value == 2


def test_a_question_of_a_proposal_that_was_stopped_is_withdrawn(asking):
    async def fail(parameters, ctx):
        await asyncio.sleep(0.05)
        raise interlock.ToolError("no")

    log = []
    for wait in (True, False):
        rt = asking.open(risky(log), binding("fail", fail))
        rt.services.desk.wait = wait
        result = execute(rt, write("k", 1), call("risky", "r"), call("fail"), order="free")
        assert result.status == "failed", wait
        assert "held" not in statuses(result)
        assert {hold.status for hold in asked(rt)} == {"cancelled"}
        rt.close()


def test_a_question_survives_its_killed_waiter_and_the_answer_continues_the_run(asking):
    body = """
        async def risky(parameters, ctx):
            return "ran"
        rt = project.open(binding("risky", risky))
        rt.services.desk.listeners.append(lambda hold: print(hold.id, flush=True))
        execute(rt, call("risky", "r"), write("k", 1))
    """
    child = asking.script(body)
    hold_id = child.stdout.readline().strip()
    child.kill()
    child.communicate()
    log = []
    rt = asking.open(risky(log))
    (run,) = asking.runs()
    hold = rt.services.desk.store.get(hold_id)
    assert hold.status == "pending"
    rt.services.desk.store.vote(hold.id, ME, "cli", "approve", digest=hold.digest)
    (result,) = asyncio.run(resume(rt.services, run))
    assert result.ok
    assert len(log) == len(asked(rt)) == 1


def test_an_answer_from_another_process(asking):
    log = []
    rt = asking.open(risky(log))
    body = """
        import time
        from test_engine_approvals import ME
        rt = project.open()
        store = rt.services.desk.store
        while not store.list_holds("pending"):
            time.sleep(0.01)
        (hold,) = store.list_holds("pending")
        print(store.vote(hold.id, ME, "cli", "approve", digest=hold.digest).code)
    """
    asking.open().close()
    child = asking.script(body)
    result = execute(rt, call("risky"))
    out, errors = child.communicate(timeout=20)
    assert (result.ok, out.strip()) == (True, "resolved"), errors


def test_rules_that_changed_during_the_wait_decide(asking):
    log = []
    rt = asking.open(risky(log))

    def told(hold):
        text = (asking.root / "interlock.toml").read_text().replace("[grants", 'deny = ["risky"]\n[grants', 1)
        (asking.root / "interlock.toml").write_text(text)
        asking.trust()
        threading.Thread(
            target=lambda: rt.services.desk.store.vote(hold.id, ME, "cli", "approve", digest=hold.digest)
        ).start()

    rt.services.desk.listeners.append(told)
    result = execute(rt, call("risky"))
    assert reasons(result) == ["policy_denied"]
    assert log == []


def test_a_grant_that_was_revoked_during_the_wait(new_project):
    project = new_project(toml=ASKING)
    log = []
    rt = project.open(risky(log))
    grant = rt.services.desk.issued.issue(
        Grant(id="", agent="guest", tools=("risky",), unscoped=("risky",), source="test"), by="me"
    )

    def told(hold):
        def later():
            rt.services.desk.issued.revoke(grant.id, "me")
            rt.services.desk.store.vote(hold.id, ME, "cli", "approve", digest=hold.digest)

        threading.Thread(target=later).start()

    rt.services.desk.listeners.append(told)
    result = execute(rt, call("risky"), agent="guest")
    assert reasons(result) == ["grant_revoked"]
    assert log == []


def test_a_revoked_grant_is_gone_at_once_and_uses_count_across_processes(asking):
    log = []
    rt = asking.open(risky(log), binding("tool", risky(log).function))
    issued = rt.services.desk.issued
    grant = issued.issue(
        Grant(id="", agent="guest", tools=("tool",), unscoped=("tool",), uses_max=3, source="test"), by="me"
    )
    other = asking.open(risky(log), binding("tool", risky(log).function))
    said = [reasons(execute(one, call("tool"), agent="guest"))[0] for one in (rt, other, rt, other)]
    assert said == [None, None, None, "grant_used_up"]
    forever = issued.issue(Grant(id="", agent="g2", tools=("tool",), unscoped=("tool",), source="test"), by="me")
    assert execute(rt, call("tool"), agent="g2").ok
    issued.revoke(forever.id, "me")
    assert reasons(execute(rt, call("tool"), agent="g2")) == ["grant_revoked"]
    assert len(log) == 4
    assert grant.uses_max == 3


def test_a_file_that_changed_during_the_wait_is_shown_again(asking):
    path = asking.root / "f"
    path.write_text("as shown")
    rt = asking.open(risky([]))
    seen = []

    def told(hold):
        seen.append(hold.files[0].digest)
        if len(seen) == 1:
            path.write_text("changed meanwhile")
        threading.Thread(
            target=lambda: rt.services.desk.store.vote(hold.id, ME, "cli", "approve", digest=hold.digest)
        ).start()

    rt.services.desk.listeners.append(told)
    result = execute(rt, call("fs.write", parameters={"path": "f", "content": "new"}))
    assert result.ok
    assert len(seen) == len(set(seen)) == 2
    assert ["`f` has changed since it was approved" in hold.reason for hold in asked(rt)] == [False, True]
    assert path.read_text() == "new"


@pytest.mark.parametrize("how", ['url = "http://127.0.0.1/"\nsecret_env = "NO_SUCH"', 'url_env = "NO_SUCH"'])
def test_a_webhook_whose_variable_is_not_there_is_left_out_with_a_warning(new_project, how):
    """Questions are asked all the same, and undo does not need it."""
    rt = new_project(toml=TOML % "" + f'[[approvals.notify]]\nkind = "webhook"\n{how}\n').open()
    assert any("`NO_SUCH` is not set" in warning for warning in rt.warnings)
    assert execute(rt, write("k", 1)).ok


def test_a_call_that_was_edited_and_is_asked_about_again_can_be_edited_again(asking):
    path = asking.root / "f"
    path.write_text("as shown")
    rt = asking.open(risky([]))
    texts = iter(["first", "second"])

    def told(hold):
        text = next(texts)
        path.write_text(f"changed before the answer {text}") if text == "first" else None

        def vote():
            rt.services.desk.store.vote(hold.id, ME, "cli", "edit", digest=hold.digest, patch={"content": text})

        threading.Thread(target=vote).start()

    rt.services.desk.listeners.append(told)
    assert execute(rt, call("fs.write", parameters={"path": "f", "content": "proposed"})).ok
    assert [hold.parameters["content"] for hold in asked(rt)] == ["first", "second"]
    assert path.read_text() == "second"


def test_a_call_that_was_edited_and_is_asked_about_again_is_the_same_question_after_each_resume(asking):
    path = asking.root / "f"
    path.write_text("as shown")
    rt = asking.open(risky([]))
    rt.services.desk.wait = False
    held = execute(rt, call("fs.write", parameters={"path": "f", "content": "proposed"}))
    rt.close()
    for _ in range(3):  # the second question is found again by the second process and by the third
        rt = asking.open(risky([]))
        rt.services.desk.wait = False
        store = rt.services.desk.store
        (hold,) = store.list_holds("pending")
        if hold.parameters["content"] == "proposed":
            store.vote(hold.id, ME, "cli", "edit", digest=hold.digest, patch={"content": "edited"})
            path.write_text("changed since")
        (result,) = asyncio.run(rt.runs.resume(held.run_id))
        assert result.status == "held"
        assert [h.parameters["content"] for h in store.list_holds(None)] == ["edited", "edited"]
        rt.close()
    rt = asking.open(risky([]))
    (hold,) = rt.services.desk.store.list_holds("pending")
    rt.services.desk.store.vote(hold.id, ME, "cli", "approve", digest=hold.digest)
    (result,) = asyncio.run(rt.runs.resume(held.run_id))
    assert result.ok
    assert path.read_text() == "edited"


PATHS = {
    "type": "object",
    "properties": {"paths": {"type": "array", "items": {"type": "string", "x-interlock": "path.read"}}},
}


def watching(rt, change):
    """Approve every question; call `change` before the first answer. Returns the questions."""
    seen = []

    def told(hold):
        seen.append(hold)
        if len(seen) == 1:
            change()
        threading.Thread(
            target=lambda: rt.services.desk.store.vote(hold.id, ME, "cli", "approve", digest=hold.digest)
        ).start()

    rt.services.desk.listeners.append(told)
    return seen


def test_however_many_files_a_question_is_about_a_change_of_the_last_one_asks_again(new_project):
    project = new_project(toml=ASKING + f'[grants.{AGENT}.paths]\nread = ["**"]\n')
    names = [f"f{i}" for i in range(40)]
    for name in names:
        (project.root / name).write_text("as shown")
    rt = project.open(risky([], parameters=PATHS))
    seen = watching(rt, lambda: (project.root / names[-1]).write_text("changed"))
    assert execute(rt, call("risky", parameters={"paths": names})).ok
    assert [len(hold.files) for hold in seen] == [40, 40]
    assert "`f39` has changed" in seen[1].reason
    short, full = (list(hold_lines(Output(), seen[0], full=full)) for full in (False, True))
    assert any("and 24 more" in line for line in short)
    assert sum("file:" in line for line in full) == 40


def test_a_file_that_changed_while_an_approved_action_waited_for_its_turn_is_shown_again(new_project):
    project = new_project(toml=ASKING + f'[grants.{AGENT}.paths]\nread = ["**"]\n')
    path = project.root / "f"
    path.write_text("as shown")
    rt = project.open(risky([], parameters=PATHS, rate_limit=RateLimit(calls=1, per_ms=2_000)))

    def on_event(_run_id, event):
        if isinstance(event, ActionWaiting) and event.cause == "rate_limit":
            path.write_text("changed")

    rt.services.hooks.events.append(on_event)
    seen = watching(rt, lambda: None)
    first = call("risky", "a", parameters={"paths": []})
    assert execute(rt, first, call("risky", "b", parameters={"paths": ["f"]}, dependencies=["a"])).ok
    assert [hold.action for hold in seen] == ["a", "b", "b"]


@pytest.mark.parametrize(
    ("scope", "session", "questions"), [("session", "s", 1), ("session", None, 3), ("always", None, 1)]
)
def test_standing_answers(asking, scope, session, questions):
    log = []
    rt = asking.open(risky(log))
    with contextlib.suppress(interlock.UsageError):
        answer(rt, standing=Standing(scope=scope if session or scope == "always" else "once"))
    for x in range(3):
        assert execute(rt, call("risky", parameters={"x": x}), **({"session": session} if session else {})).ok
    assert (len(log), len(asked(rt))) == (3, questions)


def test_a_standing_answer_has_its_number_of_uses(asking):
    log = []
    rt = asking.open(risky(log))
    answer(rt, standing=Standing(scope="always", uses=2))
    for x in range(4):
        assert execute(rt, call("risky", parameters={"x": x})).ok
    assert len(asked(rt)) == 2  # 1 asked, 2 by the answer, 1 asked


def test_reading_what_a_question_shows_holds_nothing_else_up(asking, monkeypatch):
    (asking.root / "f").write_text("as shown")
    rt = asking.open(risky([]))
    answer(rt)
    others_went_on = threading.Event()
    examine, waited = rt.services.workspace.examine, []

    def slow(*arguments, **options):
        waited.append(others_went_on.wait(5))
        return examine(*arguments, **options)

    async def work():
        monkeypatch.setattr(rt.services.workspace, "examine", slow)
        running = asyncio.create_task(rt.execute(plan(call("fs.write", parameters={"path": "f", "content": "new"}))))
        while not running.done():
            await asyncio.sleep(0.005)
            others_went_on.set()
        return running.result()

    assert asyncio.run(work()).ok
    assert waited
    assert all(waited)
    rt.close()


def test_what_is_shown_holds_no_secret(asking):
    schema = {"type": "object", "properties": {"message": {"type": "string", "x-interlock": "secret"}}}
    rt = asking.open(risky([], parameters=schema))
    answer(rt)
    assert execute(rt, call("risky", parameters={"message": "correct horse", "token": SECRET})).ok
    (hold,) = asked(rt)
    assert SECRET not in repr(hold)
    assert "correct horse" not in repr(hold)


def test_a_file_whose_name_is_a_secret_is_watched_and_not_shown(asking):
    path = asking.root / SECRET
    path.write_text("as shown")
    rt = asking.open(risky([]))
    seen = watching(rt, lambda: path.write_text("changed"))
    assert execute(rt, call("fs.write", parameters={"path": SECRET, "content": "new"})).ok
    assert len(seen) == 2
    assert "has changed since" in seen[1].reason
    assert SECRET not in repr(seen)


def test_the_deadline_ends_the_wait(asking):
    log = []
    rt = asking.open(risky(log))
    result = execute(rt, call("risky"), deadline_ms=200)
    assert reasons(result) == ["deadline_exceeded"]
    assert {h.status for h in asked(rt)} == {"cancelled"}


def test_a_cancelled_caller_withdraws_and_can_be_resumed(asking):
    log = []
    rt = asking.open(risky(log))

    async def main():
        task = asyncio.ensure_future(rt.execute(plan(call("risky"))))
        while not asked(rt):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert {h.status for h in asked(rt)} == {"cancelled"}
    (run,) = asking.runs()
    answer(rt)
    (result,) = asyncio.run(resume(rt.services, run))
    assert result.ok
    assert len(log) == 1


def test_nobody_is_asked_in_memory_or_in_a_dry_run(asking, embedded):
    rt = embedded(risky([]), rules={"ask": ["risky"]})
    assert reasons(execute(rt, call("risky"))) == ["approval_required"]
    rt = asking.open(risky([]))
    assert reasons(execute(rt, call("risky"), dry_run=True)) == ["approval_required"]
    assert asked(rt) == []


def test_an_agent_cannot_be_its_own_operator(asking):
    rt = asking.open(risky([]))
    with pytest.raises(interlock.ProposalError):
        execute(rt, call("undo", parameters={"run": "x"}), agent="operator")


def test_the_held_row_names_the_question(asking):
    rt = asking.open(risky([]))
    rt.services.desk.wait = False
    began = time.monotonic()
    result = execute(rt, call("risky", "r"), expect("x", 1, dependencies=["r"]))
    assert time.monotonic() - began < 20
    assert result["r"].output["approval"] == asked(rt)[0].id
    assert asked(rt)[0].agent == AGENT


TTL = '@id("slow")\n@hold\n@ttl("30m")\nforbid (principal, action == Action::"state_write", resource);\n'


@pytest.mark.parametrize(("flags", "minutes"), [({}, 30), ({"approvals.ttl": "5m"}, 5)])
def test_the_time_that_a_policy_gives_its_question_counts(new_project, flags, minutes):
    """Not the default of questions without one; but what the environment or a flag says tightens it too."""
    toml = TOML % '[policy]\nfiles = ["p.cedar"]\n[approvals]\nttl = "10m"\n'
    rt = new_project(toml=toml, files=[("p.cedar", TTL)]).open(flags=flags)
    rt.services.desk.wait = False
    assert statuses(execute(rt, write("k", 1))) == ["held"]
    (hold,) = asked(rt)
    assert hold.expires_at_us - hold.created_at_us == minutes * 60_000_000
