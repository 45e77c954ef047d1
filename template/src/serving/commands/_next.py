"""The next command to run, depending on where this one runs."""

import os
from pathlib import Path
from shlex import quote

from serving.config.settings import DEFAULT_CONFIG

STARTED_BY = "MMP_STARTED_BY"
"""Set in images to `container`, and by compose.yaml to `compose`."""


def serve_command(
    *, config_path: Path, run_id: str | None = None, model_uri: str | None = None
) -> str:
    """The command that serves a model, given its run or its URI; it can be pasted into a shell."""
    name = quote(str(run_id or model_uri))
    variable = f"MODEL_RUN_ID={name}" if run_id else f"MODEL_URI={name}"
    match os.environ.get(STARTED_BY):
        case "compose":
            return f"{variable} docker compose up -d --build --wait api"
        case "container":
            return f"start a container of the API with {variable} in its environment"
    option = f"--run-id {name}" if run_id else f"--model-uri {name}"
    if config_path != DEFAULT_CONFIG:
        option += f" --config-path {quote(str(config_path))}"
    return f"uv run mmp serve-api {option}"


def ui_command(tracking_uri: str) -> str | None:
    """The command that opens MLflow's UI on a local store.

    None for a server, which has the UI itself, and in containers, which lack uv.
    """
    from serving.store.sqlite import file_of

    if os.environ.get(STARTED_BY) or not file_of(tracking_uri):
        return None
    # In a separate environment with the locked version, because this one lacks MLflow's server.
    ui = "uv run --isolated --only-group mlflow mlflow ui --backend-store-uri"
    return f"{ui} {quote(tracking_uri)}"
