"""claude-agent-sdk: adds our hooks to the program's own when the SDK registers them with Claude Code.

`PostToolUse` or `PostToolUseFailure` reports a tool's end. A denied call has neither, so it stays open.
"""

from __future__ import annotations

import functools
from typing import Any

from .channel import Channel

DISTRIBUTION = "claude-agent-sdk"
MODULE = "claude_agent_sdk._internal.query"
_EVENTS = ("PreToolUse", "PostToolUse", "PostToolUseFailure")


def hook(module: Any, channel: Channel) -> None:
    """Wrap the class that talks to Claude Code. Raises: AttributeError, TypeError if it has another shape."""
    query = module.Query
    begin, receive = query.__init__, query.receive_messages
    if "hooks" not in begin.__code__.co_varnames:
        raise TypeError("`Query` takes no `hooks`")
    begun: dict[str, tuple[str, str, str]] = {}

    async def report(event: Any, tool_use_id: str | None, _context: Any) -> dict[str, Any]:
        call_id, tool = tool_use_id or event.get("tool_use_id"), event.get("tool_name") or ""
        if event.get("hook_event_name") == "PreToolUse":
            call = channel.start_call(call_id, tool, event.get("tool_input"))
            begun[call[0]] = call
        else:
            call = begun.pop(str(call_id), (str(call_id), "provider", tool))
            failed = event.get("hook_event_name") == "PostToolUseFailure"
            channel.end_call(call, str(event.get("error") or "it failed") if failed else None)
        return {}

    @functools.wraps(begin)
    def init(self: Any, *args: Any, **options: Any) -> None:
        own = options.get("hooks") or {}
        ours = {"matcher": None, "hooks": [report]}
        options["hooks"] = {**own, **{name: [*own.get(name, ()), dict(ours)] for name in _EVENTS}}
        begin(self, *args, **options)

    @functools.wraps(receive)
    async def receive_messages(self: Any) -> Any:
        async for message in receive(self):
            if isinstance(message, dict) and message.get("type") == "result":
                failed = bool(message.get("is_error"))
                channel.finish_run(str(message.get("result") or message.get("subtype")) if failed else None)
            yield message

    query.__init__, query.receive_messages = init, receive_messages
