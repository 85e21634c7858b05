"""The worker: a process behind walls that compiles modules and runs calls of capsules, one at a time, on one thread.

It communicates with the runtime over the socket on its standard input (`frames`). A second thread only ends overdue
calls, through the engine's epoch; it touches no store. Of Interlock, it imports only its own few files.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

import wasmtime
from wasmtime import component

from interlock.executors.capsules import frames, interfaces
from interlock.executors.capsules.component_instance import (
    ENTRY,
    MEMORIES_MAX,
    ComponentInstance,
    TooManyMemoriesError,
    link,
)
from interlock.executors.capsules.core_module import EXPORTS, Answers, Bounds, CallError, CoreInstance, LinkedModule

_LOADED_MAX: Final = 256
_STACK_BYTES: Final = 512 * 1024
_GUARD_BYTES: Final = 64 * 1024


def main() -> None:
    """Serve until the runtime closes the socket."""
    with socket.socket(fileno=os.dup(0)) as link:
        link.setblocking(True)
        Worker(link).serve()


class Alarm:
    """Ends an overdue call by repeatedly raising the engine's epoch after the deadline, until disarmed."""

    def __init__(self) -> None:
        """Starts the thread."""
        self._changed = threading.Condition()
        self._engine: wasmtime.Engine | None = None
        self._deadline = 0.0
        threading.Thread(target=self._run, daemon=True).start()

    def arm(self, engine: wasmtime.Engine, seconds: float) -> None:
        """Set the deadline of a call in this engine, counted from now."""
        with self._changed:
            self._engine, self._deadline = engine, time.monotonic() + seconds
            self._changed.notify()

    def disarm(self) -> None:
        """Remove the deadline, because the call has ended."""
        with self._changed:
            self._engine = None

    @contextlib.contextmanager
    def stopped(self, stop: bool, then: float | None = None) -> Iterator[None]:
        """Inside the block, stop the clock of the call if `stop`. The call then has what was left, or `then` seconds."""
        engine, left = self._engine, self._deadline - time.monotonic() if then is None else then
        if not stop or engine is None:
            yield
            return
        self.disarm()
        try:
            yield
        finally:
            self.arm(engine, left)

    def _run(self) -> None:
        with self._changed:
            while True:
                if self._engine is None:
                    self._changed.wait()
                    continue
                left = self._deadline - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                self._engine.increment_epoch()
                self._changed.wait(0.01)  # a deadline set just after this is one epoch later


class Worker:
    """The modules, engines and stores of this process."""

    def __init__(self, link: socket.socket) -> None:
        """`link` is the socket to the runtime."""
        self._link = link
        self._alarm = Alarm()
        self._engines: dict[tuple[str, bool], wasmtime.Engine] = {}
        self._modules: dict[str, wasmtime.Module | component.Component] = {}
        self._answers = Answers(self, {})
        self._modules_linked: dict[str, tuple[tuple[str, ...], LinkedModule | None]] = {}
        """Maps module keys to the interfaces that the module is linked with, and the linked module."""
        self._linkers: dict[tuple[int, tuple[str, ...]], component.Linker] = {}
        self._several: set[str] = set()
        """Keys of components with several memories."""
        self._step_s: float | None = None
        """For a call that runs indefinitely: its time limit between two host functions."""
        self._running: CoreInstance | ComponentInstance | None = None
        self._kept: dict[str, CoreInstance | ComponentInstance] = {}

    def serve(self) -> None:
        """Answer requests until the socket is closed."""
        while (message := self._receive()) is not None:
            header, body = message
            try:
                answer, data = self._answer(header, body)
            except CallError as error:
                answer, data = {"done": "error", "code": error.code, "message": str(error)}, b""
            except wasmtime.WasmtimeError as error:
                words = " ".join(str(error).split())[:300]
                answer, data = {"done": "error", "code": "capsule_invalid", "message": words}, b""
            except MemoryError:
                answer, data = (
                    {"done": "error", "code": "memory_limit", "message": "the worker is out of memory"},
                    b"",
                )
            self._link.sendall(frames.encode({**answer, "printed": self._answers.printed.lines(rest=True)}, data))

    def call(self, function: str, arguments: list[Any], body: bytes) -> tuple[int, bytes]:
        """Ask the runtime to answer a host function, which it does within the call's time limit."""
        interface, _, name = function.partition(".")
        untimed = interfaces.INTERFACES[interface].functions[name].untimed
        with self._alarm.stopped(untimed or self._step_s is not None, self._step_s):
            printed = self._answers.printed.lines(rest=False)
            self._link.sendall(frames.encode({"host": function, "arguments": arguments, "printed": printed}, body))
            message = self._receive()
        if message is None:
            os._exit(0)  # the runtime has ended
        if self._step_s is not None and self._running is not None:
            self._running.begin()
        return int(message[0]["kind"]), message[1]

    def _answer(self, header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        match header["do"]:
            case "compile":
                return self._compile(body, header["abi"], fuel=header["fuel"])
            case "load":
                return self._load(header)
            case "call":
                return {"done": "ok"}, self._call(header, body)
            case other:
                raise CallError("capsule_invalid", f"a worker cannot {other}")

    def _compile(self, source: bytes, abi: str, *, fuel: bool) -> tuple[dict[str, Any], bytes]:
        engine = self._engine(abi, fuel)
        try:
            if abi == "component":
                made = component.Component(engine, source)
                return {"done": "ok", "imports": _imports_of(made, engine)}, bytes(made.serialize())
            module = wasmtime.Module(engine, source)
        except wasmtime.WasmtimeError as error:
            words = " ".join(str(error).split())[:300]
            raise CallError("capsule_invalid", f"not a usable WebAssembly module: {words}") from None
        exports = {one.name for one in module.exports}
        for name in EXPORTS:
            if name not in exports:
                raise CallError("capsule_invalid", f"the module does not export `{name}`")
        imports = [[one.module, one.name or ""] for one in module.imports]
        return {"done": "ok", "imports": imports}, bytes(module.serialize())

    def _load(self, header: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        dropped = list(self._modules)[: max(0, len(self._modules) - _LOADED_MAX + 1)]
        for key in dropped:
            del self._modules[key]
            self._modules_linked.pop(key, None)
        kind = component.Component if header["abi"] == "component" else wasmtime.Module
        self._modules[header["key"]] = kind.deserialize_file(
            self._engine(header["abi"], header["fuel"]), header["path"]
        )
        return {"done": "ok", "dropped": dropped}, b""

    def _call(self, header: dict[str, Any], body: bytes) -> bytes:
        key, fuel = header["key"], header["fuel"]
        code = self._modules[key]
        engine = self._engine("component" if isinstance(code, component.Component) else "core", fuel is not None)
        self._answers.config = header["config"]
        seconds = header["timeout_ms"] / 1000
        self._step_s = seconds if header["steps"] else None
        self._alarm.arm(engine, seconds)
        try:
            instance = self._kept.pop(key, None)
            if instance is None:
                bounds = Bounds(header["memory_bytes"], fuel, header["output_bytes"])
                allowed = header["allowed"]
                if isinstance(code, component.Component):
                    instance = self._component(key, engine, code, self._linker(engine, allowed), bounds)
                else:
                    instance = CoreInstance(self._linked(key, engine, code, allowed), bounds)
            self._running, event = instance, header["event"]
            try:
                result = instance.call(header["tool"], body) if event is None else instance.handle(event, body)
            except CallError as error:
                if header["keep"] and error.code in interfaces.STORE_GOES_ON:
                    self._kept = {key: instance}
                raise
            if header["keep"]:
                self._kept = {key: instance}
            return result
        finally:
            self._alarm.disarm()
            self._running = None

    def _component(
        self, key: str, engine: wasmtime.Engine, code: component.Component, linker: component.Linker, bounds: Bounds
    ) -> ComponentInstance:
        """Instantiate a component with as many memories as it has, which the first attempt finds out."""
        if key not in self._several:
            try:
                return ComponentInstance(engine, code, linker, bounds, self._answers.printed)
            except TooManyMemoriesError:
                self._several.add(key)
        return ComponentInstance(engine, code, linker, bounds, self._answers.printed, memories=MEMORIES_MAX)

    def _linked(self, key: str, engine: wasmtime.Engine, module: wasmtime.Module, allowed: list[str]) -> LinkedModule:
        """Returns the module linked with these interfaces, whose functions answer for the running call."""
        known, found = self._modules_linked.get(key, ((), None))
        if found is None or known != tuple(allowed):
            found = LinkedModule(engine, module, allowed, self._answers)
            self._modules_linked[key] = (tuple(allowed), found)
        return found

    def _linker(self, engine: wasmtime.Engine, allowed: list[str]) -> component.Linker:
        """Returns the linker for components with these interfaces, whose functions answer for the running call."""
        place = (id(engine), tuple(allowed))  # engines live as long as the process
        found = self._linkers.get(place)
        if found is None:
            found = self._linkers[place] = link(engine, allowed, self._answers)
        return found

    def _engine(self, abi: str, fuel: bool) -> wasmtime.Engine:
        found = self._engines.get((abi, fuel))
        if found is None:
            found = self._engines[abi, fuel] = wasmtime.Engine(configuration(abi, fuel=fuel))
        return found

    def _receive(self) -> tuple[dict[str, Any], bytes] | None:
        prefix = self._read(frames.PREFIX.size)
        if prefix is None:
            return None
        header, body = frames.checked_sizes(*frames.PREFIX.unpack(prefix))
        head, data = self._read(header), self._read(body)
        return None if head is None or data is None else (frames.decode_header(head), data)

    def _read(self, count: int) -> bytes | None:
        data = bytearray(count)
        view, received = memoryview(data), 0
        while received < count:
            got = self._link.recv_into(view[received:])
            if not got:
                return None
            received += got
        return bytes(data)


def _imports_of(code: component.Component, engine: wasmtime.Engine) -> list[list[str]]:
    """Returns the imports of a component as (interface, function). Raises: CallError if it does not export the entry point."""
    if ENTRY not in code.type.exports(engine):
        raise CallError("capsule_invalid", f"the component does not export `{ENTRY}`")
    found: list[list[str]] = []
    for name, item in code.type.imports(engine).items():
        kind = item.ty
        inner = kind.exports(engine) if isinstance(kind, component.ComponentInstanceType) else {}
        functions = [function for function, one in inner.items() if isinstance(one.ty, component.FuncType)]
        own = name.startswith(interfaces.PACKAGE)
        found += [[name, function] for function in functions] if own else [[name, functions[0] if functions else ""]]
    return found


def configuration(abi: str, *, fuel: bool) -> wasmtime.Config:
    """Returns the configuration for compiling and running code, without features that capsules do not need.

    A change makes compiled code unusable. Components may have several memories in one module, because values between
    their modules (in components built from JavaScript) are passed by code that sees both memories; the store still
    limits the total.
    """
    config = wasmtime.Config()
    config.epoch_interruption = True
    config.consume_fuel = fuel
    config.max_wasm_stack = _STACK_BYTES
    config.wasm_threads = False
    config.wasm_memory64 = False
    config.wasm_multi_memory = abi == "component"
    config.parallel_compilation = False
    return config
