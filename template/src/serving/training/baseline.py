"""What a model must beat: an answer that does not look at the features."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.dummy import DummyClassifier, DummyRegressor

from serving.contract.recipe import Recipe, Task
from serving.forecasting import filled

DESCRIPTIONS = {
    Task.CLASSIFICATION: "always the most frequent class",
    Task.REGRESSION: "always the mean",
    Task.TIMESERIES: "the naive forecast, which repeats past values",
}


def make_baseline(recipe: Recipe) -> Any:
    """The unfitted baseline of the recipe's task."""
    if recipe.task_choice is Task.CLASSIFICATION:
        # It answers the most frequent class, with the share of each class as its probability.
        return DummyClassifier(strategy="prior")
    if recipe.history_columns:
        return SeasonalNaive(recipe.history_columns, recipe.forecasting.horizon)
    return DummyRegressor(strategy="mean")


class SeasonalNaive(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Repeats the last `period_` values; one value is the naive forecast.

    https://otexts.com/fpp3/simple-methods.html

    Args:
        history: the columns of the values before a row's timestamp, the oldest first.
        horizon: how many values are predicted.
    """

    def __init__(self, history: Sequence[str], horizon: int) -> None:
        self.history = history
        self.horizon = horizon

    def fit(self, X: pd.DataFrame, y: Any) -> Self:
        """Choose the period with the smallest mean absolute error."""
        past, following = self._past(X), np.asarray(y, dtype=np.float64).reshape(len(X), -1)
        errors = [
            np.abs(self._repeated(past, period) - following).mean()
            for period in range(1, len(self.history) + 1)
        ]
        self.period_ = 1 + int(np.argmin(errors))
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """The values, of shape (rows,), or (rows, horizon) for more than one step."""
        found = self._repeated(self._past(X), self.period_)
        return found[:, 0] if self.horizon == 1 else found

    def _past(self, X: pd.DataFrame) -> np.ndarray:
        return filled(np.asarray(X[list(self.history)], dtype=np.float64))

    def _repeated(self, past: np.ndarray, period: int) -> np.ndarray:
        return past[:, -period:][:, np.arange(self.horizon) % period]
