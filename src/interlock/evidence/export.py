"""Writes the archive of one run: redacts lines, derives documents, signs, and searches the result for secrets."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from interlock.evidence import format as form
from interlock.evidence.archive import Spool, write_archive
from interlock.evidence.documents import Documents, documents_of
from interlock.evidence.layers import read_kernel, read_sdk
from interlock.evidence.observed import KernelLine, Observed
from interlock.evidence.redaction import Redaction
from interlock.model import typed
from interlock.model.canonical import canonical, digest, digest_bytes
from interlock.model.errors import IntegrityError
from interlock.signing import Signer

_EVENT: Final = "interlock.evidence.event.v1"
_SEAL: Final = "interlock.evidence.seal.v1"
_RESERVED: Final = frozenset(("schema", "run_id", "sealed", "view", "redacted"))


class Batch(NamedTuple):
    """The events of one seal in the journal."""

    lines: list[bytes]
    seal: bytes
    """The seal's line."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """The input of an archive. The functions may be called more than once, and must return the same each time."""

    run_id: str
    batches: Callable[[], Iterable[Batch]]
    """Batches of the journal, whose seals were checked."""
    kernel: Callable[[], Iterable[list[bytes]]]
    """Lines of the kernel layer, in blocks."""
    sdk: Callable[[], Iterable[bytes]]
    """Lines of the SDK layer, in order."""
    signed_head: bytes | None = None
    original: Callable[[str], Any] = lambda _digest: None
    """Returns the value with a digest in the journal; None if it was not kept."""
    platform: str = "linux"
    agent_shim: str = "none"
    """`platform` and `agent_shim` are used only for a run without events."""


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an export."""

    run_id: str
    manifest_sha256: str
    events: int
    bytes: int
    """Size of all members."""
    signed_by: tuple[str, ...]
    """The ids of the signing keys, in order; empty without a signature."""
    attestation: form.Envelope
    documents: Documents


def export(
    source: Source, redaction: Redaction, signers: Iterable[Signer], write: Callable[[bytes], None], spool: Path
) -> Exported:
    """Write an archive through `write`. `spool` is a directory with space for the members.

    Raises: IntegrityError (`evidence_contradiction`, `layer_malformed`, `layer_mismatch`, `secret_in_archive`,
    `archive_too_large`); OSError. The bytes written before an error are not an archive.
    """
    with contextlib.ExitStack() as stack:
        spools = {path: Spool(path, spool) for path in form.MEMBERS}
        for one in spools.values():
            stack.callback(one.close)
        observed = Observed(source.run_id, platform=source.platform, agent_shim=source.agent_shim)
        replaced = _learn(source, redaction)
        head, view = _write_events(source, redaction, replaced, observed, spools)
        _write_kernel(source, redaction, observed, spools[form.KERNEL])
        _write_sdk(source, redaction, observed, spools[form.SDK])
        observed.check()
        documents = documents_of(observed)
        spools[form.HEALTH].document(documents.health)
        spools[form.SURFACE].document(documents.surface)
        spools[form.CORRELATION].document(documents.correlation)
        manifest = _manifest(source, spools, head, view)
        spools[form.MANIFEST].document(manifest)
        digest_of_manifest = spools[form.MANIFEST].member().sha256
        keys = sorted(signers, key=lambda signer: signer.keyid)
        attestation = _attestation(manifest, digest_of_manifest, keys)
        spools[form.ATTESTATION].document(attestation)
        write_archive([spools[path] for path in form.MEMBERS], write, redaction.sweep)
        return Exported(
            run_id=source.run_id,
            manifest_sha256=digest_of_manifest,
            events=observed.events,
            bytes=sum(one.bytes for one in spools.values()),
            signed_by=tuple(signer.keyid for signer in keys),
            attestation=attestation,
            documents=documents,
        )


# -- knowledge gathered before anything is written


def _learn(source: Source, redaction: Redaction) -> dict[int, str]:
    """Learn the secrets of a run from its journal.

    Returns the replacements, by event number, of messages with a part of a secret that continues in the next message of
    the same action.
    """
    replaced: dict[int, str] = {}
    last: dict[tuple[Any, Any], tuple[int, str]] = {}
    for batch in source.batches():
        for line in batch.lines:
            if b'"private":true' in line:
                for kept in _kept(msgspec.json.decode(line)):
                    redaction.learn(kept.get("view"), source.original(kept["digest"]), source.run_id)
            if line.startswith(b'{"kind":"action_log"'):
                event = msgspec.json.decode(line)
                key, seq, text = (event.get("proposal"), event.get("action")), event["seq"], event["message"]
                if key in last:
                    before, after = redaction.across(last[key][1], text)
                    if after != text:
                        replaced[last[key][0]], replaced[seq], text = before, after, after
                last[key] = (seq, text)
    return replaced


def _kept(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every kept value in an event."""
    if isinstance(value, dict):
        if value.get("private") is True and isinstance(value.get("digest"), str):
            yield value
            return
        for inner in value.values():
            yield from _kept(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _kept(inner)


# -- members


def _write_events(
    source: Source, redaction: Redaction, replaced: dict[int, str], observed: Observed, spools: dict[str, Spool]
) -> tuple[form.JournalHead, str | None]:
    """Write the events and the policy layer derived from them. Returns the journal's end, and the digest of the view."""
    run_id = source.run_id
    prefix = b'{"schema":"%b","run_id":"%b",' % (_EVENT.encode(), run_id.encode())
    view = ""
    seal: dict[str, Any] | None = None
    events, policy = spools[form.EVENTS], spools[form.POLICY]
    for number, batch in enumerate(source.batches()):
        lines: list[bytes] = []
        decisions: list[bytes] = []
        for line in batch.lines:
            event = _event(line, run_id)
            clean = redaction.clean(line)
            if event["seq"] in replaced:
                clean = msgspec.json.encode({**event, "message": redaction.text(replaced[event["seq"]])}) + b"\n"
            if clean is line:
                lines.append(prefix + line[1:])
            else:
                event = msgspec.json.decode(clean)
                observed.redacted = True
                lines.append(b'%b"sealed":"%b",%b' % (prefix, redaction.sealed(line[:-1]).encode(), clean[1:]))
            observed.event(event)
            if event["kind"] == "policy_decided":
                decisions.append(canonical(observed.decision(event)) + b"\n")
        view = digest_bytes("view", view.encode() + b"\n" + b"".join(lines))
        seal = msgspec.json.decode(batch.seal)
        lines.append(
            b'{"schema":"%b","run_id":"%b","seq":%d,"view":"%b",%b'
            % (_SEAL.encode(), run_id.encode(), number, view.encode(), batch.seal[1:])
        )
        events.lines(lines)
        policy.lines(decisions)
    if seal is None:
        genesis = digest("genesis", {"run": run_id, "version": 2})
        return form.JournalHead(run=run_id, seq=-1, seal=genesis, epoch=0, version=2), None
    head = form.JournalHead(
        run=run_id, seq=seal["last"], seal=seal["digest"], epoch=seal["epoch"], version=observed.version
    )
    return head, view


def _event(line: bytes, run_id: str) -> dict[str, Any]:
    event: dict[str, Any] = msgspec.json.decode(line)
    if not line.startswith(b'{"') or _RESERVED & event.keys():
        raise IntegrityError(
            f"event {event.get('seq')} of run `{run_id}` has a member that is reserved for archives",
            code="evidence_contradiction",
        )
    return event


def _write_kernel(source: Source, redaction: Redaction, observed: Observed, spool: Spool) -> None:
    hashes: dict[str, tuple[int, Any]] = {}
    for lines, records in read_kernel(source.run_id, source.kernel()):
        for line, record in zip(lines, records, strict=True):
            if record.recorder in observed.recorder_ends:
                count, hashed = hashes.get(record.recorder, (0, None))
                hashed = hashlib.sha256() if hashed is None else hashed
                hashed.update(line)
                hashes[record.recorder] = (count + 1, hashed)
        clean = redaction.clean_block(lines, _kernel_body)
        if clean is lines:
            for record in records:
                observed.kernel(record)
            spool.lines(lines)
            continue
        out: list[bytes] = []
        for old, new, record in zip(lines, clean, records, strict=True):
            if new is old:
                observed.kernel(record)
                out.append(old)
                continue
            observed.redacted = True
            marked = b'%b,"redacted":true,%b' % tuple(new.split(b",", 1))
            out.append(marked)
            observed.kernel(typed.decode(marked, KernelLine))
        spool.lines(out)
    for recorder, ending in observed.recorder_ends.items():
        count, hashed = hashes.get(recorder, (0, None))
        if count != ending.lines or (hashed is not None and "sha256:" + hashed.hexdigest() != ending.digest):
            raise _mismatch("layers/kernel.ndjson", f"recorder `{recorder}`")


def _kernel_body(line: bytes) -> bytes:
    """Returns the part of a line that a program controls: everything except the names given by Interlock."""
    return line[max(0, line.find(b',"ts":')) :]


def _write_sdk(source: Source, redaction: Redaction, observed: Observed, spool: Spool) -> None:
    hashed = hashlib.sha256()
    count = 0
    for line, record in read_sdk(source.run_id, source.sdk()):
        hashed.update(line)
        count += 1
        clean = redaction.clean(line)
        if clean is not line:
            observed.redacted = True
            record = msgspec.json.decode(clean)  # noqa: PLW2901 - the exported line is what counts
            clean = canonical({**record, "redacted": True}) + b"\n"
        observed.sdk(record)
        spool.lines([clean])
    ending = observed.sdk_closed
    if ending is not None and (count != ending.get("records", 0) or "sha256:" + hashed.hexdigest() != ending["digest"]):
        raise _mismatch("layers/sdk.ndjson", "the layer")


def _mismatch(layer: str, what: str) -> IntegrityError:
    return IntegrityError(
        f"{what} is not as the journal recorded it",
        code="layer_mismatch",
        path=layer,
        hint="the file was changed or cut since the run; restore it from a backup",
    )


# -- manifest and attestation


def _manifest(source: Source, spools: dict[str, Spool], head: form.JournalHead, view: str | None) -> form.Manifest:
    listed = [path for path in form.MEMBERS if path not in (form.MANIFEST, form.ATTESTATION)]
    envelope = None if source.signed_head is None else typed.decode(source.signed_head, form.Envelope)
    return form.Manifest(
        schema="interlock.evidence.manifest.v1",
        run_id=source.run_id,
        members=tuple(spools[path].member() for path in listed),
        journal=head,
        view=view,
        signed_head=envelope,
    )


def _attestation(manifest: form.Manifest, digest_of_manifest: str, signers: list[Signer]) -> form.Envelope:
    head = hashlib.sha256(canonical(msgspec.to_builtins(manifest.journal))).hexdigest()
    statement = form.Statement(
        type="https://in-toto.io/Statement/v1",
        subject=(
            form.Subject(name="manifest.json", digest={"sha256": digest_of_manifest}),
            form.Subject(name="journal-head", digest={"sha256": head}),
        ),
        predicate_type="urn:interlock:evidence:v1",
        predicate=form.Predicate(run_id=manifest.run_id, journal=manifest.journal, view=manifest.view),
    )
    payload = canonical(msgspec.to_builtins(statement))
    return form.Envelope(
        payload_type=form.STATEMENT_TYPE,
        payload=base64.b64encode(payload).decode(),
        signatures=tuple(
            form.Signature(
                keyid=signer.keyid, sig=base64.b64encode(signer.signature(form.STATEMENT_TYPE, payload)).decode()
            )
            for signer in signers
        ),
    )
