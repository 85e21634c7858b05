"""Draws the graph of a proposal's actions as SVG, with each action below those it depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

_WIDTH: Final = 190
_HEIGHT: Final = 34
_GAP_X: Final = 16
_GAP_Y: Final = 34
_LABEL_CHARS: Final = 22
_NODES_MAX: Final = 200


def graph(needs: Mapping[str, Sequence[str]], labels: Mapping[str, str]) -> str:
    """The SVG text. `needs` has, for each action, the actions that it waits for; `labels` are escaped HTML."""
    shown = dict(list(needs.items())[:_NODES_MAX])
    levels = _levels(shown)
    rows: dict[int, list[str]] = {}
    for name in shown:
        rows.setdefault(levels[name], []).append(name)
    at = {
        name: (column * (_WIDTH + _GAP_X), level * (_HEIGHT + _GAP_Y))
        for level, names in rows.items()
        for column, name in enumerate(names)
    }
    width = max(x for x, _ in at.values()) + _WIDTH
    height = max(y for _, y in at.values()) + _HEIGHT
    box = f'width="{width + 2}" height="{height + 2}" viewBox="-1 -1 {width + 2} {height + 2}"'
    parts = [f'<svg role="img" aria-label="action graph" {box} xmlns="http://www.w3.org/2000/svg">']
    for name, before in shown.items():
        x, y = at[name]
        for other in before:
            if other in at:
                a, b = at[other]
                middle = (b + _HEIGHT + y) / 2
                start, end = a + _WIDTH / 2, x + _WIDTH / 2
                parts.append(f'<path d="M{start} {b + _HEIGHT}C{start} {middle} {end} {middle} {end} {y}"/>')
    for name, (x, y) in at.items():
        label = labels.get(name, "")
        parts.append(
            f'<g><title>{label}</title><rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="5"/>'
            f'<text x="{x + 8}" y="{y + 22}">{_short(label)}</text></g>'
        )
    return "".join(parts) + "</svg>"


def _levels(needs: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """The row of each action. An archive may contain a cycle; there the row is limited to the number of actions."""
    levels = dict.fromkeys(needs, 0)
    for _ in needs:
        changed = False
        for name, before in needs.items():
            level = max((levels[other] + 1 for other in before if other in levels and other != name), default=0)
            if level > levels[name] and level < len(needs):
                levels[name], changed = level, True
        if not changed:
            break
    return levels


def _short(label: str) -> str:
    """Truncate without cutting an HTML entity."""
    if len(label) <= _LABEL_CHARS:
        return label
    cut = label[: _LABEL_CHARS - 1]
    start = cut.rfind("&")
    return (cut if start < 0 or ";" in cut[start:] else cut[:start]) + "&hellip;"
