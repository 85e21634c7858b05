r"""Decides what may be hidden from a person who approves a call: only text that can be neither code nor prose.

The finders (`shapes`, `credentials`) decide what may be a secret, and prefer a finding too many to one too few, which
is right for a journal. In an approval, hiding too much is the serious error: an agent could put shell syntax between
`:` and `@` of a URL, and its command would be hidden from the approver. So an approval hides a finding only if it is

- a word of letters, digits and `_ . ~ + / = - % @ :` (no white space, no quote, no shell syntax, only ASCII),
- not where a shell would look for a program (`PASSWORD= x`, or a line of its own), nor where a URL names its host,
- and, if only a name beside it marks it as a secret (`PASSWORD=...`), one that could not be the name of a program either,
- or a private key whose body is what its frame says: base64 in even lines, which decodes to one DER, OpenSSH or OpenPGP
  structure of exactly that length.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from interlock.detect.finding import Finding
from interlock.lazy import lazy_pattern

# No comma: inside braces it would make two words. No `#`: it ends the host of a URL, and what looks like a password was
# its port.
_WORD: Final = lazy_pattern(r"[A-Za-z0-9_.+/=%@:-][A-Za-z0-9_.~+/=%@:-]*")
_SEPARATOR: Final = lazy_pattern(r"[:@%~.]")
"""Characters that key material never contains: a program may split a word at them."""
BEFORE: Final = 48
"""Number of characters before a value that are examined: they show whether a program or a host could be there."""
_PROGRAM_FOLLOWS: Final = lazy_pattern(r"(?:[\r\n][ \t]{0,8}|\w=[ \t]{1,8})\\?[\"']?\Z|\\\Z")
"""The end of a text after which a shell would run the next word: a line break, an assignment of nothing (`PASSWORD=
x`), or a backslash (`\\n` in a text that is printed into a script).
"""
_HOST_FOLLOWS: Final = lazy_pattern(r"(?://|@)\Z")
_HOST: Final = lazy_pattern(r".*\.[A-Za-z]{2,24}\.?")
"""Some tokens may contain dots. Whatever ends like a host or a file name is not a token."""
_PATH: Final = lazy_pattern(r"[./~]|[A-Za-z]:[/\\]")
_NAME_OF_PROGRAM: Final = lazy_pattern(r"[A-Za-z_.+-]*|[./~].*|.*[./].*")
_CLASSES: Final = bytes(2 if 65 <= c <= 90 else 1 if 97 <= c <= 122 else 3 if 48 <= c <= 57 else 0 for c in range(256))
_ALONE: Final = frozenset(("env-assignment", "password", "secret-assignment", "credential-flag"))
"""Kinds whose value is a separate word and can therefore be run; the other kinds are part of a URL or of a field."""
_BY_NAME: Final = _ALONE | {"url-credentials", "basic-auth", "authorization", "named"}
_RUNS_VALUES: Final = lazy_pattern(
    r"[$`]|\b(?i:eval|exec|execv[ep]*|system|popen|spawn|subprocess|environ|getenv|printenv|argv|source|xargs|alias|declare)\b"
    # Programs that run what follows their options: `env -u --password x` runs x.
    r"|\b(?:env|sudo|doas|su|nice|ionice|nohup|setsid|stdbuf|time|timeout|chroot|unshare|nsenter|setpriv|runuser|flock|watch|find"
    r"|parallel|busybox|strace|taskset|prlimit|systemd-run|command|builtin|trap|ssh|IFS)\b"
    r"|\|\s{0,8}(?:sudo\s{1,8})?[\w./-]{0,40}(?:sh|python[0-9.]*|perl|ruby|node|awk|parallel)\b"
)


def may_run_values(text: str) -> bool:
    """Returns True if a program text could fetch a value by name or place, and run it: `$PASSWORD`, `eval`, `os.environ`."""
    return _RUNS_VALUES.search(text) is not None


def looks_random(word: str) -> bool:
    """Returns True for a word that nobody would name a program.

    Its letters and digits alternate about as often as random ones.
    """
    if len(word) < 8 or not word.isascii():
        return False
    classes, changes = _changes(word)
    if 3 not in classes or not (1 in classes or 2 in classes):
        return False
    return (len(word) >= 12 or {1, 2, 3} <= classes) and 4 * changes >= len(word)


def _changes(word: str) -> tuple[set[int], int]:
    """Returns the classes of characters (1 small letters, 2 capitals, 3 digits), and how often the class changes."""
    classes = [c for c in word.encode().translate(_CLASSES) if c]
    return set(classes), sum(a != b for a, b in pairwise(classes))


def is_opaque(kind: str, value: str, *, runs_values: bool, before: str = "") -> bool:
    """Returns True if an approval may hide this value of a finding.

    `runs_values` says whether something beside it could run a value (see `may_run_values`); `before` is the end of the
    preceding text, at least `BEFORE` characters if there are that many.
    """
    if not _WORD.fullmatch(value):
        return False
    if kind in _BY_NAME and _PROGRAM_FOLLOWS.search(before):
        return False
    if kind not in _BY_NAME and (_HOST_FOLLOWS.search(before) or _HOST.fullmatch(value)):
        return False
    if kind not in _BY_NAME:  # a token of a known shape; `sk-ant-delete-all-of-it-now` has the shape but is prose
        return kind == "aws-access-key" or 8 * _changes(value)[1] >= len(value)
    if looks_random(value) and not _PATH.match(value) and not (runs_values and _SEPARATOR.search(value)):
        return True
    if kind in _ALONE:
        return not runs_values and not _NAME_OF_PROGRAM.fullmatch(value)
    return not _PATH.match(value) and not runs_values


_BEGIN: Final = lazy_pattern(
    r"-----BEGIN (?P<label>(?:RSA |EC |DSA |OPENSSH |ENCRYPTED )?PRIVATE KEY|PGP PRIVATE KEY BLOCK)-----"
)
_NEW_LINE: Final = lazy_pattern(r"(?:\r\n|\n|\\r\\n|\\n)[ \t]{0,40}")
_LINE: Final = lazy_pattern(r"[A-Za-z0-9+/]{1,76}={0,2}")
_HEADERS: Final = lazy_pattern(
    r"Proc-Type: 4,ENCRYPTED|DEK-Info: (?:AES-(?:128|192|256)-CBC|DES-EDE3-CBC|DES-CBC),[0-9A-F]{16,32}"
    r"|Version: (?:GnuPG|OpenPGP)[ A-Za-z]{0,8} ?v?[0-9.]{1,12}"
)
_CHECKSUM: Final = lazy_pattern(r"=[A-Za-z0-9+/]{4}")
_KEY_LINE: Final = lazy_pattern(r"[A-Za-z0-9+/]{40,76}={0,2}")
_LINES_MAX: Final = 2_000


def private_keys(text: str, finding: Finding) -> Iterator[Finding]:
    """Yields what may be hidden of a `private-key` finding.

    That is the whole block if it is a key, else its lines that are key material.
    """
    begin = _BEGIN.match(text, finding.start)
    if begin is not None and (end := _end_of_key(text, begin, finding.end)) is not None:
        yield Finding(finding.kind, finding.start, end)
        return
    for line in _KEY_LINE.finditer(text, finding.start, finding.end):
        around = text[max(line.start() - 1, 0) : line.start()] + text[line.end() : line.end() + 1]
        if looks_random(line.group()) and not around.strip("\r\n\t \\\"'"):
            yield Finding(finding.kind, line.start(), line.end())


def _end_of_key(text: str, begin: re.Match[str], limit: int) -> int | None:
    """Returns where the block ends, if it is a private key from its first to its last line."""
    end = f"-----END {begin['label']}-----"
    lines: list[str] = []
    position, headers, checksum = begin.end(), False, None
    for _ in range(_LINES_MAX):
        new_line = _NEW_LINE.match(text, position)
        if new_line is None:
            return None
        position = new_line.end()
        if text.startswith(end, position):
            stop = position + len(end)
            return stop if stop <= limit and _is_key(begin["label"], lines, headers, checksum) else None
        if not lines and (header := _HEADERS.match(text, position)) is not None:
            headers, position = True, header.end()
        elif checksum is None and lines and (found := _CHECKSUM.match(text, position)) is not None:
            checksum, position = found.group(), found.end()
        elif checksum is None and (line := _LINE.match(text, position)) is not None:
            lines.append(line.group())
            position = line.end()
        elif lines or not _NEW_LINE.match(text, position):
            return None  # an empty line is allowed only between the headers and the body
    return None


def _is_key(label: str, lines: list[str], headers: bool, checksum: str | None) -> bool:
    if not lines or len({len(line) for line in lines[:-1]}) > 1 or len(lines[-1]) > len(lines[0]):
        return False
    try:
        data = base64.b64decode("".join(lines), validate=True)
    except binascii.Error:
        return False
    if label.startswith("PGP"):
        return checksum is not None and _is_openpgp(data, checksum)
    if checksum is not None:
        return False
    if label.startswith("OPENSSH"):
        return data.startswith(b"openssh-key-v1\0") and len(data) >= 80
    if headers:  # encrypted as a whole: all that can be checked is that it consists of whole cipher blocks
        return len(data) >= 64 and len(data) % 8 == 0 and looks_random(lines[0])
    return len(data) >= 40 and _der_length(data) == len(data)


def _der_length(data: bytes) -> int | None:
    """Returns the total length that the DER sequence at the start of these bytes declares."""
    if data[:1] != b"\x30":
        return None
    first = data[1]
    if first < 0x80:
        return 2 + first
    size = first & 0x7F
    if not 1 <= size <= 3:
        return None
    return 2 + size + int.from_bytes(data[2 : 2 + size], "big")


def _is_openpgp(data: bytes, checksum: str) -> bool:
    """Returns True for a secret-key packet (tag 5) with the CRC-24 that the armor states (RFC 9580, section 6.1)."""
    if len(data) < 40 or not (data[0] in range(0x94, 0x98) or data[0] == 0xC5):
        return False
    crc = 0xB704CE
    for byte in data:
        crc ^= byte << 16
        for _ in range(8):
            crc = (crc << 1) ^ (0x1864CFB if crc & 0x800000 else 0)
    return base64.b64decode(checksum[1:]) == (crc & 0xFFFFFF).to_bytes(3, "big")
