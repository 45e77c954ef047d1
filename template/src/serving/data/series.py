"""Time series: from a table with a timestamp to rows with a history and the values to predict."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pandas.tseries.frequencies import to_offset

from serving.contract.columns import Column
from serving.contract.recipe import Recipe
from serving.contract.schema import HISTORY
from serving.data.tables import infer_column, to_table
from serving.errors import DataError, RecipeError

ROWS = "rows"
"""The frequency of a series whose values may have any time between them."""
_FREQUENCY = "data.forecasting.frequency"


@dataclass(frozen=True)
class Rows:
    """One row for each time whose history and following values are known."""

    frame: pd.DataFrame
    """The rows in the order of time, with the columns of the history besides those of the table."""
    target: "pd.Series[Any] | pd.DataFrame"
    """The values to predict: shape (rows,), or (rows, horizon) for more than one step."""
    frequency: str | None
    """The time between two values; None if it may be any."""
    dropped: int
    """How many rows of the table have no target."""
    warnings: list[str]


def arrange(recipe: Recipe, frame: pd.DataFrame, path: str) -> Rows:
    """Give each row the values before it, of the same series, and those that follow.

    The entity columns tell the series apart. Times that a series lacks are gaps; a row whose
    history or following values have a gap is left out. The rows for a forecaster have no history
    and one value, and a gap is an error.

    Raises `DataError` naming the column for times that cannot be used, and `RecipeError` naming
    the key for a frequency that does not fit.
    """
    interface = recipe.data.data_interface
    time, target = str(interface.timestamp_column), str(interface.target_column)
    if not recipe.is_forecaster:
        _check_names(recipe, frame)
    frame = frame.assign(**{time: _times(frame, time, path), target: _values(frame, target, path)})
    dropped = int(frame[target].isna().sum())
    keys = interface.entity_columns
    if recipe.is_forecaster:
        _check_keys(frame, keys, path)
        frame = frame[np.isfinite(frame[target])]
    _check_unique(frame, keys, time, path)
    frequency = _frequency(recipe, frame, path)
    history, horizon = recipe.history_columns, recipe.values_per_row
    names = [f"step_{step + 1}" for step in range(horizon)]

    frames, followings, gaps = [], [], []
    for one in _each(frame.sort_values(time, kind="stable"), keys):
        times, row, values = _on_grid(one, time, target, frequency)
        if frequency and len(times) > len(one):
            gaps.append((len(times) - len(one), _first_gap(times, row)))
            if recipe.is_forecaster:
                raise _gap_error(recipe, one, gaps[0], str(frequency), path)
        past, following, positions = _windows(values, len(history), horizon)
        is_known = np.isfinite(past).all(axis=1) & np.isfinite(following).all(axis=1)
        is_known &= row[positions] >= 0
        chosen = one.iloc[row[positions[is_known]]]
        added = pd.DataFrame(past[is_known], columns=history, index=chosen.index)
        frames.append(pd.concat([chosen, added], axis=1))
        followings.append(pd.DataFrame(following[is_known], columns=names, index=chosen.index))
    rows = pd.concat(frames)
    if rows.empty:
        raise DataError(
            f"{path}: no row is left to learn from: each needs the {len(history)} values before it"
            f" and {horizon} to predict, without a gap; the longest series has "
            f"{max(map(len, _each(frame, keys)))} rows (data.forecasting: lags, rolling, horizon)"
        )
    order = np.argsort(rows[time].to_numpy(), kind="stable")
    rows = rows.iloc[order].reset_index(drop=True)
    steps = pd.concat(followings).iloc[order].reset_index(drop=True)
    return Rows(
        frame=rows,
        target=steps if horizon > 1 else steps["step_1"].rename(target),
        frequency=frequency,
        dropped=dropped,
        warnings=[*_about_gaps(gaps, time, str(frequency), len(frame), len(rows))],
    )


def _check_names(recipe: Recipe, frame: pd.DataFrame) -> None:
    plan = recipe.forecasting
    features = recipe.data.features_of(list(frame.columns))
    if HISTORY in (*features, *recipe.data.data_interface.roles):
        raise DataError(
            f"the column '{HISTORY}' has the name of the field of a request for past values; "
            "rename it"
        )
    for name in recipe.history_columns:
        if name in frame.columns:
            raise DataError(f"the column '{name}' has the name of a lag that is made; rename it")
    for part in plan.calendar:
        if part in features:
            raise RecipeError(
                f"data.forecasting.calendar: '{part}' is also a feature column; rename the column, "
                "or leave the part of the calendar out"
            )
    if plan.strategy == "recursive" and plan.horizon > 1 and features:
        raise RecipeError(
            f"data.forecasting.strategy: recursive needs the later values of '{features[0]}', "
            "which a request does not have; use direct, or feature_columns: []"
        )


def _times(frame: pd.DataFrame, name: str, path: str) -> Any:
    column = infer_column(frame[name], name)
    if column.type != "datetime" or not column.required:
        what = "has missing values" if column.type == "datetime" else f"is {column.spec.rule}"
        raise DataError(
            f"{path}: the timestamp column '{name}' {what}; it must hold a date or a date-time in "
            "every row (data.loader.date_format says how dates are written)"
        )
    return to_table(frame[[name]], [column], path)[name]


def _values(frame: pd.DataFrame, name: str, path: str) -> Any:
    column = infer_column(frame[name], name)
    if column.type not in ("long", "double"):
        raise DataError(
            f"{path}: the target column '{name}' is {column.spec.rule}; a time series needs numbers"
        )
    return to_table(frame[[name]], [Column(name, "double", required=False)], path)[name]


def _check_unique(frame: pd.DataFrame, keys: Sequence[str], time: str, path: str) -> None:
    again = frame.duplicated([*keys, time])
    if again.any():
        row = frame[again].iloc[0]
        which = "".join(f" of {key} {row[key]}" for key in keys)
        advice = (
            "each time must be there once"
            if keys
            else "if there are several series, name what tells them apart in entity_columns"
        )
        raise DataError(f"{path}: {time} {row[time]}{which} is there more than once; {advice}")
    if keys and not frame.duplicated(keys).any():
        raise DataError(
            f"{path}: each value of {', '.join(keys)} is there once, so every series has one row; "
            "entity_columns must tell the series apart, not the rows; leave it empty for one series"
        )


def _check_keys(frame: pd.DataFrame, keys: Sequence[str], path: str) -> None:
    for name in keys:
        if missing := int(frame[name].isna().sum()):
            raise DataError(
                f"{path}: the entity column '{name}' has no value in {missing} rows; every row "
                "must say which series it belongs to"
            )


def _gap_error(
    recipe: Recipe, one: pd.DataFrame, gap: tuple[int, Any], frequency: str, path: str
) -> DataError:
    interface = recipe.data.data_interface
    which = "".join(f" of {key} {one[key].iloc[0]}" for key in interface.entity_columns)
    count, first = gap
    missing = "1 time is" if count == 1 else f"{count:,} times are"
    return DataError(
        f"{path}: column '{interface.timestamp_column}'{which}: {missing} missing between others, "
        f"or without a value (frequency {frequency}; the first is {first}); "
        f"{recipe.model.class_path} needs a value at every time, so fill the gaps"
    )


def _each(frame: pd.DataFrame, keys: Sequence[str]) -> Iterator[pd.DataFrame]:
    if not keys:
        yield frame
        return
    for _, one in frame.groupby(list(keys), sort=False, dropna=False):
        yield one


def _frequency(recipe: Recipe, frame: pd.DataFrame, path: str) -> str | None:
    """The recipe's frequency, or else that of the series; None for `rows`."""
    interface, plan = recipe.data.data_interface, recipe.forecasting
    time = str(interface.timestamp_column)
    given = plan.frequency
    needs_it = plan.strategy == "recursive" and plan.horizon > 1 and plan.calendar
    if given == ROWS:
        if needs_it:
            raise RecipeError(
                f"{_FREQUENCY}: the parts of the calendar of later steps follow from the "
                "frequency, so it cannot be rows; use strategy direct, or calendar: []"
            )
        return None
    if given is not None:
        try:
            return str(to_offset(given).freqstr)
        except (ValueError, AttributeError):
            raise RecipeError(
                f"{_FREQUENCY}: '{given}' is not a frequency of pandas; examples are h, D, W, MS "
                "and QS, and 'rows' if the time between two values may be any"
            ) from None
    found = next(
        filter(None, map(_inferred, (one[time] for one in _each(frame, interface.entity_columns)))),
        None,
    )
    if found is None:
        raise RecipeError(
            f"{_FREQUENCY}: {path}: the time between two values of '{time}' is not always the "
            "same; set it (h, D, W, MS, ...), then times that are missing are gaps, or set it to "
            "rows, then lags count rows"
        )
    return found


def _inferred(times: "pd.Series[Any]") -> str | None:
    """The frequency of a series of 3 or more times; gaps are allowed if most steps are the same."""
    ordered = pd.DatetimeIndex(times.sort_values())
    if len(ordered) < 3:
        return None
    if found := pd.infer_freq(ordered):
        return str(found)
    steps = np.diff(ordered.to_numpy())
    different, counts = np.unique(steps, return_counts=True)
    usual = different[counts.argmax()]
    if (steps % usual).any() or counts.max() < len(steps) / 2:
        return None
    days, rest = divmod(usual, np.timedelta64(1, "D"))
    return str(to_offset(pd.Timedelta(usual) if rest else f"{days}D").freqstr)


def _on_grid(
    one: pd.DataFrame, time: str, target: str, frequency: str | None
) -> tuple[pd.DatetimeIndex, np.ndarray, np.ndarray]:
    """All times of a series, the position of the row of each, or -1 in a gap, and the values."""
    given = pd.DatetimeIndex(one[time])
    values = one[target].to_numpy(dtype=np.float64)
    if frequency is None:
        return given, np.arange(len(one)), values
    grid = pd.date_range(given[0], given[-1], freq=frequency, unit="us")
    is_off = ~given.isin(grid)
    if is_off.any():
        first = given[int(is_off.argmax())]
        raise RecipeError(
            f"{_FREQUENCY}: '{frequency}' does not fit: {time} {first} is not a whole number of "
            f"steps after {given[0]}"
        )
    row = given.get_indexer(grid)
    return grid, row, np.where(row >= 0, values[row], np.nan)


def _windows(
    values: np.ndarray, history: int, horizon: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The past and the following values of each position that has all of them.

    Shapes (rows, history), (rows, horizon) and (rows,).
    """
    if len(values) < history + horizon:
        return np.empty((0, history)), np.empty((0, horizon)), np.empty(0, dtype=int)
    windows = np.lib.stride_tricks.sliding_window_view(values, history + horizon)
    return windows[:, :history], windows[:, history:], np.arange(len(windows)) + history


def _first_gap(times: pd.DatetimeIndex, row: np.ndarray) -> Any:
    return times[int((row < 0).argmax())]


def _about_gaps(
    gaps: Sequence[tuple[int, Any]], time: str, frequency: str, before: int, after: int
) -> Iterator[str]:
    if gaps:
        count = sum(missing for missing, _ in gaps)
        yield (
            f"column '{time}': {count:,} times are missing between others (frequency {frequency}; "
            f"the first is {min(first for _, first in gaps)}); rows next to them are left out, "
            f"{after:,} of {before:,} remain; fill the gaps, or set {_FREQUENCY}"
        )
