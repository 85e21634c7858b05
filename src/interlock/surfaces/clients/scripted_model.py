"""A model on loopback that makes scripted calls, so that `interlock doctor --clients` can try a real client offline.

It speaks the APIs of Anthropic, OpenAI and Gemini, streamed. The next call is derived from the conversation, so it has
no state.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from interlock.surfaces.clients import model_replies
from interlock.surfaces.clients.model_replies import Turn

Call = tuple[str, Any]
"""A tool's name (`NAMESPACE/NAME` if the API groups tools) and its input."""
_CHOICE: Final = json.dumps(
    {
        "model_choice": "flash",
        "reasoning": "",
        "complexity_score": 1,
        "complexity_reasoning": "",
        "next_speaker": "user",
    }
)
"""The JSON answer to Gemini CLI's requests before each turn: the model to use, and who speaks next.

Without it, it retries for minutes.
"""
_SHAPES: Final = (
    ("/messages", model_replies.anthropic),
    ("/responses", model_replies.responses),
    ("/chat/completions", model_replies.chat),
    (":streamGenerateContent", model_replies.gemini),
    (":generateContent", model_replies.gemini_at_once),
)


class ScriptedModel:
    """Makes one call after the other. Only for one client at a time."""

    def __init__(self, calls: Sequence[Call], name: str = "probe") -> None:
        """`calls` are made in this order, whatever their results. `name` is part of their ids."""
        self._calls = calls
        self._id = f"call_{name}_"
        self.offered: set[str] = set()
        """The names of the tools that the client has offered."""
        self.results: dict[int, str] = {}
        """The client's result of each call, as JSON text."""
        self.url = ""

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Serve on a free loopback port within the block; `url` is the address."""
        with ThreadingHTTPServer(("127.0.0.1", 0), _handler(self)) as server:
            thread = threading.Thread(target=server.serve_forever, daemon=True)
            thread.start()
            self.url = f"http://127.0.0.1:{server.server_port}"
            try:
                yield
            finally:
                server.shutdown()
                thread.join()

    def turn(self, request: dict[str, Any]) -> Turn:
        """The next answer."""
        if not request.get("tools"):
            return Turn(
                _CHOICE if "responseMimeType" in (request.get("generationConfig") or {}) else "ok"
            )  # a request for a title, or a probe
        self.offered |= set(_names(request["tools"]))
        messages = [*request.get("messages", ()), *request.get("input", ()), *request.get("contents", ())]
        results = list(_results(messages, self._id))
        self.results |= dict(results)
        due = max((number for number, _ in results), default=-1) + 1
        if due >= len(self._calls):
            return Turn("done")
        name, given = self._calls[due]
        namespace, _, tool = name.rpartition("/")
        return Turn("", f"{self._id}{due}", tool, given, namespace or None)


def _names(tools: Any) -> Iterator[str]:
    """The names of tools in the format of each API; tools of a group as `NAMESPACE/NAME`."""
    for tool in tools:
        for inner in tool.get("functionDeclarations", ()):
            yield str(inner.get("name"))
        for inner in tool.get("tools", ()):
            yield f"{tool.get('name')}/{inner.get('name')}"
        yield str(tool.get("name") or (tool.get("function") or {}).get("name") or tool.get("type"))


def _results(value: Any, mark: str) -> Iterator[tuple[int, str]]:
    """The results of calls whose ids begin with `mark`, anywhere in a conversation."""
    if isinstance(value, list):
        for inner in value:
            yield from _results(inner, mark)
        return
    if not isinstance(value, dict):
        return
    call = value.get("tool_use_id") or value.get("tool_call_id")
    if str(value.get("type")).endswith("_output"):
        call = value.get("call_id")
    if isinstance(response := value.get("functionResponse"), dict):
        call, value = response.get("id"), response
    number = re.fullmatch(rf"{mark}(\d+)(?:\D.*)?", str(call))
    if number is not None:
        yield int(number[1]), json.dumps(value.get("content", value.get("output", value.get("response"))))
        return
    for inner in value.values():
        yield from _results(inner, mark)


def _handler(model: ScriptedModel) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

        def do_HEAD(self) -> None:
            self._send(b"", "application/json")

        def do_GET(self) -> None:
            self._send(b'{"object": "list", "data": [], "models": []}', "application/json")

        def do_POST(self) -> None:
            request = json.loads(self._body() or b"{}")
            path = self.path.partition("?")[0]
            for ending, reply in _SHAPES:
                if path.endswith(ending):
                    streamed = reply is not model_replies.gemini_at_once
                    self._send(reply(model.turn(request)), "text/event-stream" if streamed else "application/json")
                    return
            self._send(b'{"input_tokens": 10, "totalTokens": 10}', "application/json")

        def _body(self) -> bytes:
            if "chunked" in self.headers.get("transfer-encoding", ""):
                parts = bytearray()
                while size := int(self.rfile.readline().strip() or b"0", 16):
                    parts += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                data = bytes(parts)
            else:
                data = self.rfile.read(int(self.headers.get("content-length") or 0))
            return gzip.decompress(data) if self.headers.get("content-encoding") == "gzip" else data

        def _send(self, data: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler
