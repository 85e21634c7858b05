"""The environment of child processes: an allow list, never the parent's own environment.

A child gets exactly these variables:

- `PATH` of Interlock, without relative and empty entries
- `LANG`, `LANGUAGE`, `LC_*`, `TZ`, `USER`, `LOGNAME` of Interlock; `LANG` defaults to `C.UTF-8`
- `TERM=dumb`, because there is no terminal
- `HOME`: a new, empty directory, private to the action and removed after it
- in a network namespace, the variables of the proxy (`network.ENVIRONMENT`)
- the call's `env`, except variables that the dynamic loader or a shell reads first; step 5 of the gate requires approval
  for variables that are not known to be harmless
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
    """Returns the base environment for children, without HOME. `parent` is Interlock's own environment."""
    environment = {k: v for k, v in parent.items() if k in _KEPT or k.startswith("LC_")}
    environment.setdefault("LANG", "C.UTF-8")
    directories = [d for d in parent.get("PATH", "").split(":") if d.startswith("/")]
    return {**environment, "TERM": "dumb", "PATH": ":".join(directories) or _DEFAULT_PATH}


def requested_environment(wanted: Mapping[str, str]) -> dict[str, str]:
    """Check the variables of a call and return them.

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
                "`env` has a variable that makes programs load other code (such as `LD_PRELOAD` or `BASH_ENV`)",
                code="environment_denied",
                path="$.parameters.env",
                retryable=False,
                hint="leave it out, or set it inside the command, where policies and approvers see it",
            )
    return dict(wanted)
