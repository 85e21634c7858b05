"""The agent kit: what a home-made loop needs. Messages are in the vendors' shapes, as dictionaries and as objects."""

import asyncio
import json
import os
import subprocess
import sys
import types

import pytest
from engine_world import AGENT, TOML, binding

import interlock
from interlock.engine.kit.names import CHARS_MAX, safe_names
from interlock.model.errors import ConflictError, HeldError, UsageError

PARAMETERS = {
    "type": "object",
    "properties": {"text": {"type": "string"}, "times": {"type": "integer", "minimum": 1}},
    "required": ["text"],
    "additionalProperties": False,
}


def echo(log, name="say.it", **definition):
    async def tool(parameters, ctx):
        log.append(parameters)
        return parameters["text"]

    return binding(name, tool, **({"parameters": PARAMETERS, "description": "Say it."} | definition))


def failing(name="break.it"):
    async def tool(parameters, ctx):
        raise interlock.ToolError("it broke", output={"stderr": "no such thing"})

    return binding(name, tool)


def objects(value):
    """A dictionary as the object that an SDK makes of it."""
    if isinstance(value, dict):
        return types.SimpleNamespace(**{name: objects(each) for name, each in value.items()})
    return [objects(each) for each in value] if isinstance(value, list) else value


def chat(*calls):
    """An assistant's message of Chat Completions: (id, name, arguments)."""
    made = [
        {"id": one, "type": "function", "function": {"name": name, "arguments": text(arguments)}}
        for one, name, arguments in calls
    ]
    return {"role": "assistant", "content": None, "tool_calls": made or None}


def response(*calls):
    output = [{"type": "message", "role": "assistant", "content": []}]
    return {
        "output": output
        + [
            {"type": "function_call", "call_id": one, "name": name, "arguments": text(arguments)}
            for one, name, arguments in calls
        ]
    }


def anthropic(*calls):
    content = [{"type": "text", "text": "So be it."}]
    return {
        "role": "assistant",
        "content": content
        + [{"type": "tool_use", "id": one, "name": name, "input": arguments} for one, name, arguments in calls],
    }


def text(arguments):
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def carry_out(rt, message, **options):
    return asyncio.run(rt.execute_tool_calls(message, **options))


# -- tools_for


def names(rt, form="anthropic", **options):
    return [tool["name"] for tool in rt.tools_for(form, **options)]


def test_each_vendor_gets_its_shape(embedded):
    rt = embedded(echo([], read_only=True))
    (openai,), (responses,), (claude,), (mcp,) = (
        rt.tools_for(form) for form in ("openai", "openai-responses", "anthropic", "mcp")
    )
    function = {"name": "say_it", "description": "Say it.", "parameters": PARAMETERS}
    assert openai == {"type": "function", "function": function}
    assert responses == {"type": "function", **function, "strict": False}
    assert claude == {"name": "say_it", "description": "Say it.", "input_schema": PARAMETERS}
    assert mcp["inputSchema"] == PARAMETERS
    assert mcp["annotations"]["readOnlyHint"] is True
    assert mcp["annotations"]["destructiveHint"] is False


def test_an_unknown_shape_is_refused(embedded):
    with pytest.raises(UsageError, match="`gemini` is not a known shape"):
        embedded(echo([])).tools_for("gemini")


@pytest.mark.parametrize(
    ("sections", "shown"),
    [
        ({}, ["a", "b"]),
        ({"grants": {AGENT: {"tools": ["a"], "unscoped": ["*"]}}}, ["a"]),
        ({"grants": {AGENT: {"tools": ["*"], "unscoped": ["b"]}}}, ["b"]),
        ({"grants": {"other": {"tools": ["*"], "unscoped": ["*"]}}}, []),
        ({"rules": {"allow": ["a"]}}, ["a"]),
        ({"rules": {"allow": ["*"], "deny": ["a"]}}, ["b"]),
        ({"rules": {"allow": ["a", "b"], "deny_param": [{"tool": "a", "param": "text", "like": "x*"}]}}, ["a", "b"]),
    ],
)
def test_an_agent_is_shown_what_it_can_ever_reach(embedded, sections, shown):
    rt = embedded(echo([], "a"), echo([], "b"), **sections)
    assert names(rt) == shown


def test_what_is_asked_about_is_shown_and_agents_differ(new_project):
    grants = TOML % 'ask = ["say.it"]\n' + '[grants.reader]\ntools = ["fs.read"]\n'
    rt = new_project(toml=grants).open(echo([]))
    assert "say_it" in names(rt)
    assert names(rt, agent="reader") == ["fs_read"]


def test_showing_tools_compiles_no_built_in_schema(project, monkeypatch):
    rt = project.open()
    monkeypatch.setattr("interlock.engine.tools.registry.Schema.compile", lambda *_: 1 / 0)
    before = names(rt)
    assert "fs_read" in before
    monkeypatch.undo()
    rt.services.registry.find_all(rt.services.registry.by_name)  # compiled, they are the same
    assert names(rt) == before


def test_a_path_is_plain_text_and_no_mark_of_ours_is_shown(project):
    rt = project.open()
    shown = {tool["name"]: tool["input_schema"] for tool in rt.tools_for("anthropic")}
    assert shown["fs_write"]["properties"]["path"] == {
        "type": "string", "minLength": 1, "description": "The file; a link inside the workspace is followed.",
    }  # fmt: skip
    assert shown["fs_move"]["properties"]["source"]["type"] == "string"
    everything = json.dumps(shown)
    assert "x-interlock" not in everything
    paths = [schema["properties"].get("path", {"type": "string"}) for schema in shown.values()]
    assert all("b64" not in json.dumps(path) for path in paths)
    assert all(schema["type"] == "object" and "properties" in schema for schema in shown.values())


def test_forms_at_the_top_of_a_schema_are_not_shown(embedded):
    forms = [{"required": ["a"]}, {"required": ["b"]}]
    rt = embedded(binding("t", None, parameters={"type": "object", "anyOf": forms}))
    assert rt.tools_for("openai")[0]["function"]["parameters"] == {"type": "object", "properties": {}}


def test_modules_that_are_not_loaded_are_not_left_out_in_silence(new_project):
    toml = TOML % "" + '[tools]\nmodules = ["more"]\n'
    code = "import interlock\n@interlock.tool(read_only=True)\ndef more(x: int) -> int:\n    return x\n"
    rt = new_project(toml=toml, files=[("more.py", code)]).open()
    with pytest.raises(UsageError, match="not loaded yet"):
        rt.tools_for("openai")
    rt.prepare_sync()
    assert "more" in names(rt)


def test_names_are_safe_unique_and_stable():
    long = "x" * 70
    found = safe_names(["fs.read", "fs_read", "fs-read", "a b", "a.b", long, long + "y", "ok"])
    assert found["fs_read"] == "fs_read"
    assert found["ok"] == "ok"
    assert found["fs.read"].startswith("fs_read_")
    assert len(set(found.values())) == len(found)
    assert all(len(name) <= CHARS_MAX and name.replace("_", "").replace("-", "").isalnum() for name in found.values())
    assert found == safe_names(sorted(found, reverse=True))


# -- call


def test_a_call_gives_its_row_and_its_run(project):
    log = []
    rt = project.open(echo(log))
    result = rt.call_sync("say.it", {"text": "$call.output"})
    assert (result.ok, result.output, result.tool) == (True, "$call.output", "say.it")
    assert log == [{"text": "$call.output"}], "a text that looks like a reference is text"
    assert project.kinds(result.run_id)[-1] == "run_finished"


def test_a_refusal_names_every_problem_at_once(embedded):
    result = embedded(echo([])).call_sync("say.it", {"txt": "a", "times": 0, "more": 1})
    assert (result.status, result.reason) == ("rejected", "invalid_parameters")
    for part in ("`text` is a required property", "`txt` (did you mean `text`?)", "`more`", "$.times: "):
        assert part in result.error


def test_a_refusal_says_which_forms_a_parameter_has(project):
    result = project.open().call_sync("fs.read", {"path": 5, "offset": "x"})
    assert '$.path: fits none of its forms: the value is not of type "string", or the value is not' in result.error
    assert "$.offset: " in result.error


def test_a_call_is_made_for_the_agent_that_is_named(new_project):
    rt = new_project(toml=TOML % "" + '[grants.reader]\ntools = ["fs.read"]\n').open(echo([]))
    assert rt.call_sync("say.it", {"text": "a"}, agent="reader").reason == "capability_denied"


@pytest.mark.parametrize(("session", "mode"), [("s", "session"), (None, "one_shot")])
def test_what_a_call_starts_lives_as_long_as_the_session(project, session, mode):
    async def tool(parameters, ctx):
        return ctx.invocation_mode

    rt = project.open(binding("start", tool, invocation_modes=("one_shot", "session")), binding("plain", tool))
    assert rt.call_sync("start", session=session).output == mode
    assert rt.call_sync("plain", session=session).output == "one_shot"


def test_a_call_with_an_id_is_made_once(project):
    log = []
    rt = project.open(echo(log))
    first = rt.call_sync("say.it", {"text": "a"}, call_id="c1")
    again = project.open(echo(log)).call_sync("say.it", {"text": "a"}, call_id="c1")
    assert (again.output, again.run_id, again.deduplicated_from) == ("a", first.run_id, f"{first.run_id}/call")
    assert len(log) == 1
    others = [{"call_id": "c2"}, {"call_id": "c1", "session": "s"}, {}]
    for options in others:
        rt.call_sync("say.it", {"text": "a"}, **options)
    rt.call_sync("say.it", {"text": "b"}, call_id="c1")
    assert len(log) == 5


def test_a_failed_call_is_not_made_again_and_a_rejected_one_is(new_project):
    log = []
    rt = new_project(toml=TOML % "").open(failing(), echo(log))
    failed = [rt.call_sync("break.it", call_id="f") for _ in range(2)]
    assert failed[0].run_id == failed[1].run_id
    rejected = [rt.call_sync("say.it", {}, call_id="r") for _ in range(2)]
    assert rejected[0].run_id != rejected[1].run_id


def test_an_undone_call_is_made_anew(project):
    rt = project.open()
    write = ("fs.write", {"path": "a.txt", "content": "x"})
    first = rt.call_sync(*write, call_id="w")
    asyncio.run(rt.runs.undo(first.run_id))
    assert not (project.root / "a.txt").exists()
    assert rt.call_sync(*write, call_id="w").run_id != first.run_id
    assert (project.root / "a.txt").read_text() == "x"


def test_a_claim_whose_process_ended_before_the_run_begins_it(project):
    log = []
    rt = project.open(echo(log))
    rt.call_sync("say.it", {"text": "a"}, call_id="c1")
    rt.services.db.execute("update calls set outcome = null, run = 'run_never'")
    assert rt.call_sync("say.it", {"text": "a"}, call_id="c1").run_id == "run_never"
    assert len(log) == 2


def test_a_claim_whose_process_ended_before_the_outcome_was_kept_reads_the_journal(project):
    log = []
    rt = project.open(echo(log))
    first = rt.call_sync("say.it", {"text": "a"}, call_id="c1")
    rt.services.db.execute("update calls set outcome = null")
    again = rt.call_sync("say.it", {"text": "a"}, call_id="c1")
    assert (again.output, again.run_id, len(log)) == ("a", first.run_id, 1)


def test_a_call_that_is_under_way_is_not_made_beside_it(project):
    async def main():
        begun, go = asyncio.Event(), asyncio.Event()

        async def tool(parameters, ctx):
            begun.set()
            await go.wait()

        rt = project.open(binding("slow", tool))
        first = asyncio.create_task(rt.call("slow", call_id="c"))
        await begun.wait()
        with pytest.raises(ConflictError) as caught:
            await rt.call("slow", call_id="c")
        go.set()
        assert (await first).ok
        return caught.value.code

    assert asyncio.run(main()) == "call_unfinished"


def test_a_sync_call_in_a_running_loop_says_what_to_do(embedded):
    rt = embedded(echo([]))

    async def main():
        rt.call_sync("say.it", {"text": "a"})

    with pytest.raises(UsageError) as caught:
        asyncio.run(main())
    assert caught.value.code == "loop_running"
    assert caught.value.hint == "`await runtime.call(...)` instead of `runtime.call_sync(...)`"


STORY = """
import os, interlock

@interlock.tool(read_only={read_only})
def slow(path: str) -> str:
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) == 1:
        os.kill(os.getpid(), 9)
    return "done"

block = {{"type": "tool_use", "id": "t1", "name": "slow", "input": {{"path": {path!r}}}}}
with interlock.Runtime.open() as rt:
    rt.register(slow)
    (answer,) = rt.execute_tool_calls_sync({{"role": "assistant", "content": [block]}})
    print(answer["content"][0]["content"])
"""


@pytest.fixture
def killed(project, tmp_path):
    """Carries out a message in a process that is killed in its tool; gives what carries it out again, and the marks."""
    marks = tmp_path / "marks"

    def run(read_only):
        story = STORY.format(read_only=read_only, path=str(marks))
        environment = {**os.environ, **project.env}
        return subprocess.run(
            [sys.executable, "-c", story],
            cwd=project.root,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def first(read_only):
        assert run(read_only).returncode == -9
        return run, marks

    return first


def test_a_message_whose_process_was_killed_continues(killed):
    run, marks = killed(read_only=True)
    assert run(read_only=True).stdout == "done\n"
    assert marks.read_text() == "xx"


def test_a_call_of_which_nobody_knows_what_became_is_not_made_again(killed, project):
    run, marks = killed(read_only=False)
    again = run(read_only=False)
    assert "HeldError" in again.stderr
    assert '{"call": "again"}' in again.stderr
    assert marks.read_text() == "x"

    rt = project.open(binding("slow", None))
    (unfinished,) = rt.runs.recover()
    asyncio.run(rt.runs.resume(unfinished.run_id, {"call": "failed"}))
    rt.close()
    assert run(read_only=False).stdout.startswith("[FAILED] ")
    assert marks.read_text() == "x"


# -- execute_tool_calls


@pytest.mark.parametrize("as_objects", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_chat_completions(embedded, as_objects, whole):
    log = []
    message = chat(("call_1", "say_it", {"text": "a"}), ("call_2", "say_it", {"text": "b"}))
    given = {"choices": [{"message": message}]} if whole else message
    results = carry_out(embedded(echo(log)), objects(given) if as_objects else given)
    assert results == [
        {"role": "tool", "tool_call_id": "call_1", "content": "a"},
        {"role": "tool", "tool_call_id": "call_2", "content": "b"},
    ]
    assert log == [{"text": "a"}, {"text": "b"}]


@pytest.mark.parametrize("as_objects", [False, True])
def test_responses(embedded, as_objects):
    message = response(("call_1", "say_it", {"text": "a"}))
    rt = embedded(echo([]))
    expected = [{"type": "function_call_output", "call_id": "call_1", "output": "a"}]
    given = objects(message) if as_objects else message
    assert carry_out(rt, given) == expected
    assert carry_out(rt, message["output"]) == expected


@pytest.mark.parametrize("as_objects", [False, True])
def test_anthropic_messages(embedded, as_objects):
    message = anthropic(("toolu_1", "say_it", {"text": "a"}), ("toolu_2", "break_it", {}))
    if as_objects:  # the SDK has `input` as a dictionary
        message = types.SimpleNamespace(
            role="assistant", content=[types.SimpleNamespace(**block) for block in message["content"]]
        )
    (answer,) = carry_out(embedded(echo([]), failing()), message)
    assert answer["role"] == "user"
    good, bad = answer["content"]
    assert good == {"type": "tool_result", "tool_use_id": "toolu_1", "content": "a", "is_error": False}
    assert (bad["tool_use_id"], bad["is_error"]) == ("toolu_2", True)
    assert bad["content"] == '[FAILED] tool_failed: it broke\n{"stderr":"no such thing"}'


@pytest.mark.parametrize("message", [chat(), {"role": "assistant", "content": "Hi."}, anthropic(), response()])
def test_no_calls_give_nothing_to_append(embedded, message):
    assert carry_out(embedded(echo([])), message) == []


@pytest.mark.parametrize(
    "message",
    [
        None, 5, "text", {}, {"role": "user", "content": "Hi."}, {"choices": []}, {"choices": [{}, {}]},
        [chat(("c", "say_it", {"text": "a"}))], anthropic(("c", "say_it", {"text": "a"}))["content"],
        {"role": "assistant", "content": None, "function_call": {"name": "say_it", "arguments": "{}"}},
    ],
)  # fmt: skip
def test_what_is_not_a_models_message_is_refused(embedded, message):
    with pytest.raises(UsageError) as caught:
        carry_out(embedded(echo([])), message)
    assert caught.value.code == "message_unknown"


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("say_it", '{"text": ', "the arguments are not JSON"),
        ("say_it", '{"text": "a", "text": "b"}', "the arguments are not JSON"),
        ("say_it", "[1]", "the arguments must be a JSON object"),
        ("say_it", "", "`text` is a required property"),
        ("sayit", "{}", "there is no tool `sayit` (did you mean `say_it`?). The tools are: `say_it`."),
        ("", "{}", "there is no tool ``"),
        ("n" * 1000, "{}", "there is no tool `nnn"),
        ("say_it", json.dumps({"text": "x" * 2_000_000}), "[REJECTED] $: "),
    ],
)
def test_what_a_model_did_wrong_is_reported_to_the_model(embedded, name, arguments, said):
    log = []
    (result,) = carry_out(embedded(echo(log)), chat(("call_1", name, arguments)))
    assert result["tool_call_id"] == "call_1"
    assert result["content"].startswith("[REJECTED] ")
    assert result["content"].endswith("Nothing was done.")
    assert said in result["content"]
    assert log == []


def test_a_model_is_not_told_of_tools_that_it_may_not_reach(embedded):
    rt = embedded(echo([]), echo([], "say.them"), rules={"allow": ["say.it"]})
    (result,) = carry_out(rt, chat(("c", "say_them_", "{}")))
    assert "say_them`" not in result["content"]


def test_the_same_message_again_runs_nothing_again(project):
    log = []
    rt = project.open(echo(log))
    message = chat(("call_1", "say_it", {"text": "a"}))
    assert carry_out(rt, message) == carry_out(rt, message)
    assert len(log) == 1
    carry_out(rt, message, once=False)
    assert len(log) == 2


def test_two_calls_of_a_message_with_one_id_run_once(embedded):
    log = []
    message = chat(("c", "say_it", {"text": "a"}), ("c", "say_it", {"text": "b"}))
    first, second = carry_out(embedded(echo(log)), message)
    assert (first["content"], log) == ("a", [{"text": "a"}])
    assert "another call with the id `c`" in second["content"]


# -- questions


@pytest.fixture
def asking(new_project):
    return new_project(toml=TOML % 'ask = ["say.it"]\n')


def test_a_held_call_that_is_not_waited_for_can_be_answered_and_gone_on_with(asking):
    log = []
    rt = asking.open(echo(log), echo(log, "free"))
    message = anthropic(("t0", "free", {"text": "0"}), ("t1", "say_it", {"text": "a"}), ("t2", "free", {"text": "2"}))
    with pytest.raises(HeldError) as caught:
        carry_out(rt, message, wait=False)
    held = caught.value
    assert [block["tool_use_id"] for block in held.messages[0]["content"]] == ["t0"]
    assert log == [{"text": "0"}], "what stands after the held call has not begun"
    assert held.approval in held.hint
    assert held.run_id in held.hint

    other = asking.open(echo(log), echo(log, "free"))  # as another process would
    with pytest.raises(HeldError) as again:
        carry_out(other, message, wait=False)
    assert again.value.approval == held.approval, "it is asked once"
    (question,) = other.approvals.list()
    assert other.approvals.approve(question).status == "approved"
    (answer,) = carry_out(other, message, wait=False)
    assert [block["content"] for block in answer["content"]] == ["0", "a", "2"]
    assert log == [{"text": "0"}, {"text": "a"}, {"text": "2"}]


def test_a_held_call_without_an_id_is_resumed_by_its_run(asking):
    rt = asking.open(echo([]))
    with pytest.raises(HeldError) as caught:
        rt.call_sync("say.it", {"text": "a"}, wait=False)
    rt.approvals.edit(caught.value.approval, {"text": "b"})
    (result,) = asyncio.run(rt.runs.resume(caught.value.run_id))
    assert result.results[0].output == "b"


def test_a_denial_stands_and_is_reported(asking):
    rt = asking.open(echo([]))
    message = chat(("c1", "say_it", {"text": "a"}))
    with pytest.raises(HeldError) as caught:
        carry_out(rt, message, wait=False)
    rt.approvals.deny(caught.value.approval[:12], reason="not today")
    for _ in range(2):
        (result,) = carry_out(rt, message, wait=False)
        assert "approval_denied" in result["content"]
        assert "not today" in result["content"]
    assert len(rt.approvals.list(None)) == 1


def test_execute_leaves_a_held_action_open_if_it_is_not_to_wait(asking):
    rt = asking.open(echo([]))
    action = {"type": "tool_call", "tool": "say.it", "parameters": {"text": "a"}}
    result = rt.execute_sync({"actions": [action]}, wait=False)
    assert result.status == "held"
    assert rt.approvals.get("last").id == result.results[0].output["approval"]


@pytest.mark.parametrize(
    ("reply", "output"), [(True, "a"), (False, None), ({"text": "edited"}, "edited")], ids=["yes", "no", "edit"]
)
@pytest.mark.parametrize("is_async", [False, True])
def test_the_programs_own_function_is_asked(asking, reply, output, is_async):
    seen = []

    def plain(question):
        seen.append(question)
        return reply

    async def asynchronous(question):
        return plain(question)

    rt = asking.open(echo([]), on_question=asynchronous if is_async else plain)
    result = rt.call_sync("say.it", {"text": "a"})
    assert result.output == output
    assert [(hold.tool, hold.parameters) for hold in seen] == [("say.it", {"text": "a"})]
    (vote,) = rt.approvals.list(None)[0].votes
    assert vote.surface == "python"


def test_none_leaves_the_question_to_others(asking):
    async def leave(question):
        rt.approvals.approve(question)

    rt = asking.open(echo([]))
    assert rt.call_sync("say.it", {"text": "a"}, on_question=leave).ok


@pytest.mark.parametrize("reply", ["yes", 1, ValueError("broken"), {"text": 5}])
def test_a_function_that_fails_withdraws_the_question_and_is_heard_of(asking, reply):
    log = []

    def broken(question):
        if isinstance(reply, Exception):
            raise reply
        return reply

    rt = asking.open(echo(log))
    with pytest.raises((ValueError, UsageError)):
        rt.call_sync("say.it", {"text": "a"}, on_question=broken)
    assert log == []
    (question,) = rt.approvals.list(None)
    assert (question.status, question.votes) == ("cancelled", ())


def test_where_the_starter_may_not_answer_the_question_is_withdrawn(new_project):
    log = []
    rt = new_project(toml=TOML % 'ask = ["say.it"]\n' + "[approvals]\nseparation = true\n").open(echo(log))
    with pytest.raises(ConflictError) as caught:
        rt.call_sync("say.it", {"text": "a"}, on_question=lambda question: True)
    assert (caught.value.code, log) == ("separation", [])


def test_an_edit_by_somebody_else_is_shown_before_it_is_approved(asking):
    log, seen = [], []

    async def approve(question):
        seen.append(question.digest)
        if len(seen) == 1:
            rt.services.db.execute("update approvals set digest = 'sha256:edited'")
        elif len(seen) == 2:
            rt.services.db.execute("update approvals set digest = ?", (seen[0],))
        return True

    rt = asking.open(echo(log))
    assert rt.call_sync("say.it", {"text": "a"}, on_question=approve).ok
    assert len(seen) == 3


def test_runs_of_several_proposals_and_governed_functions_ask_too(asking):
    async def main():
        seen = []

        def refuse(question):
            seen.append(question.tool)
            return False

        rt = asking.open(echo([]), on_question=refuse)
        run = rt.runs.start()
        action = {"type": "tool_call", "tool": "say.it", "parameters": {"text": "a"}}
        results = [await run.execute({"actions": [action]}) for _ in range(2)]
        held = await run.execute({"actions": [action]}, wait=False)
        run.finish()
        return seen, [one.results[0].reason for one in (*results, held)]

    assert asyncio.run(main()) == (["say.it"] * 2, ["approval_denied", "approval_denied", "held"])


def test_each_call_asks_its_own_caller(asking):
    async def main():
        rt = asking.open(echo([]))
        results = await asyncio.gather(
            rt.call("say.it", {"text": "a"}, on_question=lambda question: True),
            rt.call("say.it", {"text": "b"}, on_question=lambda question: False),
        )
        with pytest.raises(HeldError):
            await rt.call("say.it", {"text": "c"}, wait=False)
        return [result.status for result in results]

    assert asyncio.run(main()) == ["succeeded", "rejected"]


def test_with_approvers_an_answer_from_a_program_needs_a_token(asking):
    rt = asking.open(echo([]))
    token = rt.services.desk.approvers.add("ann")
    with pytest.raises(HeldError) as caught:
        rt.call_sync("say.it", {"text": "a"}, wait=False)
    with pytest.raises(UsageError) as refused:
        rt.approvals.approve(caught.value.approval)
    assert refused.value.code == "unauthenticated"
    assert rt.approvals.approve(caught.value.approval, token=token).votes[0].approver == "ann"


def test_what_was_seen_is_what_is_approved(asking):
    rt = asking.open(echo([]))
    rt.services.desk.approvers.configured = {}
    with pytest.raises(HeldError) as caught:
        rt.call_sync("say.it", {"text": "a"}, wait=False)
    seen = rt.approvals.get(caught.value.approval)
    rt.services.db.execute("update approvals set digest = 'sha256:edited'")
    with pytest.raises(ConflictError) as refused:
        rt.approvals.approve(seen)
    assert refused.value.code == "changed"


def test_a_runtime_in_memory_has_its_own_questions(embedded):
    assert embedded(echo([])).approvals.list() == []


# -- what a person sees


def test_a_traceback_says_where_and_what_to_do(tmp_path):
    code = "import interlock\nraise interlock.UsageError('no', path='$.x', hint='do this')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stderr.endswith("UsageError: no\nwhere: $.x\ndo: do this\n")


def test_a_notebook_shows_results_and_escapes_what_tools_return(embedded):
    rt = embedded(echo([]))
    page = rt.call_sync("say.it", {"text": "<script>alert(1)</script>"})._repr_html_()
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    hostile = {"id": "<b>", "type": "tool_call", "tool": "say.it", "parameters": {"text": "x" * 5000}}
    page = rt.execute_sync({"actions": [hostile]})._repr_html_()
    assert "<b>" not in page
    assert "(3000 more characters)" in page
