"""Malicious or broken clients: each function makes one attack."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from wire import connected, get, post

LARGEST = 10_000_000  # MAX_BODY_BYTES
MOST_ROWS = 10_000  # MAX_BATCH_ROWS
CLOSED = "closed"


def samples(unit: bytes, count: int) -> bytes:
    """A batch that repeats one text."""
    return b'{"samples":[' + b",".join([unit] * count) + b"]}"


def filled(unit: bytes) -> bytes:
    """A batch as large as a body may be."""
    return samples(unit, LARGEST // (len(unit) + 1) - 10)


# Made once, because making such bodies takes as long as sending them.
BLANK = b" " * LARGEST
NESTED = filled(b"[" * 150 + b"]" * 150)
MANY_VALUES = (filled(b"[]"), filled(b'{"a":0}'), filled(b"0"))
ALL_WRONG = samples(b'{"bill_length_mm":"x","\\u0000":[]}', MOST_ROWS)

FLOOD = get("/health") * 5_000


@dataclass
class Target:
    """A server, and a sample that its model accepts."""

    port: int
    sample: dict[str, Any]

    @cached_property
    def one(self) -> bytes:
        return json.dumps(self.sample).encode()

    @cached_property
    def batch(self) -> bytes:
        return samples(self.one, MOST_ROWS)

    @property
    def poison(self) -> bytes:
        """Numbers that the schema accepts and the model refuses."""
        names = [name for name, value in self.sample.items() if isinstance(value, float)]
        extreme = random.choice([1e39, -1e39, 1.7e308, -1.7e308])
        return json.dumps(self.sample | {random.choice(names): extreme}).encode()


Attack = Callable[[Target], Awaitable[int | str]]


async def answered(target: Target, request: bytes) -> int:
    """The status of the answer to one request."""
    async with connected(target.port) as connection:
        await connection.send(request)
        return (await connection.answer()).status


GARBAGE = (
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,  # TLS
    b"\x00" * 1000 + b"\r\n\r\n",
    b"POST /predict HTTP/9.9\r\n\r\n",
    b"GET  HTTP/1.1\r\n: a\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
)


async def malformed(target: Target) -> int | str:
    """Sends bytes that are not HTTP."""
    async with connected(target.port) as connection:
        await connection.send(random.choice(GARBAGE))
        return (await connection.answer()).status


async def no_json(target: Target) -> int | str:
    """Sends bodies that are not JSON, are truncated, or have the wrong structure."""
    bodies = (b"", b"{", b"\xff\xfe", b"null", b"[1]", target.one[:-1], b"{" * 5000, b'"' * 9999)
    return await answered(target, post("/predict", random.choice(bodies)))


async def slow_head(target: Target) -> int | str:
    """Sends a request head line by line, and never ends it."""
    async with connected(target.port) as connection:
        await connection.send(b"GET /health HTTP/1.1\r\n")
        for _ in range(90):
            await connection.send(b"X: a\r\n")
            await asyncio.sleep(1)
        await connection.closed()
    return CLOSED


async def stalled_upload(target: Target) -> int | str:
    """Sends a large body except for its last byte."""
    async with connected(target.port) as connection:
        # One body of the largest size would fill the room for large bodies and block other attacks.
        length = random.choice([LARGEST, LARGEST // 10, LARGEST // 100])
        await connection.send(post("/predict/batch", BLANK[1:length], length=length))
        return (await connection.answer()).status


async def crawling_upload(target: Target) -> int | str:
    """Sends a body in small pieces until the server stops it."""
    async with connected(target.port) as connection:
        await connection.send(post("/predict/batch", b"", length=1_000_000))
        answer = asyncio.ensure_future(connection.answer())
        try:
            while not answer.done():
                await connection.send(b" " * 100)
                await asyncio.sleep(0.5)
            return (await answer).status
        finally:
            answer.cancel()


async def unread_answer(target: Target) -> int | str:
    """Requests a large answer and does not read it."""
    async with connected(target.port, receive_buffer=4096) as connection:
        await connection.send(post("/predict/batch", target.batch))
        await asyncio.sleep(40)  # the server closes the connection earlier
        await connection.closed()
    return CLOSED


async def slow_reader(target: Target) -> int | str:
    """Reads a large answer in small pieces."""
    async with connected(target.port, receive_buffer=4096) as connection:
        await connection.send(post("/predict/batch", target.batch))
        while await connection.read(2048):
            await asyncio.sleep(0.1)
    return CLOSED


async def huge_head(target: Target) -> int | str:
    """Sends heads that are long, have many lines, or never end."""
    lines = (b"X: " + b"a" * 70_000 + b"\r\n", b"X: a\r\n" * 101, b"X: " + b"a" * 1_000_000)
    line = random.choice(lines)
    return await answered(target, b"GET /health HTTP/1.1\r\nHost: a\r\n" + line + b"\r\n")


async def nested(target: Target) -> int | str:
    """Sends nested brackets."""
    return await answered(target, post("/predict/batch", NESTED))


async def many_values(target: Target) -> int | str:
    """Sends millions of values, which would take a hundred times their size in memory."""
    return await answered(target, post("/predict/batch", random.choice(MANY_VALUES)))


async def compressed(target: Target) -> int | str:
    """Sends a body that claims to be compressed."""
    headers = "Content-Encoding: gzip\r\n"
    return await answered(target, post("/predict", b"\x1f\x8b" * 500, headers=headers))


async def wrong_values(target: Target) -> int | str:
    """Sends a large batch in which everything is wrong."""
    return await answered(target, post("/predict/batch", ALL_WRONG))


async def poison(target: Target) -> int | str:
    """Sends extreme numbers, which share a call of the model with the values of others."""
    if random.random() < 0.5:
        return await answered(target, post("/predict", target.poison))
    body = samples(target.one, 10)[:-2] + b"," + target.poison + b"]}"
    return await answered(target, post("/predict/batch", body))


async def greedy_batch(target: Target) -> int | str:
    """Sends batches of the largest size, one after the other."""
    return await answered(target, post("/predict/batch", target.batch))


async def disconnecting(target: Target) -> int | str:
    """Disconnects in the middle of the body, before the answer, or during the answer."""
    async with connected(target.port) as connection:
        request = post("/predict/batch", random.choice([target.one, target.batch]))
        await connection.send(request[: random.choice([len(request) // 2, len(request)])])
        await asyncio.sleep(random.random() / 5)
    return CLOSED


async def pipelining(target: Target) -> int | str:
    """Pipelines many requests, and then reads the answers, which come in order."""
    async with connected(target.port) as connection:
        await connection.send((post("/predict", target.one) + get("/health")) * 20)
        statuses = {(await connection.answer()).status for _ in range(40)}
        return statuses.pop() if len(statuses) == 1 else f"{sorted(statuses)}"


async def flooding(target: Target) -> int | str:
    """Sends requests without end, faster than they can be answered."""
    async with connected(target.port) as connection:
        answers = asyncio.ensure_future(connection.closed())
        try:
            while not answers.done():
                await connection.send(FLOOD)
        finally:
            answers.cancel()
    return CLOSED


@dataclass(frozen=True)
class Force:
    """For each attack, the number of concurrent clients and the allowed outcomes."""

    attack: Attack
    clients: int
    outcomes: frozenset[int | str]


def _force(attack: Attack, clients: int, *outcomes: int | str) -> Force:
    # A connection reset may overtake the answer to bytes that the server has not read.
    return Force(attack, clients, frozenset({*outcomes, CLOSED}))


ATTACKS = {
    force.attack.__name__.replace("_", " "): force
    for force in (
        _force(malformed, 2, 400, 422),
        _force(no_json, 2, 422),
        _force(slow_head, 10),
        _force(stalled_upload, 20, 408, 503),
        _force(crawling_upload, 5, 408, 503),
        _force(unread_answer, 10),
        _force(slow_reader, 3),
        _force(huge_head, 2, 431),
        _force(nested, 1, 422, 503),
        _force(many_values, 1, 422, 503),
        _force(compressed, 1, 415),
        _force(wrong_values, 1, 422, 503, 504),
        _force(poison, 2, 200, 422),
        _force(greedy_batch, 4, 200, 503, 504),
        _force(disconnecting, 4),
        _force(pipelining, 2, 200),
        _force(flooding, 1),
    )
}
