"""Parses docstrings: the first paragraph, and parameter descriptions in Google, NumPy or Sphinx style.

Reads only what a model needs to call a tool. Text in other styles is ignored. Formats: Google Python Style Guide 3.8;
numpydoc, "Sections"; Sphinx, "Info field lists".
"""

from __future__ import annotations

import inspect
import re
from typing import Final

_GOOGLE: Final = re.compile(r"(Args|Arguments|Parameters|Params|Keyword Args|Keyword Arguments):\s*")
_SECTION: Final = re.compile(r"[A-Z][A-Za-z ]{2,30}:\s*")
_GOOGLE_ENTRY: Final = re.compile(r"\*{0,2}(\w+)\s*(?:\([^()]*(?:\([^()]*\)[^()]*)*\))?\s*:\s*(.*)")
_NUMPY_ENTRY: Final = re.compile(r"(\*{0,2}\w+(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?")
_SPHINX: Final = re.compile(r":(?:param|parameter|arg|argument|key|keyword)\s+(?:[^:]*\s)?\*{0,2}(\w+)\s*:\s*(.*)")
_UNDERLINE: Final = re.compile(r"-{3,}\s*")


def summary(docstring: str | None) -> str:
    """Returns the first paragraph, joined to one line; empty if there is none."""
    lines: list[str] = []
    for line in inspect.cleandoc(docstring or "").splitlines():
        if not line.strip() or _SPHINX.match(line) or _GOOGLE.fullmatch(line):
            break
        lines.append(line.strip())
    return " ".join(lines)


def parameters(docstring: str | None) -> dict[str, str]:
    """Maps each parameter to its description, joined to one line."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    found: dict[str, list[str]] = {}
    for index, line in enumerate(lines):
        if _GOOGLE.fullmatch(line):
            _google(lines[index + 1 :], found)
        elif line.strip() in ("Parameters", "Other Parameters") and _underlined(lines, index):
            _numpy(lines[index + 2 :], found)
        elif sphinx := _SPHINX.match(line):
            found[sphinx[1]] = [sphinx[2], *_indented(lines[index + 1 :])]
    return {name: text for name, parts in found.items() if (text := " ".join(" ".join(parts).split()))}


def _google(lines: list[str], found: dict[str, list[str]]) -> None:
    margin: int | None = None
    entry: list[str] = []
    for line in lines:
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        if indent == 0:
            return
        margin = indent if margin is None else margin
        match = _GOOGLE_ENTRY.fullmatch(line.strip()) if indent <= margin else None
        if match:
            entry = found.setdefault(match[1], [])
            entry.append(match[2])
        else:
            entry.append(line.strip())


def _numpy(lines: list[str], found: dict[str, list[str]]) -> None:
    entries: list[list[str]] = []
    for index, line in enumerate(lines):
        if not line.strip():
            continue
        if not line[0].isspace():
            match = _NUMPY_ENTRY.fullmatch(line.strip())
            if match is None or _underlined(lines, index) or _SECTION.fullmatch(line):
                return
            entries = [found.setdefault(name.strip().lstrip("*"), []) for name in match[1].split(",")]
        else:
            for entry in entries:
                entry.append(line.strip())


def _underlined(lines: list[str], index: int) -> bool:
    return index + 1 < len(lines) and _UNDERLINE.fullmatch(lines[index + 1]) is not None


def _indented(lines: list[str]) -> list[str]:
    block: list[str] = []
    for line in lines:
        if not line[:1].isspace():
            break
        block.append(line.strip())
    return block
