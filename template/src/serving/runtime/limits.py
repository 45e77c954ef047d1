"""How much may be in progress at a time."""

from collections.abc import Callable
from types import TracebackType

from serving.errors import Overloaded
from serving.telemetry import metrics

MOST_BODIES = 20
"""Bodies in memory at a time, counted as if each were as large as it may be."""

Reserve = Callable[[int], None]


class Limits:
    """Counts what is in progress, in one event loop.

    Args:
        max_requests: predictions in progress or waiting.
        max_body_bytes: the largest body; all bodies together may have `MOST_BODIES` times as many.
    """

    def __init__(self, max_requests: int, max_body_bytes: int) -> None:
        self._max_requests = max_requests
        self._max_bytes = MOST_BODIES * max_body_bytes
        self._requests = 0
        self._bytes = 0

    def reserve_body(self) -> "_ReservedBody":
        """Count the bytes of a body as long as the block runs.

        Gives the block a function that counts a piece of it, which raises `Overloaded` when all
        bodies together are too large.
        """
        return _ReservedBody(self)

    def prediction_slot(self) -> "_PredictionSlot":
        """Count a prediction as long as the block runs.

        Raises `Overloaded` when too many are in progress already.
        """
        return _PredictionSlot(self)


# Classes, not generators with `contextlib.contextmanager`: they stand in the way of every request
# and take a third of the time.
class _ReservedBody:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes = 0

    def __enter__(self) -> Reserve:
        return self._reserve

    def _reserve(self, count: int) -> None:
        limits = self._limits
        if limits._bytes + count > limits._max_bytes:
            raise Overloaded("too many large requests are in progress")
        limits._bytes += count
        self._bytes += count

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._limits._bytes -= self._bytes


class _PredictionSlot:
    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def __enter__(self) -> None:
        limits = self._limits
        if limits._requests >= limits._max_requests:
            raise Overloaded("too many requests are in progress")
        limits._requests += 1
        metrics.IN_PROGRESS.inc()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._limits._requests -= 1
        metrics.IN_PROGRESS.dec()
