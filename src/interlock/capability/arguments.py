"""Finds the paths and hosts in a call's arguments, by the marks of the tool's schema, and normalises them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

from interlock.model.decision import Refusal
from interlock.model.globs import workspace_path
from interlock.model.hosts import PORTS, Endpoint, endpoint
from interlock.model.pointers import values_at

Defaults = Mapping[tuple[str, ...], Any]
"""The defaults of omitted parameters by their paths, outer ones first; `*` is every element of an array."""
Access = Literal["read", "write"]
Marks = Sequence[tuple[str, str]]
"""Pairs of a pointer pattern (RFC 6901, `*` for every element) and `path.read`, `path.write`, `host`, `secret` or `command`."""

NOT_REACHED: Final = frozenset(("secret", "command", "environment", "model"))
"""Marks other than paths and hosts."""

Reach = tuple[str, Access, str] | tuple[str, Literal["host"], Endpoint]
"""The place (`$.parameters.path`), the kind of access, and the path or host."""


def reaches(marks: Marks, parameters: Any, root: str | None) -> list[Reach] | Refusal:
    """Returns every path and host that a call names, or a Refusal if one is ambiguous."""
    found: list[Reach] = []
    for pattern, mark in marks:
        if mark in NOT_REACHED:
            continue
        for where, value in values_at(pattern, parameters):
            reason = "host_denied" if mark == "host" else "path_denied"
            try:
                if mark == "host":
                    found.append((where, "host", endpoint(value)))
                elif mark == "path.read":
                    found.append((where, "read", workspace_path(value, root)))
                else:  # `path.write`, and any mark that is added later
                    found.append((where, "write", workspace_path(value, root)))
            except ValueError as error:
                return Refusal(reason, f"{named(where)} {error}", where)
    return found


def named(where: str) -> str:
    """The parameter at a place, for people: `$.parameters.path` is `path`."""
    return f"`{where.removeprefix('$.parameters.')}`"


def normalize(marks: Marks, parameters: dict[str, Any], root: str | None, defaults: Defaults) -> dict[str, Any]:
    """Returns the parameters as judged: every path and host in normal form, and `defaults` for omitted ones.

    Otherwise a rule about `secrets/*` would miss `./secrets/x`, and neither grants nor rules would see a tool's
    defaults. Invalid values are left unchanged; step 3 refuses them.
    """
    out = parameters
    for path, value in defaults.items():
        out = _fill_in(out, path, value)
    for pattern, mark in marks:
        if mark not in NOT_REACHED:
            spell = _spell_host if mark == "host" else lambda value: _spell_path(value, root)
            out = _rewritten(out, [t.replace("~1", "/").replace("~0", "~") for t in pattern.split("/")[1:]], spell)
    return out


def _fill_in(node: Any, path: Sequence[str], value: Any) -> Any:
    """Returns a copy of `node` with `value` at a path, wherever only the last name is missing; otherwise the same object."""
    name, rest = path[0], path[1:]
    if isinstance(node, dict):
        if name not in node:
            return node if rest else {**node, name: value}
        new = _fill_in(node[name], rest, value) if rest else node[name]
        return node if new is node[name] else {**node, name: new}
    if isinstance(node, list) and name == "*" and rest:
        out = [_fill_in(item, rest, value) for item in node]
        return out if any(new is not old for new, old in zip(out, node, strict=True)) else node
    return node


def _rewritten(node: Any, tokens: Sequence[str], spell: Callable[[Any], Any]) -> Any:
    """Returns a copy of `node` with the values at a pointer pattern normalised; the same object if nothing changes."""
    if isinstance(node, dict) and tokens:
        names = list(node) if tokens[0] == "*" else [tokens[0]] if tokens[0] in node else []
        new = {name: _rewritten(node[name], tokens[1:], spell) for name in names}
        return {**node, **new} if any(new[name] is not node[name] for name in names) else node
    if isinstance(node, list):
        rest = tokens[1:] if tokens else tokens
        return [
            _rewritten(v, rest, spell) if not tokens or tokens[0] in ("*", str(i)) else v for i, v in enumerate(node)
        ]
    return node if tokens or node is None else spell(node)


def _spell_path(value: Any, root: str | None) -> Any:
    try:
        path = workspace_path(value, root)
        path.encode()
    except ValueError:
        return value  # a name that is not UTF-8 stays `{"b64": ...}`, which no policy about a string allows
    return path if path != value else value


def _spell_host(value: Any) -> Any:
    try:
        there = endpoint(value)
    except ValueError:
        return value
    scheme, separator, rest = value.partition("://")
    if not separator:
        return str(there) if there.port is not None else there.host
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    user, at, _ = authority.rpartition("@")
    host = f"[{there.host}]" if ":" in there.host else there.host
    port = "" if there.port in (None, PORTS.get(scheme.lower())) else f":{there.port}"
    return f"{scheme.lower()}://{user}{at}{host}{port}{rest[len(authority) :]}"
