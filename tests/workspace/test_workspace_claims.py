"""What writers claim of a workspace, and whether two claims overlap."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.workspace import EVERYTHING, NOTHING, Claim, Workspace, claimed_by_writing

NAMES = st.sampled_from([b"a", b"b", b"c\xff"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(tuple)
CLAIMS = st.frozensets(PATHS, max_size=5).map(Claim.of) | st.just(EVERYTHING)
ALL = [()] + [(a,) for a in (b"a", b"b", b"c\xff")]
ALL += [(*one, name) for one in ALL[1:] for name in (b"a", b"b", b"c\xff")]
ALL += [(*one, name) for one in ALL if len(one) == 2 for name in (b"a", b"b", b"c\xff")]
ALL += [(*one, name) for one in ALL if len(one) == 3 for name in (b"a", b"b", b"c\xff")]


def beneath(claim):
    """Every path of the little world that the claim lets its holder write."""
    if claim.paths is None:
        return set(ALL)
    return {path for path in ALL for root in claim.paths if path[: len(root)] == root}


@given(CLAIMS, CLAIMS)
def test_claims_overlap_if_some_path_lies_beneath_both(one, other):
    assert one.overlaps(other) == bool(beneath(one) & beneath(other))
    assert one.overlaps(other) == other.overlaps(one)
    assert one.covers(other) == (beneath(other) <= beneath(one))


@given(CLAIMS, CLAIMS, CLAIMS)
def test_what_overlaps_a_part_overlaps_the_whole(one, other, third):
    joined = one.joined(other)
    assert joined.covers(one)
    assert joined.covers(other)
    assert joined.overlaps(third) == (one.overlaps(third) or other.overlaps(third))


@given(CLAIMS)
def test_a_claim_survives_the_database(claim):
    assert Claim.decode(claim.encode()) == claim


@pytest.mark.parametrize("text", ["", "{}", "[1]", '["a/../b"]', "nul"])
def test_a_claim_that_cannot_be_read_is_of_everything(text):
    assert Claim.decode(text) == EVERYTHING


def test_many_paths_are_everything():
    assert Claim.of([(b"%d" % i,) for i in range(101)]) == EVERYTHING
    assert Claim.of([()]) == EVERYTHING
    assert not NOTHING.overlaps(EVERYTHING)


@pytest.fixture
def workspace(tmp_path):
    with Workspace(tmp_path) as opened:
        yield opened


def rel(text):
    return tuple(text.encode().split(b"/"))


def test_who_makes_a_file_makes_its_directories(workspace):
    (workspace.root / "there").mkdir()
    assert claimed_by_writing(workspace, rel("there/new/deep/file")) == {rel("there/new")}
    assert claimed_by_writing(workspace, rel("there/file")) == {rel("there/file")}
    assert claimed_by_writing(workspace, rel("new")) == {rel("new")}


def test_a_link_is_claimed_with_where_it_leads(workspace):
    """Else another writer could lead the change elsewhere, in between."""
    (workspace.root / "real").mkdir()
    os.symlink("real", workspace.root / "mid")
    os.symlink("mid", workspace.root / "link")
    found = claimed_by_writing(workspace, rel("link/file"))
    assert found == {rel("link/file"), rel("real/file"), rel("link"), rel("mid")}
    os.symlink("real/file", workspace.root / "name")
    assert claimed_by_writing(workspace, rel("name")) == {rel("name"), rel("real/file")}


def test_a_link_that_leads_out_is_claimed_as_it_is_written(workspace):
    os.symlink("/etc", workspace.root / "out")
    assert claimed_by_writing(workspace, rel("out/passwd")) == {rel("out/passwd"), rel("out")}
