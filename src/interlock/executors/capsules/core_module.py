"""One call of a core module, in a worker: link, instantiate, call, read the result. Only this file knows the core ABI.

The module exports `memory`, `interlock_alloc(length: i32) -> i32`, and `interlock_call(name, name_length, arguments,
arguments_length: i32) -> i64`. The call's result is a reply like that of a host function (see `interfaces`): the result
as JSON, or an error in the module's own words. Optional exports are `interlock_init()`, which runs once per store,
`interlock_on_message(message, length: i32) -> i64` and `interlock_on_outbound`, which handle messages, and
`interlock_run() -> i64`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, Protocol

import wasmtime

from interlock.executors.capsules import interfaces
from interlock.executors.capsules.printed import Printed

EXPORTS: Final = ("memory", "interlock_alloc", "interlock_call")
TABLES_MAX: Final = 4
TABLE_ELEMENTS_MAX: Final = 100_000
_TRAP: Final = re.compile(r"wasm trap: (?P<trap>.+)")
_TRAP_WORDS: Final = 300
_I32: Final = wasmtime.ValType.i32()
_I64: Final = wasmtime.ValType.i64()


class CallError(Exception):
    """A call failed. `code` is a reason code; the message is for people and models."""

    def __init__(self, code: str, message: str) -> None:
        """`message` may contain text from the capsule."""
        super().__init__(message)
        self.code = code


class Bounds(NamedTuple):
    """The limits of a store."""

    memory_bytes: int
    fuel: int | None
    output_bytes: int


class Host(Protocol):
    """Answers host functions that the worker cannot answer itself."""

    def call(self, function: str, arguments: list[Any], body: bytes) -> tuple[int, bytes]:
        """Returns the kind of the reply and its bytes. Blocks no longer than the call may take."""
        ...


class Answers:
    """The host functions of one capsule during one call. They raise nothing through wasmtime.

    wasmtime-py ends the process when a host function raises something that is not an Exception, and raises other
    exceptions in the wrong call.
    """

    def __init__(self, host: Host, config: dict[str, str]) -> None:
        """`config` holds the capsule's configuration values."""
        self._host = host
        self.config = config
        self.printed = Printed()

    def reply(self, interface: str, function: str, given: list[Any]) -> tuple[int, bytes]:
        """Returns the reply to a host function: its kind and its bytes."""
        try:
            return self._reply(interface, function, given)
        except UnicodeDecodeError:
            return _error("invalid_utf8", f"{interface}.{function}: a text is not UTF-8")
        except BaseException as error:  # noqa: BLE001 - explained in the class
            return _error("host_failed", f"{interface}.{function} failed: {type(error).__name__}")

    def plain(self, function: str) -> int:
        """Returns the present time in microseconds (`now`), or monotonic time in nanoseconds."""
        # This is a separate process, so the runtime's clock cannot be passed in.
        return time.time_ns() // 1000 if function == "now" else time.monotonic_ns()  # noqa: TID251

    def _reply(self, interface: str, function: str, given: list[Any]) -> tuple[int, bytes]:
        if interface == "config":
            value = self.config.get(_text(given[0]))
            return (interfaces.NONE, b"") if value is None else (interfaces.OK, value.encode())
        arguments: list[Any] = []
        body = b""
        kinds = interfaces.INTERFACES[interface].functions[function].parameters
        for kind, value in zip(kinds, given, strict=True):
            if kind == "bytes":
                body = value
            else:
                arguments.append(_text(value) if kind == "text" else value)
        return self._host.call(f"{interface}.{function}", arguments, body)


class LinkedModule:
    """A module linked once for all its stores, because linking is slower than a short call."""

    def __init__(
        self, engine: wasmtime.Engine, module: wasmtime.Module, allowed: Sequence[str], answers: Answers
    ) -> None:
        """`allowed` are the interfaces to link if the module imports them. Raises: CallError."""
        self.engine = engine
        self.answers = answers
        imported = {one.module for one in module.imports}
        self.has_wasi = interfaces.WASI_CORE in imported
        linker = wasmtime.Linker(engine)
        if self.has_wasi:
            linker.define_wasi()
        for name in allowed:
            if interfaces.module_name(name) in imported:
                self._link(linker, name)
        self.instances = run_guarded(lambda: linker.instantiate_pre(module))

    def _link(self, linker: wasmtime.Linker, name: str) -> None:
        for function, signature in interfaces.INTERFACES[name].functions.items():
            kinds = [
                kind
                for parameter in signature.parameters
                for kind in ([_I64] if parameter == "number" else [_I32, _I32])
            ]
            linker.define_func(
                interfaces.module_name(name),
                function,
                wasmtime.FuncType(kinds, [_I64]),
                self._answer(name, function, signature),
                access_caller=True,
            )

    def _answer(self, name: str, function: str, signature: interfaces.HostFunction) -> Callable[..., int]:
        def answer(caller: Any, *values: int) -> int:
            try:
                if signature.plain:
                    return self.answers.plain(function)
                memory, rest = caller["memory"], iter(values)
                given = [
                    next(rest) if kind == "number" else _read(caller, memory, next(rest), next(rest))
                    for kind in signature.parameters
                ]
                kind_of_reply, data = self.answers.reply(name, function, given)
                reply = bytes((kind_of_reply,)) + data
                return _packed(_write(caller, memory, caller["interlock_alloc"], reply), len(reply))
            except BaseException:  # noqa: BLE001 - without memory for the reply, return 0, which is not a reply; raise nothing
                return 0

        return answer


class CoreInstance:
    """A store with the module's instance. Used by one thread, and never again after an error."""

    def __init__(self, linked: LinkedModule, bounds: Bounds) -> None:
        """Instantiate the module. Raises: CallError."""
        self._bounds = bounds
        self.store = wasmtime.Store(linked.engine)
        self.store.set_limits(
            memory_size=bounds.memory_bytes,
            table_elements=TABLE_ELEMENTS_MAX,
            instances=1,
            tables=TABLES_MAX,
            memories=1,
        )
        self.begin()
        if linked.has_wasi:
            self.store.set_wasi(linked.answers.printed.configuration())
        exports = run_guarded(lambda: linked.instances.instantiate(self.store)).exports(self.store)
        self._exports = exports
        found = [exports.get(name) for name in EXPORTS]
        if not isinstance(found[0], wasmtime.Memory) or not all(isinstance(one, wasmtime.Func) for one in found[1:]):
            raise CallError("capsule_invalid", f"the module does not export {', '.join(f'`{one}`' for one in EXPORTS)}")
        self._memory: Any = found[0]
        self._alloc: Any = found[1]
        self._call: Any = found[2]
        for start in ("_initialize", "interlock_init"):
            function = exports.get(start)
            if isinstance(function, wasmtime.Func):
                run_guarded(lambda function=function: function(self.store))  # type: ignore[misc]

    def call(self, tool: str, arguments: bytes) -> bytes:
        """Call a tool and return its result as JSON text. Raises: CallError."""
        self.begin()
        name, memory, alloc = tool.encode(), self._memory, self._alloc
        at = run_guarded(lambda: _write(self.store, memory, alloc, name + arguments))
        packed = run_guarded(lambda: self._call(self.store, at, len(name), at + len(name), len(arguments)))
        return self._result(packed)

    def handle(self, event: str, message: bytes) -> bytes:
        """Call `interlock_on_message` or `interlock_on_outbound` with a message, or `interlock_run`. Raises: CallError."""
        self.begin()
        export = "interlock_" + event.replace("-", "_")
        function: Any = self._exports.get(export)
        if not isinstance(function, wasmtime.Func):
            raise CallError("capsule_invalid", f"the module does not export `{export}`")
        given: tuple[int, ...] = ()
        if event != interfaces.RUN:
            given = (run_guarded(lambda: _write(self.store, self._memory, self._alloc, message)), len(message))
        return self._result(run_guarded(lambda: function(self.store, *given))) or b"null"

    def begin(self) -> None:
        """Reset the time and fuel of the store for a new call."""
        self.store.set_epoch_deadline(1)
        if self._bounds.fuel is not None:
            self.store.set_fuel(self._bounds.fuel)

    def _result(self, packed: int) -> bytes:
        pointer, length = _unpacked(packed)
        if length - 1 > self._bounds.output_bytes:
            raise CallError("invalid_output", f"the result has more than {self._bounds.output_bytes} bytes")
        data = _read(self.store, self._memory, pointer, length)
        if not data or data[0] not in (interfaces.OK, interfaces.ERROR):
            raise CallError("capsule_invalid", "the module's result is not a reply")
        if data[0] == interfaces.ERROR:
            raise CallError("tool_failed", data[1:].decode("utf-8", "replace")[:2000] or "the tool reported a failure")
        return data[1:]


def run_guarded(run: Callable[[], Any]) -> Any:
    """Run a function that calls into WebAssembly, and return its result. Raises: CallError for any failure."""
    try:
        return run()
    except wasmtime.Trap as trap:
        raise _trapped(trap) from None
    except wasmtime.WasmtimeError as error:
        raise _failed(str(error)) from None
    except Exception as error:  # noqa: BLE001 - a value of the wrong type fails inside wasmtime-py
        raise CallError("capsule_invalid", _words(str(error))) from None


def _read(store: Any, memory: Any, pointer: int, length: int) -> bytes:
    """Read bytes of the module's memory. Raises: CallError."""
    pointer, length = pointer & 0xFFFF_FFFF, length & 0xFFFF_FFFF
    if pointer + length > memory.data_len(store):
        raise CallError("capsule_invalid", "the module returned a range outside its memory")
    return bytes(memory.read(store, pointer, pointer + length))


def _write(store: Any, memory: Any, alloc: Any, data: bytes) -> int:
    """Write bytes into memory that the module allocates. Raises: CallError, wasmtime.Trap."""
    pointer = int(alloc(store, len(data))) & 0xFFFF_FFFF
    if pointer + len(data) > memory.data_len(store):
        raise CallError("capsule_invalid", "`interlock_alloc` returned a range outside the module's memory")
    memory.write(store, data, pointer)
    return pointer


def _failed(text: str) -> CallError:
    """Returns the error for a failed component, whose traps have only a text; wasmtime's own words are in the last line."""
    last = (text.strip().splitlines() or [""])[-1].strip().removeprefix("0: ").removeprefix("1: ")
    found = _TRAP.search(last)
    if found is None:
        return CallError("capsule_invalid", _words(text))
    if found["trap"] == "interrupt":
        return CallError("timeout", "stopped at its time-out")
    if found["trap"].startswith("all fuel consumed"):
        return CallError("fuel_limit", "the call used up its fuel")
    return CallError("capsule_trapped", f"the capsule was ended: {_words(found['trap'])}")


def _trapped(trap: wasmtime.Trap) -> CallError:
    code = trap.trap_code
    if code is wasmtime.TrapCode.INTERRUPT:
        return CallError("timeout", "stopped at its time-out")
    if code is wasmtime.TrapCode.OUT_OF_FUEL:
        return CallError("fuel_limit", "the call used up its fuel")
    name = "a trap" if code is None else code.name.lower().replace("_", " ")
    return CallError("capsule_trapped", f"the capsule was ended: {name}")


def _words(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _TRAP_WORDS else line[:_TRAP_WORDS] + "..."


def _text(data: bytes) -> str:
    return data.decode("utf-8")


def _error(code: str, message: str) -> tuple[int, bytes]:
    return interfaces.ERROR, f'{{"code":"{code}","message":"{message}"}}'.encode()


def _packed(pointer: int, length: int) -> int:
    value = (pointer << 32) | length
    return value - (1 << 64) if value >= 1 << 63 else value


def _unpacked(packed: int) -> tuple[int, int]:
    value = packed & 0xFFFF_FFFF_FFFF_FFFF
    return value >> 32, value & 0xFFFF_FFFF
