"""A server on the official SDK, over stdio or streamable HTTP (`--http PORT_FILE`)."""

import asyncio
import socket
import sys
from pathlib import Path

import uvicorn
from mcp.server import MCPServer

server = MCPServer("sdk")


@server.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@server.tool()
async def wait(seconds: float) -> str:
    """Wait."""
    await asyncio.sleep(seconds)
    return "waited"


if "--http" in sys.argv:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    Path(sys.argv[sys.argv.index("--http") + 1]).write_text(str(listener.getsockname()[1]))
    app = server.streamable_http_app()
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run([listener])
else:
    server.run("stdio")
