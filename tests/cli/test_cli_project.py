"""`init` and `trust`: the user's own decisions."""

from __future__ import annotations

from cli_driving import call

from interlock.settings import gather


def test_init_writes_trusts_and_says_what_next(bare):
    said = bare("init")
    assert said.code == 0
    assert "interlock run PLAN" in said.out
    assert "wrote .interlock/interlock.schema.json" in said.out
    assert gather(bare.root).settings.agent == "agent"
    assert bare("run", bare.plan(call("fs.list"))).code == 0


def test_init_as_a_document(bare):
    document = bare("init", "--agent", "coder", "--json").json
    assert document["written"] == str(bare.root / "interlock.toml")
    assert document["trusted"] is True
    assert len(document["next"]) == 2
    assert gather(bare.root).settings.agent == "coder"


def test_init_never_overwrites(bare):
    (bare.root / "interlock.toml").write_text('agent = "mine"\n')
    assert bare("init", "--json").error["code"] == "configuration"
    assert (bare.root / "interlock.toml").read_text() == 'agent = "mine"\n'


def test_init_refuses_a_state_directory_inside_the_project(bare, monkeypatch):
    monkeypatch.setenv("INTERLOCK_STATE_DIR", str(bare.root / "state"))
    assert bare("init", "--json").error["code"] == "state_dir_in_workspace"
    assert not (bare.root / "interlock.toml").exists()


def test_an_edit_stops_runs_until_it_is_trusted(cli):
    path = cli.root / "interlock.toml"
    path.write_text(path.read_text() + "\n# an edit\n")
    said = cli("run", cli.plan(call("fs.list")), "--json")
    assert (said.code, said.error["code"]) == (2, "untrusted_configuration")
    assert "interlock trust" in said.error["hint"]
    refused = cli("trust")
    assert refused.code == 2
    assert "+# an edit" in refused.err
    assert "--yes" in refused.err
    document = cli("trust", "--yes", "--json").json
    assert document["trusted"] is True
    assert [(c["name"], c["status"]) for c in document["changes"]] == [("interlock.toml", "changed")]
    assert cli("run", "plan.json").code == 0
    assert "nothing changed" in cli("trust").out


def test_quiet_trust_says_nothing(cli):
    path = cli.root / "interlock.toml"
    path.write_text(path.read_text() + "\n# an edit\n")
    assert "+# an edit" in cli("trust", "--quiet").err  # what somebody is asked about is always shown
    said = cli("trust", "--yes", "--quiet")
    assert (said.code, said.out, said.err) == (0, "", "")


def test_a_secret_that_is_not_there_is_named_and_stops_nothing(cli):
    path = cli.root / "interlock.toml"
    notify = '[[approvals.notify]]\nkind = "webhook"\nurl = "https://hooks.example.org/x"\nsecret_env = "NO_SUCH"\n'
    path.write_text(path.read_text() + notify)
    cli("trust", "--yes")
    said = cli("run", cli.plan(call("fs.write", path="b.txt", content="hi")))
    assert said.code == 0
    assert "approvals.notify[0].secret_env" in said.err
    assert "`NO_SUCH`" in said.err
    assert cli("undo", cli("runs", "list", "--json").json[0]["run_id"]).code == 0


def test_policies_that_do_not_load_are_not_trusted(cli):
    (cli.root / "p.cedar").write_text("permit(principal, action, resource) when { context.params.x +  };\n")
    path = cli.root / "interlock.toml"
    before = path.read_text()
    path.write_text(before + '[policy]\nfiles = ["p.cedar"]\n')
    said = cli("trust", "--yes", "--json")
    assert (said.code, said.error["path"].split(":")[0]) == (2, "p.cedar")
    (cli.root / "p.cedar").unlink()
    path.write_text(before)
    assert cli("run", cli.plan(call("fs.list"))).code == 0  # what was trusted before is still trusted


def test_a_variable_of_somebody_else_stops_nothing(cli, monkeypatch):
    """Kubernetes sets these for a service named `interlock`; others are ignored with a warning, misspelt ones stop the start."""
    monkeypatch.setenv("INTERLOCK_PORT", "tcp://10.0.0.1:8787")
    monkeypatch.setenv("INTERLOCK_PORT_8787_TCP_ADDR", "10.0.0.1")
    monkeypatch.setenv("INTERLOCK_SERVICE_HOST", "10.0.0.1")
    said = cli("run", cli.plan(call("fs.list")))
    assert (said.code, said.err) == (0, "")
    monkeypatch.setenv("INTERLOCK_FLAVOUR", "x")
    assert "INTERLOCK_FLAVOUR" in cli("run", cli.plan(call("fs.list"))).err
    monkeypatch.setenv("INTERLOCK_BUDGET_ACTION", "1")
    assert cli("run", cli.plan(call("fs.list")), "--json").error["hint"] == "did you mean `INTERLOCK_BUDGET_ACTIONS`?"


def test_a_broken_configuration_is_the_users_and_named(cli):
    (cli.root / "interlock.toml").write_text('agnet = "x"\n')
    error = cli("trust", "--yes", "--json").error
    assert error["code"] == "configuration"
    assert "agent" in error["hint"]
    assert cli("run", cli.plan(call("fs.list")), "--json").code == 2


def test_runs_can_be_looked_at_whatever_the_configuration_is(cli):
    run_id = cli.run(call("fs.list"))["run_id"]
    (cli.root / "interlock.toml").write_text("broken = \n")
    assert [row["run_id"] for row in cli("runs", "list", "--json").json] == [run_id]
    assert cli("runs", "check", run_id).code == 0
    assert cli("runs", "log", run_id).code == 0


def test_where_an_approver_has_a_pin_trusting_needs_a_proof(cli, monkeypatch):
    token = cli("approvers", "add", "alice", "--pin", "--json", stdin="1234\n").json["token"]
    path = cli.root / "interlock.toml"
    path.write_text(path.read_text() + "\n# an edit\n")
    assert cli("trust", "--yes", "--json").error["code"] == "unauthenticated"
    monkeypatch.setenv("INTERLOCK_APPROVER_TOKEN", token)
    assert cli("trust", "--yes").code == 0
