"""Marks of a command line for the eye: in the right places, whatever stands in the text."""

from hypothesis import given
from hypothesis import strategies as st

from interlock.detect.command_marks import mark_command
from interlock.detect.commands import TEXT_CHARS_MAX


def parts(text):
    return [(mark.part, text[mark.start : mark.end]) for mark in mark_command(text)]


def test_programs_redirections_assignments_and_operators():
    assert parts("A=1 git add ü . && tee >o.txt | cat <<X\nhi\nX") == [
        ("assignment", "A=1"), ("program", "git"), ("operator", "&&"), ("program", "tee"), ("redirection", ">o.txt"),
        ("operator", "|"), ("program", "cat"), ("redirection", "<<X\nhi\nX"),
    ]  # fmt: skip


def test_what_is_started_within_a_word_is_marked_too():
    assert parts("echo $(rm x) `ls`") == [
        ("program", "echo"), ("operator", "$("), ("program", "rm"), ("operator", ")"), ("operator", "`"), ("program", "ls"),
        ("operator", "`"),
    ]  # fmt: skip


def test_a_redacted_value_is_a_plain_word():
    text = "curl -H [redacted:jwt:12345678] && ls"
    assert parts(text) == [("program", "curl"), ("operator", "&&"), ("program", "ls")]


def test_a_text_that_is_too_long_is_not_marked():
    assert mark_command("ls;" * TEXT_CHARS_MAX) == []


@given(st.text(alphabet="ab é🙂'\"$(){}|&;<>=\n\\\ud800", max_size=60))
def test_any_text_can_be_marked(text):
    for mark in mark_command(text):
        assert 0 <= mark.start < mark.end <= len(text)
