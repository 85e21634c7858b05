"""An MCP server of 2025-11-25 over streamable HTTP, on a thread: standard library only. Its one tool asks the client.

The question comes on the stream of the call, as the specification has it, and the result is what the client said.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOOL = {"name": "ask", "description": "Ask.", "inputSchema": {"type": "object", "properties": {"message": {}}}}
SCHEMA = {"type": "object", "properties": {}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    status = 200
    """What every request is answered with, if it is not 200."""
    forgetful = False
    """True if no session outlives its beginning."""
    asked: list[str]
    """The methods of all requests."""
    answers: dict[str, queue.Queue[dict[str, Any]]]

    def do_GET(self) -> None:
        self._send(405, b"")

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(message.get("method", ""))
        if self.status != 200:
            self._send(self.status, b"no")
        elif "method" not in message:
            self.answers[message["id"]].put(message)
            self._send(202, b"")
        elif "id" not in message:
            self._send(202, b"")
        elif message["method"] == "tools/call" and self.forgetful:
            self._send(404, b"no")
        elif message["method"] == "tools/call":
            self._ask(message["id"], message["params"]["arguments"]["message"])
        else:
            self._result(message["id"], message["method"])

    def _result(self, number: int, method: str) -> None:
        about = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "older"}}
        result = {"initialize": about, "tools/list": {"tools": [TOOL]}}.get(method)
        body = {"error": {"code": -32601, "message": "no"}} if result is None else {"result": result}
        self._send(200, json.dumps({"jsonrpc": "2.0", "id": number, **body}).encode(), session="1")

    def _ask(self, number: int, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        question = f"about-{number}"
        answer = self.answers[question] = queue.Queue()
        params = {"mode": "form", "message": text, "requestedSchema": SCHEMA}
        self._event({"id": question, "method": "elicitation/create", "params": params})
        said = answer.get(timeout=60)
        content = [{"type": "text", "text": json.dumps(said.get("result", said.get("error")))}]
        self._event({"id": number, "result": {"content": content}})
        self.close_connection = True

    def _event(self, message: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n\n")

    def _send(self, status: int, body: bytes, session: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if session:
            self.send_header("Mcp-Session-Id", session)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def older_http_server(status: int = 200, *, forgetful: bool = False, asked: list[str] | None = None) -> Iterator[str]:
    """The address of a running server. With a `status`, it refuses everything with that. `asked` gets the methods of requests."""
    own = {"answers": {}, "status": status, "forgetful": forgetful, "asked": [] if asked is None else asked}
    handler = type("Handler", (_Handler,), own)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/mcp"
        server.shutdown()
        thread.join()
