"""Rows that pass through the user's hooks: one record each, as in the API."""

from collections.abc import Sequence
from datetime import datetime
from types import UnionType
from typing import Any, Union, get_args, get_origin

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from serving import extensions
from serving.config.yaml_file import first_problem
from serving.contract.columns import MISSING, Column
from serving.data.files import as_text
from serving.engines.bisection import bisect
from serving.errors import ExtensionError, Refused, RowError, ServingError
from serving.inference.answers import AnswerColumns, joined
from serving.inference.plain import REFUSED
from serving.inference.values import ValueReader
from serving.model.hooks import PredictionHooks, Record
from serving.model.served import ServedModel
from serving.redaction import first_line


class HookedAnswers:
    """Predicts records with the user's hooks; its columns end with the hooks' own fields.

    Args:
        model: the model.
        hooks: the user's code.
        values: converts the columns of a source.
    """

    fields: list[pa.Field]

    def __init__(self, model: ServedModel, hooks: PredictionHooks, values: ValueReader) -> None:
        self._model = model
        self._hooks = hooks
        self._values = values
        self._plain = AnswerColumns(model)
        own = hooks.response_fields.model_fields if hooks.response_fields else {}
        types = [_field_type(field.annotation) for field in own.values()]
        self._is_text_of_own = [type_ is None for type_ in types]
        self._own = [
            pa.field(field.alias or name, pa.type_for_alias(type_ or "string"))
            for (name, field), type_ in zip(own.items(), types, strict=True)
        ]
        self.fields = [*self._plain.fields, *self._own]
        for field in self._own:
            if field.name in [one.name for one in self._plain.fields]:
                raise ExtensionError(
                    f"ResponseFields: batch inference adds a column '{field.name}'; rename yours"
                )

    def predict(
        self, rows: pa.RecordBatch, found: dict[str, pa.Array]
    ) -> tuple[list[pa.Array], dict[int, str]]:
        """Predict rows; see `PlainAnswers.predict`.

        Raises what the hooks raise, except `Refused`.
        """
        columns = {
            name: self._exact(name, rows, values).to_pylist() for name, values in found.items()
        }
        records = [
            dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)
        ]
        refused: dict[int, str] = {}
        given = self._request_fields(rows, refused)
        positions = [index for index in range(len(records)) if index not in refused]
        records = [records[index] | given[index] for index in positions]
        parts: list[list[pa.Array]] = []
        try:
            for part, outcome in (
                bisect(self._answer, records, (Refused, RowError)) if records else ()
            ):
                if isinstance(outcome, BaseException):
                    refused[positions[part.start]] = _rule(outcome)
                else:
                    parts.append(self._arrays(outcome))
        except ServingError:
            raise
        except Exception as exc:
            place = extensions.place(exc)
            who = f"{place}: the hook" if place else "the model or a hook"
            raise ServingError(f"{who} failed: {first_line(exc)}") from exc
        return joined(parts, self.fields), refused

    def _exact(self, name: str, rows: pa.RecordBatch, values: pa.Array) -> pa.Array:
        """The values as in a request, where single-precision numbers are not rounded yet."""
        if pa.types.is_float32(values.type) and name in rows.schema.names:
            column = Column(name, "double", required=False)
            return self._values.convert(rows.column(name), column).values
        return values

    def _answer(self, records: Sequence[Record]) -> list[Record]:
        # A hook may change its rows, and gets them again if it refuses one of them.
        return self._model.answer_records([dict(record) for record in records], self._hooks)

    def _request_fields(self, rows: pa.RecordBatch, refused: dict[int, str]) -> list[Record]:
        """Each row's values of the fields that the user's code adds to a request.

        A row with a wrong value gets none, and is added to `refused`.
        """
        fields = self._hooks.request_fields
        if fields is None:
            return [{}] * rows.num_rows
        public = self._model.schemas.request_fields
        names = [name for name in public.values() if name in rows.schema.names]
        missing = MISSING if self._values.is_text else ()
        found: list[Record] = []
        for index, row in enumerate(rows.select(names).to_pylist()):
            given = {n: v for n, v in row.items() if v is not None and v not in missing and v == v}
            try:
                one = fields.model_validate(given, strict=not self._values.is_text)
                found.append({name: getattr(one, attribute) for attribute, name in public.items()})
            except ValidationError as exc:
                found.append({})
                refused[index] = first_problem(exc, fields)
        return found

    def _arrays(self, answers: list[Record]) -> list[pa.Array]:
        """The columns of answers, which are checked and completed as in the API."""
        schema = self._model.response_schema
        try:
            checked = [schema.model_validate(one).model_dump(by_alias=True) for one in answers]
        except ValidationError as exc:
            raise ServingError(f"an answer of the hooks: {first_problem(exc, schema)}") from None
        outputs: list[np.ndarray] = []
        columns: list[list[Any]] = []
        for field in self._plain.fields:
            prefix, _, rest = field.name.partition("_")
            if field.name in self._plain.details:
                name, key = self._plain.details[field.name]
                given = [answer[name] for answer in checked]
                columns.append(given if key is None else [one[key] for one in given])
            elif field.name == "confidence":
                columns.append([answer["confidence"] for answer in checked])
            elif prefix == "probability":
                columns.append([(one["probabilities"] or {}).get(rest) for one in checked])
            else:
                output = [_output(answer["prediction"], rest) for answer in checked]
                outputs.append(np.fromiter(output, dtype=object, count=len(output)))
        for field, is_text in zip(self._own, self._is_text_of_own, strict=True):
            own = [answer[field.name] for answer in checked]
            columns.append([as_text(value) for value in own] if is_text else own)
        others = self.fields[len(outputs) :]
        return self._plain.outputs(outputs) + [
            pa.array(values, field.type, from_pandas=True)
            for values, field in zip(columns, others, strict=True)
        ]


def _rule(refusal: BaseException) -> str:
    if isinstance(refusal, Refused):
        return first_line(refusal)
    return f"{REFUSED}: {first_line(refusal.__cause__)}" if refusal.__cause__ else REFUSED


def _output(prediction: Any, name: str) -> Any:
    if not name:
        return prediction
    return prediction[name] if isinstance(prediction, dict) else prediction[int(name)]


_TYPES: dict[Any, str] = {
    bool: "bool",
    int: "int64",
    float: "float64",
    str: "string",
    datetime: "timestamp[us]",
}


def _field_type(annotation: Any) -> str | None:
    """The Arrow type of one of the user's fields; None for one whose values become text."""
    if get_origin(annotation) in (Union, UnionType):
        options = [one for one in get_args(annotation) if one is not type(None)]
        annotation = options[0] if len(options) == 1 else None
    return _TYPES.get(annotation)
