"""openai-agents: wraps the program's run hooks, and the places where a failure becomes a text for the model.

The hooks get a call's id, but even for a failed tool only the text that the model sees. So failures are observed where the
SDK turns the exception into that text. A run reports its end by the hook `on_agent_end`, and a failure by the exception.
"""

from __future__ import annotations

import functools
import sys
from contextvars import ContextVar
from typing import Any

from .channel import Channel

DISTRIBUTION = "openai-agents"
MODULE = "agents.run"


_CONTEXT: ContextVar[int] = ContextVar("_CONTEXT", default=0)
"""The `id` of the running call's context."""


def hook(module: Any, channel: Channel) -> None:
    """Wrap the normaliser of hooks, the invocation of functions and the runner. Raises: AttributeError, KeyError."""
    calls = _Calls(channel)
    # All of them have been imported by now: `agents.run` needs them.
    hooks_of = _reporting(sys.modules["agents.lifecycle"].RunHooks, calls)
    normalise = module.validate_run_hooks

    @functools.wraps(normalise)
    def validate_run_hooks(hooks: Any) -> Any:
        return hooks_of(normalise(hooks))

    _wrap_invocation([sys.modules["agents.tool"], sys.modules["agents.run_internal.tool_execution"]], calls)
    _wrap_runner(module.AgentRunner, sys.modules["agents.result"].RunResultStreaming, channel)
    module.validate_run_hooks = validate_run_hooks


def _wrap_invocation(places: list[Any], calls: _Calls) -> None:
    """Observe functions that fail. `places` are modules that hold the SDK's functions under the same names."""
    tools = places[0]
    timeout_error: Any = tools.ToolTimeoutError
    explain, invoke = tools.maybe_invoke_function_tool_failure_error_function, tools._invoke_function_tool_with_metadata

    @functools.wraps(explain)
    async def explained(*, function_tool: Any, context: Any, error: BaseException) -> Any:
        calls.errors[id(context)] = _text(error)
        return await explain(function_tool=function_tool, context=context, error=error)

    @functools.wraps(invoke)
    async def invoked(*, function_tool: Any, context: Any, arguments: str) -> Any:
        token = _CONTEXT.set(id(context))
        try:
            return await invoke(function_tool=function_tool, context=context, arguments=arguments)
        except BaseException as error:  # it ends the run, and the hook for the tool's end is not called
            calls.errors.setdefault(id(context), _text(error))
            calls.end(context, function_tool)
            raise
        finally:
            _CONTEXT.reset(token)

    class ToolTimeoutError(timeout_error):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            calls.errors[_CONTEXT.get()] = _text(self)

    tools.ToolTimeoutError = ToolTimeoutError
    for place in places:
        place.maybe_invoke_function_tool_failure_error_function = explained
        place._invoke_function_tool_with_metadata = invoked


def _wrap_runner(runner: Any, streamed: Any, channel: Channel) -> None:
    """Report a run that ends with an exception."""
    run, stream = runner.run, streamed.stream_events

    @functools.wraps(run)
    async def running(self: Any, *args: Any, **options: Any) -> Any:
        try:
            return await run(self, *args, **options)
        except BaseException as error:
            channel.finish_run(_text(error))
            raise

    @functools.wraps(stream)
    async def streaming(self: Any, *args: Any, **options: Any) -> Any:
        try:
            async for event in stream(self, *args, **options):
                yield event
        except GeneratorExit:
            raise
        except BaseException as error:
            channel.finish_run(_text(error))
            raise

    runner.run, streamed.stream_events = running, streaming


class _Calls:
    """Calls that have begun, and what is known of their failures."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.errors: dict[int, str] = {}
        """Errors, by the `id` of a call's context."""
        self._begun: dict[int, tuple[str, str, str]] = {}

    def start(self, context: Any, tool: Any) -> None:
        call_id, arguments = getattr(context, "tool_call_id", None), getattr(context, "tool_arguments", None)
        self._begun[_key(context, tool)] = self.channel.start_call(call_id, getattr(tool, "name", ""), arguments)

    def end(self, context: Any, tool: Any) -> None:
        call = self._begun.pop(_key(context, tool), None)
        error = self.errors.pop(id(context), None)
        if call is not None:
            self.channel.end_call(call, error)


def _key(context: Any, tool: Any) -> int:
    # A function call has its own context; other tools share the run's context.
    return id(context) if getattr(context, "tool_call_id", None) else hash((id(context), id(tool)))


def _reporting(base: Any, calls: _Calls) -> Any:
    """Returns run hooks that report, and then call the program's own hooks."""

    class Reporting(base):  # type: ignore[misc]
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __getattribute__(self, name: str) -> Any:
            if name.startswith("_") or name in ("on_tool_start", "on_tool_end", "on_agent_end"):
                return super().__getattribute__(name)
            return getattr(self._inner, name)

        async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
            calls.start(context, tool)
            await self._inner.on_tool_start(context, agent, tool)

        async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
            calls.end(context, tool)
            await self._inner.on_tool_end(context, agent, tool, result)

        async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
            calls.channel.finish_run()
            await self._inner.on_agent_end(context, agent, output)

    return lambda hooks: hooks if isinstance(hooks, Reporting) else Reporting(hooks)


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
