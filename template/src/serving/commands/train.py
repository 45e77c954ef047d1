"""`mmp train`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from serving.commands._columns import table_of
from serving.commands._next import serve_command, ui_command
from serving.commands._options import (
    ConfigPath,
    DataPath,
    Parameters,
    parameters_of,
    settings_with,
)
from serving.config.settings import DEFAULT_CONFIG
from serving.errors import DataError, GateError, RecipeError, TrainingStopped

if TYPE_CHECKING:
    from serving.contract.recipe import Recipe
    from serving.training.inspection import Inspection

RECIPES = Path("recipes")


def run(
    recipe_path: Annotated[
        Path | None,
        typer.Option(
            "--recipe-path",
            "-r",
            envvar="RECIPE_PATH",
            help="Recipe file.  [default: the only one in recipes/]",
        ),
    ] = None,
    config_path: ConfigPath = DEFAULT_CONFIG,
    data_path: DataPath = None,
    params: Parameters = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", envvar="STRICT", help="End with an error if there are any warnings."
        ),
    ] = False,
) -> None:
    """Train a model from a recipe.

    Prints the columns of the data and warnings. Logs the model and a report to MLflow, and prints
    the run id and the command that serves it. Ends with status 4 if the model does not reach the
    recipe's gate.
    """
    from serving.contract.recipe import load_recipe

    settings = settings_with(config_path)
    path = recipe_path or _only_recipe()
    recipe = load_recipe(path).with_parameters(parameters_of(params))

    from serving.training import progress

    def inspected(found: "Inspection") -> None:
        with progress.paused():
            print("\n".join(table_of(found)), end="\n\n", flush=True)
            if recipe.history_columns:
                print(_about_series(recipe, found), end="\n\n", flush=True)
            warn(found.warnings, strict)

    try:
        with progress.shown():
            from serving.training.report import PAGE, REPORT
            from serving.training.trainer import train

            result = train(recipe, settings, data_path, inspected)
    except RecipeError as exc:
        raise RecipeError(f"{path}: {exc}") from exc
    except KeyboardInterrupt:
        raise TrainingStopped("training was stopped before it logged anything") from None

    rows = ", ".join(f"{count} {name}" for name, count in result.rows.items())
    if result.dropped:
        rows += f", {result.dropped} without target left out"
    if recipe.is_forecaster and len(result.rows) > 1:
        rows += "; after the backtest, the model is fitted on all of them"
    print(f"recipe: {recipe.name} ({path})")
    print(f"rows: {rows}")
    for name, value in result.metrics.items():
        if not name.startswith("baseline_"):
            print(f"{name}: {value:.4f}")
    if result.compiled:
        print(f"compiled: {result.compiled}")
    print(f"report: {result.report or f'{REPORT}/{PAGE} among the artifacts of the run'}")
    print(f"model_id: {result.model_id}")
    print(f"run_id: {result.run_id}")
    if result.comparison:
        print(f"\n{result.comparison}")
    warn(result.warnings, strict)
    registration = recipe.model.registration
    if result.missed:
        nothing = " and is not registered" if registration else ""
        raise GateError(
            f"evaluation.gate: {result.missed}; the model is logged in the run {result.run_id}"
            f"{nothing}"
        )
    if registration and result.version:
        alias = f" ({registration.alias})" if registration.alias else ""
        print(f"registered: {registration.name} version {result.version}{alias}")
    print(f"\nNext: {serve_command(config_path=config_path, run_id=result.run_id)}")
    if ui := ui_command(settings.mlflow.tracking_uri):
        print(f"MLflow's UI: {ui}")


def _about_series(recipe: "Recipe", found: "Inspection") -> str:
    """What each request of a time series must have, in one line."""
    names = [column.name for column in found.columns if column.role == "feature"]
    known = f"; known in advance: {', '.join(names)}" if names else ""
    return f"history: {len(recipe.history_columns)} values{known}"


def warn(warnings: Sequence[str], strict: bool) -> None:
    """Print warnings to stderr; if `strict`, raise `DataError` after all of them."""
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    if strict and warnings:
        many = f"{len(warnings)} warnings" if len(warnings) > 1 else "1 warning"
        raise DataError(f"{many} above, and --strict (STRICT) allows none")


def _only_recipe() -> Path:
    found = sorted([*RECIPES.glob("*.yaml"), *RECIPES.glob("*.yml")])
    if len(found) == 1:
        return found[0]
    if not found:
        raise RecipeError(f"no recipe in {RECIPES.resolve()}; give --recipe-path (RECIPE_PATH)")
    names = ", ".join(str(path) for path in found)
    raise RecipeError(f"several recipes ({names}); choose one with --recipe-path (RECIPE_PATH)")
