"""Fit and evaluate a pipeline on folds of the train part."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone

from serving.training.metrics import Metric, score
from serving.training.splitting import Fold


def cross_validate(
    pipeline: Any,
    features: pd.DataFrame,
    target: Any,
    folds: Sequence[Fold],
    chosen: Mapping[str, Metric],
    begin: Callable[[int], None] = lambda position: None,
) -> dict[str, np.ndarray]:
    """Each metric on each fold, shape (folds,), of a copy that is fitted on the other folds.

    scikit-learn's function of this name says nothing until the last fold, and changes the messages
    about wrong hyperparameters.

    Args:
        pipeline: it stays unfitted.
        features: the rows of the train part.
        target: shape (rows,).
        folds: positions of these rows.
        chosen: the metrics; one that has no value on a fold is left out.
        begin: called with the position of each fold before it is fitted.

    Raises what the pipeline raises.
    """
    scores = []
    for position, (fit, test) in enumerate(folds):
        begin(position)
        fitted = clone(pipeline).fit(features.iloc[fit], target.iloc[fit])
        scores.append(score(fitted, features.iloc[test], target.iloc[test], chosen))
    complete = [name for name in chosen if all(name in one for one in scores)]
    return {name: np.array([one[name] for one in scores]) for name in complete}
