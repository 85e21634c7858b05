"""Words for the tests beside this file: archives that someone has changed, by as much as their knowledge allows."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
import zlib

from interlock.model.canonical import canonical, digest, digest_bytes
from interlock.verification import container
from interlock.verification.verify import verify

MANIFEST, ATTESTATION, EVENTS = container.MANIFEST, container.ATTESTATION, container.EVENTS
KERNEL, POLICY, SDK = container.KERNEL, container.POLICY, container.SDK
HEALTH, SURFACE, CORRELATION = container.HEALTH, container.SURFACE, container.CORRELATION
STATEMENT_TYPE = "application/vnd.in-toto+json"


def codes(data, *keys, require_signature=False):
    """What a verification of these bytes finds, each code once; without the warnings."""
    return sorted({found.code for found in verdict(data, *keys, require_signature=require_signature).errors})


def verdict(data, *keys, require_signature=False):
    found = verify(io.BytesIO(data), keys, require_signature=require_signature).verdict
    assert found.valid == (not found.errors)
    return found


def warnings(data, *keys):
    return sorted({found.code for found in verdict(data, *keys).warnings})


def header(name, size, *, kind=tarfile.REGTYPE, mode=0o644, mtime=0, uid=0, uname="", link=""):
    """A header as the standard library writes it, so that it is sound but for what a test changes."""
    info = tarfile.TarInfo("x")
    info.size, info.mode, info.mtime, info.uid, info.uname, info.linkname = size, mode, mtime, uid, uname, link
    info.type = kind
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT)[:512])
    block[0:100] = (name if isinstance(name, bytes) else name.encode()).ljust(100, b"\0")
    if kind == tarfile.REGTYPE:
        block[329:345] = b"0000000\0" * 2
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + sum(block[156:]) + 256)
    return bytes(block)


def tar(entries, end=None):
    """A tar of (header, content)."""
    out = b"".join(head + data + bytes(-len(data) % 512) for head, data in entries)
    return out + (bytes(-(len(out) + 1024) % 10240 + 1024) if end is None else end)


def compress(data):
    stream = zlib.compressobj(6, zlib.DEFLATED, 31)
    return stream.compress(data) + stream.flush()


def pack(members):
    """An archive of members as they are."""
    return compress(tar([(header(name, len(data)), data) for name, data in members.items()]))


def members_of(data):
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as opened:
        return {info.name: opened.extractfile(info).read() for info in opened.getmembers()}


def resealed(members, *signers, manifest=lambda document: None, statement=lambda document: None):
    """An archive of changed members whose manifest and attestation were made anew: all that needs no run and no journal."""
    members = dict(members)
    document = json.loads(members[MANIFEST])
    for member in document["members"]:
        content = members[member["path"]]
        member["bytes"], member["sha256"] = len(content), hashlib.sha256(content).hexdigest()
    manifest(document)
    members[MANIFEST] = canonical(document) + b"\n"
    members[ATTESTATION] = attestation(members[MANIFEST], signers, statement)
    return pack(members)


def attestation(manifest, signers, change=lambda document: None):
    said = json.loads(manifest)
    head = hashlib.sha256(canonical(said["journal"])).hexdigest()
    document = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": "manifest.json", "digest": {"sha256": hashlib.sha256(manifest).hexdigest()}},
            {"name": "journal-head", "digest": {"sha256": head}},
        ],
        "predicateType": "urn:interlock:evidence:v1",
        "predicate": {"run_id": said["run_id"], "journal": said["journal"], "view": said["view"]},
    }
    change(document)
    payload = canonical(document)
    signatures = [
        {
            "keyid": signer.keyid,
            "sig": base64.b64encode(signer.signature(STATEMENT_TYPE, payload)).decode(),
        }
        for signer in signers
    ]
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": STATEMENT_TYPE,
        "signatures": signatures,
    }
    return canonical(envelope) + b"\n"


def edited(members, path, change):
    """The members, with a JSON document changed by a function."""
    document = json.loads(members[path])
    change(document)
    return {**members, path: canonical(document) + b"\n"}


def rechained(members, change):
    """The members with event lines changed by `change(list of values)` and every seal and view made anew, as someone with the
    journal's format but not the key can do it. Returns them with the manifest's `journal` and `view`.
    """
    run_id = json.loads(members[MANIFEST])["run_id"]
    lines = [json.loads(line) for line in members[EVENTS].splitlines()]
    events = [line for line in lines if line["kind"] != "seal"]
    change(events)
    version = next((event["version"] for event in events if event["kind"] == "run_started"), 1)
    prev, view = digest("genesis", {"run": run_id, "version": version}), ""
    out = b""
    own = b"".join(_line({k: v for k, v in e.items() if k not in ("schema", "run_id")}) for e in events)
    shown = b"".join(_line(event) for event in events)
    first, last = events[0]["seq"], events[-1]["seq"]
    seal = digest_bytes("seal", b"%b %d %d %d %d\n" % (prev.encode(), first, last, len(own), 1) + own)
    view = digest_bytes("view", view.encode() + b"\n" + shown)
    out = shown + _line(
        {
            "schema": "interlock.evidence.seal.v1", "run_id": run_id, "seq": 0, "view": view, "kind": "seal", "first": first,
            "last": last, "bytes": len(own), "epoch": 1, "prev": prev, "digest": seal,
        }
    )  # fmt: skip
    head = {"run": run_id, "seq": last, "seal": seal, "epoch": 1, "version": version}

    def manifest(document):
        document["journal"], document["view"] = head, view

    return {**members, EVENTS: out}, manifest


def _line(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
