"""Read training data and give it types, as the recipe says."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_float_dtype

from serving.config.settings import Settings
from serving.config.yaml_file import did_you_mean
from serving.contract.columns import Column
from serving.contract.recipe import Loader, Recipe, Task
from serving.data import series
from serving.data.frames import read_source
from serving.data.tables import (
    infer_column,
    leading_zeros,
    read_table,
    require_columns,
    to_table,
)
from serving.errors import DataError, RecipeError
from serving.forecasting import later
from serving.redaction import redact
from serving.training import progress
from serving.training.causal import read_treatment
from serving.training.inspection import Inspection, inspect, needs_numbers
from serving.training.profile import Profile, make_example, profile

_CLASSES = ("string", "long", "boolean")


@dataclass(frozen=True)
class Dataset:
    """The rows with a target (for clustering, all rows), and the type of every column."""

    features: pd.DataFrame
    """Shape (rows, features), with the dtypes that the served model will get."""
    target: "pd.Series[Any] | pd.DataFrame | None"
    """Shape (rows,); (rows, horizon) for a time series with several steps; None for clustering."""
    treatment: "pd.Series[Any] | None"
    """Shape (rows,), 0 or 1; None for tasks other than causal."""
    feature_columns: list[Column]
    target_column: Column | None
    entity_columns: list[Column]
    entities: pd.DataFrame
    """Shape (rows, entities)."""
    time: "pd.Series[Any] | None"
    """Shape (rows,): the column that a temporal split sorts by; the timestamp of a time series."""
    until: "pd.Series[Any] | None"
    """Shape (rows,): the time of the last value to predict; None for other tasks."""
    frequency: str | None
    """The time between two values of a time series, if it is always the same."""
    groups: "pd.Series[Any] | None"
    """Shape (rows,): the number of each row's group, whose rows a grouped split keeps together."""
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

    def target_of(self, rows: Any) -> "pd.Series[Any] | pd.DataFrame | None":
        """The target of some of the rows, by their labels in the index."""
        return None if self.target is None else self.target.loc[rows]

    def fit_parameters(self, rows: Any) -> dict[str, Any]:
        """What the pipeline's `fit` needs besides the features and the target."""
        return {} if self.treatment is None else {"model__treatment": self.treatment.loc[rows]}


def load_dataset(recipe: Recipe, source: str | Path, settings: Settings | None = None) -> Dataset:
    """Read the recipe's columns from a source (see `read_source`).

    Raises `DataError` naming the source and the column if a column is missing or has no usable
    type, and `RecipeError` if the recipe's example does not fit the columns.
    """
    interface = recipe.data.data_interface
    loader = recipe.data.loader
    zeros: dict[str, pd.Series[Any]] = {}

    is_file = False

    def read_file(file: Path) -> pd.DataFrame:
        nonlocal is_file
        is_file = True
        keys = interface.entity_columns
        table = read_table(file, as_text=keys, loader=loader, open_file=progress.opened)
        zeros.update(leading_zeros(file, table, loader))
        return table

    path = redact(str(source))
    frame = read_source(str(source), settings, loader.parameters, read_file)
    if loader.declared and not is_file:
        raise DataError(
            f"{path}: data.loader.types and date_format are for CSV files only; this source has "
            "types, so change them there"
        )
    progress.step(f"checking the columns of {len(frame):,} rows")
    require_columns(frame, list(interface.roles), path, "named in the recipe's data_interface")
    features = recipe.data.features_of(list(frame.columns))
    require_columns(frame, features, path, "named in the recipe's feature_columns")
    for name in recipe.data.known_before_target:
        if name not in features:
            hint = did_you_mean(name, features)
            raise RecipeError(f"data.known_before_target: '{name}' is no feature{hint}")

    target = None if recipe.task_choice is Task.CLUSTERING else interface.target_column
    rows = len(frame)
    if frame.empty:
        raise DataError(f"{path}: has no rows")
    arranged = None
    if recipe.task_choice is Task.TIMESERIES:
        if frame[str(target)].notna().any():
            _check_target(recipe, infer_column(frame[target], str(target)), frame[target], path)
        arranged = series.arrange(recipe, frame, path)
        frame = arranged.frame
        time = [str(interface.timestamp_column)] if recipe.forecasting.calendar else []
        features = list(dict.fromkeys([*time, *recipe.history_columns, *features]))
        if recipe.is_forecaster:
            features = [*interface.entity_columns, str(interface.timestamp_column)]
    elif target is not None:
        frame = frame.dropna(subset=[target]).reset_index(drop=True)
    if frame.empty:
        raise DataError(f"{path}: the target column '{target}' has no values")
    if not features:
        raise DataError(f"{path}: no column is left to learn from")
    if target is not None and recipe.task_choice is Task.CLASSIFICATION:
        frame[target] = _as_classes(frame[target])
    treatment = None
    if recipe.task_choice is Task.CAUSAL:
        treatment = read_treatment(frame[str(interface.treatment_column)], path)

    try:
        named = [] if recipe.is_forecaster else features
        feature_columns = [
            Column(name, "double", required=not recipe.fills_history)
            if name in recipe.history_columns
            else _column(frame, name, loader)
            for name in named
        ]
        target_column = None if target is None else _column(frame, target, loader)
        entities = [name for name in interface.entity_columns if name != interface.target_column]
        keys = [name for name in entities if name not in loader.declared]
        frame = frame.assign(**{name: _as_integers(frame[name]) for name in keys})
        entity_columns = [_column(frame, name, loader) for name in entities]
    except DataError as exc:
        raise DataError(f"{path}: {exc}") from None
    if target_column is not None:
        _check_target(recipe, target_column, frame[target_column.name], path)

    time_columns = _time_columns(recipe, frame, path)
    if recipe.is_forecaster:
        feature_columns = [*entity_columns, *time_columns]
    targets = [] if target_column is None else [target_column]
    columns = [*time_columns, *entity_columns, *feature_columns, *targets]
    history = recipe.history_columns  # these columns are numbers already
    converted = [column for column in columns if column.name not in history]
    typed = pd.concat([pd.DataFrame(to_table(frame, converted, path)), frame[history]], axis=1)
    learned = None if target is None else _as_learned(recipe, typed[target])
    seen = profile(typed, [*time_columns, *feature_columns] if arranged else feature_columns)
    asked = {column.name: column for column in [*entity_columns, *feature_columns]}
    if arranged:
        asked = {column.name: column for column in time_columns} | asked
        if recipe.is_forecaster:
            seen |= _steps(recipe, typed, str(arranged.frequency), seen)
    example = make_example(recipe.data.example, list(asked.values()), seen)
    if arranged:
        whole = arranged.table
    else:
        whole = frame.assign(**{column.name: typed[column.name] for column in converted})
    inspection = inspect(
        recipe,
        whole,
        {column.name: column for column in converted},
        zeros,
    )
    return Dataset(
        features=typed[features],
        target=arranged.target if arranged else learned,
        treatment=treatment,
        feature_columns=feature_columns,
        target_column=target_column,
        entity_columns=entity_columns,
        entities=typed[[column.name for column in entity_columns]],
        time=typed[time_columns[0].name] if time_columns else None,
        until=arranged.until if arranged else None,
        frequency=arranged.frequency if arranged else None,
        groups=_groups(recipe, frame, path),
        seen=seen,
        example=example,
        example_features=pd.DataFrame(to_table(pd.DataFrame([example]), feature_columns, path)),
        dropped=arranged.dropped if arranged else rows - len(frame),
        inspection=replace(inspection, warnings=[*inspection.warnings, *arranged.warnings])
        if arranged
        else inspection,
    )


def _steps(recipe: Recipe, typed: pd.DataFrame, frequency: str, seen: Profile) -> Profile:
    """The profile of what a forecaster is asked for: the times after the end of each series."""
    interface, horizon = recipe.data.data_interface, recipe.forecasting.horizon
    time, keys = str(interface.timestamp_column), interface.entity_columns
    last = typed.nlargest(1, time)
    ends = typed.groupby(keys)[time].max() if keys else last[time]
    first_step, latest_first_step = later(pd.Series([ends.min(), ends.max()]), frequency, 1)
    [latest_step] = later(last[time], frequency, horizon)
    found: Profile = {
        time: {
            "typical": f"{latest_first_step.isoformat()}Z",
            "forecast": [f"{step.isoformat()}Z" for step in (first_step, latest_step)],
        }
    }
    for name in keys:
        [key] = last[name].tolist()
        found[name] = {**seen[name], "typical": key}
    return found


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


def _as_learned(recipe: Recipe, target: "pd.Series[Any]") -> "pd.Series[Any]":
    """An outcome of no and yes as 0 and 1, because an effect is a difference of numbers."""
    is_outcome = recipe.task_choice is Task.CAUSAL and target.dtype == bool
    return target.astype("int64") if is_outcome else target


def _time_columns(recipe: Recipe, frame: pd.DataFrame, path: str) -> list[Column]:
    """The column that a temporal split sorts by; it does not have to be a feature."""
    if recipe.task_choice is Task.TIMESERIES:
        return [Column(str(recipe.data.data_interface.timestamp_column), "datetime")]
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


def _groups(recipe: Recipe, frame: pd.DataFrame, path: str) -> "pd.Series[Any] | None":
    plan = recipe.data.split
    if plan.strategy != "grouped":
        return None
    key = "data.split.group_column" if plan.group_column else "data_interface.entity_columns"
    names = [plan.group_column] if plan.group_column else recipe.data.data_interface.entity_columns
    require_columns(frame, names, path, f"named in the recipe's {key}")
    for name in names:
        if missing := int(frame[name].isna().sum()):
            raise DataError(
                f"{path}: the column '{name}' cannot group rows: it has no value in {missing} rows"
            )
    return frame.groupby(names, sort=False).ngroup()


def _check_target(recipe: Recipe, target: Column, values: "pd.Series[Any]", path: str) -> None:
    is_declared = target.name in recipe.data.loader.declared
    hint = "" if is_declared else needs_numbers(target.name, target, values)
    if recipe.task_choice is Task.CAUSAL and target.type not in ("long", "double", "boolean"):
        raise DataError(
            f"{path}: the target column '{target.name}' is {target.spec.rule}; an effect is a "
            f"difference of outcomes, so it needs numbers or booleans{hint}"
        )
    needs = {Task.REGRESSION: "regression needs", Task.TIMESERIES: "a time series needs"}
    if recipe.task_choice in needs and target.type not in ("long", "double"):
        raise DataError(
            f"{path}: the target column '{target.name}' is {target.spec.rule}; "
            f"{needs[recipe.task_choice]} numbers{hint}"
        )
    if recipe.task_choice is Task.CLASSIFICATION and values.nunique() < 2:
        raise DataError(
            f"{path}: the target column '{target.name}' has the same value in every row; "
            "classification needs two classes or more"
        )
    if recipe.task_choice is Task.CLASSIFICATION and target.type not in _CLASSES:
        raise DataError(
            f"{path}: the target column '{target.name}' is {target.spec.rule}; classification "
            "needs classes: text, integers or booleans"
        )
