"""Load a model from MLflow, check its contract and answer typed samples with it."""

import json
import math
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel

from serving import tracking
from serving.columns import COLUMN_TYPES, Column, Signature, Table, to_table
from serving.engines import Engine, Predictions, load_engine
from serving.errors import ContractError, ModelLoadError
from serving.recipe import Task
from serving.schema import APISchemaGenerator
from serving.settings import Settings

if TYPE_CHECKING:
    from mlflow.models import Model, ModelSignature

# Keys of the metadata that training logs with a model, so that they travel with it.
RECIPE = "recipe"
ENTITY_TYPES = "entity_types"
REQUEST_EXAMPLE = "request_example"

_LIBRARIES = ("mlflow-skinny", "scikit-learn", "pandas", "numpy")


@dataclass(frozen=True)
class ServedModel:
    """A loaded model with the schemas of its API."""

    uri: str
    model_id: str | None
    run_id: str | None
    version: str
    engine: Engine
    schemas: APISchemaGenerator
    files: object = None
    """Keeps the downloaded files as long as the model, which may read them at any time."""

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

    def answer(self, samples: Sequence[BaseModel]) -> list[BaseModel]:
        """Predict validated samples.

        Raises `pydantic.ValidationError` when an answer is not what the signature says.
        """
        columns = self.schemas.columns
        rows = [[getattr(sample, f"column_{i}") for i in range(len(columns))] for sample in samples]
        answers = list(self.answers(self.engine.predict(self._inputs(rows))))
        entities = {column.name for column in self.schemas.entities}
        if entities:
            for answer, row in zip(answers, rows, strict=True):
                answer["entities"] = {
                    column.name: value
                    for column, value in zip(columns, row, strict=True)
                    if column.name in entities
                }
        return [self.response_schema.model_validate(answer) for answer in answers]

    def answers(self, predictions: Predictions) -> Iterable[dict[str, Any]]:
        """Give each prediction the form of an answer, without entities."""
        classify = self.schemas.task is Task.CLASSIFICATION
        names = [label_name(label) for label in predictions.classes]
        positions = {label: index for index, label in enumerate(predictions.classes)}
        table = [] if predictions.probabilities is None else predictions.probabilities.tolist()
        for index, value in enumerate(predictions.values.tolist()):
            answer: dict[str, Any] = {"prediction": _finite(value), "model_version": self.version}
            if table and (probabilities := table[index]) and all(map(math.isfinite, probabilities)):
                answer["confidence"] = probabilities[positions[value]]
                if classify:
                    answer["probabilities"] = dict(zip(names, probabilities, strict=True))
            yield answer

    def warm_up(self) -> None:
        """Predict the example once, so that the first caller does not pay for first-time work.

        Raises `ContractError` when that fails.
        """
        if not self.schemas.example:
            return
        try:
            body = json.dumps(self.schemas.example)
            self.answer([self.request_schema.model_validate_json(body)])
        except Exception as exc:
            message = f"the model fails on its own example: {tracking.first_line(exc)}"
            raise ContractError(message) from exc

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
                "outputs": list(signature.output_types),
            }
            if signature
            else None,
            "libraries": {name: _installed(name) for name in _LIBRARIES},
        }

    def _inputs(self, rows: Sequence[Sequence[Any]]) -> Table:
        inputs = self.schemas.inputs
        skip = len(self.schemas.columns) - len(inputs)
        return to_table([row[skip:] for row in rows], inputs)


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
        raise ContractError(f"model {tracking.shown(uri)}: {exc}") from exc
    except Exception as exc:
        message = tracking.shown(f"cannot load the model {uri}{source}: ")
        raise ModelLoadError(message + tracking.first_line(exc)) from exc


def _load(uri: str, settings: Settings) -> ServedModel:
    tracking.connect(settings)
    from mlflow.artifacts import download_artifacts
    from mlflow.models import Model

    files = None
    path = Path(uri)
    if not path.is_dir():
        files = tempfile.TemporaryDirectory()
        path = Path(download_artifacts(artifact_uri=uri, dst_path=files.name))
    metadata = Model.load(str(path))
    logged = metadata.metadata or {}
    model = ServedModel(
        uri=uri,
        model_id=metadata.model_id,
        run_id=metadata.run_id,
        version=_version(metadata, path),
        schemas=APISchemaGenerator(
            logged.get(RECIPE),
            read_signature(metadata.signature),
            entity_types=logged.get(ENTITY_TYPES),
            example=logged.get(REQUEST_EXAMPLE),
        ),
        engine=load_engine(path, metadata.flavors),
        files=files,
    )
    model.warm_up()
    return model


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
    outputs = signature.outputs.inputs if signature.outputs is not None else []
    return Signature(inputs, tuple(_type_name(spec.type) for spec in outputs))


def label_name(label: Any) -> str:
    """A class as a JSON key."""
    return str(label).lower() if isinstance(label, bool) else str(label)


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


def _finite(value: Any) -> Any:
    """The value, or None for a number that JSON cannot write."""
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _installed(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
