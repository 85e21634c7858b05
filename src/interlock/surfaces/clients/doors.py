"""What `interlock doctor` reports about the clients: their versions, their set-up, and (by trying) which doors are open."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from interlock.disk import Disk
from interlock.engine.inspect.doctor import Fact
from interlock.engine.local.location import locate
from interlock.model.errors import InterlockError
from interlock.settings.file_bytes import read_bytes
from interlock.surfaces.clients.client import Client, Scope
from interlock.surfaces.clients.documents import read_document
from interlock.surfaces.clients.entries import Entry, has
from interlock.surfaces.clients.gateway_trial import find_starts, try_gateway
from interlock.surfaces.clients.hook_program import Failure, Gate
from interlock.surfaces.clients.hook_program import __name__ as hook_module
from interlock.surfaces.clients.installation import Installation
from interlock.surfaces.clients.known import CLIENTS
from interlock.surfaces.clients.setup_records import Record
from interlock.surfaces.clients.trial import try_client
from interlock.surfaces.clients.versions import found_version, untested
from interlock.workspace.registry import state_directory

_SECTION: Final = "clients"
_SECONDS: Final = 60
_SCOPES: Final[tuple[Scope, ...]] = ("project", "user", "managed")
_PROGRAM: Final = hook_module.rpartition(".")[2]
_COMMAND: Final = re.compile(r'^const COMMAND = (".*")$', re.MULTILINE)
"""The hook's command in a plug-in, which is a whole file."""


def examine_clients(start: Path, env: Mapping[str, str], *, run: bool) -> list[Fact]:
    """Facts about the clients that are installed or set up. With `run`, each client is started with a scripted model."""
    gate = _gate(env)  # before the hooks are tried, because they start it
    facts = [fact for client in CLIENTS.values() for fact in _examine(client, start, env, run=run)]
    return [gate, *facts] if facts else []


def _gate(env: Mapping[str, str]) -> Fact:
    """Whether the resident gate answers a request."""
    name, state = "resident gate", state_directory(env, Disk())
    try:
        answer = Gate(str(state), time.monotonic() + _SECONDS).ask_once(b"interlock 1 status\n" + bytes(16))
    except Failure as error:
        return Fact(section=_SECTION, name=name, status="problem", detail=str(error), hint=f"see {state}/gate/log")
    detail = "not running: a hook starts it when it is needed" if answer is None else "running"
    return Fact(section=_SECTION, name=name, status="ok", detail=detail)


def _examine(client: Client, start: Path, env: Mapping[str, str], *, run: bool) -> Iterator[Fact]:
    version = found_version(client, env)
    found: list[tuple[Scope, Installation, Record]] = []
    for scope in _SCOPES:
        try:
            installation = Installation(client.name, start, env, scope)
            record = installation.record
        except InterlockError:
            continue  # no project here, or a record that `interlock install` reports
        if record is not None:
            found.append((scope, installation, record))
    if version is None and not found:
        return
    yield _version(client, version)
    if not found:
        yield Fact(
            section=_SECTION,
            name=client.name,
            status="warning",
            detail="not set up: Interlock does not see what it does with its own tools",
            hint=f"interlock install {client.name}",
        )
    for scope, _, record in found:
        if scope == "project" and client.not_read_in and (root := locate(start, env, Disk()).root) != start.resolve():
            yield _fact(
                client,
                "directory",
                "warning",
                f"the facts below are about `{root}`; started in {client.not_read_in}, it works without Interlock",
                f"start it in `{root}`",
            )
        yield from _setup(client, scope, record, start, env)
    if run and client.trial is None:
        yield _fact(client, "own tools", "warning", "not tested with the real program: set up from its documentation")
    elif run and version is not None:
        yield from _tried(client, start, env)


def _version(client: Client, version: str | None) -> Fact:
    if version is None:
        return _fact(client, "version", "warning", f"`{client.program}` is not on the PATH, so nothing was tried")
    untried = untested(client, version)
    if untried is None:
        return _fact(client, "version", "ok", version)
    detail = f"{untried}; its hooks and settings may work differently"
    return _fact(client, "version", "warning", detail, "interlock doctor --clients" if client.trial else None)


def _setup(client: Client, scope: Scope, record: Record, start: Path, env: Mapping[str, str]) -> Iterator[Fact]:
    """Whether the entries are still in its files, and work."""
    where = f"{record.mode} mode, {scope}"
    lost = [saved.path for saved in record.files if not _is_there(client, saved.path, saved.entries)]
    again = f"interlock install {client.name} --mode {record.mode} --scope {scope}"
    if lost:
        yield _fact(
            client, where, "warning", f"`{lost[0]}` no longer has Interlock's entries: its own tools may be open", again
        )
    entries = [entry for saved in record.files for entry in saved.entries]
    hooks = tuple(dict.fromkeys(each for entry in entries for each in _hooks(entry)))
    for command in hooks:
        problem = _try_hook(client, command, env)
        if problem is None:
            yield _fact(client, f"{where}: hook", "ok", "tested: it refuses unknown tools")
        else:
            yield _fact(client, f"{where}: hook", "problem", problem, f"interlock gate start, then {again}")
    for gateway in dict.fromkeys(find_starts([entry.value for saved in record.files for entry in saved.entries])):
        tried = try_gateway(gateway, start, env)
        yield _fact(client, f"{where}: gateway", tried.status, tried.detail, tried.hint)
    if not lost and record.mode == "replace":
        how = "refused by these hooks" if hooks else "off in the settings of this project"
        yield _fact(client, where, "ok", f"its own tools are {how}")
    for door in client.left_open(record.mode, scope):
        yield _fact(client, "not closed", "warning", door, standing=True)


def _is_there(client: Client, path: str, entries: tuple[Entry, ...]) -> bool:
    try:
        data = read_bytes(Path(path), follow=True)
        if data is None:
            return False
        if entries and not entries[0].keys:
            return data == str(entries[0].value).encode()
        return has(read_document(data, Path(path), comments=client.comments), entries)
    except (OSError, InterlockError):
        return False


def _hooks(entry: Entry) -> Iterator[str]:
    """The commands in an entry that start the hook program."""
    if not entry.keys:
        yield from (json.loads(found) for found in _COMMAND.findall(entry.value))
        return
    values = [entry.value]
    while values:
        match values.pop():
            case str(value) if _PROGRAM in value:
                yield value
            case dict(value):
                values += value.values()
            case list(value):
                values += value


def _try_hook(client: Client, command: str, env: Mapping[str, str]) -> str | None:
    """Try the hook with a tool that does not exist. Returns None if it refuses, else the problem."""
    try:
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            input=json.dumps(client.probe).encode(),
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            env=dict(env),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"it could not be tried: {type(error).__name__}"
    printed = done.stdout.decode(errors="replace")
    if done.returncode == 0 and '"deny"' in printed:
        return None
    printed = done.stderr.decode(errors="replace").strip()
    return (
        f"it refuses every call: {printed}"
        if done.returncode == 2
        else f"it did not refuse: exit code {done.returncode}"
    )


def _tried(client: Client, start: Path, env: Mapping[str, str]) -> Iterator[Fact]:
    if client.trial is None:
        return
    try:
        root = locate(start, env, Disk()).root
    except InterlockError:
        root = start.resolve()
    for one in try_client(client.trial, client.program, root, env, client.trial_files, client.trial_home_files):
        if one.is_open is None:
            yield _fact(client, one.door, "warning", f"not tried: {one.detail}")
        elif one.is_open:
            yield _fact(client, one.door, "warning", f"open: {one.detail}", f"interlock install {client.name}")
        else:
            yield _fact(client, one.door, "ok", f"closed: {one.detail}")


def _fact(
    client: Client, name: str, status: Any, detail: str, hint: str | None = None, *, standing: bool = False
) -> Fact:
    return Fact(
        section=_SECTION, name=f"{client.name}: {name}", status=status, detail=detail, hint=hint, standing=standing
    )
