"""Reads a proposal from a file or standard input (`-`): JSON or YAML by the file name, else by the first characters."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

import msgspec

from interlock.model.decode import decode_proposal
from interlock.model.errors import ProposalError, UsageError
from interlock.model.limits import DEFAULT_LIMITS
from interlock.model.proposal import Proposal
from interlock.model.text import without_bom

_NAMES: dict[str, Literal["json", "yaml"]] = {".json": "json", ".yaml": "yaml", ".yml": "yaml"}


def read_plan(name: str, *, agent: str | None = None, session: str | None = None) -> Proposal:
    """The proposal in a file (`-`: standard input), with its agent or session replaced if they are given.

    Raises: UsageError if it cannot be read; ProposalError if it is malformed.
    """
    data = _read(name)
    if not without_bom(data).strip():
        where = "standard input" if name == "-" else name
        raise ProposalError(
            "the plan is empty", path=where, hint="give a proposal with at least `actions`, in JSON or YAML"
        )
    proposal = _decoded(name, data)
    changes = {key: value for key, value in (("agent", agent), ("session", session)) if value is not None}
    for key, value in changes.items():
        if not value or not value.isprintable() or len(value) > DEFAULT_LIMITS.name_chars:
            raise UsageError(f"`--{key}` must be a printable name of at most {DEFAULT_LIMITS.name_chars} characters")
    return msgspec.structs.replace(proposal, **changes) if changes else proposal


def _decoded(name: str, data: bytes) -> Proposal:
    try:
        return decode_proposal(data, format=_NAMES.get(Path(name).suffix.lower()) or _detect_format(data))
    except ProposalError as error:
        place = error.path or "standard input" if name == "-" else ": ".join(filter(None, (name, error.path)))
        raise ProposalError(error.message, code=error.code, path=place, hint=error.hint) from None


def _read(name: str) -> bytes:
    """Read at most one byte more than the limit, so that the decoder can report an oversized proposal."""
    most = DEFAULT_LIMITS.proposal_bytes + 1
    try:
        if name == "-":
            if sys.stdin.isatty():
                sys.stderr.write("reading the proposal from the terminal; end it with Ctrl-D\n")
            return sys.stdin.buffer.read(most)
        with Path(name).open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise UsageError(
            f"the plan cannot be read: {os.strerror(error.errno or 0)}",
            code="not_found" if isinstance(error, FileNotFoundError) else "usage",
            path=name,
            hint="name a file with a proposal in JSON or YAML, or `-` for standard input",
        ) from None
    except ValueError:
        raise UsageError("the file name is not valid", path=name) from None


def _detect_format(data: bytes) -> Literal["json", "yaml"]:
    return "json" if without_bom(data).lstrip()[:1] in (b"{", b"[", b"") else "yaml"
