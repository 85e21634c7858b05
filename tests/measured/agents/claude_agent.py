"""An agent on claude-agent-sdk: `claude_agent.py query|client`. Claude Code comes with the package, and runs the calls."""

import asyncio
import sys

from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient, HookMatcher, ResultMessage, query


async def own(event, tool_use_id, context):
    print("own hook:", event["tool_name"], flush=True)
    return {}


options = ClaudeAgentOptions(
    permission_mode="bypassPermissions",
    setting_sources=[],
    hooks={"PreToolUse": [HookMatcher(hooks=[own])]},
)


async def main() -> None:
    if sys.argv[1] == "client":
        async with ClaudeSDKClient(options=options) as client:
            await client.query("go")
            async for message in client.receive_response():
                if isinstance(message, ResultMessage):
                    print(message.result)
    else:
        async for message in query(prompt="go", options=options):
            if isinstance(message, ResultMessage):
                print(message.result)


asyncio.run(main())
