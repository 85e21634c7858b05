"""The configured capsules. Those whose manifest is locked are offered; for the others, people get the reason."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from interlock.disk import Database, Disk
from interlock.engine.capsules.rights import CallerRights
from interlock.engine.local.clock import SystemIds
from interlock.engine.local.machine import own_key
from interlock.engine.services import Services
from interlock.engine.tools.mcp_tools import Adjust, Hands, Told, lock_of
from interlock.executors.capsules.bus import HOST, Bus, Owner
from interlock.executors.capsules.capsules import Absent, Capsules, declared_tools, tool_of
from interlock.executors.capsules.code_cache import CodeCache
from interlock.executors.capsules.loading import Installed
from interlock.executors.capsules.workers import WalledStart
from interlock.model.capsule import LockedCapsule, Manifest
from interlock.model.capsule_events import CapsuleLoaded, CapsuleRefused, CapsuleUnloaded
from interlock.model.clock import Clock
from interlock.model.errors import ToolError
from interlock.model.events import ActionHeld, Event, HoldResolved, RunFinished, RunStarted
from interlock.model.extras import how_to_install
from interlock.model.tool import Tool
from interlock.settings import Loaded
from interlock.settings.named import MANIFEST
from interlock.state.capsule_values import CapsuleValues

_WORKERS_MAX: Final = 4
_CODE: Final = "capsule-code"
"""Directory of compiled code in the state directory."""


class Equipment(Hands, Protocol):
    """What is needed to run capsules."""

    @property
    def clock(self) -> Clock:
        """The clock."""
        ...

    @property
    def disk(self) -> Disk:
        """The disk that stores compiled code."""
        ...


def open_capsules(
    loaded: Loaded, hands: Equipment, hooks: Told, *, state: Path, db: Database, workspace_id: str
) -> Capsules:
    """The capsules of a project, none of them loaded yet. Raises: ConfigurationError `lock_invalid`, StoreError."""
    installed, problems = _installed(loaded)
    hooks.warnings.extend(
        f"capsules.{name}: not loaded, so its tools are not offered: {why}" for name, why in problems.items()
    )
    return Capsules(
        installed,
        {name: Absent(loaded.capsules[name], why) for name, why in problems.items()},
        CodeCache(state / _CODE, own_key(state, hands.disk, "capsules"), hands.disk),
        WalledStart(hands.runner, hands.workspace),
        CapsuleValues(db, workspace_id),
        CallerRights(),
        hands.clock,
        workers_max=max(1, min(_WORKERS_MAX, os.cpu_count() or 1)),
        tell=hooks.notify,
        new_instance=lambda: SystemIds().new("capsule"),
    )


def declared(manifests: Mapping[str, Manifest]) -> list[Tool]:
    """The tool definitions of capsules, without loading them."""
    return [tool_of(name, one, tool) for name, one in manifests.items() for tool in declared_tools(one)]


def offer(services: Services, capsules: Capsules, adjust: Adjust) -> None:
    """Register the capsules' tools. The set of capsules is fixed at the start."""
    services.hooks.events.append(HostTopics(capsules.post.bus))
    for binding in capsules.bindings():
        if binding.tool.name not in services.registry.in_code:
            services.register(adjust(binding))


class HostTopics:
    """Publishes what happens to runs of an agent to the event bus, in topics that begin with `interlock`: `{run, action}`."""

    def __init__(self, bus: Bus) -> None:
        """A listener of events."""
        self._bus = bus
        self._agents: dict[str, str] = {}

    def __call__(self, run: str, event: Event) -> None:
        """See `Listener`."""
        if isinstance(event, RunStarted):
            self._agents[run] = event.agent
        topic = _TOPICS.get(type(event))
        agent = self._agents.pop(run, None) if isinstance(event, RunFinished) else self._agents.get(run)
        if topic is not None and agent is not None:
            data = json.dumps({"run": run, "action": event.action}).encode()
            with contextlib.suppress(ToolError):  # a subscriber's queue is full, of which it is notified
                self._bus.publish(Owner(HOST, agent), topic, data)


_TOPICS: Final[dict[type[Event], str]] = {
    RunStarted: "interlock.run.started",
    RunFinished: "interlock.run.finished",
    ActionHeld: "interlock.hold.asked",
    HoldResolved: "interlock.hold.resolved",
    CapsuleLoaded: "interlock.capsule.loaded",
    CapsuleRefused: "interlock.capsule.refused",
    CapsuleUnloaded: "interlock.capsule.unloaded",
}


def _installed(loaded: Loaded) -> tuple[dict[str, Installed], dict[str, str]]:
    """The capsules that can be loaded, in order, and for each of the others the reason why not."""
    locked = lock_of(loaded).capsules
    found: dict[str, Installed] = {}
    problems: dict[str, str] = {}
    for name, manifest in loaded.capsules.items():
        path = loaded.settings.capsules[name].path
        file = os.path.normpath(Path(path) / MANIFEST)
        data = next(one.data for one in loaded.files if one.name == file or one.name == str(loaded.root / file))
        problem = _problem(name, manifest, locked.get(name), data, found)
        if problem is not None:
            problems[name] = problem
        else:
            found[name] = Installed(manifest, loaded.root / path, locked[name])
    return found, problems


def _problem(
    name: str, manifest: Manifest, locked: LockedCapsule | None, data: bytes, loaded: dict[str, Installed]
) -> str | None:
    """Why a capsule cannot be loaded; None if it can."""
    if importlib.util.find_spec("wasmtime") is None:
        return f"the extra `wasm` is not installed ({how_to_install('wasm')})"
    if locked is None:
        return f"its build is not locked; `interlock capsule lock {name}` locks it"
    if locked.manifest != hashlib.sha256(data).hexdigest():
        return f"its manifest is not the one in `interlock.lock`; `interlock capsule lock {name}` pins it"
    missing = [dependency for dependency in manifest.behavior.dependencies if dependency not in loaded]
    if missing:
        return f"it depends on `{missing[0]}`, which is not loaded"
    return None
