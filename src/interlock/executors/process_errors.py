"""The errors of programs that cannot start or are stopped."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Any

from interlock.isolation.wire import Failure
from interlock.model.errors import ToolError


def checked_argv(argv: Sequence[str]) -> list[str]:
    """Returns `argv` as a list. Raises: ToolError `invalid_parameters`."""
    if not argv or not argv[0] or any("\0" in part for part in argv):
        raise ToolError(
            "the program is missing (its name is empty), or an argument contains a NUL character",
            code="invalid_parameters",
            path="$.parameters",
            retryable=False,
        )
    return list(argv)


def stopped_error(partial: Any, *, late: bool) -> ToolError:
    """Returns the error for a program that was stopped at the deadline, if `late`, or because its action was cancelled."""
    return ToolError(
        "stopped at its time-out" if late else "stopped because the action was cancelled",
        code="timeout" if late else "cancelled",
        output=partial,
    )


def spawn_error(failure: Failure) -> ToolError:
    """Returns the error for a program that could not start.

    `output.why` is stable. The message never contains the program's name, because that is a parameter.
    """
    step, number = failure["step"], failure["errno"]
    why, message, hint = "failed", f"the program could not be started ({step}): {os.strerror(number)}", None
    match step, number:
        case "exec", errno.ENOENT:
            why, message = "not_found", "the program was not found"
            hint = (
                "programs are looked up in Interlock's PATH; for a script, the interpreter in its first line must exist too; "
                "behind walls, a directory outside PATH is seen only if `[isolation] read`, or `reads` of a server, names it"
            )
        case "exec", errno.EACCES:
            why, message = "not_executable", "the program was found but cannot be executed"
            hint = "it is a directory, has no execute permission, or its file system forbids execution"
        case "exec", errno.ENOEXEC:
            why, message = "not_a_program", "the file is not a program that this machine can run"
            hint = "a script needs a first line such as `#!/bin/sh`"
        case "exec", errno.E2BIG:
            why, message = "too_long", "arguments and environment together exceed the kernel's limit"
            hint = "pass the data through `stdin` or a file"
        case "cwd", _:
            why, message = "bad_cwd", f"the working directory cannot be entered: {os.strerror(number)}"
        case "home", _:
            why, message = "no_home", f"the action's HOME could not be created in /tmp: {os.strerror(number)}"
        case "view", _:
            why, message = "no_view", f"the proposal's layer cannot be entered: {os.strerror(number)}"
        case "hidden", _:
            return ToolError(
                "the state directory is inside a directory that processes may read, and only namespaces could hide it",
                code="isolation_failed",
                retryable=False,
                output={"why": step, "errno": errno.errorcode.get(number, str(number))},
                hint="nothing has run; set INTERLOCK_STATE_DIR to another directory, or remove it from `isolation.read`",
            )
        case (("namespaces" | "network" | "root" | "capabilities" | "landlock" | "seccomp" | "recorder"), _):
            return ToolError(
                f"the walls around the program could not be raised ({step}): {os.strerror(number)}",
                code="isolation_failed",
                retryable=False,
                output={"why": step, "errno": errno.errorcode.get(number, str(number))},
                hint="nothing has run; `interlock doctor` shows what this machine supports, and how to enable the rest",
            )
        case "fork", _:
            why, message = "no_process", f"the machine's process limit is reached: {os.strerror(number)}"
    return ToolError(
        message,
        code="spawn_failed",
        retryable=step == "fork",
        output={"why": why, "errno": errno.errorcode.get(number, str(number))},
        hint=hint,
    )
