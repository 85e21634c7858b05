"""The table: what each function of the four sources does, what Interlock does, and why it differs where it does on purpose.

A row is a function that is run (`test_conformance`); `python tests/conformance/conformance_table.py` prints the table, which
`docs/why/conformance.md` holds.
"""

from typing import NamedTuple

RUNTIMO, CAR, SYMBI = "runtimo-core `executor.rs`", "car_engine `executor.rs`", "symbi-runtime `queue.rs`"
ASTRID = "astrid-capsule `engine/wasm/mod.rs`"

FUNCTIONS = {
    RUNTIMO: (
        "execute_with_telemetry", "execute_with_telemetry_and_session", "fail_result", "log_job_failed_with_snapshots",
        "execute_with_timeout_check",
    ),
    CAR: (
        "idempotency_key", "rejected_result", "skipped_result", "format_tool_result", "new", "with_shared", "with_inference",
        "with_learning", "with_executor", "set_executor", "with_event_log", "register_tool", "register_tool_schema",
        "tool_schemas", "set_cost_budget", "set_capabilities", "set_rate_limit", "enable_tool_cache", "execute",
        "process_action", "process_action_inner", "execute_with_retry", "dispatch", "save_checkpoint",
        "save_checkpoint_to_file", "load_checkpoint_from_file", "restore_checkpoint",
    ),
    SYMBI: (
        "new", "with_audit", "subscribe", "next_id", "enqueue", "list_pending_async", "resolve_async", "resolve_locked",
        "emit_audit",
    ),
    ASTRID: ("new", "load", "unload", "take_inbound_rx", "tools"),
}  # fmt: skip
"""Every function of the sources. One without a row is a behaviour that nobody has looked at."""


class Row(NamedTuple):
    """One behaviour."""

    source: str
    function: str
    behaviour: str
    ours: str
    differs: str
    check: object


ROWS: list[Row] = []


def row(source, function, behaviour, ours="the same", differs=""):
    """Declare the function as the check of a row. `differs` says why Interlock does otherwise on purpose."""

    def declare(check):
        ROWS.append(Row(source, function, behaviour, ours, differs, check))
        return check

    return declare


def markdown() -> str:
    """The table as the page holds it."""
    import conformance_capsules  # noqa: F401, PLC0415 - the same
    import conformance_rows  # noqa: F401, PLC0415 - it declares the rows

    lines = []
    for source in FUNCTIONS:
        lines += [f"## {source}", "", "| function | the source | Interlock | why it differs |", "|---|---|---|---|"]
        for one in ROWS:
            if one.source == source:
                cells = (f"`{one.function}`", one.behaviour, one.ours, one.differs or "")
                lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
    sys.modules["conformance_table"] = sys.modules["__main__"]
    print(markdown())
