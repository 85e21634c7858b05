"""Which environment variables a call may set without approval.

A variable can make a program load code that its command does not show: `PERL5OPT`, `GIT_CONFIG_COUNT`, `NODE_OPTIONS`,
`LESSOPEN`, `MAKEFLAGS` and hundreds more. They cannot all be listed, so this module lists the ones known to be harmless.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from interlock.lazy import lazy_pattern

_ANY_VALUE: Final = lazy_pattern(
    r"TZ | TMPDIR | DEBUG | RUST_LOG | SOURCE_DATE_EPOCH | GIT_(AUTHOR|COMMITTER)_(NAME|EMAIL|DATE)", re.VERBOSE
)
_WORD: Final = lazy_pattern(
    r"""
      LANG | LANGUAGE | LC_[A-Z]+ | TERM | COLORTERM | COLUMNS | LINES
    | NO_COLOR | FORCE_COLOR | CLICOLOR(_FORCE)? | CARGO_TERM_COLOR
    | CI | VERBOSE | LOG_LEVEL | RUST_BACKTRACE
    | PYTHONUNBUFFERED | PYTHONHASHSEED | PYTHONUTF8 | PYTHONDONTWRITEBYTECODE | PYTHONFAULTHANDLER
    | NODE_ENV | RAILS_ENV | RACK_ENV | APP_ENV
    | GOMAXPROCS | GOGC | OMP_NUM_THREADS | CARGO_INCREMENTAL | CARGO_BUILD_JOBS | GIT_TERMINAL_PROMPT | GIT_OPTIONAL_LOCKS
    """,
    re.VERBOSE,
)
_NO_PATH: Final = lazy_pattern(r"[^/\\\0]*")
"""The value of a `_WORD`, which must not contain a path.

Some programs use it in a file name (`config/environments/$RAILS_ENV.rb`).
"""
_REFUSED: Final = lazy_pattern(
    r"LD_.*|GLIBC_TUNABLES|GCONV_PATH|BASH_ENV|ENV|BASH_FUNC_.*|BASHOPTS|SHELLOPTS|PS4|PROMPT_COMMAND", re.DOTALL
)


def unknown_variables(variables: Mapping[str, Any], allowed: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns the names of variables that are not known to be harmless, sorted.

    `allowed` adds names; a final `*` matches any rest.
    """
    return tuple(
        sorted(
            name for name, value in variables.items() if not _is_harmless(name, value) and not _is_named(name, allowed)
        )
    )


def is_loaded_first(name: str) -> bool:
    """Returns True if the dynamic loader, the C library or a shell reads the variable before the judged program starts."""
    return _REFUSED.fullmatch(name) is not None


def _is_harmless(name: str, value: Any) -> bool:
    if _ANY_VALUE.fullmatch(name):
        return True
    return _WORD.fullmatch(name) is not None and isinstance(value, str) and _NO_PATH.fullmatch(value) is not None


def _is_named(name: str, allowed: Sequence[str]) -> bool:
    return any(name.startswith(each[:-1]) if each.endswith("*") else name == each for each in allowed)
