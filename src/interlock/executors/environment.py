"""The environment of child processes: an allow list, never the parent's own environment.

A child gets these and nothing else:

- `PATH` of Interlock, its relative and empty entries dropped
- `LANG`, `LANGUAGE`, `LC_*`, `TZ`, `USER`, `LOGNAME` as Interlock has them; `LANG` is `C.UTF-8` where it has none
- `TERM=dumb`, since there is no terminal
- `HOME`: a fresh, empty directory, private to the action and removed after it
- in its own network, where the proxy is (`network.ENVIRONMENT`)
- what the call's `env` names, except what the dynamic loader or a shell reads before the program; step 5 of the gate requires
  approval for variables not known to be harmless
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from interlock.detect.environment import is_loaded_first
from interlock.lazy import lazy_pattern
from interlock.model.errors import ToolError

_KEPT: Final = frozenset(("LANG", "LANGUAGE", "TZ", "USER", "LOGNAME"))
_DEFAULT_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_NAME: Final = lazy_pattern(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def child_environment(parent: Mapping[str, str]) -> dict[str, str]:
    """The base environment for children of a process that has `parent` as its own; without HOME."""
    environment = {k: v for k, v in parent.items() if k in _KEPT or k.startswith("LC_")}
    environment.setdefault("LANG", "C.UTF-8")
    directories = [d for d in parent.get("PATH", "").split(":") if d.startswith("/")]
    return {**environment, "TERM": "dumb", "PATH": ":".join(directories) or _DEFAULT_PATH}


def requested_environment(wanted: Mapping[str, str]) -> dict[str, str]:
    """The variables of a call, checked.

    Raises: ToolError `environment_denied`, `invalid_parameters`.
    """
    for name, value in wanted.items():
        if not _NAME.match(name) or "\0" in value:
            raise ToolError(
                "`env` has an invalid variable name, or a value with a NUL character",
                code="invalid_parameters",
                path="$.parameters.env",
                retryable=False,
            )
        if is_loaded_first(name):
            raise ToolError(
                "`env` has a variable that makes programs load other code (such as `LD_*` and `BASH_ENV`)",
                code="environment_denied",
                path="$.parameters.env",
                retryable=False,
                hint="leave it out, or set it inside the command, where policies and approvers see it",
            )
    return dict(wanted)
