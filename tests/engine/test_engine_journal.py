"""What the engine writes into the journal: each kind where it belongs, the intent before the effect, and no secret."""

import asyncio
import hashlib
import json
import threading

import msgspec
import pytest
from engine_world import TOML, binding, call, change_services, execute, expect, plan, read, write

import interlock
from interlock.approvals import action_digest
from interlock.engine.record.recorder import Recorder
from interlock.journal import delete_private, read_private, scan
from interlock.journal import read as read_journal
from interlock.journal.private import run_key
from interlock.model.canonical import canonical, digest, keyed_digest
from interlock.model.codes import REASONS
from interlock.model.events import Unknown

SECRET = "ghp_" + "aB3dE5gH7jK9mN1pQ3sT5vX7zA9cD1eF3gH5"
MARKED = "correct horse battery staple"


async def noop(parameters, ctx):
    return parameters


async def fail(parameters, ctx):
    raise interlock.ToolError("no", output=parameters)


def test_the_events_of_a_run_that_succeeds(project):
    rt = project.open(binding("do", noop))
    result = execute(rt, call("do", "a"), write("k", 1, "w"), expect("k", 1, "e"), read("k", "r"))
    events = project.journal(result.run_id)
    assert [e["seq"] for e in events] == list(range(len(events)))
    assert events[0]["kind"] == "run_started"
    assert events[1]["kind"] == "proposal_received"
    assert (events[1]["source"], events[1]["agent"], events[1]["action_count"]) == ("unknown", "coder", 4)
    assert project.kinds(result.run_id, "a") == ["policy_decided", "action_intent", "action_succeeded"]
    assert project.kinds(result.run_id, "w") == ["policy_decided", "action_intent", "action_succeeded", "state_changed"]
    assert [e["kind"] for e in events[-3:]] == ["workspace_committed", "proposal_finished", "run_finished"]
    steps = {e["kind"]: e["step"] for e in events if "step" in e}
    assert (steps["proposal_received"], steps["policy_decided"], steps["action_intent"], steps["action_succeeded"]) == (
        1,
        5,
        8,
        10,
    )
    intent = next(e for e in events if e["kind"] == "action_intent")
    assert (intent["attempt"], intent["tool"]) == (1, "do")
    assert intent["version"].startswith("sha256:")
    assert result["a"].seq == next(e["seq"] for e in events if e["kind"] == "action_succeeded")


def test_the_events_of_a_run_that_fails(project):
    rt = project.open(binding("do", noop), binding("un", noop), binding("fail", fail), binding("skip", noop))
    change_services(rt, jitter=lambda: 0.0)
    result = execute(
        rt,
        call("do", "a", compensation={"type": "tool", "tool": "un"}),
        call("fs.write", "f", parameters={"path": "x", "content": "y"}),
        call("fail", "b", failure_behavior="retry", max_retries=1, dependencies=["f"]),
        call("skip", "c", dependencies=["b"]),
    )
    kinds = project.kinds
    assert kinds(result.run_id, "b")[1:] == [
        "action_intent",
        "action_failed",
        "action_retrying",
        "policy_decided",
        "action_intent",
        "action_failed",
    ]
    failures = [e for e in project.journal(result.run_id) if e["kind"] == "action_failed"]
    assert [e.get("final", True) for e in failures] == [False, True]
    assert kinds(result.run_id, "c") == ["action_skipped"]
    assert kinds(result.run_id, "a")[-2:] == ["undo_intent", "undo_done"]
    assert kinds(result.run_id, "f")[-2:] == ["undo_intent", "undo_done"]
    ends = [e for e in kinds(result.run_id) if e in ("state_rolled_back", "undo_intent", "proposal_finished")]
    assert ends == ["state_rolled_back", "undo_intent", "undo_intent", "proposal_finished"]


def test_rejections_holds_and_deduplications(project):
    rt = project.open(binding("do", noop, idempotent=True, parameters={"type": "object", "required": ["x"]}))
    good = call("do", "i", parameters={"x": 1}, idempotent=True)
    execute(rt, good)
    result = execute(rt, good, call("do", "bad", failure_behavior="skip"))
    assert project.kinds(result.run_id, "i") == ["policy_decided", "action_deduplicated"]
    (rejected,) = [e for e in project.journal(result.run_id) if e["kind"] == "action_rejected"]
    assert (rejected["action"], rejected["step"], rejected["reason"]) == ("bad", 3, "invalid_parameters")


def test_a_malformed_proposal_is_journaled_in_a_run_that_continues(project):
    rt = project.open(binding("do", noop))
    decode = interlock.model.decode.proposal_from_builtins

    async def main():
        run = rt.runs.start()
        with pytest.raises(interlock.ProposalError):
            await run.execute(decode(plan(call("do", "a", dependencies=["zz"]))))
        good = await run.execute(decode(plan(call("do"))))
        run.finish()
        return run.id, good.ok

    run_id, ok = asyncio.run(main())
    assert ok
    (event,) = [e for e in project.journal(run_id) if e["kind"] == "proposal_rejected"]
    assert (event["code"], event["path"]) == ("dependency_unknown", "$.actions[0].dependencies[0]")


@pytest.mark.parametrize("mode", ["async", "thread", "inline"])
def test_the_intent_is_on_disk_before_the_effect(project, mode):
    seen = []

    def look(parameters, ctx):
        path = project.run_directory(ctx.run_id) / "journal.ndjson"
        status = scan(path.parent)
        events = [e for e in read_journal(path.parent) if getattr(e, "action", None) == ctx.action_id]
        seen.append((status.torn, events[-1].__class__.__name__, events[-1].seq <= status.head.seq))

    async def look_async(parameters, ctx):
        look(parameters, ctx)

    rt = project.open(binding("look", look_async if mode == "async" else look, mode=mode))
    assert execute(rt, *[call("look") for _ in range(5)]).ok
    assert seen == [(None, "ActionIntent", True)] * 5


def test_the_outcome_is_on_disk_before_the_result(project):
    rt = project.open(binding("do", noop))

    async def main():
        run = rt.runs.start()
        result = await run.execute(interlock.model.decode.proposal_from_builtins(plan(call("do"), write("k", 1))))
        before = scan(project.run_directory(run.id))
        run.finish()
        return result, before

    result, before = asyncio.run(main())
    assert before.head.seq >= max(row.seq for row in result.results)


def everything_in(project, run_id, *, but=("private", "backups")):
    found = b""
    for path in project.run_directory(run_id).rglob("*"):
        if path.is_file() and not set(path.parts) & set(but):
            found += path.read_bytes()
    return found


def test_what_a_thread_logs_is_written_by_the_loop_and_before_its_outcome(project, monkeypatch):
    """A line between a commit and its seal would be sealed with it: resume and `runs check` look for a seal that ends there."""
    record, writers, loose = Recorder.record, set(), []

    def watched(self, *event):
        writers.add(threading.get_ident())
        return record(self, *event)

    def say(parameters, ctx):
        loose.append(ctx)
        for number in range(3):
            ctx.log(f"line {number}")

    monkeypatch.setattr(Recorder, "record", watched)
    rt = project.open(binding("say", say, mode="thread"))
    result = execute(rt, call("say"))
    assert writers == {threading.get_ident()}
    said = [e for e in project.journal(result.run_id) if e["kind"] in ("action_log", "action_succeeded")]
    assert [e.get("message") for e in said] == ["line 0", "line 1", "line 2", None]
    # An action that was given up, and whose loop is closed:
    late = threading.Thread(target=loose[0].log, args=("after the end",))
    late.start()
    late.join()


def test_no_secret_reaches_the_journal(project):
    secret = {"type": "string", "x-interlock": "secret"}
    deep = {"type": "object", "properties": {"key": secret}}
    schema = {"type": "object", "properties": {"password": secret, "deep": deep}}

    async def leak(parameters, ctx):
        ctx.log(f"logging in with {SECRET}")
        if parameters.get("how") == "raise":
            raise ValueError(f"wrong token {SECRET}")
        if parameters.get("how") == "fail":
            raise interlock.ToolError(f"wrong token {SECRET}", output={"said": SECRET})
        return {"token": SECRET, "list": [f"Bearer {SECRET}"]}

    rt = project.open(
        binding("leak", leak, parameters=schema, idempotent=True, effects={"last": "$output.token"}),
    )
    skip = {"failure_behavior": "skip"}
    actions = [
        call("leak", "ok", parameters={"password": MARKED, "deep": {"key": MARKED}, "token": SECRET}, idempotent=True),
        call(
            "leak", "again", parameters={"password": MARKED, "deep": {"key": MARKED}, "token": SECRET}, idempotent=True
        ),
        call("leak", "raised", parameters={"how": "raise", "password": MARKED}, **skip),
        call("leak", "failed", parameters={"how": "fail"}, **skip),
        call("leak", "refused", parameters={"password": 5, "x": SECRET}, **skip),
        write("k", {"token": SECRET}, "w"),
        expect("k", SECRET, "e", **skip),
        call(
            "leak",
            "claims",
            expected_effects={"x": SECRET},
            preconditions=[{"key": "k", "operator": "neq", "value": SECRET}],
        ),
        call(
            "leak",
            "undone",
            compensation={"type": "tool", "tool": "leak", "parameters": {"how": "fail", "password": MARKED}},
        ),
    ]
    good = execute(rt, *actions, context={"note": SECRET})
    aborted = execute(rt, *actions, expect("k", 2))
    assert good["ok"].output["token"] == SECRET, "the caller gets what the tool said"
    for result in (good, aborted):
        text = everything_in(project, result.run_id)
        assert SECRET.encode() not in text
        assert MARKED.encode() not in text
        for path in project.run_directory(result.run_id).rglob("*"):
            assert path.stat().st_mode & 0o077 == 0, path


def test_originals_are_kept_apart_and_come_back(project):
    rt = project.open(binding("do", noop))
    result = execute(rt, call("do", parameters={"token": SECRET}))
    (intent,) = [e for e in project.journal(result.run_id) if e["kind"] == "action_intent"]
    kept = intent["parameters"]
    assert kept["private"] is True
    key = run_key(project.run_directory(result.run_id))
    assert kept["digest"] == keyed_digest(key, "value", canonical({"token": SECRET}))
    assert read_private(project.run_directory(result.run_id), kept["digest"]) == b'{"token":"%b"}' % SECRET.encode()


def test_nobody_who_has_the_journal_alone_can_confirm_a_guess_at_a_secret(project):
    rt = project.open(binding("do", noop))
    result = execute(rt, call("do", parameters={"token": SECRET}), write("k", {"token": SECRET}))
    text = (project.run_directory(result.run_id) / "journal.ndjson").read_text()
    document = msgspec.json.decode(
        read_private(project.run_directory(result.run_id), received(project, result)["digest"])
    )
    guesses = [
        *(digest("value", value) for value in ({"token": SECRET}, SECRET, document, document["actions"])),
        *(
            action_digest(tool, version, {"token": SECRET})
            for tool in ("do",)
            for version in ("", versions(project, result))
        ),
        action_digest("state_write", "", {"key": "k", "value": {"token": SECRET}}),
    ]
    assert not [guess for guess in guesses if guess.rpartition(":")[2] in text]
    assert project.journal(result.run_id)[0]["version"] == 2


@pytest.mark.parametrize(
    ("returned", "hidden"),
    [
        (lambda text: {"size": 1, "sha256": sha256(text)}, True),
        (lambda text: [f"sha256:{sha256(text)}"], True),
        (lambda text: {"said": text, "of": sha256(text)}, True),
        (lambda text: {"sha256": "short", "at": "1234567890"}, False),
    ],
)
def test_no_hash_that_a_tool_gives_of_a_secret_confirms_a_guess(project, returned, hidden):
    async def hashing(parameters, ctx):
        return returned(parameters["content"])

    async def failing(parameters, ctx):
        raise interlock.ToolError("no", output=returned(parameters["content"]))

    rt = project.open(binding("do", hashing), binding("fail", failing))
    content = f"password: {SECRET}"
    for tool in ("do", "fail"):
        result = execute(rt, call(tool, "a", parameters={"content": content}))
        assert result["a"].output == returned(content)
        assert sha256(content) not in (project.run_directory(result.run_id) / "journal.ndjson").read_text()
        kept = next(e for e in project.journal(result.run_id) if e["kind"] in ("action_succeeded", "action_failed"))
        assert kept["output"].get("private", False) is hidden
    clean = execute(rt, call("do", "a", parameters={"content": "clean"}))
    assert clean["a"].output == returned("clean")
    kept = next(e for e in project.journal(clean.run_id) if e["kind"] == "action_succeeded")
    assert not kept["output"].get("private", False)


@pytest.mark.parametrize("line", ["clean ", f"password: {SECRET} "])
def test_of_a_value_that_is_too_large_for_an_event_only_a_keyed_digest_is_there(project, line):
    async def echo(parameters, ctx):
        return parameters

    async def hashing(parameters, ctx):
        return {"sha256": sha256(parameters["content"])}

    rt = project.open(binding("echo", echo), binding("hash", hashing))
    content = line * (100_000 // len(line))
    parameters = {"content": content}
    result = execute(rt, call("echo", "e", parameters=parameters), call("hash", "h", parameters=parameters))
    directory = project.run_directory(result.run_id)
    large = keyed_digest(run_key(directory), "value", canonical(parameters))
    kept = [
        event.get("parameters") or event.get("output")
        for event in project.journal(result.run_id)
        if event["kind"] in ("action_intent", "action_succeeded")
    ]
    assert [one["digest"] for one in kept].count(large) == 3
    assert all("view" not in one and one["private"] for one in kept if one["digest"] == large)
    assert msgspec.json.decode(read_private(directory, large)) == parameters
    text = (directory / "journal.ndjson").read_text()
    assert not [hidden for hidden in (line, sha256(content), digest("value", parameters)) if hidden in text]


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def received(project, result):
    return next(e for e in project.journal(result.run_id) if e["kind"] == "proposal_received")


def versions(project, result):
    return next(e for e in project.journal(result.run_id) if e["kind"] == "action_intent")["version"]


def test_the_key_of_a_run_stays_and_goes_with_the_originals(project):
    rt = project.open(binding("do", noop))
    runs = [execute(rt, call("do", parameters={"token": SECRET})).run_id for _ in range(2)]
    one, other = (run_key(project.run_directory(run)) for run in runs)
    assert len(one) == 32
    assert one != other
    delete_private(project.run_directory(runs[0]), rt.services.disk)
    assert run_key(project.run_directory(runs[0])) is None


def test_large_values_are_not_in_the_lines(project):
    rt = project.open(binding("do", noop))
    result = execute(rt, call("do", parameters={"text": "x" * 200_000}))
    assert result.ok
    assert all(len(json.dumps(e)) < 100_000 for e in project.journal(result.run_id))


def without_times_and_ids(result):
    value = msgspec.to_builtins(result)
    for name in ("run_id", "proposal_id"):
        value.pop(name)
    value["cost"].pop("total_duration_ms")
    for row in value["results"]:
        for name in (
            "duration_ms",
            "waited_ms",
            "timestamp",
            "telemetry",
            "seq",
        ):  # a reading of the machine is an event too
            row.pop(name)
    return msgspec.json.encode(value)


def test_the_same_inputs_give_the_same_bytes(new_project):
    actions = [
        call("do", "a", parameters={"x": 1}),
        call("fail", "f", failure_behavior="skip"),
        call("do", "b", dependencies=["f"]),
        write("k", "$a.output.x"),
        expect("k", 2),
        call("do", "z"),
    ]
    results = set()
    for _ in range(3):
        project = new_project()
        rt = project.open(binding("do", noop), binding("fail", fail))
        results.add(without_times_and_ids(execute(rt, *actions)))
        rt.close()
    assert len(results) == 1


def test_rows_have_their_shape_and_reasons_are_known(project):
    rt = project.open(binding("do", noop), binding("fail", fail))
    result = execute(rt, call("do", "a"), call("fail", "f"), call("do", "z"))
    document = json.loads(msgspec.json.encode(result))
    assert list(document) == [
        "run_id",
        "proposal_id",
        "status",
        "results",
        "cost",
        "not_undone",
        "replaced",
        "workspace",
    ]
    assert [row["action_id"] for row in document["results"]] == ["a", "f", "z"]
    for row in document["results"]:
        assert set(row) == {
            "action_id", "status", "reason", "output", "error", "state_changes", "attempts", "duration_ms", "waited_ms",
            "timestamp", "seq", "deduplicated_from", "hosts", "posture", "telemetry", "waited_for",
        }  # fmt: skip
        assert row["reason"] is None or row["reason"] in REASONS
        assert isinstance(row["timestamp"], int)
    assert interlock.format_result(result["f"]) == "[FAILED] no"
    assert interlock.format_result(result["z"]) == "[SKIPPED] `f` stopped the proposal: failed, tool_failed"


def test_two_proposals_in_one_journal_are_distinguished(project):
    rt = project.open(binding("do", noop))
    decode = interlock.model.decode.proposal_from_builtins

    async def main():
        run = rt.runs.start(session="s")
        await asyncio.gather(*[run.execute(decode(plan(call("do", "same"), id=f"p{i}"))) for i in range(3)])
        run.finish()
        return run.id

    run_id = asyncio.run(main())
    events = project.journal(run_id)
    for i in range(3):
        mine = [e["kind"] for e in events if e.get("proposal") == f"p{i}"]
        assert (mine[0], mine[-1]) == ("proposal_received", "proposal_finished")
        assert mine.count("action_succeeded") == 1


def test_a_proposal_id_that_the_run_has_already_is_refused(project):
    """Rows are keyed by run, proposal and action: a second proposal of that name could not be told from the first."""
    rt = project.open(binding("do", noop))
    decode = interlock.model.decode.proposal_from_builtins

    async def main():
        run = rt.runs.start()
        assert (await run.execute(decode(plan(call("do"), id="p")))).ok
        with pytest.raises(interlock.ProposalError) as caught:
            await run.execute(decode(plan(call("do"), id="p")))
        run.finish()
        return caught.value

    error = asyncio.run(main())
    assert (error.code, error.path) == ("duplicate_id", "$.id")


def test_no_event_is_of_an_unknown_kind(project):
    rt = project.open(binding("do", noop))
    result = execute(rt, call("do"))
    assert not [e for e in read_journal(project.run_directory(result.run_id)) if isinstance(e, Unknown)]


def test_durability_off_writes_nothing(new_project):
    project = new_project(toml=TOML % "" + '[journal]\ndurability = "off"\n')
    rt = project.open(binding("do", noop))
    result = execute(rt, call("do"), write("k", 1))
    assert result.ok
    assert not project.run_directory(result.run_id).exists()
    assert rt.services.store.get("k").value == 1


def test_listeners_hear_every_event_as_it_happens(project):
    rt = project.open(binding("do", noop))
    heard = []
    rt.subscribe(events=lambda _run_id, event: heard.append(event))
    result = execute(rt, call("do"))
    in_journal = [e["kind"] for e in project.journal(result.run_id) if e["kind"] not in ("run_started", "run_finished")]
    assert [e.__struct_config__.tag for e in heard if e.__struct_config__.tag in in_journal] == in_journal


def test_the_event_that_rolls_state_back_says_what_was_dropped_and_what_holds(project):
    async def fails(parameters, ctx):
        raise RuntimeError

    rt = project.open(binding("fails", fails))
    execute(rt, write("kept", 1), write("token", "ghp_" + "a" * 36))
    result = execute(rt, write("kept", 2), write("new", 3), write("token", 0), call("fails", max_retries=0))
    [event] = [e for e in project.journal(result.run_id) if e["kind"] == "state_rolled_back"]
    view = event["state"]["view"]
    assert view["kept"] == {"dropped": 2, "value": 1, "version": 1}
    assert view["new"] == {"dropped": 3}
    assert "ghp_" not in str(view["token"]), "redacted as every value of the journal"
    nothing_written = execute(rt, call("fails", max_retries=0))
    [event] = [e for e in project.journal(nothing_written.run_id) if e["kind"] == "state_rolled_back"]
    assert "state" not in event


def test_a_proposal_knows_whether_it_is_the_only_one_at_work_in_its_run(embedded):
    seen = []

    async def look(parameters, ctx):
        await asyncio.sleep(parameters["seconds"])
        seen.append(ctx.action.slot.pool.alone)

    rt = embedded(binding("look", look))

    async def main():
        run = rt.runs.start()
        one = plan(call("look", parameters={"seconds": 0}), deadline_ms=60_000)
        await run.execute(one)
        await run.execute(plan(call("look", parameters={"seconds": 0})))
        await asyncio.gather(*(run.execute(plan(call("look", parameters={"seconds": s}))) for s in (0.01, 0.3)))
        run.finish()

    asyncio.run(main())
    assert seen == [True, True, False, True]
