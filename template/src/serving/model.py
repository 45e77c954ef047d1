"""Load a model from MLflow, check its contract and answer typed samples with it."""

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
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from serving import mlmodel, tracking
from serving.columns import Row
from serving.compiled import NotCompiledError, OnnxEngine
from serving.engines import Engine, Predictions, is_plain_pickle, load_engine
from serving.environment import Library, check_libraries, libraries_of
from serving.errors import ContractError, ModelLoadError, RowError
from serving.metadata import ENTITY_TYPES, RECIPE, REQUEST_EXAMPLE, TRAINING_PROFILE
from serving.mlmodel import StoredModel
from serving.modern_ml_pipeline import ModernMLPipelineEngine, is_modern_ml_pipeline
from serving.schema import APISchemaGenerator, label_name
from serving.settings import EngineChoice, Settings

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
        except (ValueError, ArithmeticError) as exc:
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
        """Halve the rows until one is left that the model refuses alone; None if there is none."""
        first, last = 0, len(rows)
        while last - first > 1:
            middle = (first + last) // 2
            first, last = (first, middle) if self._refuses(rows[first:middle]) else (middle, last)
        return first if self._refuses(rows[first:last]) else None

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
        except (ValueError, ArithmeticError):
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
        """Predict the example once, so that the first caller does not pay for first-time work.

        Without an example that names every required column, nothing is asked.

        Raises `ContractError` when that fails.
        """
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
            "uri": tracking.shown(self.uri),
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


def load_model(settings: Settings, engine: EngineChoice | None = None) -> ServedModel:
    """Load the model that the settings name, check its contract and warm it up.

    Args:
        settings: which model, from where.
        engine: which engine runs it, instead of the one that the settings name.

    Raises `ModelLoadError` when it cannot be found or loaded, and `ContractError` when its recipe
    and its signature do not agree; either message is one sentence.
    """
    uri = settings.serving.model
    is_address = ":" in uri
    if not is_address and not Path(uri).is_dir():
        raise ModelLoadError(f"cannot load the model {uri}: there is no such directory")
    source = f" from {settings.mlflow.tracking_uri}" if is_address else ""
    try:
        return _load(uri, settings, engine or settings.serving.engine)
    except ContractError as exc:
        why = f": {tracking.first_line(exc.__cause__)}" if exc.__cause__ else ""
        raise ContractError(f"model {tracking.shown(uri)}: {exc}{why}") from exc
    except Exception as exc:
        message = tracking.shown(f"cannot load the model {uri}{source}: ")
        raise ModelLoadError(message + tracking.first_line(exc)) from exc


def _load(uri: str, settings: Settings, choice: EngineChoice) -> ServedModel:
    files = None
    path = Path(uri).resolve()  # MLflow follows no links
    if not path.is_dir():
        files = tempfile.TemporaryDirectory()
        path = tracking.download(settings, uri, files.name)
    stored = mlmodel.read(path)
    libraries = libraries_of(path)
    not_compiled = None
    try:
        engine: Engine = _compiled_engine(stored, choice)
    except NotCompiledError as exc:
        if choice == "onnx":
            raise ContractError(f"engine onnx: {exc}") from exc.__cause__
        not_compiled = str(exc) if choice == "auto" else None
        if not settings.serving.allow_other_versions:
            check_libraries(libraries)
        engine = _native_engine(stored, settings)
    signature, logged = stored.signature, stored.metadata
    if isinstance(engine, ModernMLPipelineEngine):
        signature, logged = engine.signature(signature), engine.logged(stored)
    model = ServedModel(
        uri=uri,
        model_id=stored.model_id,
        run_id=stored.run_id,
        version=stored.version,
        schemas=APISchemaGenerator(
            logged.get(RECIPE),
            signature,
            entity_types=logged.get(ENTITY_TYPES),
            example=logged.get(REQUEST_EXAMPLE) or stored.example,
            classes=engine.classes,
            profile=logged.get(TRAINING_PROFILE),
            unknown_fields=settings.serving.unknown_fields,
            max_batch_rows=settings.serving.max_batch_rows,
        ),
        engine=engine,
        not_compiled=not_compiled,
        libraries=libraries,
        files=files,
    )
    # The schemas of requests are made now, not for the first caller.
    _ = model.batch_request_schema, model.invocation_schema
    model.warm_up()
    _ = model.inline_rows
    return model


def _seconds(call: Callable[[Any], Any], argument: Any) -> float:
    started = time.perf_counter()
    with contextlib.suppress(ValueError):  # to refuse it takes as long
        call(argument)
    return time.perf_counter() - started


def _compiled_engine(stored: StoredModel, choice: EngineChoice) -> OnnxEngine:
    if choice == "native":
        raise NotCompiledError("the native engine is chosen")
    return OnnxEngine(stored)


def _native_engine(stored: StoredModel, settings: Settings) -> Engine:
    if not is_plain_pickle(stored):
        tracking.connect(settings)
    try:
        if is_modern_ml_pipeline(stored):
            return ModernMLPipelineEngine(stored.path)
        return load_engine(stored)
    except ModuleNotFoundError as exc:
        raise ContractError(
            f"it needs the Python module '{exc.name}', which is not installed here; "
            "add its package: uv add --group native PACKAGE"
        ) from exc


def _plain(value: Any) -> Any:
    """The value as JSON has it: bytes as base64, None for NaN, infinity and no date-time."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return None if isinstance(value, datetime) and value != value else value  # NaT
