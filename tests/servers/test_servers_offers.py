"""What the gateway offers of its servers: names that clients accept, only what could be allowed, before a server has started."""

from __future__ import annotations

import asyncio

import pytest
from servers_world import CONFIGURATION, client, tool
from test_servers_questions import ASK, FORM

from interlock.surfaces.gateway import asking

CHARS_MAX = 64 - len("mcp__interlock__")


def names_of(answer: dict) -> list[str]:
    return [each["name"] for each in answer["result"]["tools"]]


@pytest.mark.parametrize("modern", [False, True])
def test_long_and_equal_names_are_offered_apart_and_each_reaches_its_tool(project, modern):
    own = ["say.y", "say_y", "say-y", "say" + "a" * 60 + "1", "say" + "a" * 60 + "2"]
    project.ready(*map(tool, own)).close()

    async def use() -> tuple[list[str], list[str]]:
        with project.open() as runtime:
            async with client(runtime, modern=modern) as one:
                names = names_of(await one.request("tools/list"))
                said = [await one.call(name) for name in names]
        return names, [each["result"]["content"][0]["text"] for each in said]

    names, said = asyncio.run(use())
    assert len(set(names)) == 5
    assert all(len(name) <= CHARS_MAX and name.replace("_", "").replace("-", "").isalnum() for name in names)
    assert sorted(said) == sorted(own)
    assert asyncio.run(use()) == (names, said), "another gateway offers the same, in the same order"


def test_only_what_rules_and_grants_could_allow_is_listed_and_no_other_call_reaches_the_server(project):
    tools = ["free", "asked", "denied", "ungranted"]
    rules = CONFIGURATION.replace(
        'allow = ["s/*"]', 'allow = ["s/free", "s/ungranted"]\nask = ["s/asked"]\ndeny = ["s/denied"]'
    )
    rules = rules.replace('tools = ["s/*"]', 'tools = ["s/free", "s/asked", "s/denied"]')
    runtime = project.ready(*(tool(name) for name in tools), rules=rules)

    async def use() -> None:
        async with client(runtime) as one:
            assert names_of(await one.request("tools/list")) == ["s_asked", "s_free"]
            for name in ("s_denied", "s_ungranted"):
                refused = (await one.call(name))["result"]
                assert refused["isError"]
                assert refused["content"][0]["text"].startswith("[REJECTED]")
            project.configure(rules.replace('"s/free", ', "", 1) + project.server)
            number = one.ask("tools/list")
            while (answer := await one.read()).get("id") != number:
                assert answer["method"] == "notifications/tools/list_changed"
            assert names_of(answer) == ["s_asked"]
            assert (await one.call("s_free"))["result"]["isError"]

    asyncio.run(use())
    started = [row for row in runtime.runs.list() if row.succeeded]
    assert started == []


@pytest.mark.parametrize("modern", [False, True])
def test_a_server_is_started_by_its_first_call_and_not_to_be_listed(project, modern):
    runtime = project.ready(tool("echo", "text"))
    (project.root / "server.py").write_text("raise SystemExit('it does not start')")

    async def use() -> None:
        async with client(runtime, modern=modern) as one:
            if modern:
                assert "tools" in (await one.request("server/discover"))["result"]["capabilities"]
            listed = (await one.request("tools/list"))["result"]
            assert [each["name"] for each in listed["tools"]] == ["s_echo"]
            assert (listed.get("ttlMs"), listed.get("cacheScope")) == ((0, "private") if modern else (None, None))
            called = (await one.call("s_echo", text="x"))["result"]
            assert "server_unavailable" in called["content"][0]["text"]

    asyncio.run(use())


def test_the_state_of_an_open_call_expires_and_is_of_its_own_session(project, monkeypatch):
    runtime = project.ready(ASK)
    call = {"name": "s_ask", "arguments": {"method": "elicitation/create", "params": FORM}}

    async def use() -> None:
        async with (
            client(runtime, modern=True, elicitation={}) as one,
            client(runtime, modern=True, elicitation={}) as other,
        ):
            first = (await one.request("tools/call", **call))["result"]
            assert first["resultType"] == "input_required"
            refused = await other.request("tools/call", **call, requestState=first["requestState"])
            assert "`requestState` does not belong to this call" in refused["error"]["message"]
            monkeypatch.setattr(asking, "OPEN_S", 0.05)
            late = (await one.request("tools/call", **call))["result"]
            await asyncio.sleep(0.2)
            refused = await one.request("tools/call", **call, requestState=late["requestState"])
            assert "has expired" in refused["error"]["message"]

    asyncio.run(use())
