"""Asks for confirmation before something irreversible."""

from __future__ import annotations

import os

import click

from interlock.model.errors import UsageError


def confirm(question: str) -> None:
    """Ask for confirmation. Raises: UsageError if it is not given."""
    if not os.isatty(0) or not click.confirm(question, err=True):
        raise UsageError("the command was not confirmed", hint="`--yes` confirms it without asking")
