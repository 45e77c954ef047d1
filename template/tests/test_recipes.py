"""Each recipe is valid, its model can be trained and served, and its API stays the same.

This file belongs to the template: `copier update` replaces it. Put your own tests into other files.
"""

import difflib
import itertools
import json
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from serving.api.app import create_app
from serving.config.settings import Settings, load_settings
from serving.contract.recipe import Loader, Task, load_recipe
from serving.data.tables import is_csv
from serving.training.trainer import train

PROJECT = Path(__file__).parents[1]
RECIPES = sorted((PROJECT / "recipes").glob("*.y*ml"))
SAMPLE_ROWS = 1000
SHOWN_LINES = 40


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.stem))
def test_recipe_is_valid(path: Path) -> None:
    load_recipe(path)


@pytest.fixture(scope="module", params=RECIPES, ids=lambda path: str(path.stem))
def recipe_path(request: pytest.FixtureRequest) -> Path:
    """Each recipe whose data is available."""
    path: Path = request.param
    source = load_recipe(path).data.loader.source_uri
    if not source or not (PROJECT / source).is_file():
        pytest.skip(f"the data of {path.name} is not available: {source}")
    return path


@pytest.fixture(scope="module")
def app(recipe_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    """The application with a model of the recipe, trained on a sample of its data."""
    store = tmp_path_factory.mktemp(recipe_path.stem)
    recipe = load_recipe(recipe_path)
    model = recipe.model.model_copy(update={"compile": False})  # slow, and does not change answers
    is_series = recipe.task_choice is Task.TIMESERIES  # a sample would be full of gaps
    source = PROJECT / str(recipe.data.loader.source_uri)
    sample = source if is_series else _sample(source, recipe.data.loader, store)
    settings = load_settings(PROJECT / "configs" / "development.yaml")
    mlflow = settings.mlflow.model_copy(update={"tracking_uri": f"sqlite:///{store}/mlflow.db"})
    settings = settings.model_copy(update={"mlflow": mlflow})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(store)  # where MLflow stores the model
        result = train(recipe.model_copy(update={"model": model}), settings, sample)
        yield create_app(_serving(settings, result.run_id))


def _sample(source: Path, loader: Loader, directory: Path) -> Path:
    """Write a sample of a file's rows, unchanged, to a new file."""
    form: dict[str, Any] = {"sep": loader.delimiter, "encoding": loader.encoding}
    read_text = {"dtype": str, "keep_default_na": False, **form}
    rows = pd.read_csv(source, **read_text) if is_csv(source) else pd.read_parquet(source)
    sample = rows.sample(min(SAMPLE_ROWS, len(rows)), random_state=0).sort_index()
    path = directory / source.name
    sample.to_csv(path, index=False, **form) if is_csv(source) else sample.to_parquet(path)
    return path


def _serving(settings: Settings, run_id: str) -> Settings:
    update = {"model_run_id": run_id, "model_uri": None, "api_key": None}
    return settings.model_copy(update={"serving": settings.serving.model_copy(update=update)})


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[TestClient]:
    """A client of the application, once its model is loaded."""
    with TestClient(app) as client:
        while "being loaded" in client.get("/ready").text:
            time.sleep(0.05)
        yield client


def test_model_predicts_its_example_online_and_in_batch(client: TestClient, tmp_path: Path) -> None:
    ready = client.get("/ready")
    assert ready.status_code == 200, ready.text
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    example: dict[str, Any] = schemas["PredictionRequest"]["example"]
    answer = client.post("/predict", json=example)
    assert answer.status_code == 200, answer.text
    batch = client.post("/predict/batch", json={"samples": [example]})
    assert batch.json()["predictions"] == [answer.json()]
    if find_spec("serving.inference"):
        from serving.inference.batch import Job, run_batch

        source, output = tmp_path / "example.csv", tmp_path / "answer.parquet"
        pd.DataFrame([example]).to_csv(source, index=False)
        app: Any = client.app
        run_batch(app.state.settings, Job(data=str(source), output=str(output)))
        [row] = pd.read_parquet(output).to_dict(orient="records")
        prediction = answer.json()["prediction"]
        if isinstance(prediction, dict):  # several outputs have a column each
            prediction = {f"prediction_{name}": value for name, value in prediction.items()}
        else:
            prediction = {"prediction": prediction}
        assert {name: row[name] for name in prediction} == prediction


def test_api_is_as_committed(
    client: TestClient, recipe_path: Path, request: pytest.FixtureRequest
) -> None:
    """Changes of columns, types or routes must be visible in reviews."""
    committed = recipe_path.with_suffix(".openapi.json")
    document = client.get("/openapi.json").json()
    now = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    if request.config.getoption("--renew-openapi"):
        committed.write_text(now, encoding="utf-8")
    if not committed.is_file():
        pytest.fail(f"no {committed.name}; run: uv run pytest --renew-openapi", pytrace=False)
    before = committed.read_text(encoding="utf-8")
    if now == before:
        return
    lines = difflib.unified_diff(before.splitlines(), now.splitlines(), committed.name, "now", n=1)
    changed = "\n".join(itertools.islice(lines, SHOWN_LINES))
    pytest.fail(
        f"the API differs from {committed.name}. If this is intended, run: "
        f"uv run pytest --renew-openapi\nThe first {SHOWN_LINES} lines that differ:\n{changed}",
        pytrace=False,
    )
