"""Files of a capsule: those of the proposal, as far as its manifest, the caller's grant and the policies go."""

from __future__ import annotations

import asyncio
import os

import pytest
from capsules_world import call, name_of, refusal

FILES = 'fs_read = ["data/**", "one.json", "linked/*"]\nfs_write = ["data/**", "both/*"]'


@pytest.fixture
def files(world):
    world.add_host("c", FILES, "fs-read", "fs-write")
    (world.root / "data/sub").mkdir(parents=True)
    (world.root / "data/a.json").write_text('{"a":1}')
    (world.root / "one.json").write_text("1")
    (world.root / "secret.json").write_text('"no"')
    world.configure()
    return world


def test_a_capsule_reads_lists_writes_and_deletes_what_it_declares(files):
    runtime = files.open()
    assert call(runtime, "fs_read", {"p": "data/a.json"}).output == {"a": 1}
    assert call(runtime, "fs_read", {"p": "one.json"}).output == 1
    assert call(runtime, "fs_list", {"p": "data"}).output == ["a.json", "sub/"]
    assert call(runtime, "fs_list", {"p": ""}).output == ["data/", "one.json"]
    assert call(runtime, "fs_write", {"p": "data/new/b.json", "d": "7"}).ok
    assert (files.root / "data/new/b.json").read_text() == "7"
    assert call(runtime, "fs_delete", {"p": "data/a.json"}).ok
    assert not (files.root / "data/a.json").exists()


def test_what_it_writes_is_seen_by_later_actions_and_committed_or_dropped_with_the_proposal(files):
    runtime = files.open()
    write = {
        "type": "tool_call",
        "id": "w",
        "tool": f"c/{name_of('fs_write')}",
        "parameters": {"p": "data/b.json", "d": "7"},
    }
    read = {"type": "tool_call", "id": "r", "tool": "fs.read", "parameters": {"path": "data/b.json"}}
    again = {"type": "tool_call", "id": "s", "tool": f"c/{name_of('fs_read')}", "parameters": {"p": "data/b.json"}}
    fails = {"type": "tool_call", "id": "f", "tool": "fs.read", "parameters": {"path": "none"}}
    result = runtime.execute_sync({"actions": [write, read, again, fails]})
    assert [row.status for row in result.results][1:3] == ["rolled_back", "rolled_back"] or result.status != "succeeded"
    assert not (files.root / "data/b.json").exists()
    result = runtime.execute_sync({"actions": [write, read, again]})
    assert result.results[1].output["content"] == "7"
    assert result.results[2].output == 7
    assert (files.root / "data/b.json").read_text() == "7"


def test_what_it_wrote_is_undone(files):
    runtime = files.open()
    result = call(runtime, "fs_write", {"p": "data/a.json", "d": "8"})
    assert (files.root / "data/a.json").read_text() == "8"
    asyncio.run(runtime.runs.undo(result.run_id))
    assert (files.root / "data/a.json").read_text() == '{"a":1}'


@pytest.mark.parametrize("mode", ["layer", "direct"])
def test_no_spelling_of_a_path_leads_elsewhere(files, mode):
    root, outside = files.root, files.root.parent / "outside"
    outside.mkdir()
    (outside / "x.json").write_text('"outside"')
    for name, target in {
        "data/up": "..",
        "data/out": str(outside),
        "data/file": str(outside / "x.json"),
        "data/relative": "../../outside/x.json",
        "data/own": "../secret.json",
        "data/config": "../interlock.toml",
        "data/state": str(files.state),
    }.items():
        (root / name).symlink_to(target)
    (root / "data/loop").symlink_to("loop")
    os.link(outside / "x.json", root / "data/hard")
    os.mkfifo(root / "data/fifo")
    files.configure(f'[workspace]\nmode = "{mode}"\n')
    runtime = files.open()
    expected = {
        "../outside/x.json": "path_outside_workspace",
        "data/../../outside/x.json": "path_outside_workspace",
        "data/../secret.json": "path_denied",
        "/etc/hostname": "path_outside_workspace",
        str(outside / "x.json"): "path_outside_workspace",
        "data/up/secret.json": "path_denied",
        "data/out/x.json": "path_outside_workspace",
        "data/file": "path_outside_workspace",
        "data/relative": "path_outside_workspace",
        "data/own": "path_denied",
        "data/loop": "symlink_loop",
        "data/hard": "path_denied",
        "data/fifo": "special_file",
        "data/config": "path_denied",
        "data/state/keys": "path_outside_workspace",
        "secret.json": "path_denied",
        "interlock.toml": "path_denied",
        "c/module.wasm": "path_denied",
        ".": "path_denied",
        "data": "not_a_file",
        "data/none": "not_found",
    }
    found = {path: refusal(runtime, "fs_read", {"p": path}) for path in expected}
    assert found == expected
    call(runtime, "fs_write", {"p": "data/hard", "d": "1"})  # replaces the name, if anything
    del expected["data/none"], expected["data/hard"]
    written = {path: refusal(runtime, "fs_write", {"p": path, "d": "1"}) for path in expected}
    assert written == expected
    assert (outside / "x.json").read_text() == '"outside"'
    assert (root / "secret.json").read_text() == '"no"'


def test_the_grant_of_the_caller_narrows_it(files):
    toml = '\n[grants.narrow]\ntools = ["*"]\nunscoped = ["*"]\npaths.read = ["data/a.json"]\npaths.write = []\n'
    files.configure(toml)
    runtime = files.open()
    assert call(runtime, "fs_read", {"p": "data/a.json"}, agent="narrow").output == {"a": 1}
    assert refusal(runtime, "fs_read", {"p": "one.json"}, agent="narrow") == "path_denied"
    assert refusal(runtime, "fs_write", {"p": "data/a.json", "d": "1"}, agent="narrow") == "path_denied"
    assert call(runtime, "fs_list", {"p": ""}, agent="narrow").output == []


def test_a_policy_about_file_tools_counts_and_none_has_to_permit_a_file(files):
    policy = files.root / "p.cedar"
    policy.write_text(
        "permit(principal, action, resource);\n"
        'forbid(principal, action == Action::"fs.delete", resource);\n'
        'forbid(principal, action == Action::"fs.write", resource) when { context.params.path like "data/sub/*" };\n'
    )
    files.configure('[policy]\nfiles = ["p.cedar"]\n')
    runtime = files.open()
    assert call(runtime, "fs_write", {"p": "data/b.json", "d": "1"}).ok
    assert refusal(runtime, "fs_write", {"p": "data/sub/b.json", "d": "1"}) == "policy_denied"
    assert refusal(runtime, "fs_delete", {"p": "data/b.json"}) == "policy_denied"


def test_a_flood_of_changes_ends_at_a_limit(files, monkeypatch):
    monkeypatch.setattr("interlock.executors.capsules.host_files.CHANGES_MAX", 0)
    assert refusal(files.open(), "fs_write", {"p": "data/b.json", "d": "1"}) == "limit_exceeded"


def test_a_file_that_is_too_large_is_not_read(files, monkeypatch):
    monkeypatch.setattr("interlock.executors.capsules.host_files.FILE_BYTES_MAX", 6)
    runtime = files.open()
    assert refusal(runtime, "fs_read", {"p": "data/a.json"}) == "file_too_large"
    assert refusal(runtime, "fs_write", {"p": "data/b.json", "d": "1234567"}) == "file_too_large"


def test_a_tool_that_changes_nothing_is_refused_beside_the_capability_to_write(world):
    world.add_host("c", FILES, "fs-read", "fs-write")
    manifest = world.root / "c/capsule.toml"
    manifest.write_text(manifest.read_text().replace("input_schema", "read_only = true\ninput_schema", 1))
    with pytest.raises(Exception, match="a read-only tool cannot"):
        world.configure()
