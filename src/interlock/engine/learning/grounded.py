"""The tool `infer.grounded`: `infer`, with the memory's facts about the question before it, as data.

It reads what `memory.read` would return to the same agent, and only if the rules allow that agent `memory.read` without
approval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import msgspec

from interlock.engine.learning import embedding
from interlock.engine.learning.memory_tools import READ_TOOL, origin_of, scopes_of
from interlock.engine.proposals.tool_context import ActionContext
from interlock.engine.services import Services
from interlock.executors.inference.tools import ModelCalls
from interlock.learning.context import BYTES_PER_TOKEN, Piece, render
from interlock.learning.facts import FactStore
from interlock.model.errors import ToolError
from interlock.model.tool import Binding, Context, Estimate
from interlock.settings import Settings

GROUNDED_TOOL: Final = "infer.grounded"
TOKENS: Final = 1_000
TOKENS_MAX: Final = 100_000
_FOUND_MAX: Final = 200
Adjust = Callable[[Binding, Settings], Binding]


def offer(services: Services, store: FactStore, settings: Settings, adjust: Adjust) -> None:
    """Register the tool if `infer` is registered, in its present form; otherwise remove it. The program's own tool is kept."""
    registry = services.registry
    if GROUNDED_TOOL in registry.in_code:
        return
    infer = registry.find("infer")
    if GROUNDED_TOOL in registry.by_name:
        registry.remove(GROUNDED_TOOL)
    if infer is not None and isinstance(
        infer.binding.function, ModelCalls
    ):  # a program's own tool has other parameters
        registry.add_built_in(adjust(_binding(services, infer.binding, store), settings))
    services.judges.expire()


def _binding(services: Services, infer: Binding, store: FactStore) -> Binding:
    def ask(parameters: dict[str, Any], ctx: Context) -> Any:
        assert isinstance(ctx, ActionContext)
        refused = ctx.refusal_of(READ_TOOL, {"query": _query(parameters)})
        if refused is not None:
            message = f"it reads the memory, and `{READ_TOOL}` is refused: {refused.detail}"
            raise ToolError(message, code=refused.reason, retryable=False)
        query, scopes = _query(parameters), scopes_of(ctx)
        near = embedding.nearest_in_question(services, store, query, scopes, ctx)
        found = store.search(query, scopes, origin=origin_of(ctx), limit=_FOUND_MAX, near=near.facts)
        context = render(found, parameters.get("budget_tokens", TOKENS))
        # Not a call within a call: it is this tool's own function, whose parameters were judged, whose cost is reserved
        # (`estimates`), and whose time-out, errors and output the gate handles.
        output = cast("dict[str, Any]", infer.function(_asked(parameters, context.text), ctx))
        return {**output, "grounding": [_shown(piece) for piece in context.pieces]}

    def estimates(parameters: dict[str, Any]) -> Sequence[Estimate]:
        most = " " * (parameters.get("budget_tokens", TOKENS) * BYTES_PER_TOKEN)
        return [] if infer.estimates is None else infer.estimates(_asked(parameters, most))

    return msgspec.structs.replace(
        infer, tool=_tool(infer), function=ask, mode="thread", estimates=None if infer.estimates is None else estimates
    )


def _query(parameters: dict[str, Any]) -> str:
    """The search text: the caller's query, or the question itself."""
    given = parameters.get("query") or parameters.get("prompt")
    return str(given if given is not None else parameters["messages"][-1]["content"])


def _asked(parameters: dict[str, Any], notes: str) -> dict[str, Any]:
    """The parameters of `infer`: the notes come before the caller's own `context`, both marked as data there."""
    asked = {name: value for name, value in parameters.items() if name not in ("query", "budget_tokens")}
    parts = [part for part in (notes, parameters.get("context")) if part]
    return asked | ({"context": "\n\n".join(parts)} if parts else {})


def _shown(piece: Piece) -> dict[str, Any]:
    found = {"kind": piece.kind, "id": piece.id, "score": piece.score, "source": piece.source}
    return found | ({"flags": list(piece.flags)} if piece.flags else {})


def _tool(infer: Binding) -> Any:
    """The definition of `infer` with the additions of this tool."""
    parameters = dict(infer.tool.parameters)
    parameters["properties"] = {
        **parameters.get("properties", {}),
        "query": {"type": "string", "minLength": 1, "description": "What to search for; by default the question itself."},
        "budget_tokens": {
            "type": "integer", "minimum": 1, "maximum": TOKENS_MAX, "default": TOKENS,
            "description": "Approximate amount of memory to show to the model.",
        },
    }  # fmt: skip
    returns = dict(infer.tool.returns or {"type": "object"})
    returns["properties"] = {
        **returns.get("properties", {}),
        "grounding": {
            "type": "array",
            "items": {"type": "object"},
            "description": "The memory shown to the model, best first: `kind`, `id`, `score`, `source`, and `flags`.",
        },
    }
    returns["required"] = [*returns.get("required", ()), "grounding"]
    return msgspec.structs.replace(
        infer.tool,
        name=GROUNDED_TOOL,
        description="Ask a language model with the memory's facts about the question, as data. Needs `memory.read`.",
        parameters=parameters,
        returns=returns,
    )
