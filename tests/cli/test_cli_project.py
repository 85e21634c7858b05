"""`init` and `trust`: the user's own decisions."""

from __future__ import annotations

from cli_driving import call

from interlock.disk import Disk
from interlock.journal import lock
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


def test_init_below_a_project_says_that_its_rules_no_longer_apply(bare, monkeypatch):
    bare("init")
    (bare.root / "sub").mkdir()
    monkeypatch.chdir(bare.root / "sub")
    said = bare("init")
    assert said.code == 0
    assert f"{bare.root / 'interlock.toml'} no longer apply here" in said.err


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


def tree(root):
    """Every path below, with the bytes of files."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes() if path.is_file() else None for path in root.rglob("*")
    }


def test_what_init_made_is_removed_and_the_rest_is_as_before(bare):
    (bare.root / "notes.txt").write_text("mine")
    before = tree(bare.root)
    bare("init", "-q")
    assert tree(bare.root) != before
    said = bare("init", "--remove")
    assert said.code == 0
    assert tree(bare.root) == before
    assert "removed interlock.toml" in said.out
    assert "--state" in said.out  # what is left is named
    assert bare("init", "--remove", "--json").error["code"] == "not_found"
    assert bare("init", "--json").json["trusted"] is True
    assert bare("run", bare.plan(call("fs.list"))).code == 0


def test_a_file_that_a_person_changed_is_left(bare):
    bare("init", "-q")
    path = bare.root / "interlock.toml"
    path.write_text(path.read_text() + "# mine\n")
    bare("trust", "--yes")
    before = tree(bare.root)
    said = bare("init", "--remove")
    assert (said.code, tree(bare.root)) == (1, before)
    assert "left    interlock.toml: it was changed" in said.out
    assert bare("run", bare.plan(call("fs.list"), name="plan.json")).code == 0  # it is as trusted as before
    path.unlink()
    (bare.root / ".interlock" / "mine.txt").write_text("x")
    said = bare("init", "--remove", "--json")
    assert list(said.json["left"]) == [str(bare.root / ".interlock")]
    assert tree(bare.root).keys() == {"plan.json", ".interlock", ".interlock/mine.txt"}


def test_a_schema_that_trust_brought_up_to_date_is_removed_and_an_edited_one_is_left(bare):
    bare("init", "-q")
    schema = bare.root / ".interlock" / "interlock.schema.json"
    schema.write_text("{}")
    assert bare("init", "--remove").code == 1
    assert schema.read_text() == "{}"
    assert not (bare.root / "interlock.toml").exists()


def test_a_directory_that_was_there_before_init_stays(bare):
    (bare.root / ".interlock").mkdir()
    bare("init", "-q")
    assert bare("init", "--remove").code == 0
    assert tree(bare.root) == {".interlock": None}


def test_a_link_in_place_of_the_configuration_is_left(bare):
    bare("init", "-q")
    path = bare.root / "interlock.toml"
    (bare.root / "real.toml").write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to("real.toml")
    assert bare("init", "--remove").code == 1
    assert path.is_symlink()


def test_the_state_of_a_project_is_removed_only_on_request(bare):
    bare("init", "-q")
    bare.run(call("fs.list"))
    (bare.root / "plan.json").unlink()
    (home,) = (bare.root.parent / "state").glob("ws_*")
    assert bare("init", "--remove").code == 0
    assert home.is_dir()
    bare("init", "-q")
    assert len(bare("runs", "list", "--json").json) == 1
    assert bare("init", "--remove", "--state", "--json").error["message"] == "the command was not confirmed"
    assert home.is_dir()
    document = bare("init", "--remove", "--state", "--yes", "--json").json
    assert document["state_removed"] is True
    assert (home.exists(), tree(bare.root)) == (False, {})
    assert home.name not in (home.parent / "registry.json").read_text()
    assert str(bare.root) not in (home.parent / "trust.json").read_text()


def test_the_state_stays_while_a_changed_file_is_left(bare):
    bare("init", "-q")
    path = bare.root / "interlock.toml"
    path.write_text(path.read_text() + "# mine\n")
    said = bare("init", "--remove", "--state", "--yes", "--json")
    assert (said.code, said.json["state_removed"]) == (1, False)
    path.unlink()
    said = bare("init", "--remove", "--state", "--yes", "--json")
    assert (said.code, said.json["state_removed"], tree(bare.root)) == (0, True, {})


def test_the_state_of_a_live_run_is_not_removed(bare):
    bare("init", "-q")
    run_id = bare.run(call("fs.list"))["run_id"]
    (directory,) = (bare.root.parent / "state").glob(f"*/runs/{run_id}")
    with lock.held(directory, Disk()):
        assert bare("init", "--remove", "--state", "--yes", "--json").error["code"] == "run_locked"
    assert directory.is_dir()
    assert (bare.root / "interlock.toml").exists()


def test_a_client_that_is_set_up_here_is_taken_out_first(bare):
    bare("init", "-q")
    assert bare("install", "claude-code").code == 0
    error = bare("init", "--remove", "--json").error
    assert "interlock install claude-code --remove" in error["hint"]
    assert (bare.root / "interlock.toml").exists()
    assert bare("install", "claude-code", "--remove").code == 0
    assert bare("init", "--remove").code == 0
    assert tree(bare.root) == {}


def test_what_init_did_not_make_is_not_removed(cli):
    before = tree(cli.root)
    assert cli("init", "--remove", "--json").error["code"] == "not_found"
    assert tree(cli.root) == before
    assert cli("init", "--state", "--json").error["code"] == "usage"
    assert cli("init", "--remove", "--agent", "x", "--json").error["code"] == "usage"


def test_where_an_approver_has_a_pin_removing_and_writing_anew_need_a_proof(bare, monkeypatch):
    bare("init", "-q")
    token = bare("approvers", "add", "alice", "--pin", "--json", stdin="1234\n").json["token"]
    assert bare("init", "--remove", "--json").error["code"] == "unauthenticated"
    (bare.root / "interlock.toml").unlink()  # a way around `trust`: it asks for a proof
    assert bare("init", "--json").error["code"] == "unauthenticated"
    assert not (bare.root / "interlock.toml").exists()
    monkeypatch.setenv("INTERLOCK_APPROVER_TOKEN", token)
    assert bare("init").code == 0
    assert bare("init", "--remove").code == 0
