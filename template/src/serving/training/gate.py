"""The gate of a recipe: what a metric must reach, checked before and after training."""

from collections.abc import Collection, Mapping
from typing import Any

from serving.config.yaml_file import did_you_mean
from serving.contract.recipe import Gate, Recipe
from serving.errors import RecipeError
from serving.training.metrics import is_loss

_NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""MLflow's error codes for a registered model or an alias that does not exist."""


def check_gate(recipe: Recipe, known: Collection[str], client: Any) -> None:
    """Before training, check that the gate can be decided.

    Args:
        recipe: the recipe with the gate.
        known: the names of the metrics that the run will log.
        client: MLflow's client.

    Raises `RecipeError` naming the key if a metric is unknown, or if the version that has the
    alias lacks it.
    """
    for gate in recipe.evaluation.gate:
        if gate.metric not in known:
            raise RecipeError(
                f"evaluation.gate.metric: '{gate.metric}' is unknown; this recipe logs "
                f"{', '.join(known)}{did_you_mean(gate.metric, known)}"
            )
        if reason := _incomparable(gate, recipe, client):
            raise RecipeError(f"evaluation.gate.not_worse_than: {reason}")


def missed(recipe: Recipe, metrics: Mapping[str, float], client: Any) -> str | None:
    """Why the metrics do not reach the gate, for each of its demands; None if they do."""
    reasons = [_missed(gate, recipe, metrics, client) for gate in recipe.evaluation.gate]
    return "; ".join(reason for reason in reasons if reason) or None


def _missed(gate: Gate, recipe: Recipe, metrics: Mapping[str, float], client: Any) -> str | None:
    value = metrics.get(gate.metric)
    if value is None:
        return f"{gate.metric} has no finite value"
    if gate.minimum is not None and value < gate.minimum:
        return f"{gate.metric} is {value:.4f} and must be at least {gate.minimum:g}"
    if gate.maximum is not None and value > gate.maximum:
        return f"{gate.metric} is {value:.4f} and must be at most {gate.maximum:g}"
    if reason := _incomparable(gate, recipe, client):
        return reason
    current = _current(gate, recipe, client)
    if current is None:
        return None
    version, metrics_of_current = current
    other = metrics_of_current[gate.metric]
    worse_by = value - other if _less_is_better(gate.metric, recipe) else other - value
    if worse_by <= gate.tolerance:
        return None
    tolerance = f" by more than {gate.tolerance:g}" if gate.tolerance else ""
    return (
        f"{gate.metric} is {value:.4f} and must not be worse{tolerance} than {other:.4f}, that of "
        f"version {version} ({gate.not_worse_than})"
    )


def _incomparable(gate: Gate, recipe: Recipe, client: Any) -> str | None:
    """Why the metric cannot be compared with that of the alias; None if it can."""
    current = _current(gate, recipe, client)
    if current is None or gate.metric in current[1]:
        return None
    version, metrics = current
    has = ", ".join(sorted(metrics)) or "no metrics"
    return (
        f"version {version} ({gate.not_worse_than}) of {_name(recipe)} has no {gate.metric} to "
        f"compare with, its run has {has}; move the alias, or name a metric of both"
    )


def _current(gate: Gate, recipe: Recipe, client: Any) -> tuple[str, dict[str, float]] | None:
    """The version that has the gate's alias and its run's metrics; None if none has it."""
    if gate.not_worse_than is None:
        return None
    from mlflow.exceptions import MlflowException

    try:
        version = client.get_model_version_by_alias(_name(recipe), gate.not_worse_than)
    except MlflowException as exc:
        if exc.error_code in _NOT_THERE:
            return None
        raise
    try:
        metrics = dict(client.get_run(version.run_id).data.metrics) if version.run_id else {}
    except MlflowException as exc:
        if exc.error_code not in _NOT_THERE:
            raise
        metrics = {}
    return str(version.version), metrics


def _name(recipe: Recipe) -> str:
    assert recipe.model.registration is not None  # the recipe has checked it
    return recipe.model.registration.name


def _less_is_better(metric: str, recipe: Recipe) -> bool:
    """Whether less of a logged metric is better: `test_rmse`, `cv_rmse_mean`, `cv_r2_std`."""
    name = metric.partition("_")[2].removesuffix("_mean")
    return name.endswith("_std") or is_loss(recipe.task_choice, name)
