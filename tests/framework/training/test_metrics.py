"""Metrics against scikit-learn's own, and against values that are known."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import RECIPE
from serving.contract.recipe import Recipe, Task
from serving.errors import RecipeError
from serving.training.metrics import chosen_metrics, find_metric, require_probabilities, score
from sklearn import metrics as sk
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

OF_CLASSES = [
    *("accuracy", "balanced_accuracy", "precision_weighted", "recall_weighted", "f1_weighted"),
    *("precision_macro", "recall_macro", "f1_macro"),
    *("roc_auc", "log_loss", "average_precision", "brier"),
]
OF_NUMBERS = ["mae", "rmse", "r2", "mse", "mape", "medae", "explained_variance"]


def recipe(task: str, **evaluation: Any) -> Recipe:
    return Recipe.model_validate(RECIPE | {"task_choice": task, "evaluation": evaluation})


def test_binary_classes_are_scored_as_by_scikit_learn() -> None:
    x, y = load_breast_cancer(return_X_y=True, as_frame=True)
    labels = y.map({0: "malignant", 1: "benign"})  # so the second class is malignant
    model = LogisticRegression(max_iter=30).fit(x, labels)
    found = score(model, x, labels, chosen_metrics(recipe("classification", metrics=OF_CLASSES)))
    p, predicted = model.predict_proba(x), model.predict(x)
    is_malignant = labels == "malignant"
    assert found == pytest.approx(
        {
            "accuracy": sk.accuracy_score(labels, predicted),
            "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
            "precision_weighted": sk.precision_score(labels, predicted, average="weighted"),
            "recall_weighted": sk.recall_score(labels, predicted, average="weighted"),
            "f1_weighted": sk.f1_score(labels, predicted, average="weighted"),
            "precision_macro": sk.precision_score(labels, predicted, average="macro"),
            "recall_macro": sk.recall_score(labels, predicted, average="macro"),
            "f1_macro": sk.f1_score(labels, predicted, average="macro"),
            "roc_auc": sk.roc_auc_score(is_malignant, p[:, 1]),
            "log_loss": sk.log_loss(labels, p),
            "average_precision": sk.average_precision_score(is_malignant, p[:, 1]),
            "brier": np.mean((p[:, 1] - is_malignant) ** 2),
        }
    )


@pytest.mark.parametrize("kind", ["str", "int64"])
def test_several_classes_are_one_against_the_rest(kind: str) -> None:
    x, y = load_iris(return_X_y=True, as_frame=True)
    y = y.astype(kind)
    model = LogisticRegression(max_iter=20).fit(x, y)
    some = y.index % 3 > 0  # so the classes differ in size
    found = score(
        model, x[some], y[some], chosen_metrics(recipe("classification", metrics=OF_CLASSES))
    )
    p = model.predict_proba(x[some])
    auc = sk.roc_auc_score(y[some], p, multi_class="ovr", average="weighted")
    assert found["roc_auc"] == pytest.approx(auc)
    assert found["log_loss"] == pytest.approx(sk.log_loss(y[some], p))
    assert 0 < found["brier"] < 1
    assert set(found) == set(OF_CLASSES)


def test_booleans_are_classes() -> None:
    x, y = load_breast_cancer(return_X_y=True, as_frame=True)
    model = LogisticRegression(max_iter=30).fit(x, y == 1)
    found = score(model, x, y == 1, chosen_metrics(recipe("classification", metrics=OF_CLASSES)))
    assert set(found) == set(OF_CLASSES)
    assert found["roc_auc"] == pytest.approx(sk.roc_auc_score(y, model.predict_proba(x)[:, 1]))


def test_numbers_are_scored_as_by_scikit_learn() -> None:
    x, y = load_diabetes(return_X_y=True, as_frame=True)
    model = LinearRegression().fit(x, y)
    found = score(model, x, y, chosen_metrics(recipe("regression", metrics=OF_NUMBERS)))
    predicted = model.predict(x)
    assert found == pytest.approx(
        {
            "mae": sk.mean_absolute_error(y, predicted),
            "rmse": sk.root_mean_squared_error(y, predicted),
            "r2": sk.r2_score(y, predicted),
            "mse": sk.mean_squared_error(y, predicted),
            "mape": sk.mean_absolute_percentage_error(y, predicted),
            "medae": sk.median_absolute_error(y, predicted),
            "explained_variance": sk.explained_variance_score(y, predicted),
        }
    )


def test_the_names_of_modern_ml_pipeline_are_known() -> None:
    classes = ["accuracy", "precision", "recall", "f1", "roc_auc"]
    numbers = ["r2_score", "mean_squared_error", "root_mean_squared_error", "mean_absolute_error"]
    numbers += ["mae", "mse", "rmse", "r2", "mape"]
    assert list(chosen_metrics(recipe("classification", metrics=classes))) == classes
    assert list(chosen_metrics(recipe("regression", metrics=numbers))) == numbers


@pytest.mark.parametrize("task", [Task.CLASSIFICATION, Task.REGRESSION])
def test_metrics_know_which_value_is_better(task: Task) -> None:
    """A model that has learned something beats one that has not, by every metric."""
    if task is Task.CLASSIFICATION:
        x, y = load_breast_cancer(return_X_y=True, as_frame=True)
        good, bad, names = LogisticRegression(max_iter=30), DummyClassifier(), OF_CLASSES
    else:
        x, y = load_diabetes(return_X_y=True, as_frame=True)
        good, bad, names = LinearRegression(), DummyRegressor(), OF_NUMBERS
    chosen = chosen_metrics(recipe(str(task), metrics=names))
    better, worse = (score(model.fit(x, y), x, y, chosen) for model in (good, bad))
    for name in names:
        metric = find_metric(task, name, "")
        assert metric.beats(better[name], worse[name]), name
        assert not metric.beats(worse[name], better[name]), name
        assert not metric.beats(worse[name], worse[name]), name


def test_what_has_no_value_is_left_out() -> None:
    x, y = load_iris(return_X_y=True, as_frame=True)
    chosen = chosen_metrics(recipe("classification", metrics=["accuracy", "roc_auc", "log_loss"]))
    model = LogisticRegression(max_iter=20).fit(x[y < 2], y[y < 2])
    assert set(score(model, x, y, chosen)) == {"accuracy"}  # a class that the model does not know
    assert set(score(model, x[y < 1], y[y < 1], chosen)) == {"accuracy", "log_loss"}
    machine = LinearSVC().fit(x, y)
    assert set(score(machine, x, y, chosen)) == {"accuracy"}
    one_row = chosen_metrics(recipe("regression", metrics=["r2", "mae"]))
    assert set(score(LinearRegression().fit(x, y), x[:1], y[:1], one_row)) == {"mae"}


def test_probabilities_that_are_asked_for_must_exist() -> None:
    chosen = chosen_metrics(recipe("classification", metrics=["accuracy", "roc_auc"]))
    with pytest.raises(RecipeError, match=r"^evaluation\.metrics: 'roc_auc' needs probabilities"):
        require_probabilities(chosen, make_pipeline(LinearSVC()), "evaluation.metrics")
    require_probabilities(chosen, make_pipeline(LogisticRegression()), "evaluation.metrics")


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(RecipeError, match=r"^evaluation\.metrics: 'rmse' is unknown for class"):
        chosen_metrics(recipe("classification", metrics=["rmse"]))
    assert pd.Series(list(chosen_metrics(recipe("classification")))).is_unique
