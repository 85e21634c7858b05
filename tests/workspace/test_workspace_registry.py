"""A directory keeps its id wherever it is moved, and nobody else gets it."""

from __future__ import annotations

import shutil
import threading

import msgspec
import pytest

from interlock.disk import Disk
from interlock.model.errors import ConfigurationError, IntegrityError, UsageError
from interlock.testing import CountingIds, FakeClock
from interlock.workspace import Registry, check_apart, state_directory


@pytest.fixture
def state(tmp_path):
    return state_directory({"INTERLOCK_STATE_DIR": str(tmp_path / "state")}, Disk())


@pytest.fixture
def registry(state):
    return Registry(state, Disk(), FakeClock(), CountingIds())


def test_where_the_state_directory_is(tmp_path):
    home, xdg, own = tmp_path / "home", tmp_path / "xdg", tmp_path / "own"
    env = {"HOME": str(home)}
    assert state_directory(env, Disk()) == home / ".local" / "state" / "interlock"
    env["XDG_STATE_HOME"] = str(xdg)
    assert state_directory(env, Disk()) == xdg / "interlock"
    env["INTERLOCK_STATE_DIR"] = str(own)
    assert state_directory(env, Disk()) == own
    assert own.stat().st_mode & 0o777 == 0o700


def test_an_open_state_directory_is_closed(tmp_path):
    (tmp_path / "state").mkdir(mode=0o755)
    path = state_directory({"INTERLOCK_STATE_DIR": str(tmp_path / "state")}, Disk())
    assert path.stat().st_mode & 0o777 == 0o700


def test_a_relative_state_directory_is_refused(tmp_path):
    with pytest.raises(ConfigurationError) as caught:
        state_directory({"INTERLOCK_STATE_DIR": "state"}, Disk())
    assert caught.value.code == "state_dir_unsafe"


def test_a_state_directory_of_another_user_is_refused(tmp_path, monkeypatch):
    (tmp_path / "state").mkdir()
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    with pytest.raises(ConfigurationError) as caught:
        state_directory({"INTERLOCK_STATE_DIR": str(tmp_path / "state")}, Disk())
    assert caught.value.code == "state_dir_unsafe"


def test_the_same_directory_has_the_same_id(registry, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    b.mkdir()
    first = registry.workspace_id(a)
    assert first.startswith("ws_")
    assert registry.workspace_id(a) == first
    assert registry.workspace_id(b) != first
    (tmp_path / "link").symlink_to(a)
    assert registry.workspace_id(tmp_path / "link") == first
    assert registry.workspace_id(tmp_path / "b" / ".." / "a") == first


def test_a_moved_project_keeps_its_id(registry, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    a.mkdir()
    first = registry.workspace_id(a)
    a.rename(b)
    a.mkdir()
    another = registry.workspace_id(a)
    assert another != first
    assert registry.workspace_id(b) == first
    assert registry.workspace_id(a) == another
    assert {one.path for one in registry.workspaces()} == {str(a), str(b)}


def test_a_new_directory_does_not_inherit_an_inode(registry, tmp_path):
    a = tmp_path / "a"
    a.mkdir()
    first = registry.workspace_id(a)
    seen = registry.workspaces()[0]
    if seen.birth_ns == "0":
        pytest.skip("this file system keeps no birth times")
    for _ in range(20):
        shutil.rmtree(a)
        a.mkdir()
        if a.stat().st_ino == seen.inode:
            break
    assert registry.workspace_id(a) != first


def test_a_device_number_that_changed_at_a_reboot(registry, state, tmp_path):
    a = tmp_path / "a"
    a.mkdir()
    first = registry.workspace_id(a)
    path = state / "registry.json"
    file = msgspec.json.decode(path.read_bytes())
    file["workspaces"][0]["device"] += 1
    path.write_bytes(msgspec.json.encode(file))
    assert registry.workspace_id(a) == first
    assert registry.workspaces()[0].device == a.stat().st_dev


def test_state_and_workspace_apart(registry, state, tmp_path):
    inside = state / "project"
    inside.mkdir()
    for root, code in ((tmp_path, "state_dir_in_workspace"), (inside, "workspace_in_state_dir")):
        with pytest.raises(ConfigurationError) as caught:
            registry.workspace_id(root)
        assert caught.value.code == code
    with pytest.raises(ConfigurationError):
        check_apart(state, state)
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigurationError):
        registry.workspace_id(tmp_path / "far" / "link")
    assert registry.workspaces() == []


def test_what_is_not_a_directory(registry, tmp_path):
    (tmp_path / "f").write_text("")
    for name in ("f", "none"):
        with pytest.raises(UsageError) as caught:
            registry.workspace_id(tmp_path / name)
        assert caught.value.code == "workspace_missing"


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 2, "workspaces": []}', b"[]", b"\xff"])
def test_a_damaged_registry_is_refused_not_replaced(registry, state, tmp_path, content):
    (tmp_path / "a").mkdir()
    (state / "registry.json").write_bytes(content)
    with pytest.raises(IntegrityError) as caught:
        registry.workspace_id(tmp_path / "a")
    assert caught.value.code == "registry_damaged"
    assert (state / "registry.json").read_bytes() == content


def test_many_at_once_lose_nothing(state, tmp_path):
    ids = CountingIds()
    roots = [tmp_path / str(i) for i in range(12)]
    for root in roots:
        root.mkdir()
    threads = [
        threading.Thread(target=Registry(state, Disk(), FakeClock(), ids).workspace_id, args=(root,)) for root in roots
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    known = Registry(state, Disk(), FakeClock(), ids).workspaces()
    assert {one.path for one in known} == {str(root) for root in roots}
    assert len({one.id for one in known}) == 12
