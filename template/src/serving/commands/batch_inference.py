"""`mmp batch-inference`."""

from pathlib import Path
from typing import Annotated

import typer

from serving.commands._options import (
    ConfigPath,
    DataPath,
    ModelUri,
    RunId,
    choose_model,
    settings_with,
)
from serving.config.settings import DEFAULT_CONFIG
from serving.errors import ConfigError


def run(
    run_id: RunId = None,
    model_uri: ModelUri = None,
    config_path: ConfigPath = DEFAULT_CONFIG,
    data_path: DataPath = None,
    output_path: Annotated[
        Path | None,
        typer.Option(
            "--output-path", "-o", envvar="OUTPUT_PATH", help="CSV or Parquet file to write."
        ),
    ] = None,
) -> None:
    """Predict every row of a file.

    Writes the rows in the same order, with their predictions added.
    """
    if data_path is None:
        raise ConfigError("no data file is given; use --data-path FILE (DATA_PATH)")
    if output_path is None:
        raise ConfigError("no output file is given; use --output-path FILE (OUTPUT_PATH)")
    choose_model(run_id, model_uri)
    settings = settings_with(config_path)

    from serving.data.tables import check_format
    from serving.inference.batch import predict_file
    from serving.model.hooks import PredictionHooks
    from serving.model.loading import load_model

    check_format(data_path)
    check_format(output_path)
    model = load_model(settings, "native", PredictionHooks.load(settings))
    rows = predict_file(model, data_path, output_path)
    print(f"{rows} rows predicted: {output_path}")
