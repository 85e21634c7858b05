"""The functions of the git tools that connect to another repository: `git.clone`, `git.pull`, `git.push`.

`git.pull` only fast-forwards, and `git.push` never forces. The paths that git would write are determined first, and
protected paths are refused.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from interlock.executors import git_undo
from interlock.executors.git_hooks import Hooks
from interlock.executors.git_hooks import Judge as HookJudge
from interlock.executors.git_remote import AddressJudge, Remote, check_remote
from interlock.executors.git_repository import Git, Repository, check_branch
from interlock.executors.git_tools import conflict, current_branch, opened
from interlock.executors.http_wire import Resolver
from interlock.executors.process import ProcessResult, ProcessRunner
from interlock.model.errors import ToolError
from interlock.model.tool import Context
from interlock.workspace.names import to_json


class RemoteGitTools:
    """The functions of the tools. One per runtime; stateless between calls."""

    def __init__(
        self,
        runner: ProcessRunner,
        judge: AddressJudge,
        resolver: Resolver,
        directories: tuple[Path, Path] | None = None,
        hook_judge: HookJudge | None = None,
    ) -> None:
        """Like `GitTools`. `judge` returns why an address is private; `resolver` resolves host names."""
        self._runner = runner
        self._judge = judge
        self._resolver = resolver
        self._directories = directories
        self._hook_judge = hook_judge

    async def clone(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`git.clone`: clone into a directory that does not exist yet."""
        workspace = ctx.workspace
        remote = await self._remote(parameters)
        target = workspace.locate(parameters["path"], follow=False)
        workspace.guard().check(target)
        if workspace.lstat(target) is not None:
            raise ToolError(
                "path: the name already exists",
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
                remote=remote,
            )
        finally:
            os.close(parent)
        async with opened(self._runner, ctx, parameters["path"], self._directories) as repository:
            return {
                "path": to_json(target),
                "commit": await repository.head(),
                "branch": await current_branch(repository),
                **Hooks(repository, "clone", self._runner, None).report(),
            }

    async def pull(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`git.pull`: fetch a branch, and fast-forward to it."""
        async with opened(
            self._runner, ctx, parameters.get("path", "."), self._directories, connects=True
        ) as repository:
            remote = await self._remote(parameters)
            branch = await _chosen_branch(repository, parameters)
            before = await repository.head()
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
                remote=remote,
            )
            fetched = await repository.commit_id("FETCH_HEAD")
            changed = await git_undo.changed_paths(repository, before, fetched)
            repository.check_changes([name for _, name in changed])
            git_undo.refuse_overwrites(repository, changed)
            result = await repository.run(
                "merge",
                "--ff-only",
                "--quiet",
                "--no-verify-signatures",
                "--no-overwrite-ignore",
                fetched,
                alone=before is not None,  # without a commit, merge starts read-tree
                expected=(0, 1, 128),
            )
            if result.exit_code != 0:
                raise conflict("the branch cannot be fast-forwarded to what was fetched", result)
            hooks = Hooks(repository, "pull", self._runner, None).report()
            return {"commit": fetched, "before": before, "branch": branch, "updated": before != fetched, **hooks}

    async def push(self, parameters: dict[str, Any], ctx: Context) -> dict[str, Any]:
        """`git.push`: push one branch, never with force."""
        async with opened(
            self._runner, ctx, parameters.get("path", "."), self._directories, connects=True
        ) as repository:
            remote = await self._remote(parameters)
            branch = await _chosen_branch(repository, parameters)
            ref = f"refs/heads/{branch}"
            commit = await repository.commit_id(ref)
            hooks = Hooks(repository, "push", self._runner, self._hook_judge)
            hooks.require_allowed()
            if hooks.chosen:
                await hooks.before_push(parameters["url"], ref, commit, await _remote_commit(repository, remote, ref))
        # Open the repository again, and push exactly the commit that the hook checked.
        async with opened(
            self._runner, ctx, parameters.get("path", "."), self._directories, connects=True
        ) as repository:
            result = await _push(repository, remote, f"{commit}:{ref}")
            rows = [line.split("\t") for line in result.stdout.decode("utf-8", "replace").splitlines()]
            flags = [row[0] for row in rows if len(row) == 3]
            if result.exit_code != 0 or flags not in ([" "], ["*"], ["="]):
                raise conflict("the remote refused the branch", result)
            await repository.run(
                "update-ref", git_undo.PUSHED + branch, commit
            )  # undo checks this before it removes the commit
            moved = {"updated": flags != ["="], "created": flags == ["*"]}
            return {"commit": commit, "branch": branch, **moved, **hooks.report()}

    async def _remote(self, parameters: dict[str, Any]) -> Remote:
        proxied = self._runner.enclosure.profile == "ns"
        return await check_remote(parameters["url"], self._judge, self._resolver, proxied=proxied)


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
        remote=remote,
        expected=(0, 1),
    )


async def _chosen_branch(repository: Repository, parameters: dict[str, Any]) -> str:
    branch = parameters.get("branch") or await current_branch(repository)
    if branch is None:
        raise ToolError(
            "branch: no branch is checked out; name one",
            code="ref_invalid",
            path="$.parameters.branch",
            retryable=False,
        )
    return check_branch(branch)


async def _remote_commit(repository: Repository, remote: Remote, ref: str) -> str | None:
    """Returns the commit of the remote's branch; None if it has no such branch."""
    result = await repository.run(
        "ls-remote",
        "--",
        remote.url,
        ref,
        read_only=True,
        alone=False,
        remote=remote,
    )
    rows = [line.split("\t") for line in result.stdout.decode("utf-8", "replace").splitlines()]
    return next((row[0] for row in rows if row[1:] == [ref]), None)
