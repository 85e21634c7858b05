"""The difference of a file before and after, as a question shows it: exact, redacted, and of the file that is approved."""

import asyncio
import json

import pytest
from engine_world import TOML, call, execute, statuses

from interlock.approvals import Approver
from interlock.approvals.hold import ANY_GROUP
from interlock.executors.file_previews import PREVIEW_BYTES_MAX

ME = Approver(id="me", display="Me", groups=(ANY_GROUP,))
TOKEN = "gh" + "p_" + "aB3dE5gH7jK9mN1pQ3sT5vX7zA9cD1eF3gH5"


@pytest.fixture
def asking(new_project):
    return new_project(toml=TOML % 'ask = ["fs.*"]\n')


@pytest.fixture
def ask(asking):
    """Asks about one call that nobody waits for; returns what the question shows of files."""

    def ask(tool, **parameters):
        rt = asking.open()
        rt.services.desk.wait = False
        execute(rt, call(tool, parameters=parameters))
        hold = rt.services.desk.store.list_holds("pending")[-1]
        assert len(hold.changes) == 1
        return hold.changes[0]

    ask.root = asking.root
    return ask


def test_a_new_file_is_shown_as_added(ask):
    change = ask("fs.write", path="d/a.txt", content="one\ntwo\n")
    assert change.lines == ("@@ -0,0 +1,2 @@", "+one", "+two")
    assert (change.path, change.before, change.after, change.added, change.removed) == ("d/a.txt", False, True, 2, 0)


def test_a_replaced_an_appended_and_an_edited_file(ask):
    (ask.root / "a.txt").write_text("one\ntwo\n")
    assert ask("fs.write", path="a.txt", content="one\n2\n").lines == ("@@ -1,2 +1,2 @@", " one", "-two", "+2")
    assert ask("fs.write", path="a.txt", content="three\n", append=True).lines[-1] == "+three"
    assert ask("fs.edit", path="a.txt", old="two", new="2").lines == ("@@ -1,2 +1,2 @@", " one", "-two", "+2")


def test_line_ends_and_marks_are_those_that_will_be_written(ask):
    (ask.root / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    change = ask("fs.edit", path="a.txt", old="two\n", new="2\nthree\n")
    assert change.lines == ("@@ -1,2 +1,3 @@", " \ufeffone\r", "-two\r", "+2\r", "+three\r")


def test_different_bytes_never_look_alike(ask):
    (ask.root / "a.txt").write_text("é\n")  # UTF-8
    change = ask("fs.write", path="a.txt", content="é\n", encoding="latin-1")
    assert change.lines == ("@@ -1 +1 @@", "-Ã©", "+é")
    same = ask("fs.write", path="a.txt", content="é\n")
    assert (same.lines, same.note) == ((), "the content stays as it is")


def test_a_deleted_file_a_directory_and_a_link(ask):
    (ask.root / "a.txt").write_text("one\n")
    change = ask("fs.delete", path="a.txt")
    assert (change.lines, change.after) == (("@@ -1 +0,0 @@", "-one"), False)
    (ask.root / "d" / "e").mkdir(parents=True)
    (ask.root / "d" / "f").write_text("x")
    assert ask("fs.delete", path="d", recursive=True).note == "a directory, with 2 files, links and directories in it"
    (ask.root / "l").symlink_to("a.txt")
    assert ask("fs.delete", path="l").note == "a link; its target is kept"


def test_what_is_not_text_or_too_large_is_said_to_be(ask):
    (ask.root / "b").write_bytes(b"\xff\xfe\xff")
    assert ask("fs.write", path="b", content="x").note == "not text in utf-16-le (3 before and 4 bytes after)"
    (ask.root / "c").write_bytes(b"\x80\n")
    assert ask("fs.write", path="c", content="x").note == "not text in utf-8 (2 before and 1 bytes after)"
    (ask.root / "d").write_bytes(b"x" * (PREVIEW_BYTES_MAX + 1))
    assert ask("fs.edit", path="d", old="x", new="y").note == "too large to compare (over 1024 KiB)"


def test_a_call_that_would_fail_is_said_to_fail(ask):
    (ask.root / "a.txt").write_text("one\n")
    assert ask("fs.edit", path="a.txt", old="two", new="2").note.startswith("the call would fail: `old` occurs 0 times")


def test_secrets_of_the_file_are_hidden_and_their_change_is_seen(ask, asking):
    (ask.root / "env").write_text(f"A=1\nGITHUB_TOKEN={TOKEN}\n")
    change = ask("fs.write", path="env", content=f"A=2\nGITHUB_TOKEN={TOKEN[::-1]}\n")
    assert TOKEN not in repr(change)
    assert [line[:1] for line in change.lines] == ["@", "-", "-", "+", "+"]
    for file in asking.state.rglob("interlock.db*"):
        assert TOKEN.encode() not in file.read_bytes()


def test_after_an_edit_the_difference_is_gone(asking):
    rt = asking.open()
    rt.services.desk.wait = False
    execute(rt, call("fs.write", parameters={"path": "a", "content": "1"}))
    store = rt.services.desk.store
    (hold,) = store.list_holds("pending")
    assert store.vote(hold.id, ME, "cli", "edit", digest=hold.digest, patch={"content": "2"}).hold.changes == ()
    assert store.get(hold.id).changes == ()


def test_a_file_that_changes_meanwhile_is_asked_about_with_its_new_difference(asking):
    rt = asking.open()
    (asking.root / "a").write_text("old\n")
    seen = []

    def told(hold):
        seen.append(hold.changes[0].lines)
        if len(seen) == 1:
            (asking.root / "a").write_text("other\n")
        rt.services.desk.store.vote(hold.id, ME, "cli", "approve", digest=hold.digest)

    rt.services.desk.listeners.append(told)
    result = execute(rt, call("fs.write", "w", parameters={"path": "a", "content": "new\n"}))
    assert statuses(result) == ["succeeded"]
    assert [lines[1:] for lines in seen] == [("-old", "+new"), ("-other", "+new")]
    assert (asking.root / "a").read_text() == "new\n"


def test_python_gets_the_difference_as_data_and_notifiers_do_not(asking):
    class Told:
        name = "told"

        def __init__(self):
            self.holds = []

        def notify(self, hold, timeout_s):
            self.holds.append(hold)

    rt, told = asking.open(), Told()
    rt.services.desk.notify_through([told])
    questions = []

    async def on_question(hold):
        questions.append(hold)
        return False

    asyncio.run(
        rt.execute(
            {"actions": [{"type": "tool_call", "tool": "fs.write", "parameters": {"path": "a", "content": "x\n"}}]},
            on_question=on_question,
        )
    )
    rt.services.desk.close()
    (change,) = questions[0].changes
    assert change.lines == ("@@ -0,0 +1 @@", "+x")
    assert [hold.changes for hold in told.holds] == [()]
    assert json.loads(json.dumps(change.lines)) == list(change.lines)
