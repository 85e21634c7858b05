"""The notifiers of questions and the audit sinks that the configuration names."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from interlock.engine.people.approval_desk import Desk
from interlock.engine.services import Services
from interlock.executors.environment import child_environment
from interlock.lazy import lazy
from interlock.model.errors import ConfigurationError
from interlock.settings import Loaded, Settings
from interlock.settings.sections import AuditTo, Notify

if TYPE_CHECKING:
    from interlock.approvals import Notifier, audit_sinks, notifiers
else:
    audit_sinks = lazy("interlock.approvals.audit_sinks")
    notifiers = lazy("interlock.approvals.notifiers")


def announce(
    services: Services, loaded: Loaded, env: Mapping[str, str] | None, closing: list[Callable[[], None]]
) -> None:
    """Set up the notifiers of questions, unless there is no `env` for them."""
    desk = services.desk
    closing.append(desk.close)
    if env is not None:
        desk.notify_through(_notifiers(loaded.settings, desk, env, services.hooks.warnings))
        for sink in _audit_sinks(loaded, desk, env, services):
            desk.attach(sink)


def _notifiers(settings: Settings, desk: Desk, env: Mapping[str, str], warnings: list[str]) -> list[Notifier]:
    """The notifiers that `[[approvals.notify]]` names. Raises ConfigurationError.

    A notifier whose variable is not set is skipped with a warning: questions are still asked, and undo must not depend on it.
    """
    found: list[Notifier] = []
    for number, one in enumerate(settings.approvals.notify):
        if one.kind == "bell":
            found.append(notifiers.TerminalBell())
        elif one.kind == "command":
            found.append(notifiers.Command(one.command, child_environment(env), name=f"command {number}"))
        else:
            webhook = _webhook(one, f"notify[{number}]", desk, env, warnings)
            found += [] if webhook is None else [webhook]
    return found


def _webhook(
    one: Notify | AuditTo, place: str, desk: Desk, env: Mapping[str, str], warnings: list[str]
) -> notifiers.Webhook | None:
    """A webhook of `[approvals]`. None, with a warning, if a variable is not set. Raises ConfigurationError."""
    missing = [
        f"approvals.{place}.{key}: this notifier is off: the environment variable `{name}` is not set"
        for key, name in (("url_env", one.url_env), ("secret_env", one.secret_env))
        if name is not None and not env.get(name)
    ]
    warnings += missing
    if missing:
        return None
    url = one.url if one.url_env is None else env[one.url_env]
    secret = None if one.secret_env is None else env[one.secret_env].encode("utf-8", "surrogateescape")
    return notifiers.Webhook(url or "", secret, desk.store.time, name=f"webhook {place}")


def _audit_sinks(loaded: Loaded, desk: Desk, env: Mapping[str, str], services: Services) -> list[audit_sinks.AuditSink]:
    """The audit sinks that `[[approvals.audit]]` names. Raises ConfigurationError."""
    found: list[audit_sinks.AuditSink] = []
    for number, one in enumerate(loaded.settings.approvals.audit):
        place = f"audit[{number}]"
        if one.kind == "file":
            path = Path(os.path.realpath(one.path or ""))
            if services.workspace is not None and path.is_relative_to(loaded.root):
                raise ConfigurationError(
                    "the audit file is inside the workspace, where an agent can write",
                    path=f"approvals.{place}.path",
                    hint="choose a place outside it",
                )
            found.append(audit_sinks.FileSink(path, services.disk))
        elif one.kind == "command":
            found.append(
                audit_sinks.CommandSink(notifiers.Command(one.command, child_environment(env), name=f"command {place}"))
            )
        else:
            webhook = _webhook(one, place, desk, env, services.hooks.warnings)
            found += [] if webhook is None else [audit_sinks.WebhookSink(webhook)]
    return found
