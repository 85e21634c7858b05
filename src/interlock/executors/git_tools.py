"""The functions of the git tools that work in one repository. Their definitions are in `git.py`; `git_repository.py` runs git.

`git.add`, `git.commit` and `git.revert` also undo their own calls (`git_undo.py`), so undoing a commit needs only a
grant to commit. The paths that git would write are determined first, and protected paths are refused.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from interlock.executors import git_index, git_undo
from interlock.executors import git_parse as parse
from interlock.executors.git_hooks import Hooks
from interlock.executors.git_hooks import Judge as HookJudge
from interlock.executors.git_index import IndexCopy
from interlock.executors.git_repository import Git, Repository, check_ref, open_repository
from interlock.executors.process import ProcessResult, ProcessRunner
from interlock.model.errors import ToolError
from interlock.model.tool import Context
from interlock.workspace.names import to_json

FILES: Final = 10_000
"""Maximum number of files in one diff."""
_SUBMODULES: Final = ("--ignore-submodules=dirty",)
"""Counts a submodule as changed only if another commit is checked out in it.

To see more, git would use the submodule's configuration.
"""
_PLAIN: Final = (
    *_SUBMODULES,
    "--no-color",
    "--no-ext-diff",
    "--no-textconv",
    "--no-renames",
    "--relative",
    "--src-prefix=a/",
    "--dst-prefix=b/",
)


class GitTools:
    """The functions of the tools. One per runtime; stateless between calls."""

    def __init__(
        self,
        runner: ProcessRunner,
        directories: tuple[Path, Path] | None = None,
        hook_judge: HookJudge | None = None,
        *,
        commits: int,
    ) -> None:
        """`hook_judge` decides whether a hook may run; without it, no hook runs. `commits` is the default number for `git.log`.

        `directories` hold the user's configuration (`git_user.user_directories`).
        """
        self._directories = directories
        self._hook_judge = hook_judge
        self._runner = runner
        self._commits = commits

    async def status(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`git.status`."""
        async with self._repository(parameters, ctx) as repository:
            result = await repository.run(
                "status",
                "--porcelain=v2",
                "--branch",
                "-z",
                "--untracked-files=all",
                *_SUBMODULES,
                *repository.scope,
                read_only=True,
            )
            out = parse.status(result.stdout, repository.top, len(repository.prefix))
            clean = not out["entries"]
            return {**out, "clean": clean, "truncated": result.truncated, "not_read": [*repository.user.not_read]}

    async def diff(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`git.diff`."""
        async with self._repository(parameters, ctx) as repository:
            ref = self._ref(parameters)
            # The index has no merged version of an unmerged file, so compare with our side.
            side = ("--cached",) if parameters.get("staged", False) else () if ref else ("--ours",)
            which = _within(repository, parameters)
            raw, numstat, patch = [
                await repository.run(
                    "diff", *_PLAIN, *side, *how, *ref, *which, read_only=True, output_bytes_max=git_index.LISTING_BYTES
                )
                for how in (("--raw", "--no-abbrev", "-z"), ("--numstat", "-z"), ("--patch",))
            ]
            files, cut = parse.diff(raw.stdout, numstat.stdout, patch.stdout, repository.top, cut=patch.truncated)
            most = files[:FILES]
            return {"files": most, "truncated": cut or len(most) < len(files) or raw.truncated}

    async def log(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`git.log`."""
        async with self._repository(parameters, ctx) as repository:
            most = int(parameters.get("max_count", self._commits))
            if not parameters.get("ref") and await repository.head() is None:
                return {"commits": [], "truncated": False}
            result = await repository.run(
                "log",
                "-z",
                f"--format=tformat:{parse.LOG_FORMAT}",
                "--encoding=UTF-8",
                "--no-show-signature",
                "--no-color",
                f"--max-count={most + 1}",
                *self._ref(parameters),
                *_within(repository, parameters),
                read_only=True,
            )
            commits = parse.log(result.stdout)
            return {"commits": commits[:most], "truncated": result.truncated or len(commits) > most}

    async def add(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`git.add`: stage paths, or undo an earlier `git.add`."""
        async with self._repository(parameters, ctx) as repository:
            record = (
                await git_undo.restore_index(repository, parameters["restore"])
                if "restore" in parameters
                else await _stage(repository, _paths(repository, parameters))
            )
            staged = await repository.run("diff", "--cached", "--name-status", "-z", *_PLAIN, read_only=True)
            return {
                "staged": parse.name_status(staged.stdout, repository.top),
                "truncated": staged.truncated,
                "restore": record,
                "path": to_json(repository.top),
                **Hooks(repository, "add", self._runner, None).report(),
            }

    async def commit(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`git.commit`: commit what is staged, or undo an earlier commit."""
        async with self._repository(parameters, ctx) as repository:
            if "undo" in parameters:
                return await _moved(repository, parameters["undo"], restore_files=False)
            hooks = self._hooks(repository, "commit")
            hooks.require_allowed()
            await _refuse_outside(repository)
            message = await hooks.before_commit(parameters["message"])
        # Open the repository again: a hook may have changed the index, the branch and the configuration.
        async with self._repository(parameters, ctx) as repository:
            concluded = git_undo.in_progress(repository)
            before = await repository.head()
            await _refuse_outside(repository)
            await repository.run(
                "commit",
                "--quiet",
                "--no-verify",
                "--no-gpg-sign",
                "--no-post-rewrite",
                "--cleanup=whitespace",
                "--file=-",
                stdin=message.encode(),
                **await _committing(repository, ctx),
            )
            output = await _committed(repository, before, concluded)
            await hooks.after_commit()
            return {**output, **hooks.report()}

    async def revert(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`git.revert`: make a commit that reverts another one, or change nothing; or undo an earlier revert."""
        async with self._repository(parameters, ctx) as repository:
            hooks = Hooks(repository, "revert", self._runner, None).report()
            if "undo" in parameters:
                return {**await _moved(repository, parameters["undo"], restore_files=True), "reverted": None}
            git_undo.need_rest(
                repository
            )  # otherwise the abort below could hit an operation that a person has in progress
            commit = await repository.commit_id(parameters["commit"])
            changed = await git_undo.changed_paths(repository, commit, await git_undo.first_parent(repository, commit))
            repository.check_changes([name for _, name in changed])
            git_undo.refuse_overwrites(repository, changed)
            before = await repository.head()
            result = await repository.run(
                "revert",
                "--no-edit",
                "--no-gpg-sign",
                commit,
                expected=(0, 1, 128),
                **await _committing(repository, ctx),
            )
            if result.exit_code != 0:
                if git_undo.in_progress(repository) is not None:
                    await repository.run("revert", "--abort", alone=False)
                raise conflict("the commit cannot be reverted without conflicts", result)
            return {**await _committed(repository, before, None), "reverted": commit, **hooks}

    def _hooks(self, repository: Repository, tool: str) -> Hooks:
        return Hooks(repository, tool, self._runner, self._hook_judge)

    def _repository(
        self, parameters: dict[str, Any], ctx: Context
    ) -> contextlib.AbstractAsyncContextManager[Repository]:
        return opened(self._runner, ctx, parameters.get("path", "."), self._directories)

    @staticmethod
    def _ref(parameters: dict[str, Any]) -> tuple[str, ...]:
        return (check_ref(parameters["ref"]),) if "ref" in parameters else ()


@contextlib.asynccontextmanager
async def opened(
    runner: ProcessRunner, ctx: Context, path: Any, directories: tuple[Path, Path] | None, *, connects: bool = False
) -> AsyncIterator[Repository]:
    """Open the repository at `path` for the block. Raises: ToolError."""
    repository = await open_repository(Git(runner, ctx), ctx, path, connects=connects, directories=directories)
    try:
        yield repository
    finally:
        repository.close()


def _within(repository: Repository, parameters: dict[str, Any]) -> tuple[str, ...]:
    """Arguments that limit a command to paths, including the `--`."""
    paths = _paths(repository, parameters)
    return ("--", *paths) if paths else repository.scope


def _paths(repository: Repository, parameters: dict[str, Any]) -> list[str]:
    return [repository.path(value, f"paths[{i}]") for i, value in enumerate(parameters.get("paths", ()))]


async def current_branch(repository: Repository) -> str | None:
    """Returns the checked-out branch; None if there is none."""
    result = await repository.run("symbolic-ref", "--quiet", "--short", "HEAD", read_only=True, expected=(0, 1, 128))
    return result.stdout.decode("utf-8", "replace").strip() if result.exit_code == 0 else None


async def _stage(repository: Repository, paths: Sequence[str]) -> str:
    """Stage paths. Returns the id of the record of the index change."""
    names = b"\0".join(os.fsencode(path) for path in paths)
    with IndexCopy(repository) as copy:
        before = await git_index.entries(repository, copy.environment)
        await repository.run(
            "add", "--pathspec-from-file=-", "--pathspec-file-nul", stdin=names, environment=copy.environment
        )
        after = await git_index.entries(repository, copy.environment)
        await _refuse_filters(repository, copy, [name for name in after if after[name] != before.get(name)])
        head = await git_index.head_entries(repository, await repository.head())
        record = git_index.make_record(before, after, head)
        if record.unmerged:
            record = msgspec.structs.replace(record, conflict=await git_undo.conflict_of(repository))
        kept = await git_index.write_record(repository, record)
        copy.publish()
        return kept


async def _refuse_filters(repository: Repository, copy: IndexCopy, staged: Sequence[bytes]) -> None:
    """Refuse to stage files with a `filter` attribute (git-lfs).

    Without the filter program, the content would be wrong.
    """
    if not staged:
        return
    attributes = await repository.run(
        "check-attr",
        "--stdin",
        "-z",
        "filter",
        stdin=b"".join(repository.from_here(name) + b"\0" for name in staged),
        read_only=True,
        environment=copy.environment,
        output_bytes_max=git_index.LISTING_BYTES,
    )
    values = attributes.stdout.split(b"\0")[2::3]
    if attributes.truncated or any(value not in (b"unspecified", b"unset") for value in values):
        raise ToolError(
            "a file has a `filter` attribute (git-lfs?), whose program these tools do not run; nothing was staged",
            code="git_config_refused",
            retryable=False,
            hint="stage it with `exec`",
        )


async def _committing(repository: Repository, ctx: Context) -> dict[str, Any]:
    """Options for a command that commits: the identity, and a reflog message that names the run."""
    return {
        "settings": {**await _identity(repository, ctx), "core.logAllRefUpdates": "true"},
        "environment": {"GIT_REFLOG_ACTION": f"{git_undo.MADE_BY}{ctx.run_id}"},
    }


async def _identity(repository: Repository, ctx: Context) -> dict[str, str]:
    """Returns the committer: the repository's `user`, else the user's own, else the agent."""
    found = await repository.run("config", "--get", "user.email", read_only=True, expected=(0, 1))
    if found.exit_code == 0:
        return {}
    if repository.user.identity:
        return repository.user.identity
    return {"user.name": ctx.agent, "user.email": "agent@interlock.invalid"}


async def _refuse_outside(repository: Repository) -> None:
    """Refuse to commit if other parts of the repository have staged changes. Raises: ToolError `path_outside_workspace`."""
    if repository.prefix:
        staged = await repository.run(
            "diff", "--cached", "--name-only", "--no-renames", "--no-ext-diff", *_SUBMODULES, "-z", read_only=True,
            output_bytes_max=git_index.LISTING_BYTES,
        )  # fmt: skip
        for name in parse.records(staged.stdout):
            repository.place(name)


async def _committed(repository: Repository, before: str | None, concluded: str | None) -> dict[str, Any]:
    commit = await repository.commit_id("HEAD")
    files = await repository.run(
        "diff-tree",
        "-r",
        "--root",
        "--no-commit-id",
        "--name-status",
        "--no-renames",
        "--relative",
        "-z",
        commit,
        read_only=True,
    )
    move = {"ref": await repository.head_ref(), "from": commit, "to": before, "concluded": concluded}
    return {
        "commit": commit,
        "branch": await current_branch(repository),
        "files": parse.name_status(files.stdout, repository.top),
        "truncated": files.truncated,
        "path": to_json(repository.top),
        "undo": move,
    }


async def _moved(repository: Repository, move: dict[str, Any], *, restore_files: bool) -> dict[str, Any]:
    back = await git_undo.move_branch(repository, move, restore_files=restore_files)
    return {
        "commit": move["to"],
        "branch": await current_branch(repository),
        "files": [],
        "truncated": False,
        "path": to_json(repository.top),
        "undo": back,
        "hooks_run": [],
        "hooks_not_run": [],
    }


def conflict(what: str, result: ProcessResult) -> ToolError:
    """Returns the error for an operation that git refused, with git's own message in the output."""
    return ToolError(
        what,
        code="git_conflict",
        retryable=False,
        output={"exit_code": result.exit_code, "stderr": result.stderr.decode("utf-8", "replace")},
    )
