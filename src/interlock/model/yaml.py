"""YAML, restricted to what JSON can express.

Plain scalars are strings: `no`, `on`, `~`, `2026-01-01`, `010`, `1_000`, `12:30:00` are strings. The only exceptions
are `true`, `false`, `null` and JSON numbers. Anchors, aliases, tags, merge keys, multiple documents and duplicate keys
are refused. libyaml's events are processed one by one, so nothing is expanded and memory use stays proportional.
"""

from __future__ import annotations

import re
from typing import Any, Final

import yaml

from interlock.model.errors import ProposalError
from interlock.model.limits import Limits
from interlock.model.text import decode_utf8, why_not_utf8
from interlock.model.values import parse_json, quoted

_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?\Z")
_WORDS: Final = {"true": True, "false": False, "null": None}
# YAML 1.1 folds these into spaces inside quotes, JSON keeps them. They are hardly ever intended, so they are refused.
_LINE_BREAKS: Final = re.compile("[\x85\u2028\u2029]")


def parse_yaml(data: bytes, limits: Limits) -> Any:
    """Parse a YAML document (UTF-8) to a JSON value.

    Raises: ProposalError (`malformed_proposal`, `limit_exceeded`) whose path is `line L, column C`.
    """
    try:
        text = decode_utf8(data)
    except UnicodeDecodeError:
        raise ProposalError(why_not_utf8(data)) from None
    breaks = _LINE_BREAKS.search(text)
    if breaks:
        line = text.count("\n", 0, breaks.start()) + 1
        raise ProposalError(
            "an unusual line break character", path=f"line {line}", hint="write it as an escape: `\\u2028`"
        )
    parser = yaml.CSafeLoader(text)
    try:
        return _Reader(parser, limits).document()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ProposalError(f"not YAML: {problem}", path=_where(mark) if mark else None) from None
    finally:
        parser.dispose()


class _Reader:
    """Builds one value from events, without recursion."""

    def __init__(self, parser: Any, limits: Limits) -> None:
        self._parser = parser
        self._depth_max = limits.depth + 4

    def document(self) -> Any:
        next_event = self._parser.get_event
        stack: list[Any] = []
        keys: list[str | None] = []
        root: list[Any] = []
        while True:
            event = next_event()
            cls = event.__class__
            if cls is yaml.ScalarEvent or cls is yaml.MappingStartEvent or cls is yaml.SequenceStartEvent:
                _refuse_extras(event)
                container = stack[-1] if stack else root
                if container.__class__ is dict and keys[-1] is None:
                    keys[-1] = _key(event, container)
                    continue
                value: Any = _scalar(event) if cls is yaml.ScalarEvent else {} if cls is yaml.MappingStartEvent else []
                if container.__class__ is dict:
                    container[keys[-1]] = value
                    keys[-1] = None
                else:
                    container.append(value)
                if cls is not yaml.ScalarEvent:
                    if len(stack) >= self._depth_max:
                        raise _error("the value is nested too deeply (limit `depth`)", event, code="limit_exceeded")
                    stack.append(value)
                    keys.append(None)
            elif cls is yaml.MappingEndEvent or cls is yaml.SequenceEndEvent:
                stack.pop()
                keys.pop()
            elif cls is yaml.AliasEvent:
                raise _error("aliases (`*name`) are not accepted", event)
            elif cls is yaml.DocumentStartEvent and (root or event.tags):
                raise _error("only one document, without directives, is accepted", event)
            elif cls is yaml.StreamEndEvent:
                return _only(root)


def _only(root: list[Any]) -> Any:
    if not root:
        raise ProposalError("the document is empty", path="line 1, column 1")
    return root[0]


def _refuse_extras(event: Any) -> None:
    if event.anchor is not None:
        raise _error("anchors (`&name`) are not accepted", event)
    if event.tag is not None:
        raise _error("tags (`!name`) are not accepted", event)


def _key(event: Any, container: dict[str, Any]) -> str:
    if event.__class__ is not yaml.ScalarEvent:
        raise _error("a key must be a string", event)
    name: str = event.value
    if name == "<<" and not event.style:
        raise _error("merge keys (`<<`) are not accepted", event)
    if name in container:
        raise _error(f"the key {quoted(name)} occurs twice in one mapping", event)
    return name


def _scalar(event: Any) -> Any:
    text: str = event.value
    if event.style:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if not text:
        raise _error("the key or entry has no value", event, hint="write `null`, or `''` for an empty string")
    if _NUMBER.match(text):
        try:
            return parse_json(text.encode())
        except ProposalError as error:
            raise _error(error.message, event) from None
    return text


def _where(mark: Any) -> str:
    return f"line {mark.line + 1}, column {mark.column + 1}"


def _error(message: str, event: Any, *, code: str | None = None, hint: str | None = None) -> ProposalError:
    return ProposalError(message, code=code, path=_where(event.start_mark), hint=hint)
