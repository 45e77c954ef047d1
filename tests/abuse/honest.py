"""Well-behaved clients, which know the right answers in advance."""

import asyncio
import contextlib
import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from wire import Answer, Connection, connected, get, post

Sample = dict[str, Any]

ID = "penguin_id"
ANSWERED_WITHIN_SECONDS = 120
"""A request without an answer by then counts as lost."""

PAUSE_SECONDS = 0.02
"""The pause between requests of a client, so that honest clients do not saturate the machine."""


@dataclass(frozen=True)
class Known:
    """A sample, and the model's answer to it."""

    sample: Sample
    label: str
    probabilities: dict[str, float] = field(default_factory=dict)

    def named(self, name: str) -> Sample:
        """The sample with a unique name, so that mixed-up answers are noticed."""
        return self.sample | {ID: name}

    def is_told(self, answer: dict[str, Any], name: str) -> bool:
        """Whether an answer is right for this sample with this name."""
        probabilities = answer["probabilities"]
        return (
            answer["prediction"] == self.label
            and answer["entities"] == {ID: name}
            and probabilities.keys() == self.probabilities.keys()
            # The order of additions, and so the last bits, depends on the rows of a call.
            and all(
                math.isclose(probabilities[label], value, abs_tol=1e-6)
                for label, value in self.probabilities.items()
            )
        )


@dataclass
class Tally:
    """The results of the requests of one kind."""

    sent: int = 0
    answered: int = 0
    wrong: int = 0
    told_to_wait: int = 0
    """Answers 503 and 504 to large requests, which were then sent again."""
    lost: Counter[str] = field(default_factory=Counter)
    """The failures: what came instead of an answer."""
    seconds: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """As JSON; times in milliseconds, of requests answered at the first attempt."""
        times = sorted(self.seconds) or [math.nan]
        return {
            "sent": self.sent,
            "answered": self.answered,
            "wrong": self.wrong,
            "told_to_wait": self.told_to_wait,
            "lost": dict(self.lost),
            "p50": round(1000 * times[len(times) // 2], 1),
            "p99": round(1000 * times[len(times) * 99 // 100], 1),
            "worst": round(1000 * times[-1], 1),
        }


@dataclass(frozen=True)
class Kind:
    """A kind of honest client."""

    rows: int | None
    """None for `/predict`."""
    clients: int
    may_wait: bool = False
    """Whether it may get a 503, or a 504 after too long in a queue; small requests never may."""


KINDS = {
    "single": Kind(rows=None, clients=4),
    "small batch": Kind(rows=20, clients=2),
    "medium batch": Kind(rows=500, clients=1, may_wait=True),  # more than 16 KB
}


async def learn(port: int, known: Sequence[Known]) -> list[Known]:
    """Request the probabilities from an idle server; the predictions are already known."""
    learned = []
    async with connected(port) as connection:
        for index, one in enumerate(known):
            name = f"quiet-{index}"
            await connection.send(post("/predict", json.dumps(one.named(name)).encode()))
            answer = (await connection.answer()).json()
            complete = Known(one.sample, one.label, answer["probabilities"])
            assert complete.is_told(answer, name), (one, answer)
            learned.append(complete)
    return learned


async def ask_on(
    port: int,
    name: str,
    kind: Kind,
    known: Sequence[Known],
    tally: Tally,
    end: float,
) -> None:
    """Send sequential requests on a kept connection until a given time."""
    connections = _Kept(port)
    try:
        for count in itertools.count():
            if time.monotonic() > end:
                break
            asked = [
                (known[(count + offset) % len(known)], f"{name}-{count}-{offset}")
                for offset in range(kind.rows or 1)
            ]
            samples = [one.named(id_) for one, id_ in asked]
            content = samples[0] if kind.rows is None else {"samples": samples}
            path = "/predict" if kind.rows is None else "/predict/batch"
            request = post(path, json.dumps(content).encode())
            tally.sent += 1
            try:
                async with asyncio.timeout(ANSWERED_WITHIN_SECONDS):
                    answer = await _answer(connections, request, kind, tally)
            except (OSError, EOFError) as exc:  # also TimeoutError
                tally.lost[repr(exc)] += 1
                await connections.close()
                continue
            if answer.status != 200:
                tally.lost[str(answer.status)] += 1
            else:
                tally.answered += 1
                content = answer.json()
                told = [content] if kind.rows is None else content["predictions"]
                if len(told) != len(asked) or not all(
                    one.is_told(said, id_) for said, (one, id_) in zip(told, asked, strict=True)
                ):
                    tally.wrong += 1
            await asyncio.sleep(PAUSE_SECONDS)
    finally:
        await connections.close()


async def _answer(connections: "_Kept", request: bytes, kind: Kind, tally: Tally) -> Answer:
    while True:
        began = time.perf_counter()
        connection = await connections.open()
        await connection.send(request)
        answer = await connection.answer()
        if answer.headers.get("connection") == "close":
            await connections.close()
        if answer.status not in (503, 504) or not kind.may_wait:
            if answer.status == 200:
                tally.seconds.append(time.perf_counter() - began)
            return answer
        tally.told_to_wait += 1
        await asyncio.sleep(float(answer.headers.get("retry-after", 1)))


class _Kept:
    """A connection that reopens after it was closed."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stack = contextlib.AsyncExitStack()
        self._connection: Connection | None = None

    async def open(self) -> Connection:
        if self._connection is None:
            self._connection = await self._stack.enter_async_context(connected(self._port))
        return self._connection

    async def close(self) -> None:
        self._connection = None
        await self._stack.aclose()


async def gauges(port: int) -> dict[str, float]:
    """The values of the server's gauges of pending work."""
    async with connected(port) as connection:
        await connection.send(get("/metrics"))
        lines = (await connection.answer()).body.decode().splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    names = ("predictions_waiting", "predictions_in_progress")
    return {name: float(values[name]) for name in names}
