"""`interlock grants token | attenuate | inspect`, and `run --grant-token`."""

from __future__ import annotations

import stat

import pytest
from cli_driving import call

ROOT = "configuration:coder"


@pytest.fixture
def token(cli):
    """A token in a file."""
    assert cli("grants", "token", ROOT, "--tool", "fs.*", "--ttl", "10m", "--out", "token").code == 0
    return cli.root / "token"


def test_a_token_is_issued_narrowed_and_presented(cli, token):
    (cli.root / "a.txt").write_text("1")
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    narrower = ("grants", "attenuate", "token", "--deny-tool", "fs.delete", "--write", "src/**", "--out", "narrow")
    said = cli(*narrower, "--json").json
    assert "token" not in said
    plan = cli.plan(call("fs.read", path="a.txt"))
    assert cli("run", plan, "--grant-token", "narrow", "--json").json["status"] == "succeeded"
    refused = cli("run", cli.plan(call("fs.write", path="b.txt", content="")), "--grant-token", "narrow", "--json").json
    assert refused["results"][0]["reason"] == "path_denied"
    assert cli("run", cli.plan(call("fs.write", path="b.txt", content="")), "--grant-token", "token").code == 0
    listed = cli("grants", "list", "--json").json["grants"]
    assert said["id"] in [one["grant"]["id"] for one in listed]


def test_a_token_on_the_screen_is_the_whole_output(cli):
    said = cli("grants", "token", ROOT)
    assert said.out.startswith("igt1_")
    assert said.out.count("\n") == 1
    made = cli("grants", "token", ROOT, "--json").json
    assert made["token"].startswith("igt1_")


def test_inspect_shows_what_a_token_allows_and_not_its_secret(cli, token):
    cli("grants", "attenuate", "token", "--no", "hosts", "--uses", "3", "--out", "narrow")
    shown = cli("grants", "inspect", "narrow")
    assert "agent: coder" in shown.out
    assert "uses_max: 3" in shown.out
    assert token.read_text().strip()[5:60] not in shown.out
    assert cli("grants", "inspect", "narrow", "--json").json["blocks"][1]["hosts"] == []


def test_a_token_is_revoked_by_its_id(cli, token):
    made = cli("grants", "inspect", "token", "--json").json
    assert cli("grants", "revoke", made["id"]).code == 0
    said = cli("run", cli.plan(call("fs.read", path="a.txt")), "--grant-token", "token", "--json")
    assert (said.code, said.error["code"]) == (2, "grant_token_revoked")
    assert cli("grants", "revoke", "token_" + "0" * 32).code == 0, "one that was never seen here, too"


def test_what_is_not_a_token_is_refused_without_being_repeated(cli, token):
    plan = cli.plan(call("fs.read", path="a.txt"))
    text = token.read_text().strip()
    (cli.root / "cut").write_text(text[:-10])
    (cli.root / "bytes").write_bytes(b"\xff\xfe\x00")
    for name, code in (("cut", "bad_grant_token"), ("bytes", "usage"), ("none", "usage"), (".", "usage")):
        said = cli("run", plan, "--grant-token", name, "--json")
        assert (said.code, said.error["code"]) == (2, code), name
        assert text[5:60] not in said.out + said.err
    for argv in (("inspect", "cut"), ("attenuate", "cut", "--tool", "*")):
        assert cli("grants", *argv, "--json").error["code"] == "bad_grant_token"


@pytest.mark.parametrize(
    "argv",
    [
        ("token", "grant_none"),
        ("token", ROOT, "--agent", "other"),
        ("token", ROOT, "--ttl", "60d"),
        ("token", ROOT, "--tool", ""),
        ("token", ROOT, "--no", "hosts", "--host", "a:1"),
        ("token", ROOT, "--out", "token"),
        ("attenuate", "token", "--host", "a b"),
    ],
)
def test_wishes_that_make_no_sense(cli, token, argv):
    before = token.read_text()
    assert cli("grants", *argv, "--json").code == 2
    assert token.read_text() == before


def test_issuing_needs_the_proof_of_an_approver_once_there_is_one(cli, token):
    cli("approvers", "add", "alice", "--json")
    said = cli("grants", "token", ROOT, "--json")
    assert (said.code, said.error["code"]) == (2, "unauthenticated")
    assert cli("grants", "attenuate", "token", "--tool", "fs.read").code == 0, "a holder needs nobody"
