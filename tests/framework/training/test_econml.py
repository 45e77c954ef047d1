"""Estimators of econml, where that package is installed (tests/test_end_to_end.py installs it)."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from serving.config.settings import MLflowSettings, ServingSettings, Settings
from serving.contract.recipe import Recipe
from serving.model.loading import load_model
from serving.training.trainer import train
from sklearn.datasets import load_diabetes

pytest.importorskip("econml")

LINEAR = "sklearn.linear_model.LinearRegression"
FOREST = {
    "class_path": "sklearn.ensemble.RandomForestRegressor",
    "values": {"min_samples_leaf": 10, "random_state": 0},
}
BOUNDS = ["effect_lower", "effect_upper"]


@pytest.mark.parametrize(
    ("class_path", "values", "details", "least"),
    [
        ("econml.metalearners.SLearner", {"overall_model": FOREST}, [], 0.5),
        ("econml.metalearners.TLearner", {"models": LINEAR}, [], 0.8),
        ("econml.metalearners.XLearner", {"models": LINEAR}, [], 0.8),
        ("econml.dml.LinearDML", {"random_state": 0}, BOUNDS, 0.8),
        (
            "econml.dml.CausalForestDML",
            {"model_y": FOREST, "n_estimators": 200, "random_state": 0},
            BOUNDS,
            0.8,
        ),
    ],
)
def test_the_known_effect_is_found_and_served(
    class_path: str,
    values: dict[str, Any],
    details: list[str],
    least: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    frame: pd.DataFrame = load_diabetes(as_frame=True, scaled=False).frame
    effect = -60.0 - 12.0 * (frame["bmi"] - frame["bmi"].mean())
    frame["drug"] = np.random.default_rng(0).permutation(len(frame)) % 2 == 0
    frame["target"] += effect * frame["drug"]
    frame.to_csv("patients.csv", index=False)
    plan = Recipe.model_validate(
        {
            "name": "drug",
            "task_choice": "causal",
            "data": {"data_interface": {"target_column": "target", "treatment_column": "drug"}},
            "preprocessor": {"steps": [{"type": "standard_scaler"}]},
            "model": {
                "class_path": class_path,
                "library": "econml",
                "hyperparameters": {"values": values},
            },
        }
    )
    settings = Settings(mlflow=MLflowSettings(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}"))
    result = train(plan, settings, Path("patients.csv"))
    assert result.metrics["train_qini_coefficient"] > 0
    serving = ServingSettings(model_run_id=result.run_id)
    model = load_model(settings.model_copy(update={"serving": serving}))
    assert "econml" in [library.name for library in model.libraries]
    features = frame.drop(columns=["drug", "target"])
    schema = model.request_schema
    samples = [schema.model_validate(one) for one in features.to_dict(orient="records")]
    answers = [answer.model_dump() for answer in model.answer(samples)]
    found = [one["prediction"] for one in answers]
    assert np.corrcoef(found, effect)[0, 1] > least
    for one in answers:
        assert [name for name in one if name.startswith("effect_")] == details
        if details:
            assert one["effect_lower"] < one["prediction"] < one["effect_upper"]
