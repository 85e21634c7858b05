"""Configuration is decoded strictly: every error names the place, none shows a value, nothing is silently ignored."""

import datetime as dt
import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.model.codes import ERROR_CODES
from interlock.model.errors import ConfigurationError
from interlock.model.schema import Schema
from interlock.settings import Settings
from interlock.settings.decode import decode, fields_of
from interlock.settings.schema import as_text, json_schema
from interlock.settings.sections import DEFAULTS
from interlock.settings.source import locator, parse_toml

EXAMPLE = """
agent = "coder"

[rules]
allow = ["fs.read", "fs.list", "fs.search", "git.status", "git.diff", "tag:read_only"]
ask   = ["fs.write", "fs.edit", "shell", "git.commit"]
deny  = ["git.push", "proc.kill"]
[[rules.deny_param]]
tool = "shell"
param = "command"
like = "*rm -rf*"

[policy]
files = ["policy/*.cedar"]

[grants.coder]
tools = ["fs.*", "git.*", "shell", "github/*"]
paths = { read = ["**"], write = ["src/**", "tests/**", "docs/**"] }
hosts = ["index.example.net:443", "*.example.org:443"]
state_keys = ["build.*"]
expires_at = 2030-01-01T00:00:00Z

[approvals]
ttl = "10m"
groups = { ops = ["alice", "bob"] }
[[approvals.notify]]
kind = "webhook"
url = "https://hooks.example.org/x"
secret_env = "HOOK_SECRET"

[budget]
actions = 500
tool_calls = 300
duration = "2h"
cost = 5

[budget.run]
actions = 50

[isolation]
profile = "ns"
require = ["fs", "net"]
memory = "1GiB"
processes = 64
timeout = "120s"

[workspace]
mode = "layer"
commit = "auto"

[guard]
cpu = 0.8
memory = 0.8
disk = 0.9

[journal]
durability = "full"
keep = "90d"

[tools]
modules = ["my_project.agent_tools"]
[tools."shell"]
rate_limit = { calls = 30, per = "1m" }

[mcp.servers.github]
command = ["npx", "@modelcontextprotocol/server-github"]
env = ["GITHUB_TOKEN"]

[capsules.hello]
path = "capsules/hello"

[telemetry]
otel = "http://127.0.0.1:4318"
"""


def of(text):
    data = text.encode()
    return decode(parse_toml(data, "interlock.toml"), locate=locator(data, "interlock.toml"))


def refused(text):
    with pytest.raises(ConfigurationError) as caught:
        of(text)
    assert caught.value.code == "configuration"
    assert caught.value.exit_code == 2
    return caught.value


def test_the_example_of_the_design_decodes():
    settings = of(EXAMPLE)
    assert settings.agent == "coder"
    assert settings.rules.ask == ("fs.write", "fs.edit", "shell", "git.commit")
    assert settings.rules.deny_param[0].like == "*rm -rf*"
    assert settings.approvals.ttl_ms == 600_000
    assert settings.approvals.groups == {"ops": ("alice", "bob")}
    assert settings.approvals.notify[0].secret_env == "HOOK_SECRET"
    assert (settings.budget.actions, settings.budget.duration_ms, settings.budget.cost) == (500, 7_200_000, 5.0)
    assert (settings.budget.run.actions, settings.budget.agent.actions) == (50, None)
    assert settings.isolation.memory_bytes == 2**30
    assert settings.isolation.timeout_ms == 120_000
    assert settings.journal.keep_ms == 90 * 86_400_000
    assert settings.tools.modules == ("my_project.agent_tools",)
    assert settings.tools.by_name["shell"].rate_limit.per_ms == 60_000
    assert settings.mcp.servers["github"].env == ("GITHUB_TOKEN",)
    assert settings.capsules["hello"].path == "capsules/hello"
    assert settings.telemetry.otel == "http://127.0.0.1:4318"
    grant = settings.grant("coder")
    assert grant.paths.write == ("src/**", "tests/**", "docs/**")
    assert grant.state_keys == ("build.*",)
    assert grant.expires_at_us == round(dt.datetime(2030, 1, 1, tzinfo=dt.UTC).timestamp() * 1e6)
    assert settings.grant("somebody") is None
    assert settings.all_grants() == (grant,)


def test_nothing_is_allowed_by_default():
    settings = of("")
    assert settings == DEFAULTS == Settings()
    assert settings.rules.allow == settings.rules.ask == ()
    assert settings.all_grants() == ()
    assert settings.journal.durability == "full"


def test_settings_in_code_equal_the_files():
    assert decode({"budget": {"actions": 3}, "rules": {"allow": ("a",)}}) == of(
        '[budget]\nactions = 3\n[rules]\nallow = ["a"]'
    )


def test_settings_cannot_be_changed():
    with pytest.raises(AttributeError):
        of("").agent = "x"


@pytest.mark.parametrize(
    ("text", "path", "hint"),
    [
        ("[rules]\nalow = []", "interlock.toml:2: rules.alow", "did you mean `allow`?"),
        ("agent = 'a'\nbuget = 1", "interlock.toml:2: buget", "did you mean `budget`?"),
        ("[budget.runn]", "interlock.toml:1: budget.runn", "did you mean `run`?"),
        ("\n[isolation]\nmemory_bytes = 3", "interlock.toml:3: isolation.memory_bytes", "did you mean `memory`?"),
        ("[tools]\nmodule = []", "interlock.toml:2: tools.module", "did you mean `modules`?"),
        ("[tools.shell]\ntimout = '1s'", "interlock.toml:2: tools.shell.timout", "did you mean `timeout`?"),
        ("[grants.a.paths]\nwirte = []", "interlock.toml:2: grants.a.paths.wirte", "did you mean `write`?"),
        ("[[approvals.notify]]\nkind='bell'\n[[approvals.notify]]\nkin='bell'", "interlock.toml:4: approvals.notify[1].kin",
         "did you mean `kind`?"),
        ("[mcp.servers.x]\ncommand=['a']\nenvs=[]", "interlock.toml:3: mcp.servers.x.envs", "did you mean `env`?"),
        ("xyzzy = 1", "interlock.toml:1: xyzzy", "known keys: agent, rules"),
    ],
)  # fmt: skip
def test_an_unknown_key_is_an_error_with_its_line_and_the_nearest_name(text, path, hint):
    error = refused(text)
    assert error.path == path
    assert error.hint.startswith(hint)
    assert "unknown key" in error.message


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("agent = 1", "agent", "expected `str`, got `int`"),
        ("agent = ''", "agent", "length"),
        ("rules = []", "rules", "expected a table"),
        ("[rules]\nallow = 'fs.read'", "rules.allow", "expected a list"),
        ("[rules]\nallow = ['a', 1]", "rules.allow[1]", "expected `str`"),
        ("[rules]\ndeny_param = [{tool='x', param='y'}]", "rules.deny_param[0]", "`like` is missing"),
        ("[budget]\nactions = -1", "budget.actions", ">= 0"),
        ("[budget]\nactions = 1.5", "budget.actions", "expected `int`"),
        ("[budget]\nactions = true", "budget.actions", "expected `int`"),
        ("[budget]\nactions = 9007199254740992", "budget.actions", "<="),
        ("[budget]\ncost = inf", "budget.cost", "finite"),
        ("[budget]\ncost = nan", "budget.cost", "finite"),
        ("[budget]\nduration = 7200", "budget.duration", "unit"),
        ("[budget]\nduration = '2 hours'", "budget.duration", "expected a duration"),
        ("[budget]\nduration = '-2h'", "budget.duration", "expected a duration"),
        ("[budget]\nduration = '0s'", "budget.duration", "range"),
        ("[approvals]\nttl = '10'", "approvals.ttl", "expected a duration"),
        ("[approvals]\nttl = '999999999999999w'", "approvals.ttl", "too large"),
        ("[isolation]\nmemory = '1Gb'", "isolation.memory", "expected a size"),
        ("[isolation]\nmemory = '1.5B'", "isolation.memory", "whole"),
        ("[isolation]\nprofile = 'docker'", "isolation.profile", "expected one of `none`, `nons`, `ns`"),
        ("[isolation]\nprocesses = 0", "isolation.processes", ">= 1"),
        ("[guard]\ncpu = 80", "guard.cpu", "<= 1"),
        ("[guard]\ncpu = 0", "guard.cpu", "> 0"),
        ("[journal]\ndurability = 'fast'", "journal.durability", "expected one of"),
        ("[grants]\ncoder = 3", "grants.coder", "expected a table"),
        ("[grants.a]\nhosts = ['http://x']", "grants.a.hosts[0]", "no valid port"),
        ('[groups]\ncrew = ["group:x"]\n', "groups.crew[0]", "must not begin with `group:`"),
        ('agent = "group:x"', "agent", "must not begin with `group:`"),
        ('agent = "operator"', "agent", "reserved for the person"),
        ('[groups]\ncrew = ["operator"]', "groups.crew[0]", "reserved for the person"),
        ("[grants.operator]", "grants.operator", "reserved for the person"),
        ("[groups]\ncrew = 'a'", "groups.crew", "expected a list"),
        ('[groups]\ncrew = ["a"]\n[grants."group:crow"]', 'grants["group:crow"]', "no such group"),
        ("[grants.a]\nexpires_at = 2030-01-01T00:00:00", "grants.a.expires_at", "timezone"),
        ("[grants.a]\npaths = {write = ['../x']}", "grants.a.paths.write[0]", ".."),
        ("[grants.a]\nhosts = ['a.org:443', 'example.org']", "grants.a.hosts[1]", "not `host:port`"),
        ("[tools]\nmodules = ['a b']", "tools.modules[0]", "expected"),
        ("[tools.'a'.rate_limit]\ncalls = 1", "tools.a.rate_limit", "`per` is missing"),
        ("[capsules.x]", "capsules.x", "`path` is missing"),
        ("[mcp.servers.x]", "mcp.servers.x", "either"),
        ("[mcp.servers.x]\nurl='ftp://x'", "mcp.servers.x.url", "URL"),
        ("[mcp.servers.x]\ncommand=['a']\nenv=['A=b']", "mcp.servers.x.env[0]", "name of an environment variable"),
        ("[models.x]", "models.x", "`provider` is missing"),
        ("[models.x]\nprovider='openai'", "models.x.provider", "expected one of `openai-compatible`"),
        ("[models.x]\nprovider='openai-compatible'", "models.x.endpoint", "needs an address"),
        ("[models.x]\nprovider='google'\nendpoint='ftp://x'", "models.x.endpoint", "http or https"),
        ("[models.x]\nprovider='google'\nendpoint='https://u:p@x'", "models.x.endpoint", "without user"),
        ("[models.x]\nprovider='google'\nendpoint='https://x?key=1'", "models.x.endpoint", "without user"),
        ("[models.x]\nprovider='google'\nendpoint='http://x'\nkey_env='K'", "models.x.endpoint", "unencrypted"),
        ("[models.x]\nprovider='google'\nkey_env='A-B'", "models.x.key_env", "name of an environment variable"),
        ("[models.x]\nprovider='google'\nprices={output=1.0}", "models.x.prices", "`input` is missing"),
        ("[models.x]\nprovider='google'\nprices={input=-1.0}", "models.x.prices.input", ">= 0"),
        ("[models.x]\nprovider='google'\ntools=[]", "models.x.tools", "at least one"),
        ("[models.x]\nprovider='google'\ntools=['chat']", "models.x.tools[0]", "expected one of"),
        ("[models.x]\nprovider='anthropic'\ntools=['embed']", "models.x.tools", "no embeddings"),
        ("[models.'a b']\nprovider='google'", 'models["a b"]', "letters, digits"),
        ("[telemetry]\notel = 'collector:4318'", "telemetry.otel", "URL"),
        ("[[approvals.notify]]\nkind='webhook'", "approvals.notify[0]", "url"),
        ("[[approvals.notify]]\nkind='bell'\nurl='http://x'", "approvals.notify[0]", "not allowed for"),
        ("[[approvals.notify]]\nkind='command'", "approvals.notify[0]", "command"),
        ("[[approvals.notify]]\nkind='webhook'\nurl='https://x.example'", "approvals.notify[0]", "secret_env"),
        ("[[approvals.notify]]\nkind='webhook'\nurl='https://x.example'\nurl_env='U'", "approvals.notify[0]", "url_env"),
        ("[[approvals.notify]]\nkind='bell'\nurl_env='U'", "approvals.notify[0]", "`url_env` is not allowed for kind"),
        ("[isolation]\nhome = ['../x']", "isolation.home[0]", ""),
        ("[isolation]\nhome = ['/etc/passwd']", "isolation.home[0]", ""),
        ("[isolation]\nenv = ['A=b']", "isolation.env[0]", ""),
        ('[grants."a\\nb"]', 'grants["a\\nb"]', "control character"),
        ('agent = "a\\n"', "agent", "control character"),
        ('[rules]\nallow = ["fs.read\\u202e"]', "rules.allow[0]", "invisible"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_an_error_that_names_the_field(text, place, words):
    error = refused(text)
    assert error.path.endswith(f": {place}")
    assert words in error.message


SECRETS = [
    "ghp_" + "a1B2c3D4e5" * 4,
    "AKIA" + "IOSFODNN7EXAMPLQ",
    "https://user:hunter2hunter2@example.org/x",
    "-----BEGIN PRIVATE KEY-----\\nMIIEvQIBADANBg\\n-----END PRIVATE KEY-----",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "template",
    [
        'agent = "{}"',
        '[mcp.servers.x]\ncommand = ["run", "{}"]',
        '[telemetry]\notel = "{}"',
        '[journal]\ndurability = "{}"',
        '[rules]\nallow = ["{}"]',
    ],
)
def test_a_value_that_looks_like_a_secret_is_an_error_and_is_not_repeated(template, secret):
    error = refused(template.format(secret))
    assert "looks like a secret" in error.message
    assert "environment variable" in error.hint
    assert secret[5:20] not in json.dumps(error.as_dict())


def test_a_secret_given_as_an_argument_of_its_own_is_found():
    assert "secret" in refused('[mcp.servers.x]\ncommand = ["run", "--token", "f81d4fae7dec11d0a765"]').message


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        (b"agent = agent\n", "Invalid value", '`agent = "agent"`'),
        (b"[rules]\nallow = fs.*  # all\n", "Invalid value", '`allow = "fs.*"`'),
        (b"x = [1, }\n", "Invalid value", None),
        (b'a = "1"\na = "2"\n', "a key is set twice", None),
    ],
)
def test_a_frequent_mistake_in_toml_is_explained(data, message, hint):
    with pytest.raises(ConfigurationError) as caught:
        parse_toml(data, "interlock.toml")
    assert message in caught.value.message
    assert (hint is None) == (caught.value.hint is None)
    assert hint is None or hint in caught.value.hint


@pytest.mark.parametrize(
    ("data", "path"),
    [
        (b"a = \nb", "interlock.toml:1"),
        (b"agent = 'a'\n\n[rules", "interlock.toml:3"),
        (b"agent = 'a'\nagent = 'b'", "interlock.toml:2"),
        (b"agent = '\xff'", "interlock.toml:1"),
        (b"\n\n# \xe9", "interlock.toml:3"),
        (b"a = " + b"[" * 5_000, "interlock.toml"),
        (b"a = " + b"9" * 10_000, "interlock.toml"),
        (b"a = 2026-13-45", "interlock.toml"),
        (b"a = \x00", "interlock.toml:1"),
    ],
)
def test_what_is_not_toml_is_an_error_with_the_line(data, path):
    with pytest.raises(ConfigurationError) as caught:
        parse_toml(data, "interlock.toml")
    assert caught.value.path.split(":")[0] == "interlock.toml"
    assert caught.value.path == path or path == "interlock.toml"


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode("utf-8", "replace")))
def test_any_bytes_are_settings_or_a_configuration_error(data):
    try:
        settings = decode(parse_toml(data, "x"), locate=locator(data, "x"))
    except ConfigurationError as error:
        assert error.code in ERROR_CODES  # noqa: PT017 - either way is right
    else:
        assert isinstance(settings, Settings)


keys = st.sampled_from(
    sorted({key for section in (Settings,) for key in fields_of(section)} | {"allow", "x", "actions", "by_name"})
)
tables = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates() | st.sampled_from(["1s", "1GiB"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(keys, tables, max_size=5))
def test_any_table_is_settings_or_a_configuration_error(table):
    try:
        settings = decode(table)
    except ConfigurationError as error:
        assert error.path  # noqa: PT017 - either way is right
    else:
        settings.digest()


def test_every_setting_that_this_version_lacks_is_reported():
    settings = of(EXAMPLE)
    found = {u.path: u.refuse for u in settings.unavailable(frozenset())}
    assert found == {
        "policy.files": True,
        "isolation.profile": True,
        "isolation.require": True,
        "workspace.mode": True,
        "rules.ask": False,
        "approvals.notify": False,
        "tools.modules": False,
        "mcp.servers": False,
        "capsules": False,
        "telemetry.otel": False,
    }
    everything = {"policy", "approvals", "isolation.ns", "isolation.fs", "isolation.net", "workspace.layer", "mcp",
                  "capsules", "otel", "modules"}  # fmt: skip
    assert settings.unavailable(everything) == []
    assert [u.path for u in of('[workspace]\ncommit = "never"').unavailable({"isolation.ns"})] == [
        "workspace.mode",
        "workspace.commit",
    ]
    assert DEFAULTS.unavailable({"isolation.ns", "workspace.layer"}) == []


def test_processes_are_behind_walls_unless_configured_otherwise():
    assert DEFAULTS.isolation.profile == of("").isolation.profile == "ns"
    assert [u.path for u in DEFAULTS.unavailable(frozenset()) if u.refuse] == ["isolation.profile", "workspace.mode"]


def test_proposals_work_in_layers_unless_configured_otherwise():
    assert DEFAULTS.workspace.mode == of("").workspace.mode == "layer"


def test_the_digest_follows_the_meaning():
    assert of("").digest() == of("# a comment\n[budget]\n").digest()
    assert of("").digest() != of("[budget]\nactions = 1").digest()


# --- the published JSON Schema

CHECKED_IN = Path(__file__).parents[2] / "src/interlock/settings/interlock.schema.json"


def test_the_checked_in_schema_is_current():
    assert CHECKED_IN.read_text() == as_text(), (
        "run: python -m interlock.settings.schema > src/interlock/settings/interlock.schema.json"
    )


@pytest.mark.parametrize(
    "text",
    [EXAMPLE.replace("expires_at = 2030-01-01T00:00:00Z", ""), "", "[tools.x]\ntimeout = '1s'", "[budget]\ncost = 1"],
)
def test_what_decodes_fits_the_schema(text):
    of(text)
    assert Schema.compile(json_schema()).errors(tomllib.loads(text)) == []


@pytest.mark.parametrize(
    "text",
    [
        "x = 1",
        "[rules]\nalow = []",
        "[budget]\nduration = 3",
        "[isolation]\nmemory = '1Gb'",
        "[tools.x]\ny = 1",
        "agent = 1",
    ],
)
def test_what_does_not_decode_does_not_fit_the_schema(text):
    refused(text)
    assert not Schema.compile(json_schema()).is_valid(tomllib.loads(text))


def test_every_setting_is_described():
    sections = json_schema()["$defs"]
    missing = [
        f"{section}.{key}"
        for section, definition in sections.items()
        for key, child in definition["properties"].items()
        if "description" not in child and "$ref" not in child
    ]
    assert missing == ["Paths.read", "Paths.write"]  # one description for both, where they are used
