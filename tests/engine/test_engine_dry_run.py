"""A dry run reaches the tools that support one: they say what they would do, and nothing is changed."""

import asyncio
import os

import pytest
from engine_world import AGENT, TOML, binding, call, execute, reasons, statuses, write

import interlock
from interlock.executors.callables import InvalidToolError
from interlock.executors.python import bind


def preview(rt, *actions):
    return execute(rt, *actions, dry_run=True)


def snapshot(root):
    return {
        str(path.relative_to(root)): (path.read_bytes() if path.is_file() else None, os.lstat(path).st_mtime_ns)
        for path in sorted(root.rglob("*"))
    }


def test_a_tool_says_what_it_would_do(embedded):
    seen = []

    async def send(parameters, ctx):
        seen.append(ctx.dry_run)
        return {"would_send_to": parameters["to"]} if ctx.dry_run else {"sent": True}

    rt = embedded(binding("send", send, supports_dry_run=True, returns={"type": "object", "required": ["sent"]}))
    row = preview(rt, call("send", parameters={"to": "ops"})).results[0]
    assert (row.status, row.reason, row.output) == ("skipped", "dry_run", {"would_send_to": "ops"})
    assert execute(rt, call("send", parameters={"to": "ops"})).results[0].output == {"sent": True}
    assert seen == [True, False]


def test_a_tool_that_does_not_say_so_is_not_called(embedded):
    calls = []

    async def send(parameters, ctx):
        calls.append(1)

    row = preview(embedded(binding("send", send)), call("send")).results[0]
    assert (row.status, row.output, row.error) == ("skipped", None, "it would run")
    assert calls == []


def test_what_the_gate_refuses_is_not_called_either(embedded):
    calls = []

    async def send(parameters, ctx):
        calls.append(1)

    rt = embedded(binding("send", send, supports_dry_run=True), rules={"deny": ["send"]})
    assert reasons(preview(rt, call("send"))) == ["policy_denied"]
    assert calls == []


def test_a_preview_that_fails_does_not_stop_the_others(embedded):
    async def send(parameters, ctx):
        if parameters.get("fail"):
            raise interlock.ToolError("no such list")
        return "ok"

    rt = embedded(binding("send", send, supports_dry_run=True))
    result = preview(rt, call("send", parameters={"fail": 1}), call("send"))
    assert statuses(result) == ["skipped", "skipped"]
    assert "fail as things are now" in result.results[0].error
    assert "no such list" in result.results[0].error
    assert result.results[1].output == "ok"


def test_a_preview_has_its_time_out(embedded):
    async def hang(parameters, ctx):
        await asyncio.sleep(20)

    rt = embedded(binding("hang", hang, supports_dry_run=True, timeout_ms=50))
    assert "timeout" in preview(rt, call("hang")).results[0].error


def test_the_file_tools_show_the_difference_and_change_nothing(project):
    (project.root / "a.txt").write_text("one\ntwo\nthree\n")
    (project.root / "d").mkdir()
    (project.root / "d" / "x").write_text("x")
    rt = project.open()
    before = snapshot(project.root)
    result = preview(
        rt,
        call("fs.edit", "edit", parameters={"path": "a.txt", "old": "two", "new": "2"}),
        call("fs.write", "new", parameters={"path": "new/b.txt", "content": "hello\n"}),
        call("fs.write", "append", parameters={"path": "a.txt", "content": "four\n", "append": True}),
        call("fs.write", "replace", parameters={"path": "a.txt", "content": "one\n"}),
        call("fs.delete", "delete", parameters={"path": "d", "recursive": True}),
        call("fs.move", "move", parameters={"source": "d", "destination": "e"}),
        call("fs.edit", "wrong", parameters={"path": "a.txt", "old": "none", "new": "x"}),
        write("k", 1),
    )
    assert set(reasons(result)) == {"dry_run"}
    assert result["edit"].output["difference"] == ["@@ -1,3 +1,3 @@", " one", "-two", "+2", " three"]
    assert result["edit"].output["replacements"] == 1
    assert result["new"].output["difference"] == ["@@ -0,0 +1 @@", "+hello"]
    assert result["new"].output["created"] is True
    assert result["append"].output["difference"][-1] == "+four"
    assert result["replace"].output["difference"][-2:] == ["-two", "-three"]
    assert result["delete"].output["deleted"] == 2
    assert result["move"].output == {"moved": 2}
    assert "edit_mismatch" in result["wrong"].error
    assert snapshot(project.root) == before
    assert rt.state.snapshot() == {}


def test_a_preview_is_on_record(project):
    (project.root / "a.txt").write_text("one\n")
    rt = project.open()
    result = preview(rt, call("fs.edit", parameters={"path": "a.txt", "old": "one", "new": "1"}))
    assert rt.runs.results(result.run_id)[0].results[0].output == result.results[0].output


def test_a_preview_shows_no_file_that_the_agent_may_not_read(new_project):
    """Else a dry run of a write would be a way to read."""
    paths = f'[grants.{AGENT}.paths]\nread = ["open/**"]\nwrite = ["**"]\n\n[guard]'
    toml = (TOML % "").replace("[guard]", paths)
    project = new_project(toml=toml, files=[("secret/key", "hidden\n"), ("open/key", "shown\n")])
    rt = project.open()
    hidden, shown = (
        preview(rt, call("fs.write", parameters={"path": f"{place}/key", "content": ""})).results[0]
        for place in ("secret", "open")
    )
    assert "hidden" not in str(hidden)
    assert "may not read" in hidden.output["note"]
    assert shown.output["difference"][-1] == "-shown"


def test_a_preview_of_a_binary_or_too_large_file(project):
    (project.root / "b").write_bytes(b"\xff\xfe\xfd")
    (project.root / "big").write_text("x\n" * 800_000)
    rt = project.open()
    binary, big = (
        preview(rt, call("fs.write", parameters={"path": path, "content": "new"})).results[0] for path in ("b", "big")
    )
    assert binary.output["difference"] == []
    assert "not text" in binary.output["note"]
    assert "too large" in big.output["note"]


def test_a_function_without_a_context_cannot_support_dry_runs():
    def send(to: str) -> str:
        return to

    with pytest.raises(InvalidToolError, match="dry run"):
        bind(interlock.tool(supports_dry_run=True)(send))
