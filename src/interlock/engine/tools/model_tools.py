"""The tools of the configured models. They are registered at the start, and again when an edited configuration takes effect."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, Final, Protocol

from interlock.engine.tools.registry import Registry
from interlock.executors.inference import MODEL_TOOLS
from interlock.executors.inference.models import LOCAL, Model, Prices
from interlock.executors.inference.tools import bindings
from interlock.model.clock import Clock
from interlock.model.errors import ConfigurationError
from interlock.model.extras import how_to_install
from interlock.model.tool import Binding
from interlock.settings import Settings
from interlock.settings.decode import decode
from interlock.settings.models import ENDPOINTS, ModelSettings

PACKAGES: Final = ("numpy", "safetensors", "tokenizers", "wordllama")
"""The packages of the extra `infer`."""
Adjust = Callable[[Binding, Settings], Binding]
"""Applies the settings in `[tools."NAME"]` to a tool."""


class Told(Protocol):
    """Receives messages for people."""

    def warn_once(self, text: str) -> None:
        """Tell people something once."""
        ...


class Judging(Protocol):
    """Holds judges that depend on the set of tools."""

    def expire(self) -> None:
        """Update the judges."""
        ...


class Registering(Protocol):
    """The services in which the tools are registered."""

    @property
    def clock(self) -> Clock:
        """The clock for the time limits of calls."""
        ...

    @property
    def hooks(self) -> Told:
        """Receives warnings about keys that are not set."""
        ...

    @property
    def judges(self) -> Judging:
        """The judges in force."""
        ...

    @property
    def registry(self) -> Registry:
        """The tool registry."""
        ...

    @property
    def settings(self) -> Settings:
        """The settings at the start."""
        ...


def prepare(services: Registering, settings: Settings, env: Mapping[str, str], adjust: Adjust) -> Callable[[], None]:
    """Create the tools of the configured models. The returned function registers them, except for those that the
    program registered itself, and removes tools without a model. Raises: ConfigurationError for an invalid key.
    """
    registry = services.registry
    found = {name: adjust(one, settings) for name, one in _bindings(services, settings, settings.models, env).items()}

    def register() -> None:
        for name in MODEL_TOOLS:
            if name not in registry.in_code:
                _replace(registry, name, found.get(name))
        services.judges.expire()

    return register


def register_in_code(
    services: Registering, given: Mapping[str, Mapping[str, Any]], env: Mapping[str, str], adjust: Adjust
) -> None:
    """Register the tools of models that a program passes, before the configured ones. They then belong to the program:
    an edited configuration does not change them. Raises: ConfigurationError.
    """
    settings, registry = services.settings, services.registry
    models = decode({"models": given}).models
    models |= {name: one for name, one in settings.models.items() if name not in models}
    for name, binding in _bindings(services, settings, models, env).items():
        _replace(registry, name, adjust(binding, settings))
        registry.in_code.add(name)
    services.judges.expire()


def _bindings(
    services: Registering, settings: Settings, configured: Mapping[str, ModelSettings], env: Mapping[str, str]
) -> dict[str, Binding]:
    models = {name: _model(name, one, settings, env) for name, one in configured.items()}
    for model in models.values():
        if model.key_env is not None and model.key is None:
            services.hooks.warn_once(
                f"models.{model.name}.key_env: the environment variable `{model.key_env}` is not set, so its calls fail"
            )
    return {binding.tool.name: binding for binding in bindings(models, services.clock)}


def _replace(registry: Registry, name: str, binding: Binding | None) -> None:
    if name in registry.by_name:
        registry.remove(name)
    if binding is not None:
        registry.add_built_in(binding)


def _prices(one: ModelSettings) -> Prices | None:
    if one.provider == LOCAL:
        return Prices(0.0, 0.0)
    return None if one.prices is None else Prices(one.prices.input, one.prices.output)


def _model(name: str, one: ModelSettings, settings: Settings, env: Mapping[str, str]) -> Model:
    if one.provider == LOCAL and (missing := [name for name in PACKAGES if find_spec(name) is None]):
        raise ConfigurationError(
            f"a model of the provider `local` needs the package `{missing[0]}`, which is not installed",
            code="extra_missing",
            path=f"models.{name}.provider",
            hint=f"{how_to_install('infer')}; or remove the model",
        )
    key = None if one.key_env is None else env.get(one.key_env) or None
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigurationError(
            f"the environment variable `{one.key_env}` does not contain a key: keys are printable ASCII",
            path=f"models.{name}.key_env",
        )
    return Model(
        name=name,
        provider=one.provider,
        endpoint="" if one.provider == LOCAL else (one.endpoint or ENDPOINTS[one.provider]).rstrip("/"),
        id=one.model or name,
        key=key,
        key_env=one.key_env,
        prices=_prices(one),
        output_tokens=one.output_tokens,
        tools=one.usable_by,
        structured=one.structured,
        stream=one.stream,
        private=settings.network.private,
    )
