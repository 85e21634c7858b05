"""A model on loopback that makes the calls of a script, so that `interlock doctor --clients` can try a real client offline.

It speaks Anthropic's Messages API, streamed. Which call is due is read from the conversation.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Call = tuple[str, dict[str, Any]]
"""A tool's name and its input."""


class AnthropicModel:
    """Makes one call after the other. Not for more than one client at once."""

    def __init__(self, calls: Sequence[Call]) -> None:
        """`calls` are made in this order, whatever comes of them."""
        self._calls = calls
        self.offered: set[str] = set()
        """The names of the tools that the client has offered."""
        self.results: dict[int, str] = {}
        """What the client said came of each call, as JSON text."""
        self.url = ""

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serve on a free port of loopback, for the block; `url` says where."""
        with ThreadingHTTPServer(("127.0.0.1", 0), _handler(self)) as server:
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            self.url = f"http://127.0.0.1:{server.server_port}"
            try:
                yield
            finally:
                server.shutdown()
                thread.join()

    def reply(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        """The events of the answer to a request."""
        if not request.get("tools"):
            return list(_events([{"type": "text", "text": "ok"}]))
        self.offered |= {str(tool.get("name")) for tool in request["tools"]}
        due = 0
        for message in request.get("messages", ()):
            blocks = message.get("content")
            for block in blocks if isinstance(blocks, list) else ():
                if block.get("type") == "tool_result" and str(block.get("tool_use_id")).startswith("toolu_probe_"):
                    number = int(block["tool_use_id"].removeprefix("toolu_probe_"))
                    self.results[number] = json.dumps(block.get("content"))
                    due = max(due, number + 1)
        if due >= len(self._calls):
            return list(_events([{"type": "text", "text": "done"}]))
        name, given = self._calls[due]
        return list(_events([{"type": "tool_use", "id": f"toolu_probe_{due}", "name": name, "input": given}]))


def _handler(model: AnthropicModel) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def do_HEAD(self) -> None:
            self._send(b"", "application/json")

        def do_GET(self) -> None:
            self._send(b'{"data": []}', "application/json")

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
            if "count_tokens" in self.path:
                self._send(b'{"input_tokens": 10}', "application/json")
                return
            events = model.reply(request)
            data = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
            self._send(data.encode(), "text/event-stream")

        def _send(self, data: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler


def _events(blocks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The events of a streamed message. Source: Anthropic's documentation of streaming."""
    usage = {"input_tokens": 1, "output_tokens": 1}
    message: dict[str, Any] = {
        "id": "msg_probe",
        "type": "message",
        "role": "assistant",
        "model": "probe",
        "content": [],
    }
    ends: dict[str, Any] = {"stop_reason": None, "stop_sequence": None}
    start: dict[str, Any]
    yield {"type": "message_start", "message": {**message, **ends, "usage": usage}}
    for index, block in enumerate(blocks):
        if block["type"] == "text":
            start, delta = {"type": "text", "text": ""}, {"type": "text_delta", "text": block["text"]}
        else:
            start = {**block, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
        yield {"type": "content_block_start", "index": index, "content_block": start}
        yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    reason = "tool_use" if any(block["type"] == "tool_use" for block in blocks) else "end_turn"
    yield {"type": "message_delta", "delta": {**ends, "stop_reason": reason}, "usage": usage}
    yield {"type": "message_stop"}
