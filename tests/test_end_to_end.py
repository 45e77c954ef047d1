"""Train, serve, predict over real HTTP, and run batch inference in rendered projects."""

import csv
import json
import random
import shutil
from collections import Counter
from datetime import date, timedelta
from pathlib import Path
from statistics import correlation
from typing import Any

import pytest
import yaml
from conftest import Render
from helpers import LONG, ROOT, run, uv
from serving import logged_model, serve, train, wait_for_workers

pytestmark = pytest.mark.slow

FRAMEWORK = ROOT / "tests" / "framework"


@pytest.fixture(scope="module")
def orders(project: Path) -> Path:
    """A recipe for an ordinary data set that the project is not tuned for."""
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
        assert answer["entities"] == {"penguin_id": "example"}  # not from the data

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
            "Order No": "string",  # 00001 is not a number
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


def test_penguins_are_clustered_without_their_species(project: Path) -> None:
    """The API, batch inference, and both forms of the model give the same labels and distances."""
    recipe = yaml.safe_load((project / "recipes/penguins.yaml").read_text(encoding="utf-8"))
    recipe |= {"name": "groups", "task_choice": "clustering"}
    recipe["data"]["data_interface"]["target_column"] = None
    recipe["model"] |= {
        "class_path": "sklearn.cluster.KMeans",
        "hyperparameters": {"values": {"n_clusters": 3, "n_init": 5, "random_state": 0}},
    }
    (project / "groups.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    run_id = train(project, "--recipe-path", "groups.yaml")
    checked = uv("run", "mmp", "check", "--run-id", run_id, cwd=project).stdout
    assert "compiled: yes, 344 rows of data" in checked
    assert "answers:\n  prediction: long\n  distances: 0, 1, 2\n" in checked

    rows = list(csv.DictReader((project / "data/penguins.csv").open(encoding="utf-8")))
    found = {}
    for engine in ("native", "onnx"):
        with serve(project, "--run-id", run_id, "--engine", engine) as http:
            example = request_schema(http.get("/openapi.json").json())["example"]
            answer = http.post("/predict", json=example)
            assert answer.status_code == 200, answer.text
            assert set(answer.json()["distances"]) == {"0", "1", "2"}
            samples = [_sample(row, set(example)) for row in rows]
            batch = http.post("/predict/batch", json={"samples": samples}).json()["predictions"]
            one = http.post("/predict", json=samples[7]).json()
            assert one["prediction"] == batch[7]["prediction"]
            assert one["distances"] == pytest.approx(batch[7]["distances"])
        options = ("--run-id", run_id, "--engine", engine, "--data-path", "data/penguins.csv")
        uv("run", "mmp", "batch-inference", *options, "-o", f"{engine}.csv", cwd=project)
        written = list(csv.DictReader((project / f"{engine}.csv").open(encoding="utf-8")))
        assert [int(row["prediction"]) for row in written] == [one["prediction"] for one in batch]
        for row, one in zip(written, batch, strict=True):
            distances = {label: float(row[f"distance_{label}"]) for label in "012"}
            assert distances == pytest.approx(one["distances"])
        found[engine] = [one["prediction"] for one in batch]
    assert found["native"] == found["onnx"]
    # Each group is mostly one species.
    pairs = Counter(zip(found["onnx"], (row["species"] for row in rows), strict=True))
    largest = {label: max(n for (one, _), n in pairs.items() if one == label) for label in range(3)}
    assert sum(largest.values()) / len(rows) > 0.75


def diet(project: Path, class_path: str, values: str) -> list[float]:
    """Write the recipe `diet.yaml`, and its data; return the effect on each penguin.

    A made-up diet adds 20 g to real penguins for each mm of flipper beyond 200 mm.
    """
    with (project / "data/penguins.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["body_mass_g"]]
    dice = random.Random(0)
    features = ("penguin_id", "island", "bill_length_mm", "bill_depth_mm", "flipper_length_mm")
    effects = [20 * (float(row["flipper_length_mm"]) - 200) for row in rows]
    with (project / "diet.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow([*features, "diet", "mass"])
        for row, effect in zip(rows, effects, strict=True):
            is_given = dice.randint(0, 1)
            mass = float(row["body_mass_g"]) + effect * is_given
            table.writerow([*(row[name] for name in features), is_given, mass])
    (project / "diet.yaml").write_text(
        """
        name: diet
        task_choice: causal
        data:
          loader: {source_uri: diet.csv}
          data_interface:
            entity_columns: [penguin_id]
            target_column: mass
            treatment_column: diet
        preprocessor: {steps: [{type: one_hot_encoder}, {type: standard_scaler}]}
        model:
          class_path: CLASS_PATH
          compile: true
          hyperparameters: {values: VALUES}
        """.replace("CLASS_PATH", class_path).replace("VALUES", values),
        encoding="utf-8",
    )
    return effects


def test_the_effect_of_a_treatment_on_penguins(project: Path) -> None:
    values = "{estimator: sklearn.linear_model.Ridge}"
    effects = diet(project, "serving.causal.TLearner", values)
    rows = list(csv.DictReader((project / "diet.csv").open(encoding="utf-8")))
    run_id = train(project, "--recipe-path", "diet.yaml")
    checked = uv("run", "mmp", "check", "--run-id", run_id, cwd=project).stdout
    assert "compiled: yes, 342 rows of data" in checked
    assert "  outcome_with_treatment: double\n" in checked
    outcomes = ("outcome_with_treatment", "outcome_without_treatment")
    for engine in ("native", "onnx"):
        with serve(project, "--run-id", run_id, "--engine", engine) as http:
            example = request_schema(http.get("/openapi.json").json())["example"]
            assert "diet" not in example
            answer = http.post("/predict", json=example)
            assert answer.status_code == 200, answer.text
            samples = [_sample(row, set(example)) for row in rows]
            batch = http.post("/predict/batch", json={"samples": samples}).json()["predictions"]
            one = http.post("/predict", json=samples[7]).json()
            assert one["prediction"] == pytest.approx(batch[7]["prediction"])
        options = ("--run-id", run_id, "--engine", engine, "--data-path", "diet.csv")
        uv("run", "mmp", "batch-inference", *options, "-o", f"{engine}.csv", cwd=project)
        written = list(csv.DictReader((project / f"{engine}.csv").open(encoding="utf-8")))
        for row, one in zip(written, batch, strict=True):
            for name in ("prediction", *outcomes):
                assert float(row[name]) == pytest.approx(one[name])
        assert correlation([one["prediction"] for one in batch], effects) > 0.8


@pytest.mark.parametrize("strategy", ["direct", "recursive"])
def test_the_temperatures_of_the_next_days(project: Path, strategy: str) -> None:
    """The API, batch inference, and both forms of the model give the same forecasts."""
    shutil.copy(ROOT / "tests/data/seattle.csv", project / "seattle.csv")
    (project / "seattle.yaml").write_text(
        """
        name: seattle
        task_choice: timeseries
        data:
          loader: {source_uri: seattle.csv}
          data_interface: {target_column: high, timestamp_column: date, feature_columns: []}
          forecasting:
            horizon: 3
            strategy: STRATEGY
            lags: [1, 2, 7]
            rolling: [{window: 7, statistics: [mean, std]}]
            calendar: [dayofyear, dayofweek]
        model:
          class_path: sklearn.ensemble.HistGradientBoostingRegressor
          compile: true
        """.replace("STRATEGY", strategy),
        encoding="utf-8",
    )
    run_id = train(project, "--recipe-path", "seattle.yaml")
    checked = uv("run", "mmp", "check", "--run-id", run_id, cwd=project).stdout
    assert "compiled: yes, 1,452 rows of data" in checked
    assert "  date: timestamp, datetime\n" in checked
    assert "  history: history, 7 numbers, the oldest first\n" in checked

    days = list(csv.DictReader((project / "seattle.csv").open(encoding="utf-8")))
    values = [float(day["high"]) for day in days]
    rows = range(1_000, 1_400)
    samples = [{"date": days[row]["date"], "history": values[row - 7 : row]} for row in rows]
    with (project / "days.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["date", "history"])
        table.writerows([one["date"], json.dumps(one["history"])] for one in samples)
    steps = ("step_1", "step_2", "step_3")
    found = {}
    for engine in ("native", "onnx"):
        with serve(project, "--run-id", run_id, "--engine", engine) as http:
            example = request_schema(http.get("/openapi.json").json())["example"]
            answer = http.post("/predict", json=example)
            assert answer.status_code == 200, answer.text
            batch = http.post("/predict/batch", json={"samples": samples}).json()["predictions"]
            one = http.post("/predict", json=samples[7]).json()
            assert one["prediction"] == pytest.approx(batch[7]["prediction"])
        options = ("--run-id", run_id, "--engine", engine, "--data-path", "days.csv")
        uv("run", "mmp", "batch-inference", *options, "-o", f"{engine}.csv", cwd=project)
        written = list(csv.DictReader((project / f"{engine}.csv").open(encoding="utf-8")))
        found[engine] = [[float(row[f"prediction_{step}"]) for step in steps] for row in written]
        for row, one in zip(found[engine], batch, strict=True):
            assert row == pytest.approx([one["prediction"][step] for step in steps])
    for ours, theirs in zip(found["native"], found["onnx"], strict=True):
        assert ours == pytest.approx(theirs)
    assert correlation([one[2] for one in found["onnx"]], values[1_002:1_402]) > 0.7
    if strategy == "direct":  # the project's own tests pass with this recipe
        shutil.move(project / "seattle.yaml", project / "recipes")
        try:
            uv("run", "pytest", "-q", "-k", "seattle", "--renew-openapi", cwd=project)
        finally:
            for made in project.glob("recipes/seattle.*"):
                made.unlink()


@pytest.mark.skipif(not LONG, reason="installs econml, which takes minutes: LONG_TESTS=1")
def test_estimators_of_econml_are_trained_and_served(render: Render) -> None:
    project = render(project_name="With econml")
    effects = diet(project, "econml.dml.LinearDML", "{random_state: 0}")
    uv("sync", "--quiet", cwd=project)
    command = ("run", "mmp", "train", "--recipe-path", "diet.yaml")
    refused = uv(*command, cwd=project, check=False)
    assert refused.returncode == 2
    assert "add its package with 'uv add --group native'" in refused.stderr
    uv("add", "--quiet", "--group", "native", "econml==0.17.*", cwd=project)
    quiet = ("-q", "-c", "pyproject.toml", f"--confcutdir={FRAMEWORK}")
    uv("run", "pytest", *quiet, FRAMEWORK / "training/test_econml.py", cwd=project)

    output = uv(*command, cwd=project).stdout
    assert "there is no converter for econml's LinearDML" in output
    names = ("prediction", "effect_lower", "effect_upper")
    with serve(project, "--run-id", "latest") as http:
        example = request_schema(http.get("/openapi.json").json())["example"]
        answer = http.post("/predict", json=example).json()
        assert answer["effect_lower"] < answer["prediction"] < answer["effect_upper"]
        rows = list(csv.DictReader((project / "diet.csv").open(encoding="utf-8")))
        samples = [_sample(row, set(example)) for row in rows]
        batch = http.post("/predict/batch", json={"samples": samples}).json()["predictions"]
    options = ("--run-id", "latest", "--data-path", "diet.csv", "-o", "out.csv")
    uv("run", "mmp", "batch-inference", *options, cwd=project)
    written = list(csv.DictReader((project / "out.csv").open(encoding="utf-8")))
    for row, one in zip(written, batch, strict=True):
        for name in names:
            assert float(row[name]) == pytest.approx(one[name])
    assert correlation([one["prediction"] for one in batch], effects) > 0.8


@pytest.mark.skipif(not LONG, reason="installs statsforecast: LONG_TESTS=1")
def test_a_forecaster_is_trained_and_served_without_its_library(render: Render) -> None:
    project = render(project_name="With statsforecast")
    days = list(csv.DictReader((ROOT / "tests/data/seattle.csv").open(encoding="utf-8")))
    with (project / "two.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["kind", "date", "temperature"])
        table.writerows([kind, day["date"], day[kind]] for kind in ("high", "low") for day in days)
    (project / "two.yaml").write_text(
        """
        name: temperatures
        task_choice: timeseries
        data:
          loader: {source_uri: two.csv}
          data_interface:
            entity_columns: [kind]
            target_column: temperature
            timestamp_column: date
          forecasting: {horizon: 14, frequency: D}
        model:
          class_path: statsforecast.models.AutoETS
          compile: true
          hyperparameters: {values: {season_length: 7}}
        """,
        encoding="utf-8",
    )
    uv("sync", "--quiet", cwd=project)
    command = ("run", "mmp", "train", "--recipe-path", "two.yaml")
    refused = uv(*command, cwd=project, check=False)
    assert refused.returncode == 2
    package = "statsforecast==2.0.*; sys_platform != 'win32'"
    assert f'add its package with: uv add --group training "{package}"' in refused.stderr
    uv("add", "--quiet", "--group", "training", package, cwd=project)
    quiet = ("-q", "-c", "pyproject.toml", f"--confcutdir={FRAMEWORK}")
    uv("run", "pytest", *quiet, FRAMEWORK / "training/test_forecasters.py", cwd=project)
    output = uv(*command, cwd=project).stdout
    assert "after the backtest, the model is fitted on all of them" in output
    assert "forecasts are looked up, so there is nothing to compile" in output

    uv("remove", "--quiet", "--group", "training", "statsforecast", cwd=project)
    asked = [("low", f"2016-01-{day:02}") for day in range(1, 15)]
    samples = [{"kind": kind, "date": day} for kind, day in asked]
    with serve(project, "--run-id", "latest") as http:
        example = request_schema(http.get("/openapi.json").json())["example"]
        assert http.post("/predict", json=example).status_code == 200
        batch = http.post("/predict/batch", json={"samples": samples}).json()["predictions"]
        late = http.post("/predict", json={"kind": "low", "date": "2016-01-15"})
        assert late.status_code == 422
    with (project / "asked.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("kind", "date"), *asked, ("low", "2016-01-15")])
    options = ("--run-id", "latest", "--data-path", "asked.csv", "-o", "out.csv")
    rejecting = ("--on-bad-row", "quarantine", "--rejected-path", "rejected.csv")
    done = uv("run", "mmp", "batch-inference", *options, *rejecting, cwd=project, check=False)
    assert done.returncode == 3
    written = list(csv.DictReader((project / "out.csv").open(encoding="utf-8")))
    for row, one in zip(written, batch, strict=True):
        for name in ("prediction", "prediction_lower", "prediction_upper"):
            assert float(row[name]) == pytest.approx(one[name])
    rejected = (project / "rejected.csv").read_text(encoding="utf-8")
    assert "the forecasts of kind low are for 2016-01-01 00:00:00 to 2016-01-14" in rejected


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


def test_a_missing_run_is_named_with_existing_runs(project: Path, penguins: str) -> None:
    files = ("--data-path", "data/penguins.csv", "--output-path", "none.csv")
    commands: list[tuple[str, ...]] = [("batch-inference", *files)]
    commands += [(name,) for name in ("serve-api", "check", "schema", "compile")]
    messages = set()
    for command in commands:
        mmp = project / ".venv/bin/mmp"
        answer = run(mmp, *command, "--run-id", "abc", cwd=project, check=False)
        assert answer.returncode == 2, answer.stderr
        messages.add(answer.stderr)
    [message] = messages
    assert message.startswith("mmp: there is no run 'abc' in sqlite:///mlflow.db; the latest runs ")
    assert message.endswith("; 'mmp runs' lists more\n")
    listed = uv("run", "mmp", "runs", "--count", "100", cwd=project).stdout
    [line] = [line for line in listed.splitlines() if line.startswith(penguins)]
    assert line.split()[4:] == [
        *("penguins", "finished", "LogisticRegression", "test_accuracy=1", "yes"),
    ]


def test_a_copied_project_trains_and_serves_in_its_own_place(
    project: Path, penguins: str, tmp_path: Path
) -> None:
    """The store of a copied project has the paths of the original project."""
    copy = tmp_path / "copy"
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns(".venv*"))
    uv("sync", "--quiet", cwd=copy)
    run_id = train(copy)
    assert logged_model(copy, run_id).is_dir()
    assert not [
        file
        for file in project.glob("mlruns/*/models/*/artifacts/MLmodel")
        if run_id in file.read_text(encoding="utf-8")
    ]
    with serve(copy, "--run-id", "latest", "--workers", "2") as http:
        assert http.get("/model").json()["run_id"] == run_id
    shutil.rmtree(logged_model(copy, penguins))
    refused = run(copy / ".venv/bin/mmp", "check", "--run-id", penguins, cwd=copy, check=False)
    assert refused.returncode == 2
    assert "MLflow has recorded it as an absolute path" in refused.stderr


def test_mlflow_loads_the_logged_model_without_the_project(project: Path, penguins: str) -> None:
    """The logged model depends only on scikit-learn and pandas."""
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
    """A row of the CSV file as JSON: empty becomes null, and numeric text becomes a number."""

    def value(text: str) -> Any:
        try:
            return json.loads(text) if text else None
        except ValueError:
            return text

    return {name: value(text) for name, text in row.items() if name in names}
