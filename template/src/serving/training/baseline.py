"""What a model must beat: an answer that does not look at the features."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.dummy import DummyClassifier, DummyRegressor

from serving.contract.recipe import Recipe, Task

DESCRIPTIONS = {
    Task.CLASSIFICATION: "always the most frequent class",
    Task.REGRESSION: "always the mean",
    Task.TIMESERIES: "the best of repeating the last value, or the values of a whole period",
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
        following = np.asarray(y, dtype=np.float64).reshape(len(X), -1)
        errors = [
            np.abs(self._repeated(X, period) - following).mean()
            for period in range(1, len(self.history) + 1)
        ]
        self.period_ = 1 + int(np.argmin(errors))
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """The values, of shape (rows,), or (rows, horizon) for more than one step."""
        found = self._repeated(X, self.period_)
        return found[:, 0] if self.horizon == 1 else found

    def _repeated(self, X: pd.DataFrame, period: int) -> np.ndarray:
        last = X[list(self.history)[-period:]].to_numpy(dtype=np.float64)
        return last[:, np.arange(self.horizon) % period]
