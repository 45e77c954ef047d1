"""MLflow as this project uses it. Importing this module is quick; `mlflow` is imported in use."""

import os
import re
import socket
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


def redact(text: str) -> str:
    """The text with `***` for the user name and password of every URI in it."""
    return re.sub(r"://[^/\s]*@", "://***@", text)


def first_line(exc: BaseException) -> str:
    """The first line of an error's message, fit to be shown, or its type when it has none.

    A failed connection is told by its cause: the messages around it fill a screen.
    """
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, ConnectionError | TimeoutError | socket.gaierror) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    lines = redact(str(exc)).strip().splitlines()
    return lines[0].removesuffix(".") if lines else type(exc).__name__
