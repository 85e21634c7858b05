"""Vectors for searching the memory, from the configured model; without one, the search compares only words.

The local model sends no requests, so it is used wherever one is configured for `embed`. An endpoint is used only if
`[learning] embed` names its model, and only for an agent that the rules allow to call `embed` itself without approval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from interlock.engine.proposals.tool_context import ActionContext
from interlock.engine.services import Services
from interlock.engine.tools.model_tools import PACKAGES
from interlock.executors.inference.models import LOCAL, Model
from interlock.executors.inference.tools import ModelCalls
from interlock.lazy import lazy
from interlock.learning.facts import FactStore
from interlock.model.canonical import digest
from interlock.model.errors import ToolError
from interlock.model.extras import how_to_install
from interlock.model.tool import Binding, Estimate
from interlock.settings import Settings

if TYPE_CHECKING:
    from interlock.executors.inference import local
else:
    local = lazy("interlock.executors.inference.local")

_EMBED: Final = "embed"
_ENDPOINT_BYTES: Final = 16_384
"""Maximum bytes of facts' texts that one search sends to an endpoint, in addition to the query."""
_BATCH: Final = 256
_FACTS_MAX: Final = 20_000
"""Maximum number of facts that get vectors in one search, newest first. The local model needs less than a second for them."""

Embed = Callable[[Sequence[str]], Sequence[Sequence[float]]]


class Near(NamedTuple):
    """The result of comparing vectors with a query."""

    facts: Sequence[int] = ()
    """Numbers of the nearest facts, best first."""
    model: str | None = None
    """The model that found them; None if only words were compared."""
    why: str | None = None
    """Why only words were compared."""


def configured(services: Services, settings: Settings) -> Model | None:
    """The model whose vectors the memory uses; None if there is none, or none with the name in `[learning] embed`."""
    wanted, models = settings.learning.embed, _models(services)
    if wanted is None:
        return next((model for model in models.values() if model.provider == LOCAL), None)
    return models.get(wanted)


def nearest_for_agent(
    services: Services, store: FactStore, query: str, scopes: Sequence[str], ctx: ActionContext
) -> Near:
    """The facts nearest to a query, for the agent of a call. Raises: StoreError; ToolError `cancelled`, `timeout`."""
    model = configured(services, services.settings)
    if model is None:
        return Near(why=off(services.settings.learning.embed))
    if model.provider == LOCAL:
        return _nearest(store, query, scopes, model, _local(_check(services, ctx)))
    try:
        return _nearest(store, query, scopes, model, _ask(services, model, ctx), bytes_max=_ENDPOINT_BYTES)
    except ToolError as error:
        if error.code in ("cancelled", "timeout"):
            raise
        return Near(why=f"`{model.name}` gives no vectors: {error.message}")


def nearest_in_question(
    services: Services, store: FactStore, query: str, scopes: Sequence[str], ctx: ActionContext
) -> Near:
    """As `nearest_for_agent`, but within the call of another model, which has reserved no use of an endpoint: none is asked."""
    model = configured(services, services.settings)
    if model is None or model.provider != LOCAL:
        return Near()
    return _nearest(store, query, scopes, model, _local(_check(services, ctx)))


def nearest_for_person(store: FactStore, query: str, scopes: Sequence[str], model: Model | None) -> Near:
    """The facts nearest to a query, outside of any call: only by the local model. Raises: StoreError."""
    if not is_installed():
        return Near(why=off())
    if model is not None and model.provider != LOCAL:
        return Near(why=f"`{model.name}` is used only in calls of agents")
    return _nearest(store, query, scopes, model or LOCAL_MODEL, _local(lambda: None))


def similarities(services: Services, query: str, texts: Sequence[str]) -> list[float]:
    """The similarity of each text to a query, by the configured local model; 0 without one."""
    model = configured(services, services.settings)
    if not texts or model is None or model.provider != LOCAL:
        return [0.0] * len(texts)
    own, *others = local.embedder().vectors([query, *texts], lambda: None)[0]
    return local.similarities(own, others)


def estimates(services: Services) -> Callable[[dict[str, Any]], Sequence[Estimate]]:
    """The possible cost of the vectors for a call of `memory.read`."""

    def of(parameters: dict[str, Any]) -> Sequence[Estimate]:
        model = configured(services, services.settings)
        embed = _binding(services)
        if model is None or model.provider == LOCAL or embed is None or embed.estimates is None:
            return []
        texts = [str(parameters.get("query", "")), " " * _ENDPOINT_BYTES]
        return embed.estimates({"texts": texts, "model": model.name})

    return of


def off(wanted: str | None = None) -> str:
    """Why there are no vectors: no model is configured, or not the `wanted` one."""
    if wanted is not None:
        return f"the search compares only words: there is no model `{wanted}` for the tool `embed` (`learning.embed`)"
    if not is_installed():
        return f"the search compares only words: vectors need the extra `infer` ({how_to_install('infer')})"
    return 'the search compares only words: no model returns vectors (`[models.words]` with `provider = "local"` does)'


def is_installed() -> bool:
    """True if the local model is installed."""
    return all(find_spec(name) is not None for name in PACKAGES)


LOCAL_MODEL: Final = Model(
    name=LOCAL, provider=LOCAL, endpoint="", id="", key=None, key_env=None, prices=None, output_tokens=0,
    tools=(_EMBED,), structured=False, stream=False,
)  # fmt: skip
"""The local model if none is configured, for the person at the command line."""


def _models(services: Services) -> dict[str, Model]:
    binding = _binding(services)
    function = None if binding is None else binding.function
    return dict(function.models) if isinstance(function, ModelCalls) else {}


def _binding(services: Services) -> Binding | None:
    found = services.registry.find(_EMBED)
    return None if found is None else found.binding


def _identity(model: Model) -> str:
    """Changes when the same text would get another vector."""
    if model.provider == LOCAL:
        return digest("embedder", [LOCAL, version("wordllama"), local.WEIGHTS])
    return digest("embedder", [model.provider, model.endpoint, model.id])


def _local(check: Callable[[], None]) -> Embed:
    def embed(texts: Sequence[str]) -> Sequence[Sequence[float]]:
        return local.embedder().vectors(texts, check)[0]

    return embed


def _ask(services: Services, model: Model, ctx: ActionContext) -> Embed:
    """Asks an endpoint within the call of `ctx`.

    It is a part of that call, on its thread: its time-out, its budget (`estimates`) and its errors cover it, and the function
    can only be one of ours (`_models`). What it does not cover is checked here: the rules about `embed` and its rate limit.
    """
    tool = services.registry.require(_EMBED)

    def embed(texts: Sequence[str]) -> Sequence[Sequence[float]]:
        parameters = {"texts": list(texts), "model": model.name}
        refused = ctx.refusal_of(_EMBED, parameters)  # with all that is sent: the texts of facts, too
        if refused is not None:
            raise ToolError(f"`{_EMBED}` is refused: {refused.detail}", code=refused.reason, retryable=False)
        if tool.bucket is not None and tool.bucket.acquire(services.clock.mono_ns(), 0) is None:
            raise ToolError(f"the rate limit of `{_EMBED}` leaves no place now", code="rate_limited", retryable=False)
        output: Any = tool.binding.function(parameters, ctx)
        vectors: Sequence[Sequence[float]] = output["vectors"]
        return vectors

    return embed


def _check(services: Services, ctx: ActionContext) -> Callable[[], None]:
    def check() -> None:
        late = ctx.deadline_ns > 0 and services.clock.mono_ns() >= ctx.deadline_ns
        if ctx.cancelled or late:
            code = "timeout" if late else "cancelled"
            raise ToolError("the search was stopped before all facts had vectors", code=code, retryable=False)

    return check


def _nearest(
    store: FactStore, query: str, scopes: Sequence[str], model: Model, embed: Embed, *, bytes_max: int | None = None
) -> Near:
    """Store the vectors of facts that have none yet, and compare. The query and the facts are one request to an endpoint."""
    embedder, index = _identity(model), store.vectors
    pending = index.missing(embedder, scopes, bytes_max)[:_FACTS_MAX]
    first, rest = (pending, []) if bytes_max is not None else (pending[:_BATCH], pending[_BATCH:])
    try:
        own, *vectors = embed([query, *(text for _, text in first)])
        index.add(embedder, [(number, vector) for (number, _), vector in zip(first, vectors, strict=True)])
        while rest:
            batch, rest = rest[:_BATCH], rest[_BATCH:]
            found = embed([text for _, text in batch])
            index.add(embedder, [(number, vector) for (number, _), vector in zip(batch, found, strict=True)])
        return Near([number for number, _ in index.nearest(embedder, own, scopes)], model.name)
    except (OSError, ImportError) as error:
        return Near(why=f"the files of the extra `infer` cannot be read: {type(error).__name__}")
