"""Events of capsules, and of tools that call other tools. See `events` for the format."""

from __future__ import annotations

from interlock.model.event import Event, Kept


class ToolCalled(Event, kw_only=True, tag="tool_called"):
    """The tool of the action is about to call another tool, as part of the same action."""

    call: int
    """Counts these calls of an attempt, from 1."""
    tool: str
    version: str
    parameters: Kept
    read_only: bool = False


class ToolReturned(Event, kw_only=True, tag="tool_returned"):
    """The result of that call. `reason` is absent if it succeeded."""

    call: int
    tool: str
    output: Kept | None = None
    reason: str | None = None
    detail: str = ""
    duration_ms: float = 0.0


class CapsuleLoaded(Event, kw_only=True, tag="capsule_loaded"):
    """A capsule was loaded for the action: its build was checked and compiled, and its imports compared with its
    manifest.

    `instance` identifies this loading until it is unloaded; the posture of each call names it too.
    """

    capsule: str
    version: str
    instance: str
    component: str
    """SHA-256 of the WebAssembly file."""
    agent: str


class CapsuleRefused(Event, kw_only=True, tag="capsule_refused"):
    """A capsule was not loaded; none of its code has run."""

    capsule: str
    detail: str
    agent: str


class CapsuleDenied(Event, kw_only=True, tag="capsule_denied"):
    """A capsule was denied a host function during the action, and got an error. At most 100 per call."""

    capsule: str
    instance: str
    function: str
    """`interface.function`, such as `fs-read.read`."""
    reason: str
    detail: str
    agent: str


class CapsuleReset(Event, kw_only=True, tag="capsule_reset"):
    """The memory of a capsule with `lifetime = "capsule"` was dropped, because the action ended for this reason.

    The agent's next call has a new store.
    """

    capsule: str
    instance: str
    reason: str
    agent: str


class CapsuleUnloaded(Event, kw_only=True, tag="capsule_unloaded"):
    """A capsule was unloaded: `cancelled` of its calls were stopped, and its memory was released."""

    capsule: str
    instance: str
    cancelled: int = 0


CapsuleEvent = (
    ToolCalled | ToolReturned | CapsuleLoaded | CapsuleRefused | CapsuleDenied | CapsuleReset | CapsuleUnloaded
)
