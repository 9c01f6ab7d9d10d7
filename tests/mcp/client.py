"""Drives an MCP server over stdio with the official Python SDK, and prints what it was told as one line of JSON.

Usage: client.py auto|legacy COMMAND [ARGS...]
"""

import asyncio
import json
import sys

from mcp import Client, StdioServerParameters


async def main(mode, command, *arguments):
    server = StdioServerParameters(command=command, args=list(arguments))
    async with Client(server, mode=mode, read_timeout_seconds=30) as client:
        tools = await client.list_tools()
        forecast = await client.call_tool("forecast", {"city": "Oslo"})
        info = await client.call_tool("key_info", {})
        seen = {
            "server": client.server_info.name,
            "protocol": client.protocol_version,
            "tools": sorted(tool.name for tool in tools.tools),
            "forecast": [forecast.is_error, *(block.text for block in forecast.content)],
            "key_info": [info.is_error, *(block.text for block in info.content)],
        }
    print(json.dumps(seen))


asyncio.run(main(*sys.argv[1:]))
