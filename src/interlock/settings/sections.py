"""All settings: type, default and description. Defaults are defined only here.

In the file, durations and sizes are text with a unit (`"10m"`, `"1GiB"`), and keys have no unit. Here they are integers, and
names have a unit (`ttl` is `ttl_ms`, `memory` is `memory_bytes`). Descriptions appear in the JSON Schema and the reference.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Container
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, field

from interlock.model.canonical import digest
from interlock.model.grant import Grant, Paths
from interlock.model.limits import INTEGER_MAX
from interlock.settings.models import ModelSettings

DURATION: Final = "duration"
SIZE: Final = "size"

Count = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
Fraction = Annotated[float, Meta(gt=0, le=1)]
DurationMs = Annotated[int, Meta(gt=0, le=INTEGER_MAX, extra={"unit": DURATION})]
SizeBytes = Annotated[int, Meta(gt=0, le=INTEGER_MAX, extra={"unit": SIZE})]
_SIZE: Final = {"unit": SIZE}
MIB: Final = 1024 * 1024
Name = Annotated[str, Meta(min_length=1, max_length=256)]

Features = Container[str]
"""Of: `policy`, `approvals`, `isolation.ns`, `isolation.nons`, `workspace.layer`, `mcp`, `capsules`, `otel`, `modules`."""


class DenyParam(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Deny calls of one tool by the text of a parameter."""

    tool: Annotated[Name, Meta(description="Name of the tool, or a glob over names.")]
    param: Annotated[Name, Meta(description="Name of a string parameter.")]
    like: Annotated[str, Meta(description="A pattern; `*` stands for any text.")]


class Rules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Short rules, which are translated to Cedar. Deny wins over ask, ask over allow; a tool that no rule names is denied."""

    allow: Annotated[
        tuple[Name, ...], Meta(description="Tools that run without asking: names, globs, `tag:NAME`.")
    ] = ()
    ask: Annotated[
        tuple[Name, ...],
        Meta(description="Tools that a person must approve, call by call; denied if no one can be asked."),
    ] = ()
    deny: Annotated[tuple[Name, ...], Meta(description="Tools that are never run.")] = ()
    deny_param: Annotated[tuple[DenyParam, ...], Meta(description="Calls denied by the text of a parameter.")] = ()


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Cedar policies beside the short rules."""

    files: Annotated[tuple[Name, ...], Meta(description="Cedar files, or globs such as `policy/*.cedar`.")] = ()


class GrantSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an agent, or each agent of a group (`group:NAME`), may reach. An agent without a grant may do nothing."""

    tools: Annotated[tuple[Name, ...], Meta(description="Globs over tool names; `tag:NAME` matches by tag.")] = ()
    deny_tools: Annotated[
        tuple[Name, ...], Meta(description="Exceptions from `tools`; `tag:NAME` matches by tag.")
    ] = ()
    state_keys: Annotated[tuple[Name, ...], Meta(description="Globs over state keys.")] = ("**",)
    paths: Annotated[Paths, Meta(description="Globs over paths in the workspace, for reading and for writing.")] = (
        Paths(read=("**",), write=("**",))
    )
    hosts: Annotated[tuple[Name, ...], Meta(description="`name:port`, `*.example.org:443`.")] = ()
    unscoped: Annotated[
        tuple[Name, ...], Meta(description="Tools that are allowed although their schemas mark no paths or hosts.")
    ] = ()
    actions_max: Annotated[
        Count | None, Meta(description="Maximum number of actions in one proposal; a larger one is rejected whole.")
    ] = None
    uses_max: Annotated[Count | None, Meta(description="Maximum number of uses.")] = None
    expires_at: Annotated[
        Annotated[dt.datetime, Meta(tz=True)] | None,
        Meta(description="When the grant expires (with time zone)."),
    ] = None


class Notify(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A way to notify people of held actions."""

    kind: Annotated[Literal["bell", "webhook", "command"], Meta(description="The kind of notification.")]
    url: Annotated[Name | None, Meta(description="For a webhook: the address to post to.")] = None
    url_env: Annotated[
        Name | None,
        Meta(
            description="Instead of `url`: environment variable with the address, if the address is secret, as with Slack."
        ),
    ] = None
    secret_env: Annotated[
        Name | None,
        Meta(description="For a webhook: environment variable with the signing secret. Required with `url`."),
    ] = None
    command: Annotated[tuple[str, ...], Meta(description="For a command: its arguments.")] = ()
    timeout_ms: Annotated[DurationMs, Meta(description="Time limit of one attempt.")] = field(
        default=10_000, name="timeout"
    )


class AuditTo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A sink that receives a copy of each audit record on holds, approvers and grants."""

    kind: Annotated[Literal["file", "webhook", "command"], Meta(description="The kind of sink.")]
    path: Annotated[
        Name | None,
        Meta(description="For a file: its absolute path, outside the workspace. One JSON line per record."),
    ] = None
    url: Annotated[Name | None, Meta(description="For a webhook: the address to post to.")] = None
    url_env: Annotated[
        Name | None, Meta(description="Instead of `url`: environment variable with the address, if it is secret.")
    ] = None
    secret_env: Annotated[
        Name | None,
        Meta(description="For a webhook: environment variable with the signing secret. Required with `url`."),
    ] = None
    command: Annotated[
        tuple[str, ...],
        Meta(description="For a command: its arguments. It gets each record as JSON on standard input."),
    ] = ()


class Approvals(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How held calls are approved, and by whom."""

    ttl_ms: Annotated[
        DurationMs, Meta(description="How long a hold waits if its policy has no `@ttl`; then it is denied.")
    ] = field(default=600_000, name="ttl")
    separation: Annotated[bool, Meta(description="The user who started a run may not approve its actions.")] = False
    preview: Annotated[
        bool,
        Meta(
            description="Run a held `shell` or `exec` that cannot reach any host in a temporary layer first: the hold "
            "shows what it changes, and an approval applies exactly these changes."
        ),
    ] = False
    groups: Annotated[dict[Name, tuple[Name, ...]], Meta(description="Groups of approvers.")] = {}
    notify: Annotated[tuple[Notify, ...], Meta(description="Ways to notify people.")] = ()
    audit: Annotated[tuple[AuditTo, ...], Meta(description="Sinks for copies of the audit.")] = ()


class Amounts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits on what may be spent; an omitted one is unlimited."""

    actions: Annotated[Count | None, Meta(description="Attempts, including retries.")] = None
    tool_calls: Annotated[Count | None, Meta(description="Tool calls, retries included.")] = None
    duration_ms: Annotated[DurationMs | None, Meta(description="Summed execution time.")] = field(
        default=None, name="duration"
    )
    cost: Annotated[
        Annotated[float, Meta(ge=0)] | None,
        Meta(description="Cost: of models by their prices, and as reported by tools."),
    ] = None
    tokens: Annotated[Count | None, Meta(description="Tokens that models read and write.")] = None


class Budget(Amounts, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Budgets: per session, and in sub-tables per proposal, run and agent."""

    proposal: Annotated[Amounts, Meta(description="Per proposal.")] = Amounts()
    run: Annotated[Amounts, Meta(description="Per run.")] = Amounts()
    agent: Annotated[Amounts, Meta(description="Per agent, over all its sessions.")] = Amounts()


class Isolation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The isolation of processes."""

    profile: Annotated[
        Literal["none", "nons", "ns"],
        Meta(
            description="The walls around processes. `ns`: namespaces and more (falls back to `nons`, with a warning, "
            "if the machine refuses namespaces); `nons`: without namespaces; `none`: no walls, only a clean "
            "environment and limits."
        ),
    ] = "ns"
    require: Annotated[
        tuple[Literal["syscalls", "fs", "signals", "namespaces", "net", "configuration", "record"], ...],
        Meta(
            description="Walls without which no process may start. `configuration` (files that Interlock reads are "
            "never written) has a cost in `nons`: nothing can be created, renamed or removed in a directory with such "
            "a file."
        ),
    ] = ()
    recorder: Annotated[
        Literal["none", "notify"],
        Meta(
            description="How the kernel layer records the files, programs and hosts that processes touch. `notify`: "
            "seccomp user notification, which slows down programs that open many files."
        ),
    ] = "none"
    env_allow: Annotated[
        tuple[Name, ...],
        Meta(
            description="Environment variables that `shell` and `exec` may set without approval, in addition to those "
            "known to be harmless; a trailing `*` matches any suffix."
        ),
    ] = ()
    env: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], ...],
        Meta(description="Names of environment variables that processes inherit from Interlock."),
    ] = ()
    home: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^(?!/)(?!.*(?:^|/)\.\.?(?:/|$)).+[^/]$")], ...],
        Meta(
            description="Files of your home directory, such as `.gitconfig`, that are copied into each process's home."
        ),
    ] = ()
    read: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^(?:/|~/)(?!.*(?:^|/)\.\.?(?:/|$)).*[^/]$")], ...],
        Meta(
            description="Files and directories outside of the workspace that processes may read, in addition to the "
            "system's and those of tool chains: absolute, or `~/...` in your home directory."
        ),
    ] = ()
    memory_bytes: Annotated[
        int,
        Meta(ge=32 * MIB, le=INTEGER_MAX, extra=_SIZE, description="Memory of one process action (all its processes)."),
    ] = field(default=1024 * MIB, name="memory")
    processes: Annotated[int, Meta(ge=1, le=INTEGER_MAX, description="Processes of one process action.")] = 64
    cpu_ms: Annotated[
        DurationMs | None,
        Meta(description="CPU time of one process action (all its processes); unlimited by default."),
    ] = field(default=None, name="cpu")
    file_bytes: Annotated[
        int,
        Meta(
            ge=4 * MIB, le=INTEGER_MAX, extra=_SIZE, description="Maximum size of a file that a process action writes."
        ),
    ] = field(default=16 * 1024 * MIB, name="file_size")
    open_files: Annotated[int, Meta(ge=64, le=2**20, description="Files that one process may have open.")] = 65_536
    tmp_bytes: Annotated[
        int,
        Meta(ge=MIB, le=INTEGER_MAX, extra=_SIZE, description="Size of a process action's own `/tmp` (profile `ns`)."),
    ] = field(default=1024 * MIB, name="tmp")
    disk_bytes: Annotated[
        int,
        Meta(ge=MIB, le=INTEGER_MAX, extra=_SIZE, description="Size of a layer's files, at least 4 KiB each."),
    ] = field(default=16 * 1024 * MIB, name="disk")
    output_bytes: Annotated[
        int, Meta(ge=1024, le=MIB, extra=_SIZE, description="Amount kept of each output stream of a process action.")
    ] = field(default=MIB, name="output")
    timeout_ms: Annotated[DurationMs, Meta(description="Execution time of one process action.")] = field(
        default=120_000, name="timeout"
    )


class Guard(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The resource guard: while a bound is exceeded, actions that change something wait. An omitted bound is not checked."""

    cpu: Annotated[Fraction | None, Meta(description="Share of CPU used by other processes.")] = None
    memory: Annotated[Fraction | None, Meta(description="Share of memory used by other processes.")] = None
    disk: Annotated[Fraction | None, Meta(description="Share of the workspace's disk in use.")] = None
    zombies: Annotated[Count | None, Meta(description="Zombie processes.")] = None
    wait_ms: Annotated[DurationMs, Meta(description="How long an action waits before it is rejected.")] = field(
        default=30_000, name="wait"
    )

    def bounds(self) -> dict[str, Any]:
        """The configured bounds by name; empty if the guard is off."""
        found = {"cpu": self.cpu, "memory": self.memory, "disk": self.disk, "zombies": self.zombies}
        return {name: bound for name, bound in found.items() if bound is not None}


class WorkspaceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How proposals work in the workspace, and how they share it."""

    mode: Annotated[
        Literal["direct", "layer"],
        Meta(
            description="`layer`: each proposal works in a copy-on-write layer above the files, which is committed if "
            "the proposal succeeds; `direct`: on the files themselves, with backups. The default of the gateway and of "
            "runtimes opened with `settings=` is `direct`."
        ),
    ] = "layer"
    commit: Annotated[
        Literal["auto", "ask", "never"],
        Meta(
            description="What happens to a layer whose proposal succeeds. `auto`: it is committed; `ask`: the diff is "
            "shown, and the layer waits for `interlock commit` or `discard`; `never`: the same without the diff."
        ),
    ] = "auto"

    wait_ms: Annotated[
        DurationMs,
        Meta(
            description="How long an action waits for others that write the same files. A proposal with "
            "a deadline waits until that instead."
        ),
    ] = field(default=600_000, name="wait")


class Journal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The write-ahead log of each run."""

    durability: Annotated[
        Literal["off", "memory", "batch", "full"],
        Meta(
            description="`full`: on disk before each effect; `batch`: within 5 ms; `off`: nothing is written; "
            "`memory`: kept only as long as the process lives, and only with `settings=` in Python."
        ),
    ] = "full"
    keep_ms: Annotated[DurationMs, Meta(description="How long private originals and backups are kept.")] = field(
        default=90 * 86_400_000, name="keep"
    )


class RateLimitSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token bucket."""

    calls: Annotated[int, Meta(ge=1, le=INTEGER_MAX, description="Calls in `per`.")]
    per_ms: Annotated[DurationMs, Meta(description="The period.")] = field(name="per")


class ToolSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a tool that override its definition."""

    rate_limit: Annotated[RateLimitSettings | None, Meta(description="The rate limit.")] = None
    timeout_ms: Annotated[DurationMs | None, Meta(description="Execution time of one call.")] = field(
        default=None, name="timeout"
    )
    hosts: Annotated[
        tuple[Name, ...] | None,
        Meta(description="The hosts of the grant that processes of the tool may reach; all by default."),
    ] = None
    cache_ttl_ms: Annotated[
        DurationMs | None,
        Meta(
            description="How long the result of a call is reused for the same call of the same agent. Only for tools "
            "that change nothing. A result that depends on files expires as soon as an action may have written in the "
            "workspace."
        ),
    ] = field(default=None, name="cache_ttl")


class Network(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where processes may connect to, in addition to the `hosts` of grants."""

    private: Annotated[
        tuple[Name, ...],
        Meta(
            description="Hosts (`name:port`) whose addresses need not be public. A grant that names `localhost:5432` "
            "or a private address needs no entry here."
        ),
    ] = ()


class Git(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The git tools."""

    hooks: Annotated[
        Literal["skip", "run"],
        Meta(
            description="`run`: hooks of commits and pushes run as separate processes, if the agent may `exec` them; a "
            "hook that fails stops the tool. `skip`: hooks are not run, and results name those that git would have run."
        ),
    ] = "skip"


class Tools(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Python tools to load, and settings of single tools."""

    modules: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")], ...],
        Meta(description="Python modules beneath the project that provide `@interlock.tool` functions."),
    ] = ()
    by_name: Annotated[dict[Name, ToolSettings], Meta(description="Settings of one tool.")] = {}
    """In the file, these are directly in `[tools]`: `[tools."shell"]`."""


class McpServer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An MCP server: a command to start, or a URL to connect to. Its tools are `NAME/TOOL`."""

    command: Annotated[tuple[str, ...], Meta(description="Program and arguments of a stdio server.")] = ()
    url: Annotated[Name | None, Meta(description="Address of an HTTP server.")] = None
    headers: Annotated[
        dict[Name, str],
        Meta(
            description="HTTP headers for `url`. Secrets are given by name: `Bearer ${TOKEN}`, with `TOKEN` in `[mcp] env`."
        ),
    ] = {}
    env: Annotated[tuple[Name, ...], Meta(description="Names of environment variables that the server inherits.")] = ()
    variables: Annotated[
        dict[Name, str], Meta(description="More environment variables of the server, with values (not secrets).")
    ] = {}
    hosts: Annotated[
        tuple[Name, ...],
        Meta(
            description="Hosts that a started server may reach from behind its walls, as `name:port`; none by default."
        ),
    ] = ()
    reads: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^(?:/|~/)(?!.*(?:^|/)\.\.?(?:/|$)).*[^/]$")], ...],
        Meta(
            description="Files and directories outside the project that a started server may read from behind its "
            "walls, including those of its own program: absolute, or `~/...`."
        ),
    ] = ()
    writes: Annotated[
        bool,
        Meta(
            description="True if a started server may write in the project. Its calls then wait for their turn like "
            "all others that write there; otherwise walls keep it from writing."
        ),
    ] = False
    asks: Annotated[
        tuple[Literal["elicitation", "sampling", "roots"], ...],
        Meta(
            description="What the server may request from the client of a call: `elicitation` (a question to its "
            "user), `sampling` (its model), `roots` (the directories it works in)."
        ),
    ] = ("elicitation",)
    read_only: Annotated[
        tuple[Name, ...],
        Meta(description="Globs over the names of its read-only tools. The server's own claim is ignored."),
    ] = ()


class Mcp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """MCP servers behind the gateway."""

    files: Annotated[
        tuple[Name, ...],
        Meta(
            description="Files like `.mcp.json` with more servers. A table `[mcp.servers.NAME]` adds keys to a server."
        ),
    ] = ()
    env: Annotated[
        tuple[Name, ...],
        Meta(
            description="Environment variables that may be used as `${NAME}` in the commands, variables, addresses and "
            "headers of servers."
        ),
    ] = ()
    servers: Annotated[dict[Name, McpServer], Meta(description="Servers by name.")] = {}


class CapsuleSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A capsule to load."""

    path: Annotated[Name, Meta(description="Directory with its `capsule.toml`.")]


class Learning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept beyond a run. A change takes effect in the next process."""

    memory: Annotated[
        bool, Meta(description="Offer the tools `memory.read`, `memory.read_agent` and `memory.write`.")
    ] = False
    embed: Annotated[
        Name | None,
        Meta(description="A model for vectors of notes, which are sent to it. Default: the first `local` one."),
    ] = None
    distill: Annotated[
        bool, Meta(description="Look for skills in successful proposals; each needs a person's approval.")
    ] = False
    approve: Annotated[
        tuple[Name, ...],
        Meta(description="Tools (`fs.*`): a skill learnt here that calls no others is approved by passing its test."),
    ] = ()
    keep_ms: Annotated[DurationMs, Meta(description="How long agents' notes and traces of proposals are kept.")] = (
        field(default=180 * 86_400_000, name="keep")
    )


class Telemetry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is measured, and where measurements are sent."""

    samples: Annotated[
        bool, Meta(description="Measure the machine once a second: rows of acting actions then have `telemetry`.")
    ] = True
    otel: Annotated[Name | None, Meta(description="URL of an OpenTelemetry collector (OTLP over HTTP).")] = None


class Unavailable(msgspec.Struct, frozen=True):
    """A setting that asks for something this version lacks."""

    path: str
    message: str
    refuse: bool
    """True if continuing without it would protect less than requested; otherwise a warning is enough."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration, as decoded and overridden."""

    agent: Annotated[Name, Meta(description="The agent of proposals that name none.")] = "agent"
    rules: Rules = Rules()
    policy: Policy = Policy()
    groups: Annotated[
        dict[Name, tuple[Name, ...]],
        Meta(description='Groups of agents: `principal in Group::"NAME"` in policies, `[grants."group:NAME"]`.'),
    ] = {}
    grants: Annotated[
        dict[Name, GrantSettings], Meta(description="What each agent, or group of agents, may reach.")
    ] = {}
    approvals: Approvals = Approvals()
    budget: Budget = Budget()
    isolation: Isolation = Isolation()
    network: Network = Network()
    guard: Guard = Guard()
    workspace: WorkspaceSettings = WorkspaceSettings()
    journal: Journal = Journal()
    tools: Tools = Tools()
    git: Git = Git()
    mcp: Mcp = Mcp()
    models: Annotated[dict[Name, ModelSettings], Meta(description="Models by name.")] = {}
    capsules: Annotated[dict[Name, CapsuleSettings], Meta(description="Capsules by name.")] = {}
    learning: Learning = Learning()
    telemetry: Telemetry = Telemetry()

    def grant(self, agent: str) -> Grant | None:
        """The configured grant of an agent (`id` is `configuration:AGENT`); None means that nothing is allowed."""
        found = self.grants.get(agent)
        if found is None:
            return None
        expires = found.expires_at
        return Grant(
            id=f"configuration:{agent}",
            agent=agent,
            tools=found.tools,
            deny_tools=found.deny_tools,
            state_keys=found.state_keys,
            paths=found.paths,
            hosts=found.hosts,
            unscoped=found.unscoped,
            actions_max=found.actions_max,
            uses_max=found.uses_max,
            expires_at_us=None if expires is None else round(expires.timestamp() * 1_000_000),
        )

    def groups_by_agent(self) -> dict[str, tuple[str, ...]]:
        """Each agent in a group with its groups, in the order of the file."""
        found: dict[str, dict[str, None]] = {}
        for name, members in self.groups.items():
            for agent in members:
                found.setdefault(agent, {})[name] = None
        return {agent: tuple(names) for agent, names in found.items()}

    def all_grants(self) -> tuple[Grant, ...]:
        """Every configured grant."""
        return tuple(grant for agent in self.grants if (grant := self.grant(agent)) is not None)

    def as_dict(self) -> dict[str, Any]:
        """The settings as a JSON value: keys as in the file, durations in milliseconds, sizes in bytes."""
        value = msgspec.to_builtins(self)
        assert isinstance(value, dict)
        return value

    def digest(self) -> str:
        """`sha256:...` of the settings alone; a run journals `Loaded.digest`, which covers the other files too."""
        return digest("settings", self.as_dict())

    def unavailable(self, features: Features) -> list[Unavailable]:
        """The settings that need something missing from `features`. No setting is silently ignored."""
        isolation, found = self.isolation, []
        # Without walls nothing keeps a process from any host: a bound that is not held must not look like one.
        walled = f"isolation.{isolation.profile}" if isolation.profile != "none" else "isolation.ns and a profile"
        bounded = [f"tools.{name}.hosts" for name, tool in self.tools.by_name.items() if tool.hosts is not None]
        asked: list[tuple[bool, str, str, str, bool]] = [
            (bool(self.policy.files), "policy", "policy.files", "Cedar policies are", True),
            (
                isolation.profile != "none",
                f"isolation.{isolation.profile}",
                "isolation.profile",
                f"the profile `{isolation.profile}` is",
                True,
            ),
            *(
                (True, f"isolation.{wall}", "isolation.require", f"the wall `{wall}` is", True)
                for wall in isolation.require
            ),
            (bool(self.network.private), walled, "network.private", "hosts of processes are", False),
            *((True, walled, where, "bounds on the hosts of processes are", True) for where in bounded),
            (self.workspace.mode == "layer", "workspace.layer", "workspace.mode", "workspace layers are", True),
            (self.workspace.commit != "auto", "workspace.layer", "workspace.commit", "workspace layers are", True),
            (bool(self.rules.ask), "approvals", "rules.ask", "approvals are (so these are denied)", False),
            (bool(self.approvals.notify), "approvals", "approvals.notify", "approvals are", False),
            (self.approvals.separation, "approvals", "approvals.separation", "approvals are (all are denied)", False),
            (bool(self.tools.modules), "modules", "tools.modules", "tool modules are", False),
            (bool(self.mcp.servers), "mcp", "mcp.servers", "MCP servers are", False),
            (bool(self.capsules), "capsules", "capsules", "capsules are", False),
            (self.telemetry.otel is not None, "otel", "telemetry.otel", "OpenTelemetry export is", False),
        ]
        for wanted, feature, path, what, refuse in asked:
            if wanted and feature not in features:
                found.append(Unavailable(path, f"{what} not available in this version", refuse))
        return found


DEFAULTS: Final = Settings()
