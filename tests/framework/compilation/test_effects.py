"""A compiled T-learner gives the same effects and outcomes."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import settings_for
from mlflow.models import ModelSignature
from mlflow.sklearn import save_model
from mlflow.types import ColSpec, Schema
from serving.causal import TLearner
from serving.compilation.compiler import compile_model
from serving.inference.batch import Job, run_batch
from serving.model.loading import load_model
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

DETAILS = ["outcome_with_treatment", "outcome_without_treatment"]


@pytest.mark.parametrize(
    "estimator",
    [
        Ridge(),
        RandomForestRegressor(20, random_state=0),
        HistGradientBoostingRegressor(max_iter=20),
        LogisticRegression(),
    ],
    ids=str,
)
def test_the_compiled_form_and_batch_inference_give_the_same_effects(
    estimator: Any, tmp_path: Path
) -> None:
    load: Any = load_breast_cancer if isinstance(estimator, LogisticRegression) else load_diabetes
    features, outcome = load(return_X_y=True, as_frame=True)
    features = features.iloc[:, :10]
    treatment = np.random.default_rng(0).integers(0, 2, len(features))
    fitted = make_pipeline(StandardScaler(), TLearner(estimator))
    fitted.fit(features, outcome, tlearner__treatment=treatment)
    save_model(
        fitted,
        tmp_path / "model",
        serialization_format="cloudpickle",
        signature=ModelSignature(
            Schema([ColSpec("double", name) for name in features]), Schema([ColSpec("double")])
        ),
        input_example=features.head(1),
        pip_requirements=[],
    )
    features.to_csv(tmp_path / "rows.csv", index=False)
    settings = settings_for(tmp_path / "model", tmp_path)
    compiled = compile_model(settings, tmp_path / "rows.csv")
    assert compiled.estimator == "serving.causal.TLearner"

    rows = [tuple(row) for row in features.itertuples(index=False)]
    native, onnx = (load_model(settings, one).predict_rows(rows) for one in ("native", "onnx"))
    assert list(native.details) == list(onnx.details) == DETAILS
    near = 1e-5 * float(native.values.std())
    np.testing.assert_allclose(native.values, onnx.values, rtol=1e-5, atol=near)
    for name in DETAILS:
        np.testing.assert_allclose(native.details[name], onnx.details[name], rtol=1e-5, atol=near)

    output = tmp_path / "out.parquet"
    run_batch(settings, Job(data=str(tmp_path / "rows.csv"), output=str(output), engine="onnx"))
    written = pd.read_parquet(output)
    assert list(written.columns) == [*features.columns, "prediction", *DETAILS]
    np.testing.assert_allclose(written["prediction"], onnx.values, rtol=1e-9, atol=1e-9)
    for name in DETAILS:
        np.testing.assert_allclose(written[name], onnx.details[name], rtol=1e-9)
