"""The life of a served model: loading, ready, draining; and its calls, within limits."""

import asyncio
import contextlib
import gc
import itertools
import logging
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from http import HTTPStatus
from types import FrameType
from typing import TypeVar

from serving.api import problem
from serving.config.settings import Settings
from serving.contract.columns import Row
from serving.engines.base import Predictions
from serving.errors import ContractError, RowError, ServingError
from serving.model.loading import load_model
from serving.model.served import ServedModel
from serving.runtime.adaptive_batching import Predict, SharedCalls
from serving.telemetry import metrics
from serving.telemetry.logging import log_failure

logger = logging.getLogger("serving")

Result = TypeVar("Result")

LONGEST_PAUSE_SECONDS = 30
LONGEST_END_SECONDS = 3
MOST_BODIES = 20
"""Bodies in memory at a time, counted as if each were as large as it may be."""


class Service:
    """What the routes share: the model, or the reason why there is none."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.model: ServedModel | None = None
        self.reason = "the model is being loaded"
        self.draining = False
        self._in_progress = 0
        self._body_bytes = 0
        self._call_started: float | None = None
        self._calls: SharedCalls | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load the model in the background, so that /health and /ready answer meanwhile."""
        loading = asyncio.create_task(self.load())
        with self._drain_on_sigterm():
            yield
        loading.cancel()
        if self._calls:
            self._calls.close()
        if self.model:
            self.model.close()

    async def load(self) -> None:
        """Load the model; while that fails, try again with growing pauses, for a bounded time.

        A contract that does not hold is final. On failure the reason is kept, for `/ready`, and
        said in full in the log; it is up to whoever watches `/ready` to start the process again.
        """
        # Each attempt is a short one: it is here that attempts are repeated.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        logger.info("loading the model")
        give_up = time.monotonic() + self.settings.serving.load_timeout_seconds
        for attempt in itertools.count(1):
            try:
                self.model = await _in_daemon_thread(self._load)
            except ContractError as exc:
                # What the cause says is for every caller; where the model is kept is not.
                self.reason = str(exc.__cause__ or exc)
                logger.error("not ready: %s", exc)
                return
            except Exception as exc:
                pause = min(2 ** (attempt - 1), LONGEST_PAUSE_SECONDS)
                again = time.monotonic() + pause < give_up
                then = f"trying again in {pause} s" if again else "gave up"
                # Where models are kept is no caller's business.
                self.reason = (
                    f"the model could not be loaded (attempt {attempt}, {then}); "
                    "the server's log says why"
                )
                is_told = isinstance(exc, ServingError)
                logger.error("not ready, %s: %s", then, exc, exc_info=None if is_told else exc)
                if not again:
                    return
                await asyncio.sleep(pause)
            else:
                self._announce(self.model)
                return

    def _load(self) -> ServedModel:
        model = load_model(self.settings)
        # What is there now stays: collections need not look at it again, which they would for
        # tens of milliseconds each, in the middle of requests.
        gc.collect()
        gc.freeze()
        return model

    def require_model(self) -> ServedModel:
        """The model.

        Raises `ProblemError` with status 503 and the reason when there is none.
        """
        if self.model is None:
            raise problem.ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE, self.reason, headers={"Retry-After": "5"}
            )
        return self.model

    def require_ready(self) -> ServedModel:
        """The model, unless the server is about to stop.

        Raises `ProblemError` with status 503 and the reason.
        """
        if self.draining:
            raise problem.ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "the server is stopping",
                headers={"Retry-After": "5"},
            )
        limit = self.settings.serving.request_timeout_seconds
        if self._call_started is not None and time.monotonic() - self._call_started > limit:
            raise problem.ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"the model has not answered for more than {limit:g} s",
                headers={"Retry-After": "5"},
            )
        return self.require_model()

    @contextlib.contextmanager
    def memory(self) -> Iterator[Callable[[int], None]]:
        """Count the bytes of a body as long as it is needed; yields what counts a piece of it.

        That raises `ProblemError` with status 503 when all bodies together are too large.
        """
        mine = 0

        def reserve(count: int) -> None:
            nonlocal mine
            if self._body_bytes + count > MOST_BODIES * self.settings.serving.max_body_bytes:
                raise problem.ProblemError(
                    HTTPStatus.SERVICE_UNAVAILABLE,
                    "too many large requests are in progress",
                    headers={"Retry-After": "1", "Connection": "close"},
                )
            self._body_bytes += count
            mine += count

        try:
            yield reserve
        finally:
            self._body_bytes -= mine

    @contextlib.contextmanager
    def one_prediction(self) -> Iterator[None]:
        """Count a prediction, from when its body is read until it is answered.

        Raises `ProblemError` with status 503 when too many are in progress already.
        """
        if self._in_progress >= self.settings.serving.max_concurrent_requests:
            raise problem.ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "too many requests are in progress",
                headers={"Retry-After": "1"},
            )
        self._in_progress += 1
        metrics.IN_PROGRESS.inc()
        try:
            yield
        finally:
            self._in_progress -= 1
            metrics.IN_PROGRESS.dec()

    async def predict(self, rows: Sequence[Row]) -> Predictions:
        """Predict the rows of one request; raises what the model raises."""
        if self._calls is None:
            self._calls = self._shared_calls(self.require_model())
        return await self._calls.predict(rows)

    @contextlib.contextmanager
    def told_failures(self) -> Iterator[None]:
        """Log and count what the model does wrong.

        Raises `RowError` as it is, and `ProblemError` with status 500 for all else.
        """
        try:
            yield
        except RowError as exc:
            metrics.FAILURES.labels("row").inc()
            log_failure(logger, logging.WARNING, "the model refused a row", exc.__cause__ or exc)
            raise
        except Exception as exc:
            metrics.FAILURES.labels("call").inc()
            log_failure(logger, logging.ERROR, "the model failed", exc)
            raise problem.ProblemError(
                HTTPStatus.INTERNAL_SERVER_ERROR, "the model failed; the server's log says why"
            ) from None

    def _shared_calls(self, model: ServedModel) -> SharedCalls:
        most = self.settings.serving.max_shared_rows if model.engine.independent_rows else 1
        return SharedCalls(
            partial(self._timed, model.predict_rows),
            partial(self._timed, model.predict_or_blame),
            min(most, model.inline_rows or most),
            model.inline_rows,
        )

    def _timed(self, predict: Predict, rows: Sequence[Row]) -> Predictions:
        self._call_started = started = time.monotonic()
        try:
            return predict(rows)
        finally:
            metrics.MODEL_SECONDS.observe(time.monotonic() - started)
            metrics.CALL_ROWS.observe(len(rows))
            self._call_started = None

    def _announce(self, model: ServedModel) -> None:
        metrics.READY.set(1)
        names = (model.version, model.model_id or "", model.run_id or "", model.engine.name)
        metrics.MODEL.labels(*names).set(1)
        engine = model.engine.name
        logger.info("ready: %s, version %s, engine %s", model.uri, model.version, engine)
        if model.not_compiled:
            logger.info("served natively: %s", model.not_compiled)

    @contextlib.contextmanager
    def _drain_on_sigterm(self) -> Iterator[None]:
        """On SIGTERM turn `/ready` red at once, and let the server stop a while later.

        So load balancers, which look at `/ready` every few seconds, stop sending requests before
        connections are refused.
        """
        if threading.current_thread() is not threading.main_thread():
            yield  # no signal arrives here
            return
        loop = asyncio.get_running_loop()
        stop = signal.getsignal(signal.SIGTERM)

        stopping = False

        def drain(number: int, frame: FrameType | None) -> None:
            nonlocal stopping
            if stopping or not callable(stop):
                return
            stopping = self.draining = True
            # Not here, in the middle of anything: locks of metrics and logs may be held.
            loop.call_soon_threadsafe(metrics.READY.set, 0)
            loop.call_soon_threadsafe(logger.info, "SIGTERM: draining")
            # Without a model nobody sends requests that a balancer would have to send elsewhere.
            seconds = self.settings.serving.drain_seconds if self.model else 0
            loop.call_soon_threadsafe(loop.call_later, seconds, stop, number, frame)

        signal.signal(signal.SIGTERM, drain)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, stop)
        if stopping:
            # Python would wait for ever for a model that does not return, and MLflow's threads
            # for a store that does not answer.
            end = threading.Timer(LONGEST_END_SECONDS, os._exit, [0])
            end.daemon = True
            end.start()


async def _in_daemon_thread(function: Callable[[], Result]) -> Result:
    """Run the function in a thread that does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # a result, as there is no error

    def run() -> None:
        outcome: tuple[Result | None, BaseException | None]
        try:
            outcome = (function(), None)
        except BaseException as exc:
            outcome = (None, exc)
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="load", daemon=True).start()
    return await future
