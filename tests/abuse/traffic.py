"""Honest and hostile clients of one server at the same time.

    python traffic.py PORT SECONDS KNOWN.json > REPORT.json

`KNOWN.json` comes from `known_answers.py`. Standard library only: it runs in the server's image.
"""

import asyncio
import contextlib
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from attacks import ATTACKS, CLOSED, Attack, Target
from honest import KINDS, Known, Tally, ask_on, gauges, learn
from wire import connected, get

PAUSE_SECONDS = 0.1
REFUSED_PAUSE_SECONDS = 1.0
"""The pause between two attacks of a client. Most attacks are short: without a pause the load
generator would saturate the machine."""

SETTLED_WITHIN_SECONDS = 60

UNFINISHED = "unfinished"
"""The outcome of an attack that has not finished at the end."""


def run(port: int, seconds: float, known: Sequence[Known]) -> dict[str, Any]:
    """Send traffic for some seconds, wait until the server is idle, and report."""
    target = Target(port, known[0].named("hostile"))
    known = asyncio.run(learn(port, known))
    # Their own process, so that hostile clients do not distort what honest clients measure.
    with ProcessPoolExecutor(max_workers=1) as pool:
        attacking = pool.submit(run_hostile, target, seconds)
        honest = asyncio.run(run_honest(port, seconds, known))
        outcomes = attacking.result()
    return {
        **honest,
        "attacks": outcomes,
        "unexpected": unexpected(outcomes),
        "at_rest": asyncio.run(settled(port)),
        "ready": asyncio.run(ready(port)),
    }


async def run_honest(port: int, seconds: float, known: Sequence[Known]) -> dict[str, Any]:
    """Run all honest clients; return their results."""
    end = time.monotonic() + seconds
    tallies = {name: Tally() for name in KINDS}
    lag = asyncio.create_task(longest_lag())
    async with asyncio.TaskGroup() as group:
        for name, kind in KINDS.items():
            for index in range(kind.clients):
                client = ask_on(port, f"{name}-{index}", kind, known, tallies[name], end)
                group.create_task(client)
    lag.cancel()
    return {
        "honest": {name: tally.summary() for name, tally in tallies.items()},
        "own_lag_ms": round(1000 * await lag),
    }


def run_hostile(target: Target, seconds: float) -> dict[str, Counter[str]]:
    """Run all hostile clients; return the outcomes."""
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in ATTACKS}

    async def attack_all() -> None:
        with contextlib.suppress(TimeoutError):  # they then disconnect at any point
            async with asyncio.timeout(seconds), asyncio.TaskGroup() as group:
                for name, force in ATTACKS.items():
                    for _ in range(force.clients):
                        group.create_task(repeat(force.attack, target, outcomes[name]))

    asyncio.run(attack_all())
    return outcomes


async def repeat(attack: Attack, target: Target, outcomes: Counter[str]) -> None:
    """Attack repeatedly, and count the outcomes."""
    await asyncio.sleep(random.random())  # not all at once
    while True:
        outcome: int | str = UNFINISHED
        try:
            outcome = await attack(target)
        except (OSError, EOFError):
            outcome = CLOSED
        finally:
            outcomes[str(outcome)] += 1
        is_refused = outcome in (503, CLOSED)
        await asyncio.sleep(REFUSED_PAUSE_SECONDS if is_refused else PAUSE_SECONDS)


async def longest_lag() -> float:
    """The longest time in seconds that this process did not serve its clients.

    Up to that much of a reported latency may come from this process or a busy machine.
    """
    worst = 0.0
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            worst = max(worst, time.monotonic() - before - 0.01)
    return worst


def unexpected(outcomes: dict[str, Counter[str]]) -> dict[str, list[str]]:
    """The outcomes of attacks that are not allowed."""
    found = {}
    for name, counted in outcomes.items():
        allowed = {*map(str, ATTACKS[name].outcomes), UNFINISHED}
        if others := counted.keys() - allowed:
            found[name] = sorted(others)
    return found


async def settled(port: int) -> dict[str, float]:
    """The gauges of a server when it is idle, or after a long wait if it is not."""
    deadline = time.monotonic() + SETTLED_WITHIN_SECONDS
    while any((values := await gauges(port)).values()) and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
    return values


async def ready(port: int) -> int:
    """The status of `/ready`."""
    async with connected(port) as connection:
        await connection.send(get("/ready"))
        return (await connection.answer()).status


def main() -> None:
    """Print the report."""
    port, seconds, file = sys.argv[1:]
    known = [Known(**entry) for entry in json.loads(Path(file).read_text())]
    print(json.dumps(run(int(port), float(seconds), known), indent=1))


if __name__ == "__main__":
    main()
