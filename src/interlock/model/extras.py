"""How a person installs an optional part of Interlock."""

from __future__ import annotations


def how_to_install(extra: str) -> str:
    """Returns the hint for a missing extra, such as `wasm`. Not by name from an index: Interlock is not published there."""
    return f"in a checkout of Interlock: `pip install '.[{extra}]'`"
