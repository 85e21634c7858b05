"""How these commands print answers: the command line passes in the printer, because surfaces do not import each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol


class Speaks(Protocol):
    """The output functions that the command line passes in."""

    def emit(self, document: Any, text: Callable[[], Iterable[str]] | None = None) -> None:
        """Print the answer: one document with `--json`, else lines."""
