"""Reads one line of a member: strict JSON that fits its schema and belongs to this run."""

from __future__ import annotations

from typing import Final

from interlock.verification.facts import Facts, Line
from interlock.verification.schemas import Check
from interlock.verification.strict_json import StrictJsonError, parse_object

SEQ_MAX: Final = 2**53 - 1


def read_line(line: bytes, check: Check, where: str, facts: Facts) -> Line | None:
    """Returns the value of a line; None, with a finding, if the line is invalid. The first valid line determines the run."""
    try:
        if not line.endswith(b"\n"):
            raise StrictJsonError("json_invalid", "the last line does not end with a newline")  # noqa: TRY301
        value = parse_object(line[:-1])
    except StrictJsonError as error:
        facts.findings.add(error.code, where, str(error))
        return None
    wrong = check(value)
    if wrong is None and value["seq"] > SEQ_MAX:
        wrong = "a number beyond 2^53 - 1 - at `.seq`"
    if wrong is not None:
        facts.findings.add("schema_invalid", where, wrong)
        return None
    if value["run_id"] != facts.run_id:
        if facts.run_id is not None:
            facts.findings.add(
                "run_id_mismatch", where, f"it belongs to run `{value['run_id']}`, not to `{facts.run_id}`"
            )
            return None
        facts.run_id = value["run_id"]
    return value
