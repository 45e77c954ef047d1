"""The effect of a treatment: real patients and a known effect, so that it can be compared."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import wait_until_loaded
from fastapi.testclient import TestClient
from serving.api.app import create_app
from serving.config.settings import ServingSettings, Settings
from serving.contract.recipe import Recipe
from serving.errors import DataError, RecipeError, ServingError, TrainingError
from serving.model.loading import load_model
from serving.training.causal import METRICS, auuc, policy_value, qini_coefficient
from serving.training.trainer import TrainingResult, train
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LinearRegression

LINEAR = {"estimator": "sklearn.linear_model.LinearRegression"}
FOREST = {
    "estimator": {
        "class_path": "sklearn.ensemble.RandomForestRegressor",
        "values": {"n_estimators": 50, "min_samples_leaf": 5, "random_state": 0},
    }
}


@pytest.fixture(scope="module")
def settings(local_store: Settings) -> Settings:
    return local_store


@pytest.fixture(autouse=True)
def _in_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def patients() -> tuple[pd.DataFrame, "pd.Series[float]"]:
    """442 diabetics, half of whom got a drug that we made up, and its effect on each.

    The progress of the disease is that of the data, plus the effect for those who got the drug.
    """
    frame: pd.DataFrame = load_diabetes(as_frame=True, scaled=False).frame
    frame = frame.rename(columns={"target": "progress"})
    effect = -60.0 - 12.0 * (frame["bmi"] - frame["bmi"].mean())
    frame["drug"] = np.random.default_rng(0).permutation(len(frame)) % 2 == 0
    frame["progress"] += effect * frame["drug"]
    return frame, effect


def recipe(
    values: dict[str, Any] = LINEAR,
    class_path: str = "serving.causal.TLearner",
    task: str = "causal",
    metrics: list[str] | None = None,
    **interface: Any,
) -> Recipe:
    roles = {"target_column": "progress", "treatment_column": "drug"}
    return Recipe.model_validate(
        {
            "name": "drug",
            "task_choice": task,
            "data": {
                "data_interface": roles | interface,
                "split": {"train": 0.7, "test": 0.3},
            },
            "preprocessor": {"steps": [{"type": "standard_scaler"}]},
            "model": {"class_path": class_path, "hyperparameters": {"values": values}},
            "evaluation": {"metrics": metrics},
        }
    )


def fitted(frame: pd.DataFrame, plan: Recipe, settings: Settings) -> TrainingResult:
    frame.to_csv("patients.csv", index=False)
    return train(plan, settings, Path("patients.csv"))


def of(result: TrainingResult, settings: Settings) -> Settings:
    serving = ServingSettings(model_run_id=result.run_id)
    return settings.model_copy(update={"serving": serving})


def test_the_known_effect_is_served_with_both_outcomes(settings: Settings) -> None:
    frame, effect = patients()
    result = fitted(frame, recipe(), settings)
    assert set(result.metrics) == {f"{part}_{one}" for part in ("train", "test") for one in METRICS}
    assert result.metrics["train_average_effect"] == pytest.approx(effect.mean(), abs=10)
    assert result.metrics["test_qini_coefficient"] > 0
    assert result.metrics["test_uplift_at_10"] > result.metrics["test_ate"]

    with TestClient(create_app(of(result, settings))) as client:
        wait_until_loaded(client)
        schemas = client.get("/openapi.json").json()["components"]["schemas"]
        request, response = schemas["PredictionRequest"], schemas["PredictionResponse"]
        assert not {"drug", "progress"} & set(request["properties"])
        for name in ("outcome_with_treatment", "outcome_without_treatment"):
            assert response["properties"][name]["type"] == "number"
        assert client.post("/predict", json=request["example"]).status_code == 200
        refused = client.post("/predict", json=request["example"] | {"drug": True})
        assert "drug: is the treatment, whose effect the model predicts" in refused.json()["detail"]

        samples = frame[list(request["properties"])].to_dict(orient="records")
        batch = client.post("/predict/batch", json={"samples": samples}).json()["predictions"]
        one = client.post("/predict", json=samples[3]).json()
    assert one == pytest.approx(batch[3])
    found = [answer["prediction"] for answer in batch]
    assert np.corrcoef(found, effect)[0, 1] > 0.8
    for answer in batch:
        difference = answer["outcome_with_treatment"] - answer["outcome_without_treatment"]
        assert answer["prediction"] == difference
        assert answer["confidence"] is None


def test_any_regressor_is_the_model_of_the_outcome(settings: Settings) -> None:
    frame, effect = patients()
    result = fitted(frame, recipe(FOREST, metrics=["ate"]), settings)
    assert set(result.metrics) == {"train_ate", "test_ate"}
    model = load_model(of(result, settings))
    rows = [tuple(row) for row in frame.drop(columns=["drug", "progress"]).itertuples(index=False)]
    # Two forests of 150 patients each vary more than two linear models.
    assert np.corrcoef(model.predict_rows(rows).values, effect)[0, 1] > 0.7
    assert model.engine.independent_rows


def test_a_classifier_gives_a_difference_of_probabilities(settings: Settings) -> None:
    """The outcome is yes or no: a tumour that is benign, or that a made-up drug has cured."""
    frame: pd.DataFrame = load_breast_cancer(as_frame=True).frame[["mean texture", "target"]]
    random = np.random.default_rng(0)
    frame["drug"] = random.integers(0, 2, len(frame))
    cured = (frame["drug"] == 1) & (frame["mean texture"] > 20) & (random.random(len(frame)) < 0.9)
    frame["well"] = (frame.pop("target") == 1) | cured
    plan = recipe({"estimator": "sklearn.linear_model.LogisticRegression"}, target_column="well")
    result = fitted(frame, plan, settings)
    model = load_model(of(result, settings))
    textures = [(10.0,), (30.0,)]
    found = model.predict_rows(textures)
    assert found.values[1] > 0.5 > found.values[0]
    assert all(((one >= 0) & (one <= 1)).all() for one in found.details.values())


def test_the_metrics_tell_a_good_order_from_a_bad_one() -> None:
    """Every second of 4,000 rows is treated; the treatment adds 2 to half of them."""
    treatment = np.arange(4_000) % 2
    effect = np.where(np.arange(4_000) % 4 < 2, 2.0, 0.0)
    outcome = 10 + effect * treatment
    # The curve rises to 0.5 at half of the rows (1 per pair of rows), then is level.
    assert qini_coefficient(outcome, treatment, effect) == pytest.approx(0.125)
    assert qini_coefficient(outcome, treatment, -effect) == pytest.approx(-0.125)
    assert qini_coefficient(outcome, treatment, np.ones(4_000)) == pytest.approx(0)
    assert auuc(outcome, treatment, effect) == pytest.approx(0.75)
    assert auuc(outcome, treatment, np.ones(4_000)) == pytest.approx(0.5)
    assert METRICS["uplift_at_30"](outcome, treatment, effect) == pytest.approx(2)
    assert METRICS["ate"](outcome, treatment, effect) == pytest.approx(1)
    # Treating only those who gain is worth as much as treating all.
    assert policy_value(outcome, treatment, effect) == pytest.approx(11)
    assert policy_value(outcome, treatment, -effect) == pytest.approx(10)


def test_a_part_without_treated_rows_has_no_metrics_of_groups() -> None:
    outcome, treatment, effect = np.array([1.0, 2.0]), np.array([0, 0]), np.array([0.1, 0.2])
    assert np.isnan(METRICS["ate"](outcome, treatment, effect))
    assert np.isnan(METRICS["uplift_at_10"](outcome, treatment, effect))


@pytest.mark.parametrize(
    ("treatment", "message"),
    [
        ([1, 2] * 221, "must hold 0 and 1, or False and True"),
        (["yes", "no"] * 221, "must hold 0 and 1, or False and True"),
        ([1] * 442, "has the same value in every row"),
        ([0, None] * 221, "has no value in 221 rows; every row must say whether it was treated"),
    ],
)
def test_a_treatment_is_yes_or_no(settings: Settings, treatment: Any, message: str) -> None:
    frame, _ = patients()
    with pytest.raises(DataError) as caught:
        fitted(frame.assign(drug=treatment), recipe(), settings)
    assert f"the treatment column 'drug' {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        (
            {"class_path": "sklearn.linear_model.Ridge", "values": {}},
            RecipeError,
            "'sklearn.linear_model.Ridge' does not estimate the effect of a treatment; use "
            "serving.causal.TLearner",
        ),
        ({"values": {}}, RecipeError, "missing 1 required positional argument: 'estimator'"),
        (
            {"values": {"estimator": "Ridge"}},
            RecipeError,
            "model.hyperparameters.values.estimator: 'Ridge' does not predict an outcome",
        ),
        (
            {"values": {"estimator": "sklearn.linear_model.Rigde"}},
            RecipeError,
            "values.estimator: the module 'sklearn.linear_model' has no class 'Rigde'; did you "
            "mean sklearn.linear_model.Ridge?",
        ),
        (
            {"values": {"estimator": {"class_path": "sklearn.svm.SVR", "values": {"D": 1}}}},
            RecipeError,
            "model.hyperparameters.values.estimator: values of 'sklearn.svm.SVR': ",
        ),
        (
            {"values": {"estimator": "sklearn.cluster.KMeans"}},
            RecipeError,
            "'KMeans' does not predict an outcome",
        ),
        ({"task": "regression"}, RecipeError, "is not for regression; set task_choice to causal"),
        ({"metrics": ["accuracy"]}, RecipeError, "'accuracy' is unknown for causal"),
        (
            {"values": {"estimator": "sklearn.linear_model.LogisticRegression"}},
            TrainingError,
            "needs an outcome of two classes",
        ),
        ({"treatment_column": "pill"}, DataError, "has no column 'pill'"),
    ],
)
def test_mistakes_are_named(
    settings: Settings, keywords: dict[str, Any], error: type[ServingError], message: str
) -> None:
    frame, _ = patients()
    with pytest.raises(error) as caught:
        fitted(frame, recipe(**keywords), settings)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "interface",
    [{"feature_columns": ["drug"]}, {"entity_columns": ["drug"]}, {"target_column": "drug"}],
)
def test_a_treatment_has_no_other_role(interface: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="'drug' has another role, too"):
        recipe(**interface)


def test_an_outcome_is_a_number(settings: Settings) -> None:
    frame, _ = patients()
    with pytest.raises(DataError, match="'progress' is a string; an effect is a difference"):
        fitted(frame.assign(progress="better"), recipe(), settings)


def test_the_effect_is_that_of_two_models(settings: Settings) -> None:
    frame, _ = patients()
    result = fitted(frame, recipe(), settings)
    model = load_model(of(result, settings))
    features = frame.drop(columns=["drug", "progress"])
    treated = frame["drug"]
    assert result.rows == {"train": 309, "test": 133}
    rows = [tuple(row) for row in features.itertuples(index=False)]
    whole = LinearRegression().fit(features[treated], frame["progress"][treated])
    # Fitted on 70 % of the rows, it is close to a model of all of them.
    found = model.predict_rows(rows).details["outcome_with_treatment"]
    assert np.corrcoef(found, whole.predict(features))[0, 1] > 0.95
