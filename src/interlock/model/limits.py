"""Every limit on input from an agent or a tool, in one object, with the unit in the name."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Upper bounds, inclusive: a value at the limit is accepted, one above is refused and the error names the limit."""

    proposal_bytes: int = 32 * 1024 * 1024
    values: int = 2_000_000
    """Values of a document, including containers. 32 MiB of nested empty arrays would take 1.2 GiB parsed, per copy."""
    actions: int = 100_000
    parameters_bytes: int = 1024 * 1024
    depth: int = 64
    id_chars: int = 256
    name_chars: int = 256
    key_chars: int = 1024
    dependencies: int = 100_000
    preconditions: int = 1_000
    retries: int = 100
    timeout_ms: int = 24 * 60 * 60 * 1000
    deadline_ms: int = 30 * 24 * 60 * 60 * 1000
    output_bytes: int = 16 * 1024 * 1024
    process_output_bytes: int = 1024 * 1024
    yaml_bytes: int = 4 * 1024 * 1024
    """In the worst document, libyaml's events take about a microsecond per byte, so this bounds the wait to seconds."""
    schema_bytes: int = 1024 * 1024
    config_bytes: int = 4 * 1024 * 1024
    inline_value_bytes: int = 64 * 1024


DEFAULT_LIMITS = Limits()

INTEGER_MAX = 2**53 - 1
"""The largest integer that RFC 8785 (and every JSON reader) represents exactly."""
