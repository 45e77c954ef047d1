"""Predictions as columns."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serving.contract.arrow import arrow_type
from serving.contract.columns import Column
from serving.contract.schema import label_name
from serving.data.files import as_text
from serving.engines.base import REFUSALS, Predictions
from serving.errors import ServingError
from serving.model.served import ServedModel, plain
from serving.redaction import first_line


class AnswerColumns:
    """The columns that predictions become.

    `prediction` has the type of the model's output. Several outputs are `prediction_NAME`, or
    `prediction_0` and so on. If the model gives probabilities, `confidence` and, for a classifier,
    `probability_CLASS` follow; then what else the model answers, such as `distance_CLUSTER`.
    """

    fields: list[pa.Field]
    """Name and type of each column."""
    details: dict[str, tuple[str, str | None]]
    """Column -> field of the API's answer, and key if the field is an object."""

    def __init__(self, model: ServedModel) -> None:
        schemas = model.schemas
        outputs = list(schemas.signature.outputs) if schemas.signature else []
        classes = model.engine.classes
        if not outputs:  # the signature does not say what the model answers
            sample = _predicted_example(model)
            outputs = _outputs_of(sample)
            classes = sample.classes if sample else classes
        names = [output.name for output in outputs]
        if len(outputs) > 1:
            suffixes = names if all(names) else range(len(outputs))
            self._outputs = [pa.field(f"prediction_{suffix}", pa.null()) for suffix in suffixes]
        else:
            self._outputs = [pa.field("prediction", pa.null())]
        self._outputs = [
            field.with_type(_answer_type(output))
            for field, output in zip(self._outputs, outputs, strict=True)
        ]
        self._is_any = [output.type == "any" for output in outputs]
        self._classes = classes
        self._has_probabilities = bool(classes) and schemas.classifies
        self.fields = list(self._outputs)
        if classes:
            self.fields.append(pa.field("confidence", pa.float64()))
        if self._has_probabilities:
            self.fields += [
                pa.field(f"probability_{label_name(label)}", pa.float64()) for label in classes
            ]
        self._details = [detail.name for detail in schemas.details]
        self.details = {
            column: (detail.name, key)
            for detail in schemas.details
            for column, key in detail.columns.items()
        }
        self.fields += [pa.field(column, pa.float64()) for column in self.details]

    def arrays(self, predictions: Predictions) -> list[pa.Array]:
        """The columns of predictions of which none is refused, in the order of `fields`.

        Text may be dictionary-encoded.

        Raises `ServingError` if a value does not fit the type of its column.
        """
        values = predictions.values
        columns = [values] if values.ndim == 1 else list(values.T)
        if len(columns) != len(self._outputs):
            raise ServingError(
                f"the model gives {len(columns)} outputs, its signature has {len(self._outputs)}"
            )
        positions = predictions.positions
        if positions is not None and len(columns) == 1:
            [labels] = self.outputs([np.array(predictions.classes, dtype=object)])
            indices = pa.array(positions.astype(np.int32, copy=False))
            is_text = pa.types.is_string(labels.type)
            arrays = [
                pa.DictionaryArray.from_arrays(indices, labels) if is_text else labels.take(indices)
            ]
        else:
            arrays = self.outputs(columns)
        if self._classes:
            arrays += self._probabilities(predictions, arrays[0])
        for name in self._details:
            numbers = predictions.details[name].astype(np.float64, copy=False)
            arrays += [pa.array(one) for one in np.ascontiguousarray(np.atleast_2d(numbers.T))]
        return arrays

    def _probabilities(self, predictions: Predictions, values: pa.Array) -> list[pa.Array]:
        """The confidence, then the probability of each class; `values` are the labels."""
        positions = predictions.positions
        table = predictions.probabilities
        if table is None or predictions.classes != self._classes:
            raise ServingError("the model gives other classes than before")
        if positions is None:
            [labels] = self.outputs([np.array(self._classes, dtype=object)])
            found = pc.index_in(values, value_set=labels)
            if found.null_count:
                raise ServingError("the model gives a class without a probability")
            positions = np.asarray(found)
        table = table.astype(np.float64, copy=False)
        arrays = [pa.array(table[np.arange(len(table)), positions])]
        if self._has_probabilities:
            arrays += [pa.array(np.ascontiguousarray(column)) for column in table.T]
        return arrays

    def outputs(self, columns: Sequence[np.ndarray]) -> list[pa.Array]:
        """The columns of the model's outputs alone; raises as `arrays` does."""
        return [
            pa.array([as_text(plain(one)) for one in column.tolist()], pa.string())
            if is_any
            else _array(column, field)
            for column, field, is_any in zip(columns, self._outputs, self._is_any, strict=True)
        ]


def joined(parts: Sequence[Sequence[pa.Array]], fields: Sequence[pa.Field]) -> list[pa.Array]:
    """Join the columns of consecutive parts of the rows."""
    if not parts:
        return [pa.nulls(0, field.type) for field in fields]
    if len(parts) == 1:
        return list(parts[0])
    return [pa.concat_arrays(list(column)) for column in zip(*parts, strict=True)]


def _predicted_example(model: ServedModel) -> Predictions | None:
    try:
        return model.predict_example()
    except REFUSALS:
        return None


def _outputs_of(sample: Predictions | None) -> list[Column]:
    if sample is None:
        return [Column("", "any")]
    values = sample.values
    columns = [values] if values.ndim == 1 else list(values.T)
    names = sample.names or ("",) * len(columns)
    return [
        Column(name, _type_of(column.tolist())) for name, column in zip(names, columns, strict=True)
    ]


def _type_of(values: list[Any]) -> str:
    [value] = values
    for type_, name in ((bool, "boolean"), (int, "long"), (float, "double"), (str, "string")):
        if isinstance(value, type_):
            return name
    return "any"


def _answer_type(output: Column) -> pa.DataType:
    # Answers are not checked against the range of their type.
    if output.type in ("integer", "float"):
        return pa.int64() if output.type == "integer" else pa.float64()
    return arrow_type(output) or pa.string()


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_null(type_))


def _array(values: np.ndarray, field: pa.Field) -> pa.Array:
    """Values as a column; NaN and infinity are null, as in the API."""
    if values.dtype.kind == "M":
        values = values.astype("datetime64[us]")
    try:
        found = pa.array(values, from_pandas=True)
        if pa.types.is_floating(found.type):
            found = pc.if_else(pc.is_finite(found), found, None)
        if pa.types.is_string(field.type) and not _is_text(found.type):
            raise pa.ArrowInvalid(f"{found.type}, not text")
        # Digits of a second beyond the sixth are dropped, as in the API.
        return found.cast(field.type, safe=not pa.types.is_timestamp(field.type))
    except (pa.ArrowException, OverflowError) as exc:
        raise ServingError(
            f"the model's answer does not match its signature ({field.name}): {first_line(exc)}"
        ) from None
