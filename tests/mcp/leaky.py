"""An MCP server on the official Python SDK that handles its key as badly as servers in the field do, one way a tool."""

import asyncio
import base64
import os
import sys

from mcp.server import MCPServer
from mcp.server.mcpserver import Context

KEY = os.environ["KEY"]
server = MCPServer("leaky")


@server.tool()
def fail() -> str:
    """Raises an error with the key in it."""
    raise RuntimeError(f"401 for https://api.example.com/?key={KEY}")


@server.tool()
async def notify(ctx: Context) -> str:
    """Sends log notifications while it works."""
    await ctx.log("error", {"headers": {"Authorization": f"Bearer {KEY}"}, KEY: 1})
    await ctx.report_progress(1, 1, f"trying {KEY}")
    return "notified"


@server.tool()
async def halves() -> str:
    """Says the key on standard error, in two writes with a pause between."""
    half = len(KEY) // 2
    os.write(2, f"logging in with {KEY[:half]}".encode())
    await asyncio.sleep(0.4)
    os.write(2, f"{KEY[half:]} now\n".encode())
    return "said"


@server.tool()
def junk() -> str:
    """Writes to standard output what is not the protocol's, as a stray print does."""
    sys.stdout.flush()
    os.write(1, f"DEBUG key={KEY}\n{{'key': {KEY!r}}}\n\xff\xfe not text {KEY}\n".encode("latin-1"))
    return "printed"


@server.tool()
def wrapped() -> str:
    """Returns the key in base64, wrapped at 76 columns, within more of it."""
    return base64.encodebytes(b"\0" * 50 + KEY.encode() + b"\0" * 50).decode()


@server.tool()
def bytes16() -> str:
    """Writes the key to standard error as UTF-16, and in hexadecimal with colons."""
    os.write(2, KEY.encode("utf-16-le") + b"\n" + KEY.encode().hex(":").encode() + b"\n")
    return "said"


@server.tool()
def weather() -> dict[str, float]:
    """Says nothing of the key."""
    return {"celsius": -3.0}


server.run()
