"""A loaded model with the schemas of its API: it answers typed samples."""

import base64
import contextlib
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from operator import attrgetter
from typing import Any

import numpy as np
from pydantic import BaseModel

from serving.contract.columns import Row
from serving.contract.schema import APISchemaGenerator, label_name
from serving.engines.base import REFUSALS, Engine, Predictions
from serving.engines.bisection import bisect
from serving.errors import ContractError, RowError
from serving.store import tracking
from serving.store.environment import Library

INLINE_SECONDS = 0.001
"""A call that is this short runs on the event loop: it delays nobody noticeably."""


@dataclass(frozen=True)
class ServedModel:
    """A loaded model with the schemas of its API."""

    uri: str
    model_id: str | None
    run_id: str | None
    version: str
    engine: Engine
    schemas: APISchemaGenerator
    not_compiled: str | None = None
    """Why the model runs natively although its compiled form was allowed."""
    libraries: tuple[Library, ...] = ()
    files: "tempfile.TemporaryDirectory[str] | None" = None
    """The downloaded files, which the model may read at any time."""

    @cached_property
    def request_schema(self) -> type[BaseModel]:
        """One sample."""
        return self.schemas.generate_request_schema()

    @cached_property
    def batch_request_schema(self) -> type[BaseModel]:
        """Many samples."""
        return self.schemas.generate_batch_request_schema(self.request_schema)

    @cached_property
    def response_schema(self) -> type[BaseModel]:
        """One answer."""
        return self.schemas.generate_response_schema()

    @cached_property
    def batch_response_schema(self) -> type[BaseModel]:
        """Many answers."""
        return self.schemas.generate_batch_response_schema(self.response_schema)

    @cached_property
    def invocation_schema(self) -> type[BaseModel]:
        """Many rows in MLflow's protocol."""
        return self.schemas.generate_invocation_schema()

    @cached_property
    def invocation_response_schema(self) -> type[BaseModel]:
        """The answer in MLflow's protocol."""
        return self.schemas.generate_invocation_response_schema()

    @cached_property
    def rows(self) -> Callable[[Sequence[BaseModel]], list[Row]]:
        """Samples -> their values in the order of `schemas.columns`."""
        values = attrgetter(*(f"column_{index}" for index in range(len(self.schemas.columns))))
        if len(self.schemas.columns) == 1:
            return lambda samples: [(values(sample),) for sample in samples]
        return lambda samples: [values(sample) for sample in samples]

    @cached_property
    def inline_rows(self) -> int:
        """So many rows are predicted too quickly for another thread to be worth its while."""
        if not self.engine.inline:
            return 0
        nothing = self._read([(None,) * len(self.schemas.inputs)])
        seconds = min(_seconds(self.engine.predict, nothing) for _ in range(5))
        return int(INLINE_SECONDS / seconds)

    @cached_property
    def _read(self) -> Callable[[Sequence[Row]], Any]:
        return self.engine.reader(self.schemas.columns[self._context :])

    @cached_property
    def _context(self) -> int:
        """How many columns of a request come before those that the model takes."""
        return len(self.schemas.columns) - len(self.schemas.inputs)

    def answer(self, samples: Sequence[BaseModel]) -> list[BaseModel]:
        """Predict validated samples.

        Raises `RowError` when the model refuses a sample, and `pydantic.ValidationError` when an
        answer is not what the signature says.
        """
        rows = self.rows(samples)
        return self.answers_to(rows, self.predict_or_blame(rows))

    def answers_to(self, rows: Sequence[Row], predictions: Predictions) -> list[BaseModel]:
        """Give predictions of rows the form of answers, with the rows' entities.

        Raises `pydantic.ValidationError` when an answer is not what the signature says.
        """
        answers = list(self.answers(predictions))
        entities = {column.name for column in self.schemas.entities}
        if entities:
            for answer, row in zip(answers, rows, strict=True):
                answer["entities"] = {
                    column.name: value
                    for column, value in zip(self.schemas.columns, row, strict=True)
                    if column.name in entities
                }
        return [self.response_schema.model_validate(answer) for answer in answers]

    def answer_one(self, rows: Sequence[Row], predictions: Predictions) -> str:
        """The JSON of one answer; raises as `answers_to`."""
        [answer] = self.answers_to(rows, predictions)
        return answer.model_dump_json(by_alias=True)

    def answer_batch(self, rows: Sequence[Row], predictions: Predictions) -> str:
        """The JSON of many answers; raises as `answers_to`."""
        answers = self.answers_to(rows, predictions)
        batch = self.batch_response_schema.model_validate({"predictions": answers})
        return batch.model_dump_json(by_alias=True)

    def answer_invocation(self, _: Sequence[Row], predictions: Predictions) -> str:
        """The JSON of the answer in MLflow's protocol, without probabilities; raises so, too."""
        values = list(self._values(predictions))
        answer = self.invocation_response_schema.model_validate({"predictions": values})
        return answer.model_dump_json(by_alias=True)

    def predict(self, table: Any) -> Predictions:
        """Predict every row of a table that the engine takes.

        Raises `ValueError` where the model answers probabilities that are no numbers, as some do
        for extreme values: the label is then no more than a guess.
        """
        predictions = self.engine.predict(table)
        probabilities = predictions.probabilities
        if probabilities is not None and not np.isfinite(probabilities).all():
            raise ValueError("the probabilities are not finite")
        return predictions

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
            return self.predict_rows(rows)
        except REFUSALS as exc:
            if self._fails_anyway() or (index := self._first_refused(rows)) is None:
                raise
            raise RowError(index) from exc

    def answers(self, predictions: Predictions) -> Iterable[dict[str, Any]]:
        """Give each prediction the form of an answer, without entities."""
        names = [label_name(label) for label in predictions.classes]
        positions = {label: index for index, label in enumerate(predictions.classes)}
        table = [] if predictions.probabilities is None else predictions.probabilities.tolist()
        for index, value in enumerate(self._values(predictions)):
            answer: dict[str, Any] = {
                "prediction": value,
                "model_version": self.version,
                "model_id": self.model_id,
            }
            if table:
                answer["confidence"] = table[index][positions[value]]
                if self.schemas.classifies:
                    answer["probabilities"] = dict(zip(names, table[index], strict=True))
            yield answer

    def _first_refused(self, rows: Sequence[Row]) -> int | None:
        """The first row that the model refuses alone; None if there is none."""
        outcomes = bisect(self.predict_rows, rows, REFUSALS)
        failed = (part for part, outcome in outcomes if isinstance(outcome, Exception))
        return next((part.start for part in failed), None)

    def _fails_anyway(self) -> bool:
        """Whether even the example fails, so that no row is to blame."""
        return bool(self._example) and self._refuses(self.rows(self._example))

    @cached_property
    def _example(self) -> list[BaseModel]:
        """The example as one validated sample; none where it does not name every column."""
        required = {column.name for column in self.schemas.columns if column.required}
        if not self.schemas.example or not required <= self.schemas.example.keys():
            return []
        body = json.dumps(self.schemas.example)
        return [self.request_schema.model_validate_json(body)]

    def _refuses(self, rows: Sequence[Row]) -> bool:
        try:
            self.predict_rows(rows)
        except REFUSALS:
            return True
        return False

    def _values(self, predictions: Predictions) -> Iterable[Any]:
        """Each prediction as JSON has it: a scalar, or an object or list of several outputs."""
        values = predictions.values
        if values.dtype.kind == "M":
            values = values.astype("datetime64[us]")  # nanoseconds would become integers
        outputs = self.schemas.signature.outputs if self.schemas.signature else ()
        names = predictions.names or tuple(output.name for output in outputs)
        for value in values.tolist():
            if values.ndim > 1 and all(names):
                yield {name: _plain(one) for name, one in zip(names, value, strict=True)}
            else:
                yield _plain(value)

    def warm_up(self) -> None:
        """Do all first-time work now, so that the first caller does not pay for it.

        Makes the schemas, predicts the example, where it names every required column, and times
        a call.

        Raises `ContractError` when the model fails on its example.
        """
        for made_once in ("batch_request_schema", "invocation_schema", "inline_rows"):
            getattr(self, made_once)
        try:
            if self._example:
                self.answer(self._example)
        except Exception as exc:
            raise ContractError("the model fails on its own example") from exc

    def close(self) -> None:
        """Remove the downloaded files."""
        if self.files:
            self.files.cleanup()

    def describe(self) -> dict[str, Any]:
        """What is being served, for `GET /model`."""
        recipe = self.schemas.recipe
        signature = self.schemas.signature
        return {
            "uri": tracking.redact(self.uri),
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


def _plain(value: Any) -> Any:
    """The value as JSON has it: bytes as base64, None for NaN, infinity and no date-time."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return None if isinstance(value, datetime) and value != value else value  # NaT


def _seconds(call: Callable[[Any], Any], argument: Any) -> float:
    started = time.perf_counter()
    with contextlib.suppress(ValueError):  # to refuse it takes as long
        call(argument)
    return time.perf_counter() - started
