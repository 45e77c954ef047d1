"""Tuning of clustering, which has no target to compare with."""

from pathlib import Path
from typing import Any

import pytest
from serving.config.settings import Settings
from serving.contract.recipe import Recipe
from serving.errors import RecipeError
from serving.training.trainer import TrainingResult, train
from sklearn.datasets import load_wine

K_MEANS = "sklearn.cluster.KMeans"
MIXTURE = "sklearn.mixture.GaussianMixture"


@pytest.fixture
def fitted(local_store: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Tunes on the chemical analyses of 178 wines: `fitted(K_MEANS, "n_clusters", ...)`."""
    monkeypatch.chdir(tmp_path)
    load_wine(as_frame=True).data.to_csv("wine.csv", index=False)

    def fitted(class_path: str, count: str, metric: str | None = None, **split: float) -> Any:
        content = {
            "name": "wines",
            "task_choice": "clustering",
            "data": {"data_interface": {}, "split": split or {"train": 0.8, "test": 0.2}},
            "preprocessor": {"steps": [{"type": "standard_scaler"}]},
            "model": {
                "class_path": class_path,
                "hyperparameters": {
                    "tuning_enabled": True,
                    "n_trials": 6,
                    "optimization_metric": metric,
                    "tunable": {count: {"type": "int", "range": [1, 7]}},
                },
            },
        }
        return train(Recipe.model_validate(content), local_store, "wine.csv")

    return fitted


def trials(result: TrainingResult, count: str, metric: str) -> tuple[dict[str, float], Any]:
    """The metric of each value that was tried, and the data of the model's run."""
    from mlflow import MlflowClient

    client = MlflowClient()
    run = client.get_run(result.run_id)
    below = client.search_runs(
        [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{result.run_id}'"
    )
    values = {one.data.params[count]: one.data.metrics.get(metric) for one in below}
    return {key: value for key, value in values.items() if value is not None}, run.data


def test_the_best_silhouette_of_the_train_part_wins(fitted: Any) -> None:
    result = fitted(K_MEANS, "n_clusters")
    scores, run = trials(result, "n_clusters", "silhouette_score")
    assert len(scores) > 1
    assert run.params["n_clusters"] == max(scores, key=lambda count: scores[count]) == "3"
    assert result.metrics["train_silhouette_score"] == pytest.approx(max(scores.values()))
    assert result.metrics["test_silhouette_score"] != pytest.approx(max(scores.values()))


def test_a_validation_part_is_preferred_and_less_may_be_better(fitted: Any) -> None:
    split = {"train": 0.6, "validation": 0.2, "test": 0.2}
    result = fitted(K_MEANS, "n_clusters", "davies_bouldin_score", **split)
    scores, run = trials(result, "n_clusters", "davies_bouldin_score")
    assert run.params["n_clusters"] == min(scores, key=lambda count: scores[count])
    found = result.metrics["validation_davies_bouldin_score"]
    assert found == pytest.approx(min(scores.values()))
    assert run.metrics["tuning_davies_bouldin_score"] == min(scores.values())


def test_a_mixture_is_tuned_by_its_own_criterion(fitted: Any) -> None:
    result = fitted(MIXTURE, "n_components", "bic")
    scores, run = trials(result, "n_components", "bic")
    assert run.params["n_components"] == min(scores, key=lambda count: scores[count])
    assert result.metrics["train_bic"] == pytest.approx(min(scores.values()))


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("inertia", "'inertia' cannot be optimized, because more clusters always improve it; use"),
        ("n_clusters", "'n_clusters' cannot be optimized, because more clusters always improve"),
        ("bic", "'bic' cannot be optimized, because KMeans does not compute it; use silhouette"),
        ("accuracy", "'accuracy' is unknown for clustering; known are silhouette_score"),
    ],
)
def test_a_metric_that_cannot_be_optimized_is_refused(
    fitted: Any, metric: str, message: str
) -> None:
    with pytest.raises(RecipeError) as error:
        fitted(K_MEANS, "n_clusters", metric)
    assert str(error.value).startswith(f"model.hyperparameters.optimization_metric: {message}")
