"""Approvers: tokens and PINs are proved, never kept; failures are counted for all processes together."""

import hashlib

import pytest

from interlock.approvals import AccessError, Approvers
from interlock.approvals.approvers import FAILURES_MAX, FAILURES_WINDOW_US, PIN_FAILURES_MAX
from interlock.model.errors import UsageError

FIVE = range(FAILURES_MAX)


@pytest.fixture
def make(world):
    def make(**options):
        store = world.store()
        return Approvers(world.open[-1], store.time, world.ids, store.audit, **options)

    return make


@pytest.fixture
def approvers(make):
    return make()


def code(call):
    with pytest.raises(AccessError) as caught:
        call()
    return caught.value.code


def test_a_token_is_256_bits_shown_once_and_proves_its_owner(world, approvers):
    token = approvers.add("alice", display="Alice", groups=["ops"])
    assert len(bytes.fromhex(token)) == 32
    found = approvers.by_token(token, "test")
    assert (found.id, found.display, found.groups) == ("alice", "Alice", ("ops",))
    kept = world.path.read_bytes() + world.path.with_name("interlock.db-wal").read_bytes()
    assert token.encode() not in kept
    assert hashlib.sha256(b"interlock.token.v1\n" + token.encode()).hexdigest().encode() in kept


def test_each_token_is_its_own(approvers):
    tokens = {name: approvers.add(name) for name in ("alice", "bob", "carol")}
    assert len(set(tokens.values())) == 3
    assert {name: approvers.by_token(token, "t").id for name, token in tokens.items()} == {n: n for n in tokens}


@pytest.mark.parametrize("token", ["", "x", "0" * 64, "ä", "\udcff"])
def test_another_token_proves_nothing(approvers, token):
    approvers.add("alice")
    assert code(lambda: approvers.by_token(token, "t")) == "unauthenticated"


def test_removed_is_removed(make, approvers):
    token = approvers.add("alice")
    other = make()
    assert other.remove("alice")
    assert not other.remove("alice")
    assert code(lambda: approvers.by_token(token, "t")) == "unauthenticated"
    assert approvers.all() == []


def test_groups_of_the_table_and_of_the_configuration_add_up(make):
    approvers = make(groups={"law": ["alice"], "ops": ["alice", "bob"]})
    token = approvers.add("alice", groups=["dev"])
    assert approvers.by_token(token, "t").groups == ("dev", "law", "ops")
    assert [(a.name, a.groups, a.has_pin) for a in approvers.all()] == [("alice", ("dev", "law", "ops"), False)]


def test_names_are_taken_once_and_printable(approvers):
    approvers.add("alice")
    for name in ("alice", "", " a", "a\n"):
        with pytest.raises(UsageError):
            approvers.add(name)
    assert len(approvers.all()) == 1


def test_a_pin(world, approvers):
    approvers.add("alice", pin="4711x", groups=["ops"])
    approvers.add("bob")
    assert approvers.by_pin("alice", "4711x").groups == ("ops",)
    for name, pin in (("alice", "4711"), ("alice", ""), ("bob", ""), ("nobody", ""), ("nobody", "4711x")):
        assert code(lambda name=name, pin=pin: approvers.by_pin(name, pin)) == "unauthenticated"
    assert b"4711x" not in world.path.read_bytes() + world.path.with_name("interlock.db-wal").read_bytes()
    with pytest.raises(UsageError):
        approvers.add("carol", pin="123")


def test_pins_cannot_be_tried_out_not_even_in_several_processes(world, make, approvers):
    approvers.add("alice", pin="4711x")
    others = [make() for _ in FIVE]
    for other in others:
        assert code(lambda other=other: other.by_pin("alice", "0000")) == "unauthenticated"
    assert code(lambda: approvers.by_pin("alice", "4711x")) == "too_many_failures", "not even the right one"
    world.clock.advance(FAILURES_WINDOW_US / 1e6 + 1)
    assert approvers.by_pin("alice", "4711x").id == "alice"


def test_a_pin_is_not_guessed_by_patience(world, approvers):
    """Five tries in fifteen minutes are a PIN of four digits in three weeks: after so many failures it is worth nothing."""
    token = approvers.add("alice", pin="4711x")
    for n in range(PIN_FAILURES_MAX):
        assert code(lambda: approvers.by_pin("alice", "0000")) == "unauthenticated", n
        world.clock.advance(FAILURES_WINDOW_US / 1e6)
    assert code(lambda: approvers.by_pin("alice", "4711x")) == "too_many_failures", "not even the right one"
    assert approvers.by_token(token, "cli").id == "alice"
    approvers.remove("alice")
    approvers.add("alice", pin="0815y")
    assert approvers.by_pin("alice", "0815y").id == "alice"


def test_a_right_pin_forgets_old_failures_and_no_fresh_ones(world, approvers):
    approvers.add("alice", pin="4711x")
    for _ in range(PIN_FAILURES_MAX - 1):
        code(lambda: approvers.by_pin("alice", "0000"))
        world.clock.advance(FAILURES_WINDOW_US / 1e6)
    assert approvers.by_pin("alice", "4711x").id == "alice"
    for _ in FIVE[1:]:
        assert code(lambda: approvers.by_pin("alice", "0000")) == "unauthenticated"
    assert approvers.by_pin("alice", "4711x").id == "alice"
    assert code(lambda: approvers.by_pin("alice", "0000")) == "unauthenticated"
    assert code(lambda: approvers.by_pin("alice", "4711x")) == "too_many_failures"


def test_successes_are_not_counted(approvers):
    approvers.add("alice", pin="4711x")
    for _ in range(FAILURES_MAX + 2):
        approvers.by_pin("alice", "4711x")


def test_an_attempt_counts_from_before_it_is_checked(make, approvers):
    approvers.add("alice", pin="4711x")
    begun = [make()._begin_attempt("pin:alice") for _ in FIVE]
    assert code(lambda: approvers.by_pin("alice", "4711x")) == "too_many_failures"
    approvers._end_attempt(begun[0])
    assert approvers.by_pin("alice", "4711x").id == "alice"


def test_wrong_tokens_are_limited_by_source_and_never_lock_out_a_right_one(approvers):
    token = approvers.add("alice")
    for _ in FIVE:
        assert code(lambda: approvers.by_token("x", "10.0.0.1")) == "unauthenticated"
    assert code(lambda: approvers.by_token("x", "10.0.0.1")) == "too_many_failures"
    assert code(lambda: approvers.by_token("x", "10.0.0.2")) == "unauthenticated"
    assert approvers.by_token(token, "10.0.0.1").id == "alice"


def test_setting_the_clock_back_does_not_lift_the_limit(world, approvers):
    approvers.add("alice", pin="4711x")
    for _ in FIVE:
        code(lambda: approvers.by_pin("alice", "0000"))
    world.clock.set_wall(0)
    assert code(lambda: approvers.by_pin("alice", "4711x")) == "too_many_failures"
