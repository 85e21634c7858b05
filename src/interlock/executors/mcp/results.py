"""The bounded result of an MCP server's call: content for a model, and optionally a structured value.

A result that is too large is truncated with a note instead of failing, because the call has had its effect and a
failure would invite the model to repeat it.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from interlock.model.errors import ProposalError
from interlock.model.limits import DEFAULT_LIMITS
from interlock.model.values import check_value

CONTENT_BYTES_MAX: Final = 8 * 1024 * 1024
"""Maximum size of all content of one result."""
BLOCKS_MAX: Final = 1_000
_TYPES: Final = frozenset(("text", "image", "audio", "resource", "resource_link"))


def read_result(result: dict[str, Any]) -> dict[str, Any]:
    """`content`, `structuredContent` and `isError` of a result of `tools/call`. Raises: ProposalError if it is malformed."""
    blocks = result.get("content", [])
    if not isinstance(blocks, list):
        raise ProposalError("`content` is not a list")
    content = read_blocks(blocks)
    left = CONTENT_BYTES_MAX - sum(len(msgspec.json.encode(block)) for block in content)
    found: dict[str, Any] = {"content": content, "isError": result.get("isError") is True}
    structured = result.get("structuredContent")
    if structured is not None:
        check_value(structured, "$.structuredContent", DEFAULT_LIMITS) if isinstance(structured, dict | list) else None
        size = len(msgspec.json.encode(structured))
        if size <= left:
            found["structuredContent"] = structured
        else:
            content.append(_note(f"a structured result of {size} bytes was left out"))
    return found


def read_blocks(blocks: list[Any]) -> list[dict[str, Any]]:
    """Returns blocks of content for a model, and marks those that are cut. Raises: ProposalError for an unreadable block."""
    left = CONTENT_BYTES_MAX
    content: list[dict[str, Any]] = []
    for block in blocks[:BLOCKS_MAX]:
        if not isinstance(block, dict) or block.get("type") not in _TYPES:
            raise ProposalError("`content` has a block of an unknown type")
        check_value(block, "$.content", DEFAULT_LIMITS)
        size = len(msgspec.json.encode(block))
        content.append(block if size <= left else _cut(block, size, left))
        left = max(0, left - size)
    if len(blocks) > BLOCKS_MAX:
        content.append(_note(f"{len(blocks) - BLOCKS_MAX} more blocks were left out"))
    return content


def text_of(found: dict[str, Any]) -> str:
    """Returns the text in a result's content, for an error message; at most 500 characters."""
    parts = [block["text"] for block in found["content"] if isinstance(block.get("text"), str)]
    text = " ".join(" ".join(parts).split())
    return text if len(text) <= 500 else text[:500] + "..."


def _cut(block: dict[str, Any], size: int, left: int) -> dict[str, Any]:
    text = block.get("text")
    if block["type"] == "text" and isinstance(text, str) and left > 0:
        kept = text.encode()[:left].decode("utf-8", "ignore")
        return {**block, "text": f"{kept}\n[{size - left} bytes were left out]"}
    return _note(f"a block of {size} bytes was left out")


def _note(text: str) -> dict[str, Any]:
    return {"type": "text", "text": f"[{text}]"}
