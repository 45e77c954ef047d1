"""The step `catboost_encoder`: text becomes the mean target of its rows, without leakage."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import wait_until_loaded
from fastapi.testclient import TestClient
from serving.api.app import create_app
from serving.config.settings import ServingSettings, Settings
from serving.contract.recipe import Recipe, load_recipe
from serving.errors import DataError, RecipeError, TrainingError
from serving.model.loading import load_model
from serving.training.data import load_dataset
from serving.training.pipeline import build_pipeline
from serving.training.trainer import TrainingResult, train
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.metrics import r2_score

PENGUINS = Path(__file__).parents[3] / "template" / "data" / "penguins.csv"
SEATTLE = Path(__file__).parents[2] / "data" / "seattle.csv"
ENCODE = {"type": "catboost_encoder"}
IMPUTE = {"type": "simple_imputer", "strategy": "median"}
LINEAR = "sklearn.linear_model.LinearRegression"
LOGISTIC = "sklearn.linear_model.LogisticRegression"
TREE = {"class_path": "sklearn.tree.DecisionTreeRegressor", "values": {"min_samples_leaf": 50}}
TUNED = {
    "tuning_enabled": True,
    "n_trials": 2,
    "tunable": {"C": {"type": "float", "range": [0.1, 10]}},
}


@pytest.fixture(scope="module")
def settings(local_store: Settings) -> Settings:
    return local_store


@pytest.fixture(autouse=True)
def _in_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def recipe(
    target: str,
    features: list[str] | None = None,
    task: str = "regression",
    class_path: str = LINEAR,
    steps: tuple[dict[str, Any], ...] = (IMPUTE, ENCODE),
    model: dict[str, Any] | None = None,
    evaluation: dict[str, Any] | None = None,
    split: dict[str, float] | None = None,
    **interface: Any,
) -> Recipe:
    roles = {"target_column": target, "feature_columns": features} | interface
    return Recipe.model_validate(
        {
            "name": "encoded",
            "task_choice": task,
            "data": {"data_interface": roles, "split": split},
            "preprocessor": {"steps": list(steps)},
            "model": {"class_path": class_path} | (model or {}),
            "evaluation": evaluation,
        }
    )


def wards(count: int = 200) -> Path:
    """Diabetics whose ward is drawn at random, so that it tells nothing about their disease."""
    frame: pd.DataFrame = load_diabetes(as_frame=True).frame
    random = np.random.default_rng(0)
    frame["ward"] = [f"ward {n}" for n in random.integers(0, count, len(frame))]
    frame.to_csv("wards.csv", index=False)
    return Path("wards.csv")


def fitted(plan: Recipe, path: Path) -> tuple[Any, pd.DataFrame, Any]:
    data = load_dataset(plan, path)
    assert data.target is not None
    pipeline = build_pipeline(plan, data.feature_columns).fit(data.features, data.target)
    return pipeline, data.features, data.target


def serving(result: TrainingResult, settings: Settings) -> Settings:
    """The settings that serve the model of this run."""
    return settings.model_copy(update={"serving": ServingSettings(model_run_id=result.run_id)})


def encoded(plan: Recipe, path: Path, **values: list[Any]) -> np.ndarray:
    """What the steps make of these rows, once they are fitted."""
    pipeline, features, _ = fitted(plan, path)
    return np.asarray(pipeline[:-1].transform(pd.DataFrame(values).astype(features.dtypes)))


def test_a_category_is_encoded_by_its_mean_target_and_an_unknown_one_by_that_of_all() -> None:
    plan = recipe("body_mass_g", ["species"])
    species = ["Gentoo", "Adelie", "Dodo", None]
    gentoo, adelie, dodo, missing = encoded(plan, PENGUINS, species=species)[:, 0]
    table = pd.read_csv(PENGUINS).dropna(subset="body_mass_g")
    means = table.groupby("species")["body_mass_g"].mean()
    assert gentoo == pytest.approx(means["Gentoo"], rel=0.001)  # smoothed a little
    assert adelie == pytest.approx(means["Adelie"], rel=0.001)
    assert dodo == missing == pytest.approx(table["body_mass_g"].mean())


def test_missing_text_is_a_category_of_its_own() -> None:
    table = pd.read_csv(PENGUINS).dropna(subset="body_mass_g")
    [[known], [missing]] = encoded(
        recipe("body_mass_g", ["sex"]), PENGUINS, sex=["male", None]
    ).tolist()
    assert known == pytest.approx(table.loc[table["sex"] == "male", "body_mass_g"].mean(), rel=0.01)
    assert missing == pytest.approx(table.loc[table["sex"].isna(), "body_mass_g"].mean(), rel=0.02)


@pytest.mark.parametrize(
    ("task", "class_path", "target", "width"),
    [
        ("classification", LOGISTIC, "species", 3),  # the share of each class
        ("classification", LOGISTIC, "sex", 1),
        ("regression", LINEAR, "flipper_length_mm", 1),  # integers are no classes here
    ],
)
def test_how_many_columns_text_becomes(task: str, class_path: str, target: str, width: int) -> None:
    plan = recipe(target, ["island"], task, class_path)
    result = encoded(plan, PENGUINS, island=["Biscoe", "Dream"])
    assert result.shape == (2, width)
    if width > 1:
        assert result.sum(axis=1) == pytest.approx(1, abs=0.01)


def test_the_model_does_not_learn_the_target_from_random_text() -> None:
    path = wards()
    pipeline, features, target = fitted(recipe("target", ["ward"]), path)
    [means] = pipeline[0].named_transformers_["columns_0"][-1].encodings_
    assert np.std(means) > 20  # the means themselves tell the target of these rows
    assert abs(pipeline[-1].coef_[0]) < 0.2  # but the model has not seen them
    assert r2_score(target, pipeline.predict(features)) < 0.2


def test_a_seed_gives_the_same_model_twice() -> None:
    path = wards()

    def coefficients(seed: int) -> list[float]:
        plan = recipe("target", ["ward", "bmi"], evaluation={"random_state": seed})
        found: list[float] = fitted(plan, path)[0][-1].coef_.tolist()
        return found

    assert coefficients(1) == coefficients(1) != coefficients(2)


def test_penguins_are_tuned_cross_validated_and_served(settings: Settings) -> None:
    plan = recipe(
        "species",
        ["island", "sex", "bill_length_mm"],
        "classification",
        LOGISTIC,
        (IMPUTE, {"type": "standard_scaler"}, ENCODE),
        {"hyperparameters": TUNED},
        {"cross_validation": 3},
        entity_columns=["penguin_id"],
    )
    result = train(plan, settings, PENGUINS)
    assert result.metrics["cv_accuracy_mean"] > 0.9
    assert result.metrics["test_accuracy"] > 0.9

    with TestClient(create_app(serving(result, settings))) as client:
        wait_until_loaded(client)
        sample = {"penguin_id": "P1", "island": "Biscoe", "sex": "male", "bill_length_mm": 47.5}
        [known, unknown, missing] = client.post(
            "/predict/batch",
            json={"samples": [sample, sample | {"island": "Deception"}, sample | {"sex": None}]},
        ).json()["predictions"]
    assert known["prediction"] == "Gentoo"
    assert unknown["probabilities"] != known["probabilities"] != missing["probabilities"]


@pytest.mark.parametrize("is_yes_or_no", [True, False])
def test_the_outcome_of_a_treatment_encodes_text(is_yes_or_no: bool, settings: Settings) -> None:
    """A made-up drug does something for the largest tumours only, and their size is text."""
    cells: pd.DataFrame = load_breast_cancer(as_frame=True).frame
    frame = pd.DataFrame({"drug": np.random.default_rng(0).permutation(len(cells)) % 2})
    frame["size"] = pd.qcut(cells["mean area"], 4, labels=["s", "m", "l", "xl"]).astype(str)
    frame["healthy"] = cells["target"] == 1
    if not is_yes_or_no:
        frame["healthy"] -= 2.0 * frame["drug"] * (frame["size"] == "xl")
    frame.to_csv("drug.csv", index=False)
    plan = recipe(
        "healthy",
        task="causal",
        class_path="serving.causal.TLearner",
        model={"hyperparameters": {"values": {"estimator": TREE}}},
        treatment_column="drug",
    )
    result = train(plan, settings, Path("drug.csv"))
    served = load_model(serving(result, settings), "native")
    small, large = served.predict_rows([("s",), ("xl",)]).values
    assert small == pytest.approx(0, abs=0.1)
    assert large == pytest.approx(0 if is_yes_or_no else -2, abs=0.1)


def test_the_next_value_of_a_series_encodes_text() -> None:
    frame = pd.read_csv(SEATTLE)
    frame["month"] = pd.to_datetime(frame["date"]).dt.month_name()
    frame.to_csv("seattle.csv", index=False)

    def plan(**forecasting: Any) -> Recipe:
        return Recipe.model_validate(
            {
                "name": "seattle",
                "task_choice": "timeseries",
                "data": {
                    "data_interface": {
                        "target_column": "high",
                        "timestamp_column": "date",
                        "feature_columns": ["month"],
                    },
                    "forecasting": {"lags": [1], "rolling": [], "calendar": []} | forecasting,
                },
                "preprocessor": {"steps": [ENCODE]},
                "model": {"class_path": LINEAR},
            }
        )

    pipeline, features, _ = fitted(plan(), Path("seattle.csv"))
    rows = features.head(2).assign(month=["January", "July"], high_lag_1=18.0)
    winter, summer = pipeline.predict(rows)
    assert winter < 18 < summer

    with pytest.raises(ValueError, match="one target, but a horizon of 2 has one for each step"):
        plan(horizon=2)


@pytest.mark.parametrize(
    ("steps", "hint"),
    [
        ((IMPUTE,), "the column 'sex' is text that no preprocessor step encodes"),
        (
            (IMPUTE, {"type": "ordinal_encoder"}),
            "the column 'sex' has missing values that no preprocessor step fills: add a step such "
            "as {type: simple_imputer, strategy: most_frequent}",
        ),
    ],
)
def test_why_all_trials_fail_on_text(
    steps: tuple[dict[str, Any], ...], hint: str, settings: Settings
) -> None:
    model = {"hyperparameters": TUNED}
    plan = recipe("species", ["sex"], "classification", LOGISTIC, steps, model)
    with pytest.raises(TrainingError, match=re.escape(hint)):
        train(plan, settings, PENGUINS)


def test_a_column_with_a_step_of_its_own_is_not_encoded_again() -> None:
    steps = (ENCODE | {"columns": ["island"]}, {"type": "one_hot_encoder"})
    plan = recipe("flipper_length_mm", ["island", "species"], steps=steps)
    result = encoded(plan, PENGUINS, island=["Biscoe"], species=["Gentoo"])
    assert result[0, 0] == pytest.approx(209, abs=2)
    assert result[0, 1:].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("task", "class_path", "target", "message"),
    [
        ("regression", LINEAR, "body_mass_g", "5 rows or more in the train part; it has 4"),
        (
            "classification",
            LOGISTIC,
            "species",
            "5 rows or more of a class in the train part; its most frequent class has 4",
        ),
    ],
)
def test_too_few_rows(
    task: str, class_path: str, target: str, message: str, settings: Settings
) -> None:
    table = pd.read_csv(PENGUINS).dropna().groupby("species").head(4)
    table = table if task == "classification" else table.head(4)
    table.to_csv("few.csv", index=False)
    plan = recipe(target, ["island"], task, class_path, split={"train": 1.0, "test": 0.0})
    with pytest.raises(DataError) as refused:
        train(plan, settings, Path("few.csv"))
    assert str(refused.value) == f"preprocessor.steps.1: catboost_encoder needs {message}"


@pytest.mark.parametrize(
    ("task", "step", "message"),
    [
        (
            "clustering",
            ENCODE,
            "preprocessor.steps.0: catboost_encoder learns from the target, which clustering does "
            "not have; use one_hot_encoder or ordinal_encoder",
        ),
        (
            "regression",
            ENCODE | {"handle_unknown": "ignore"},
            "preprocessor.steps.0: catboost_encoder has no option handle_unknown; its options are "
            "columns",
        ),
        (
            "regression",
            {"type": "tree_based_feature_generator", "n_estimators": 10, "max_depth": 3},
            "preprocessor.steps.0: tree_based_feature_generator is not supported, because "
            "scikit-learn has no transformer that fits trees to the target and returns their "
            "leaves; set model.class_path to an ensemble of trees, or use {type: transformer} with "
            "a class of your own",
        ),
        (
            "regression",
            {"type": "drop_missing", "axis": "rows", "threshold": 0.0},
            "preprocessor.steps.0: drop_missing uses other rows, which a request does not have; "
            "use simple_imputer or constant_fill",
        ),
        (
            "regression",
            {"type": "simple_imputer", "strategy": "constant"},
            "preprocessor.steps.0: strategy must be one of mean, median, most_frequent; use "
            "constant_fill with fill_value",
        ),
        (
            "regression",
            {"type": "kbins_discretizer", "encode": "binary"},
            "preprocessor.steps.0.encode: must be 'ordinal' or 'onehot' (is 'binary')",
        ),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_steps_that_are_refused(task: str, step: dict[str, Any], message: str) -> None:
    content = {
        "name": "refused",
        "task_choice": task,
        "data": {"data_interface": {"target_column": "body_mass_g"}},
        "preprocessor": {"steps": [step]},
        "model": {"class_path": LINEAR},
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(RecipeError) as refused:
        load_recipe(Path("recipe.yaml"))
    assert str(refused.value) == f"recipe.yaml: {message}"


@pytest.mark.parametrize(
    ("class_path", "advice"),
    [
        ("causalml.inference.meta.XGBTRegressor", "use serving.causal.TLearner, or a class of"),
        ("mmp.models.custom.quantile_ensemble.QuantileRegressorEnsemble", "use a class of another"),
    ],
)
def test_estimators_that_only_modern_ml_pipeline_can_use(class_path: str, advice: str) -> None:
    plan = recipe("body_mass_g", ["island"], class_path=class_path)
    data = load_dataset(plan, PENGUINS)
    package = class_path.partition(".")[0]
    with pytest.raises(RecipeError) as refused:
        build_pipeline(plan, data.feature_columns)
    assert str(refused.value).startswith(
        f"model.class_path: '{class_path}' cannot be used, because the estimators of {package} do "
        f"not have the interface of scikit-learn; {advice}"
    )
