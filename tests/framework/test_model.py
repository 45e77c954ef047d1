"""Models from elsewhere that MLflow loads as a Python function."""

import json
import shutil
from pathlib import Path
from typing import Any

import mlflow
import mlflow.sklearn
import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import RECIPE, settings_for
from mlflow.models import ModelSignature, infer_signature
from mlflow.pyfunc.model import PythonModel
from mlflow.types import ColSpec, Schema
from serving.errors import ContractError, ModelLoadError
from serving.model.loading import load_model
from serving.model.served import ServedModel
from serving.store import mlmodel
from sklearn.linear_model import LinearRegression, LogisticRegression


class ReadsItsFileWhenAsked(PythonModel):
    """Adds the number in its artifact, which it opens in every call."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        number = float(Path(context.artifacts["number"]).read_text())
        return model_input["x"] + number


@pytest.mark.parametrize(
    ("content", "identity"),
    [("model_id: m-1\nmodel_uuid: u-1", "m-1"), ("model_uuid: u-1", "u-1"), ("", "old-model")],
)
def test_every_model_has_an_identity_and_only_a_registered_one_a_version(
    tmp_path: Path, content: str, identity: str
) -> None:
    path = tmp_path / "old-model"
    path.mkdir()
    (path / "MLmodel").write_text(f"flavors: {{}}\n{content}\n")
    assert mlmodel.read(path).identity == identity
    assert mlmodel.read(path).version is None
    (path / "registered_model_meta").write_text("model_name: birds\nmodel_version: 3\n")
    assert mlmodel.read(path).identity == identity
    assert mlmodel.read(path).version == "birds/3"


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


class Echoes(PythonModel):
    """Answers its input, or -1 if it is missing."""

    def predict(self, context: Any, model_input: Any, params: Any = None) -> Any:
        return model_input["n"] if "n" in model_input else [-1] * len(model_input)


def test_integers_stay_exact_whatever_their_neighbours_lack(tmp_path: Path) -> None:
    signature = ModelSignature(
        inputs=Schema([ColSpec("long", "n", required=False), ColSpec("boolean", "b", False)]),
        outputs=Schema([ColSpec("long")]),
    )
    model = load(save(tmp_path / "model", Echoes(), signature=signature))
    large = [2**53 + 1, None, 2**63 - 1, None, -(2**63)]
    samples = [model.request_schema.model_validate({"n": n, "b": n and True}) for n in large]
    answers = [answer.model_dump()["prediction"] for answer in model.answer(samples)]
    assert answers == [-1 if n is None else n for n in large]


def test_scikit_learn_models_answer_as_mlflow_says(tmp_path: Path) -> None:
    """A target of shape (rows, 1), and a model logged to answer probabilities."""
    features = pd.DataFrame({"x": [0.0, 1.0, 2.0, 3.0]})
    models = {
        "column": (LinearRegression().fit(features, features[["x"]]), "predict"),
        "probabilities": (LogisticRegression().fit(features, [0, 0, 1, 1]), "predict_proba"),
    }
    for name, (model, method) in models.items():
        mlflow.sklearn.save_model(
            model,
            tmp_path / name,
            serialization_format="cloudpickle",
            pyfunc_predict_fn=method,
            signature=infer_signature(features, getattr(model, method)(features)),
            pip_requirements=[],
        )
        served = load(tmp_path / name)
        rows = [served.request_schema.model_validate({"x": x}) for x in features["x"]]
        answers = [answer.model_dump()["prediction"] for answer in served.answer(rows)]
        expected = mlflow.pyfunc.load_model(str(tmp_path / name)).predict(features)
        assert np.asarray(answers) == pytest.approx(np.asarray(expected).squeeze())


def test_a_model_without_columns_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "model", AnswersNonsense(), signature=None)
    with pytest.raises(ContractError, match="neither a signature nor a recipe"):
        load(path)


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="cannot load the model"):
        load(tmp_path)


@pytest.fixture
def copied(model_directory: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may change."""
    return Path(shutil.copytree(model_directory, tmp_path / "model"))


def change(path: Path, **keys: Any) -> None:
    """Set keys of `MLmodel`; `a__b` is the key `a.b`."""
    content = yaml.safe_load((path / "MLmodel").read_text())
    for key, value in keys.items():
        *parents, last = key.split("__")
        section = content
        for parent in parents:
            section = section[parent]
        section[last] = value
    (path / "MLmodel").write_text(yaml.safe_dump(content))


@pytest.mark.parametrize("target", ["../elsewhere.pkl", "{parent}/elsewhere.pkl", "link.pkl"])
@pytest.mark.parametrize("key", ["sklearn__pickled_model", "python_function__model_path"])
def test_a_pickle_outside_of_the_model_is_refused(copied: Path, key: str, target: str) -> None:
    elsewhere = copied.parent / "elsewhere.pkl"
    (copied / "model.pkl").rename(elsewhere)
    (copied / "link.pkl").symlink_to(elsewhere)
    target = target.format(parent=copied.parent)
    change(copied, **{f"flavors__{key}": target})
    with pytest.raises(ModelLoadError) as error:
        load(copied)
    where = key.replace("__", ".")
    assert f"MLmodel: flavors.{where}: '{target}' leads out of the model's directory" in str(
        error.value
    )


def test_a_link_within_the_model_is_followed(copied: Path) -> None:
    (copied / "model.pkl").rename(copied / "real.pkl")
    (copied / "model.pkl").symlink_to("real.pkl")
    assert load(copied).engine.name == "sklearn"


def test_an_artifact_outside_of_the_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "number").write_text("40")
    artifacts = {"number": str(tmp_path / "number")}
    path = save(tmp_path / "model", ReadsItsFileWhenAsked(), artifacts=artifacts)
    change(path, flavors__python_function__artifacts__number__path="../number")
    with pytest.raises(ModelLoadError, match=r"artifacts.number.path: '../number' leads out"):
        load(path)


@pytest.mark.parametrize("target", ["../example.json", "link.json"])
def test_an_example_outside_of_the_model_is_ignored(
    copied: Path, target: str, caplog: pytest.LogCaptureFixture
) -> None:
    example = {"columns": ["x"], "data": [["from elsewhere"]]}
    elsewhere = copied.parent / "example.json"
    elsewhere.write_text(json.dumps(example))
    (copied / "link.json").symlink_to(elsewhere)
    info = {"artifact_path": target, "type": "dataframe", "pandas_orient": "split"}
    change(copied, saved_input_example_info=info)
    assert mlmodel.read(copied).example is None
    assert f"'{target}' leads out of the model's directory" in caplog.text


def test_a_compiled_form_outside_of_the_model_is_refused(copied: Path) -> None:
    (copied.parent / "compiled").mkdir()
    (copied.parent / "compiled" / "compiled.json").write_text("{}")
    (copied / "compiled").symlink_to(copied.parent / "compiled")
    with pytest.raises(ModelLoadError, match=r"'compiled/compiled.json' leads out"):
        load(copied)
