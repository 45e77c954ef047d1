"""The backtest of a time series: what would have been predicted at each time of a later part."""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from serving.contract.recipe import Recipe
from serving.forecasting import later
from serving.training.data import Dataset

FILE = "backtest.csv"
"""The file among the run's artifacts."""


def backtest(pipeline: Any, recipe: Recipe, data: Dataset, rows: Any) -> pd.DataFrame:
    """Predict from each of the rows, which are later than those that the model was fitted on.

    Returns one line for each row and step: the entities; `origin`, the row's timestamp; `step`,
    counted from 1; the time that is predicted, if the frequency is known; `actual`; `predicted`.
    """
    assert data.time is not None
    horizon = recipe.forecasting.horizon
    predicted = np.asarray(pipeline.predict(data.features.loc[rows])).reshape(len(rows), horizon)
    actual = np.asarray(data.target_of(rows)).reshape(len(rows), horizon)
    origin, parts = data.time.loc[rows], []
    for step in range(horizon):
        part = data.entities.loc[rows].assign(origin=origin, step=step + 1)
        if data.frequency is not None:
            part["time"] = later(origin, data.frequency, step)
        parts.append(part.assign(actual=actual[:, step], predicted=predicted[:, step]))
    table: pd.DataFrame = pd.concat(parts).sort_values(
        [*data.entities.columns, "origin", "step"], kind="stable", ignore_index=True
    )
    return table


def error_by_step(table: pd.DataFrame) -> "pd.Series[Any]":
    """The mean absolute error of each step."""
    errors = (table["predicted"] - table["actual"]).abs()
    return errors.groupby(table["step"]).mean()


def log_backtest(mlflow: Any, table: pd.DataFrame, part: str) -> None:
    """Log the table as `backtest.csv`, and `PART_mae_by_step` with MLflow's steps."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / FILE
        table.to_csv(path, index=False)
        mlflow.log_artifact(str(path))
    errors = error_by_step(table)
    if len(errors) > 1:
        now = int(time.time() * 1_000)
        metrics = [
            mlflow.entities.Metric(f"{part}_mae_by_step", float(error), now, step)
            for step, error in enumerate(errors, start=1)
        ]
        # One request; a request for each step would take long with a tracking server.
        mlflow.MlflowClient().log_batch(mlflow.active_run().info.run_id, metrics=metrics)
