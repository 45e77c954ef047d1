"""Adaptive batching: rows of concurrent requests are predicted in one call of the model.

A call is expensive, an additional row is cheap. No request waits for a timer: requests that queue
while one call runs share the next one. No request waits for a large one either: large requests are
predicted in slices, and the small requests get a call between two slices.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from serving.contract.columns import Row
from serving.engines.base import Predictions
from serving.engines.bisection import bisect
from serving.errors import RowError
from serving.telemetry import metrics

LINGER = 1 / 16
"""How long a batch waits for callers that were just answered, as a fraction of the call time."""

LONGEST_LINGER_SECONDS = 0.002

APART_SECONDS = 10.0
"""How long after a failure a caller's requests are predicted in separate calls."""

MOST_APART = 1_000
"""Most callers that are remembered; when there are more, all of them are forgotten."""

Predict = Callable[[Sequence[Row]], Predictions]


@dataclass(eq=False)  # otherwise removing one from a queue would compare rows
class _Waiting:
    rows: Sequence[Row] = field(repr=False)  # asyncio logs the arguments of callbacks
    answer: "asyncio.Future[Predictions]"
    caller: Hashable = None
    slices: tuple[Predictions, ...] = field(default=(), repr=False)
    predicted: int = 0
    """Rows predicted in slices so far."""


class AdaptiveBatcher:
    """Predicts rows of several requests in one call, one call at a time.

    Args:
        predict: calls the model with the rows of several requests.
        predict_alone: calls it with the rows of one request; it may report which row made the
            call fail.
        max_rows: most rows of one batch; requests with more rows get calls of their own.
        slice_rows: rows per call for such a large request; None if the model must see all rows
            of a request together.
        inline_rows: calls with at most this many rows run on the event loop, because they end
            sooner than a thread would start.
    """

    def __init__(
        self,
        predict: Predict,
        predict_alone: Predict,
        max_rows: int,
        slice_rows: int | None = None,
        inline_rows: int = 0,
    ) -> None:
        self._predict = predict
        self._predict_alone = predict_alone
        self._max_rows = max_rows
        self._slice_rows = slice_rows
        self._inline_rows = inline_rows
        self._shared: deque[_Waiting] = deque()
        """Requests that share calls."""
        self._apart: deque[_Waiting] = deque()
        """Large requests, and requests of callers whose rows have made a shared call fail."""
        self._was_shared = False
        self._failed_at: dict[Hashable, float] = {}
        self._busy = False
        self._progress = 0.0
        self._expected = 1
        self._linger_until = 0.0
        # scikit-learn holds the interpreter, so parallel calls would only slow each other down.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    async def predict(self, rows: Sequence[Row], caller: Hashable = None) -> Predictions:
        """Predict the rows of one request; requests of the same kind are served in order.

        Args:
            rows: the rows; at least one.
            caller: identifies the caller as far as possible; for the API, the connection.

        Raises what the model raises for these rows, and `RowError` for a row that it refuses. Rows
        of other requests have no effect on this.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(rows, loop.create_future(), caller)
        is_apart = len(rows) > self._max_rows or (self._failed_at and self._has_failed(caller))
        (self._apart if is_apart else self._shared).append(waiting)
        metrics.WAITING.inc()
        if not self._busy:
            self._busy = True
            self._progress = time.monotonic()
            loop.call_soon(self._gather)
        try:
            return await waiting.answer
        except (
            asyncio.CancelledError
        ):  # the caller gave up: drop the rows now, not when their turn comes
            self._forget(waiting)
            raise

    @property
    def seconds_without_progress(self) -> float:
        """Seconds since a request was last answered; 0 while no request waits."""
        return time.monotonic() - self._progress if self._busy else 0.0

    def close(self) -> None:
        """Start no more calls."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _has_failed(self, caller: Hashable) -> bool:
        """Whether rows of this caller have recently made a shared call fail."""
        return time.monotonic() - self._failed_at.get(caller, -APART_SECONDS) < APART_SECONDS

    def _remember_failure(self, caller: Hashable) -> None:
        if caller is None:
            return
        if len(self._failed_at) >= MOST_APART:
            self._failed_at = {}
        self._failed_at[caller] = time.monotonic()

    def _forget(self, waiting: _Waiting) -> None:
        for queue in (self._shared, self._apart):
            with contextlib.suppress(ValueError):  # it is in a call already
                queue.remove(waiting)
                metrics.WAITING.dec()

    def _gather(self) -> None:
        """Let the loop iterate, so that requests that arrive at the same time share a call.

        One iteration suffices for requests that have arrived. Callers whose last requests were
        answered together get a little longer, so that they do not split into groups that wait for
        each other. A single caller does not wait.
        """
        loop = asyncio.get_running_loop()
        is_complete = (
            len(self._shared) >= self._expected
            or bool(self._apart)
            or loop.time() > self._linger_until
        )
        loop.call_soon(self._next if is_complete else self._gather)

    def _next(self) -> None:
        """Make the next call, if a request waits."""
        # The two kinds take turns when both wait.
        self._was_shared = bool(self._shared) and not (self._apart and self._was_shared)
        requests = self._take()
        loop = asyncio.get_running_loop()
        if not requests:
            self._busy = False
        elif sum(len(request.rows) for request in requests) <= self._inline_rows:
            self._settle(requests, loop.time(), self._together(requests))
        else:
            started = loop.time()
            call = loop.run_in_executor(self._thread, self._together, requests)
            call.add_done_callback(partial(self._end, requests, started))

    def _end(
        self,
        requests: Sequence[_Waiting],
        started: float,
        call: "asyncio.Future[list[Predictions | Exception]]",
    ) -> None:
        if call.cancelled():  # by `close`
            return
        error = call.exception()
        answers = call.result() if error is None else [_settable(error)] * len(requests)
        self._settle(requests, started, answers)

    def _settle(
        self,
        requests: Sequence[_Waiting],
        started: float,
        answers: Sequence[Predictions | Exception],
    ) -> None:
        for request, answer in zip(requests, answers, strict=True):
            if request.answer.done():  # its caller has disconnected or timed out
                continue
            if isinstance(answer, Exception):
                request.answer.set_exception(answer)
            elif request.predicted + len(answer.values) < len(request.rows):
                request.slices += (answer,)
                request.predicted += len(answer.values)
                self._apart.append(request)  # behind other requests of its kind
                metrics.WAITING.inc()
            elif request.slices:
                request.answer.set_result(Predictions.joined([*request.slices, answer]))
            else:
                request.answer.set_result(answer)
        loop = asyncio.get_running_loop()
        if self._was_shared:
            self._expected = len(self._shared) + len(requests) if self._max_rows > 1 else 1
            linger = min(LINGER * (loop.time() - started), LONGEST_LINGER_SECONDS)
            self._linger_until = loop.time() + linger
        self._busy = bool(self._shared or self._apart)
        self._progress = time.monotonic()
        if self._busy:
            loop.call_soon(self._gather)

    def _take(self) -> list[_Waiting]:
        """The next requests: as many as may share a call, or one that gets its own call."""
        requests: list[_Waiting] = []
        if not self._was_shared:
            if self._apart:
                requests.append(self._apart.popleft())
        else:
            rows = 0
            while self._shared:
                rows += len(self._shared[0].rows)
                if requests and rows > self._max_rows:
                    break
                requests.append(self._shared.popleft())
        metrics.WAITING.dec(len(requests))
        return requests

    def _together(self, requests: Sequence[_Waiting]) -> list[Predictions | Exception]:
        """Predict requests in one call; if it fails, halve it, down to single requests."""
        answers: list[Predictions | Exception] = []
        # BaseException, because a Rust panic is not an `Exception`.
        for part, outcome in bisect(self._predict_requests, requests, (BaseException,)):
            if isinstance(outcome, list):
                answers += outcome
                continue
            answers.append(_settable(outcome))
            caller = requests[part.start].caller
            if len(requests) > 1 or self._has_failed(caller):
                self._remember_failure(caller)
        return answers

    def _predict_requests(self, requests: Sequence[_Waiting]) -> list[Predictions | Exception]:
        if len(requests) == 1:
            return [self._predict_slice(requests[0])]
        predictions = self._predict([row for request in requests for row in request.rows])
        answers: list[Predictions | Exception] = []
        start = 0
        for request in requests:
            part = predictions.rows(slice(start, start + len(request.rows)))
            start += len(request.rows)
            answers.append(part if part.refused is None else RowError(int(part.refused.argmax())))
        return answers

    def _predict_slice(self, request: _Waiting) -> Predictions:
        """Predict the whole request or its next slice."""
        start = request.predicted
        if self._slice_rows is None or len(request.rows) <= self._max_rows:
            return self._predict_alone(request.rows)
        try:
            return self._predict_alone(request.rows[start : start + self._slice_rows])
        except RowError as exc:
            raise RowError(start + exc.index) from exc.__cause__


def _settable(error: BaseException) -> Exception:
    """An exception that a future accepts; futures refuse some kinds.

    A replacement omits the message, because the model may quote the caller's values in it.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return RuntimeError(f"the model raised {type(error).__name__}")
