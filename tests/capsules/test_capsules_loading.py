"""A capsule is loaded only as the build that a person has agreed to, with the imports that its manifest declares."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import tempfile
from pathlib import Path

import pytest
import wasmtime
from capsules_world import KV, call, name_of, wat

from interlock.disk import Disk, store_error
from interlock.engine.inspect import capsule_files
from interlock.engine.inspect.policy_check import read_policies
from interlock.executors.capsules import worker
from interlock.executors.capsules.interfaces import INTERFACES
from interlock.model.errors import ConfigurationError, ToolError


def load(runtime, name="c"):
    asyncio.run(runtime.services.capsules.load(name))


def code_of(runtime, name="c"):
    """The compiled code of a capsule that is loaded."""
    return runtime.services.capsules._loader._loaded[name].code.path


def refusal(runtime):
    with pytest.raises(ToolError) as caught:
        load(runtime)
    assert caught.value.code == "capsule_refused"
    return caught.value.message


def test_a_capsule_that_is_not_locked_is_not_offered(world):
    world.add()
    world.configure()
    (world.root / "interlock.lock").unlink()
    world.trust()
    runtime = world.open()
    assert any("capsules.c" in warning and "not locked" in warning for warning in runtime.warnings)
    assert call(runtime, "echo").reason == "unknown_tool"


def test_a_manifest_other_than_the_locked_one_is_not_offered(world):
    directory = world.add()
    world.configure()
    manifest = directory / "capsule.toml"
    manifest.write_text(manifest.read_text() + "\n# edited\n")
    world.trust()
    assert any("is not the one in `interlock.lock`" in warning for warning in world.open().warnings)


def test_one_flipped_byte_in_the_module_refuses_it(world):
    directory = world.add()
    world.configure()
    runtime = world.open()
    assert call(runtime, "echo").ok
    module = directory / "module.wasm"
    data = bytearray(module.read_bytes())
    data[-1] ^= 1
    module.write_bytes(data)
    refused = call(runtime, "echo")  # in the process that has it loaded, too
    assert (refused.reason, "different build" in refused.error) == ("capsule_refused", True)
    assert "different build" in refusal(world.open())


def test_one_flipped_byte_in_the_compiled_code_has_it_compiled_again(world):
    world.add()
    world.configure()
    runtime = world.open()
    load(runtime)
    code = code_of(runtime)
    assert (os.stat(code).st_mode & 0o777, os.stat(code.parent).st_mode & 0o777) == (0o600, 0o700)
    good = code.read_bytes()
    for place in (100, len(good) // 2, len(good) - 1):
        bad = bytearray(good)
        bad[place] ^= 1
        code.write_bytes(bad)
        os.utime(code)
        load(world.open())
        assert code.read_bytes() == good
    record = code.with_suffix(".json")
    record.write_bytes(record.read_bytes().replace(b'"imports":[', b'"imports":[ '))
    assert runtime.services.capsules._loader._cache.find(code.stem) is None


def test_a_lock_that_was_changed_stops_everything_until_it_is_trusted(world):
    world.add()
    world.configure()
    lock = world.root / "interlock.lock"
    text = lock.read_text()
    place = text.index('"component": "') + 14
    lock.write_text(text[:place] + ("1" if text[place] != "1" else "2") + text[place + 1 :])
    with pytest.raises(ConfigurationError) as caught:
        world.open()
    assert caught.value.code == "untrusted_configuration"
    world.trust()
    assert "different build" in refusal(world.open())


def test_a_full_disk_while_the_code_is_kept_refuses_the_capsule_and_leaves_nothing(world):
    world.add()
    world.configure()
    runtime = world.open()
    cache = runtime.services.capsules._loader._cache
    for file in cache.directory.iterdir() if cache.directory.exists() else ():
        file.unlink()
    cache._disk = FullDisk()
    message = refusal(runtime)
    assert "cannot be stored" in message
    assert "No space left" in message
    assert call(runtime, "echo").reason == "capsule_refused"
    assert list(cache.directory.iterdir()) == []
    cache._disk = Disk()
    assert call(runtime, "echo").ok
    code = code_of(runtime)
    os.utime(code)  # its record is to be written anew, which is not needed to use it
    cache._disk = FullDisk()
    assert cache.find(code.stem) is not None


class FullDisk(Disk):
    """A disk on which half of each file fits."""

    def write(self, fd, data):
        super().write(fd, data[: len(data) // 2])
        raise store_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "write")


def test_the_code_is_not_read_again_while_its_file_is_the_same(world):
    world.add()
    world.configure()
    runtime = world.open()
    load(runtime)
    cache = runtime.services.capsules._loader._cache
    code = code_of(runtime)
    cache._digest_of = cache._digest
    seen = []
    cache._digest = lambda name, data: seen.append(len(data)) or cache._digest_of(name, data)
    assert cache.find(code.stem) is not None
    assert max(seen) < code.stat().st_size


@pytest.mark.parametrize(
    ("imports", "words"),
    [
        ('(import "env" "x" (func))', "it imports `x` from `env`, which is not a function"),
        (
            '(import "interlock:capsule/kv@0.1.0" "steal" (func))',
            "it imports `steal` from `interlock:capsule/kv@0.1.0`",
        ),
        ('(import "interlock:capsule/fs@0.1.0" "read" (func))', "it imports `read` from `interlock:capsule/fs@0.1.0`"),
        ('(import "interlock:capsule/kv@9.0.0" "get" (func))', "which is not a function"),
    ],
)
def test_an_import_that_no_capsule_is_given_refuses_it_by_name(world, imports, words):
    world.add(source=wat(imports=imports))
    world.configure()
    runtime = world.open()
    assert words in refusal(runtime)
    assert call(runtime, "echo").reason == "capsule_refused"


def test_an_import_that_the_manifest_does_not_declare_refuses_it_by_name(world):
    world.add(kv="false")
    world.configure()
    message = refusal(world.open())
    assert "imports `get` from `interlock:capsule/kv@0.1.0`" in message
    assert "`capabilities.kv`" in message


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (b"not wasm", "not a usable WebAssembly module"),
        (b"", "not a usable WebAssembly module"),
        (bytes(wasmtime.wat2wasm("(module)")), "does not export `memory`"),
        (
            bytes(wasmtime.wat2wasm('(module (memory (export "memory") 1) (memory 1))')),
            "not a usable WebAssembly module",
        ),
        (bytes(wasmtime.wat2wasm('(module (memory (export "memory") i64 1))')), "not a usable WebAssembly module"),
    ],
)
def test_what_is_not_a_module_for_capsules_is_refused(world, source, words):
    directory = world.add()
    (directory / "module.wasm").write_bytes(source)
    world.configure()
    assert words in refusal(world.open())


def test_a_component_that_is_reached_by_a_link_is_refused(world):
    directory = world.add()
    (directory / "module.wasm").rename(world.root / "elsewhere.wasm")
    (directory / "module.wasm").symlink_to(world.root / "elsewhere.wasm")
    world.configure()
    assert "symbolic link" in refusal(world.open())
    (directory / "module.wasm").unlink()
    os.mkfifo(directory / "module.wasm")
    assert "not a regular file" in refusal(world.open())
    (directory / "module.wasm").unlink()
    assert "does not exist" in refusal(world.open())


def test_what_depends_on_a_refused_capsule_is_not_offered(world):
    manifest = world.add("a") / "capsule.toml"
    world.add("b", more="dependencies = { a = '>=1.0.0' }")
    world.configure()
    manifest.write_text(manifest.read_text() + "# edited")
    world.trust()
    warnings = world.open().warnings
    assert any("capsules.b" in warning and "depends on `a`, which is not loaded" in warning for warning in warnings)


def test_no_agent_may_write_what_a_capsule_is_made_of(world):
    world.add()
    world.configure()
    runtime = world.open()
    for name in ("interlock.toml", "c/module.wasm", "c/capsule.toml"):
        assert runtime.call_sync("fs.write", {"path": name, "content": "x"}).reason == "path_denied"
    assert runtime.call_sync("fs.write", {"path": "c/other", "content": "x"}).ok


def test_a_worker_that_has_too_many_modules_drops_one_and_says_so(monkeypatch):
    monkeypatch.setattr(worker, "_LOADED_MAX", 2)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        held = worker.Worker(theirs)
        code = bytes(wasmtime.Module(wasmtime.Engine(worker.configuration("core", fuel=False)), "(module)").serialize())
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(code)
            load = {"abi": "core", "fuel": False, "path": file.name}
            dropped = [held._load({"key": key, **load})[0]["dropped"] for key in ("a", "b", "c")]
    assert dropped == [[], [], ["a"]]


def test_the_world_of_components_has_every_host_function():
    text = re.sub(r"///?.*", "", capsule_files.WORLD.read_text())
    found = {}
    for interface, body in re.findall(r"interface ([a-z-]+) \{\n(.*?)\n\}", text, re.DOTALL):
        found[interface] = set(re.findall(r"^  %?([a-z-]+): func", body, re.MULTILINE))
    assert found == {name: set(one.functions) for name, one in INTERFACES.items()}


def test_wasi_is_there_with_nothing_behind_it(world):
    source = wat(
        imports='(import "wasi_snapshot_preview1" "environ_sizes_get" (func $e (param i32 i32) (result i32)))'
        '(import "wasi_snapshot_preview1" "fd_prestat_get" (func $p (param i32 i32) (result i32)))',
        top="""(func (export "interlock_init")
          (if (call $e (i32.const 0) (i32.const 4)) (then (unreachable)))
          (if (i32.load (i32.const 0)) (then (unreachable)))
          (if (i32.ne (call $p (i32.const 3) (i32.const 0)) (i32.const 8)) (then (unreachable))))""",
    )
    assert KV in source
    world.add(source=source)
    world.configure()
    assert call(world.open(), "echo").ok


def test_rules_about_tools_of_capsules_are_checked_and_explained_without_loading_one(world):
    world.add("a")
    world.configure()
    (world.root / "policy").mkdir()
    tool = f"a/{name_of('echo')}"
    policy = world.root / "policy/own.cedar"
    policy.write_text(f'forbid (principal, action == Action::"{tool}", resource);\n')
    path = world.root / "interlock.toml"
    path.write_text(path.read_text() + '[policy]\nfiles = ["policy/*.cedar"]\n')
    found = read_policies(world.root, world.env)
    assert found.explain(tool, agent=None, parameters={}).decision.decision == "deny"
    policy.write_text('forbid (principal, action == Action::"a/absent", resource);\n')
    assert any("a/absent" in str(one) for one in read_policies(world.root, world.env).judge.warnings)
