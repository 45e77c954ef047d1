"""Models of clusters: the compiled form, the API and batch inference give the same answers."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import settings_for
from mlflow.models import infer_signature
from mlflow.sklearn import save_model
from pydantic import BaseModel
from serving.compilation.compiler import compile_model
from serving.config.settings import Settings
from serving.errors import CompilationError
from serving.inference.batch import Job, run_batch
from serving.inference.kernel import Kernel
from serving.model.hooks import PredictionHooks
from serving.model.loading import load_model
from sklearn.cluster import (
    AffinityPropagation,
    Birch,
    BisectingKMeans,
    KMeans,
    MeanShift,
    MiniBatchKMeans,
)
from sklearn.datasets import load_wine
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


@pytest.fixture
def wine(tmp_path: Path) -> pd.DataFrame:
    features: pd.DataFrame = load_wine(as_frame=True).data
    features.to_csv(tmp_path / "wine.csv", index=False)
    return features


def saved(model: Any, wine: pd.DataFrame, directory: Path) -> Settings:
    """Save a model that is fitted on the wines; return settings that serve it."""
    fitted = make_pipeline(StandardScaler(), model).fit(wine)
    save_model(
        fitted,
        directory / "model",
        serialization_format="cloudpickle",
        signature=infer_signature(wine, fitted.predict(wine)),
        input_example=wine.head(1),
        pip_requirements=[],
    )
    return settings_for(directory / "model", directory)


@pytest.mark.parametrize(
    ("model", "details"),
    [
        (KMeans(3, n_init=3, random_state=0), ["distances"]),
        (MiniBatchKMeans(5, n_init=3, random_state=0), ["distances"]),
        (KMeans(1, random_state=0), ["distances"]),
        (MeanShift(), []),
        (AffinityPropagation(random_state=0), []),
        (Birch(n_clusters=3), []),
        (Birch(n_clusters=None, threshold=2.0), []),
        *(
            (GaussianMixture(3, covariance_type=kind, random_state=0, reg_covar=1e-3), [])
            for kind in ("full", "tied", "diag", "spherical")
        ),
        (BayesianGaussianMixture(n_components=3, random_state=0), []),
    ],
    ids=str,
)
def test_a_compiled_model_gives_the_same_labels_distances_and_probabilities(
    model: Any, details: list[str], wine: pd.DataFrame, tmp_path: Path
) -> None:
    settings = saved(model, wine, tmp_path)
    compiled = compile_model(settings, tmp_path / "wine.csv")
    assert compiled.proof["rows_of_data"] == len(wine)
    forms = [load_model(settings, engine) for engine in ("native", "onnx")]
    rows = [tuple(row) for row in wine.itertuples(index=False)]
    native, onnx = (form.predict_rows(rows) for form in forms)
    assert native.values.tolist() == onnx.values.tolist()
    assert list(native.details) == list(onnx.details) == details
    for name in details:
        np.testing.assert_allclose(native.details[name], onnx.details[name], rtol=1e-6, atol=1e-6)
    if native.probabilities is None or onnx.probabilities is None:
        assert native.probabilities is onnx.probabilities
    else:
        np.testing.assert_allclose(native.probabilities, onnx.probabilities, atol=1e-6)


def test_a_clusterer_without_converter_is_served_natively(
    wine: pd.DataFrame, tmp_path: Path
) -> None:
    settings = saved(BisectingKMeans(3, random_state=0), wine, tmp_path)
    with pytest.raises(CompilationError, match=r"no converter for sklearn\.BisectingKMeans"):
        compile_model(settings, tmp_path / "wine.csv")
    model = load_model(settings)
    [found] = model.answer([_sample(model.request_schema, wine, 0)])
    assert set(found.model_dump()["distances"]) == {"0", "1", "2"}


@pytest.mark.parametrize("engine", ["native", "onnx"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_batch_inference_answers_as_the_api_does(
    engine: Any, suffix: str, wine: pd.DataFrame, tmp_path: Path
) -> None:
    settings = saved(KMeans(3, n_init=3, random_state=0), wine, tmp_path)
    compile_model(settings, tmp_path / "wine.csv")
    output = tmp_path / f"out{suffix}"
    job = Job(data=str(tmp_path / "wine.csv"), output=str(output), engine=engine)
    run_batch(settings, job)
    written = pd.read_csv(output) if suffix == ".csv" else pd.read_parquet(output)
    columns = ["prediction", "distance_0", "distance_1", "distance_2"]
    assert list(written.columns) == [*wine.columns, *columns]

    model = load_model(settings, engine)
    samples = [_sample(model.request_schema, wine, index) for index in range(len(wine))]
    answers = [answer.model_dump() for answer in model.answer(samples)]
    assert written["prediction"].tolist() == [one["prediction"] for one in answers]
    for label in range(3):
        expected = [one["distances"][str(label)] for one in answers]
        np.testing.assert_allclose(written[f"distance_{label}"], expected, rtol=1e-12)


def test_distances_pass_through_hooks(wine: pd.DataFrame, tmp_path: Path) -> None:
    settings = saved(KMeans(3, n_init=3, random_state=0), wine, tmp_path)
    rows = pa.RecordBatch.from_pandas(wine)
    plain, hooked = (
        Kernel(load_model(settings, "native", hooks), rows.schema, is_text=False).predict(rows)
        for hooks in (None, PredictionHooks(settings, None, None, None, None))
    )
    assert "distance_2" in plain.answers.schema.names
    assert plain.answers == hooked.answers


def test_rows_too_far_away_for_a_distance_are_refused(wine: pd.DataFrame, tmp_path: Path) -> None:
    settings = saved(KMeans(3, n_init=3, random_state=0), wine, tmp_path)
    compile_model(settings, tmp_path / "wine.csv")
    near = tuple(wine.iloc[0])
    for engine in ("native", "onnx"):
        found = load_model(settings, engine).predict_rows([near, (1e200, *near[1:]), near])
        assert found.refused is not None
        assert found.refused.tolist() == [False, True, False]


def _sample(schema: type[BaseModel], wine: pd.DataFrame, index: int) -> BaseModel:
    return schema.model_validate(wine.iloc[index].to_dict())
