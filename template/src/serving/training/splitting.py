"""Divide the rows into parts and into folds, as the recipe says."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import (
    GroupKFold,
    GroupShuffleSplit,
    KFold,
    StratifiedGroupKFold,
    StratifiedKFold,
    TimeSeriesSplit,
    train_test_split,
)

from serving.contract.recipe import Recipe, Task
from serving.errors import DataError
from serving.training.data import Dataset

Fold = tuple[np.ndarray, np.ndarray]
"""Positions of the rows to fit on, and of those to test on."""


def split(recipe: Recipe, data: Dataset, path: str) -> dict[str, pd.Index]:
    """Divide the rows into `train` and the other parts to which the recipe gives a share.

    A random split is stratified by class, or by treatment, if there are enough rows. The shares of
    a grouped split are shares of the groups. A temporal split tests on the latest rows.
    A time series is divided by its times, so that all series are divided at the same time.

    Raises `DataError` naming the key if a part would be empty or a stratified split is impossible.
    """
    plan = recipe.data.split
    shares = {"test": plan.test, "validation": plan.validation, "calibration": plan.calibration}
    if recipe.task_choice is Task.TIMESERIES:
        return _split_series(recipe, data, shares, path)
    total, unit = len(data.features), "rows"
    if data.groups is not None:
        total, unit = data.groups.nunique(), "groups"
    left, counts = total, {}
    for name, share in shares.items():
        if not share:
            continue
        counts[name] = round(total * share)
        left -= counts[name]
        if counts[name] < 1 or left < 1:
            raise DataError(
                f"data.split.{name}: {path} has too few {unit} ({total}) for a share of {share:g}"
            )
    rows: Any = data.features.index
    if data.time is not None:
        rows = data.time.sort_values(kind="stable").index
    parts: dict[str, pd.Index] = {}
    for name, count in counts.items():
        rows, parts[name] = _divide(recipe, data, rows, count)
    parts = {"train": rows, **parts}
    if plan.strategy == "stratified":
        assert isinstance(data.target, pd.Series)
        _require_each_class(parts, data.target, path)
    return parts


def folds(recipe: Recipe, data: Dataset, rows: pd.Index, count: int) -> list[Fold]:
    """Divide the rows of the train part into folds, by the strategy of the split.

    Args:
        recipe: its strategy and seed.
        data: the rows with their classes, groups and times.
        rows: the train part, as `split` returns it.
        count: how many folds.

    Raises `DataError` naming the key if there are too few rows, groups or rows of a class.
    """
    if recipe.task_choice is Task.TIMESERIES:
        return _folds_of_series(data, rows, count)
    target = data.target_of(rows)
    assert isinstance(target, pd.Series)
    is_classes = recipe.task_choice is Task.CLASSIFICATION
    rarest = int(target.value_counts().min()) if is_classes else 0
    if recipe.data.split.strategy == "stratified" and rarest < count:
        label = target.value_counts().index[-1]
        raise DataError(
            f"evaluation.cross_validation: the class '{label}' has {rarest} rows in the train "
            f"part; {count} stratified folds need {count} or more"
        )
    groups = None if data.groups is None else data.groups.loc[rows]
    available, unit = len(rows), "rows"
    if groups is not None:
        available, unit = groups.nunique(), "groups"
    if available <= count:
        raise DataError(
            f"evaluation.cross_validation: the train part has too few {unit} ({available}) "
            f"for {count} folds"
        )
    seeded: dict[str, Any] = {"shuffle": True, "random_state": recipe.evaluation.random_state}
    if data.time is not None:
        splitter: Any = TimeSeriesSplit(count)
    elif groups is not None:
        kind = StratifiedGroupKFold if rarest >= count else GroupKFold
        splitter = kind(count, **seeded)
    else:
        kind = StratifiedKFold if rarest >= count else KFold
        splitter = kind(count, **seeded)
    return list(splitter.split(np.zeros(len(rows)), target, groups))


def _split_series(
    recipe: Recipe, data: Dataset, shares: Mapping[str, float | None], path: str
) -> dict[str, pd.Index]:
    """Divide the rows by their times; the shares are shares of the times.

    A row whose last value to predict is in the time of a later part belongs to no part.
    """
    assert data.time is not None
    assert data.until is not None
    times = np.unique(data.time.to_numpy())
    end = len(times)
    is_before = pd.Series(True, index=data.time.index)
    parts: dict[str, pd.Index] = {}
    for name, share in shares.items():
        if not share:
            continue
        count = round(len(times) * share)
        first = times[min(max(end - count, 0), len(times) - 1)]
        parts[name] = data.time.index[is_before & (data.time >= first)]
        end -= count
        is_before = data.until < first
        if not count or parts[name].empty or not is_before.any():
            steps = recipe.values_per_row
            raise DataError(
                f"data.split.{name}: {path} has {len(times)} times from which all {steps} values "
                f"to predict are known, too few for a share of {share:g} without an overlap of the "
                "parts; set another share, or a shorter data.forecasting.horizon"
            )
    return {"train": data.time.index[is_before], **parts}


def _folds_of_series(data: Dataset, rows: pd.Index, count: int) -> list[Fold]:
    """Folds that test on later times than those of all values that are fitted on."""
    assert data.time is not None
    assert data.until is not None
    time, until = data.time.loc[rows].to_numpy(), data.until.loc[rows].to_numpy()
    times = np.unique(time)
    divided: list[Fold] = []
    if len(times) > count:
        for _, test in TimeSeriesSplit(count).split(times):
            is_fitted = until < times[test[0]]
            divided.append((np.flatnonzero(is_fitted), np.flatnonzero(np.isin(time, times[test]))))
    if not divided or any(len(fit) == 0 for fit, _ in divided):
        raise DataError(
            f"evaluation.cross_validation: the train part has too few times ({len(times)}) for "
            f"{count} folds"
        )
    return divided


def _divide(recipe: Recipe, data: Dataset, rows: Any, count: int) -> tuple[Any, Any]:
    """Take a part of `count` rows, or of `count` groups, from the rows."""
    if data.time is not None:
        return rows[:-count], rows[-count:]
    seed = recipe.evaluation.random_state
    if data.groups is not None:
        splitter = GroupShuffleSplit(n_splits=1, test_size=count, random_state=seed)
        [(rest, part)] = splitter.split(rows, groups=data.groups.loc[rows])
        return rows[rest], rows[part]
    rest, part = train_test_split(
        rows, test_size=count, random_state=seed, stratify=_strata(recipe, data, rows, count)
    )
    return rest, part


def _strata(recipe: Recipe, data: Dataset, rows: Any, count: int) -> "pd.Series[Any] | None":
    is_class = recipe.task_choice is Task.CLASSIFICATION
    groups = data.target if is_class else data.treatment
    if groups is None:
        return None
    groups = groups.loc[rows]
    counts = groups.value_counts()
    enough = counts.min() > 1 and min(count, len(groups) - count) >= len(counts)
    return groups if enough else None


def _require_each_class(parts: dict[str, pd.Index], target: "pd.Series[Any]", path: str) -> None:
    """Raise `DataError` if a class is too rare to be in every part."""
    counts = target.value_counts()
    for name, rows in parts.items():
        absent = counts.index[~counts.index.isin(target.loc[rows])]
        if len(absent):
            raise DataError(
                f"data.split.strategy: {path}: a stratified split is impossible, because the class "
                f"'{absent[-1]}' has {counts[absent[-1]]} rows, too few for the {name} part"
            )
