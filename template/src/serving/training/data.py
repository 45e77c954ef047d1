"""Read training data, give it types and split it, as the recipe says."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_float_dtype
from sklearn.model_selection import train_test_split

from serving.contract.columns import Column
from serving.contract.recipe import Loader, Recipe, Task
from serving.data.tables import (
    infer_column,
    leading_zeros,
    read_table,
    require_columns,
    to_table,
)
from serving.errors import DataError
from serving.training.inspection import Inspection, inspect
from serving.training.profile import Profile, make_example, profile

_CLASSES = ("string", "long", "boolean")


@dataclass(frozen=True)
class Dataset:
    """The rows with a target, and the type of every column with a role."""

    features: pd.DataFrame
    """Shape (rows, features), with the dtypes that the served model will get."""
    target: "pd.Series[Any]"
    """Shape (rows,)."""
    feature_columns: list[Column]
    target_column: Column
    entity_columns: list[Column]
    time: "pd.Series[Any] | None"
    """Shape (rows,): the column that a temporal split sorts by."""
    seen: Profile
    """The profile of the features."""
    example: dict[str, Any]
    """A request, as JSON values: typical features and made-up entities."""
    example_features: pd.DataFrame
    """The example's features, of shape (1, features)."""
    dropped: int
    """How many rows were left out because they have no target."""
    inspection: Inspection
    """Every column of the table, and what looks wrong."""


def load_dataset(recipe: Recipe, path: Path) -> Dataset:
    """Read the recipe's columns from a CSV or Parquet file.

    Raises `DataError` naming the file and the column if a column is missing or has no usable type,
    and `RecipeError` if the recipe's example does not fit the columns.
    """
    interface = recipe.data.data_interface
    loader = recipe.data.loader
    frame = read_table(path, as_text=interface.entity_columns, loader=loader)
    zeros = leading_zeros(path, frame, loader)
    require_columns(frame, list(interface.roles), path, "named in the recipe's data_interface")
    features = recipe.data.features_of(list(frame.columns))
    require_columns(frame, features, path, "named in the recipe's feature_columns")
    if not features:
        raise DataError(f"{path}: no column is left to learn from")

    target = str(interface.target_column)
    rows = len(frame)
    frame = frame.dropna(subset=[target]).reset_index(drop=True)
    if frame.empty:
        raise DataError(f"{path}: the target column '{target}' has no values")
    if recipe.task_choice is Task.CLASSIFICATION:
        frame[target] = _as_classes(frame[target])

    try:
        feature_columns = [_column(frame, name, loader) for name in features]
        target_column = _column(frame, target, loader)
        entities = [name for name in interface.entity_columns if name != target]
        keys = [name for name in entities if name not in loader.declared]
        frame = frame.assign(**{name: _as_integers(frame[name]) for name in keys})
        entity_columns = [_column(frame, name, loader) for name in entities]
    except DataError as exc:
        raise DataError(f"{path}: {exc}") from None
    _check_target(recipe, target_column, frame[target].nunique(), path)

    time_columns = _time_columns(recipe, frame, path)
    columns = [*time_columns, *entity_columns, *feature_columns, target_column]
    typed = pd.DataFrame(to_table(frame, columns, path))
    seen = profile(typed, feature_columns)
    example = make_example(recipe.data.example, [*entity_columns, *feature_columns], seen)
    return Dataset(
        features=typed[features],
        target=typed[target],
        feature_columns=feature_columns,
        target_column=target_column,
        entity_columns=entity_columns,
        time=typed[time_columns[0].name] if time_columns else None,
        seen=seen,
        example=example,
        example_features=pd.DataFrame(to_table(pd.DataFrame([example]), feature_columns, path)),
        dropped=rows - len(frame),
        inspection=inspect(
            recipe,
            frame.assign(**{column.name: typed[column.name] for column in columns}),
            {column.name: column for column in columns},
            zeros,
        ),
    )


def split(recipe: Recipe, data: Dataset, path: Path) -> dict[str, pd.Index]:
    """Divide the rows into `train` and the other parts to which the recipe gives a share.

    Random splits are stratified by class if there are enough rows.

    Raises `DataError` if a part would be empty.
    """
    plan = recipe.data.split
    rows: Any = data.features.index
    if data.time is not None:
        rows = data.time.sort_values(kind="stable").index
    parts: dict[str, pd.Index] = {}
    for name, share in (("test", plan.test), ("validation", plan.validation)):
        if not share:
            continue
        count = round(len(data.features) * share)
        if count < 1 or count >= len(rows):
            raise DataError(
                f"{path}: too few rows ({len(data.features)}) for a {name} part of {share:g}"
            )
        if data.time is not None:
            rows, parts[name] = rows[:-count], rows[-count:]
        else:
            rows, parts[name] = train_test_split(
                rows,
                test_size=count,
                random_state=recipe.evaluation.random_state,
                stratify=_strata(recipe, data.target[rows], count),
            )
    return {"train": rows, **parts}


def _column(frame: pd.DataFrame, name: str, loader: Loader) -> Column:
    """The column with its declared type, or else with the type of its values."""
    column = infer_column(frame[name], name)
    is_text = loader.declared.get(name) == "string"  # even if all values look like dates
    return replace(column, type="string") if is_text else column


def _as_integers(keys: "pd.Series[Any]") -> "pd.Series[Any]":
    """Convert keys read as text to integers if nothing is lost: `7` is one, `007` is not."""
    if not all(isinstance(key, str) and re.fullmatch(r"0|-?[1-9]\d{0,17}", key) for key in keys):
        return keys
    return keys.astype("int64")


def _as_classes(target: "pd.Series[Any]") -> "pd.Series[Any]":
    """Turn whole numbers, which pandas reads as floats if some are missing, back into integers."""
    is_whole = is_float_dtype(target.dtype) and np.equal(np.mod(target, 1), 0).all()
    return target.astype("int64") if is_whole else target


def _time_columns(recipe: Recipe, frame: pd.DataFrame, path: Path) -> list[Column]:
    """The column that a temporal split sorts by; it does not have to be a feature."""
    name = recipe.data.split.temporal_column
    if recipe.data.split.strategy != "temporal" or name is None:
        return []
    require_columns(frame, [name], path, "named in the recipe's data.split.temporal_column")
    column = infer_column(frame[name], name)
    if column.type not in ("datetime", "long", "double") or not column.required:
        raise DataError(
            f"{path}: the column '{name}' cannot be sorted by time: "
            "it must hold a date-time or a number in every row"
        )
    return [column]


def _strata(recipe: Recipe, target: "pd.Series[Any]", count: int) -> "pd.Series[Any] | None":
    counts = target.value_counts()
    enough = counts.min() > 1 and min(count, len(target) - count) >= len(counts)
    return target if recipe.task_choice is Task.CLASSIFICATION and enough else None


def _check_target(recipe: Recipe, target: Column, classes: int, path: Path) -> None:
    if recipe.task_choice is Task.REGRESSION and target.type not in ("long", "double"):
        raise DataError(
            f"{path}: the target column '{target.name}' is {target.spec.rule}; "
            "regression needs numbers"
        )
    if recipe.task_choice is Task.CLASSIFICATION and classes < 2:
        raise DataError(
            f"{path}: the target column '{target.name}' has the same value in every row; "
            "classification needs two classes or more"
        )
    if recipe.task_choice is Task.CLASSIFICATION and target.type not in _CLASSES:
        raise DataError(
            f"{path}: the target column '{target.name}' is {target.spec.rule}; classification "
            "needs classes: text, integers or booleans"
        )
