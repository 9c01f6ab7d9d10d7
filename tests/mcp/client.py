"""Drives an MCP server over stdio with the official Python SDK, and prints what it was told as one line of JSON.

Reads a JSON object from standard input:
  mode    "auto", or "legacy" for the handshake of before 2026-07-28
  server  {"command": ..., "args": [...], "env": {...}}, as in the configuration of a client
  calls   [[tool, arguments], ...]
"""

import asyncio
import json
import sys

from mcp import Client, MCPError, StdioServerParameters


async def call(client, tool, arguments):
    try:
        result = await client.call_tool(tool, arguments)
    except MCPError as error:
        return {"error": str(error)}
    return result.model_dump(mode="json", by_alias=True, exclude_none=True)


async def main(mode, server, calls):
    async with Client(StdioServerParameters(**server), mode=mode, read_timeout_seconds=30) as client:
        tools = await client.list_tools()
        seen = {
            "server": client.server_info.name,
            "protocol": client.protocol_version,
            "tools": sorted(tool.name for tool in tools.tools),
            "calls": [await call(client, *each) for each in calls],
        }
    print(json.dumps(seen))


asyncio.run(main(**json.load(sys.stdin)))
