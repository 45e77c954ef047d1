"""What is special about clustering: no target, and metrics of the clusters themselves."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from sklearn import metrics

from serving.errors import RecipeError, TrainingError

MOST_ROWS = 5_000
"""The silhouette compares each row with every other one, so it is that of a sample."""

_CLUSTERERS = "sklearn.cluster.KMeans or sklearn.mixture.GaussianMixture"


def _silhouette(space: np.ndarray, labels: np.ndarray, model: Any, seed: int) -> float:
    size = min(MOST_ROWS, len(labels))
    return float(metrics.silhouette_score(space, labels, sample_size=size, random_state=seed))


def _inertia(space: np.ndarray, labels: np.ndarray, model: Any, seed: int) -> float:
    if not hasattr(model, "inertia_"):
        return np.nan
    return float(np.square(space - model.cluster_centers_[labels]).sum())


def _criterion(name: str) -> "ClusterMetric":
    def criterion(space: np.ndarray, labels: np.ndarray, model: Any, seed: int) -> float:
        return float(getattr(model, name)(space)) if hasattr(model, name) else np.nan

    return criterion


ClusterMetric = Callable[[np.ndarray, np.ndarray, Any, int], float]
"""Called with the preprocessed features, of shape (rows, features), the labels, of shape (rows,),
the fitted estimator and a seed. It gives NaN, or raises `ValueError`, where it has no value."""

METRICS: dict[str, ClusterMetric] = {
    "silhouette_score": _silhouette,
    "davies_bouldin_score": lambda space, labels, *_: metrics.davies_bouldin_score(space, labels),
    "calinski_harabasz_score": lambda space, labels, *_: metrics.calinski_harabasz_score(
        space, labels
    ),
    "n_clusters": lambda space, labels, *_: float(len(np.unique(labels))),
    "inertia": _inertia,
    "bic": _criterion("bic"),
    "aic": _criterion("aic"),
}


_MODELS_OWN = ("bic", "aic")
_NEVER_OPTIMIZED = ("n_clusters", "inertia")


def check_optimized(name: str, model: Any, key: str) -> None:
    """Raise `RecipeError` naming the recipe's key if tuning cannot compare models by a metric."""
    if name in _NEVER_OPTIMIZED:
        why = "more clusters always improve it"
    elif name in _MODELS_OWN and not hasattr(model, name):
        why = f"{type(model).__name__} does not compute it"
    else:
        return
    usable = [one for one in METRICS if one not in (*_NEVER_OPTIMIZED, *_MODELS_OWN)]
    raise RecipeError(
        f"{key}: '{name}' cannot be optimized, because {why}; use {', '.join(usable)}"
    )


def check_clusterer(class_path: str, estimator_class: Any) -> None:
    """Raise `RecipeError` if a class can only label the rows that it was fitted on."""
    if hasattr(estimator_class, "fit_predict") and not hasattr(estimator_class, "predict"):
        raise RecipeError(
            f"model.class_path: '{class_path}' cannot label a new row: it has no method predict; "
            f"use {_CLUSTERERS}, for instance"
        )


def evaluate_clusters(
    pipeline: Any,
    features: pd.DataFrame,
    parts: Mapping[str, pd.Index],
    chosen: Mapping[str, ClusterMetric],
    seed: int,
) -> dict[str, float]:
    """Each metric on each part of the data, as `part_metric`.

    Values that do not exist are left out, for instance the silhouette of a single cluster.

    Raises `TrainingError` if the model has found no clusters, or if its labels are no integers.
    """
    steps, model = pipeline[:-1], pipeline[-1]
    values: dict[str, float] = {}
    for part, rows in parts.items():
        space = steps.transform(features.loc[rows])
        labels = np.asarray(model.predict(space))
        _check_labels(labels, model)
        dense = np.asarray(space.toarray() if hasattr(space, "toarray") else space)
        for name, metric in chosen.items():
            try:
                value = metric(dense, labels, model, seed)
            except ValueError:
                continue
            if np.isfinite(value):
                values[f"{part}_{name}"] = float(value)
    return values


def _check_labels(labels: np.ndarray, model: Any) -> None:
    name = type(model).__name__
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise TrainingError(
            f"{name}: predict must answer an integer, the cluster's label, for each row"
        )
    if (labels < 0).all():
        raise TrainingError(
            f"{name} has found no clusters; change model.hyperparameters.values"
            + (", for instance max_iter or damping" if hasattr(model, "damping") else "")
        )
