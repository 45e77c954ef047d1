"""Parts of models that forecast time series.

A model that was trained with one of them is pickled with the name of this module. So it belongs to
every stage, and it and its classes keep their names.
"""

from collections.abc import Callable, Sequence
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
    ) -> None:
        self.target = target
        self.history = history
        self.timestamp = timestamp
        self.kept = kept
        self.lags = lags
        self.rolling = rolling
        self.calendar = calendar

    def fit(self, X: pd.DataFrame, y: Any = None) -> Self:
        """Nothing is learned."""
        self.feature_names_in_ = np.array(X.columns, dtype=object)
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:
        """The features, of shape (rows, features), with the names of `get_feature_names_out`."""
        past = X[list(self.history)].to_numpy(dtype=np.float64)
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
    ) -> None:
        self.estimator = estimator
        self.horizon = horizon
        self.history = history
        self.timestamp = timestamp
        self.frequency = frequency

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
        for step in range(self.horizon):
            if step and self.timestamp:
                rows[self.timestamp] = later(X[self.timestamp], str(self.frequency), step)
            rows[list(self.history)] = past
            found.append(np.asarray(self.estimator_.predict(rows), dtype=np.float64).ravel())
            past = np.column_stack([past[:, 1:], found[-1]])
        return np.column_stack(found)


def later(times: "pd.Series[Any]", frequency: str, steps: int) -> Any:
    """The times, of shape (rows,), moved by a number of steps of this frequency."""
    return pd.DatetimeIndex(times) + steps * to_offset(frequency)
