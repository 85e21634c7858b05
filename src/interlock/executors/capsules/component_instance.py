"""One call of a component, in a worker: link the world `interlock:capsule`, instantiate, call, read the result.

WASI is linked without resources (components built from Python import all of it): no directories, no environment, no
arguments, no sockets; printed lines go to the log. Host functions return values of their WIT types, where an error is
`err` with one line of text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, Final

import wasmtime
from wasmtime import component

from interlock.executors.capsules import interfaces
from interlock.executors.capsules.core_module import TABLE_ELEMENTS_MAX, Answers, Bounds, CallError, run_guarded
from interlock.executors.capsules.printed import Printed

ENTRY: Final = "call-tool"
INIT: Final = "init"
"""Optional: `func() -> result<_, string>`, called once per store."""
INSTANCES_MAX: Final = 100
"""A component consists of several instances: components built from Python have dozens."""
TABLES_MAX: Final = 50
MEMORIES_MAX: Final = 2
"""Components built from JavaScript have two."""
_MANY_MEMORIES: Final = "memory count too high"


class TooManyMemoriesError(Exception):
    """The component has more memories than were allowed."""


class ComponentInstance:
    """A store with the component's instance. Used by one thread, and never again after an error."""

    def __init__(
        self,
        engine: wasmtime.Engine,
        code: component.Component,
        linker: component.Linker,
        bounds: Bounds,
        printed: Printed,
        *,
        memories: int = 1,
    ) -> None:
        """Instantiate. The `memories` share the store's memory limit in equal parts.

        Raises: TooManyMemoriesError, CallError.
        """
        self._bounds = bounds
        self.store = wasmtime.Store(engine)
        self.store.set_wasi(printed.configuration())
        self.store.set_limits(
            memory_size=bounds.memory_bytes // memories,  # wasmtime limits each memory, not their sum
            table_elements=TABLE_ELEMENTS_MAX,
            instances=INSTANCES_MAX,
            tables=TABLES_MAX,
            memories=memories,
        )
        self.begin()
        try:
            self._instance: Any = run_guarded(lambda: linker.instantiate(self.store, code))
        except CallError as error:
            if memories < MEMORIES_MAX and _MANY_MEMORIES in str(error):
                raise TooManyMemoriesError from None
            raise
        self._entry: Any = self._instance.get_func(self.store, ENTRY)
        begin = self._instance.get_func(self.store, INIT) if _has_init(code, engine) else None
        if begin is not None:
            failed = run_guarded(lambda: begin(self.store))
            if isinstance(failed, str):
                raise CallError("tool_failed", failed[:2000] or f"`{INIT}` reported a failure")

    def call(self, tool: str, arguments: bytes) -> bytes:
        """Call a tool and return its result as JSON text. Raises: CallError."""
        self.begin()
        result = run_guarded(lambda: self._entry(self.store, tool, arguments.decode()))
        if not isinstance(result, component.Variant) or not isinstance(result.payload, str):
            raise CallError("capsule_invalid", f"`{ENTRY}` does not return a `result<string, string>`")
        if result.tag == "err":
            raise CallError("tool_failed", result.payload[:2000] or "the tool reported a failure")
        data = result.payload.encode()
        if len(data) > self._bounds.output_bytes:
            raise CallError("invalid_output", f"the result has more than {self._bounds.output_bytes} bytes")
        return data

    def handle(self, event: str, message: bytes) -> bytes:
        """Call `on-message` or `on-outbound` with a message, or `run`. Raises: CallError."""
        self.begin()
        function = self._instance.get_func(self.store, event)
        if function is None:
            raise CallError("capsule_invalid", f"the component does not export `{event}`")
        given = () if event == interfaces.RUN else (message.decode(),)
        failed = run_guarded(lambda: function(self.store, *given))
        if isinstance(failed, str):
            raise CallError("tool_failed", failed[:2000] or f"`{event}` reported a failure")
        return b"null"

    def begin(self) -> None:
        """Reset the time and fuel of the store for a new call."""
        self.store.set_epoch_deadline(1)
        if self._bounds.fuel is not None:
            self.store.set_fuel(self._bounds.fuel)


def link(engine: wasmtime.Engine, allowed: Sequence[str], answers: Answers) -> component.Linker:
    """Create a linker for components with these interfaces.

    It serves every store of the engine, because linking is slower than a call.
    """
    linker = component.Linker(engine)
    linker.add_wasip2()
    with linker.root() as root:
        for name in allowed:
            with root.add_instance(interfaces.module_name(name)) as instance:
                for function in interfaces.INTERFACES[name].functions:
                    instance.add_func(function, _answer(answers, name, function))
    return linker


def _answer(answers: Answers, name: str, function: str) -> Callable[..., Any]:
    signature = interfaces.INTERFACES[name].functions[function]

    def answer(_store: Any, *given: Any) -> Any:
        if signature.plain:
            return answers.plain(function)
        kind, data = answers.reply(name, function, [_flat(value) for value in given])
        return _lifted(signature.gives, kind, data)

    return answer


def _has_init(code: component.Component, engine: wasmtime.Engine) -> bool:
    """Returns True if the component exports `init` without parameters.

    Components built from JavaScript have another function of that name.
    """
    found = code.type.exports(engine).get(INIT)
    return found is not None and isinstance(found.ty, component.FuncType) and not list(found.ty.params)


def _flat(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode()
    return value if isinstance(value, int) else bytes(value)


def _lifted(gives: str, kind: int, data: bytes) -> Any:
    """Convert a reply to the value that wasmtime-py expects for the function's WIT type.

    The types in `capsule.wit` are chosen so that each case has a distinct Python type.
    """
    if gives == "text?":
        return data.decode() if kind == interfaces.OK else None
    if kind == interfaces.ERROR:
        message = json.loads(data)["message"]
        return component.Variant("err", message) if gives == "text" else message
    match gives:
        case "bytes?":
            return None if kind == interfaces.NONE else data
        case "bytes":
            return data
        case "text":
            return component.Variant("ok", data.decode())
        case "texts" | "flag" | "number":
            return json.loads(data)
        case _:
            return None
