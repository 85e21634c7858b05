"""Runs a held process in a temporary layer, so that the question can show its changes (step 6, `approvals.preview`).

Only processes behind walls that can reach no host are previewed: otherwise the preview itself could have an effect, or the call
could have a different effect than its preview.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from interlock.approvals import ChangeShown
from interlock.engine.gate.effects import Done, drop_effect, effect_digest, is_previewed, key_of
from interlock.engine.gate.execute import execute
from interlock.engine.gate.layer_previews import preview_difference
from interlock.engine.gate.previews import compare_previews
from interlock.engine.gate.tool_questions import AskingContext
from interlock.engine.proposals.action_run import ActionRun, Effect
from interlock.engine.proposals.attempt import Failure
from interlock.engine.proposals.scoped_workspace import ScopedWorkspace
from interlock.executors.process_watch import to_its_end
from interlock.model.errors import StoreError
from interlock.model.events import ActionLog
from interlock.model.result import HostUse
from interlock.workspace import Backups, Layer, Workspace, open_preview, remove_layer

_CHANGES_MAX: Final = 200
"""If a call changes more paths than a person would review, its effect is neither shown nor bound."""
_HOSTS_SHOWN_MAX: Final = 5


class Shown(NamedTuple):
    """The part of the question that describes the effect."""

    changes: tuple[ChangeShown, ...]
    reason: str


class _PreviewContext(AskingContext, eq=False, kw_only=True):
    """The context of a call in its temporary layer. It has a separate time-out, and asks no questions."""

    view: Workspace
    own: Backups

    @property
    def workspace(self) -> Any:
        return ScopedWorkspace(self.view, self._check_path, self._globs)

    @property
    def backups(self) -> Any:
        return self.own


async def preview_effect(action: ActionRun) -> Shown | None:
    """Run a held call in a temporary layer; None if no preview is wanted. Sets `action.effect`, unless the answer says why not.

    Raises: StoreError, CancelledError.
    """
    if not is_previewed(action):
        return None
    await drop_effect(action)
    if action.run.services.settings.isolation.profile == "none":
        return _without("without walls nothing keeps a process in its layer")
    action.record(6, lambda _: ActionLog(message="the call is previewed in a throw-away layer"))
    action.run.flush()
    try:
        layer = await to_its_end(lambda: _open(action))
    except StoreError as error:
        if error.code != "layer_unavailable":
            raise
        return _without(error.message)
    kept = False
    try:
        backups = layer.backups(action.run.clock)
        try:
            shown = await _run(action, layer, backups)
        finally:
            backups.close()
        kept = action.effect is not None
        return shown
    finally:
        layer.close()
        if not kept:
            await to_its_end(lambda: remove_layer(layer.directory, layer.base.disk))


def _open(action: ActionRun) -> Layer:
    run, directory = action.run, action.run.run_files.directory
    assert directory is not None
    assert run.workspace is not None
    assert run.services.layers is not None
    attach = run.services.settings.isolation.profile == "ns"
    return open_preview(directory, key_of(action), run.workspace, run.services.layers, attach=attach)


async def _run(action: ActionRun, layer: Layer, backups: Backups) -> Shown:
    """Make the call in the layer, and compare the layer with the files."""
    run, tool = action.run, action.tool
    assert tool is not None
    if any(all(chain) for chain in run.judges_in_force().hosts(run.principal.agent, tool)):
        return _without("the grant opens hosts to it")
    number = run.attempts_before.get(action.index, 0) + 1
    attempt = _PreviewContext(run, action.index, number, action=action, view=layer.workspace, own=backups)
    result = await execute(action, attempt)
    if isinstance(result, Failure):
        if result.stopped:
            raise result.raises or asyncio.CancelledError
        return _without(f"in a throw-away layer the call failed: {result.message}")
    posture = attempt.layers or {}
    if not all(posture.get(wall, "").startswith("active") for wall in ("fs", "net")):
        return _without("the walls of this machine do not keep a process in its layer")
    done = Done(result.value, posture, attempt.not_undoable or [], attempt.usage)
    found, left = await to_its_end(layer.differences)
    if left or len(found) > _CHANGES_MAX:
        return _without(f"it changes {len(found) + len(left)} paths, which is more than can be shown")
    run.services.disk.write_atomic(layer.directory / "effect.json", msgspec.json.encode(done))
    effect = Effect(layer.directory, effect_digest(found, done))
    redact = run.services.desk.questions.redact
    previews = await to_its_end(lambda: [preview_difference(one, layer) for one in found])
    changes = await compare_previews(action, previews, lambda path: str(redact(path)))
    action.effect = effect
    return Shown(changes, _reason(result.value, len(found), attempt.hosts or ()))


def _without(why: str) -> Shown:
    return Shown((), f"its effect could not be previewed: {why}")


def _reason(value: Any, count: int, hosts: Sequence[HostUse]) -> str:
    code = value.get("exit_code") if isinstance(value, dict) else None
    ended = "" if code is None else f" and ended with exit code {code}"
    paths = "no path differs" if not count else f"{count} {'path differs' if count == 1 else 'paths differ'}"
    names = [f"{use.host}:{use.port}" for use in hosts[:_HOSTS_SHOWN_MAX]]
    tried = f"; it tried to reach {', '.join(names)}, and could not" if names else ""
    return f"it has run in a throw-away layer{ended}: {paths}{tried}. Approving applies exactly these changes"
