"""Forecasters: which are accepted, and how good they are in a backtest.

A forecaster learns a series from its values alone. So it is not evaluated on rows that it has not
seen, but by forecasts from several times in a later part, each from all values before.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from serving.contract.recipe import Forecasting, Recipe, Task
from serving.errors import DataError, RecipeError
from serving.forecasting import SeriesForecaster
from serving.training import progress
from serving.training.baseline import SeasonalNaive
from serving.training.data import Dataset

MOST_FORECASTS = 5
"""From how many times of a part forecasts are made. Each takes a fit for every series."""
ADD_STATSFORECAST = "uv add --group training \"statsforecast==2.0.*; sys_platform != 'win32'\""
"""On Windows with Python 3.11, statsforecast wants a NumPy below 2. Answering does not need it."""
OTHER_LIBRARIES = (
    *("darts", "gluonts", "mlforecast", "neuralforecast", "neuralprophet", "orbit", "pmdarima"),
    *("prophet", "skforecast", "sktime", "statsmodels", "tbats"),
)
"""Packages whose forecasters have interfaces of their own."""


def check_library(class_path: str) -> None:
    """Raise `RecipeError` for a forecaster of a package that is not supported."""
    package = class_path.partition(".")[0]
    if package in OTHER_LIBRARIES:
        raise RecipeError(
            f"model.class_path: forecasters of {package} are not supported; use one of "
            "statsforecast, such as statsforecast.models.AutoARIMA, or a regressor with lags"
        )


def check_forecaster(recipe: Recipe, estimator_class: Any) -> None:
    """Raise `RecipeError` for a forecaster where none is meant, and the other way round."""
    path, is_one = recipe.model.class_path, is_forecaster(estimator_class)
    if is_one and recipe.task_choice is not Task.TIMESERIES:
        raise RecipeError(
            f"model.class_path: '{path}' is not for {recipe.task_choice}; set task_choice to "
            "timeseries"
        )
    is_regressor = path.endswith(".SklearnModel")  # of features, which there are none of
    if recipe.is_forecaster and (not is_one or is_regressor):
        raise RecipeError(
            f"model.class_path: '{path}' does not forecast a series from its values alone; use a "
            "model such as statsforecast.models.AutoARIMA"
        )
    if is_one and not recipe.is_forecaster:
        raise RecipeError(
            f"model.class_path: '{path}' forecasts like a model of statsforecast; only its own "
            "models are supported, such as statsforecast.models.AutoARIMA"
        )


def is_forecaster(estimator_class: Any) -> bool:
    """Whether a class forecasts a series by the interface of statsforecast's models."""
    forecast = getattr(estimator_class, "forecast", None)
    if forecast is None:
        return False
    parameters = inspect.signature(forecast).parameters
    return {"y", "h"} <= set(parameters)


def make_forecaster(recipe: Recipe, model: Any, frequency: str | None) -> Pipeline:
    """The unfitted pipeline of a model of statsforecast, or of one with its interface."""
    interface = recipe.data.data_interface
    forecaster = SeriesForecaster(
        model,
        interface.entity_columns,
        str(interface.timestamp_column),
        recipe.forecasting.horizon,
        str(frequency),
    )
    return Pipeline([("model", forecaster)])


class RepeatedPeriod:
    """The baseline `SeasonalNaive`, by the interface of statsforecast's models.

    Args:
        longest: the longest period that is tried.
    """

    def __init__(self, longest: int) -> None:
        self.longest = longest

    def forecast(self, y: np.ndarray, h: int, level: Any = None) -> dict[str, np.ndarray]:
        """The `h` values that follow `y`."""
        past = min(self.longest, len(y) - h)
        if past < 1:
            return {"mean": np.repeat(y[-1], h)}
        names = [f"value_{position}" for position in range(past)]
        windows = sliding_window_view(y, past + h)
        naive = SeasonalNaive(names, h)
        naive.fit(pd.DataFrame(windows[:, :past], columns=names), windows[:, past:])
        return {"mean": naive.predict(pd.DataFrame([y[-past:]], columns=names)).ravel()}


def backtests(
    pipeline: Pipeline, recipe: Recipe, data: Dataset, rows: Any, part: str
) -> dict[str, pd.DataFrame]:
    """The backtest of the `model` and that of the `baseline`; see `backtest`."""
    season = np.max(getattr(pipeline[-1].model, "season_length", 1))
    naive = RepeatedPeriod(max(int(season), Forecasting().history))
    baseline = make_forecaster(recipe, naive, data.frequency)
    return {
        "model": backtest(pipeline, recipe, data, rows, part),
        "baseline": backtest(baseline, recipe, data, rows, part),
    }


def backtest(
    pipeline: Pipeline, recipe: Recipe, data: Dataset, rows: Any, part: str
) -> pd.DataFrame:
    """Forecast from several times in a part of the data, each from all values before.

    Returns a table as `serving.training.backtest.backtest` does. A series that has fewer values
    before a time than are forecast is left out there.

    Raises `DataError` naming the key if the part is too short.
    """
    assert data.time is not None
    horizon, time = recipe.forecasting.horizon, data.time
    keys = list(data.entities.columns)
    series = data.entities.groupby(keys).ngroup() if keys else pd.Series(0, index=time.index)
    tables = []
    starts = origins(recipe, data, rows, part)
    name = type(pipeline[-1].model).__name__
    for number, origin in enumerate(starts):
        text = f"backtest {number + 1} of {len(starts)}, {name}"
        progress.step(text, number, len(starts))
        steps = pd.date_range(origin, periods=horizon, freq=data.frequency)
        before, following = time < origin, time.between(origin, steps[-1])
        values_before = series[before].value_counts()
        enough = values_before.index[values_before >= horizon]
        following &= series.isin(enough)
        before &= series.isin(series[following])
        if not following.any():
            continue
        fitted = clone(pipeline).fit(data.features[before], data.target_of(before))
        table = data.entities[following].assign(
            origin=origin,
            step=steps.get_indexer(pd.DatetimeIndex(time[following])) + 1,
            time=time[following],
            actual=np.asarray(data.target_of(following)),
            predicted=fitted.predict(data.features[following]),
        )
        tables.append(table)
    if not tables:
        raise DataError(
            f"data.forecasting.horizon: no series has {horizon} values before the {part} part; "
            "a backtest needs them"
        )
    return pd.concat(tables).sort_values([*keys, "origin", "step"], ignore_index=True)


def scores(table: pd.DataFrame, chosen: Mapping[str, Any]) -> dict[str, float]:
    """Each metric of a backtest; values that are not finite are left out."""
    values = {
        name: metric.of(table["actual"], table["predicted"], None)
        for name, metric in chosen.items()
    }
    return {name: value for name, value in values.items() if np.isfinite(value)}


def last_rows(recipe: Recipe, data: Dataset, rows: Any) -> Any:
    """The rows at the end of a part from which trials are scored: at most half of its times."""
    assert data.time is not None
    time = data.time.loc[rows]
    times = np.unique(time)
    count = min(MOST_FORECASTS * recipe.forecasting.horizon, len(times) // 2)
    return time.index[time.isin(times[len(times) - count :])]


def origins(recipe: Recipe, data: Dataset, rows: Any, part: str) -> np.ndarray:
    """The times from which forecasts are made, spread over the part, without an overlap."""
    assert data.time is not None
    times, horizon = np.unique(data.time.loc[rows].to_numpy()), recipe.forecasting.horizon
    count = min(MOST_FORECASTS, len(times) // horizon)
    if not count:
        raise DataError(
            f"data.forecasting.horizon: a backtest needs {horizon} times, and the {part} part has "
            f"{len(times)}; set a shorter horizon, or a larger share in data.split"
        )
    chosen = np.linspace(0, len(times) - horizon, count).round().astype(int)
    return np.asarray(times[chosen])
