"""The definitions of the git tools. Their functions are in `git_tools.py`, which is imported on the first call.

Every tool that connects takes the URL as a parameter, so that grants and policies see the host. A remote's name would
be resolved through a file that the agent can write.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec

from interlock.detect import address_is_private
from interlock.executors.process import ProcessRunner
from interlock.lazy import lazy
from interlock.model.proposal import Reversibility
from interlock.model.tool import Binding, CompensationTemplate, Function, Tool

if TYPE_CHECKING:
    from interlock.executors import git_remote_tools, git_tools, git_user, http_wire
    from interlock.executors.git_hooks import Judge as HookJudge
    from interlock.executors.git_remote import AddressJudge
else:
    git_remote_tools = lazy("interlock.executors.git_remote_tools")
    git_tools = lazy("interlock.executors.git_tools")
    git_user = lazy("interlock.executors.git_user")
    http_wire = lazy("interlock.executors.http_wire")

_TIMEOUT_MS: Final = 120_000
_COMMITS: Final = 20
_PATH_FORMS: Final = [
    {"type": "string", "minLength": 1},
    {"type": "object", "properties": {"b64": {"type": "string"}}, "required": ["b64"], "additionalProperties": False},
]
_NULLABLE: Final = {"type": ["string", "null"]}
_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_FLAG: Final = {"type": "boolean"}
_SHOWN_PATH: Final = {"anyOf": _PATH_FORMS}
_REPOSITORY: Final = "A directory of the repository, whose top must be readable."
_REF: Final = {
    "type": "string",
    "minLength": 1,
    "maxLength": 256,
    "description": "A commit: a branch, tag, id, `HEAD~2`.",
}
_BRANCH: Final = {
    "type": "string",
    "minLength": 1,
    "maxLength": 200,
    "description": "By default the one checked out.",
}
_CHANGED: Final = {
    "path": _SHOWN_PATH,
    "status": _TEXT,
    "old_mode": _NULLABLE,
    "new_mode": _NULLABLE,
    "binary": _FLAG,
    "additions": _COUNT,
    "deletions": _COUNT,
    "hunks": {"type": "array", "items": {"type": "object"}},
    "truncated": _FLAG,
}
_HOOKS: Final = {
    "hooks_run": {"type": "array", "items": {"type": "object"}, "description": "`hook` and `exit_code` of each."},
    "hooks_not_run": {"type": "array", "items": _TEXT, "description": "Hooks that git would have run."},
}
_COMMIT_ID: Final = {"type": ["string", "null"], "pattern": "^[0-9a-f]{40,64}$"}
_MOVE: Final = {
    "type": "object",
    "properties": {
        "ref": {"type": ["string", "null"], "pattern": "^refs/heads/", "maxLength": 1024},
        "from": _COMMIT_ID,
        "to": _COMMIT_ID,
        "concluded": _NULLABLE,
    },
    "required": ["ref", "from", "to", "concluded"],
    "additionalProperties": False,
    "description": "The branch, and the commits to move it between; from the output of the earlier call.",
}
_URL: Final = {
    "type": "string",
    "x-interlock": "host",
    "description": "http, https, ssh or git; no credentials, and not the name of a remote.",
}


def bindings(
    runner: ProcessRunner,
    *,
    address_judge: AddressJudge = address_is_private,
    resolver: http_wire.Resolver | None = None,
    environment: Mapping[str, str] | None = None,
    hook_judge: HookJudge | None = None,
) -> list[Binding]:
    """Returns the git tools `git.status`, `diff`, `log`, `add`, `commit`, `revert`, `clone`, `pull` and `push`.

    `hook_judge` decides whether a hook may run; without it, no hook runs. `environment` gives the user's home; it
    defaults to `os.environ`. `resolver` resolves host names; it defaults to the system's resolver.
    """

    @functools.cache
    def tools() -> git_tools.GitTools:
        directories = git_user.user_directories(os.environ if environment is None else environment)
        return git_tools.GitTools(runner, directories, hook_judge, commits=_COMMITS)

    @functools.cache
    def remote() -> git_remote_tools.RemoteGitTools:
        directories = git_user.user_directories(os.environ if environment is None else environment)
        find = http_wire.system_resolver if resolver is None else resolver
        return git_remote_tools.RemoteGitTools(runner, address_judge, find, directories, hook_judge)

    def walls() -> dict[str, str]:
        return runner.enclosure.posture()

    def connecting() -> dict[str, str]:
        enclosure = runner.enclosure
        return enclosure.posture("proxied" if enclosure.profile == "ns" else "ports")

    local = [*_reading(tools), *_changing(tools)]
    return [
        *(msgspec.structs.replace(one, walls=walls) for one in local),
        *(msgspec.structs.replace(one, walls=connecting) for one in _connecting(remote)),
    ]


def _reading(tools: Callable[[], git_tools.GitTools]) -> list[Binding]:
    return [
        _binding(
            "git.status",
            "Show what is checked out, changed and staged. Only the commit of a submodule is compared.",
            lambda given, ctx: tools().status(given, ctx),
            {"path": _repository()},
            {
                "branch": _NULLABLE,
                "commit": _NULLABLE,
                "upstream": _NULLABLE,
                "ahead": {"type": ["integer", "null"]},
                "behind": {"type": ["integer", "null"]},
                "clean": _FLAG,
                "entries": _rows({"path": _SHOWN_PATH, "index": _TEXT, "worktree": _TEXT}, {"from": _SHOWN_PATH}),
                "truncated": _FLAG,
                "not_read": {
                    "type": "array",
                    "items": _TEXT,
                    "description": "Settings of the user's git configuration that these tools ignore.",
                },
            },
            read_only=True,
        ),
        _binding(
            "git.diff",
            "Differences in the working tree, staged (`staged`), or against a commit (`ref`). Renames are not detected; an "
            "unmerged file is compared with our side. Shows up to 128 KiB of lines per file and 1 MiB in all "
            "(`truncated`); the counts cover the whole file.",
            lambda given, ctx: tools().diff(given, ctx),
            {"path": _repository(), "ref": _REF, "staged": _FLAG, "paths": _paths("Only these.")},
            {"files": _rows(_CHANGED), "truncated": _FLAG},
            read_only=True,
        ),
        _binding(
            "git.log",
            "List commits, newest first.",
            lambda given, ctx: tools().log(given, ctx),
            {
                "path": _repository(),
                "ref": _REF,
                "paths": _paths("Only commits that touch these paths."),
                "max_count": {"type": "integer", "minimum": 1, "maximum": 1000, "default": _COMMITS},
            },
            {"commits": {"type": "array", "items": {"type": "object"}}, "truncated": _FLAG},
            read_only=True,
        ),
    ]


def _changing(tools: Callable[[], git_tools.GitTools]) -> list[Binding]:
    staged = _rows({"path": _SHOWN_PATH, "status": _TEXT})
    committed = {
        "commit": _NULLABLE,
        "branch": _NULLABLE,
        "files": staged,
        "truncated": _FLAG,
        "path": _SHOWN_PATH,
        "undo": _MOVE,
        **_HOOKS,
    }
    return [
        _binding(
            "git.add",
            "Stage paths as they are now, including deletions. With `restore`: undo an earlier `git.add` instead, "
            "unless someone else has staged or unstaged those paths since.",
            lambda given, ctx: tools().add(given, ctx),
            {
                "path": _repository(),
                "paths": {**_paths("Files and directories to stage."), "minItems": 1},
                "restore": {
                    "type": "string",
                    "pattern": "^[0-9a-f]{40,64}$",
                    "description": "From the output of the earlier call.",
                },
            },
            {"staged": staged, "truncated": _FLAG, "restore": _TEXT, "path": _SHOWN_PATH, **_HOOKS},
            one_of=("paths", "restore"),
            compensation=_back("git.add", "restore"),
        ),
        _binding(
            "git.commit",
            'Commit what is staged. Hooks run only with `[git] hooks = "run"`; nothing is signed. With `undo`: undo an earlier '
            "commit instead, by moving the branch; index and files stay as they are.",
            lambda given, ctx: tools().commit(given, ctx),
            {
                "path": _repository(),
                "message": {"type": "string", "minLength": 1, "maxLength": 65_536},
                "undo": _MOVE,
            },
            committed,
            one_of=("message", "undo"),
            compensation=_back("git.commit", "undo"),
        ),
        _binding(
            "git.revert",
            "Make a commit that reverts another one; if that fails, nothing is changed. With `undo`: undo an earlier "
            "revert instead, including its files.",
            lambda given, ctx: tools().revert(given, ctx),
            {"path": _repository(), "commit": _REF, "undo": _MOVE},
            {**committed, "reverted": _NULLABLE},
            one_of=("commit", "undo"),
            compensation=_back("git.revert", "undo"),
        ),
    ]


def _back(tool: str, field: str) -> CompensationTemplate:
    """Returns the compensation of a tool that undoes its own calls: it takes the call's output and repository."""
    return CompensationTemplate(tool=tool, parameters={field: f"$output.{field}", "path": "$output.path"})


def _connecting(tools: Callable[[], git_remote_tools.RemoteGitTools]) -> list[Binding]:
    return [
        _binding(
            "git.clone",
            "Clone a repository into a new directory. Submodules are not fetched.",
            lambda given, ctx: tools().clone(given, ctx),
            {"url": _URL, "path": _path("write", "The directory to create."), "branch": _BRANCH},
            {"path": _SHOWN_PATH, "commit": _NULLABLE, "branch": _NULLABLE, **_HOOKS},
            required=("url", "path"),
            open_world=True,
        ),
        _binding(
            "git.pull",
            "Fetch a branch and fast-forward to it; refused if that would need a merge.",
            lambda given, ctx: tools().pull(given, ctx),
            {"url": _URL, "path": _repository(), "branch": _BRANCH},
            {"commit": _TEXT, "before": _NULLABLE, "branch": _TEXT, "updated": _FLAG, **_HOOKS},
            required=("url",),
            open_world=True,
        ),
        _binding(
            "git.push",
            'Push a branch to the branch of the same name, never forced. A `pre-push` hook runs only with `[git] hooks = "run"`.',
            lambda given, ctx: tools().push(given, ctx),
            {"url": _URL, "path": _repository(), "branch": _BRANCH},
            {"commit": _TEXT, "branch": _TEXT, "updated": _FLAG, "created": _FLAG, **_HOOKS},
            required=("url",),
            open_world=True,
        ),
    ]


def _binding(
    name: str,
    description: str,
    function: Function,
    parameters: dict[str, Any],
    returns: dict[str, Any],
    *,
    required: tuple[str, ...] = (),
    one_of: tuple[str, ...] = (),
    read_only: bool = False,
    open_world: bool = False,
    compensation: CompensationTemplate | None = None,
) -> Binding:
    schema = _object(parameters, required)
    if one_of:
        schema["oneOf"] = [{"required": [name]} for name in one_of]
    reversibility: Reversibility = "compensable" if compensation is not None else "irreversible"
    tool = Tool(
        name=name,
        description=description,
        parameters=schema,
        returns=_object(returns, tuple(returns)),
        read_only=read_only,
        destructive=not read_only,
        open_world=open_world,
        reversibility="reversible" if read_only else reversibility,
        compensation=compensation,
        timeout_ms=_TIMEOUT_MS,
        isolation="process",
        tags=("git", "read_only") if read_only else ("git",),
    )
    return Binding(tool=tool, function=function, writes="nothing" if read_only else "anywhere")


def _path(access: str, description: str) -> dict[str, Any]:
    return {"anyOf": _PATH_FORMS, "x-interlock": f"path.{access}", "description": description}


def _repository() -> dict[str, Any]:
    return {**_path("read", _REPOSITORY), "default": "."}


def _paths(description: str) -> dict[str, Any]:
    return {
        "type": "array",
        "items": _path("read", "In the workspace."),
        "maxItems": 10_000,
        "description": description,
    }


def _rows(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": "array", "items": _object({**required, **(optional or {})}, tuple(required))}


def _object(properties: dict[str, Any], required: tuple[str, ...]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}
