"""Modes and scopes of `interlock install`, in one process: what is written, kept, found by doctor, and given back."""

from __future__ import annotations

import json
import os
import shlex
import stat
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.engine.project_files import init
from interlock.model.errors import UsageError
from interlock.surfaces.clients.client import Setup, hook_command
from interlock.surfaces.clients.doors import examine_clients
from interlock.surfaces.clients.gateway_trial import GatewayStart, find_starts, try_gateway
from interlock.surfaces.clients.hook_program import Gate
from interlock.surfaces.clients.installation import Installation
from interlock.surfaces.clients.known import CLIENTS
from interlock.surfaces.clients.versions import found_version

SETTINGS = ".claude/settings.json"
FILES = (".mcp.json", SETTINGS)


class Place:
    """A trusted project, and a home."""

    def __init__(self, base: Path) -> None:
        self.root, self.home = base / "project", base / "home"
        self.root.mkdir()
        self.home.mkdir()
        self.env = {"HOME": str(self.home), "INTERLOCK_STATE_DIR": str(base / "state"), "PATH": str(base / "bin")}
        init(self.root, self.env)

    def install(self, mode=None, scope="project", agent=None):
        installation = Installation("claude-code", self.root, self.env, scope)
        changes = installation.plan_install(mode, agent)
        installation.apply(changes, mode, agent, None)
        return [change.outcome for change in changes]

    def remove(self, scope="project"):
        installation = Installation("claude-code", self.root, self.env, scope)
        changes = installation.plan_remove()
        installation.apply_removal(changes)
        return [change.outcome for change in changes]

    def files(self):
        return {name: (self.root / name).read_bytes() if (self.root / name).exists() else None for name in FILES}

    def settings(self):
        return json.loads((self.root / SETTINGS).read_text())

    def program(self, version: str) -> None:
        """A `claude` that says its version."""
        path = Path(self.env["PATH"]) / "claude"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\necho 'Claude Code {version}.'\n")
        path.chmod(0o755)

    def facts(self):
        return {fact.name: fact for fact in examine_clients(self.root, self.env, run=False)}


@pytest.fixture
def place(tmp_path):
    """A trusted project, and a home. A gate that was started ends with the test."""
    found = Place(tmp_path)
    yield found
    Gate(found.env["INTERLOCK_STATE_DIR"], time.monotonic() + 60).ask_once(b"interlock 1 stop\n" + bytes(16))


documents = st.one_of(
    st.none(),
    st.builds(
        lambda value, indent, end: json.dumps(value, indent=indent).encode() + end,
        st.fixed_dictionaries(
            {},
            optional={
                "hooks": st.dictionaries(
                    st.sampled_from(["PreToolUse", "Stop"]),
                    st.lists(
                        st.just({"matcher": "Bash", "hooks": [{"type": "command", "command": "mine"}]}), max_size=2
                    ),
                ),
                "permissions": st.fixed_dictionaries(
                    {}, optional={"deny": st.lists(st.sampled_from(["Bash", "Mine"]))}
                ),
                "mcpServers": st.dictionaries(st.sampled_from(["interlock", "other"]), st.just({"command": "x"})),
                "env": st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
            },
        ),
        st.sampled_from([None, 1, 4, "\t"]),
        st.sampled_from([b"", b"\n", b"\r\n\r\n"]),
    ),
)


@settings(deadline=None, max_examples=25)
@given(
    documents,
    documents,
    st.lists(
        st.tuples(st.sampled_from(["guard", "replace", None]), st.sampled_from([None, "coder"])), min_size=1, max_size=4
    ),
)
def test_removal_restores_the_bytes_whatever_was_set_up_in_between(servers, own, setups):
    with tempfile.TemporaryDirectory() as name:
        place = Place(Path(name).resolve())
        for path, data in zip(FILES, (servers, own), strict=True):
            if data is not None:
                (place.root / path).parent.mkdir(exist_ok=True)
                (place.root / path).write_bytes(data)
        before = place.files()
        for mode, agent in setups:
            place.install(mode, agent=agent)
            assert set(place.install(mode, agent=agent)) == {"unchanged"}
        place.remove()
        assert place.files() == before


def test_guard_mode_writes_hooks_that_fail_closed(place):
    (place.root / ".claude").mkdir()
    (place.root / SETTINGS).write_text('{"hooks": {"PreToolUse": [{"matcher": "*", "hooks": []}]}, "model": "mine"}')
    os.chmod(place.root / SETTINGS, 0o600)
    assert place.install("guard", agent="coder") == ["changed"]
    written = place.settings()
    theirs, ours = written["hooks"]["PreToolUse"]
    assert theirs == {"matcher": "*", "hooks": []}
    [hook] = ours["hooks"]
    assert (hook["onFailure"], hook["timeout"]) == ("block", 130)
    assert "agent=coder" in hook["command"]
    assert f"project={place.root}" in hook["command"]
    assert hook["command"].split()[1:3] == ["-I", "-S"]
    assert hook["command"].endswith("exit 2; }")
    assert written["model"] == "mine"
    assert stat.S_IMODE((place.root / SETTINGS).stat().st_mode) == 0o600


def test_another_mode_takes_the_place_of_the_first(place):
    place.install("replace")
    assert place.install("guard") == ["changed", "restored"]
    assert not (place.root / ".mcp.json").exists()
    assert list(place.settings()) == ["hooks"]
    assert place.remove() == ["restored"]
    assert place.files() == dict.fromkeys(FILES)


def test_the_users_own_settings(place):
    assert place.install("guard", "user") == ["changed"]
    assert "project=" not in (place.home / SETTINGS).read_text()
    assert not (place.root / SETTINGS).exists()
    place.remove("user")
    assert not (place.home / SETTINGS).exists()


@pytest.mark.parametrize("scope", ["user", "managed"])
def test_what_cannot_be_set_up_is_reported(place, scope):
    with pytest.raises(UsageError) as caught:
        place.install("replace", scope)
    assert (caught.value.code, "--mode guard --scope managed" in caught.value.hint) == ("client_mode", True)


@pytest.mark.parametrize(
    ("env", "state"),
    [
        ({"HOME": "/h"}, "/h/.local/state/interlock"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/x"}, "/x/interlock"),
        ({"HOME": "/h", "INTERLOCK_STATE_DIR": "/s"}, "/s"),
    ],
)
def test_a_hook_names_the_state_directory(env, state, tmp_path):
    """A client can set variables from a project's settings: they must not lead to a gate that trusts other rules."""
    for scope in ("project", "user"):
        assert f"state={state}" in shlex.split(hook_command("claude-code", Setup("guard", scope, None, tmp_path, env)))
    managed = hook_command("claude-code", Setup("guard", "managed", None, tmp_path, {"HOME": "/root"}))
    assert "state=" not in managed, "each user of the machine has an own one"


def test_names_with_spaces_and_quotes_in_the_hook(tmp_path):
    setup = Setup("guard", "project", "it's me", tmp_path / "a 'b' $c", {"HOME": str(tmp_path)})
    command = hook_command("claude-code", setup).rpartition(" || ")[0]
    assert shlex.split(command)[5:] == [
        "claude-code",
        f"project={tmp_path}/a 'b' $c",
        "agent=it's me",
        f"state={tmp_path}/.local/state/interlock",
        "seconds=100",
    ]


def test_versions_outside_the_tested_table_are_named(place):
    assert place.facts() == {}, "nothing is installed or set up"
    place.program("2.1.332")
    facts = place.facts()
    assert facts["claude-code: version"].status == "ok"
    assert "not set up" in facts["claude-code"].detail
    place.program("9.0.0-beta.1")
    assert found_version(CLIENTS["claude-code"], place.env) == "9.0.0-beta.1"
    facts = place.facts()
    assert facts["claude-code: version"].status == "warning"
    assert "was not tested" in facts["claude-code: version"].detail


def test_doctor_tries_the_hook_and_looks_at_the_files(place):
    place.install("guard")
    path = place.root / SETTINGS
    written = path.read_text()
    (place.root / "interlock.toml").write_text("[rules]\n")  # not trusted: refused all the same
    facts = place.facts()
    assert facts["claude-code: guard mode, project: hook"].status == "ok"
    assert facts["resident gate"].detail.startswith("not running")
    assert place.facts()["resident gate"].detail.startswith("running"), "the hook has started it"
    path.write_text(written.replace("PreToolUse", "PreToolUsed"))
    assert "no longer has" in place.facts()["claude-code: guard mode, project"].detail


def test_doctor_tries_the_gateway_by_starting_it(place):
    place.install("replace")
    name = "claude-code: replace mode, project: gateway"
    tried = place.facts()[name]
    assert (tried.status, tried.detail.startswith("it starts, and offers ")) == ("ok", True), tried
    place.install("replace", agent="stranger")
    tried = place.facts()[name]
    assert (tried.status, "`stranger`" in tried.detail, "[grants.NAME]" in tried.hint) == ("warning", True, True)
    (place.root / "interlock.toml").write_text("[rules]\n")
    tried = place.facts()[name]
    assert (tried.status, "not trusted" in tried.detail) == ("problem", True)
    gone = try_gateway(GatewayStart(("/nowhere/interlock", "gateway"), ()), place.root, place.env)
    assert (gone.status, "No such file" in gone.detail, "interlock install" in gone.hint) == ("problem", True, True)


def test_a_gateway_is_found_in_each_form_that_settings_have_for_it():
    own = GatewayStart(("/bin/interlock", "gateway", "--agent", "a"), (("INTERLOCK_STATE_DIR", "/s"),))
    given = {"INTERLOCK_STATE_DIR": "/s"}
    for value in (
        {"command": "/bin/interlock", "args": ["gateway", "--agent", "a"], "env": given},
        [{"mcp": {"type": "local", "command": ["/bin/interlock", "gateway", "--agent", "a"], "environment": given}}],
    ):
        assert list(find_starts(value)) == [own]
    assert list(find_starts({"command": "gateway", "args": []})) == []
    assert list(find_starts([{"command": "/bin/other", "args": ["serve"]}, "gateway", None])) == []


def test_doctor_says_when_a_subdirectory_is_not_covered(place):
    place.install("guard")
    (place.root / "sub").mkdir()
    for start, said in ((place.root, False), (place.root / "sub", True)):
        facts = {fact.name: fact.status for fact in examine_clients(start, place.env, run=False)}
        assert facts.get("claude-code: directory") == ("warning" if said else None)
