"""Convert with skl2onnx what this package does not convert itself."""

import contextlib
import io
import logging
import warnings
from typing import Any

import numpy as np
import onnx
import onnxruntime
from sklearn.base import is_classifier

from serving.compilation.features import (
    Feature,
    features_of,
    numbers,
    refuse_not_finite,
    refuse_where,
    to_double,
    to_single,
)
from serving.compilation.graph import OPSET, Graph
from serving.errors import CompilationError
from serving.redaction import first_line

_TARGET = {"": OPSET, "ai.onnx.ml": 3}
_LONGEST_REASON = 160


def transform_with_skl2onnx(
    graph: Graph, transformer: Any, features: list[Feature]
) -> list[Feature]:
    """Convert a transformer of numbers.

    Raises `CompilationError` naming its class if skl2onnx has no converter for it.
    """
    model, is_double = _convert(transformer, len(features))
    [y] = graph.embed(model, _input(graph, transformer, features, is_double))
    width = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    if not width:
        width = len(transformer.get_feature_names_out())
    return features_of(y if is_double else to_double(graph, y), width)


def predict_with_skl2onnx(graph: Graph, estimator: Any, features: list[Feature]) -> list[str]:
    """Convert an estimator of numbers; return its outputs, the last of which are doubles.

    Raises `CompilationError` naming its class if skl2onnx has no converter for it.
    """
    model, is_double = _convert(estimator, len(features))
    x = _input(graph, estimator, features, is_double)
    *first, last = graph.embed(model, x)
    return [*first, last if is_double else to_double(graph, last)]


def _input(graph: Graph, part: Any, features: list[Feature], is_double: bool) -> str:
    x = numbers(graph, features, part)
    x = x if is_double else to_single(graph, x)
    if not _allows_missing(part):
        # If there is only single precision, numbers beyond it are refused, too.
        refuse_not_finite(graph, x, len(features), np.float64 if is_double else np.float32)
    elif not is_double:
        refuse_where(graph, graph.add("IsInf", x))
    return x


def _allows_missing(part: Any) -> bool:
    return bool(part.__sklearn_tags__().input_tags.allow_nan)


def _convert(part: Any, width: int) -> tuple[onnx.ModelProto, bool]:
    """Convert in double precision if skl2onnx and ONNX Runtime support it, else in single."""
    name = type(part).__name__
    try:
        with _silence():
            from skl2onnx import convert_sklearn
            from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType
            from skl2onnx.common.exceptions import MissingConverter, MissingShapeCalculator
    except ImportError as exc:
        raise CompilationError(f"skl2onnx cannot be imported: {first_line(exc)}") from exc
    problem: Exception | None = None
    for type_ in (DoubleTensorType, FloatTensorType):
        is_double = type_ is DoubleTensorType
        options = {"zipmap": False} if is_classifier(part) else None
        try:
            with _silence():
                model = convert_sklearn(
                    part,
                    initial_types=[("X", type_([None, width]))],
                    options={id(part): options} if options else None,
                    target_opset=_TARGET,
                )
                _check(model, np.zeros((2, width), np.float64 if is_double else np.float32))
        except (MissingConverter, MissingShapeCalculator):
            raise CompilationError(f"there is no converter for {_lacking(part)}") from None
        except Exception as exc:
            problem = exc
        else:
            return model, is_double
    reason = " ".join(first_line(problem or Exception()).split())[:_LONGEST_REASON]
    raise CompilationError(f"{name} cannot be converted: {reason}") from problem


def _check(model: onnx.ModelProto, rows: np.ndarray) -> None:
    """Raise what ONNX Runtime raises, and `TypeError` if the output types are not as requested."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    last = session.run(None, {"X": rows})[-1]
    if not isinstance(last, np.ndarray) or last.dtype not in (rows.dtype, np.int64, object):
        raise TypeError(f"it answers {getattr(last, 'dtype', type(last).__name__)}")


def _lacking(part: Any) -> str:
    """Name the class; for a meta-estimator, also the classes of its estimators."""
    inner = {type(one).__name__ for one in _inner(part)}
    name = f"{type(part).__module__.partition('.')[0]}.{type(part).__name__}"
    return f"{name} of {', '.join(sorted(inner))}" if inner else name


def _inner(part: Any) -> list[Any]:
    parts = getattr(part, "estimators_", None)
    if parts is None:
        return [part.estimator] if hasattr(part, "estimator") else []
    return [one for one in np.ravel(np.array(parts, dtype=object)) if hasattr(one, "get_params")]


@contextlib.contextmanager
def _silence() -> Any:
    """Suppress what skl2onnx prints, warns and logs."""
    logging.getLogger("skl2onnx").setLevel(logging.CRITICAL)
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
