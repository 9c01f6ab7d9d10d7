"""How long a call takes that a real client makes to a real server, directly and through programs that stand between.

Usage: latency.py [--sessions N] [--calls N] [--warm-up N] NAME=JSON...

Each variant is a name and a list of words that start the server, as JSON: the server's command, or a wrapper's with it. To each there are N
sessions, all live at once. They call `echo` in turn, variant after variant, so that what else the machine does falls on all alike; name one
variant twice to see how much is chance. Prints one JSON object: p50 and p99 for each in microseconds, and for each but the first the median
of what it adds to the first in the same round.
"""

import argparse
import asyncio
import json
import statistics
import time
from contextlib import AsyncExitStack

from mcp import Client, StdioServerParameters

# With its envelope, a reply of about 300 bytes.
MESSAGE = "latency " * 28


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sessions", type=int, default=2)
    parser.add_argument("--calls", type=int, default=500)
    parser.add_argument("--warm-up", type=int, default=50)
    parser.add_argument("variants", nargs="+", metavar="NAME=JSON")
    return parser.parse_args()


async def timed(client):
    begun = time.perf_counter_ns()
    result = await client.call_tool("echo", {"message": MESSAGE})
    took = time.perf_counter_ns() - begun
    assert result.content[0].text == f"Echo: {MESSAGE}", result
    return took / 1000


async def main(options):
    variants = [(name, json.loads(words)) for name, words in (each.split("=", 1) for each in options.variants)]
    async with AsyncExitStack() as stack:
        sessions = []
        for _ in range(options.sessions):
            for name, [command, *words] in variants:
                client = Client(StdioServerParameters(command=command, args=words), mode="legacy", read_timeout_seconds=30)
                sessions.append((name, await stack.enter_async_context(client)))
        rounds = []
        for call in range(options.warm_up + options.calls):
            # Not always in the same order: who comes first after a pause has cold caches.
            first = call % len(sessions)
            took = {name: [] for name, _ in variants}
            for name, client in sessions[first:] + sessions[:first]:
                took[name].append(await timed(client))
            rounds.append(took)
    print(json.dumps({name: summary(name, variants[0][0], rounds[options.warm_up :]) for name, _ in variants}))


def summary(name, base, rounds):
    calls = sorted(took for each in rounds for took in each[name])
    added = [statistics.fmean(each[name]) - statistics.fmean(each[base]) for each in rounds]
    return {
        "calls": len(calls),
        "p50": round(calls[len(calls) // 2], 1),
        "p99": round(calls[len(calls) * 99 // 100], 1),
        "added": round(statistics.median(added), 1),
    }


asyncio.run(main(arguments()))
