"""What the pages tell a reader to type works, and prints what they say."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import cedarpy
import docs_pages
import pytest

from interlock.model.decode import decode_proposal
from interlock.settings.decode import decode

ALL = [(page, block) for page in docs_pages.PAGES for block in docs_pages.blocks(page)]
READABLE = [
    page for page in docs_pages.PAGES if any(b.info.startswith(("console", "python")) for b in docs_pages.blocks(page))
]


@pytest.mark.parametrize("page", READABLE, ids=docs_pages.name_of)
def test_a_reader_gets_what_the_page_says(page: Path, tmp_path: Path) -> None:
    docs_pages.Reader(tmp_path, checkout=page.name == "README.md").read(page)


def test_there_is_something_to_read() -> None:
    names = {docs_pages.name_of(page) for page in READABLE}
    assert {"README.md", "docs/tutorial.md"} <= names


@pytest.mark.parametrize("language", ["json", "toml", "yaml", "cedar"])
def test_blocks_are_what_they_say(language: str) -> None:
    for page, block in ALL:
        if block.info.split()[:1] != [language]:
            continue
        where = f"{docs_pages.name_of(page)}:{block.line}"
        try:
            if language == "json":
                document = json.loads(block.text)
                if "actions" in document:
                    decode_proposal(block.text.encode())
            elif language == "toml":
                table = tomllib.loads(block.text)
                decode(table.get("tool", {}).get("interlock", table))
            elif language == "yaml":
                if "actions:" in block.text:
                    decode_proposal(block.text.encode(), format="yaml")
            else:
                assert cedarpy.policies_to_pst(block.text).static_policies
        except Exception as error:
            raise AssertionError(f"{where}: {error}") from error


def test_the_examples_are_proposals() -> None:
    examples = sorted((docs_pages.ROOT / "examples").glob("*.yaml"))
    assert len(examples) >= 3
    for example in examples:
        assert decode_proposal(example.read_bytes(), format="yaml").actions


def test_python_that_a_page_shows_and_nobody_types_is_a_whole_example() -> None:
    examples = {path.read_text() for path in (docs_pages.ROOT / "examples").rglob("*.py")}
    shown = [(f"{docs_pages.name_of(p)}:{b.line}", b.text) for p, b in ALL if b.info == "py"]
    assert shown
    assert [where for where, text in shown if text not in examples] == []


def test_every_block_has_a_language() -> None:
    known = {"console", "text", "json", "yaml", "toml", "cedar", "python", "py", "sh"}
    wrong = [f"{docs_pages.name_of(p)}:{b.line}" for p, b in ALL if b.info.split(" ")[0] not in known]
    assert wrong == []
