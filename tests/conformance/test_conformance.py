"""Each behaviour of the four sources is a row, and each row is run."""

from pathlib import Path

import conformance_capsules  # noqa: F401 - it declares rows
import conformance_rows  # noqa: F401 - the same
import pytest
from conformance_table import FUNCTIONS, ROWS, markdown

PAGE = Path(__file__).parents[2] / "docs/why/conformance.md"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.function}: {row.behaviour[:60]}")
def test_row(row, bench):
    row.check(bench)


@pytest.mark.parametrize("source", FUNCTIONS)
def test_every_function_of_a_source_has_a_row(source):
    assert {row.function for row in ROWS if row.source == source} == set(FUNCTIONS[source])


def test_a_row_that_does_otherwise_says_why():
    assert [row.behaviour for row in ROWS if (row.ours != "the same") is not bool(row.differs)] == []


def test_the_page_holds_the_table():
    table = markdown()
    assert table in PAGE.read_text(encoding="utf-8"), "run: python tests/conformance/conformance_table.py"
