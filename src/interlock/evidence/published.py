"""The published JSON Schemas of an archive (`schemas/*.schema.json`), written by `python -m interlock.evidence.published`.

They are generated from the structs that write an archive, so the two cannot differ. Only the schema of the kernel layer
is written by hand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from interlock.disk import Disk
from interlock.evidence import format as form
from interlock.model.events import (
    ActionCancelled,
    ActionConnection,
    ActionDeduplicated,
    ActionFailed,
    ActionIntent,
    ActionRecorded,
    ActionRejected,
    ActionSkipped,
    ActionSucceeded,
    ActionUnknown,
    CommandFinished,
    CommandLost,
    CommandStarted,
    PolicyDecided,
    RunFinished,
    RunStarted,
    SdkRecorded,
    SpawnFailed,
)

DIRECTORY: Final = Path(__file__).resolve().with_name("schemas")
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_DOCUMENTS: Final[dict[str, tuple[str, Any]]] = {
    "manifest": (form.MANIFEST, form.Manifest),
    "health": (form.HEALTH, form.Health),
    "surface": (form.SURFACE, form.Surface),
    "correlation": (form.CORRELATION, form.Correlation),
    "attestation": (form.ATTESTATION, form.Envelope),
    "statement": (f"the payload of {form.ATTESTATION}", form.Statement),
    "policy-line": (f"a line of {form.POLICY}", form.Decision),
    "sdk-line": (f"a line of {form.SDK}", form.SdkRecord),
}
EVENT_SCHEMA: Final = "interlock.evidence.event.v1"
KINDS_READ: Final = (
    RunStarted, RunFinished, PolicyDecided, ActionIntent, ActionConnection, ActionRecorded, ActionSucceeded, ActionFailed,
    ActionUnknown, ActionCancelled, ActionRejected, ActionDeduplicated, ActionSkipped, CommandStarted, CommandFinished,
    SpawnFailed, CommandLost, SdkRecorded,
)  # fmt: skip
"""Events from which health, surface and correlation are derived."""


def schema_files() -> dict[str, bytes]:
    """Maps the file name of each generated schema to its content."""
    found = {name: {"title": title, **_schema(kind)} for name, (title, kind) in _DOCUMENTS.items()}
    found["event-line"] = _event_line()
    return {
        f"{name}.schema.json": (
            json.dumps({"$schema": _DIALECT, "$id": f"urn:interlock:schema:{name}:v1", **schema}, indent=2) + "\n"
        ).encode()
        for name, schema in found.items()
    }


def _schema(kind: Any) -> dict[str, Any]:
    schema: dict[str, Any] = msgspec.json.schema(kind)
    return schema


def _event_line() -> dict[str, Any]:
    """Returns the schema of an events line: a seal, or an event preceded by the members that the export adds.

    Only event kinds from which a reader derives something are described; of others, a reader knows the common members.
    """
    common = {
        "schema": {"const": EVENT_SCHEMA},
        "run_id": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,128}$"},
        "sealed": {
            "description": "Only in a line that was redacted after it was sealed: keyed digest of the sealed line.",
            "type": "string",
            "pattern": "^hmac-sha256:[0-9a-f]{64}$",
        },
        "kind": {"type": "string", "minLength": 1},
        "seq": {"type": "integer", "minimum": 0},
        "ts": {"type": "integer"},
        "mono": {"type": "integer"},
        "proposal": {"type": "string"},
        "action": {"type": "string"},
        "step": {"type": "integer"},
    }
    kinds: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    for kind in KINDS_READ:
        found = _schema(kind)
        own = found["$defs"].pop(kind.__name__)
        definitions |= found["$defs"]
        own["properties"] = {name: shape for name, shape in own["properties"].items() if name not in common}
        own["required"] = [name for name in own["required"] if name not in common]
        kinds[str(kind.__struct_config__.tag)] = own
    seal = _schema(form.SealLine)["$defs"]["SealLine"]
    return {
        "title": f"a line of {form.EVENTS}",
        "if": {"properties": {"kind": {"const": "seal"}}},
        "then": seal,
        "else": {
            "type": "object",
            "properties": common,
            "required": ["schema", "run_id", "kind", "seq", "ts", "mono"],
            "allOf": [{"if": {"properties": {"kind": {"const": tag}}}, "then": own} for tag, own in kinds.items()],
        },
        "$defs": definitions,
    }


def main() -> None:
    """Write the schemas, or with `--check` report whether they are current."""
    disk = Disk()
    stale = [name for name, data in schema_files().items() if _read(DIRECTORY / name) != data]
    if "--check" in sys.argv:
        sys.exit(f"not current: {', '.join(stale)}" if stale else 0)
    for name in stale:
        disk.write_atomic(DIRECTORY / name, schema_files()[name], 0o644, durable=False)


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


if __name__ == "__main__":
    main()
