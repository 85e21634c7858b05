"""`approvals`, `approvers`, `grants`, `policy`."""

from __future__ import annotations

import pytest
from cli_driving import call


@pytest.fixture
def held(cli):
    """A run that waits, and the question."""
    (cli.root / "a.txt").write_text("1")
    plan = cli.plan(call("fs.move", source="a.txt", destination="b.txt"))
    result = cli("run", plan, "--no-wait", "--session", "s", "--json").json
    return result["results"][0]["output"]["approval"]


def test_a_question_is_listed_and_shown(cli, held):
    (hold,) = cli("approvals", "list", "--json").json
    assert (hold["id"], hold["agent"], hold["tool"]) == (held, "coder", "fs.move")
    assert held in cli("approvals", "list").out
    shown = cli("approvals", "show", held)
    assert "destination = b.txt" in shown.out
    assert cli("approvals", "show", held, "--json").json["parameters"]["source"] == "a.txt"


def test_a_list_that_is_cut_says_so(cli, held):
    assert "there are more" not in cli("approvals", "list", "--limit", "1").err
    cli("run", "plan.json", "--no-wait")
    said = cli("approvals", "list", "--limit", "1", "--json")
    assert [hold["id"] for hold in said.json] == [held]
    assert "there are more" in said.err
    assert cli("approvals", "list", "--limit", "9" * 20, "--json").code == 2


def test_one_answer_wins(cli, held):
    assert cli("approvals", "deny", held, "--reason", "no").out == f"{held}: denied\n"
    again = cli("approvals", "approve", held, "--json")
    assert (again.code, again.error["code"]) == (1, "already_resolved")
    assert "denied" in again.error["message"]
    assert cli("approvals", "list", "--json").json == []
    assert len(cli("approvals", "list", "--status", "denied", "--json").json) == 1


@pytest.mark.parametrize("argv", [["show"], ["approve"], ["deny"]])
def test_a_question_that_is_not_there(cli, argv):
    said = cli("approvals", *argv, "hold_none", "--json")
    assert (said.code, said.error["code"]) == (2, "not_found")


def test_an_answer_may_be_bound_to_what_was_seen(cli, held):
    said = cli("approvals", "approve", held, "--digest", "sha256:other", "--json")
    assert (said.code, said.error["code"]) == (1, "changed")
    digest = cli("approvals", "show", held, "--json").json["digest"]
    assert cli("approvals", "approve", held, "--digest", digest).code == 0


def test_what_somebody_has_edited_is_not_approved_unseen(cli, two_of_ops):
    (cli.root / "a.txt").write_text("1")
    plan = cli.plan(call("fs.move", source="a.txt", destination="b.txt"))
    held = cli("run", plan, "--no-wait", "--json").json["results"][0]["output"]["approval"]
    patch = '{"destination": "c.txt"}'
    assert cli("approvals", "edit", held, patch, "--token-file", "bob").code == 0
    said = cli("approvals", "approve", held, "--token-file", "ann", "--json")
    assert (said.code, said.error["code"]) == (1, "changed")
    assert "--digest" in said.error["hint"]
    digest = cli("approvals", "show", held, "--json").json["digest"]
    done = cli("approvals", "approve", held, "--token-file", "ann", "--digest", digest, "--json").json
    assert done["approval"]["status"] == "approved"


TOKEN = "gh" + "p_" + "aB3dE5gH7jK9mN1pQ3sT5vX7zA9cD1eF3gH5"


def test_the_original_is_shown_to_an_approver_who_asks_for_it(cli, two_of_ops):
    plan = cli.plan(call("fs.move", source=f"{TOKEN}.txt", destination="b.txt"))
    (cli.root / f"{TOKEN}.txt").write_text("1")
    held = cli("run", plan, "--no-wait", "--json").json["results"][0]["output"]["approval"]
    shown = cli("approvals", "show", held).out
    assert TOKEN not in shown
    assert "hidden" in shown
    assert "--original" in shown
    assert cli("approvals", "show", held, "--original", "--json").error["code"] == "unauthenticated"
    said = cli("approvals", "show", held, "--original", "--token-file", "ann")
    assert f"source = {TOKEN}.txt" in said.out
    said = cli("approvals", "show", held, "--original", "--token-file", "ann", "--json").json
    assert said["parameters"]["source"] == f"{TOKEN}.txt"
    assert TOKEN not in str(said["approval"])


def test_what_is_not_seen_on_a_terminal_is_shown_as_an_escape(cli):
    (cli.root / "a.txt").write_text("1")
    unseen = "a\u200b\u202e\x1b[8m\u2800\u3164\ufe0f\ufe0f\u00a0\r.txt"
    plan = cli.plan(call("fs.move", source="a.txt", destination=unseen))
    held = cli("run", plan, "--no-wait", "--json").json["results"][0]["output"]["approval"]
    (line,) = [line for line in cli("approvals", "show", held).out.splitlines() if "destination =" in line]
    shown = line.partition(" = ")[2]
    assert shown == r"a\u200b\u202e\x1b[8m\u2800\u3164\ufe0f\ufe0f\xa0\r.txt"


@pytest.mark.parametrize(
    "argv",
    [
        ["approvals", "show", "hold_\udcff"],
        ["approvals", "deny", "hold_1", "--reason", "\udcff"],
        ["approvers", "add", "\udcff"],
        ["approvers", "add", "bob", "--display", "\udcff"],
        ["approvers", "add", "bob", "--group", "\udcff"],
        ["approvers", "add", "bob", "--group", "*"],
        ["approvers", "add", "bob", "--group", ""],
    ],
)
def test_what_cannot_be_kept_as_text_is_a_usage_error(cli, argv):
    assert cli(*argv, "--json").code == 2
    assert cli("approvers", "list", "--json").json == []


@pytest.mark.parametrize("patch", ["{", "5", "{}"])
def test_an_edit_must_be_a_patch(cli, held, patch):
    assert cli("approvals", "edit", held, patch, "--json").error["code"] == "usage"


def test_a_wider_answer_is_shown_agreed_to_and_revocable(cli, held):
    refused = cli("approvals", "approve", held, "--scope", "session")
    assert refused.code == 2
    assert "`fs.move` in session `s`" in refused.err
    assert cli("approvals", "approve", held, "--scope", "session", "--uses", "5", "--yes").code == 0
    (standing,) = cli("grants", "list", "--json").json["standing"]
    assert (standing["tool"], standing["uses_left"]) == ("fs.move", 5)
    assert cli("grants", "show", standing["id"], "--json").json["hold"] == held
    assert cli("grants", "revoke", standing["id"], "--json").json == {"revoked": [standing["id"]]}
    assert cli("grants", "list", "--json").json["standing"] == []


def test_watching_shows_what_is_asked(cli, held):
    assert [h["id"] for h in cli("approvals", "watch", "--count", "1", "--json").json] == [held]
    assert cli("approvals", "watch", "--json").error["code"] == "usage"


def test_with_approvers_an_answer_needs_their_proof(cli, held, monkeypatch):
    token = cli("approvers", "add", "bob", "--group", "ops", "--json").json["token"]
    assert cli("approvals", "approve", held, "--json").error["code"] == "unauthenticated"
    (cli.root / "token").write_text(token + "\n")
    assert cli("approvals", "approve", held, "--token-file", "missing", "--json").error["path"] == "missing"
    monkeypatch.setenv("INTERLOCK_APPROVER_TOKEN", "wrong")
    assert cli("approvals", "approve", held, "--json").error["code"] == "unauthenticated"
    monkeypatch.delenv("INTERLOCK_APPROVER_TOKEN")
    document = cli("approvals", "approve", held, "--token-file", "token", "--json").json
    assert document["approval"]["votes"][0]["approver"] == "bob"


def test_approvers_guard_their_own_list(cli, monkeypatch):
    token = cli("approvers", "add", "alice", "--json").json["token"]
    (row,) = cli("approvers", "list", "--json").json
    assert (row["name"], row["groups"], row["has_pin"]) == ("alice", ["ops"], False)
    assert token not in cli("approvers", "list").out
    for argv in (["add", "mallory"], ["remove", "alice"]):
        assert cli("approvers", *argv, "--json").error["code"] == "unauthenticated"
    monkeypatch.setenv("INTERLOCK_APPROVER_TOKEN", token)
    assert cli("approvers", "remove", "nobody", "--json").error["code"] == "not_found"
    assert cli("approvers", "remove", "alice").code == 0
    assert "any shell" in cli("approvers", "list").out


def test_the_present_state_of_a_grant_is_reported(cli):
    for ttl in ("0s", "99999999d"):
        said = cli("grants", "issue", "helper", "--tool", "*", "--ttl", ttl, "--json")
        assert (said.code, said.error["code"]) == (2, "usage")
    made = cli("grants", "issue", "helper", "--tool", "fs.list", "--read", "**", "--uses", "1", "--json").json
    assert "in force" in cli("grants", "list", "--agent", "helper").out
    assert cli("run", cli.plan(call("fs.list")), "--agent", "helper").code == 0
    assert "used up" in cli("grants", "list", "--agent", "helper").out
    cli("grants", "issue", "late", "--tool", "*", "--ttl", "1ms")
    assert "expired" in cli("grants", "list", "--agent", "late").out
    assert cli("grants", "revoke", made["id"]).out == f"revoked {made['id']}\n"
    assert cli("grants", "revoke", made["id"]).out == f"{made['id']} was revoked already\n"


def test_a_grant_is_issued_used_and_revoked_at_once(cli):
    plan = cli.plan(call("fs.list"))
    assert cli("run", plan, "--agent", "helper").code == 1
    made = cli("grants", "issue", "helper", "--tool", "fs.list", "--read", "**", "--uses", "1", "--json").json
    assert (made["agent"], made["source"]) == ("helper", "command")
    assert cli("run", plan, "--agent", "helper").code == 0
    assert cli("run", plan, "--agent", "helper", "--json").json["results"][0]["reason"] == "grant_used_up"
    again = cli("grants", "issue", "helper", "--tool", "fs.*", "--read", "**", "--ttl", "1h", "--json").json
    child = cli("grants", "issue", "child", "--parent", again["id"], "--tool", "fs.list", "--json").json
    assert child["parent"] == again["id"]
    assert sorted(cli("grants", "revoke", again["id"], "--json").json["revoked"]) == sorted([again["id"], child["id"]])
    assert cli("run", plan, "--agent", "child").code == 1
    assert again["id"] not in cli("grants", "list").out
    assert again["id"] in cli("grants", "list", "--all").out


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["issue", "x"], "usage"),
        (["issue", "operator", "--tool", "*"], "usage"),
        (["issue", "group:none", "--tool", "*"], "not_found"),
        (["issue", "x", "--tool", "*", "--ttl", "soon"], "usage"),
        (["issue", "x", "--tool", "*", "--parent", "grant_none"], "not_found"),
        (["issue", "x", "--tool", "fs.*", "--host", "http://x/"], None),
        (["revoke", "configuration:coder"], "usage"),
        (["revoke", "grant_none"], "not_found"),
        (["show", "grant_none"], "not_found"),
    ],
)
def test_grants_that_make_no_sense(cli, argv, code):
    said = cli("grants", *argv, "--json")
    assert (said.code, said.error["code"]) == (2, code or said.error["code"])
    assert cli("run", cli.plan(call("fs.list"))).code == 0


def test_a_grant_is_issued_to_a_group_and_listed_for_its_members(cli):
    path = cli.root / "interlock.toml"
    path.write_text(path.read_text() + '[groups]\ncrew = ["helper"]\n')
    cli("trust", "--yes")
    plan = cli.plan(call("fs.list"))
    assert cli("run", plan, "--agent", "helper").code == 1
    made = cli("grants", "issue", "group:crew", "--tool", "fs.list", "--read", "**", "--json").json
    assert cli("run", plan, "--agent", "helper").code == 0
    for agent, found in (("helper", [made["id"]]), ("group:crew", [made["id"]]), ("other", [])):
        listed = cli("grants", "list", "--agent", agent, "--json").json["grants"]
        assert [one["grant"]["id"] for one in listed] == found
    cli("grants", "revoke", made["id"])
    assert cli("run", plan, "--agent", "helper", "--json").json["results"][0]["reason"] == "grant_revoked"


POLICY = """
@id("no-secrets")
forbid (principal, action == Action::"fs.read", resource)
when { context.params.path like "secret*" };
"""


@pytest.fixture
def cedar(cli):
    (cli.root / "policy").mkdir()
    (cli.root / "policy" / "a.cedar").write_text(POLICY)
    path = cli.root / "interlock.toml"
    path.write_text(path.read_text() + '[policy]\nfiles = ["policy/*.cedar"]\n')
    return cli


def test_policies_are_shown_and_checked_before_they_are_trusted(cedar):
    checked = cedar("policy", "check", "--json").json
    assert (checked["valid"], checked["trusted"]) == (True, False)
    assert "interlock trust" in cedar("policy", "check").out
    shown = cedar("policy", "show")
    assert '@id("ask:fs.move")' in shown.out
    assert "no-secrets" in shown.out
    cedar("trust", "--yes")
    assert cedar("policy", "check", "--json").json["trusted"] is True
    assert cedar("policy", "show", "--json").json["files"][0]["name"] == "policy/a.cedar"


def test_a_mistake_in_a_policy_is_named_with_file_and_line(cedar):
    (cedar.root / "policy" / "a.cedar").write_text(POLICY.replace("params.path", "params.paht"))
    said = cedar("policy", "check", "--json")
    assert (said.code, said.error["code"]) == (2, "policy")
    assert said.error["path"].startswith("policy/a.cedar:4")
    assert "paht" in said.error["message"]


def test_a_mistake_in_a_rule_is_named_with_file_and_line(cli):
    path = cli.root / "interlock.toml"
    path.write_text(path.read_text() + '\n[[rules.deny_param]]\ntool = "shell"\nparam = "comand"\nlike = "*"\n')
    line = path.read_text().count("\n") - 3
    said = cli("policy", "check", "--json")
    assert (said.code, said.error["path"]) == (2, f"interlock.toml:{line}: rules.deny_param[0]")
    assert "did you mean `command`?" in said.error["message"]


def test_a_pattern_that_no_policy_file_fits_is_reported(cedar):
    path = cedar.root / "interlock.toml"
    path.write_text(path.read_text().replace("policy/*.cedar", "./policy/*.cedar"))
    assert cedar("policy", "check").err == ""
    (cedar.root / "policy" / "a[1].cedar").write_text("// nothing yet\n")
    there = f'"{cedar.root}/policy/*.cedar", "policy/a[1].cedar"'
    path.write_text(path.read_text().replace('"./policy/*.cedar"', f'"./policy/*.cedar", {there}'))
    assert cedar("policy", "check").err == ""
    path.write_text(path.read_text().replace("./policy/*.cedar", "./policy/*.ceder"))
    assert "no file matches the pattern `./policy/*.ceder`" in cedar("policy", "check").err


def test_explaining_a_tool_that_does_not_exist_suggests_one(cli):
    said = cli("policy", "explain", "fs.rea")
    assert "there is no tool `fs.rea` (did you mean `fs.read`?)" in said.err
    assert "warning" not in cli("policy", "explain", "fs.read", "--parameters", '{"path": "a"}').err


def test_a_table_of_cases(cedar):
    (cedar.root / "cases.yaml").write_text(
        "cases:\n"
        "- {name: plain, agent: coder, action: fs.read, parameters: {path: a}, expect: allow}\n"
        "- {name: secret, agent: coder, action: fs.read, parameters: {path: secret.txt}, expect: allow}\n"
    )
    said = cedar("policy", "test", "cases.yaml", "--json")
    assert (said.code, said.json["passed"], said.json["failed"]) == (1, 1, 1)
    assert "FAILED secret" in cedar("policy", "test", "cases.yaml").out
    assert cedar("policy", "test", "missing.yaml", "--json").error["code"] == "not_found"
    (cedar.root / "cases.yaml").write_text("cases: 5\n")
    assert cedar("policy", "test", "cases.yaml", "--json").code == 2


def test_cases_without_end_are_refused(cedar):
    said = cedar("policy", "test", "/dev/zero", "--json")
    assert (said.code, said.error["code"], said.error["path"]) == (2, "limit_exceeded", "/dev/zero")


def test_an_explanation_names_the_policies_that_decided(cedar):
    document = cedar("policy", "explain", "fs.read", "--parameters", '{"path": "secret"}', "--json").json
    assert (document["decision"]["decision"], document["decision"]["policies"]) == ("deny", ["no-secrets"])
    assert "no-secrets" in cedar("policy", "explain", "fs.read", "--parameters", '{"path": "secret"}').out
    assert (
        cedar("policy", "explain", "state_write", "--resource", "k", "--json").json["decision"]["decision"] == "allow"
    )
    assert cedar("policy", "explain", "fs.read", "--parameters", "[", "--json").error["code"] == "usage"


def test_an_explanation_is_about_what_would_be_asked(cedar):
    (cedar.root / "policy" / "a.cedar").write_text(
        '@id("one-key") forbid(principal == Agent::"coder", action == Action::"state_write", resource == StateKey::"k");'
    )
    explained = lambda *argv: cedar("policy", "explain", "state_write", *argv, "--json").json["decision"]
    assert explained("--parameters", '{"key": "k", "value": 1}')["policies"] == ["one-key"]
    assert explained("--resource", "k")["policies"] == ["one-key"]
    assert explained("--resource", "k", "--agent", "other")["decision"] == "allow"
    for action in ("state_write", "connect"):
        said = cedar("policy", "explain", action, "--json")
        assert (said.code, said.error["code"]) == (2, "usage")
    (cedar.root / "cases.yaml").write_text(
        "- {action: state_write, parameters: {key: k}, expect: deny, policies: [one-key]}\n"
        "- {action: state_write, parameters: {key: k}, agent: other, expect: allow}\n"
    )
    assert cedar("policy", "test", "cases.yaml").code == 0


def test_a_replay_says_what_an_edit_would_change(cli):
    (cli.root / "secret.txt").write_text("x")
    run_id = cli.run(call("fs.read", path="secret.txt"), call("fs.list"))["run_id"]
    assert cli("policy", "replay", "--json").json["changes"] == []
    (cli.root / "policy").mkdir()
    (cli.root / "policy" / "a.cedar").write_text(POLICY)
    path = cli.root / "interlock.toml"
    path.write_text(path.read_text() + '[policy]\nfiles = ["policy/*.cedar"]\n')
    told = cli("policy", "replay", run_id, "--json").json
    assert [(c["action"], c["before"], c["after"]["decision"]) for c in told["changes"]] == [("a1", "allow", "deny")]
    assert "denied 1 of 2" in cli("policy", "replay").out
    assert cli("policy", "replay", "run_none", "--json").error["code"] == "not_found"


def test_each_mistake_in_the_policies_has_its_own_line(cedar):
    (cedar.root / "policy" / "a.cedar").write_text(
        POLICY.replace("params.path", "params.paht")
        + '@id("other")\npermit(principal == Agnt::"x", action, resource);\n'
    )
    said = cedar("policy", "check")
    assert said.code == 2
    assert [[wrong in line for line in said.err.splitlines()].count(True) for wrong in ("paht", "Agnt")] == [1, 1]
    assert not any("paht" in line and "Agnt" in line for line in said.err.splitlines())


def test_a_grant_of_an_empty_glob_is_refused(cli):
    said = cli("grants", "issue", "coder", "--tool", "", "--json")
    assert (said.code, said.error["code"]) == (2, "usage")
    assert "-: " not in cli("grants", "show", "configuration:coder").out
    assert "tools: *\n" in cli("grants", "show", "configuration:coder").out


def test_an_answer_after_the_end_says_that_it_came_too_late(cli):
    plan = cli.plan(call("fs.move", source="a.txt", destination="b.txt"))
    (cli.root / "interlock.toml").write_text(
        (cli.root / "interlock.toml").read_text().replace("[approvals]", '[approvals]\nttl = "1s"')
    )
    cli("trust", "--yes")
    (cli.root / "a.txt").write_text("1")
    said = cli("run", plan)
    assert "got no answer in time" in said.out
    (hold,) = cli("approvals", "list", "--status", "expired", "--json").json
    late = cli("approvals", "approve", hold["id"], "--json")
    assert (late.code, late.error["code"]) == (1, "already_resolved")
    assert "expired" in late.error["message"]


def test_policy_check_names_what_no_tool_matches_in_grants(cli):
    path = cli.root / "interlock.toml"
    path.write_text(
        path.read_text() + '[grants.other]\ntools = ["fs.red", "shell(git *)", "tag:readonly", "fs.*", "*"]\n'
    )
    said = cli("policy", "check")
    assert said.code == 0
    warnings = [line.partition("warning: ")[2] for line in said.err.splitlines() if "grants.other" in line]
    assert warnings == [
        "grants.other.tools[0]: no tool matches `fs.red`; did you mean `fs.read`?",
        "grants.other.tools[1]: `shell(git *)` matches no tool: a grant names tools, and `[rules]` says which commands",
        "grants.other.tools[2]: no tool has the tag of `tag:readonly`; did you mean `tag:read_only`?",
    ]
