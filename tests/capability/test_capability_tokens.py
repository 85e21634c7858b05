"""Grant tokens: nobody makes one wider, and whatever was done to one since it was issued, it is refused."""

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.capability import compile_grants
from interlock.capability.tokens import (
    BLOCKS_MAX,
    PREFIX,
    GrantTokenError,
    Root,
    attenuate_token,
    make_token,
    read_token,
    verify_token,
)
from interlock.model.canonical import canonical
from interlock.model.grant import Grant, Paths, Restriction
from interlock.model.tool import Tool
from interlock.signing import Signer

NOW = 1_000
ENDS = 2_000
ISSUER = Signer.generate()
NAMES = st.lists(st.sampled_from(["*", "a*", "*b", "ab", "a", "tag:x", ""]), max_size=3).map(tuple)
PATHS = st.lists(st.sampled_from(["**", "a/**", "*/b", "a/b", "?"]), max_size=3).map(tuple)
HOSTS = st.lists(st.sampled_from(["*:*", "*.a:1", "b.a:1", "*:1"]), max_size=3).map(tuple)
RESTRICTIONS = st.builds(
    Restriction,
    tools=st.none() | NAMES,
    deny_tools=NAMES,
    state_keys=st.none() | NAMES,
    read=st.none() | PATHS,
    write=st.none() | PATHS,
    hosts=st.none() | HOSTS,
    unscoped=st.none() | NAMES,
    actions_max=st.none() | st.integers(1, 4),
    expires_at_us=st.none() | st.integers(1, ENDS),
)
GRANTS = st.builds(
    Grant,
    id=st.just("g"),
    agent=st.just("coder"),
    tools=NAMES,
    deny_tools=NAMES,
    state_keys=NAMES,
    paths=st.builds(Paths, read=PATHS, write=PATHS),
    hosts=HOSTS,
    unscoped=NAMES,
    actions_max=st.none() | st.integers(1, 4),
)
TOOLS = st.builds(
    Tool, name=st.sampled_from(["a", "ab", "b"]), tags=st.sampled_from([(), ("x",)]), open_world=st.booleans()
)
MARKS = (("/r", "path.read"), ("/w", "path.write"), ("/h", "host"))
PARAMETERS = st.fixed_dictionaries(
    {},
    optional={
        "r": st.sampled_from(["a", "a/b", "c/b", "."]),
        "w": st.sampled_from(["a", "a/b", "c/b"]),
        "h": st.sampled_from(["b.a:1", "a:1", "b.a:2"]),
    },
)


def root(**changes):
    fields = {"audience": "here", "grant": "g", "agent": "coder", "issued_at_us": NOW, "next_key": ""}
    return Root(**{**fields, "restriction": Restriction(expires_at_us=ENDS), **changes})


def issued(**changes):
    return make_token(root(**changes), ISSUER, Signer.generate())


def narrower(text, **restriction):
    return attenuate_token(text, Restriction(**restriction), Signer.generate())


def verified(text, *, key=ISSUER.keyid, audience="here", now_us=NOW):
    return verify_token(text, key=key, audience=audience, now_us=now_us)


def code(text, **options):
    with pytest.raises(GrantTokenError) as caught:
        verified(text, **options)
    assert len(text) < 40 or text[5:40] not in str(caught.value.as_dict())
    return caught.value.code


def opened(text):
    body = text.removeprefix(PREFIX)
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


def closed(content):
    data = json.dumps(content, separators=(",", ":")).encode()
    return PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")


CHAIN = narrower(narrower(issued(), tools=("fs.*",)), deny_tools=("fs.write",), uses_max=3)
SHORTER = narrower(issued(), tools=("fs.*",))


# -- what a token allows


@settings(deadline=None, max_examples=60)
@given(GRANTS, st.lists(RESTRICTIONS, max_size=3), TOOLS, PARAMETERS, st.integers(NOW, ENDS))
def test_a_block_allows_nothing_that_the_token_did_not_allow_before(grant, blocks, tool, parameters, now):
    texts = [issued()]
    for block in blocks:
        texts.append(attenuate_token(texts[-1], block, Signer.generate()))
    judges = [compile_grants([grant])]
    for text in texts:
        token = verified(text, now_us=0)
        judges.append(compile_grants([grant, *token.grants], only=token.id))
    for question in (
        lambda judge: judge.tool("coder", tool, now),
        lambda judge: judge.state_key("coder", tool.name, now),
        lambda judge: judge.arguments("coder", tool, MARKS, parameters, now),
        lambda judge: judge.arguments("coder", tool, (), {}, now),
        lambda judge: judge.path("coder", tool, "a/b", "write", now),
        lambda judge: judge.proposal("coder", 2),
    ):
        allowed = [question(judge) is None for judge in judges]
        assert allowed == sorted(allowed, reverse=True), "what was refused once stays refused down the chain"
        if now < ENDS:
            assert allowed[0] == allowed[1], "the first block restricted nothing but the time"


@settings(deadline=None, max_examples=40)
@given(GRANTS, RESTRICTIONS, TOOLS, PARAMETERS)
def test_a_block_takes_away_no_more_than_it_says(grant, block, tool, parameters):
    token = verified(attenuate_token(issued(), block, Signer.generate()), now_us=0)
    judge = compile_grants([grant, *token.grants], only=token.id)
    alone = compile_grants([_as_grant(block)])
    before = compile_grants([grant])
    expected = before.arguments("coder", tool, MARKS, parameters, 0) is None and (
        alone.arguments("block", tool, MARKS, parameters, 0) is None
    )
    assert (judge.arguments("coder", tool, MARKS, parameters, 0) is None) == expected


def _as_grant(block):
    def given_or(globs, everything):
        return (everything,) if globs is None else globs

    return Grant(
        id="block",
        agent="block",
        tools=given_or(block.tools, "*"),
        deny_tools=block.deny_tools,
        state_keys=given_or(block.state_keys, "*"),
        paths=Paths(read=given_or(block.read, "**"), write=given_or(block.write, "**")),
        hosts=given_or(block.hosts, "*:*"),
        unscoped=given_or(block.unscoped, "*"),
    )


def test_only_the_token_counts_not_what_else_the_agent_has():
    wide = Grant(id="wide", agent="coder", tools=("*",))
    token = verified(narrower(issued(), tools=("fs.read",)))
    judge = compile_grants([wide, Grant(id="g", agent="coder", tools=("fs.*",)), *token.grants], only=token.id)
    for name, allowed in (("fs.read", True), ("fs.write", False), ("http.fetch", False)):
        assert (judge.tool("coder", Tool(name=name), NOW) is None) == allowed


def test_a_token_ends_with_its_grant_and_with_the_membership_in_its_group():
    token = verified(issued())
    of_group = Grant(id="g", agent="group:crew", tools=("*",))
    tool = Tool(name="a")
    member = compile_grants([of_group, *token.grants], groups={"coder": ["crew"]}, only=token.id)
    assert member.tool("coder", tool, NOW) is None
    for judge in (
        compile_grants([of_group, *token.grants], only=token.id),
        compile_grants([Grant(id="g", agent="other", tools=("*",)), *token.grants], only=token.id),
        compile_grants([*token.grants], only=token.id),
        compile_grants([of_group], groups={"coder": ["crew"]}, only=token.id),
    ):
        assert judge.tool("coder", tool, NOW) is not None
        assert judge.proposal("coder", 1) is not None


def test_a_token_says_for_whom_and_what_it_is():
    token = verified(CHAIN)
    assert (token.root.agent, token.root.grant, token.expires_at_us) == ("coder", "g", ENDS)
    assert [grant.parent for grant in token.grants] == ["g", *(grant.id for grant in token.grants[:-1])]
    assert token.id == token.grants[-1].id
    assert token == read_token(CHAIN)
    assert opened(CHAIN)["secret"] not in repr(token)


# -- what is refused


@settings(deadline=None, max_examples=150)
@given(st.integers(0, len(CHAIN) - 1), st.sampled_from("ABab01-_=+/ \n\0é"))
def test_no_character_can_be_changed(at, other):
    text = CHAIN[:at] + other + CHAIN[at + 1 :]
    if text != CHAIN:
        assert code(text) == "bad_grant_token"


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_no_bit_of_what_is_inside_can_be_flipped(data):
    inside = bytearray(json.dumps(opened(CHAIN), separators=(",", ":")).encode())
    at, bit = data.draw(st.integers(0, len(inside) - 1)), data.draw(st.integers(0, 7))
    inside[at] ^= 1 << bit
    assert code(PREFIX + base64.urlsafe_b64encode(bytes(inside)).decode().rstrip("=")) == "bad_grant_token"


@pytest.mark.parametrize(
    "order", [(1, 0, 2), (0, 2, 1), (2, 1, 0), (0, 1, 1), (0, 0, 1), (1, 2), (0, 2), (0, 1), (0,), ()]
)
def test_blocks_cannot_be_reordered_repeated_or_cut(order):
    content = opened(CHAIN)
    content["blocks"] = [content["blocks"][index] for index in order]
    assert code(closed(content)) == "bad_grant_token"


def test_a_block_of_another_token_does_not_fit():
    content, other = opened(CHAIN), opened(narrower(narrower(issued(), tools=("*",)), tools=("*",)))
    for index in range(3):
        mixed = {**content, "blocks": [*content["blocks"]]}
        mixed["blocks"][index] = other["blocks"][index]
        assert code(closed(mixed)) == "bad_grant_token"
    assert code(closed({**content, "secret": other["secret"]})) == "bad_grant_token"
    assert code(closed({**content, "secret": opened(SHORTER)["secret"]})) == "bad_grant_token"


def _signed(signer, envelope, **changes):
    payload = {**json.loads(base64.b64decode(envelope["payload"])), **changes}
    return json.loads(signer.sign(envelope["payloadType"], canonical(payload)))


def test_what_a_holder_signs_with_its_own_key_counts_only_as_the_next_block():
    content = opened(SHORTER)
    mine = Signer.from_secret(content["secret"])
    first, second = content["blocks"]
    for blocks in (
        [_signed(mine, first, agent="admin"), second],
        [_signed(mine, first, restriction={"expires_at_us": 9_000_000})],
        [first, _signed(mine, second, restriction={"tools": ["*"]})],
        [first, second, _signed(mine, first)],
        [_signed(Signer.generate(), first), second],
    ):
        for secret in (content["secret"], mine.secret()):
            assert code(closed({"blocks": blocks, "secret": secret})) == "bad_grant_token"


def test_a_second_signature_or_another_key_id_is_refused():
    content = opened(issued())
    envelope = content["blocks"][0]
    foreign = _signed(Signer.generate(), envelope)["signatures"]
    for signatures in ([*envelope["signatures"], *foreign], [*foreign, *envelope["signatures"]], []):
        assert code(closed({**content, "blocks": [{**envelope, "signatures": signatures}]})) == "bad_grant_token"
    renamed = [{**envelope["signatures"][0], "keyid": envelope["signatures"][0]["keyid"].upper()}]
    assert code(closed({**content, "blocks": [{**envelope, "signatures": renamed}]})) == "bad_grant_token"


def test_a_foreign_key_another_audience_and_a_token_that_is_over_are_refused():
    foreign = make_token(root(), Signer.generate(), Signer.generate())
    assert read_token(foreign).root.grant == "g", "it is whole, which vouches for nothing"
    assert code(foreign) == "bad_grant_token"
    assert code(CHAIN, key=Signer.generate().keyid) == "bad_grant_token"
    assert code(CHAIN, audience="there") == "grant_token_audience"
    assert code(issued(audience="there")) == "grant_token_audience"
    assert code(CHAIN, now_us=ENDS) == "grant_token_expired"
    assert verified(CHAIN, now_us=ENDS - 1)
    assert code(narrower(issued(), expires_at_us=NOW)) == "grant_token_expired"
    assert code(narrower(narrower(issued(), expires_at_us=NOW), expires_at_us=ENDS)) == "grant_token_expired"


def test_a_token_without_an_end_is_not_made():
    with pytest.raises(GrantTokenError, match="does not expire"):
        issued(restriction=Restriction())


@pytest.mark.parametrize("limits", [{"uses_max": 0}, {"actions_max": 0}, {"uses_max": 2**60}, {"expires_at_us": -1}])
def test_senseless_limits_are_not_added(limits):
    with pytest.raises(GrantTokenError):
        narrower(issued(), **limits)


def test_a_block_with_a_name_that_we_do_not_know_is_refused():
    signer = Signer.generate()
    text = issued()
    envelope = _signed(ISSUER, opened(text)["blocks"][0], next_key=signer.keyid, new_limit=1)
    assert code(closed({"blocks": [envelope], "secret": signer.secret()})) == "bad_grant_token"


def test_a_chain_has_an_upper_bound():
    text = issued()
    for _ in range(BLOCKS_MAX - 1):
        text = narrower(text, tools=("*",))
    assert verified(text)
    with pytest.raises(GrantTokenError, match="16"):
        narrower(text, tools=("*",))


@pytest.mark.parametrize("text", ["", "igt1_", "igt1_e30", "igt1_====", "igt1_" + "A" * 70_000, "x", "igt1_é", "eyJh"])
def test_what_is_not_a_token_is_refused(text):
    assert code(text) == "bad_grant_token"
