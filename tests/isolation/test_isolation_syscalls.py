"""The system calls: the numbers, the wrappers, and what they raise."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from interlock.isolation import syscalls

HEADERS = {
    "x86_64": ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h",),
    "aarch64": ("/usr/include/asm-generic/unistd.h", "/usr/aarch64-linux-gnu/include/asm-generic/unistd.h"),
}


@pytest.mark.parametrize("machine", syscalls.MACHINES)
def test_the_numbers_are_the_kernels_own(machine):
    header = next((Path(p) for p in HEADERS[machine] if Path(p).exists()), None)
    if header is None:
        pytest.skip("no kernel headers here")
    told = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text()))
    ours = syscalls.numbers(machine)
    assert {name: int(told[name]) for name in ours if name in told} == {n: v for n, v in ours.items() if n in told}
    assert len(set(ours) & set(told)) > 70


def test_a_path_beneath_is_opened_where_openat2_is_refused(tmp_path, monkeypatch):
    """As within the walls of another Interlock."""

    def refused(*_):
        raise OSError(errno.ENOSYS, "refused")

    monkeypatch.setattr(syscalls, "_open_beneath", refused)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "link").symlink_to("b")
    top = os.open(tmp_path, os.O_PATH)
    try:
        for path in ("a/b", "a", ""):
            fd = syscalls.open_beneath(top, path, os.O_PATH)
            assert Path(f"/proc/self/fd/{fd}").readlink() == tmp_path / path
            os.close(fd)
        for path, number in (("a/link", errno.ELOOP), ("a/..", errno.EXDEV), ("a/c", errno.ENOENT)):
            with pytest.raises(OSError, match=r"\w") as raised:
                syscalls.open_beneath(top, path, os.O_PATH)
            assert raised.value.errno == number
    finally:
        os.close(top)


@pytest.mark.parametrize("machine", syscalls.MACHINES)
def test_no_number_is_given_twice(machine):
    ours = syscalls.numbers(machine)
    assert len(set(ours.values())) == len(ours)


def test_a_refused_call_names_itself_and_keeps_the_errno():
    with pytest.raises(OSError, match="pivot_root") as raised:
        syscalls.pivot_root("/nonexistent", "/nonexistent")
    assert raised.value.errno in (errno.ENOENT, errno.EPERM)


def test_a_call_that_the_machine_does_not_have_is_not_made():
    with pytest.raises(OSError, match="no number") as raised:
        syscalls.call("no_such_call")
    assert raised.value.errno == errno.ENOSYS


def test_beneath_a_directory_nothing_leads_out(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "up").symlink_to("..")
    top = os.open(tmp_path / "in", os.O_PATH)
    try:
        os.close(syscalls.open_beneath(top, "deep", os.O_PATH))
        for path, why in (("../x", errno.EXDEV), ("up", errno.ELOOP), ("/etc", errno.EXDEV)):
            with pytest.raises(OSError, match="openat2") as raised:
                syscalls.open_beneath(top, path, os.O_PATH)
            assert raised.value.errno == why
    finally:
        os.close(top)


def test_only_a_range_of_descriptors_is_closed():
    low, high = os.open("/", os.O_PATH), os.open("/", os.O_PATH)
    middle = os.dup2(low, 700)
    syscalls.close_range(700, 700)
    for fd in (low, high):
        os.fstat(fd)
        os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(middle)
