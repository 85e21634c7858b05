"""`interlock policy`: shows the policies, checks them, and explains what they decide."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from interlock.model.decode import decode_value
from interlock.model.errors import ConfigurationError, ProposalError, UsageError
from interlock.model.limits import DEFAULT_LIMITS
from interlock.model.text import without_bom
from interlock.model.yaml import parse_yaml
from interlock.surfaces.cli.app import FAILED, Group
from interlock.surfaces.cli.ids import RUN, TOOL
from interlock.surfaces.cli.open_project import history
from interlock.surfaces.cli.output import Output, clean

if TYPE_CHECKING:
    from interlock.engine.inspect.policy_check import CaseResult, Explanation, Policies, Replayed

_COLORS = {"allow": "green", "hold": "yellow", "deny": "red"}


@click.group(cls=Group)
def policy() -> None:
    """Show, check, test and explain the policies as they are in the files, trusted or not."""


@policy.command("show")
@click.pass_obj
def show(out: Output) -> None:
    """Print the Cedar policies in effect: those generated from the short rules, and those in files."""
    found = _policies(out)
    document = {
        "trusted": found.trusted,
        "rules": found.rules,
        "files": [{"name": name, "text": text} for name, text in found.files],
    }
    if out.json:
        out.emit(document)
        return
    out.raw(f"// from [rules] in interlock.toml\n{found.rules}")
    for name, text in found.files:
        out.raw(f"\n// {name}\n{text}")


@policy.command("check")
@click.pass_obj
def check(out: Output) -> None:
    """Find misspelt tools, parameters and attributes, with file and line. Exit code 2 if there are any."""
    from interlock.policy import PolicyConfigurationError  # noqa: PLC0415 - start-up, as below

    try:
        found = _policies(out)
    except PolicyConfigurationError as error:
        if out.json or len(error.problems) == 1:
            raise
        for problem in error.problems:
            out.write(sys.stderr, clean(str(problem)))
        many = f"the policies cannot be used: {len(error.problems)} problems"
        raise ConfigurationError(many, code=error.code, hint=error.hint) from None
    document = {
        "valid": True, "policies": len(found.judge.policies), "files": len(found.files), "tools": found.tools,
        "trusted": found.trusted,
    }  # fmt: skip
    for pattern in found.unmatched:
        out.warn(f"no file matches the pattern `{clean(pattern)}` in `policy.files`")
    for warning in (*map(str, found.judge.warnings), *found.unknown):
        out.warn(clean(warning))
    text = f"valid: {document['policies']} policies, checked against {found.tools} tools"
    out.emit(document, lambda: [text, *([] if found.trusted else ["not in force yet; run `interlock trust`"])])


@policy.command("test")
@click.argument("cases", type=click.Path(path_type=Path))
@click.pass_obj
def test(out: Output, cases: Path) -> int:
    """Run a table of cases (YAML or JSON). Exit code 1 if a case does not get the expected decision."""
    data = _read(cases)
    results = _policies(out).test(data, str(cases))
    failed = sum(not result.passed for result in results)
    out.emit(
        {"passed": len(results) - failed, "failed": failed, "cases": results}, lambda: _results(out, results, failed)
    )
    return FAILED if failed else 0


@policy.command("explain")
@click.argument("action", type=TOOL)
@click.option("--agent", metavar="NAME", help="The calling agent; by default the configuration's `agent`.")
@click.option("--parameters", default="{}", metavar="JSON", help="The call's parameters.")
@click.option("--resource", metavar="NAME", help="The key or host, for a built-in action such as state_write.")
@click.option("--session", metavar="NAME", help="The session.")
@click.option("--state", default="{}", metavar="JSON", help="Values of state keys.")
@click.pass_obj
def explain(
    out: Output, action: str, agent: str | None, parameters: str, resource: str | None, session: str | None, state: str
) -> None:
    """Show how the policies decide a call of ACTION (a tool, or state_read, state_write, assert), and why."""
    values = [_object(name, text) for name, text in (("parameters", parameters), ("state", state))]
    policies = _policies(out)
    if problem := policies.unknown_action(action):
        out.warn(problem)
    found = policies.explain(
        action, agent=agent, parameters=values[0], resource=resource, session=session, state=values[1]
    )
    out.emit(found, lambda: _explanation(out, found))


@policy.command("replay")
@click.argument("run_ids", nargs=-1, metavar="[RUN]...", type=RUN)
@click.pass_obj
def replay(out: Output, run_ids: tuple[str, ...]) -> None:
    """Judge the calls of past runs again, and show which ones the current policies would have decided differently."""
    from interlock.engine.inspect.policy_check import replay_runs  # noqa: PLC0415 - start-up

    found = _policies(out)
    with history() as past:
        replayed = replay_runs(found, past, run_ids)
    out.emit(replayed, lambda: _replay_lines(out, replayed))


def _policies(out: Output) -> Policies:
    from interlock.engine.inspect.policy_check import read_policies  # noqa: PLC0415 - start-up: imports every tool

    found = read_policies(Path(), os.environ)
    for name, why in found.left_out.items():
        out.warn(f"the tools of {clean(name)} are left out: {clean(why)}")
    return found


def _read(path: Path) -> Any:
    try:
        most = DEFAULT_LIMITS.yaml_bytes
        with sys.stdin.buffer if str(path) == "-" else path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        code = "not_found" if isinstance(error, FileNotFoundError) else "usage"
        raise UsageError(
            f"the cases cannot be read: {os.strerror(error.errno or 0)}", code=code, path=str(path)
        ) from None
    if len(data) > most:
        raise UsageError(f"the cases have more than {most} bytes", code="limit_exceeded", path=str(path))
    try:
        return (
            decode_value(data) if without_bom(data).lstrip()[:1] in (b"{", b"[") else parse_yaml(data, DEFAULT_LIMITS)
        )
    except ProposalError as error:
        raise UsageError(f"the cases cannot be read: {error.message}", path=f"{path}:{error.path or ''}") from None


def _object(name: str, text: str) -> dict[str, Any]:
    try:
        value = decode_value(text.encode("utf-8", "surrogateescape"))
    except ProposalError as error:
        raise UsageError(f"`--{name}` cannot be read: {error.message}", path=error.path) from None
    if not isinstance(value, dict):
        raise UsageError(f"`--{name}` must be a JSON object")
    return value


def _results(out: Output, results: tuple[CaseResult, ...], failed: int) -> Iterable[str]:
    for result in results:
        word = out.paint("ok    ", "green") if result.passed else out.paint("FAILED", "red")
        yield f"{word} {clean(result.name)}" + (f": {clean(result.message)}" if result.message else "")
    yield f"{len(results) - failed} passed, {failed} failed"


def _explanation(out: Output, found: Explanation) -> Iterable[str]:
    decision = found.decision
    why = f": {clean(decision.detail)}" if decision.detail else ""
    yield out.paint(decision.decision, _COLORS[decision.decision]) + why
    for each in found.policies:
        if each.result == "out of scope":
            continue
        place = (
            each.place.removesuffix(":1") if each.place.startswith("rules.") else each.place
        )  # such a rule is one line
        why = f": {clean(each.why)}" if each.conditions or each.result != "matched" else ""
        yield f"  {each.effect} {clean(each.id)} ({clean(place)}): {each.result}{why}"
        for condition in each.conditions if len(each.conditions) > 1 or each.result != "no match" else ():
            word = "unless" if condition.unless else "when"
            yield f"    {word} {{ {clean(condition.text)} }}: {condition.result}"


def _replay_lines(out: Output, replayed: Replayed) -> Iterable[str]:
    yield replayed.summary
    if replayed.changes:
        yield from out.table(
            ("RUN", "ACTION", "WAS", "WOULD BE", "BY"),
            ((c.run, c.action, c.before, c.after.decision, " ".join(c.after.policies)) for c in replayed.changes),
        )
    if replayed.left_out:
        yield out.paint(f"{replayed.left_out} decisions left out: their parameters are no longer stored", "dim")
