"""`interlock verify`, `simulate` and `explain`: inspect a proposal without running it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from interlock.surfaces.cli.app import FAILED, Command
from interlock.surfaces.cli.open_project import runtime
from interlock.surfaces.cli.output import Output, brief, clean
from interlock.surfaces.cli.plan_file import read_plan

if TYPE_CHECKING:
    from interlock.engine.inspect import explain as engine
    from interlock.engine.runtime import Runtime
    from interlock.policy import Explanation
    from interlock.policy.explain import PolicyExplanation

T = TypeVar("T")
_POLICY_STEP: Final = 5
_ANSWERS = {"allow": "green", "ask": "yellow", "reject": "red", "unknown": "cyan"}


@click.command(cls=Command)
@click.argument("plan", type=click.Path())
@click.pass_obj
def verify(out: Output, plan: str) -> int:
    """Check a proposal without running anything: unknown tools, parameters, edges, conditions, limits.

    Exit code: 0 if it is valid (warnings do not count), 1 if an action cannot run as written, 2 if it is malformed.
    """
    proposal = read_plan(plan)
    report = _look(out, lambda opened: opened.verify(proposal))
    out.emit(report, lambda: _report(out, report))
    return 0 if report.valid else FAILED


@click.command(cls=Command)
@click.argument("plan", type=click.Path())
@click.pass_obj
def simulate(out: Output, plan: str) -> int:
    """Predict the state after a proposal, and which actions cannot run. Runs no tool.

    Exit code: 0 if every action could run, 1 if any could not.
    """
    proposal = read_plan(plan)
    found = _look(out, lambda opened: opened.simulate(proposal))
    out.emit(found, lambda: _simulation(out, found))
    return 0 if all(one.reason == "reserved" for one in found.dropped) else FAILED


@click.command(cls=Command)
@click.argument("plan", type=click.Path())
@click.option("--agent", metavar="NAME", help="Explain it as a proposal of this agent.")
@click.option("--session", metavar="NAME", help="Explain it as part of this session.")
@click.pass_obj
def explain(out: Output, plan: str, agent: str | None, session: str | None) -> int:
    """Show how steps 2 to 7 of the gate would decide each action, and which policies apply.

    Nobody is asked for approval.

    Exit code: 0 if nothing would be rejected, 1 if an action would be, 3 if an action would need approval.
    """
    proposal = read_plan(plan, agent=agent, session=session)
    found = _look(out, lambda opened: opened.explain(proposal))
    out.emit(found, lambda: _explanation(out, found))
    answers = {one.answer for one in found}
    return FAILED if "reject" in answers else 3 if "ask" in answers else 0


def _look(out: Output, look: Callable[[Runtime], T]) -> T:
    with runtime(out) as opened:
        asyncio.run(opened.prepare())
        return look(opened)


def _report(out: Output, report: engine.Report) -> Iterable[str]:
    for issue in report.issues:
        color = "red" if issue.severity == "error" else "yellow"
        where = f"{clean(issue.action_id)}: " if issue.action_id is not None else ""
        yield f"{out.paint(issue.severity, color)}: {where}{clean(issue.message)} ({issue.code})"
    for number, level in enumerate(report.execution_levels, 1):
        names = " ".join(clean(action) for action in level[:20])
        yield f"level {number}: {names}" + (f" and {len(level) - 20} more" if len(level) > 20 else "")
    yield out.paint("valid", "green") if report.valid else out.paint("not valid", "red")


def _simulation(out: Output, found: engine.Simulation) -> Iterable[str]:
    if not (found.state or found.unknown):
        yield "the state will have no keys"
    for key, value in found.state.items():
        yield f"{clean(key)} = {brief(value)}"
    for key in found.unknown:
        yield f"{clean(key)} = {out.paint('(known only after the tool runs)', 'dim')}"
    for one in found.dropped:
        yield f"{out.paint('cannot run:', 'red')} {clean(one.action_id)}: {clean(one.detail)} ({one.reason})"


def _explanation(out: Output, found: list[engine.ActionExplanation]) -> Iterable[str]:
    """Each action with the decision and the rules that lead to it; `--json` has the result of every policy."""
    for one in found:
        reason = f"  {one.reason}" if one.reason and one.answer == "reject" else ""
        answer = out.paint(f"{one.answer:8}", _ANSWERS[one.answer])
        yield f"{answer} {clean(one.action_id)}  {clean(one.tool)}{reason}"
        said = [] if one.answer == "ask" else [one.detail]
        said += [_need(need, one.policy) for need in one.asks]
        said += [*one.notes, *_reasons(one)]
        yield from (f"         {clean(line)}" for line in said if line)


def _reasons(one: engine.ActionExplanation) -> Iterator[str]:
    """The policies that decided; if none permits the action, those that could have."""
    policies = () if one.policy is None else one.policy.policies
    if one.answer == "allow":
        yield from (f"allowed by {_named(policy)}" for policy in policies if policy.id in one.policies)
    elif one.answer == "reject" and one.step == _POLICY_STEP:
        forbids = [p for p in policies if p.effect == "forbid" and not p.asks and p.result in ("matched", "error")]
        permits = [p for p in policies if p.effect == "permit" and p.result in ("no match", "error")]
        for policy in forbids or permits:
            yield _named(policy) + ("" if policy.result == "matched" else f": {policy.why}")


def _named(policy: PolicyExplanation) -> str:
    return f"`{policy.id}` ({policy.place.removesuffix(':1') if policy.place.startswith('rules.') else policy.place})"


def _need(need: dict[str, Any], explained: Explanation | None) -> str:
    who = f"{need['quorum']} of group `{need['group']}`" if need["group"] else f"{need['quorum']} approver"
    policies = () if explained is None else explained.policies
    by = next((_named(policy) for policy in policies if policy.id == need["policy"]), f"`{need['policy']}`")
    return f"needs {who}: {need['reason'] or 'asked'}, by {by}"
