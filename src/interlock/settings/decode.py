"""Decodes a table (parsed TOML, or given in code) to `Settings`, strictly. Errors name the field, never its value.

Unknown keys, wrong types, numbers without a unit and values that look like a secret are errors. It raises the first
error in the file.
"""

from __future__ import annotations

import functools
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, TypeVar, Union
from urllib.parse import urlsplit

import msgspec

from interlock.detect import find_secrets
from interlock.detect.environment import is_loaded_first
from interlock.lazy import lazy_pattern
from interlock.model import typed
from interlock.model.errors import ConfigurationError
from interlock.model.globs import PathGlob
from interlock.model.grant import GROUP, OPERATOR
from interlock.model.hosts import parse_pattern
from interlock.model.units import as_duration, as_size, duration_ms, size_bytes
from interlock.model.values import nearest_name, step
from interlock.settings.models import problem_of
from interlock.settings.sections import DURATION, SIZE, AuditTo, McpServer, Notify, Settings, Tools

Place = tuple[str | int, ...]
"""Keys from the top of the configuration: `("rules", "allow", 2)`."""

Locate = Callable[[Place], str]
"""Formats a place for people: `interlock.toml:12: rules.allow[2]`."""

S = TypeVar("S")

_HEADER: Final = lazy_pattern(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_SERVER: Final = lazy_pattern(r"[A-Za-z0-9_-]{1,64}")
_VARIABLE: Final = lazy_pattern(r"[A-Za-z_][A-Za-z0-9_]*\*?|\*")
_UNITS: Final = {DURATION: duration_ms, SIZE: size_bytes}


def dotted(place: Place) -> str:
    """A place in dotted form: `rules.allow[2]`, `tools["a b"].timeout`."""
    return "".join(map(step, place)).removeprefix(".") or "(top)"


def decode(table: Mapping[str, Any], *, locate: Locate = dotted) -> Settings:
    """Decode a table to settings. Raises: ConfigurationError, whose path is `locate` of the field."""
    settings: Settings = _Decoder(locate).section(table, Settings, ())
    _check(settings, locate)
    return settings


def decode_section(table: Mapping[str, Any], section: type[S], locate: Locate) -> S:
    """Decode the table of another file (a capsule's manifest) to a struct, with the same checks. Raises: ConfigurationError."""
    return _Decoder(locate).section(table, section, ())


def decode_text(hint: Any, text: str, place: Place, *, locate: Locate) -> Any:
    """Decode one setting from an environment variable or a flag; list items are separated by commas."""
    plain = _plain(hint)[0]
    value: Any = text
    if typing.get_origin(plain) is tuple:
        value = [part.strip() for part in text.split(",") if part.strip()]
    elif plain is bool:
        value = {"true": True, "1": True, "false": False, "0": False}.get(text.strip().lower(), text)
    elif plain in (int, float) and unit_of(hint) is None:
        try:
            value = plain(text.strip())
        except ValueError:
            value = text
    return _Decoder(locate).value(value, hint, place)


def fields_of(section: type) -> dict[str, tuple[str, Any]]:
    """The fields of a section: key in the file to (field name, type)."""
    return {field.encode_name: (field.name, field.type) for field in _fields(section)}


@functools.cache
def _fields(section: type) -> tuple[msgspec.structs.FieldInfo, ...]:
    """Kept: msgspec evaluates all annotations each time."""
    return msgspec.structs.fields(section)


def shown(value: Any, hint: Any) -> Any:
    """A value in the form used in the file: durations and sizes with their unit, structs as tables."""
    unit = unit_of(hint)
    if unit is not None and value is not None:
        return as_duration(value) if unit == DURATION else as_size(value)
    return list(msgspec.to_builtins(value)) if isinstance(value, tuple) else msgspec.to_builtins(value)


def _bound_of(error: msgspec.ValidationError, hint: Any) -> str:
    """Msgspec's message about a violated bound, with the unit; empty for other messages."""
    found = re.search(r"(>=|<=) (\d+)", str(error))
    if found is None:
        return ""
    return f": {'at least' if found[1] == '>=' else 'at most'} `{shown(int(found[2]), hint)}`"


class _Decoder:
    def __init__(self, locate: Locate) -> None:
        self._locate = locate

    def _error(self, message: str, place: Place, hint: str | None = None) -> ConfigurationError:
        return ConfigurationError(f"`{dotted(place)}`: {message}", path=self._locate(place), hint=hint)

    def section(self, table: Any, section: type[S], place: Place) -> S:
        if not isinstance(table, Mapping):
            raise self._error("expected a table", place)
        known = fields_of(section)
        values: dict[str, Any] = {}
        if section is Tools:
            # The settings of single tools are directly in the table, beside `modules`.
            named = {key: value for key, value in table.items() if key != "modules"}
            table = {key: value for key, value in table.items() if key == "modules"}
            values["by_name"] = self._tools(named, known["by_name"][1], place)
        for key, value in table.items():
            if key not in known:
                raise self._unknown(key, known, place)
            name, hint = known[key]
            values[name] = self.value(value, hint, (*place, key))
        for item in _fields(section):  # type: ignore[arg-type] # mypy does not know that classes can be hashed
            if item.required and item.name not in values:
                raise self._error(f"`{item.encode_name}` is missing", place)
        return section(**values)

    def _unknown(self, key: Any, known: Mapping[str, Any], place: Place) -> ConfigurationError:
        near = nearest_name(str(key), known)
        hint = f"did you mean `{near}`?" if near else f"known keys: {', '.join(known)}"
        return self._error("unknown key", (*place, str(key)), hint)

    def _tools(self, named: Mapping[str, Any], hint: Any, place: Place) -> Any:
        for key, value in named.items():
            if not isinstance(value, Mapping):
                near = nearest_name(key, ["modules"])
                help_ = f"did you mean `{near}`?" if near else 'settings of a tool are a table: [tools."NAME"]'
                raise self._error("unknown key", (*place, key), help_)
        return self.value(named, hint, place)

    def value(self, value: Any, hint: Any, place: Place) -> Any:
        plain, optional = _plain(hint)
        unit = unit_of(hint)
        if unit is not None:
            return self._with_unit(value, hint, unit, place)
        if isinstance(plain, type) and issubclass(plain, msgspec.Struct):
            return self.section(value, plain, place)
        origin = typing.get_origin(plain)
        if origin is tuple:
            return self._list(value, typing.get_args(plain)[0], place)
        if origin is dict:
            key_hint, value_hint = typing.get_args(plain)
            return self._dict(value, key_hint, value_hint, place)
        if isinstance(value, str):
            self._refuse_secret(value, place)
        if isinstance(value, float) and not math.isfinite(value):
            raise self._error("expected a finite number", place)
        return self._leaf(value, hint, plain, optional, place)

    def _leaf(self, value: Any, hint: Any, plain: Any, optional: bool, place: Place) -> Any:
        if optional and value is None:
            raise self._error("the key has no value; omit it instead", place)
        if isinstance(value, str) and not value.isprintable():
            raise self._error("the value contains a control character or an invisible one", place)
        try:
            return typed.convert(value, hint)
        except msgspec.ValidationError as error:
            if typing.get_origin(plain) is Literal:
                choices = ", ".join(f"`{choice}`" for choice in typing.get_args(plain))
                raise self._error(f"expected one of {choices}", place) from None
            message = str(error).replace(" | null`", "`")
            raise self._error(message[:1].lower() + message[1:], place) from None

    def _with_unit(self, value: Any, hint: Any, unit: str, place: Place) -> Any:
        example = '"30s", "10m" or "2h"' if unit == DURATION else '"512KiB" or "1GiB"'
        if not isinstance(value, str):
            raise self._error(f"expected a {unit} with a unit, such as {example}", place)
        try:
            return typed.convert(_UNITS[unit](value), hint)
        except msgspec.ValidationError as error:
            raise self._error(f"the {unit} is out of range{_bound_of(error, hint)}", place) from None
        except ValueError as error:
            raise self._error(str(error), place) from None

    def _list(self, value: Any, hint: Any, place: Place) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise self._error("expected a list", place)
        if all(isinstance(item, str) for item in value):
            self._refuse_secret(" ".join(value), place)  # `--token X` is two elements
        return tuple(self.value(item, hint, (*place, index)) for index, item in enumerate(value))

    def _dict(self, value: Any, key_hint: Any, value_hint: Any, place: Place) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise self._error("expected a table", place)
        return {
            self._leaf(key, key_hint, str, False, (*place, str(key))): self.value(item, value_hint, (*place, str(key)))
            for key, item in value.items()
        }

    def _refuse_secret(self, text: str, place: Place) -> None:
        found = find_secrets(text)
        if found:
            raise self._error(
                f"the value looks like a secret ({found[0].kind})",
                place,
                "do not store secrets here: use an environment variable, and revoke this secret",
            )


def _plain(hint: Any) -> tuple[Any, bool]:
    """A type without its annotations and without `None`, and whether `None` was allowed."""
    optional = False
    while True:
        if typing.get_origin(hint) is Annotated:
            hint = hint.__origin__
        elif typing.get_origin(hint) in (Union, types.UnionType):
            others = [arg for arg in typing.get_args(hint) if arg is not type(None)]
            optional, hint = True, others[0]
        else:
            return hint, optional


def unit_of(hint: Any) -> str | None:
    """The unit of a duration or size. Annotations may be nested, or inside `... | None`."""
    if typing.get_origin(hint) is Annotated:
        for note in hint.__metadata__:
            if isinstance(note, msgspec.Meta) and note.extra and "unit" in note.extra:
                return str(note.extra["unit"])
        return unit_of(hint.__origin__)
    if typing.get_origin(hint) in (Union, types.UnionType):
        return next((unit for arg in typing.get_args(hint) if (unit := unit_of(arg))), None)
    return None


def description_of(hint: Any) -> str:
    """The description of a setting."""
    notes = getattr(hint, "__metadata__", ())
    return next((n.description for n in reversed(notes) if isinstance(n, msgspec.Meta) and n.description), "")


def _check(settings: Settings, locate: Locate) -> None:
    """Check the rules that types cannot express."""

    def error(message: str, *at: str | int, hint: str | None = None) -> ConfigurationError:
        return ConfigurationError(f"`{dotted(at)}`: {message}", path=locate(at), hint=hint)

    for index, notify in enumerate(settings.approvals.notify):
        problem = _notify_problem(notify)
        if problem is not None:
            raise error(problem, "approvals", "notify", index)
    for index, sink in enumerate(settings.approvals.audit):
        problem = _notify_problem(sink)
        if problem is not None:
            raise error(problem, "approvals", "audit", index)
    for name, server in settings.mcp.servers.items():
        wrong = _server_problem(name, server)
        if wrong is not None:
            raise error(wrong[0], "mcp", "servers", name, *wrong[1:])
    _check_models(settings, error)
    if settings.telemetry.otel is not None and not _is_url(settings.telemetry.otel):
        raise error("expected an http or https URL", "telemetry", "otel")
    for index, name in enumerate(settings.isolation.env_allow):
        if not _VARIABLE.fullmatch(name):
            raise error("expected the name of an environment variable", "isolation", "env_allow", index)
        if is_loaded_first(name):
            hint = "set it inside the command, where policies and approvers see it"
            raise error("this variable is never passed to processes", "isolation", "env_allow", index, hint=hint)
    _check_agents(settings, error)
    _check_hosts(settings, error)


def _check_models(settings: Settings, error: Callable[..., ConfigurationError]) -> None:
    for name, model in settings.models.items():
        if not _SERVER.fullmatch(name.replace(".", "-")):
            raise error("the name of a model must be 1 to 64 letters, digits, `.`, `_` or `-`", "models", name)
        if (found := problem_of(model)) is not None:
            raise error(found[1], "models", name, found[0])


def _check_agents(settings: Settings, error: Callable[..., ConfigurationError]) -> None:
    """Check agents, their groups, and the grants of both."""
    named: dict[Place, str] = {("agent",): settings.agent}
    for name, members in settings.groups.items():
        named |= {("groups", name, index): member for index, member in enumerate(members)}
    for at, agent in named.items():
        if agent.startswith(GROUP):
            raise error(f"the name of an agent must not begin with `{GROUP}`", *at, hint="groups cannot contain groups")
        if agent == OPERATOR:  # an agent with this name could undo anything that a person can
            raise error("the name is reserved for the person at the command line", *at)
    for agent, grant in settings.grants.items():
        if agent == OPERATOR:
            raise error("the name is reserved for the person at the command line", "grants", agent)
        group = agent.removeprefix(GROUP)
        if group != agent and group not in settings.groups:
            near = nearest_name(group, settings.groups)
            hint = f"did you mean `{GROUP}{near}`?" if near else "list its agents in [groups]"
            raise error("there is no such group of agents", "grants", agent, hint=hint)
        checks: list[tuple[Callable[[str], object], tuple[str, ...], Place]] = [
            (PathGlob, grant.paths.read, ("paths", "read")),
            (PathGlob, grant.paths.write, ("paths", "write")),
            (parse_pattern, grant.hosts, ("hosts",)),
        ]
        for check, globs, where in checks:
            for index, glob in enumerate(globs):
                try:
                    check(glob)
                except ConfigurationError as refusal:
                    raise error(refusal.message, "grants", agent, *where, index, hint=refusal.hint) from None


def _check_hosts(settings: Settings, error: Callable[..., ConfigurationError]) -> None:
    """Check the host patterns outside of grants."""
    named: list[tuple[Place, Sequence[str]]] = [(("network", "private"), settings.network.private)]
    named += [(("mcp", "servers", name, "hosts"), server.hosts) for name, server in settings.mcp.servers.items()]
    named += [(("tools", name, "hosts"), tool.hosts or ()) for name, tool in settings.tools.by_name.items()]
    for where, patterns in named:
        for index, pattern in enumerate(patterns):
            try:
                parse_pattern(pattern)
            except ConfigurationError as refusal:
                raise error(refusal.message, *where, index, hint=refusal.hint) from None
            if where[0] == "network" and pattern.startswith("*:"):
                raise error("an exception must not cover every host", *where, index, hint="name the hosts")


def _server_problem(name: str, server: McpServer) -> tuple[str, *Place] | None:
    """The problem with a server and its place in the table; None if there is none."""
    if not _SERVER.fullmatch(name):
        return ("the name of a server must be 1 to 64 of the characters A-Z a-z 0-9 _ -",)
    if bool(server.command) == (server.url is not None):
        return ("needs either `command` or `url`",)
    if server.url is not None and not _is_url(server.url):
        return "expected an http or https URL", "url"
    for header in server.headers:
        if not _HEADER.fullmatch(header):
            return "expected the name of a header", "headers", header
    for index, variable in enumerate(server.env):
        if not variable.isidentifier() or not variable.isascii():
            return "expected the name of an environment variable, without a value", "env", index
    for variable in (*server.env, *server.variables):
        if is_loaded_first(variable):
            return (
                "this variable is never passed to servers",
                "env" if variable in server.env else "variables",
                variable,
            )
    return None


_TAKES: Final = {
    "bell": (), "file": ("path",), "webhook": ("url", "url_env", "secret_env"), "command": ("command",),
}  # fmt: skip
"""The allowed keys of each kind of notification and audit sink."""


def _notify_problem(notify: Notify | AuditTo) -> str | None:
    given = {
        "path": isinstance(notify, AuditTo) and notify.path is not None,
        "url": notify.url is not None,
        "url_env": notify.url_env is not None,
        "secret_env": notify.secret_env is not None,
        "command": bool(notify.command),
    }
    takes = _TAKES[notify.kind]
    if isinstance(notify, AuditTo) and notify.kind == "file" and not (notify.path or "").startswith("/"):
        return "kind `file` needs `path`, an absolute path"
    for name, present in given.items():
        if present and name not in takes:
            return f"`{name}` is not allowed for kind `{notify.kind}`"
    if notify.kind == "command" and not notify.command:
        return "kind `command` needs `command`"
    if notify.kind == "webhook" and (notify.url is None) == (notify.url_env is None):
        return "kind `webhook` needs `url`, or `url_env`, the name of the environment variable with the URL"
    if notify.url is not None and not _is_url(notify.url):
        return "kind `webhook` needs `url`, an http or https URL"
    if notify.url is not None and notify.secret_env is None:
        return (
            "kind `webhook` needs `secret_env`, the name of the environment variable with the signing secret; for a URL that is"
            " itself a secret, such as Slack's, `url_env` names the variable with the URL"
        )
    return None


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0
