"""Calls a tool of an MCP server over stdio, one call after the other, with the official Python SDK, until its standard input ends. Then one line of
JSON: what came of the calls, how many there were and how long the slowest took.

Usage: steady.py TOOL COMMAND...
"""

import asyncio
import collections
import json
import sys
import time

from mcp import Client, MCPError, StdioServerParameters


async def main(tool, command, arguments):
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    came, slowest = collections.Counter(), 0.0
    async with Client(StdioServerParameters(command=command, args=arguments), read_timeout_seconds=30) as client:
        print("ready", flush=True)
        while not ended.done():
            began = time.monotonic()
            try:
                result = await client.call_tool(tool, {})
                came[result.content[0].text] += 1
            except MCPError as error:
                came[f"error: {error}"] += 1
            slowest = max(slowest, time.monotonic() - began)
            await asyncio.sleep(0.005)
    print(json.dumps({"came": came, "calls": sum(came.values()), "slowest": slowest}))


asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
