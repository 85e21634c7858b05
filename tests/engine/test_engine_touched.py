"""What an action touched, from the lines of its kernel recorders."""

from __future__ import annotations

import json

import pytest

from interlock.detect import Redactor
from interlock.disk import Disk
from interlock.engine.inspect import touched as module
from interlock.engine.inspect.touched import Program, touched
from interlock.journal.kernel_layer import KernelLayer, layer_files
from interlock.model.errors import IntegrityError


def line(kind, **fields):
    return json.dumps({"kind": kind, "ts": 1, "mono": 2, **fields}, separators=(",", ":")).encode()


def call(name, **fields):
    return line("call", pid=7, tid=7, call=name, grade=fields.pop("grade", "attempt"), **fields)


STARTED = line("recorder_started", mechanism="notify", profile="ns", calls=["openat"])


def ended(**more):
    return line("recorder_ended", **{"calls": 1, "dropped": 0, "refused": 0, **more})


@pytest.fixture
def write(tmp_path):
    """Write the lines of one recorder of an action; returns the run's directory."""
    run = tmp_path / "run_1"
    run.mkdir()
    layer = KernelLayer(run, Disk(), Redactor(b"k" * 32))

    def write_lines(*lines, action="a", attempt=1, recorder="k"):
        layer.writer(recorder, "p", action, attempt).add(list(lines))
        return run

    yield write_lines
    layer.close()


def test_calls_are_sorted_into_what_they_touch(write):
    run = write(
        STARTED,
        call("execve", path="/bin/sh", real="/usr/bin/dash", argv=["sh", "-c", "x"]),
        call("openat", path="/w/in", real="/w/target", access="read"),
        call("openat", path="/w/place", access="path"),
        call("openat", path="/w/out", access="write", flags=["create", "truncate"]),
        call("openat", path="/w/log", access="read_write"),
        call("openat", path="/w/made", access="read", flags=["create"]),
        call("rename", path="/w/old", to="/w/new"),
        call("linkat", path="/w/in", to="/w/second"),
        call("symlinkat", path="/w/link", to="anywhere"),
        call("unlinkat", path="/w/gone"),
        call("mkdirat", path="/w/d"),
        call("fchmodat", path="/w/tool", mode=493),
        call("memfd_create", path="memfd:x"),
        call("openat", error="EFAULT", unreadable=True, grade="outcome"),
        call("connect", family="inet", host="192.0.2.1", port=443),
        call("sendto", family="inet6", host="::1", port=53),
        call("connect", family="unix", host="/run/x.sock"),
        call("bind", family="inet", host="0.0.0.0", port=8000),
        call("connect", family="netlink"),
        ended(calls=19, refused=1),
    )
    (found,) = touched(run).values()
    assert found.programs == (Program(path="/usr/bin/dash", argv=("sh", "-c", "x")),)
    assert found.read == ("/w/target",)
    assert found.written == (*("/w/d", "/w/link", "/w/log", "/w/made", "/w/new", "/w/out", "/w/second", "/w/tool"),)
    assert found.removed == ("/w/gone", "/w/old")
    assert found.hosts == ("192.0.2.1:443", "[::1]:53")
    assert (found.listens, found.sockets) == (("0.0.0.0:8000",), ("/run/x.sock",))
    assert (found.calls, found.refused, found.lost, found.unfinished) == (19, 1, False, False)


def test_attempts_of_an_action_are_taken_together_and_actions_apart(write):
    write(STARTED, call("openat", path="/one", access="read"), ended(dropped=3))
    write(STARTED, call("openat", path="/two", access="read"), ended(lost=True), attempt=2, recorder="k2")
    run = write(STARTED, call("openat", path="/other", access="read", count=2), action="b", recorder="k3")
    found = touched(run)
    assert found["p", "a"].read == ("/one", "/two")
    assert (found["p", "a"].dropped, found["p", "a"].lost, found["p", "a"].unfinished) == (3, True, False)
    assert (found["p", "b"].unfinished, found["p", "b"].calls) == (True, 2), "counted without a last line"
    assert list(touched(run, "b")) == [("p", "b")]


def test_lists_are_bounded_and_what_is_beyond_is_counted(write, monkeypatch):
    monkeypatch.setattr(module, "LISTED_MAX", 2)
    run = write(STARTED, *(call("openat", path=f"/{n}", access="read") for n in range(5)), ended())
    (found,) = touched(run).values()
    assert (found.read, found.unlisted) == (("/0", "/1"), 3)


def test_an_invalid_record_is_named_and_an_incomplete_last_line_is_ignored(write):
    (file,) = layer_files(run := write(STARTED, ended()))
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"kind":"ca')
    assert touched(run)["p", "a"].calls == 1
    file.write_bytes(whole + b"garbage\n")
    with pytest.raises(IntegrityError, match=r"line 3 of `kernel\.ndjson`") as damage:
        touched(run)
    assert damage.value.code == "kernel_layer_damaged"


def test_a_run_without_a_record_touched_nothing_that_is_known(tmp_path):
    assert touched(tmp_path) == {}
