"""Describes outcomes of calls: `wrote 12 lines to a.txt`, `exit 0`, `3 matches`. The user's own tools keep their JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec

from interlock.model.events import ActionIntent, Event, ProposalReceived
from interlock.model.summary import main_parameter
from interlock.surfaces.cli.output import brief

Output = dict[str, Any]


class Call(msgspec.Struct, frozen=True):
    """The known facts of a call besides its output."""

    tool: str
    about: str = ""
    """The most informative parameter, redacted."""
    lines: int | None = None
    """The number of lines in the text that it writes."""


class Calls:
    """The calls of a run, collected from its events."""

    def __init__(self) -> None:
        """Start with no calls."""
        self._calls: dict[tuple[str, str], Call] = {}

    def on_event(self, _run_id: str, event: Event) -> None:
        """The engine's event listener."""
        proposal = event.proposal or ""
        if isinstance(event, ProposalReceived):
            view = _value(event.document.view)
            for action in view.get("actions", ()) if isinstance(view, dict) else ():
                if action.get("tool"):
                    self._calls[proposal, action["id"]] = described(action["tool"], action.get("parameters"))
        elif (
            isinstance(event, ActionIntent)
            and event.tool is not None
            and event.parameters is not None
            and event.parameters.view is not None
        ):
            # Recorded only if they differ from the proposal: references were resolved, or an approver edited them.
            self._calls[proposal, event.action or ""] = described(event.tool, _value(event.parameters.view))

    def of(self, proposal_id: str, action_id: str) -> Call | None:
        """The call of an action; None if it has none or never started."""
        return self._calls.get((proposal_id, action_id))


def _value(view: Any) -> Any:
    """A view in an event while it is recorded, which is already encoded."""
    return msgspec.json.decode(view) if isinstance(view, msgspec.Raw) else view


def described(tool: str, parameters: Any) -> Call:
    """A call, from its tool and its redacted parameters."""
    if not isinstance(parameters, dict):
        return Call(tool)
    content = parameters.get("content")
    written = isinstance(content, str) and parameters.get("encoding") != "base64"
    return Call(tool, main_parameter(parameters), _lines(str(content)) if written else None)


def outcome(call: Call | None, output: Any) -> str | None:
    """The outcome of a successful call on one line; None if there is no description."""
    say = None if call is None else _WORDS.get(call.tool)
    if say is None or call is None or not isinstance(output, dict):
        return None
    try:
        return say(call, output)
    except (KeyError, TypeError, AttributeError):  # the output of another version, or of a tool of the user's own
        return None


def _lines(text: str) -> int:
    return text.count("\n") + (not text.endswith("\n") and bool(text))


def _count(number: int, what: str, more: bool = False) -> str:
    plural = what + ("es" if what.endswith(("ch", "ss")) else "s")
    if what.endswith("y"):
        plural = what[:-1] + "ies"
    return f"{number} {what if number == 1 else plural}" + (", and more" if more else "")


def _read(call: Call, output: Output) -> str:
    whole = "" if not output["truncated"] else f", part of its {_count(output['size'], 'byte')}"
    content = output["content"]
    if output["encoding"] == "base64":
        return f"read {call.about}: not text{whole or ', ' + _count(output['size'], 'byte')}"
    return f"read {_count(_lines(content), 'line')} of {call.about}{whole}"


def _write(call: Call, output: Output) -> str:
    size = _count(output["size"], "byte") if call.lines is None else _count(call.lines, "line")
    return f"wrote {size} to {call.about}" + (", a new file" if output["created"] else "")


def _process(_call: Call, output: Output) -> str:
    how = f"signal {output['signal']}" if output.get("signal") else f"exit {output['exit_code']}"
    if output.get("stdout_encoding", "utf-8") != "utf-8":
        return f"{how}; its output is not text"
    lines = [line for line in output["stdout"].split("\n") if line.strip()]
    if not lines:
        return how
    more = f"  (and {_count(len(lines) - 1, 'line')} before it)" if len(lines) > 1 else ""
    return f"{how}: {brief(lines[-1].strip(), 60)}{more}"


def _started(_call: Call, output: Output) -> str:
    return f"started {output['handle']}, which ends with the {output['until']}"


def _program(call: Call, output: Output) -> str:
    if not output["running"]:
        return _process(call, output)
    lines = [line for line in output["stdout"].split("\n") if line.strip()]
    return "running" + (f": {brief(lines[-1].strip(), 60)}" if lines else "")


def _status(_call: Call, output: Output) -> str:
    return "clean" if output["clean"] else f"{_count(len(output['entries']), 'path')} changed"


def _commit(_call: Call, output: Output) -> str:
    files = _count(len(output["files"]), "file", output["truncated"])
    return f"commit {(output['commit'] or 'none')[:12]}: {files}{_hooks(output)}"


def _moved(_call: Call, output: Output) -> str:
    word = "at" if output["updated"] else "already at"
    return f"{output['branch']} {word} {output['commit'][:12]}{_hooks(output)}"


def _hooks(output: Output) -> str:
    """The git hooks that were not run, because a person expects them to have checked the commit."""
    names = output.get("hooks_not_run") or []
    verb = "was" if len(names) == 1 else "were"
    return f"; {', '.join(names)} {verb} not run (`[git] hooks`)" if names else ""


def _listed(field: str, what: str) -> Callable[[Call, Output], str]:
    return lambda _call, output: _count(len(output[field]), what, output.get("truncated", False))


_WORDS: Final[dict[str, Callable[[Call, Output], str]]] = {
    "fs.read": _read,
    "fs.write": _write,
    "fs.edit": lambda call, output: f"{_count(output['replacements'], 'replacement')} in {call.about}",
    "fs.delete": lambda call, output: f"deleted {call.about}" + _besides(output["deleted"]),
    "fs.move": lambda call, output: f"moved {call.about}" + _besides(output["moved"]),
    "fs.list": _listed("entries", "entry"),
    "fs.search": _listed("matches", "match"),
    "shell": _process,
    "exec": _process,
    "git.status": _status,
    "git.diff": lambda _call, output: f"{_count(len(output['files']), 'file', output['truncated'])} differ",
    "git.log": _listed("commits", "commit"),
    "git.add": lambda _call, output: f"{_count(len(output['staged']), 'path', output['truncated'])} staged",
    "git.commit": _commit,
    "git.revert": _commit,
    "git.clone": lambda _call, output: f"cloned at {(output['commit'] or 'no commit')[:12]}",
    "git.pull": _moved,
    "git.push": _moved,
    "http.fetch": lambda _call, output: (
        f"status {output['status']}, {_count(len(output['body']), 'character', output['truncated'])}"
    ),
    "proc.list": _listed("processes", "process"),
    "proc.start": _started,
    "proc.output": _program,
    "proc.wait": _program,
    "proc.stop": _program,
}


def _besides(number: int) -> str:
    return f" and {_count(number - 1, 'thing')} in it" if number > 1 else ""
