"""Generates the commented `interlock.toml` that `interlock init` writes for a project.

Read-only tools run without asking; tools that change something need a person's approval; tools whose effects are hard
to undo are denied. Every default is included as a comment, so that the file also lists the settings.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from interlock.disk import Disk
from interlock.model.errors import ConfigurationError, StoreError
from interlock.settings.decode import decode, description_of, fields_of, shown
from interlock.settings.project_file import FILE, find
from interlock.settings.schema import PLACE, install
from interlock.settings.sections import DEFAULTS, Amounts, Guard

READ_ONLY: Final = ("fs.read", "fs.list", "fs.search", "proc.list", "proc.output", "proc.wait")
_PROGRAMS: Final = ("proc.start", "proc.output", "proc.wait", "proc.stop")
GIT_READ_ONLY: Final = ("git.status", "git.diff", "git.log")
STATE: Final = ("state_read", "state_write", "assert")
CHANGING: Final = ("fs.write", "fs.edit", "fs.move", "fs.delete", "shell", "exec", "proc.start", "proc.stop")
GIT_CHANGING: Final = ("git.add", "git.commit", "git.revert")
DENIED: Final = ("http.fetch", "proc.kill")
GIT_DENIED: Final = ("git.push", "git.pull", "git.clone")

_LANGUAGES: Final = {
    "python": ("pyproject.toml", "setup.py", "requirements.txt"),
    "node": ("package.json",),
    "rust": ("Cargo.toml",),
    "go": ("go.mod",),
}
_SOURCES: Final = ("src", "lib", "app", "cmd", "pkg", "internal", "tests", "test", "docs", "scripts", "examples")
_BUILD_FILES: Final = {
    "python": ("pyproject.toml", "requirements*.txt"),
    "node": ("package.json", "package-lock.json"),
    "rust": ("Cargo.toml", "Cargo.lock"),
    "go": ("go.mod", "go.sum"),
}
_BUDGET: Final = Amounts(actions=500, tool_calls=300, duration_ms=7_200_000, cost=5.0)
_GUARD: Final = Guard(cpu=0.9, memory=0.9, disk=0.95, zombies=100)
"""Example values, because there are no bounds by default."""

_GROUPS: Final = (
    '# Groups of agents: each member has the group\'s grant too, and policies may say `principal in Group::"helpers"`.',
    "#[groups]",
    '#helpers = ["reviewer", "tester"]',
    '#[grants."group:helpers"]',
    '#tools = ["fs.read"]',
    "",
)
_NETWORK: Final = (
    "# Hosts whose addresses need not be public. Where processes may connect to at all is `hosts` of their grant.",
    "#[network]",
    '#private = ["git.corp.example:443"]',
    "",
)
_TOOLS: Final = (
    "# Your own tools: functions with `@interlock.tool`, and settings of single tools.",
    "#[tools]",
    '#modules = ["my_project.agent_tools"]',
    '#[tools."shell"]',
    '#rate_limit = { calls = 30, per = "1m" }',
    '#hosts = ["pypi.org:443"]     # of the hosts in the grant; all by default',
    '#[tools."git.log"]',
    '#cache_ttl = "10s"',
)

_PACKAGE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """The project found in a directory."""

    languages: tuple[str, ...]
    git: bool
    writable: tuple[str, ...]
    """Globs of the files that an agent will probably need to write."""


def detect(root: Path) -> Project:
    """Detect languages by their build files, whether git is used, and the source directories."""
    languages = tuple(name for name, files in _LANGUAGES.items() if any((root / file).is_file() for file in files))
    directories = [name for name in _SOURCES if (root / name).is_dir()]
    if "python" in languages:
        packages = (path.parent.name for path in sorted(root.glob("*/__init__.py")))
        directories += [name for name in packages if _PACKAGE.match(name) and name not in directories]
    # Sources directly in the project's directory cannot be told from other files. In that case everything (except what
    # the loader reads) is writable, and the rules still ask about each change.
    writable = ["**"]
    if directories:
        writable = [f"{name}/**" for name in directories]
        writable += [file for language in languages for file in _BUILD_FILES[language]]
    return Project(
        languages=languages, git=any((at / ".git").exists() for at in (root, *root.parents)), writable=tuple(writable)
    )


_DENY_PARAM_AND_POLICY: Final = (
    "# Calls can also be denied by the text of a parameter. This is a safety net, not a wall: a command can be",
    "# written in many ways.",
    "[[rules.deny_param]]",
    'tool = "shell"',
    'param = "command"',
    'like = "*rm -rf /*"',
    "",
    "# Policies in the Cedar language, for what rules cannot express.",
    "#[policy]",
    '#files = ["policy/*.cedar"]',
    "",
)


def render(project: Project, *, agent: str = "agent", schema: str | None = None) -> str:
    """The text of an `interlock.toml` for a project. It sets only rules and one grant.

    `schema` is the location of the file's JSON Schema, for the first line, where editors look for it.
    """
    found = ", ".join((*project.languages, *(["git"] if project.git else []))) or "nothing"
    git = project.git
    allow = (*READ_ONLY, *(GIT_READ_ONLY if git else ()), *STATE)
    ask = (*CHANGING, *(GIT_CHANGING if git else ()))
    deny = (*(GIT_DENIED if git else ()), *DENIED)
    tools = ("fs.*", *(["git.*"] if git else []), "shell", "exec", "proc.list", *_PROGRAMS)
    lines = [
        *([f"#:schema {schema}", ""] if schema is not None else []),
        "# Interlock: what an agent may do in this project. Written by `interlock init`; detected: " + found + ".",
        "# After an edit: `interlock trust` shows the difference and records it; until then nothing runs.",
        "# Commented lines are the defaults (in [budget] and [guard]: examples). `interlock doctor --config` shows each",
        "# value and its source.",
        "",
        "# The agent of proposals that do not name one.",
        f"agent = {_toml(agent)}",
        "",
        "# Deny wins over ask, ask over allow; what no rule names is denied.",
        "# Entries are tool names, globs (`fs.*`), tags (`tag:read_only`), state_read, state_write, assert,",
        "# commands (`shell(pytest *)`), and under ask and deny also paths (`path(~/.ssh/**)`).",
        "[rules]",
        "# These run without asking: they change nothing but Interlock's own key-value state.",
        f"allow = {_toml(allow)}",
        "# A person must approve each of these calls; where no one can be asked, they are denied.",
        "# To let an agent work on its own, move the tools you trust it with to `allow`; `interlock undo` undoes file changes.",
        f"ask = {_toml(ask)}",
        "# These are never run.",
        f"deny = {_toml(deny)}",
        "",
        *_DENY_PARAM_AND_POLICY,
        "# What the agent can reach, whatever the rules allow. Without a grant, nothing.",
        "# Paths are relative to this directory; `interlock.toml` and the other files that Interlock loads are never writable.",
        f"[grants.{_key(agent)}]",
        f"tools = {_toml(tools)}",
        f'paths = {{ read = ["**"], write = {_toml(project.writable)} }}',
        "# Hosts that processes and `http.fetch` may reach: `pypi.org:443`, `*.example.org:443`, `localhost:5432`.",
        "hosts = []",
        "",
        *_GROUPS,
        *_commented("approvals", "Questions to people.", DEFAULTS.approvals),
        *_commented(
            "budget",
            "Upper bounds per session ([budget.run], [budget.agent] too); an omitted one is unlimited.",
            _BUDGET,
        ),
        *_commented("isolation", "Walls around processes.", DEFAULTS.isolation),
        *_NETWORK,
        *(_commented("git", "The git tools.", DEFAULTS.git) if git else ()),
        *_commented("guard", "Off unless a bound is set: on a machine busier than this, actions wait.", _GUARD),
        *_commented("journal", "The log of each run.", DEFAULTS.journal),
        *_TOOLS,
    ]
    return "\n".join(lines) + "\n"


def write(root: Path, *, agent: str = "agent") -> Path:
    """Write `interlock.toml` for the project at `root` and return its path. Never overwrites.

    Raises: ConfigurationError if there is a configuration already, or the agent's name is not allowed;
    StoreError if it cannot be written.
    """
    path = root / FILE
    there = find(root)
    if there is not None and there.path.parent == root.resolve():
        raise _exists(there.path)
    project = detect(root)
    # checked first, so that an invalid agent name leaves no file behind
    decode(tomllib.loads(render(project, agent=agent)))
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise StoreError(f"`{FILE}` cannot be written: {os.strerror(error.errno or 0)}", path=str(path)) from None
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            place = PLACE if install(root, Disk()) else None
            file.write(render(project, agent=agent, schema=place))
    except OSError as error:
        path.unlink()
        raise StoreError(f"`{FILE}` cannot be written: {os.strerror(error.errno or 0)}", path=str(path)) from None
    return path


def _commented(name: str, about: str, values: Any) -> Iterator[str]:
    yield f"# {about}"
    yield f"#[{name}]"
    for key, (field, hint) in fields_of(type(values)).items():
        value = shown(getattr(values, field), hint)
        if isinstance(value, int | float | str) or key == "require":
            yield f"#{key} = {_toml(value)}".ljust(28) + f" # {description_of(hint)}"
    yield ""


def _exists(path: Path) -> ConfigurationError:
    return ConfigurationError(
        "the project already has a configuration", path=str(path), hint="edit it; `init` never overwrites a file"
    )


def _toml(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return '"' + "".join(_escape(c) for c in value) + '"'
        case list() | tuple():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case _:
            return str(value)


def _escape(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\U{ord(character):08x}"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)
