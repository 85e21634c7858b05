"""The section `[models]`: the models, their endpoints and their prices."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from interlock.model.hosts import endpoint
from interlock.model.limits import INTEGER_MAX

Provider = Literal["openai-compatible", "anthropic", "google", "local"]
ModelTool = Literal["infer", "classify", "embed"]
_Name = Annotated[str, Meta(min_length=1, max_length=256)]
_Price = Annotated[float, Meta(ge=0)]

ENDPOINTS: Final[dict[Provider, str]] = {
    "anthropic": "https://api.anthropic.com",
    "google": "https://generativelanguage.googleapis.com",
}
"""The default endpoints of providers."""
_DEFAULT_TOOLS: Final[dict[Provider, tuple[ModelTool, ...]]] = {"local": ("classify", "embed")}


class Prices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prices of a million tokens, in the currency of `budget.cost`."""

    input: Annotated[_Price, Meta(description="Price of a million input tokens.")]
    output: Annotated[_Price, Meta(description="Price of a million output tokens.")] = 0.0


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model for the tools `infer`, `classify` and `embed`. The first model for a tool is its default."""

    provider: Annotated[
        Provider,
        Meta(
            description="The protocol of its requests. `openai-compatible` includes vLLM, llama.cpp, Ollama and "
            "gateways. `local` sends no requests: it uses word vectors from the extra `infer`, for `classify` and "
            "`embed`."
        ),
    ]
    endpoint: Annotated[
        _Name | None,
        Meta(
            description="Base URL; up to `/v1` for `openai-compatible`, which has no default. Its host must have "
            "public addresses, unless it is `localhost`, an address itself, or listed in `network.private`."
        ),
    ] = None
    model: Annotated[_Name | None, Meta(description="The provider's name for the model; NAME by default.")] = None
    key_env: Annotated[_Name | None, Meta(description="Environment variable with the API key.")] = None
    prices: Annotated[
        Prices | None,
        Meta(description="Without prices the cost is unknown, and a `cost` budget refuses its calls."),
    ] = None
    output_tokens: Annotated[
        int, Meta(ge=1, le=INTEGER_MAX, description="Maximum tokens of one answer; reserved before each call.")
    ] = 4096
    tools: Annotated[
        tuple[ModelTool, ...] | None,
        Meta(
            description="The tools that may use it. Default: `infer` and `classify`; for `local`: `classify` and `embed`."
        ),
    ] = None
    structured: Annotated[
        bool,
        Meta(description="The endpoint accepts JSON Schemas for answers. Otherwise the schema is part of the prompt."),
    ] = True
    stream: Annotated[bool, Meta(description="Request a stream, for endpoints that close idle connections.")] = False

    @property
    def usable_by(self) -> tuple[ModelTool, ...]:
        """The tools that may use this model."""
        return _DEFAULT_TOOLS.get(self.provider, ("infer", "classify")) if self.tools is None else self.tools


def problem_of(model: ModelSettings) -> tuple[str, str] | None:
    """The first problem of a model that types cannot express, as the setting and a sentence; None if there is none."""
    if not model.usable_by:
        return "tools", "name at least one tool"
    if model.provider == "local":
        return _problem_of_local(model)
    url = model.endpoint or ENDPOINTS.get(model.provider)
    if url is None:
        return "endpoint", "an `openai-compatible` model needs an address, such as `https://api.openai.com/v1`"
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("http", "https") or any(c in rest for c in "?#@ \\"):
        return "endpoint", "expected an http or https URL without user, query and fragment"
    try:
        host = endpoint(url).host
    except ValueError as error:
        return "endpoint", f"the URL {error}"
    if scheme == "http" and model.key_env is not None and not is_loopback(host):
        return "endpoint", "the key would cross the network unencrypted: use https"
    if model.key_env is not None and not (model.key_env.isidentifier() and model.key_env.isascii()):
        return "key_env", "expected the name of an environment variable"
    if "embed" in model.usable_by and model.provider == "anthropic":
        return "tools", "this provider has no embeddings"
    return None


def _problem_of_local(model: ModelSettings) -> tuple[str, str] | None:
    for name, value in (("endpoint", model.endpoint), ("key_env", model.key_env), ("prices", model.prices)):
        if value is not None:
            return name, "a `local` model sends nothing, so it cannot have this setting"
    if "infer" in model.usable_by:
        return "tools", "a `local` model supports only `classify` and `embed`"
    return None


def is_loopback(host: str) -> bool:
    """True for `localhost` and literal loopback addresses."""
    return host in ("localhost", "::1") or host.startswith("127.")
