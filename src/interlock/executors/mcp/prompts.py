"""A prompt as its MCP server defines it: text from a stranger, checked and locked like the definition of a tool."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from interlock.detect import find_unseen
from interlock.executors.mcp.definitions import (
    DEFINITION_BYTES_MAX,
    NAME,
    UnusableDefinition,
    remarks,
    text_field,
    texts,
)
from interlock.model.canonical import CanonicalError, canonical, digest
from interlock.model.errors import ProposalError
from interlock.model.limits import DEFAULT_LIMITS
from interlock.model.values import check_value

_ARGUMENTS_MAX: Final = 100


class PromptArgument(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, rename="camel"
):
    """A parameter of a prompt, whose value is text."""

    name: str
    title: str = ""
    description: str = ""
    required: bool = False


class PromptDefinition(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, rename="camel"
):
    """A server's description of one of its prompts, as far as it is passed on to clients."""

    name: str
    title: str = ""
    description: str = ""
    arguments: tuple[PromptArgument, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Returns the definition in the form of `prompts/list`."""
        value = msgspec.to_builtins(self)
        assert isinstance(value, dict)
        return {
            **value,
            **({"arguments": list(value["arguments"])} if self.arguments else {}),
        }  # a list, as JSON has it

    @property
    def digest(self) -> str:
        """`sha256:...` over all of it."""
        return digest("mcp_prompt", self.as_dict())


def read_prompt(item: Any) -> PromptDefinition:
    """Reads one entry of `prompts/list`. Raises: UnusableDefinition."""
    name = item.get("name") if isinstance(item, dict) else None
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UnusableDefinition("?", "its name is not 1 to 128 of the characters A-Z a-z 0-9 _ - . /")
    given = item.get("arguments") or []
    if not isinstance(given, list) or len(given) > _ARGUMENTS_MAX:
        raise UnusableDefinition(name, f"`arguments` is not a list of at most {_ARGUMENTS_MAX} items")
    found = PromptDefinition(
        name=name,
        title=text_field(name, item, "title"),
        description=text_field(name, item, "description"),
        arguments=tuple(_argument(name, each) for each in given),
    )
    check_prompt(found)
    return found


def check_prompt(found: PromptDefinition) -> None:
    """Check what the types do not express. Raises: UnusableDefinition."""
    value = found.as_dict()
    try:
        check_value(value, "$", DEFAULT_LIMITS, foreign=True)
        size = len(canonical(value))
    except (ProposalError, CanonicalError) as error:
        raise UnusableDefinition(found.name, f"it is not plain JSON: {error.message}") from None
    if size > DEFINITION_BYTES_MAX:
        raise UnusableDefinition(found.name, f"it has {size} bytes, more than {DEFINITION_BYTES_MAX}")
    for text in texts(value):
        unseen = find_unseen(text)
        if unseen:
            raise UnusableDefinition(found.name, f"it contains invisible characters ({unseen[0].kind})")


def _argument(prompt: str, item: Any) -> PromptArgument:
    name = item.get("name") if isinstance(item, dict) else None
    required = item.get("required", False) if isinstance(item, dict) else None
    if not isinstance(name, str) or not isinstance(required, bool):
        raise UnusableDefinition(prompt, "an argument has no name, or `required` is not true or false")
    return PromptArgument(
        name=name,
        title=text_field(prompt, item, "title"),
        description=text_field(prompt, item, "description"),
        required=required,
    )


def listed_prompts(
    items: Iterable[Any],
) -> tuple[tuple[PromptDefinition, ...], dict[str, str], dict[str, list[str]]]:
    """Returns the prompts that can be locked, the problems of the others, and remarks, both by `prompt NAME`."""
    problems: dict[str, str] = {}
    found: dict[str, PromptDefinition] = {}
    for item in items:
        try:
            prompt = read_prompt(item)
        except UnusableDefinition as problem:
            problems[problem.name] = problem.why
            continue
        if prompt.name in found:
            problems[prompt.name] = "the server defines it twice"
        found[prompt.name] = prompt
    prompts = tuple(found[name] for name in sorted(found) if name not in problems)
    odd = {f"prompt {each.name}": remark for each in prompts if (remark := remarks(each))}
    return prompts, {f"prompt {name}": why for name, why in problems.items()}, odd
