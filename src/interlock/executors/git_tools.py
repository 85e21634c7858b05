"""What the git tools do. Definitions are in `git.py`, the way git is run in `git_repository.py`.

`git.commit` is taken back by `git.revert` of its commit, `git.add` by putting the index back to the tree it had (`tree`).
`git.pull` only ever goes forward (fetch, then fast-forward). What git would write to is asked for first and refused if the
loader reads it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any, Final

from interlock.executors import git_parse as parse
from interlock.executors.git_remote import AddressJudge, Remote, check_remote
from interlock.executors.git_repository import Git, Repository, check_branch, check_ref, open_repository
from interlock.executors.http_wire import Resolver
from interlock.executors.process import ProcessResult, ProcessRunner
from interlock.model.errors import ToolError
from interlock.model.tool import Context
from interlock.workspace.names import to_json

COMMITS: Final = 20
_SUBMODULES: Final = ("--ignore-submodules=dirty",)
"""A submodule counts as changed if another commit is checked out in it: to look further, git would run by its configuration."""
_PLAIN: Final = (
    *_SUBMODULES,
    "--no-color",
    "--no-ext-diff",
    "--no-textconv",
    "--no-renames",
    "--src-prefix=a/",
    "--dst-prefix=b/",
)


class GitTools:
    """The functions of the tools. One for a runtime; keeps nothing from one call to the next."""

    def __init__(self, runner: ProcessRunner, judge: AddressJudge, resolver: Resolver) -> None:
        """`judge` says why an address is private; `resolver` finds the addresses of a host."""
        self._runner = runner
        self._judge = judge
        self._resolver = resolver

    async def status(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`git.status`."""
        async with self._repository(parameters, ctx) as repository:
            result = await repository.run(
                "status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all", *_SUBMODULES, read_only=True
            )
            out = parse.status(result.stdout, repository.top)
            return {**out, "clean": not out["entries"], "truncated": result.truncated}

    async def diff(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`git.diff`."""
        async with self._repository(parameters, ctx) as repository:
            staged = ("--cached",) if parameters.get("staged", False) else ()
            result = await repository.run(
                "diff", *_PLAIN, *staged, *self._ref(parameters), "--", *_paths(repository, parameters), read_only=True
            )
            return {"files": parse.diff(result.stdout, repository.top), "truncated": result.truncated}

    async def log(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`git.log`."""
        async with self._repository(parameters, ctx) as repository:
            most = int(parameters.get("max_count", COMMITS))
            if not parameters.get("ref") and await _head(repository) is None:
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
                "--",
                *_paths(repository, parameters),
                read_only=True,
            )
            commits = parse.log(result.stdout)
            return {"commits": commits[:most], "truncated": result.truncated or len(commits) > most}

    async def add(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`git.add`: stage paths, or put the index back to a tree."""
        async with self._repository(parameters, ctx) as repository:
            before = await repository.text("write-tree")
            if "tree" in parameters:
                await repository.run("read-tree", await _tree_id(repository, parameters["tree"]))
            else:
                names = b"\0".join(os.fsencode(path) for path in _paths(repository, parameters))
                await repository.run("add", "--pathspec-from-file=-", "--pathspec-file-nul", stdin=names)
                await _refuse_filters(repository, before)
            staged = await repository.run(
                "diff", "--cached", "--name-status", "--no-renames", "-z", "--no-ext-diff", read_only=True
            )
            return {
                "staged": parse.name_status(staged.stdout, repository.top),
                "truncated": staged.truncated,
                "tree_before": before,
                "path": to_json(repository.top),
            }

    async def commit(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`git.commit`: what is staged."""
        async with self._repository(parameters, ctx) as repository:
            await repository.run(
                "commit",
                "--quiet",
                "--no-verify",
                "--no-gpg-sign",
                "--no-post-rewrite",
                "--cleanup=whitespace",
                "--file=-",
                stdin=parameters["message"].encode(),
                settings=await _identity(repository, ctx),
            )
            return await _committed(repository)

    async def revert(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`git.revert`: a new commit that takes another one back, or nothing at all."""
        async with self._repository(parameters, ctx) as repository:
            commit = await repository.commit_id(parameters["commit"])
            repository.check_changes(await _changed(repository, "diff-tree", "-r", "--root", "--no-commit-id", commit))
            result = await repository.run(
                "revert",
                "--no-edit",
                "--no-gpg-sign",
                commit,
                settings=await _identity(repository, ctx),
                expected=(0, 1, 128),
            )
            if result.exit_code != 0:
                in_progress = await repository.run(
                    "rev-parse", "--verify", "--quiet", "REVERT_HEAD", read_only=True, expected=(0, 1, 128)
                )
                if in_progress.exit_code == 0:
                    await repository.run("revert", "--abort", alone=False)
                raise _conflict("the commit cannot be reverted on what is there", result)
            return {**await _committed(repository), "reverted": commit}

    async def clone(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`git.clone`: into a directory that does not exist yet."""
        workspace = ctx.workspace
        remote = await check_remote(parameters["url"], self._judge, self._resolver)
        target = workspace.locate(parameters["path"], follow=False)
        workspace.guard().check(target)
        if workspace.lstat(target) is not None:
            raise ToolError(
                "path: something of that name exists already",
                code="already_exists",
                path="$.parameters.path",
                retryable=False,
            )
        branch = (f"--branch={check_branch(parameters['branch'])}",) if "branch" in parameters else ()
        parent = workspace.open_directory(target[:-1])
        try:
            await Git(self._runner, ctx).run(
                parent,
                "clone",
                "--quiet",
                "--template=",
                "--no-recurse-submodules",
                *branch,
                "--",
                remote.url,
                "./" + os.fsdecode(target[-1]),
                alone=False,
                settings=remote.settings,
                environment=remote.environment,
            )
        finally:
            os.close(parent)
        async with self._repository({"path": parameters["path"]}, ctx) as repository:
            return {
                "path": to_json(target),
                "commit": await _head(repository),
                "branch": await _branch(repository),
            }

    async def pull(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`git.pull`: fetch a branch, and go forward to it."""
        async with self._repository(parameters, ctx, connects=True) as repository:
            remote = await check_remote(parameters["url"], self._judge, self._resolver)
            branch = await self._branch(repository, parameters)
            before = await _head(repository)
            await repository.run(
                "fetch",
                "--quiet",
                "--no-tags",
                "--no-recurse-submodules",
                "--no-write-commit-graph",
                "--",
                remote.url,
                f"refs/heads/{branch}",
                alone=False,
                settings=remote.settings,
                environment=remote.environment,
            )
            fetched = await repository.commit_id("FETCH_HEAD")
            if before is None:
                changed = await _changed(repository, "ls-tree", "-r", "--full-tree", fetched)
            else:
                changed = await _changed(repository, "diff-tree", "-r", before, fetched)
            repository.check_changes(changed)
            result = await repository.run(
                "merge",
                "--ff-only",
                "--quiet",
                "--no-verify-signatures",
                fetched,
                alone=before is not None,  # into nothing, merge starts read-tree
                expected=(0, 1, 128),
            )
            if result.exit_code != 0:
                raise _conflict("the branch cannot simply go forward to what was fetched", result)
            return {"commit": fetched, "before": before, "branch": branch, "updated": before != fetched}

    async def push(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`git.push`: one branch, never forced."""
        async with self._repository(parameters, ctx, connects=True) as repository:
            remote = await check_remote(parameters["url"], self._judge, self._resolver)
            branch = await self._branch(repository, parameters)
            commit = await repository.commit_id(f"refs/heads/{branch}")
            result = await self._push(repository, remote, f"refs/heads/{branch}:refs/heads/{branch}")
            rows = [line.split("\t") for line in result.stdout.decode("utf-8", "replace").splitlines()]
            flags = [row[0] for row in rows if len(row) == 3]
            if result.exit_code != 0 or flags not in ([" "], ["*"], ["="]):
                raise _conflict("the other side did not take the branch", result)
            return {"commit": commit, "branch": branch, "updated": flags != ["="], "created": flags == ["*"]}

    @staticmethod
    async def _push(repository: Repository, remote: Remote, refspec: str) -> ProcessResult:
        return await repository.run(
            "push",
            "--porcelain",
            "--no-verify",
            "--no-signed",
            "--recurse-submodules=no",
            "--",
            remote.url,
            refspec,
            alone=False,
            settings=remote.settings,
            environment=remote.environment,
            expected=(0, 1),
        )

    @contextlib.asynccontextmanager
    async def _repository(
        self, parameters: dict[str, Any], ctx: Context, *, connects: bool = False
    ) -> AsyncIterator[Repository]:
        git = Git(self._runner, ctx)
        repository = await open_repository(git, ctx, parameters.get("path", "."), connects=connects)
        try:
            yield repository
        finally:
            repository.close()

    @staticmethod
    def _ref(parameters: dict[str, Any]) -> tuple[str, ...]:
        return (check_ref(parameters["ref"]),) if "ref" in parameters else ()

    @staticmethod
    async def _branch(repository: Repository, parameters: dict[str, Any]) -> str:
        branch = parameters.get("branch") or await _branch(repository)
        if branch is None:
            raise ToolError(
                "branch: no branch is checked out, so it has to be named",
                code="ref_invalid",
                path="$.parameters.branch",
                retryable=False,
            )
        return check_branch(branch)


def _paths(repository: Repository, parameters: dict[str, Any]) -> list[str]:
    return [repository.path(value, f"paths[{i}]") for i, value in enumerate(parameters.get("paths", ()))]


async def _head(repository: Repository) -> str | None:
    result = await repository.run("rev-parse", "--verify", "--quiet", "HEAD", read_only=True, expected=(0, 1, 128))
    return result.stdout.decode().strip() if result.exit_code == 0 else None


async def _branch(repository: Repository) -> str | None:
    result = await repository.run("symbolic-ref", "--quiet", "--short", "HEAD", read_only=True, expected=(0, 1, 128))
    return result.stdout.decode("utf-8", "replace").strip() if result.exit_code == 0 else None


async def _tree_id(repository: Repository, value: str) -> str:
    result = await repository.run(
        "rev-parse",
        "--verify",
        "--quiet",
        f"{check_ref(value, 'tree')}^{{tree}}",
        read_only=True,
        expected=(0, 1, 128),
    )
    if result.exit_code != 0:
        raise ToolError("tree: there is no such tree", code="ref_invalid", path="$.parameters.tree", retryable=False)
    return result.stdout.decode().strip()


async def _changed(repository: Repository, command: str, *arguments: str) -> list[bytes]:
    """The names that a change touches, all of them. Raises: ToolError if there are too many to look at."""
    result = await repository.run(command, "--name-only", "-z", *arguments, read_only=True)
    if result.truncated:
        raise ToolError("the change touches more files than can be checked", code="limit_exceeded", retryable=False)
    return parse.names(result.stdout)


async def _refuse_filters(repository: Repository, before: str) -> None:
    """Take staging back if an attribute asks for a filter (git-lfs): without its program the wrong content was staged."""
    staged = await _changed(repository, "diff", "--cached", "--no-renames", "--no-ext-diff", "--diff-filter=d")
    if not staged:
        return
    attributes = await repository.run(
        "check-attr", "--stdin", "-z", "filter", stdin=b"\0".join(staged) + b"\0", read_only=True
    )
    values = attributes.stdout.split(b"\0")[2::3]
    if attributes.truncated or any(value not in (b"unspecified", b"unset") for value in values):
        await repository.run("read-tree", before)
        raise ToolError(
            "a file has a `filter` attribute (git-lfs?), whose program is not run here; nothing was staged",
            code="git_config_refused",
            retryable=False,
            hint="add it by `exec`",
        )


async def _identity(repository: Repository, ctx: Context) -> dict[str, str]:
    """Who commits: the repository's own `user`, or else the agent."""
    found = await repository.run("config", "--get", "user.email", read_only=True, expected=(0, 1))
    if found.exit_code == 0:
        return {}
    return {"user.name": ctx.agent, "user.email": "agent@interlock.invalid"}


async def _committed(repository: Repository) -> dict[str, Any]:
    commit = await repository.commit_id("HEAD")
    files = await repository.run(
        "diff-tree", "-r", "--root", "--no-commit-id", "--name-status", "--no-renames", "-z", commit, read_only=True
    )
    return {
        "commit": commit,
        "branch": await _branch(repository),
        "files": parse.name_status(files.stdout, repository.top),
        "truncated": files.truncated,
        "path": to_json(repository.top),
    }


def _conflict(what: str, result: ProcessResult) -> ToolError:
    return ToolError(
        what,
        code="git_conflict",
        retryable=False,
        output={"exit_code": result.exit_code, "stderr": result.stderr.decode("utf-8", "replace")},
    )
