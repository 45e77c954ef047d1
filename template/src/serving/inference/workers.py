"""Where chunks are predicted: in threads, or in processes for engines that hold the interpreter."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa

from serving.config.settings import EngineChoice, load_settings
from serving.errors import WorkerLost
from serving.inference.kernel import Kernel, Outcome
from serving.model.hooks import PredictionHooks
from serving.model.loading import load_model


@dataclass(frozen=True)
class KernelSpec:
    """What a process needs to make its own kernel; a model cannot be sent to it."""

    model: Path
    """The directory of the model: the store may have another `latest` one meanwhile."""
    model_id: str
    version: str | None
    engine: EngineChoice
    schema: pa.Schema
    is_text: bool
    keep_text: bool


class Workers:
    """Predicts chunks beside each other.

    Args:
        kernel: the kernel of this process.
        spec: how other processes make theirs.
        count: how many chunks are predicted at the same time.
        in_processes: whether each worker is a process with its own model; else they are threads.
    """

    def __init__(self, kernel: Kernel, spec: KernelSpec, count: int, in_processes: bool) -> None:
        self.count = count
        self._predict: Callable[[pa.RecordBatch], Outcome]
        if in_processes and count > 1:
            # A process that is forked while threads run may hang; this server has none. It imports
            # the libraries once for all workers.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__, "pandas", "sklearn.pipeline"])
            self._pool: Executor = ProcessPoolExecutor(count, context, _start, (spec,))
            self._predict = _predict_here
        else:
            self._pool = ThreadPoolExecutor(count, "predict")
            self._predict = kernel.predict

    def submit(self, rows: pa.RecordBatch) -> Callable[[], Outcome]:
        """Predict rows.

        Returns a function that waits for the outcome. It raises what `Kernel.predict` raises, and
        `WorkerLost`.
        """
        with _explained():
            future: Future[Outcome] = self._pool.submit(self._predict, rows)
        return lambda: _wait(future)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _wait(future: "Future[Outcome]") -> Outcome:
    with _explained():
        return future.result()


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool:
        raise WorkerLost(
            "a worker process has ended unexpectedly; perhaps the system has killed it because "
            "there was too little memory, then use fewer workers"
        ) from None


_kernel: Kernel | None = None
"""The kernel of a worker process."""


def _start(spec: KernelSpec) -> None:
    global _kernel
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # The parent decides when the run ends; a terminal's Ctrl-C reaches all its processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.environ["MODEL_RUN_ID"], os.environ["MODEL_URI"] = "", str(spec.model)
    settings = load_settings()
    model = load_model(settings, spec.engine, PredictionHooks.load(settings))
    # A directory does not say where it came from.
    model.model_id, model.version = spec.model_id, spec.version
    _kernel = Kernel(model, spec.schema, is_text=spec.is_text, keep_text=spec.keep_text)


def _end_with_parent() -> None:
    """End this process when its parent is gone, which it would not notice while it waits."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _predict_here(rows: pa.RecordBatch) -> Outcome:
    assert _kernel is not None
    return _kernel.predict(rows)


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
