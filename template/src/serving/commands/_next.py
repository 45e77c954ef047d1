"""The next command to run, depending on where this one runs."""

import os

STARTED_BY = "MMP_STARTED_BY"
"""Set in images to `container`, and by compose.yaml to `compose`."""


def serve_command(*, run_id: str | None = None, model_uri: str | None = None) -> str:
    """The command that serves a model, given its run or its URI."""
    variable = f"MODEL_RUN_ID={run_id}" if run_id else f"MODEL_URI={model_uri}"
    match os.environ.get(STARTED_BY):
        case "compose":
            return f"{variable} docker compose up -d --build --wait api"
        case "container":
            return f"start a container of the API with {variable} in its environment"
    option = f"--run-id {run_id}" if run_id else f"--model-uri {model_uri}"
    return f"uv run mmp serve-api {option}"
