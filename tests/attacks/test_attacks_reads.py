"""An agent that may not read state, and lets a condition tell it what is there."""

import pytest
from engine_world import (
    SETTINGS,
    binding,
    call,
    change_services,
    embedded,
    execute,
    expect,
    nothing,
    read,
    reasons,
    write,
)

GUESSES = {
    "precondition": lambda guess: call("nothing", preconditions=[{"key": "pin", "value": guess}]),
    "existence": lambda guess: call("nothing", preconditions=[{"key": "pin", "operator": "not_exists"}]),
    "assumption": lambda guess: call("nothing", assumptions=[{"key": "pin", "expected_value": guess}]),
    "dependency": lambda guess: call("nothing", state_dependencies=["pin"]),
    "assertion": lambda guess: expect("pin", guess),
    "of a write": lambda guess: write("other", 1, preconditions=[{"key": "pin", "value": guess}]),
    "of a read": lambda guess: read("other", preconditions=[{"key": "pin", "value": guess}]),
}


def runtime(**rules):
    """A runtime whose state has a `pin` that the rules are about."""
    allowed = embedded(binding("nothing", nothing))
    execute(allowed, write("pin", 4711))
    rt = embedded(binding("nothing", nothing), rules=SETTINGS["rules"] | rules)
    change_services(rt, store=allowed.services.store)
    return rt


@pytest.mark.parametrize("guess", GUESSES)
def test_a_forbid_of_reads_stops_conditions_before_they_answer(guess):
    rt = runtime(deny=["state_read"])
    answers = {str(execute(rt, GUESSES[guess](value)).results[0].error) for value in (4711, 1234)}
    assert reasons(execute(rt, GUESSES[guess](4711))) == ["policy_denied"]
    assert len(answers) == 1
    assert answers.pop().endswith("forbidden by `deny:state_read`")


@pytest.mark.parametrize("guess", GUESSES)
def test_no_permit_of_reads_is_needed_for_conditions(guess):
    rt = runtime(allow=["*", "state_write", "assert"])
    if guess != "of a read":
        assert reasons(execute(rt, GUESSES[guess](4711))) in ([None], ["precondition_failed"])


def test_what_is_not_looked_at_is_not_asked_about():
    rt = runtime(deny=["state_read"])
    assert reasons(execute(rt, call("nothing"), write("pin", 1, expected_effects={"pin": 1}))) == [None, None]
