"""Environment and flags may tighten, never loosen: the rules one by one, and at random against a second definition."""

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from interlock.model.errors import ConfigurationError
from interlock.model.globs import name_matcher
from interlock.model.units import as_duration, as_size, duration_ms, size_bytes
from interlock.settings.decode import decode
from interlock.settings.overlay import RULES, overlay

FILE = {
    "agent": "coder",
    "rules": {"allow": ["fs.*", "git.status", "tag:safe", "*"], "ask": ["shell"], "deny": ["git.push"]},
    "approvals": {"ttl": "10m"},
    "budget": {"actions": 100, "cost": 5.0, "duration": "1h", "run": {"actions": 10}},
    "isolation": {"memory": "1GiB", "processes": 64, "require": ["fs"], "profile": "nons"},
    "workspace": {"commit": "ask"},
    "journal": {"durability": "batch"},
    "guard": {"cpu": 0.5, "zombies": 10},
    "tools": {"modules": ["a.b", "c"]},
    "telemetry": {"otel": "http://127.0.0.1:4318"},
}


def with_env(**env):
    return overlay(decode(FILE), env, {})[0]


def loosens(env=None, flags=None):
    with pytest.raises(ConfigurationError) as caught:
        overlay(decode(FILE), env or {}, flags or {})
    assert caught.value.code == "override_loosens"
    return caught.value


def test_tightening_by_environment():
    assert with_env(INTERLOCK_BUDGET_ACTIONS="10").budget.actions == 10
    assert with_env(INTERLOCK_BUDGET_TOOL_CALLS="7").budget.tool_calls == 7
    assert with_env(INTERLOCK_BUDGET_RUN_ACTIONS="0").budget.run.actions == 0
    assert with_env(INTERLOCK_BUDGET_DURATION="90s").budget.duration_ms == 90_000
    assert with_env(INTERLOCK_BUDGET_COST="1").budget.cost == 1.0
    assert with_env(INTERLOCK_RULES_DENY="curl, fs.write").rules.deny == ("git.push", "curl", "fs.write")
    assert with_env(INTERLOCK_RULES_ALLOW="fs.read,fs.w*").rules.allow == ("fs.read", "fs.w*")
    assert with_env(INTERLOCK_RULES_ALLOW="").rules.allow == ()
    assert with_env(INTERLOCK_RULES_ASK="fs.write,tag:safe").rules.ask == ("shell", "fs.write", "tag:safe")
    assert with_env(INTERLOCK_APPROVALS_TTL="1m").approvals.ttl_ms == 60_000
    assert with_env(INTERLOCK_APPROVALS_SEPARATION="true").approvals.separation
    assert with_env(INTERLOCK_ISOLATION_PROFILE="ns").isolation.profile == "ns"
    assert with_env(INTERLOCK_ISOLATION_REQUIRE="net").isolation.require == ("fs", "net")
    assert with_env(INTERLOCK_ISOLATION_MEMORY="256MiB").isolation.memory_bytes == 2**28
    assert with_env(INTERLOCK_WORKSPACE_COMMIT="never").workspace.commit == "never"
    assert with_env(INTERLOCK_GUARD_CPU="0.25").guard.cpu == 0.25
    assert with_env(INTERLOCK_JOURNAL_DURABILITY="full").journal.durability == "full"
    assert with_env(INTERLOCK_TOOLS_MODULES="c").tools.modules == ("c",)
    assert with_env(INTERLOCK_TELEMETRY_OTEL="").telemetry.otel is None


def test_the_same_value_does_not_count_as_looser():
    env = {
        "INTERLOCK_BUDGET_ACTIONS": "100",
        "INTERLOCK_JOURNAL_DURABILITY": "batch",
        "INTERLOCK_BUDGET_TOOL_CALLS": "",
    }
    assert overlay(decode(FILE), env, {})[0] == decode(FILE)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BUDGET_ACTIONS", "101"),
        ("BUDGET_ACTIONS", ""),
        ("BUDGET_COST", "5.01"),
        ("BUDGET_DURATION", "61m"),
        ("APPROVALS_TTL", "11m"),
        ("RULES_ALLOW", "shell,curl,nothing,connect"),
        ("RULES_ALLOW", "tag:other"),
        ("RULES_ASK", "compensate"),
        ("RULES_ASK", "tag:other"),
        ("ISOLATION_PROFILE", "none"),
        ("WORKSPACE_COMMIT", "auto"),
        ("ISOLATION_MEMORY", "2GiB"),
        ("ISOLATION_PROCESSES", "65"),
        ("ISOLATION_TIMEOUT", "3m"),
        ("GUARD_CPU", "0.6"),
        ("GUARD_ZOMBIES", "11"),
        ("GUARD_WAIT", "31s"),
        ("JOURNAL_DURABILITY", "off"),
        ("TOOLS_MODULES", "c,d"),
        ("TELEMETRY_OTEL", "http://127.0.0.1:9999"),
        # what only the file may set
        ("AGENT", "root"),
        ("JOURNAL_KEEP", "1d"),
        ("POLICY_FILES", "x.cedar"),
        ("GRANTS", "x"),
        ("APPROVALS_GROUPS", "ops"),
        ("RULES_DENY_PARAM", "x"),
        ("MCP_SERVERS", "x"),
        ("CAPSULES", "x"),
    ],
)
def test_loosening_is_an_error_that_names_the_key_and_not_the_value(name, value):
    error = loosens({f"INTERLOCK_{name}": value})
    assert error.path == f"environment INTERLOCK_{name}"
    assert name.partition("_")[0].lower() in error.message
    assert "interlock.toml" in error.hint
    assert "9999" not in error.message


def test_to_ask_for_what_the_file_denies_by_default_is_looser():
    narrow = decode({"rules": {"allow": ["fs.read"]}})
    with pytest.raises(ConfigurationError, match="loosen"):
        overlay(narrow, {"INTERLOCK_RULES_ASK": "shell"}, {})
    # moving a tool from `allow` to `ask` in one go is tighter
    assert overlay(narrow, {"INTERLOCK_RULES_ALLOW": "", "INTERLOCK_RULES_ASK": "fs.read"}, {})[0].rules.ask == (
        "fs.read",
    )


def test_flags_come_after_the_environment_and_may_not_loosen_it():
    got, sources = overlay(
        decode(FILE), {"INTERLOCK_BUDGET_ACTIONS": "50"}, {"budget.actions": 20, "rules.deny": ["a", "b"]}
    )
    assert got.budget.actions == 20
    assert got.rules.deny == ("git.push", "a", "b")
    assert sources == {("budget", "actions"): "flag budget.actions", ("rules", "deny"): "flag rules.deny"}
    loosens({"INTERLOCK_BUDGET_ACTIONS": "50"}, {"budget.actions": "60"})
    loosens({"INTERLOCK_RULES_ALLOW": "git.status"}, {"rules.ask": "fs.read"})
    loosens({}, {"journal.durability": "off"})


@pytest.mark.parametrize(
    ("name", "value"),
    [("BUDGET_ACTIONS", "ten"), ("BUDGET_ACTIONS", "1.5"), ("BUDGET_ACTIONS", "-1"), ("BUDGET_DURATION", "60"),
     ("ISOLATION_PROFILE", "x"), ("APPROVALS_SEPARATION", "maybe"), ("GUARD_CPU", "nan"), ("ISOLATION_REQUIRE", "walls"),
     ("BUDGET_COST", "inf")],
)  # fmt: skip
def test_a_value_that_cannot_be_is_an_error_naming_the_variable(name, value):
    with pytest.raises(ConfigurationError) as caught:
        overlay(decode(FILE), {f"INTERLOCK_{name}": value}, {})
    assert (caught.value.code, caught.value.path) == ("configuration", f"environment INTERLOCK_{name}")


def test_a_misspelt_variable_or_flag_is_an_error_not_ignored():
    with pytest.raises(ConfigurationError) as caught:
        overlay(decode(FILE), {"INTERLOCK_BUGET_ACTIONS": "1"}, {})
    assert caught.value.hint == "did you mean `INTERLOCK_BUDGET_ACTIONS`?"
    with pytest.raises(ConfigurationError) as caught:
        overlay(decode(FILE), {}, {"budget.action": "1"})
    assert caught.value.hint == "did you mean `budget.actions`?"
    for name in ("INTERLOCK_STATE_DIR", "INTERLOCK_APPROVER_TOKEN", "PATH", "OTHER_INTERLOCK_X"):
        assert overlay(decode(FILE), {name: "x"}, {})[1] == {}


# --- at random: a second definition of what looser means

TOOLS = ["fs.read", "fs.write", "shell", "git.push", "state_write", "curl"]
ENTRIES = [*TOOLS, "fs.*", "*", "f*", "tag:safe", "git.*", "*.read"]
TAGGED = {"tag:safe": {"fs.read", "curl"}}


def hit(entries, tool):
    """Whether an entry means this action, as policy/rules.py reads them: globs are over tools, `*` alone over state too."""
    plain = [e for e in entries if "*" not in e and not e.startswith("tag:")]
    globs = [e for e in entries if "*" in e and not e.startswith("tag:")]
    return (
        tool in plain
        or ("*" in globs if tool == "state_write" else name_matcher(globs)(tool))
        or any(tool in TAGGED[e] for e in entries if e in TAGGED)
    )


def freedom(settings, tool):
    """0 denied, 1 asked, 2 allowed."""
    if hit(settings.rules.deny, tool):
        return 0
    if hit(settings.rules.ask, tool):
        return 1
    return 2 if hit(settings.rules.allow, tool) else 0


def bound(value):
    return float("inf") if value is None else value


entry_lists = st.lists(st.sampled_from(ENTRIES), max_size=4, unique=True)
durations = st.integers(1, 10**7).map(as_duration)
files = st.fixed_dictionaries(
    {},
    optional={
        "rules": st.fixed_dictionaries({}, optional=dict.fromkeys(("allow", "ask", "deny"), entry_lists)),
        "budget": st.fixed_dictionaries({}, optional={"actions": st.integers(0, 9), "duration": durations}),
        "isolation": st.fixed_dictionaries(
            {},
            optional={
                "profile": st.sampled_from(["none", "nons", "ns"]),
                "require": st.lists(st.sampled_from(["fs", "net", "record"]), unique=True),
                "memory": st.integers(2**25, 2**30).map(as_size),
            },
        ),
        "workspace": st.fixed_dictionaries({}, optional={"mode": st.sampled_from(["direct", "layer"])}),
        "journal": st.fixed_dictionaries({}, optional={"durability": st.sampled_from(["off", "batch", "full"])}),
        "approvals": st.fixed_dictionaries({}, optional={"separation": st.booleans()}),
    },
)
overrides = st.dictionaries(
    st.sampled_from(
        ["rules.allow", "rules.ask", "rules.deny", "budget.actions", "budget.duration", "isolation.profile",
         "isolation.require", "workspace.mode", "isolation.memory", "journal.durability", "approvals.separation"]
    ),
    entry_lists.map(",".join)
    | st.integers(0, 9).map(str)
    | durations
    | st.sampled_from(["", "none", "ns", "fs", "fs,net", "direct", "layer", "32MiB", "off", "batch", "full", "true", "false"]),
    max_size=4,
)  # fmt: skip


@hypothesis_settings(max_examples=500)
@given(files, overrides, overrides)
def test_no_override_ever_loosens(file, env, flags):
    before = decode(file)
    variables = {"INTERLOCK_" + key.replace(".", "_").upper(): value for key, value in env.items()}
    try:
        after, _ = overlay(before, variables, flags)
    except ConfigurationError:
        return
    for tool in TOOLS:
        assert freedom(after, tool) <= freedom(before, tool), tool
    assert bound(after.budget.actions) <= bound(before.budget.actions)
    assert bound(after.budget.duration_ms) <= bound(before.budget.duration_ms)
    assert after.isolation.memory_bytes <= before.isolation.memory_bytes
    assert set(after.isolation.require) >= set(before.isolation.require)
    assert (before.workspace.mode, after.workspace.mode) != ("layer", "direct")
    for strict, value in (("none", "profile"), ("nons", "profile")):
        assert getattr(after.isolation, value) != strict or getattr(before.isolation, value) in ("none", strict)
    order = ["off", "batch", "full"]
    assert order.index(after.journal.durability) >= order.index(before.journal.durability)
    assert after.approvals.separation >= before.approvals.separation
    untouched = {"guard", "tools", "mcp", "capsules", "telemetry", "grants", "agent", "policy"}
    assert all(getattr(before, name) == getattr(after, name) for name in untouched)


def test_every_rule_names_a_setting():
    for key in RULES:
        owner = decode({})
        for part in key.split(".")[:-1]:
            owner = getattr(owner, part)
        assert key.rpartition(".")[2] in type(owner).__struct_encode_fields__


@given(st.integers(0, 2**53 - 1))
def test_durations_and_sizes_are_read_as_they_are_written(value):
    assert duration_ms(as_duration(value)) == value
    assert size_bytes(as_size(value)) == value


@given(st.text(max_size=12) | st.from_regex(r"[0-9.]{1,6} ?(ms|s|m|h|GiB|MB|B)", fullmatch=True))
def test_any_text_is_a_duration_or_a_clear_error(text):
    for parse in (duration_ms, size_bytes):
        try:
            assert parse(text) >= 0
        except ValueError as error:
            assert str(error).startswith(("expected", "too large"))  # noqa: PT017 - either way is right
