"""Train, serve, predict and batch-predict in rendered projects, over real HTTP."""

import csv
import json
import random
import shutil
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Render
from helpers import uv
from serving import logged_model, serve, train, wait_for_workers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def orders(project: Path) -> Path:
    """A recipe for a data set that nobody tuned anything for."""
    dice = random.Random(0)
    header = ["Order No", "placed on", "quantity", "spent ($)", "고객 등급", "is-member", "class"]
    with (project / "orders.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(header)
        for number in range(300):
            quantity, tier = dice.randint(1, 20), dice.choice(["gold", "silver"])
            spent = round(quantity * 2.5 + (tier == "gold") * 10 + dice.random(), 2)
            day = date(2026, 1, 1) + timedelta(days=number)
            member, kind = dice.choice([True, False]), dice.choice(["a", "b", ""])
            rows.writerow([f"{number:05}", day, quantity, spent, tier, member, kind])
    recipe = project / "orders.yaml"
    recipe.write_text(
        """
        name: orders
        task_choice: regression
        data:
          loader: {source_uri: orders.csv}
          data_interface: {entity_columns: [Order No], target_column: spent ($)}
        preprocessor:
          steps:
            - {type: simple_imputer, strategy: most_frequent, columns: [class]}
            - {type: one_hot_encoder}
            - {type: standard_scaler}
        model:
          class_path: sklearn.ensemble.GradientBoostingRegressor
          hyperparameters: {values: {random_state: 0}}
        """,
        encoding="utf-8",
    )
    return recipe


def request_schema(document: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = document["components"]["schemas"]["PredictionRequest"]
    return schema


def test_example_from_training_to_prediction(project: Path, penguins: str) -> None:
    with serve(project, "--run-id", penguins) as http:
        example = request_schema(http.get("/openapi.json").json())["example"]
        answer = http.post("/predict", json=example).json()
        assert answer["prediction"] == "Adelie"
        assert answer["confidence"] > 0.5
        assert answer["entities"] == {"penguin_id": "example"}  # none of the data

        rows = list(csv.DictReader((project / "data/penguins.csv").open(encoding="utf-8")))
        samples = [_sample(row, set(example)) for row in rows]
        batch = http.post("/predict/batch", json={"samples": samples}).json()["predictions"]
        assert [one["entities"]["penguin_id"] for one in batch] == [r["penguin_id"] for r in rows]
        right = sum(
            one["prediction"] == row["species"] for one, row in zip(batch, rows, strict=True)
        )
        assert right / len(rows) > 0.95
        assert http.get("/model").json()["run_id"] == penguins

    options = ["--run-id", penguins, "--data-path", "data/penguins.csv"]
    uv("run", "mmp", "batch-inference", *options, "--output-path", "out.csv", cwd=project)
    written = list(csv.DictReader((project / "out.csv").open(encoding="utf-8")))
    assert [row["prediction"] for row in written] == [one["prediction"] for one in batch]
    assert [{name: row[name] for name in rows[0]} for row in written] == rows


def test_a_data_set_that_nobody_tuned_for(project: Path, orders: Path) -> None:
    run_id = train(project, "--recipe-path", orders)
    with serve(project, "--run-id", run_id, "--workers", "2") as http:
        schema = request_schema(http.get("/openapi.json").json())
        types = {
            name: "/".join(
                [one.get("format") or one["type"] for one in value.get("anyOf", [value])]
            )
            for name, value in schema["properties"].items()
        }
        assert types == {
            "Order No": "string",  # 00001 is no number
            "placed on": "date-time",
            "quantity": "integer",
            "고객 등급": "string",
            "is-member": "boolean",
            "class": "string/null",
        }
        assert schema["required"] == ["Order No", "placed on", "quantity", "고객 등급", "is-member"]
        wait_for_workers(http, 2)
        for _ in range(10):
            answer = http.post("/predict", json=schema["example"])
            assert answer.status_code == 200, answer.text
        sample = schema["example"] | {"quantity": 10, "고객 등급": "gold"}
        assert http.post("/predict", json=sample).json()["prediction"] == pytest.approx(35.5, abs=2)
        refused = http.post("/predict", json=sample | {"spent ($)": 1})
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["pointer"] == "/spent ($)"


def test_an_api_without_training_serves_what_was_trained_elsewhere(
    project: Path, penguins: str, render: Render
) -> None:
    api = render(project_name="Api alone", stages=("api",))
    uv("sync", "--quiet", cwd=api)
    shutil.copytree(logged_model(project, penguins), api / "model", dirs_exist_ok=True)
    with serve(api, "--model-uri", "model") as http:
        model = http.get("/model").json()
        assert model["run_id"] == penguins
        example = request_schema(http.get("/openapi.json").json())["example"]
        assert http.post("/predict", json=example).json()["prediction"] == "Adelie"


def test_a_model_that_is_not_there_is_named_and_the_process_lives(project: Path) -> None:
    with serve(project, "--run-id", "0" * 32, settled=503) as http:
        assert http.get("/health").status_code == 200
        assert "could not be loaded" in http.get("/ready").json()["detail"]
    log = (project / "server.log").read_text()
    assert f"cannot load the model runs:/{'0' * 32}/model from sqlite:///mlflow.db: " in log


def test_mlflow_loads_the_logged_model_without_the_project(project: Path, penguins: str) -> None:
    """What is logged depends on scikit-learn and pandas alone."""
    code = f"""
        import mlflow, sys
        mlflow.set_tracking_uri("sqlite:///mlflow.db")
        model = mlflow.pyfunc.load_model("runs:/{penguins}/model")
        print(model.predict(model.input_example).tolist())
        assert "serving" not in sys.modules
    """
    code = "\n".join(line.strip() for line in code.splitlines())
    output = uv("run", "python", "-c", code, cwd=project).stdout
    assert output.splitlines()[-1] == "['Adelie']"


def _sample(row: dict[str, str], names: set[str]) -> dict[str, Any]:
    """A row of the CSV file as JSON: empty is null, and what looks like a number is one."""

    def value(text: str) -> Any:
        try:
            return json.loads(text) if text else None
        except ValueError:
            return text

    return {name: value(text) for name, text in row.items() if name in names}
