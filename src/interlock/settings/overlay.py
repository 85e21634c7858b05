"""Applies environment variables and flags over the file. They may tighten the configuration, but never loosen it.

`RULES` defines for each setting what tighter means. A setting without a rule can be set only in the file: either its
values have no order from loose to tight, or it must not be changed from outside.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

from interlock.lazy import lazy_pattern
from interlock.model.errors import ConfigurationError
from interlock.model.globs import name_covers
from interlock.model.values import nearest_name
from interlock.settings.decode import Place, decode_text, fields_of
from interlock.settings.sections import Settings

NOT_SETTINGS: Final = frozenset(("INTERLOCK_STATE_DIR", "INTERLOCK_APPROVER_TOKEN", "INTERLOCK_DEBUG"))
"""Interlock's environment variables that are not settings."""

_PREFIX: Final = "INTERLOCK_"
_KUBERNETES: Final = lazy_pattern(
    r"INTERLOCK_(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)?)"
)
_BUILT_IN_ACTIONS: Final = frozenset(("state_read", "state_write", "assert", "compensate", "connect"))
"""Entries of `[rules]` that are not tools. Globs over tool names do not cover them, except `*` alone those on state."""
_ON_STATE: Final = frozenset(("state_read", "state_write", "assert"))

Rule = Callable[[Any, Any, Settings], Any]
"""Maps (present value, wanted value, settings before this layer) to the new value. Raises LooserError if it would be looser."""


class LooserError(Exception):
    """Raised if the requested value is looser than the present one."""


def smaller(old: Any, new: Any, _settings: Settings) -> Any:
    """Accepts a smaller or equal bound; no bound is the loosest."""
    if old is not None and (new is None or new > old):
        raise LooserError
    return new


def later(*order: Any) -> Rule:
    """A rule that accepts the same or a stricter value in the given order, from loose to strict."""

    def rule(old: Any, new: Any, _settings: Settings) -> Any:
        if order.index(new) < order.index(old):
            raise LooserError
        return new

    return rule


def added(old: tuple[str, ...], new: tuple[str, ...], _settings: Settings) -> tuple[str, ...]:
    """The file's entries, and the new ones."""
    return tuple(dict.fromkeys((*old, *new)))


def fewer(old: tuple[str, ...], new: tuple[str, ...], _settings: Settings) -> tuple[str, ...]:
    """Accepts a subset of the file's entries."""
    if not set(new) <= set(old):
        raise LooserError
    return new


def allowed(old: tuple[str, ...], new: tuple[str, ...], _settings: Settings) -> tuple[str, ...]:
    """Accepts entries that the file's entries cover."""
    if not all(_covered(entry, old) for entry in new):
        raise LooserError
    return new


def merge_ask(old: tuple[str, ...], new: tuple[str, ...], settings: Settings) -> tuple[str, ...]:
    """The file's `ask` entries, and the new ones if the file allows them. Asking for a denied tool would be looser."""
    if not all(_covered(entry, (*old, *settings.rules.allow)) for entry in new):
        raise LooserError
    return tuple(dict.fromkeys((*old, *new)))


def nothing(old: Any, new: Any, _settings: Settings) -> Any:
    """Accepts only off. Another value would send data to a destination that the file does not name."""
    if new not in (None, old):
        raise LooserError
    return new


RULES: Final[dict[str, Rule]] = {
    "rules.allow": allowed,
    "rules.ask": merge_ask,
    "rules.deny": added,
    "approvals.ttl": smaller,
    "approvals.separation": later(False, True),
    "approvals.preview": later(False, True),
    **{f"budget.{key}": smaller for key in ("actions", "tool_calls", "duration", "cost", "tokens")},
    **{
        f"budget.{per}.{key}": smaller
        for per in ("proposal", "run", "agent")
        for key in ("actions", "tool_calls", "duration", "cost", "tokens")
    },
    "isolation.profile": later("none", "nons", "ns"),
    "isolation.require": added,
    "isolation.recorder": later("none", "notify"),
    "workspace.mode": later("direct", "layer"),
    "workspace.commit": later("auto", "ask", "never"),
    "isolation.env_allow": fewer,
    **{
        f"isolation.{key}": smaller
        for key in ("memory", "processes", "cpu", "file_size", "open_files", "tmp", "disk", "output")
    },
    "isolation.timeout": smaller,
    "isolation.env": fewer,
    "isolation.home": fewer,
    "isolation.read": fewer,
    "network.private": fewer,
    "guard.cpu": smaller,
    "guard.memory": smaller,
    "guard.disk": smaller,
    "guard.zombies": smaller,
    "guard.wait": smaller,
    "workspace.wait": smaller,
    "journal.durability": later("off", "memory", "batch", "full"),
    "tools.modules": fewer,
    "telemetry.otel": nothing,
}


def overlay(settings: Settings, env: Mapping[str, str], flags: Mapping[str, Any]) -> tuple[Settings, dict[Place, str]]:
    """Apply `INTERLOCK_<SECTION>_<KEY>` of the environment, then flags (`{"budget.actions": "10"}`).

    The value of a flag is a string, as in the environment, or a list of strings. Returns the settings and the source of
    each changed place (`environment INTERLOCK_BUDGET_ACTIONS`, `flag budget.actions`).

    Raises: ConfigurationError `override_loosens` for a looser value and for a setting that only the file may set;
    `configuration` for an unknown name or an invalid value.
    """
    sources: dict[Place, str] = {}
    for layer in (_from_environment(env), _from_flags(flags)):
        before = settings
        for key, text, source in layer:
            place = tuple(key.split("."))
            settings = _apply(settings, before, place, text, source)
            sources[place] = source
    return settings, sources


def _from_environment(env: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    ours = _ours(env)
    known = {_variable(key): key for key in _known_keys()} if ours else {}
    for name in ours:
        if name not in known:
            if is_foreign(name):
                continue
            # Ignoring a misspelt variable would silently drop a restriction.
            near = nearest_name(name, known)
            hint = f"did you mean `{near}`?" if near else "unset it, or see `interlock doctor --config`"
            raise ConfigurationError("the environment variable is not a setting", path=f"environment {name}", hint=hint)
        yield known[name], env[name], f"environment {name}"


def foreign_variables(env: Mapping[str, str]) -> list[str]:
    """The variables that have our prefix but are not ours, except those that Kubernetes sets for each service."""
    ours = _ours(env)
    known = {_variable(key) for key in _known_keys()} if ours else set()
    return [name for name in ours if name not in known and is_foreign(name) and not _KUBERNETES.fullmatch(name)]


def _ours(env: Mapping[str, str]) -> list[str]:
    """The variables that may be settings. Usually there are none, which avoids building the list of all settings."""
    return [name for name in sorted(env) if name.startswith(_PREFIX) and name not in NOT_SETTINGS]


def is_foreign(name: str) -> bool:
    """True if a variable belongs to another program: it does not name a section of ours, and does not resemble a setting."""
    own = name.removeprefix(_PREFIX)
    known = [_variable(key).removeprefix(_PREFIX) for key in _known_keys()]
    sections = {key.partition("_")[0] for key in known}
    return own.partition("_")[0] not in sections and not nearest_name(own, known, cutoff=0.75)


def _from_flags(flags: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    known = _known_keys() if flags else ()
    for key, value in flags.items():
        if key not in known:
            near = nearest_name(key, known)
            hint = f"did you mean `{near}`?" if near else None
            raise ConfigurationError("the flag is not a setting", path=f"flag {key}", hint=hint)
        yield key, ",".join(value) if isinstance(value, list | tuple) else str(value), f"flag {key}"


def _apply(settings: Settings, before: Settings, place: Place, text: str, source: str) -> Settings:
    key = ".".join(map(str, place))
    rule = RULES.get(key)
    if rule is None:
        raise ConfigurationError(
            f"`{key}` can only be set in the file", code="override_loosens", path=source, hint="edit interlock.toml"
        )
    *sections, last = place
    owners: list[Any] = [settings]
    for section in sections:
        owners.append(getattr(owners[-1], str(section)))
    name, hint = fields_of(type(owners[-1]))[str(last)]
    old = getattr(owners[-1], name)
    # An empty value turns an optional setting off. Its rule decides whether that is tighter.
    empty = text == "" and type(None) in typing.get_args(getattr(hint, "__origin__", hint))
    wanted = None if empty else decode_text(hint, text, place, locate=lambda _place: source)
    try:
        value = rule(old, wanted, before)
    except LooserError:
        raise ConfigurationError(
            f"the value would loosen `{key}`",
            code="override_loosens",
            path=source,
            hint="environment variables and flags may only tighten; to loosen, edit interlock.toml and trust it",
        ) from None
    changed: Any = msgspec.structs.replace(owners.pop(), **{name: value})
    for section in reversed(sections):
        changed = msgspec.structs.replace(owners.pop(), **{str(section): changed})
    return changed  # type: ignore[no-any-return]


def _covered(entry: str, by: tuple[str, ...]) -> bool:
    """True only if every call that `entry` covers is also covered by one entry of `by`."""
    if entry in by:
        return True
    if entry in _ON_STATE:
        return any(not other.strip("*") for other in by)
    if entry.startswith("tag:") or entry in _BUILT_IN_ACTIONS:
        return False
    tool = entry.partition("(")[0]  # `shell(ls *)` is narrower than `shell`
    return tool in by or any(
        "*" in other and "(" not in other and not other.startswith("tag:") and name_covers(other, tool) for other in by
    )


def _variable(key: str) -> str:
    return _PREFIX + key.replace(".", "_").upper()


@functools.cache
def _known_keys() -> tuple[str, ...]:
    """The keys of all settings with a fixed name."""
    return tuple(".".join(place) for place in _places(Settings, ()))


def _places(section: type, above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for key, (_, hint) in fields_of(section).items():
        plain = getattr(hint, "__origin__", hint)
        if isinstance(plain, type) and issubclass(plain, msgspec.Struct):
            yield from _places(plain, (*above, key))
        elif key != "by_name":
            yield (*above, key)
