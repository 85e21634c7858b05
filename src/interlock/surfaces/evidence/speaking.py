"""How the commands of this package answer: the command line passes in what prints, since doors do not import each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol


class Speaks(Protocol):
    """What the command line passes in: how to print the answer."""

    def emit(self, document: Any, text: Callable[[], Iterable[str]] | None = None) -> None:
        """Print the answer: one document with `--json`, else lines."""
