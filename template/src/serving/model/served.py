"""A loaded model with the schemas of its API: it answers typed samples."""

import base64
import contextlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from serving.contract.columns import Row
from serving.contract.schema import HISTORY, APISchemaGenerator, label_name
from serving.engines.base import REFUSALS, Engine, Predictions
from serving.engines.bisection import bisect
from serving.errors import ContractError, ExtensionError, Refused, RowError
from serving.model.hooks import PredictionHooks, Record
from serving.model.slices import sliced
from serving.redaction import redact
from serving.store.environment import Library

INLINE_SECONDS = 0.001
"""A call this short runs on the event loop: it does not noticeably delay other requests."""

TRUSTED_SECONDS = 1.0
"""For this long after the model has predicted its example, a failure is blamed on the rows.
Predicting the example every time would double the calls in a flood of bad rows."""


@dataclass(kw_only=True)
class ServedModel:
    """A loaded model with the schemas of its API."""

    uri: str
    path: Path
    """The model's directory on this machine."""
    model_id: str
    """MLflow's id of the logged model, or another identifier if it has none."""
    run_id: str | None
    version: str | None
    """`NAME/VERSION` of a model that came from the registry."""
    engine: Engine
    schemas: APISchemaGenerator
    hooks: PredictionHooks | None = None
    """The user's code before and after the model."""
    not_compiled: str | None = None
    """Why the model runs natively although the compiled form was allowed."""
    libraries: tuple[Library, ...] = ()
    files: "tempfile.TemporaryDirectory[str] | None" = None
    """The downloaded files, which the model may read at any time."""
    inline_rows: int = 0
    """Up to this many rows are predicted on the event loop: a thread would cost more."""

    request_schema: type[BaseModel] = field(init=False)
    """One sample."""
    batch_request_schema: type[BaseModel] = field(init=False)
    """Many samples."""
    batch_form: type[BaseModel] = field(init=False)
    """Many samples, whose contents are not checked."""
    invocation_schema: type[BaseModel] = field(init=False)
    """Many rows in MLflow's protocol."""
    invocation_form: type[BaseModel] = field(init=False)
    """Many rows in MLflow's protocol, whose contents are not checked."""
    response_schema: type[BaseModel] = field(init=False)
    """One answer."""
    batch_response_schema: type[BaseModel] = field(init=False)
    """Many answers."""
    invocation_response_schema: type[BaseModel] = field(init=False)
    """The answer in MLflow's protocol."""

    def __post_init__(self) -> None:
        schemas = self.schemas
        self.request_schema = schemas.generate_request_schema()
        self.batch_request_schema = schemas.generate_batch_request_schema(self.request_schema)
        self.batch_form = schemas.generate_batch_request_schema(Any)
        self.invocation_schema = schemas.generate_invocation_schema()
        self.invocation_form = schemas.generate_rows_schema(Any)
        self.response_schema = schemas.generate_response_schema()
        self.batch_response_schema = schemas.generate_batch_response_schema(self.response_schema)
        self.invocation_response_schema = schemas.generate_invocation_response_schema()
        self._names = [column.name for column in schemas.columns]
        self._attributes = [f"column_{index}" for index in range(len(self._names))]
        self._values_of = _getter(self._attributes)
        # The history of a time series is one field of a request, and many columns.
        if schemas.history:
            first = self._names.index(schemas.history[0])
            after = self._attributes[first + len(schemas.history) :]
            self._values_around = [_getter(self._attributes[:first]), _getter(after)]
        # The number of columns in a request before those that the model takes.
        self._context = len(schemas.columns) - len(schemas.inputs)
        self._read = self.engine.reader(schemas.columns[self._context :])
        # Computed once, needed for every answer.
        entities = {column.name for column in schemas.entities}
        self._entities = [(i, name) for i, name in enumerate(self._names) if name in entities]
        self._has_probabilities = schemas.classifies
        self._labels = _Labels(self.engine.classes)
        self._details = {
            detail.name: [key for key in detail.columns.values() if key is not None]
            for detail in schemas.details
        }
        self._example_worked = -math.inf

    def rows(self, samples: Sequence[BaseModel]) -> list[Row]:
        """The samples' values in the order of `schemas.columns`."""
        if self._has_history(samples):
            return [self._row_with_history(sample) for sample in samples]
        values = self._values_of
        return [values(sample) for sample in samples]

    def _has_history(self, samples: Sequence[BaseModel]) -> bool:
        """Whether the samples have the history in one field; rows in MLflow's protocol do not."""
        return bool(self.schemas.history and samples) and hasattr(samples[0], HISTORY)

    def _row_with_history(self, sample: BaseModel) -> Row:
        before, after = self._values_around
        return (*before(sample), *getattr(sample, HISTORY), *after(sample))

    def records(self, samples: Sequence[BaseModel]) -> list[Record]:
        """The samples as hooks see them: columns and additional fields by name."""
        names = dict(zip(self._names, self._attributes, strict=True))
        names |= {public: name for name, public in self.schemas.request_fields.items()}
        if self._has_history(samples):
            names = {name: one for name, one in names.items() if name not in self.schemas.history}
            names[HISTORY] = HISTORY
        return [
            self._with_history({name: getattr(one, attribute) for name, attribute in names.items()})
            for one in samples
        ]

    def _with_history(self, record: Record) -> Record:
        """The record with its history as one list."""
        if self.schemas.history and HISTORY not in record:
            record = record | {HISTORY: [record[name] for name in self.schemas.history]}
            return {n: one for n, one in record.items() if n not in self.schemas.history}
        return record

    def rows_of(self, records: Sequence[Record]) -> list[Row]:
        """The values of `schemas.columns` in the records that a hook returned.

        Raises `ExtensionError` naming a column that the hook removed.
        """
        history = self.schemas.history
        try:
            if history:
                records = [
                    {**record, **dict(zip(history, record[HISTORY], strict=True))}
                    for record in records
                ]
            return [[record[name] for name in self._names] for record in records]
        except (TypeError, ValueError) as exc:
            raise ExtensionError(
                f"before_predict: {HISTORY} must keep its {len(history)} values"
            ) from exc
        except KeyError as exc:
            raise ExtensionError(f"before_predict: a row has no column {exc}") from exc

    def answer(self, samples: Sequence[BaseModel]) -> list[BaseModel]:
        """Predict validated samples, with the user's hooks; must not be called on an event loop.

        Raises `RowError` if the model refuses a sample, `pydantic.ValidationError` if an answer
        does not match the signature, and what hooks raise.
        """
        if self.hooks is None:
            rows = self.rows(samples)
            answers = list(self.answers(rows, self.predict_or_blame(rows)))
        else:
            answers = self.answer_records(self.records(samples), self.hooks)
        return [self.response_schema.model_validate(answer) for answer in answers]

    def answer_records(self, records: list[Record], hooks: PredictionHooks) -> list[Record]:
        """Predict rows that do not come from a request; raises as `answer` does."""
        context = hooks.context()
        records = [self._with_history(record) for record in records]
        records = hooks.run(hooks.before(records, context))
        rows = self.rows_of(records)
        answers = list(self.answers(rows, self.predict_or_blame(rows)))
        return hooks.run(hooks.after(answers, records, context))

    def answers(self, rows: Sequence[Row], predictions: Predictions) -> Iterator[Record]:
        """Turn predictions of rows into answers, with the rows' entities."""
        for answer, row in zip(self.bare_answers(predictions), rows, strict=True):
            if self._entities:
                answer["entities"] = {name: row[index] for index, name in self._entities}
            yield answer

    def write_one(self, answers: Iterable[Record]) -> bytes:
        """The JSON of one answer.

        Raises `pydantic.ValidationError` if it does not match the signature.
        """
        [answer] = answers
        return self.response_schema.model_validate(answer).model_dump_json(by_alias=True).encode()

    def write_batch(self, answers: Iterable[Record]) -> bytes:
        """The JSON of many answers; raises as `write_one`."""
        return _write_many(self.batch_response_schema, answers)

    def write_invocation(self, answers: Iterable[Record]) -> bytes:
        """The JSON of answers in MLflow's protocol, predictions only; raises as `write_one`."""
        values = (answer["prediction"] for answer in answers)
        return _write_many(self.invocation_response_schema, values)

    def predict(self, table: Any) -> Predictions:
        """Predict every row of a table that the engine takes.

        A row counts as refused if its probabilities or details are not finite, which happens with
        extreme values: the label is then only a guess.

        Raises one of `REFUSALS` if the engine does not know which row the model refuses.
        """
        predictions = self.engine.predict(table)
        guessed = predictions.guessed
        if guessed is not None and predictions.refused is not None:
            guessed |= predictions.refused
        return predictions if guessed is None else replace(predictions, refused=guessed)

    def predict_rows(self, rows: Sequence[Row]) -> Predictions:
        """Predict rows of `schemas.columns`; raises as `predict` does."""
        predictions = self.predict(self._read([row[self._context :] for row in rows]))
        if len(predictions.values) != len(rows):
            raise ValueError("the model did not answer every row")
        return predictions

    def predict_or_blame(self, rows: Sequence[Row]) -> Predictions:
        """Predict rows of `schemas.columns`.

        Raises `RowError` for the first row that the model refuses to predict.
        """
        try:
            predictions = self.predict_rows(rows)
        except REFUSALS as exc:
            if self.fails_anyway() or (index := self._first_refused(rows)) is None:
                raise
            raise RowError(index) from exc
        if (refused := predictions.first_refused) is not None:
            raise RowError(refused)
        return predictions

    def bare_answers(self, predictions: Predictions) -> Iterable[Record]:
        """Turn each prediction into an answer, without entities."""
        labels = self._labels
        if predictions.classes is not labels.classes:
            labels = _Labels(predictions.classes)
        table = [] if predictions.probabilities is None else predictions.probabilities.tolist()
        details = [
            (name, keys, predictions.details[name].tolist()) for name, keys in self._details.items()
        ]
        for index, value in enumerate(self._values(predictions)):
            answer: Record = {
                "prediction": value,
                "confidence": None,
                "model_version": self.version,
                "model_id": self.model_id,
            }
            if table:
                answer["confidence"] = table[index][labels.positions[value]]
                if self._has_probabilities:
                    answer["probabilities"] = dict(zip(labels.names, table[index], strict=True))
            for name, keys, numbers in details:
                one = numbers[index]
                answer[name] = dict(zip(keys, one, strict=True)) if keys else one
            yield answer

    def predict_example(self) -> Predictions | None:
        """Predict the example; None if there is none with every required field."""
        return self.predict_rows(self.rows(self._example)) if self._example else None

    def _first_refused(self, rows: Sequence[Row]) -> int | None:
        """The first row that the model refuses on its own; None if it refuses only all together."""
        if len(rows) == 1:
            return 0
        for part, outcome in bisect(self.predict_rows, rows, REFUSALS):
            if not isinstance(outcome, Predictions):
                return int(part.start)
            if (index := outcome.first_refused) is not None:
                return int(part.start) + index
        return None

    def fails_anyway(self) -> bool:
        """Whether even the example fails, so that the rows are not to blame."""
        if not self._example or time.monotonic() - self._example_worked < TRUSTED_SECONDS:
            return False
        if self._refuses(self.rows(self._example)):
            return True
        self._example_worked = time.monotonic()
        return False

    @cached_property
    def _example(self) -> list[BaseModel]:
        """The example as one validated sample; empty if it lacks a required field."""
        fields = self.request_schema.model_fields.items()
        required = {field.alias or name for name, field in fields if field.is_required()}
        if not self.schemas.example or not required <= self.schemas.example.keys():
            return []
        body = json.dumps(self.schemas.example)
        return [self.request_schema.model_validate_json(body)]

    def _refuses(self, rows: Sequence[Row]) -> bool:
        try:
            return self.predict_rows(rows).first_refused is not None
        except REFUSALS:
            return True

    def _values(self, predictions: Predictions) -> Iterable[Any]:
        """Each prediction as a JSON value: a scalar, or an object or list for several outputs."""
        values = predictions.values
        if values.dtype.kind == "M":
            values = values.astype("datetime64[us]")  # nanoseconds would become integers
        outputs = self.schemas.signature.outputs if self.schemas.signature else ()
        names = predictions.names or tuple(output.name for output in outputs)
        for value in values.tolist():
            if values.ndim > 1 and all(names):
                yield {name: plain(one) for name, one in zip(names, value, strict=True)}
            else:
                yield plain(value)

    def warm_up(self) -> None:
        """Predict the example, so that the first caller does not pay for first-time work.

        Predicts nothing if there is no example with every required field.

        Raises `ContractError` if the model fails on it, and `ExtensionError` if hooks do.
        """
        try:
            if self._example:
                self.answer(self._example)
        except Refused:
            pass  # a hook requires more than the example has
        except ExtensionError:
            raise
        except Exception as exc:
            if self.hooks:
                self.hooks.check(exc)
            raise ContractError("the model fails on its own example") from exc
        self.inline_rows = self._measure_inline_rows()

    def _measure_inline_rows(self) -> int:
        if not self.engine.inline:
            return 0
        nothing = self._read([(None,) * len(self.schemas.inputs)])
        seconds = min(_seconds(self.engine.predict, nothing) for _ in range(5))
        return int(INLINE_SECONDS / seconds)

    def close(self) -> None:
        """Remove the downloaded files."""
        if self.files:
            self.files.cleanup()

    def describe(self) -> dict[str, Any]:
        """Describe the served model for `GET /model`."""
        recipe = self.schemas.recipe
        signature = self.schemas.signature
        return {
            "uri": redact(self.uri),
            "model_id": self.model_id,
            "run_id": self.run_id,
            "model_version": self.version,
            "task": self.schemas.task,
            "engine": self.engine.describe() | {"not_compiled": self.not_compiled},
            "recipe": recipe.model_dump(mode="json", exclude_unset=True) if recipe else None,
            "signature": {
                "inputs": [
                    {"name": c.name, "type": c.type, "required": c.required}
                    for c in signature.inputs
                ],
                "outputs": [{"name": c.name or None, "type": c.type} for c in signature.outputs],
            }
            if signature
            else None,
            "libraries": {
                library.name: {"trained_with": library.wanted, "installed": library.installed}
                for library in self.libraries
            },
        }


def _getter(attributes: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """The function that gets the values of these attributes."""
    if len(attributes) > 1:
        return attrgetter(*attributes)
    # attrgetter of one name does not return a tuple, and it does not exist for none.
    return lambda one: tuple(getattr(one, name) for name in attributes)


class _Labels:
    """The labels of a classifier, by the columns of its probabilities."""

    def __init__(self, classes: tuple[Any, ...]) -> None:
        self.classes = classes
        self.names = [label_name(label) for label in classes]
        self.positions = {label: index for index, label in enumerate(classes)}


def _write_many(schema: type[BaseModel], predictions: Iterable[Any]) -> bytes:
    """The JSON of a schema whose only field is a list of predictions."""
    opening, closing = b'{"predictions":[', b"]}"
    parts = []
    for part in sliced(predictions):
        text = schema.model_validate({"predictions": part}).model_dump_json(by_alias=True)
        parts.append(text.encode().removeprefix(opening).removesuffix(closing))
    return opening + b",".join(parts) + closing


def plain(value: Any) -> Any:
    """The value for JSON: bytes as base64, None for NaN, infinity and NaT."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return None if isinstance(value, datetime) and value != value else value


def _seconds(call: Callable[[Any], Any], argument: Any) -> float:
    started = time.perf_counter()
    with contextlib.suppress(ValueError):  # refusing takes as long
        call(argument)
    return time.perf_counter() - started
