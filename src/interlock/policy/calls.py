"""The parts of a call that policies see besides its parameters: simple commands, model and named paths.

A call that runs a command line is judged once for each simple command in it. Cedar has no "for all", and a permit for
one command must not let another command in the same line through. So `context.command` is one simple command, and the
strictest decision applies. Each command needs a permit, and one forbid is enough.

`context.model` and `context.provider` name the model that a call uses; `context.prompt_flags` holds the flags of the
detectors that fire on the prompt.

`context.paths` holds the path globs mentioned by policies (`context.paths.contains("~/.ssh/**")`) that match a path of
the call: a parameter marked as a path, or a word of the command. Links are not followed.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from interlock.detect import prompt_flags
from interlock.detect.commands import Command, CommandLine, parse_shell, parse_words
from interlock.lazy import lazy_pattern
from interlock.model.decision import Request
from interlock.model.errors import ConfigurationError
from interlock.model.globs import PathGlob
from interlock.model.pointers import values_at
from interlock.policy.contexts import COMMAND, MODEL_PARTS, PATHS, Context, fill
from interlock.policy.values import Converter, RefusedError
from interlock.policy.world import ActionType

_HOME = lazy_pattern(r"(?:~|\$HOME|\$\{HOME\})(?=/|$)")
_VALUE = lazy_pattern(r"--?[A-Za-z][A-Za-z0-9-]*=|-[A-Za-z](?=[/~.])|@|file://|[A-Za-z_][A-Za-z0-9_]*=")


class Paths:
    """The path globs that policies mention."""

    def __init__(self, globs: Iterable[str], root: str, home: str) -> None:
        """`root` is the workspace, `home` the value of `~`; both absolute. Raises: ConfigurationError for a bad glob."""
        self._root = root
        self._home = home
        self._globs = [(glob, PathGlob(self._absolute(glob, glob=True))) for glob in globs]

    def matched(self, paths: Iterable[str], directory: str) -> list[str]:
        """The globs that match one of these paths. Relative paths start at `directory`, which is relative to the root."""
        found: dict[str, None] = {}
        for path in paths:
            full = self._absolute(posixpath.join(directory, path) if not _HOME.match(path) else path)
            segments = full.split("/") if full else []
            # `~/.ssh/**` includes the directory itself: a program that gets it can read its contents
            found.update((glob, None) for glob, compiled in self._globs if compiled.matches_segments(segments))
        return list(found)

    def _absolute(self, path: str, *, glob: bool = False) -> str:
        """An absolute path without its leading slash, `.` and `..`."""
        path = _HOME.sub(lambda _: self._home, path, count=1)
        full = posixpath.normpath(posixpath.join(self._root, path))
        if glob and ".." in path.split("/"):
            raise ConfigurationError("the path glob has a `..` segment", hint="write the path without `..`")
        return full.lstrip("/")


def contexts(context: Context, request: Request, action: ActionType | None, paths: Paths) -> Iterator[dict[str, Any]]:
    """The contexts in which to judge a request: one, or one for each command. Raises: values.RefusedError."""
    shared = fill(context, request)
    wanted = dict(context.parts)
    if action is not None and action.model is not None:
        shared.update(_of_model(wanted, request.parameters, action))
    if action is None or not (COMMAND in wanted or PATHS in wanted):
        yield shared
        return
    cwd = request.parameters.get("cwd")
    directory = cwd if isinstance(cwd, str) else ""
    named = [v for where in action.paths for _, v in values_at(where, request.parameters) if isinstance(v, str)]
    named = paths.matched(named, "") if PATHS in wanted else []
    commands: Sequence[Command | None] = (None,)
    if action.command is not None:
        commands = _parse(request.parameters.get(action.command)).parts
    for command in commands:
        out = dict(shared)
        if PATHS in wanted:
            words = paths.matched(_words(command), directory) if command is not None else []
            out[PATHS] = wanted[PATHS]([*named, *words])
        if command is not None and COMMAND in wanted:
            out[COMMAND] = wanted[COMMAND](record(command))
        yield out


def command_programs(request: Request, action: ActionType | None) -> list[str]:
    """The program of each command that `contexts` judges by itself, for people."""
    if action is None or action.command is None:
        return []
    return [command.name for command in _parse(request.parameters.get(action.command)).parts]


def _of_model(wanted: dict[str, Converter], parameters: dict[str, Any], action: ActionType) -> dict[str, Any]:
    """The context attributes of a model call that policies use. Raises: values.RefusedError if the model is not configured."""
    parts = [name for name in MODEL_PARTS if name in wanted]
    if not parts:
        return {}
    model = parameters.get(action.model or "")
    provider = action.providers.get(model) if isinstance(model, str) else None
    if provider is None:
        raise RefusedError(f"`{action.model}` is not a configured model")
    sent = {name: value for name, value in parameters.items() if name != action.model}
    values = {"model": model, "provider": provider}
    if "prompt_flags" in wanted:
        values["prompt_flags"] = list(prompt_flags(sent))
    return {name: wanted[name](values[name]) for name in parts}


def record(command: Command) -> dict[str, Any]:
    """A command in the form of `context.command`."""
    return {
        "program": command.program,
        "name": command.name,
        "line": command.line,
        "by_name": command.by_name,
        "words": list(command.words),
        "redirections": list(command.redirections),
        "assignments": list(command.assignments),
        "literal": command.literal,
        "plain": command.plain,
    }


def _words(command: Command) -> Iterator[str]:
    """Each word of a command that may be a path: words, option values, redirection targets."""
    for word in (*command.words, *(each.partition(" ")[2] for each in command.redirections)):
        yield word
        prefix = _VALUE.match(word)
        if prefix is not None:
            yield word[prefix.end() :]


def _parse(value: Any) -> CommandLine:
    """Parse a command line. A value of the wrong type is unclear, so no permit for commands covers it."""
    if isinstance(value, str):
        return parse_shell(value)
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return parse_words(value)
    return CommandLine(commands=(), clear=False)
