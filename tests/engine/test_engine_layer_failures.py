"""A commit that fails, or that a crash cuts: what is in the workspace is known, and why the rest waits is said everywhere."""

import asyncio
import errno
import os

import pytest
from engine_world import TOML, beside, call, execute

import interlock.engine.completion.layers as layers_module
from interlock.disk import Disk, store_error
from interlock.journal import read as read_journal
from interlock.model.errors import ConflictError, StoreError
from interlock.model.events import LayerKept
from interlock.workspace.effects import aside_name

LAYER = '[workspace]\nmode = "layer"\n'


@pytest.fixture
def project(new_project):
    made = new_project(toml=TOML % "" + LAYER)
    for name in "abcd":
        (made.root / name).write_text("original\n")
    return made


def shell(command):
    return call("shell", "sh", parameters={"command": command})


ALL = shell("for name in a b c d; do echo agent > $name; done")


def content(root):
    return {path.name: path.read_text() for path in root.iterdir() if path.name in "abcd" or ".tmp" in path.name}


UNCHANGED = dict.fromkeys("abcd", "original\n")


@pytest.fixture
def full(monkeypatch):
    """The workspace's file system is full from the third file of a commit on; what was changed before can be changed back."""
    left = 2
    real = Disk.write
    commit = layers_module.room.commit_layer

    def write(self, fd, data):
        nonlocal left
        if bytes(data) == b"agent\n":
            left -= 1
            if left < 0:
                error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                raise store_error(error, "write") from error
        real(self, fd, data)

    def commit_full(*arguments, **options):
        with monkeypatch.context() as here:
            here.setattr(Disk, "write", write)
            return commit(*arguments, **options)

    monkeypatch.setattr(layers_module.room, "commit_layer", commit_full)


@pytest.mark.usefixtures("full")
def test_a_commit_on_a_full_disk_is_undone_and_says_so_in_result_journal_and_runs_show(project):
    rt = project.open()
    result = execute(rt, ALL)
    assert result.status == "failed"
    assert content(project.root) == UNCHANGED
    shown = rt.runs.results(result.run_id)[0]
    for one in (result, shown):
        assert one["sh"].status == "succeeded"
        assert one["sh"].reason == "workspace_full"
        assert one.workspace.reason == "workspace_full"
        assert one.workspace.status == "kept"
        assert one.workspace.changes == 4
        assert "at `b`" in one.workspace.detail
        assert "no space left" in one.workspace.detail
        assert one.workspace.not_restored == {}
    (kept,) = [event for event in read_journal(project.home / "runs" / result.run_id) if isinstance(event, LayerKept)]
    assert (kept.why, kept.reason) == ("failed", "workspace_full")
    report = asyncio.run(rt.runs.commit(result.run_id))
    assert sorted(report.committed) == list("abcd")
    assert rt.runs.results(result.run_id)[0].workspace.status == "committed"


def test_a_conflict_is_explained_in_the_rows_and_in_the_run_as_it_is_shown_later(project):
    async def edit(parameters, ctx):
        (project.root / "a").write_text("person\n")

    rt = project.open(beside("edit", edit))
    result = execute(rt, ALL, call("edit", "edit", dependencies=["sh"]))
    for one in (result, rt.runs.results(result.run_id)[0]):
        assert one.status == "failed"
        assert one.workspace.reason == one["sh"].reason == "workspace_conflict"
        assert "`a` changed outside the layer" in one.workspace.detail
        assert one.workspace.changes == 3
    assert content(project.root) == UNCHANGED | {"a": "person\n"}


KILLED_AT_THE_THIRD_FILE = """
    from interlock.disk import Disk
    left = 3

    def swap(self, *arguments, real=Disk.swap_at):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), 9)
        return real(self, *arguments)
"""
CUT = f"""{KILLED_AT_THE_THIRD_FILE}
    from interlock.engine.completion.layers import room as layers

    def commit(*arguments, real=layers.commit_layer, **options):
        Disk.swap_at = swap
        return real(*arguments, **options)

    layers.commit_layer = commit
    rt = project.open()
    command = "for name in a b c d; do echo agent > $name; done"
    execute(rt, call("shell", "sh", parameters={{"command": command}}))
"""


@pytest.fixture
def cut(project):
    """A run that was killed in its commit: two of four files are committed, and the third's temporary file is there."""
    child = project.script(CUT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == -9, errors
    assert sorted(content(project.root).values()) == ["agent\n"] * 3 + ["original\n"] * 2
    return project


def test_resume_after_an_edit_takes_the_cut_commit_back_and_names_the_edit(cut):
    committed = next(name for name in "abcd" if (cut.root / name).read_text() == "agent\n")
    (cut.root / committed).write_text("person\n")
    rt = cut.open()
    (result,) = asyncio.run(rt.runs.resume(cut.runs()[0]))
    assert content(cut.root) == UNCHANGED | {committed: "person\n"}
    assert result.status == "failed"
    for one in (result, rt.runs.results(result.run_id)[0]):
        assert one.workspace.reason == "workspace_conflict"
        assert f"`{committed}`" in one.workspace.detail
        assert one.workspace.not_restored == {committed: "someone else has changed it since"}
        assert one["sh"].reason == "workspace_conflict"
    report = rt.runs.discard(result.run_id)
    assert report.in_workspace == 0  # what the person has edited since is theirs


def test_undo_of_a_cut_commit_knows_its_own_temporary_file(cut):
    rt = cut.open()
    result = asyncio.run(rt.runs.undo(cut.runs()[0]))
    assert result.ok, result.results
    assert content(cut.root) == UNCHANGED


def test_recovery_leaves_no_temporary_file_and_puts_back_what_a_person_saved_at_that_moment(cut):
    (temporary,) = cut.root.glob(".interlock-*.tmp")
    committed = [name for name in "abcd" if (cut.root / name).read_text() == "agent\n"]
    waiting = min({*"abcd"} - {*committed})
    aside = cut.root / os.fsdecode(aside_name(waiting.encode()))
    (cut.root / waiting).rename(aside)  # as if the commit was killed while it removed the file, saved in between
    aside.write_text("person\n")
    (unfinished,) = cut.open().runs.recover()
    assert unfinished.need in ("resume", "settle")
    assert not temporary.exists()
    assert content(cut.root) == UNCHANGED | dict.fromkeys(committed, "agent\n") | {waiting: "person\n"}


CUT_DIRECTORY = """
    from interlock.engine.completion.layers import room as layers
    from interlock.disk import Disk

    def rename(self, source, name, *arguments, real=Disk.rename_at, **options):
        if name.startswith(b".interlock-run_"):
            os.kill(os.getpid(), 9)
        return real(self, source, name, *arguments, **options)

    def commit(*arguments, real=layers.commit_layer, **options):
        Disk.rename_at = rename
        return real(*arguments, **options)

    layers.commit_layer = commit
    rt = project.open()
    execute(rt, call("shell", "sh", parameters={"command": "mkdir made; echo agent > made/new"}))
"""


def test_a_temporary_file_in_a_directory_that_undo_removes_is_not_someone_elses(project):
    rt = project.open()
    rt.runs.recover()  # so that this runtime learns of the cut commit by the undo alone
    child = project.script(CUT_DIRECTORY)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == -9, errors
    assert [path.suffix for path in (project.root / "made").iterdir()] == [".tmp"]
    result = asyncio.run(rt.runs.undo(project.runs()[0]))
    assert result.ok, result.results
    assert not (project.root / "made").exists()


def test_undo_names_only_what_someone_else_has_changed(cut):
    committed = next(name for name in "abcd" if (cut.root / name).read_text() == "agent\n")
    (cut.root / committed).write_text("person\n")
    rt = cut.open()
    result = asyncio.run(rt.runs.undo(cut.runs()[0]))
    assert result["undo"].reason == "undo_conflict"
    assert f"`{committed}`" in result["undo"].error
    assert ".tmp" not in result["undo"].error


def test_a_discard_reports_how_many_paths_are_committed_already(new_project):
    project = new_project(toml=TOML % "" + LAYER + 'commit = "never"\n')
    for name in "abcd":
        (project.root / name).write_text("original\n")
    rt = project.open()
    run_id = execute(rt, ALL).run_id
    asyncio.run(rt.runs.commit(run_id, ["a", "b"]))
    assert rt.runs.results(run_id)[0].workspace.status == "kept"
    assert rt.runs.discard(run_id).in_workspace == 2


def test_a_commit_by_a_person_that_fails_is_undone_and_says_why(new_project, monkeypatch):
    project = new_project(toml=TOML % "" + LAYER + 'commit = "never"\n')
    for name in "abcd":
        (project.root / name).write_text("original\n")
    rt = project.open()
    run_id = execute(rt, ALL).run_id
    real, left = Disk.swap_at, [2]

    def swap(self, *arguments):
        left[0] -= 1
        if left[0] < 0:
            error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left[0] = 1_000
            raise store_error(error, "swap") from error
        return real(self, *arguments)

    monkeypatch.setattr(Disk, "swap_at", swap)
    with pytest.raises(ConflictError, match=r"stopped at `b`: .* no space left") as caught:
        asyncio.run(rt.runs.commit(run_id))
    assert caught.value.code == "workspace_full"
    assert content(project.root) == UNCHANGED
    shown = rt.runs.results(run_id)[0]
    assert shown.workspace.reason == "workspace_full"
    asyncio.run(rt.runs.commit(run_id))
    assert content(project.root) == dict.fromkeys("abcd", "agent\n")


CUT_OF_KEPT = f"""{KILLED_AT_THE_THIRD_FILE}
    Disk.swap_at = swap
    rt = project.open()
    asyncio.run(rt.runs.commit(project.runs()[0]))
"""


def test_recovery_removes_the_temporary_file_of_a_killed_commit_of_a_run_that_has_ended(new_project):
    project = new_project(toml=TOML % "" + LAYER + 'commit = "never"\n')
    for name in "abcd":
        (project.root / name).write_text("original\n")
    rt = project.open()
    execute(rt, ALL)
    child = project.script(CUT_OF_KEPT)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == -9, errors
    (temporary,) = project.root.glob(".interlock-*.tmp")
    committed = [name for name in "abcd" if (project.root / name).read_text() == "agent\n"]
    assert not rt.runs.recover()
    assert not temporary.exists()
    assert content(project.root) == UNCHANGED | dict.fromkeys(committed, "agent\n")
    report = asyncio.run(rt.runs.commit(project.runs()[0]))
    assert report.left == 0
    assert content(project.root) == dict.fromkeys("abcd", "agent\n")


def test_after_a_commit_of_some_paths_the_run_shows_how_many_changes_wait(new_project, monkeypatch):
    project = new_project(toml=TOML % "" + LAYER + 'commit = "never"\n')
    for name in "abcd":
        (project.root / name).write_text("original\n")
    rt = project.open()
    result = execute(rt, ALL)
    asyncio.run(rt.runs.commit(result.run_id, ["a"]))
    assert rt.runs.results(result.run_id)[0].workspace.changes == 3

    def full(self, fd, data, real=Disk.write):
        if bytes(data) == b"agent\n":
            error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise store_error(error, "write") from error
        real(self, fd, data)

    with monkeypatch.context() as here:
        here.setattr(Disk, "write", full)
        with pytest.raises(ConflictError):
            asyncio.run(rt.runs.commit(result.run_id, ["b"]))
    waits = rt.runs.results(result.run_id)[0].workspace
    assert (waits.changes, waits.reason) == (3, "workspace_full")
    asyncio.run(rt.runs.commit(result.run_id, ["b"]))
    assert rt.runs.results(result.run_id)[0].workspace.changes == 2


def test_recovery_without_space_removes_temporary_files_and_names_the_runs_that_it_could_not_put_in_order(cut):
    (temporary,) = cut.root.glob(".interlock-*.tmp")
    rt = cut.open()

    def full(*_arguments, **_changes):
        raise StoreError("commit: disk full", code="disk_full")

    with pytest.MonkeyPatch.context() as here:
        here.setattr(rt.services.index, "update", full)
        with pytest.raises(StoreError) as caught:
            rt.runs.recover()
        with pytest.raises(StoreError):
            execute(rt, shell("true"))  # nothing new begins before the journals are in order
    assert caught.value.code == "disk_full"
    assert [(one.run_id, one.need) for one in caught.value.found] == [(cut.runs()[0], "repair")]
    assert not temporary.exists()
    assert [one.need for one in rt.runs.recover()] == ["resume"]
