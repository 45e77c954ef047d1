"""A real model on real data: irises, with an entity column whose name is not an identifier.

These are the framework's own tests. They run in the environment and the directory of a rendered
project; tests/test_project.py starts them.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fastapi.testclient import TestClient
from postgresql import PostgreSQL, running_postgresql
from serving.api.app import create_app
from serving.config.settings import (
    CorsSettings,
    DatabaseSettings,
    LoggingSettings,
    MLflowSettings,
    ServingSettings,
    Settings,
)
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

PROJECT = Path.cwd()

RECIPE: dict[str, Any] = {
    "name": "irises",
    "task_choice": "classification",
    "data": {"data_interface": {"entity_columns": ["plant id"], "target_column": "species"}},
    "model": {"class_path": "sklearn.linear_model.LogisticRegression"},
}
SAMPLE: dict[str, Any] = {
    "plant id": 7,
    "sepal length (cm)": 5.1,
    "sepal width (cm)": 3.5,
    "petal length (cm)": 1.4,
    "petal width (cm)": 0.2,
}


@pytest.fixture(scope="module", autouse=True)
def _environment_of_the_module() -> Iterator[None]:
    """Undo what fixtures of a module set, such as the address of their store."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isolate the tests from the settings of this machine."""
    names = ["CONFIG_PATH", "RECIPE_PATH", "DATA_PATH", "OUTPUT_PATH"]
    sections = (ServingSettings, CorsSettings, MLflowSettings, LoggingSettings, DatabaseSettings)
    for section in sections:
        prefix = section.model_config.get("env_prefix", "")
        names += [f"{prefix}{name}".upper() for name in section.model_fields]
    for name in names:
        monkeypatch.setenv(name, "")  # so that a change by a command is undone after the test
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A real server, which the tests share."""
    with running_postgresql() as server:
        yield server


@pytest.fixture(scope="session")
def irises() -> pd.DataFrame:
    """150 rows: four measurements, the species, and a number that identifies the plant."""
    data = load_iris(as_frame=True)
    frame: pd.DataFrame = data.data
    frame.insert(0, "plant id", range(len(frame)))
    frame["species"] = data.target.map(dict(enumerate(data.target_names.tolist())))
    return frame


@pytest.fixture(scope="session")
def model_directory(irises: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A logged model as MLflow stores it."""
    import mlflow.sklearn
    from mlflow.models import infer_signature

    features = irises.drop(columns=["plant id", "species"])
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(features, irises["species"])
    path = tmp_path_factory.mktemp("models") / "irises"
    mlflow.sklearn.save_model(
        model,
        path,
        serialization_format="cloudpickle",
        signature=infer_signature(features, irises["species"]),
        pip_requirements=["scikit-learn"],
        metadata={
            "recipe": RECIPE,
            "entity_types": {"plant id": "long"},
            "request_example": SAMPLE,
        },
    )
    return path


@pytest.fixture(scope="session")
def local_store(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of one store for all tests of training, because making one takes seconds."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    return Settings(mlflow=MLflowSettings(tracking_uri=f"sqlite:///{file}"))


def settings_for(model: Path | str, store: Path) -> Settings:
    """Settings that serve a model, with the test's own MLflow store."""
    return Settings(
        serving=ServingSettings(model_uri=str(model)),
        mlflow=MLflowSettings(tracking_uri=f"sqlite:///{store / 'mlflow.db'}"),
    )


def wait_until_loaded(client: TestClient) -> None:
    """Return when the model is loaded or loading has failed."""
    wait_while(client, "being loaded")


def wait_while(client: TestClient, text: str) -> None:
    """Return when `/ready` no longer says the text."""
    while text in client.get("/ready").text:
        time.sleep(0.01)  # lets the loading thread run


@pytest.fixture(scope="session")
def client(model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The API with the model loaded."""
    app = create_app(settings_for(model_directory, tmp_path_factory.mktemp("store")))
    with TestClient(app, raise_server_exceptions=False) as client:
        wait_until_loaded(client)
        yield client
