"""Checks a tool's definition from an MCP server: untrusted text that a model will read.

A definition is unusable if it cannot be shown to a person unchanged (invisible characters, Interlock's own marks, a
schema that does not compile): the tool cannot be locked, and so is never offered. Text that reads like an instruction
to a model is reported as a remark to the person who locks the tool. Sources: the specification, "Tools"; the attacks
known as tool poisoning and rug pull.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Protocol, TypeVar

import msgspec

from interlock.detect import find_secrets, find_unseen
from interlock.executors.mcp.headers import marked_parameters
from interlock.lazy import lazy_pattern
from interlock.model.canonical import CanonicalError, canonical, digest
from interlock.model.errors import ProposalError
from interlock.model.limits import DEFAULT_LIMITS
from interlock.model.schema import Schema, SchemaError
from interlock.model.values import check_value

DEFINITION_BYTES_MAX: Final = 256 * 1024
DESCRIPTION_CHARS_MAX: Final = 16 * 1024
INSTRUCTIONS_CHARS_MAX: Final = 16 * 1024
TOOLS_MAX: Final = 1_000
"""Maximum number of tools of one server."""
NAME: Final = lazy_pattern(r"[A-Za-z0-9_./-]{1,128}")
"""The name of a tool or a prompt."""
_HINTS: Final = ("title", "readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")
_MARK: Final = "x-interlock"
_STEERING: Final = lazy_pattern(
    r"""(?ix)
      < /? (important | system | secret | instructions? | hidden) \b
    | \b (ignore | disregard | forget) \s+ ((all|any|the|your) \s+)* (previous | prior | above | other | earlier)
    | \b do \s+ not \s+ (tell | mention | inform | show | reveal) | \b without \s+ (telling | informing | asking) \s+ the \s+ user
    | \b (before | instead \s+ of) \s+ (using | calling) \s+ (any | all | other | this)
    | \b system \s+ prompt \b | \b you \s+ (must | should) \s+ (always | first | never)
    | ~/ | \.ssh\b | \bid_(rsa|ed25519)\b | \.env\b | \.aws\b | mcp\.json
    """
)


_WORD: Final = lazy_pattern(r"\w+")
_LATIN: Final = lazy_pattern(r"[A-Za-z]")
_ALIKE: Final = lazy_pattern(  # letters that look like Latin ones: Greek, Cyrillic, Armenian, fullwidth, mathematical
    "[\u0391\u0392\u0395-\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u03b1\u03b9\u03ba\u03bd\u03bf\u03c1\u03c5\u03c7"
    "\u0405\u0406\u0408\u0410\u0412\u0415\u041a\u041c-\u041e\u0420-\u0423\u0425\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0455\u0456\u0458"
    "\u0501\u051b\u051d\u0570\u0578\u057d\u0585\uff21-\uff3a\uff41-\uff5a\U0001d400-\U0001d7ff]"
)


class Definition(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, rename="camel"
):
    """A server's definition of one of its tools, reduced to what is passed on to models."""

    name: str
    title: str = ""
    description: str = ""
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None = None
    annotations: dict[str, Any] = {}
    """Hints for people; they decide nothing."""

    def as_dict(self) -> dict[str, Any]:
        """Returns the definition in the form of `tools/list`."""
        value = msgspec.to_builtins(self)
        assert isinstance(value, dict)
        return value

    @property
    def digest(self) -> str:
        """`sha256:...` of the whole definition."""
        return digest("mcp_tool", self.as_dict())


class UnusableDefinition(Exception):  # noqa: N818 - describes a server's text; it is reported, not raised to users
    """A definition that must not be shown to agents. The message explains why and quotes nothing from the definition."""

    def __init__(self, name: str, why: str) -> None:
        """`name` is the tool's name, or `?` if that cannot be shown."""
        super().__init__(why)
        self.name = name
        self.why = why


class Described(Protocol):
    """The definition of a tool or of a prompt."""

    @property
    def name(self) -> str:
        """The name of the tool or the prompt."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """Returns the whole definition as JSON."""
        ...


def read_definition(item: Any) -> Definition:
    """Read one entry of `tools/list`. Raises: UnusableDefinition."""
    if not isinstance(item, dict):
        raise UnusableDefinition("?", "it is not an object")
    name = item.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UnusableDefinition("?", "its name is not 1 to 128 of the characters A-Z a-z 0-9 _ - . /")
    title, description = (text_field(name, item, key) for key in ("title", "description"))
    given = item.get("annotations", {})
    if not isinstance(given, dict):
        raise UnusableDefinition(name, "`annotations` is not an object")
    hints = {key: given[key] for key in _HINTS if key in given}
    if any(not isinstance(value, str if key == "title" else bool) for key, value in hints.items()):
        raise UnusableDefinition(name, "`annotations` has a hint of the wrong type")
    found = Definition(
        name=name,
        title=title,
        description=description,
        input_schema=_schema(name, item, "inputSchema"),
        output_schema=_schema(name, item, "outputSchema") if item.get("outputSchema") is not None else None,
        annotations=hints,
    )
    check_definition(found)
    return found


D = TypeVar("D", bound=Described)


def read_list(items: Iterable[Any], read: Callable[[Any], D]) -> tuple[tuple[D, ...], dict[str, str]]:
    """Reads a server's list with `read`. Returns what can be locked, sorted by name, and by name the problems of the others."""
    problems: dict[str, str] = {}
    found: dict[str, D] = {}
    for item in items:
        try:
            one = read(item)
        except UnusableDefinition as problem:
            problems[problem.name] = problem.why
            continue
        if one.name in found:
            problems[one.name] = "the server defines it twice"
        found[one.name] = one
    return tuple(found[name] for name in sorted(found) if name not in problems), problems


def check_shown(name: str, value: dict[str, Any]) -> None:
    """Check that what a server defines can be shown to a person unchanged. Raises: UnusableDefinition."""
    try:
        check_value(value, "$", DEFAULT_LIMITS, foreign=True)
        size = len(canonical(value))
    except (ProposalError, CanonicalError) as error:
        raise UnusableDefinition(name, f"it is not plain JSON: {error.message}") from None
    if size > DEFINITION_BYTES_MAX:
        raise UnusableDefinition(name, f"it has {size} bytes, more than {DEFINITION_BYTES_MAX}")
    for text in texts(value):
        unseen = find_unseen(text)
        if unseen:
            raise UnusableDefinition(name, f"it contains invisible characters ({unseen[0].kind})")


def check_definition(found: Definition) -> None:
    """Check what the types do not express. Raises: UnusableDefinition."""
    check_shown(found.name, found.as_dict())
    if len(found.description) > DESCRIPTION_CHARS_MAX:
        raise UnusableDefinition(found.name, f"its description is longer than {DESCRIPTION_CHARS_MAX} characters")
    if any(text.startswith(_MARK) for text in _keys(found.as_dict())):
        raise UnusableDefinition(found.name, f"it contains `{_MARK}`, which is reserved for the operator's own tools")
    try:
        marked_parameters(found.input_schema)
    except ValueError as problem:
        raise UnusableDefinition(found.name, str(problem)) from None
    for where, schema in (("inputSchema", found.input_schema), ("outputSchema", found.output_schema)):
        if schema is None:
            continue
        if schema.get("type") not in ("object", None):
            raise UnusableDefinition(found.name, f"`{where}` does not describe an object")
        try:
            Schema.compile(schema)
        except SchemaError as error:
            raise UnusableDefinition(found.name, f"`{where}` cannot be used: {error.message}") from None


def read_instructions(text: Any) -> str:
    """Returns a server's instructions; empty if they cannot be shown to a person unchanged."""
    if not isinstance(text, str) or len(text) > INSTRUCTIONS_CHARS_MAX or find_unseen(text):
        return ""
    return text


def remarks(found: Described) -> list[str]:
    """Up to three excerpts for the person who locks the tool: they address the model instead of describing the tool, or look
    like other text.
    """
    quoted: list[str] = []
    for text in texts(found.as_dict()):
        quoted += [] if text.isascii() else _look_alikes(text)
        for match in _STEERING.finditer(text):
            start, end = max(0, match.start() - 30), min(len(text), match.end() + 30)
            quoted.append(" ".join(text[start:end].split()))
        if any(True for _ in find_secrets(text)):
            quoted.append("(something that looks like a secret)")
    return quoted[:3]


def _look_alikes(text: str) -> Iterator[str]:
    """Yields the words that mix Latin letters with others that look like them."""
    for word in _WORD.findall(text):
        found = _ALIKE.search(word)
        if found is not None and _LATIN.search(word) is not None:
            yield f"{word[:60]} (has U+{ord(found[0]):04X}, which looks like another letter)"


def text_field(name: str, item: dict[str, Any], key: str) -> str:
    """Returns a text field, or "" if it is missing. Raises: UnusableDefinition if it is not text."""
    value = item.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UnusableDefinition(name, f"`{key}` is not text")
    return value


def _schema(name: str, item: dict[str, Any], key: str) -> dict[str, Any]:
    value = item.get(key)
    if not isinstance(value, dict):
        raise UnusableDefinition(name, f"`{key}` is not an object")
    return value


def texts(value: Any) -> Iterator[str]:
    """Yields every text in a value, including keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _keys(item)
    elif isinstance(value, list):
        for item in value:
            yield from _keys(item)
