"""Limits on the requests in progress.

Large requests have separate limits, so that small requests never wait for them. Only a few large
requests are parsed into objects at a time; the others wait as raw bytes.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType

from serving.errors import Overloaded
from serving.telemetry import metrics

LARGE_BYTES = 16_384
"""A request with a larger body is a large request."""

MOST_SMALL_BODIES = 1_000
MOST_LARGE_BODIES = 8
"""Bodies in memory at a time, if each has the largest size of its kind. Large responses that their
callers have not received yet may together have as many bytes as large bodies."""

MOST_LARGE_AT_WORK = 4
"""Large requests that are processed at a time. Together they have at most as many bytes as a single
request may have."""

MOST_BATCHES = 10
"""Rows in progress, as a multiple of the largest batch."""


class Limits:
    """Counts what is in progress, in one event loop.

    Args:
        max_requests: most predictions in progress or waiting, of large and of small requests each.
        max_body_bytes: the largest body.
        max_batch_rows: the most rows of one request.
    """

    def __init__(self, max_requests: int, max_body_bytes: int, max_batch_rows: int) -> None:
        self._max_requests = max_requests
        self._max_small_bytes = MOST_SMALL_BODIES * LARGE_BYTES
        self._max_large_bytes = MOST_LARGE_BODIES * max_body_bytes
        self._max_rows = MOST_BATCHES * max_batch_rows
        self._small_bytes = 0
        self._large_bytes = 0
        self._answer_bytes = 0
        self._small_requests = 0
        self._large_requests = 0
        self._rows = 0
        self._turns = _Turns(max_body_bytes)

    def reserve_body(self) -> "ReservedBody":
        """Count the bytes of a body while the block runs."""
        return ReservedBody(self)

    def prediction_slot(self, *, is_large: bool) -> "_PredictionSlot":
        """Count a prediction while the block runs.

        Yields a function that counts its rows.

        Raises `Overloaded` when too many are in progress already.
        """
        return _PredictionSlot(self, is_large)

    def turn(self, length: int) -> contextlib.AbstractAsyncContextManager[None]:
        """Wait until a large body of this length may be processed; the block is its turn."""
        return self._turns.turn(length)

    @contextlib.contextmanager
    def answer(self, length: int) -> Iterator[None]:
        """Count a large response while the block runs, until its caller has received it.

        Raises `Overloaded` when these responses are too large together; a single response may have
        any length.
        """
        if self._answer_bytes and self._answer_bytes + length > self._max_large_bytes:
            raise Overloaded("too many large responses are still being sent")
        self._answer_bytes += length
        try:
            yield
        finally:
            self._answer_bytes -= length


# Classes, not `contextlib.contextmanager` generators: every request uses them, and they take a
# third of the time.
class ReservedBody:
    """Room for one body while the block runs."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes = 0

    def __enter__(self) -> "ReservedBody":
        return self

    def check(self, length: int) -> None:
        """Raise `Overloaded` if there is currently no room for a body of this length."""
        limits = self._limits
        if length > LARGE_BYTES and limits._large_bytes + length > limits._max_large_bytes:
            raise Overloaded("too many large requests are in progress")

    def add(self, count: int) -> None:
        """Count a piece; raise `Overloaded` if the bodies of its kind are too large together."""
        limits = self._limits
        total = self._bytes + count
        if total <= LARGE_BYTES:
            if limits._small_bytes + count > limits._max_small_bytes:
                raise Overloaded("too many requests are in progress")
            limits._small_bytes += count
        else:
            was_small = self._bytes if self._bytes <= LARGE_BYTES else 0
            if limits._large_bytes + was_small + count > limits._max_large_bytes:
                raise Overloaded("too many large requests are in progress")
            limits._small_bytes -= was_small
            limits._large_bytes += was_small + count
        self._bytes = total

    def release(self) -> None:
        """Stop counting this body."""
        if self._bytes <= LARGE_BYTES:
            self._limits._small_bytes -= self._bytes
        else:
            self._limits._large_bytes -= self._bytes
        self._bytes = 0

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.release()


class _PredictionSlot:
    def __init__(self, limits: Limits, is_large: bool) -> None:
        self._limits = limits
        self._is_large = is_large
        self._rows = 0

    def __enter__(self) -> Callable[[int], None]:
        limits = self._limits
        if self._is_large:
            if limits._large_requests >= limits._max_requests:
                raise Overloaded("too many large requests are in progress")
            limits._large_requests += 1
        else:
            if limits._small_requests >= limits._max_requests:
                raise Overloaded("too many requests are in progress")
            limits._small_requests += 1
        metrics.IN_PROGRESS.inc()
        return self._add_rows

    def _add_rows(self, count: int) -> None:
        """Raise `Overloaded` if all requests together have too many rows."""
        limits = self._limits
        if limits._rows + count > limits._max_rows:
            raise Overloaded("too many rows are in progress")
        limits._rows += count
        self._rows += count

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        limits = self._limits
        if self._is_large:
            limits._large_requests -= 1
        else:
            limits._small_requests -= 1
        limits._rows -= self._rows
        metrics.IN_PROGRESS.dec()


class _Turns:
    """Lets a few bodies pass at a time, in order of arrival, and limits their total size."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._at_work = 0
        self._total = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def turn(self, weight: int) -> AsyncIterator[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (weight, future)
        self._waiting.append(entry)
        self._let_pass()
        try:
            await future
            yield
        finally:
            if entry in self._waiting:  # cancelled before its turn
                self._waiting.remove(entry)
            else:
                self._at_work -= 1
                self._total -= weight
            self._let_pass()

    def _let_pass(self) -> None:
        while self._waiting and self._at_work < MOST_LARGE_AT_WORK:
            weight, future = self._waiting[0]
            if self._at_work and self._total + weight > self._most:
                return
            self._waiting.popleft()
            self._at_work += 1
            self._total += weight
            if not future.cancelled():  # a cancelled one releases its turn itself
                future.set_result(None)
