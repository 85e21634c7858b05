"""google-genai: automatic function calling passes through two functions of `_extra_utils`, one of them async.

The SDK has no public place for a callback. If a program calls the functions itself, neither the SDK nor the shim sees
those calls. If a call has no id, the shim makes one.
"""

from __future__ import annotations

import functools
from typing import Any, Iterator

from .channel import Channel

DISTRIBUTION = "google-genai"
MODULE = "google.genai._extra_utils"


def hook(module: Any, channel: Channel) -> None:
    """Wrap both functions. Raises: AttributeError if the module has another shape."""
    answer, answer_async = module.get_function_response_parts, module.get_function_response_parts_async

    @functools.wraps(answer)
    def parts(response: Any, function_map: Any) -> list[Any]:
        found: list[Any] = []
        for one, call in _each(response):
            if call is None:
                found.extend(answer(one, function_map))
                continue
            begun = channel.start_call(call.id, call.name, call.args)
            try:
                made = answer(one, function_map)
            except BaseException as error:
                channel.end_call(begun, _text(error))
                raise
            channel.end_call(begun, _error_in(made))
            found.extend(made)
        return found

    @functools.wraps(answer_async)
    async def parts_async(response: Any, function_map: Any) -> list[Any]:
        found: list[Any] = []
        for one, call in _each(response):
            if call is None:
                found.extend(await answer_async(one, function_map))
                continue
            begun = channel.start_call(call.id, call.name, call.args)
            try:
                made = await answer_async(one, function_map)
            except BaseException as error:
                channel.end_call(begun, _text(error))
                raise
            channel.end_call(begun, _error_in(made))
            found.extend(made)
        return found

    module.get_function_response_parts, module.get_function_response_parts_async = parts, parts_async


def _each(response: Any) -> Iterator[tuple[Any, Any]]:
    """Yields one copy of the response for each function call, with only that call in it.

    Yields the response itself and None if it has no call.
    """
    candidates = response.candidates or []
    content: Any = candidates[0].content if candidates else None
    calls = [part for part in (getattr(content, "parts", None) or ()) if part.function_call]
    if not calls:
        yield response, None
    for part in calls:
        alone = candidates[0].model_copy(update={"content": content.model_copy(update={"parts": [part]})})
        yield response.model_copy(update={"candidates": [alone, *candidates[1:]]}), part.function_call


def _error_in(parts: list[Any]) -> str | None:
    """Returns why the function failed. The SDK raises nothing, and reports the failure only to the model."""
    if not parts:
        return "the SDK did not call it"
    response = getattr(parts[0].function_response, "response", None)
    if isinstance(response, dict) and "error" in response and "result" not in response:
        return str(response["error"])
    return None


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
