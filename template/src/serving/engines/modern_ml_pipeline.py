"""Models trained by the published `modern-ml-pipeline`: how to call them, and their contract.

Such a model is a Python object of that package, so the package must be installed to load it. The
signature declares the output as `double` for every task. MLflow drops the parameter that asks for
probabilities, because the signature does not name it. The model keeps only the column roles of the
recipe; the whole recipe is an artifact of the run.
"""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from serving.contract.columns import Column, Signature, Table
from serving.contract.metadata import RECIPE, REQUEST_EXAMPLE
from serving.engines.base import Engine, Predictions, single_output
from serving.errors import ContractError
from serving.store.mlmodel import StoredModel

RECIPE_SNAPSHOT = "training_artifacts/recipe_snapshot.yaml"

_ROLES = ("entity_columns", "feature_columns", "target_column", "timestamp_column")
_OUTPUT_TYPES = {"b": "boolean", "i": "long", "u": "long", "f": "double"}


def is_modern_ml_pipeline(model: StoredModel) -> bool:
    """Whether that package logged the model, as far as can be told without loading it."""
    loader = model.flavors.get("python_function", {}).get("loader_module")
    return loader == "mlflow.pyfunc.model" and "data_schema" in model.metadata


class ModernMLPipelineEngine(Engine):
    """A `PyfuncWrapper` of modern-ml-pipeline, called directly."""

    name = "modern-ml-pipeline"
    # Rows are not independent: steps such as forward_fill read the rows before.

    def __init__(self, model: StoredModel) -> None:
        import mlflow.pyfunc

        self._model = mlflow.pyfunc.load_model(str(model.path)).unwrap_python_model()
        if not hasattr(self._model, "data_interface_schema"):
            raise ContractError("it looks like one of modern-ml-pipeline, but its class is another")
        # It logs the steps of every prediction.
        logging.getLogger("mmp").setLevel(logging.WARNING)
        self._classify = self._model.data_interface_schema["task_type"] == "classification"
        self._estimator = self._model.trained_model
        self._labels = np.asarray(getattr(self._estimator, "classes_", ()))
        gives = self._classify and hasattr(self._estimator, "predict_proba")
        self.classes: tuple[Any, ...] = tuple(self._labels.tolist()) if gives else ()

    def predict(self, table: Table) -> Predictions:
        import pandas as pd

        rows = pd.DataFrame(table)
        values = self._call(rows)
        values = single_output(values)
        if not self.classes:
            return Predictions(values)
        probabilities = self._call(rows, return_probabilities=True)
        if probabilities.shape[1] == 1:  # only those of the second of two classes
            probabilities = np.hstack([1 - probabilities, probabilities])
        if self._model.trained_calibrator is not None:
            values = self._labels[values.astype(int)]  # a calibrated model answers positions
        return Predictions(values, probabilities, self.classes)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "estimator": _qualified_name(self._estimator)}

    def signature(self, stored: StoredModel) -> Signature | None:
        """The logged signature, with the actual type of the labels."""
        logged = stored.signature
        if logged is None or not self._classify:
            return logged
        type_ = _OUTPUT_TYPES.get(self._labels.dtype.kind, "string")
        return replace(logged, outputs=(Column("", type_),))

    def metadata(self, stored: StoredModel) -> dict[str, Any]:
        """The same metadata as this project's training logs: the recipe, and an example."""
        recipe = self._recipe(_snapshot(stored))
        entities = recipe["data"]["data_interface"].get("entity_columns") or []
        return {RECIPE: recipe, REQUEST_EXAMPLE: _request_example(stored.path, entities)}

    def _recipe(self, snapshot: dict[str, Any] | None) -> dict[str, Any]:
        """The part of the recipe that serving needs, from the run, or else from the model."""
        kept = self._model.data_interface_schema
        snapshot = snapshot or {
            "task_choice": kept["task_type"],
            "data": {"data_interface": {key: kept.get(key) for key in _ROLES}},
        }
        class_path = snapshot.get("model", {}).get("class_path")
        return {
            "name": snapshot.get("name", "model"),
            "task_choice": snapshot["task_choice"],
            "data": {"data_interface": snapshot["data"]["data_interface"]},
            "model": {"class_path": class_path or _qualified_name(self._estimator)},
        }

    def _call(self, rows: Any, **params: bool) -> np.ndarray:
        answer = self._model.predict(None, rows, params={"return_dataframe": True, **params})
        if not answer.index.equals(rows.index):
            raise ValueError("the model's preprocessing drops rows: answers cannot be assigned")
        return np.asarray(answer)


def _request_example(path: Path, entities: list[str]) -> dict[str, Any] | None:
    """The first complete row of the example that was logged, without entities."""
    file = path / "input_example.json"
    if not file.is_file():
        return None
    example = json.loads(file.read_text(encoding="utf-8"))
    for row in example["data"]:
        if None not in row:
            values = zip(example["columns"], row, strict=True)
            return {name: value for name, value in values if name not in entities}
    return None


def _snapshot(model: StoredModel) -> dict[str, Any] | None:
    from mlflow.artifacts import load_text
    from mlflow.exceptions import MlflowException

    if model.run_id is None:
        return None
    try:
        text = load_text(f"runs:/{model.run_id}/{RECIPE_SNAPSHOT}")
    except (MlflowException, OSError):
        return None  # the run of a model served from a directory or a copy is out of reach
    content: dict[str, Any] = yaml.safe_load(text)
    return content


def _qualified_name(thing: object) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"
