"""The errors of Interlock: one tree, one stable code each, always stating whose fault it is and what to do.

An error has fields, so that nobody needs to parse its text: `code` (stable, snake_case), `message` (one line, user
input in backticks), `path` (where: a field path such as `$.actions[3].tool`, or `file:line`), `hint` (what to do next)
and `fault` (who has to act). Messages never contain secrets, an agent's parameter values, or a traceback.

A surface turns an error into `{"error": {"code", "message", "path?", "hint?"}}` and the exit code of its class.
"""

from __future__ import annotations

from typing import Any, Literal

Fault = Literal["user", "agent", "tool", "machine", "interlock"]


class InterlockError(Exception):
    """The base class of all errors that Interlock raises on purpose.

    `code` must be a key of `interlock.model.codes.ERROR_CODES`, where it is documented.
    """

    exit_code: int = 5
    fault: Fault = "interlock"
    default_code: str = "internal"

    def __init__(
        self, message: str, *, code: str | None = None, path: str | None = None, hint: str | None = None
    ) -> None:
        """Create an error. `message` is one line that says what failed."""
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.path = path
        self.hint = hint
        for label, value in (("where", path), ("do", hint)):
            if value is not None:  # also as notes, so that the traceback of an uncaught error shows them
                self.add_note(f"{label}: {value}")

    def as_dict(self) -> dict[str, str]:
        """The body of `{"error": ...}` as every surface prints it."""
        out = {"code": self.code, "message": self.message}
        if self.path is not None:
            out["path"] = self.path
        if self.hint is not None:
            out["hint"] = self.hint
        return out


class UsageError(InterlockError):
    """The caller asked for something impossible: a bad flag, a missing file, an unknown run."""

    exit_code = 2
    fault: Fault = "user"
    default_code = "usage"


class ConfigurationError(InterlockError):
    """`interlock.toml`, a policy or another file that the loader reads is invalid or not trusted."""

    exit_code = 2
    fault: Fault = "user"
    default_code = "configuration"


class ProposalError(InterlockError):
    """A proposal is malformed (step 1). It had no effect at all."""

    exit_code = 2
    fault: Fault = "agent"
    default_code = "malformed_proposal"


class StoreError(InterlockError):
    """The machine could not store something: disk full, read-only, locked, failed fsync. Nothing was acknowledged."""

    exit_code = 5
    fault: Fault = "machine"
    default_code = "store"


class IntegrityError(InterlockError):
    """A journal, an archive or the database is damaged, truncated or edited."""

    exit_code = 4
    fault: Fault = "machine"
    default_code = "integrity"


class ConflictError(InterlockError):
    """Another process or person changed the data that this step is based on: a file since its backup, an answered hold."""

    exit_code = 1
    fault: Fault = "user"
    default_code = "conflict"


class HeldError(InterlockError):
    """A call waits for a person.

    `held`: it waits for an approval, and the caller asked not to wait. Nothing of the call was run except the actions
    in `done`. Answer with `runtime.approvals` or `interlock approvals`; then the same call with the same `call_id`, or
    `await runtime.runs.resume(error.run_id)`, continues.

    `unknown_outcome`: an earlier process died during the call, and only a person can settle the outcome.
    """

    exit_code = 3
    fault: Fault = "user"
    default_code = "held"

    def __init__(self, message: str, *, approval: str, run_id: str, tool: str, code: str | None = None) -> None:
        """`approval` is the id of the hold, `run_id` the run that waits, `tool` the tool's own name."""
        if code == "unknown_outcome":
            answer = f'`await runtime.runs.resume("{run_id}", {{"call": "again"}})`, "succeeded", "failed" or "undo"'
            hint = f"{answer}; then repeat the call"
        else:
            answer = f'`runtime.approvals.approve("{approval}")` or `interlock approvals approve {approval}`'
            hint = f'{answer}; then repeat the call, or `await runtime.runs.resume("{run_id}")`'
        super().__init__(message, code=code, hint=hint)
        self.approval = approval
        self.run_id = run_id
        self.tool = tool
        self.done: tuple[str, ...] = ()
        """The completed actions of a call that stands for several (`skills.run`)."""
        self.messages: list[dict[str, Any]] = []
        """For `execute_tool_calls`: the results of the calls before this one, in the vendor's format."""


class ToolError(InterlockError):
    """Raised (or returned) by a tool to report its failure.

    `output` is kept and returned with the failed action (for example the exit code and the standard error of a
    command). `retryable=False` disables `failure_behavior: retry`. `unknown_outcome=True`: the call may have had its effect,
    or may still have it. It is recorded so, and is not retried; a tool that only reads ignores it.
    """

    exit_code = 1
    fault: Fault = "tool"
    default_code = "tool_failed"
    at: tuple[bytes, ...] | None = None
    """The path beneath the workspace's root that could not be changed, if many are changed at once. Not in the message."""

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        retryable: bool = True,
        unknown_outcome: bool = False,
        output: object = None,
        path: str | None = None,
        hint: str | None = None,
    ) -> None:
        """Create a tool failure; `output` is any JSON value worth keeping. The caller gets message and hint as one text."""
        super().__init__(message, code=code, path=path, hint=hint)
        self.retryable = retryable
        self.unknown_outcome = unknown_outcome
        self.output = output
