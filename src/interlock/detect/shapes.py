r"""Secrets that are recognised by their own shape: tokens whose issuer chose a recognisable prefix, and key blocks.

A shape is (kind, literal, rest): the token starts with the literal, and the pattern `rest` matches what follows. One
pattern for all literals finds where a token may begin. Its shapes are tried only there, and only if no letter or digit
precedes it. Every repetition is bounded, so that hostile text costs a constant factor, never a power. Formats: the
issuers' documentation of their tokens, checked against the rules of public secret scanners.

Kinds (each with true and false examples in the tests): see `KINDS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Final

from interlock.detect.finding import Finding
from interlock.detect.literals import LiteralFinder
from interlock.lazy import lazy_pattern

_SHAPES: Final[tuple[tuple[str, str, str], ...]] = (
    ("aws-access-key", "AKIA", r"[A-Z2-7]{16}(?![A-Za-z0-9])"),
    ("aws-access-key", "ASIA", r"[A-Z2-7]{16}(?![A-Za-z0-9])"),
    ("github-token", "ghp_", r"[A-Za-z0-9]{36,251}"),
    ("github-oauth", "gho_", r"[A-Za-z0-9]{36,251}"),
    ("github-app", "ghu_", r"[A-Za-z0-9]{36,251}"),
    ("github-app", "ghs_", r"[A-Za-z0-9_.-]{36,1024}"),
    ("github-refresh", "ghr_", r"[A-Za-z0-9]{36,251}"),
    ("github-fine-grained", "github_pat_", r"[A-Za-z0-9_]{22,251}"),
    ("gitlab-token", "glpat-", r"[A-Za-z0-9_.-]{20,300}"),
    ("gitlab-token", "gldt-", r"[A-Za-z0-9_-]{20,64}"),
    ("gitlab-token", "glrt-", r"[A-Za-z0-9_.-]{20,300}"),
    ("gitlab-token", "glptt-", r"[0-9a-f]{40}"),
    ("gitlab-token", "glcbt-", r"[A-Za-z0-9_-]{20,64}"),
    ("slack-token", "xox", r"[abeoprs](?:\.xox[bp])?-[A-Za-z0-9-]{10,250}"),
    ("slack-token", "xapp-", r"[0-9]-[A-Za-z0-9-]{15,250}"),
    ("slack-webhook", "hooks.slack.com/", r"(?:services|workflows|triggers)/[A-Za-z0-9+/_-]{20,120}"),
    ("discord-webhook", "discord.com/api/webhooks/", r"[0-9]{16,20}/[A-Za-z0-9_-]{60,80}"),
    ("stripe-key", "sk_live_", r"[A-Za-z0-9]{16,247}"),
    ("stripe-key", "sk_test_", r"[A-Za-z0-9]{16,247}"),
    ("stripe-key", "rk_live_", r"[A-Za-z0-9]{16,247}"),
    ("stripe-key", "rk_test_", r"[A-Za-z0-9]{16,247}"),
    ("stripe-webhook", "whsec_", r"[A-Za-z0-9+/=]{24,128}"),
    ("google-api-key", "AIza", r"[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),
    ("google-oauth", "GOCSPX-", r"[A-Za-z0-9_-]{28}"),
    ("google-oauth", "ya29.", r"[A-Za-z0-9_-]{20,1024}"),
    ("anthropic-key", "sk-ant-", r"[A-Za-z0-9_-]{24,256}"),
    ("openai-key", "sk-proj-", r"[A-Za-z0-9_-]{20,256}"),
    ("openai-key", "sk-svcacct-", r"[A-Za-z0-9_-]{20,256}"),
    ("openai-key", "sk-admin-", r"[A-Za-z0-9_-]{20,256}"),
    ("openai-key", "sk-", r"[A-Za-z0-9]{20,64}(?![A-Za-z0-9_-])"),
    ("npm-token", "npm_", r"[A-Za-z0-9]{36}(?![A-Za-z0-9])"),
    ("pypi-token", "pypi-", r"AgE[A-Za-z0-9_-]{20,1024}"),
    ("sendgrid-key", "SG.", r"[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{32,64}"),
    ("twilio-key", "SK", r"[0-9a-f]{32}(?![A-Za-z0-9])"),
    ("huggingface-token", "hf_", r"[A-Za-z]{34}(?![A-Za-z0-9])"),
    ("digitalocean-token", "dop_v1_", r"[0-9a-f]{64}"),
    ("digitalocean-token", "doo_v1_", r"[0-9a-f]{64}"),
    ("digitalocean-token", "dor_v1_", r"[0-9a-f]{64}"),
    ("shopify-token", "shp", r"(?:at|ca|pa|ss)_[0-9a-fA-F]{32}"),
    ("vault-token", "hvs.", r"[A-Za-z0-9_-]{24,256}"),
    ("grafana-token", "glsa_", r"[A-Za-z0-9]{32}_[0-9a-fA-F]{8}"),
    ("atlassian-token", "ATATT3", r"[A-Za-z0-9_=-]{40,300}"),
    ("databricks-token", "dapi", r"[0-9a-f]{32}(?:-[0-9])?(?![A-Za-z0-9])"),
    ("linear-key", "lin_api_", r"[A-Za-z0-9]{40}"),
    ("age-key", "AGE-SECRET-KEY-1", r"[QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L]{58}"),
    ("interlock-grant-token", "igt1_", r"[A-Za-z0-9_-]{64,65536}"),
    ("jwt", "eyJ", r"[A-Za-z0-9_-]{12,512}\.eyJ[A-Za-z0-9_-]{8,8192}\.[A-Za-z0-9_-]{0,1024}"),
)

_FINDER: Final = LiteralFinder([literal for _, literal, _ in _SHAPES] + [":AA"])
_TELEGRAM: Final = lazy_pattern(r":AA[A-Za-z0-9_-]{33}(?![A-Za-z0-9_-])")
_TELEGRAM_ID: Final = lazy_pattern(r"[0-9]{8,10}\Z")


@cache
def _shapes_from(start: str) -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Returns the shapes for a literal that the finder found, longer literals first. Compiled when first needed."""
    shapes = sorted((s for s in _SHAPES if s[1].startswith(start)), key=lambda s: -len(s[1]))
    return tuple((kind, re.compile(re.escape(literal) + rest)) for kind, literal, rest in shapes)


@cache
def _starts() -> LiteralFinder:
    """Finds the literals in JSON, which may escape a slash: only what is before one."""
    return LiteralFinder([word.partition("/")[0] for word in _FINDER.words])


_RUN: Final = "a" * 20
_RUN_CLASSES: Final = bytes(97 if chr(c).isascii() and (chr(c).isalnum() or c in b"_-") else 32 for c in range(256))
"""Maps the characters of tokens to `a` and all others to a space: searching for a run of 20 is then a search for a constant."""


_DISTINCT_MIN: Final = 5
"""A token with fewer distinct characters among its last 16 is a placeholder such as `ghp_xxxx...`."""

_PEM: Final = lazy_pattern(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_PEM_BODY: Final = lazy_pattern(r"[A-Za-z0-9+/=\s\\:,.-]*")

KINDS: Final[tuple[str, ...]] = tuple(sorted({*(kind for kind, _, _ in _SHAPES), "private-key", "telegram-token"}))


def may_hold_token(data: bytes) -> bool:
    """Returns False if these UTF-8 bytes (text, or its JSON encoding) cannot contain a token of a shape. About 2 ns a byte.

    A run of such characters is usually an id or a hash: the start of a token must be there too.
    """
    if len(data) < len(_RUN) or _RUN not in data.translate(_RUN_CLASSES).decode("ascii"):
        return False
    return _starts().occurs(data)


def find_tokens(text: str) -> Iterator[Finding]:
    """Yields the tokens in a text, in order, not overlapping."""
    position = 0
    for start, literal in _FINDER.find(text):
        if start < position:
            continue
        found = _token_at(text, start, literal)
        if found is not None:
            position = found.end
            if len(set(text[max(found.start, found.end - 16) : found.end])) >= _DISTINCT_MIN:
                yield found


def _token_at(text: str, at: int, literal: str) -> Finding | None:
    if literal == ":AA":
        bot, rest = _TELEGRAM_ID.search(text, max(0, at - 10), at), _TELEGRAM.match(text, at)
        return Finding("telegram-token", bot.start(), rest.end()) if bot and rest else None
    before = text[max(0, at - 2) : at]
    # In JSON inside a string, a line break before a token is the two characters `\\n`: this `n` is not part of a word.
    if before and before[-1].isascii() and before[-1].isalnum() and not (before[0] == "\\" and before[-1] in "nrtbf"):
        return None
    for kind, pattern in _shapes_from(literal):
        match = pattern.match(text, at)
        if match is not None:
            return Finding(kind, at, match.end())
    return None


def find_private_keys(text: str) -> Iterator[Finding]:
    """Yields PEM and OpenPGP private key blocks. A block without its end counts as far as it goes."""
    position = 0
    ends = True
    while (begin := _PEM.search(text, position)) is not None:
        stop = text.find("-----END", begin.end()) if ends else -1
        if stop < 0:
            ends = False  # do not search the rest again for each further block: that would be quadratic
            body = _PEM_BODY.match(text, begin.end())
            position = body.end() if body else begin.end()
        else:
            close = text.find("-----", stop + 8, stop + 80)
            position = close + 5 if close >= 0 else stop + 8
        yield Finding("private-key", begin.start(), position)
