"""Replace text by what the target is on average, without giving the target away."""

from typing import Any

import pandas as pd
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.preprocessing import TargetEncoder

from serving.contract.recipe import TARGET_ENCODER, Recipe, Task
from serving.errors import DataError

_FOLDS = 5


def make_target_encoder(recipe: Recipe) -> TargetEncoder:
    """The unfitted encoder, with folds that are shuffled by the recipe's seed.

    It is fitted by cross fitting: the rows of a fold get the averages of the other folds, so no row
    is encoded with its own target. Once it is fitted, it has the averages of all rows.
    """
    is_classes = recipe.task_choice is Task.CLASSIFICATION
    # Without this, integers would be taken for classes.
    encoder = TargetEncoder(target_type="auto" if is_classes else "continuous", cv=_FOLDS)
    if encoder.get_params().get("random_state", "deprecated") != "deprecated":
        return encoder  # before scikit-learn 1.9, it has a seed like the other parts of a pipeline
    kind = StratifiedKFold if is_classes else KFold
    folds = kind(_FOLDS, shuffle=True, random_state=recipe.evaluation.random_state)
    return encoder.set_params(cv=folds)


def check_target_encoding(recipe: Recipe, target: "pd.Series[Any] | pd.DataFrame | None") -> None:
    """Before a fit, raise `DataError` naming the step if there are too few rows for cross fitting.

    Args:
        recipe: its steps and its task.
        target: of the train part, shape (rows,) or (rows, steps); None for clustering.
    """
    steps = recipe.preprocessor.steps if recipe.preprocessor else []
    positions = [index for index, step in enumerate(steps) if step.type == TARGET_ENCODER]
    if target is None or not positions:
        return
    is_classes = recipe.task_choice is Task.CLASSIFICATION
    rows = int(target.value_counts().max()) if is_classes else len(target)
    if rows < _FOLDS:
        found = "its most frequent class has" if is_classes else "it has"
        wanted = f"{_FOLDS} rows or more{' of a class' if is_classes else ''}"
        raise DataError(
            f"preprocessor.steps.{positions[0]}: {TARGET_ENCODER} needs {wanted} in the train "
            f"part; {found} {rows}"
        )
