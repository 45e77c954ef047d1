"""Training: any estimator, logged so that it can be served."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import RECIPE
from serving.config.settings import MLflowSettings, ServingSettings, Settings
from serving.contract.recipe import Recipe, load_recipe
from serving.data.tables import read_table, to_table
from serving.errors import DataError, RecipeError, ServingError, TrainingError
from serving.model.loading import load_model
from serving.training.data import load_dataset
from serving.training.pipeline import build_pipeline
from serving.training.trainer import train

IMPUTE = {"type": "simple_imputer", "strategy": "median"}
ONE_HOT = {"type": "one_hot_encoder"}
SCALE = {"type": "standard_scaler"}


@pytest.fixture(scope="session")
def settings(local_store: Settings) -> Settings:
    return local_store


@pytest.fixture(autouse=True)
def _in_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def recipe(
    steps: list[dict[str, Any]],
    task: str = "classification",
    class_path: str = "sklearn.linear_model.LogisticRegression",
    values: dict[str, Any] | None = None,
    **interface: Any,
) -> Recipe:
    return Recipe.model_validate(
        RECIPE
        | {
            "task_choice": task,
            "data": {"data_interface": interface},
            "preprocessor": {"steps": steps},
            "model": {"class_path": class_path, "hyperparameters": {"values": values}},
        }
    )


@pytest.fixture
def orders() -> pd.DataFrame:
    """Made-up orders with every kind of column, gaps in some, and the target in the middle."""
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "order": [f"{n:04}" for n in range(120)],
            "placed on": pd.date_range("2026-01-01", periods=120).strftime("%Y-%m-%d"),
            "quantity": random.integers(1, 9, 120),
            "spent": 0.0,
            "tier": random.choice(["gold", "silver"], 120),
            "member": random.choice([True, False], 120),
            "rating": random.choice([1.0, 2.5, np.nan], 120),
        }
    )
    frame["spent"] = frame["quantity"] * 2.5 + (frame["tier"] == "gold") * 3
    return frame


def served(settings: Settings, run_id: str) -> Any:
    return load_model(settings.model_copy(update={"serving": ServingSettings(model_run_id=run_id)}))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_what_is_trained_can_be_served(
    settings: Settings, orders: pd.DataFrame, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"orders{suffix}"
    orders.to_csv(path, index=False) if suffix == ".csv" else orders.to_parquet(path)
    result = train(
        recipe(
            [IMPUTE, ONE_HOT, SCALE],
            "regression",
            "sklearn.linear_model.Ridge",
            {"alpha": 0.01},
            entity_columns=["order"],
            target_column="spent",
        ),
        settings,
        path,
    )
    assert result.rows == {"train": 96, "test": 24}
    assert result.metrics["test_r2"] > 0.95

    model = served(settings, result.run_id)
    columns = {column.name: column.type for column in model.schemas.columns}
    assert columns == {
        "order": "string",
        "placed on": "datetime",
        "quantity": "long",
        "tier": "string",
        "member": "boolean",
        "rating": "double",
    }
    assert [c.name for c in model.schemas.columns if not c.required] == ["rating"]
    sample = model.request_schema.model_validate(
        {
            "order": "0001",
            "placed on": "2026-02-01",
            "quantity": 4,
            "tier": "gold",
            "member": True,
            "rating": None,
        }
    )
    [answer] = model.answer([sample])
    body = answer.model_dump(by_alias=True)
    assert body["prediction"] == pytest.approx(13, abs=0.5)
    assert body["entities"] == {"order": "0001"}


@pytest.mark.parametrize(
    ("class_path", "values"),
    [
        ("sklearn.ensemble.RandomForestClassifier", {"n_estimators": 10}),
        ("sklearn.svm.SVC", {}),  # without probabilities
    ],
)
@pytest.mark.parametrize("labels", [["a", "b"], [0, 1], [True, False]])
def test_labels_keep_their_type(
    settings: Settings, tmp_path: Path, class_path: str, values: dict[str, Any], labels: list[Any]
) -> None:
    frame = pd.DataFrame({"x": np.arange(60.0), "y": [labels[n > 29] for n in range(60)]})
    frame.to_csv("two.csv", index=False)
    result = train(
        recipe([], class_path=class_path, values=values, target_column="y"),
        settings,
        Path("two.csv"),
    )
    model = served(settings, result.run_id)
    sample = model.request_schema.model_validate({"x": 2.0})
    [answer] = model.answer([sample])
    body = answer.model_dump()
    assert body["prediction"] == labels[0]
    assert type(body["prediction"]) is type(labels[0])
    assert bool(body["probabilities"]) is class_path.endswith("RandomForestClassifier")


def test_rows_without_target_are_left_out(settings: Settings, orders: pd.DataFrame) -> None:
    orders.loc[:9, "tier"] = None
    orders.to_csv("orders.csv", index=False)
    result = train(
        recipe([], target_column="tier", feature_columns=["quantity"]), settings, Path("orders.csv")
    )
    assert result.dropped == 10
    assert sum(result.rows.values()) == 110


def test_integer_classes_stay_integers_where_some_are_missing() -> None:
    labels = [None if n % 10 == 0 else n % 2 for n in range(60)]
    pd.DataFrame({"x": range(60), "y": labels}).to_csv("gaps.csv", index=False)
    data = load_dataset(recipe([], target_column="y"), Path("gaps.csv"))
    assert data.target_column is not None
    assert data.target_column.type == "long"


def test_the_example_is_typical_and_identifies_nobody(settings: Settings, tmp_path: Path) -> None:
    """Neither callers nor the stored model see a row's entity or text."""
    from mlflow.artifacts import download_artifacts

    rows = 60
    people = [f"Ada Lovelace {n}" for n in range(rows)]
    frame = pd.DataFrame(
        {
            "person": people,
            "age": [30, 40, 50] * 20,
            "income": [1000.5, None, 3000.5] * 20,
            "tier": ["gold", "silver", "silver"] * 20,
            "member": [True, True, False] * 20,
            "since": pd.date_range("2026-01-01", periods=rows).strftime("%Y-%m-%dT13:45:07"),
            "nickname": [f"Countess {n}" for n in range(rows)],
            "title": ["Dr."] * 50 + ["Countess of Lovelace"] + ["Ms."] * 9,
            "y": [0, 1, 1] * 20,
        }
    )
    frame.to_csv("people.csv", index=False)
    plan = recipe([IMPUTE, ONE_HOT, SCALE], entity_columns=["person"], target_column="y")
    result = train(plan, settings, Path("people.csv"))
    features = {
        "age": 40,
        "income": 3000.5,
        "tier": "silver",
        "member": True,
        "since": "2026-01-31T00:00:00Z",
        "nickname": "example",
        "title": "Dr.",
    }
    model = served(settings, result.run_id)
    assert model.schemas.example == {"person": "example", **features}
    shown = model.schemas.generate_openapi_spec()["components"]["schemas"]["PredictionRequest"]
    assert shown["properties"]["title"]["examples"] == ["Dr.", "Ms."]

    directory = Path(download_artifacts(f"models:/{result.model_id}", dst_path=str(tmp_path)))
    kept = [file for file in directory.rglob("*") if file.suffix not in (".pkl", ".csv")]
    assert "input_example.json" in {file.name for file in kept}
    text = "".join(file.read_text() for file in kept if file.is_file())
    assert "silver" in text
    assert "Lovelace" not in text
    assert "Countess" not in text


def test_the_input_example_has_the_types_of_the_signature(
    settings: Settings, orders: pd.DataFrame
) -> None:
    import mlflow.pyfunc

    orders.to_csv("orders.csv", index=False)
    plan = recipe([IMPUTE, ONE_HOT], entity_columns=["order"], target_column="tier")
    result = train(plan, settings, Path("orders.csv"))
    model = mlflow.pyfunc.load_model(f"runs:/{result.run_id}/model")
    logged = model.metadata.signature.inputs.to_dict()
    assert {column["name"]: column["type"] for column in logged} == {
        "placed on": "datetime",
        "quantity": "long",
        "spent": "double",
        "member": "boolean",
        "rating": "double",
    }
    assert len(model.predict(model.input_example)) == 1  # MLflow refuses other types


def with_example(plan: Recipe, **example: Any) -> Recipe:
    data = plan.data.model_copy(update={"example": example})
    return plan.model_copy(update={"data": data})


def test_a_recipe_may_give_values_of_its_example(settings: Settings, orders: pd.DataFrame) -> None:
    orders.to_csv("orders.csv", index=False)
    plan = recipe([IMPUTE, ONE_HOT], entity_columns=["order"], target_column="member")
    own = {"order": "0815", "placed on": "2027-05-01", "quantity": 3, "spent": 7, "rating": None}
    result = train(with_example(plan, **own), settings, Path("orders.csv"))
    example = served(settings, result.run_id).schemas.example
    assert example == {
        **{"order": "0815", "placed on": "2027-05-01T00:00:00Z", "quantity": 3, "spent": 7.0},
        **{"tier": orders["tier"].mode().iloc[0], "rating": None},
    }


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"nope": 1}, "data.example.nope: is not a column of a request; the columns are order, "),
        ({"member": True}, "data.example.member: is not a column of a request; "),  # the target
        ({"quantity": 1.5}, "data.example.quantity: must be a 64-bit integer"),
        ({"quantity": None}, "data.example.quantity: must be a 64-bit integer"),
        ({"placed on": "soon"}, "data.example.placed on: must be an RFC 3339 date-time or a date"),
        ({"tier": 1}, "data.example.tier: must be a string"),
        ({"order": 15}, "data.example.order: must be a string"),
    ],
)
def test_a_wrong_value_of_the_example_is_named(
    orders: pd.DataFrame, example: dict[str, Any], message: str
) -> None:
    orders.to_csv("orders.csv", index=False)
    plan = recipe([], entity_columns=["order"], target_column="member")
    with pytest.raises(RecipeError) as caught:
        load_dataset(with_example(plan, **example), Path("orders.csv"))
    assert str(caught.value).startswith(message)


def test_a_model_that_refuses_made_up_text_needs_an_example(
    settings: Settings, orders: pd.DataFrame
) -> None:
    # There are more cities than the profile lists, so the example's is made up and unknown.
    orders["city"] = [f"city {n % 24}" for n in range(len(orders))]
    orders.to_csv("orders.csv", index=False)
    step = ONE_HOT | {"handle_unknown": "error"}
    plan = recipe([step], target_column="member", feature_columns=["city", "tier"])
    with pytest.raises(RecipeError) as caught:
        train(plan, settings, Path("orders.csv"))
    assert str(caught.value).startswith("data.example: the model fails on the API's example: ")
    assert str(caught.value).endswith(
        "give values that it accepts (the values of city are made up)"
    )
    train(with_example(plan, city="city 1"), settings, Path("orders.csv"))


def test_booleans_with_gaps_are_numbers(orders: pd.DataFrame) -> None:
    orders["gifted"] = [None, *[n % 2 == 0 for n in range(119)]]
    for path in (Path("orders.csv"), Path("orders.parquet")):
        orders.to_csv(path, index=False) if path.suffix == ".csv" else orders.to_parquet(path)
        data = load_dataset(recipe([], target_column="member"), path)
        assert data.feature_columns[-1].type == "double"
        assert data.features["gifted"].dropna().unique().tolist() == [1.0, 0.0]
        # A CSV batch file is read as text; it must give the same values.
        text = read_table(path, as_text=["gifted"])
        again = to_table(text, data.feature_columns[-1:], path, from_text=path.suffix == ".csv")
        np.testing.assert_array_equal(again["gifted"], data.features["gifted"].to_numpy())


def test_a_temporal_split_tests_on_the_latest_rows(
    settings: Settings, orders: pd.DataFrame
) -> None:
    orders.sample(frac=1, random_state=0).to_csv("orders.csv", index=False)
    plan = recipe([SCALE], target_column="tier", feature_columns=["quantity"])
    split = {"strategy": "temporal", "temporal_column": "placed on"}
    plan = Recipe.model_validate(
        plan.model_dump() | {"data": plan.data.model_dump() | {"split": split}}
    )
    from serving.training.splitting import split as divide

    data = load_dataset(plan, Path("orders.csv"))
    parts = divide(plan, data, "orders.csv")
    times = data.time
    assert times is not None
    assert times[parts["train"]].max() < times[parts["test"]].min()


STEPS = [
    [{"type": "simple_imputer", "create_missing_indicators": True}, SCALE],
    [{"type": "constant_fill", "fill_value": 0, "columns": ["rating"]}],
    [IMPUTE, {"type": "min_max_scaler"}, {"type": "polynomial_features", "degree": 2}],
    [IMPUTE, {"type": "robust_scaler"}, {"type": "kbins_discretizer", "n_bins": 3}],
    [IMPUTE, {"type": "ordinal_encoder"}],
    [{"type": "constant_fill", "fill_value": "none"}, IMPUTE, ONE_HOT],
]


@pytest.mark.parametrize("steps", STEPS)
def test_every_step_fits(orders: pd.DataFrame, steps: list[dict[str, Any]]) -> None:
    orders.to_csv("orders.csv", index=False)
    features = ["quantity", "rating"]
    if any("encoder" in step["type"] for step in steps):
        features.append("tier")
    plan = recipe(
        steps,
        "regression",
        "sklearn.linear_model.Ridge",
        {},
        target_column="spent",
        feature_columns=features,
    )
    data = load_dataset(plan, Path("orders.csv"))
    pipeline = build_pipeline(plan, data.feature_columns)
    pipeline.fit(data.features, data.target)
    assert np.isfinite(pipeline.predict(data.features)).all()


def test_any_date_of_the_calendar_is_taken(orders: pd.DataFrame) -> None:
    orders.to_csv("orders.csv", index=False)
    plan = recipe(
        [],
        "regression",
        "sklearn.linear_model.Ridge",
        {},
        target_column="spent",
        feature_columns=["placed on"],
    )
    data = load_dataset(plan, Path("orders.csv"))
    pipeline = build_pipeline(plan, data.feature_columns)
    pipeline.fit(data.features, data.target)
    days = np.array(["0001-01-01", "9999-12-31"], dtype="datetime64[us]")
    assert np.isfinite(pipeline.predict(pd.DataFrame({"placed on": days}))).all()


def test_a_value_that_training_never_saw_is_no_error(orders: pd.DataFrame) -> None:
    orders.to_csv("orders.csv", index=False)
    plan = recipe(
        [ONE_HOT],
        "regression",
        "sklearn.linear_model.Ridge",
        {},
        target_column="spent",
        feature_columns=["tier"],
    )
    data = load_dataset(plan, Path("orders.csv"))
    pipeline = build_pipeline(plan, data.feature_columns)
    pipeline.fit(data.features, data.target)
    assert np.isfinite(pipeline.predict(pd.DataFrame({"tier": ["platinum"]}))).all()


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"target_column": "nope"}, DataError, "has no column 'nope'"),
        (
            {"target_column": "tier", "feature_columns": ["nope"]},
            DataError,
            "has no column 'nope' (named in the recipe's feature_columns)",
        ),
        ({"target_column": "tier", "task": "regression"}, DataError, "regression needs numbers"),
        ({"target_column": "spent"}, DataError, "classification needs classes"),
        (
            {"target_column": "tier", "task": "timeseries", "timestamp_column": "placed on"},
            DataError,
            "a time series needs numbers",
        ),
        (
            {"target_column": "tier", "class_path": "sklearn.linear_model.Ridge"},
            RecipeError,
            "'sklearn.linear_model.Ridge' is not for classification",
        ),
        (
            {
                "target_column": "tier",
                "feature_columns": ["quantity"],
                "values": {"max_iter": "many"},
            },
            RecipeError,
            "model.hyperparameters.values: The 'max_iter' parameter",
        ),
        (
            {"target_column": "tier", "feature_columns": ["rating"]},
            TrainingError,
            "the column 'rating' has missing values that no preprocessor step fills",
        ),
        (
            {"target_column": "tier", "class_path": "sklearn.svm.Nope"},
            RecipeError,
            "the module 'sklearn.svm' has no class 'Nope'",
        ),
        (
            {"target_column": "tier", "class_path": "nowhere.Nope"},
            RecipeError,
            "there is no module 'nowhere'; add its package with",
        ),
        (
            {"target_column": "tier", "class_path": "sklearn.preprocessing.StandardScaler"},
            RecipeError,
            "it needs the methods fit and predict",
        ),
        (
            {"target_column": "tier", "values": {"nope": 1}},
            RecipeError,
            "model.hyperparameters.values.nope: LogisticRegression has no such hyperparameter",
        ),
        (
            {"target_column": "member", "feature_columns": ["tier"]},
            TrainingError,
            "the column 'tier' is text that no preprocessor step encodes",
        ),
    ],
)
def test_a_mistake_is_one_sentence(
    settings: Settings,
    orders: pd.DataFrame,
    keywords: dict[str, Any],
    error: type[ServingError],
    message: str,
) -> None:
    orders.to_csv("orders.csv", index=False)
    with pytest.raises(error) as caught:
        train(recipe([], **keywords), settings, Path("orders.csv"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"type": "standard_scaler", "columns": ["nope"]}, "'nope' is not a feature column"),
        ({"type": "standard_scaler", "columns": ["tier"]}, "column 'tier' is text"),
    ],
)
def test_a_step_that_does_not_fit_is_named(
    orders: pd.DataFrame, step: dict[str, Any], message: str
) -> None:
    orders.to_csv("orders.csv", index=False)
    plan = recipe([step], target_column="member")
    data = load_dataset(plan, Path("orders.csv"))
    with pytest.raises(RecipeError, match=message):
        build_pipeline(plan, data.feature_columns)


def test_an_unreachable_store_is_named(
    orders: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    orders.to_csv("orders.csv", index=False)
    settings = Settings(mlflow=MLflowSettings(tracking_uri="http://user:secret@127.0.0.1:9"))
    with pytest.raises(TrainingError) as caught:
        train(
            recipe([], target_column="tier", feature_columns=["quantity"]),
            settings,
            Path("orders.csv"),
        )
    assert "mlflow.tracking_uri: http://***@127.0.0.1:9 cannot be used" in str(caught.value)
    assert "secret" not in str(caught.value)


SECRETS = {"DB_PASSWORD": "hunter2-of-the-database", "NUMBER": "98765432"}


def with_secrets(directory: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Recipe:
    """A recipe, read from a file, with a variable in every text that may have one."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DATA_FILE", f"{SECRETS['DB_PASSWORD']}.csv")
    text = "see ${DB_PASSWORD}"
    content = recipe([], target_column="tier", feature_columns=["quantity"]).as_written()
    content["data"]["loader"] = {"source_uri": "${DATA_FILE}"}
    content["metadata"] = {"note": text, "number": "${NUMBER}", "list": [text]}
    content["monitoring"] = {"token": "${DB_PASSWORD}"}
    file = directory / "recipe.yaml"
    file.write_text(yaml.safe_dump(content | changes), encoding="utf-8")
    return load_recipe(file)


def test_no_value_of_the_environment_is_stored_or_shown(
    settings: Settings, orders: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    values = {"C": "${NUMBER}", "max_iter": 50}
    model = {
        "class_path": "sklearn.linear_model.LogisticRegression",
        "hyperparameters": {"values": values},
    }
    plan = with_secrets(tmp_path, monkeypatch, model=model)
    orders.to_csv(f"{SECRETS['DB_PASSWORD']}.csv", index=False)
    result = train(plan, settings)

    run = MlflowClient().get_run(result.run_id)
    assert run.data.params["C"] == "${NUMBER}"
    assert run.data.params["data_path"] == "${DATA_FILE}"
    logged = str(run.to_dictionary()) + str(MlflowClient().get_logged_model(result.model_id))
    directory = Path(download_artifacts(f"models:/{result.model_id}", dst_path=str(tmp_path)))
    files = [file for file in directory.rglob("*") if file.is_file()]
    assert {file.name for file in files} >= {"MLmodel", "model.pkl"}
    contents = [file.read_bytes() for file in files]
    for value in SECRETS.values():
        assert value not in logged
        assert all(value.encode() not in content for content in contents)

    for name in (*SECRETS, "DATA_FILE"):
        monkeypatch.delenv(name)
    shown = served(settings, result.run_id).describe()
    assert shown["recipe"]["metadata"]["note"] == "see ${DB_PASSWORD}"
    assert shown["recipe"]["model"]["hyperparameters"]["values"] == values


def test_an_error_shows_no_value_of_the_environment(
    settings: Settings, orders: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = with_secrets(tmp_path, monkeypatch)
    with pytest.raises(DataError, match=r"^\${DATA_FILE}: no such file"):
        train(plan, settings)
    orders.to_csv("orders.csv", index=False)
    model = {
        "class_path": "sklearn.linear_model.LogisticRegression",
        "hyperparameters": {"values": {"solver": "${DB_PASSWORD}"}},
    }
    plan = with_secrets(tmp_path, monkeypatch, model=model)
    with pytest.raises(RecipeError, match=r"Got '\${DB_PASSWORD}' instead"):
        train(plan, settings, Path("orders.csv"))
