"""Metrics of a fitted pipeline, by task."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn import metrics
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.preprocessing import label_binarize

from serving.contract.recipe import Recipe, Task
from serving.errors import RecipeError
from serving.training.causal import METRICS as EFFECT_METRICS
from serving.training.causal import evaluate_effects
from serving.training.clustering import METRICS as CLUSTER_METRICS
from serving.training.clustering import evaluate_clusters


@dataclass(frozen=True)
class Metric:
    """How good the predictions for some rows are."""

    of: Callable[[Any, Any, Any], float]
    """Called with the target, shape (rows,); the predicted values, shape (rows,), or the
    probabilities, shape (rows, classes); and the classes, in the order of the probabilities."""
    from_probabilities: bool = False
    is_loss: bool = False
    """Whether less is better."""

    def beats(self, value: float, other: float) -> bool:
        """Whether a value is better than another."""
        return value < other if self.is_loss else value > other


def _of_values(score: Any, *, is_loss: bool = False, **options: Any) -> Metric:
    return Metric(lambda y, p, _: float(score(y, p, **options)), is_loss=is_loss)


def _of_probabilities(score: Any) -> Metric:
    return Metric(
        lambda y, p, classes: float(score(y, p, labels=classes)),
        from_probabilities=True,
        is_loss=True,
    )


def _one_vs_rest(score: Any) -> Metric:
    """The metric of the second of two classes; of more classes, the mean weighted by their rows."""

    def of(y: Any, p: Any, classes: Any) -> float:
        is_class = label_binarize(y, classes=classes)
        return float(score(is_class, p[:, -is_class.shape[1] :], average="weighted"))

    return Metric(of, from_probabilities=True)


def _smape(actual: Any, predicted: Any) -> float:
    """The symmetric error: its share of the mean of both values, from 0 to 2; 0 for two zeros."""
    actual, predicted = np.asarray(actual, dtype=np.float64), np.asarray(predicted)
    size = (np.abs(actual) + np.abs(predicted)) / 2
    return float(np.mean(np.abs(actual - predicted) / np.where(size == 0, 1, size)))


def _averaged(score: Any, average: str) -> Metric:
    return _of_values(score, average=average, zero_division=0)


_CLASSIFICATION = {
    "accuracy": _of_values(metrics.accuracy_score),
    "precision_weighted": _averaged(metrics.precision_score, "weighted"),
    "recall_weighted": _averaged(metrics.recall_score, "weighted"),
    "f1_weighted": _averaged(metrics.f1_score, "weighted"),
    "roc_auc": _one_vs_rest(metrics.roc_auc_score),
    "log_loss": _of_probabilities(metrics.log_loss),
    "balanced_accuracy": _of_values(metrics.balanced_accuracy_score),
    "precision_macro": _averaged(metrics.precision_score, "macro"),
    "recall_macro": _averaged(metrics.recall_score, "macro"),
    "f1_macro": _averaged(metrics.f1_score, "macro"),
    "average_precision": _one_vs_rest(metrics.average_precision_score),
    "brier": _of_probabilities(metrics.brier_score_loss),
}
_REGRESSION = {
    "mae": _of_values(metrics.mean_absolute_error, is_loss=True),
    "rmse": _of_values(metrics.root_mean_squared_error, is_loss=True),
    "r2": _of_values(metrics.r2_score),
    "mse": _of_values(metrics.mean_squared_error, is_loss=True),
    "mape": _of_values(metrics.mean_absolute_percentage_error, is_loss=True),
    "medae": _of_values(metrics.median_absolute_error, is_loss=True),
    "explained_variance": _of_values(metrics.explained_variance_score),
}
_TIMESERIES = _REGRESSION | {"smape": _of_values(_smape, is_loss=True)}
_ALIASES = {
    "precision": "precision_weighted",
    "recall": "recall_weighted",
    "f1": "f1_weighted",
    "mean_absolute_error": "mae",
    "root_mean_squared_error": "rmse",
    "r2_score": "r2",
    "mean_squared_error": "mse",
}
"""The names of Modern ML Pipeline."""

_BY_TASK: dict[Task, Mapping[str, Any]] = {
    Task.CLASSIFICATION: _CLASSIFICATION,
    Task.REGRESSION: _REGRESSION,
    Task.TIMESERIES: _TIMESERIES,
    Task.CLUSTERING: CLUSTER_METRICS,
    Task.CAUSAL: EFFECT_METRICS,
}
_USUAL = {
    Task.CLASSIFICATION: list(_CLASSIFICATION)[:6],
    Task.REGRESSION: list(_REGRESSION)[:3],
    Task.TIMESERIES: ["mae", "rmse", "smape"],
    Task.CLUSTERING: list(CLUSTER_METRICS),
    Task.CAUSAL: list(EFFECT_METRICS),
}
_MAIN = {
    Task.CLASSIFICATION: "f1_weighted",
    Task.REGRESSION: "rmse",
    Task.TIMESERIES: "mae",
}
_OPTIMIZED = {
    Task.CLASSIFICATION: "accuracy",
    Task.REGRESSION: "r2",
    Task.TIMESERIES: "rmse",
    Task.CLUSTERING: "silhouette_score",
}
"""As in Modern ML Pipeline."""

OPTIMIZATION_METRIC = "model.hyperparameters.optimization_metric"
"""The recipe's key."""


def chosen_metrics(recipe: Recipe) -> dict[str, Any]:
    """The metrics that the recipe names, or else the usual ones of its task.

    Each is a `Metric`, a `ClusterMetric` or an `EffectMetric`.

    Raises `RecipeError` for a name that the task does not have.
    """
    names = recipe.evaluation.metrics
    if names is None:
        names = _USUAL[recipe.task_choice]
    return {name: find_metric(recipe.task_choice, name, "evaluation.metrics") for name in names}


def find_metric(task: Task, name: str, key: str) -> Any:
    """The metric with this name.

    Raises `RecipeError` naming the recipe's key if the task has none.
    """
    known = _BY_TASK[task]
    found = known.get(_ALIASES.get(name, name))
    if found is None:
        raise RecipeError(f"{key}: '{name}' is unknown for {task}; known are {', '.join(known)}")
    return found


def is_loss(task: Task, name: str) -> bool:
    """Whether less of a metric is better."""
    found = _BY_TASK[task].get(_ALIASES.get(name, name))
    return found.is_loss if isinstance(found, Metric) else name in _LOSSES


_LOSSES = ("davies_bouldin_score", "inertia", "bic", "aic", "ate_std")
"""Those among the metrics of clusters and effects."""


def main_metric(recipe: Recipe, chosen: Mapping[str, Any]) -> str | None:
    """The name of the metric that sums a model up; None if the recipe wants no metrics."""
    wanted = (recipe.model.hyperparameters.optimization_metric, _MAIN.get(recipe.task_choice))
    return next((name for name in (*wanted, *chosen) if name in chosen), None)


def optimized_metric(recipe: Recipe) -> tuple[str, Any]:
    """The name of the metric that tuning optimizes, and the metric, as in `chosen_metrics`.

    Raises `RecipeError` if the task has no such metric.
    """
    name = recipe.model.hyperparameters.optimization_metric or _OPTIMIZED[recipe.task_choice]
    return name, find_metric(recipe.task_choice, name, OPTIMIZATION_METRIC)


def require_probabilities(chosen: Mapping[str, Metric], pipeline: Any, key: str) -> None:
    """Raise `RecipeError` naming the key if a metric needs probabilities that there are not."""
    for name, metric in chosen.items():
        if metric.from_probabilities and not hasattr(pipeline, "predict_proba"):
            raise RecipeError(
                f"{key}: '{name}' needs probabilities, which {type(pipeline[-1]).__name__} does "
                "not give with these hyperparameters"
            )


def evaluate(
    pipeline: Any,
    features: pd.DataFrame,
    target: "pd.Series[Any] | pd.DataFrame | None",
    parts: Mapping[str, pd.Index],
    chosen: Mapping[str, Any],
    seed: int = 0,
    treatment: "pd.Series[Any] | None" = None,
) -> dict[str, float]:
    """Each metric on each part of the data, as `part_metric`.

    Without a target, the metrics are those of clusters; with a treatment, those of its effect.

    Metrics of probabilities are left out if the model gives none. Values that are not finite are
    left out, for instance R2 of a single row.
    """
    if target is None:
        return evaluate_clusters(pipeline, features, parts, chosen, seed)
    if treatment is not None and isinstance(target, pd.Series):
        return evaluate_effects(pipeline, features, target, treatment, parts, chosen)
    values = {}
    for part, rows in parts.items():
        for name, value in score(pipeline, features.loc[rows], target.loc[rows], chosen).items():
            values[f"{part}_{name}"] = value
    return values


def score(
    pipeline: Any,
    features: pd.DataFrame,
    target: "pd.Series[Any] | pd.DataFrame",
    chosen: Mapping[str, Metric],
) -> dict[str, float]:
    """Each metric on these rows; see `evaluate` for those that are left out."""
    classes = getattr(pipeline, "classes_", None)
    answers: dict[bool, Any] = {False: pipeline.predict(features)}
    # A class that the model was not fitted on has no probability.
    is_known = (
        isinstance(classes, np.ndarray) and np.isin(pd.unique(np.ravel(target)), classes).all()
    )
    if is_known and hasattr(pipeline, "predict_proba"):
        answers[True] = pipeline.predict_proba(features)
    values = {}
    with warnings.catch_warnings():
        # A part that lacks a class has no value, which is left out.
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        for name, metric in chosen.items():
            if metric.from_probabilities in answers:
                values[name] = metric.of(target, answers[metric.from_probabilities], classes)
    return {name: value for name, value in values.items() if np.isfinite(value)}
