"""Questions and answers: who may answer, when it is decided, what it is bound to, and that nothing is lost or said twice."""

import pytest

from interlock.approvals import (
    Approver,
    FileShown,
    HoldRequest,
    Standing,
    action_digest,
    canonical_digest,
    edited_digest,
    merge_patch,
)
from interlock.disk import Database
from interlock.model.canonical import canonical, digest
from interlock.model.decision import Requirement
from interlock.model.errors import InterlockError, StoreError, UsageError

OPS = Requirement(policy="p1", content="c1", group="ops")
TWO_OPS = Requirement(policy="p1", content="c1", group="ops", quorum=2)
LAW = Requirement(policy="p2", content="c2", group="law")
ALICE = Approver(id="alice", display="Alice", groups=("ops",))
BOB = Approver(id="bob", groups=("ops",))
CAROL = Approver(id="carol", groups=("law",))
SECRET = "sk-live-0123456789"


def request(**fields):
    return HoldRequest(
        **{
            "agent": "coder",
            "summary": "run `make`",
            "digest": action_digest("shell", "v1", {"command": "make"}),
            "run": "r1",
            "proposal": "p1",
            "action": "a1",
            "tool": "shell",
            "tool_version": "v1",
            "parameters": {"command": "make"},
            **fields,
        }
    )


def events(store, hold):
    return [r.event for r in store.audit.records(hold.id)]


def approve(store, hold, who=ALICE, **fields):
    return store.vote(hold.id, who, "cli", "approve", **{"digest": hold.digest, **fields})


def deny(store, hold, who=ALICE):
    return store.vote(hold.id, who, "cli", "deny", digest=hold.digest)


def test_a_question_is_a_row_before_anyone_is_told(world, store):
    hold = store.ask(request())
    assert world.store().get(hold.id) == hold
    assert hold.status == "pending"
    assert hold.expires_at_us - hold.created_at_us == 600_000_000
    assert world.rings == 1
    assert events(store, hold) == ["asked"]


def test_one_approval_decides_where_nothing_more_is_required(world, store):
    hold = store.ask(request())
    outcome = approve(store, hold, Approver(id="anyone"), reason="fine")
    assert outcome.code == "resolved"
    assert outcome.hold.status == "approved"
    assert outcome.hold.decision_reason == "fine"
    assert world.store().get(hold.id) == outcome.hold
    assert events(store, hold) == ["asked", "voted", "approved"]


def test_one_deny_denies_whoever_approved_before(store):
    hold = store.ask(request(requirements=(TWO_OPS,)))
    assert approve(store, hold).code == "recorded"
    assert deny(store, hold, BOB).hold.status == "denied"


def test_a_second_answer_is_told_which_decision_won(store):
    hold = store.ask(request())
    deny(store, hold)
    late = approve(store, hold, BOB)
    assert (late.code, late.hold.status) == ("already_resolved", "denied")
    assert store.get(hold.id).status == "denied"


def test_an_unknown_id_is_not_found(store):
    assert store.vote("hold_x", ALICE, "cli", "approve", digest="d").code == "not_found"
    assert store.cancel("hold_x", "gone").code == "not_found"
    assert store.get("hold_x") is None
    assert not store.consume("hold_x", "d", "r/p/a")


def test_a_quorum_counts_people_not_votes(store):
    hold = store.ask(request(requirements=(TWO_OPS,)))
    assert approve(store, hold).code == "recorded"
    assert approve(store, hold).code == "recorded"
    assert approve(store, hold, BOB).code == "resolved"


def test_each_unmet_hold_has_its_own_group_and_quorum(store):
    hold = store.ask(request(requirements=(TWO_OPS, LAW)))
    assert approve(store, hold, CAROL).code == "recorded"
    assert approve(store, hold, ALICE).code == "recorded"
    outcome = approve(store, hold, BOB)
    assert outcome.hold.status == "approved"
    assert outcome.hold.discharged == {"c1", "c2"}


def test_one_person_in_both_groups_satisfies_both(store):
    hold = store.ask(request(requirements=(OPS, LAW)))
    assert approve(store, hold, Approver(id="dora", groups=("law", "ops"))).hold.status == "approved"


def test_the_local_user_counts_as_every_group_but_as_one_person(store):
    me = Approver(id="me", groups=("*",))
    assert approve(store, store.ask(request(requirements=(OPS, LAW))), me).code == "resolved"
    assert approve(store, store.ask(request(requirements=(TWO_OPS,))), me).code == "recorded"


@pytest.mark.parametrize(
    ("fields", "who", "code"),
    [
        ({}, Approver(id="coder", groups=("*",)), "agent_may_not_approve"),
        ({}, Approver(id="CODER", groups=("*",)), "agent_may_not_approve"),
        ({"separation": True, "started_by": "alice"}, ALICE, "separation"),
        ({"requirements": (OPS,)}, CAROL, "not_in_group"),
        ({"requirements": (OPS,)}, Approver(id="x"), "not_in_group"),
    ],
)
def test_who_may_not_answer(store, fields, who, code):
    hold = store.ask(request(**fields))
    for outcome in (approve(store, hold, who), deny(store, hold, who)):
        assert outcome.code == code
        assert outcome.hold.votes == ()
    assert events(store, hold) == ["asked", "refused", "refused"]


def test_without_separation_the_starter_may_answer(store):
    assert approve(store, store.ask(request(started_by="alice"))).code == "resolved"


def test_separation_needs_to_know_who_started(store):
    with pytest.raises(UsageError):
        store.ask(request(separation=True))


def test_time_runs_out_fail_closed_even_if_nobody_writes_it_down(world, store):
    hold = store.ask(request(ttl_ms=1000))
    world.clock.advance(1)
    assert store.get(hold.id).status == "expired"
    assert store.get(hold.id).decision_reason == "approval_expired"
    assert store.list_holds() == []
    assert [h.id for h in store.list_holds("expired")] == [hold.id]
    assert not store.consume(hold.id, hold.digest, "r/p/a")
    late = approve(store, hold)
    assert (late.code, late.hold.status) == ("already_resolved", "expired")
    assert events(store, hold) == ["asked", "expired"]
    assert store.cancel(hold.id, "x").code == "already_resolved"


def test_an_answer_one_moment_earlier_counts(world, store):
    hold = store.ask(request(ttl_ms=1000))
    world.clock.advance(0.999999)
    assert approve(store, hold).code == "resolved"
    world.clock.advance(10)
    assert store.get(hold.id).status == "approved"


def test_expiry_is_written_down_once(world, store):
    holds = [store.ask(request(ttl_ms=1000 * n)) for n in (1, 2, 60)]
    world.clock.advance(2)
    assert store.expire() == 2
    assert store.expire() == 0
    assert [store.get(h.id).status for h in holds] == ["expired", "expired", "pending"]
    assert store.get(holds[0].id).decided_at_us is not None
    assert events(store, holds[0]) == ["asked", "expired"]


def test_the_shortest_time_to_live_counts(store):
    hold = store.ask(request(requirements=(OPS, Requirement(policy="q", content="c", ttl_ms=5))))
    assert hold.expires_at_us - hold.created_at_us == 5_000


def test_an_approval_is_for_one_digest_and_one_call(store):
    hold = store.ask(request())
    assert not store.consume(hold.id, hold.digest, "r1/p1/a1")
    approve(store, hold)
    assert not store.consume(hold.id, action_digest("shell", "v1", {"command": "rm"}), "r1/p1/a1")
    assert store.consume(hold.id, hold.digest, "r1/p1/a1")
    assert store.consume(hold.id, hold.digest, "r1/p1/a1"), "its own retries"
    assert not store.consume(hold.id, hold.digest, "r1/p1/a2")
    assert events(store, hold).count("consumed") == 1


def test_the_digest_tells_tools_versions_and_parameters_apart():
    calls = [("a", "v", {}), ("b", "v", {}), ("a", "w", {}), ("a", "v", {"x": 1}), ("a", "v", {"x": 1.5})]
    assert len({action_digest(*call) for call in calls}) == len(calls)


def test_the_digest_of_a_call_is_that_of_its_canonical_form():
    for tool, version, parameters in [("shell", "v1", {}), ('a"b', "ü", {"z": [1.5, None], "a": "\u20ac"})]:
        expected = digest("approval", {"tool": tool, "tool_version": version, "parameters": parameters})
        assert action_digest(tool, version, parameters) == expected
        assert canonical_digest(tool, version, canonical(parameters)) == expected


def test_an_edit_has_a_new_digest_voids_earlier_votes_and_counts_as_its_authors(store):
    hold = store.ask(request(requirements=(TWO_OPS,)))
    approve(store, hold, ALICE)
    patch = {"command": "make test"}
    edited = store.vote(hold.id, BOB, "web", "edit", digest=hold.digest, patch=patch).hold
    assert edited.status == "pending"
    assert edited.digest == edited_digest(hold.digest, patch)
    assert edited.parameters == {"command": "make test"}
    assert store.get(hold.id).summary == "run `make`: make test"
    stale = approve(store, hold, ALICE)
    assert stale.code == "changed"
    done = approve(store, edited, ALICE)
    assert done.code == "resolved"
    assert done.hold.edits == (patch,)
    assert not store.consume(hold.id, hold.digest, "r1/p1/a1")
    assert store.consume(hold.id, edited.digest, "r1/p1/a1")


def test_an_edit_that_is_enough_by_itself_approves(store):
    hold = store.ask(request())
    assert (
        store.vote(hold.id, ALICE, "cli", "edit", digest=hold.digest, patch={"command": "x"}).hold.status == "approved"
    )


def test_an_edit_that_does_not_fit_the_tool_leaves_the_question_as_it_was(world, store):
    schema = {"type": "object", "properties": {"n": {"type": "integer"}, "key": {"maxLength": 4}}, "required": ["n"]}
    hold = store.ask(request(parameters={"n": 1, "key": SECRET}, schema=schema))
    for patch, path in (({"n": "x"}, "$.n"), ({"n": None}, "$")):
        with pytest.raises(UsageError) as caught:
            store.vote(hold.id, ALICE, "cli", "edit", digest=hold.digest, patch=patch)
        assert (caught.value.code, caught.value.path) == ("invalid_parameters", path)
    assert world.store().get(hold.id) == hold
    assert "edit" not in [r.detail.get("decision") for r in store.audit.records(hold.id)]
    # What was redacted does not fit either, which is not the edit's fault.
    edited = store.vote(hold.id, ALICE, "cli", "edit", digest=hold.digest, patch={"n": 2}).hold
    assert (edited.status, edited.edits) == ("approved", ({"n": 2},))


def test_an_edit_is_held_to_all_that_a_type_of_python_demands(store):
    schema = {"type": "object", "properties": {"day": {"type": "string", "x-interlock-form": "date"}}}
    hold = store.ask(request(parameters={"day": "2026-01-02"}, schema=schema))
    with pytest.raises(UsageError, match="a date such as") as caught:
        store.vote(hold.id, ALICE, "cli", "edit", digest=hold.digest, patch={"day": "tomorrow"})
    assert (caught.value.code, caught.value.path) == ("invalid_parameters", "$.day")


@pytest.mark.parametrize(
    ("decision", "patch"), [("edit", None), ("edit", {}), ("approve", {"a": 1}), ("deny", {"a": 1})]
)
def test_a_patch_comes_with_an_edit_and_with_nothing_else(store, decision, patch):
    hold = store.ask(request())
    with pytest.raises(UsageError):
        store.vote(hold.id, ALICE, "cli", decision, digest=hold.digest, patch=patch)
    assert store.get(hold.id) == hold


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [  # RFC 7396, appendix A
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(target, patch, result):
    assert merge_patch(target, patch) == result


def test_nothing_that_is_kept_for_showing_holds_a_secret(world, store):
    hold = store.ask(
        request(
            summary=f"call with {SECRET}",
            reason=SECRET,
            parameters={"token": SECRET, "list": [SECRET]},
            context={"env": SECRET},
        )
    )
    approve(store, hold, reason=f"use {SECRET}")
    world.clock.advance(1)
    assert SECRET.encode() not in world.path.read_bytes() + world.path.with_name("interlock.db-wal").read_bytes()
    assert store.get(hold.id).parameters == {"token": "[secret]", "list": ["[secret]"]}


def test_files_that_the_question_shows_are_kept_with_their_digests(store):
    files = (FileShown(path="Makefile", digest="sha256:1"), FileShown(path="new", digest=None))
    assert store.get(store.ask(request(files=files)).id).files == files


def test_questions_are_listed_in_order_of_creation_in_pages(store):
    holds = [store.ask(request(summary=str(n))) for n in range(5)]
    deny(store, holds[1])
    store.cancel(holds[2].id, "x")
    first = store.list_holds(limit=2)
    rest = store.list_holds(after=first[-1].seq)
    assert [h.summary for h in first + rest] == ["0", "3", "4"]
    assert [h.summary for h in store.list_holds(None)] == ["0", "1", "2", "3", "4"]
    assert [h.summary for h in store.list_holds("denied")] == ["1"]
    assert [h.summary for h in store.list_holds("cancelled")] == ["2"]


def test_a_cancelled_question_cannot_be_answered(store):
    hold = store.ask(request())
    assert store.cancel(hold.id, "the caller left").hold.status == "cancelled"
    assert approve(store, hold).code == "already_resolved"
    assert events(store, hold) == ["asked", "cancelled"]


def test_resume_finds_the_same_question(world, store):
    hold = store.ask(request())
    again = world.store()
    assert again.for_action("r1", "p1", "a1").id == hold.id
    newer = store.ask(request())
    assert again.for_action("r1", "p1", "a1").id == newer.id
    assert again.for_action("r1", "p1", "a2") is None


@pytest.mark.parametrize("wanted", ["session", "always"])
def test_a_standing_answer_holds_for_the_same_tool_and_policies_until_used_up(world, store, wanted):
    hold = store.ask(request(session="s", requirements=(OPS, LAW)))
    terms = Standing(scope=wanted, ttl_ms=60_000, uses=2)
    shown = store.standing.preview(hold, terms, hold.created_at_us)
    assert (shown.scope, shown.uses_left, shown.contents) == (wanted, 2, ("c1", "c2"))
    both = Approver(id="dora", groups=("law", "ops"))
    approved = approve(store, hold, both, standing=terms).hold
    use = store.standing.use
    assert use("coder", "s", "shell", "v2", {"c1"}) is None, "another version of the tool"
    assert use("coder", "s", "shell", "v1", {"c1", "c3"}) is None, "a policy that nobody discharged"
    assert use("other", "s", "shell", "v1", {"c1"}) is None
    assert use("coder", "s", "shell", "v1", {"c1"}) == (approved.standing_id,)
    in_another_session = use("coder", "t", "shell", "v1", {"c1", "c2"})
    assert in_another_session == (None if wanted == "session" else (approved.standing_id,))
    assert (use("coder", "s", "shell", "v1", {"c2"}) is None) == (wanted == "always"), "two uses, and no more"
    assert use("coder", "s", "shell", "v1", {"c2"}) is None


def test_a_standing_answer_ends_and_can_be_revoked(world, store):
    ids = []
    for _ in range(2):
        hold = store.ask(request(session="s", requirements=(OPS,)))
        ids.append(approve(store, hold, standing=Standing(scope="always", ttl_ms=1000, uses=9)).hold.standing_id)
    assert store.standing.revoke(ids[0], "alice")
    assert not store.standing.revoke(ids[0], "alice")
    assert store.standing.use("coder", None, "shell", "v1", {"c1"}) == (ids[1],)
    world.clock.advance(1)
    assert store.standing.use("coder", None, "shell", "v1", {"c1"}) is None
    assert [a.revoked_at_us is None for a in store.standing.all()] == [False, True]


def test_the_narrowest_scope_that_approvers_agreed_to_holds(store):
    hold = store.ask(request(session="s", requirements=(TWO_OPS,)))
    approve(store, hold, ALICE, standing=Standing(scope="always", uses=5))
    assert approve(store, hold, BOB).hold.standing_id is None
    hold = store.ask(request(session="s", requirements=(TWO_OPS,)))
    approve(store, hold, ALICE, standing=Standing(scope="always", uses=5))
    assert approve(store, hold, BOB, standing=Standing(scope="session", uses=7)).hold.standing_id
    assert [(a.session, a.uses_left) for a in store.standing.all()] == [("s", 5)]


def test_standing_terms_must_make_sense(store):
    hold = store.ask(request())
    for terms in (
        Standing(scope="session"),
        *(Standing(scope="always", uses=uses) for uses in (0, 1_000_001, 10**20)),
        *(Standing(scope="always", ttl_ms=ttl_ms) for ttl_ms in (0, 366 * 86_400_000, 10**16)),
    ):
        with pytest.raises(UsageError):
            approve(store, hold, standing=terms)
    assert store.get(hold.id) == hold


def test_if_the_audit_record_cannot_be_written_nothing_is_decided(world, store):
    hold = store.ask(request())
    broken = world.database()
    broken.execute("create trigger full before insert on approvals_audit begin select raise(abort, 'no'); end")
    for attempt in (
        lambda: approve(store, hold),
        lambda: deny(store, hold),
        lambda: store.cancel(hold.id, "x"),
        lambda: store.ask(request()),
    ):
        with pytest.raises(Exception, match="no"):
            attempt()
    assert store.get(hold.id) == hold
    world.clock.advance(601)
    with pytest.raises(Exception, match="no"):
        store.expire()
    assert store.get(hold.id).decided_at_us is None
    assert store.get(hold.id).status == "expired", "fail closed all the same"
    broken.execute("drop trigger full")
    assert len(store.list_holds(None)) == 1


def test_audit_records_are_append_only(world, store):
    store.ask(request())
    for sql in ("update approvals_audit set who = 'x'", "delete from approvals_audit"):
        with pytest.raises(Exception, match="audit records are never"):
            world.database().execute(sql)


def test_a_locked_database_is_an_error_and_decides_nothing(world):
    store = world.store(busy_ms=50)
    hold = store.ask(request())
    other = world.database()
    with other.transaction():
        with pytest.raises(StoreError) as caught:
            approve(store, hold)
        assert caught.value.code == "database_locked"
        assert store.get(hold.id).status == "pending", "reading continues"
    assert approve(store, hold).code == "resolved"


@pytest.mark.parametrize("back_s", [1, 3600, 10**8])
def test_setting_the_clock_back_gives_no_more_time(world, store, back_s):
    hold = store.ask(request(ttl_ms=10_000))
    world.clock.advance(5)
    world.clock.set_wall(world.clock.now_us() - back_s * 1_000_000)
    assert store.get(hold.id).status == "pending"
    world.clock.advance(4.9)
    assert store.get(hold.id).status == "pending"
    world.clock.advance(0.1)
    assert store.get(hold.id).status == "expired"
    assert world.store().vote(hold.id, ALICE, "cli", "approve", digest=hold.digest).hold.status == "expired"


def test_the_time_never_goes_back_over_a_reboot(world, store):
    hold = store.ask(request(ttl_ms=10_000))
    world.clock.advance(9)
    second = store.ask(request())
    world.clock.set_wall(world.clock.now_us() - 3_600_000_000)
    rebooted = world.store(boot="boot-2")
    assert rebooted.time.now_us() >= second.created_at_us
    rebooted.ask(request())
    world.clock.advance(1)
    assert rebooted.get(hold.id).status == "expired"


def test_a_clock_that_jumps_ahead_denies(world, store):
    hold = store.ask(request())
    world.clock.set_wall(world.clock.now_us() + 10**12)
    assert store.get(hold.id).status == "expired"


def test_rows_are_private(world, store):
    assert world.path.stat().st_mode & 0o077 == 0


def test_two_databases_see_each_others_answers_at_once(world, store):
    hold = store.ask(request())
    other = world.store()
    assert isinstance(other.database, Database)
    approve(other, hold)
    assert store.get(hold.id).status == "approved"


def test_an_edit_has_the_limits_that_parameters_have(store):
    hold = store.ask(request())
    with pytest.raises(UsageError):
        store.vote(hold.id, ALICE, "rest", "edit", digest=hold.digest, patch={"x": "a" * 1024 * 1024})
    with pytest.raises(InterlockError):
        store.vote(hold.id, ALICE, "rest", "edit", digest=hold.digest, patch={"x": 2**60})
    assert store.get(hold.id) == hold


@pytest.mark.parametrize(
    ("own_ms", "most_ms", "waits_ms"),
    [
        ((), None, 600_000),
        ((1_800_000,), None, 1_800_000),  # a policy's own time is not cut at the default of those that have none
        ((1_800_000, None), None, 600_000),
        ((1_800_000, 5_000), None, 5_000),
        ((1_800_000,), 60_000, 60_000),
        ((5_000,), 60_000, 5_000),
        ((), 60_000, 60_000),
    ],
)
def test_how_long_a_question_waits(store, own_ms, most_ms, waits_ms):
    needs = tuple(Requirement(policy=f"p{n}", content=f"c{n}", ttl_ms=ms) for n, ms in enumerate(own_ms))
    hold = store.ask(request(requirements=needs, ttl_max_ms=most_ms))
    assert hold.expires_at_us - hold.created_at_us == waits_ms * 1000
