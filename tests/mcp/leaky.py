"""An MCP server on the official Python SDK that handles its key as badly as servers in the field do, one way a tool.

Usage: leaky.py [--banner]: greets on standard output, which is not the protocol's way
"""

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
    """Raises an error with the key in it. The SDK hides it from the client, and logs it with its traceback."""
    raise RuntimeError(f"401 for https://api.example.com/?key={KEY}")


@server.tool()
async def notify(ctx: Context) -> str:
    """Sends notifications while it works: a log message, with the key as a value and as a name, and progress."""
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
def stray() -> str:
    """Prints, as for debugging: among bytes that are no text, as Python shows it, as UTF-16, in hexadecimal. The SDK lets no such line on
    standard output while it serves: it goes to standard error."""
    os.write(1, b"\xff\xfe no text " + KEY.encode() + b"\xff\n" + repr([KEY]).encode() + b"\n")
    os.write(1, KEY.encode("utf-16-le") + b"\n\0" + KEY.encode().hex(":").encode() + b"\n")
    return "printed"


@server.tool()
def wrapped() -> str:
    """Returns the key in base64, wrapped at 76 columns, within more of it."""
    return base64.encodebytes(b"\0" * 50 + KEY.encode() + b"\0" * 50).decode()


@server.tool()
def weather() -> dict[str, float]:
    """Says nothing of the key."""
    return {"celsius": -3.0}


if "--banner" in sys.argv:
    print(f"leaky 1.0, key {KEY}\n{{'key': {KEY!r}}}", flush=True)
server.run()
