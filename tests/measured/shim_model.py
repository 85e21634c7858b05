"""A scripted model with a script for each conversation, in the shapes of OpenAI and Google, streamed or not."""

from __future__ import annotations

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from interlock.surfaces.clients import model_replies
from interlock.surfaces.clients.model_replies import Turn

CALLS = [("add", {"a": 1, "b": 2}), ("divide", {"a": 1, "b": 0})]
SCRIPTS = {"boom": [("explode", {"a": 1})], "late": [("sleep", {"seconds": 5})], "awake": [("sleep", {"seconds": 0})]}


def turn_of(request: dict, *, ids: bool) -> Turn:
    """The next turn of the conversation, whose prompt is the name of a script, or of another one."""
    items = request.get("messages") or request.get("input") or request["contents"]
    text = json.dumps(items)
    (name,) = {name for name in SCRIPTS if f'"{name}"' in text} or {""}
    script = SCRIPTS.get(name, CALLS)
    done = len(re.findall(r'"role": "tool"|"function_call_output"|"functionResponse"', text))
    if done >= len(script):
        return Turn("done")
    tool, given = script[done]
    return Turn("", f"call_{done}" if ids else "", tool, given)


def _handler() -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["content-length"])))
            path = self.path.partition("?")[0]
            if path.endswith("/responses"):
                data = model_replies.responses(turn_of(request, ids=True))
                if not request.get("stream"):
                    events = [json.loads(line[6:]) for line in data.splitlines() if line.startswith(b"data: ")]
                    data = json.dumps(events[-1]["response"]).encode()
            elif path.endswith("/chat/completions"):
                data = _chat_at_once(turn_of(request, ids=True))
            elif path.endswith(":streamGenerateContent"):
                data = _without_id(model_replies.gemini(turn_of(request, ids=False)))
            else:
                data = _without_id(model_replies.gemini_at_once(turn_of(request, ids=False)))
            streamed = data.startswith((b"event: ", b"data: "))
            self.send_response(200)
            self.send_header("content-type", "text/event-stream" if streamed else "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    return Handler


def _chat_at_once(turn: Turn) -> bytes:
    message = {"role": "assistant", "content": turn.text or None}
    if turn.tool:
        function = {"name": turn.tool, "arguments": json.dumps(turn.input)}
        message["tool_calls"] = [{"id": turn.call_id, "type": "function", "function": function}]
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if turn.tool else "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    answer = {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "fake",
        "choices": [choice],
        "usage": usage,
    }
    return json.dumps(answer).encode()


def _without_id(data: bytes) -> bytes:
    return data.replace(b'"id": "", ', b"")


@contextmanager
def serving():
    """The address of the model."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler()) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
