"""A model server on loopback: real HTTP, in the shapes of OpenAI, Anthropic and Google, and as bad as a test wants it."""

import contextlib
import http.server
import json
import socket
import threading
from collections.abc import Iterator

PROVIDERS = ("openai-compatible", "anthropic", "google")
STREAMED = tuple((provider, stream) for provider in PROVIDERS for stream in (False, True))


class ModelServer(http.server.ThreadingHTTPServer):
    """Answers with what `answers` holds, one after the other; the last one again and again."""

    daemon_threads = True

    def __init__(self, *answers, usage=(11, 5), reason=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = list(answers) or ["ok"]
        self.usage = usage
        self.reason = reason
        self.seen = []
        """(path, headers, body) of each request."""
        self.lock = threading.Lock()

    @property
    def port(self):
        return self.server_address[1]

    def endpoint(self, provider):
        return f"http://127.0.0.1:{self.port}" + ("/v1" if provider == "openai-compatible" else "")

    def next(self):
        with self.lock:
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def handle_error(self, *_args):
        pass  # clients that go away are what some tests are about


class Raw:
    """Bytes to send instead of an answer in shape."""

    def __init__(self, body=b"", status=200, kind="application/json", headers=(), close=False, length=None):
        self.body, self.status, self.kind, self.headers = body, status, kind, dict(headers)
        self.close, self.length = close, length


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_args):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        self.server.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        answer = self.server.next()
        if callable(answer):
            answer = answer(self)
        if isinstance(answer, Raw):
            self.send(answer)
        elif answer is not None:
            self.in_shape(answer, body)

    do_GET = do_POST  # noqa: N815 - the name that http.server looks for

    def send(self, raw):
        if raw.close:  # nothing at all
            self.close_connection = True
            return
        self.send_response(raw.status)
        self.send_header("Content-Type", raw.kind)
        for name, value in raw.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw.body) if raw.length is None else raw.length))
        self.end_headers()
        self.wfile.write(raw.body)
        if raw.length is not None:
            self.close_connection = True

    def in_shape(self, text, body):
        path, usage = self.path.partition("?")[0], self.server.usage
        if path.endswith("/embeddings"):
            rows = [{"index": i, "embedding": vector(one)} for i, one in enumerate(body["input"])]
            document = {"data": rows[::-1], "usage": None if usage is None else {"prompt_tokens": usage[0]}}
            return self.send(Raw(json.dumps(document).encode()))
        if path.endswith(":batchEmbedContents"):
            rows = [{"values": vector(one["content"]["parts"][0]["text"])} for one in body["requests"]]
            return self.send(Raw(json.dumps({"embeddings": rows}).encode()))
        if path.endswith("/chat/completions"):
            make = openai_answer
        else:
            make = anthropic_answer if path.endswith("/messages") else google_answer
        document, events = make(text, body, usage, self.server.reason)
        if body.get("stream") or "stream" in path:
            return self.send(Raw(sse(events, body), kind="text/event-stream"))
        return self.send(Raw(json.dumps(document).encode()))


def vector(text):
    return [float(len(text)), 1.0, 0.5]


def sse(events, body):
    lines = []
    for event in events:
        lines += [f"event: {event['type']}\n"] if "type" in event else []
        lines.append(f"data: {json.dumps(event)}\n\n")
    return "".join([*lines, *(["data: [DONE]\n\n"] if "stream_options" in body else [])]).encode()


def halves(text):
    return text[: len(text) // 2], text[len(text) // 2 :]


def openai_answer(text, _body, usage, reason):
    reason = reason or "stop"
    counted = None if usage is None else {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    document = {"choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}]}
    events = [{"choices": [{"delta": {"content": part}, "finish_reason": None}]} for part in halves(text)]
    events += [{"choices": [{"delta": {}, "finish_reason": reason}]}, {"choices": [], "usage": counted}]
    return {**document, "usage": counted}, events


def anthropic_answer(text, body, usage, reason):
    reason = reason or "end_turn"
    counted = {} if usage is None else {"input_tokens": usage[0], "output_tokens": usage[1]}
    head = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [],
        "stop_reason": None,
    }
    written = {name: count for name, count in counted.items() if name == "output_tokens"}
    events = [
        {"type": "message_start", "message": {**head, "usage": {**counted, "output_tokens": 1} if counted else {}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": part}}
            for part in halves(text)
        ),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": written},
        {"type": "message_stop"},
    ]
    return {**head, "content": [{"type": "text", "text": text}], "stop_reason": reason, "usage": counted}, events


def google_answer(text, _body, usage, reason):
    reason = reason or "STOP"
    counted = None if usage is None else {"promptTokenCount": usage[0], "candidatesTokenCount": usage[1]}

    def part(text, **more):
        return {"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, **more}]}

    first, second = halves(text)
    whole = part(text, finishReason=reason) | {"usageMetadata": counted}
    return whole, [part(first), part(second, finishReason=reason) | {"usageMetadata": counted}]


@contextlib.contextmanager
def serving(*answers, **options) -> Iterator[ModelServer]:
    server = ModelServer(*answers, **options)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def unused_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
