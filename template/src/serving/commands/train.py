"""`mmp train`."""

from pathlib import Path
from typing import Annotated

import typer

from serving.commands._next import serve_command, ui_command
from serving.commands._options import ConfigPath, DataPath, settings_with
from serving.config.settings import DEFAULT_CONFIG
from serving.errors import GateError, RecipeError

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
) -> None:
    """Train a model from a recipe.

    Logs the model and a report to MLflow, and prints the run id and the command that serves it.
    Ends with status 4 if the model does not reach the recipe's gate.
    """
    from serving.contract.recipe import load_recipe

    settings = settings_with(config_path)
    path = recipe_path or _only_recipe()
    recipe = load_recipe(path)

    from serving.training.report import PAGE, REPORT
    from serving.training.trainer import train

    try:
        result = train(recipe, settings, data_path)
    except RecipeError as exc:
        raise RecipeError(f"{path}: {exc}") from exc

    rows = ", ".join(f"{count} {name}" for name, count in result.rows.items())
    if result.dropped:
        rows += f", {result.dropped} without target left out"
    print(f"recipe: {recipe.name} ({path})")
    print(f"rows: {rows}")
    for name, value in result.metrics.items():
        print(f"{name}: {value:.4f}")
    if result.compiled:
        print(f"compiled: {result.compiled}")
    print(f"report: {result.report or f'{REPORT}/{PAGE} among the artifacts of the run'}")
    print(f"model_id: {result.model_id}")
    print(f"run_id: {result.run_id}")
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


def _only_recipe() -> Path:
    found = sorted([*RECIPES.glob("*.yaml"), *RECIPES.glob("*.yml")])
    if len(found) == 1:
        return found[0]
    if not found:
        raise RecipeError(f"no recipe in {RECIPES.resolve()}; give --recipe-path (RECIPE_PATH)")
    names = ", ".join(str(path) for path in found)
    raise RecipeError(f"several recipes ({names}); choose one with --recipe-path (RECIPE_PATH)")
