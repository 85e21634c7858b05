"""Endpoints that answer with garbage, half a stream, errors, a redirect, too much, or nothing, and keys that are never shown."""

import asyncio
import gzip
import json
import threading

import msgspec
import pytest
from inference_world import KEY, SECRET, call, infer, models, runtime
from model_server import PROVIDERS, Raw, serving, unused_port

import interlock
from interlock.executors.inference.exchange import ANSWER_BYTES_MAX


def asked(answer, provider="openai-compatible", **more):
    with serving(answer) as server, runtime(server, provider, **more) as rt:
        return call(rt, "infer", prompt="x")


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    "body",
    [b"", b"garbage", b"{", b"[]", b"null", b"5", b'{"choices": 5, "content": 5, "candidates": 5}', b"[" * 100_000,
     b'{"choices": [{"message": {"content": 5}}], "content": [{"type": "text", "text": 5}], "candidates": [{}]}',
     b"\xff\xfe\x00\x01\x80"],
)  # fmt: skip
def test_garbage_is_an_error_that_can_be_retried(provider, body):
    result = asked(Raw(body), provider)
    assert (result.status, result.reason) == ("failed", "model_answer_invalid")
    assert "fast" in result.error


STREAMS = {
    "openai-compatible": b'data: {"choices": [{"delta": {"content": "Once upon"}}]}\n\n',
    "anthropic": b'data: {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "Once"}}\n\n',
    "google": b'data: {"candidates": [{"content": {"parts": [{"text": "Once upon"}]}}]}\n\n',
}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("tail", [b"", b'data: {"choi', b"data: [DONE]\n\n", b": ping\n\n"])
def test_an_incomplete_stream_is_not_an_answer(provider, tail):
    result = asked(Raw(STREAMS[provider] + tail, kind="text/event-stream"), provider, stream=True)
    assert result.reason == "model_answer_invalid"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_an_incomplete_body_is_not_an_answer(provider):
    result = asked(Raw(b'{"choices": [', length=1000), provider)
    assert (result.status, result.reason) == ("failed", "connection_failed")


@pytest.mark.parametrize(
    ("provider", "event"),
    [
        ("openai-compatible", {"error": {"message": "overloaded"}}),
        ("anthropic", {"type": "error", "error": {"type": "overloaded_error"}}),
        ("google", {"error": {"code": 503}}),
    ],
)
def test_an_error_in_a_stream_is_an_error(provider, event):
    body = STREAMS[provider] + f"data: {json.dumps(event)}\n\n".encode()
    assert asked(Raw(body, kind="text/event-stream"), provider, stream=True).reason == "model_unavailable"


@pytest.mark.parametrize(
    ("status", "reason"),
    [(429, "model_rate_limited"), (500, "model_unavailable"), (503, "model_unavailable"), (529, "model_unavailable"),
     (401, "model_refused"), (404, "model_refused"), (400, "model_refused"), (201, "model_unavailable")],
)  # fmt: skip
def test_a_status_says_what_is_wrong(status, reason):
    body = json.dumps({"error": {"message": "because of this"}}).encode()
    result = asked(Raw(body, status=status, headers={"Retry-After": "7"}))
    assert result.reason == reason
    assert result.output["status"] == status
    assert result.output["excerpt"] == "because of this"
    assert result.output.get("retry_after_s") == (7 if status == 429 else None)


def test_what_may_pass_is_retried_and_what_may_not_is_not():
    for status, attempts in ((429, 3), (500, 3), (401, 1), (302, 1)):
        with serving(Raw(b"{}", status=status)) as server, runtime(server) as rt:
            action = infer(parameters={"prompt": "x"}, failure_behavior="retry", max_retries=2)
            asyncio.run(rt.execute({"actions": [action]}))
            assert len(server.seen) == attempts, status


def test_a_failure_that_passes_is_over_after_a_retry():
    with serving(Raw(b"", close=True), Raw(b"oops", status=500), "fine") as server, runtime(server) as rt:
        action = infer(parameters={"prompt": "x"}, failure_behavior="retry", max_retries=3)
        result = asyncio.run(rt.execute({"actions": [action]}))
        assert (result.results[0].output["text"], len(server.seen)) == ("fine", 3)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_the_key_goes_nowhere(status):
    with serving("stolen") as other:
        location = f"http://127.0.0.1:{other.port}/v1/chat/completions"
        result = asked(Raw(b"", status=status, headers={"Location": location}))
        assert (result.reason, other.seen) == ("redirect_refused", [])


def test_no_more_is_read_than_the_limit():
    sent = []

    def endless(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(10**9))
        handler.end_headers()
        try:
            for _ in range(1024):
                handler.wfile.write(b" " * 2**20)
                sent.append(2**20)
        except OSError:
            handler.close_connection = True

    result = asked(endless)
    assert result.reason == "model_answer_too_large"
    assert sum(sent) < 8 * ANSWER_BYTES_MAX  # what the kernel's buffers took besides


def test_a_compressed_bomb_is_not_unpacked():
    bomb = gzip.compress(b" " * (ANSWER_BYTES_MAX + 1))
    assert asked(Raw(bomb, headers={"Content-Encoding": "gzip"})).reason == "model_answer_too_large"


def test_nothing_is_an_error():
    assert asked(Raw(close=True)).reason == "connection_failed"


def test_a_server_that_is_not_there_is_an_error_and_costs_nothing():
    one = {
        "provider": "openai-compatible",
        "endpoint": f"http://127.0.0.1:{unused_port()}/v1",
        "prices": {"input": 1.0},
    }
    with serving() as server, runtime(server, sections={"models": {"fast": one}}) as rt:
        result = asyncio.run(rt.execute({"actions": [infer(parameters={"prompt": "x"})]}))
    assert result.results[0].reason == "connection_failed"
    assert (result.cost.tokens, result.cost.cost_unknown) == (0, 0)


def test_a_server_that_does_not_answer_is_given_up_at_the_time_out():
    never = threading.Event()
    with serving(lambda _handler: never.wait(20) and None) as server, runtime(server) as rt:
        action = infer(parameters={"prompt": "x"}, timeout_ms=300)
        result = asyncio.run(rt.execute({"actions": [action]}))
        never.set()
    assert (result.results[0].status, result.results[0].reason) == ("failed", "timeout")
    assert result.cost.cost_unknown == 1


def test_a_call_can_be_cancelled_while_it_waits():
    arrived, never = threading.Event(), threading.Event()

    def wait(_handler):
        arrived.set()
        never.wait(20)

    async def cancelled(rt):
        task = asyncio.create_task(rt.execute({"actions": [infer(parameters={"prompt": "x"})]}))
        await asyncio.to_thread(arrived.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with serving(wait) as server, runtime(server) as rt:
        asyncio.run(cancelled(rt))
        never.set()


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_key_that_the_endpoint_sends_back_is_not_shown(provider):
    with serving(f"your key is {KEY}") as server, runtime(server, provider) as rt:
        assert call(rt, "infer", prompt="x").output["text"] == "your key is [key]"
    body = json.dumps({"error": {"message": f"bad key {KEY}"}}).encode()
    assert asked(Raw(body, status=401), provider).output["excerpt"] == "bad key [key]"


def test_no_key_and_no_secret_of_a_prompt_is_in_the_events():
    events = []
    with serving(f"you said {SECRET}") as server, runtime(server) as rt:
        rt.subscribe(events=lambda _run, event: events.append(event))
        call(rt, "infer", prompt=f"my token is {SECRET}")
    recorded = b"".join(map(msgspec.json.encode, events))
    assert b"my token is" in recorded
    assert KEY.encode() not in recorded
    assert SECRET.encode() not in recorded


def test_a_key_that_is_not_set_is_a_warning_and_then_an_error(monkeypatch):
    monkeypatch.delenv("MODEL_KEY")
    with serving() as server, runtime(server) as rt:
        assert any("MODEL_KEY" in warning for warning in rt.warnings)
        result = call(rt, "infer", prompt="x")
        assert (result.reason, server.seen) == ("model_key_missing", [])
        assert "MODEL_KEY" in result.error


@pytest.mark.parametrize("key", ["with space", "with\nline", "ä"])
def test_a_key_that_cannot_be_one_is_refused_at_the_start_and_not_shown(monkeypatch, key):
    monkeypatch.setenv("MODEL_KEY", key)
    with serving() as server, pytest.raises(interlock.ConfigurationError) as refused:
        runtime(server)
    assert "MODEL_KEY" in str(refused.value)
    assert key not in str(refused.value)


def test_a_name_that_leads_to_a_private_address_is_refused_unless_it_is_listed(monkeypatch):
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("127.0.0.1", 0))])
    with serving("hello") as server:
        there = models(server)["models"]["fast"]
        there = {k: v for k, v in there.items() if k != "key_env"} | {
            "endpoint": f"http://models.example.org:{server.port}/v1"
        }
        with runtime(server, sections={"models": {"fast": there}}) as rt:
            result = call(rt, "infer", prompt="x")
            assert (result.reason, server.seen) == ("private_address", [])
        listed = {"models": {"fast": there}, "network": {"private": [f"models.example.org:{server.port}"]}}
        with runtime(server, sections=listed) as rt:
            assert call(rt, "infer", prompt="x").output["text"] == "hello"
