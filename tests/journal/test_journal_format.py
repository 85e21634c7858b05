"""The file itself: what a second implementation may rely on, and that no byte of it can change unnoticed."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from journaling import RUN, failed, intent, keep, log, open_writer, started, succeeded

from interlock.journal import read, scan
from interlock.journal.sealing import BATCH_BYTES_MAX, BATCH_EVENTS_MAX, genesis, seal_digest, seal_line
from interlock.model.errors import IntegrityError, UsageError
from interlock.model.events import ActionIntent, Seal, Unknown


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run of three batches: [0], [1, 2], [3, 4]."""
    path = tmp_path / RUN
    with open_writer(path) as writer:
        for batch in ([started()], [intent("a"), succeeded("a")], [intent("b"), failed("b")]):
            for event in batch:
                writer.append(event)
            writer.flush()
    return path


def events_of(run_dir: Path) -> list[object]:
    """What can be read before an error, if there is one."""
    found: list[object] = []
    with contextlib.suppress(IntegrityError):
        found.extend(read(run_dir))
    return found


def test_the_seals_can_be_recomputed_from_the_description_alone(run_dir: Path):
    genesis = json.dumps({"run": RUN, "version": 2}, separators=(",", ":")).encode()
    prev = "sha256:" + hashlib.sha256(b"interlock.genesis.v1\n" + genesis).hexdigest()
    batch, seals = b"", []
    for line in (run_dir / "journal.ndjson").read_bytes().splitlines(keepends=True):
        fields = json.loads(line)
        if fields["kind"] != "seal":
            batch += line
            continue
        head = f"{prev} {fields['first']} {fields['last']} {len(batch)} {fields['epoch']}\n".encode()
        digest = "sha256:" + hashlib.sha256(b"interlock.seal.v1\n" + head + batch).hexdigest()
        assert fields == {**fields, "prev": prev, "digest": digest, "bytes": len(batch)}
        prev, batch = digest, b""
        seals.append((fields["first"], fields["last"], fields["epoch"]))
    assert seals == [(0, 0, 1), (1, 2, 1), (3, 4, 1)]
    assert scan(run_dir).head.seal == prev


def test_a_journal_of_version_1_is_read_and_continues(run_dir: Path):
    """What differs is the start of the chain, and how redacted values are digested; both can be told apart."""
    batch, prev, out = b"", genesis(RUN, 1), b""
    for line in (run_dir / "journal.ndjson").read_bytes().splitlines(keepends=True):
        if not line.startswith(b'{"kind":"seal"'):
            batch += line
            continue
        seal = msgspec.json.decode(line, type=Seal)
        prev_seal, prev = prev, seal_digest(prev, seal.first, seal.last, seal.epoch, batch)
        out += batch + seal_line(msgspec.structs.replace(seal, prev=prev_seal, digest=prev))
        batch = b""
    (run_dir / "journal.ndjson").write_bytes(out)
    assert scan(run_dir).corruption is None
    assert scan(run_dir).events == 5
    with open_writer(run_dir, create=False) as writer:
        writer.append(log("later"))
    assert len(list(read(run_dir))) == 6


def test_an_event_line_holds_kind_and_seq_and_leaves_absent_fields_out(run_dir: Path):
    lines = [json.loads(line) for line in (run_dir / "journal.ndjson").read_text().splitlines()]
    assert lines[2] == {
        "kind": "action_intent", "seq": 1, "ts": 2, "mono": 2, "proposal": "p", "action": "a", "step": 8, "attempt": 1,
        "tool": "t",
    }  # fmt: skip


def test_what_was_written_is_read_back(run_dir: Path):
    expected = [started(), intent("a"), succeeded("a"), intent("b"), failed("b")]
    for seq, event in enumerate(expected):
        event.seq = seq
    assert list(read(run_dir)) == expected
    assert list(read(run_dir, start=2)) == expected[2:]
    status = scan(run_dir)
    assert (status.events, status.seals, status.torn, status.corruption) == (5, 3, None, None)
    assert not status.refuse_resume


def test_a_journal_cut_at_any_byte_gives_exactly_the_batches_before_the_cut(run_dir: Path):
    path = run_dir / "journal.ndjson"
    data, whole = path.read_bytes(), list(read(run_dir))
    ends = {0: 0}  # offset behind a seal -> events up to there
    offset = count = 0
    for line in data.splitlines(keepends=True):
        offset += len(line)
        if line.startswith(b'{"kind":"seal"'):
            ends[offset] = count
        else:
            count += 1
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        end = max(e for e in ends if e <= cut)
        status = scan(run_dir)
        assert events_of(run_dir) == whole[: ends[end]]
        assert status.corruption is None
        assert (status.torn.offset, status.torn.bytes) == (end, cut - end) if cut != end else status.torn is None


@pytest.mark.parametrize("flip", [0x01, 0x20, 0xFF])
def test_a_journal_with_any_byte_flipped_never_lies(run_dir: Path, flip: int):
    path = run_dir / "journal.ndjson"
    data, whole = path.read_bytes(), list(read(run_dir))
    last_batch = scan(run_dir).bytes - len(b"".join(data.splitlines(keepends=True)[-3:]))
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= flip
        path.write_bytes(damaged)
        status, found = scan(run_dir), events_of(run_dir)
        assert found == whole[: len(found)]  # nothing that was not written
        if position < last_batch:
            # whole batches follow, so this is damage, and it is named: the batch begins at or before the byte
            assert status.corruption is not None
            assert status.corruption.offset <= position
            with pytest.raises(IntegrityError, match=f"damaged at byte {status.corruption.offset}") as caught:
                list(read(run_dir))
            assert caught.value.code == "journal_corrupt"
        else:
            # nothing whole follows: it looks like a writer that died, and is never passed over in silence
            assert status.torn is not None
            assert len(found) == 3
        assert len(found) < len(whole)


def test_a_batch_that_was_removed_from_the_middle_is_corruption(run_dir: Path):
    path = run_dir / "journal.ndjson"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[5:]))
    status = scan(run_dir)
    assert status.corruption is not None
    assert (status.corruption.line, status.events) == (3, 1)
    assert "does not continue" in status.corruption.reason


def test_the_journal_of_another_run_is_not_this_runs(run_dir: Path):
    other = run_dir.with_name("run_other")
    run_dir.rename(other)
    assert scan(other).corruption is not None
    assert events_of(other) == []


def reseal(run_dir: Path, lines: list[bytes]) -> None:
    """Append a batch with a right seal: what someone with the file can always do."""
    head, data = scan(run_dir).head, b"".join(lines)
    first, last = head.seq + 1, head.seq + len(lines)
    digest = seal_digest(head.seal, first, last, head.epoch, data)
    seal = Seal(first=first, last=last, bytes=len(data), epoch=head.epoch, prev=head.seal, digest=digest)
    with (run_dir / "journal.ndjson").open("ab") as file:
        file.write(data + seal_line(seal))


def test_an_unknown_kind_is_shown_and_refuses_to_be_resumed_over(run_dir: Path):
    reseal(run_dir, [b'{"kind":"from_the_future","seq":5,"ts":1,"mono":1,"new":[1]}\n'])
    status = scan(run_dir)
    assert status.unknown_kinds == ("from_the_future",)
    assert status.refuse_resume
    assert list(read(run_dir))[-1] == Unknown(kind="from_the_future", seq=5, fields={"ts": 1, "mono": 1, "new": [1]})


@pytest.mark.parametrize(
    "line",
    [
        b'{"kind":"action_intent","seq":7,"ts":1,"mono":1,"attempt":1,"tool":"t"}\n',  # not its number
        b'{"kind":"action_intent","seq":5}\n',  # not its shape
        b'{"kind":"from_the_future","seq":"x"}\n',
        b'["not an object"]\n',
        b"not JSON\n",
        b'{"kind":"action_log","seq":5,"ts":1,"mono":1,"message":"\xff"}\n',
    ],
)
def test_a_sealed_line_that_interlock_would_not_write_is_refused(run_dir: Path, line: bytes):
    reseal(run_dir, [line])
    with pytest.raises(IntegrityError) as caught:
        list(read(run_dir))
    assert caught.value.code == "journal_corrupt"
    assert caught.value.path.endswith("journal.ndjson:9")


def test_a_field_that_a_later_version_adds_to_a_known_kind_is_ignored(run_dir: Path):
    reseal(run_dir, [b'{"kind":"action_intent","seq":5,"ts":1,"mono":1,"attempt":1,"tool":"t","later":1}\n'])
    assert isinstance(list(read(run_dir))[-1], ActionIntent)


@pytest.mark.parametrize("change", [{"epoch": 3}, {"epoch": 0}, {"first": 4}, {"last": 9}, {"bytes": 1}])
def test_a_seal_whose_own_fields_do_not_fit_is_refused_even_with_the_right_digest(
    run_dir: Path, change: dict[str, int]
):
    head, line = scan(run_dir).head, b'{"kind":"action_log","seq":5,"ts":1,"mono":1,"message":"x"}\n'
    fields = {"first": 5, "last": 5, "bytes": len(line), "epoch": 1, **change}
    digest = seal_digest(head.seal, fields["first"], fields["last"], fields["epoch"], line)
    with (run_dir / "journal.ndjson").open("ab") as file:
        file.write(line + seal_line(Seal(prev=head.seal, digest=digest, **fields)))
    status = scan(run_dir)
    assert status.head == head
    assert status.torn or status.corruption


@given(st.binary(max_size=300))
@settings(max_examples=150, deadline=None)
def test_any_bytes_behind_the_last_seal_are_a_torn_tail(tmp_path_factory: pytest.TempPathFactory, tail: bytes):
    run_dir = tmp_path_factory.mktemp("tail") / RUN
    with open_writer(run_dir) as writer:
        writer.append(started())
    with (run_dir / "journal.ndjson").open("ab") as file:
        file.write(tail)
    status = scan(run_dir)
    assert status.events == 1
    assert (status.torn.bytes if status.torn else 0) == len(tail)
    assert len(list(read(run_dir))) == 1


def test_a_file_that_is_one_endless_line_is_read_in_bounded_memory(tmp_path: Path):
    run_dir = tmp_path / RUN
    with open_writer(run_dir) as writer:
        writer.append(started())
    with (run_dir / "journal.ndjson").open("ab") as file:
        file.truncate(3 * BATCH_BYTES_MAX)  # a hole: zeros, no newline
    assert scan(run_dir).torn.bytes == 3 * BATCH_BYTES_MAX - scan(run_dir).bytes


def test_many_events_at_once_become_several_batches_of_bounded_size(tmp_path: Path):
    run_dir = tmp_path / RUN
    with open_writer(run_dir) as writer:
        for _ in range(2 * BATCH_EVENTS_MAX + 1):
            writer.append(log("x"))
    status = scan(run_dir)
    assert (status.events, status.seals) == (2 * BATCH_EVENTS_MAX + 1, 3)


def test_large_events_are_split_by_size(tmp_path: Path):
    run_dir = tmp_path / RUN
    with open_writer(run_dir) as writer:
        for _ in range(5):
            writer.append(log("x" * (BATCH_BYTES_MAX // 4)))
    status = scan(run_dir)
    assert (status.events, status.torn, status.corruption) == (5, None, None)
    assert status.seals > 1


def test_a_kept_view_is_in_the_line_as_its_canonical_json(tmp_path: Path):
    run_dir = tmp_path / RUN
    with open_writer(run_dir) as writer:
        event = succeeded("a")
        event.output = keep(writer, {"b": 1, "a": ["x", 1.5, None]})
        writer.append(event)
    assert b'"view":{"a":["x",1.5,null],"b":1}' in (run_dir / "journal.ndjson").read_bytes()


def test_a_run_that_is_not_there_is_said_to_be_not_there(tmp_path: Path):
    for call in (lambda: scan(tmp_path / RUN), lambda: list(read(tmp_path / RUN))):
        with pytest.raises(UsageError) as caught:
            call()
        assert caught.value.code == "not_found"
