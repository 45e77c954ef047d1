"""Convert what scikit-learn's `CalibratedClassifierCV` does to the scores of a classifier."""

from typing import Any

import numpy as np
from onnx import TensorProto

from serving.compilation.graph import Graph
from serving.errors import CompilationError


def calibrate(graph: Graph, part: Any, scores: str) -> str:
    """The calibrated probabilities, of shape (rows, classes).

    Args:
        graph: the nodes are added to it.
        part: one of `calibrated_classifiers_`.
        scores: shape (rows, classes), or (rows, 1) for two classes.

    Raises `CompilationError` naming a method that cannot be converted.
    """
    classes = len(part.classes)
    columns = [
        _calibrated(graph, calibrator, graph.add("Gather", scores, np.array([index]), axis=1))
        for index, calibrator in enumerate(part.calibrators)
    ]
    if classes == 2:
        return graph.add("Concat", graph.add("Sub", np.array(1.0), columns[0]), *columns, axis=1)
    places = np.searchsorted(part.classes, part.estimator.classes_)
    if places.tolist() != list(range(classes)):
        raise CompilationError("CalibratedClassifierCV has other classes than its estimator")
    positive = graph.add("Concat", *columns, axis=1)
    total = graph.add("ReduceSum", positive, np.array([1]), keepdims=1)
    none = graph.add("Equal", total, np.array(0.0))  # scikit-learn: all classes equally likely
    return graph.add("Where", none, np.array(1 / classes), graph.add("Div", positive, total))


def _calibrated(graph: Graph, calibrator: Any, score: str) -> str:
    """Shape (rows, 1)."""
    match type(calibrator).__name__:
        case "_SigmoidCalibration":
            # Not `Sigmoid`: its error is not relative to tiny numbers, which are normalized later.
            scaled = graph.add("Mul", score, np.array(float(calibrator.a_)))
            power = graph.add("Exp", graph.add("Add", scaled, np.array(float(calibrator.b_))))
            return graph.add("Div", np.array(1.0), graph.add("Add", power, np.array(1.0)))
        case "IsotonicRegression":
            return _interpolated(graph, calibrator.X_thresholds_, calibrator.y_thresholds_, score)
        case name:
            raise CompilationError(f"CalibratedClassifierCV calibrates with {name}")


def _interpolated(graph: Graph, x: np.ndarray, y: np.ndarray, values: str) -> str:
    """Interpolate linearly between the points, as `numpy.interp` does; shape (rows, 1)."""
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    values = graph.add("Clip", values, np.array(x[0]), np.array(x[-1]))
    reached = graph.add("GreaterOrEqual", values, x)
    count = graph.add("Cast", reached, to=TensorProto.INT32)
    count = graph.add("ReduceSum", count, np.array([1]), keepdims=1)
    # A missing value reaches no point; its row is refused anyway.
    before = graph.add("Sub", count, np.array([1], dtype=np.int32))
    place = graph.add("Max", before, np.array([0], dtype=np.int32))
    slopes = np.append(np.diff(y) / np.diff(x), 0.0)
    start, level, slope = (graph.add("Gather", array, place) for array in (x, y, slopes))
    return graph.add("Add", graph.add("Mul", slope, graph.add("Sub", values, start)), level)
