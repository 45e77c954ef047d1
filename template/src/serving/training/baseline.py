"""What a model must beat: an answer that does not look at the features."""

from typing import Any

from sklearn.dummy import DummyClassifier, DummyRegressor

from serving.contract.recipe import Task

DESCRIPTIONS = {
    Task.CLASSIFICATION: "always the most frequent class",
    Task.REGRESSION: "always the mean",
}


def make_baseline(task: Task) -> Any:
    """The unfitted baseline of the task."""
    if task is Task.CLASSIFICATION:
        # It answers the most frequent class, with the share of each class as its probability.
        return DummyClassifier(strategy="prior")
    return DummyRegressor(strategy="mean")
