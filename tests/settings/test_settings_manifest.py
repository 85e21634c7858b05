"""`capsule.toml` is decoded strictly: one error, which names the file, the line and the field."""

from __future__ import annotations

import pytest

from interlock.disk import Disk
from interlock.model.errors import ConfigurationError
from interlock.settings import TrustStore, gather
from interlock.settings.decode import dotted
from interlock.settings.load import load
from interlock.settings.manifest import decode_manifest, load_order

SMALLEST = """\
[package]
name = "hello"
version = "0.1.0"

[component]
file = "hello.wasm"
"""
TOOL = """
[[tool]]
name = "greet"
description = "Greets."
input_schema = { type = "object", properties = { name = { type = "string" } } }
"""


def decode(text):
    return decode_manifest(text.encode(), "caps/capsule.toml")


def test_a_small_manifest_has_the_defaults_of_the_design():
    manifest = decode(SMALLEST)
    assert (manifest.component.abi, manifest.component.sha256, manifest.tools) == ("component", None, ())
    assert (manifest.limits.memory_mb, manifest.limits.timeout_ms, manifest.limits.fuel) == (64, 10_000, None)
    assert (manifest.behavior.lifetime, manifest.behavior.trust, manifest.behavior.dependencies) == ("call", "full", {})
    assert not manifest.capabilities.kv
    assert manifest.capabilities.net == ()


def test_every_key_is_read():
    manifest = decode(
        SMALLEST.replace('"hello.wasm"', f'"build/hello.wasm"\nabi = "core"\nsha256 = "{"0a" * 32}"')
        + TOOL
        + """read_only = true
output_schema = { type = "string" }
[env.GREETING]
default = "Hello"
description = "What it says."
[env.TIMES]
type = "integer"
default = 2
[env.TOKEN]
secret = true
required = true
[capabilities]
fs_read = ["docs/**"]
net = ["api.example.org:443", "*.example.org:443"]
kv = true
ipc_publish = ["build.finished"]
ipc_subscribe = ["interlock.run.*"]
tools = ["fs.read"]
approval = true
[[uplink]]
name = "chat"
platform = "matrix"
[limits]
memory_mb = 8
timeout_ms = 500
fuel = 1000000
output_bytes_max = 4096
[capsule]
lifetime = "capsule"
trust = "none"
dependencies = { other = ">=1.0.0, <2.0.0" }
"""
    )
    assert manifest.component.file == "build/hello.wasm"
    assert manifest.tools[0].read_only
    assert manifest.tools[0].output_schema == {"type": "string"}
    assert (manifest.env["TIMES"].default, manifest.env["TOKEN"].secret) == (2, True)
    assert manifest.capabilities.ipc_subscribe == ("interlock.run.*",)
    assert (manifest.uplinks[0].platform, manifest.uplinks[0].profile) == ("matrix", "default")
    assert manifest.limits.fuel == 1_000_000
    assert manifest.behavior.dependencies == {"other": ">=1.0.0, <2.0.0"}


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        (SMALLEST + "[package]", "capsule.toml:7", "not TOML"),
        (SMALLEST.replace("version", "verison"), "capsule.toml:3: package.verison", "unknown key"),
        (SMALLEST.replace('name = "hello"\n', ""), "capsule.toml:1: package", "`name` is missing"),
        (SMALLEST.replace('"hello"', '"Hello"'), "capsule.toml:2: package.name", "regex"),
        (SMALLEST.replace("0.1.0", "1"), "capsule.toml:3: package.version", "semantic version"),
        (SMALLEST.partition("[component]")[0], "capsule.toml", "`component` is missing"),
        (SMALLEST + 'abi = "extism"', "capsule.toml:7: component.abi", "expected one of"),
        (SMALLEST + 'sha256 = "12"', "capsule.toml:7: component.sha256", "regex"),
        *(
            (SMALLEST.replace("hello.wasm", path), "capsule.toml:6: component.file", why)
            for path, why in [
                ("/bin/hello.wasm", "absolute"),
                ("../hello.wasm", "beneath the directory"),
                ("a/../../hello.wasm", "beneath the directory"),
                (".", "beneath the directory"),
                ("./capsule.toml", "beneath the directory"),
                ("a\\u0000b", "control character"),
                ("", "component.file"),
            ]
        ),
        (SMALLEST + TOOL + TOOL, "capsule.toml:14: tool[1].name", "another tool"),
        (SMALLEST + TOOL.replace('"object"', '"string"'), "capsule.toml:11: tool[0].input_schema", 'not `"object"`'),
        (SMALLEST + TOOL.replace('"string"', '"text"'), "capsule.toml:11: tool[0].input_schema", "cannot be used"),
        (SMALLEST + TOOL + "idempotent = 1", "capsule.toml:12: tool[0].idempotent", "expected `bool`"),
        (SMALLEST + "[env.A]\ntype = 'integer'\ndefault = 'x'", "capsule.toml:9: env.A.default", "does not have the type"),
        (SMALLEST + "[env.A]\ntype = 'integer'\ndefault = true", "capsule.toml:9: env.A.default", "does not have the type"),
        (SMALLEST + "[env.A]\nsecret = true\ndefault = 'x'", "capsule.toml:9: env.A.default", "cannot have a default"),
        (SMALLEST + "[env.A]\nrequired = true\ndefault = 'x'", "capsule.toml:9: env.A.default", "cannot have a default"),
        (SMALLEST + "[env.'a b']", "env", "regex"),
        (SMALLEST + "[capabilities]\nfs_read = ['../x']", "capsule.toml:8: capabilities.fs_read[0]", ""),
        (SMALLEST + "[capabilities]\nnet = ['https://x']", "capsule.toml:8: capabilities.net[0]", ""),
        (SMALLEST + "[capabilities]\nkv = 'yes'", "capsule.toml:8: capabilities.kv", "expected `bool`"),
        (SMALLEST + "[capabilities]\nipc_publish = ['a.*']", "capsule.toml:8: capabilities.ipc_publish[0]", "cannot contain `*`"),
        (SMALLEST + "[capabilities]\nipc_publish = ['interlock.a']", "capabilities.ipc_publish[0]", "reserved for the host"),
        (SMALLEST + "[capabilities]\nipc_subscribe = ['a.b*']", "capabilities.ipc_subscribe[0]", "whole segment"),
        (SMALLEST + "[capabilities]\nipc_subscribe = ['a..b']", "capabilities.ipc_subscribe[0]", "expected a topic"),
        (
            SMALLEST + TOOL + "read_only = true\n[capabilities]\nfs_write = ['a']",
            "capsule.toml:12: tool[0].read_only",
            "may write files",
        ),
        (SMALLEST + "[limits]\nmemory_mb = 0", "capsule.toml:8: limits.memory_mb", ">= 1"),
        (SMALLEST + "[limits]\nmemory = 1", "capsule.toml:8: limits.memory", "unknown key"),
        (SMALLEST + "[capsule]\ndependencies = {a = '1'}", "capsule.toml:8: capsule.dependencies.a", "semantic version"),
        (SMALLEST + "[[uplink]]\nname='a'\nplatform='p'\n" * 2, "capsule.toml:11: uplink[1].name", "another uplink"),
    ],
)  # fmt: skip
def test_an_error_names_the_line_and_the_field(text, place, message):
    with pytest.raises(ConfigurationError) as caught:
        decode(text)
    assert place in caught.value.path
    assert message in caught.value.message


def test_a_manifest_without_a_component_is_told_which_there_are():
    with pytest.raises(ConfigurationError) as caught:
        decode(SMALLEST.partition("[component]")[0])
    assert "`component` (a WebAssembly component" in caught.value.hint
    assert "`core`" in caught.value.hint


def capsules(**dependencies):
    found = {}
    for name, needed in dependencies.items():
        text = SMALLEST.replace('"hello"', f'"{name}"') + "[capsule.dependencies]\n"
        found[name] = decode(text + "\n".join(f"{one} = '{versions}'" for one, versions in needed.items()))
    return found


def test_capsules_are_loaded_after_those_that_they_need():
    assert load_order(capsules(a={"c": "*"}, b={}, c={"b": ">=0.1.0"}), dotted) == ("b", "c", "a")
    many = {f"c{n:04}": {f"c{n + 1:04}": "*"} for n in range(1100)} | {"c1100": {}}
    assert load_order(capsules(**many), dotted)[0] == "c1100"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": {"b": "*"}}, "depends on `b`, which is not configured"),
        ({"a": {"b": ">=1.0.0"}, "b": {}}, "depends on `b` >=1.0.0, but its version is 0.1.0"),
        ({"a": {"a": "*"}}, "`a` -> `a`"),
        ({"a": {"b": "*"}, "b": {"c": "*"}, "c": {"b": "*"}}, "depend on each other"),
    ],
)
def test_dependencies_that_cannot_be_met_stop_the_start(given, message):
    with pytest.raises(ConfigurationError, match=message):
        load_order(capsules(**given), dotted)


def test_a_cycle_is_named_in_the_order_of_its_dependencies():
    with pytest.raises(ConfigurationError) as caught:
        load_order(capsules(a={"b": "*"}, b={"c": "*"}, c={"a": "*"}), dotted)
    cycle = caught.value.message.removeprefix("capsules depend on each other: ")
    assert cycle in ("`a` -> `b` -> `c` -> `a`", "`b` -> `c` -> `a` -> `b`", "`c` -> `a` -> `b` -> `c`")


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "project"
    (root / "caps" / "hello").mkdir(parents=True)
    (root / "interlock.toml").write_text("[capsules.hello]\npath = 'caps/hello'\n")
    (root / "caps" / "hello" / "capsule.toml").write_text(SMALLEST + TOOL)
    return root


def test_the_loader_reads_the_manifests_and_no_agent_may_write_what_they_name(project, tmp_path):
    (project / "interlock.lock").write_text("{}")
    gathered = gather(project)
    assert {file.name for file in gathered.files} == {"interlock.toml", "caps/hello/capsule.toml", "interlock.lock"}
    assert list(gathered.capsules) == ["hello"]
    assert {"caps/hello/capsule.toml", "caps/hello/hello.wasm"} <= set(gathered.protected)
    trust = TrustStore(tmp_path / "state", Disk())
    trust.record(gathered.root, gathered.files)
    assert load(project, env={}, flags={}, trust=trust).capsules == gathered.capsules
    manifest = project / "caps" / "hello" / "capsule.toml"
    manifest.write_text(manifest.read_text() + "[capabilities]\nkv = true\n")
    with pytest.raises(ConfigurationError) as caught:
        load(project, env={}, flags={}, trust=trust)
    assert caught.value.code == "untrusted_configuration"


def test_a_capsule_has_the_name_of_its_manifest(project):
    (project / "interlock.toml").write_text("[capsules.other]\npath = 'caps/hello'\n")
    with pytest.raises(ConfigurationError, match="another name, `hello`") as caught:
        gather(project)
    assert caught.value.path == "interlock.toml:1: capsules.other"


def test_a_capsule_and_a_server_of_one_name_are_refused(project):
    with (project / "interlock.toml").open("a") as file:
        file.write("[mcp.servers.hello]\ncommand = ['true']\n")
    with pytest.raises(ConfigurationError, match="both named `hello`"):
        gather(project)


def test_a_manifest_that_is_a_link_or_is_missing_is_refused(project):
    manifest = project / "caps" / "hello" / "capsule.toml"
    manifest.rename(manifest.with_name("real.toml"))
    with pytest.raises(ConfigurationError, match="does not exist"):
        gather(project)
    manifest.symlink_to("real.toml")
    with pytest.raises(ConfigurationError, match="symbolic link"):
        gather(project)
