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
BACKTEST_COLUMNS = ("origin", "step", "time", "actual", "predicted")
"""The columns of a backtest besides the entities."""
MOST_TIMES = 10_000
"""A series may have so many times, and a hundred times as many as values, if all gaps are filled.
More come from a wrong time, and would take all memory."""


@dataclass(frozen=True)
class Rows:
    """One row for each time whose history and following values are known."""

    frame: pd.DataFrame
    """The rows in the order of time, with the columns of the history besides those of the table."""
    target: "pd.Series[Any] | pd.DataFrame"
    """The values to predict: shape (rows,), or (rows, horizon) for more than one step."""
    until: "pd.Series[Any]"
    """Shape (rows,): the time of the last value to predict."""
    table: pd.DataFrame
    """All rows of the table, with converted times and values."""
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
    _check_names(recipe, frame, path)
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

    frames, followings, untils, gaps, without = [], [], [], [], []
    for one in _each(frame.sort_values(time, kind="stable"), keys):
        times, row, values = _on_grid(one, time, target, frequency, path)
        is_gap = _gaps(values)
        if is_gap.any():
            gaps.append((int(is_gap.sum()), times[int(is_gap.argmax())]))
            if recipe.is_forecaster:
                raise _gap_error(recipe, one, gaps[0], str(frequency), path)
        past, following, positions = _windows(values, len(history), horizon)
        # With forward_fill, the history needs only its first value.
        needed = past[:, :1] if recipe.fills_history else past
        is_known = np.isfinite(needed).all(axis=1) & np.isfinite(following).all(axis=1)
        if not is_known.any():
            without.append(_name(one, keys))
        chosen = one.iloc[row[positions[is_known]]]
        added = pd.DataFrame(past[is_known], columns=history, index=chosen.index)
        frames.append(pd.concat([chosen, added], axis=1))
        followings.append(pd.DataFrame(following[is_known], columns=names, index=chosen.index))
        untils.append(pd.Series(times[positions[is_known] + horizon - 1], dtype="datetime64[us]"))
    rows = pd.concat(frames)
    if rows.empty:
        raise DataError(
            f"{path}: no row is left to learn from: each needs the {len(history)} values before it"
            f" and {horizon} to predict, without a gap; the longest series has "
            f"{max(map(len, _each(frame, keys)))} rows (data.forecasting: lags, rolling, horizon)"
            f"{_about_missing(gaps, frequency)}"
        )
    order = np.argsort(rows[time].to_numpy(), kind="stable")
    rows = rows.iloc[order].reset_index(drop=True)
    steps = pd.concat(followings).iloc[order].reset_index(drop=True)
    return Rows(
        frame=rows,
        target=steps if horizon > 1 else steps["step_1"].rename(target),
        until=pd.concat(untils).iloc[order].reset_index(drop=True),
        table=frame,
        frequency=frequency,
        dropped=dropped,
        warnings=[
            *_about_gaps(gaps, time, frequency, len(rows)),
            *_about_series_without_rows(without, keys),
        ],
    )


def _check_names(recipe: Recipe, frame: pd.DataFrame, path: str) -> None:
    plan, interface = recipe.forecasting, recipe.data.data_interface
    for name in interface.entity_columns:
        if name in BACKTEST_COLUMNS:
            raise DataError(
                f"{path}: the entity column '{name}' has the name of a column of backtest.csv; "
                "rename it"
            )
    if recipe.is_forecaster:
        return
    features = recipe.data.features_of(list(frame.columns))
    if HISTORY in (*features, *recipe.data.data_interface.roles):
        raise DataError(
            f"{path}: the column '{HISTORY}' has the name of the field of a request for past "
            "values; rename it"
        )
    for name in recipe.history_columns:
        if name in frame.columns:
            raise DataError(
                f"{path}: the column '{name}' has the name of a lag that is made; rename it"
            )
    made = [f"{interface.target_column}_rolling_{how}_{window}" for window, how in plan.statistics]
    for key, names in (("calendar", plan.calendar), ("rolling", made)):
        for name in names:
            if name in features:
                raise RecipeError(
                    f"data.forecasting.{key}: '{name}' is also a feature column; rename the "
                    f"column, or leave it out of {key}"
                )
    unknown = [name for name in features if name != interface.timestamp_column]
    if plan.strategy == "recursive" and plan.horizon > 1 and unknown:
        raise RecipeError(
            f"data.forecasting.strategy: recursive needs the later values of '{unknown[0]}', "
            "which a request does not have; use direct, or feature_columns: []"
        )


def _times(frame: pd.DataFrame, name: str, path: str) -> Any:
    column = _inferred_column(frame, name, path)
    if column.type != "datetime" or not column.required:
        what = "has missing values" if column.type == "datetime" else f"is {column.spec.rule}"
        raise DataError(
            f"{path}: the timestamp column '{name}' {what}; it must hold a date or a date-time in "
            "every row (data.loader.date_format says how dates are written)"
        )
    return to_table(frame[[name]], [column], path)[name]


def _inferred_column(frame: pd.DataFrame, name: str, path: str) -> Column:
    if frame[name].isna().all():
        raise DataError(f"{path}: the column '{name}' has no values")
    try:
        return infer_column(frame[name], name)
    except DataError as exc:
        raise DataError(f"{path}: {exc}") from None


def _values(frame: pd.DataFrame, name: str, path: str) -> Any:
    column = _inferred_column(frame, name, path)
    if column.type not in ("long", "double"):
        raise DataError(
            f"{path}: the target column '{name}' is {column.spec.rule}; a time series needs numbers"
        )
    return to_table(frame[[name]], [Column(name, "double", required=False)], path)[name]


def _check_unique(frame: pd.DataFrame, keys: Sequence[str], time: str, path: str) -> None:
    again = frame.duplicated([*keys, time])
    if again.any():
        row = frame[again].iloc[0]
        which = _name(frame[again], keys)
        advice = (
            "each time must be there once"
            if keys
            else "if there are several series, name what tells them apart in entity_columns"
        )
        raise DataError(f"{path}: {time} {row[time]}{which} is there more than once; {advice}")
    if keys and not frame.duplicated(keys).any():
        raise DataError(
            f"{path}: each value of {', '.join(keys)} is there once, so every series has one row; "
            "entity_columns must name what tells the series apart, such as a shop, and be empty "
            "for a single series"
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
    which = _name(one, interface.entity_columns)
    count, first = gap
    missing = "1 time is" if count == 1 else f"{count:,} times are"
    return DataError(
        f"{path}: column '{interface.timestamp_column}'{which}: {missing} missing between others, "
        f"or without a value (frequency {frequency}; the first is {first}); "
        f"{recipe.model.class_path} needs a value at every time, so fill the gaps"
    )


def _name(one: pd.DataFrame, keys: Sequence[str]) -> str:
    """The series of the first row, to follow what is said of it; empty for a single series."""
    return "".join(f" of {key} {one[key].iloc[0]}" for key in keys)


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
            offset = to_offset(given)
            if offset.n < 1:
                raise ValueError
            return str(offset.freqstr)
        except (ValueError, AttributeError):
            raise RecipeError(
                f"{_FREQUENCY}: '{given}' is not a frequency of pandas; examples are h, D, W, MS "
                "and QS, and 'rows' if the time between two values may be any"
            ) from None
    found = _inferred(max(_each(frame, interface.entity_columns), key=len)[time])
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
    one: pd.DataFrame, time: str, target: str, frequency: str | None, path: str
) -> tuple[pd.DatetimeIndex, np.ndarray, np.ndarray]:
    """All times of a series, the position of the row of each, or -1 in a gap, and the values."""
    given = pd.DatetimeIndex(one[time])
    values = one[target].to_numpy(dtype=np.float64)
    if frequency is None:
        return given, np.arange(len(one)), values
    first, second = pd.date_range(given[0], periods=2, freq=frequency)
    count = (given[-1] - given[0]) // (second - first)
    if count > MOST_TIMES + 100 * len(given):
        raise DataError(
            f"{path}: from {given[0]} to {given[-1]} there would be {count:,} times of the "
            f"frequency {frequency}, and there are {len(given):,}; correct the times, or set "
            f"{_FREQUENCY}"
        )
    grid = pd.date_range(given[0], given[-1], freq=frequency, unit="us")
    is_off = ~given.isin(grid)
    if is_off.any():
        first = given[int(is_off.argmax())]
        raise RecipeError(
            f"{_FREQUENCY}: '{frequency}' does not fit: {time} {first} is none of its times; "
            "another frequency may fit, such as h, D, W-MON or MS, or rows, with which lags count "
            "rows (times with a time zone are in UTC)"
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


def _gaps(values: np.ndarray) -> np.ndarray:
    """Shape (times,): true where there is no value, but one before and one after."""
    is_known = np.isfinite(values)
    is_between = np.logical_or.accumulate(is_known)
    is_between &= np.logical_or.accumulate(is_known[::-1])[::-1]
    return np.asarray(is_between & ~is_known)


def _about_gaps(
    gaps: Sequence[tuple[int, Any]], time: str, frequency: str | None, rows: int
) -> list[str]:
    if not gaps:
        return []
    count = sum(missing for missing, _ in gaps)
    what = "1 time is" if count == 1 else f"{count:,} times are"
    return [
        f"column '{time}': {what} missing between others, or without a value (frequency "
        f"{frequency}; the first is {min(first for _, first in gaps)}); rows whose history or "
        f"values to predict have such a gap are left out, and {rows:,} rows remain; fill the gaps, "
        f"or set {_FREQUENCY}: rows"
    ]


def _about_missing(gaps: Sequence[tuple[int, Any]], frequency: str | None) -> str:
    count = sum(missing for missing, _ in gaps)
    if not count:
        return ""
    return (
        f"; {count:,} times of the frequency {frequency} have no value; {_FREQUENCY} may be "
        "another, such as B for working days, or rows, with which lags count rows"
    )


def _about_series_without_rows(names: Sequence[str], keys: Sequence[str]) -> list[str]:
    if not names:
        return []
    what = "1 series is" if len(names) == 1 else f"{len(names):,} series are"
    return [
        f"column '{keys[0]}': {what} not learned from, because of gaps or too few values; the "
        f"first is that{names[0]}"
    ]
