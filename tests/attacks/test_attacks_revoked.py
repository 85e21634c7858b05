"""An agent that continues although its grant was taken away, and one that calls itself something else."""

import pytest
from engine_world import call, execute, reasons, statuses

TOML = """
agent = "coder"

[rules]
allow = ["fs.*"]

[grants.coder]
tools = ["fs.*"]
%s
"""
READ = call("fs.read", parameters={"path": "a"})


def test_a_configured_grant_that_was_revoked_stays_so(victim):
    project = victim(TOML % "", {"a": "x"})
    rt = project.open()
    assert statuses(execute(rt, READ)) == ["succeeded"]
    assert rt.services.desk.issued.revoke("configuration:coder", "alice") == ("configuration:coder",)
    assert reasons(execute(rt, READ)) == ["grant_revoked"]
    rt.close()
    rt = project.open()
    assert reasons(execute(rt, READ)) == ["grant_revoked"]
    rt.close()
    (project.root / "interlock.toml").write_text(
        (project.root / "interlock.toml").read_text() + "\n[budget]\nactions = 9\n"
    )
    project.trust()
    assert reasons(execute(project.open(), READ)) == ["grant_revoked"]


def test_a_revoked_grant_that_was_written_anew_is_another_one(victim):
    project = victim(TOML % "actions_max = 5", {"a": "x"})
    rt = project.open()
    rt.services.desk.issued.revoke("configuration:coder", "alice")
    rt.close()
    (project.root / "interlock.toml").write_text(
        (project.root / "interlock.toml").read_text().replace("max = 5", "max = 6")
    )
    project.trust()
    assert statuses(execute(project.open(), READ)) == ["succeeded"]


@pytest.mark.parametrize("name", ["group:ops", "Coder", "coder ", "c\u043eder", "operator ", "configuration:coder"])
def test_no_other_name_has_the_grants_of_an_agent_or_a_group(victim, name):
    rt = victim(TOML % '\n[groups]\nops = ["other"]\n[grants."group:ops"]\ntools = ["fs.*"]\n', {"a": "x"}).open()
    assert reasons(execute(rt, READ, agent=name)) == ["grant_missing"]
