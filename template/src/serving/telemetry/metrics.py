"""Prometheus metrics of the API, for one worker or several.

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

# The `_created` series double the number of series.
disable_created_metrics()  # type: ignore[no-untyped-call]  # untyped

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

REQUESTS = Counter(
    "http_requests", "Requests by method, route and status", ["method", "route", "status"]
)
DURATION = Histogram(
    "http_request_duration_seconds",
    "Time from the headers of a request to the end of its response",
    ["route"],
    buckets=_SECONDS,
)
IN_PROGRESS = Gauge(
    "predictions_in_progress", "Predictions in progress or waiting", multiprocess_mode="livesum"
)
WAITING = Gauge(
    "predictions_waiting",
    "Predictions that wait for a call of the model",
    multiprocess_mode="livesum",
)
_COUNTS = (1, 2, 5, 10, 20, 50, 100, 1_000, 10_000, 100_000)
ROWS = Histogram("prediction_rows", "Rows per request", buckets=_COUNTS)
CALL_ROWS = Histogram(
    "model_call_rows",
    "Rows per call of the model, which may serve several requests",
    buckets=_COUNTS,
)
MODEL_SECONDS = Histogram("model_call_seconds", "Duration of calls of the model", buckets=_SECONDS)
FAILURES = Counter(
    "model_failures", "Failed calls of the model, and rows that it refused", ["kind"]
)
READY = Gauge("model_ready", "Workers with a model", multiprocess_mode="livesum")
MODEL = Gauge(
    "model_info",
    "1 for the model that is being served",
    ["model_version", "model_id", "run_id", "engine"],
    multiprocess_mode="livemax",
)


def latest() -> bytes:
    """All metrics of all workers in Prometheus' text format."""
    if directory := os.environ.get(metrics_directory.VARIABLE):
        _forget_dead_workers(Path(directory))
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # untyped
        return generate_latest(registry)
    return generate_latest(REGISTRY)


def _forget_dead_workers(directory: Path) -> None:
    """Drop the gauges of workers that have ended; their counters stay in the sums."""
    for file in directory.glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]  # untyped
