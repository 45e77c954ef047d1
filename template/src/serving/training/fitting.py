"""Tune, cross-validate, fit, calibrate and evaluate a pipeline, as the recipe says."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pandas as pd

from serving.contract.recipe import Recipe, Task
from serving.errors import DataError, RecipeError, ServingError, TrainingError
from serving.redaction import first_line
from serving.training import forecasters, progress
from serving.training.baseline import DESCRIPTIONS, make_baseline
from serving.training.calibration import calibrate, check_calibration
from serving.training.clustering import check_optimized
from serving.training.cross_validation import cross_validate
from serving.training.data import Dataset
from serving.training.metrics import (
    OPTIMIZATION_METRIC,
    evaluate,
    find_metric,
    main_metric,
    optimized_metric,
    require_probabilities,
    score,
)
from serving.training.pipeline import build_pipeline, likely_cause
from serving.training.splitting import folds
from serving.training.target_encoding import check_target_encoding

logger = logging.getLogger(__name__)

Parts = Mapping[str, Any]
"""Part of the data -> the labels of its rows."""

TRIAL_FOLDS = 5
"""With how many folds a trial is scored, if the recipe has no validation part and names none."""


def check_plan(
    pipeline: Any, recipe: Recipe, data: Dataset, parts: Parts, chosen: Mapping[str, Any]
) -> None:
    """Before a long fit, raise a `ServingError` for what cannot be done during or after it."""
    check_target_encoding(recipe, data.target_of(parts["train"]))
    if recipe.task_choice not in _SUPERVISED:
        _refuse_supervised(recipe)
        if recipe.model.hyperparameters.tuning_enabled:
            name, _ = optimized_metric(recipe)
            check_optimized(name, pipeline[-1], OPTIMIZATION_METRIC)
        return
    assert data.target is not None
    is_calibrated = recipe.model.calibration.enabled
    if is_calibrated and isinstance(data.target, pd.Series):
        check_calibration(recipe, pipeline, data.target, parts["calibration"])
    if recipe.evaluation.metrics is not None and not is_calibrated:
        require_probabilities(chosen, pipeline, "evaluation.metrics")
    if recipe.model.hyperparameters.tuning_enabled:
        name, metric = optimized_metric(recipe)
        require_probabilities({name: metric}, pipeline, OPTIMIZATION_METRIC)
        trial_score(recipe, data, parts)
    if recipe.evaluation.cross_validation:
        folds(recipe, data, parts["train"], recipe.evaluation.cross_validation)
    if recipe.is_forecaster and (held_out := held_out_part(parts)):
        forecasters.origins(recipe, data, parts[held_out], held_out)


_SUPERVISED = (Task.CLASSIFICATION, Task.REGRESSION, Task.TIMESERIES)
"""The tasks whose answers can be compared with the target, row by row."""


def _refuse_supervised(recipe: Recipe) -> None:
    """Raise `RecipeError` for what needs a score of a model."""
    is_tuned = recipe.model.hyperparameters.tuning_enabled
    for key, is_asked, tasks in (
        ("model.hyperparameters.tuning_enabled", is_tuned, (*_SUPERVISED, Task.CLUSTERING)),
        ("evaluation.cross_validation", recipe.evaluation.cross_validation, _SUPERVISED),
    ):
        if is_asked and recipe.task_choice not in tasks:
            names = f"{', '.join(tasks[:-1])} and {tasks[-1]}"
            raise RecipeError(f"{key}: is only for {names}, not {recipe.task_choice}")


def trial_score(
    recipe: Recipe, data: Dataset, parts: Parts
) -> Callable[[Mapping[str, Any]], float]:
    """The function that scores hyperparameters with the metric that is optimized.

    It fits on the train part and evaluates on the validation part. Without a validation part, it
    returns the mean of a cross-validation in the train part, or for clustering, the metric of the
    train part itself.

    Raises `DataError` if the train part is too small for the folds. The function raises what a fit
    raises, and `TrainingError` if the metric has no value.
    """
    name, metric = optimized_metric(recipe)
    train, validation = parts["train"], parts.get("validation")
    if recipe.task_choice is Task.CLUSTERING:
        rows = train if validation is None else validation

        def clusters_scored(values: Mapping[str, Any]) -> float:
            pipeline = build_pipeline(recipe, data.feature_columns, values)
            pipeline.fit(data.features.loc[train])
            seed = recipe.evaluation.random_state
            told = evaluate(pipeline, data.features, None, {"trial": rows}, {name: metric}, seed)
            return _only_value(told, name)

        return clusters_scored
    if recipe.is_forecaster:
        return _backtest_score(recipe, data, parts)
    assert data.target is not None
    whole = data.target
    features, target = data.features.loc[train], whole.loc[train]
    count = recipe.evaluation.cross_validation or TRIAL_FOLDS
    divided = folds(recipe, data, train, count) if validation is None else []

    def scored(values: Mapping[str, Any]) -> float:
        pipeline = build_pipeline(recipe, data.feature_columns, values, data.frequency)
        if validation is None:
            found = cross_validate(pipeline, features, target, divided, {name: metric})
            scores = {key: float(one.mean()) for key, one in found.items()}
        else:
            pipeline.fit(features, target)
            rows = data.features.loc[validation]
            scores = score(pipeline, rows, whole.loc[validation], {name: metric})
        return _only_value(scores, name)

    return scored


def _only_value(scores: Mapping[str, float], name: str) -> float:
    if not scores:
        raise TrainingError(f"{name} has no value")
    [value] = scores.values()
    return value


def _backtest_score(
    recipe: Recipe, data: Dataset, parts: Parts
) -> Callable[[Mapping[str, Any]], float]:
    """As `trial_score`, by a backtest in the validation part, or at the end of the train part."""
    name, metric = optimized_metric(recipe)
    part, rows = "validation", parts.get("validation")
    if rows is None:
        part, rows = "second half of the train", forecasters.last_rows(recipe, data, parts["train"])
    forecasters.origins(recipe, data, rows, part)

    def scored(values: Mapping[str, Any]) -> float:
        pipeline = build_pipeline(recipe, data.feature_columns, values, data.frequency)
        table = forecasters.backtest(pipeline, recipe, data, rows, part)
        return _only_value(forecasters.scores(table, {name: metric}), name)

    return scored


def backtests(
    pipeline: Any, recipe: Recipe, data: Dataset, parts: Parts, chosen: Mapping[str, Any]
) -> tuple[dict[str, pd.DataFrame], dict[str, float]]:
    """The backtests of a forecaster and of the baseline in the held-out part, and their metrics.

    Both are empty if no rows are held out.
    """
    if (part := held_out_part(parts)) is None:
        return {}, {}
    with _blaming_the_fit(recipe, data):
        tables = forecasters.backtests(pipeline, recipe, data, parts[part], part)
    values = {}
    for group, table in ((part, tables["model"]), ("baseline", tables["baseline"])):
        for name, value in forecasters.scores(table, chosen).items():
            values[f"{group}_{name}"] = value
    return tables, values


def cross_validated(
    pipeline: Any, recipe: Recipe, data: Dataset, rows: Any, chosen: Mapping[str, Any]
) -> dict[str, float]:
    """Mean and standard deviation of each metric over the folds; none if the recipe has none."""
    count = recipe.evaluation.cross_validation
    if not count:
        return {}

    divided = folds(recipe, data, rows, count)
    with _blaming_the_fit(recipe, data):
        found = cross_validate(
            pipeline,
            data.features.loc[rows],
            data.target_of(rows),
            divided,
            chosen,
            lambda position: progress.step(f"fold {position + 1} of {count}", position, count),
        )
    values = {}
    for name, scores in found.items():
        values[f"cv_{name}_mean"] = float(scores.mean())
        values[f"cv_{name}_std"] = float(scores.std())
    return values


def fit(pipeline: Any, recipe: Recipe, data: Dataset, rows: Any) -> None:
    """Fit the pipeline on these rows.

    Raises `RecipeError` or `TrainingError` with the likely cause.
    """
    count = f"{'all ' if recipe.is_forecaster else ''}{len(rows):,} rows"
    progress.step(f"fitting {recipe.model.class_path.rpartition('.')[2]} on {count}")
    with _blaming_the_fit(recipe, data):
        parameters = data.fit_parameters(rows)
        pipeline.fit(data.features.loc[rows], data.target_of(rows), **parameters)


@contextlib.contextmanager
def _blaming_the_fit(recipe: Recipe, data: Dataset) -> Iterator[None]:
    """Raise a `ServingError` with the likely cause for whatever a fit raises."""
    try:
        yield
    except DataError:
        raise
    except Exception as exc:
        logger.debug("fit failed", exc_info=True)
        reason = first_line(exc)
        if f"parameter of {recipe.model.class_path.rpartition('.')[2]} must be" in reason:
            raise RecipeError(f"model.hyperparameters.values: {reason}") from exc
        hint = "" if recipe.is_forecaster else likely_cause(recipe, data.feature_columns)
        raise TrainingError(
            f"{recipe.model.class_path} could not be fitted: {reason}{hint}"
        ) from exc


def calibrated(
    pipeline: Any, recipe: Recipe, data: Dataset, parts: Parts
) -> tuple[Any, dict[str, float]]:
    """Calibrate the fitted pipeline.

    Returns the calibrated pipeline, and `calibration_METRIC_before` and `calibration_METRIC_after`
    on the held-out part.
    """
    progress.step(f"calibrating with {recipe.model.calibration.method}")
    rows = parts["calibration"]
    result = calibrate(pipeline, recipe, data.features.loc[rows], data.target_of(rows))
    losses = {
        name: find_metric(recipe.task_choice, name, "model.calibration")
        for name in ("log_loss", "brier")
    }
    changes = {}
    if held_out := held_out_part(parts):
        told = {"calibration": parts[held_out]}
        for when, one in (("before", pipeline), ("after", result)):
            for name, value in _evaluated(one, recipe, data, told, losses).items():
                changes[f"{name}_{when}"] = value
    return result, changes


def evaluated(
    pipeline: Any, recipe: Recipe, data: Dataset, parts: Parts, chosen: Mapping[str, Any]
) -> dict[str, float]:
    """Each metric on each part as `part_metric`, and that of the baseline on the held-out part.

    The part that has calibrated the model is left out, because it says nothing about the model.
    """
    progress.step("evaluating")
    told = {name: rows for name, rows in parts.items() if name != "calibration"}
    values = _evaluated(pipeline, recipe, data, told, chosen)
    if (held_out := held_out_part(parts)) and recipe.task_choice in _SUPERVISED:
        train = parts["train"]
        baseline = make_baseline(recipe)
        baseline.fit(data.features.loc[train], data.target_of(train))
        values |= _evaluated(baseline, recipe, data, {"baseline": parts[held_out]}, chosen)
    return values


def compared(
    recipe: Recipe, parts: Parts, chosen: Mapping[str, Any], values: Mapping[str, float]
) -> tuple[str | None, list[str]]:
    """Compare the main metric on the held-out part with that of the baseline.

    Returns a line with both values, or None if there are none, and a warning if the model is not
    better.
    """
    part, name = held_out_part(parts), main_metric(recipe, chosen)
    value, baseline = values.get(f"{part}_{name}"), values.get(f"baseline_{name}")
    if name is None or value is None or baseline is None:
        return None, []
    described = DESCRIPTIONS[recipe.task_choice]
    line = f"{part} {name}: {value:.4f} ({described}: {baseline:.4f})"
    if chosen[name].beats(value, baseline):
        return line, []
    return line, [f"the model is not better than the baseline; {line}"]


def logged_metrics(recipe: Recipe, parts: Parts, chosen: Mapping[str, Any]) -> list[str]:
    """The names of the metrics that a run logs, if all of them have a value."""
    told = [name for name in parts if name != "calibration"]
    if recipe.is_forecaster:
        told = list(filter(None, [held_out_part(parts)]))
    if held_out_part(parts) and recipe.task_choice in _SUPERVISED:
        told.append("baseline")
    names = [f"{part}_{name}" for part in told for name in chosen]
    if recipe.evaluation.cross_validation:
        names += [f"cv_{name}_{kind}" for name in chosen for kind in ("mean", "std")]
    return names


def held_out_part(parts: Parts) -> str | None:
    """The part that tells best how good the model is; None if all rows are fitted on."""
    return next((name for name in ("test", "validation") if name in parts), None)


def _evaluated(
    pipeline: Any, recipe: Recipe, data: Dataset, parts: Parts, chosen: Mapping[str, Any]
) -> dict[str, float]:
    try:
        seed = recipe.evaluation.random_state
        return evaluate(pipeline, data.features, data.target, parts, chosen, seed, data.treatment)
    except ServingError:
        raise
    except Exception as exc:
        logger.debug("evaluation failed", exc_info=True)
        raise TrainingError(
            f"{recipe.model.class_path} was fitted, but could not be evaluated for "
            f"{recipe.task_choice}: {first_line(exc)}"
        ) from exc
