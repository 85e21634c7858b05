"""Verifies one archive, in one pass over the file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, Final, NamedTuple

from interlock.verification import container, schemas
from interlock.verification.conclusions import conclude
from interlock.verification.container import Content
from interlock.verification.envelopes import HEAD_TYPE, STATEMENT_TYPE, bad_signatures, payload_of
from interlock.verification.events import EventsReader, start_of_journal
from interlock.verification.facts import Facts
from interlock.verification.findings import WARNINGS, ArchiveVerdict, DamageError, Documents, Findings, Signed
from interlock.verification.layers import KernelReader, LayerReader, PolicyReader, SdkReader
from interlock.verification.strict_json import StrictJsonError, canonical, parse_object

_EMPTY_VERSION: Final = 2
"""Journal version of a run without events."""
_UNSOUND: Final = ("json_invalid", "json_duplicate_key", "schema_invalid", "run_id_mismatch", "contradiction")
"""After one of these in events or layers, conclusions from them are not reliable."""


class Checked(NamedTuple):
    """The result of a verification, and the archive's content if it is valid."""

    verdict: ArchiveVerdict
    documents: Documents | None


def verify(file: BinaryIO, keys: Iterable[str] = (), *, require_signature: bool = False) -> Checked:
    """Verify an archive. `keys` are the required signers, as `ed25519:HEX`.

    Never raises because of the archive's content. Raises: OSError if the file cannot be read.
    """
    return _Verification().run(file, frozenset(keys), require_signature=require_signature)


class _Verification:
    """The verification of one archive."""

    def __init__(self) -> None:
        self.findings = Findings()
        self.facts = Facts(self.findings)
        self.events = EventsReader(self.facts)
        self.documents: dict[str, bytes] = {}
        """Maps each document's path to its bytes."""
        self.members: dict[str, tuple[int, str]] = {}
        """Maps each member that was read to its size and SHA-256."""
        self.signatures: tuple[Signed, ...] = ()
        self.head_signed_by: str | None = None
        self.manifest: dict[str, Any] | None = None
        self.concluded: dict[str, dict[str, Any]] = {}

    def run(self, file: BinaryIO, keys: frozenset[str], *, require_signature: bool) -> Checked:
        try:
            for content in container.members(file, self.findings):
                if not self.findings.has(*_STRUCTURE):  # otherwise report only further structural defects
                    self._member(content)
            if not self.findings.has(*_STRUCTURE):
                self._as_a_whole(keys, require_signature=require_signature)
        except DamageError as damage:
            self.findings.add_damage(damage)
        except StrictJsonError as error:  # a value derived from a line, such as a sum, may have no JSON form
            self.findings.add_damage(DamageError(error.code, "", f"derived from events and layers: {error}"))
        return self._result()

    def _as_a_whole(self, keys: frozenset[str], *, require_signature: bool) -> None:
        self._manifest()
        self._attestation(keys, require_signature=require_signature)
        self._conclusions()
        if self.events.unchecked:
            self.findings.add(
                "journal_unchecked",
                container.EVENTS,
                f"{self.events.unchecked} seals could not be recomputed: lines were redacted after they were sealed",
            )

    def _result(self) -> Checked:
        valid = not self.findings.bad
        health = self.concluded.get("health") if valid else None
        found = self.findings.all()
        verdict = ArchiveVerdict(
            valid=valid,
            run_id=self.facts.run_id,
            events=self.facts.events,
            signatures=self.signatures,
            head_signed_by=self.head_signed_by,
            manifest_sha256=self.members.get(container.MANIFEST, (0, None))[1],
            layers={name: layer["state"] for name, layer in health["layers"].items()} if health else None,
            notes=tuple(health["notes"]) if health else (),
            errors=tuple(finding for finding in found if finding.code not in WARNINGS),
            warnings=tuple(finding for finding in found if finding.code in WARNINGS),
        )
        documents = None
        if valid and self.manifest is not None:
            documents = Documents(manifest=self.manifest, **self.concluded)
        return Checked(verdict, documents)

    # -- members

    def _member(self, content: Content) -> None:
        hashed = hashlib.sha256()
        pieces = _hashing(content.pieces(), hashed)
        reader = self._reader(content.path)
        if reader is None:
            self.documents[content.path] = b"".join(pieces)
        else:
            for lines in container.lines_of(content.path, pieces):
                reader.take(lines)
            reader.end()
        self.members[content.path] = (content.size, hashed.hexdigest())

    def _reader(self, path: str) -> EventsReader | LayerReader | None:
        match path:
            case container.EVENTS:
                return self.events
            case container.KERNEL:
                return KernelReader(self.facts)
            case container.POLICY:
                return PolicyReader(self.facts, self.events.decisions)
            case container.SDK:
                return SdkReader(self.facts)
            case _:
                return None

    def _document(self, path: str, schema: str) -> dict[str, Any] | None:
        """Returns the value of a document; None, with a finding, if it is invalid."""
        data = self.documents[path]
        try:
            value = parse_object(data.removesuffix(b"\n"))
            if canonical(value) + b"\n" != data:
                self.findings.add("json_invalid", path, "it is not canonical")
                return None
        except StrictJsonError as error:
            self.findings.add(error.code, path, str(error))
            return None
        wrong = schemas.document(schema)(value)
        if wrong is not None:
            self.findings.add("schema_invalid", path, wrong)
            return None
        run_id = value.get("run_id", self.facts.run_id)
        if self.facts.run_id is None:
            self.facts.run_id = run_id
        elif run_id != self.facts.run_id:
            self.findings.add("run_id_mismatch", path, f"it belongs to run `{run_id}`, not to `{self.facts.run_id}`")
        return value

    # -- manifest

    def _manifest(self) -> None:
        manifest = self._document(container.MANIFEST, "manifest")
        if manifest is None:
            return
        self.manifest = manifest
        listed = [path for path in container.MEMBERS if path not in (container.MANIFEST, container.ATTESTATION)]
        named = [(member["path"], member["media_type"]) for member in manifest["members"]]
        if named != [(path, _media_type(path)) for path in listed]:
            self.findings.add("manifest_invalid", container.MANIFEST, "it does not list the members in order")
        for member in manifest["members"]:
            size, sha256 = self.members.get(member["path"], (member["bytes"], member["sha256"]))
            if size != member["bytes"]:
                self.findings.add(
                    "size_mismatch", member["path"], f"it has {size} bytes, but the manifest says {member['bytes']}"
                )
            if sha256 != member["sha256"]:
                self.findings.add("hash_mismatch", member["path"], "its SHA-256 differs from the manifest")
        head = self.events.head or start_of_journal(str(self.facts.run_id), _EMPTY_VERSION)
        if manifest["journal"] != head or manifest["view"] != (self.events.view or None):
            self.findings.add(
                "head_mismatch", container.MANIFEST, "`journal` or `view` does not match the end of the events"
            )
        if manifest["signed_head"] is not None:
            self._signed_head(manifest["signed_head"])

    def _signed_head(self, envelope: dict[str, Any]) -> None:
        where = f"{container.MANIFEST}:signed_head"
        payload = payload_of(envelope, HEAD_TYPE)
        head = None if payload is None else _head(payload)
        if payload is None or head is None:
            self.findings.add("head_signature", where, "it is not an envelope with a journal's head")
            return
        if bad_signatures(envelope, payload) or not envelope["signatures"]:
            self.findings.add("head_signature", where, "its signature is invalid")
            return
        if head["run"] != self.facts.run_id:
            self.findings.add("head_signature", where, f"it is the head of run `{head['run']}`")
            return
        self.head_signed_by = envelope["signatures"][0]["keyid"]
        end = self.events.head
        start = start_of_journal(head["run"], head["version"])
        if head["seq"] == -1:
            same = head == start
        elif end is None or head["seq"] > end["seq"]:
            last = -1 if end is None else end["seq"]
            self.findings.add("head_truncated", where, f"it signed event {head['seq']}, but the events end at {last}")
            return
        else:
            same = (
                self.events.seals.at(head["seq"]) == (head["seal"], head["epoch"]) and head["version"] == end["version"]
            )
        if not same:
            self.findings.add("head_rewritten", where, f"it signed different events up to {head['seq']}")

    # -- attestation

    def _attestation(self, keys: frozenset[str], *, require_signature: bool) -> None:
        envelope = self._document(container.ATTESTATION, "attestation")
        if envelope is None:
            return
        payload = payload_of(envelope, STATEMENT_TYPE)
        statement = None if payload is None else _statement(payload)
        if payload is None or statement is None:
            self.findings.add(
                "attestation_invalid", container.ATTESTATION, "it is not an envelope with a statement about an archive"
            )
            return
        if self.manifest is not None:
            self._subjects(statement, self.manifest)
        bad = bad_signatures(envelope, payload)
        for keyid in bad:
            self.findings.add("signature_invalid", container.ATTESTATION, f"the signature of `{keyid}` is invalid")
        good = [one["keyid"] for one in envelope["signatures"] if one["keyid"] not in bad]
        self.signatures = tuple(Signed(keyid=keyid, vouched=keyid in keys) for keyid in good)
        self._signers(good, bad, keys, require_signature=require_signature)

    def _subjects(self, statement: dict[str, Any], manifest: dict[str, Any]) -> None:
        head = hashlib.sha256(canonical(manifest["journal"])).hexdigest()
        subjects = [
            {"name": "manifest.json", "digest": {"sha256": self.members[container.MANIFEST][1]}},
            {"name": "journal-head", "digest": {"sha256": head}},
        ]
        predicate = {name: manifest[name] for name in ("run_id", "journal", "view")}
        if statement["subject"] != subjects or statement["predicate"] != predicate:
            self.findings.add(
                "attestation_other_archive",
                container.ATTESTATION,
                "it is about a different manifest or journal head",
            )

    def _signers(self, good: list[str], bad: list[str], keys: frozenset[str], *, require_signature: bool) -> None:
        where = container.ATTESTATION
        if not good and not bad:
            if keys or require_signature:
                self.findings.add("signature_missing", where, "it is not signed")
            else:
                self.findings.add("unsigned", where, "it is not signed: anyone could have created or changed it")
            return
        for keyid in sorted(keys - set(good) - set(bad)):
            self.findings.add(
                "signature_foreign", where, f"it is signed by {', '.join(good) or 'others'}, not by {keyid}"
            )
        if good and not keys:
            self.findings.add(
                "not_vouched",
                where,
                f"signed by {', '.join(good)}: no key was given, so the owner of this key is unknown",
            )

    # -- conclusions

    def _conclusions(self) -> None:
        """Compare the three documents with those derived from events and layers."""
        known = not self.findings.has(*_UNSOUND)
        health = self.documents[container.HEALTH]
        platform, shim = ("linux", "none") if self.facts.events else _maker_says(health)
        self._contradictions(platform)
        self.concluded = conclude(self.facts, platform, shim)
        for name, path in _CONCLUDED.items():
            if canonical(self.concluded[name]) + b"\n" == self.documents[path]:
                continue
            value = self._document(path, name)
            if value is not None and known:
                field = _first_difference(value, self.concluded[name])
                self.findings.add(f"{name}_mismatch", path, f"`{field}` is not what events and layers imply")

    def _contradictions(self, platform: str) -> None:
        command, add = self.facts.command, self.findings.add
        if self.facts.sdk_lines and self.facts.agent_shim == "none":
            add("contradiction", container.SDK, "an SDK has reported, but there is no agent shim")
        if self.facts.kernel_lines:
            if command is not None and command.get("recorder", "none") == "none":
                add("contradiction", container.KERNEL, "there are kernel records, but the command had no recorder")
            if (platform if command is None else command["platform"]) != "linux":
                add("contradiction", container.KERNEL, "there are kernel records from another platform")


_STRUCTURE: Final = (
    "not_an_archive", "archive_truncated", "archive_damaged", "archive_too_large", "member_unsafe_path", "member_type",
    "too_many_defects", "member_extra", "member_missing", "member_duplicate", "member_order", "member_header",
)  # fmt: skip
"""After one of these, the content of members is not checked."""
_CONCLUDED: Final = {"health": container.HEALTH, "surface": container.SURFACE, "correlation": container.CORRELATION}


def _hashing(pieces: Iterator[bytes], hashed: Any) -> Iterator[bytes]:
    for piece in pieces:
        hashed.update(piece)
        yield piece


def _media_type(path: str) -> str:
    return "application/x-ndjson" if path.endswith(".ndjson") else "application/json"


def _canonical_object(payload: bytes) -> dict[str, Any] | None:
    try:
        value = parse_object(payload)
        return value if canonical(value) == payload else None
    except StrictJsonError:
        return None


def _head(payload: bytes) -> dict[str, Any] | None:
    """Returns the head in an envelope's payload; None if it is invalid."""
    value = _canonical_object(payload)
    if value is None or schemas.part("manifest", "JournalHead")(value) is not None:
        return None
    return value


def _statement(payload: bytes) -> dict[str, Any] | None:
    """Returns the statement in an envelope's payload; None if it is invalid."""
    value = _canonical_object(payload)
    return None if value is None or schemas.document("statement")(value) is not None else value


def _maker_says(health: bytes) -> tuple[str, str]:
    """Platform and shim of a run without events, which only the archive's writer knows."""
    try:
        value = parse_object(health)
    except StrictJsonError:
        return "linux", "none"
    return str(value.get("platform", "linux")), str(value.get("agent_shim", "none"))


def _first_difference(one: Any, other: Any) -> str:
    """Returns the first path at which two documents differ, such as `layers.kernel.state`."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(one.keys() | other.keys()):
            if one.get(name) != other.get(name):
                below = _first_difference(one.get(name), other.get(name))
                return f"{name}.{below}" if below else name
    if isinstance(one, list) and isinstance(other, list):
        for number, (left, right) in enumerate(zip(one, other, strict=False)):
            if left != right:
                below = _first_difference(left, right)
                return f"{number}.{below}" if below else str(number)
    return ""
