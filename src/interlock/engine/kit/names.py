"""Converts tool names to names that every vendor accepts: `[A-Za-z0-9_-]`, at most 64 characters. `fs.read` becomes `fs_read`.

The converted name depends on the registered tools and not on the agent, so that it is the same for every agent. A tool whose
name is safe keeps it; if two names would be equal, or one is too long, part of a digest is added.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Final

from interlock.lazy import lazy_pattern
from interlock.model.tool import DATA_TAG, Tool

CHARS_MAX: Final = 64
_DIGEST_CHARS: Final = 8
_UNSAFE: Final = lazy_pattern(r"[^A-Za-z0-9_-]")


def shown_to_models(tools: Mapping[str, Tool]) -> tuple[str, ...]:
    """The tools that models see. Resources and prompts of MCP servers are offered as such, by a door that speaks MCP."""
    return tuple(name for name, tool in tools.items() if DATA_TAG not in tool.tags)


def safe_names(tools: Collection[str], chars_max: int = CHARS_MAX) -> dict[str, str]:
    """The safe name of each tool, by its own name. All are different."""
    plain = {name: _UNSAFE.sub("_", name) for name in tools}
    wanted = Counter(plain.values())
    own = {name for name, safe in plain.items() if name == safe and len(name) <= chars_max}
    found: dict[str, str] = {name: name for name in own}
    taken = set(own)
    for name in sorted(plain.keys() - own):
        safe = plain[name]
        rounds = 0
        if len(safe) > chars_max or wanted[safe] > 1:
            safe = _with_digest(name, rounds, chars_max)
        while safe in taken:
            rounds += 1
            safe = _with_digest(name, rounds, chars_max)
        found[name] = safe
        taken.add(safe)
    return found


def _with_digest(name: str, rounds: int, chars_max: int) -> str:
    digest = hashlib.sha256(f"{rounds}:{name}".encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_CHARS]
    return f"{_UNSAFE.sub('_', name)[: chars_max - _DIGEST_CHARS - 1]}_{digest}"
