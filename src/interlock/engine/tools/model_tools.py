"""The tools of the configured models: registered with the runtime, and again when an edited configuration is in force."""

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
from interlock.model.tool import Binding
from interlock.settings import Settings
from interlock.settings.decode import decode
from interlock.settings.models import ENDPOINTS, ModelSettings

PACKAGES: Final = ("numpy", "safetensors", "tokenizers", "wordllama")
"""What the extra `infer` installs."""
Adjust = Callable[[Binding, Settings], Binding]
"""A tool as `[tools."NAME"]` wants it."""


class Told(Protocol):
    """Who is told what people should know."""

    def warn_once(self, text: str) -> None:
        """Tell them."""
        ...


class Judging(Protocol):
    """Who has to look again at which tools there are."""

    def expire(self) -> None:
        """Look again."""
        ...


class Registering(Protocol):
    """What of the services the tools are registered in."""

    @property
    def clock(self) -> Clock:
        """For the time limits of calls."""
        ...

    @property
    def hooks(self) -> Told:
        """Told of keys that are not set."""
        ...

    @property
    def judges(self) -> Judging:
        """The judges in force."""
        ...

    @property
    def registry(self) -> Registry:
        """The tools."""
        ...

    @property
    def settings(self) -> Settings:
        """As they were at the start."""
        ...


def prepare(services: Registering, settings: Settings, env: Mapping[str, str], adjust: Adjust) -> Callable[[], None]:
    """Make the tools of the configured models; what is returned registers them, except for those that the program registered
    itself. One for which there is no model any more is removed. Raises: ConfigurationError for a key that cannot be one.
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
    """Register the tools of models that a program names, before the configured ones. From then on they are the program's: an
    edited configuration does not change them. Raises: ConfigurationError.
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
            hint="run `pip install 'interlock[infer]'`, or remove the model",
        )
    key = None if one.key_env is None else env.get(one.key_env) or None
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise ConfigurationError(
            f"the environment variable `{one.key_env}` does not hold a key: keys are printable ASCII",
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
