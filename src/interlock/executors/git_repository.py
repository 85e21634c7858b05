"""A git repository in the workspace, and the only way in which the git tools run git.

A repository's own files can make git run programs: hooks, `core.fsmonitor`, filters, merge and diff drivers,
`core.sshCommand` and more, all in a `.git` that an agent may be able to write. Therefore each call first inspects the
repository with git commands that start no other program, and then applies these rules:

- what can be disabled from the command line is disabled (`_SETTINGS`), including hooks;
- a configuration that runs programs or points elsewhere in a way that cannot be disabled is refused (`_REFUSED`), because
  ignoring it would give wrong results (git-lfs, for example): such a repository needs `shell` or `exec`;
- the system's configuration is not read; of the user's, only the part that runs nothing (`git_user.py`); no `GIT_*` variable
  is inherited;
- the location of the repository is checked (`git_places.py`): it is refused if it borrows objects from another repository,
  or has symbolic links where git writes;
- git cannot start another git (`_ALONE`) unless the tool needs that: in a submodule it would run filters from that
  submodule's configuration, and for a missing object it would connect to a host from the configuration;
- only the transport of the URL in the call is allowed.

A concurrent process could still change the configuration between check and use, but such a process can run programs
anyway.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from interlock.executors.git_places import Places, check_places, open_git_directory, outside_places
from interlock.executors.git_remote import Remote
from interlock.executors.git_user import UserSettings, read_user_settings
from interlock.executors.network import proxy_lost
from interlock.executors.process import ProcessResult, ProcessRunner, result_as_json
from interlock.isolation.wire import Bind
from interlock.model.codes import REASONS
from interlock.model.errors import ToolError
from interlock.model.tool import Context
from interlock.workspace import Workspace
from interlock.workspace.names import Rel, parts

OUTPUT_BYTES: Final = 1024 * 1024
_PINS: Final = (2, 37)
"""The first version of git with `http.curloptResolve`; older versions silently ignore it."""

_SETTINGS: Final = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.pager": "cat",
    "core.editor": ":",
    "core.askPass": "",
    "core.alternateRefsCommand": "true",
    "core.quotePath": "true",
    "core.untrackedCache": "false",
    "credential.helper": "",
    "commit.gpgSign": "false",
    "tag.gpgSign": "false",
    "push.gpgSign": "false",
    "gpg.program": "false",
    "gpg.ssh.program": "false",
    "gpg.x509.program": "false",
    "log.showSignature": "false",
    "diff.noprefix": "false",
    "diff.mnemonicPrefix": "false",
    "diff.submodule": "short",
    "status.submoduleSummary": "false",
    "submodule.recurse": "false",
    "push.followTags": "false",
    "fetch.recurseSubmodules": "false",
    "maintenance.auto": "false",
    "gc.auto": "0",
    "safe.directory": "*",
}
"""`safe.directory`: ownership by another user does not matter, because nothing in the repository's configuration is run."""

_RUNS: Final = re.compile(r"filter\..*\.(clean|smudge|process)|merge\..*\.driver|hook\..*\.command", re.DOTALL)
_LEADS_ELSEWHERE: Final = re.compile(
    r"remote\..*\.(vcs|proxy|promisor|uploadpack|receivepack)|remote\..*://.*|extensions\.partialclone"
    r"|url\..*|credential\..*|https?\..*|(fetch|transfer)\.bundleuri|bundle\..*",
    re.DOTALL,
)
"""Settings that are refused only if git connects. A remote may be named like a URL, and then takes precedence over that URL."""

_REF: Final = re.compile(r"[A-Za-z0-9_@][A-Za-z0-9_./@{}~^+=-]{0,255}")
_BRANCH: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./@+=-]{0,199}")

_ENVIRONMENT: Final = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_EDITOR": ":",
    "GIT_SEQUENCE_EDITOR": ":",
    "GIT_PAGER": "cat",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_PROTOCOL_FROM_USER": "0",
    "GIT_PROXY_COMMAND": "",
    "GIT_ALLOW_PROTOCOL": "none",
    "GIT_NO_LAZY_FETCH": "1",
    "LC_ALL": "C",
}
_ALONE: Final = {"PATH": "/nonexistent", "GIT_EXEC_PATH": "/nonexistent"}


class Git:
    """Runs git for one tool call."""

    def __init__(self, runner: ProcessRunner, ctx: Context) -> None:
        """`runner` starts the processes. The user's settings are added to `settings` once they have been read."""
        self._runner = runner
        self._ctx = ctx
        self.settings: dict[str, str] = {}
        self._outside: list[Bind] | None = None

    async def run(
        self,
        directory: int,
        *arguments: str,
        read_only: bool = False,
        alone: bool = True,
        stdin: bytes | None = None,
        settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        remote: Remote | None = None,
        expected: Sequence[int] = (0,),
        output_bytes_max: int = OUTPUT_BYTES,
        shown: Sequence[str] = (),
    ) -> ProcessResult:
        """Run `git ARGUMENTS` in an open directory. With `alone`, git cannot start its other programs or ssh.

        Git sees the repository, wherever it is, and the files that the settings and `shown` name. It reaches `remote`
        and no other host.

        Raises: ToolError `git_failed`, `git_missing`, `timeout`, the reason of a refused connection, and those of the
        runner.
        """
        if remote is not None:
            settings = {**(settings or {}), **remote.settings}
            environment = {**(environment or {}), **remote.environment}
            if "http.curloptResolve" in settings:
                await self._need_pinning(directory)
        options = [
            part
            for key, value in {**_SETTINGS, **self.settings, **(settings or {})}.items()
            for part in ("-c", f"{key}={value}")
        ]
        try:
            result = await self._runner.run(
                ["git", *options, *(("--no-optional-locks",) if read_only else ()), *arguments],
                ctx=self._ctx,
                cwd=directory,
                env={
                    **_ENVIRONMENT,
                    **(_ALONE if alone else {}),
                    **(environment or {}),
                },
                stdin=stdin,
                output_bytes_max=output_bytes_max,
                read_only=read_only,
                **_way_to(remote),
                binds=self._binds(environment, remote, shown),
            )
        except ToolError as error:
            if error.code == "spawn_failed" and isinstance(error.output, dict) and error.output["why"] == "not_found":
                raise ToolError("git is not installed", code="git_missing", retryable=False) from error
            raise
        if result.timed_out:
            raise ToolError("git was stopped at its time-out", code="timeout", output=result_as_json(result))
        if result.exit_code not in expected:
            raise _failure(arguments[0], remote, result)
        return result

    def _binds(self, environment: Mapping[str, str] | None, remote: Remote | None, shown: Sequence[str]) -> list[Bind]:
        """Returns the files that git sees besides the workspace."""
        named = _read_only((*self.settings.values(), *shown))
        return [*self._places(), *named, *_own_index(environment), *_secure_shell(remote)]

    def _places(self) -> list[Bind]:
        """Returns the parts of the workspace's repository that are outside the workspace."""
        if self._outside is None:
            self._outside = outside_places(self._ctx.workspace.root)
        return self._outside

    async def _need_pinning(self, directory: int) -> None:
        """Raises: ToolError `git_missing` if this git cannot be pinned to an address.

        It would resolve the host again, possibly to a different address than the checked one.
        """
        result = await self.run(directory, "version", read_only=True)
        if not pins_addresses(result.stdout):
            raise ToolError(
                "this version of git cannot be pinned to the checked address",
                code="git_missing",
                retryable=False,
                hint="install git 2.37 or later, or use an ssh URL",
            )


def _read_only(paths: Sequence[str]) -> list[Bind]:
    return [{"path": path, "writable": False} for path in paths if path.startswith("/") and os.path.exists(path)]  # noqa: PTH110 - also of what may not be examined


def _way_to(remote: Remote | None) -> dict[str, Any]:
    """Returns the network arguments for git: the host and port of the URL, through the proxy or directly."""
    if remote is None:
        return {"network": "none"}
    if remote.proxied:
        return {"network": "proxied", "hosts": [str(remote.there)]}
    return {"network": "ports", "ports": [remote.there.port]}


def _failure(command: str, remote: Remote | None, result: ProcessResult) -> ToolError:
    """Returns the error for a failed git, taken from the proxy's refusal if there is one.

    Git itself sees only a closed connection.

    A refused connection to another host, for example by a helper program, does not explain git's own failure.
    """
    for record in result.connections:
        reason = record["reason"]
        if remote is not None and reason is not None and record["host"] == remote.there.host:
            return ToolError(
                f"url: `{remote.there}` was not reached: {REASONS[reason]}",
                code=reason,
                path="$.parameters.url",
                retryable=record["outcome"] == "failed",
                output=result_as_json(result),
            )
    if b"' in submodule " in result.stderr:
        return ToolError(
            "git would have to inspect a submodule with the submodule's own configuration",
            code="git_config_refused",
            retryable=False,
            hint="name the files to stage, stage something before you commit, or run git with `exec`",
        )
    how = f"signal {result.signal}" if result.exit_code is None else f"exit code {result.exit_code}"
    failure = ToolError(f"`git {command}` ended with {how}", code="git_failed", output=result_as_json(result))
    return proxy_lost(failure) if result.proxy_lost else failure


def _own_index(environment: Mapping[str, str] | None) -> list[Bind]:
    """Returns the directory of our private index, in /tmp."""
    index = (environment or {}).get("GIT_INDEX_FILE")
    return [] if index is None else [{"path": os.fspath(Path(index).parent), "writable": True}]


def _secure_shell(remote: Remote | None) -> list[Bind]:
    """Returns the user's SSH keys and agent, only for a connection by ssh."""
    if remote is None or remote.scheme != "ssh":
        return []
    return _read_only([os.path.expanduser("~/.ssh"), os.environ.get("SSH_AUTH_SOCK", "")])  # noqa: PTH111 - ssh itself expands it


def pins_addresses(version: bytes) -> bool:
    """Returns True if this git (given the output of `git version`) can be pinned to a checked address over http(s)."""
    found = re.match(rb"git version (\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) >= _PINS


class Repository:
    """An inspected repository; created by `open_repository`."""

    def __init__(self, git: Git, ctx: Context, places: Places, user: UserSettings, hooks: Path) -> None:
        """Open its directories. Git runs in the top directory, or in the workspace if that is only a part of the repository.

        `hooks` is the directory in which git would look for hooks.
        """
        self.hooks_directory = hooks
        self.git_dir = places.git_dir
        self.git = git
        self.ctx = ctx
        self.user = user
        self.top = places.top
        self.prefix = places.prefix
        self._fd = ctx.workspace.open_directory(places.top)
        try:
            self.git_fd = open_git_directory(ctx.workspace, places)
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def scope(self) -> tuple[str, ...]:
        """Arguments that limit a command to the workspace, if the repository begins above it."""
        return ("--", ".") if self.prefix else ("--",)

    async def run(self, *arguments: str, **options: Any) -> ProcessResult:
        """Run git in the repository's top directory; see `Git.run`."""
        return await self.git.run(self._fd, *arguments, **options)

    async def text(self, *arguments: str) -> str:
        """Returns the single line that a read-only command prints."""
        return (await self.run(*arguments, read_only=True)).stdout.decode("utf-8", "replace").strip()

    async def commit_id(self, ref: str) -> str:
        """Returns the full id of a commit. Raises: ToolError `ref_invalid`."""
        result = await self.run(
            "rev-parse", "--verify", "--quiet", f"{check_ref(ref)}^{{commit}}", read_only=True, expected=(0, 1, 128)
        )
        if result.exit_code != 0:
            raise _bad_ref("there is no such commit")
        return result.stdout.decode().strip()

    async def head(self) -> str | None:
        """Returns the id of the checked-out commit; None if the branch has no commit yet."""
        result = await self.run("rev-parse", "--verify", "--quiet", "HEAD", read_only=True, expected=(0, 1, 128))
        return result.stdout.decode().strip() if result.exit_code == 0 else None

    async def head_ref(self) -> str | None:
        """Returns the full name of the checked-out branch; None if `HEAD` is detached."""
        result = await self.run("symbolic-ref", "--quiet", "HEAD", read_only=True, expected=(0, 1, 128))
        return result.stdout.decode("utf-8", "surrogateescape").strip() if result.exit_code == 0 else None

    def place(self, name: bytes) -> Rel:
        """Convert a path from git to a path in the workspace."""
        names = parts(name)
        if names[: len(self.prefix)] != self.prefix:
            raise ToolError(
                "the change touches files of the repository that are outside the workspace",
                code="path_outside_workspace",
                retryable=False,
                hint="use the repository's top as the workspace, or make the change yourself",
            )
        return (*self.top, *names[len(self.prefix) :])

    def from_here(self, name: bytes) -> bytes:
        """Convert a path from git to one relative to the directory that git runs in, as needed on its standard input."""
        return b"/".join(self.place(name)[len(self.top) :])

    def exists(self, name: bytes, *, blocked: bool = False) -> bool:
        """Returns True if something exists at a path from git. Returns `blocked` if a file or link is in the way."""
        try:
            return self.ctx.workspace.lstat(self.place(name)) is not None
        except ToolError as error:
            if error.code not in ("not_a_directory", "path_changed"):
                raise
            return blocked

    def path(self, value: Any, field: str) -> str:
        """Convert a path parameter to one relative to the repository. Raises: ToolError."""
        found: Rel = self.ctx.workspace.locate(value, field, follow=False)
        if found[: len(self.top)] != self.top:
            raise ToolError(
                f"{field}: the path is outside the repository",
                code="path_outside_workspace",
                path=f"$.parameters.{field}",
                retryable=False,
            )
        return os.fsdecode(b"/".join(found[len(self.top) :]) or b".")

    def check_changes(self, changed: Sequence[bytes]) -> None:
        """Raises: ToolError if any path is protected, or no grant allows writing it."""
        workspace: Workspace = self.ctx.workspace
        guard = workspace.guard()
        for name in changed:
            place = workspace.resolve(self.place(name), follow=False)
            guard.check(place)
            workspace.permit(place, "path", "write")

    def close(self) -> None:
        """Close the directories."""
        os.close(self._fd)
        os.close(self.git_fd)


async def open_repository(
    git: Git,
    ctx: Context,
    path: Any = ".",
    *,
    connects: bool = False,
    directories: tuple[Path, Path] | None = None,
) -> Repository:
    """Open the repository that contains a path, after inspecting it without running any of its programs.

    `connects` means that the tool will connect to a remote. `directories` hold the user's configuration.

    Raises: ToolError `not_a_repository`, `git_config_refused`, `path_outside_workspace`.
    """
    workspace: Workspace = ctx.workspace
    start = workspace.open_directory(workspace.locate(path))
    try:
        places = await git.run(
            start,
            "rev-parse",
            "--path-format=absolute",
            "--show-toplevel",
            "--git-dir",
            "--git-common-dir",
            read_only=True,
            expected=(0, 128),
        )
        if places.exit_code != 0:
            raise ToolError(
                "the path is not in a git repository with a working tree",
                code="not_a_repository",
                path="$.parameters.path",
                retryable=False,
            )
        found = check_places(workspace, places.stdout)
        configuration = await git.run(
            start, "config", "--list", "--includes", "--show-scope", "--name-only", "-z", read_only=True
        )
    finally:
        os.close(start)
    if configuration.truncated:
        raise ToolError(
            "the repository's configuration is too large to check", code="git_config_refused", retryable=False
        )
    listed = configuration.stdout.decode("utf-8", "replace").split("\0")
    for scope, key in zip(listed[::2], listed[1::2], strict=False):
        if scope == "command":
            continue  # from our own `-c` options
        if _RUNS.fullmatch(key.lower()) or (connects and _LEADS_ELSEWHERE.fullmatch(key.lower())):
            _refuse_setting(key)
    workspace.permit(found.top, "path", "read")  # reading covers the whole repository
    start = workspace.open_directory(found.top)
    own = {key.lower() for scope, key in zip(listed[::2], listed[1::2], strict=False) if scope != "command"}
    try:
        names_hooks = any(key == "core.hookspath" or key.startswith("include") for key in own)
        user = await read_user_settings(functools.partial(git.run, start), directories, names_hooks=names_hooks)
    finally:
        os.close(start)
    git.settings |= {key: value for key, value in user.files.items() if key not in own}
    return Repository(git, ctx, found, user, _hooks_directory(workspace, found, user.hooks_path))


def _hooks_directory(workspace: Workspace, places: Places, value: str | None) -> Path:
    """Where git would look for hooks: in `core.hooksPath`, else in git's own directory."""
    if not value:
        return places.common_dir / "hooks"
    top = Path(os.fsdecode(b"/".join((os.fsencode(workspace.root), *places.top))))
    return Path(*top.parts[: len(top.parts) - len(places.prefix)], value)


def check_ref(value: str, field: str = "ref") -> str:
    """Check a commit name from an agent: it must not be an option, a path or a range. Raises: ToolError `ref_invalid`."""
    if not _REF.fullmatch(value) or ".." in value:
        raise _bad_ref("the text is not a valid name of a commit", field)
    return value


def check_branch(value: str, field: str = "branch") -> str:
    """Check a branch name: no characters that are special in refspecs or revisions. Raises: ToolError `ref_invalid`."""
    if not _BRANCH.fullmatch(value) or ".." in value or "//" in value or value.endswith((".lock", "/", ".")):
        raise _bad_ref("the text is not a valid name of a branch", field)
    return value


def _bad_ref(why: str, field: str = "ref") -> ToolError:
    return ToolError(f"{field}: {why}", code="ref_invalid", path=f"$.parameters.{field}", retryable=False)


def _refuse_setting(key: str) -> None:
    section = key.split(".", 1)[0].lower()
    raise ToolError(
        f"the repository's configuration has a setting of `{section}` that runs a program or points elsewhere",
        code="git_config_refused",
        retryable=False,
        hint="remove it (`git config --list --show-origin` shows it), or run git with `exec`",
    )
