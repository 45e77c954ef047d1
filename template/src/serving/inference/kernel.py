"""Predict a record batch: the same function for the local stream and for Spark."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from serving.contract.arrow import arrow_type, items
from serving.contract.columns import Column
from serving.contract.schema import HISTORY
from serving.data.base import require_columns
from serving.errors import DataError
from serving.inference.hooked import HookedAnswers
from serving.inference.plain import PlainAnswers
from serving.inference.values import ValueReader
from serving.model.served import ServedModel


@dataclass(frozen=True)
class Reject:
    """A row that is not predicted, and why."""

    index: int
    """Position in the record batch, counted from 0."""
    column: str | None
    """The first column with a wrong value; None if the model or a hook refuses the row."""
    rule: str
    """The rule that the value breaks."""
    value: object = None
    """The wrong value."""

    def __str__(self) -> str:
        where = f"column '{self.column}': " if self.column else ""
        shown = "" if self.value is None else f", is {_shown(self.value)}"
        return f"{where}{self.rule}{shown}"


@dataclass(frozen=True)
class Outcome:
    """What became of the rows of a record batch."""

    answers: pa.RecordBatch
    """The accepted rows, in order, with their predictions; text may be dictionary-encoded."""
    rejects: tuple[Reject, ...]
    """The other rows, in order."""


class Kernel:
    """Predicts record batches; the answers depend on nothing else, unless hooks do.

    Args:
        model: the model, with the user's hooks.
        schema: the columns of the batches; those that the model does not know are kept.
        is_text: whether the batches hold the text of a CSV file, which has to be parsed, in the
            forms that the model's recipe allows.
        keep_text: whether the answers hold the original text instead of the parsed values.
        delimiter: the character between the fields of the file, for messages.

    Raises `DataError` for a missing column, and for one that has the name of an added column.
    """

    schema: pa.Schema
    """The columns of `Outcome.answers`: those of the rows, then the predictions."""

    def __init__(
        self,
        model: ServedModel,
        schema: pa.Schema,
        *,
        is_text: bool,
        keep_text: bool = False,
        delimiter: str = ",",
    ) -> None:
        self._values = ValueReader(model.schemas.recipe, is_text=is_text)
        self._answers = (
            HookedAnswers(model, model.hooks, self._values) if model.hooks else PlainAnswers(model)
        )
        columns = model.schemas.columns
        kept = {field.name: field for field in schema}
        others = [one for one in columns if one.name not in model.schemas.history]
        _check(schema.names, others, [field.name for field in self._answers.fields], delimiter)
        self._items: list[Column] = []
        """The columns that are the items of one column of arrays."""
        if HISTORY in kept:
            self._items = [one for one in columns if one not in others]
            columns = others
        elif history := [one for one in model.schemas.history if one not in kept]:
            raise DataError(
                f"has no column '{HISTORY}' with arrays of {len(model.schemas.history)} numbers, "
                f"the past values of a row, and no column '{history[0]}'; it needs one or the other"
            )
        self._given = [column for column in columns if column.name in kept]
        self._absent = [column for column in columns if column.name not in kept]
        self._parsed: set[str] = set()
        if is_text and not keep_text:
            for column in self._given:
                if type_ := arrow_type(column):
                    kept[column.name] = pa.field(column.name, type_)
                    self._parsed.add(column.name)
        self.schema = pa.schema([*kept.values(), *self._answers.fields])

    def predict(self, rows: pa.RecordBatch) -> Outcome:
        """Predict the rows; those that break a rule are rejected.

        Raises `ServingError` if the model fails for another reason than the values of a row.
        """
        found, rejects = self._convert(rows)
        if rejects:
            rows, found, positions = _without(rejects, rows, found)
        else:
            positions = np.arange(rows.num_rows)
        answers, refused = self._answers.predict(rows, found)
        if refused:
            for index, rule in refused.items():
                position = int(positions[index])
                rejects[position] = Reject(position, None, rule)
            rows, found, _ = _without(refused, rows, found)
        kept = [
            found[name] if name in self._parsed else values
            for name, values in zip(rows.schema.names, rows.columns, strict=True)
        ]
        batch = pa.RecordBatch.from_arrays([*kept, *answers], names=self.schema.names)
        return Outcome(batch, tuple(rejects[index] for index in sorted(rejects)))

    def _convert(self, rows: pa.RecordBatch) -> tuple[dict[str, pa.Array], dict[int, Reject]]:
        """The columns that the model knows, in their types, and the rows with wrong values."""
        found = {one.name: pa.nulls(rows.num_rows, arrow_type(one)) for one in self._absent}
        rejects: dict[int, Reject] = {}
        given = [(column, rows.column(column.name)) for column in self._given]
        if self._items:
            arrays = rows.column(HISTORY)
            columns, is_wrong = items(arrays, len(self._items), from_text=self._values.is_text)
            given += zip(self._items, columns, strict=True)
            rule = f"must be an array of {len(self._items)} numbers, the oldest first"
            for index in np.flatnonzero(is_wrong).tolist():
                rejects[index] = Reject(index, HISTORY, rule, _python(arrays[index]))
        for column, values in given:
            name = column.name
            converted = self._values.convert(values, column)
            found[name] = converted.values
            if converted.wrong is not None:
                rule = f"must be {self._values.rule(column)}"
                for index in np.flatnonzero(converted.wrong).tolist():
                    rejects.setdefault(index, Reject(index, name, rule, _python(values[index])))
            # As in a request, null is one of the values that `any` stands for.
            if column.required and column.type != "any" and converted.missing is not None:
                for index in np.flatnonzero(converted.missing).tolist():
                    rejects.setdefault(index, Reject(index, name, "a value is required"))
        return found, rejects


def _without(
    indexes: Iterable[int], rows: pa.RecordBatch, found: dict[str, pa.Array]
) -> tuple[pa.RecordBatch, dict[str, pa.Array], np.ndarray]:
    """The other rows, and their positions."""
    is_left = np.ones(rows.num_rows, dtype=bool)
    is_left[list(indexes)] = False
    mask = pa.array(is_left)
    left = {name: values.filter(mask) for name, values in found.items()}
    return rows.filter(mask), left, np.flatnonzero(is_left)


def _check(
    names: Sequence[str], columns: Sequence[Column], added: Sequence[str], delimiter: str
) -> None:
    require_columns(
        names,
        [one.name for one in columns if one.required],
        "which the model needs",
        delimiter=delimiter,
        remedy="use --delimiter {}",
    )
    known = set(names)
    for name in added:
        if name in known:
            raise DataError(
                f"there already is a column '{name}'; rename it, the predictions need the name"
            )


def _python(value: pa.Scalar) -> object:
    try:
        return value.as_py()
    except (ArithmeticError, LookupError, ValueError):  # a year or a time zone unknown to Python
        return f"{value.value} of {value.type}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


_MOST_SHOWN = 80
