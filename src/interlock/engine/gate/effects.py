"""Approval of an effect (`approvals.preview`): a held process has run in a temporary layer, and a person sees its changes.

The question shows the differences (`run_preview`), and the approval is also bound to their digest. In step 9 the approved call
is not made again: the contents of the layer are committed into the proposal's view, if everything that they replace is as it
was shown.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from interlock.engine.proposals.action_run import ActionRun, Effect
from interlock.engine.proposals.tool_context import ActionContext
from interlock.executors.process_watch import to_its_end
from interlock.lazy import lazy
from interlock.model import typed
from interlock.model.canonical import digest
from interlock.model.errors import InterlockError, StoreError, ToolError
from interlock.workspace.names import to_json

if TYPE_CHECKING:
    from interlock import workspace as room
    from interlock.workspace import Difference, Node
else:
    room = lazy("interlock.workspace")

_TOOLS: Final = frozenset({"shell", "exec"})
OUTDATED: Final = "preview_outdated"


class Done(msgspec.Struct):
    """`effect.json`, next to the layer: the result of the call."""

    value: Any
    posture: dict[str, str]
    not_undoable: list[str]
    usage: dict[str, Any] | None


async def find_effect(action: ActionRun) -> None:
    """Find the preview that an earlier process made for this same call. Raises: StoreError, IntegrityError."""
    if action.effect is not None or not is_previewed(action):
        return
    directory = action.run.run_files.directory
    assert directory is not None
    found = await to_its_end(lambda: room.preview_of(directory, key_of(action)))
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
        await to_its_end(lambda: room.remove_layer(effect.directory, disk))


async def commit_effect(action: ActionRun, attempt: ActionContext) -> Any:
    """Step 9 of a call whose effect is approved: apply exactly that effect, without running the call. Returns the call's result.

    Raises: ToolError `preview_outdated` (nothing was committed), and others of the file system; StoreError.
    """
    effect, backups, view = action.effect, attempt.backups, action.run.workspace
    assert effect is not None
    assert view is not None
    mounts = action.run.services.layers
    assert mounts is not None
    origin = room.Origin(attempt.proposal_id, attempt.action_id, attempt.attempt)

    def work() -> Done:
        with room.reopen_preview(effect.directory, view, mounts) as layer:
            found, left = layer.differences()
            if left or effect_digest(found, _read_done(effect.directory)) != effect.digest:
                raise _outdated()
            try:
                room.commit_layer(layer, backups.run, backups, room.Plan(found, []), origin)
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


def is_previewed(action: ActionRun) -> bool:
    """True if a hold of this action shows its effect."""
    run = action.run
    asked = run.services.settings.approvals.preview and action.tool is not None and action.tool.name in _TOOLS
    kept = run.recorder is not None and run.run_files.directory is not None and run.workspace is not None
    return asked and kept and run.services.layers is not None and run.executor is None


def key_of(action: ActionRun) -> str:
    """The name of the action's preview among those of its run."""
    return f"{action.run.proposal.id}/{action.spec.id}"


async def _digest_now(action: ActionRun, directory: Path) -> str | None:
    """The digest of the changes that the preview would make now; None if they cannot be read."""
    view, mounts = action.run.workspace, action.run.services.layers
    assert view is not None
    assert mounts is not None

    def look() -> str | None:
        with contextlib.suppress(InterlockError, OSError), room.reopen_preview(directory, view, mounts) as layer:
            found, left = layer.differences()
            return None if left else effect_digest(found, _read_done(directory))
        return None

    return await asyncio.shield(to_its_end(look))


def _read_done(directory: Path) -> Done:
    try:
        return typed.decode((directory / "effect.json").read_bytes(), Done)
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError("the record of a preview is damaged", code="layer_damaged", path=str(directory)) from error


def effect_digest(found: Sequence[Difference], done: Done) -> str:
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
        node.attributes or {},
    ]


def _outdated() -> ToolError:
    return ToolError(
        "what the approved effect would replace has changed since it was shown; nothing of it was committed",
        code=OUTDATED,
        retryable=False,
        hint="propose the call again",
    )
