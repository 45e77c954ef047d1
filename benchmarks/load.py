"""A load generator that is faster than the servers it measures: HTTP/1.1 on asyncio's protocols.

Python's HTTP clients cost more per request than the servers here. So the bytes of requests are
prepared, and httptools, written in C, parses the answers. One process, one thread, uvloop.

- Closed loop: each of `clients` connections sends its next request when it has its answer.
- Open loop: requests arrive at random (Poisson) at a fixed rate, regardless of what the server
  does, each on a free or a new connection. Latency counts from when a request was due, so the
  figures include everybody who waits while a server stalls (no "coordinated omission"). A request
  without an answer at the end counts with its age.

No request is sent twice: the mark `#####`, part of a number in a body, is replaced by the lap, the
number of times that the pool of bodies has been used.
"""

import argparse
import asyncio
import gc
import itertools
import json
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import httptools
import uvloop

LAP = "#####"
MOST_CONNECTIONS = 512
"""The most connections of an open loop. Further arrivals wait for a free one; the wait counts."""
GRACE_SECONDS = 5
"""How long an open loop waits for answers after its end."""


@dataclass
class Result:
    """The result of one load; latencies are in milliseconds, of answers with status 200."""

    mode: str
    clients: int = 0
    rate: float = 0
    """Open loop: requests per second that were due."""
    seconds: float = 0
    answered: int = 0
    per_second: float = 0
    p50: float = math.nan
    p95: float = math.nan
    p99: float = math.nan
    worst: float = math.nan
    unanswered: int = 0
    """Open loop: requests that had no answer at the end."""
    errors: dict[str, int] = field(default_factory=dict)
    """Counts by status, or by what happened to the connection."""


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request in flight."""

    def __init__(self, done: Callable[["Connection", int | str], None]) -> None:
        self.done = done
        self.since = 0.0
        """When the request in flight was sent, or was due."""
        self.busy = False
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)  # uvloop's has another type
        self.parser = httptools.HttpResponseParser(self)

    def send(self, request: bytes, since: float) -> None:
        """Send a request whose latency counts from `since`."""
        assert self.transport
        self.busy, self.since = True, since
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Called by the parser."""
        if self.parser.get_status_code() < 200:
            return
        self.busy = False
        if not self.parser.should_keep_alive():
            self.close()
        self.done(self, self.parser.get_status_code())

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self.busy:
            self.busy = False
            self.done(self, "connection lost")

    def close(self) -> None:
        """Close it; a request in flight is abandoned."""
        if self.transport:
            self.transport.abort()
            self.transport = None


@dataclass
class Target:
    """The address and the bodies of requests."""

    port: int
    path: str
    bodies: Sequence[str]

    def requests(self) -> Iterator[bytes]:
        """Requests without end; all differ if the bodies have the mark `#####`."""
        head = f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
        head += "Content-Type: application/json\r\nAccept: */*\r\nContent-Length: "
        pool = [
            f"{head}{len(body.encode())}\r\n\r\n{body}".encode().split(LAP.encode())
            for body in self.bodies
        ]
        for lap in itertools.count():
            mark = b"%05d" % (lap % 100_000)
            for parts in pool:
                yield mark.join(parts)

    async def connect(self, done: Callable[[Connection, int | str], None]) -> Connection:
        """Open a connection that calls `done` with the status of each answer."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: Connection(done), "127.0.0.1", self.port
        )
        return connection


class _Tally:
    """Collects latencies and errors between two moments."""

    def __init__(self, start: float, end: float) -> None:
        self.start, self.end = start, end
        self.latencies: list[float] = []
        self.errors: Counter[str] = Counter()

    def add(self, status: int | str, latency: float) -> None:
        if status == 200:
            self.latencies.append(latency)
        else:
            self.errors[str(status)] += 1

    def fill(self, result: Result, ages: Sequence[float] = ()) -> Result:
        """The result; `ages` of requests without an answer count as latencies."""
        ordered = sorted([*self.latencies, *ages])
        result.seconds = self.end - self.start
        result.answered = len(self.latencies)
        result.per_second = len(self.latencies) / result.seconds
        result.unanswered = len(ages)
        result.errors = dict(+self.errors)
        if ordered:
            at = [ordered[math.ceil(len(ordered) * q) - 1] * 1000 for q in (0.5, 0.95, 0.99, 1)]
            result.p50, result.p95, result.p99, result.worst = at
        return result


async def closed_loop(target: Target, clients: int, warm_up: float, seconds: float) -> Result:
    """Load with `clients` connections: `warm_up` seconds, then `seconds` that are measured."""
    start = perf_counter() + warm_up
    tally = _Tally(start, start + seconds)
    requests = target.requests()
    finished = asyncio.Event()
    alive = clients

    def stop() -> None:
        nonlocal alive
        alive -= 1
        if not alive:
            finished.set()

    def done(connection: Connection, status: int | str) -> None:
        now = perf_counter()
        if tally.start <= now < tally.end:
            tally.add(status, now - connection.since)
        if now >= tally.end:
            stop()
        elif connection.transport:
            connection.send(next(requests), now)
        else:
            tasks.append(asyncio.create_task(run()))

    async def run() -> None:
        while True:
            try:
                connection = await target.connect(done)
            except OSError as exc:
                tally.add(type(exc).__name__, 0)
                await asyncio.sleep(0.1)
                if perf_counter() >= tally.end:
                    return stop()
            else:
                connections.append(connection)
                return connection.send(next(requests), perf_counter())

    connections: list[Connection] = []
    tasks = [asyncio.create_task(run()) for _ in range(clients)]
    try:  # a server that stops answering must not block the end
        await asyncio.wait_for(finished.wait(), warm_up + seconds + GRACE_SECONDS)
    except TimeoutError:
        tally.errors["no answer"] += sum(connection.busy for connection in connections)
        for task in tasks:
            if task.done():
                task.result()  # raises errors of our own code
    for connection in connections:
        connection.busy = False
        connection.close()
    return tally.fill(Result("closed", clients=clients))


async def open_loop(target: Target, rate: float, warm_up: float, seconds: float) -> Result:
    """Load with `rate` arrivals per second: `warm_up` seconds, then `seconds` that are measured."""
    arrivals = random.Random(0)
    start = perf_counter() + warm_up
    tally = _Tally(start, start + seconds)
    requests = target.requests()
    free: list[Connection] = []
    waiting: deque[float] = deque()
    opened: set[Connection] = set()
    opening = 0

    def done(connection: Connection, status: int | str) -> None:
        if connection.since >= tally.start:
            tally.add(status, perf_counter() - connection.since)
        if not connection.transport:
            opened.discard(connection)
            serve()
        elif waiting:
            connection.send(next(requests), waiting.popleft())
        else:
            free.append(connection)

    def serve() -> None:
        nonlocal opening
        while waiting and free:
            connection = free.pop()
            if connection.transport:
                connection.send(next(requests), waiting.popleft())
            else:  # the server has closed it
                opened.discard(connection)
        while opening < len(waiting) and len(opened) + opening < MOST_CONNECTIONS:
            opening += 1
            task = asyncio.create_task(connect())
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    async def connect() -> None:
        nonlocal opening
        try:
            connection = await target.connect(done)
        except OSError as exc:
            if waiting and waiting.popleft() >= tally.start:
                tally.add(type(exc).__name__, 0)
        else:
            opened.add(connection)
            free.append(connection)
        finally:
            opening -= 1
        serve()

    tasks: set[asyncio.Task[None]] = set()
    due = perf_counter()
    while (due := due + arrivals.expovariate(rate)) < tally.end:
        pause = due - perf_counter()
        if pause > 0:
            await asyncio.sleep(pause)
        waiting.append(due)
        serve()

    while perf_counter() < tally.end + GRACE_SECONDS and (
        waiting or opening or any(connection.busy for connection in opened)
    ):
        await asyncio.sleep(0.01)
    now = perf_counter()
    under_way = [connection.since for connection in opened if connection.busy]
    ages = [now - since for since in (*under_way, *waiting) if since >= tally.start]
    for connection in opened:
        connection.busy = False
        connection.close()
    return tally.fill(Result("open", rate=rate), ages)


def main() -> None:
    """Run one load and print its result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument(
        "--bodies", type=Path, required=True, help="file with one JSON body per line"
    )
    parser.add_argument("--clients", type=int, help="closed loop: number of connections")
    parser.add_argument("--rate", type=float, help="open loop: requests per second")
    parser.add_argument("--warm-up", type=float, default=2, help="seconds that are not measured")
    parser.add_argument("--seconds", type=float, default=10, help="seconds that count")
    given = parser.parse_args()
    target = Target(given.port, given.path, given.bodies.read_text().splitlines())
    gc.collect()
    gc.disable()
    load: Any
    if given.clients:
        load = closed_loop(target, given.clients, given.warm_up, given.seconds)
    else:
        load = open_loop(target, given.rate, given.warm_up, given.seconds)
    print(json.dumps(asdict(uvloop.run(load))))


if __name__ == "__main__":
    main()
