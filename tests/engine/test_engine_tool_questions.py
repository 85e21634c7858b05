"""Questions that no rule asks: those of a tool while it runs (`ctx.ask`), and those of the program (`runtime.approvals.ask`)."""

import asyncio
import hmac
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest
from engine_world import AGENT, TOML, binding, call, change_services, execute, plan, reasons, statuses

import interlock
from interlock.model.errors import HeldError, UsageError

SECRET = "ghp_" + "aB3dE5gH7jK9mN1pQ3sT5vX7zA9cD1eF3gH5"


def asking(answers, mode="async", **question):
    """A tool that asks, and returns what it was told."""
    question = {"summary": "send the report", "kind": "schedule", "reason": "it is due", **question}

    async def ask(parameters, ctx):
        answers.append(await ctx.ask(**question))
        return {"approved": bool(answers[-1])}

    def ask_sync(parameters, ctx):
        answers.append(ctx.ask_sync(**question))
        return {"approved": bool(answers[-1])}

    return binding("asks", ask if mode == "async" else ask_sync, mode=mode)


def run(rt, *actions, **options):
    return asyncio.run(rt.execute(plan(*actions), **options))


@pytest.mark.parametrize("mode", ["async", "thread"])
@pytest.mark.parametrize("reply", [True, False])
def test_a_tool_asks_while_it_runs(project, mode, reply):
    answers, seen = [], []
    rt = project.open(asking(answers, mode, context={"to": "ops", "token": SECRET}))

    def answer(hold):
        seen.append(hold)
        return reply

    result = run(rt, call("asks", "a"), on_question=answer)
    assert result.results[0].output == {"approved": reply}
    (hold,), (answered,) = seen, answers
    assert (hold.kind, hold.summary, hold.reason, hold.agent) == ("schedule", "send the report", "it is due", AGENT)
    assert (hold.run, hold.action) == (result.run_id, "a")
    assert hold.context["to"] == "ops"
    assert SECRET not in msgspec.json.encode(hold).decode()
    assert (answered.approval, answered.status) == (hold.id, "approved" if reply else "denied")
    assert answered.approver == rt.approvals.desk.user
    kinds = project.kinds(result.run_id, "a")
    assert kinds.index("action_intent") < kinds.index("tool_asked") < kinds.index("tool_answered")
    assert kinds.index("tool_answered") < kinds.index("action_succeeded")


def test_the_time_out_does_not_run_while_a_person_thinks(project):
    """The answer takes longer than the tool may; the tool itself is stopped by its time-out as ever."""
    answers = []

    async def ask_then(parameters, ctx):
        answers.append(await ctx.ask("continue?"))
        await asyncio.sleep(parameters["after"])

    rt = project.open(binding("asks", ask_then, timeout_ms=400))

    async def slow(hold):
        await asyncio.sleep(0.8)
        return True

    row = run(rt, call("asks", parameters={"after": 0}), on_question=slow).results[0]
    assert row.status == "succeeded"
    assert row.waited_ms >= 700
    assert row.duration_ms < 400
    row = run(rt, call("asks", parameters={"after": 20}), on_question=lambda _hold: True).results[0]
    assert (row.status, row.reason) == ("failed", "timeout")


def test_others_continue_while_a_tool_asks(project):
    answers, asked = [], threading.Event()
    done = asyncio.Event()

    async def other(parameters, ctx):
        done.set()

    rt = project.open(asking(answers), binding("other", other))
    rt.services.bounds.concurrency_max = 1

    async def answer(hold):
        asked.set()
        await done.wait()
        return True

    result = asyncio.run(rt.execute(plan(call("asks", "a"), call("other", "b"), order="free"), on_question=answer))
    assert result.ok
    assert asked.is_set()


def test_what_was_revoked_meanwhile_ends_the_call(project):
    answers = []
    rt = project.open(asking(answers))

    def revoke(hold):
        rt.grants.set(interlock.Grant(id="less", agent=AGENT, tools=("fs.read",)))
        return True

    result = run(rt, call("asks", "a", failure_behavior="skip"), on_question=revoke)
    assert (statuses(result), reasons(result)) == (["failed"], ["capability_denied"])
    assert answers == []


def test_a_question_that_nobody_answers_is_refused(project):
    answers = []
    rt = project.open(asking(answers, timeout_ms=30))
    assert run(rt, call("asks")).results[0].output == {"approved": False}
    assert (answers[0].status, answers[0].approver) == ("expired", None)


def test_a_retry_does_not_ask_again_what_was_approved_and_not_used(project):
    """An approval is used up by the call that got it: an attempt that failed after it asks anew."""
    seen, attempts = [], []

    async def fails_once(parameters, ctx):
        attempts.append(ctx.attempt)
        answer = await ctx.ask("send it")
        if len(attempts) == 1:
            raise RuntimeError("the wire is down")
        return bool(answer)

    rt = project.open(binding("asks", fails_once))
    change_services(rt, jitter=lambda: 0.0)

    def answer(hold):
        seen.append(hold.id)
        return True

    result = run(rt, call("asks", failure_behavior="retry", max_retries=1), on_question=answer)
    assert result.ok
    assert len(set(seen)) == 2


def test_a_call_that_is_stopped_withdraws_its_question(project):
    answers = []
    rt = project.open(asking(answers, "thread"))

    async def scene():
        running = asyncio.create_task(rt.execute(plan(call("asks", "a"))))
        while not rt.approvals.list():
            await asyncio.sleep(0.01)
        (hold,) = rt.approvals.list()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return hold

    hold = asyncio.run(scene())
    assert rt.approvals.get(hold.id).status == "cancelled"
    assert answers == []


def test_two_questions_of_one_call_come_one_after_the_other(project):
    open_at_once = []

    async def twice(parameters, ctx):
        return [bool(one) for one in await asyncio.gather(ctx.ask("first"), ctx.ask("second"))]

    rt = project.open(binding("asks", twice))

    def answer(hold):
        open_at_once.append(len(rt.approvals.list()))
        return hold.summary == "first"

    assert run(rt, call("asks"), on_question=answer).results[0].output == [True, False]
    assert open_at_once == [1, 1]


@pytest.mark.parametrize("how", ["dry_run", "wait"])
def test_where_nobody_can_be_asked_the_tool_fails(project, how):
    answers = []
    rt = project.open(asking(answers))
    if how == "wait":
        result = run(rt, call("asks"), wait=False)
        assert (statuses(result), reasons(result)) == (["failed"], ["approval_required"])
    assert answers == []


def test_in_memory_a_tool_asks_whoever_listens(embedded):
    answers = []
    rt = embedded(asking(answers))
    assert reasons(execute(rt, call("asks"))) == ["approval_required"]
    assert run(rt, call("asks"), on_question=lambda _hold: True).ok


def test_ask_sync_says_where_it_belongs(project):
    async def wrong(parameters, ctx):
        return ctx.ask_sync("x")

    rt = project.open(binding("asks", wrong))
    row = run(rt, call("asks")).results[0]
    assert row.status == "failed"
    assert "ctx.ask(...)" in row.error or "event loop" in row.error


@pytest.mark.parametrize("question", [{"summary": " "}, {"kind": "tool_call"}, {"kind": "x"}, {"context": {1}}])
def test_a_question_that_makes_no_sense_is_the_tools_fault(project, question):
    rt = project.open(asking([], **question))
    row = run(rt, call("asks"), on_question=lambda _hold: True).results[0]
    assert row.status == "failed"
    assert rt.approvals.list(None) == []


# -- the program's own questions


def test_any_layer_may_ask(project):
    rt = project.open()
    seen = []

    async def scene(reply):
        asked = asyncio.create_task(
            rt.approvals.ask("run it nightly", kind="schedule", reason="backups", context={"cron": "0 3 * * *"})
        )
        while not rt.approvals.list():
            await asyncio.sleep(0.005)
        (hold,) = rt.approvals.list()
        seen.append(hold)
        rt.approvals.resolve(hold, reply, reason="as agreed")
        return await asked

    for reply in (True, False):
        answer = asyncio.run(scene(reply))
        assert (bool(answer), answer.reason) == (reply, "as agreed")
    assert (seen[0].kind, seen[0].summary, seen[0].context) == ("schedule", "run it nightly", {"cron": "0 3 * * *"})
    assert rt.approvals.get(seen[0].id).consumed_by == "program"


@pytest.mark.parametrize("kind", ["tool_call", "delegate", "schedule", "other"])
def test_all_four_kinds_are_asked_and_expire(project, kind):
    rt = project.open()
    answer = asyncio.run(rt.approvals.ask("x", kind=kind, timeout_ms=20))
    assert (answer.status, bool(answer)) == ("expired", False)
    assert [hold.kind for hold in rt.approvals.list(None)] == [kind]


def test_a_group_decides_about_its_questions(project):
    rt = project.open()
    rt.approvals.desk.approvers.configured = {"ops": (rt.approvals.desk.user,), "dev": ("ann",)}
    hold = []

    async def scene():
        asked = asyncio.create_task(rt.approvals.ask("x", group="ops", timeout_ms=20_000))
        while not rt.approvals.list():
            await asyncio.sleep(0.005)
        hold.extend(rt.approvals.list())
        rt.approvals.approve(hold[0])
        return await asked

    assert asyncio.run(scene())
    assert [need.group for need in hold[0].requirements] == ["ops"]


def test_a_caller_that_is_cancelled_withdraws_its_question(project):
    rt = project.open()

    async def scene():
        asked = asyncio.create_task(rt.approvals.ask("x"))
        while not rt.approvals.list():
            await asyncio.sleep(0.005)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked

    asyncio.run(scene())
    assert [hold.status for hold in rt.approvals.list(None)] == ["cancelled"]


def test_a_process_that_leaves_questions_open_says_so(project):
    rt = project.open()
    rt.approvals.desk.wait = False
    with pytest.raises(HeldError) as caught:
        asyncio.run(rt.approvals.ask("x"))
    assert rt.approvals.get(caught.value.approval).status == "pending"


def test_such_a_question_has_no_parameters_and_is_about_one_thing(project):
    rt = project.open()
    rt.approvals.desk.wait = False
    with pytest.raises(HeldError) as caught:
        asyncio.run(rt.approvals.ask("x"))
    with pytest.raises(UsageError, match="no parameters"):
        rt.approvals.edit(caught.value.approval, {"a": 1})
    with pytest.raises(UsageError, match="once"):
        rt.approvals.approve(caught.value.approval, scope="always")
    assert rt.approvals.approve(caught.value.approval).status == "approved"


def test_what_a_question_may_hold(project):
    rt = project.open()
    for options in ({"kind": "x"}, {"timeout_ms": 0}, {"context": {"a": "b" * 2_000_000}}, {"reason": "r" * 9_000}):
        with pytest.raises(UsageError):
            asyncio.run(rt.approvals.ask("x", **options))
    for summary in ("", "  ", "s" * 2_000):
        with pytest.raises(UsageError):
            asyncio.run(rt.approvals.ask(summary))
    assert rt.approvals.list(None) == []


def test_in_memory_the_program_asks_and_answers_itself(embedded):
    rt = embedded()
    told = threading.Event()
    rt.approvals.subscribe(lambda hold: told.set())

    async def scene():
        asked = asyncio.create_task(rt.approvals.ask("x"))
        while not rt.approvals.list():
            await asyncio.sleep(0.005)
        rt.approvals.approve(rt.approvals.list()[0])
        return await asked

    assert asyncio.run(scene())
    assert told.wait(10)


def test_an_answer_in_memory_wakes_who_waits(embedded):
    """Without a poll interval: the waiter reads as soon as the question has changed."""
    rt = embedded()

    async def scene():
        asked = asyncio.create_task(rt.approvals.ask("x"))
        while not rt.approvals.list():
            await asyncio.sleep(0.005)
        waiter = rt.approvals.desk.waiter(asyncio.get_running_loop())
        assert waiter.notified
        (hold,) = rt.approvals.list()
        await asyncio.to_thread(rt.approvals.deny, hold)
        return await asked

    assert asyncio.run(scene()).status == "denied"


# -- the audit


def test_the_audit_is_read_in_order(project):
    rt = project.open()
    asyncio.run(rt.approvals.ask("x", timeout_ms=20))
    (hold,) = rt.approvals.list(None)
    events = [record.event for record in rt.approvals.audit(hold.id)]
    assert events == ["asked", "expired"]
    everything = rt.approvals.audit()
    assert [record.seq for record in everything] == sorted(record.seq for record in everything)
    assert rt.approvals.audit(after=everything[-1].seq) == []


def wait_for(condition):
    until = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.01)


def test_a_sink_gets_every_record_from_the_first_on(project):
    rt = project.open()
    asyncio.run(rt.approvals.ask("before", timeout_ms=20))
    got = []
    rt.approvals.attach(got.append)
    asyncio.run(rt.approvals.ask("after", timeout_ms=20))
    wait_for(lambda: len(got) == len(rt.approvals.audit()))
    assert got == rt.approvals.audit()


def test_a_sink_that_fails_gets_what_it_missed(project, monkeypatch):
    monkeypatch.setattr("interlock.approvals.audit_sinks.POLL_S", 0.02)
    rt = project.open()

    class Flaky:
        name = "flaky"

        def __init__(self):
            self.got, self.broken = [], True

        def write(self, record, timeout_s):
            if self.broken:
                raise interlock.NotifyError("away")
            self.got.append(record)

    sink = Flaky()
    rt.approvals.attach(sink)
    asyncio.run(rt.approvals.ask("x", timeout_ms=20))
    wait_for(lambda: any(record.event == "audit_failed" for record in rt.approvals.audit()))
    sink.broken = False
    wait_for(lambda: len(sink.got) == len(rt.approvals.audit()))
    assert [record.event for record in sink.got].count("audit_failed") == 1


def test_the_next_process_continues_where_the_last_one_stopped(project):
    seen = []

    class Counting:
        name = "counting"

        def write(self, record, timeout_s):
            seen.append(record.seq)

    for _ in range(2):
        rt = project.open()
        rt.approvals.attach(Counting())
        asyncio.run(rt.approvals.ask("x", timeout_ms=20))
        rt.close()
    with_all = project.open()
    assert seen == [record.seq for record in with_all.approvals.audit()]


AUDITED = """
[[approvals.audit]]
kind = "file"
path = "%s"

[[approvals.audit]]
kind = "command"
command = ["sh", "-c", "cat >> %s; echo >> %s"]
"""


def test_a_file_and_a_command_are_configured(new_project, tmp_path):
    file, by_command = tmp_path / "audit.ndjson", tmp_path / "by-command"
    project = new_project(toml=(TOML % "") + AUDITED % (file, by_command, by_command))
    rt = project.open()
    asyncio.run(rt.approvals.ask("x", timeout_ms=20))
    rt.close()
    rows = [msgspec.json.decode(line) for line in file.read_bytes().splitlines()]
    assert [row["event"] for row in rows][-2:] == ["asked", "expired"]
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    assert file.stat().st_mode & 0o777 == 0o600
    assert [msgspec.json.decode(line) for line in by_command.read_bytes().split(b"\n") if line] == rows


def test_a_webhook_gets_signed_records_and_again_what_it_refused(new_project, monkeypatch):
    monkeypatch.setattr("interlock.approvals.audit_sinks.POLL_S", 0.02)
    monkeypatch.setenv("AUDIT_SECRET", "s3cret")
    posts, answers = [], [500, *[200] * 50]

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            posts.append(
                (answers[0], body, self.headers["X-Interlock-Timestamp"], self.headers["X-Interlock-Signature"])
            )
            self.send_response(answers.pop(0))
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/audit"
        sink = f'[[approvals.audit]]\nkind = "webhook"\nurl = "{url}"\nsecret_env = "AUDIT_SECRET"\n'
        rt = new_project(toml=(TOML % "") + sink).open()
        asyncio.run(rt.approvals.ask("x", timeout_ms=20))
        wait_for(lambda: len([post for post in posts if post[0] == 200]) == len(rt.approvals.audit()))
        records = rt.approvals.audit()
        rt.close()
        server.shutdown()
        thread.join()
    taken = [body for status, body, _, _ in posts if status == 200]
    assert [msgspec.json.decode(body)["seq"] for body in taken] == [record.seq for record in records]
    assert "audit_failed" in [record.event for record in records]
    for _, body, timestamp, signature in posts:
        signed = hmac.new(b"s3cret", f"v1:{timestamp}:".encode() + body, "sha256").hexdigest()
        assert signature == f"v1={signed}"


def test_an_audit_file_where_an_agent_can_write_is_refused(new_project):
    project = new_project()
    (project.root / "interlock.toml").write_text(
        (TOML % "") + f'[[approvals.audit]]\nkind = "file"\npath = "{project.root}/a"\n'
    )
    project.trust()
    with pytest.raises(interlock.ConfigurationError, match="inside the workspace"):
        project.open()


@pytest.mark.parametrize(
    "text", ['kind = "file"', 'kind = "file"\npath = "relative"', 'kind = "command"', 'kind = "webhook"\npath = "/x"']
)
def test_an_audit_sink_that_is_not_whole_is_refused(new_project, text):
    with pytest.raises(interlock.ConfigurationError, match="kind"):
        new_project(toml=(TOML % "") + f"[[approvals.audit]]\n{text}\n").open()
