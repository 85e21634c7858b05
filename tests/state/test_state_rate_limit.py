"""The token bucket: how long a call has to wait for its turn."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.model.tool import RateLimit
from interlock.state.rate_limit import TokenBucket

MS = 1_000_000


def bucket(calls, per_ms):
    return TokenBucket(RateLimit(calls=calls, per_ms=per_ms))


def test_a_full_bucket_gives_its_tokens_at_once_and_then_one_each_interval():
    tokens = bucket(3, 300)
    assert [tokens.acquire(0) for _ in range(6)] == [0, 0, 0, 100 * MS, 200 * MS, 300 * MS]


def test_tokens_come_back_with_time_up_to_a_full_bucket():
    tokens = bucket(2, 200)
    assert [tokens.acquire(0), tokens.acquire(0)] == [0, 0]
    assert tokens.acquire(100 * MS) == 0
    assert tokens.acquire(150 * MS) == 50 * MS
    assert [tokens.acquire(10_000 * MS) for _ in range(3)] == [0, 0, 100 * MS]


def test_a_wait_beyond_the_deadline_takes_nothing():
    tokens = bucket(1, 1000)
    assert tokens.acquire(0, 0) == 0
    assert tokens.acquire(0, 999 * MS) is None
    assert tokens.acquire(0, 1000 * MS) == 1000 * MS
    assert tokens.acquire(0, 1999 * MS) is None


def test_a_clock_that_goes_back_gives_nothing_away():
    tokens = bucket(1, 1000)
    assert tokens.acquire(5_000 * MS) == 0
    assert tokens.acquire(4_000 * MS) == 2_000 * MS


@pytest.mark.parametrize(("calls", "per_ms"), [(0, 1), (1, 0), (-1, 5)])
def test_a_limit_of_nothing_is_refused(calls, per_ms):
    with pytest.raises(ValueError, match="1 or more"):
        bucket(calls, per_ms)


@given(
    st.integers(1, 7),
    st.integers(1, 50),
    st.lists(st.tuples(st.integers(0, 30 * MS), st.none() | st.integers(0, 60 * MS)), min_size=1, max_size=60),
)
def test_whoever_asks_whenever_the_limit_holds_and_places_are_given_in_order(calls, per_ms, asks):
    tokens, now, uses = bucket(calls, per_ms), 0, []
    for pause, patience in asks:
        now += pause
        wait = tokens.acquire(now, patience)
        if wait is None:
            continue
        assert patience is None or wait <= patience
        uses.append(now + wait)
    assert uses == sorted(uses), "nobody overtakes"
    for first, last in zip(uses, uses[calls:], strict=False):
        # A token bucket lets `calls` through at once and one more each interval: calls + 1 take at least one interval,
        # up to the nanosecond that a wait is rounded up by.
        assert last - first >= per_ms * MS // calls - 1
    for n in range(calls, len(uses)):
        assert uses[n] - uses[0] >= (n - calls + 1) * per_ms * MS // calls - 1


@given(st.integers(1, 7), st.integers(1, 50), st.integers(1, 40))
def test_no_token_is_lost_to_rounding(calls, per_ms, rounds):
    tokens = bucket(calls, per_ms)
    waits = [tokens.acquire(0) for _ in range(calls * rounds + 1)]
    assert waits[-1] == ((rounds - 1) * calls + 1) * per_ms * MS // calls + (
        1 if ((rounds - 1) * calls + 1) * per_ms * MS % calls else 0
    )
