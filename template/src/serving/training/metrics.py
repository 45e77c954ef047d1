"""Metrics of a fitted pipeline, by task."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from sklearn import metrics

from serving.contract.recipe import Recipe, Task
from serving.errors import RecipeError
from serving.training.causal import METRICS as EFFECT_METRICS
from serving.training.causal import evaluate_effects
from serving.training.clustering import METRICS as CLUSTER_METRICS
from serving.training.clustering import evaluate_clusters

Metric = Callable[..., float]
"""Called with the target and the predictions; see also `ClusterMetric` and `EffectMetric`."""

_BY_TASK: dict[Task, Mapping[str, Metric]] = {
    Task.CLASSIFICATION: {
        "accuracy": metrics.accuracy_score,
        "precision_weighted": lambda y, p: metrics.precision_score(
            y, p, average="weighted", zero_division=0
        ),
        "recall_weighted": lambda y, p: metrics.recall_score(
            y, p, average="weighted", zero_division=0
        ),
        "f1_weighted": lambda y, p: metrics.f1_score(y, p, average="weighted", zero_division=0),
    },
    Task.REGRESSION: {
        "mae": metrics.mean_absolute_error,
        "rmse": metrics.root_mean_squared_error,
        "r2": metrics.r2_score,
    },
    Task.CLUSTERING: CLUSTER_METRICS,
    Task.CAUSAL: EFFECT_METRICS,
}


def chosen_metrics(recipe: Recipe) -> dict[str, Metric]:
    """The metrics that the recipe names, or else all metrics of its task.

    Raises `RecipeError` for a name that the task does not have.
    """
    known = _BY_TASK[recipe.task_choice]
    names = list(known) if recipe.evaluation.metrics is None else recipe.evaluation.metrics
    for name in names:
        if name not in known:
            raise RecipeError(
                f"evaluation.metrics: '{name}' is unknown for {recipe.task_choice}; "
                f"known are {', '.join(known)}"
            )
    return {name: known[name] for name in names}


def evaluate(
    pipeline: Any,
    features: pd.DataFrame,
    target: "pd.Series[Any] | None",
    parts: dict[str, pd.Index],
    chosen: dict[str, Metric],
    seed: int = 0,
    treatment: "pd.Series[Any] | None" = None,
) -> dict[str, float]:
    """Each metric on each part of the data, as `part_metric`.

    Without a target, the metrics are those of clusters; with a treatment, those of its effect.

    Values that are not finite are left out, for instance R2 of a single row.
    """
    if target is None:
        return evaluate_clusters(pipeline, features, parts, chosen, seed)
    if treatment is not None:
        return evaluate_effects(pipeline, features, target, treatment, parts, chosen)
    values = {}
    for part, rows in parts.items():
        predicted = pipeline.predict(features.loc[rows])
        for name, metric in chosen.items():
            values[f"{part}_{name}"] = float(metric(target.loc[rows], predicted))
    return {name: value for name, value in values.items() if np.isfinite(value)}
