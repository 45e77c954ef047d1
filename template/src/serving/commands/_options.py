"""Options that several commands share, and how they enter the settings."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from serving.config.settings import Settings, load_settings
from serving.errors import ConfigError
from serving.telemetry.logging import configure_logging

ConfigPath = Annotated[
    Path,
    typer.Option("--config-path", "-c", envvar="CONFIG_PATH", help="Config file."),
]
DataPath = Annotated[
    str | None,
    typer.Option(
        "--data-path",
        "-d",
        envvar="DATA_PATH",
        help="Data to read: CSV or Parquet file, directory or pattern of Parquet files, s3://, "
        "gs:// or abfs:// address, or .sql or .sql.j2 file with a query.",
    ),
]
RunId = Annotated[
    str | None,
    typer.Option(
        "--run-id",
        help="MLflow run whose model is used; 'mmp runs' lists the runs, and 'latest' is the "
        "latest finished run of the experiment.  [env var: MODEL_RUN_ID]",
    ),
]
ModelUri = Annotated[
    str | None,
    typer.Option(
        "--model-uri",
        help="MLflow URI or directory of the model, instead of a run; for example "
        "models:/name@champion.  "
        "[env var: MODEL_URI]",
    ),
]
Parameters = Annotated[
    str | None,
    typer.Option(
        "--params",
        "-p",
        envvar="PARAMS",
        help="Values for the query in a template (.sql.j2), as a JSON object: "
        """'{"since": "2026-01-31"}'.""",
    ),
]


def parameters_of(text: str | None) -> dict[str, Any]:
    """The content of the option `--params`; empty without it.

    Raises `ConfigError` if it is not a JSON object.
    """
    if not text:
        return {}
    try:
        content = json.loads(text)
    except ValueError as exc:
        raise ConfigError(f"--params (PARAMS): is not JSON: {exc}") from None
    if not isinstance(content, dict):
        raise ConfigError(
            """--params (PARAMS): must be a JSON object, such as '{"since": "2026-01-31"}'"""
        )
    return content


def settings_with(config_path: Path, **options: object) -> Settings:
    """Put options into the environment, where they override the file, and read the settings.

    Each keyword is the name of an environment variable; None leaves the variable unchanged. Worker
    processes inherit the environment, so they see the same settings.
    """
    os.environ["CONFIG_PATH"] = str(config_path)
    for name, value in options.items():
        if value is not None:
            os.environ[name] = str(value)
    settings = load_settings(config_path)
    configure_logging(settings.logging)
    return settings


def choose_model(run_id: str | None, model_uri: str | None) -> None:
    """Let an option that names a model override both environment variables for models."""
    if run_id and model_uri:
        raise ConfigError("--run-id and --model-uri both name a model; give one")
    if run_id or model_uri:
        os.environ["MODEL_RUN_ID"] = run_id or ""
        os.environ["MODEL_URI"] = model_uri or ""
