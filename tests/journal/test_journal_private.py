"""Originals: found by digest, verified, gone when they should be."""

from __future__ import annotations

from pathlib import Path

import pytest
from journaling import RUN, keep, log, open_writer

from interlock.disk import Disk
from interlock.journal import delete_private, private, read, read_private
from interlock.model.canonical import canonical
from interlock.model.errors import IntegrityError, StoreError

VALUES = ["first", {"nested": ["\n", "{}"]}, "x" * 100_000, "first", None]


@pytest.fixture
def kept(tmp_path: Path) -> dict[str, bytes]:
    """Digest to bytes of originals that two writers kept."""
    found = {}
    for create in (True, False):
        with open_writer(tmp_path / RUN, create=create) as writer:
            for value in VALUES:
                shown = keep(writer, [create, value], "***")
                found[shown.digest] = canonical([create, value])
            writer.append(log("x"))
    return found


def test_every_original_is_found_by_its_digest(tmp_path: Path, kept: dict[str, bytes]):
    assert len(kept) == 8
    for digest, data in kept.items():
        assert read_private(tmp_path / RUN, digest) == data
    assert read_private(tmp_path / RUN, "sha256:" + "0" * 64) is None


def test_a_value_kept_twice_before_a_flush_is_stored_once(tmp_path: Path):
    with open_writer(tmp_path / RUN) as writer:
        for _ in range(10):
            keep(writer, "same", "***")
    assert (tmp_path / RUN / "private" / "originals-0001.pack").read_bytes().count(b"same") == 1


def test_deleting_the_originals_leaves_the_journal_whole(tmp_path: Path, kept: dict[str, bytes]):
    delete_private(tmp_path / RUN, Disk())
    delete_private(tmp_path / RUN, Disk())
    assert not (tmp_path / RUN / "private").exists()
    assert read_private(tmp_path / RUN, next(iter(kept))) is None
    assert len(list(read(tmp_path / RUN))) == 2


def test_a_pack_with_any_byte_changed_or_cut_never_gives_a_wrong_original(tmp_path: Path):
    with open_writer(tmp_path / RUN) as writer:
        digests = {keep(writer, value, "***").digest: canonical(value) for value in ("one", "two")}
    path = tmp_path / RUN / "private" / "originals-0001.pack"
    data = path.read_bytes()
    changed = [data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :] for position in range(len(data))]
    for damaged in [*changed, *(data[:position] for position in range(len(data)))]:
        path.write_bytes(damaged)
        answers = []
        for digest, original in digests.items():
            try:
                answers.append(read_private(tmp_path / RUN, digest))
            except IntegrityError as error:
                answers.append(error.code)
            assert answers[-1] in (original, "private_damaged", None)
        assert answers != list(digests.values())
        if damaged in changed:
            assert "private_damaged" in answers


def test_many_are_looked_up_in_one_pass(tmp_path: Path, kept: dict[str, bytes], monkeypatch: pytest.MonkeyPatch):
    """One pass for each would take hours for a run with 100,000 secrets in its parameters."""
    passes = []
    real = private._records
    monkeypatch.setattr(private, "_records", lambda path: passes.append(path) or real(path))
    originals = private.Originals(tmp_path / RUN)
    assert {digest: originals.get(digest) for digest in kept} == kept
    assert originals.get("sha256:" + "0" * 64) is None
    assert len(passes) == 2, "there are two packs"


def test_what_is_written_while_it_is_read_is_found_too(tmp_path: Path):
    originals = private.Originals(tmp_path / RUN)
    with open_writer(tmp_path / RUN) as writer:
        for value in VALUES:
            digest = keep(writer, [value, "x"], "***").digest
            writer.flush()
            assert originals.get(digest) == canonical([value, "x"])


def test_a_pack_that_could_not_be_read_is_looked_at_again(tmp_path: Path, kept: dict[str, bytes], monkeypatch):
    def refused(path: Path):
        raise StoreError(f"read {path}: Input/output error")

    originals = private.Originals(tmp_path / RUN)
    digest, data = next(iter(kept.items()))
    monkeypatch.setattr(private, "_records", refused)
    for _ in range(2):
        with pytest.raises(StoreError):  # and not: it is not there any more
            originals.get(digest)
    monkeypatch.undo()
    assert originals.get(digest) == data
