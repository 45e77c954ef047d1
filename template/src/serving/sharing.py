"""Concurrent requests share calls of the model: a call costs much, a row of it little.

Nobody waits for a timer: what has queued while one call ran is in the next. Compared with four
other ways, this answered most requests at every number of clients (benchmarks of the template).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from serving import metrics
from serving.columns import Row
from serving.engines import Predictions

Predict = Callable[[Sequence[Row]], Predictions]


@dataclass(frozen=True)
class _Waiting:
    rows: Sequence[Row]
    answer: "asyncio.Future[Predictions]"


class SharedCalls:
    """Predicts rows of several requests in one call, in a thread, one call at a time.

    Args:
        predict: the model.
        predict_alone: the same for the rows of one request, when their call has failed; it may
            say which row is to blame.
        most_rows: how many rows several requests may have together.
    """

    def __init__(self, predict: Predict, predict_alone: Predict, most_rows: int) -> None:
        self._predict = predict
        self._predict_alone = predict_alone
        self._most_rows = most_rows
        self._queue: deque[_Waiting] = deque()
        self._worker: asyncio.Task[None] | None = None
        # scikit-learn holds the interpreter: calls side by side only slow each other down.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")

    async def predict(self, rows: Sequence[Row]) -> Predictions:
        """Predict the rows of one request, in the order in which requests came.

        Raises what the model raises for these rows; those of other requests change nothing.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(rows, loop.create_future())
        self._queue.append(waiting)
        metrics.WAITING.inc()
        if self._worker is None:
            self._worker = loop.create_task(self._work())
        return await waiting.answer

    def close(self) -> None:
        """Make no more calls."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._queue:
                # Two turns of the loop: requests that have arrived meanwhile get in.
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                if requests := self._take():
                    answers = await loop.run_in_executor(self._thread, self._together, requests)
                    for request, answer in zip(requests, answers, strict=True):
                        if request.answer.done():  # its caller has gone, or waited long enough
                            continue
                        if isinstance(answer, Exception):
                            request.answer.set_exception(answer)
                        else:
                            request.answer.set_result(answer)
        finally:
            self._worker = None

    def _take(self) -> list[_Waiting]:
        """The next requests, as many as may share a call; those given up are dropped."""
        requests: list[_Waiting] = []
        rows = 0
        while self._queue:
            rows += len(self._queue[0].rows)
            if requests and rows > self._most_rows:
                break
            request = self._queue.popleft()
            metrics.WAITING.dec()
            if request.answer.done():
                rows -= len(request.rows)
            else:
                requests.append(request)
        return requests

    def _together(self, requests: Sequence[_Waiting]) -> list[Predictions | Exception]:
        """Predict requests in one call; when it fails, in two halves, down to single requests."""
        try:
            if len(requests) == 1:
                return [self._predict_alone(requests[0].rows)]
            predictions = self._predict([row for request in requests for row in request.rows])
            return list(_parts(predictions, [len(request.rows) for request in requests]))
        except Exception as exc:
            if len(requests) == 1:
                return [exc]
            middle = len(requests) // 2
            return self._together(requests[:middle]) + self._together(requests[middle:])


def _parts(predictions: Predictions, counts: Sequence[int]) -> list[Predictions]:
    """Cut predictions into those of `counts` rows each."""
    parts, start = [], 0
    for count in counts:
        parts.append(predictions.rows(slice(start, start + count)))
        start += count
    return parts
