"""The columns of a table at any step of a pipeline, as tensors of an ONNX graph."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np

from serving.compilation.graph import Graph
from serving.errors import CompilationError

Kind = Literal["number", "text", "datetime", "duration"]
"""In the graph, `text` is strings; the others are doubles, `datetime` and `duration` in seconds."""


@dataclass(frozen=True)
class Imputed:
    """How an imputer made a feature of text.

    To replace a text in a tensor means to copy all its texts. Encoders number the original texts
    and replace numbers, which takes a third of the time.
    """

    original: "Feature"
    missing: str
    """The text that is replaced."""
    fill: str


@dataclass(frozen=True)
class Feature:
    """One column of a tensor, which is extracted only when it is used."""

    tensor: str
    index: int
    width: int
    """How many columns the tensor has."""
    kind: Kind = "number"
    name: str | None = None
    """None if scikit-learn would have an array without names."""
    single: bool = False
    """Whether scikit-learn has it in single precision; in the graph it is always a double."""
    imputed: Imputed | None = None


def features_of(
    tensor: str, width: int, kind: Kind = "number", *, single: bool = False
) -> list[Feature]:
    """Every column of a tensor."""
    return [Feature(tensor, index, width, kind, single=single) for index in range(width)]


def matrix(graph: Graph, features: Sequence[Feature]) -> str:
    """The features side by side, in one tensor of shape (rows, features)."""
    parts = []
    for (tensor, width), run in groupby(features, key=lambda one: (one.tensor, one.width)):
        indices = [feature.index for feature in run]
        if indices == list(range(width)):
            parts.append(tensor)
        else:
            parts.append(graph.add("Gather", tensor, np.array(indices), axis=1))
    return parts[0] if len(parts) == 1 else graph.add("Concat", *parts, axis=1)


def numbers(graph: Graph, features: Sequence[Feature], part: object) -> str:
    """The same for features that must be numbers; `part` of the pipeline needs them.

    Raises `CompilationError` naming a feature that is not a number.
    """
    for feature in features:
        if feature.kind != "number":
            kind = "text" if feature.kind == "text" else "a date-time"
            raise CompilationError(
                f"{type(part).__name__} gets the column '{feature.name}', which is {kind}"
            )
    return matrix(graph, features)


def all_single(features: Sequence[Feature]) -> bool:
    """Whether scikit-learn would have the array of these features in single precision."""
    return all(feature.single for feature in features)


def rounded(graph: Graph, tensor: str, single: bool) -> str:
    """Round the doubles to single precision, if `single`.

    For such numbers, one addition, subtraction, multiplication or division in double precision,
    rounded, equals the same operation in single precision.
    """
    return to_double(graph, to_single(graph, tensor)) if single else tensor


def refuse_not_finite(graph: Graph, tensor: str, width: int, dtype: type = np.float64) -> None:
    """Refuse rows with a number that is missing or infinite, as scikit-learn does."""
    # Zero times such a number is NaN, so one matrix multiplication finds the rows.
    zeros = graph.add("MatMul", tensor, np.zeros((width, 1), dtype))
    graph.refuse_unless_zero(zeros if dtype is np.float64 else to_double(graph, zeros))


def refuse_where(graph: Graph, flags: str) -> None:
    """Refuse the rows in which any of `flags`, of shape (rows, any), is true."""
    faults = graph.add("Where", flags, np.array(np.nan), np.array(0.0))
    graph.refuse_unless_zero(graph.add("ReduceSum", faults, np.array([1]), keepdims=1))


def to_double(graph: Graph, tensor: str) -> str:
    """The tensor in double precision."""
    return graph.add("Cast", tensor, to=11)


def to_single(graph: Graph, tensor: str) -> str:
    """The tensor in single precision."""
    return graph.add("Cast", tensor, to=1)
