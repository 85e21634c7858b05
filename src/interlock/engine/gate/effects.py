"""Approval of an effect (step 6, `approvals.preview`): a held process runs in a temporary layer, and a person sees its changes.

The question shows the differences, and the approval is also bound to their digest. In step 9 the approved call is not made
again: the contents of the layer are committed into the proposal's view, if everything that they replace is as it was shown.
Only processes behind walls that can reach no host are previewed: otherwise the preview itself could have an effect, or the call
could have a different effect than its preview.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from interlock.approvals import ChangeShown
from interlock.engine.gate.layer_previews import preview_difference
from interlock.engine.gate.output import copy_parameters
from interlock.engine.gate.previews import compare_previews
from interlock.engine.gate.tool_questions import AskingContext
from interlock.engine.proposals.action_run import ActionRun, Effect
from interlock.engine.proposals.scoped_workspace import ScopedWorkspace
from interlock.engine.proposals.tool_context import ActionContext
from interlock.executors.process_watch import to_its_end
from interlock.model import typed
from interlock.model.canonical import digest
from interlock.model.errors import InterlockError, StoreError, ToolError
from interlock.model.events import ActionLog
from interlock.model.result import HostUse
from interlock.workspace import (
    Backups,
    Difference,
    Layer,
    Node,
    Origin,
    Plan,
    Workspace,
    commit_layer,
    open_preview,
    preview_of,
    remove_layer,
    reopen_preview,
)
from interlock.workspace.names import to_json

_TOOLS: Final = frozenset({"shell", "exec"})
_CHANGES_MAX: Final = 200
"""If a call changes more paths than a person would review, its effect is neither shown nor bound."""
_HOSTS_SHOWN_MAX: Final = 5
OUTDATED: Final = "preview_outdated"


class Shown(NamedTuple):
    """The part of the question that describes the effect."""

    changes: tuple[ChangeShown, ...]
    reason: str


class _Done(msgspec.Struct):
    """`effect.json`, next to the layer: the result of the call."""

    value: Any
    posture: dict[str, str]
    not_undoable: list[str]
    usage: dict[str, Any] | None


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
    if not _is_wanted(action):
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


async def find_effect(action: ActionRun) -> None:
    """Find the preview that an earlier process made for this same call. Raises: StoreError, IntegrityError."""
    if action.effect is not None or not _is_wanted(action):
        return
    directory = action.run.run_files.directory
    assert directory is not None
    found = await to_its_end(lambda: preview_of(directory, _key(action)))
    if found is None or not (found / "effect.json").exists():
        return
    now = await _digest_now(action, found)
    if now is not None:
        action.effect = Effect(found, now)


async def is_outdated(action: ActionRun) -> bool:
    """True if the effect differs from the question, because a path that it replaces has changed."""
    effect = action.effect
    return effect is not None and await _digest_now(action, effect.directory) != effect.digest


async def drop_effect(action: ActionRun) -> None:
    """Drop the preview: the effect was not approved, or the call has ended. Raises: StoreError."""
    effect, action.effect = action.effect, None
    if effect is not None:
        disk = action.run.services.disk
        await to_its_end(lambda: remove_layer(effect.directory, disk))


async def commit_effect(action: ActionRun, attempt: ActionContext) -> Any:
    """Step 9 of a call whose effect is approved: apply exactly that effect, without running the call. Returns the call's result.

    Raises: ToolError `preview_outdated` (nothing was committed), and others of the file system; StoreError.
    """
    effect, backups, view = action.effect, attempt.backups, action.run.workspace
    assert effect is not None
    assert view is not None
    mounts = action.run.services.layers
    assert mounts is not None
    origin = Origin(attempt.proposal_id, attempt.action_id, attempt.attempt)

    def work() -> _Done:
        with reopen_preview(effect.directory, view, mounts) as layer:
            found, left = layer.differences()
            if left or _digest(found, _read_done(effect.directory)) != effect.digest:
                raise _outdated()
            try:
                commit_layer(layer, backups.run, backups, Plan(found, []), origin)
            except ToolError as error:
                raise (_outdated() if error.code == "file_changed" else error) from error
        return _read_done(effect.directory)

    done = await to_its_end(work)
    attempt.posture(**done.posture)
    for what in done.not_undoable:
        attempt.not_exactly_undoable(what)
    if done.usage is not None:
        attempt.resources(done.usage)
    await drop_effect(action)
    return done.value


def _is_wanted(action: ActionRun) -> bool:
    run = action.run
    asked = run.services.settings.approvals.preview and action.tool is not None and action.tool.name in _TOOLS
    kept = run.recorder is not None and run.run_files.directory is not None and run.workspace is not None
    return asked and kept and run.services.layers is not None and run.executor is None


def _key(action: ActionRun) -> str:
    return f"{action.run.proposal.id}/{action.spec.id}"


def _open(action: ActionRun) -> Layer:
    run, directory = action.run, action.run.run_files.directory
    assert directory is not None
    assert run.workspace is not None
    assert run.services.layers is not None
    attach = run.services.settings.isolation.profile == "ns"
    return open_preview(directory, _key(action), run.workspace, run.services.layers, attach=attach)


async def _run(action: ActionRun, layer: Layer, backups: Backups) -> Shown:
    """Make the call in the layer, and compare the layer with the files."""
    run, tool = action.run, action.tool
    assert tool is not None
    if any(all(chain) for chain in run.judges_in_force().hosts(run.principal.agent, tool)):
        return _without("the grant opens hosts to it")
    number = run.attempts_before.get(action.index, 0) + 1
    attempt = _PreviewContext(run, action.index, number, action=action, view=layer.workspace, own=backups)
    attempt.deadline_ns = run.clock.mono_ns() + tool.timeout_ns
    try:
        value = await tool.function(copy_parameters(action.parameters), attempt)
    except ToolError as error:
        return _without(f"in a throw-away layer the call failed: {error.message}")
    posture = attempt.layers or {}
    if not all(posture.get(wall, "").startswith("active") for wall in ("fs", "net")):
        return _without("the walls of this machine do not keep a process in its layer")
    done = _Done(value, posture, attempt.not_undoable or [], attempt.usage)
    found, left = await to_its_end(layer.differences)
    if left or len(found) > _CHANGES_MAX:
        return _without(f"it changes {len(found) + len(left)} paths, which is more than can be shown")
    run.services.disk.write_atomic(layer.directory / "effect.json", msgspec.json.encode(done))
    effect = Effect(layer.directory, _digest(found, done))
    redact = run.services.desk.questions.redact
    previews = await to_its_end(lambda: [preview_difference(one, layer) for one in found])
    changes = await compare_previews(action, previews, lambda path: str(redact(path)))
    action.effect = effect
    return Shown(changes, _reason(value, len(found), attempt.hosts or ()))


def _without(why: str) -> Shown:
    return Shown((), f"its effect could not be previewed: {why}")


def _reason(value: Any, count: int, hosts: Sequence[HostUse]) -> str:
    code = value.get("exit_code") if isinstance(value, dict) else None
    ended = "" if code is None else f" and ended with exit code {code}"
    paths = "no path differs" if not count else f"{count} {'path differs' if count == 1 else 'paths differ'}"
    names = [f"{use.host}:{use.port}" for use in hosts[:_HOSTS_SHOWN_MAX]]
    tried = f"; it tried to reach {', '.join(names)}, and could not" if names else ""
    return f"it has run in a throw-away layer{ended}: {paths}{tried}. Approving applies exactly these changes"


async def _digest_now(action: ActionRun, directory: Path) -> str | None:
    """The digest of the changes that the preview would make now; None if they cannot be read."""
    view, mounts = action.run.workspace, action.run.services.layers
    assert view is not None
    assert mounts is not None

    def look() -> str | None:
        with contextlib.suppress(InterlockError, OSError), reopen_preview(directory, view, mounts) as layer:
            found, left = layer.differences()
            return None if left else _digest(found, _read_done(directory))
        return None

    return await asyncio.shield(to_its_end(look))


def _read_done(directory: Path) -> _Done:
    try:
        return typed.decode((directory / "effect.json").read_bytes(), _Done)
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError("the record of a preview is damaged", code="layer_damaged", path=str(directory)) from error


def _digest(found: Sequence[Difference], done: _Done) -> str:
    """The digest of everything that an approval applies: each path before and after, and the call's result."""
    rows = [[to_json(one.path), _state(one.before), _state(one.after)] for one in found]
    return digest("effect", [rows, msgspec.to_builtins(done.value)])


def _state(node: Node) -> list[Any]:
    return [
        node.kind,
        node.mode,
        node.size,
        node.sha256,
        None if node.target is None else msgspec.to_builtins(node.target),
    ]


def _outdated() -> ToolError:
    return ToolError(
        "what the approved effect would replace has changed since it was shown; nothing of it was committed",
        code=OUTDATED,
        retryable=False,
        hint="propose the call again",
    )
