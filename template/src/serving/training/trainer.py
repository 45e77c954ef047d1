"""Fit a recipe's pipeline on a data file and log it to MLflow, ready to be served."""

import contextlib
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pandas as pd

from serving.config.settings import Settings
from serving.config.yaml_file import hidden_values, hide_values
from serving.contract.columns import Column
from serving.contract.metadata import ENTITY_TYPES, RECIPE, REQUEST_EXAMPLE, TRAINING_PROFILE
from serving.contract.recipe import FORECASTERS, Recipe, Task
from serving.errors import RecipeError, ServingError, TrainingError, TrainingStopped
from serving.model.loading import load_model
from serving.redaction import first_line, redact
from serving.store import tracking
from serving.store.sqlite import file_of, follow_move, is_relative
from serving.training import fitting, gate, progress
from serving.training.backtest import backtest, log_backtest
from serving.training.data import Dataset, load_dataset
from serving.training.inspection import Inspection
from serving.training.metrics import chosen_metrics, optimized_metric
from serving.training.pipeline import build_pipeline, class_path_of, likely_cause
from serving.training.provenance import log_provenance, provenance_of
from serving.training.registration import register
from serving.training.report import PAGE, REPORT, Facts, now, write_report
from serving.training.splitting import split

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training run in MLflow."""

    run_id: str
    model_id: str
    rows: dict[str, int]
    """Rows in each part of the data."""
    dropped: int
    """How many rows were left out because they have no target."""
    metrics: dict[str, float]
    comparison: str | None
    """The main metric beside that of the baseline; None if no rows were held out."""
    warnings: list[str]
    """What is wrong with the model, in sentences; see `Inspection` for the data."""
    compiled: str | None
    """Whether the model was compiled, or why not; None if the recipe does not ask for it."""
    report: Path | None
    """The report's page; None if the run's artifacts are not on this machine."""
    missed: str | None
    """Why the gate was not reached, so that nothing was registered; None if it was."""
    version: str | None
    """The registered version; None if the recipe does not ask for it."""


def train(
    recipe: Recipe,
    settings: Settings,
    data_path: str | Path | None = None,
    inspected: Callable[[Inspection], None] = lambda _: None,
) -> TrainingResult:
    """Fit, evaluate and log a model, load it back and predict with it, report and register it.

    Args:
        recipe: what to train.
        settings: where to log it.
        data_path: other data than the recipe's `source_uri`.
        inspected: is called with what the data holds, before anything is fitted; may raise.

    Values from the environment are logged as the `${VAR}` of the recipe.

    Raises a `ServingError` with one sentence for everything that the user can fix.
    """
    with hidden_values(recipe.texts_with_variables):
        return _train(recipe, settings, data_path, inspected)


def _train(
    recipe: Recipe,
    settings: Settings,
    data_path: str | Path | None,
    inspected: Callable[[Inspection], None],
) -> TrainingResult:
    _check_stage(recipe)
    interface = recipe.data.data_interface
    if recipe.task_choice is Task.CLUSTERING and interface.target_column is not None:
        logger.warning(
            "data.data_interface.target_column: clustering has no target, "
            "so the column '%s' is not used, not even as a feature",
            interface.target_column,
        )
    chosen = chosen_metrics(recipe)
    source = str(data_path or _source(recipe))
    progress.step("reading the rows")
    data = load_dataset(recipe, source, settings)
    inspected(data.inspection)
    parts = split(recipe, data, redact(source))
    # Forecasters may have hyperparameters without a default; those that are tuned need a value.
    tried = {name: one.first for name, one in recipe.model.hyperparameters.tunable.items()}
    pipeline = build_pipeline(recipe, data.feature_columns, tried, data.frequency)
    fitting.check_plan(pipeline, recipe, data, parts, chosen)
    progress.step("opening the MLflow store")
    mlflow = _open_experiment(settings)
    client = mlflow.MlflowClient()

    try:
        gate.check_gate(recipe, fitting.logged_metrics(recipe, parts, chosen), client)
        with _run(mlflow, recipe.name) as run:
            parameters = _parameters(recipe, data_path, parts)
            mlflow.log_params(parameters)
            requirements = _requirements(recipe)
            provenance = provenance_of(data, parameters["data_path"], requirements)
            log_provenance(mlflow, recipe, data, provenance)
            started = time.perf_counter()
            _check_made_up(pipeline, data, parts["train"])
            tuned: Mapping[str, Any] = {}
            if recipe.model.hyperparameters.tuning_enabled:
                tuned = _tune(mlflow, recipe, data, parts)
                pipeline = build_pipeline(recipe, data.feature_columns, tuned, data.frequency)
            tables: Mapping[str, pd.DataFrame] = {}
            if recipe.is_forecaster:  # what follows the data needs the latest rows, too
                tables, metrics = fitting.backtests(pipeline, recipe, data, parts, chosen)
                fitting.fit(pipeline, recipe, data, data.features.index)
            else:
                metrics = fitting.cross_validated(pipeline, recipe, data, parts["train"], chosen)
                fitting.fit(pipeline, recipe, data, parts["train"])
            if recipe.model.calibration.enabled:
                pipeline, changes = fitting.calibrated(pipeline, recipe, data, parts)
                metrics |= changes
            mlflow.log_metric("fit_seconds", time.perf_counter() - started)
            _ask(pipeline, data)
            if not recipe.is_forecaster:
                metrics |= fitting.evaluated(pipeline, recipe, data, parts, chosen)
            mlflow.log_metrics(metrics)
            held_out = fitting.held_out_part(parts)
            if recipe.task_choice is Task.TIMESERIES and held_out:
                table = tables.get("model")
                if table is None:
                    table = backtest(pipeline, recipe, data, parts[held_out])
                log_backtest(mlflow, table, held_out)
            progress.step("logging the model")
            needed = _needed(recipe, requirements)
            model_id = _log_model(pipeline, recipe, data, needed)
            served = _settings_of(run.info.run_id, settings)
            _prove(served)
            compiled = _compile(served, recipe, data_path) if recipe.model.compile else None
            run_id = run.info.run_id
            facts = Facts(
                recipe, data, parts, pipeline, tuned, metrics, provenance, run_id, now(), tables
            )
            report = _report(mlflow, facts)
            version = None
            missed = gate.missed(recipe, metrics, client)
            if recipe.evaluation.gate:
                mlflow.set_tags({"gate": "failed" if missed else "passed"})
            if missed:
                mlflow.set_tag("gate.reason", missed)
                mlflow.end_run("FAILED")  # so that `--run-id latest` does not take it
            elif recipe.model.registration:
                version = register(recipe.model.registration, model_id, run_id, client)
    except (mlflow.MlflowException, OSError) as exc:
        uri = settings.mlflow.tracking_uri
        raise TrainingError(f"MLflow at {redact(uri)} failed: {first_line(exc, uri)}") from exc
    comparison, problems = fitting.compared(recipe, parts, chosen, metrics)
    return TrainingResult(
        run_id=run_id,
        model_id=model_id,
        rows={name: len(rows) for name, rows in parts.items()},
        dropped=data.dropped,
        metrics=metrics,
        comparison=comparison,
        warnings=problems,
        compiled=compiled,
        report=report,
        missed=missed,
        version=version,
    )


@contextlib.contextmanager
def _run(mlflow: Any, name: str, *, nested: bool = False) -> Iterator[Any]:
    """A run in MLflow. A signal that ends training gives it the status `KILLED`."""
    with mlflow.start_run(run_name=name, nested=nested) as run:
        try:
            yield run
        except (KeyboardInterrupt, SystemExit) as exc:
            mlflow.end_run("KILLED")
            if nested or isinstance(exc, SystemExit):
                raise
            raise TrainingStopped(
                f"training was stopped; its run {run.info.run_id} in MLflow has the status KILLED"
            ) from None


def _check_stage(recipe: Recipe) -> None:
    """Before training, raise `RecipeError` if the project lacks the stage that compiles."""
    if not recipe.model.compile or find_spec("serving.compilation"):
        return
    stages = ["api", "training", *(["inference"] if find_spec("serving.inference") else [])]
    raise RecipeError(
        "model.compile: this project does not have the stage compile; set it to false, or add the "
        f"stage: uvx copier update --data 'stages=[{', '.join([*stages, 'compile'])}]'"
    )


def _source(recipe: Recipe) -> str:
    if not recipe.data.loader.source_uri:
        raise RecipeError(
            "data.loader.source_uri: names no data; set it, or give --data-path (DATA_PATH)"
        )
    return recipe.data.loader.source_uri


def _open_experiment(settings: Settings) -> Any:
    # Only in the project's own store: another one may be in use elsewhere under another path.
    own = settings.mlflow.tracking_uri
    if is_relative(own) and (file := file_of(own)) and (old := follow_move(file)):
        logger.info("the project was moved: MLflow's paths to %s have been updated", old)
    # MLflow would print two lines for each trial.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    mlflow = tracking.connect(settings)
    try:
        mlflow.set_experiment(settings.mlflow.experiment_name)
    except Exception as exc:
        uri = settings.mlflow.tracking_uri
        raise TrainingError(
            f"mlflow.tracking_uri: {redact(uri)} cannot be used: {first_line(exc, uri)}"
        ) from exc
    return mlflow


def _parameters(
    recipe: Recipe, data_path: str | Path | None, parts: dict[str, Any]
) -> dict[str, Any]:
    written = recipe.as_written()
    source = written["data"].get("loader", {}).get("source_uri")
    return {
        "recipe": recipe.name,
        "task": str(recipe.task_choice),
        "class_path": recipe.model.class_path,
        "data_path": redact(str(data_path or source)),
        **{f"rows_{name}": len(rows) for name, rows in parts.items()},
        **_arguments(written["model"].get("hyperparameters") or {}),
    }


def _arguments(written: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the estimator that are not tuned, as in the recipe."""
    return (written.get("values") or {}) | (written.get("fixed") or {})


def _tune(mlflow: Any, recipe: Recipe, data: Dataset, parts: dict[str, Any]) -> Mapping[str, Any]:
    """The best hyperparameters, which are logged.

    Each trial is a run of its own, below the current one.
    """
    from serving.training.tuning import tune

    name, _ = optimized_metric(recipe)
    score = fitting.trial_score(recipe, data, parts)

    def attempt(number: int, values: Mapping[str, Any]) -> float:
        with _run(mlflow, f"trial {number}", nested=True):
            mlflow.log_params(values)
            value = score(values)
            mlflow.log_metric(name, value)
            return value

    best = tune(recipe, attempt, likely_cause(recipe, data.feature_columns))
    mlflow.log_params(best.values)
    mlflow.log_metrics({f"tuning_{name}": best.score, "tuning_trials": best.complete})
    return best.values


def _check_made_up(pipeline: Any, data: Dataset, rows: Any) -> None:
    """Try made-up values on the steps before the estimator, before the estimator is fitted.

    An encoder that refuses unknown values would refuse them only after a long fit.
    """
    if not _made_up(data) or len(pipeline.steps) < 2:
        return
    from sklearn.base import clone

    steps = clone(pipeline[:-1])
    try:
        steps.fit(data.features.loc[rows], data.target_of(rows))
    except Exception:
        return  # fitting the whole pipeline will say what is wrong
    with _blaming_the_example(data):
        steps.transform(data.example_features)


def _ask(pipeline: Any, data: Dataset) -> None:
    """Predict the example; a model that refuses unknown values may fail on it."""
    with _blaming_the_example(data):
        pipeline.predict(data.example_features)


@contextlib.contextmanager
def _blaming_the_example(data: Dataset) -> Iterator[None]:
    try:
        yield
    except Exception as exc:
        logger.debug("the example failed", exc_info=True)
        made_up = _made_up(data)
        hint = f" (the values of {', '.join(made_up)} are made up)" if made_up else ""
        raise RecipeError(
            f"data.example: the model fails on the API's example: {first_line(exc)}; "
            f"give values that it accepts{hint}"
        ) from exc


def _made_up(data: Dataset) -> list[str]:
    """The features for which the data has no typical value."""
    return [column.name for column in data.feature_columns if not data.seen[column.name]]


def _log_model(pipeline: Any, recipe: Recipe, data: Dataset, requirements: list[str]) -> str:
    import mlflow.sklearn
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    def schema(*columns: Column) -> Schema:
        return Schema([ColSpec(c.type, c.name, required=c.required) for c in columns])

    with warnings.catch_warnings():
        # The request schema already tells callers that integer columns cannot be null.
        warnings.filterwarnings("ignore", message="Hint: Inferred schema contains integer")
        info = mlflow.sklearn.log_model(
            pipeline,
            name="model",
            # Pickle works for every estimator; MLflow's default, skops, refuses many.
            serialization_format="cloudpickle",
            signature=ModelSignature(
                inputs=schema(*data.feature_columns),
                outputs=Schema(_outputs(recipe, data)),
            ),
            input_example=data.example_features,  # visible to everybody who can see the run
            pip_requirements=requirements,
            metadata={
                RECIPE: recipe.as_written(),
                ENTITY_TYPES: {column.name: column.type for column in data.entity_columns},
                REQUEST_EXAMPLE: data.example,
                TRAINING_PROFILE: data.seen,
            },
        )
    return str(info.model_id)


def _outputs(recipe: Recipe, data: Dataset) -> list[Any]:
    """MLflow's type of a prediction: a number, an effect, the label of a cluster, or a class.

    A time series has as many numbers as steps.
    """
    from mlflow.types import ColSpec

    if recipe.values_per_row > 1:
        return [ColSpec("double", f"step_{k + 1}") for k in range(recipe.values_per_row)]
    if recipe.task_choice in (Task.REGRESSION, Task.CAUSAL, Task.TIMESERIES):
        return [ColSpec("double")]
    return [ColSpec("long" if data.target_column is None else data.target_column.type)]


def _requirements(recipe: Recipe) -> list[str]:
    """The logged model's requirements, given here because MLflow's guess takes a minute."""
    distributions = packages_distributions()
    values = recipe.model.hyperparameters.values.values()
    paths = [recipe.model.class_path, *filter(None, map(class_path_of, values))]
    own = [name for path in paths for name in distributions.get(path.partition(".")[0], [])]
    names = {"mlflow-skinny", "numpy", "pandas", "scikit-learn", *own}
    return [f"{name}=={version(name)}" for name in sorted(names)]


def _needed(recipe: Recipe, requirements: list[str]) -> list[str]:
    """What the logged model needs; a forecaster answers without the library of its model."""
    if not recipe.is_forecaster:
        return requirements
    library = FORECASTERS.removesuffix(".")
    return [one for one in requirements if one.partition("==")[0] != library]


def _settings_of(run_id: str, settings: Settings) -> Settings:
    """The settings that serve the run's model."""
    serving = settings.serving.model_copy(update={"model_run_id": run_id, "model_uri": None})
    return settings.model_copy(update={"serving": serving})


def _prove(settings: Settings) -> None:
    """Load the logged model as the server does: warming up predicts the example."""
    try:
        load_model(settings, engine="native")
    except ServingError as exc:
        raise TrainingError(f"the model was logged, but cannot be served: {exc}") from exc


def _report(mlflow: Any, facts: Facts) -> Path | None:
    """Log the report below `report/`; returns the page's path if this machine has it."""
    progress.step("drawing the report")
    with tempfile.TemporaryDirectory() as directory:
        write_report(facts, Path(directory))
        mlflow.log_artifacts(directory, REPORT)
    address = urlsplit(mlflow.get_artifact_uri(f"{REPORT}/{PAGE}"))
    if address.scheme not in ("", "file"):
        return None
    file = Path(url2pathname(address.path) if address.scheme else address.path)
    return file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file


def _compile(settings: Settings, recipe: Recipe, data_path: str | Path | None) -> str:
    """Compile the model; a model that cannot be compiled is served as it is."""
    from serving.compilation.compiler import compile_model

    progress.step("compiling")
    try:
        compiled = compile_model(settings, data_path)
    except ServingError as exc:
        return f"no, {hide_values(str(exc), recipe.texts_with_variables)}"
    return f"yes, {compiled.compared} get the same answers"
