"""The compiled form of a model: an ONNX graph stored with the model, and the engine that runs it.

`mmp compile` makes it and proves that it gives the same answers as the model. Serving it needs
neither scikit-learn nor pandas, and unpickles nothing.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from serving.contract.columns import Column, Row
from serving.contract.details import Detail, details_of
from serving.engines.base import Engine, Predictions
from serving.errors import ServingError
from serving.store.mlmodel import StoredModel

if TYPE_CHECKING:
    import pyarrow as pa

DIRECTORY = "compiled"
GRAPH = "model.onnx"
DESCRIPTION = "compiled.json"

MISSING_TEXT = "\uffff"
"""Marks a missing value in a tensor of strings, which has no null. A text that begins with it is
escaped by repeating it. A zero byte would not work: ONNX Runtime truncates constants there."""

Feed = dict[str, np.ndarray]
"""The graph's inputs by name."""

_EPOCH = datetime(1970, 1, 1)

_SLICE_ROWS = 8_192
"""Rows of a call: few enough for the intermediate results to stay in the processor's cache."""


class NotCompiledError(ServingError):
    """There is no usable compiled form; the message is one sentence."""


class Compiled(BaseModel):
    """The graph's inputs and outputs, and what it was made from: `compiled.json`.

    The inputs are two matrices instead of one input per column, because feeding hundreds of inputs
    by name costs more than most models: `numbers` (float64, shape (rows, numbers); booleans are 0
    and 1, date-times are seconds since 1970, NaN is missing) and `texts` (string, shape (rows,
    texts)). A matrix without columns is left out. The outputs of a classifier are `label` (int64,
    shape (rows,), position in `classes`) and, if the model gives them, `probabilities` (shape
    (rows, classes)). A model of clusters has the same, and may have `distances` (shape
    (rows, classes)). The output of any other model is `values` (shape (rows,) or (rows, outputs)).
    A graph cannot raise: for a row that the model refuses, the label is -1 and all else is NaN.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    estimator: str
    """The qualified name of the estimator's class."""
    source: str
    """SHA-256 of the model's own file."""
    graph: str
    """SHA-256 of the graph."""
    types: dict[str, str]
    """The model's columns, by name."""
    numbers: list[str]
    texts: list[str]
    classes: list[bool | int | float | str] | None = None
    versions: dict[str, str]
    proof: dict[str, Any]

    @property
    def compared(self) -> str:
        """The rows of the proof in words: "344 rows of data and 2,410 altered rows"."""
        rows, given = self.proof.get("rows", 0), self.proof.get("rows_of_data", 0)
        return f"{given:,} rows of data and {rows - given:,} altered rows"


def read(model: StoredModel) -> Compiled:
    """Read the compiled form that is stored with a model.

    Raises `NotCompiledError` if there is none or it was made from another model, and
    `ModelLoadError` for files outside of the model's directory.
    """
    file = model.file(f"{DIRECTORY}/{DESCRIPTION}")
    try:
        compiled = Compiled.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise NotCompiledError(
            "the model is not compiled; 'mmp compile' (stage compile) converts it or says why not"
        ) from None
    except (OSError, ValidationError) as exc:
        raise NotCompiledError(f"{DIRECTORY}/{DESCRIPTION} cannot be read") from exc
    native = model.sklearn_file
    is_stale = native is not None and native.is_file() and digest(native) != compiled.source
    inputs = model.signature.inputs if model.signature else ()
    if is_stale or {column.name: column.type for column in inputs} != compiled.types:
        raise NotCompiledError(f"{DIRECTORY}/ was made from another model; run 'mmp compile' again")
    graph = model.file(f"{DIRECTORY}/{GRAPH}")
    if not graph.is_file() or digest(graph) != compiled.graph:
        raise NotCompiledError(f"{DIRECTORY}/{GRAPH} is not the file that {DESCRIPTION} describes")
    return compiled


def digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


class OnnxEngine(Engine):
    """A compiled model in ONNX Runtime, with one thread for each call.

    Raises `NotCompiledError` if the compiled form is missing or cannot be used, and
    `ModelLoadError` if it is outside of the model's directory.
    """

    name = "onnx"
    independent_rows = True
    inline = True

    def __init__(self, model: StoredModel) -> None:
        self.compiled = read(model)
        try:
            import onnxruntime
        except ImportError:
            raise NotCompiledError(
                "onnxruntime is not installed here (uv add --group api onnxruntime)"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # only fatal: errors are raised anyway
        file = model.path / DIRECTORY / GRAPH
        try:
            self._session = onnxruntime.InferenceSession(
                file, options, providers=["CPUExecutionProvider"]
            )
        except Exception as exc:  # ONNX Runtime's exceptions have no other base class
            raise NotCompiledError(f"{DIRECTORY}/{GRAPH} cannot be loaded") from exc
        labels = self.compiled.classes or []
        self._labels = np.array(labels, dtype=object)
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.classes: tuple[Any, ...] = tuple(labels) if "probabilities" in self._outputs else ()
        self.details: tuple[Detail, ...] = details_of(self._outputs, labels)

    def reader(self, columns: Sequence[Column]) -> Callable[[Sequence[Row]], Feed]:
        """See `Engine.reader`."""
        positions = {column.name: index for index, column in enumerate(columns)}
        numbers, texts = self.compiled.numbers, self.compiled.texts
        is_text = [positions[name] for name in texts]
        is_number = [positions[name] for name in numbers]
        types = [columns[index].type for index in is_number]
        datetimes = [index for index, type_ in enumerate(types) if type_ == "datetime"]
        singles = [index for index, type_ in enumerate(types) if type_ == "float"]

        def read_rows(rows: Sequence[Row]) -> Feed:
            feed = {}
            if numbers:
                values = [[row[index] for index in is_number] for row in rows]
                for index in datetimes:
                    for row in values:
                        row[index] = None if row[index] is None else _seconds(row[index])
                matrix = np.array(values, dtype=np.float64)  # None becomes NaN
                if singles:
                    matrix[:, singles] = matrix[:, singles].astype(np.float32)
                feed["numbers"] = matrix
            if texts:
                feed["texts"] = np.array(
                    [[_text(row[index]) for index in is_text] for row in rows],
                    dtype=object,
                )
            return feed

        return read_rows

    def column_reader(
        self, columns: Sequence[Column]
    ) -> "Callable[[Mapping[str, pa.Array]], Feed]":
        """See `Engine.column_reader`."""
        from serving.contract import arrow

        numbers, texts = self.compiled.numbers, self.compiled.texts
        datetimes = {column.name for column in columns if column.type == "datetime"}

        def read_columns(arrays: "Mapping[str, pa.Array]") -> Feed:
            feed = {}
            rows = len(next(iter(arrays.values())))
            if numbers:
                feed["numbers"] = matrix = np.empty((rows, len(numbers)))
                for index, name in enumerate(numbers):
                    matrix[:, index] = arrow.numbers(arrays[name])
                    if name in datetimes:
                        matrix[:, index] /= 1e6  # from microseconds
            if texts:
                feed["texts"] = objects = np.empty((rows, len(texts)), dtype=object)
                for index, name in enumerate(texts):
                    objects[:, index] = arrow.texts(arrays[name], MISSING_TEXT, _text)
            return feed

        return read_columns

    def predict(self, table: Feed) -> Predictions:
        """See `Engine.predict`."""
        outputs = self._run(table)
        refused = np.isnan(outputs["values"]) if "values" in outputs else outputs["label"] < 0
        if refused.ndim > 1:  # of several outputs
            refused = refused.any(axis=1)
        known = refused if refused.any() else None
        details = {one.name: outputs[one.name] for one in self.details}
        if "values" in outputs:
            return Predictions(outputs["values"], refused=known, details=details)
        values = self._labels[outputs["label"]]
        positions = outputs["label"] if self.classes else None
        return Predictions(
            values,
            outputs.get("probabilities"),
            self.classes,
            refused=known,
            positions=positions,
            details=details,
        )

    def _run(self, feed: Feed) -> dict[str, np.ndarray]:
        rows = len(next(iter(feed.values())))
        if rows <= _SLICE_ROWS:
            return dict(zip(self._outputs, self._session.run(self._outputs, feed), strict=True))
        parts = []
        for start in range(0, rows, _SLICE_ROWS):
            part = {name: one[start : start + _SLICE_ROWS] for name, one in feed.items()}
            parts.append(self._session.run(self._outputs, part))
        columns = map(np.concatenate, zip(*parts, strict=True))
        return dict(zip(self._outputs, columns, strict=True))

    def describe(self) -> dict[str, Any]:
        """See `Engine.describe`."""
        return {
            "name": self.name,
            "estimator": self.compiled.estimator,
            "versions": self.compiled.versions,
            "proof": {"compared": self.compiled.compared, **self.compiled.proof},
        }


def _text(value: str | None) -> str:
    if value is None:
        return MISSING_TEXT
    return MISSING_TEXT + value if value.startswith(MISSING_TEXT) else value


def _seconds(value: datetime) -> float:
    return (value - _EPOCH).total_seconds()
