"""Load a model from MLflow, check its contract and answer typed samples with it."""

import base64
import json
import logging
import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from pydantic import BaseModel
from pydantic_core import to_json

from serving import tracking
from serving.columns import COLUMN_TYPES, Column, Signature, Table, to_table
from serving.engines import Engine, Predictions, load_engine
from serving.environment import Library, check_libraries, libraries_of
from serving.errors import ContractError, ModelLoadError, RowError
from serving.metadata import ENTITY_TYPES, RECIPE, REQUEST_EXAMPLE, TRAINING_PROFILE
from serving.modern_ml_pipeline import ModernMLPipelineEngine, is_modern_ml_pipeline
from serving.schema import APISchemaGenerator, label_name
from serving.settings import Settings

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """A loaded model with the schemas of its API."""

    uri: str
    model_id: str | None
    run_id: str | None
    version: str
    engine: Engine
    schemas: APISchemaGenerator
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

    def answer(self, samples: Sequence[BaseModel]) -> list[BaseModel]:
        """Predict validated samples.

        Raises `RowError` when the model refuses a sample, and `pydantic.ValidationError` when an
        answer is not what the signature says.
        """
        rows = self._rows(samples)
        answers = list(self.answers(self._predict(rows)))
        entities = {column.name for column in self.schemas.entities}
        if entities:
            for answer, row in zip(answers, rows, strict=True):
                answer["entities"] = {
                    column.name: value
                    for column, value in zip(self.schemas.columns, row, strict=True)
                    if column.name in entities
                }
        return [self.response_schema.model_validate(answer) for answer in answers]

    def invoke(self, rows: Sequence[BaseModel]) -> list[BaseModel]:
        """Predict validated rows; the one answer of MLflow's protocol, without probabilities.

        Raises as `answer` does.
        """
        predictions = list(self._values(self._predict(self._rows(rows))))
        return [self.invocation_response_schema.model_validate({"predictions": predictions})]

    def predict(self, table: Table) -> Predictions:
        """Predict every row of a table of `schemas.inputs`.

        Raises `ValueError` where the model answers probabilities that are no numbers, as some do
        for extreme values: the label is then no more than a guess.
        """
        predictions = self.engine.predict(table)
        probabilities = predictions.probabilities
        if probabilities is not None and not np.isfinite(probabilities).all():
            raise ValueError("the probabilities are not finite")
        return predictions

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

    def _rows(self, samples: Sequence[BaseModel]) -> list[list[Any]]:
        fields = [f"column_{index}" for index in range(len(self.schemas.columns))]
        return [[getattr(sample, field) for field in fields] for sample in samples]

    def _predict(self, rows: Sequence[Sequence[Any]]) -> Predictions:
        """Predict rows of `schemas.columns`; when that fails, find the row that is to blame."""
        try:
            return self.predict(self._inputs(rows))
        except (ValueError, ArithmeticError) as exc:
            if self._fails_anyway() or (index := self._first_refused(rows)) is None:
                raise
            raise RowError(index) from exc

    def _inputs(self, rows: Sequence[Sequence[Any]]) -> Table:
        inputs = self.schemas.inputs
        skip = len(self.schemas.columns) - len(inputs)
        cut = [row[skip:] for row in rows]
        return to_table(cut, inputs, exact_integers=self.engine.exact_integers)

    def _first_refused(self, rows: Sequence[Sequence[Any]]) -> int | None:
        """Halve the rows until one is left that the model refuses alone; None if there is none."""
        first, last = 0, len(rows)
        while last - first > 1:
            middle = (first + last) // 2
            first, last = (first, middle) if self._refuses(rows[first:middle]) else (middle, last)
        return first if self._refuses(rows[first:last]) else None

    def _fails_anyway(self) -> bool:
        """Whether even the example fails, so that no row is to blame."""
        return bool(self._example) and self._refuses(self._rows(self._example))

    @cached_property
    def _example(self) -> list[BaseModel]:
        """The example as one validated sample; none where it does not name every column."""
        required = {column.name for column in self.schemas.columns if column.required}
        if not self.schemas.example or not required <= self.schemas.example.keys():
            return []
        body = json.dumps(self.schemas.example)
        return [self.request_schema.model_validate_json(body)]

    def _refuses(self, rows: Sequence[Sequence[Any]]) -> bool:
        try:
            self.predict(self._inputs(rows))
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
            "engine": self.engine.describe(),
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


def load_model(settings: Settings) -> ServedModel:
    """Load the model that the settings name, check its contract and warm it up.

    Raises `ModelLoadError` when it cannot be found or loaded, and `ContractError` when its recipe
    and its signature do not agree; either message is one sentence.
    """
    uri = settings.serving.model
    is_address = ":" in uri
    if not is_address and not Path(uri).is_dir():
        raise ModelLoadError(f"cannot load the model {uri}: there is no such directory")
    source = f" from {settings.mlflow.tracking_uri}" if is_address else ""
    try:
        return _load(uri, settings)
    except ContractError as exc:
        why = f": {tracking.first_line(exc.__cause__)}" if exc.__cause__ else ""
        raise ContractError(f"model {tracking.shown(uri)}: {exc}{why}") from exc
    except Exception as exc:
        message = tracking.shown(f"cannot load the model {uri}{source}: ")
        raise ModelLoadError(message + tracking.first_line(exc)) from exc


def _load(uri: str, settings: Settings) -> ServedModel:
    tracking.connect(settings)
    from mlflow.artifacts import download_artifacts
    from mlflow.models import Model

    files = None
    path = Path(uri).resolve()  # MLflow follows no links
    if not path.is_dir():
        files = tempfile.TemporaryDirectory()
        path = Path(download_artifacts(artifact_uri=uri, dst_path=files.name))
    metadata = Model.load(str(path))
    libraries = libraries_of(path)
    if not settings.serving.allow_other_versions:
        check_libraries(libraries)
    engine = _engine(path, metadata)
    signature = read_signature(metadata.signature)
    logged = metadata.metadata or {}
    if isinstance(engine, ModernMLPipelineEngine):
        signature, logged = engine.signature(signature), engine.logged(metadata, path)
    model = ServedModel(
        uri=uri,
        model_id=metadata.model_id,
        run_id=metadata.run_id,
        version=_version(metadata, path),
        schemas=APISchemaGenerator(
            logged.get(RECIPE),
            signature,
            entity_types=logged.get(ENTITY_TYPES),
            example=logged.get(REQUEST_EXAMPLE) or _input_example(metadata, path),
            classes=engine.classes,
            profile=logged.get(TRAINING_PROFILE),
            unknown_fields=settings.serving.unknown_fields,
            max_batch_rows=settings.serving.max_batch_rows,
        ),
        engine=engine,
        libraries=libraries,
        files=files,
    )
    # The schemas of requests are made now, not for the first caller.
    _ = model.batch_request_schema, model.invocation_schema
    model.warm_up()
    return model


def _engine(path: Path, metadata: "Model") -> Engine:
    try:
        if is_modern_ml_pipeline(metadata):
            return ModernMLPipelineEngine(path)
        return load_engine(path, metadata.flavors)
    except ModuleNotFoundError as exc:
        raise ContractError(
            f"it needs the Python module '{exc.name}', which is not installed here; "
            "add its package: uv add --group native PACKAGE"
        ) from exc


def _input_example(metadata: "Model", path: Path) -> dict[str, Any] | None:
    """The first row of the input example that MLflow keeps with a model, None without one."""
    import pandas as pd

    try:
        rows = metadata.load_input_example(str(path))
        if not isinstance(rows, pd.DataFrame) or rows.empty:
            return None
        [record] = rows.head(1).astype(object).to_dict(orient="records")
        row = {str(name): _plain(value) for name, value in record.items()}
        return dict(json.loads(to_json(row)))
    except Exception as exc:  # whatever a file of somebody else's may hold
        logger.warning("the model's input example cannot be read: %s", tracking.first_line(exc))
        return None


def read_signature(signature: "ModelSignature | None") -> Signature | None:
    """Translate MLflow's signature.

    Raises `ContractError` for inputs that are no named columns of scalars.
    """
    if signature is None or signature.inputs is None:
        return None
    if signature.inputs.is_tensor_spec() or not signature.inputs.has_input_names():
        raise ContractError("the model's signature has no named columns; log it with a DataFrame")
    inputs = tuple(
        Column(spec.name, _type_name(spec.type), spec.required) for spec in signature.inputs.inputs
    )
    return Signature(inputs, _outputs(signature.outputs))


def _outputs(schema: Any) -> tuple[Column, ...]:
    """What the model answers for each row; empty where its signature does not say it."""
    if schema is None:
        return ()
    if not schema.is_tensor_spec():
        types = [(spec.name or "", _type_name(spec.type), spec.required) for spec in schema.inputs]
        known = all(type_ in COLUMN_TYPES for _, type_, _ in types)
        return tuple(Column(*one) for one in types) if known else ()
    [tensor, *others] = schema.inputs
    type_ = _array_type(tensor.type)
    _, *shape = tensor.shape
    count = 1 if not shape else shape[0]
    if others or type_ is None or len(shape) > 1 or count < 1:
        return ()
    return (Column("", type_),) * count


def _array_type(dtype: Any) -> str | None:
    """The column type of a NumPy array, None for one that has none."""
    match dtype.kind:
        case "b":
            return "boolean"
        case "i" | "u":
            return "long"
        case "f":
            return "double"
        case "U":
            return "string"
        case "M":
            return "datetime"
        case "O":
            return "any"
    return None


def _type_name(type_: Any) -> str:
    name = getattr(type_, "name", str(type_))
    return name if name in COLUMN_TYPES else str(type_)


def _version(metadata: "Model", path: Path) -> str:
    """`name/version` of a registered model, else the logged model's id."""
    registered = path / "registered_model_meta"
    if registered.is_file():
        fields = yaml.safe_load(registered.read_text(encoding="utf-8"))
        if fields.get("model_name"):
            return f"{fields['model_name']}/{fields['model_version']}"
    return metadata.model_id or metadata.model_uuid or path.name


def _plain(value: Any) -> Any:
    """The value as JSON has it: bytes as base64, None for NaN, infinity and no date-time."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return None if isinstance(value, datetime) and value != value else value  # NaT
