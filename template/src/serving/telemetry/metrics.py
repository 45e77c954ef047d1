"""Prometheus metrics of the API, right with one worker and with several.

Several workers share files in a directory: see `serving.telemetry.metrics_directory`.
"""

import os
from pathlib import Path

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
    multiprocess,
)

from serving.telemetry import metrics_directory

CONTENT_TYPE = CONTENT_TYPE_LATEST

# They double the number of series.
disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

REQUESTS = Counter(
    "http_requests", "Requests, by what was asked for and answered", ["method", "route", "status"]
)
DURATION = Histogram(
    "http_request_duration_seconds",
    "From head of request to end of answer",
    ["route"],
    buckets=_SECONDS,
)
IN_PROGRESS = Gauge(
    "predictions_in_progress", "Predictions in progress or waiting", multiprocess_mode="livesum"
)
WAITING = Gauge(
    "predictions_waiting",
    "Of those, not yet part of a call of the model",
    multiprocess_mode="livesum",
)
_COUNTS = (1, 2, 5, 10, 20, 50, 100, 1_000, 10_000, 100_000)
ROWS = Histogram("prediction_rows", "Rows of a request", buckets=_COUNTS)
CALL_ROWS = Histogram(
    "model_call_rows", "Rows of a call, of one request or several", buckets=_COUNTS
)
MODEL_SECONDS = Histogram("model_call_seconds", "Calls of the model", buckets=_SECONDS)
FAILURES = Counter("model_failures", "Calls that failed, and rows that were refused", ["kind"])
READY = Gauge("model_ready", "Workers with a model", multiprocess_mode="livesum")
MODEL = Gauge(
    "model_info",
    "1 for what is being served",
    ["model_version", "model_id", "run_id", "engine"],
    multiprocess_mode="livemax",
)


def latest() -> bytes:
    """All metrics in Prometheus' text format, of all workers together."""
    if directory := os.environ.get(metrics_directory.VARIABLE):
        _forget_dead_workers(Path(directory))
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # untyped
        return generate_latest(registry)
    return generate_latest(REGISTRY)


def _forget_dead_workers(directory: Path) -> None:
    """Drop the gauges of workers that ended in whatever way; their counters stay in the sums."""
    for file in directory.glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]  # untyped
