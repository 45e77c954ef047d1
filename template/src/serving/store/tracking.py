"""MLflow as this project uses it. Importing this module is quick; `mlflow` is imported in use."""

import os
from pathlib import Path
from types import ModuleType

from serving.config.settings import Settings

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # A dead server is reported after about 10 s, not after minutes of retries.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    # One that accepts and never answers, too.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    # What MLflow warns of (pickle, pip versions) is decided here, not news to the user.
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    # One more line of a log for every file.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def connect(settings: Settings) -> ModuleType:
    """Import MLflow, point it at the tracking store and return it."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    import mlflow

    mlflow.set_tracking_uri(settings.mlflow.tracking_uri)
    return mlflow


def download(settings: Settings, uri: str, directory: str) -> Path:
    """Copy the artifacts at an MLflow URI into the directory; returns where they are there."""
    connect(settings)
    from mlflow.artifacts import download_artifacts

    return Path(download_artifacts(artifact_uri=uri, dst_path=directory))
