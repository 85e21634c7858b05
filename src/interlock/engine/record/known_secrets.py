"""The credentials that Interlock itself gives to MCP servers, which may repeat them in results, errors and progress.

They have no recognisable shape, so they are replaced wherever they occur in the record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from interlock.detect import Redactor
from interlock.detect.credentials import is_secret_name
from interlock.lazy import lazy_pattern
from interlock.settings.sections import McpServer, Settings

VARIABLE = lazy_pattern(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
"""A variable in the configuration of a server, with its default."""


def redactor_for(key: bytes, settings: Settings, env: Mapping[str, str]) -> Redactor:
    """Returns the redactor of a project, whose servers get values of `env`."""
    named = {name: env[name] for name in settings.mcp.env if name in env}
    known = [value for name, value in named.items() if is_secret_name(name)]
    return Redactor(key, [*known, *(secret for one in settings.mcp.servers.values() for secret in _given(one, env))])


def _given(server: McpServer, env: Mapping[str, str]) -> Iterator[str]:
    yield from (env[name] for name in server.env if name in env and is_secret_name(name))
    for name, value in {**server.variables, **server.headers}.items():
        if is_secret_name(name):
            whole = VARIABLE.sub(lambda match: env.get(match["name"], match["default"] or ""), value)
            yield whole.rpartition(" ")[2]  # without the scheme of `Authorization`
