"""The reference says everything there is, and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import docs_pages
import msgspec
import pytest

import interlock
from interlock.model import codes, events, proposal, result
from interlock.model.limits import Limits
from interlock.policy.policies import ANNOTATIONS
from interlock.settings.overlay import NOT_SETTINGS

DOCS = docs_pages.ROOT / "docs"
REFERENCE = DOCS / "reference"
sys.path.insert(0, str(DOCS))

import generate  # noqa: E402 - the generator is beside the pages that it writes


def text_of(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", sorted(REFERENCE.glob("*.md")), ids=lambda p: p.name)
def test_generated_parts_are_current(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == generate.current(text), "run: python docs/generate.py"


def test_every_region_stands_on_a_page() -> None:
    used = re.findall(r"<!-- generated: ([a-z-]+) -->", "".join(map(Path.read_text, REFERENCE.glob("*.md"))))
    assert sorted(used) == sorted(generate.REGIONS)


def test_every_code_is_explained() -> None:
    page = text_of("codes.md")
    for code, text in {**codes.REASONS, **codes.ERROR_CODES, **codes.WARNINGS}.items():
        assert f"| `{code}` |" in page
        assert text.endswith((".", ")")), f"{code}: a sentence"


def test_every_tool_is_described(tmp_path: Path) -> None:
    page = text_of("tools.md")
    with interlock.Runtime.open(settings={}, workspace=tmp_path) as runtime:
        for tool in runtime.tools():
            assert f"\n## `{tool.name}`\n" in page
            assert tool.description, tool.name
            section = page.split(f"\n## `{tool.name}`\n")[1].split("\n## ")[0]
            for parameter in tool.parameters.get("properties", {}):
                assert f"| `{parameter}" in section, f"{tool.name}: {parameter}"


def test_every_setting_has_a_meaning() -> None:
    for line in text_of("configuration.md").splitlines():
        cells = [cell.strip() for cell in line.split(" | ")]
        if line.startswith("| `") and len(cells) == 5:
            assert cells[3], line


def test_variables_that_are_not_settings_are_listed() -> None:
    page = text_of("configuration.md")
    assert all(f"| `{name}` |" in page for name in NOT_SETTINGS)


def test_every_kind_of_event_is_listed() -> None:
    page = text_of("journal.md")
    for kind in events.AnyEvent.__args__:
        assert f"| `{kind.__struct_config__.tag}` |" in page


def test_every_limit_is_listed() -> None:
    page = text_of("proposal.md")
    assert all(f"| `{name}` |" in page for name in Limits.__struct_fields__)


@pytest.mark.parametrize(
    "kind", [proposal.Proposal, proposal.Action, proposal.Budget, proposal.Precondition, proposal.Assumption]
)
def test_every_field_of_a_proposal_is_described(kind: type) -> None:
    page = text_of("proposal.md")
    for field in msgspec.structs.fields(kind):
        assert re.search(rf"[`{{ ]{field.encode_name}[`,?}} ]", page), field.encode_name


@pytest.mark.parametrize("kind", [result.ProposalResult, result.ActionResult, result.Cost, result.NotUndone])
def test_every_field_of_a_result_is_described(kind: type) -> None:
    page = text_of("results.md")
    for field in msgspec.structs.fields(kind):
        assert f"`{field.encode_name}`" in page, field.encode_name


@pytest.mark.parametrize("statuses", [result.Status, result.RunStatus])
def test_every_status_is_described(statuses: object) -> None:
    page = text_of("results.md")
    assert all(f"| `{status}` |" in page for status in statuses.__args__)


def test_every_annotation_is_described() -> None:
    page = text_of("cedar.md")
    assert all(f"`@{name}(" in page for name in ANNOTATIONS)


def test_every_command_and_option_says_what_it_does() -> None:
    for command, ctx in generate.all_commands():
        assert command.help, ctx.command_path
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{ctx.command_path} {parameter.opts}"


@pytest.mark.parametrize("arguments", [[], ["run"], ["runs"], ["runs", "check"], ["approvals", "approve"], ["policy"]])
def test_help_is_what_the_real_command_prints(arguments: list[str]) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "interlock"), *arguments, "--help"],
        env={"COLUMNS": str(generate.WIDTH + 2), "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    documented = dict(generate.help_texts())[" ".join(["interlock", *arguments])]
    assert done.stdout.rstrip() == documented.rstrip()


def test_every_dependency_has_a_reason() -> None:
    page = (DOCS / "adr" / "0001-dependencies.md").read_text(encoding="utf-8")
    project = tomllib.loads((docs_pages.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [
        *project["project"]["dependencies"],
        *(r for extra in project["project"]["optional-dependencies"].values() for r in extra),
    ]
    wanted += project["dependency-groups"]["dev"]
    for requirement in wanted:
        name = re.split(r"[<>=!\[; ]", requirement)[0]
        assert f"`{name}`" in page, name


def test_every_decision_is_listed_and_short() -> None:
    index = (DOCS / "adr" / "README.md").read_text(encoding="utf-8")
    for page in sorted((DOCS / "adr").glob("0*.md")):
        text = page.read_text(encoding="utf-8")
        assert f"({page.name})" in index
        assert len(text.split()) < 600, page.name
        assert re.search(r"rejected|\blost\b", text, re.IGNORECASE), page.name


def test_the_readme_shows_the_two_commands_at_once() -> None:
    beginning = "\n".join((docs_pages.ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:40])
    assert "\nscripts/demo " in beginning
    assert "\nscripts/test " in beginning
    assert "ok: 8 executed" in beginning, "the first success"
    assert "rejected: 0 executed" in beginning, "a refusal"
    assert "interlock run" in beginning
