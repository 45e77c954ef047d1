"""Training data: read, typed and split as the recipe says."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.model_selection import train_test_split

from serving.columns import Column
from serving.errors import DataError, RecipeError
from serving.recipe import Recipe, Task
from serving.tables import infer_column, read_table, require_columns, to_table


@dataclass(frozen=True)
class Dataset:
    """The rows that have a target, with the type of every column that has a role."""

    features: pd.DataFrame
    """Shape (rows, features), with the dtypes that the served model will get."""
    target: "pd.Series[Any]"
    """Shape (rows,)."""
    feature_columns: list[Column]
    target_column: Column
    entity_columns: list[Column]
    example: dict[str, Any]
    """A request: entities and features of a row without missing values, where there is one."""
    dropped: int
    """How many rows were left out because they have no target."""


def load_dataset(recipe: Recipe, path: Path) -> Dataset:
    """Read the recipe's columns from a CSV or Parquet file.

    Raises `DataError` naming the file and the column, when one is missing or has no usable type.
    """
    interface = recipe.data.data_interface
    frame = read_table(path, as_text=interface.entity_columns)
    require_columns(frame, list(interface.roles), path, "named in the recipe's data_interface")
    features = interface.features_of(list(frame.columns))
    require_columns(frame, features, path, "named in the recipe's feature_columns")
    if not features:
        raise DataError(f"{path}: no column is left to learn from")

    target = str(interface.target_column)
    rows = len(frame)
    frame = frame.dropna(subset=[target]).reset_index(drop=True)
    if frame.empty:
        raise DataError(f"{path}: the target column '{target}' has no values")

    try:
        feature_columns = [infer_column(frame[name], name) for name in features]
        target_column = infer_column(frame[target], target)
        entities = [name for name in interface.entity_columns if name != target]
        frame = frame.assign(**{name: _as_integers(frame[name]) for name in entities})
        entity_columns = [infer_column(frame[name], name) for name in entities]
    except DataError as exc:
        raise DataError(f"{path}: {exc}") from None
    _check_target(recipe, target_column, path)
    doubles = [c.name for c in feature_columns if c.type == "double"]
    frame = frame.astype(dict.fromkeys(doubles, "float64"))  # integers and booleans with gaps

    table = to_table(frame, [*entity_columns, *feature_columns, target_column], path)
    typed = pd.DataFrame(table)
    return Dataset(
        features=typed[features],
        target=typed[target],
        feature_columns=feature_columns,
        target_column=target_column,
        entity_columns=entity_columns,
        example=_example(typed[[*entities, *features]]),
        dropped=rows - len(frame),
    )


def split(recipe: Recipe, data: Dataset, path: Path) -> dict[str, pd.Index]:
    """Divide the rows into `train` and, where the recipe gives them a share, the other parts.

    Random splits keep the classes' shares where there are rows enough.

    Raises `DataError` when a part would be empty.
    """
    plan = recipe.data.split
    shares = {"validation": plan.validation, "test": plan.test}
    rows: Any = data.features.index
    if plan.strategy == "temporal":
        rows = _by_time(recipe, data)
    total = plan.train + sum(shares.values())
    parts: dict[str, pd.Index] = {}
    for name, share in shares.items():
        if not share:
            continue
        count = round(len(data.features) * share / total)
        if count < 1 or count >= len(rows):
            raise DataError(f"{path}: {len(data.features)} rows are too few for a {name} part")
        if plan.strategy == "temporal":
            rows, parts[name] = rows[:-count], rows[-count:]
        else:
            rows, parts[name] = train_test_split(
                rows,
                test_size=count,
                random_state=recipe.evaluation.random_state,
                stratify=_strata(recipe, data.target[rows], count),
            )
    return {"train": rows, **parts}


def _as_integers(keys: "pd.Series[Any]") -> "pd.Series[Any]":
    """Keys read as text, as integers if nothing is lost by it: `7` is one, `007` is not."""
    if not all(isinstance(key, str) and re.fullmatch(r"0|-?[1-9]\d{0,17}", key) for key in keys):
        return keys
    return keys.astype("int64")


def _by_time(recipe: Recipe, data: Dataset) -> pd.Index:
    column = str(recipe.data.split.temporal_column)
    if column not in data.features:
        raise RecipeError(
            f"data.split.temporal_column: '{column}' is not a feature column of this recipe"
        )
    return data.features[column].sort_values(kind="stable").index


def _strata(recipe: Recipe, target: "pd.Series[Any]", count: int) -> "pd.Series[Any] | None":
    counts = target.value_counts()
    enough = counts.min() > 1 and min(count, len(target) - count) >= len(counts)
    return target if recipe.task_choice is Task.CLASSIFICATION and enough else None


def _check_target(recipe: Recipe, target: Column, path: Path) -> None:
    if recipe.task_choice is Task.REGRESSION and target.type not in ("long", "double"):
        raise DataError(
            f"{path}: the target column '{target.name}' is {target.spec.rule}; "
            "regression needs numbers"
        )
    if recipe.task_choice is Task.CLASSIFICATION and target.type == "datetime":
        raise DataError(
            f"{path}: the target column '{target.name}' is a date; classification needs classes"
        )


def _example(frame: pd.DataFrame) -> dict[str, Any]:
    complete = frame.dropna()
    if complete.empty:
        return {}
    row = complete.head(1).to_dict(orient="records")[0]
    return {
        str(name): f"{value.isoformat()}Z" if isinstance(value, pd.Timestamp) else value
        for name, value in row.items()
    }
