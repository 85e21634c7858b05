"""A client for the official conformance suite: it calls every tool of the suite's server through Interlock's gateway.

    conformance_client.py DIRECTORY URL

What reaches the server is what Interlock sends as a client. `DIRECTORY` is emptied and used for the project.
"""

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from interlock import Runtime
from interlock.engine.trust import review, trust
from interlock.surfaces.gateway.calls import Agent
from interlock.surfaces.gateway.session import Session

ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}},
}
VALUES: dict[str, Any] = {"string": "text", "number": 5, "integer": 5, "boolean": True, "array": [], "object": {}}


def project(root: Path, url: str) -> Path:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    os.environ["INTERLOCK_STATE_DIR"] = str(root.with_suffix(".state"))
    (root / "interlock.toml").write_text(
        '[rules]\nallow = ["it/*"]\n[grants.agent]\ntools = ["*"]\nunscoped = ["*"]\n'
        f'[mcp.servers.it]\nurl = {json.dumps(url)}\nasks = ["elicitation"]\n'
    )
    trust(review(root, os.environ), os.environ)
    with Runtime.open(root / "interlock.toml") as runtime:
        found = asyncio.run(runtime.servers.compare())
        print([(one.unreachable, one.problems) for one in found], file=sys.stderr)
        runtime.servers.write_lock(found)
    trust(review(root, os.environ), os.environ)
    return root / "interlock.toml"


def arguments_of(schema: dict[str, Any]) -> dict[str, Any]:
    """Values for the parameters of a tool."""
    given = {}
    for name, one in schema.get("properties", {}).items():
        if isinstance(one, dict):
            given[name] = one["enum"][0] if "enum" in one else VALUES.get(one.get("type", "string"), "text")
    return given


def without_null(arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments that fit a schema without null: a missing one means the same."""
    return {name: value for name, value in arguments.items() if value is not None}


def accepted(params: dict[str, Any]) -> dict[str, Any]:
    """The answer to a form, with its defaults."""
    fields = params.get("requestedSchema", {}).get("properties", {})
    return {"action": "accept", "content": {name: one["default"] for name, one in fields.items() if "default" in one}}


class Client:
    """A client of the gateway in this process, which accepts every form with its defaults."""

    def __init__(self, runtime: Runtime, *, modern: bool) -> None:
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._modern = modern
        self.session = Session(runtime, Agent(None, "suite"), self._take, wait_s=0.0)

    def _take(self, frame: bytes) -> None:
        message = json.loads(frame)
        if "method" in message and "id" in message:
            answer = {"jsonrpc": "2.0", "id": message["id"], "result": accepted(message["params"])}
            self.session.receive(json.dumps(answer).encode())
        elif message.get("id") in self._answers:
            self._answers.pop(message["id"]).set_result(message)

    async def request(self, method: str, **params: Any) -> dict[str, Any]:
        number = len(self._answers) + 1
        while number in self._answers:
            number += 1
        self._answers[number] = asyncio.get_running_loop().create_future()
        meta = {"_meta": ENVELOPE} if self._modern else {}
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": {**params, **meta}}
        self.session.receive(json.dumps(message).encode())
        return await asyncio.wait_for(self._answers[number], 25)

    async def call(self, name: str, arguments: dict[str, Any]) -> None:
        found = await self.request("tools/call", name=name, arguments=arguments)
        result = found.get("result", {})
        if result.get("resultType") == "input_required":
            answers = {key: accepted(one["params"]) for key, one in result["inputRequests"].items()}
            found = await self.request(
                "tools/call",
                name=name,
                arguments=arguments,
                inputResponses=answers,
                requestState=result["requestState"],
            )
        print(name, json.dumps(found)[:300], file=sys.stderr)


async def use(configuration: Path) -> None:
    modern = os.environ.get("MCP_CONFORMANCE_PROTOCOL_VERSION", "2025-11-25") >= "2026"
    with Runtime.open(configuration) as runtime:
        client = Client(runtime, modern=modern)
        if not modern:
            await client.request(
                "initialize", protocolVersion="2025-11-25", capabilities={"elicitation": {}}, clientInfo={}
            )
        tools = (await client.request("tools/list"))["result"]["tools"]
        wanted = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}")).get("toolCalls", [])
        calls = [(f"it_{each['name']}", without_null(each["arguments"])) for each in wanted]
        calls = calls or [(each["name"], arguments_of(each["inputSchema"])) for each in tools]
        schemas = {each["name"]: each["inputSchema"] for each in tools}
        if "it_json_schema_echo" in schemas:  # it wants the schema of the other tool, as it arrived here
            calls = [("it_json_schema_echo", {"schema": schemas["it_json_schema_2020_12_tool"]})]
        await asyncio.gather(*(client.call(name, arguments) for name, arguments in calls))
        await client.session.close()


if __name__ == "__main__":
    asyncio.run(use(project(Path(sys.argv[1]), sys.argv[2])))
