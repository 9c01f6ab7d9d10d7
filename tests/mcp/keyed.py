"""An MCP server on the official Python SDK that works with a key, as servers in the field take one.

Usage: keyed.py FOLDER HOW: the folder has a file for each key that the upstream takes, named by its SHA-256. HOW is
  env     from $KEY, when it starts
  file    from the file in $KEY_FILE, each time
  signal  from the file in $KEY_FILE, when it starts and at each SIGHUP
"""

import asyncio
import hashlib
import os
import signal
import sys

from mcp.server import MCPServer

folder, how = sys.argv[1:]
server = MCPServer("keyed")


def read(*_):
    global key
    if how == "env":
        key = os.environ["KEY"].encode()
    else:
        with open(os.environ["KEY_FILE"], "rb") as file:
            key = file.read()


read()
if how == "signal":
    signal.signal(signal.SIGHUP, read)


@server.tool()
async def work() -> str:
    """Uses the key at the upstream, which takes a moment."""
    if how == "file":
        read()
    await asyncio.sleep(0.01)
    return "taken" if os.path.exists(os.path.join(folder, hashlib.sha256(key).hexdigest())) else "REFUSED"


asyncio.run(server.run_stdio_async())
