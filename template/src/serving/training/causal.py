"""What is special about the effect of a treatment: estimators, and metrics without the truth.

The effect on a single row cannot be observed: it is treated or it is not. So all metrics compare
groups of rows. They assume that the treatment was given at random.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import is_classifier, is_regressor

from serving.causal import EconML
from serving.errors import DataError, RecipeError

EffectMetric = Callable[[np.ndarray, np.ndarray, np.ndarray], float]
"""Called with the outcome, the treatment (0 or 1) and the predicted effect, each of shape (rows,).
It gives NaN where it has no value."""


def difference_of_means(outcome: np.ndarray, treatment: np.ndarray, effect: np.ndarray) -> float:
    """The average effect that was observed."""
    treated = treatment == 1
    if treated.all() or not treated.any():
        return np.nan
    return float(outcome[treated].mean() - outcome[~treated].mean())


def _standard_error(outcome: np.ndarray, treatment: np.ndarray, effect: np.ndarray) -> float:
    """The standard error of `difference_of_means`."""
    groups = [outcome[treatment == one] for one in (0, 1)]
    if min(map(len, groups)) < 2:
        return np.nan
    return float(np.sqrt(sum(group.var(ddof=1) / len(group) for group in groups)))


def qini_coefficient(outcome: np.ndarray, treatment: np.ndarray, effect: np.ndarray) -> float:
    """How much more outcome the treatment adds if it goes to the rows with the largest effect.

    It is the area between the Qini curve and that of a random order, both divided by the rows.
    """
    shares, curve = qini_curve(outcome, treatment, effect)
    return float(np.trapezoid(curve - shares * curve[-1], shares))


def qini_curve(
    outcome: np.ndarray, treatment: np.ndarray, effect: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The outcome added among the rows with the largest effect, divided by all rows.

    It is that of the treated ones, less that of the others, scaled to as many (Radcliffe 2007).

    Returns the shares of the rows, from 0 to 1, and the outcome added by each share.
    """
    shares, treated, others, sums, other_sums = _cumulated(outcome, treatment, effect)
    scale = np.divide(treated, others, out=np.zeros_like(others), where=others > 0)
    return shares, (sums - other_sums * scale) / len(outcome)


def auuc(outcome: np.ndarray, treatment: np.ndarray, effect: np.ndarray) -> float:
    """The area under the uplift curve, divided by the rows.

    The curve is the difference of the mean outcomes among the first k rows, times their share. Half
    of the average effect is the area of a random order.
    """
    shares, treated, others, sums, other_sums = _cumulated(outcome, treatment, effect)
    is_known = (treated > 0) & (others > 0)
    means = np.divide(sums, treated, out=np.zeros_like(sums), where=is_known)
    means -= np.divide(other_sums, others, out=np.zeros_like(sums), where=is_known)
    return float(np.trapezoid(means * shares, shares))


def _cumulated(
    outcome: np.ndarray, treatment: np.ndarray, effect: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Totals of the rows with the largest effect, from none to all; equal effects come together.

    Returns the share of the rows, the number of treated ones and of others, and their outcomes.
    """
    order = np.argsort(-effect, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(effect[order]) != 0, True)) + 1
    treated = treatment[order] == 1
    outcome = outcome[order]

    def totals(values: np.ndarray) -> np.ndarray:
        return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)[ends - 1]])

    return (
        np.concatenate([[0.0], ends / len(order)]),
        totals(treated),
        totals(~treated),
        totals(np.where(treated, outcome, 0)),
        totals(np.where(treated, 0, outcome)),
    )


def _uplift_at(share: float) -> EffectMetric:
    def uplift(outcome: np.ndarray, treatment: np.ndarray, effect: np.ndarray) -> float:
        first = np.argsort(-effect, kind="stable")[: int(np.ceil(share * len(effect)))]
        return difference_of_means(outcome[first], treatment[first], effect[first])

    return uplift


def policy_value(outcome: np.ndarray, treatment: np.ndarray, effect: np.ndarray) -> float:
    """The mean outcome if exactly the rows with a positive effect were treated.

    The rows that were treated as this policy would have it are weighted with the inverse of the
    share of their treatment.
    """
    share = (treatment == 1).mean()
    probability = np.where(treatment == 1, share, 1 - share)
    weights = ((effect > 0) == (treatment == 1)) / probability
    return float(np.average(outcome, weights=weights)) if weights.any() else np.nan


METRICS: dict[str, EffectMetric] = {
    "ate": difference_of_means,
    "ate_std": _standard_error,
    "average_effect": lambda outcome, treatment, effect: float(effect.mean()),
    "qini_coefficient": qini_coefficient,
    "auuc": auuc,
    "uplift_at_10": _uplift_at(0.1),
    "uplift_at_30": _uplift_at(0.3),
    "policy_value": policy_value,
}


def evaluate_effects(
    pipeline: Any,
    features: pd.DataFrame,
    outcome: "pd.Series[Any]",
    treatment: "pd.Series[Any]",
    parts: Mapping[str, pd.Index],
    chosen: Mapping[str, EffectMetric],
) -> dict[str, float]:
    """Each metric on each part of the data, as `part_metric`, where it has a value."""
    values: dict[str, float] = {}
    for part, rows in parts.items():
        given = (outcome.loc[rows].to_numpy(dtype=np.float64), treatment.loc[rows].to_numpy())
        effect = np.asarray(pipeline.predict(features.loc[rows]))
        for name, metric in chosen.items():
            value = float(metric(*given, effect))
            if np.isfinite(value):
                values[f"{part}_{name}"] = value
    return values


def read_treatment(values: "pd.Series[Any]", path: Any) -> "pd.Series[Any]":
    """The treatment as 0 and 1.

    Raises `DataError` naming the file and the column if it has other or missing values, or only one
    of both.
    """
    name = values.name
    if missing := int(values.isna().sum()):
        raise DataError(
            f"{path}: the treatment column '{name}' has no value in {missing} rows; "
            "every row must say whether it was treated"
        )
    if not set(values.unique().tolist()) <= {0, 1}:
        raise DataError(
            f"{path}: the treatment column '{name}' must hold 0 and 1, or False and True"
        )
    if values.nunique() < 2:
        raise DataError(
            f"{path}: the treatment column '{name}' has the same value in every row; "
            "an effect needs rows with treatment and rows without"
        )
    return values.astype("int64")


def is_of_econml(estimator_class: Any) -> bool:
    """Whether a class estimates effects by the interface of econml."""
    return hasattr(estimator_class, "fit") and hasattr(estimator_class, "effect")


def econml_defaults(estimator_class: Any) -> dict[str, Any]:
    """Hyperparameters unless the recipe has them: the treatment is yes or no, not an amount."""
    parameters = inspect.signature(estimator_class).parameters
    return {"discrete_treatment": True} if "discrete_treatment" in parameters else {}


def check_learner(class_path: str, estimator: Any) -> None:
    """Raise `RecipeError` for an estimator that does not learn from a treatment.

    The same for one that is made of something that predicts no outcome.
    """
    if isinstance(estimator, EconML):
        return
    if not hasattr(estimator, "predict_with_details"):
        raise RecipeError(
            f"model.class_path: '{class_path}' does not estimate the effect of a treatment; use "
            "serving.causal.TLearner, with a regressor or classifier as its estimator, or a class "
            "of econml"
        )
    outcome = estimator.estimator
    if hasattr(outcome, "__sklearn_tags__") and (
        is_regressor(outcome) or (is_classifier(outcome) and hasattr(outcome, "predict_proba"))
    ):
        return
    name = outcome if isinstance(outcome, str) else type(outcome).__name__
    raise RecipeError(
        f"model.hyperparameters.values.estimator: '{name}' does not predict an outcome; give the "
        "full path of a regressor, or of a classifier with probabilities: "
        "sklearn.ensemble.RandomForestRegressor"
    )
