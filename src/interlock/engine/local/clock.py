"""The real clock and the real source of ids, which the other rooms receive as arguments."""

from __future__ import annotations

import os
import time


class SystemClock:
    """`Clock` on the machine's clocks."""

    @staticmethod
    def now_us() -> int:
        """Microseconds since the epoch."""
        return time.time_ns() // 1000

    mono_ns = staticmethod(time.monotonic_ns)
    """Monotonic nanoseconds."""


class SystemIds:
    """`Ids` with 128 bits from the operating system."""

    @staticmethod
    def new(prefix: str) -> str:
        """`PREFIX_` + 32 hex digits."""
        return f"{prefix}_{os.urandom(16).hex()}"
