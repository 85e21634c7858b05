"""Step 1, from bytes to a proposal: what is accepted, what is refused, and where the error says it is."""

import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from interlock.model.canonical import canonical
from interlock.model.codes import ERROR_CODES
from interlock.model.decode import decode_proposal, decode_value, proposal_from_builtins, proposal_from_original
from interlock.model.errors import ProposalError
from interlock.model.limits import DEFAULT_LIMITS, INTEGER_MAX, Limits
from interlock.model.proposal import (
    Action,
    ActionCompensation,
    Assumption,
    Budget,
    Precondition,
    Proposal,
    ToolCompensation,
)
from interlock.model.values import RESERVED, with_floats

CORPUS = Path(__file__).parents[1] / "ir"
REFUSED = json.loads((CORPUS / "refused.json").read_text())


def call(**fields):
    return {"type": "tool_call", "tool": "t", **fields}


def decode(*actions, limits=DEFAULT_LIMITS, **fields):
    return decode_proposal(json.dumps({"actions": actions, **fields}).encode(), limits=limits)


def refusal(*actions, limits=DEFAULT_LIMITS, **fields):
    with pytest.raises(ProposalError) as caught:
        decode(*actions, limits=limits, **fields)
    return caught.value


class TestCorpus:
    @pytest.mark.parametrize("name", sorted(path.name for path in (CORPUS / "accepted").iterdir()))
    def test_accepted(self, name):
        path = CORPUS / "accepted" / name
        proposal = decode_proposal(path.read_bytes(), format=path.suffix[1:])
        assert all(action.id for action in proposal.actions)
        assert proposal_from_builtins(proposal) == proposal

    def test_the_table_lists_exactly_the_refused_documents(self):
        assert sorted(REFUSED) == sorted(path.name for path in (CORPUS / "refused").iterdir())

    @pytest.mark.parametrize("name", REFUSED)
    def test_refused(self, name):
        path = CORPUS / "refused" / name
        with pytest.raises(ProposalError) as caught:
            decode_proposal(path.read_bytes(), format=path.suffix[1:])
        assert (caught.value.code, caught.value.path) == (REFUSED[name]["code"], REFUSED[name]["path"])
        assert caught.value.code in ERROR_CODES
        assert "\n" not in caught.value.message


class TestShape:
    def test_every_field_arrives(self):
        proposal = decode_proposal((CORPUS / "accepted" / "every_field.json").read_bytes())
        assert proposal == Proposal(
            id="p-1",
            source="claude",
            agent="coder",
            session="monday",
            timestamp="2026-01-01T00:00:00Z",
            order="free",
            deadline_ms=60000,
            context={"why": ["a", 1, None, {"__entity": "free form"}]},
            budget=Budget(actions=10, tool_calls=5, duration_ms=1000, cost=1.5),
            actions=(
                Action(
                    id="w",
                    type="state_write",
                    parameters={"key": "x", "value": {"n": 1.0}},
                    state_dependencies=("y",),
                    read_set=("y",),
                    write_set=("x",),
                    preconditions=(
                        Precondition(key="y", operator="gte", value=3, path="/a~1b/0", description="enough"),
                    ),
                    assumptions=(Assumption(key="y", expected_value=None, read_version=7),),
                    expected_effects={"z": True},
                    reversibility="reversible",
                    metadata={"note": "kept"},
                ),
                Action(
                    id="c",
                    type="tool_call",
                    tool="mail/send",
                    parameters={"to": "$w.output", "text": "$$w.output"},
                    dependencies=("w",),
                    reversibility="compensable",
                    compensation=ToolCompensation(tool="mail/recall", parameters={"id": "$c.output.id"}),
                    idempotent=True,
                    max_retries=5,
                    failure_behavior="retry",
                    timeout_ms=1500,
                ),
                Action(id="r", type="state_read", parameters={"key": "x"}, failure_behavior="skip"),
                Action(id="t", type="assertion", parameters={"key": "x", "expected": {"n": 1}}),
                Action(id="d", type="tool_call", tool="x", compensation=ActionCompensation(action_id="r")),
            ),
        )

    def test_absent_fields_have_the_documented_defaults(self):
        proposal = decode(call())
        action = proposal.actions[0]
        assert (proposal.id, proposal.source, proposal.order) == ("", "unknown", "declared")
        assert (action.idempotent, action.max_retries, action.failure_behavior) == (False, 3, "abort")
        assert (action.parameters, action.timeout_ms, action.invocation_mode) == ({}, None, "one_shot")

    def test_actions_without_id_are_named_by_their_place_around_those_that_have_one(self):
        ids = [a.id for a in decode(call(), call(id="a3"), call(), call(id="a1_2"), call(id="a5_2"), call()).actions]
        assert ids == ["a1", "a3", "a3_2", "a1_2", "a5_2", "a6"]
        assert [a.id for a in decode(call(), call(id="a1"), call(id="a1_2")).actions] == ["a1_3", "a1", "a1_2"]

    def test_the_nearest_known_field_is_offered(self):
        assert refusal(call(parameter={})).hint == "did you mean `parameters`?"
        assert refusal(call(preconditions=[{"key": "k", "valeu": 1}])).hint == "did you mean `value`?"
        assert refusal(call(), deadline=1).hint == "did you mean `deadline_ms`?"
        assert (
            refusal(call(compensation={"type": "tool", "tool": "t", "params": {}})).hint == "did you mean `parameters`?"
        )
        assert refusal(call(zzzzzz=1)).hint is None

    def test_the_values_that_a_field_may_have_are_listed(self):
        assert refusal({"tool": "fs.read"}).hint.startswith("one of `tool_call`, ")
        assert refusal(call(failure_behavior="ignore")).hint == "one of `abort`, `retry`, `skip`"
        assert refusal(call(compensation={"type": "shell"})).hint == "one of `tool`, `action_ref`"

    @pytest.mark.parametrize(
        "document",
        [
            call(parameters={"password": 2**60, "x": "hunter2"}),
            call(failure_behavior="hunter2"),
            call(timeout_ms="hunter2"),
            {"type": "state_write", "parameters": {"key": ["hunter2"]}},
            call(preconditions=[{"key": "k", "operator": "hunter2"}]),
        ],
    )
    def test_no_error_shows_a_value(self, document):
        assert "hunter2" not in str(refusal(document).as_dict())

    def test_a_name_in_an_error_cannot_steer_a_terminal_or_fill_the_screen(self):
        error = refusal(call(**{"\x1b[2J" + "x" * 10_000: 1}))
        assert "\x1b" not in error.message + error.path
        assert len(error.message + error.path) < 400


LIMITS = Limits(
    actions=3,
    parameters_bytes=40,
    depth=4,
    id_chars=6,
    name_chars=7,
    key_chars=5,
    dependencies=2,
    preconditions=2,
    retries=4,
    timeout_ms=10,
    deadline_ms=20,
)


def nested(levels):
    value = []
    for _ in range(levels - 1):
        value = [value]
    return value


def condition(n):
    return [{"key": "k"}] * n


@pytest.mark.parametrize(
    ("limit", "path", "make", "most"),
    [
        ("actions", "$.actions", lambda n: ([call()] * n, {}), 3),
        # `{"x":""}` and n characters
        ("parameters_bytes", "$.actions[0].parameters", lambda n: ([call(parameters={"x": "y" * (n - 8)})], {}), 40),
        ("depth", "$.actions[0].parameters.x[0][0][0]", lambda n: ([call(parameters={"x": nested(n - 1)})], {}), 4),
        ("depth", "$.context.x[0][0][0]", lambda n: ([], {"context": {"x": nested(n - 1)}}), 4),
        ("depth", "$.actions[0].preconditions[0].value[0][0][0][0]",
         lambda n: ([call(preconditions=[{"key": "k", "value": nested(n)}])], {}), 4),
        ("id_chars", "$.actions[0].id", lambda n: ([call(id="x" * n)], {}), 6),
        ("id_chars", "$.id", lambda n: ([], {"id": "x" * n}), 6),
        ("id_chars", "$.actions[0].dependencies[0]", lambda n: ([call(dependencies=["x" * n])], {}), 6),
        ("id_chars", "$.actions[0].compensation.action_id",
         lambda n: ([call(compensation={"type": "action_ref", "action_id": "x" * n})], {}), 6),
        ("name_chars", "$.actions[0].tool", lambda n: ([call(tool="x" * n)], {}), 7),
        ("name_chars", "$.source", lambda n: ([], {"source": "x" * n}), 7),
        ("name_chars", "$.session", lambda n: ([], {"session": "x" * n}), 7),
        ("key_chars", "$.actions[0].parameters.key",
         lambda n: ([{"type": "state_read", "parameters": {"key": "x" * n}}], {}), 5),
        ("key_chars", "$.actions[0].write_set[0]", lambda n: ([call(write_set=["x" * n])], {}), 5),
        ("key_chars", "$.actions[0].expected_effects.{}", lambda n: ([call(expected_effects={"x" * n: 1})], {}), 5),
        ("dependencies", "$.actions[0].dependencies", lambda n: ([call(dependencies=["x"] * n)], {}), 2),
        ("dependencies", "$.actions[0].read_set", lambda n: ([call(read_set=["x"] * n)], {}), 2),
        ("preconditions", "$.actions[0].preconditions", lambda n: ([call(preconditions=condition(n))], {}), 2),
        ("preconditions", "$.actions[0].assumptions", lambda n: ([call(assumptions=condition(n))], {}), 2),
        ("retries", "$.actions[0].max_retries", lambda n: ([call(max_retries=n)], {}), 4),
        ("timeout_ms", "$.actions[0].timeout_ms", lambda n: ([call(timeout_ms=n)], {}), 10),
        ("deadline_ms", "$.deadline_ms", lambda n: ([], {"deadline_ms": n}), 20),
    ],
)  # fmt: skip
def test_a_value_at_the_limit_is_accepted_and_one_above_is_refused(limit, path, make, most):
    actions, fields = make(most)
    decode(*actions, limits=LIMITS, **fields)
    actions, fields = make(most + 1)
    error = refusal(*actions, limits=LIMITS, **fields)
    assert (error.code, error.path) == ("limit_exceeded", path.format("x" * (most + 1)))
    assert f"`{limit}`" in error.message


class TestValues:
    @pytest.mark.parametrize("n", [INTEGER_MAX, -INTEGER_MAX])
    def test_integers_up_to_the_limit_are_accepted(self, n):
        assert decode(call(parameters={"n": n})).actions[0].parameters == {"n": n}

    @pytest.mark.parametrize("n", [INTEGER_MAX + 1, -INTEGER_MAX - 1, 10**4000])
    def test_integers_beyond_it_are_refused_wherever_they_stand(self, n):
        assert refusal(call(parameters={"a": [{"n": n}]})).path == "$.actions[0].parameters.a[0].n"
        assert refusal(call(metadata={"n": n})).path == "$.actions[0].metadata.n"
        assert refusal(call(expected_effects={"n": n})).path == "$.actions[0].expected_effects.n"
        assert refusal(timestamp=n).path == "$.timestamp"
        condition = {"key": "k", "expected_value": n}
        assert refusal(call(assumptions=[condition])).path == "$.actions[0].assumptions[0].expected_value"

    @pytest.mark.parametrize(
        "text", ["1e400", "-1e400", '{"a": [1e999]}', "9007199254740992", "NaN", "1 2", "", "[1,]"]
    )
    def test_a_value_by_itself_is_decoded_by_the_same_rules(self, text):
        with pytest.raises(ProposalError):
            decode_value(text.encode())

    def test_a_value_by_itself(self):
        assert decode_value(b'{"a": [1, 2.5, true, null, "x"]}') == {"a": [1, 2.5, True, None, "x"]}

    def test_large_doubles_stay_doubles(self):
        assert decode_value(b"1e20") == 1e20


@pytest.mark.timeout(180)  # memory is what is tested: on a busy machine the largest documents take long
class TestSize:
    def test_a_million_actions_are_refused_at_once(self):
        document = b'{"actions": [' + b",".join([b"{}"] * 1_000_000) + b"]}"
        with pytest.raises(ProposalError, match="1000000 actions, more than 100000") as caught:
            decode_proposal(document)
        assert caught.value.code == "limit_exceeded"

    @pytest.mark.parametrize(("kind", "limit"), [("json", "proposal_bytes"), ("yaml", "yaml_bytes")])
    def test_a_document_at_the_limit_is_read_and_one_byte_more_is_not(self, kind, limit):
        limits = Limits(**{limit: 20})
        decode_proposal(b'{"actions": []}     ', format=kind, limits=limits)
        with pytest.raises(ProposalError, match=limit):
            decode_proposal(b'{"actions": []}      ', format=kind, limits=limits)

    @pytest.mark.parametrize("item", ["[]", "[" * 60 + "]" * 60, '{"":' * 60 + "0" + "}" * 60])
    def test_the_worst_document_stays_under_two_gigabytes_and_is_refused(self, item):
        program = f"""
import resource
resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30, 2 * 2**30))
from interlock.model.decode import DEFAULT_LIMITS, ProposalError, decode_proposal
item = b'{item}'
head, tail = b'{{"actions": [], "context": {{"x": [', b']}}}}'
count = (DEFAULT_LIMITS.proposal_bytes - len(head + tail) + 1) // (len(item) + 1)
try:
    decode_proposal(head + (item + b",") * (count - 1) + item + tail)
except ProposalError as error:
    assert error.code == "limit_exceeded" and "`values`" in error.message
else:
    raise AssertionError("not refused")
"""
        subprocess.run([sys.executable, "-c", program], check=True, timeout=150)

    def test_the_worst_document_that_is_accepted_can_be_run_in_under_two_gigabytes(self):
        program = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (2 * 2**30, 2 * 2**30))
from interlock.model.decode import DEFAULT_LIMITS, decode_proposal, proposal_from_builtins
item = b'{"":' * 60 + b"0" + b"}" * 60
whole = (DEFAULT_LIMITS.values - 4) // 61
proposal = decode_proposal(b'{"actions": [], "context": {"x": [' + (item + b",") * (whole - 1) + item + b"]}}")
assert proposal_from_builtins(proposal) == proposal
"""
        subprocess.run([sys.executable, "-c", program], check=True, timeout=150)

    @pytest.mark.parametrize(
        "text",
        [
            '{"actions": [], "context": {"x": [1, 2, 3]}}',
            '{"actions": [], "context": {"x": [[], {}, {"a": []}]}}',
            '{"actions": [], "context": {"x": "a,b,c,d,[,{,[,{,[,{,[", "y": 1, "z": [1]}}',
        ],
    )
    @pytest.mark.parametrize("kind", ["json", "yaml"])
    def test_the_values_of_a_document_are_counted(self, text, kind):
        def count(value):
            parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
            return 1 + sum(map(count, parts))

        exact = count(json.loads(text))
        decode_proposal(text.encode(), format=kind, limits=Limits(values=exact))
        with pytest.raises(ProposalError, match=r"more than \d+ values \(limit `values`\)") as caught:
            decode_proposal(text.encode(), format=kind, limits=Limits(values=exact - 1))
        assert caught.value.code == "limit_exceeded"


class Colour(StrEnum):
    RED = "red"


@dataclass
class Point:
    x: int


class TestBuiltins:
    def test_a_mapping_is_decoded_like_the_document(self):
        document = {"actions": [call(parameters={"a": (1, 2)}), {"type": "state_read", "parameters": {"key": "k"}}]}
        assert proposal_from_builtins(document) == decode(*document["actions"])

    def test_what_json_has_a_form_for_is_converted(self):
        parameters = {"colour": Colour.RED, "point": Point(1), "at": datetime(2026, 1, 1, tzinfo=UTC)}
        proposal = proposal_from_builtins({"actions": [call(parameters=parameters)]})
        assert proposal.actions[0].parameters == {"colour": "red", "point": {"x": 1}, "at": "2026-01-01T00:00:00Z"}

    def test_the_value_is_copied(self):
        inner = [1]
        proposal = proposal_from_builtins({"actions": [call(parameters={"a": inner})]})
        inner.append(2)
        assert proposal.actions[0].parameters == {"a": [1]}

    def test_structs_without_ids_get_them(self):
        proposal = proposal_from_builtins(Proposal(actions=(Action(type="tool_call", tool="t"),)))
        assert proposal.actions[0].id == "a1"

    @pytest.mark.parametrize(
        ("value", "path"),
        [
            (float("nan"), "$.actions[0].parameters.a"),
            (float("inf"), "$.actions[0].parameters.a"),
            ("\ud800", "$.actions[0].parameters.a"),
            ([{"\ud800": 1}], "$.actions[0].parameters.a[0]"),
            ({1: 2}, "$.actions[0].parameters.a"),
            (2**53, "$.actions[0].parameters.a"),
            (object(), None),
            (nested(200), "$.actions[0].parameters.a" + "[0]" * 64),
        ],
    )
    def test_what_is_not_json_is_refused(self, value, path):
        with pytest.raises(ProposalError) as caught:
            proposal_from_builtins({"actions": [call(parameters={"a": value})]})
        assert path is None or caught.value.path == path

    def test_a_value_that_contains_itself_is_refused(self):
        loop = []
        loop.append(loop)
        with pytest.raises(ProposalError) as caught:
            proposal_from_builtins({"actions": [call(parameters={"a": loop})]})
        assert caught.value.code == "limit_exceeded"

    @pytest.mark.parametrize("document", [None, 1, [], "x", {"actions": None}, {}])
    def test_other_shapes_are_refused(self, document):
        with pytest.raises(ProposalError):
            proposal_from_builtins(document)


class TestYaml:
    def test_only_json_words_and_numbers_are_not_text(self):
        proposal = decode_proposal((CORPUS / "accepted" / "plain.yaml").read_bytes(), format="yaml")
        assert proposal.actions[0].parameters == {
            "command": "echo hi",
            "country": "no",
            "switch": "on",
            "day": "2026-01-01",
            "mode": "0755",
            "time": "12:30:00",
            "size": "1_000",
            "home": "~",
            "hex": "0x1f",
            "point": ".5",
            "plus": "+1",
            "yes_really": True,
            "nothing": None,
            "number": 1500.0,
            "text": "two\nlines\n",
        }

    @pytest.mark.parametrize("quoted", ["'true'", '"null"', "'1'", '"1.5"'])
    def test_quotes_make_text(self, quoted):
        text = f"actions: [{{type: tool_call, tool: t, parameters: {{a: {quoted}}}}}]"
        assert decode_proposal(text.encode(), format="yaml").actions[0].parameters == {"a": quoted[1:-1]}

    def test_keys_are_always_text(self):
        text = b"actions: [{type: tool_call, tool: t, parameters: {1: a, true: b, null: c, on: d}}]"
        parameters = decode_proposal(text, format="yaml").actions[0].parameters
        assert parameters == {"1": "a", "true": "b", "null": "c", "on": "d"}

    def test_a_million_brackets_end_at_once(self):
        with pytest.raises(ProposalError):
            decode_proposal(b"[" * 1_000_000, format="yaml")


# Properties

invisible = ["Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"]
words = st.text(st.characters(codec="utf-8", exclude_categories=invisible), min_size=1, max_size=8)
words = words.filter(lambda word: word not in RESERVED)
numbers = st.integers(-INTEGER_MAX, INTEGER_MAX) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | st.text(st.characters(codec="utf-8"), max_size=12)
values = st.recursive(scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(words, v, max_size=3), max_leaves=8)
objects = st.dictionaries(words, values, max_size=3)


@st.composite
def actions(draw):
    kind = draw(st.sampled_from(["tool_call", "state_write", "state_read", "assertion"]))
    key = words.filter(lambda k: not k.startswith("$"))
    optional = {
        "id": key,
        "dependencies": st.lists(words, max_size=2),
        "state_dependencies": st.lists(words, max_size=2),
        "preconditions": st.lists(
            st.fixed_dictionaries({"key": words}, optional={"operator": st.just("gt"), "value": values}), max_size=2
        ),
        "assumptions": st.lists(
            st.fixed_dictionaries(
                {"key": words}, optional={"expected_value": values, "read_version": st.integers(0, 9)}
            ),
            max_size=2,
        ),
        "expected_effects": objects,
        "compensation": st.fixed_dictionaries({"type": st.just("tool"), "tool": words, "parameters": objects})
        | st.fixed_dictionaries({"type": st.just("action_ref"), "action_id": words}),
        "failure_behavior": st.sampled_from(["abort", "retry", "skip"]),
        "max_retries": st.integers(0, 100),
        "timeout_ms": st.integers(1, 1000),
        "metadata": objects,
    }
    action = draw(st.fixed_dictionaries({"type": st.just(kind)}, optional=optional))
    match kind:
        case "tool_call":
            return {**action, "tool": draw(words), "parameters": draw(objects)}
        case "state_write":
            return {**action, "parameters": {"key": draw(key), "value": draw(values)}}
        case "state_read":
            return {**action, "parameters": {"key": draw(key)}}
        case _:
            return {**action, "parameters": {"key": draw(key), "expected": draw(values)}}


proposals = st.fixed_dictionaries(
    {"actions": st.lists(actions(), max_size=3)},
    optional={"id": words, "agent": words, "order": st.sampled_from(["declared", "free"]), "context": objects},
)


@given(proposals)
def test_decoding_keeps_everything_and_decoding_again_changes_nothing(document):
    proposal = decode_proposal(json.dumps(document).encode())
    again = msgspec.json.encode(proposal)
    if proposal.id:
        assert decode_proposal(again) == proposal
    assert proposal_from_builtins(proposal) == proposal
    assert proposal_from_builtins(document) == proposal
    for action, given_ in zip(proposal.actions, document["actions"], strict=True):
        for name, value in given_.items():
            assert _says(getattr(action, name), value), name


@given(proposals)
@example({"actions": [{"type": "tool_call", "tool": "t", "parameters": {"x": 1e20}}]})  # kept as an integer beyond 2^53
@example({"actions": [], "context": {"x": -1e20, "16": "1234567890123456", "2^53": 2.0**53}})
def test_an_original_is_decoded_to_the_proposal_that_was_kept(document):
    proposal = decode_proposal(json.dumps(document).encode())
    data = canonical(msgspec.to_builtins(proposal))
    assert proposal_from_original(data) == proposal
    assert proposal_from_builtins(with_floats(msgspec.json.decode(data))) == proposal


def _says(kept, wanted):
    """True if a decoded field holds what the document said; fields that it left out may have any value."""
    if isinstance(kept, msgspec.Struct):
        tag = {"type": kept.__struct_config__.tag} if kept.__struct_config__.tag else {}
        return msgspec.structs.asdict(kept) | tag | wanted == msgspec.structs.asdict(kept) | tag
    if isinstance(kept, tuple):
        return len(kept) == len(wanted) and all(map(_says, kept, wanted))
    return kept == wanted


@given(proposals, st.sampled_from([None, 2]))
def test_a_json_document_means_the_same_in_yaml(document, indent):
    # Escapes of surrogate pairs are JSON's alone, and raw line breaks beyond ASCII are refused in YAML.
    text = json.dumps(document, ensure_ascii=False, indent=indent)
    for character in "\x7f\x85\u2028\u2029\ufeff\ufffe\uffff":
        text = text.replace(character, f"\\u{ord(character):04x}")
    text = "".join(c if not "\x80" <= c <= "\x9f" else f"\\u{ord(c):04x}" for c in text)
    assert decode_proposal(text.encode(), format="yaml") == decode_proposal(text.encode())


@given(st.text(max_size=60), proposals)
@example("a: &x [1]", {"actions": []})
@example("\ufeffactions: []", {"actions": []})
def test_where_yaml_and_json_both_read_a_text_they_agree(noise, document):
    for text in (noise, json.dumps(document, ensure_ascii=False), json.dumps(document) + noise):
        try:
            as_json = decode_proposal(text.encode("utf-8", "surrogatepass"))
            as_yaml = decode_proposal(text.encode("utf-8", "surrogatepass"), format="yaml")
        except ProposalError:
            continue
        assert as_yaml == as_json


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda s: s.encode("utf-8", "surrogatepass")))
def test_any_bytes_give_a_proposal_or_a_proposal_error(data):
    for kind in ("json", "yaml"):
        error = _error_of(decode_proposal, data, format=kind)
        assert error is None or error.code in ERROR_CODES


def _error_of(function, *arguments, **options):
    """The ProposalError that a call raises, or None; anything else passes through and fails the test."""
    try:
        function(*arguments, **options)
    except ProposalError as error:
        return error
    return None


def _paths(value, at=()):
    yield at
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from _paths(item, (*at, key))


@settings(max_examples=200)
@given(st.data(), proposals)
def test_one_wrong_value_anywhere_gives_a_proposal_or_a_proposal_error(data, document):
    where = data.draw(st.sampled_from(list(_paths(document))))
    wrong = data.draw(values | st.integers() | st.just(float("inf")))
    target = document
    for key in where[:-1]:
        target = target[key]
    if where:
        target[where[-1]] = wrong
    text = json.dumps(document if where else wrong).replace("Infinity", "1e400")
    for error in (_error_of(decode_proposal, text.encode()), _error_of(proposal_from_builtins, document)):
        assert error is None or error.path is None or error.path.startswith(("$", "line"))
