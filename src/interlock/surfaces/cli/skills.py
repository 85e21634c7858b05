"""`interlock skills`: skills learnt from successful proposals, for a person to read, test, approve and retire."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from interlock.model.errors import UsageError
from interlock.surfaces.cli.app import FAILED, Group
from interlock.surfaces.cli.open_project import prepare, runtime
from interlock.surfaces.cli.output import Output, clean
from interlock.surfaces.cli.proof import proof, proving
from interlock.surfaces.cli.results import when

if TYPE_CHECKING:
    from interlock.engine.runtime import Runtime
    from interlock.learning.skills import Skill

_WAITING = {"workspace.mode": "layer", "workspace.commit": "never"}


@click.group(cls=Group)
def skills() -> None:
    """Read, test, approve and retire skills: parametrised proposals that have succeeded."""


@skills.command("list")
@click.option("--all", "everything", is_flag=True, help="Include retired skills.")
@click.pass_obj
def list_skills(out: Output, everything: bool) -> None:
    """List the skills, with the results of their last uses."""
    with runtime(out) as opened:
        found = [one for one in opened.skills.list() if everything or one.state != "retired"]
        documents = [_document(opened, one) for one in found]
    rows = [
        (
            d["name"],
            d["version"],
            d["state"],
            d["tested"],
            f"{d['uses']['succeeded']}/{d['uses']['uses']}",
            len(d["evidence"]),
        )
        for d in documents
    ]
    head = ("SKILL", "VERSION", "STATE", "TESTED", "SUCCEEDED", "LEARNT FROM")
    out.emit(documents, lambda: out.table(head, rows) if rows else ["no skills"])


@skills.command("show")
@click.argument("name")
@click.option("--version", type=click.IntRange(1), help="The version; by default the one in use, else the newest.")
@click.pass_obj
def show(out: Output, name: str, version: int | None) -> None:
    """Show a skill as a proposal, with its tools, hosts and parameters: this is what `approve` approves."""
    with runtime(out) as opened:
        prepare(out, opened)
        document = _document(opened, opened.skills.get(name, version))
    out.emit(document, lambda: _lines(document))


@skills.command("test")
@click.argument("name")
@click.option("--version", type=click.IntRange(1), help="The version; by default the newest candidate.")
@click.option(
    "--parameters", metavar="JSON", help="Arguments; by default those of the newest proposal that it was learnt from."
)
@click.option("--agent", metavar="NAME", help="The agent whose rights apply; by default the configuration's `agent`.")
@click.pass_obj
def test(out: Output, name: str, version: int | None, parameters: str | None, agent: str | None) -> int:
    """Run a skill in a layer that is discarded. Nothing is committed, but programs can reach the hosts of the grant."""
    arguments = None if parameters is None else _arguments(parameters)
    with runtime(out, _WAITING) as opened:
        prepare(out, opened)
        skill = _candidate(opened, name, version)
        outcome = asyncio.run(opened.skills.test(skill, arguments, agent=agent))
    out.emit({"name": name, "version": skill.version, "outcome": outcome}, lambda: [f"{clean(name)}: {clean(outcome)}"])
    return 0 if outcome == "passed" else FAILED


@skills.command("approve")
@click.argument("name")
@click.option("--version", type=click.IntRange(1), help="The version; by default the newest candidate.")
@click.option("--digest", metavar="DIGEST", help="The digest that `show` printed; refuses a changed skill.")
@click.option("--untested", is_flag=True, help="Approve it even if it has not passed a test.")
@click.option(
    "--yes", "-y", is_flag=True, help="Do not ask for confirmation. An imported skill then has to be named by version."
)
@proving
@click.pass_obj
def approve(
    out: Output, name: str, version: int | None, digest: str | None, untested: bool, yes: bool,
    token_file: Path | None, approver: str | None,
) -> None:  # fmt: skip
    """Approve a version of a skill, after showing it. Approval gives no rights: each use is judged like any proposal."""
    with runtime(out) as opened:
        prepare(out, opened)
        skill = _candidate(opened, name, version)
        document = _document(opened, skill)
        if yes and digest is None and version is None and skill.source == "imported":
            raise UsageError(
                f"version {skill.version} of `{name}` was imported, and may not be the one that you mean",
                hint=f"read `interlock skills show {name} --version {skill.version}`, then add `--digest DIGEST`",
            )
        if digest is None and not yes:
            if not (sys.stdin.isatty() and sys.stderr.isatty()):
                raise UsageError(
                    "there is no terminal to confirm at",
                    hint=f"read `interlock skills show {name}`, then add `--digest DIGEST`",
                )
            for line in _lines(document):
                out.write(sys.stderr, line)
            if not click.confirm("Approve this skill?", err=True):
                raise UsageError("not approved")
        by = _person(opened, token_file, approver)
        made = opened.skills.approve(
            name, version=skill.version, digest=digest or skill.digest, by=by, untested=untested
        )
    out.emit(
        {"name": made.name, "version": made.version, "state": made.state, "digest": made.digest},
        lambda: [f"{clean(made.name)}@{made.version} is in use"],
    )


@skills.command("repair")
@click.argument("name")
@click.option(
    "--infer", "by_model", is_flag=True, help="Ask the model of the tool `infer` for another plan of its steps."
)
@click.option("--agent", metavar="NAME", help="The agent that asks the model; by default the configuration's `agent`.")
@click.pass_obj
def repair(out: Output, name: str, by_model: bool, agent: str | None) -> None:
    """Create a candidate with safe repairs: retries of transient failures, a learnt precondition, tools as defined now."""
    with runtime(out) as opened:
        prepare(out, opened)
        asked = opened.skills.repair_by_model(name, agent=agent) if by_model else None
        found = opened.skills.repair(name) if asked is None else asyncio.run(asked)
        document = None if found is None else {"changes": list(found.changes), **_document(opened, found.skill)}
    nothing = ["nothing can be repaired safely, or there is already a candidate"]
    out.emit(document, lambda: nothing if document is None else [*map(clean, document["changes"]), *_lines(document)])


@skills.command("compare")
@click.argument("name")
@click.option("--agent", metavar="NAME", help="The agent whose rights apply; by default the configuration's `agent`.")
@click.pass_obj
def compare(out: Output, name: str, agent: str | None) -> None:
    """Compare the version in use with its candidate on recorded cases, in discarded layers: successes, time and tokens."""
    with runtime(out, _WAITING) as opened:
        prepare(out, opened)
        found = asyncio.run(opened.skills.compare(name, agent=agent))
    rows = [
        (one.version, one.state, f"{one.passed}/{one.cases}", one.actions, f"{one.duration_ms:.0f} ms", one.tokens)
        for one in found
    ]
    head = ("VERSION", "STATE", "PASSED", "ACTIONS", "TIME", "TOKENS")
    why = [clean(f"version {one.version}: {problem}") for one in found for problem in one.problems]
    out.emit(found, lambda: [*out.table(head, rows), *why])


@skills.command("retire")
@click.argument("name")
@proving
@click.pass_obj
def retire(out: Output, name: str, token_file: Path | None, approver: str | None) -> None:
    """Retire a skill: no version is used any more, and it is not learnt again."""
    with runtime(out) as opened:
        found = opened.skills.retire(name, by=_person(opened, token_file, approver))
    out.emit(
        [{"name": one.name, "version": one.version, "state": one.state} for one in found],
        lambda: [f"{clean(name)} is retired"],
    )


@skills.command("export")
@click.argument("name")
@click.option("--version", type=click.IntRange(1), help="The version; by default the one in use, else the newest.")
@click.pass_obj
def export(out: Output, name: str, version: int | None) -> None:
    """Print a skill as a JSON document for use elsewhere, without its evidence, its state and any rights."""
    with runtime(out) as opened:
        data = opened.skills.export(opened.skills.get(name, version))
    out.raw(data.decode())


@skills.command("import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.pass_obj
def import_skill(out: Output, file: Path) -> None:
    """Import a skill from FILE as a candidate, and show its tools and hosts. It can be used only after a person approves it."""
    from interlock.engine.learning.skills import IMPORT_BYTES_MAX  # noqa: PLC0415 - start-up

    with file.open("rb") as source:
        data = source.read(IMPORT_BYTES_MAX + 1)
    with runtime(out) as opened:
        prepare(out, opened)
        document = _document(opened, opened.skills.load(data))
    out.emit(
        document, lambda: [*_lines(document), f"a candidate: `interlock skills test {clean(document['name'])}` is next"]
    )


@skills.command("run")
@click.argument("name")
@click.argument("parameters", metavar="[JSON]", default="{}")
@click.option("--agent", metavar="NAME", help="The agent that uses it; by default the configuration's `agent`.")
@click.pass_obj
def run(out: Output, name: str, parameters: str, agent: str | None) -> int:
    """Use a skill with JSON arguments: one call for all its actions, each judged with the caller's rights."""
    with runtime(out) as opened:
        prepare(out, opened)
        result = asyncio.run(opened.skills.run(name, _arguments(parameters), agent=agent))
    lines = [
        f"{clean(row.action_id)}: {row.status}{'' if row.reason is None else ', ' + row.reason}"
        for row in result.results
    ]
    out.emit(result, lambda: [*lines, f"{result.status}: {result.run_id}"])
    return 0 if result.status == "succeeded" else FAILED


def _candidate(opened: Runtime, name: str, version: int | None) -> Skill:
    if version is not None:
        return opened.skills.get(name, version)
    newest = next((one for one in opened.skills.list() if one.name == name and one.state == "candidate"), None)
    return newest or opened.skills.get(name)


def _person(opened: Runtime, token_file: Path | None, approver: str | None) -> str:
    from interlock.engine.people.identity import identify  # noqa: PLC0415 - start-up

    desk = opened.approvals.desk
    return identify(desk, proof(token_file, approver, needed=bool(desk.approvers.all()))).id


def _arguments(text: str) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise UsageError(f"the arguments are not JSON: {error}") from None
    if not isinstance(value, dict):
        raise UsageError("the arguments must be a JSON object")
    return value


def _document(opened: Runtime, skill: Skill) -> dict[str, Any]:
    from interlock.detect import prompt_flags  # noqa: PLC0415 - start-up
    from interlock.engine.learning.plans import parameters_of  # noqa: PLC0415 - start-up
    from interlock.engine.learning.skills import hosts_of  # noqa: PLC0415 - start-up

    template = skill.content.template
    return {
        "name": skill.name, "version": skill.version, "state": skill.state, "digest": skill.digest,
        "source": skill.source, "learnt_of": skill.agent, "decided_by": skill.decided_by, "tested": skill.tested,
        "created_us": skill.created_us, "goals": list(skill.content.goals), "tools": sorted(skill.content.tools),
        "hosts": hosts_of(skill), "parameters": parameters_of(skill), "order": template.order,
        "steps": msgspec.to_builtins(template.steps), "flags": list(prompt_flags(msgspec.to_builtins(skill.content))),
        "evidence": [one.run for one in opened.skills.evidence(skill)], "problems": list(opened.skills.problems(skill)),
        "uses": msgspec.to_builtins(opened.skills.uses(skill)),
    }  # fmt: skip


def _lines(document: dict[str, Any]) -> Iterable[str]:
    shown = {
        "skill": f"{document['name']}@{document['version']}, {document['state']}, {document['source']}",
        "digest": document["digest"], "for": "; ".join(document["goals"]) or "-", "learnt of": document["learnt_of"] or "-",
        "learnt from": " ".join(document["evidence"]) or "-", "since": when(document["created_us"]),
        "tested": document["tested"] or "no", "tools": " ".join(document["tools"]) or "-",
        "hosts": " ".join(document["hosts"]) or "-", "flags": " ".join(document["flags"]) or "-",
        "problems": "; ".join(document["problems"]) or "-",
    }  # fmt: skip
    yield from (f"{name}: {clean(str(text))}" for name, text in shown.items())
    for name, schema in document["parameters"]["properties"].items():
        yield f"parameter {clean(name)}: {clean(str(schema['type']))}"
    for number, step in enumerate(document["steps"], 1):
        needs = "".join(f" after s{need + 1}" for need in step.get("needs", ()))
        yield f"s{number}: {clean(step.get('tool') or step['type'])}{needs}"
        rest = {**step.get("parameters", {}), **({"(more)": step["more"]} if step.get("more") else {})}
        for name, value in rest.items():
            yield f"    {clean(name)}: {clean(msgspec.json.encode(value).decode())}"
