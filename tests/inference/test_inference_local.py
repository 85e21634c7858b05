"""`embed` and `classify` without a model server: nothing is sent, nothing costs, and the same text has the same vector."""

import math
import socket

import pytest
from inference_world import SETTINGS, call, models
from model_server import serving

import interlock
from interlock.engine.tools import model_tools
from interlock.executors.inference import local
from interlock.model.errors import ConfigurationError

WORDS = {"models": {"words": {"provider": "local"}}}
LABELS = [
    {"name": "bug", "description": "something is broken, an error or a crash"},
    {"name": "feature", "description": "a request for something new"},
]


def runtime(**sections):
    grants = {"grants": {"coder": {"tools": ["embed", "classify"]}}, "rules": {"allow": ["embed", "classify"]}}
    return interlock.Runtime.open(settings=SETTINGS | grants | WORDS | sections)


def cosine(one, other):
    return sum(a * b for a, b in zip(one, other, strict=True))


@pytest.fixture
def offline(monkeypatch):
    """Any connection is a failure of the test."""

    def refuse(*_args, **_kwargs):
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_texts_become_vectors_offline_and_need_no_unscoped_grant(offline):
    with runtime() as rt:
        assert [tool.name for tool in rt.tools()] == ["classify", "embed"]
        assert {tool.open_world for tool in rt.tools()} == {False}
        found = call(rt, "embed", texts=["delete old log files", "remove stale logs", "create a new user"])
        assert (found.status, found.error) == ("succeeded", None)
        old, stale, user = found.output["vectors"]
    assert found.output["dimensions"] == len(old) == 256
    assert math.isclose(math.hypot(*old), 1.0, abs_tol=1e-4)
    # As measured on the design's page.
    assert round(cosine(old, stale), 2) == 0.57
    assert round(cosine(old, user), 2) == 0.0


def test_a_text_is_sorted_by_the_words_of_the_labels(offline):
    with runtime() as rt:
        found = call(rt, "classify", text="It crashes with an error 500", labels=LABELS)
        both = call(rt, "classify", text="It crashes with an error 500", labels=LABELS, multi=True)
    assert found.output["label"] == "bug"
    assert list(found.output["scores"]) == ["bug", "feature"]
    assert all(0 <= score <= 1 for score in found.output["scores"].values())
    assert both.output["labels"] == [name for name, score in both.output["scores"].items() if score >= 0.5]


def test_tokens_are_counted_and_cost_nothing(offline):
    with runtime(budget={"cost": 1.0, "tokens": 1_000}) as rt:
        found = call(rt, "embed", texts=["delete old log files"])
        assert found.output["usage"] == {"input_tokens": 4, "output_tokens": 0, "cost": 0.0}
        refused = call(rt, "embed", texts=["word " * 1_000])
        assert (refused.status, refused.reason) == ("skipped", "budget_exceeded")


def test_a_text_without_words_has_a_vector_too(offline):
    with runtime() as rt:
        found = call(rt, "embed", texts=[" ", "\u200b", "\n"])
        assert (found.status, len(found.output["vectors"])) == ("succeeded", 3)
        scores = call(rt, "classify", text="", labels=LABELS).output["scores"]
        assert set(scores.values()) == {0.0}


def test_a_long_text_is_read_whole(offline):
    with runtime() as rt:
        found = call(rt, "embed", texts=["word " * 20_000])
        assert found.output["usage"]["input_tokens"] > 19_000


def test_beside_a_model_that_is_asked_the_tool_still_needs_its_grant():
    with serving() as server:
        both = WORDS["models"] | models(server)["models"]
        with runtime(models=both) as rt:
            assert call(rt, "embed", texts=["x"]).reason == "unscoped_denied"


def test_policies_see_that_it_is_local(tmp_path):
    (tmp_path / "own.cedar").write_text(
        'permit (principal, action == Action::"embed", resource) when { context.provider == "local" };'
    )
    grants = {"coder": {"tools": ["embed", "classify"]}}
    settings = SETTINGS | WORDS | {"rules": {}, "policy": {"files": ["own.cedar"]}, "grants": grants}
    with interlock.Runtime.open(settings=settings, workspace=tmp_path) as rt:
        assert call(rt, "embed", texts=["x"]).status == "succeeded"
        assert call(rt, "classify", text="x", labels=LABELS).reason == "policy_denied"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"endpoint": "http://localhost:1"}, "sends nothing"),
        ({"key_env": "KEY"}, "sends nothing"),
        ({"prices": {"input": 1.0}}, "sends nothing"),
        ({"tools": ["infer"]}, "supports only `classify` and `embed`"),
        ({"tools": []}, "at least one tool"),
    ],
)
def test_what_a_local_model_cannot_have_is_refused(more, said):
    with pytest.raises(ConfigurationError, match=said):
        runtime(models={"words": {"provider": "local"} | more})


def test_without_the_extra_the_start_says_what_to_install(monkeypatch):
    monkeypatch.setattr(model_tools, "PACKAGES", ("interlock_no_such_package",))
    with pytest.raises(ConfigurationError) as refused:
        runtime()
    assert (refused.value.code, refused.value.path) == ("extra_missing", "models.words.provider")
    assert ".[infer]" in refused.value.hint


def test_files_that_cannot_be_read_fail_the_call_and_cost_nothing(monkeypatch, tmp_path):
    def broken():
        return local.StaticEmbedder(tmp_path)

    monkeypatch.setattr(local, "embedder", broken)
    with runtime() as rt:
        found = call(rt, "embed", texts=["x"])
    assert (found.status, found.reason) == ("failed", "model_unavailable")


def test_many_texts_stop_at_the_time_out(offline):
    with runtime(tools={"embed": {"timeout": "1ms"}}) as rt:
        found = call(rt, "embed", texts=["word " * 2_000] * 90)
    assert found.reason == "timeout"
