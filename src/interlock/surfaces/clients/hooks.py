"""Shared by the hooks of all clients: an event, the call that it is about, and the answer.

A client's own file (`claude_hooks.py`, ...) is a `Dialect`: it reads that client's events, translates native tool calls
to Interlock's calls, and formats the answer for the client. It decides nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec

from interlock.model.values import parse_json
from interlock.surfaces.clients.plain_inputs import check_command, check_glob, check_path, real_path

Kind = Literal["before", "permission", "after", "failed", "start", "end", "settings", "other"]
"""`before` a tool call; `permission`: the client would ask the person at its own terminal; `after` a completed call, or
a `failed` one; `start` and `end` of a session; `settings`: the client's settings were changed; `other` needs no answer.
"""


class HookEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a client."""

    name: str
    """The client's own name for it."""
    kind: Kind
    session: str = ""
    call_id: str = ""
    """The client's id of the tool call. The events before and after a call have the same id, and no other call of the
    session has it. If the client gives none, the dialect derives one from what the call does (`made_id`).
    """
    moment: str = ""
    """The time of the event, for derived ids; all hooks of one event get the same.

    Another event with the same id is about another call.
    """
    tool: str = ""
    """The client's name of the tool."""
    input: dict[str, Any] = {}
    output: Any = None
    """The result of the call in the client's format."""
    cwd: str = ""
    """The client's present directory; absolute."""
    cwd_is_chosen: bool = False
    """True if the model chooses that directory with the call, so that it does not tell the project."""
    server: str | None = None
    """The MCP server of the tool, if the event names it; one that is not the gateway has another name than `GATEWAY`."""
    sub_agent: str | None = None
    record: str = ""
    """The file in which the client records the session, if its events do not have all of a call."""


class PatchPart(NamedTuple):
    """Where a part of a patch belongs."""

    after: str = ""
    """A line before it; empty if the patch names none."""
    at_end: bool = False
    """True if it is at the end of the file."""


class NativeCall(NamedTuple):
    """A client's tool call as a call of one of Interlock's tools."""

    tool: str
    parameters: dict[str, Any]
    paths: tuple[str, ...] = ("path",)
    """The parameters that are paths: absolute, or relative to the client's directory."""
    writes: str | None = None
    """The parameter that names the file to change, if it is the only one, so that undo can restore it."""
    parts: tuple[PatchPart, ...] = ()
    """For an `fs.edit` by a patch: where each of its edits belongs."""


class GatewayCall(NamedTuple):
    """A client's call of one of the gateway's tools. The gateway itself checks it."""

    tool: str
    """The gateway's name for it."""


class Verdict(NamedTuple):
    """The answer to an event. `ask` leaves it to the client's own dialogue with its user; never for a tool's effect."""

    decision: Literal["allow", "deny", "ask"]
    reason: str = ""


class Reply(NamedTuple):
    """The result of the hook program: exit code and output."""

    exit_code: int
    stdout: bytes = b""
    stderr: bytes = b""


class Dialect(Protocol):
    """The protocol between one client and its hooks. Nothing here changes anything."""

    project_variable: str | None
    """The environment variable in which the client passes the project to a hook."""

    def read(self, data: bytes, named: str) -> HookEvent:
        """Decode the event from a hook's standard input. `named` is the event's name if the installation passes it.

        Raises: ValueError, msgspec.ValidationError (which is one) or ProposalError for input that it does not
        understand.
        """
        ...

    def translate(self, event: HookEvent) -> NativeCall | GatewayCall | Verdict:
        """Translate a tool call; a `Verdict` if there is nothing to decide. Unknown tools are denied."""
        ...

    def reply(self, event: HookEvent, verdict: Verdict) -> Reply:
        """The answer in the client's form."""
        ...


def deny(reason: str) -> Verdict:
    """A refusal. The model reads the reason."""
    return Verdict("deny", reason)


def judge_untranslated(
    event: HookEvent, harmless: Container[str], gateway_prefix: str, mcp_prefix: str | None
) -> GatewayCall | Verdict:
    """The verdict about a tool that is not translated into one of ours: only the gateway's, and harmless ones, are allowed.

    `mcp_prefix` is the one of all MCP servers' tools, if they have one.
    """
    tool = event.tool
    if tool.startswith(gateway_prefix) and event.server in (None, GATEWAY):
        return GatewayCall(tool.removeprefix(gateway_prefix))
    if tool in harmless:
        return Verdict("allow", "Interlock: not a call that it has to check")
    if mcp_prefix is not None and tool.startswith(mcp_prefix):
        return deny(f"`{tool}` is a tool of an MCP server that is not behind `interlock gateway`.")
    return deny(f"Interlock does not know what `{tool}` does, so it is not allowed.")


def failure(reason: str) -> Reply:
    """The answer after a failure, which every client takes as a refusal: exit code 2 with a reason."""
    return Reply(2, b"", f"Interlock: {reason}\n".encode())


def placed(call: NativeCall, root: str, cwd: str) -> NativeCall | Verdict:
    """The call with its paths relative to the workspace `root` (a real path), and without links.

    A client's own tools follow links, so the targets are judged. Raises: ValueError for a path or a pattern that some
    clients change before they use it.
    """
    parameters = dict(call.parameters)
    for name in call.paths:
        given = parameters.get(name)
        if not isinstance(given, str):
            continue
        if "\0" in given:
            return deny(f"{name}: a path cannot contain a NUL character")
        if given != cwd:
            check_path(given)
        real = real_path(f"{cwd or root}/{given}" if given[:1] != "/" else given)
        if real != root and not real.startswith(root.rstrip("/") + "/"):
            return deny(
                f"path_outside_workspace: `{given[:_SHOWN]}` is outside the workspace `{root}`. Nothing was done."
            )
        relative = os.path.relpath(real, root)
        try:
            relative.encode()
        except UnicodeEncodeError:
            return deny(f"{name}: `{given[:_SHOWN]!r}` is not UTF-8")
        parameters[name] = relative
    if isinstance(parameters.get("glob"), str):
        check_glob(parameters["glob"], f"{root}/{parameters['path']}", root)
    if call.tool == "shell" and parameters.get("cwd") == ".":
        del parameters["cwd"]  # it would run there anyway
    return NativeCall(call.tool, parameters, call.paths, call.writes, call.parts)


_SHOWN: Final = 200
GATEWAY: Final = "interlock"
"""The name under which clients know the gateway."""


def event_fields(data: bytes) -> dict[str, Any]:
    """The fields of an event that is a JSON object. Raises: ValueError, ProposalError."""
    given = parse_json(data)
    if not isinstance(given, dict):
        raise ValueError("the input is not a JSON object")  # noqa: TRY004 - the client's input
    return given


def text_of(given: Any, name: str) -> str:
    """A required string in an object. Raises: ValueError."""
    value = given.get(name) if isinstance(given, Mapping) else None
    if not isinstance(value, str):
        raise ValueError(f"`{name}` is not a string")  # noqa: TRY004 - the client's input
    return value


def optional_text(given: Mapping[str, Any], name: str) -> str | None:
    """An optional string. Raises: ValueError."""
    return None if given.get(name) is None else text_of(given, name)


def made_id(tool: str, given: Mapping[str, Any], inputs: tuple[str, ...] = ()) -> str:
    """A derived id for a call of a client that gives none, from the tool and its input, or from the named `inputs`."""
    inputs_given = {name: given.get(name) for name in inputs or given}
    data = msgspec.json.encode([tool, inputs_given], order="sorted")
    return hashlib.sha256(data).hexdigest()[:32]


def shell_call(command: str, cwd: str) -> NativeCall:
    """The call for a shell command. Raises: ValueError."""
    check_command(command)
    return NativeCall("shell", {"command": command, "cwd": cwd}, ("cwd",))


def write_call(path: str, content: str) -> NativeCall:
    """The call that creates or replaces a file."""
    return NativeCall("fs.write", {"path": path, "content": content}, writes="path")


def edit_call(path: str, old: str, new: str, *, everywhere: bool = False, cwd: str = "") -> NativeCall:
    """The call that replaces a text in a file: once, or `everywhere` it occurs. Without an old text it creates the file.

    Raises: ValueError for an edit without an old text of a file that is there: some clients insert the new text.
    """
    if not old:
        if os.path.lexists(f"{cwd}/{path}" if path[:1] != "/" else path):
            raise ValueError("an edit without a text to replace creates a file, and this one is there already")
        return write_call(path, new)
    parameters: dict[str, Any] = {"path": path, "old": old, "new": new}
    if everywhere:
        parameters["count"] = _times(Path(cwd, path), old)
    return NativeCall("fs.edit", parameters, writes="path")


def _times(path: Path, old: str) -> int:
    """How often the text occurs in the file, so that the call describes what will happen; 1 if the file cannot be read."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return max(1, file.read(_READ_MAX).replace("\r\n", "\n").count(old))
    except (OSError, ValueError):
        return 1


_READ_MAX: Final = 16 * 1024 * 1024


def read_call(path: str) -> NativeCall:
    """The call that reads a file."""
    return NativeCall("fs.read", {"path": path})


def list_call(path: str, glob: str | None = None) -> NativeCall:
    """The call that lists names beneath a directory."""
    return NativeCall("fs.list", {"path": path or ".", "recursive": True} | ({} if glob is None else {"glob": glob}))


def search_call(pattern: str, path: str, glob: str | None = None) -> NativeCall:
    """The call that searches for a text in files."""
    return NativeCall("fs.search", {"pattern": pattern, "path": path or "."} | ({} if glob is None else {"glob": glob}))


def fetch_call(url: str) -> NativeCall:
    """The call that fetches a page, by a client that does not follow a redirect to another host."""
    return NativeCall("http.fetch", {"url": url}, ())


FETCH_REFUSED: Final = deny(
    "it may follow a redirect to a host that was not judged: use `http_fetch` of Interlock's gateway, if it is offered. Nothing"
    " was done."
)
