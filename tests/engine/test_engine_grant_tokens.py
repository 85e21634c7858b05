"""Grant tokens with proposals: what the token allows and nothing else, to its end, once revoked never again, and not in clear."""

from __future__ import annotations

import asyncio

import pytest
from engine_world import AGENT, binding, call, execute, nothing, plan, reasons, statuses, write

import interlock
from interlock.approvals import Approver
from interlock.capability.tokens import attenuate_token, read_token
from interlock.engine.people import grants as granting
from interlock.model.errors import ConfigurationError, UsageError
from interlock.model.grant import Restriction
from interlock.signing import Signer
from interlock.testing.clock import FakeClock

TOML = """
agent = "other"
[rules]
allow = ["fs.*", "helper", "state_read", "state_write"]
[groups]
crew = ["coder", "tester"]
[grants.coder]
tools = ["fs.*", "helper"]
deny_tools = ["fs.delete"]
[grants."group:crew"]
tools = ["helper"]
"""
ROOT = f"configuration:{AGENT}"
READ = call("fs.read", "r", parameters={"path": "notes.txt"})
WRITE = call("fs.write", "w", parameters={"path": "src/a.txt", "content": "a"})


@pytest.fixture
def project(new_project):
    return new_project(toml=TOML, files=[("notes.txt", "hello\n")])


@pytest.fixture
def rt(project):
    return project.open(binding("helper", nothing, open_world=False))


def run(rt, token, *actions, **fields):
    return asyncio.run(rt.execute(plan(*actions, **fields), grant_token=token))


def refused(rt, token, *actions, **fields):
    before = rt.services.index.list_runs() if hasattr(rt.services.index, "list_runs") else None
    with pytest.raises(UsageError) as caught:
        run(rt, token, *(actions or (READ,)), **fields)
    assert token[5:60] not in str(caught.value.as_dict())
    assert before is None or rt.services.index.list_runs() == before, "nothing was begun"
    return caught.value.code


def test_a_token_carries_its_grant_to_whoever_presents_it_and_is_the_agents(rt, project):
    made = rt.grants.issue_token(ROOT)
    result = run(rt, made.token, READ, WRITE)
    assert statuses(result) == ["succeeded", "succeeded"]
    received = next(e for e in project.journal(result.run_id) if e["kind"] == "proposal_received")
    assert (received["agent"], received["grant_token"]) == (AGENT, made.id)
    assert received["grant_token_digest"].startswith("sha256:")
    assert reasons(execute(rt, READ)) == ["grant_missing"], "without it the agent of this project has nothing"


def test_a_narrower_token_made_elsewhere_allows_only_what_is_left(rt):
    token = interlock.attenuate_token(
        rt.grants.issue_token(ROOT).token, Restriction(tools=("fs.read", "fs.write"), write=("docs/**",), actions_max=1)
    )
    assert statuses(run(rt, token, READ)) == ["succeeded"]
    assert reasons(run(rt, token, WRITE)) == ["path_denied"]
    assert reasons(run(rt, token, call("helper", "h"))) == ["capability_denied"]
    assert "too_many_actions" in reasons(run(rt, token, READ, call("fs.list", "l", parameters={})))
    wider = interlock.attenuate_token(token, Restriction(tools=("*",), write=("**",), actions_max=100, deny_tools=()))
    assert reasons(run(rt, wider, WRITE)) == ["path_denied"]
    denied = interlock.attenuate_token(token, Restriction(deny_tools=("fs.r*",)))
    assert reasons(run(rt, denied, READ)) == ["capability_denied"]


def test_the_denials_and_the_end_of_the_grant_hold_for_its_tokens(rt):
    token = interlock.attenuate_token(rt.grants.issue_token(ROOT).token, Restriction(tools=("fs.delete",)))
    assert reasons(run(rt, token, call("fs.delete", "d", parameters={"path": "notes.txt"}))) == ["capability_denied"]


def test_uses_are_counted_for_a_block_and_all_that_was_made_from_it(rt):
    token = interlock.attenuate_token(rt.grants.issue_token(ROOT).token, Restriction(uses_max=2))
    child = interlock.attenuate_token(token, Restriction(uses_max=5))
    helper = call("helper", "h")
    assert reasons(run(rt, child, helper)) == [None]
    assert reasons(run(rt, token, helper)) == [None]
    assert reasons(run(rt, child, helper)) == ["grant_used_up"]
    assert reasons(run(rt, token, helper)) == ["grant_used_up"]


def test_a_token_ends_by_the_clock_of_the_runtime(project):
    clock = FakeClock()
    rt = project.open(clock=clock)
    made = rt.grants.issue_token(ROOT, ttl_ms=60_000)
    assert statuses(run(rt, made.token, READ)) == ["succeeded"]
    clock.advance(60)
    assert refused(rt, made.token) == "grant_token_expired"
    clock.set_wall(clock.now_us() - 3_600_000_000)
    assert refused(rt, made.token) == "grant_token_expired", "time does not go back"


def test_a_revoked_block_ends_the_token_and_all_made_from_it_even_if_it_was_never_presented(rt):
    made = rt.grants.issue_token(ROOT)
    first = interlock.attenuate_token(made.token, Restriction(tools=("fs.*",)))
    second = interlock.attenuate_token(first, Restriction(tools=("fs.read",)))
    assert granting.revoke(rt.services.desk, read_token(first).id, by="ann") == [read_token(first).id]
    for token in (first, second):
        assert refused(rt, token) == "grant_token_revoked"
    assert statuses(run(rt, made.token, READ)) == ["succeeded"]
    assert granting.revoke(rt.services.desk, made.id, by="ann")
    assert refused(rt, made.token) == "grant_token_revoked"
    assert granting.revoke(rt.services.desk, read_token(second).id, by="ann") == [read_token(second).id]


def test_a_revoked_grant_takes_its_tokens_with_it(rt):
    desk = rt.services.desk
    grant = granting.issue(desk, granting.Wish(agent="coder", tools=("fs.*",), read=("**",)), by="ann")
    token = rt.grants.issue_token(grant.id).token
    assert statuses(run(rt, token, READ)) == ["succeeded"]
    granting.revoke(desk, grant.id, by="ann")
    assert refused(rt, token) == "grant_token_revoked"
    with pytest.raises(UsageError) as caught:
        rt.grants.issue_token(grant.id)
    assert caught.value.code == "grant_revoked"


def test_a_revocation_stops_what_is_under_way(project):
    rt = project.open()

    async def revoke(parameters, ctx):
        granting.revoke(rt.services.desk, made.id, by="ann")

    rt.register(binding("helper", revoke, open_world=False))
    made = rt.grants.issue_token(ROOT)
    result = run(rt, made.token, call("helper", "h"), {**READ, "dependencies": ["h"]})
    assert reasons(result)[1] == "grant_revoked"


def test_a_grant_that_leaves_the_configuration_takes_its_tokens_with_it(project):
    with project.open() as rt:
        made = rt.grants.issue_token(ROOT)
    (project.root / "interlock.toml").write_text(TOML.replace("[grants.coder]", "[grants.somebody]"))
    project.trust()
    with project.open() as rt:
        assert refused(rt, made.token) == "grant_token_revoked"


def test_a_token_of_another_project_with_the_same_key_is_refused(new_project, project, tmp_path):
    with project.open() as rt:
        made = rt.grants.issue_token(ROOT)
    other = new_project(toml=TOML)
    other.state, other.env = project.state, project.env
    other.trust()
    with other.open() as rt:
        assert refused(rt, made.token) == "grant_token_audience"
    stranger = new_project(toml=TOML)
    with stranger.open() as rt:
        assert refused(rt, made.token) == "bad_grant_token"


def test_a_proposal_that_names_another_agent_is_refused(rt):
    made = rt.grants.issue_token(ROOT)
    assert statuses(run(rt, made.token, READ, agent=AGENT)) == ["succeeded"]
    for agent in ("tester", "operator", "group:crew"):
        assert refused(rt, made.token, agent=agent) == "grant_token_agent"


def test_a_token_of_a_groups_grant_names_a_member_and_ends_with_the_membership(project):
    with project.open(binding("helper", nothing, open_world=False)) as rt:
        for agent in (None, "stranger", "group:crew"):
            with pytest.raises(UsageError):
                rt.grants.issue_token("configuration:group:crew", agent=agent)
        made = rt.grants.issue_token("configuration:group:crew", agent="tester")
        assert statuses(run(rt, made.token, call("helper", "h"))) == ["succeeded"]
    (project.root / "interlock.toml").write_text(TOML.replace(', "tester"', ""))
    project.trust()
    with project.open(binding("helper", nothing, open_world=False)) as rt:
        assert reasons(run(rt, made.token, call("helper", "h"))) == ["grant_revoked"]


def test_a_result_that_was_kept_for_the_agent_is_not_given_to_a_token(project):
    calls = []

    async def count(parameters, ctx):
        calls.append(1)
        return len(calls)

    rt = project.open(binding("helper", count, open_world=False, idempotent=True))
    action = call("helper", "h", idempotent=True)
    execute(rt, action, agent=AGENT)
    execute(rt, action, agent=AGENT)
    assert len(calls) == 1
    made = rt.grants.issue_token(ROOT)
    run(rt, made.token, action)
    assert len(calls) == 2


def test_a_held_run_continues_under_its_token_and_not_with_more(new_project):
    project = new_project(toml=TOML.replace('allow = ["fs.*",', 'ask = ["fs.*"]\nallow = ['))
    with project.open() as rt:
        rt.services.desk.wait = False
        made = rt.grants.issue_token(ROOT, restriction=Restriction(write=("src/**",)))
        held = run(
            rt,
            made.token,
            WRITE,
            call("fs.write", "x", parameters={"path": "docs/x", "content": ""}, failure_behavior="skip"),
        )
        assert statuses(held)[0] == "held"
    with project.open() as rt:
        desk = rt.services.desk
        [hold] = desk.store.list_holds()
        assert hold.context["grant"] == made.id, "who answers sees that it is not the agent itself"
        desk.store.vote(hold.id, Approver(id="ann", groups=("*",)), "cli", "approve", digest=hold.digest)
        [result] = asyncio.run(rt.runs.resume(held.run_id))
        assert (result["w"].status, result["x"].reason) == ("succeeded", "path_denied")


def test_a_held_run_does_not_continue_when_its_token_was_revoked_meanwhile(new_project):
    project = new_project(toml=TOML.replace('allow = ["fs.*",', 'ask = ["fs.*"]\nallow = ['))
    with project.open() as rt:
        rt.services.desk.wait = False
        made = rt.grants.issue_token(ROOT)
        held = run(rt, made.token, WRITE)
    with project.open() as rt:
        desk = rt.services.desk
        [hold] = desk.store.list_holds()
        desk.store.vote(hold.id, Approver(id="ann", groups=("*",)), "cli", "approve", digest=hold.digest)
        granting.revoke(desk, made.id, by="ann")
        [result] = asyncio.run(rt.runs.resume(held.run_id))
        assert result["w"].reason == "grant_revoked"
    assert not (project.root / "src").exists()


def test_the_token_is_kept_nowhere_not_even_when_an_agent_hands_it_to_a_tool(project):
    rt = project.open(binding("helper", nothing, open_world=False))
    token = interlock.attenuate_token(rt.grants.issue_token(ROOT).token, Restriction(tools=("helper",)))
    result = run(rt, token, call("helper", "h", parameters={"note": f"use {token} for it"}))
    assert statuses(result) == ["succeeded"]
    assert token not in (project.run_directory(result.run_id) / "journal.ndjson").read_text()
    with project.open() as again:
        run(again, again.grants.issue_token(ROOT).token, READ)
    kept = [path for path in project.state.rglob("*") if path.is_file() and "private" not in path.parts]
    for path in kept:
        assert token[-80:].encode() not in path.read_bytes(), path


def test_the_grants_of_other_tokens_do_not_add_up(rt):
    reading = rt.grants.issue_token(ROOT, restriction=Restriction(tools=("fs.read",))).token
    writing = rt.grants.issue_token(ROOT, restriction=Restriction(tools=("fs.write",))).token
    assert reasons(run(rt, reading, READ)) == [None]
    assert reasons(run(rt, writing, READ)) == ["capability_denied"]
    assert reasons(run(rt, reading, WRITE)) == ["capability_denied"]
    assert reasons(execute(rt, call("fs.list", "l", parameters={}), agent=AGENT)) == [None], (
        "nor do they take anything away"
    )


def test_a_state_key_that_a_token_leaves_out_is_refused_by_name(rt):
    token = rt.grants.issue_token(ROOT, restriction=Restriction(state_keys=("build.*",))).token
    result = run(rt, token, write("build.x", 1, "a"), write("secret", 1, "b"))
    assert reasons(result)[1] == "state_key_denied"
    assert "`secret`" in result["b"].error


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"agent": "tester"}, "usage"), ({"ttl_ms": 0}, "usage"), ({"ttl_ms": 31 * 86_400_000}, "usage")],
)
def test_wishes_that_make_no_sense(rt, changes, code):
    with pytest.raises(UsageError) as caught:
        rt.grants.issue_token(ROOT, **changes)
    assert caught.value.code == code


def test_a_glob_that_means_nothing_is_refused_where_it_is_written_and_where_it_is_presented(rt):
    made = rt.grants.issue_token(ROOT)
    with pytest.raises(ConfigurationError):
        rt.grants.issue_token(ROOT, restriction=Restriction(hosts=("a b",)))
    with pytest.raises(ConfigurationError):
        interlock.attenuate_token(made.token, Restriction(read=("../x",)))
    assert refused(rt, attenuate_token(made.token, Restriction(read=("../x",)), Signer.generate())) == "bad_grant_token"


def test_a_runtime_that_keeps_nothing_takes_no_token(rt, embedded):
    made = rt.grants.issue_token(ROOT)
    assert refused(embedded(), made.token) == "not_available"


def test_the_child_of_a_token_is_made_by_its_holder_not_by_a_grant_of_ours(rt):
    made = rt.grants.issue_token(ROOT)
    run(rt, made.token, READ)
    with pytest.raises(UsageError, match="token"):
        granting.issue(rt.services.desk, granting.Wish(agent="coder", tools=("*",), parent=made.id), by="ann")
    with pytest.raises(UsageError, match="already"):
        rt.grants.issue_token(made.id)


def test_a_call_is_made_under_a_token_too_and_kept_for_that_token_alone(project):
    calls = []

    async def count(parameters, ctx):
        calls.append(1)
        return len(calls)

    rt = project.open(binding("helper", count, open_world=False))
    token = rt.grants.issue_token(ROOT, restriction=Restriction(tools=("helper",))).token
    assert rt.call_sync("helper", {}, grant_token=token, call_id="one").output == 1
    assert rt.call_sync("helper", {}, grant_token=token, call_id="one").output == 1
    assert rt.call_sync("helper", {}, agent=AGENT, call_id="one").output == 2
    assert rt.call_sync("fs.read", {"path": "notes.txt"}, grant_token=token).reason == "capability_denied"
    with pytest.raises(UsageError) as caught:
        rt.call_sync("helper", {}, grant_token=token, agent="tester")
    assert caught.value.code == "grant_token_agent"


def test_a_run_of_several_proposals_takes_a_token_with_each(rt):
    token = rt.grants.issue_token(ROOT, restriction=Restriction(tools=("fs.read",))).token
    run_ = rt.runs.start()
    try:
        assert reasons(asyncio.run(run_.execute(plan(READ), grant_token=token))) == [None]
        assert reasons(asyncio.run(run_.execute(plan(WRITE), grant_token=token))) == ["capability_denied"]
        assert reasons(asyncio.run(run_.execute(plan(READ)))) == ["grant_missing"]
    finally:
        run_.finish()


def test_the_token_of_a_grant_for_one_session_is_refused_in_another(rt):
    wish = granting.Wish(agent=AGENT, tools=("fs.*",), read=("**",), session="mine")
    token = rt.grants.issue_token(granting.issue(rt.services.desk, wish, by="ann").id).token
    assert reasons(run(rt, token, READ, session="mine")) == [None]
    assert reasons(run(rt, token, READ, session="yours")) == ["grant_missing"]
    assert reasons(run(rt, token, READ)) == ["grant_missing"]


def test_an_agents_undo_is_judged_under_its_token(project):
    rt = project.open()
    made = rt.grants.issue_token(ROOT)
    written = run(rt, made.token, WRITE)
    elsewhere = interlock.attenuate_token(made.token, Restriction(tools=("undo", "fs.*"), write=("docs/**",)))
    result = run(rt, elsewhere, call("undo", "u", parameters={"run": written.run_id}))
    assert statuses(result) == ["rejected"]
    assert (project.root / "src/a.txt").exists()


COMPENSATED = {
    "compensation": {"type": "tool", "tool": "fs.write", "parameters": {"path": "docs/b.txt", "content": "b"}}
}


def test_a_compensation_stays_within_the_token_of_who_declared_it(project):
    rt = project.open(binding("helper", nothing, open_world=False, reversibility="compensatable"))
    token = rt.grants.issue_token(ROOT, restriction=Restriction(tools=("helper",))).token
    result = run(
        rt,
        token,
        call("helper", "h", **COMPENSATED),
        call("fs.read", "r", parameters={"path": "notes.txt"}, dependencies=["h"]),
    )
    assert reasons(result) == ["compensation_failed", "capability_denied"]
    assert not (project.root / "docs").exists()


def test_nor_does_the_persons_undo_lend_it_more(project):
    rt = project.open(binding("helper", nothing, open_world=False, reversibility="compensatable"))
    narrow = rt.grants.issue_token(ROOT, restriction=Restriction(tools=("helper",))).token
    wide = rt.grants.issue_token(ROOT).token
    under = {token: run(rt, token, call("helper", "h", **COMPENSATED)).run_id for token in (narrow, wide)}
    left = asyncio.run(rt.runs.undo(under[narrow])).not_undone
    assert [one.reason for one in left] == ["compensation_failed"]
    assert not (project.root / "docs").exists()
    assert not asyncio.run(rt.runs.undo(under[wide])).not_undone
    assert (project.root / "docs/b.txt").read_text() == "b"


def test_who_undoes_under_a_token_gains_nothing_by_the_grants_of_who_acted(project):
    rt = project.open(binding("helper", nothing, open_world=False, reversibility="compensatable"))
    (project.root / "interlock.toml").write_text(
        TOML.replace('["fs.*", "helper"]', '["fs.*", "helper", "undo"]', 1).replace(
            '"helper", "state', '"helper", "undo", "state'
        )
    )
    project.trust()
    rt = project.open(binding("helper", nothing, open_world=False, reversibility="compensatable"))
    acted = execute(rt, call("helper", "h", **COMPENSATED), agent=AGENT)
    token = rt.grants.issue_token(ROOT, restriction=Restriction(tools=("undo",))).token
    run(rt, token, call("undo", "u", parameters={"run": acted.run_id}))
    assert not (project.root / "docs").exists()
