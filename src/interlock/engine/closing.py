"""Closes what was opened, in reverse order: each part once, also if the closing of another fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable


def close_all(closing: list[Callable[[], None]]) -> None:
    """Call the functions, last first, and empty the list. If several raise, the error of the last one called is raised."""
    with contextlib.ExitStack() as stack:
        for function in closing:
            stack.callback(function)
        closing.clear()
