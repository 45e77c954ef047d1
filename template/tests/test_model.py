"""Models from elsewhere: whatever MLflow loads as a Python function."""

from pathlib import Path
from typing import Any

import mlflow
import pytest
from conftest import RECIPE, settings_for
from mlflow.models import ModelSignature
from mlflow.pyfunc.model import PythonModel
from mlflow.types import ColSpec, Schema

from serving.errors import ContractError, ModelLoadError
from serving.model import ServedModel, load_model


class ReadsItsFileWhenAsked(PythonModel):
    """Adds the number in its artifact, which it opens at every call."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        number = float(Path(context.artifacts["number"]).read_text())
        return model_input["x"] + number


class AnswersNonsense(PythonModel):
    """Answers text although its signature says a number."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return ["nonsense"] * len(model_input)


def save(path: Path, model: Any, **options: Any) -> Path:
    signature = ModelSignature(
        inputs=Schema([ColSpec("double", "x")]), outputs=Schema([ColSpec("double")])
    )
    mlflow.pyfunc.save_model(
        path, python_model=model, pip_requirements=[], **({"signature": signature} | options)
    )
    return path


def load(path: Path) -> ServedModel:
    return load_model(settings_for(path, path.parent))


def test_a_model_may_read_its_files_at_any_time(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("40")
    artifacts = {"number": str(tmp_path / "number")}
    model = load(save(tmp_path / "model", ReadsItsFileWhenAsked(), artifacts=artifacts))
    sample = model.request_schema.model_validate({"x": 2.0})
    assert [answer.model_dump()["prediction"] for answer in model.answer([sample])] == [42.0]
    assert model.describe()["engine"]["name"] == "pyfunc"


def test_an_answer_against_the_signature_shows_before_there_is_a_caller(tmp_path: Path) -> None:
    recipe = RECIPE | {
        "task_choice": "regression",
        "data": {"data_interface": {"target_column": "y"}},
    }
    metadata = {"recipe": recipe, "request_example": {"x": 1.0}}
    path = save(tmp_path / "model", AnswersNonsense(), metadata=metadata)
    with pytest.raises(ContractError, match="the model fails on its own example"):
        load(path)


def test_a_model_without_columns_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "model", AnswersNonsense(), signature=None)
    with pytest.raises(ContractError, match="neither a signature nor a recipe"):
        load(path)


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="cannot load the model"):
        load(tmp_path)
