"""The published schemas are those of what is written, and the page names each of them."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema_rs
import pytest

from interlock.evidence import format as form
from interlock.evidence import published

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "evidence-format.md"
FILES = sorted(published.DIRECTORY.glob("*.schema.json"))


def test_the_schemas_are_current() -> None:
    for name, data in published.schema_files().items():
        assert (published.DIRECTORY / name).read_bytes() == data, "run: python -m interlock.evidence.published"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_schema_is_valid_and_on_the_page(path: Path) -> None:
    schema = json.loads(path.read_bytes())
    jsonschema_rs.meta.validate(schema)
    assert f"`{path.name.removesuffix('.schema.json')}`" in PAGE.read_text(encoding="utf-8")


def test_the_page_names_each_member_and_note() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert all(f"| `{member}` |" in page for member in form.MEMBERS)


def test_an_event_line_is_checked_by_its_kind() -> None:
    check = jsonschema_rs.validator_for(json.loads((published.DIRECTORY / "event-line.schema.json").read_bytes()))
    common = {"schema": published.EVENT_SCHEMA, "run_id": "run_a", "seq": 3, "ts": 1, "mono": 1}
    check.validate({**common, "kind": "command_finished", "exit_code": 0, "success": True, "window_elapsed_ms": 5})
    check.validate({**common, "kind": "of_a_later_version", "anything": []})
    wrong = (
        {**common, "kind": "command_finished", "exit_code": 0, "success": "yes", "window_elapsed_ms": 5},
        {**common, "kind": "seal"},
        {"kind": "run_finished", "status": "succeeded", "seq": 1, "ts": 1, "mono": 1},
        {**common, "kind": "action_log", "message": "x", "sealed": "sha256:" + "0" * 64},
    )
    for line in wrong:
        assert not check.is_valid(line), line
