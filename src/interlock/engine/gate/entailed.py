"""Judges the writes of an agent's `undo`: each path as `fs.write` or `fs.delete`, each key as `state_write`.

They are judged together with the call itself (steps 2, 3 and 5), so a denial of one write stops the call before it changes
anything, and a hold of one write is part of the question. `force` always needs a question. A person's own undo needs none.

The judged writes are kept with the proposal, and the tool compares them: if the run has continued since, nothing is undone that
was not judged.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import msgspec

from interlock.engine.judges.judges import Call
from interlock.engine.judges.steps import judge_call
from interlock.engine.judges.verdict import Judged, verdict_of
from interlock.engine.proposals.proposal_run import ProposalRun, Write
from interlock.engine.record.replay import ReplayedRun
from interlock.engine.tools.registry import Registered
from interlock.lazy import lazy
from interlock.model.canonical import canonical
from interlock.model.decision import Decision, Refusal, Requirement
from interlock.model.errors import InterlockError, ToolError, UsageError
from interlock.model.grant import OPERATOR, Principal
from interlock.model.proposal import Action
from interlock.policy import together

if TYPE_CHECKING:
    from interlock.workspace import undo
else:
    undo = lazy("interlock.workspace.undo")

UNDO_TOOL: Final = "undo"
"""Name of the tool. Its files are not restored before it runs again: they are the ones that it has restored so far."""
_FORCE: Final = Requirement(
    policy="undo.force",
    content=hashlib.sha256(b"interlock: an agent's undo by force").hexdigest(),
    reason="`force` overwrites what others have changed since",
)

_SHOWN_MAX: Final = 10  # writes named in one question


def judge_entailed(run: ProposalRun, index: int, call: Call, judged: Judged) -> Judged:
    """Combine the answer to a call that passed steps 2 to 5 with the answers to its writes; the strictest answer wins."""
    tool, principal = call.tool, call.principal
    if tool is None or tool.name != UNDO_TOOL or principal.agent == OPERATOR or isinstance(judged.verdict, Refusal):
        return judged
    run.entailed[index] = frozenset()
    try:
        writes = entailed_writes(run, principal, call.parameters)
    except InterlockError:
        return judged  # the tool reports the problem with that run, and writes nothing that was not judged
    run.entailed[index] = frozenset(writes)
    decision = judged.decision or Decision(decision="allow")
    about: dict[str, list[str]] = {}
    for write in writes:
        answer = _judge(run, call, write)
        if isinstance(answer, Refusal):
            return Judged(5, answer, decision)
        for requirement in answer.requirements:
            about.setdefault(requirement.content, []).append(_shown(write))
        decision = together(decision, answer)
    if about:
        needs = tuple(_named(each, about.get(each.content, [])) for each in decision.requirements)
        decision = msgspec.structs.replace(decision, requirements=needs)
    if call.parameters.get("force") and _FORCE.content not in call.discharged:
        asked = Decision(
            decision="hold", policies=(_FORCE.policy,), reason="held", detail=_FORCE.reason, requirements=(_FORCE,)
        )
        decision = together(decision, asked)
    return Judged(5, verdict_of(decision), decision)


def require_judged(run: ProposalRun, index: int, parameters: dict[str, Any]) -> None:
    """Raise ToolError `undo_denied` if the undo would write more than was judged, because its run has continued since."""
    if run.principal.agent == OPERATOR:
        return
    try:
        more = set(entailed_writes(run, run.principal, parameters)) - run.entailed.get(index, frozenset())
    except InterlockError as error:
        raise ToolError(error.message, code=error.code, retryable=False, hint=error.hint) from error
    if more:
        raise ToolError(
            f"run `{parameters['run']}` has written more since this undo was judged",
            code="undo_denied",
            retryable=False,
            hint="propose the undo again when that run is over",
        )


def entailed_writes(run: ProposalRun, principal: Principal, parameters: dict[str, Any]) -> list[Write]:
    """The writes of undoing a run, or one action of it.

    Raises: UsageError `not_found`, or `undo_denied` for another agent's run; IntegrityError, StoreError.
    """
    services, run_id, action = run.services, parameters["run"], parameters.get("action")
    if services.state_dir is None:
        return []
    services.index.get(run_id)
    replayed = ReplayedRun(services.state_dir / "runs" / run_id, outputs=False)
    if any(known.received.agent != principal.agent for known in replayed.proposals.values()):
        raise UsageError("an agent undoes only what it did itself", code="undo_denied")
    removed: dict[str, bool] = {}
    for entry in undo.plan_undo(replayed.directory):  # newest first, so that the oldest state of a path is restored
        if action in (None, entry.action):
            removed[canonical(entry.path).decode()] = entry.before.kind == "absent"
    keys = {
        change.key: None
        for known in replayed.proposals.values()
        for owner, change in known.writes
        if action in (None, owner)
    }
    paths = [Write("fs.delete" if gone else "fs.write", where) for where, gone in removed.items()]
    return [*paths, *(Write(None, key) for key in keys)]


def _judge(run: ProposalRun, call: Call, write: Write) -> Decision | Refusal:
    """Steps 2 to 5 for one write."""
    judges = run.judges_in_force()
    tool: Registered | None = None
    if write.tool is None:
        parameters: dict[str, Any] = {"key": write.where}
        action = Action(type="state_write", id=UNDO_TOOL, parameters=parameters)
    else:
        tool, parameters = run.services.registry.find(write.tool), {"path": msgspec.json.decode(write.where)}
        if tool is None:
            return _because("unknown_tool", write, "there is no such tool here")
        action = Action(type="tool_call", id=UNDO_TOOL, tool=write.tool, parameters=parameters)
    asked = Call(call.principal, call.proposal, action, tool, parameters, call.state, call.discharged, partial=True)
    judged = judge_call(judges, asked)
    if isinstance(judged.verdict, Refusal):
        return _because(judged.verdict.reason, write, judged.verdict.detail)
    assert judged.decision is not None
    return judged.decision


def _shown(write: Write) -> str:
    return f"`state_write` of `{write.where}`" if write.tool is None else f"`{write.tool}` of {_path(write.where)}"


def _path(where: str) -> str:
    path = msgspec.json.decode(where)
    return f"`{path}`" if isinstance(path, str) else f"`{where}`"


def _because(reason: str, write: Write, detail: str) -> Refusal:
    return Refusal(reason, f"undo needs {_shown(write)}: {detail}", "$.parameters.run")


def _named(requirement: Requirement, about: list[str]) -> Requirement:
    """The same requirement, with a reason that names the writes."""
    if not about:
        return requirement
    more = f" and {len(about) - _SHOWN_MAX} more" if len(about) > _SHOWN_MAX else ""
    what = f"undo needs {', '.join(about[:_SHOWN_MAX])}{more}"
    return msgspec.structs.replace(requirement, reason="; ".join(filter(None, (requirement.reason, what))))
