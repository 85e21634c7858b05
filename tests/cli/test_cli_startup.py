"""What a command imports: a user waits for it at every start. Modules are counted, because time depends on the machine."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

PARSERS = {"cedarpy", "yaml", "tree_sitter", "pydantic", "ahocorasick_rs", "opentelemetry"}
NETWORK = {"http.client", "uvicorn", "starlette"}
DRAWING = {"rich", "html", "html.entities"}
TOOLS = {
    "interlock.executors.git_tools",
    "interlock.executors.http_fetch",
    "interlock.executors.modules",
    "interlock.engine.runs.undo_tool",
    "interlock.isolation.probe",
    "interlock.isolation.egress.server",
}
ENGINE = {"interlock.engine.assemble", "jsonschema_rs", "cryptography"}
SETTINGS = {"interlock.settings.load", "tomllib", "shutil", "traceback"}
ROLLBACK = {"interlock.engine.completion.rollback", "interlock.engine.kit.calls"}
PEM = {"cryptography.hazmat.primitives.serialization"}
REST = {"interlock.engine.gate.approval", "interlock.workspace.layers", "interlock.telemetry.otel", "dataclasses"}

COMMANDS = {
    "run plan.json": (PARSERS | NETWORK | DRAWING | TOOLS | PEM | ROLLBACK | REST | {"tempfile"}, 358),
    'call fs.read {"path":"plan.json"}': (PARSERS | NETWORK | DRAWING | TOOLS | PEM | REST | {"tempfile"}, 373),
    "runs list": (PARSERS | NETWORK | DRAWING | TOOLS | ENGINE | SETTINGS | {"asyncio"}, 78),
    "log": (PARSERS | NETWORK | DRAWING | TOOLS | ENGINE | SETTINGS | {"asyncio"}, 76),
    "approvals list": (PARSERS | NETWORK | DRAWING | TOOLS | ENGINE | SETTINGS | {"asyncio"}, 108),
    "gateway": (PARSERS | NETWORK | DRAWING | TOOLS | PEM | ROLLBACK | REST | {"tempfile"}, 370),
}
"""The command; what it must not import; how many modules it may have in the end besides Python's own. The numbers only shrink."""

INPUT = {
    "gateway": '{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},'
    '"clientInfo":{"name":"test","version":"1"}}}\n{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{}}\n'
}
"""What a client sends until it knows the tools."""

SCRIPT = (
    "import json, sys; from interlock.surfaces.cli.app import run; code = run(sys.argv[1:]);"
    "print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)"
)


def start(cli, *argv) -> tuple[int, set[str]]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *argv],
        input=INPUT.get(argv[0], ""),
        capture_output=True,
        text=True,
        cwd=cli.root,
        env=cli.env,
        timeout=25,
        check=False,
    )
    code, modules = json.loads(done.stderr.splitlines()[-1])
    return code, set(modules)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_imports_what_it_needs(cli, command):
    (cli.root / "plan.json").write_text(
        '{"actions": [{"type": "tool_call", "tool": "fs.read", "parameters": {"path": "plan.json"}}]}'
    )
    if "fs.read" in command or command.startswith(("run ", "gateway")):
        assert cli("run", "plan.json").code == 0  # the first run checks the policies, and remembers them
    forbidden, most = COMMANDS[command]
    code, modules = start(cli, *command.split(" "))
    assert code == 0
    assert sorted(forbidden & modules) == []
    count = len({name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names})
    assert count <= most
