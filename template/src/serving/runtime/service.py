"""The life cycle of a served model (loading, ready, draining), and calls of it within limits."""

import asyncio
import contextlib
import faulthandler
import gc
import itertools
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence
from functools import partial
from typing import TypeVar

from serving.config.settings import Settings
from serving.contract.columns import Row
from serving.engines.base import Predictions
from serving.errors import (
    ContractError,
    Draining,
    ExtensionError,
    ModelFailed,
    ModelNotFound,
    NotReady,
    RowError,
    ServingError,
)
from serving.model.hooks import PredictionHooks
from serving.model.loading import load_model
from serving.model.served import ServedModel
from serving.redaction import redact
from serving.runtime.adaptive_batching import AdaptiveBatcher, Predict
from serving.runtime.draining import drain_on_sigterm
from serving.runtime.limits import Limits
from serving.runtime.offloading import Offloader
from serving.telemetry import metrics, metrics_directory
from serving.telemetry.logging import log_failure

logger = logging.getLogger("serving")

Result = TypeVar("Result")

LONGEST_PAUSE_SECONDS = 30

SLICE_CALLS = 8
"""Rows in a slice of a large request, as a multiple of the rows that may share a call, for models
whose calls take milliseconds. Shorter slices would cost much throughput."""


class Service:
    """What the routes share: the model, or the reason why there is none.

    Raises `ExtensionError` when the user's hooks for predictions cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        serving = settings.serving
        self.settings = settings
        self.hooks = PredictionHooks.load(settings)
        self.limits = Limits(
            serving.max_concurrent_requests, serving.max_body_bytes, serving.max_batch_rows
        )
        self.model: ServedModel | None = None
        self.reason = "the model is being loaded"
        self.draining = False
        self._offloaders = {is_large: Offloader() for is_large in (True, False)}
        self._batcher: AdaptiveBatcher | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Load the model in the background, so that /health and /ready answer meanwhile."""
        if self.hooks:
            self.hooks.loop = asyncio.get_running_loop()
        is_alone = self.settings.serving.workers == 1
        stops = drain_on_sigterm(self._begin_draining, self._drain_seconds, is_alone=is_alone)
        with metrics_directory.in_use():
            loading = asyncio.create_task(self.load())
            with stops:
                yield
            loading.cancel()
            for offloader in self._offloaders.values():
                offloader.close()
            if self._batcher:
                self._batcher.close()
            if self.model:
                self.model.close()

    async def load(self) -> None:
        """Load the model; on failure, retry with growing pauses for a limited time.

        A broken contract, failing hooks and a model that the store does not have are final. The
        reason is kept for `/ready`, and the log has its details. Restarting the process is up to
        the supervisor that watches `/ready`.
        """
        # MLflow's own retries would repeat those below.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        logger.info("loading the model")
        give_up = time.monotonic() + self.settings.serving.load_timeout_seconds
        for attempt in itertools.count(1):
            try:
                self.model = await _in_daemon_thread(self._load)
            except ExtensionError as exc:
                # Callers do not need to know where the code is.
                self.reason = "the project's own code failed; the server's log says where"
                logger.error("not ready: %s", exc)
                return
            except ContractError as exc:
                # Callers may see the cause, but not where the model is stored.
                self.reason = str(exc.__cause__ or exc)
                logger.error("not ready: %s", exc)
                return
            except ModelNotFound as exc:
                # Callers do not need to know which other models there are, and where.
                self.reason = "the store has no such model; the server's log has details"
                logger.error("not ready: %s", exc)
                return
            except Exception as exc:
                pause = min(2 ** (attempt - 1), LONGEST_PAUSE_SECONDS)
                again = time.monotonic() + pause < give_up
                then = f"trying again in {pause} s" if again else "gave up"
                # Callers do not need to know where models are stored.
                self.reason = (
                    f"the model could not be loaded (attempt {attempt}, {then}); "
                    "the server's log says why"
                )
                is_described = isinstance(exc, ServingError)
                logger.error("not ready, %s: %s", then, exc, exc_info=None if is_described else exc)
                if not again:
                    return
                await asyncio.sleep(pause)
            else:
                self._announce(self.model)
                return

    def _load(self) -> ServedModel:
        model = load_model(self.settings, hooks=self.hooks)
        # The objects that exist now will stay. Otherwise every full collection would traverse them,
        # for tens of milliseconds in the middle of requests.
        gc.collect()
        gc.freeze()
        return model

    def require_model(self) -> ServedModel:
        """The model.

        Raises `NotReady` with the reason when there is none.
        """
        if self.model is None:
            raise NotReady(self.reason)
        return self.model

    def require_ready(self) -> ServedModel:
        """The model, if it answers and the server is not about to stop.

        Raises `Draining`, or `NotReady` with the reason.
        """
        if self.draining:
            raise Draining("the server is stopping")
        return self.require_answering()

    def require_answering(self) -> ServedModel:
        """The model, if it answers.

        Raises `NotReady` with the reason: there is no model, or a call of it does not return. New
        requests would then only run into their time limit.
        """
        if self._batcher is not None:
            limit = self.settings.serving.request_timeout_seconds
            if self._batcher.seconds_without_progress > limit:
                raise NotReady(f"the model has not answered for more than {limit:g} s")
        return self.require_model()

    async def predict(self, rows: Sequence[Row], caller: Hashable) -> Predictions:
        """Predict the rows of one request; raises what the model raises."""
        if self._batcher is None:
            self._batcher = self._make_batcher(self.require_model())
        return await self._batcher.predict(rows, caller)

    async def offload(self, work: Callable[[], Result], *, is_large: bool) -> Result:
        """Do work outside the event loop; small requests do not wait for large ones."""
        return await self._offloaders[is_large].run(work)

    @contextlib.contextmanager
    def log_failures(self) -> Iterator[None]:
        """Log and count failures of the model.

        Raises `RowError` unchanged, and `ModelFailed` for all other exceptions.
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
            raise ModelFailed from None

    def _make_batcher(self, model: ServedModel) -> AdaptiveBatcher:
        max_rows, slice_rows = 1, None
        if model.engine.independent_rows:
            max_rows = self.settings.serving.max_shared_rows
            slice_rows = max_rows if model.engine.inline else SLICE_CALLS * max_rows
        together, alone = model.predict_rows, model.predict_or_blame
        if (seconds := self.settings.serving.exit_after_seconds) is not None:
            together, alone = (partial(_or_exit, seconds, one) for one in (together, alone))
        return AdaptiveBatcher(
            partial(self._timed, together),
            partial(self._timed, alone),
            max_rows=min(max_rows, model.inline_rows or max_rows),
            slice_rows=slice_rows,
            inline_rows=model.inline_rows,
        )

    def _timed(self, predict: Predict, rows: Sequence[Row]) -> Predictions:
        started = time.monotonic()
        try:
            return predict(rows)
        finally:
            metrics.MODEL_SECONDS.observe(time.monotonic() - started)
            metrics.CALL_ROWS.observe(len(rows))

    def _announce(self, model: ServedModel) -> None:
        metrics.READY.set(1)
        names = (model.version or "", model.model_id, model.run_id or "", model.engine.name)
        metrics.MODEL.labels(*names).set(1)
        engine = model.engine.name
        uri = redact(model.uri)
        logger.info("ready: %s, model %s, engine %s", uri, model.version or model.model_id, engine)
        if model.not_compiled:
            logger.info("served natively: %s", model.not_compiled)

    def _begin_draining(self) -> None:
        self.draining = True
        metrics.READY.set(0)
        logger.info("SIGTERM: draining")

    def _drain_seconds(self) -> float:
        # Without a model, no load balancer sends requests here that it would have to redirect.
        return self.settings.serving.drain_seconds if self.model else 0


def _or_exit(seconds: float, predict: Predict, rows: Sequence[Row]) -> Predictions:
    """Predict rows, or end the process if that takes longer.

    The standard library's watchdog works even while the call holds the interpreter. It prints the
    stack with files and lines, but without values.
    """
    faulthandler.dump_traceback_later(seconds, exit=True)
    try:
        return predict(rows)
    finally:
        faulthandler.cancel_dump_traceback_later()


async def _in_daemon_thread(function: Callable[[], Result]) -> Result:
    """Run the function in a daemon thread, which does not keep the process alive."""
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
        with contextlib.suppress(RuntimeError):  # the loop has ended in the meantime
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="load", daemon=True).start()
    return await future
