"""The process in which Python tool modules run: imports them once, then forks for each call.

It is a fork server (`interlock.isolation.server`) that performs function calls instead of running programs. A call
therefore has the isolation, limits, output capture and termination of any process action, and a project's code never
runs in the process that holds keys.

A call writes JSON lines to descriptor 3: first its uses of the context, and last `{"result": ...}` or `{"error": ...}`.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import importlib
import inspect
import json
import os
import signal
import stat
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypedDict, cast

import msgspec

from interlock.executors.python import ATTRIBUTE, bind
from interlock.isolation.launcher import Launcher
from interlock.isolation.server import serve
from interlock.isolation.wire import Request
from interlock.model import typed
from interlock.model.errors import InterlockError, ToolError
from interlock.model.exceptions import describe, describe_exit, exit_code
from interlock.model.tool import Binding, Tool, checked_cost

CHANNEL: Final = 3
_IMPORT_S: Final = 60
"""Longer than the runtime waits."""


class Source(TypedDict):
    """Where to find a registered function: in a module, or in the file that was started as the main program."""

    module: str
    file: str | None
    name: str
    """Its qualified name."""
    tool: Any
    """Its definition as a JSON value."""


class Setup(TypedDict):
    """The arguments of the host process."""

    modules: list[str]
    functions: list[Source]
    project: str
    path: list[str]
    """Where to look for modules after all installed packages, so a project file can never shadow a library."""
    trusted: dict[str, tuple[str, str]] | None
    """Maps each module to its file and the SHA-256 (hex) of its trusted content.

    No other file may be imported under that name.
    """


def main() -> None:
    """Import the modules and serve. Arguments: the Setup as JSON, then those of every fork server."""
    setup: Setup = json.loads(sys.argv[1])
    os.environ.pop("LD_BIND_NOW", None)  # it was for this process: see `ForkServer`
    launcher = Launcher(json.loads(sys.argv[3]), int(sys.argv[2]))
    sys.path += [d for d in setup["path"] if d not in sys.path and Path(d).is_dir()]
    os.chdir(setup["project"])
    if setup["trusted"] is not None:  # empty if every module is installed, so no project file is trusted
        sys.meta_path[:0] = [TrustedFinder(setup["trusted"]), ProjectFinder(Path(setup["project"]))]
    host = Host()
    signal.alarm(_IMPORT_S)  # nothing supervises the host yet, so limit an import that hangs
    for module in setup["modules"]:
        host.load(module)
    for source in setup["functions"]:
        host.add(source)
    signal.alarm(0)
    serve(int(sys.argv[2]), host.perform, launcher)


class TrustedFinder(MetaPathFinder):
    """Finds the configured modules in their trusted files, before any other finder."""

    def __init__(self, files: dict[str, tuple[str, str]]) -> None:
        """`files` as in Setup."""
        self._files = files

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Returns the spec of a trusted module; None for all others."""
        del path, target
        found = self._files.get(fullname)
        if found is None:
            return None
        file, sha256 = found
        package = [str(Path(file).parent)] if Path(file).name == "__init__.py" else None
        loader = TrustedLoader(fullname, file, sha256)
        return spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=package)


class ProjectFinder(MetaPathFinder):
    """Refuses all other modules of the project, because an agent may be able to write them, and importing runs them.

    It asks the finders after it, so it recognises the project's modules however they are found (for example through an
    editable install). Packages in a virtual environment beneath the project do not count as the project's.
    """

    def __init__(self, project: Path) -> None:
        """`project` is the project's root."""
        self._project = project.resolve()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Returns the spec from the later finders. Raises: ImportError if the module belongs to the project."""
        if fullname.partition(".")[0] == "interlock":
            return None
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.has_location and spec.origin is not None and self._is_own(Path(spec.origin)):
                    raise ImportError(
                        f"`{fullname}` is an untrusted file of the project; name it in `tools.modules` too",
                        name=fullname,
                    )
                return spec
        return None

    def _is_own(self, file: Path) -> bool:
        real = file.resolve()
        if not real.is_relative_to(self._project):
            return False
        return not {"site-packages", "dist-packages"} & set(real.relative_to(self._project).parts)


class TrustedLoader(SourceLoader):
    """Runs a module's source if it still has its trusted content. Never uses byte code, which anyone could have written."""

    def __init__(self, name: str, file: str, sha256: str) -> None:
        """Loads only the module `name`."""
        self._name = name
        self._file = file
        self._sha256 = sha256

    def get_filename(self, fullname: str) -> str:
        """Returns the path of the module."""
        del fullname
        return self._file

    def get_data(self, path: str | bytes) -> bytes:
        """Returns the source. Raises: ImportError if it does not have the trusted content."""
        # Do not block on a FIFO, and do not read endlessly from a device behind a link.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ImportError(f"`{self._name}` is not a regular file", name=self._name)
            data = file.read()
        if hashlib.sha256(data).hexdigest() != self._sha256:
            raise ImportError(
                f"`{self._name}` was changed since it was trusted; run `interlock trust`", name=self._name
            )
        return data


class Report(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One message from a call: a use of its context, or (as the last message) its result."""

    result: Any = msgspec.UNSET
    error: dict[str, Any] | None = None
    """`code, message, output?, retryable?, unknown_outcome?, path?, hint?` of the ToolError."""
    log: str | None = None
    progress: tuple[float, float | None] | None = None
    cost: float = 0.0
    posture: dict[str, str] = {}
    not_undoable: str | None = None
    resources: dict[str, int | float] = {}


class Host:
    """The tools of the loaded modules, and the problems found while loading."""

    def __init__(self) -> None:
        """Starts with no module loaded."""
        self.bindings: dict[str, Binding] = {}
        self.problems: list[dict[str, str]] = []
        self.failed: dict[str, str] = {}
        """Maps each tool whose function could not be found to the reason."""

    def load(self, name: str) -> None:
        """Import a module and collect its tools; a problem is kept for the list request."""
        try:
            module = importlib.import_module(name)
            for function in _declared(module):
                binding = bind(function)
                if binding.tool.name in self.bindings:
                    self._problem(name, f"a second tool is named `{binding.tool.name}`")
                self.bindings[binding.tool.name] = binding
        except InterlockError as error:
            self._problem(name, error.message)
        except BaseException as error:  # noqa: BLE001 - anything a module raises is reported to the user who configured it
            traceback.print_exc()
            self._problem(name, describe(error))

    def add(self, source: Source) -> None:
        """Find one function; a problem is kept for calls of it."""
        tool = typed.convert(source["tool"], Tool)
        try:
            module = _import_file(source["module"], source["file"]) if source["file"] else None
            found = functools.reduce(
                getattr, source["name"].split("."), module or importlib.import_module(source["module"])
            )
            self.bindings[tool.name] = bind(cast("Callable[..., Any]", found), tool)
        except BaseException as error:  # noqa: BLE001 - anything a module raises is reported to the caller of the function
            traceback.print_exc()
            self.failed[tool.name] = f"`{source['file'] or source['module']}`: {describe(error)}"

    def perform(self, request: Request) -> None:
        """Make one call, in the process that was forked for it."""
        os.environ.clear()
        os.environ.update(request["environment"])
        call = request["call"]
        say = _Channel()
        if call["tool"] is None:
            tools = [msgspec.to_builtins(binding.tool) for binding in self.bindings.values()]
            say(Report(result={"tools": tools, "problems": self.problems}))
            return
        try:
            say(Report(result=self._call(call, say)))
        except ToolError as error:
            flags = {"retryable": error.retryable, "unknown_outcome": error.unknown_outcome}
            say(Report(error={"output": error.output, **flags, **error.as_dict()}))
        except SystemExit as error:
            output = {"exit_code": exit_code(error)}
            say(Report(error={"code": "tool_error", "message": describe_exit(error), "output": output}))
        except BaseException as error:  # noqa: BLE001 - anything a tool raises is the action's failure
            traceback.print_exc()
            say(Report(error={"code": "tool_error", "message": describe(error)}))

    def _call(self, call: dict[str, Any], say: _Channel) -> Any:
        if call["tool"] in self.failed:
            raise ToolError(
                f"the function cannot be found in its separate process: {self.failed[call['tool']]}",
                code="tool_error",
                retryable=False,
                hint="its module is imported there, so importing it must only define functions and classes",
            )
        binding = self.bindings.get(call["tool"])
        if binding is None or binding.tool.version != call["version"]:
            raise ToolError(
                "the tool's module has changed since it was loaded",
                code="tool_changed",
                retryable=False,
                hint="restart Interlock to reload it",
            )
        result = binding.function(call["parameters"], ModuleContext(call["context"], say))
        return asyncio.run(_awaited(result)) if inspect.isawaitable(result) else result

    def _problem(self, module: str, message: str) -> None:
        self.problems.append({"module": module, "message": message})


class ModuleContext:
    """The `interlock.Context` of a function in a module host. It has no workspace object; the working directory is its root."""

    cancelled = False
    """Always false: the process of a cancelled call is killed."""

    def __init__(self, fields: dict[str, Any], say: _Channel) -> None:
        """`fields` are the plain values of the runtime's context."""
        self.run_id: str = fields["run_id"]
        self.proposal_id: str = fields["proposal_id"]
        self.action_id: str = fields["action_id"]
        self.attempt: int = fields["attempt"]
        self.agent: str = fields["agent"]
        self.session: str | None = fields["session"]
        self.invocation_mode: str = fields["invocation_mode"]
        self.dry_run: bool = fields["dry_run"]
        self.deadline_ns: int = fields["deadline_ns"]
        self.workspace: Any = _Absent()
        self.backups: Any = _Absent()
        self._say = say

    async def ask(self, *_arguments: Any, **_options: Any) -> Any:
        """Refuse, because the call's process is killed at its time-out, even while a person decides."""
        raise _cannot_ask()

    def ask_sync(self, *_arguments: Any, **_options: Any) -> Any:
        """Refuse, as `ask` does."""
        raise _cannot_ask()

    def log(self, message: str) -> None:
        """Write a line to the run's journal, for people."""
        self._say(Report(log=message))

    def progress(self, done: float, total: float | None = None) -> None:
        """Report progress."""
        self._say(Report(progress=(done, total)))

    def report_cost(self, cost: float) -> None:
        """Add to the action's cost. Raises: ValueError unless the cost is finite and not negative."""
        self._say(Report(cost=checked_cost(cost)))

    def posture(self, **layers: str) -> None:
        """Add to the action's posture."""
        self._say(Report(posture=layers))

    def not_exactly_undoable(self, what: str) -> None:
        """Report an effect that undo cannot reverse exactly."""
        self._say(Report(not_undoable=what))

    def resources(self, usage: dict[str, int | float]) -> None:
        """Attach measured resource use."""
        self._say(Report(resources=usage))


def _cannot_ask() -> ToolError:
    return ToolError(
        "a tool of a module named in the configuration cannot ask a person while it runs",
        code="approval_required",
        retryable=False,
        hint="let a rule ask before the call (`rules.ask`), or register the function with the Runtime",
    )


class _Absent:
    """Placeholder for an object of the context that is available only in the runtime's own process."""

    def __getattr__(self, name: str) -> Any:
        raise ToolError(
            "a tool of a module named in the configuration has no `ctx.workspace` and no `ctx.backups`",
            retryable=False,
            hint="its working directory is the workspace; register the function with the Runtime to use these objects",
        )


class _Channel:
    """Writes messages as JSON lines, from any thread of the tool."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file = os.fdopen(CHANNEL, "wb")

    def __call__(self, report: Report) -> None:
        line = msgspec.json.encode(report) + b"\n"
        with self._lock:
            self._file.write(line)
            self._file.flush()


async def _awaited(value: Any) -> Any:
    return await value


def _import_file(name: str, file: str) -> ModuleType:
    """Run a file as a module with a name other than `__main__`, so that it only defines things."""
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"`{file}` is not a Python file")
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _declared(module: ModuleType) -> list[Callable[..., Any]]:
    """Returns the tools declared by the module or its submodules, without those imported from elsewhere."""
    name = module.__name__
    own = [f for f in vars(module).values() if inspect.isroutine(f) and hasattr(f, ATTRIBUTE)]
    return [f for f in dict.fromkeys(own) if f.__module__ == name or f.__module__.startswith(f"{name}.")]
