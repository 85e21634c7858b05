"""A model on loopback that says what a script says, in the shape of Anthropic's Messages API (streaming).

Which turn is due is read from the conversation, so nothing is kept and a client may be killed and started anew.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Model:
    """`turns` are lists of tool calls (name, input); after the last it says "done". `offered` are the tools that it was sent."""

    def __init__(self, turns: list[list[tuple[str, dict[str, Any]]]]) -> None:
        self.turns = turns
        self.offered: set[str] = set()
        self.results: dict[str, str] = {}
        self.url = ""

    def answer(self, body: dict[str, Any]) -> list[dict[str, Any]]:
        """The content blocks of the next message."""
        if not body.get("tools"):
            return [{"type": "text", "text": "ok"}]
        self.offered |= {tool["name"] for tool in body["tools"]}
        turn = 0
        for message in body["messages"]:
            for block in message["content"] if isinstance(message["content"], list) else []:
                if block.get("type") == "tool_result" and block["tool_use_id"].startswith("toolu_turn"):
                    self.results[block["tool_use_id"]] = json.dumps(block.get("content"))
                    turn = max(turn, int(block["tool_use_id"].split("_")[2]) + 1)
        if turn >= len(self.turns):
            return [{"type": "text", "text": "done"}]
        return [
            {"type": "tool_use", "id": f"toolu_turn_{turn}_{i}", "name": name, "input": given}
            for i, (name, given) in enumerate(self.turns[turn])
        ]

    def result(self, turn: int, call: int = 0) -> str:
        """What the model was told about a call."""
        return self.results[f"toolu_turn_{turn}_{call}"]

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serve on a free port of loopback."""
        model = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                self._send(b"", "application/json")

            def do_GET(self) -> None:
                self._send(b'{"data": []}', "application/json")

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)) or b"{}")
                if "count_tokens" in self.path:
                    self._send(b'{"input_tokens": 10}', "application/json")
                    return
                events = stream(model.answer(body))
                data = b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events)
                self._send(data, "text/event-stream")

            def _send(self, data: bytes, kind: str) -> None:
                self.send_response(200)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            self.url = f"http://127.0.0.1:{server.server_port}"
            try:
                yield
            finally:
                server.shutdown()
                thread.join()


def stream(blocks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The events of a streamed message."""
    usage = {"input_tokens": 10, "output_tokens": 5}
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "scripted",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    yield {"type": "message_start", "message": message}
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
    yield {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": usage}
    yield {"type": "message_stop"}
