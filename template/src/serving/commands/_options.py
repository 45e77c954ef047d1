"""Options that several commands share, and how they enter the settings."""

import os
from pathlib import Path
from typing import Annotated

import typer

from serving.config.settings import Settings, load_settings
from serving.errors import ConfigError
from serving.telemetry.logging import configure_logging

ConfigPath = Annotated[
    Path,
    typer.Option("--config-path", "-c", envvar="CONFIG_PATH", help="Config file."),
]
DataPath = Annotated[
    Path | None,
    typer.Option("--data-path", "-d", envvar="DATA_PATH", help="CSV or Parquet file to read."),
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
