"""A run spec: its checks in their order, and its JSON."""

from __future__ import annotations

import pytest

from interlock.engine.measured.spec import RunSpec
from interlock.model.errors import UsageError

RUN = "run_" + "a" * 32


def problem(taken=(), **fields):
    with pytest.raises(UsageError) as caught:
        RunSpec(**{"command": ("true",), "run_id": "one", **fields}).validate(taken)
    return caught.value.code


@pytest.mark.parametrize(
    ("fields", "taken", "code"),
    [
        ({"command": ()}, (), "empty_command"),
        ({"command": ("", "x")}, (), "empty_command"),
        ({"command": ("a\0b",)}, (), "empty_command"),
        ({"run_id": ""}, (), "empty_run_id"),
        ({"run_id": "bad:run"}, (), "run_id_colon"),
        ({"run_id": "../bad"}, (), "run_id_unsafe"),
        ({"run_id": "straße"}, (), "run_id_unsafe"),
        ({"run_id": "one\n"}, (), "run_id_unsafe"),
        ({"run_id": "x" * 129}, (), "run_id_too_long"),
        ({"run_id": "last"}, (), "run_id_ambiguous"),
        ({"run_id": "run_aa"}, (RUN,), "run_id_ambiguous"),
        ({"run_id": "aaa"}, (RUN,), "run_id_ambiguous"),
        ({"agent_shim": "typo-shim"}, (), "unknown_shim"),
        ({"run_id": RUN}, (RUN,), "run_exists"),
        ({"env": {"A=B": "1"}}, (), "bad_environment"),
        ({"env": {"A": "a\0b"}}, (), "bad_environment"),
    ],
)
def test_each_mistake_has_its_own_code(fields, taken, code):
    assert problem(taken, **fields) == code


def test_of_several_mistakes_the_first_in_the_order_is_named():
    everything = {"command": (), "run_id": "", "agent_shim": "typo"}
    assert problem(**everything) == "empty_command"
    assert problem(**everything | {"command": ("true",)}) == "empty_run_id"
    assert problem(run_id="../a:b") == "run_id_colon"
    assert problem(run_id="ä" * 200) == "run_id_unsafe"
    assert problem((RUN,), run_id="run_aa", agent_shim="typo") == "run_id_ambiguous"
    assert problem((RUN,), run_id=RUN, agent_shim="typo") == "unknown_shim"


@pytest.mark.parametrize("shim", ["none", "openai-agents", "gemini-google-genai", "claude-agent-sdk"])
def test_what_is_right_passes(shim):
    spec = RunSpec.of(["make", "test"]).with_run_id("x" * 128).with_agent_shim(shim).with_env("CI", "1")
    spec.with_platform("linux").validate((RUN,))


@pytest.mark.parametrize("command", ["ls -l", b"ls", [], ()])
def test_a_text_is_no_command(command):
    with pytest.raises(UsageError) as refused:
        RunSpec.of(command)
    assert refused.value.code == "empty_command"


def test_a_spec_gets_an_id_of_its_own():
    one, other = RunSpec.of(["true"]), RunSpec.of(["true"])
    assert one.run_id != other.run_id
    assert one.run_id.startswith("run_")
    assert len(one.run_id) == 36


def test_json_keeps_everything_and_is_read_strictly():
    spec = RunSpec.of(["make", "test"]).with_env("CI", "1").with_agent_shim("openai-agents")
    assert RunSpec.from_json(spec.to_json()) == spec
    for text in ("", "[]", "{}", '{"command": "make"}', '{"command": ["make"], "comand": 1}', '{"command": [1]}'):
        with pytest.raises(UsageError) as caught:
            RunSpec.from_json(text)
        assert caught.value.code == "malformed_spec"
