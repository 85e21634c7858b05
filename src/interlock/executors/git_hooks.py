"""The hooks of a repository: which of them git would run for a tool, and running them if the configuration says so.

Git itself never runs a hook here (`core.hooksPath` points to no directory): a hook is a program in the repository, so
anyone who may write `.git/hooks` could run anything by way of a commit. With `[git] hooks = "run"`, each hook runs in a
separate process, with the usual walls and limits, and is judged like an `exec` of the hook's path. Otherwise the result
lists the hooks that were not run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from interlock.executors.git_places import is_program, outside_places
from interlock.executors.git_repository import Repository
from interlock.executors.process import ProcessRunner, result_as_json
from interlock.model.decision import Refusal
from interlock.model.errors import ToolError
from interlock.model.tool import Context
from interlock.workspace.names import to_json

HOOKS: Final = {
    "add": ("post-index-change",),
    "commit": (
        "pre-commit",
        "prepare-commit-msg",
        "commit-msg",
        "post-commit",
        "post-index-change",
        "reference-transaction",
    ),
    "revert": ("prepare-commit-msg", "post-commit", "post-index-change", "reference-transaction"),
    "clone": ("post-checkout", "post-index-change", "reference-transaction"),
    "pull": ("post-merge", "post-index-change", "reference-transaction"),
    "push": ("pre-push",),
}
"""The hooks that git would run for each tool, in git's order."""
RUN: Final = {"commit": HOOKS["commit"][:4], "push": HOOKS["push"]}
"""The hooks that run with `hooks = "run"`. The others cannot stop git, or do not apply to these tools."""

_MESSAGE_FILE: Final = "COMMIT_EDITMSG"
_MESSAGE_BYTES: Final = 1024 * 1024

Judge = Callable[[Context, dict[str, Any]], Refusal | None]
"""Returns why the rules do not let the acting agent call `exec` with these parameters; None if they do."""


class Hook(NamedTuple):
    """A hook that git would run."""

    name: str
    program: str
    """Its path as passed to the process: relative to the top of the working tree if it is beneath it."""


class Hooks:
    """The hooks for one call of a tool."""

    def __init__(self, repository: Repository, tool: str, runner: ProcessRunner, judge: Judge | None) -> None:
        """`tool` is a key of `HOOKS`. Without a `judge`, no hook runs."""
        self._repository = repository
        self._runner = runner
        self._judge = judge
        there = _find(repository, HOOKS[tool])
        self._chosen = {hook.name: hook for hook in there if judge is not None and hook.name in RUN.get(tool, ())}
        self.ran: list[dict[str, Any]] = []
        """`hook` and `exit_code` of each hook that ran."""
        self.not_run = [hook.name for hook in there if hook.name not in self._chosen]

    def report(self) -> dict[str, Any]:
        """Returns the part of the tool's output that reports hooks."""
        return {"hooks_run": self.ran, "hooks_not_run": self.not_run}

    def require_allowed(self) -> None:
        """Check with the rules that all chosen hooks may run. Raises: ToolError `hook_denied`, `path_outside_workspace`."""
        if not self._chosen:
            return
        repository = self._repository
        if repository.prefix:
            raise ToolError(
                "hooks run at the top of the repository, which is outside the workspace",
                code="path_outside_workspace",
                retryable=False,
                hint='make the repository\'s top the workspace, or set `[git] hooks = "skip"`',
            )
        for hook in self._chosen.values():
            parameters = {"argv": [hook.program], "cwd": to_json(repository.top) or "."}
            refusal = None if self._judge is None else self._judge(repository.ctx, parameters)
            if refusal is not None:
                raise ToolError(
                    f"the hook `{hook.name}` must not run ({refusal.reason}), so nothing was done",
                    code="hook_denied",
                    retryable=False,
                    output={"hook": hook.name, "reason": refusal.reason},
                    hint=f'allow it (`allow = ["exec({hook.program})", "exec({hook.program} *)"]`, and `exec` in the grant)',
                )

    async def before_commit(self, message: str) -> str:
        """Run `pre-commit`, `prepare-commit-msg` and `commit-msg`. Returns the message as they leave it.

        Raises: ToolError `hook_failed`.
        """
        await self._run("pre-commit")
        if not {"prepare-commit-msg", "commit-msg"} & self._chosen.keys():
            return message
        self._write_message(message)
        name = f"{self._git_dir()}/{_MESSAGE_FILE}"
        await self._run("prepare-commit-msg", name, "message")
        await self._run("commit-msg", name)
        return self._read_message()

    async def after_commit(self) -> None:
        """Run `post-commit`, whose failure has no effect."""
        await self._run("post-commit", binding=False)

    async def before_push(self, url: str, ref: str, commit: str, remote: str | None) -> None:
        """Run `pre-push`. `remote` is the commit of the branch on the remote. Raises: ToolError `hook_failed`."""
        line = f"{ref} {commit} {ref} {remote or '0' * len(commit)}\n"
        await self._run("pre-push", url, url, stdin=line.encode())

    @property
    def chosen(self) -> frozenset[str]:
        """The hooks that will run."""
        return frozenset(self._chosen)

    async def _run(self, name: str, *arguments: str, stdin: bytes | None = None, binding: bool = True) -> None:
        hook = self._chosen.get(name)
        if hook is None:
            return
        repository = self._repository
        result = await self._runner.run(
            [hook.program, *arguments],
            ctx=repository.ctx,
            cwd=to_json(repository.top) or ".",
            env={"GIT_INDEX_FILE": os.fspath(repository.git_dir / "index"), "GIT_EDITOR": ":"},
            stdin=stdin,
            network="proxied",
            binds=[
                *outside_places(repository.ctx.workspace.root),
                {"path": os.fspath(repository.hooks_directory), "writable": False},
            ],
        )
        repository.ctx.not_exactly_undoable(f"the git hook `{name}` ran")
        self.ran.append({"hook": name, "exit_code": result.exit_code})
        if result.timed_out:
            raise ToolError(
                f"the hook `{name}` was stopped at the time-out", code="timeout", output=result_as_json(result)
            )
        if binding and result.exit_code != 0:
            how = f"signal {result.signal}" if result.exit_code is None else f"exit code {result.exit_code}"
            raise ToolError(
                f"the hook `{name}` ended with {how}, so nothing was done",
                code="hook_failed",
                retryable=False,
                output={"hook": name, **result_as_json(result)},
            )

    def _git_dir(self) -> str:
        return _named(self._repository, self._repository.git_dir)

    def _write_message(self, message: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._message(flags) as file:
            file.write(message.encode())

    def _read_message(self) -> str:
        with self._message(os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC) as file:
            data = file.read(_MESSAGE_BYTES + 1)
        try:
            if len(data) <= _MESSAGE_BYTES:
                return str(data.decode())
        except UnicodeDecodeError:
            pass
        raise ToolError("a hook left a message that is too large or not UTF-8", code="hook_failed", retryable=False)

    def _message(self, flags: int) -> Any:
        try:
            fd = os.open(_MESSAGE_FILE, flags, 0o666, dir_fd=self._repository.git_fd)
        except OSError as error:
            raise ToolError(
                f"the file with the message cannot be opened: {os.strerror(error.errno or 0)}",
                code="hook_failed",
                retryable=False,
            ) from error
        return os.fdopen(fd, "r+b" if flags & os.O_RDWR else "wb" if flags & os.O_WRONLY else "rb")


def _find(repository: Repository, names: Sequence[str]) -> list[Hook]:
    """Returns the hooks that exist and are executable; git skips all others too."""
    place = repository.hooks_directory
    return [
        Hook(name, _named(repository, place / name))
        for name in names
        if is_program(repository.ctx.workspace, place / name)
    ]


def _named(repository: Repository, path: Path) -> str:
    """Returns a path as rules and processes see it: relative to the top of the working tree if it is beneath it."""
    top = Path(os.fsdecode(os.path.join(os.fsencode(repository.ctx.workspace.root), *repository.top)))  # noqa: PTH118 - bytes
    return os.fspath(path.relative_to(top)) if path.is_relative_to(top) and not repository.prefix else os.fspath(path)
