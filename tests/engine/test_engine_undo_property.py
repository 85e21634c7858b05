"""Whatever a person and a run did to a working tree and its index: undo and rollback lose nothing of the person's."""

from __future__ import annotations

import tempfile
from pathlib import Path

import engine_world
import pytest
import undo_story
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from undo_story import PATHS, Story

paths = st.sampled_from(PATHS)
person = st.lists(
    st.tuples(st.sampled_from(undo_story.ON_PATHS), paths)
    | st.tuples(st.sampled_from(undo_story.ALONE), st.just("a.txt")),
    max_size=5,
)
quiet = st.just([]) | person
run = st.lists(
    st.tuples(st.sampled_from(undo_story.RUN), paths) | st.tuples(st.just("person"), person), min_size=1, max_size=5
)


@pytest.mark.timeout(300)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(before=person, steps=run, after=quiet, rollback=st.booleans())
@example(
    before=[("write", "mine.txt"), ("half stage", "a.txt")],
    steps=[("git.add", "mine.txt"), ("git.commit", "."), ("git.add .", ".")],
    after=[],
    rollback=False,
)
@example(
    before=[("write", "mine.txt")],
    steps=[("git.add", "mine.txt"), ("git.commit", ".")],
    after=[("write", "mine.txt"), ("commit -a", "."), ("other branch", ".")],
    rollback=True,
)
@example(
    before=[("write", "mine.txt")],
    steps=[("git.add", "mine.txt"), ("git.commit", ".")],
    after=[("write", "mine.txt")],
    rollback=False,
)
@example(
    before=[("write", "mine.txt")],
    steps=[
        ("fs.write", "mine.txt"),
        ("shell format", "mine.txt"),
        ("person", [("write", "mine.txt")]),
        ("shell format", "mine.txt"),
    ],
    after=[],
    rollback=True,
)
@example(
    before=[],
    steps=[
        ("fs.write", "d/x.txt"),
        ("shell beside", "d/x.txt"),
        ("shell make", "d/x.txt"),
        ("person", [("write", "d/mine.txt")]),
    ],
    after=[],
    rollback=False,
)
def test_nothing_that_a_person_made_is_lost(before, steps, after, rollback):
    with tempfile.TemporaryDirectory() as directory:
        story = Story(engine_world.Project(Path(directory)))
        first, result, last = story.play(before, steps, after, rollback=rollback)
        there = story.visible()
        assert story.before_undo <= there, "the undo itself took something away"
        if not undo_story.listed(result):
            assert story.seen <= there, "the run took something away, and no undo gave it back or listed it"
            if story.alone:
                assert last == first
