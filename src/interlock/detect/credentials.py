r"""Secrets that are recognised by the name beside them: `--password X`, `API_TOKEN=...`, `Authorization: Bearer ...`.

The name alone proves nothing (`token = get_token()`, `password: str`, `max_tokens=4096`), so the value must look like a
secret: unquoted placeholders, references to variables, calls, types and plain words are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from interlock.detect.finding import Finding
from interlock.detect.literals import LONG_CHARS, LiteralFinder
from interlock.lazy import lazy_pattern

KINDS: Final = (
    "authorization",
    "basic-auth",
    "credential-flag",
    "env-assignment",
    "password",
    "secret-assignment",
    "url-credentials",
)

_LOWER: Final = bytes.maketrans(bytes(range(65, 91)), bytes(range(97, 123)))

_KEY_STEM: Final = lazy_pattern(
    "|".join(f"key(?<={word}key)" for word in ("api", "access", "account", "private", "signing", "encryption"))
)
_NAME: Final = (
    r"(?:passw(?:or)?d|passphrase|pwd|secret|token|api[_ -]?key|(?:access|account|private|signing|encryption)[_-]?key"
    r"|credential)"
)
_NAMED: Final = lazy_pattern(_NAME + r"(?:s|_[a-z0-9_]{0,24})?\\?[\"']?\s{0,3}(?:=>|[=:](?!//))\s{0,3}\\?[\"']?")
_KEYS: Final = ("api", "access", "account", "private", "signing", "encryption")
_NAME_STARTS: Final = (
    "passw", "passphrase", "pwd", "secret", "token", "credential", "api key",
    *(f"{word}{between}key" for word in _KEYS for between in ("", "_", "-")),
)  # fmt: skip
# Where a credential may begin, and what must follow there; all patterns match lower-cased text.
_PLACES: Final[dict[str, tuple[str, re.Pattern[str]]]] = {
    "://": ("url", lazy_pattern(r"://[^\s/@:\"'<>?#]{0,128}:(?=[^\s@/\"'<>]{1,256}@)")),
    "--": ("flag", lazy_pattern(r"--[a-z0-9-]{0,30}" + _NAME + r"(?:=|[ \t]{1,4})[\"']?")),
    "sshpass": ("sshpass", lazy_pattern(r"sshpass[ \t]{1,4}-p[ \t]{0,4}[\"']?")),
    "mysql": ("mysql", lazy_pattern(r"mysql[a-z_]{0,16}[ \t][^\n|;&]{0,120}?(?<=[ \t])-p(?=[^\s]{3})[\"']?")),
    "curl": (
        "curl",
        lazy_pattern(r"curl[ \t][^\n|;&]{0,160}?(?<=[ \t])(?:-u|--user)[= \t]{0,4}[\"']?[^\s:\"']{1,64}:"),
    ),
    "authorization": (
        "auth",
        lazy_pattern(
            r"authorization\\?[\"']?\s{0,4}[:=,]\s{0,4}\\?[\"']?(?:(?:bearer|basic|token|digest|apikey)\s{1,4})?"
        ),
    ),
    "bearer": ("bearer", lazy_pattern(r"bearer\s{1,4}(?=[a-z0-9._~+/=-]{16})")),
    **dict.fromkeys(_NAME_STARTS, ("named", _NAMED)),
}
_FINDER: Final = LiteralFinder(_PLACES)
_VALUE: Final = lazy_pattern(r"[^\s\"'\\,;&<>(){}\[\]`|]{1,1024}")
_URL_VALUE: Final = lazy_pattern(r"[^\s@/\"'<>]{1,256}")
_JUDGED_CHARS: Final = 128
"""Number of characters of a value that decide whether it is a secret.

In `token=token=...` each name has all the rest as its value.
"""
_LETTER: Final = lazy_pattern(r"[^\W\d_]")
_DIGIT: Final = lazy_pattern(r"\d")
_NO_WORD: Final = lazy_pattern(r"\d|[^\w.:/-]")
_REFERENCE: Final = lazy_pattern(r"[$%<{*]|(.)\1*\Z|\.\.\.|[Yy](?:our|OUR)[_-]|(?i:redacted|changeme|placeholder)")
_DOTTED: Final = lazy_pattern(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+\Z")
_SECRET_NAME: Final = lazy_pattern(
    r".*(?:password|passwd|passphrase|secrets?|apikey|(?:access|account|private|signing|encryption|secret)key"
    r"|credentials?|authorization|token)|pwd|cookie|setcookie|auth|bearer|pin"
)
_STEMS: Final = LiteralFinder(
    (
        "pass", "secret", "token", "pwd", "credential", "authoriz", "bearer", "cookie", '"auth"', '"pin"', "mysql", "curl",
        *(f"{word}key" for word in _KEYS),
    )
)  # fmt: skip
"""Every named secret contains at least one of these, in lower case and without separators."""
_SEPARATORS: Final = str.maketrans("", "", "_-. ")
_WORDS: Final = frozenset(
    (
        "string",
        "password",
        "passwd",
        "secret",
        "token",
        "none",
        "null",
        "true",
        "false",
        "required",
        "optional",
        "integer",
    )
)


def may_hold_credential(data: bytes) -> bool:
    """Returns False if these UTF-8 bytes (text, or its JSON encoding) cannot contain a named secret. About 4 ns a byte."""
    # Written out, and on `str`: a loop over the stems, or one regular expression for all of them, takes two to three
    # times as long.
    joined = data.translate(_LOWER, b"_-. ")
    if len(data) >= LONG_CHARS:
        return _STEMS.occurs(joined) or (b"@" in joined and b"://" in joined)
    low = joined.decode("latin-1")
    return (
        "pass" in low
        or "secret" in low
        or "token" in low
        or "pwd" in low
        or "credential" in low
        or "authoriz" in low
        or "bearer" in low
        or "cookie" in low
        or '"auth"' in low
        or '"pin"' in low
        or "mysql" in low
        or "curl" in low
        or ("key" in low and _KEY_STEM.search(low) is not None)
        or ("@" in low and "://" in low)
    )


def is_secret_name(name: str) -> bool:
    """Returns True if a field of this name holds a secret: `password`, `apiKey`, `X-Auth-Token`, `client_secret` ..."""
    return _SECRET_NAME.fullmatch(name.translate(_SEPARATORS).lower()) is not None


def is_secret_flag(argument: str) -> bool:
    """Returns True if the next element of an argument vector is a secret: `--password`, `--api-key`."""
    return argument.startswith("--") and "=" not in argument and is_secret_name(argument)


def find_credentials(text: str) -> Iterator[Finding]:
    """Yields the values (not the names) of named secrets in a text, in order, not overlapping."""
    low = text.lower()
    if len(low) != len(text):  # a few letters become longer in lower case, which would shift the positions
        low = "".join(c.lower() if c.isascii() else c for c in text)
    position = 0
    for start, word in _FINDER.find(low):
        if start < position:
            continue
        how, pattern = _PLACES[word]
        match = pattern.match(low, start)
        if match is None:
            continue
        position = match.end()
        extent = _URL_VALUE if how == "url" else _VALUE
        judged = extent.match(text, position, position + _JUDGED_CHARS)
        if judged is None:
            continue
        kind = _judge(how, text, start, position, judged.group())
        if kind is not None and (value := extent.match(text, position)) is not None:
            yield Finding(kind, position, value.end())
            position = value.end()


def _judge(how: str, text: str, start: int, at: int, value: str) -> str | None:
    """Returns the kind of a value that follows a name, or None if it is not a secret."""
    if _REFERENCE.match(value):
        return None
    if how == "url":
        return "url-credentials"
    if how in ("mysql", "sshpass", "flag"):
        return "credential-flag" if len(value) >= 3 and not value.startswith("-") else None
    if how == "curl":
        return "basic-auth"
    if how in ("auth", "bearer"):
        # Short credentials in base64 may contain no digit: `Basic` says that it is base64.
        basic = (
            how == "auth"
            and text[start:at].rstrip()[-5:].lower() == "basic"
            and not (value.islower() or value.isupper())
        )
        return "authorization" if len(value) >= 6 and (basic or _mixed(value)) else None
    return _judge_assignment(text, start, at, value)


def _judge_assignment(text: str, start: int, at: int, value: str) -> str | None:
    name = text[start:at]
    after = text[at + len(value) : at + len(value) + 1]
    if _DOTTED.match(value) or (after and after in "(["):
        return None
    password = name[:1] in "pP" and not name.lower().startswith("private")
    if name.endswith("=") and name[:-1].isupper():
        return "env-assignment" if len(value) >= 4 and value.lower() not in _WORDS else None
    if name.endswith(("'", '"')):
        plain_is_enough = password and value.lower() not in _WORDS
        return _kind(password) if len(value) >= 4 and (plain_is_enough or _mixed(value)) else None
    if password:
        return "password" if len(value) >= 4 and _NO_WORD.search(value) else None
    return "secret-assignment" if len(value) >= 8 and _mixed(value) and not value.isdigit() else None


def _kind(password: bool) -> str:
    return "password" if password else "secret-assignment"


def _mixed(value: str) -> bool:
    """Returns True if the value mixes digits and letters, or is long and has capitals inside: no plain word or number."""
    if len(set(value)) < 4:
        return False
    if _LETTER.search(value) and _DIGIT.search(value):
        return True
    return len(value) >= 16 and value[1:] != value[1:].lower() and value != value.upper()
