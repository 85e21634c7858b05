"""A measured run under the recorder: what its command touched is on record, in every profile."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest

from interlock.engine.measured.run import exit_status
from interlock.journal.kernel_layer import layer_files
from interlock.model.kernel_layer import KernelCall, RecorderEnded, decode_record
from interlock.surfaces.cli import app

every = pytest.mark.parametrize("profile", ["none", "nons", "ns"])


def records(project, result):
    files = layer_files(project.past.directory(result.run_id))
    return [decode_record(line) for file in files for line in file.read_bytes().splitlines()]


@every
def test_what_the_command_touches_is_recorded(project, profile):
    result = project.measure("sh", "-c", "echo x > made; exit 3", profile=profile, recorder="notify")
    assert exit_status(result) == 3
    assert result.posture["record"].startswith("active")
    found = records(project, result)
    calls = [one for one in found if isinstance(one, KernelCall)]
    assert {(one.proposal, one.action) for one in found} == {("", "command")}
    assert calls[0].argv == ("sh", "-c", "echo x > made; exit 3")
    assert [one.path for one in calls if "create" in one.flags] == [f"{project.root}/made"]
    assert isinstance(found[-1], RecorderEnded)
    (event,) = [event for event in project.events(result) if event.__struct_config__.tag == "action_recorded"]
    assert (event.lines, event.calls, event.lost) == (len(found), result.recorded_calls, False)
    touched = project.past.touched(result.run_id)["", "command"]
    assert str(project.root / "made") in touched.written


@every
def test_what_it_leaves_behind_is_ended_with_its_recorder(project, profile):
    result = project.measure("sh", "-c", "sleep 300 & echo $! > pid", profile=profile, recorder="notify")
    assert exit_status(result) == 0
    assert result.record_whole
    if profile != "ns":  # where the number is of a namespace that is gone
        assert not Path(f"/proc/{(project.root / 'pid').read_text().strip()}").exists()


@every
def test_a_command_that_is_not_found_leaves_a_record_of_where_it_was_looked_for(project, profile):
    result = project.measure("no-such-program", profile=profile, recorder="notify")
    assert exit_status(result) == 127
    tried = [one.path for one in records(project, result) if isinstance(one, KernelCall)]
    assert any(path.endswith("/no-such-program") for path in tried)


def test_if_the_recorder_is_killed_the_command_is_ended_and_that_is_reported(project):
    script = (
        "import os, signal, time\n"
        "above = os.getppid()\n"
        "others = [int(n) for n in os.listdir('/proc') if n.isdigit() and n != str(os.getpid())]\n"
        "def parent(n):\n"
        "    try: return int(open(f'/proc/{n}/stat').read().rpartition(')')[2].split()[1])\n"
        "    except OSError: return 0\n"
        "(recorder,) = [n for n in others if parent(n) == above]\n"
        "os.kill(recorder, signal.SIGKILL)\n"
        "time.sleep(60)\n"
    )
    result = project.measure(sys.executable, "-c", script, profile="none", recorder="notify")
    assert result.signal == signal.SIGKILL
    assert not result.record_whole
    assert project.past.touched(result.run_id)["", "command"].lost


@every
def test_a_secret_that_the_command_was_given_is_nowhere_in_what_its_processes_did(project, profile):
    # One is a word of the format too, and stays one.
    given = {"API_TOKEN": 'sesame"9é', "DB_PASSWORD": "attempt"}
    script = 'mkdir "$API_TOKEN"; echo x > "$API_TOKEN/a"; mv "$API_TOKEN/a" b-"$API_TOKEN"; true "$1" attempt; /bin/true "$2"'
    argv = ("sh", "-c", script, "sh", given["API_TOKEN"], "sesame-99", "--password", "sesame-99")
    result = project.measure(*argv, given=given, profile=profile, recorder="notify")
    assert (result.success, result.record_whole) == (True, True)
    calls = [one for one in records(project, result) if isinstance(one, KernelCall)]
    assert {one.grade for one in calls} == {"attempt"}
    told = [text for one in calls for text in (one.path or "", one.real or "", one.to or "", *(one.argv or ()))]
    for secret in ("sesame", "attempt"):
        assert not [text for text in told if secret in text]
    moved = next(one for one in calls if one.call.startswith("rename"))
    assert re.fullmatch(r".*/b-\[redacted:known:[0-9a-f]{8}\]", moved.to)
    kept = b"".join(path.read_bytes() for path in project.past.directory(result.run_id).rglob("*") if path.is_file())
    assert b"sesame" not in kept


def test_without_the_option_nothing_is_recorded(project):
    result = project.measure(os.fspath("/bin/true"))
    assert (result.recorded_calls, records(project, result)) == (None, [])


def test_runs_show_lists_what_the_command_touched(project, monkeypatch, capsys):
    result = project.measure("sh", "-c", "echo x > made", recorder="notify")
    monkeypatch.chdir(project.root)
    for name in ("HOME", "INTERLOCK_STATE_DIR"):
        monkeypatch.setenv(name, project.env[name])
    assert app.run(["runs", "show", result.run_id]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "    made" in lines
    assert any(line.startswith("  programs (") for line in lines)
    assert app.run(["runs", "show", result.run_id, "--json"]) == 0
    assert f"{project.root}/made" in json.loads(capsys.readouterr().out)["touched"]["written"]


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_a_check_of_the_run_finds_a_layer_that_was_changed(project, damage):
    result = project.measure("true", recorder="notify")
    assert project.past.check(result.run_id).ok
    (path,) = layer_files(project.past.directory(result.run_id))
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(
            data.replace(b'"true"', b'"trye"', 1) if damage == "flip" else data[: data.rindex(b"\n", 0, -1) + 1]
        )
    (problem,) = project.past.check(result.run_id).problems
    assert problem["code"] == "layer_mismatch"
    assert "layers/kernel.ndjson" in problem["path"]
