"""Proposal and action, which an agent sends. The shapes follow the Agent IR of car_engine.

These are the decoded structs; `interlock.model.decode` decodes them from bytes, strictly.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

ActionType = Literal["tool_call", "state_write", "state_read", "assertion"]
Order = Literal["declared", "free"]
Reversibility = Literal["reversible", "compensable", "irreversible"]
FailureBehavior = Literal["abort", "retry", "skip"]
Operator = Literal["eq", "neq", "gt", "lt", "gte", "lte", "exists", "not_exists", "contains"]

REVERSIBILITY_ORDER: Final[tuple[Reversibility, ...]] = ("reversible", "compensable", "irreversible")
"""From the least to the most cautious. If action and tool disagree, the later one applies."""


class Precondition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A condition on a state key, which is checked before the action runs (step 4)."""

    key: str
    operator: Operator = "eq"
    value: Any = None
    path: str | None = None
    """JSON Pointer (RFC 6901) into the value of the key."""
    description: str | None = None


class Assumption(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The agent's assumption about a state key at planning time. It is checked with the preconditions."""

    key: str
    expected_value: Any = msgspec.UNSET
    read_version: int | None = None


class ToolCompensation(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="tool"
):
    """Undo by calling a tool. Parameters may refer to `$ID.output` of the compensated action."""

    tool: str
    parameters: dict[str, Any] = {}


class ActionCompensation(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="action_ref"
):
    """Undo by running another action of the same proposal; that action runs only as a compensation."""

    action_id: str


Compensation = ToolCompensation | ActionCompensation


READING: Final[frozenset[ActionType]] = frozenset({"state_read", "assertion"})
"""The types of action that never change anything."""


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits on what may be spent; `None` means unlimited.

    `duration_ms` sums execution time; `cost` is what tools report. `tokens` counts those that models read and write.
    """

    actions: int | None = None
    tool_calls: int | None = None
    duration_ms: int | None = None
    cost: float | None = None
    tokens: int | None = None


CLIENT_SOURCE: Final = "client/"
"""The prefix of a proposal's `source` if a coding agent executes the calls with its own tools."""

SHARED_SOURCE: Final = "calls"
"""The source of a run that contains several calls of an agent, one after the other or concurrent."""

INVOCATION_MODES: Final = ("one_shot", "run", "session")
"""How long a program that an action starts may live: until the end of the action, its run or its session."""


class Action(msgspec.Struct, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One step of a proposal. `id` is never empty after decoding."""

    type: ActionType
    id: str = ""
    tool: str | None = None
    parameters: dict[str, Any] = {}
    dependencies: tuple[str, ...] = ()
    state_dependencies: tuple[str, ...] = ()
    preconditions: tuple[Precondition, ...] = ()
    expected_effects: dict[str, Any] = {}
    read_set: tuple[str, ...] = ()
    write_set: tuple[str, ...] = ()
    assumptions: tuple[Assumption, ...] = ()
    reversibility: Reversibility | None = None
    """The agent's claim; if absent, the tool's applies. If both are given, the more cautious one applies."""
    compensation: Compensation | None = None
    idempotent: bool = False
    max_retries: int = 3
    failure_behavior: FailureBehavior = "abort"
    timeout_ms: int | None = None
    invocation_mode: str = "one_shot"
    """One of `INVOCATION_MODES`, which must also be in the tool's `invocation_modes`."""
    metadata: dict[str, Any] = {}


class Proposal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an agent proposes: actions and the dependencies between them. If `id` is empty, the engine generates one."""

    actions: tuple[Action, ...]
    id: str = ""
    source: str = "unknown"
    agent: str | None = None
    session: str | None = None
    timestamp: Any = None
    order: Order = "declared"
    deadline_ms: int | None = None
    budget: Budget | None = None
    context: dict[str, Any] = {}

    @property
    def by_client(self) -> bool:
        """True if a coding agent executes the calls with its own tools, and Interlock only decides and records."""
        return self.source.startswith(CLIENT_SOURCE)
