"""An MCP server on standard input and output with one tool, `touch`, which makes a file. Not behind the gateway."""

from __future__ import annotations

import json
import sys
from pathlib import Path

TOOL = {"name": "touch", "inputSchema": {"type": "object", "properties": {"path": {"type": "string"}}}}


def result(request: dict) -> dict:
    match request["method"]:
        case "initialize":
            version = request["params"]["protocolVersion"]
            return {
                "protocolVersion": version,
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "s", "version": "1"},
            }
        case "tools/list":
            return {"tools": [TOOL]}
        case "tools/call":
            Path(request["params"]["arguments"]["path"]).touch()
            return {"content": [{"type": "text", "text": "made"}]}
        case _:
            return {}


for line in sys.stdin:
    request = json.loads(line)
    if "id" in request:
        print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result(request)}), flush=True)
