"""Prove that a compiled model answers as the model does: compare the answers row by row."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from serving.contract.columns import Column, Row
from serving.engines.base import REFUSALS, Engine, Predictions
from serving.engines.bisection import bisect
from serving.engines.onnx import OnnxEngine
from serving.errors import CompilationError

MOST_ROWS = 10_000
"""How many rows of the data are compared."""
MOST_CHANGED = 1_000
"""How many rows are compared for each kind of change; at least a few for each column."""
TOLERANCE = 1e-5
"""Largest allowed difference: absolute for probabilities; for values relative to the value or to
the standard deviation of all values, whichever is larger."""
_SEED = 0
_UNKNOWN = ("", "never seen", "\N{SNOWMAN} jamais vu", "\uffff")
_WHOLE = {"integer": 2**31 - 1, "long": 2**53}
"""The largest integers that are tried."""

Change = Literal["none", "missing", "unknown", "range"]


class Proof(BaseModel):
    """What was compared, and how much the answers differed."""

    model_config = ConfigDict(frozen=True)

    data: str
    """The file that the rows came from."""
    time: datetime
    rows: int
    """How many rows were compared, including changed rows."""
    rows_of_data: int
    rows_with_missing: int
    """Rows in which values were removed."""
    rows_with_unknown: int
    """Rows with a category that was never seen."""
    rows_out_of_range: int
    """Rows with a random number, within the range of the data or far beyond it."""
    rows_refused: int
    """Rows that both forms refuse to predict."""
    largest_difference: float
    """Of probabilities, or of values and details as in `TOLERANCE`; all labels were equal."""


@dataclass(frozen=True)
class _Case:
    what: str
    """Describes the rows in messages."""
    change: Change
    rows: list[Row]


def prove(
    native: Engine, compiled: OnnxEngine, columns: Sequence[Column], rows: Sequence[Row], data: str
) -> Proof:
    """Compare the answers to rows of the data, and to many changed copies of them.

    Args:
        native: the model.
        compiled: its compiled form.
        columns: the columns of the rows.
        rows: the data, of which at most `MOST_ROWS` rows are used.
        data: where the rows came from.

    Raises `CompilationError` for the first difference.
    """
    random = np.random.default_rng(_SEED)
    if len(rows) > MOST_ROWS:
        chosen = random.choice(len(rows), MOST_ROWS, replace=False)
        rows = [rows[index] for index in np.sort(chosen)]
    counts: dict[str, int] = dict.fromkeys(("none", "missing", "unknown", "range"), 0)
    refused, largest = 0, 0.0
    deviations: dict[str, float] = {}
    for case in _cases(columns, rows, random):
        ours = _ask(native, columns, case.rows)
        theirs = _ask(compiled, columns, case.rows)
        if case.change == "none":
            if ours.refused.all():
                raise CompilationError(f"the model refuses every row of {data}")
            if compiled.compiled.classes is None:
                deviations["values"] = _deviation(ours.values)
            deviations |= {name: _deviation(values) for name, values in ours.details.items()}
        _compare_refusals(case, ours, theirs)
        largest = max(largest, _difference(case, ours, theirs, deviations))
        counts[case.change] += len(case.rows)
        refused += int(ours.refused.sum())
    return Proof(
        data=data,
        time=datetime.now(UTC).replace(microsecond=0),
        rows=sum(counts.values()),
        rows_of_data=counts["none"],
        rows_with_missing=counts["missing"],
        rows_with_unknown=counts["unknown"],
        rows_out_of_range=counts["range"],
        rows_refused=refused,
        largest_difference=largest,
    )


def _cases(
    columns: Sequence[Column], rows: Sequence[Row], random: np.random.Generator
) -> Iterator[_Case]:
    yield _Case("rows of the data", "none", [*rows])

    def changed(
        what: str, change: Change, values: dict[int, Callable[[Any], Any]], count: int
    ) -> _Case:
        """Copies of some of the rows, with other values at these positions."""
        some = random.choice(len(rows), min(count, len(rows)), replace=False)
        copies = [list(rows[index]) for index in some]
        for row in copies:
            for position, value in values.items():
                row[position] = value(row[position])
        return _Case(what, change, [tuple(row) for row in copies])

    share = min(200, max(5, MOST_CHANGED // len(columns)))
    missing: dict[int, Callable[[Any], Any]] = {}
    other: dict[int, Callable[[Any], Any]] = {}
    for position, column in enumerate(columns):
        if not column.required:
            missing[position] = lambda _: None
            yield changed(
                f"rows without '{column.name}'", "missing", {position: missing[position]}, share
            )
        if column.type == "string":
            what = f"rows with an unknown '{column.name}'"
            unknown = {position: lambda _: _UNKNOWN[random.integers(len(_UNKNOWN))]}
            yield changed(what, "unknown", unknown, share)
        seen = [row[position] for row in rows if row[position] is not None]
        if column.type not in ("string", "boolean") and seen:
            choose = _numbers(column, seen, random)
            other[position] = choose
            what = f"rows with other values of '{column.name}'"
            yield changed(what, "range", {position: choose}, share)
    plain = [position for position in other if columns[position].type != "datetime"]
    if plain:
        yield changed("rows of zeros", "range", dict.fromkeys(plain, lambda _: 0), 20)
        yield changed("rows of ones", "range", dict.fromkeys(plain, lambda _: 1), 20)
    if missing:
        yield changed("rows without any optional value", "missing", missing, 200)
    if other:
        yield changed("rows with other numbers", "range", other, MOST_CHANGED)


def _numbers(
    column: Column, seen: Sequence[Any], random: np.random.Generator
) -> Callable[[Any], Any]:
    """Make a function that draws values within the range seen, and up to ten times beyond it."""
    low, high = min(seen), max(seen)
    if column.type == "datetime":
        span = max(high - low, timedelta(days=1)).total_seconds()

        def date(_: Any) -> Any:
            seconds = float(
                random.uniform(0, 1) if random.random() < 0.5 else random.uniform(-2, 3)
            )
            try:
                moment = low + timedelta(seconds=round(span * seconds))
            except OverflowError:
                return low
            return moment

        return date

    span = float(high) - float(low) or abs(float(low)) or 1.0

    def number(_: Any) -> Any:
        inside = random.random() < 0.5
        value = float(low) + span * (random.uniform(0, 1) if inside else random.uniform(-10, 11))
        if not math.isfinite(value):
            return low
        if column.type in _WHOLE:
            return max(-_WHOLE[column.type], min(_WHOLE[column.type], round(value)))
        return float(np.float32(value)) if column.type == "float" else value

    return number


@dataclass(frozen=True)
class _Answers:
    """The answers to the rows that are not refused."""

    refused: np.ndarray
    """Shape (rows,)."""
    values: np.ndarray
    probabilities: np.ndarray | None
    classes: tuple[Any, ...]
    details: dict[str, np.ndarray]


def _ask(engine: Engine, columns: Sequence[Column], rows: Sequence[Row]) -> _Answers:
    read = engine.reader(columns)
    refused = np.zeros(len(rows), dtype=bool)
    values, probabilities = [], []
    details: dict[str, list[np.ndarray]] = {detail.name: [] for detail in engine.details}

    def predict(some: Sequence[Row]) -> Predictions:
        return engine.predict(read(some))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about unknown categories
        for part, outcome in bisect(predict, rows, REFUSALS):
            if isinstance(outcome, BaseException):
                refused[part] = True
                continue
            fine = np.ones(len(outcome.values), dtype=bool)
            if outcome.refused is not None:
                fine = ~outcome.refused
            if outcome.guessed is not None:
                fine &= ~outcome.guessed
            if outcome.probabilities is not None:
                probabilities.append(outcome.probabilities[fine])
            for name, numbers in outcome.details.items():
                details[name].append(numbers[fine])
            refused[part] = ~fine
            if fine.any():
                values.append(outcome.values[fine])
    return _Answers(
        refused,
        np.concatenate(values) if values else np.empty(0),
        np.concatenate(probabilities) if probabilities else None,
        engine.classes,
        {name: np.concatenate(parts) for name, parts in details.items() if parts},
    )


def _compare_refusals(case: _Case, ours: _Answers, theirs: _Answers) -> None:
    differs = ours.refused != theirs.refused
    if differs.any():
        one, other = "the model", "its compiled form"
        if not ours.refused[differs.argmax()]:
            one, other = other, one
        raise CompilationError(f"{one} refuses {case.what} that {other} answers")


def _difference(
    case: _Case, ours: _Answers, theirs: _Answers, deviations: Mapping[str, float]
) -> float:
    """The largest difference; `deviations` has `values`, unless these are labels, and details."""
    if not len(ours.values):
        return 0.0
    if ours.classes != theirs.classes or ours.values.shape != theirs.values.shape:
        raise CompilationError("the compiled form has other classes or outputs")
    if ours.details.keys() != theirs.details.keys():
        raise CompilationError("the compiled form has other details")
    differences = {
        f"{name}, relative to their size,": _relative(
            values, theirs.details[name], deviations[name]
        )
        for name, values in ours.details.items()
    }
    if "values" in deviations:
        differences["values, relative to their size,"] = _relative(
            ours.values, theirs.values, deviations["values"]
        )
    else:
        unequal = np.array(
            [one != other for one, other in zip(ours.values, theirs.values, strict=True)]
        )
        if unequal.any():
            raise CompilationError(
                f"{int(unequal.sum())} of {len(unequal)} {case.what} get a different label"
            )
    if ours.probabilities is not None and theirs.probabilities is not None:
        apart = np.abs(ours.probabilities - theirs.probabilities)
        differences["probabilities"] = float(apart.max())
    for what, largest in differences.items():
        if not largest <= TOLERANCE:
            raise CompilationError(
                f"for {case.what} the {what} differ by {largest:.2g}; "
                f"at most {TOLERANCE:g} is allowed"
            )
    return max(differences.values(), default=0.0)


def _relative(ours: np.ndarray, theirs: np.ndarray, deviation: float) -> float:
    """The largest difference, relative to the value or to the deviation."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(ours - theirs)
    apart[ours == theirs] = 0.0  # equal infinities
    return float((apart / np.maximum(np.abs(ours), deviation)).max())


def _deviation(values: np.ndarray) -> float:
    """The values' standard deviation; tiny if all are equal, to avoid a division by zero."""
    return max(float(np.std(values)), float(np.finfo(np.float64).tiny))
