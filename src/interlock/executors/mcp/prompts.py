"""A prompt as its MCP server defines it: text from a stranger, checked and locked like the definition of a tool."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from interlock.executors.mcp.definitions import NAME, UnusableDefinition, check_shown, read_list, remarks, text_field
from interlock.model.canonical import digest

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
    check_shown(name, found.as_dict())
    return found


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
    prompts, problems = read_list(items, read_prompt)
    odd = {f"prompt {each.name}": remark for each in prompts if (remark := remarks(each))}
    return prompts, {f"prompt {name}": why for name, why in problems.items()}, odd
