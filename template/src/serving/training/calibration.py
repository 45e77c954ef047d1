"""Calibrate the probabilities of a fitted classifier."""

import logging
from typing import Any

import pandas as pd
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline

from serving.contract.recipe import Recipe
from serving.errors import DataError, RecipeError, TrainingError
from serving.redaction import first_line

logger = logging.getLogger(__name__)

_FEWEST = 2
"""Rows of each class that scikit-learn wants in order to calibrate a fitted classifier."""


def check_calibration(recipe: Recipe, pipeline: Any, target: "pd.Series[Any]", rows: Any) -> None:
    """Before the fit, find out whether the model can be calibrated.

    Args:
        recipe: its calibration is enabled.
        pipeline: the unfitted pipeline.
        target: shape (rows of all parts,).
        rows: the labels of the rows of the calibration part.

    Raises `RecipeError` if the estimator has no scores, and `DataError` naming a class that is too
    rare in the calibration part.
    """
    if not (hasattr(pipeline, "predict_proba") or hasattr(pipeline, "decision_function")):
        raise RecipeError(
            f"model.calibration.enabled: {recipe.model.class_path} has neither predict_proba nor "
            "decision_function, so there is nothing to calibrate"
        )
    counts = target.loc[rows].value_counts().reindex(target.unique(), fill_value=0)
    if counts.min() < _FEWEST:
        raise DataError(
            f"data.split.calibration: the class '{counts.idxmin()}' has {counts.min()} rows in the "
            f"calibration part; calibration needs {_FEWEST} or more of each class"
        )


def calibrate(pipeline: Pipeline, recipe: Recipe, features: pd.DataFrame, target: Any) -> Pipeline:
    """The pipeline with a calibrated estimator at its end; its steps are not fitted again.

    Args:
        pipeline: the fitted pipeline.
        recipe: says how to calibrate.
        features: the rows of the calibration part.
        target: shape (rows,).

    Raises `TrainingError` with one sentence if scikit-learn cannot calibrate the estimator.
    """
    calibrated = CalibratedClassifierCV(
        # The folds do not matter for a frozen estimator; two need the fewest rows.
        FrozenEstimator(pipeline[-1]),
        method=recipe.model.calibration.method,
        cv=_FEWEST,
        ensemble=False,
    )
    try:
        calibrated.fit(pipeline[:-1].transform(features), target)
    except Exception as exc:
        logger.debug("calibration failed", exc_info=True)
        raise TrainingError(
            f"{recipe.model.class_path} was fitted, but could not be calibrated: {first_line(exc)}"
        ) from exc
    return Pipeline([*pipeline.steps[:-1], (pipeline.steps[-1][0], calibrated)])
