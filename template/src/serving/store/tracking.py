"""MLflow as this project uses it. This module imports quickly; `mlflow` is imported on use."""

import logging
import os
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from serving.config.settings import Settings
from serving.errors import ModelNotFound
from serving.redaction import redact
from serving.store import mlmodel
from serving.store.runs import PARENT, FoundModel, Run

logger = logging.getLogger("serving")

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Report a dead server after about 10 s, not after minutes of retries.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    # The same for a server that accepts connections and never answers.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    # MLflow warns about this project's own decisions (pickle, pip versions).
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    # Progress bars add a log line for every file.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}

_NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's error codes for a run id that does not exist or is invalid."""


def connect(settings: Settings) -> ModuleType:
    """Import MLflow, point it at the tracking store and return it."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    import mlflow

    mlflow.set_tracking_uri(settings.mlflow.tracking_uri)
    return mlflow


class TrackingStore:
    """Any store that MLflow supports, read through MLflow."""

    def __init__(self, settings: Settings) -> None:
        self._mlflow = connect(settings)
        self._client = self._mlflow.MlflowClient()
        self._uri = settings.mlflow.tracking_uri

    def run(self, run_id: str) -> Run | None:
        """See `Store.run`."""
        try:
            run = self._client.get_run(run_id)
        except self._mlflow.MlflowException as exc:
            if exc.error_code in _NOT_THERE:
                return None
            raise
        return self._run(run, self._client.get_experiment(run.info.experiment_id).name)

    def runs(self, experiment: str | None = None) -> Iterator[Run]:
        """See `Store.runs`."""
        names = {
            found.experiment_id: found.name
            for found in _pages(self._client.search_experiments)
            if experiment in (None, found.name)
        }
        if not names:
            return
        order = ["attributes.start_time DESC"]
        for run in _pages(self._client.search_runs, list(names), order_by=order, max_results=50):
            yield self._run(run, names[run.info.experiment_id])

    def is_compiled(self, run: Run) -> bool | None:
        """See `Store.is_compiled`."""
        directory = mlmodel.COMPILED.partition("/")[0]
        try:
            files = [
                file.path
                for name in run.models
                for file in self._client.list_artifacts(run.run_id, f"{name}/{directory}")
            ]
        except Exception as exc:  # each kind of storage raises its own
            logger.debug("the artifacts of run %s cannot be listed: %s", run.run_id, exc)
            return None
        return any(file.endswith(mlmodel.COMPILED) for file in files)

    def model(self, uri: str) -> FoundModel:
        """See `Store.model`. Raises what MLflow raises."""
        from mlflow.artifacts import download_artifacts

        files = tempfile.TemporaryDirectory()
        try:
            path = Path(download_artifacts(artifact_uri=uri, dst_path=files.name))
        except self._mlflow.MlflowException as exc:
            if uri.startswith("models:/m-") and exc.error_code in _NOT_THERE:
                model_id = uri.removeprefix("models:/")
                where = redact(self._uri)
                raise ModelNotFound(f"there is no logged model {model_id} in {where}") from exc
            raise
        return FoundModel(uri, path, files=files)

    def _run(self, run: Any, experiment: str) -> Run:
        return Run(
            run_id=run.info.run_id,
            name=run.info.run_name or "",
            experiment=experiment,
            status=run.info.status,
            started=datetime.fromtimestamp((run.info.start_time or 0) / 1000, UTC),
            is_deleted=run.info.lifecycle_stage != "active",
            models=tuple(dict.fromkeys(self._logged(run.info) or self._in_artifacts(run.info))),
            is_nested=PARENT in run.data.tags,
            params=dict(run.data.params),
            metrics=dict(run.data.metrics),
        )

    def _logged(self, run: Any) -> list[str]:
        try:
            found = _pages(
                self._client.search_logged_models,
                [run.experiment_id],
                filter_string=f"source_run_id = '{run.run_id}'",
            )
            return [model.name for model in found if str(model.status) == "READY"]
        except self._mlflow.MlflowException as exc:
            if exc.error_code in ("ENDPOINT_NOT_FOUND", "INVALID_PARAMETER_VALUE"):
                return []  # a server before MLflow 3
            raise

    def _in_artifacts(self, run: Any) -> list[str]:
        """The models among a run's artifacts, where MLflow 2 kept them."""
        directories = [file.path for file in self._client.list_artifacts(run.run_id) if file.is_dir]
        return [
            directory
            for directory in sorted(directories)
            if any(
                file.path.endswith(f"/{mlmodel.FILE}")
                for file in self._client.list_artifacts(run.run_id, directory)
            )
        ]


def _pages(search: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
    """All results of an MLflow search, which returns pages."""
    token = None
    while True:
        page = search(*arguments, page_token=token, **options)
        yield from page
        if not (token := page.token):
            return
