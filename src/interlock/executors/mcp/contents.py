"""Reads what an MCP server sends besides the results of tools: lists of resources, their contents, and prompts.

Everything is bounded, because it is data from a stranger. Names and descriptions in a list are shown to people and models, so
an entry with invisible characters is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from interlock.detect import find_unseen
from interlock.executors.mcp.definitions import texts
from interlock.executors.mcp.results import CONTENT_BYTES_MAX, read_blocks
from interlock.model.errors import ProposalError
from interlock.model.limits import DEFAULT_LIMITS
from interlock.model.values import check_value

URI_CHARS_MAX: Final = 8_192
CONTENTS_MAX: Final = 100
MESSAGES_MAX: Final = 100
_LISTED: Final = ("name", "title", "description", "mimeType", "size", "annotations")
_ROLES: Final = ("user", "assistant")


def read_entries(items: Iterable[Any], address: str) -> list[dict[str, Any]]:
    """Returns the usable entries of a list of resources, or of templates. `address` is `uri` or `uriTemplate`."""
    found: list[dict[str, Any]] = []
    left = CONTENT_BYTES_MAX
    for item in items:
        if not isinstance(item, dict) or not is_uri(item.get(address)) or not isinstance(item.get("name"), str):
            continue
        entry = {key: item[key] for key in (address, *_LISTED) if item.get(key) is not None}
        try:
            check_value(entry, "$", DEFAULT_LIMITS, foreign=True)
        except ProposalError:
            continue
        left -= len(msgspec.json.encode(entry))
        if left < 0:
            break
        if not any(find_unseen(text) for text in texts(entry)):
            found.append(entry)
    return found


def read_contents(result: dict[str, Any]) -> dict[str, Any]:
    """Returns the result of `resources/read`.

    Raises: ProposalError if it is malformed, or too large; it is never cut, because half a file misleads.
    """
    given = result.get("contents")
    if not isinstance(given, list) or len(given) > CONTENTS_MAX:
        raise ProposalError(f"`contents` is not a list of at most {CONTENTS_MAX} items")
    contents = [_content(item) for item in given]
    size = sum(len(msgspec.json.encode(item)) for item in contents)
    if size > CONTENT_BYTES_MAX:
        raise ProposalError(f"the resource has {size} bytes, more than {CONTENT_BYTES_MAX}")
    return {"contents": contents}


def read_messages(result: dict[str, Any]) -> dict[str, Any]:
    """Returns the result of `prompts/get`. Raises: ProposalError if it is malformed."""
    given = result.get("messages")
    if not isinstance(given, list) or len(given) > MESSAGES_MAX:
        raise ProposalError(f"`messages` is not a list of at most {MESSAGES_MAX} messages")
    if any(not isinstance(each, dict) or each.get("role") not in _ROLES for each in given):
        raise ProposalError("a message has no valid role")
    blocks = read_blocks([each.get("content") for each in given])
    if len(blocks) != len(given):
        raise ProposalError("there are too many messages")
    messages = [{"role": each["role"], "content": block} for each, block in zip(given, blocks, strict=True)]
    description = result.get("description")
    shown = isinstance(description, str) and not find_unseen(description)
    return {"messages": messages} | ({"description": description} if shown else {})


def is_uri(value: Any) -> bool:
    """Returns True if the value can be the address of a resource."""
    return isinstance(value, str) and 0 < len(value) <= URI_CHARS_MAX and not find_unseen(value)


def _content(item: Any) -> dict[str, Any]:
    if not isinstance(item, dict) or not is_uri(item.get("uri")):
        raise ProposalError("an item of `contents` has no valid address")
    kinds = [key for key in ("text", "blob") if isinstance(item.get(key), str)]
    if len(kinds) != 1:
        raise ProposalError("an item of `contents` has neither or both of `text` and `blob`")
    kept = {key: item[key] for key in ("uri", "mimeType", kinds[0]) if isinstance(item.get(key), str)}
    check_value(kept, "$.contents", DEFAULT_LIMITS)
    return kept
