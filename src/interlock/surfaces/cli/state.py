"""`interlock state`: the keys and values that the runs of a project share, and their history."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
import msgspec

from interlock.lazy import lazy
from interlock.model.errors import InterlockError, UsageError
from interlock.surfaces.cli.app import Group
from interlock.surfaces.cli.open_project import history
from interlock.surfaces.cli.output import Output, brief
from interlock.surfaces.cli.results import when

if TYPE_CHECKING:
    from click import shell_completion

    from interlock.state.store import StateStore, Transition
else:
    shell_completion = lazy("click.shell_completion")


@contextmanager
def _store() -> Iterator[StateStore]:
    from interlock.engine.local.clock import SystemClock  # noqa: PLC0415 - start-up
    from interlock.state.store import StateStore  # noqa: PLC0415 - start-up

    with history() as past:
        yield StateStore(past.db, past.place.workspace_id, SystemClock())


class _Key(click.ParamType[str]):
    name = "key"

    def shell_complete(
        self, _ctx: click.Context, _parameter: click.Parameter, incomplete: str
    ) -> list[shell_completion.CompletionItem]:
        """The keys with this prefix; none outside a project."""
        try:
            with _store() as store:
                keys = sorted(store.snapshot())
        except InterlockError:
            return []
        return [shell_completion.CompletionItem(key) for key in keys if key.startswith(incomplete)]


@click.group(cls=Group)
def state() -> None:
    """Inspect the state of this project. Needs no trusted configuration. To change it, propose a `state_write`."""


@state.command("list")
@click.argument("pattern", metavar="[GLOB]", default="*")
@click.pass_obj
def list_keys(out: Output, pattern: str) -> None:
    """List the keys with their versions and values; with GLOB only matching ones, such as `build.*`."""
    from interlock.model.globs import name_matcher  # noqa: PLC0415 - start-up

    matches = name_matcher([pattern])
    with _store() as store:
        found = {key: entry for key, entry in sorted(store.snapshot().items()) if matches(key)}
    head, rows = ("KEY", "VERSION", "VALUE"), [(key, e.version, brief(e.value)) for key, e in found.items()]
    out.emit(
        [{"key": key, "version": entry.version, "value": entry.value} for key, entry in found.items()],
        lambda: out.table(head, rows) if rows else ["no keys"],
    )


@state.command("get")
@click.argument("key", type=_Key())
@click.pass_obj
def get(out: Output, key: str) -> None:
    """Print the value of a key as JSON; with --json also its version."""
    with _store() as store:
        found = store.get(key)
    if found is None:
        raise UsageError(f"the state has no key `{key}`", code="not_found", hint="`interlock state list` shows them")
    if out.json:
        out.emit({"key": key, "version": found.version, "value": found.value})
    else:
        out.raw(out.as_json(found.value))


@state.command("history")
@click.argument("key", type=_Key())
@click.pass_obj
def show_history(out: Output, key: str) -> None:
    """Show the changes of a key, oldest first, with the run and the action that made each."""
    with _store() as store:
        found = store.history(key)
    if not found:
        raise UsageError(
            f"the state never had a key `{key}`", code="not_found", hint="`interlock state list` shows those it has"
        )
    out.emit([msgspec.to_builtins(one) for one in found], lambda: _table(out, found))


def _table(out: Output, found: list[Transition]) -> Iterable[str]:
    rows = (
        (one.version, when(one.at_us), one.run, one.action, "(removed)" if one.deleted else brief(one.value))
        for one in found
    )
    return out.table(("VERSION", "WHEN", "RUN", "ACTION", "VALUE"), rows)
