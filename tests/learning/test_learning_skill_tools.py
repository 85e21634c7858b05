"""`skills.find` and `skills.run`: a task that was done before takes an agent one call, and is judged as the proposal it is."""

import asyncio

import msgspec
import pytest
from engine_world import call, execute, reasons, statuses
from test_learning_skills import approve, do, report, rt  # noqa: F401 - a fixture

import interlock
from interlock.model.errors import HeldError, ToolError, UsageError
from interlock.model.tool import Binding, Tool
from interlock.surfaces.cli.holds import hold_lines
from interlock.surfaces.cli.output import Output

NAME = "write-the-report-of-jan"
GIVEN = {"path": "apr.txt", "path_2": "copy-apr.txt"}


def use(rt, name=NAME, given=GIVEN, **options):  # noqa: F811
    return asyncio.run(rt.call("skills.run", {"name": name, "parameters": given}, **options))


@pytest.fixture
def skilled(rt):  # noqa: F811
    """The task was done three times, and a person has approved the skill."""
    do(rt, "jan", "feb", "mar")
    approve(rt, NAME)
    return rt


def test_the_fourth_time_takes_one_call(skilled, project):
    found = asyncio.run(skilled.call("skills.find", {"goal": "write a report"})).output["items"]
    assert [(one["name"], sorted(one["parameters"]["properties"])) for one in found] == [(NAME, ["path", "path_2"])]
    result = use(skilled)
    assert (result.status, result.reason, result.error) == ("succeeded", None, None)
    assert (result.output["skill"], result.output["version"]) == (NAME, 1)
    assert [(row["id"], row["status"]) for row in result.output["results"]] == [
        ("s1", "succeeded"), ("s2", "succeeded"), ("s3", "succeeded"),
    ]  # fmt: skip
    assert result.output["results"][1]["output"]["content"] == "total: 1\n"
    assert (project.root / "copy-apr.txt").read_text() == "total: 1\n"
    skilled.skills.wait_learnt()
    assert (skilled.skills.uses(skilled.skills.get(NAME)).succeeded, len(skilled.skills.list())) == (1, 1)


def test_a_use_is_on_record_as_the_proposal_that_it_is_and_is_undone_like_one(skilled, project):
    result = use(skilled)
    events = [msgspec.to_builtins(event) for event in skilled.runs.events(result.run_id)]
    received = next(event for event in events if event["kind"] == "proposal_received")
    assert received["source"] == f"skill/{NAME}@1"
    intents = [event for event in events if event["kind"] == "action_intent"]
    assert [event["tool"] for event in intents] == ["skills.run", "fs.write", "fs.read", "fs.write"]
    asyncio.run(skilled.runs.undo(result.run_id))
    assert not (project.root / "apr.txt").exists()
    assert not (project.root / "copy-apr.txt").exists()


def test_in_a_proposal_of_its_own_every_step_is_a_row(skilled):
    result = execute(skilled, call("skills.run", "x", parameters={"name": NAME, "parameters": GIVEN}))
    assert [(row.action_id, row.status) for row in result.results] == [
        ("x", "succeeded"), ("s1", "succeeded"), ("s2", "succeeded"), ("s3", "succeeded"),
    ]  # fmt: skip
    own = execute(skilled, call("skills.run", "s1", parameters={"name": NAME, "parameters": GIVEN}))
    assert [row.action_id for row in own.results] == ["s1", "step1", "step2", "step3"]
    assert statuses(own) == ["succeeded"] * 4


def test_what_a_use_would_do_is_known_before(skilled, project):
    proposal = {"actions": [call("skills.run", "x", parameters={"name": NAME, "parameters": GIVEN})]}
    assert [(one.action_id, one.answer) for one in skilled.explain(proposal)][1:] == [
        ("s1", "allow"), ("s2", "allow"), ("s3", "unknown"),
    ]  # fmt: skip
    assert asyncio.run(skilled.execute(proposal, dry_run=True)).results[1].reason == "dry_run"
    assert not (project.root / "apr.txt").exists()


def test_beside_other_actions_it_is_refused(skilled, project):
    result = execute(
        skilled,
        call("skills.run", "x", parameters={"name": NAME, "parameters": GIVEN}),
        call("fs.read", "r", parameters={"path": "jan.txt"}, dependencies=["x"]),
    )
    assert reasons(result) == ["skill_not_alone", "aborted"]
    assert not (project.root / "apr.txt").exists()


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("no-such-skill", {}, "there is no skill"),
        (NAME, {"path": "x"}, "do not fit"),
        (NAME, {**GIVEN, "more": 1}, "do not fit"),
        (NAME, {"path": 1, "path_2": "x"}, "do not fit"),
    ],
)
def test_what_cannot_be_used_says_why(skilled, name, given, said):
    result = use(skilled, name, given)
    assert (result.status, result.reason) == ("failed", "skill_unusable")
    assert said in result.error


def test_a_candidate_is_not_used(rt, project):  # noqa: F811
    do(rt, "jan", "feb")
    result = use(rt)
    assert (result.status, result.reason) == ("failed", "skill_unusable")
    assert "candidate" in result.error
    assert not (project.root / "apr.txt").exists()


def test_a_use_has_the_rights_of_its_caller_and_not_those_of_whom_it_was_learnt_of(skilled, project):
    result = use(skilled, agent="carl")  # has no grant for the tool
    assert (result.status, result.reason) == ("rejected", "capability_denied")
    path = project.root / "interlock.toml"
    path.write_text(path.read_text().replace('tools = ["memory.*"]', 'tools = ["memory.*", "skills.*", "fs.read"]'))
    project.trust()
    result = use(skilled, agent="carl")
    assert (result.status, result.reason) == ("failed", "skill_failed")
    assert "`s1`: rejected, capability_denied" in result.error
    assert not (project.root / "apr.txt").exists()
    skilled.skills.wait_learnt()
    assert skilled.skills.uses(skilled.skills.get(NAME)).uses == 0


def test_a_rule_about_the_tool_itself_holds(skilled, project):
    path = project.root / "interlock.toml"
    path.write_text(path.read_text().replace("[rules]", '[rules]\ndeny = ["skills.run"]'))
    project.trust()
    result = use(skilled)
    assert (result.status, result.reason) == ("rejected", "policy_denied")


def test_each_step_is_asked_about_and_the_call_continues_after_the_answers(skilled, project):
    path = project.root / "interlock.toml"
    path.write_text(path.read_text().replace("[rules]", '[rules]\nask = ["fs.write"]'))
    project.trust()
    for done in ((), ("s1", "s2")):
        with pytest.raises(HeldError) as held:
            use(skilled, call_id="one", wait=False)
        assert held.value.done == done
        skilled.approvals.approve(held.value.approval)
    result = use(skilled, call_id="one", wait=False)
    assert result.status == "succeeded"
    assert (project.root / "copy-apr.txt").exists()
    assert use(skilled, call_id="one", wait=False).deduplicated_from


def test_a_step_that_fails_fails_the_call_and_what_was_done_is_rolled_back(skilled, project):
    (project.root / "blocked").mkdir()
    result = use(skilled, given={"path": "apr.txt", "path_2": "blocked"})
    assert (result.status, result.reason) == ("failed", "skill_failed")
    assert "`s3`: failed" in result.error
    assert [row["status"] for row in result.output["results"]] == ["rolled_back", "succeeded", "failed"]
    assert not (project.root / "apr.txt").exists()
    skilled.skills.wait_learnt()
    assert skilled.skills.uses(skilled.skills.get(NAME)).uses == 1


def test_arguments_are_plain_text_whatever_they_look_like(skilled, project):
    result = use(skilled, given={"path": "$s1.output", "path_2": "$call.output"})
    assert result.status == "succeeded"
    assert (project.root / "$s1.output").exists()
    assert (project.root / "$call.output").exists()


def test_an_approver_who_edits_the_call_does_not_get_what_was_proposed(skilled, project):
    path = project.root / "interlock.toml"
    path.write_text(path.read_text().replace("[rules]", '[rules]\nask = ["skills.run"]'))
    project.trust()
    with pytest.raises(HeldError) as held:
        use(skilled, call_id="one", wait=False)
    question = skilled.approvals.get(held.value.approval)
    assert [(one["id"], one["tool"]) for one in question.context["steps"]] == [
        ("s1", "fs.write"), ("s2", "fs.read"), ("s3", "fs.write"),
    ]  # fmt: skip
    assert question.context["steps"][0]["parameters"] == {"content": "total: 1\n", "path": "apr.txt"}
    lines = "\n".join(hold_lines(Output(), question))
    assert 'step:   s1 fs.write {"content":"total: 1' in lines
    skilled.approvals.edit(held.value.approval, {"parameters": {"path": "elsewhere.txt"}})
    result = use(skilled, call_id="one", wait=False)
    assert (result.status, result.reason) == ("failed", "skill_unusable")
    assert not (project.root / "apr.txt").exists()
    assert not (project.root / "elsewhere.txt").exists()


def test_a_source_that_only_claims_to_be_a_use_counts_for_nothing(skilled):
    for _ in range(6):
        execute(skilled, call("fs.read", parameters={"path": "nowhere"}), source=f"skill/{NAME}@1")
    skilled.skills.wait_learnt()
    assert (skilled.skills.uses(skilled.skills.get(NAME)).uses, skilled.skills.get(NAME).state) == (0, "active")


def test_in_a_fork_its_own_tools_count(skilled):
    async def read(parameters, ctx):
        return {"content": "other"}

    fork = skilled.fork("bob")
    fork.register(Binding(tool=Tool(name="fs.read", open_world=False), function=read, mode="async"))
    result = use(fork)
    assert (result.status, result.reason) == ("failed", "skill_unusable")
    assert "has changed" in result.error


def test_a_skill_that_decides_itself_what_is_done_is_not_imported(skilled):
    for tool in ("undo", "skills.run"):
        document = msgspec.json.decode(skilled.skills.export(skilled.skills.get(NAME)))
        step = document["content"]["template"]["steps"][1]
        step["tool"] = tool
        document["content"]["tools"] = {"fs.write": document["content"]["tools"]["fs.write"], tool: "1"}
        with pytest.raises(UsageError, match="decides by itself"):
            skilled.skills.load(msgspec.json.encode(document))


def test_a_message_of_a_model_uses_a_skill_too(skilled):
    message = {
        "role": "assistant",
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {
                    "name": "skills_run",
                    "arguments": msgspec.json.encode({"name": NAME, "parameters": GIVEN}).decode(),
                },
            }
        ],
    }
    (answer,) = asyncio.run(skilled.execute_tool_calls(message))
    assert '"status":"succeeded"' in answer["content"]


def test_a_runtime_in_memory_has_them_too():
    settings = {"rules": {"allow": ["*"]}, "grants": {"agent": {"tools": ["*"]}}}
    with interlock.Runtime.open(settings=settings) as plain:
        plain.with_learning(auto_distill=True)

        async def step(parameters, ctx):
            if parameters.get("n") == "bad":
                raise ToolError("no", code="tool_failed", retryable=False)

        for name in ("one", "two"):
            plain.register(Binding(tool=Tool(name=name, open_world=False), function=step, mode="async"))
        for n in ("a", "b"):
            execute(plain, call("one", parameters={"n": n}), call("two"), context={"goal": "do both"})
        plain.skills.wait_learnt()
        approve(plain, "do-both")
        assert use(plain, "do-both", {"n": "c"}).status == "succeeded"
        assert use(plain, "do-both", {"n": "bad"}).reason == "skill_failed"
