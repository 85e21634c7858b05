"""The small MCP server of `gateway.py`: plain frames without a library, so that only the proxies in front of it are measured."""

import json
import sys

NUMBERS = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}
TOOLS = [
    {"name": "add", "description": "Add two numbers.", "inputSchema": NUMBERS},
    {"name": "held", "description": "Do nothing.", "inputSchema": {"type": "object"}},
]

for line in sys.stdin.buffer:
    message = json.loads(line)
    number, method = message.get("id"), message.get("method")
    if number is None:
        continue
    answer: dict = {"jsonrpc": "2.0", "id": number}
    if method == "initialize":
        answer["result"] = {
            "protocolVersion": message["params"]["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "adder", "version": "1"},
        }
    elif method == "tools/list":
        answer["result"] = {"tools": TOOLS}
    elif method == "tools/call":
        given = message["params"].get("arguments") or {}
        answer["result"] = {"content": [{"type": "text", "text": str(given.get("a", 0) + given.get("b", 0))}]}
    elif method == "ping":
        answer["result"] = {}
    else:
        answer["error"] = {"code": -32601, "message": "not here"}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
