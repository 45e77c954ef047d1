"""Convert scikit-learn's models of clusters: nearest centres and Gaussian mixtures."""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.cluster import AffinityPropagation, Birch, KMeans, MeanShift, MiniBatchKMeans
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

from serving.compilation.answer import Answer
from serving.compilation.features import Feature, numbers, refuse_not_finite
from serving.compilation.graph import Graph
from serving.errors import CompilationError


def predict_cluster(graph: Graph, estimator: Any, features: list[Feature]) -> Answer:
    """Convert a fitted model of `CLUSTERERS`.

    Raises `CompilationError` if it has found no clusters.
    """
    x = numbers(graph, features, estimator)
    refuse_not_finite(graph, x, len(features))
    return _CONVERTERS[type(estimator)](graph, estimator, x)


def _k_means(graph: Graph, estimator: Any, x: str) -> Answer:
    centres = estimator.cluster_centers_
    partly = _without_norm(graph, centres, x)
    norms = graph.add("ReduceSumSquare", x, np.array([1]))
    # Rounding may make the square of a distance of zero negative.
    squares = graph.add("Max", graph.add("Add", partly, norms), np.array(0.0))
    return Answer(
        label=graph.add("ArgMin", partly, axis=1, keepdims=0),
        classes=range(len(centres)),
        details={"distances": graph.add("Sqrt", squares)},
    )


def _nearest(graph: Graph, estimator: Any, x: str) -> Answer:
    centres = estimator.cluster_centers_
    if not len(centres):
        raise CompilationError(f"{type(estimator).__name__} has found no clusters")
    nearest = graph.add("ArgMin", _without_norm(graph, centres, x), axis=1, keepdims=0)
    return Answer(label=nearest, classes=range(len(centres)))


def _birch(graph: Graph, estimator: Any, x: str) -> Answer:
    partly = _without_norm(graph, estimator.subcluster_centers_, x)
    nearest = graph.add("ArgMin", partly, axis=1, keepdims=0)
    classes, positions = np.unique(estimator.subcluster_labels_, return_inverse=True)
    label = graph.add("Gather", positions.astype(np.int64), nearest, axis=0)
    return Answer(label=label, classes=classes.tolist())


def _without_norm(graph: Graph, centres: np.ndarray, x: str) -> str:
    """The squares of the distances, less the norm of the row: computed as in scikit-learn.

    So rows that are almost as far from one centre as from another get the same label.
    """
    centres = np.asarray(centres, dtype=np.float64)
    return graph.add("Gemm", x, centres.T * -2.0, np.square(centres).sum(axis=1))


def _mixture(graph: Graph, estimator: Any, x: str) -> Answer:
    means = np.asarray(estimator.means_, dtype=np.float64)
    count, width = means.shape
    factors = _factors(estimator, count, width)
    shifts = np.einsum("kd,kde->ke", means, factors)
    side_by_side = factors.transpose(1, 0, 2).reshape(width, count * width)
    scaled = graph.add("Gemm", x, side_by_side, -shifts.ravel())
    by_component = graph.add("Reshape", scaled, np.array([-1, count, width]))
    squares = graph.add("ReduceSumSquare", by_component, np.array([2]), keepdims=0)
    # At its mean, only the constant part of a component's logarithmic density is left.
    constants = np.diagonal(estimator._estimate_weighted_log_prob(means)).copy()
    logs = graph.add("Sub", constants, graph.add("Mul", squares, np.array(0.5)))
    return Answer(
        label=graph.add("ArgMax", logs, axis=1, keepdims=0),
        probabilities=graph.add("Softmax", logs, axis=1),
        classes=range(count),
    )


def _factors(estimator: Any, count: int, width: int) -> np.ndarray:
    """The Cholesky factor of each component's precision, of shape (count, width, width)."""
    factors = np.asarray(estimator.precisions_cholesky_, dtype=np.float64)
    match estimator.covariance_type:
        case "full":
            return factors
        case "tied":
            return np.broadcast_to(factors, (count, width, width))
        case "diag":
            return np.asarray(factors[:, :, None] * np.eye(width))
        case _:  # spherical
            return np.asarray(factors[:, None, None] * np.eye(width))


_CONVERTERS: dict[type, Callable[[Graph, Any, str], Answer]] = {
    KMeans: _k_means,
    MiniBatchKMeans: _k_means,
    MeanShift: _nearest,
    AffinityPropagation: _nearest,
    Birch: _birch,
    GaussianMixture: _mixture,
    BayesianGaussianMixture: _mixture,
}
CLUSTERERS = tuple(_CONVERTERS)
