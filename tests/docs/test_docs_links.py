"""Links lead somewhere, and nothing names the machine that a page was written on."""

from __future__ import annotations

import re
from pathlib import Path

import docs_pages
import pytest

_LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")
_MACHINE = re.compile(r"(?<![\w.])/(?:work|root|home/\w+|tmp|Users|mnt)/|site-packages")


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        found.add(slug)
    return found


@pytest.mark.parametrize("page", docs_pages.PAGES, ids=docs_pages.name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(prose(page)):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{target}: there is no such file"
        assert path.is_relative_to(docs_pages.ROOT), f"{target}: leads out of the repository"
        if anchor:
            assert anchor in anchors(path), f"{target}: there is no such heading"


@pytest.mark.parametrize("page", docs_pages.PAGES, ids=docs_pages.name_of)
def test_no_page_names_a_machine(page: Path) -> None:
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        assert not _MACHINE.search(line), f"line {number}: {line}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    todo = [docs_pages.ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        for target in _LINK.findall(prose(page)):
            if "://" not in target:
                path = (page.parent / target.partition("#")[0]).resolve()
                if path.is_file():
                    todo.append(path)
    missing = [docs_pages.name_of(page) for page in docs_pages.PAGES if page not in seen]
    assert missing == []


_TESTS = {
    name
    for path in (docs_pages.ROOT / "tests").rglob("test_*.py")
    for name in (path.stem, *re.findall(r"^(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
}


@pytest.mark.parametrize("page", docs_pages.PAGES, ids=docs_pages.name_of)
def test_the_tests_that_a_page_names_are_there(page: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", prose(page)))
    assert named <= _TESTS
