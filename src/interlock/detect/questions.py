"""Redaction of what a person approves: shows as much as possible, because what is hidden is approved unseen.

`Redactor` hides whatever may be a secret; this module hides a value only if it can be nothing else (see `opaque`). Values
that a tool's schema marks as secret are hidden regardless of their form: the tool's author states that they are not code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from interlock.detect.credentials import is_secret_flag, is_secret_name
from interlock.detect.finding import Finding
from interlock.detect.opaque import BEFORE, is_opaque, looks_random, may_run_values, private_keys
from interlock.detect.redact import DONE, Redactor, all_findings, free_name, merge_findings
from interlock.lazy import lazy_pattern

_ENVIRONMENTS: Final = frozenset(("env", "environ", "environment", "env_vars", "variables"))
_SCHEME: Final = lazy_pattern(r"(?i:bearer|basic|token|digest|apikey) {1,4}([A-Za-z0-9._~+/=-]{6,})\Z")
_WORDS: Final = lazy_pattern(r"(?<![^\s;,=\"'])[A-Za-z0-9._~+/=%-]{8,}")


class QuestionRedactor:
    """Redacts with the key of a `Redactor`, so that a secret has the same fingerprint in an approval and in the journal."""

    def __init__(self, redactor: Redactor) -> None:
        """`redactor` is the one for journals and notifiers."""
        self._redactor = redactor

    def redact(self, value: Any, marks: Sequence[str] = ()) -> Any:
        """Returns the JSON value as an approver sees it; the same object if nothing is hidden.

        `marks` as for `Redactor.redact`.
        """
        value = self._redactor.mark(value, marks)
        return _Walk(self._redactor, any(map(may_run_values, _texts(value)))).value(value)

    def redact_text(self, text: str) -> str:
        """Returns a text as an approver sees it."""
        return _Walk(self._redactor, may_run_values(text)).text(text)


class _Walk:
    """The redaction of one value. `runs_values`: something in it could run a value by its name."""

    def __init__(self, redactor: Redactor, runs_values: bool) -> None:
        self._redactor = redactor
        self._runs_values = runs_values

    def value(self, value: Any, *, environment: bool = False) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return self._object(value, environment=environment)
        if isinstance(value, (list, tuple)):
            return self._array(value)
        return value

    def text(self, text: str) -> str:
        found: list[Finding] = []
        for finding in [*all_findings(text), *self._redactor.find_known(text)]:
            if finding.kind == "private-key":
                found += private_keys(text, finding)
                continue
            before = text[max(0, finding.start - BEFORE) : finding.start]
            if self._opaque(finding.kind, text[finding.start : finding.end], before):
                found.append(finding)
        return self._redactor.replace(text, merge_findings(found))

    def _opaque(self, kind: str, value: str, before: str = "") -> bool:
        return is_opaque(kind, value, runs_values=self._runs_values, before=before)

    def _object(self, value: dict[str, Any], *, environment: bool) -> dict[str, Any]:
        out: dict[str, Any] = {}
        changed = False
        for key, old in value.items():
            if is_secret_name(key):
                new = self._named(old, "env-assignment" if environment else "named")
            else:
                new = self.value(old, environment=environment or key.lower() in _ENVIRONMENTS)
            name = free_name(out, self.text(key))
            changed = changed or new is not old or name is not key
            out[name] = new
        return out if changed else value

    def _array(self, value: Sequence[Any]) -> Sequence[Any]:
        out: list[Any] = []
        secret_next = False
        for old in value:
            is_text = isinstance(old, str)
            out.append(self._named(old, "credential-flag") if secret_next and is_text else self.value(old))
            secret_next = is_text and is_secret_flag(old)
        return out if any(new is not old for new, old in zip(out, value, strict=True)) else value

    def _named(self, value: Any, kind: str) -> Any:
        """Redact a value that a name beside it marks as secret."""
        if isinstance(value, str):
            return self._named_text(value, kind)
        if isinstance(value, dict):
            return self._named_members(value)
        if isinstance(value, (list, tuple)):
            # A list can be an argument vector, so its words are judged like words of a command.
            out = [self._named(inner, "credential-flag") for inner in value]
            return out if any(new is not old for new, old in zip(out, value, strict=True)) else value
        if value is None or isinstance(value, bool):
            return value
        return self._redactor.fingerprint(kind, repr(value))

    def _named_members(self, value: dict[str, Any]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, inner in value.items():
            out[free_name(out, self.text(key))] = self._named(inner, "credential-flag")
        return out if any(name not in value or out[name] is not value[name] for name in out) else value

    def _named_text(self, value: str, kind: str) -> str:
        if not value or DONE.fullmatch(value):
            return value
        if self._opaque(kind, value):
            return self._redactor.fingerprint(kind, value)
        if (scheme := _SCHEME.match(value)) is not None:
            found = [Finding("authorization", *scheme.span(1))]
        else:
            # Not one word: hide at least what looks like key material in it (`session=f3a9...; theme=dark`).
            found = [Finding(kind, *word.span()) for word in _WORDS.finditer(value) if looks_random(word.group())]
        hidden = [f for f in found if self._opaque(f.kind, value[f.start : f.end])]
        return self._redactor.replace(value, hidden) if hidden else self.text(value)


def _texts(value: Any) -> Iterator[str]:
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            todo += item.values()
        elif isinstance(item, (list, tuple)):
            todo += item
