"""From a fitted scikit-learn model to an ONNX graph."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import Pipeline

from serving.compilation.answer import Answer
from serving.compilation.estimators import predict
from serving.compilation.features import Feature, Kind
from serving.compilation.forecasts import predict_recursively
from serving.compilation.graph import Graph
from serving.compilation.transformers import transform
from serving.contract.columns import Column
from serving.contract.details import details_of
from serving.errors import CompilationError
from serving.forecasting import RecursiveForecaster

_KINDS: dict[str, Kind] = {"string": "text", "datetime": "datetime"}


@dataclass(frozen=True)
class Conversion:
    """A graph with the meaning of its inputs and outputs; see `serving.engines.onnx.Compiled`."""

    model: onnx.ModelProto
    estimator: str
    numbers: list[str]
    texts: list[str]
    classes: list[Any] | None


def convert(model: Any, columns: Sequence[Column]) -> Conversion:
    """Convert a fitted model that takes a DataFrame of these columns.

    Raises `CompilationError` naming the part that cannot be converted, and why.
    """
    for column in columns:
        if column.type in ("any", "binary"):
            raise CompilationError(f"the column '{column.name}' has the type {column.type}")
    texts = [column.name for column in columns if column.type == "string"]
    others = [column.name for column in columns if column.type != "string"]
    graph = Graph()
    features = []
    for column in columns:
        is_text = column.type == "string"
        names = texts if is_text else others
        features.append(
            Feature(
                "texts" if is_text else "numbers",
                names.index(column.name),
                len(names),
                _KINDS.get(column.type, "number"),
                column.name,
                column.type == "float",
            )
        )
    estimator, answer = _convert(graph, model, features)
    inputs: dict[str, tuple[int, int]] = {}
    if others:
        inputs["numbers"] = (TensorProto.DOUBLE, len(others))
    if texts:
        inputs["texts"] = (TensorProto.STRING, len(texts))
    return Conversion(
        model=graph.model(inputs, _outputs(graph, answer)),
        estimator=f"{type(estimator).__module__}.{type(estimator).__qualname__}",
        numbers=others,
        texts=texts,
        classes=None if answer.classes is None else list(answer.classes),
    )


def _convert(graph: Graph, model: Any, features: list[Feature]) -> tuple[Any, Answer]:
    """The estimator at the end of the model, and its answer."""
    if isinstance(model, BaseSearchCV):
        return _convert(graph, model.best_estimator_, features)
    if isinstance(model, Pipeline):
        for _, step in model.steps[:-1]:
            features = transform(graph, step, features)
        return _convert(graph, model.steps[-1][1], features)
    if isinstance(model, RecursiveForecaster):
        return model, predict_recursively(graph, model, features, _convert)
    return model, predict(graph, model, features)


def _outputs(graph: Graph, answer: Answer) -> dict[str, str]:
    outputs = {}
    faults = graph.faults
    tensors = {name: getattr(answer, name) for name in ("label", "probabilities", "values")}
    for name, tensor in (tensors | dict(answer.details)).items():
        if tensor is None:
            continue
        if faults is not None and name == "label":
            refused = graph.add("Reshape", graph.add("IsNaN", faults), np.array([-1]))
            tensor = graph.add("Where", refused, np.array(-1), tensor)
        elif faults is not None:
            tensor = graph.add("Add", tensor, faults)
        is_number = name in answer.details and details_of([name])[0].labels is None
        if is_number or (name == "values" and answer.outputs == 1):
            tensor = graph.add("Reshape", tensor, np.array([-1]))
        outputs[name] = tensor
    return outputs
