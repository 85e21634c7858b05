"""Undoes changes of the git tools: the index from its record, a commit by moving the branch.

Both are compare and swap: the present state must be what the change left, or nothing is touched (`undo_conflict`).
Undoing `git.add` and `git.commit` never writes to the working tree, which belongs to people. Only `git.revert` changes
files, and `restore_files` restores those that are exactly as it left them. Each direction undoes the other.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

from interlock.executors import git_index
from interlock.executors import git_parse as parse
from interlock.executors.git_index import Change, Entries, IndexCopy
from interlock.executors.git_repository import Repository
from interlock.model.errors import ToolError
from interlock.workspace.names import parts, show

PUSHED: Final = "refs/interlock/pushed/"
"""Refs in which `git.push` records what it published, because git itself keeps no record of a push to a URL."""
MADE_BY: Final = "interlock "
"""The prefix of the reflog line of commits made by the git tools."""
_IN_PROGRESS: Final = {
    b"MERGE_HEAD": "merge",
    b"CHERRY_PICK_HEAD": "cherry-pick",
    b"REVERT_HEAD": "revert",
    b"SQUASH_MSG": "squashed merge",
    b"rebase-merge": "rebase",
    b"rebase-apply": "rebase",
    b"sequencer": "cherry-pick or revert of several commits",
}
_REFLOG: Final = 10_000
_SHOWN: Final = 10


def in_progress(repository: Repository) -> str | None:
    """Returns the name of the operation in progress, for people (`merge`); None if there is none."""
    for name, what in _IN_PROGRESS.items():
        try:
            os.stat(name, dir_fd=repository.git_fd, follow_symlinks=False)
        except FileNotFoundError:
            continue
        return what
    return None


async def conflict_of(repository: Repository) -> str:
    """Identifies the conflict of the present unmerged entries: the checked-out commit, and the operation in progress."""
    found = [await repository.head() or "none"]
    for name in _IN_PROGRESS:
        try:
            os.stat(name, dir_fd=repository.git_fd, follow_symlinks=False)
        except FileNotFoundError:
            continue
        found.append(name.decode())
        if name.endswith(b"_HEAD"):
            other = await repository.run(
                "rev-parse", "--verify", "--quiet", name.decode(), read_only=True, expected=(0, 1, 128)
            )
            found.append(other.stdout.decode("ascii", "replace").strip())
    return " ".join(found)


def need_rest(repository: Repository) -> None:
    """Refuse to work while an operation is in progress. Raises: ToolError `git_conflict`."""
    if (what := in_progress(repository)) is not None:
        raise ToolError(
            f"a {what} is in progress in this repository; nothing was changed",
            code="git_conflict",
            retryable=False,
            hint="finish or abort it first",
        )


# --- the index


async def restore_index(repository: Repository, blob: str) -> str:
    """Undo an index change from its record. Returns the id of the undo's own record.

    Raises: ToolError `undo_conflict` if a path is not as the change left it; nothing was touched then.
    """
    record = await git_index.read_record(repository, blob)
    for change in record.changes:
        repository.place(change.name)  # raises for paths outside the workspace
    with IndexCopy(repository) as copy:
        now = await git_index.entries(repository, copy.environment)
        head = await git_index.head_entries(repository, await repository.head())
        if (unmerged := record.unmerged) and record.conflict != await conflict_of(repository):
            raise conflict(f"the merge (or rebase, or cherry-pick) that left {_named(unmerged)} unmerged is over")
        _compare(record.changes, now, head)
        await _need_other_copies(repository, copy, record.changes)
        await _apply(repository, copy, record.changes)
        wanted = {**now, **{change.name: change.before for change in record.changes}}
        if await git_index.entries(repository, copy.environment) != {k: v for k, v in wanted.items() if v}:
            raise conflict("git could not restore the entries of the index")
        again = await git_index.write_record(repository, record.reversed())
        copy.publish()
    return again


def _compare(changes: Sequence[Change], now: Entries, head: dict[bytes, str]) -> None:
    """Raises: ToolError `undo_conflict` unless every path is as the change left it."""
    other = [c.name for c in changes if now.get(c.name, ()) != c.after]
    if other:
        raise conflict(f"staged or unstaged since by someone else: {_named(other)}")
    other = [c.name for c in changes if head.get(c.name) != c.head]
    if other:
        raise conflict(f"the checked-out commit now has another version of {_named(other)}")
    wanted = {c.name for c in changes if c.before}
    in_the_way = git_index.above_and_below(wanted, now.keys() - {c.name for c in changes})
    if in_the_way:
        raise conflict(f"staged since by someone else: {_named(sorted(in_the_way))}")


async def _need_other_copies(repository: Repository, copy: IndexCopy, changes: Sequence[Change]) -> None:
    """Refuse if content removed from the index exists nowhere else: not in the file, the commit, or the restored entries.

    A person who staged a file relies on its content being safe, and may have changed or deleted the file since.
    """
    dropped = {c.name for c in changes if _contents(c.after) - _contents(c.before) - _contents((c.head or "",))}
    if not dropped:
        return
    result = await repository.run(
        "diff", "--name-only", "--no-renames", "--no-ext-diff", "--ignore-submodules=dirty", "-z", *repository.scope,
        read_only=True, environment=copy.environment, output_bytes_max=git_index.LISTING_BYTES,
    )  # fmt: skip
    alone = sorted(dropped & set(parse.records(result.stdout)))
    if alone or result.truncated:
        raise conflict(f"the index holds the only copy of a version of {_named(alone)}")


def _contents(entries: Sequence[str]) -> set[str]:
    """`MODE ID` of the entries that have content; intent-to-add entries have none."""
    return {" ".join(entry.split(" ")[:2]) for entry in entries if "n" not in entry[-2:]}


async def _apply(repository: Repository, copy: IndexCopy, changes: Sequence[Change]) -> None:
    lines: list[bytes] = []
    flagged: dict[str, list[bytes]] = {}
    for change in changes:
        empty = b"0" * 40
        lines += [b"0 %s\t%s" % (empty, change.name)] if change.after else []
        for entry in change.before:
            mode, blob, stage, flags = entry.split(" ")
            for flag in flags.replace("-", ""):
                flagged.setdefault(flag, []).append(change.name)
            if "n" not in flags:
                lines.append(f"{mode} {blob} {stage}\t".encode() + change.name)
    await repository.run(
        "update-index", "-z", "--index-info", stdin=b"".join(line + b"\0" for line in lines),
        environment=copy.environment,
    )  # fmt: skip
    if intended := flagged.pop("n", []):
        missing = [name for name in intended if not repository.exists(name)]
        if missing:
            raise conflict(f"these intent-to-add files are gone: {_named(missing)}")
        await repository.run(
            "add", "--intent-to-add", "--force", "--pathspec-from-file=-", "--pathspec-file-nul",
            stdin=b"\0".join(repository.from_here(name) for name in intended), environment=copy.environment,
        )  # fmt: skip
    for flag, names in flagged.items():
        option = {"a": "--assume-unchanged", "s": "--skip-worktree"}[flag]
        await repository.run(
            "update-index", option, "-z", "--stdin",
            stdin=b"".join(repository.from_here(name) + b"\0" for name in names), environment=copy.environment,
        )  # fmt: skip


# --- commits


async def move_branch(repository: Repository, move: dict[str, Any], *, restore_files: bool) -> dict[str, Any]:
    """Move the checked-out branch from one commit to its parent, or back. Returns the move that undoes this one.

    `move` is `{ref, from, to, concluded}`: `ref` is the branch (null if none was checked out), `from` and `to` are
    commits (null where the branch has none yet). The index is not changed, nor is the working tree unless
    `restore_files`.

    Raises: ToolError `undo_conflict` (nothing was touched), `ref_invalid`.
    """
    ref, source, target = move["ref"], move["from"], move["to"]
    if move.get("concluded"):
        raise conflict(f"the commit concluded a {move['concluded']}, which cannot be reopened")
    if await repository.head_ref() != ref:
        raise conflict("another branch is checked out now" if ref else "a branch is checked out now")
    if await repository.head() != source:
        raise conflict("the checked-out branch is at another commit now")
    if (what := in_progress(repository)) is not None:
        raise conflict(f"a {what} is in progress")
    forward = target is not None and await _parents(repository, target) == ([] if source is None else [source])
    if not forward and (source is None or await _parents(repository, source) != ([] if target is None else [target])):
        raise ToolError("neither commit is the parent of the other", code="ref_invalid", retryable=False)
    child = target if forward else source
    there = source if restore_files else child  # the index entries move only together with the files
    changed = await changed_paths(repository, None if forward and source is None else source, target)
    staged = await repository.run(
        "diff", "--cached", "--name-only", "--no-renames", "--no-ext-diff", "--ignore-submodules=dirty", "-z", there,
        read_only=True, output_bytes_max=git_index.LISTING_BYTES,
    )  # fmt: skip
    other = sorted(set(parse.records(staged.stdout)) & {name for _, name in changed})
    if other or staged.truncated:
        raise conflict(f"staged or unstaged since by someone else: {_named(other)}")
    if not forward:
        await _need_own(repository, child)
    if restore_files:
        await _move_with_files(repository, ref, source, target, changed)
    else:
        await _swap(repository, ref, source, target)
    return {"ref": ref, "from": target, "to": source, "concluded": None}


async def _need_own(repository: Repository, commit: str) -> None:
    """Refuse to remove a commit from a branch unless these tools made it and it was not published."""
    log = await repository.run(
        "log", "-g", "-z", "--format=tformat:%H %gs", f"--max-count={_REFLOG}", "HEAD", "--", read_only=True,
        expected=(0, 128), output_bytes_max=git_index.LISTING_BYTES,
    )  # fmt: skip
    mark = f"{commit} {MADE_BY}".encode()
    if not any(line.startswith(mark) for line in log.stdout.split(b"\0")):
        raise conflict("the reflog does not show that an Interlock run made the commit")
    published = await repository.run(
        "for-each-ref", "--count=1", f"--contains={commit}", "--format=%(refname)", "refs/remotes", PUSHED,
        read_only=True,
    )  # fmt: skip
    if published.stdout.strip():
        raise conflict("the commit has been published (pushed)")


async def _swap(repository: Repository, ref: str | None, source: str | None, target: str | None) -> None:
    """Compare and swap the branch (or a detached HEAD). Raises: ToolError `undo_conflict`."""
    names = (["--no-deref", "HEAD"] if ref is None else [ref], [source or "0" * len(target or "")])
    arguments = ["-d", *names[0], source or ""] if target is None else [*names[0], target, *names[1]]
    result = await repository.run(
        "update-ref",
        "-m",
        f"{MADE_BY}undo",
        *arguments,
        expected=(0, 1, 128),
        settings={"core.logAllRefUpdates": "true"},
    )
    if result.exit_code != 0:
        raise conflict("another program has moved the branch")


async def _move_with_files(
    repository: Repository,
    ref: str | None,
    source: str | None,
    target: str | None,
    changed: list[tuple[str, bytes]],
) -> None:
    """Move the index, the files and the branch, all or nothing. Refused if a file differs from its version in `source`."""
    if source is None or target is None:
        raise ToolError("undoing a revert needs two commits", code="ref_invalid", retryable=False)
    repository.check_changes([name for _, name in changed])
    refuse_overwrites(repository, changed, "undo_conflict")
    look = await repository.run("read-tree", "-n", "-m", "-u", source, target, expected=(0, 1, 128))
    if look.exit_code != 0:
        raise conflict("someone else has changed a file that it changed")
    await _swap(repository, ref, source, target)
    done = await repository.run("read-tree", "-m", "-u", source, target, expected=(0, 1, 128))
    if done.exit_code != 0:
        await _swap(repository, ref, target, source)
        raise conflict("someone else has changed a file that it changed")


async def _parents(repository: Repository, commit: str) -> list[str]:
    line = await repository.text("rev-list", "--no-walk", "--parents", await repository.commit_id(commit))
    return line.split()[1:]


async def first_parent(repository: Repository, commit: str) -> str | None:
    """Returns the first parent of a commit; None for a root commit."""
    return next(iter(await _parents(repository, commit)), None)


async def changed_paths(repository: Repository, source: str | None, target: str | None) -> list[tuple[str, bytes]]:
    """Returns the status letter (`A`, `M`, `D`, `T`) and path of each difference between two commits.

    None is an empty tree.

    Raises: ToolError `limit_exceeded`.
    """
    if source is None or target is None:
        names = await git_index.head_entries(repository, source or target)
        return [("A" if source is None else "D", name) for name in names]
    result = await repository.run(
        "diff-tree", "-r", "--no-commit-id", "--no-renames", "--name-status", "-z", source, target, read_only=True,
        output_bytes_max=git_index.LISTING_BYTES,
    )  # fmt: skip
    if result.truncated:
        raise ToolError("the change touches too many files to check", code="limit_exceeded", retryable=False)
    fields = parse.records(result.stdout)
    return [(status.decode(), name) for status, name in zip(fields[::2], fields[1::2], strict=True)]


def refuse_overwrites(repository: Repository, changed: Sequence[tuple[str, bytes]], code: str = "git_conflict") -> None:
    """Refuse a change that would overwrite untracked files, because git overwrites ignored files silently."""
    taken = [name for status, name in changed if status == "A" and repository.exists(name, blocked=True)]
    if taken:
        raise ToolError(
            f"the change would overwrite files that are not in the repository: {_named(taken)}; nothing was changed",
            code=code,
            retryable=False,
            hint="move them elsewhere",
        )


def conflict(why: str) -> ToolError:
    """Returns the error for an undo that touched nothing."""
    return ToolError(f"{why}; nothing was touched", code="undo_conflict", retryable=False)


def _named(names: Sequence[bytes]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"`{show(parts(name))}`" for name in names[:_SHOWN]) + more
