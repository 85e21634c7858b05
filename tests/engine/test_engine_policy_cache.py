"""Policies that were checked before are not checked again, and nothing is believed that another user could have written."""

from __future__ import annotations

import os
import zipfile
from importlib import import_module

import pytest
from engine_world import TOML

from interlock.disk import Disk
from interlock.engine.local.policy_cache import PolicyCache
from interlock.model.errors import ConfigurationError

policies = import_module("interlock.policy.load")  # the package has a function of that name

RULES = TOML % ""
NO_READING = '@id("no-reading") forbid (principal, action == Action::"fs.read", resource);'
READ = {"actions": [{"type": "tool_call", "tool": "fs.read", "parameters": {"path": "interlock.toml"}}]}


@pytest.fixture
def checks(monkeypatch):
    """Counts how often policies are checked."""
    made = []
    check = policies._check
    monkeypatch.setattr(policies, "_check", lambda *given: made.append(given) or check(*given))
    return made


def entries(project):
    return sorted(project.state.glob("*/policies/*"))


def reads(project):
    return project.open().execute_sync(READ).results[0].status


def test_the_next_process_does_not_check_again(project, checks):
    assert [reads(project), reads(project)] == ["succeeded", "succeeded"]
    assert (len(checks), len(entries(project))) == (1, 1)
    assert entries(project)[0].stat().st_mode & 0o777 == 0o600


def test_an_edited_policy_is_another_set(new_project, checks):
    project = new_project(toml=f'{RULES}\n[policy]\nfiles = ["policy/*.cedar"]\n', files=[("policy/a.cedar", "")])
    assert reads(project) == "succeeded"
    (project.root / "policy/a.cedar").write_text(NO_READING)
    project.trust()
    assert [reads(project), reads(project)] == ["rejected", "rejected"]
    assert len(checks) == 2


def test_a_set_with_problems_is_not_kept(new_project, checks):
    project = new_project(
        toml=f'{RULES}\n[policy]\nfiles = ["policy/*.cedar"]\n', files=[("policy/a.cedar", "permit;")]
    )
    for _ in range(2):
        with pytest.raises(ConfigurationError, match=r"a\.cedar:1"):
            reads(project)
    assert (len(checks), entries(project)) == (2, [])


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)


def link(path):
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


HARM = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": cut,
    "flipped": flip,
    "a link": link,
    "writable by others": lambda path: path.chmod(0o666),
    "a directory": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_entry_is_ignored_and_written_again(project, checks, harm):
    reads(project)
    (entry,) = entries(project)
    HARM[harm](entry)
    assert reads(project) == "succeeded"
    assert len(checks) == 2
    if harm != "a directory":
        assert entry.stat().st_mode & 0o777 == 0o600
        assert reads(project) == "succeeded"
        assert len(checks) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_an_entry_of_another_user_is_ignored(project, checks):
    reads(project)
    os.chown(entries(project)[0], 12345, 12345)
    assert reads(project) == "succeeded"
    assert len(checks) == 2


def test_what_another_version_kept_is_checked_again(tmp_path):
    cache = PolicyCache(tmp_path / "policies", Disk())
    cache.keep("key", b"something else")
    assert cache.find("key") == b"something else"
    assert policies._read(cache.find("key")) is None


def test_the_oldest_entries_make_room(tmp_path):
    cache = PolicyCache(tmp_path / "policies", Disk())
    for number in range(20):
        cache.keep(str(number), b"x")
    assert len(list((tmp_path / "policies").iterdir())) == 8
    assert cache.find("19") == b"x"
    assert cache.find("0") is None


def test_edited_code_finds_nothing(tmp_path, monkeypatch):
    PolicyCache(tmp_path / "policies", Disk()).keep("key", b"x")
    monkeypatch.setattr("interlock.engine.local.policy_cache._CHECKED_BY", ("interlock.policy",))
    assert PolicyCache(tmp_path / "policies", Disk()).find("key") is None


@pytest.mark.parametrize("checked_by", ["no_such_package", "zipped"])
def test_code_that_cannot_be_looked_at_keeps_nothing(tmp_path, monkeypatch, checked_by):
    with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
        archive.writestr("zipped/__init__.py", "")
    monkeypatch.syspath_prepend(str(tmp_path / "code.zip"))
    monkeypatch.setattr("interlock.engine.local.policy_cache._CHECKED_BY", (checked_by,))
    cache = PolicyCache(tmp_path / "policies", Disk())
    cache.keep("key", b"x")
    assert cache.find("key") is None


def test_a_workspace_whose_path_is_not_utf8_is_checked_each_time(project, checks):
    project.root = project.root.rename(project.root.with_name(os.fsdecode(b"caf\xe9")))
    project.trust()
    assert [reads(project), reads(project)] == ["succeeded", "succeeded"]
    assert (len(checks), entries(project)) == (2, [])


def test_a_disk_that_refuses_costs_only_time(tmp_path):
    (tmp_path / "policies").write_text("a file, where a directory should be")
    cache = PolicyCache(tmp_path / "policies", Disk())
    cache.keep("key", b"x")
    assert cache.find("key") is None
