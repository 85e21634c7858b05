"""The definitions of `infer`, `classify` and `embed` for the configured models. `calls.py` is imported on the first call.

The tools change nothing (`read_only`), but send their input elsewhere (`open_world`), so a grant must name them in
`unscoped`. If all models of a tool have the provider `local`, nothing is sent, and no grant needs to name it. The
parameter `model` lists the models, and has the mark from which policies get `context.model`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol

from interlock.executors.inference import MODEL_TOOLS, metering
from interlock.executors.inference.models import LOCAL, Model, Question
from interlock.executors.inference.prompts import CLASSIFY_TOKENS, classify_question, classify_texts, infer_question
from interlock.lazy import lazy
from interlock.model.clock import Clock
from interlock.model.tool import Binding, Context, Estimate, Tool

if TYPE_CHECKING:
    from interlock.executors.inference import calls
else:
    calls = lazy("interlock.executors.inference.calls")

TIMEOUT_MS: Final = 120_000
TEXTS_MAX: Final = 2048
LABELS_MAX: Final = 100
_TEXT: Final = {"type": "string"}
_USAGE: Final = {
    "type": ["object", "null"],
    "properties": {
        "input_tokens": {"type": "integer"},
        "output_tokens": {"type": "integer"},
        "cost": {"type": ["number", "null"], "description": "Null if the model has no prices."},
    },
    "description": "What the call took; null if the endpoint did not say, and then all that was reserved counts as spent.",
}
_MODEL: Final = {**_TEXT, "description": "The model that answered, by its name in the configuration."}


def bindings(models: Mapping[str, Model], clock: Clock) -> list[Binding]:
    """Returns the tools of `MODEL_TOOLS` that have at least one model.

    `infer`: `{prompt | messages, model?, system?, context?, schema?, max_tokens?, temperature?}` to
      `{text | value, model, finish_reason, usage}`.
    `classify`: `{text, labels, multi?, model?}` to `{label, labels?, scores, model, usage}`.
    `embed`: `{texts, model?}` to `{vectors, dimensions, model, usage}`.
    """
    made = functools.cache(lambda: calls.Inference(models, clock))
    found = []
    for name, define in zip(MODEL_TOOLS, (_infer, _classify, _embed), strict=True):
        usable = [model for model in models.values() if name in model.tools]
        if usable:
            tool, estimates = define(usable)
            function = ModelCalls(made, name, usable)
            found.append(Binding(tool=tool, function=function, mode="thread", writes="nothing", estimates=estimates))
    return found


class _Functions(Protocol):
    """The functions of `calls.Inference`, looked up by name."""

    def __getattribute__(self, name: str) -> Any: ...


class ModelCalls:
    """The function of one of the tools."""

    def __init__(self, made: Callable[[], _Functions], tool: str, usable: Sequence[Model]) -> None:
        """`usable` are the models of the tool, the default first."""
        self._made = made
        self._tool = tool
        self._default = usable[0].name
        self.models = {model.name: model for model in usable}

    def __call__(self, parameters: dict[str, Any], ctx: Context) -> Any:
        """Call it. Raises: ToolError."""
        return getattr(self._made(), self._tool)({"model": self._default, **parameters}, ctx)


_Defined = tuple[Tool, Callable[[dict[str, Any]], Sequence[Estimate]]]


def _infer(models: Sequence[Model]) -> _Defined:
    most = max(model.output_tokens for model in models)
    message = {
        "type": "object",
        "properties": {"role": {"enum": ["user", "assistant"]}, "content": _TEXT},
        "required": ["role", "content"],
        "additionalProperties": False,
    }
    properties = {
        "prompt": {**_TEXT, "minLength": 1},
        "messages": {
            "type": "array",
            "items": message,
            "minItems": 1,
            "description": "A conversation; the last is the user's.",
        },
        "model": _choice(models),
        "system": {**_TEXT, "description": "Instructions that come before the conversation."},
        "context": {**_TEXT, "description": "Data to answer from; the model is told that it is not an instruction."},
        "schema": {
            "type": "object",
            "description": "JSON Schema that the answer has to fit; the output then has `value`.",
        },
        "max_tokens": {
            "type": "integer",
            "minimum": 1,
            "maximum": most,
            "description": "The model's limit unless set.",
        },
        "temperature": {
            "type": "number",
            "minimum": 0,
            "maximum": 2,
            "description": "Not for models of the provider `anthropic`.",
        },
    }
    returns = {
        "text": _TEXT, "value": {"description": "Instead of `text` if `schema` was given."}, "model": _MODEL,
        "finish_reason": {"enum": ["stop", "length", "content_filter", "other"]}, "usage": _USAGE,
    }  # fmt: skip
    by_name = {model.name: model for model in models}

    def estimates(parameters: dict[str, Any]) -> list[Estimate]:
        model = by_name.get(parameters.get("model", models[0].name), models[0])
        return _estimates(model, infer_question(model, parameters))

    tool = _tool(
        "infer",
        "Ask a language model. The answer is data: it decides nothing by itself.",
        models,
        properties,
        (),
        returns,
    )
    tool.parameters["oneOf"] = [{"required": ["prompt"]}, {"required": ["messages"]}]
    return tool, estimates


def _classify(models: Sequence[Model]) -> _Defined:
    label = {
        "type": "object",
        "properties": {"name": {**_TEXT, "minLength": 1}, "description": _TEXT},
        "required": ["name"],
        "additionalProperties": False,
    }
    properties = {
        "text": _TEXT,
        "labels": {"type": "array", "items": label, "minItems": 1, "maxItems": LABELS_MAX, "uniqueItems": True},
        "multi": {
            "type": "boolean",
            "default": False,
            "description": "Also give all labels with a score of 0.5 or more.",
        },
        "model": _choice(models),
    }
    returns = {
        "label": {**_TEXT, "description": "The label with the highest score."},
        "labels": {"type": "array", "items": _TEXT},
        "scores": {"type": "object", "description": "From 0 to 1, as the model gave them; they are not probabilities."},
        "model": _MODEL,
        "usage": _USAGE,
    }
    by_name = {model.name: model for model in models}

    def estimates(parameters: dict[str, Any]) -> list[Estimate]:
        model = by_name.get(parameters.get("model", models[0].name), models[0])
        if model.provider == LOCAL:
            return [metering.estimate(model, metering.prompt_tokens(classify_texts(parameters)), 0, 1)]
        return _estimates(model, classify_question(parameters, min(CLASSIFY_TOKENS, model.output_tokens)))

    description = "Say which of some labels fits a text, by a language model, or by its words."
    return _tool("classify", description, models, properties, ("text", "labels"), returns), estimates


def _embed(models: Sequence[Model]) -> _Defined:
    properties = {
        "texts": {"type": "array", "items": {**_TEXT, "minLength": 1}, "minItems": 1, "maxItems": TEXTS_MAX},
        "model": _choice(models),
    }
    returns = {
        "vectors": {
            "type": "array",
            "description": "One for each text; vectors of different models must not be compared.",
        },
        "dimensions": {"type": "integer"},
        "model": _MODEL,
        "usage": _USAGE,
    }
    by_name = {model.name: model for model in models}

    def estimates(parameters: dict[str, Any]) -> list[Estimate]:
        model = by_name.get(parameters.get("model", models[0].name), models[0])
        return [metering.estimate(model, metering.prompt_tokens(parameters["texts"]), 0, 1)]

    description = "Turn texts into vectors, by an embedding model."
    return _tool("embed", description, models, properties, ("texts",), returns), estimates


def _tool(
    name: str, description: str, models: Sequence[Model], properties: dict[str, Any], required: Sequence[str],
    returns: dict[str, Any],
) -> Tool:  # fmt: skip
    optional = {"text", "value", "labels"}
    return Tool(
        name=name,
        description=description,
        parameters={
            "type": "object",
            "properties": properties,
            "required": list(required),
            "additionalProperties": False,
        },
        returns={"type": "object", "properties": returns, "required": [key for key in returns if key not in optional]},
        read_only=True,
        destructive=False,
        open_world=any(model.provider != LOCAL for model in models),
        reversibility="reversible",
        idempotent=True,
        timeout_ms=TIMEOUT_MS,
        tags=("model",),
    )


def _choice(models: Sequence[Model]) -> dict[str, Any]:
    """Returns the parameter `model`, with the provider of each model for policies."""
    return {
        "enum": [model.name for model in models],
        "default": models[0].name,
        "description": "A model of the configuration.",
        "x-interlock": "model",
        "x-interlock-providers": {model.name: model.provider for model in models},
    }


def _estimates(model: Model, question: Question) -> list[Estimate]:
    """Returns the possible usage of a question.

    With a schema also for further attempts, then for fewer in case the budget is too small.
    """
    prompt = metering.question_tokens(question)
    attempts = 1 if question.schema is None else metering.ATTEMPTS_MAX
    return [metering.estimate(model, prompt, question.max_tokens, count) for count in range(attempts, 0, -1)]
