"""An archive: its bytes, what follows from a run, and what is refused at writing."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib

import msgspec
import pytest
from evidence_world import (
    ENDED,
    FINISHED,
    RUN,
    Run,
    ambiguities,
    closings,
    command,
    decided,
    digest_of,
    intent,
    kernel_lines,
    sdk_line,
    succeeded,
    tool_call,
)
from jsonschema_rs import validator_for

from interlock.evidence import format as form
from interlock.evidence import observed, published
from interlock.model import events as e
from interlock.model.canonical import canonical, digest_bytes
from interlock.model.errors import IntegrityError
from interlock.signing import Signer, pae, parse_public_key
from interlock.verification import facts

WHERE = {"proposal": "p", "action": "a", "attempt": 1}
OPEN = {"call": "openat", "path": "/w/in", "access": "read"}
WALLED = {"net": "active", "record": "active"}


@pytest.fixture
def plain(tmp_path):
    """A run of one recorded action."""
    kernel = kernel_lines(
        OPEN,
        {"call": "openat", "path": "/w/out", "access": "write", "flags": ["create", "truncate"]},
        {"call": "execve", "path": "/bin/sh", "real": "/usr/bin/dash", "argv": ["sh"]},
        {"call": "renameat2", "path": "/w/out", "to": "/w/new"},
        {"call": "connect", "family": "inet6", "host": "::1", "port": 80},
        {"call": "connect", "family": "unix", "host": "/run/x"},
        {"call": "openat", "path": "/w/nowhere", "access": "read", "grade": "outcome", "error": "ENOENT"},
        {"call": "openat", "path": "/w/in", "access": "read"},
        **WHERE,
    )
    return Run(
        tmp_path,
        decided(digest="hmac-sha256:" + "1" * 64),
        intent(),
        succeeded(posture=WALLED),
        FINISHED,
        kernel=kernel,
    )


def test_the_archive_is_the_format(plain, tmp_path):
    archive = plain.export(tmp_path)
    assert tuple(archive.members) == form.MEMBERS
    for info in archive.infos:
        assert (info.mode, info.uid, info.gid, info.uname, info.gname, info.mtime) == (0o644, 0, 0, "", "", 0)
        assert info.isreg()
    assert len(archive.tar) % 10_240 == 0
    assert archive.data[3:10] == bytes(5) + archive.data[8:10]  # no flags, no time
    stream = zlib.decompressobj(31)
    stream.decompress(archive.data)
    assert stream.eof
    assert not stream.unused_data
    schemas = {
        "manifest.json": "manifest", "observation-health.json": "health", "capability-surface.json": "surface",
        "correlation-report.json": "correlation", "attestation.dsse.json": "attestation",
    }  # fmt: skip
    for member, schema in schemas.items():
        document = archive.document(member)
        assert archive.members[member] == canonical(document) + b"\n"
        validator(schema).validate(document)
    for member, schema in {
        "events": "event-line",
        "layers/kernel": "kernel-line",
        "layers/policy": "policy-line",
    }.items():
        check = validator(schema)
        for line in archive.lines(f"{member}.ndjson"):
            check.validate(line)
            assert line["run_id"] == RUN


def validator(name):
    return validator_for(json.loads((published.DIRECTORY / f"{name}.schema.json").read_bytes()))


def test_the_same_run_has_the_same_bytes(plain, tmp_path):
    signer = Signer.generate()
    assert plain.export(tmp_path, [signer]).data == plain.export(tmp_path, [signer]).data


def test_the_manifest_and_the_attestation_bind_all_the_rest(plain, tmp_path):
    one, other = Signer.generate(), Signer.generate()
    archive = plain.export(tmp_path, [one, other])
    manifest = archive.manifest
    for member in manifest["members"]:
        data = archive.members[member["path"]]
        assert (member["sha256"], member["bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
    assert [m["path"] for m in manifest["members"]] == [
        m for m in form.MEMBERS if m not in (form.MANIFEST, form.ATTESTATION)
    ]
    envelope = archive.document("attestation.dsse.json")
    payload = base64.b64decode(envelope["payload"])
    for signature, signer in zip(envelope["signatures"], sorted((one, other), key=lambda s: s.keyid), strict=True):
        assert signature["keyid"] == signer.keyid
        parse_public_key(signature["keyid"]).verify(
            base64.b64decode(signature["sig"]), pae(envelope["payloadType"], payload)
        )
    statement = json.loads(payload)
    validator("statement").validate(statement)
    assert payload == canonical(statement)
    heads = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    assert heads == {
        "manifest.json": hashlib.sha256(archive.members["manifest.json"]).hexdigest(),
        "journal-head": hashlib.sha256(canonical(manifest["journal"])).hexdigest(),
    }
    assert statement["predicate"] == {"run_id": RUN, "journal": manifest["journal"], "view": manifest["view"]}


def test_events_are_the_journals_own_lines_and_both_chains_hold(tmp_path):
    run = Run(tmp_path, decided(), intent(), succeeded(), FINISHED, seal_each=True)
    archive = run.export(tmp_path)
    prefix = b'{"schema":"interlock.evidence.event.v1","run_id":"%b",' % RUN.encode()
    lines = archive.members["events.ndjson"].splitlines(keepends=True)
    journal = (run.directory / "journal.ndjson").read_bytes().splitlines(keepends=True)
    sealed, view, batch = b"", "", b""
    previous = digest_bytes("genesis", canonical({"run": RUN, "version": 2}))
    for line, own in zip(lines, journal, strict=True):
        if json.loads(line)["kind"] != "seal":
            assert b"{" + line.removeprefix(prefix) == own
            sealed += own
            batch += line
            continue
        seal = json.loads(line)
        numbers = f"{seal['first']} {seal['last']} {len(sealed)} {seal['epoch']}"
        assert seal["digest"] == digest_bytes("seal", f"{previous} {numbers}\n".encode() + sealed)
        assert seal["view"] == digest_bytes("view", f"{view}\n".encode() + batch)
        previous, view, sealed, batch = seal["digest"], seal["view"], b"", b""
    assert archive.manifest["journal"] == {"run": RUN, "seq": 4, "seal": previous, "epoch": 1, "version": 2}
    assert archive.manifest["view"] == view


def test_the_surface_is_sorted_and_says_how_it_is_known(plain, tmp_path):
    archive = plain.export(tmp_path)
    assert archive.claim("files_read") == ["/w/in"]
    assert archive.claim("files_written") == ["/w/new", "/w/out"]
    assert archive.claim("programs") == ["/usr/bin/dash"]
    assert archive.claim("hosts") == ["[::1]:80"]
    assert archive.claim("decisions") == ["allow:shell"]
    assert archive.claim("tools") == ["shell"]
    assert archive.surface["files_read"] == {
        "known": "measured", "grade": "attempt", "complete": True, "cut": False, "values": ["/w/in"],
    }  # fmt: skip
    assert archive.surface["tools_reported"] == {
        "known": "unknown", "grade": None, "complete": False, "cut": False, "values": [],
    }  # fmt: skip
    assert archive.health["layers"]["kernel"] == {"state": "complete", "records": 10, "dropped": 0}
    assert archive.correlation["state"] == "clean"
    assert archive.health["postures"] == [WALLED]


def test_the_policy_layer_says_what_was_decided_and_no_parameters(tmp_path):
    run = Run(tmp_path, decided("a", "deny", policies=("no-rm",), digest="hmac-sha256:" + "2" * 64), FINISHED)
    (line,) = run.export(tmp_path).lines("layers/policy.ndjson")
    assert line == {
        "schema": "interlock.layer.policy.v1", "run_id": RUN, "seq": 0, "kind": "decision", "event": 1, "ts": line["ts"],
        "proposal": "p", "action": "a", "tool": "shell", "decision": "deny", "policies": ["no-rm"], "errors": [],
        "digest": "hmac-sha256:" + "2" * 64,
    }  # fmt: skip


def test_without_a_recorder_nothing_is_claimed_about_effects(tmp_path):
    archive = Run(tmp_path, decided(), intent(), succeeded(), FINISHED).export(tmp_path)
    health = archive.health
    assert health["layers"]["kernel"]["state"] == "absent"
    assert (health["cgroup_correlation"], health["notes"]) == ("partial", ["contract_only_mode"])
    for name in ("files_read", "files_written", "programs", "hosts"):
        assert archive.surface[name] == {
            "known": "unknown",
            "grade": None,
            "complete": False,
            "cut": False,
            "values": [],
        }
    assert archive.surface["tools"]["known"] == "measured"


@pytest.mark.parametrize(
    ("ended", "note"),
    [({"dropped": 3}, "kernel_drops"), ({"lost": True}, "recorder_lost"), (False, "recorder_lost")],
)
def test_what_is_missing_makes_the_layer_partial(tmp_path, ended, note):
    run = Run(tmp_path, decided(), intent(), succeeded(), FINISHED)
    run.kernel = kernel_lines(OPEN, ended=ended, **WHERE)
    archive = run.export(tmp_path)
    assert archive.health["layers"]["kernel"]["state"] == "partial"
    assert note in archive.health["notes"]
    assert (archive.claim("files_read"), archive.surface["files_read"]["complete"]) == (["/w/in"], False)
    assert archive.surface["programs"]["known"] == "unknown"


@pytest.mark.parametrize("call", ["chroot", "mount", "move_mount", "pivot_root", "setns"])
def test_where_paths_may_lead_elsewhere_the_layer_is_partial_for_writer_and_verifier(tmp_path, call):
    run = Run(tmp_path, decided(), intent(), succeeded(), FINISHED)
    rerooted = {"kind": "call", "call": call} | ({} if call == "setns" else {"path": "/w/top"})
    run.kernel = kernel_lines(OPEN, rerooted, **WHERE)
    archive = run.export(tmp_path)
    assert archive.health["layers"]["kernel"]["state"] == "partial"
    assert "paths_rerooted" in archive.health["notes"]
    assert (archive.claim("files_written"), archive.surface["programs"]["known"]) == ([], "unknown")


def test_a_complete_layer_without_a_record_is_a_bounded_negative(tmp_path):
    kernel = kernel_lines(OPEN, **WHERE)
    archive = Run(tmp_path, decided(), intent(), succeeded(posture=WALLED), FINISHED, kernel=kernel).export(tmp_path)
    assert archive.surface["programs"]["known"] == "bounded_negative"
    assert archive.surface["hosts"]["known"] == "bounded_negative"
    assert archive.health["network_coverage"] == "complete"


def test_a_recorder_that_the_journal_does_not_close_makes_the_layer_partial(tmp_path):
    """Else lines that somebody put there later would be as good as recorded ones."""
    run = Run(tmp_path, decided(), intent(), succeeded(posture=WALLED), FINISHED)
    run.kernel = kernel_lines(OPEN, **WHERE)
    archive = run.export(tmp_path)
    assert archive.health["layers"]["kernel"]["state"] == "partial"
    assert "recorder_unclosed" in archive.health["notes"]
    assert archive.surface["programs"]["known"] == "unknown"


def test_an_attempt_without_a_recorder_makes_the_layer_partial(tmp_path):
    run = Run(tmp_path, decided(), intent(), succeeded(), intent("b"), succeeded("b"), FINISHED)
    run.kernel = kernel_lines(OPEN, **WHERE)
    health = run.export(tmp_path).health
    assert health["layers"]["kernel"]["state"] == "partial"
    assert "actions_without_recorder" in health["notes"]


def test_a_measured_run_says_how_its_command_ended(tmp_path):
    archive = Run(tmp_path, command(posture={"net": "absent(x)"}), ENDED, FINISHED).export(tmp_path)
    assert archive.correlation["command"] == {
        "outcome": "finished",
        "recorders": 0,
        "kernel_records": 0,
        "sdk_calls": 0,
    }
    assert archive.health["layers"]["policy"]["state"] == "absent"
    assert archive.surface["tools"]["known"] == "unknown"


@pytest.mark.parametrize(
    ("end", "outcome", "notes"),
    [
        (e.SpawnFailed(failed_step="exec", error="ENOENT", window_elapsed_ms=1), "spawn_failed", {"spawn_failed"}),
        (e.CommandLost(detail="killed"), "lost", {"command_lost"}),
    ],
)
def test_a_command_that_did_not_end_leaves_an_archive_that_says_so(tmp_path, end, outcome, notes):
    archive = Run(tmp_path, command(), end, FINISHED).export(tmp_path)
    assert archive.correlation["command"]["outcome"] == outcome
    assert notes <= set(archive.health["notes"])
    assert archive.health["layers"]["events"]["state"] == ("partial" if outcome == "lost" else "complete")


def test_a_run_without_events_is_a_skeleton(tmp_path):
    run = Run(tmp_path)
    archive = run.export(tmp_path, batches=list, agent_shim="openai-agents", platform="linux")
    assert archive.members["events.ndjson"] == b""
    assert archive.manifest["view"] is None
    assert archive.manifest["journal"]["seq"] == -1
    assert archive.health["notes"] == ["contract_only_mode", "not_run"]
    assert archive.health["agent_shim"] == "openai-agents"


def sdk_run(tmp_path, *lines, said=None, **fields):
    encoded = [msgspec.json.encode(line, order="sorted") + b"\n" for line in lines]
    closed = {
        "shim": "openai-agents",
        "hooked": 1,
        "writers": 1,
        "records": len(lines),
        "dropped": 0,
        "rejected": 0,
        "digest": digest_of(encoded),
    }
    closing = e.SdkRecorded(**{**closed, **(said or {})})
    run = Run(tmp_path, command("openai-agents", **fields), closing, ENDED, FINISHED)
    run.sdk = encoded
    return run


def test_an_sdk_has_only_its_own_word(tmp_path):
    lines = [tool_call(0, "c1"), tool_call(1, "c1", kind="tool_call_completed"), sdk_line("run_finished", 2)]
    archive = sdk_run(tmp_path, *lines).export(tmp_path)
    assert archive.lines("layers/sdk.ndjson") == lines
    assert archive.health["layers"]["sdk"] == {"state": "self_reported", "records": 3, "dropped": 0, "rejected": 0}
    assert archive.surface["tools_reported"] == {
        "known": "reported", "grade": None, "complete": True, "cut": False, "values": ["search"],
    }  # fmt: skip
    assert ambiguities(archive) == {"sdk_call_without_decision": ["call:c1"]}
    assert archive.correlation["state"] == "partial"


def test_every_ambiguity_of_calls_is_named(tmp_path):
    lines = [
        tool_call(0, "twice"),
        tool_call(1, "twice"),
        tool_call(2, "twice", kind="tool_call_completed"),
        tool_call(3, "open"),
        tool_call(4, "late", kind="tool_call_completed"),
        tool_call(5, "made", source="shim"),
        tool_call(6, "made", source="shim", kind="tool_call_completed"),
    ]
    run = sdk_run(tmp_path, *lines, recorder="notify")
    run.kernel = kernel_lines(OPEN)
    archive = run.export(tmp_path)
    assert ambiguities(archive) == {
        "call_without_end": ["call:open"],
        "duplicate_call_id": ["call:twice"],
        "effects_without_call": ["command"],
        "end_without_start": ["call:late"],
        "sdk_call_without_decision": ["call:late", "call:made", "call:open", "call:twice"],
        "shim_made_call_id": ["call:made"],
    }


def test_decisions_and_calls_are_bound_by_their_id(tmp_path):
    lines = [tool_call(0, "a"), tool_call(1, "a", kind="tool_call_completed"), tool_call(2, "x")]
    encoded = [msgspec.json.encode(line, order="sorted") + b"\n" for line in lines]
    closing = e.SdkRecorded(
        shim="openai-agents", hooked=1, writers=1, records=3, dropped=0, rejected=0, digest=digest_of(encoded)
    )
    run = Run(
        tmp_path, command("openai-agents"), decided("a"), intent("a"), succeeded("a"), decided("b", "deny"), closing, ENDED,
        FINISHED,
    )  # fmt: skip
    run.sdk = encoded
    archive = run.export(tmp_path)
    bindings = {one["action"]: one for one in archive.correlation["bindings"]}
    assert (bindings["a"]["sdk_calls"], bindings["a"]["decision"], bindings["a"]["outcome"]) == (
        ["a"],
        "allow",
        "succeeded",
    )
    assert ambiguities(archive) == {
        "call_without_end": ["call:x"],
        "decision_without_sdk_call": ["action:p/b"],
        "sdk_call_without_decision": ["call:x"],
    }


def test_effects_of_an_action_that_was_never_begun_are_a_failed_correlation(tmp_path):
    run = Run(tmp_path, decided(), intent(), succeeded(), FINISHED)
    run.kernel = kernel_lines(OPEN, **WHERE)
    run.kernel += kernel_lines(OPEN, recorder="rec_2", start=3, proposal="p", action="ghost", attempt=1)
    archive = run.export(tmp_path)
    assert archive.health["cgroup_correlation"] == "failed"
    assert ambiguities(archive) == {"effects_without_call": ["action:p/ghost"]}
    assert [one["action"] for one in archive.correlation["bindings"]] == ["a"]


def test_a_decision_without_effects_is_named(tmp_path):
    run = Run(tmp_path, decided(), intent(), succeeded(), decided("b"), intent("b"), succeeded("b"), FINISHED)
    run.kernel = kernel_lines(OPEN, **WHERE) + kernel_lines(
        recorder="rec_2", start=3, proposal="p", action="b", attempt=1
    )
    assert ambiguities(run.export(tmp_path)) == {"policy_without_effects": ["action:p/b"]}


def test_sdk_drops_and_rejections_make_it_partial(tmp_path):
    run = sdk_run(tmp_path, tool_call(0, "c"), said={"rejected": 2, "dropped": 1})
    health = run.export(tmp_path).health
    assert health["layers"]["sdk"] == {"state": "partial", "records": 1, "dropped": 1, "rejected": 2}
    assert {"sdk_drops", "sdk_rejected"} <= set(health["notes"])


def test_a_shim_that_found_no_place_says_so(tmp_path):
    health = sdk_run(tmp_path, said={"hooked": 0}).export(tmp_path).health
    assert health["layers"]["sdk"]["state"] == "absent"
    assert "shim_not_hooked" in health["notes"]


BOTH = e.CommandFinished(exit_code=0, signal=9, success=False, window_elapsed_ms=1)
NEITHER = e.CommandFinished(success=False, window_elapsed_ms=1)
FAILED_WELL = e.CommandFinished(exit_code=1, success=True, window_elapsed_ms=1)


@pytest.mark.parametrize(
    "events",
    [
        (command(), BOTH), (command(), NEITHER), (command(), ENDED, ENDED), (ENDED,), (command(), command()),
        (command(), ENDED, e.CommandLost(detail="x")), (command(), FAILED_WELL),
    ],
    ids=["both", "neither", "ended twice", "not started", "started twice", "finished and lost", "success"],
)  # fmt: skip
def test_events_that_contradict_each_other_are_refused(tmp_path, events):
    with pytest.raises(IntegrityError) as caught:
        Run(tmp_path, *events, FINISHED).export(tmp_path)
    assert caught.value.code == "evidence_contradiction"


STARTED = e.ProcessStarted(proposal="p", action="a", step=9, handle="proc-1", agent="x", until="run")


def background(action, handle):
    return e.ActionRecorded(
        proposal="p", action=action, step=9, recorder="k", calls=0, dropped=0, refused=0, handle=handle
    )


@pytest.mark.parametrize(("action", "handle"), [("b", "proc-1"), ("a", "proc-2")])
def test_a_recorder_names_a_program_that_its_action_started(tmp_path, action, handle):
    begun = (decided(), intent(), succeeded(), intent("b"), succeeded("b"), STARTED)
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
    Run(tmp_path / "x", *begun, background("a", "proc-1"), FINISHED).export(tmp_path)
    with pytest.raises(IntegrityError) as caught:
        Run(tmp_path / "y", *begun, background(action, handle), FINISHED).export(tmp_path)
    assert caught.value.code == "evidence_contradiction"


def forged(tmp_path, what):
    run = Run(tmp_path, decided(), intent(), succeeded(), FINISHED)
    lines = kernel_lines(OPEN, **WHERE)
    match what:
        case "no recorder":
            run = Run(tmp_path / "x", command(), ENDED, FINISHED)
            lines = kernel_lines(OPEN)
        case "another platform":
            run = Run(tmp_path / "x", command(platform="darwin", recorder="notify"), ENDED, FINISHED)
            lines = kernel_lines(OPEN)
        case "no shim":
            run = Run(tmp_path / "x", command(), ENDED, FINISHED)
            run.sdk, lines = [tool_call(0, "c")], []
        case "not started":
            lines = [{**line, "seq": n} for n, line in enumerate(lines[1:])]
        case "after its end":
            lines = [*lines, {**lines[1], "seq": 3}]
        case "another action":
            lines[1]["action"] = "b"
        case "started twice":
            lines = [*lines, {**lines[0], "seq": 3}]
        case "another end":
            run = Run(tmp_path / "x", decided(), intent(), succeeded(), *closings(lines), FINISHED)
            lines[-1]["dropped"] = 1
    run.kernel = lines
    return run


@pytest.mark.parametrize(
    "what",
    [
        "no recorder",
        "another platform",
        "no shim",
        "not started",
        "after its end",
        "another action",
        "started twice",
        "another end",
    ],
)
def test_layers_that_contradict_the_events_are_refused(tmp_path, what):
    (tmp_path / "x").mkdir()
    with pytest.raises(IntegrityError) as caught:
        forged(tmp_path, what).export(tmp_path)
    assert caught.value.code == "evidence_contradiction"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"run_id": "run_other"}, "$.run_id"), ({"seq": 7}, "$.seq"), ({"schema": "interlock.layer.kernel.v9"}, "$.schema"),
        ({"path": 5}, "$.path"), ({"kind": "other"}, "$.kind"),
    ],
)  # fmt: skip
def test_a_kernel_line_of_another_format_is_named(tmp_path, change, field):
    run = Run(tmp_path, decided(), intent(), succeeded(), FINISHED)
    run.kernel = kernel_lines(OPEN, **WHERE)
    run.kernel[1] |= change
    with pytest.raises(IntegrityError) as caught:
        run.export(tmp_path)
    assert (caught.value.code, caught.value.path) == ("layer_malformed", "layers/kernel.ndjson:2")
    assert f"`{field}`" in caught.value.message


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"run_id": "run_other"}, "$.run_id"), ({"seq": 7}, "$.seq"), ({"writer_seq": 7}, "$.writer_seq"),
        ({"tool_call_id": ""}, "$.tool_call_id"), ({"tool": ""}, "$.tool"), ({"status": "perhaps"}, "$.status"),
        ({"kind": "other"}, "$.kind"), ({"more": 1}, "more"),
    ],
)  # fmt: skip
def test_an_sdk_line_of_another_format_is_named(tmp_path, change, field):
    lines = [tool_call(0, "c"), {**tool_call(1, "c", kind="tool_call_completed"), **change}]
    with pytest.raises(IntegrityError) as caught:
        sdk_run(tmp_path, *lines).export(tmp_path)
    assert (caught.value.code, caught.value.path) == ("layer_malformed", "layers/sdk.ndjson:2")
    assert field in caught.value.message


def test_a_layer_that_was_cut_since_is_refused(tmp_path):
    run = sdk_run(tmp_path, tool_call(0, "c"), tool_call(1, "d"))
    run.sdk.pop()
    with pytest.raises(IntegrityError) as caught:
        run.export(tmp_path)
    assert (caught.value.code, caught.value.path) == ("layer_mismatch", "layers/sdk.ndjson")


def test_an_event_cannot_use_the_names_of_the_archive(tmp_path):
    run = Run(tmp_path, FINISHED)
    lines = [b'{"kind":"of_a_later_version","seq":0,"ts":1,"mono":1,"run_id":"run_b"}\n']
    seal = b'{"kind":"seal","first":0,"last":0,"bytes":1,"epoch":1,"prev":"","digest":""}\n'
    with pytest.raises(IntegrityError) as caught:
        run.export(tmp_path, batches=lambda: [(type("B", (), {"lines": lines, "seal": seal}))])
    assert caught.value.code == "evidence_contradiction"


@pytest.mark.parametrize(("bound", "to"), [("VALUES_MAX", 2), ("VALUE_BYTES_MAX", 5)])
def test_lists_have_a_bound_and_say_so(tmp_path, monkeypatch, bound, to):
    monkeypatch.setattr(observed, bound, to)
    monkeypatch.setattr(facts, bound, to)
    kernel = kernel_lines(*({**OPEN, "path": f"/{n}"} for n in (3, 1, 22, 1, 4)), **WHERE)
    run = Run(tmp_path, decided(), intent(), succeeded(), FINISHED, kernel=kernel)
    claim = run.export(tmp_path).surface["files_read"]
    assert (claim["values"], claim["cut"], claim["complete"]) == (["/1", "/3"], True, False)


def test_what_comes_after_a_cut_is_left_out_even_if_it_would_fit(tmp_path, monkeypatch):
    for module in (observed, facts):
        monkeypatch.setattr(module, "VALUE_BYTES_MAX", 5)
    kernel = kernel_lines(*({**OPEN, "path": path} for path in ("/3", "/22222", "/1")), **WHERE)
    run = Run(tmp_path, decided(), intent(), succeeded(), FINISHED, kernel=kernel)
    assert run.export(tmp_path).claim("files_read") == ["/3"]


def test_a_complete_layer_needs_all_of_it(tmp_path):
    """Nothing dropped, and in a measured run the command's own recorder."""
    lossy = kernel_lines(OPEN, ended={"dropped": 1}, **WHERE)
    other = kernel_lines(OPEN, **WHERE)
    for name, events, kernel in (
        ("dropped", [decided(), intent(), succeeded()], lossy),
        ("command", [command("none", "notify"), intent(), succeeded(), ENDED], other),
    ):
        (tmp_path / name).mkdir()
        archive = Run(tmp_path / name, *events, FINISHED, kernel=kernel).export(tmp_path)
        assert archive.health["layers"]["kernel"]["state"] == "partial", name


def test_a_recorded_command_without_an_sdk_is_clean(tmp_path):
    run = Run(tmp_path, command("none", "notify"), ENDED, FINISHED, kernel=kernel_lines(OPEN))
    archive = run.export(tmp_path)
    assert (archive.correlation["state"], archive.correlation["ambiguities"]) == ("clean", [])


def test_a_file_that_an_open_may_make_is_written(tmp_path):
    kernel = kernel_lines({**OPEN, "flags": ["create"]}, {**OPEN, "path": "/w/t", "flags": ["truncate"]}, **WHERE)
    archive = Run(tmp_path, decided(), intent(), succeeded(), FINISHED, kernel=kernel).export(tmp_path)
    assert archive.claim("files_written") == ["/w/in", "/w/t"]


def test_an_id_of_two_actions_is_bound_to_neither(tmp_path):
    twice = [intent("x"), e.ActionIntent(proposal="q", action="x", step=8, attempt=1, tool="shell")]
    run = Run(tmp_path, command("openai-agents"), *twice, ENDED, FINISHED)
    run.sdk = [tool_call(0, "x")]
    archive = run.export(tmp_path)
    assert [binding["sdk_calls"] for binding in archive.correlation["bindings"]] == [[], []]
    assert ambiguities(archive)["duplicate_call_id"] == ["call:x"]


def test_the_first_subjects_of_an_ambiguity_are_those_of_all(tmp_path):
    run = Run(tmp_path, command("openai-agents"), ENDED, FINISHED)
    run.sdk = [tool_call(n, f"c{500 - n}") for n in range(120)]
    subjects = ambiguities(run.export(tmp_path))["call_without_end"]
    assert subjects == [f"call:c{n}" for n in range(381, 481)]


def test_nothing_is_left_behind_where_an_export_fails(plain, tmp_path):
    plain.kernel[1]["seq"] = 9
    place = tmp_path / "spool"
    place.mkdir()
    with pytest.raises(IntegrityError):
        plain.export(place)
    assert list(place.iterdir()) == []
