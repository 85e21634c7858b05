"""The search of the memory by vectors: found beside words, of one embedder only, and said where there are none."""

import asyncio
import sys
from pathlib import Path

import pytest

import interlock
from interlock.disk import Database
from interlock.learning.facts import FactStore, fuse
from interlock.learning.vectors import SIMILARITY_MIN
from interlock.testing.clock import FakeClock

sys.path.insert(0, str(Path(__file__).parents[1] / "inference"))
from inference_world import AGENT, KEY, SETTINGS, models
from model_server import Raw, serving

pytest.importorskip("wordllama")

TOOLS = ["memory.*", "embed", "infer", "infer.grounded"]
LOCAL = {"models": {"words": {"provider": "local"}}}
OPEN = {
    "rules": {"allow": TOOLS},
    "grants": {AGENT: {"tools": TOOLS, "unscoped": ["*"]}, "other": {"tools": ["memory.*"]}},
}


def runtime(**sections):
    return interlock.Runtime.open(settings=SETTINGS | OPEN | sections).with_learning()


def note(rt, value, subject="cleaning", agent=AGENT, **more):
    found = asyncio.run(rt.call("memory.write", {"subject": subject, "value": value, **more}, agent=agent))
    assert found.status == "succeeded", found.error


def read(rt, query, agent=AGENT):
    found = asyncio.run(rt.call("memory.read", {"query": query}, agent=agent))
    assert found.status == "succeeded", found.error
    return [one["value"] for one in found.output["items"]], found.output


def test_other_words_for_the_same_are_found_and_what_is_unrelated_is_not():
    with runtime(**LOCAL) as rt:
        note(rt, "delete old log files")
        note(rt, "create a new user", "people")
        values, output = read(rt, "remove stale logs")
        assert (values, output["vectors"]) == (["delete old log files"], "words")
        assert [one.fact.value for one in rt.memory.search("remove stale logs")] == ["delete old log files"]
        assert "delete old log files" in rt.memory.build_context("remove stale logs", agent=AGENT).text


def test_without_a_model_it_says_that_words_alone_were_compared():
    with runtime() as rt:
        note(rt, "delete old log files")
        values, output = read(rt, "remove stale logs")
        assert (values, output["vectors"]) == ([], None)
        assert "compares only words" in output["why"]


def test_vectors_show_no_one_what_is_not_theirs_and_nothing_that_does_not_hold():
    with runtime(**LOCAL) as rt:
        note(rt, "delete old log files", predicate="how")
        note(rt, "erase outdated log data", agent="other")
        assert read(rt, "remove stale logs", "other")[0] == ["erase outdated log data"]
        assert read(rt, "remove stale logs")[0] == ["delete old log files"]
        note(rt, "rotate records weekly", predicate="how")
        assert "delete old log files" not in read(rt, "remove stale logs")[0]
        (fact,) = rt.memory.search("rotate", agent=AGENT)
        rt.memory.forget(fact.fact.id)
        assert read(rt, "remove stale logs")[0] == ["delete old log files"]
        rows = rt.services.db.execute("select count(*) from memory_vectors")[0][0]
        assert rows == 2


def test_what_agents_who_fill_the_memory_do_not_crowd_out_others():
    with runtime(**LOCAL) as rt:
        note(rt, "delete old log files")
        for number in range(30):
            note(rt, f"remove stale logs {number}", agent="other")
        assert read(rt, "remove stale logs")[0] == ["delete old log files"]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("MODEL_KEY", KEY)


def test_an_endpoint_is_asked_only_if_it_is_named_and_the_agent_may_ask_it():
    with serving() as server:
        with runtime(**models(server)) as rt:
            note(rt, "a")
            assert read(rt, "b")[1]["vectors"] is None
            assert server.seen == []
        with runtime(**models(server), learning={"embed": "fast"}) as rt:
            note(rt, "a")
            assert read(rt, "b")[1]["vectors"] == "fast"
            assert [len(one[2]["input"]) for one in server.seen] == [2]
            found = asyncio.run(
                rt.execute({"actions": [{"type": "tool_call", "tool": "memory.read", "parameters": {"query": "c"}}]})
            )
            assert found.cost.tokens == server.usage[0]
            assert [len(one[2]["input"]) for one in server.seen] == [2, 1]  # the fact has its vector
            assert "`embed` is refused" in read(rt, "b", "other")[1]["why"]
            assert len(server.seen) == 2


def test_the_rules_judge_every_text_that_an_endpoint_would_get():
    def about_ann(request):
        return "about a person" if any("ann" in text for text in request.parameters["texts"]) else None

    with serving() as server, runtime(**models(server), learning={"embed": "fast"}) as rt:
        rt.rules.add("private", about_ann, tools=["embed"])
        note(rt, "ann cleans on fridays")
        output = read(rt, "cleaning")[1]
        assert (output["vectors"], server.seen) == (None, [])
        assert "about a person" in output["why"]
        rt.rules.remove("private")
        assert read(rt, "cleaning")[1]["vectors"] == "fast"


def test_a_search_keeps_to_the_rate_limit_of_embed():
    with serving() as server, runtime(**models(server), learning={"embed": "fast"}) as rt:
        note(rt, "old logs are deleted")
        rt.set_rate_limit("embed", calls=1, per_ms=3_600_000)
        assert read(rt, "a")[1]["vectors"] == "fast"
        values, output = read(rt, "old logs")
        assert (values, output["vectors"], len(server.seen)) == (["old logs are deleted"], None, 1)
        assert "rate limit of `embed`" in output["why"]


def test_an_endpoint_that_fails_leaves_the_words():
    with serving() as server, runtime(**models(server), learning={"embed": "fast"}) as rt:
        note(rt, "delete old log files")
        server.answers = [Raw(b"no", status=500)]
        values, output = read(rt, "old logs")
        assert (values, output["vectors"]) == (["delete old log files"], None)
        assert "gives no vectors" in output["why"]


def test_a_model_that_is_not_there_is_reported_at_the_start():
    with runtime(**LOCAL, learning={"embed": "gone"}) as rt:
        assert any("there is no model `gone`" in one for one in rt.warnings)
        assert "`gone`" in read(rt, "x")[1]["why"]


def store():
    return FactStore(Database(Path(":memory:")), "w", FakeClock())


def test_vectors_of_different_embedders_never_mix():
    facts = store()
    for number in range(3):
        facts.note(f"mem_{number}", "workspace", f"s{number}", "", "x", author="agent:a")
    index = facts.vectors
    index.add("one", [(1, [1.0, 0.0]), (2, [0.0, 1.0])])
    index.add("two", [(3, [1.0, 0.0, 0.0])])
    assert index.nearest("one", [1.0, 0.1], ["workspace"]) == [(1, 0.995)]
    assert index.nearest("two", [1.0, 0.1], ["workspace"]) == []  # of another length
    assert [number for number, _ in index.missing("two", ["workspace"])] == [2, 1]
    assert index.nearest("three", [1.0], ["workspace"]) == []
    assert index.nearest("one", [0.0, 0.0], ["workspace"]) == []
    facts.db.close()


@pytest.mark.parametrize("bad", [[0.0, 0.0], [float("inf"), 1.0], [float("nan"), 1.0], [1e39, 1.0]])
def test_a_vector_without_a_direction_is_near_nothing_and_is_not_asked_for_again(bad):
    facts = store()
    for number in range(2):
        facts.note(f"mem_{number}", "workspace", "s", "", number, author="agent:a")
    facts.vectors.add("one", [(1, bad), (2, [1.0, 0.0])])
    assert facts.vectors.missing("one", ["workspace"]) == []
    assert facts.vectors.nearest("one", [1.0, 0.0], ["workspace"]) == [(2, 1.0)]
    assert facts.vectors.nearest("one", bad, ["workspace"]) == []
    facts.db.close()


def test_a_number_that_is_used_again_has_its_own_vector():
    facts = store()
    facts.note("mem_a", "workspace", "a", "", "x", author="agent:a")
    facts.vectors.add("one", [(1, [1.0, 0.0])])
    assert facts.vectors.nearest("one", [1.0, 0.0], ["workspace"]) == [(1, 1.0)]
    facts.forget(ids=["mem_a"])
    facts.vectors.add("one", [(1, [1.0, 0.0])])  # it is gone
    facts.note("mem_b", "workspace", "b", "", "x", author="agent:a")
    facts.vectors.add("one", [(1, [0.0, 1.0])])
    assert facts.vectors.nearest("one", [0.0, 1.0], ["workspace"]) == [(1, 1.0)]
    assert facts.vectors.nearest("one", [1.0, 0.0], ["workspace"]) == []
    facts.db.close()


def test_the_merged_order_is_that_of_the_facts_alone():
    facts = store()
    noted = [facts.note(f"mem_{number}", "workspace", "s", "", number, author="agent:a") for number in range(4)]
    forward = fuse(noted, noted[2:])
    assert [one.fact.value for one in forward[:2]] == [2, 3]
    assert fuse(noted[2:], noted) == forward
    assert 0 < SIMILARITY_MIN < 1
    facts.db.close()


def test_a_skill_is_found_by_other_words_for_its_goal(tmp_path):
    tools = ["fs.*", "skills.*"]
    settings = SETTINGS | {"rules": {"allow": tools}, "grants": {AGENT: {"tools": ["*"]}}} | LOCAL
    with interlock.Runtime.open(settings=settings, workspace=tmp_path) as rt:
        rt.with_learning(auto_distill=True)
        for goal, folder in (("Delete old log files", "log"), ("Create a new user", "user")):
            for n in (1, 2):
                write = {
                    "type": "tool_call",
                    "tool": "fs.write",
                    "parameters": {"path": f"{folder}{n}", "content": folder},
                }
                actions = [{**write, "id": f"a{i}"} for i in range(2 if folder == "log" else 3)]
                assert asyncio.run(rt.execute({"actions": actions, "context": {"goal": goal}})).status == "succeeded"
            rt.skills.wait_learnt()
        for one in rt.skills.list():
            rt.skills.approve(one.name, version=1, digest=one.digest, by="eve", untested=True)
        assert [one.name for one in rt.skills.find("remove stale records of logs")] == ["delete-old-log-files"]
        assert rt.skills.find("weather forecast") == []
