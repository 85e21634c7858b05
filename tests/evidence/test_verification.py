"""A sound archive is valid, and every kind of damage has its own code."""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile

import pytest
from damage import (
    ATTESTATION,
    CORRELATION,
    EVENTS,
    HEALTH,
    KERNEL,
    MANIFEST,
    POLICY,
    SDK,
    SURFACE,
    attestation,
    codes,
    compress,
    edited,
    header,
    members_of,
    pack,
    rechained,
    resealed,
    tar,
    verdict,
    warnings,
)
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

from interlock.model import events as e
from interlock.model.canonical import canonical
from interlock.signing import Signer
from interlock.verification import container

WHERE = {"proposal": "p", "action": "a", "attempt": 1}
WALLED = {"net": "active", "record": "active"}
SIGNER, FOREIGN = Signer.generate(), Signer.generate()
HEAD_TYPE = "application/vnd.interlock.journal-head.v1+json"


def kernel(**where):
    return kernel_lines(
        {"call": "openat", "path": "/w/in", "access": "read"},
        {"call": "openat", "path": "/w/out", "access": "write", "flags": ["create"]},
        {"call": "execve", "path": "/bin/sh", "real": "/usr/bin/dash", "argv": ["sh"]},
        {"call": "connect", "family": "inet6", "host": "::1", "port": 80},
        **where,
    )


def as_bytes(lines):
    return [json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in lines]


def closed(lines, recorder="rec_1"):
    return e.ActionRecorded(
        proposal="p",
        action="a",
        step=9,
        recorder=recorder,
        calls=4,
        dropped=0,
        refused=0,
        lines=len(lines),
        digest=digest_of(lines),
    )


@pytest.fixture
def run(tmp_path):
    """A run of one recorded action, in two batches."""
    lines = as_bytes(kernel(**WHERE))
    made = Run(tmp_path, decided(), intent(), closed(lines), succeeded(posture=WALLED), FINISHED, seal_each=True)
    made.kernel = lines
    return made


@pytest.fixture
def good(run, tmp_path):
    return run.export(tmp_path, [SIGNER]).data


@pytest.fixture
def members(good):
    return members_of(good)


@pytest.fixture
def agent_run(tmp_path):
    """A measured run in which an agent's SDK has reported."""
    sdk = [tool_call(0, "c1"), tool_call(1, "c1", kind="tool_call_completed"), sdk_line("run_finished", 2)]
    lines = [canonical(line) + b"\n" for line in sdk]
    recorded = e.SdkRecorded(
        shim="openai-agents", hooked=1, writers=1, records=3, dropped=0, rejected=0, digest=digest_of(lines)
    )
    made = Run(tmp_path, command("openai-agents", "notify"), ENDED, recorded, FINISHED)
    made.sdk, made.kernel = lines, kernel()
    return made


def replaced(members, path, old, new):
    assert old in members[path]
    return {**members, path: members[path].replace(old, new, 1)}


# -- what is sound


def test_a_sound_archive_is_valid_and_says_whose_key_signed_it(good):
    found = verdict(good, SIGNER.keyid)
    assert found.valid
    assert (found.run_id, found.events) == (RUN, 6)
    assert [(one.keyid, one.vouched) for one in found.signatures] == [(SIGNER.keyid, True)]
    assert found.layers == {"events": "complete", "kernel": "complete", "policy": "complete", "sdk": "absent"}
    assert found.warnings == ()


def test_a_measured_run_with_an_sdk_is_valid(agent_run, tmp_path):
    archive = agent_run.export(tmp_path, [SIGNER])
    assert verdict(archive.data, SIGNER.keyid).layers["sdk"] == "self_reported"


def test_without_a_key_nobody_is_trusted_and_the_fingerprint_is_named(good):
    (found,) = verdict(good).warnings
    assert found.code == "not_vouched"
    assert SIGNER.keyid in found.message


def test_an_unsigned_archive_is_valid_until_a_signature_is_asked_for(run, tmp_path):
    data = run.export(tmp_path).data
    assert warnings(data) == ["unsigned"]
    assert codes(data) == []
    assert codes(data, require_signature=True) == ["signature_missing"]
    assert codes(data, SIGNER.keyid) == ["signature_missing"]


def test_a_skeleton_is_valid(tmp_path):
    run = Run(tmp_path)
    data = run.export(tmp_path, batches=list, kernel=list, sdk=list, platform="darwin", agent_shim="openai-agents").data
    assert codes(data) == []
    assert verdict(data).notes == ("contract_only_mode", "not_run", "unsupported_platform")


def test_a_run_that_was_redacted_late_is_valid_and_says_that_its_journal_is_unchecked(tmp_path):
    run = Run(
        tmp_path, e.ActionLog(proposal="p", action="a", message="ghp_q7Zk2Lw9Xv4Bn8Rt1Yp6Mc3Hd5Jf0GsAaEuQ"), FINISHED
    )
    data = run.export(tmp_path, [SIGNER]).data
    assert "sealed" in json.loads(members_of(data)[EVENTS].splitlines()[1])
    assert warnings(data, SIGNER.keyid) == ["journal_unchecked"]
    assert codes(data, SIGNER.keyid) == []


# -- the file


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_no_flipped_bit_goes_unnoticed(good):
    tarred = gzip.decompress(good)
    for at in (0, 100, 130, 156, 300, *range(512, len(tarred), 97)):
        changed = flipped(tarred, at)
        assert codes(compress(changed)) != [], at


def test_a_damaged_gzip_stream_is_named(good):
    assert "archive_damaged" in codes(flipped(good, len(good) - 6))  # its checksum
    assert codes(flipped(good, 1)) == ["not_an_archive"]
    assert codes(b"") == ["not_an_archive"]
    assert codes(b"PK\x03\x04" + bytes(100)) == ["not_an_archive"]
    assert codes(compress(b"x" * 2000)) == ["not_an_archive"]
    assert codes(gzip.compress(b"x", mtime=5)) == ["not_an_archive"]


def test_a_file_that_was_cut_off_is_truncated_wherever_it_was_cut(good):
    for end in range(10, len(good), 53):
        assert codes(good[:end]) == ["archive_truncated"], end
    tarred = gzip.decompress(good)
    for end in (512, 5000, len(tarred) - 10240, len(tarred) - 512):
        assert codes(compress(tarred[:end])) == ["archive_truncated"], end


def test_what_follows_the_end_is_trailing_data(good):
    tarred = gzip.decompress(good)
    assert codes(good + b"\0") == ["trailing_data"]
    assert codes(good + good) == ["trailing_data"]
    assert codes(compress(tarred + bytes(10240))) == ["trailing_data"]
    assert codes(compress(tarred[:-1] + b"x")) == ["trailing_data"]


# -- members


def repacked(members, change):
    """An archive whose (header, content) entries a function has changed."""
    entries = [(header(name, len(data)), data) for name, data in members.items()]
    return compress(tar(change(entries)))


def test_an_extra_member_is_named(members):
    extra = (header("evil.txt", 1), b"x")
    assert codes(repacked(members, lambda entries: [*entries, extra])) == ["member_extra"]


@pytest.mark.parametrize("path", container.MEMBERS)
def test_a_missing_member_is_named(members, path):
    data = pack({name: content for name, content in members.items() if name != path})
    assert codes(data) == ["member_missing"]
    assert verdict(data).errors[0].where == path


def test_a_member_twice_is_named(members):
    assert codes(repacked(members, lambda entries: [*entries[:4], entries[3], *entries[4:]])) == ["member_duplicate"]


def test_swapped_members_are_out_of_order(members):
    data = repacked(members, lambda entries: [*entries[:3], entries[4], entries[3], *entries[5:]])
    assert codes(data) == ["member_order"]


def test_swapped_contents_are_found(members):
    swapped = {**members, KERNEL: members[POLICY], POLICY: members[KERNEL]}
    assert {"size_mismatch", "hash_mismatch", "schema_invalid"} <= set(codes(pack(swapped)))


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../up", "layers/../x", "a//b", "./manifest.json", "a\\b", b"a\0b", b"caf\xe9", b""]
)
def test_an_unsafe_path_is_never_a_member(members, name):
    assert codes(repacked(members, lambda entries: [*entries, (header(name, 1), b"x")])) == ["member_unsafe_path"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_link_or_device_is_refused(members, kind):
    def change(entries):
        return [*entries, (header("more", 0, kind=kind, link="/etc/passwd"), b"")]

    assert codes(repacked(members, change)) == ["member_type"]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE])
def test_an_extended_header_is_refused(members, kind):
    def change(entries):
        return [(header("x", 9, kind=kind), b"9 path=a\n"), *entries]

    assert codes(repacked(members, change)) == ["member_type"]


@pytest.mark.parametrize("change", [{"mode": 0o755}, {"mtime": 1}, {"uid": 1000}, {"uname": "root"}])
def test_a_header_that_says_more_than_it_must_is_refused(members, change):
    head = header(EVENTS, len(members[EVENTS]), **change)

    def with_head(entries):
        return [*entries[:3], (head, members[EVENTS]), *entries[4:]]

    assert codes(repacked(members, with_head)) == ["member_header"]


def test_a_size_in_base_256_and_a_wrong_checksum_are_refused(members):
    block = bytearray(header(ATTESTATION, 5))
    block[124:136] = b"\x80" + bytes(10) + b"\x05"
    assert codes(compress(bytes(block) + bytes(10240))) == ["member_header"]
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + sum(block[156:]) + 256)
    assert codes(compress(bytes(block) + bytes(10240))) == ["member_header"]


def test_what_fills_a_block_must_be_zeros(good, members):
    tarred = bytearray(gzip.decompress(good))
    end = 512 + len(members[ATTESTATION])
    assert tarred[end] == 0
    tarred[end] = 1
    assert codes(compress(bytes(tarred))) == ["member_header"]


def test_a_bomb_is_refused_before_it_is_read(members):
    large = header(SURFACE, container.DOCUMENT_BYTES_MAX + 1)
    entries = [(header(ATTESTATION, 2), b"{}")]
    assert codes(compress(tar(entries)[:1024] + large)) == ["archive_too_large"]
    all_of_it = header(EVENTS, 8 * 1024**3 - 1)
    before = tar([(header(name, 2), b"{}") for name in (ATTESTATION, SURFACE, CORRELATION)])[: 3 * 1024]
    assert codes(compress(before + all_of_it)) == ["archive_too_large"]


def test_a_line_without_end_is_refused(members, monkeypatch):
    monkeypatch.setattr(container, "LINE_BYTES_MAX", 2000)
    data = {**members, KERNEL: b'{"kind":"' + b"x" * 4000}
    assert codes(pack(data)) == ["archive_too_large"]


def test_a_bomb_of_defects_ends_the_verification(members):
    for path in (KERNEL, SDK):
        found = verdict(pack({**members, path: b"\n" * 3_000_000})).errors
        assert found[-1].code == "too_many_defects" or found[-2].code == "too_many_defects"
        assert len(found) < 20
    many = [(header(f"{n}", 0), b"") for n in range(11_000)]
    found = verdict(repacked(members, lambda entries: [*entries, *many])).errors
    assert "too_many_defects" in {one.code for one in found}


# -- JSON


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"\n", "json_invalid"),
        (b"[]\n", "json_invalid"),
        (b'{"kind":"call"\n', "json_invalid"),
        (b'{"kind":"call","ts":NaN}\n', "json_invalid"),
        (b'{"kind":"\xff"}\n', "json_invalid"),
        (b'\xef\xbb\xbf{"kind":"call"}\n', "json_invalid"),
        (b'{"kind":"call"}{}\n', "json_invalid"),
        (b'{"a":' + b"[" * 400 + b"]" * 400 + b"}\n", "json_invalid"),
        (b'{"kind":"call","kind":"call"}\n', "json_duplicate_key"),
        (b'{"kind":"call","x":{"a":1,"a":1}}\n', "json_duplicate_key"),
        (b'{"kind":"call"}\n', "schema_invalid"),
        (b'{"kind":7}\n', "schema_invalid"),
        (b"{}\n", "schema_invalid"),
    ],
)
@pytest.mark.parametrize("path", [EVENTS, KERNEL, POLICY, SDK])
def test_a_line_that_is_not_strict_json_of_its_schema_is_named(members, path, line, code):
    changed = {**members, path: members[path] + line}
    found = verdict(resealed(changed, SIGNER))
    assert (code, f"{path}:{changed[path].count(chr(10).encode())}") in {(one.code, one.where) for one in found.errors}


def test_a_last_line_without_its_newline_is_refused(members):
    assert "json_invalid" in codes(resealed({**members, KERNEL: members[KERNEL][:-1]}, SIGNER))


@pytest.mark.parametrize("path", [MANIFEST, HEALTH, SURFACE, CORRELATION, ATTESTATION])
def test_a_document_must_be_canonical_without_a_name_twice_and_of_its_schema(members, path):
    data = members[path]
    spaced = {**members, path: data[:1] + b" " + data[1:]}
    doubled = {**members, path: b'{"schema":"x",' + data[1:].replace(b'{"', b'{"schema":"y","', 1)}
    twice = {**members, path: b'{"zz":1,"zz":1,' + data[1:]}
    more = edited(members, path, lambda document: document.update(zz=1))
    assert "json_invalid" in codes(pack(spaced))
    assert "json_duplicate_key" in codes(pack(twice))
    assert {"json_duplicate_key", "json_invalid"} & set(codes(pack(doubled)))
    assert "schema_invalid" in codes(pack(more))


# -- the manifest


def test_a_changed_member_has_another_hash(members):
    changed = replaced(members, KERNEL, b"/w/in", b"/w/IN")
    assert {"hash_mismatch", "recorder_mismatch", "surface_mismatch"} == set(codes(pack(changed), SIGNER.keyid))


def test_a_manifest_that_names_other_members_is_refused(members):
    for change in (
        lambda document: document["members"].reverse(),
        lambda document: document["members"].pop(),
        lambda document: document["members"].append(document["members"][0]),
        lambda document: document["members"][0].update(media_type="application/x-ndjson"),
        lambda document: document["members"][0].update(path="other.json"),
    ):
        assert "manifest_invalid" in codes(resealed(members, SIGNER, manifest=change))


def test_a_head_that_is_not_where_the_events_end_is_refused(members):
    for field, value in (("seq", 3), ("epoch", 2), ("version", 1), ("seal", "sha256:" + "0" * 64)):
        data = resealed(members, SIGNER, manifest=lambda document: document["journal"].update({field: value}))  # noqa: B023
        assert codes(data, SIGNER.keyid) == ["head_mismatch"]
    data = resealed(members, SIGNER, manifest=lambda document: document.update(view=None))
    assert codes(data, SIGNER.keyid) == ["head_mismatch"]


def test_another_run_s_lines_are_refused(members):
    for path in (EVENTS, KERNEL, POLICY):
        changed = replaced(members, path, RUN.encode(), b"run_other")
        assert "run_id_mismatch" in codes(resealed(changed, SIGNER))
    for path in (HEALTH, SURFACE, CORRELATION):
        changed = edited(members, path, lambda document: document.update(run_id="run_other"))
        assert "run_id_mismatch" in codes(resealed(changed, SIGNER))
    data = resealed(members, SIGNER, manifest=lambda document: document.update(run_id="run_other"))
    assert "run_id_mismatch" in codes(data)


# -- the journal


def without_lines(members, path, unwanted):
    kept = [line for n, line in enumerate(members[path].splitlines(keepends=True)) if n not in unwanted]
    return {**members, path: b"".join(kept)}


def test_an_edited_event_breaks_its_seal_and_its_view(members):
    changed = replaced(members, EVENTS, b'"tool":"shell"', b'"tool":"spell"')
    assert {"seal_mismatch", "view_mismatch"} <= set(codes(resealed(changed, SIGNER)))


def test_an_event_that_is_taken_out_leaves_a_gap(members):
    assert "sequence_gap" in codes(resealed(without_lines(members, EVENTS, {2}), SIGNER))
    assert "sequence_gap" in codes(resealed(without_lines(members, EVENTS, {2, 3}), SIGNER))


def test_events_that_end_before_a_seal_are_refused(members):
    lines = members[EVENTS].count(b"\n")
    assert "seal_mismatch" in codes(resealed(without_lines(members, EVENTS, {lines - 1}), SIGNER))


def test_a_seal_s_numbers_are_part_of_the_chain(members):
    for field, code in (
        ("epoch", "sequence_gap"),
        ("bytes", "seal_mismatch"),
        ("first", "sequence_gap"),
        ("seq", "sequence_gap"),
    ):
        changed = dict(members)
        lines = [json.loads(line) for line in members[EVENTS].splitlines()]
        lines[-1][field] += 5
        changed[EVENTS] = b"".join(as_bytes(lines))
        assert code in codes(resealed(changed, SIGNER))


def test_a_prev_of_another_chain_is_refused(members):
    lines = [json.loads(line) for line in members[EVENTS].splitlines()]
    lines[1]["prev"] = "sha256:" + "0" * 64
    assert "seal_mismatch" in codes(resealed({**members, EVENTS: b"".join(as_bytes(lines))}, SIGNER))


def test_the_chain_holds_across_a_batch_whose_seal_cannot_be_recomputed(tmp_path):
    token = "ghp_q7Zk2Lw9Xv4Bn8Rt1Yp6Mc3Hd5Jf0GsAaEuQ"
    run = Run(tmp_path, e.ActionLog(proposal="p", action="a", message=token), FINISHED, seal_each=True)
    members = members_of(run.export(tmp_path).data)
    lines = [json.loads(line) for line in members[EVENTS].splitlines()]
    redacted = next(number for number, line in enumerate(lines) if "sealed" in line)
    lines[redacted + 1]["prev"] = "sha256:" + "0" * 64
    assert codes(resealed({**members, EVENTS: b"".join(as_bytes(lines))})) == ["seal_mismatch"]


def test_a_batch_is_as_large_as_a_journal_s_may_be(members):
    line = members[EVENTS].splitlines(keepends=True)[0]
    many = b"".join(line.replace(b'"seq":0', b'"seq":%d' % number) for number in range(1025))
    assert codes(pack({**members, EVENTS: many})) == ["archive_too_large"]


def test_what_the_export_puts_in_front_has_its_place(members):
    lines = members[EVENTS].splitlines(keepends=True)
    event = json.loads(lines[0])
    moved = {"run_id": event.pop("run_id"), "schema": event.pop("schema"), **event}
    changed = {**members, EVENTS: b"".join([*as_bytes([moved]), *lines[1:]])}
    assert "schema_invalid" in codes(resealed(changed, SIGNER))
    marked = {**json.loads(lines[0]), "sealed": "hmac-sha256:" + "0" * 64}
    changed = {**members, EVENTS: b"".join([*as_bytes([marked]), *lines[1:]])}
    assert "schema_invalid" in codes(resealed(changed, SIGNER))


def signed_head(**changes):
    def change(document):
        head = {**document["journal"], **changes}
        envelope = json.loads(SIGNER.sign(HEAD_TYPE, canonical(head)))
        document["signed_head"] = envelope

    return change


def test_a_head_that_the_run_signed_binds_the_archive_to_it(members):
    found = verdict(resealed(members, SIGNER, manifest=signed_head()), SIGNER.keyid)
    assert found.valid
    assert found.head_signed_by == SIGNER.keyid
    for changes, code in (
        ({"seq": 50}, "head_truncated"),
        ({"seal": "sha256:" + "0" * 64}, "head_rewritten"),
        ({"epoch": 7}, "head_rewritten"),
        ({"seq": -1}, "head_rewritten"),
        ({"run": "run_other"}, "head_signature"),
    ):
        data = resealed(members, SIGNER, manifest=signed_head(**changes))
        assert codes(data, SIGNER.keyid) == [code]

    def forged(document):
        signed_head()(document)
        document["signed_head"]["signatures"][0]["keyid"] = FOREIGN.keyid

    assert codes(resealed(members, SIGNER, manifest=forged), SIGNER.keyid) == ["head_signature"]


def test_a_history_that_was_written_anew_is_found_by_the_head_that_the_run_signed(run, tmp_path, members):
    """Someone with the archive makes every chain and hash again, with a key of their own, and leaves the signed head."""
    head = canonical(json.loads(members[MANIFEST])["journal"])
    members = members_of(run.export(tmp_path, [SIGNER], signed_head=SIGNER.sign(HEAD_TYPE, head)).data)

    def last_event_off(events):
        events.pop()

    def other_workspace(events):
        events[0]["workspace"] = "/elsewhere"

    changed, manifest = rechained(members, last_event_off)
    assert "head_truncated" in codes(resealed(changed, FOREIGN, manifest=manifest))
    changed, manifest = rechained(members, other_workspace)
    assert codes(resealed(changed, FOREIGN, manifest=manifest)) == ["head_rewritten"]
    assert codes(resealed(changed, FOREIGN, manifest=manifest), SIGNER.keyid) == ["head_rewritten", "signature_foreign"]


# -- layers


def test_a_gap_in_a_layer_is_named(members):
    for path, unwanted in ((KERNEL, {1}), (POLICY, {0})):
        found = codes(resealed(without_lines(members, path, unwanted), SIGNER))
        assert found
        assert "sequence_gap" in found or path == POLICY


def renumbered(lines):
    return [{**line, "seq": number} for number, line in enumerate(lines)]


def test_records_that_a_recorder_did_not_write_are_found(members):
    lines = [json.loads(line) for line in members[KERNEL].splitlines()]
    for changed in (
        [lines[0], *lines[2:]],
        [lines[0], lines[2], lines[1], *lines[3:]],
        [*lines[:2], lines[1], *lines[2:]],
        lines[:-1],
        lines[1:],
        [],
    ):
        data = {**members, KERNEL: b"".join(as_bytes(renumbered(changed)))}
        assert "recorder_mismatch" in codes(resealed(data, SIGNER))


def test_a_recorder_that_the_journal_does_not_know_cannot_stay_unnoticed(members):
    invented = kernel_lines(
        {"call": "execve", "path": "/bin/evil"}, recorder="rec_2", start=members[KERNEL].count(b"\n"), **WHERE
    )
    data = {**members, KERNEL: members[KERNEL] + b"".join(as_bytes(invented))}
    assert set(codes(resealed(data, SIGNER))) == {"health_mismatch", "surface_mismatch", "correlation_mismatch"}
    (found,) = [one for one in verdict(resealed(data, SIGNER)).errors if one.code == "health_mismatch"]
    assert found.where == HEALTH


def test_a_policy_layer_that_says_otherwise_is_found(members):
    changed = replaced(members, POLICY, b'"decision":"allow"', b'"decision":"forbid"')
    assert codes(resealed(changed, SIGNER), SIGNER.keyid) == ["policy_mismatch"]
    assert codes(resealed({**members, POLICY: b""}, SIGNER), SIGNER.keyid) == ["policy_mismatch"]
    assert "policy_mismatch" in codes(resealed({**members, POLICY: members[POLICY] * 2}, SIGNER))


def test_sdk_lines_are_those_that_the_journal_closed(agent_run, tmp_path):
    members = members_of(agent_run.export(tmp_path).data)
    lines = [json.loads(line) for line in members[SDK].splitlines()]

    def with_lines(changed):
        return codes(resealed({**members, SDK: b"".join(canonical(line) + b"\n" for line in changed)}, SIGNER))

    assert with_lines(lines) == []
    assert "sdk_mismatch" in with_lines(lines[:-1])
    assert "sdk_mismatch" in with_lines([{**lines[0], "tool": "other"}, *lines[1:]])
    assert "sequence_gap" in with_lines([lines[0], {**lines[1], "writer_seq": 5}, lines[2]])
    assert "sdk_mismatch" in with_lines([{**lines[0], "ts": 9}, *lines[1:]])
    spaced = members[SDK].replace(b'{"', b'{ "', 1)
    assert "json_invalid" in codes(resealed({**members, SDK: spaced}, SIGNER))


def test_a_line_marked_as_redacted_cannot_be_recomputed_and_the_health_must_say_so(members):
    marked = replaced(members, KERNEL, b'{"kind":"call",', b'{"kind":"call","redacted":true,')
    assert codes(resealed(marked, SIGNER), SIGNER.keyid) == ["health_mismatch"]


# -- contradictions and forged claims


@pytest.mark.parametrize(
    "change",
    [
        lambda events: events[2].update(signal=9),
        lambda events: events[2].update(exit_code=None),
        lambda events: events[2].update(exit_code=1),
        lambda events: events[2].update(success=False),
        lambda events: events.insert(3, {**events[2], "seq": 3}),
        lambda events: events.insert(2, {**events[1], "seq": 2}),
        lambda events: events.pop(1),
        lambda events: events[1].update(recorder="none"),
        lambda events: events[1].update(platform="darwin"),
        lambda events: events[1].update(agent_shim="none"),
    ],
)
def test_evidence_that_contradicts_itself_is_refused(agent_run, tmp_path, change):
    def renumber(events):
        change(events)
        for number, event in enumerate(events):
            event["seq"] = number

    changed, manifest = rechained(members_of(agent_run.export(tmp_path).data), renumber)
    assert "contradiction" in codes(resealed(changed, SIGNER, manifest=manifest))


@pytest.mark.parametrize("change", [{"dropped": 1}, {"refused": 1}, {"lost": True}])
def test_an_end_of_a_recorder_that_is_not_the_layer_s_is_a_contradiction(members, change):
    def forge(events):
        next(event for event in events if event["kind"] == "action_recorded").update(change)

    forged, manifest = rechained(members, forge)
    assert "contradiction" in codes(resealed(forged, manifest=manifest))


@pytest.mark.parametrize("change", [{"handle": "proc-2"}, {"action": "b"}])
def test_a_recorder_of_a_program_that_its_action_did_not_start_is_a_contradiction(tmp_path, change):
    started = e.ProcessStarted(proposal="p", action="a", step=9, handle="proc-1", agent="x", until="run")
    recorded = e.ActionRecorded(
        proposal="p", action="a", step=9, recorder="k", calls=0, dropped=0, refused=0, handle="proc-1"
    )
    run = Run(tmp_path, decided(), intent(), succeeded(), started, recorded, FINISHED)
    members = members_of(run.export(tmp_path).data)

    def forge(events):
        next(event for event in events if event["kind"] == "action_recorded").update(change)

    assert codes(resealed(members)) == []
    forged, manifest = rechained(members, forge)
    assert "contradiction" in codes(resealed(forged, manifest=manifest))


@pytest.mark.parametrize(
    ("path", "change"),
    [
        (HEALTH, lambda d: d["layers"]["sdk"].update(state="self_reported")),
        (HEALTH, lambda d: d["layers"]["kernel"].update(dropped=3)),
        (HEALTH, lambda d: d["layers"]["kernel"].update(records=3)),
        (HEALTH, lambda d: d.update(notes=["kernel_drops"])),
        (HEALTH, lambda d: d.update(cgroup_correlation="partial")),
        (HEALTH, lambda d: d.update(network_coverage="absent")),
        (HEALTH, lambda d: d.update(refused_calls=1)),
        (HEALTH, lambda d: d.update(platform="darwin")),
        (HEALTH, lambda d: d.update(postures=[])),
        (SURFACE, lambda d: d["files_read"]["values"].clear()),
        (SURFACE, lambda d: d["hosts"].update(known="bounded_negative", values=[])),
        (SURFACE, lambda d: d["files_written"].update(grade="outcome")),
        (SURFACE, lambda d: d["tools"].update(complete=False)),
        (SURFACE, lambda d: d["programs"]["values"].append("/bin/zsh")),
        (CORRELATION, lambda d: d.update(state="failed")),
        (CORRELATION, lambda d: d["bindings"].clear()),
        (CORRELATION, lambda d: d["bindings"][0].update(decision="forbid")),
        (
            CORRELATION,
            lambda d: d["ambiguities"].append({"code": "shim_made_call_id", "count": 1, "subjects": ["call:x"]}),
        ),
    ],
)
def test_an_edited_document_is_not_what_follows(members, path, change):
    found = verdict(resealed(edited(members, path, change), SIGNER), SIGNER.keyid)
    name = {HEALTH: "health", SURFACE: "surface", CORRELATION: "correlation"}[path]
    assert [(one.code, one.where) for one in found.errors] == [(f"{name}_mismatch", path)]


def test_the_field_that_was_forged_is_named(members):
    changed = edited(members, HEALTH, lambda d: d["layers"]["kernel"].update(dropped=3))
    (found,) = verdict(resealed(changed, SIGNER)).errors
    assert "`layers.kernel.dropped`" in found.message


# -- signatures


def test_another_key_s_signature_is_foreign_where_a_key_was_given(members):
    data = resealed(members, FOREIGN)
    assert codes(data, SIGNER.keyid) == ["signature_foreign"]
    assert warnings(data) == ["not_vouched"]


def test_of_several_signatures_all_must_be_good_and_every_given_key_must_be_among_them(members):
    both = resealed(members, SIGNER, FOREIGN)
    assert codes(both, SIGNER.keyid) == []
    assert codes(both, SIGNER.keyid, FOREIGN.keyid) == []
    assert [one.vouched for one in verdict(both, FOREIGN.keyid).signatures] == [False, True]
    assert codes(resealed(members, SIGNER), SIGNER.keyid, FOREIGN.keyid) == ["signature_foreign"]

    inside = members_of(both)
    spoilt = edited(inside, ATTESTATION, lambda d: d["signatures"][1].update(sig=d["signatures"][0]["sig"]))
    assert codes(pack(spoilt), SIGNER.keyid) == ["signature_invalid"]
    assert codes(pack(spoilt)) == ["signature_invalid"]


def test_a_spoilt_signature_is_bad_with_and_without_a_key(members):
    def spoil(document):
        sig = bytearray(base64.b64decode(document["signatures"][0]["sig"]))
        sig[5] ^= 1
        document["signatures"][0]["sig"] = base64.b64encode(bytes(sig)).decode()

    data = pack(edited(members, ATTESTATION, spoil))
    assert codes(data) == codes(data, SIGNER.keyid) == ["signature_invalid"]


def test_base64_is_written_in_one_way(members):
    def loose(document):
        sig = document["signatures"][0]["sig"]
        assert sig.endswith("==")
        document["signatures"][0]["sig"] = sig[:-3] + chr(ord(sig[-3]) + 1) + "=="

    assert codes(pack(edited(members, ATTESTATION, loose))) == ["signature_invalid"]


def test_a_sound_envelope_of_another_archive_is_named(members, tmp_path):
    other = Run(tmp_path / "other", FINISHED) if (tmp_path / "other").mkdir() is None else None
    envelope = members_of(other.export(tmp_path, [SIGNER]).data)[ATTESTATION]
    assert codes(pack({**members, ATTESTATION: envelope}), SIGNER.keyid) == ["attestation_other_archive"]


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["subject"].reverse(),
        lambda d: d["subject"].pop(),
        lambda d: d["predicate"].update(view=None),
        lambda d: d["predicate"]["journal"].update(seq=1),
        lambda d: d["subject"][1]["digest"].update(sha256="0" * 64),
    ],
)
def test_a_statement_about_something_else_is_of_another_archive(members, change):
    assert codes(resealed(members, SIGNER, statement=change), SIGNER.keyid) == ["attestation_other_archive"]


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(predicateType="https://slsa.dev/provenance/v1"),
        lambda d: d.update(_type="https://in-toto.io/Statement/v0.1"),
        lambda d: d["subject"][0].update(name="other.json"),
        lambda d: d.update(more=1),
    ],
)
def test_a_statement_of_another_kind_is_refused(members, change):
    assert codes(resealed(members, SIGNER, statement=change), SIGNER.keyid) == ["attestation_invalid"]


@pytest.mark.parametrize("change", [{"payloadType": "text/plain"}, {"payload": "%%%"}, {"payload": "e30="}])
def test_an_envelope_of_something_else_is_refused(members, change):
    data = pack(edited(members, ATTESTATION, lambda d: d.update(change)))
    assert codes(data, SIGNER.keyid) == ["attestation_invalid"]


def test_what_is_signed_twice_differently_does_not_pass_for_the_first(members):
    """The attestation that is checked is the member's: another one appended after it is a second member."""
    envelope = attestation(members[MANIFEST], [FOREIGN])
    data = repacked(members, lambda entries: [*entries, (header(ATTESTATION, len(envelope)), envelope)])
    assert codes(data, FOREIGN.keyid) == ["member_duplicate"]


def test_what_is_read_is_read_once_and_from_anything_that_can_be_read(good):
    class Pipe(io.RawIOBase):
        def __init__(self):
            self.left = io.BytesIO(good)

        def read(self, size=-1):
            return self.left.read(min(size, 7) if size > 10 else size)

    from interlock.verification.verify import verify  # noqa: PLC0415

    assert verify(Pipe(), [SIGNER.keyid]).verdict.valid
