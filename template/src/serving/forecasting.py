"""Parts of models that forecast time series.

A model that was trained with one of them is pickled with the name of this module. So it belongs to
every stage, and it and its classes keep their names.
"""

import copy
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Self

import numpy as np
import pandas as pd
from pandas.tseries.frequencies import to_offset
from sklearn.base import BaseEstimator, RegressorMixin, TransformerMixin, clone


def _mean(windows: np.ndarray) -> np.ndarray:
    """Adds in the order of time, as the compiled form does.

    NumPy and ONNX Runtime add in orders of their own. The results would differ in the last bit,
    which is enough for a tree to take another branch.
    """
    total = windows[:, 0]
    for position in range(1, windows.shape[1]):
        total = total + windows[:, position]
    return np.asarray(total / windows.shape[1])


def _deviation(windows: np.ndarray) -> np.ndarray:
    from_mean = windows - _mean(windows)[:, np.newaxis]
    return np.asarray(np.sqrt(_mean(from_mean * from_mean)))


STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": _mean,
    "std": _deviation,
    "min": lambda windows: windows.min(axis=1),
    "max": lambda windows: windows.max(axis=1),
}
"""Statistics of windows, shape (rows, window) -> (rows,), by their names in the recipe."""


class SeriesFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Lags, rolling statistics and parts of the calendar, from a row with its history.

    Args:
        target: the name of the series, with which the names of the features begin.
        history: the columns of the values before the row's timestamp, the oldest first.
        timestamp: the column of the timestamp; needed for `calendar`.
        kept: columns that stay as they are.
        lags: which values are features; 1 is the last one.
        rolling: the length of a window, and a statistic of the last values (see `STATISTICS`).
        calendar: attributes of pandas' `Series.dt`, or `is_weekend`.
        fill: whether a missing value of the history becomes the last one before it.
    """

    independent_rows = True

    def __init__(
        self,
        target: str,
        history: Sequence[str],
        timestamp: str,
        kept: Sequence[str] = (),
        lags: Sequence[int] = (),
        rolling: Sequence[tuple[int, str]] = (),
        calendar: Sequence[str] = (),
        fill: bool = False,
    ) -> None:
        self.target = target
        self.history = history
        self.timestamp = timestamp
        self.kept = kept
        self.lags = lags
        self.rolling = rolling
        self.calendar = calendar
        self.fill = fill

    def fit(self, X: pd.DataFrame, y: Any = None) -> Self:
        """Nothing is learned."""
        self.feature_names_in_ = np.array(X.columns, dtype=object)
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:
        """The features, of shape (rows, features), with the names of `get_feature_names_out`."""
        past = X[list(self.history)].to_numpy(dtype=np.float64)
        if self.fill:
            past = filled(past)
        columns: list[Any] = [X[name] for name in self.kept]
        columns += [past[:, -lag] for lag in self.lags]
        for window, statistic in self.rolling:
            columns.append(STATISTICS[statistic](past[:, -window:]))
        columns += [_part(X[self.timestamp], part) for part in self.calendar]
        names = self.get_feature_names_out()
        return pd.DataFrame(dict(zip(names, columns, strict=True)), index=X.index)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """The kept columns, then `TARGET_lag_7`, `TARGET_rolling_mean_7` and `dayofweek`."""
        names = [*self.kept, *(f"{self.target}_lag_{lag}" for lag in self.lags)]
        names += [f"{self.target}_rolling_{how}_{window}" for window, how in self.rolling]
        return np.array([*names, *self.calendar], dtype=object)


def filled(past: np.ndarray) -> np.ndarray:
    """The values, shape (rows, history), with the last value before each gap in its place."""
    return pd.DataFrame(past).ffill(axis=1).to_numpy()


def _part(times: "pd.Series[Any]", part: str) -> np.ndarray:
    found = times.dt.dayofweek >= 5 if part == "is_weekend" else getattr(times.dt, part)
    return np.asarray(found, dtype=np.float64)


class RecursiveForecaster(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A model of the next value that gets its own predictions as the history of later values.

    Args:
        estimator: unfitted; predicts one value from a row.
        horizon: how many values are predicted.
        history: the columns of the values before the row's timestamp, the oldest first.
        timestamp: the column of the timestamp; None if the model does not need it.
        frequency: the time between two values, an alias of pandas; needed with `timestamp`.
        fill: as for `SeriesFeatures`, before the oldest values are left out for later steps.
    """

    independent_rows = True
    """As long as it is so for the model, which is part of this one."""

    def __init__(
        self,
        estimator: Any,
        horizon: int,
        history: Sequence[str],
        timestamp: str | None = None,
        frequency: str | None = None,
        fill: bool = False,
    ) -> None:
        self.estimator = estimator
        self.horizon = horizon
        self.history = history
        self.timestamp = timestamp
        self.frequency = frequency
        self.fill = fill

    def fit(self, X: pd.DataFrame, y: Any) -> Self:
        """Fit a copy of the model on the first of the values `y`, of shape (rows, horizon)."""
        following = np.asarray(y, dtype=np.float64)
        first = following if following.ndim == 1 else following[:, 0]
        self.estimator_ = clone(self.estimator).fit(X, first)
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """The values, of shape (rows, horizon)."""
        found = []
        rows = X.copy()
        past = X[list(self.history)].to_numpy(dtype=np.float64)
        if self.fill:
            past = filled(past)
        for step in range(self.horizon):
            if step and self.timestamp:
                rows[self.timestamp] = later(X[self.timestamp], str(self.frequency), step)
            rows[list(self.history)] = past
            found.append(np.asarray(self.estimator_.predict(rows), dtype=np.float64).ravel())
            past = np.column_stack([past[:, 1:], found[-1]])
        return np.column_stack(found)


class SeriesForecaster(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """The forecasts of several series, each made once, from all of its values.

    A fitted forecaster is pickled with its forecasts and without the model. So answering needs
    neither the model's library nor a state that could be lost.

    Args:
        model: unfitted; a model of statsforecast, with `forecast(y, h, level)`.
        entities: the columns that tell the series apart; empty for a single series.
        timestamp: the column of the time.
        horizon: how many values are predicted.
        frequency: the time between two values, an alias of pandas.
    """

    independent_rows = True

    def __init__(
        self, model: Any, entities: Sequence[str], timestamp: str, horizon: int, frequency: str
    ) -> None:
        self.model = model
        self.entities = entities
        self.timestamp = timestamp
        self.horizon = horizon
        self.frequency = frequency

    def fit(self, X: pd.DataFrame, y: Any) -> Self:
        """Forecast the values that follow each series.

        Args:
            X: the columns `entities` and `timestamp`; each series has a row for every time.
            y: the values, shape (rows,).

        Raises `ValueError` naming the series that the model cannot forecast.
        """
        keys = self._keys(X)
        self.positions_ = {key: position for position, key in enumerate(dict.fromkeys(keys))}
        rows = pd.DataFrame(
            {
                "series": [self.positions_[key] for key in keys],
                "time": X[self.timestamp].to_numpy("datetime64[us]"),
                "value": np.asarray(y, dtype=np.float64),
            }
        ).sort_values(["series", "time"])
        series = rows.groupby("series")
        ends = series["time"].last()
        steps = {end: self._steps_after(end) for end in ends.unique()}
        self.steps_ = [steps[end] for end in ends]
        """For each series, the position of each time that is forecast."""
        found = [
            self._forecast(key, one["value"].to_numpy())
            for key, (_, one) in zip(self.positions_, series, strict=True)
        ]
        width = min(one.shape[1] for one in found)  # without bounds unless each series has them
        self.forecasts_ = np.stack([one[:, :width] for one in found])
        """Shape (series, horizon, 3): the value and its bounds; (series, horizon, 1) without."""
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """The forecast for the time of each row, of shape (rows,).

        Raises `ValueError` for a series that is not known, and a time that is not forecast.
        """
        return self.predict_with_details(X)[0]

    def predict_with_details(self, X: pd.DataFrame) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The forecast and the bounds of its interval, if there are any, each of shape (rows,)."""
        times = X[self.timestamp].to_numpy("datetime64[us]").tolist()
        places = [self._place(key, time) for key, time in zip(self._keys(X), times, strict=True)]
        series, steps = np.array(places, dtype=np.intp).reshape(-1, 2).T
        value, *bounds = self.forecasts_[series, steps].T
        return value, dict(zip(self.detail_names, bounds, strict=True))

    @property
    def detail_names(self) -> tuple[str, ...]:
        """The keys of the details."""
        has_interval = self.forecasts_.shape[2] > 1
        return ("prediction_lower", "prediction_upper") if has_interval else ()

    def _steps_after(self, end: pd.Timestamp) -> dict[datetime, int]:
        offset = to_offset(self.frequency)
        return {(end + (step + 1) * offset).to_pydatetime(): step for step in range(self.horizon)}

    def _keys(self, X: pd.DataFrame) -> list[tuple[Any, ...]]:
        """What tells the series of each row apart."""
        if not self.entities:
            return [()] * len(X)
        return list(zip(*(X[name].tolist() for name in self.entities), strict=True))

    def _place(self, key: tuple[Any, ...], time: datetime | None) -> tuple[int, int]:
        """The positions of a series and of a time among its steps."""
        if key not in self.positions_:
            raise ValueError(f"the model does not know the series {self._name(key)}")
        series = self.positions_[key]
        steps = self.steps_[series]
        if time not in steps:
            which = f" of {self._name(key)}" if key else ""
            raise ValueError(
                f"{self.timestamp} {time} is not forecast; the forecasts{which} are for "
                f"{min(steps)} to {max(steps)} (frequency {self.frequency})"
            )
        return series, steps[time]

    def _name(self, key: tuple[Any, ...]) -> str:
        return ", ".join(f"{name} {part}" for name, part in zip(self.entities, key, strict=True))

    def _forecast(self, key: tuple[Any, ...], values: np.ndarray) -> np.ndarray:
        """The values and, if the model gives any, their bounds: shape (horizon, 1 or 3)."""
        try:
            names = ["mean", "lo-95", "hi-95"]
            try:
                found = copy.deepcopy(self.model).forecast(y=values, h=self.horizon, level=[95])
            except Exception:  # models without an interval raise several kinds
                found = copy.deepcopy(self.model).forecast(y=values, h=self.horizon)
            columns = [np.asarray(found[name], dtype=np.float64) for name in names if name in found]
        except Exception as exc:
            reason = str(exc) or type(exc).__name__
            raise ValueError(f"{self._told(key, values)} cannot be forecast: {reason}") from exc
        if not np.isfinite(columns[0]).all():
            raise ValueError(f"{self._told(key, values)} cannot be forecast: no number is found")
        are_numbers = len(columns) == len(names) and np.isfinite(columns).all()
        return np.column_stack(columns if are_numbers else columns[:1])

    def _told(self, key: tuple[Any, ...], values: np.ndarray) -> str:
        named = f" {self._name(key)}" if key else ""
        return f"the series{named} ({len(values)} values)"

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "model": None}


def later(times: "pd.Series[Any]", frequency: str, steps: int) -> Any:
    """The times, of shape (rows,), moved by a number of steps of this frequency.

    A step of months or working days leads from any time to the next one of the frequency.
    """
    return pd.DatetimeIndex(times) + steps * step_of(frequency)


def step_of(frequency: str) -> Any:
    """The time between two values, to be added to a time; weeks are a `Timedelta`."""
    offset = to_offset(frequency)
    # From a Wednesday, the offset W-SUN would lead to Sunday.
    return pd.Timedelta(weeks=offset.n) if isinstance(offset, pd.offsets.Week) else offset
