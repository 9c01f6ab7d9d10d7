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
        took = {name: [] for name, _ in variants}
        for call in range(options.warm_up + options.calls):
            # Not always in the same order: who comes first after a pause has cold caches.
            first = call % len(sessions)
            this = [(name, await timed(client)) for name, client in sessions[first:] + sessions[:first]]
            if call >= options.warm_up:
                for name in took:
                    took[name].append(statistics.fmean(each for of, each in this if of == name))
                    # Each call counts for itself in the percentiles.
                    every.setdefault(name, []).extend(each for of, each in this if of == name)
    print(json.dumps({name: summary(name, took) for name in took}))


every = {}


def summary(name, took):
    calls = sorted(every[name])
    base = next(iter(took.values()))
    return {
        "calls": len(calls),
        "p50": round(calls[len(calls) // 2], 1),
        "p99": round(calls[len(calls) * 99 // 100], 1),
        "added": round(statistics.median(a - b for a, b in zip(took[name], base)), 1),
    }


asyncio.run(main(arguments()))
