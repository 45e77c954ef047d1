"""Clustering: trained without a target, and served."""

import logging
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
from serving.errors import RecipeError, ServingError, TrainingError
from serving.model.loading import load_model
from serving.training.trainer import TrainingResult, train
from sklearn.datasets import load_wine
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.preprocessing import StandardScaler

K_MEANS = "sklearn.cluster.KMeans"
MIXTURE = "sklearn.mixture.GaussianMixture"


@pytest.fixture(scope="module")
def settings(local_store: Settings) -> Settings:
    return local_store


@pytest.fixture
def wine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    """Chemical analyses of 178 wines, and the growers, in `wine.csv`."""
    monkeypatch.chdir(tmp_path)
    frame: pd.DataFrame = load_wine(as_frame=True).frame.rename(columns={"target": "grower"})
    frame.insert(0, "bottle", [f"B{n:03}" for n in range(len(frame))])
    frame.to_csv("wine.csv", index=False)
    return frame


def recipe(
    class_path: str,
    values: dict[str, Any],
    *,
    split: dict[str, Any] | None = None,
    metrics: list[str] | None = None,
    **interface: Any,
) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "wines",
            "task_choice": "clustering",
            "data": {
                "data_interface": {"entity_columns": ["bottle"], "target_column": "grower"}
                | interface,
                "split": split or {"train": 0.8, "test": 0.2},
            },
            "preprocessor": {"steps": [{"type": "standard_scaler"}]},
            "model": {"class_path": class_path, "hyperparameters": {"values": values}},
            "evaluation": {"metrics": metrics},
        }
    )


def fitted(settings: Settings, class_path: str, values: dict[str, Any], **keys: Any) -> Any:
    return train(recipe(class_path, values, **keys), settings, Path("wine.csv"))


def of(result: TrainingResult, settings: Settings) -> Settings:
    serving = ServingSettings(model_run_id=result.run_id)
    return settings.model_copy(update={"serving": serving})


def test_clusters_of_wines_are_served_with_distances(
    settings: Settings, wine: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        result = fitted(settings, K_MEANS, {"n_clusters": 3, "random_state": 0})
    assert "clustering has no target, so the column 'grower' is not used" in caplog.text
    assert (result.rows, result.dropped) == ({"train": 142, "test": 36}, 0)
    assert result.metrics["train_n_clusters"] == result.metrics["test_n_clusters"] == 3
    assert 0 < result.metrics["test_inertia"] < result.metrics["train_inertia"]
    assert "train_bic" not in result.metrics  # KMeans has none

    with TestClient(create_app(of(result, settings))) as client:
        wait_until_loaded(client)
        schemas = client.get("/openapi.json").json()["components"]["schemas"]
        fields = schemas["PredictionResponse"]["properties"]
        assert fields["prediction"]["type"] == "integer"
        assert fields["distances"]["examples"] == [{"0": 0.0, "1": 0.0, "2": 0.0}]
        assert "distances" in schemas["PredictionResponse"]["required"]
        assert "probabilities" not in fields
        example = schemas["PredictionRequest"]["example"]
        assert client.get("/model").json()["signature"]["outputs"][0]["type"] == "long"

        one = client.post("/predict", json=example).json()
        assert one["confidence"] is None
        assert one["entities"] == {"bottle": "example"}
        refused = client.post("/predict", json=example | {"grower": 1})
        assert "the recipe's target, which clustering does not use" in refused.json()["detail"]

        samples = wine.drop(columns="grower").to_dict(orient="records")
        batch = client.post("/predict/batch", json={"samples": samples}).json()["predictions"]
        invoked = client.post("/invocations", json={"dataframe_records": samples}).json()
    labels = [answer["prediction"] for answer in batch]
    assert invoked == {"predictions": labels}
    assert adjusted_rand_score(wine["grower"], labels) > 0.8
    for answer in batch:
        assert answer["distances"][str(answer["prediction"])] == min(answer["distances"].values())


def test_a_mixture_is_served_with_probabilities(settings: Settings, wine: pd.DataFrame) -> None:
    values = {"n_components": 3, "covariance_type": "diag", "random_state": 0}
    result = fitted(settings, MIXTURE, values)
    assert result.metrics["train_bic"] > result.metrics["train_aic"]
    assert "train_inertia" not in result.metrics
    model = load_model(of(result, settings))
    samples = [
        model.request_schema.model_validate(row)
        for row in wine.drop(columns="grower").to_dict(orient="records")
    ]
    answers = [answer.model_dump() for answer in model.answer(samples)]
    assert adjusted_rand_score(wine["grower"], [one["prediction"] for one in answers]) > 0.8
    for one in answers:
        assert "distances" not in one
        assert sum(one["probabilities"].values()) == pytest.approx(1)
        assert one["confidence"] == max(one["probabilities"].values())
        assert one["confidence"] == one["probabilities"][str(one["prediction"])]


def test_the_metrics_are_those_of_the_preprocessed_features(
    settings: Settings, wine: pd.DataFrame
) -> None:
    values = {"n_clusters": 4, "random_state": 1}
    whole = {"train": 1.0, "test": 0.0}
    result = fitted(settings, K_MEANS, values, split=whole, metrics=["silhouette_score", "inertia"])
    assert set(result.metrics) == {"train_silhouette_score", "train_inertia"}
    space = StandardScaler().fit_transform(wine.drop(columns=["bottle", "grower"]))
    model = load_model(of(result, settings))
    rows = [tuple(row) for row in wine.drop(columns="grower").itertuples(index=False)]
    found = model.predict_rows(rows)
    assert result.metrics["train_silhouette_score"] == pytest.approx(
        silhouette_score(space, found.values)
    )
    nearest = found.details["distances"].min(axis=1)
    assert result.metrics["train_inertia"] == pytest.approx(np.square(nearest).sum())


def test_a_single_cluster_has_no_silhouette(settings: Settings, wine: pd.DataFrame) -> None:
    result = fitted(settings, K_MEANS, {"n_clusters": 1, "random_state": 0})
    assert result.metrics["test_n_clusters"] == 1
    assert not any("silhouette" in name or "davies" in name for name in result.metrics)


def test_a_temporal_split_needs_no_target(settings: Settings, wine: pd.DataFrame) -> None:
    split = {"strategy": "temporal", "temporal_column": "proline", "train": 0.7, "test": 0.3}
    result = fitted(settings, K_MEANS, {"n_clusters": 2, "random_state": 0}, split=split)
    assert result.rows == {"train": 125, "test": 53}


@pytest.mark.parametrize(
    ("class_path", "values", "keys", "error", "message"),
    [
        (
            "sklearn.cluster.DBSCAN",
            {},
            {},
            RecipeError,
            "model.class_path: 'sklearn.cluster.DBSCAN' cannot label a new row: it has no method "
            "predict; use sklearn.cluster.KMeans",
        ),
        ("sklearn.cluster.HDBSCAN", {}, {}, RecipeError, "cannot label a new row"),
        ("sklearn.cluster.AgglomerativeClustering", {}, {}, RecipeError, "cannot label a new row"),
        ("sklearn.linear_model.Ridge", {}, {}, RecipeError, "is not for clustering"),
        ("sklearn.ensemble.IsolationForest", {}, {}, RecipeError, "is not for clustering"),
        (
            "sklearn.cluster.AffinityPropagation",
            {"preference": -1e9, "max_iter": 1, "random_state": 0},
            {},
            TrainingError,
            "AffinityPropagation has found no clusters; change model.hyperparameters.values",
        ),
        (K_MEANS, {"n_clusters": 500}, {}, TrainingError, "n_samples=142 should be >= n_clusters"),
        (
            K_MEANS,
            {},
            {"metrics": ["accuracy"]},
            RecipeError,
            "evaluation.metrics: 'accuracy' is unknown for clustering; known are silhouette_score",
        ),
        (K_MEANS, {}, {"target_column": "cellar"}, ServingError, "has no column 'cellar'"),
    ],
)
def test_what_cannot_be_clustered_is_refused(
    settings: Settings,
    wine: pd.DataFrame,
    class_path: str,
    values: dict[str, Any],
    keys: dict[str, Any],
    error: type[ServingError],
    message: str,
) -> None:
    with pytest.raises(error) as caught:
        fitted(settings, class_path, values, **keys)
    assert message in str(caught.value)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_clusterer_is_not_for_a_task_with_a_target(
    settings: Settings, wine: pd.DataFrame, task: str
) -> None:
    content = recipe(K_MEANS, {}).model_dump(exclude_unset=True) | {"task_choice": task}
    with pytest.raises(RecipeError, match=f"KMeans' is not for {task}"):
        train(Recipe.model_validate(content), settings, Path("wine.csv"))
