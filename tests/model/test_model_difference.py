"""Differences of texts: exact (git applies them), short, and bounded in time whatever the texts are."""

import itertools
import subprocess

from hypothesis import example, given, settings
from hypothesis import strategies as st

from interlock.model import difference
from interlock.model.difference import NO_NEWLINE, compare

lines = st.lists(st.sampled_from(["a\n", "b\n", "c\r\n", "\n", "\x0b\u2028d\n"]), max_size=25)
texts = st.tuples(lines, st.sampled_from(["", "end"])).map(lambda parts: "".join(parts[0]) + parts[1])


def apply(before, found):
    """The text after the difference, worked out from its lines alone: what a reader does."""
    old, new, at = difference._lines(before), [], 0
    for line, following in itertools.pairwise([*found.lines, ""]):
        text = line[1:] + ("" if following == NO_NEWLINE else "\n")
        if line.startswith("@@"):
            start, _, count = line.split()[1][1:].partition(",")
            first = int(start) - (count != "0")
            new += old[at:first]
            at = first
        elif line.startswith((" ", "-")):
            assert old[at] == text
            new += [text] * (line[0] == " ")
            at += 1
        elif line.startswith("+"):
            new.append(text)
    return "".join([*new, *old[at:]])


@settings(max_examples=300, deadline=None)
@given(texts, texts)
@example("", "a")
@example("a", "a\n")
@example("a\nb\n" * 20, "b\na\n" * 20)
def test_a_difference_says_exactly_what_changes(before, after):
    found = compare(before, after)
    assert bool(found.lines) == (before != after)
    assert apply(before, found) == after
    assert found.added - found.removed == len(difference._lines(after)) - len(difference._lines(before))


def test_git_applies_it(tmp_path):
    before = "".join(f"line {n}\n" for n in range(60))
    after = before.replace("line 3\n", "").replace("line 30\n", "line thirty\nand more\n") + "no end"
    found = compare(before, after)
    (tmp_path / "f").write_text(before)
    (tmp_path / "p").write_text("\n".join(["--- f", "+++ f", *found.lines, ""]))
    subprocess.run(["git", "apply", "-p0", "p"], cwd=tmp_path, check=True)
    assert (tmp_path / "f").read_text() == after
    assert (found.added, found.removed) == (3, 2)


def test_the_end_of_the_last_line_and_a_carriage_return_are_differences():
    assert compare("a\n", "a").lines == ("@@ -1 +1 @@", "-a", "+a", NO_NEWLINE)
    assert compare("a\r\n", "a\n").lines == ("@@ -1 +1 @@", "-a\r", "+a")


def test_what_differs_in_too_many_lines_is_shown_as_replaced():
    before, after = ("".join(f"{letter}{n}\n" for n in range(5_000)) for letter in "ab")
    found = compare(f"same\n{before}same\n", f"same\n{after}same\n")
    assert (found.added, found.removed, len(found.lines)) == (5_000, 5_000, 10_003)


def test_hostile_texts_take_a_bounded_number_of_steps(monkeypatch):
    # Many equal lines are the worst case of the usual algorithms.
    steps = 0

    class Line(str):
        __slots__ = ()

        def __eq__(self, other):
            nonlocal steps
            steps += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    one = [Line("ab"[n % 2] + "\n") for n in range(20_000)]
    other = [Line("ab"[n % 3 % 2] + "\n") for n in range(20_000)]
    difference._changes(one, other)
    assert steps < 30 * (difference.EDITS_MAX**2 + len(one))
