"""Two implementations of one format come to the same bytes for whatever run is exported, and nothing makes the verifier fail."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from damage import ATTESTATION, EVENTS, KERNEL, MANIFEST, POLICY, SDK, codes, compress, members_of, pack, resealed
from evidence_world import (
    ENDED,
    FINISHED,
    RUN,
    Run,
    command,
    decided,
    digest_of,
    intent,
    kernel_lines,
    sdk_line,
    succeeded,
    tool_call,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.model import events as e
from interlock.model.canonical import canonical
from interlock.model.errors import IntegrityError
from interlock.signing import Signer

SIGNER = Signer.generate()
FUZZER = Path(__file__).with_name("fuzz_verification.py")
TOKEN = "ghp_q7Zk2Lw9Xv4Bn8Rt1Yp6Mc3Hd5Jf0GsAaEuQ"
NAMES = st.sampled_from(["a", "b", "c1", "\u00fc", "\U0001f600", "x:y"])
TOOLS = st.sampled_from(["shell", "fs.read", None])
PATHS = st.sampled_from(["/w/a", "/w/b", "/w/\u00fc", "/w/\uffee", "/w/\U0001f600", "relative", "", f"/w/{TOKEN}"])
POSTURES = st.sampled_from(
    [
        {},
        {"net": "active"},
        {"net": "active:proxy", "record": "active"},
        {"net": "none", "\uffee": "x", "\U0001f600": "y"},
    ]
)

outcomes = st.one_of(
    st.builds(succeeded, action=NAMES, attempt=st.integers(1, 2), posture=POSTURES),
    st.builds(
        lambda action, attempt, posture: e.ActionFailed(
            proposal="p",
            action=action,
            step=10,
            attempt=attempt,
            reason="timeout",
            error="m",
            duration_ms=1,
            posture=posture,
        ),
        NAMES,
        st.integers(1, 2),
        POSTURES,
    ),
)
connections = st.builds(
    lambda action, outcome, host, port: e.ActionConnection(
        proposal="p", action=action, step=9, via="connect", host=host, port=port, outcome=outcome
    ),
    NAMES,
    st.sampled_from(["connected", "refused"]),
    st.sampled_from(["::1", "example.com", "10.0.0.1"]),
    st.sampled_from([None, 80, 443]),
)
logs = st.builds(
    lambda action, text: e.ActionLog(proposal="p", action=action, message=text),
    NAMES,
    st.sampled_from(["hello", TOKEN]),
)
actions = st.one_of(
    st.builds(
        decided, action=NAMES, decision=st.sampled_from(["allow", "forbid", "ask"]), tool=TOOLS, digest=st.none()
    ),
    st.builds(intent, action=NAMES, attempt=st.integers(1, 2), tool=TOOLS, posture=POSTURES),
    outcomes,
    connections,
    logs,
)
commands = st.one_of(
    st.just([]),
    st.builds(
        lambda shim, recorder, posture, ends: [command(shim, recorder, posture=posture), *ends],
        st.sampled_from(["none", "openai-agents"]),
        st.sampled_from(["none", "notify"]),
        POSTURES,
        st.sampled_from(
            [
                [ENDED],
                [e.CommandLost(detail="x")],
                [e.SpawnFailed(failed_step="exec", error="ENOENT", window_elapsed_ms=1)],
                [],
            ]
        ),
    ),
)
calls = st.fixed_dictionaries(
    {
        "call": st.sampled_from(
            [
                "openat",
                "creat",
                "execve",
                "renameat2",
                "linkat",
                "unlink",
                "chown",
                "sendto",
                "connect",
                "fsopen",
                "mount",
                "chroot",
            ]
        ),
        "grade": st.sampled_from(["attempt", "outcome"]),
    },
    optional={
        "path": PATHS,
        "real": st.one_of(st.none(), PATHS),
        "to": PATHS,
        "access": st.sampled_from(["read", "write", "read_write", "path", None]),
        "flags": st.lists(st.sampled_from(["create", "truncate", "append"]), max_size=2),
        "family": st.sampled_from(["inet", "inet6", "unix"]),
        "host": st.sampled_from(["::1", "1.2.3.4", None]),
        "port": st.sampled_from([80, None]),
        "error": st.sampled_from([None, "ENOENT"]),
        "unreadable": st.booleans(),
    },
)
endings = st.one_of(
    st.booleans(),
    st.fixed_dictionaries(
        {}, optional={"dropped": st.integers(0, 3), "refused": st.integers(0, 2), "lost": st.booleans()}
    ),
)
places = st.one_of(
    st.just({}),
    st.just({"proposal": "", "action": "command"}),
    st.builds(
        lambda action, attempt: {"proposal": "p", "action": action, "attempt": attempt}, NAMES, st.integers(1, 2)
    ),
)
recorders = st.lists(st.tuples(st.lists(calls, max_size=3), endings, places, st.booleans()), max_size=3)
sdk_calls = st.lists(
    st.tuples(
        st.sampled_from(["tool_call_started", "tool_call_completed", "run_finished"]),
        NAMES,
        st.sampled_from(["provider", "shim"]),
    ),
    max_size=5,
)


sound_actions = st.tuples(
    NAMES,
    POSTURES,
    st.booleans(),
    st.sampled_from(
        [
            lambda action, posture: succeeded(action=action, posture=posture),
            lambda action, _: e.ActionCancelled(proposal="p", action=action, step=9, attempt=1, reason="stopped"),
            None,
        ]
    ),
)


@st.composite
def runs(draw):
    """Events, kernel lines and sdk lines of a run: some of it as it should be, some as nobody would have it."""
    kernel, closings, usual, watched = [], [], [], draw(st.sampled_from([[], draw(recorders)]))
    for action, posture, recorded, outcome in draw(st.lists(sound_actions, max_size=3, unique_by=lambda one: one[0])):
        usual += [decided(action=action), intent(action=action, posture=posture)]
        usual += [outcome(action, posture)] if outcome is not None else []
        where = {"proposal": "p", "action": action, "attempt": 1}
        watched = [*watched, (draw(st.lists(calls, max_size=2)), True, where, True)] if recorded else watched
    for number, (bodies, ended, where, closed) in enumerate(watched):
        name = f"rec_{number}"
        lines = kernel_lines(*map(dict, bodies), recorder=name, start=len(kernel), ended=ended, **where)
        encoded = [json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode() + b"\n" for line in lines]
        kernel += encoded
        end = lines[-1] if lines[-1]["kind"] == "recorder_ended" else {}
        if closed:
            closings.append(
                e.ActionRecorded(
                    proposal=where.get("proposal") or None, action=where.get("action"), step=9, recorder=name, calls=len(bodies),
                    dropped=end.get("dropped", 0), refused=end.get("refused", 0), lost=end.get("lost", False),
                    lines=len(encoded), digest=digest_of(encoded),
                )
            )  # fmt: skip
    sdk = []
    for seq, (kind, call, source) in enumerate(draw(sdk_calls)):
        line = sdk_line(kind, seq) if kind == "run_finished" else tool_call(seq, call, kind=kind, source=source)
        sdk.append(canonical(line) + b"\n")
    if draw(st.booleans()):
        closings.append(
            e.SdkRecorded(
                shim="openai-agents", hooked=draw(st.integers(0, 1)), writers=1, records=len(sdk),
                dropped=draw(st.integers(0, 1)), rejected=draw(st.integers(0, 1)), digest=digest_of(sdk),
            )
        )  # fmt: skip
    events = [
        *draw(commands),
        *draw(st.lists(actions, max_size=8)),
        *closings,
        *draw(st.sampled_from([[FINISHED], []])),
    ]
    return events, kernel, sdk, draw(st.booleans())


def exported(run):
    events, kernel, sdk, seal_each = run
    with tempfile.TemporaryDirectory() as directory:
        made = Run(Path(directory), *events, seal_each=seal_each)
        made.kernel, made.sdk = kernel, sdk
        try:
            return made.export(Path(directory), [SIGNER])
        except IntegrityError as error:
            if error.code != "evidence_contradiction":
                raise
            return None


@settings(max_examples=200)
@given(runs())
def test_whatever_is_exported_is_valid(run):
    archive = exported(run)
    if archive is None:
        return
    assert codes(archive.data, SIGNER.keyid) == []


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    kernel = kernel_lines({"call": "openat", "path": "/w/in", "access": "read"}, proposal="p", action="a", attempt=1)
    sdk = [canonical(tool_call(0, "c1", arguments={"x": 1.5})) + b"\n"]
    closed = e.SdkRecorded(
        shim="openai-agents", hooked=1, writers=1, records=1, dropped=0, rejected=0, digest=digest_of(sdk)
    )
    run = Run(
        directory, command("openai-agents", "notify"), decided(), intent(), succeeded(posture={"net": "active"}), ENDED,
        e.ActionConnection(proposal="p", action="a", step=9, via="dns", host="h", port=80, outcome="connected"), closed, FINISHED,
        seal_each=True, kernel=kernel,
    )  # fmt: skip
    run.sdk = sdk
    return members_of(run.export(directory, [SIGNER]).data)


class Huge:
    """A number that JSON can hold and a double cannot."""


ODD = st.sampled_from(
    [
        None,
        True,
        0,
        1.0,
        -1,
        0.5,
        2**53,
        2**64,
        10**400,
        Huge,
        "",
        "x",
        "\ud800",
        [],
        {},
        [[]],
        {"": 1},
        "sha256:",
        RUN,
        {"net": 5},
    ]
)


def paths_in(value, path=()):
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from paths_in(one, (*path, key))


def changed(value, path, odd):
    if not path:
        return odd
    copy = value.copy()
    copy[path[0]] = changed(value[path[0]], path[1:], odd)
    return copy


def at(value, path):
    for key in path:
        value = value[key]
    return value


def as_json(value):
    return json.dumps(value, separators=(",", ":"), default=lambda _: "HUGE").replace('"HUGE"', "1e400").encode()


@settings(max_examples=250)
@given(st.data())
def test_no_value_in_a_line_or_document_makes_it_fail(members, data):
    """The hashes are made again, so that the value is looked at, and is not what hash and seal say first."""
    path = data.draw(st.sampled_from(sorted(members)))
    lines = members[path].splitlines()
    number = data.draw(st.integers(0, len(lines) - 1))
    value = json.loads(lines[number])
    place = data.draw(st.sampled_from(list(paths_in(value))))
    lines[number] = as_json(changed(value, place, data.draw(ODD)))
    edited = {**members, path: b"\n".join(lines) + b"\n"}
    sound = pack(edited) if path in (MANIFEST, ATTESTATION) else resealed(edited, SIGNER)
    found = codes(sound)
    if path == EVENTS:
        assert found != [] or json.loads(lines[number]) == value


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(0, 2**20), st.binary(max_size=4)), max_size=4), st.booleans(), st.integers(0, 2**20)
)
def test_no_bytes_make_it_fail(members, edits, inside, cut):
    data = bytearray(pack(members))
    if inside:
        import gzip  # noqa: PLC0415

        data = bytearray(gzip.decompress(bytes(data)))
    for at, new in edits:
        at %= len(data)  # noqa: PLW2901
        data[at : at + len(new)] = new
    data = bytes(data[: len(data) if cut % 3 else cut % len(data)])
    codes(compress(data) if inside else data)


def test_a_coverage_guided_fuzzer_finds_nothing(tmp_path):
    """A short run; `tests/evidence/fuzz_verification.py` runs as long as one likes."""
    pytest.importorskip("atheris", reason="atheris is not made for this Python or machine")
    command = [sys.executable, FUZZER, tmp_path, "-runs=800", f"-artifact_prefix={tmp_path}/"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done 800 runs" in done.stderr
    assert list(tmp_path.glob("crash-*")) == []


@pytest.mark.parametrize("odd", [2**53, 10**400, Huge, 1.0], ids=["large", "huge", "infinite", "whole"])
def test_no_number_makes_it_fail(members, odd):
    """Each number of each line in turn."""
    for path in (EVENTS, KERNEL, POLICY, SDK):
        lines = members[path].splitlines()
        for number, line in enumerate(lines):
            value = json.loads(line)
            for place in paths_in(value):
                if place and isinstance(at(value, place), int | float):
                    new = [*lines[:number], as_json(changed(value, place, odd)), *lines[number + 1 :]]
                    codes(resealed({**members, path: b"\n".join(new) + b"\n"}, SIGNER))


def test_numbers_as_long_as_python_prints_do_not_make_it_fail(members):
    long = b"9" * 4300
    for path in (EVENTS, KERNEL):
        lines = [re.sub(rb'"seq":[0-9]+', b'"seq":' + long, line) for line in members[path].splitlines(keepends=True)]
        assert "schema_invalid" in codes(resealed({**members, path: b"".join(lines)}, SIGNER))
