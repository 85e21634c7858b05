"""Native commands that a rule holds, and what a person says to each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

HELD_COMMANDS = ("touch approved", "touch denied", "touch expired")
HELD_ANSWERS: Mapping[str, Literal["approve", "deny"]] = {"touch approved": "approve", "touch denied": "deny"}
"""The last one stays unanswered."""
