"""FastMCP's client against a gateway: run by its own Python. Arguments: the gateway's directory, then its command."""

import asyncio
import json
import os
import sys

from fastmcp import Client
from fastmcp.client.transports import StdioTransport
from fastmcp.exceptions import ToolError


async def use() -> dict:
    cwd, program, *arguments = sys.argv[1:]
    transport = StdioTransport(command=program, args=arguments, env=dict(os.environ), cwd=cwd)
    async with Client(transport) as client:
        tools = [tool.name for tool in await client.list_tools()]
        read = await client.call_tool("fs_read", {"path": "a.txt"})
        try:
            await client.call_tool("fs_write", {"path": "b", "content": "1"})
            held = ""
        except ToolError as error:
            held = str(error)
        return {"tools": tools, "read": read.content[0].text, "held": held}


print(json.dumps(asyncio.run(use())))
