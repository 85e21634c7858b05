"""`interlock exec --agent NAME`: runs the command as an action of that agent, through the gate."""

from __future__ import annotations

import base64
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from interlock.model.errors import HeldError, InterlockError, StoreError, UsageError
from interlock.model.result import CallResult
from interlock.surfaces.cli.open_project import runtime
from interlock.surfaces.cli.output import Output, clean
from interlock.surfaces.cli.running import run_at_terminal

OWN_ONLY: Final = ("run_id", "platform", "shim", "clean", "profile", "network", "recorder", "timeout", "spec_file")
"""Options for a person's own command only. For an agent's command, rules and settings decide."""


def refuse_own(given: Sequence[str]) -> None:
    """Raises: UsageError if an option is given that cannot be combined with `--agent`."""
    for name in OWN_ONLY:
        if name in given:
            option = {"shim": "agent-shim", "clean": "env-clean", "spec_file": "spec"}.get(name, name.replace("_", "-"))
            raise UsageError(
                f"`--{option}` cannot be combined with `--agent`: the rules and `[isolation]` apply to an agent's command",
                hint=f"remove `--{option}` or `--agent`",
            )


def exec_as_agent(out: Output, agent: str, command: Sequence[str], env: Mapping[str, str]) -> CallResult:
    """Run a command as the tool `exec` of an agent. Its output is printed when it ends.

    Raises: HeldError if no one answered in time; ConfigurationError; UsageError; StoreError.
    """
    parameters: dict[str, Any] = {"argv": list(command), "check": False}
    if env:
        parameters["env"] = dict(env)
    with runtime(out, offer_trust=True) as opened:
        result = run_at_terminal(out, opened, lambda: opened.call("exec", parameters, agent=agent))
    output = result.output if isinstance(result.output, dict) else {}
    for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr)):
        data = _bytes_of(output.get(name), output.get(f"{name}_encoding"))
        stream.flush()
        stream.buffer.write(data)
        stream.buffer.flush()
    if output.get("truncated"):
        out.warn("the output exceeded the limit: part of it is missing")
    return result


def status_of(result: CallResult) -> int | None:
    """The command's exit status in the shell's convention; None if it did not complete."""
    output = result.output if isinstance(result.output, dict) else {}
    if isinstance(output.get("exit_code"), int):
        return int(output["exit_code"])
    if isinstance(output.get("signal"), str):
        return 128 + int(getattr(signal, output["signal"], 0))
    if result.reason == "spawn_failed":
        return 127 if output.get("why") == "not_found" else 126
    return None


def problem_of(result: CallResult) -> InterlockError | None:
    """Why the command did not run, or did not complete; None if it did."""
    if result.ok:
        return None
    message = clean(f"{result.error or result.status} (run `{result.run_id}`)")
    asked = result.status == "rejected" or result.reason in ("spawn_failed", "stopped")
    kind = UsageError if asked else StoreError
    return kind(message, code=result.reason or "command_failed")


def held_hint(error: HeldError) -> None:
    """Set the hint to the commands that continue."""
    error.hint = f"`interlock approvals approve {error.approval}`, then `interlock resume {error.run_id}`"


def _bytes_of(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str):
        return b""
    return base64.b64decode(text) if encoding == "base64" else text.encode("utf-8", "surrogateescape")
