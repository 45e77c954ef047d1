"""A model as MLflow stores it: a directory with the file `MLmodel`, read without MLflow.

Importing MLflow takes longer than everything else that a compiled model needs to start, and the
file is only YAML and JSON.
https://mlflow.org/docs/latest/ml/model/#model-signatures-and-input-examples
"""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from serving.contract.columns import COLUMN_TYPES, Column, Signature
from serving.errors import ContractError, ModelLoadError

logger = logging.getLogger(__name__)

FILE = "MLmodel"

COMPILED = "compiled/compiled.json"
"""This file exists in the model's directory if the model has a compiled form."""

_FLAVORS = ("python_function", "sklearn")
"""The flavours that this project loads."""

_PATHS = ("code", "data", "model_path", "pickled_model", "python_model")
"""The keys of a flavour that MLflow uses as paths in the model's directory."""


@dataclass(frozen=True)
class StoredModel:
    """The content of an `MLmodel` file, and its directory."""

    path: Path
    flavors: dict[str, Any]
    metadata: dict[str, Any]
    """The metadata that was logged with the model; it may come from other software."""
    model_id: str | None
    """MLflow's id of the logged model; models from before MLflow 3 have none."""
    run_id: str | None
    version: str | None
    """`NAME/VERSION`, for a model from the registry."""
    _content: dict[str, Any]

    @property
    def identity(self) -> str:
        """The logged model's id; before MLflow 3 there is none: its UUID or directory's name."""
        return self.model_id or self._content.get("model_uuid") or self.path.name

    @property
    def is_sklearn(self) -> bool:
        """Whether it is a scikit-learn model that answers with `predict`.

        A model may be logged to answer with another method; only MLflow calls other methods.
        """
        method = self.flavors.get("python_function", {}).get("predict_fn", "predict")
        return "sklearn" in self.flavors and method == "predict"

    def file(self, name: str) -> Path:
        """The path of a file in the model's directory.

        Raises `ModelLoadError` for a file elsewhere, even if a link leads there.
        """
        file = self.path / name
        if not file.resolve().is_relative_to(self.path.resolve()):
            raise ModelLoadError(f"'{name}' leads out of the model's directory")
        return file

    @property
    def sklearn_file(self) -> Path | None:
        """The file of a scikit-learn model; None for a model of another flavour.

        Raises `ModelLoadError` for a file outside of the model's directory.
        """
        name = self.flavors.get("sklearn", {}).get("pickled_model")
        return self.file(name) if name else None

    @property
    def signature(self) -> Signature | None:
        """The model's columns; None if it was logged without a signature.

        Raises `ContractError` for inputs that are not named columns of scalars.
        """
        signature = self._content.get("signature") or {}
        inputs = json.loads(signature.get("inputs") or "null")
        if inputs is None:
            return None
        if not all(one.get("name") and one["type"] != "tensor" for one in inputs):
            raise ContractError(
                "the model's signature has no named columns; log it with a DataFrame"
            )
        outputs = json.loads(signature.get("outputs") or "[]")
        return Signature(tuple(map(_column, inputs)), _outputs(outputs))

    @property
    def example(self) -> dict[str, Any] | None:
        """The first row of the input example, as JSON values; None if there is no example."""
        saved = self._content.get("saved_input_example_info") or {}
        if saved.get("type") != "dataframe" or saved.get("pandas_orient") != "split":
            return None
        try:
            text = self.file(saved["artifact_path"]).read_text(encoding="utf-8")
            content = json.loads(text)
            return dict(zip(content["columns"], content["data"][0], strict=True))
        # Other software may have written the file.
        except (ModelLoadError, OSError, ValueError, LookupError, TypeError) as exc:
            logger.warning("the model's input example cannot be read: %s", exc)
            return None


def read(path: Path) -> StoredModel:
    """Read the model directory `path`.

    Raises `ModelLoadError` if it holds no model, or a model with files outside of the directory.
    """
    try:
        content = yaml.load((path / FILE).read_text(encoding="utf-8"), _LOADER)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not valid YAML"
        if isinstance(exc, FileNotFoundError):
            reason = "there is no such file in the directory, so it is not a saved MLflow model"
        raise ModelLoadError(f"{FILE}: {reason}") from exc
    if not isinstance(content, dict) or not isinstance(content.get("flavors"), dict):
        raise ModelLoadError(f"{FILE}: has no flavors")
    model = StoredModel(
        path=path,
        flavors=content["flavors"],
        metadata=content.get("metadata") or {},
        model_id=content.get("model_id"),
        run_id=content.get("run_id"),
        version=_registered(path),
        _content=content,
    )
    _check_paths(model)
    return model


def _check_paths(model: StoredModel) -> None:
    """Raise `ModelLoadError` for a path out of the directory; MLflow would follow it."""
    for flavor in _FLAVORS:
        about = model.flavors.get(flavor) or {}
        paths = {key: about.get(key) for key in _PATHS}
        for name, artifact in (about.get("artifacts") or {}).items():
            paths[f"artifacts.{name}.path"] = artifact.get("path")
        for key, path in paths.items():
            try:
                if isinstance(path, str):
                    model.file(path)
            except ModelLoadError as exc:
                raise ModelLoadError(f"{FILE}: flavors.{flavor}.{key}: {exc}") from None


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _registered(path: Path) -> str | None:
    file = path / "registered_model_meta"
    if not file.is_file():
        return None
    fields = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(fields, dict) or not fields.get("model_name"):
        return None
    return f"{fields['model_name']}/{fields.get('model_version')}"


def _column(spec: dict[str, Any]) -> Column:
    return Column(spec.get("name") or "", spec["type"], spec.get("required", True))


def _outputs(specs: list[dict[str, Any]]) -> tuple[Column, ...]:
    """The type of each output; empty if the signature does not say it."""
    if any(spec["type"] == "tensor" for spec in specs):
        return _array_outputs(specs)
    known = all(spec["type"] in COLUMN_TYPES for spec in specs)
    return tuple(map(_column, specs)) if known else ()


def _array_outputs(specs: list[dict[str, Any]]) -> tuple[Column, ...]:
    [spec, *others] = specs
    type_ = _ARRAY_TYPES.get(np.dtype(spec["tensor-spec"]["dtype"]).kind)
    _, *shape = spec["tensor-spec"]["shape"]
    count = 1 if not shape else shape[0]
    if others or type_ is None or len(shape) > 1 or count < 1:
        return ()
    return (Column("", type_),) * count


_ARRAY_TYPES = {
    "b": "boolean",
    "i": "long",
    "u": "long",
    "f": "double",
    "U": "string",
    "M": "datetime",
    "O": "any",
}
"""Column types by the kind of a NumPy dtype."""
