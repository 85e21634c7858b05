"""Inputs as editors and shells leave them: byte order marks, other encodings, a directory that was removed."""

from __future__ import annotations

import codecs
import json
import shlex
import subprocess

import pytest
from cli_driving import COMMAND, call

PLAN = {"actions": [call("fs.read", path="here")]}


@pytest.mark.parametrize(
    ("name", "text"), [("p.json", json.dumps(PLAN)), ("p.yaml", "actions:\n- " + json.dumps(PLAN["actions"][0]))]
)
def test_a_plan_may_begin_with_a_byte_order_mark(cli, name, text):
    (cli.root / "here").write_text("x")
    (cli.root / name).write_bytes(codecs.BOM_UTF8 + text.encode())
    assert cli("verify", name).code == 0
    assert cli("verify", "-", stdin="\ufeff" + text).code == 0


@pytest.mark.parametrize("name", ["p.json", "p.yaml"])
def test_a_plan_in_another_encoding_is_named(cli, name):
    (cli.root / name).write_bytes(codecs.BOM_UTF16_LE + json.dumps(PLAN).encode("utf-16-le"))
    said = cli("verify", name, "--json")
    assert said.code == 2
    assert "byte order mark of UTF-16; save it as UTF-8" in said.error["message"]


def test_configuration_and_policies_may_begin_with_a_byte_order_mark(cli):
    path = cli.root / "interlock.toml"
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes() + b'\n[policy]\nfiles = ["p.cedar"]\n')
    (cli.root / "p.cedar").write_bytes(
        codecs.BOM_UTF8 + b'@id("x") forbid(principal, action, resource == Tool::"shell");'
    )
    assert cli("trust", "--yes").code == 0
    assert cli("policy", "check").code == 0
    assert cli("verify", cli.plan(*PLAN["actions"])).code == 0


def test_configuration_in_another_encoding_is_named(cli):
    (cli.root / "interlock.toml").write_bytes(codecs.BOM_UTF16_BE + "agent = 'x'".encode("utf-16-be"))
    said = cli("verify", cli.plan(*PLAN["actions"]), "--json")
    assert said.code == 2
    assert "byte order mark of UTF-16" in said.error["message"]


@pytest.mark.parametrize("argv", [["verify", "p.json"], ["runs", "list"], ["doctor"], ["undo", "run_x"], ["init"]])
def test_a_command_in_a_removed_directory_says_so(cli, argv):
    script = f"mkdir gone && cd gone && rmdir ../gone && exec {shlex.join([*COMMAND, *argv, '--json'])}"
    said = subprocess.run(
        ["/bin/sh", "-c", script], cwd=cli.root, env=cli.env, capture_output=True, timeout=25, check=False
    )
    error = json.loads(said.stdout)["error"]
    assert (said.returncode, error["code"]) == (2, "not_found")
    assert "the current directory was removed" in error["message"]
