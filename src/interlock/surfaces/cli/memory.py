"""`interlock memory`: agents' notes, for a person to read, correct and delete."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from interlock.model.errors import UsageError
from interlock.surfaces.cli.app import Group
from interlock.surfaces.cli.open_project import history
from interlock.surfaces.cli.output import Output, brief, clean
from interlock.surfaces.cli.proof import proof, proving
from interlock.surfaces.cli.results import when

if TYPE_CHECKING:
    from interlock.learning.facts import Fact, FactStore


@contextmanager
def _store() -> Iterator[FactStore]:
    from interlock.engine.local.clock import SystemClock  # noqa: PLC0415 - start-up
    from interlock.learning.facts import FactStore  # noqa: PLC0415 - start-up

    with history() as past:
        yield FactStore(past.db, past.place.workspace_id, SystemClock())


@click.group(cls=Group)
def memory() -> None:
    """Read, correct and delete agents' notes. Needs no trusted configuration."""


@memory.command("list")
@click.option("--scope", metavar="SCOPE", help="Only facts of `agent:NAME`, `group:NAME` or `workspace`.")
@click.option("--all", "everything", is_flag=True, help="Include replaced, withdrawn and expired facts.")
@click.pass_obj
def list_facts(out: Output, scope: str | None, everything: bool) -> None:
    """List the current facts, newest first."""
    with _store() as store:
        found = store.facts(store.scopes() if scope is None else [scope], everything=everything)
    out.emit(found, lambda: _table(out, found))


@memory.command("search")
@click.argument("query")
@click.option("--scope", metavar="SCOPE", help="Only facts of `agent:NAME`, `group:NAME` or `workspace`.")
@click.pass_obj
def search(out: Output, query: str, scope: str | None) -> None:
    """Show the facts that match QUERY, best first: by words, and by vectors if the extra `infer` is installed."""
    from interlock.engine.learning.embedding import nearest_for_person  # noqa: PLC0415 - start-up

    with _store() as store:
        scopes = store.scopes() if scope is None else [scope]
        near = nearest_for_person(store, query, scopes, None)
        found = store.search(query, scopes, limit=50, near=near.facts)
    if near.why is not None:
        out.note(near.why)
    out.emit(found, lambda: _table(out, [one.fact for one in found]))


@memory.command("show")
@click.argument("fact", metavar="FACT")
@click.pass_obj
def show(out: Output, fact: str) -> None:
    """Show a fact in full, with the agent and the action that noted it."""
    from interlock.learning.context import flags_of  # noqa: PLC0415 - start-up

    with _store() as store:
        found = store.get(store.find(fact))
    flags = flags_of(found)
    document = {**msgspec.to_builtins(found), "flags": list(flags)}
    out.emit(document, lambda: _lines(found, flags))


@memory.command("correct")
@click.argument("fact", metavar="FACT")
@click.argument("value")
@proving
@click.pass_obj
def correct(out: Output, fact: str, value: str, token_file: Path | None, approver: str | None) -> None:
    """Correct FACT to VALUE (JSON, or else text). The correction overrides agents' notes from now on."""
    from interlock.engine.local.clock import SystemIds  # noqa: PLC0415 - start-up

    by = _person(out, token_file, approver)
    with _store() as store:
        made = store.correct(store.find(fact), _value(value), by=by, new_id=SystemIds().new("mem"))
    out.emit(made, lambda: [f"corrected: {clean(made.id)} is valid from now on"])


@memory.command("forget")
@click.argument("facts", metavar="[FACT]...", nargs=-1)
@click.option("--scope", metavar="SCOPE", help="All facts of `agent:NAME`, `group:NAME` or `workspace`.")
@click.option("--run", "run_id", metavar="RUN", help="All facts that a run noted.")
@proving
@click.pass_obj
def forget(
    out: Output, facts: tuple[str, ...], scope: str | None, run_id: str | None, token_file: Path | None,
    approver: str | None,
) -> None:  # fmt: skip
    """Delete facts permanently. Where FACT was a correction, what agents noted holds again."""
    if not facts and scope is None and run_id is None:
        raise UsageError("no facts are named", hint="name facts, or use `--scope` or `--run`")
    _person(out, token_file, approver)
    with _store() as store:
        gone = store.forget(ids=[store.find(one) for one in facts], scope=scope, run=run_id)
    out.emit({"forgotten": gone}, lambda: [f"forgot {clean(one)}" for one in gone] or ["nothing was there"])


def _person(out: Output, token_file: Path | None, approver: str | None) -> str:
    """The name of the person who makes the change. Raises: AccessError."""
    from interlock.engine.people.identity import identify, open_desk  # noqa: PLC0415 - start-up

    with open_desk(Path(), os.environ, warn=out.warn) as desk:
        return identify(desk, proof(token_file, approver, needed=bool(desk.approvers.all()))).id


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _table(out: Output, found: list[Fact]) -> Iterable[str]:
    rows = (
        (
            one.id,
            one.scope,
            one.subject,
            one.predicate,
            brief(one.value, 60),
            one.author,
            when(one.created_us),
            _state(one),
        )
        for one in found
    )
    head = ("FACT", "SCOPE", "SUBJECT", "PREDICATE", "VALUE", "BY", "WHEN", "STATE")
    return out.table(head, rows) if found else ["no facts"]


def _state(fact: Fact) -> str:
    return "withdrawn" if fact.withdrawn_by else "pending" if fact.pending else ""


def _lines(fact: Fact, flags: tuple[str, ...]) -> Iterable[str]:
    shown = {
        "id": fact.id, "scope": fact.scope, "subject": fact.subject, "predicate": fact.predicate or "-",
        "value": brief(fact.value, 10_000), "by": fact.author, "when": when(fact.created_us),
        "expires": when(fact.expires_us), "confidence": f"{fact.confidence:g}",
        "from": f"{fact.run}/{fact.proposal}/{fact.action}" if fact.run else "-",
        "withdrawn by": fact.withdrawn_by or "-", "flags": " ".join(flags) or "-",
    }  # fmt: skip
    yield from (f"{name}: {clean(str(text))}" for name, text in shown.items())
