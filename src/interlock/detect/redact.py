"""Redaction: replaces secrets in a JSON value by keyed fingerprints, before anything is journaled, shown or exported.

`[redacted:KIND:FINGERPRINT]`, where FINGERPRINT is the first 8 hex digits of HMAC-SHA256(key, the secret's UTF-8): the
same secret can be recognised within a project, and nobody without the key can test guesses. A value without secrets is
returned as the same object, so that callers can tell by identity and nothing is copied.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Container, Iterable, Sequence
from itertools import count
from typing import Any, Final

import msgspec

from interlock.detect.credentials import find_credentials, is_secret_flag, is_secret_name, may_hold_credential
from interlock.detect.finding import Finding
from interlock.detect.shapes import find_private_keys, find_tokens, may_hold_token
from interlock.lazy import lazy_pattern

DONE: Final = lazy_pattern(r"\[redacted:[a-z0-9-]+:[0-9a-f]{8}\]")
_HASH_BYTES: Final = lazy_pattern(rb'"(?:[a-z0-9-]{2,12}:)?[0-9a-fA-F]{32,128}"')
_HASH: Final = lazy_pattern(r"(?:[a-z0-9-]{2,12}:)?[0-9a-fA-F]{32,128}")
_BLOCK: Final = 64
"""Block size of SHA-256 in bytes."""
KNOWN_CHARS_MIN: Final = 6
"""A shorter known secret would be found everywhere."""
_NEVER_SECRET: Final = frozenset((type(None), bool, int, float))
_encode: Final = msgspec.json.Encoder(order="sorted").encode


def may_hold_secret(data: bytes) -> bool:
    """Returns False if these bytes contain no secret: a text in UTF-8, or the JSON encoding of a value.

    The single filter before all patterns: clean text costs only a few nanoseconds a byte.
    """
    return may_hold_token(data) or may_hold_credential(data)


def find_secrets(text: str) -> list[Finding]:
    """Returns every secret in a text, in order, not overlapping. Linear in the length of the text."""
    return merge_findings(all_findings(text))


def all_findings(text: str) -> list[Finding]:
    """Returns what each finder finds in a text, unordered and possibly overlapping."""
    data = text.encode("utf-8", "surrogatepass")
    token, named = may_hold_token(data), may_hold_credential(data)
    found: list[Finding] = []
    if token:
        found += find_tokens(text)
    if named:
        found += find_private_keys(text)
        found += find_credentials(text)
    if found and "[redacted:" in text:
        # `password: [redacted:password:1a2b3c4d]` is found again: redacting it twice would change its fingerprint each time.
        done = [match.span() for match in DONE.finditer(text)]
        found = [f for f in found if not any(start <= f.start and f.end <= end for start, end in done)]
    return found


def merge_findings(found: list[Finding]) -> list[Finding]:
    """Returns the findings in order, not overlapping.

    Of two that overlap, the one that begins first is kept, or the longer one at the same start.
    """
    if len(found) < 2:
        return found
    found.sort(key=lambda f: (f.start, -f.end))
    kept = [found[0]]
    for finding in found[1:]:
        if finding.start >= kept[-1].end:
            kept.append(finding)
        elif finding.end > kept[-1].end:
            kept[-1] = kept[-1]._replace(end=finding.end)
    return kept


def free_name(taken: Container[str], name: str) -> str:
    """Returns the name, with a number if it is taken: two secret keys with one fingerprint remain two members."""
    if name not in taken:
        return name
    return next(other for n in count(2) if (other := f"{name}#{n}") not in taken)


class Redactor:
    """Replaces secrets by fingerprints under one key (at least 16 bytes; one per state directory)."""

    def __init__(self, key: bytes, known: Iterable[str] = ()) -> None:
        """`known` are secrets that are replaced wherever they occur, whatever their form, unless they are too short.

        Raises: ValueError if the key is too short to prevent guessing.
        """
        if len(key) < 16:
            raise ValueError("the redaction key must be at least 16 bytes")
        self._key = key
        known = sorted({secret for secret in known if len(secret) >= KNOWN_CHARS_MIN}, key=len, reverse=True)
        self._known = {form for secret in known for form in (secret.encode("utf-8", "surrogatepass"), _escaped(secret))}
        # What was replaced already is matched first, so that a known secret `redacted` does not change it.
        self._pattern = re.compile("|".join([DONE.pattern, *map(re.escape, known)])) if known else None
        # HMAC-SHA256 (RFC 2104), implemented by its definition: each intent needs one, and OpenSSL's takes six times as
        # long for short input.
        block = (key if len(key) <= _BLOCK else hashlib.sha256(key).digest()).ljust(_BLOCK, b"\0")
        self._inner, self._outer = bytes(b ^ 0x36 for b in block), bytes(b ^ 0x5C for b in block)

    def fingerprint(self, kind: str, secret: str) -> str:
        """Returns the replacement for a secret."""
        digest = hmac.new(self._key, secret.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
        return f"[redacted:{kind}:{digest[:8]}]"

    def keyed(self, digest: str) -> str:
        """Returns the displayable form of a digest over values that may contain secrets.

        Without the key, a guess cannot be confirmed.
        """
        inner = hashlib.sha256(self._inner + digest.encode()).digest()
        return "hmac-sha256:" + hashlib.sha256(self._outer + inner).hexdigest()

    def may_hold(self, data: bytes) -> bool:
        """Returns False if these bytes contain no secret, known ones included: a text in UTF-8, or JSON."""
        if may_hold_token(data) or may_hold_credential(data):
            return True
        return bool(self._known) and any(secret in data for secret in self._known)

    def redact_text(self, text: str) -> str:
        """Returns the text with each secret replaced; the same object if there is none."""
        clean = self.replace(text, find_secrets(text))
        if self._pattern is None or self._pattern.search(clean) is None:
            return clean
        return self._pattern.sub(lambda found: self._known_or_done(found[0]), clean)

    def find_known(self, text: str) -> list[Finding]:
        """Returns the known secrets in a text, where they are not replaced yet."""
        if self._pattern is None:
            return []
        places = self._pattern.finditer(text)
        return [Finding("known", each.start(), each.end()) for each in places if not DONE.fullmatch(each[0])]

    def _known_or_done(self, text: str) -> str:
        return text if DONE.fullmatch(text) else self.fingerprint("known", text)

    def replace(self, text: str, found: Sequence[Finding]) -> str:
        """Returns the text with findings (in order, not overlapping) replaced; the same object if there are none."""
        if not found:
            return text
        parts: list[str] = []
        position = 0
        for kind, start, end in found:
            parts += (text[position:start], self.fingerprint(kind, text[start:end]))
            position = end
        parts.append(text[position:])
        return "".join(parts)

    def redact(self, value: Any, marks: Sequence[str] = (), data: bytes | None = None) -> Any:
        """Returns the JSON value with secrets replaced, also in keys; the same object if there is none.

        `marks` are JSON Pointers (RFC 6901) to what the tool's schema marks as secret; the token `*` stands for every
        element or member, so that `/users/*/pin` reaches into lists. `data` is the value's JSON encoding (canonical or
        not), if the caller has it already: it is searched first, and a clean value is not walked at all.
        """
        if value.__class__ in _NEVER_SECRET and not marks:
            return value
        if data is None:
            data = _encode(value) if value.__class__ is not str else value.encode("utf-8", "surrogatepass")
        if self.may_hold(data):
            value = self._walk(value, sift=True)
        return self.mark(value, marks) if marks else value

    def mark(self, value: Any, marks: Sequence[str]) -> Any:
        """Replace only what `marks` point to."""
        for mark in marks:
            value = self._mark(value, [t.replace("~1", "/").replace("~0", "~") for t in mark.split("/")[1:]])
        return value

    def may_hold_hash(self, data: bytes) -> bool:
        """Returns False if no string in this JSON looks like a hash."""
        return _HASH_BYTES.search(data) is not None

    def hide_hashes(self, value: Any) -> Any:
        """Returns the JSON value with every hash (MD5 to SHA-512, in hex) replaced; the same object if there is none."""
        if isinstance(value, str):
            return self.fingerprint("hash", value) if _HASH.fullmatch(value) else value
        if isinstance(value, dict):
            members = {key: self.hide_hashes(old) for key, old in value.items()}
            return members if any(members[key] is not value[key] for key in value) else value
        if isinstance(value, (list, tuple)):
            items = [self.hide_hashes(old) for old in value]
            return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
        return value

    def _walk(self, value: Any, *, sift: bool = False) -> Any:
        """Walk a value. `sift` is true until the first array, whose elements are filtered before they are walked.

        If one of a thousand actions in a list contains a secret, the others then cost as little as clean values; and no
        byte is filtered more than one extra time, however deep the value.
        """
        if isinstance(value, str):
            return self.redact_text(value) if len(value) > 3 else value
        if isinstance(value, dict):
            return self._walk_object(value, sift=sift)
        if isinstance(value, (list, tuple)):
            return self._walk_array(value, sift=sift)
        return value

    def _walk_object(self, value: dict[str, Any], *, sift: bool) -> dict[str, Any]:
        out: dict[str, Any] = {}
        changed = False
        for key, old in value.items():
            new = self._conceal(old, "named") if is_secret_name(key) else self._walk(old, sift=sift)
            name = free_name(out, self.redact_text(key))
            if new is not old or name is not key:
                changed = True
            out[name] = new
        return out if changed else value

    def _walk_array(self, value: Sequence[Any], *, sift: bool) -> Sequence[Any]:
        out: list[Any] = []
        changed = secret_next = False
        for old in value:
            text = isinstance(old, str)
            # ["mysql", "--password", "X"]: in an argument vector the secret is the element after its flag.
            if secret_next and text:
                new = self._conceal(old, "credential-flag")
            elif sift and isinstance(old, (dict, list, tuple)) and not self.may_hold(_encode(old)):
                new = old
            else:
                new = self._walk(old)
            secret_next = text and is_secret_flag(old)
            changed = changed or new is not old
            out.append(new)
        return out if changed else value

    def _conceal(self, value: Any, kind: str) -> Any:
        """Replace every text and number in a value, regardless of its form."""
        if isinstance(value, str):
            return value if not value or DONE.fullmatch(value) else self.fingerprint(kind, value)
        if isinstance(value, dict):
            concealed: dict[str, Any] = {}
            for key, inner in value.items():
                concealed[free_name(concealed, self.redact_text(key))] = self._conceal(inner, kind)
            return concealed or value
        if isinstance(value, (list, tuple)):
            return [self._conceal(v, kind) for v in value] if value else value
        if value is None or isinstance(value, bool):
            return value
        return self.fingerprint(kind, repr(value))

    def _mark(self, value: Any, tokens: list[str]) -> Any:
        if not tokens:
            return self._conceal(value, "marked")
        token, rest = tokens[0], tokens[1:]
        if isinstance(value, dict):
            changed = {
                key: new
                for key, old in value.items()
                if token in ("*", key) and (new := self._mark(old, rest)) is not old
            }
            return {**value, **changed} if changed else value
        if isinstance(value, (list, tuple)):
            out = [self._mark(v, rest) if token in ("*", str(i)) else v for i, v in enumerate(value)]
            return out if any(new is not old for new, old in zip(out, value, strict=True)) else value
        return value


def _escaped(text: str) -> bytes:
    """Returns the text as it is within a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1].encode("utf-8", "surrogatepass")
