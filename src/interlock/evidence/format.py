"""The types of everything in an evidence archive: one struct per document and line. docs/reference/evidence-format.md.

Format version history: 1 (2026-11): first.

`schemas` publishes these as JSON Schemas. Documents are written in canonical JSON (RFC 8785), so members are ordered by
name, not as here.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

import msgspec

MANIFEST: Final = "manifest.json"
EVENTS: Final = "events.ndjson"
KERNEL: Final = "layers/kernel.ndjson"
POLICY: Final = "layers/policy.ndjson"
SDK: Final = "layers/sdk.ndjson"
HEALTH: Final = "observation-health.json"
SURFACE: Final = "capability-surface.json"
CORRELATION: Final = "correlation-report.json"
ATTESTATION: Final = "attestation.dsse.json"
MEMBERS: Final = tuple(sorted((MANIFEST, EVENTS, KERNEL, POLICY, SDK, HEALTH, SURFACE, CORRELATION, ATTESTATION)))
"""The paths of all members of an archive, in order."""

JSON_TYPE: Final = "application/json"
LINES_TYPE: Final = "application/x-ndjson"
STATEMENT_TYPE: Final = "application/vnd.in-toto+json"
"""The payload type of the attestation."""
PREDICATE_TYPE: Final = "urn:interlock:evidence:v1"

LINE_BYTES_MAX: Final = 32 * 1024 * 1024
DOCUMENT_BYTES_MAX: Final = 64 * 1024 * 1024
ARCHIVE_BYTES_MAX: Final = 8 * 1024**3
"""Maximum size of the uncompressed archive."""
VALUES_MAX: Final = 65_536
"""Maximum number of values in one list of the surface."""
VALUE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Maximum total size of the values in one list of the surface."""
SUBJECTS_MAX: Final = 100

Sha256Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Digest = Annotated[str, msgspec.Meta(pattern="^sha256:[0-9a-f]{64}$")]
RunId = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{1,128}$")]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
State = Literal["complete", "partial", "absent"]


class Member(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A member of the archive, as listed in the manifest."""

    path: str
    sha256: Sha256Hex
    bytes: Count
    media_type: Literal["application/json", "application/x-ndjson"]


class JournalHead(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A position in a journal."""

    run: RunId
    seq: Annotated[int, msgspec.Meta(ge=-1, le=2**53 - 1)]
    """The last sealed event; -1 if there is none."""
    seal: Digest
    """Digest of the last seal, or of the genesis if there is none."""
    epoch: Count
    version: Count
    """Format version of the journal."""


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A signature of an envelope."""

    keyid: Annotated[str, msgspec.Meta(pattern="^ed25519:[0-9a-f]{64}$")]
    """`ed25519:` and the 32 bytes of the public key in hex."""
    sig: str
    """64 bytes in base64."""


class Envelope(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """A DSSE envelope. Without signatures, it proves nothing."""

    payload_type: str
    payload: str
    """Base64."""
    signatures: tuple[Signature, ...]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`manifest.json`: the content of the archive, and where the journal ended."""

    schema: Literal["interlock.evidence.manifest.v1"]
    run_id: RunId
    members: tuple[Member, ...]
    """Every member except the manifest and the attestation, sorted by path."""
    journal: JournalHead
    """The position at which the events of the archive end."""
    view: Digest | None
    """The last digest of the chain of views; null without events."""
    signed_head: Envelope | None
    """The head that the run itself signed, as stored beside its journal; null if it signed none."""


class LayerHealth(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How complete a layer is."""

    state: State
    records: Count
    """Number of lines in the layer; for events, without the seals."""
    dropped: Count
    """Number of records that are known to be missing."""


class SdkHealth(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How complete the reports of an agent's SDK are. They are never more than the SDK's own claims."""

    state: Literal["self_reported", "partial", "absent"]
    records: Count
    dropped: Count
    rejected: Count
    """Number of lines that did not have the layer's format."""


class Layers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The health of each layer."""

    events: LayerHealth
    kernel: LayerHealth
    policy: LayerHealth
    sdk: SdkHealth


class Health(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`observation-health.json`: what was observed, and what was not."""

    schema: Literal["interlock.evidence.health.v1"]
    run_id: RunId
    platform: str
    agent_shim: str
    layers: Layers
    cgroup_correlation: Literal["clean", "partial", "failed"]
    """Whether every effect can be attributed to one action, decision and call."""
    network_coverage: State
    refused_calls: Count
    """System calls that a recorder refused because it could not read their arguments."""
    postures: tuple[dict[str, str], ...]
    """The distinct postures under which something ran, sorted by their canonical JSON."""
    notes: tuple[str, ...]
    """Sorted codes."""


class Claim(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A list of the surface, with how it is known."""

    known: Literal["measured", "reported", "bounded_negative", "unknown"]
    grade: Literal["outcome", "attempt"] | None
    """The weakest grade among the records behind the values; null if there are no kernel records behind them."""
    complete: bool
    """False if there may be more values."""
    cut: bool
    """True if the list was truncated at its maximum size."""
    values: tuple[str, ...]
    """Sorted by code points, without duplicates."""


class Surface(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`capability-surface.json`: what the run accessed and used."""

    schema: Literal["interlock.evidence.surface.v1"]
    run_id: RunId
    files_read: Claim
    files_written: Claim
    hosts: Claim
    programs: Claim
    tools: Claim
    """Tools called through the gate."""
    tools_reported: Claim
    """Tools reported by an agent's SDK."""
    decisions: Claim
    """`DECISION:TOOL`; the tool is `?` if it is unknown."""


class Binding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that belongs to one action."""

    proposal: str
    action: str
    tool: str | None
    decision: str | None
    """The last decision."""
    decision_seq: int | None
    """The decision's number in the policy layer."""
    attempts: Count
    outcome: str | None
    recorders: Count
    kernel_records: Count
    connections: Count
    sdk_calls: tuple[str, ...]


class CommandBinding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that belongs to the command of a measured run."""

    outcome: Literal["finished", "spawn_failed", "lost"] | None
    recorders: Count
    kernel_records: Count
    sdk_calls: Count


class Ambiguity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Items that cannot be attributed to each other."""

    code: Literal[
        "call_without_end", "decision_without_sdk_call", "duplicate_call_id", "effects_without_call", "end_without_start",
        "policy_without_effects", "sdk_call_without_decision", "shim_made_call_id",
    ]  # fmt: skip
    count: Count
    subjects: tuple[str, ...]
    """The first 100, sorted."""


class Correlation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`correlation-report.json`: which calls, decisions, actions and effects belong together."""

    schema: Literal["interlock.evidence.correlation.v1"]
    run_id: RunId
    state: Literal["clean", "partial", "failed"]
    command: CommandBinding | None
    """Null if the run is not a measured run."""
    bindings: tuple[Binding, ...]
    ambiguities: tuple[Ambiguity, ...]
    """Sorted by code; codes with a count of 0 are omitted."""


class Decision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line of `layers/policy.ndjson`."""

    schema: Literal["interlock.layer.policy.v1"]
    run_id: RunId
    seq: Count
    kind: Literal["decision"]
    event: Count
    """`seq` of its `policy_decided` event."""
    ts: int
    proposal: str | None
    action: str | None
    tool: str | None
    decision: str
    policies: tuple[str, ...]
    errors: tuple[str, ...]
    digest: str | None
    """`hmac-sha256:...` of tool, version and raw parameters; never the parameters."""


class SdkLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """The fields of every line of `layers/sdk.ndjson`."""

    schema: Literal["interlock.layer.sdk.v1"]
    run_id: RunId
    seq: Count
    """Position in the layer, from 0."""
    writer: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{1,64}$")]
    """The process that reported the line."""
    writer_seq: Count
    """Position among the writer's lines, from 0."""
    ts: int
    """When the line was received, in microseconds since the epoch."""
    redacted: Literal[True] | None = None
    """Set in a line that was redacted when it was exported."""


Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
Text = Annotated[str, msgspec.Meta(max_length=4096)]


class CallStarted(SdkLine, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tool_call_started"):
    """The agent's SDK is about to call a tool."""

    tool_call_id: Name
    call_id_source: Literal["provider", "shim"]
    """`shim`: the SDK provided no id, so the id carries no information."""
    tool: Name
    arguments: Any = None
    """Redacted; null if there are none, or if they exceed 4096 bytes."""


class CallCompleted(SdkLine, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="tool_call_completed"):
    """The tool has answered or failed."""

    tool_call_id: Name
    call_id_source: Literal["provider", "shim"]
    tool: Name
    status: Literal["succeeded", "failed"]
    error: Text | None = None
    """Redacted."""


class AgentFinished(SdkLine, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="run_finished"):
    """The agent's own run has ended."""


class AgentFailed(SdkLine, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="run_failed"):
    """The agent's own run has failed."""

    error: Text
    """Redacted."""


SdkRecord = CallStarted | CallCompleted | AgentFinished | AgentFailed


class SealLine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="seal"):
    """A seal of the journal, in `events.ndjson` after the events that it covers."""

    schema: Literal["interlock.evidence.seal.v1"]
    run_id: RunId
    seq: Count
    """Position among the seals, from 0."""
    view: Digest
    """Digest in the chain of views."""
    first: Count
    last: Count
    bytes: Count
    epoch: Count
    prev: Digest
    digest: Digest


class Subject(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A subject of the statement."""

    name: Literal["manifest.json", "journal-head"]
    digest: dict[Literal["sha256"], Sha256Hex]


class Predicate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The statement's claims about its subjects."""

    run_id: RunId
    journal: JournalHead
    view: Digest | None


class Statement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The in-toto Statement v1 in the payload of the attestation."""

    type: Literal["https://in-toto.io/Statement/v1"] = msgspec.field(name="_type")
    subject: tuple[Subject, ...]
    """The manifest, then the journal's head."""
    predicate_type: Literal["urn:interlock:evidence:v1"] = msgspec.field(name="predicateType")
    predicate: Predicate
