"""Draft a recipe for a table that nobody has described yet."""

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api import types

from serving.config.yaml_file import did_you_mean
from serving.contract.recipe import Loader, Task
from serving.data.encodings import guess_encoding
from serving.data.tables import infer_column, is_csv, leading_zeros, read_table
from serving.errors import DataError
from serving.redaction import first_line
from serving.training.inspection import (
    FEWEST_ROWS,
    GIVEN_AWAY,
    MOST_ENCODED,
    SAMPLE_ROWS,
    is_compact_date,
    is_identifier,
    quoted,
    single_score,
    written,
)

MOST_CLASSES = 20
"""A target of integers with more distinct values than this is a number to predict."""
_LONGEST_KEY = 40
"""Text with more characters than this on average is no identifier."""
_MOST_NAMED = 50

_DELIMITERS = (",", ";", "\t", "|")


@dataclass(frozen=True)
class Draft:
    """A recipe, and what was decided in it."""

    text: str
    task: Task
    features: list[str]
    entities: list[str]
    left_out: dict[str, str]
    """Column -> reason."""


def detect_loader(path: Path) -> Loader:
    """Find out in which encoding and with which delimiter a CSV file is written.

    Raises `DataError` if the file cannot be read.
    """
    if not is_csv(path) or not path.is_file():
        return Loader()  # reading it will say what is wrong
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise DataError(f"{path}: {exc.strerror or exc}") from None
    encoding = "utf-8"
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        encoding = guess_encoding(content) or "cp1252"
        try:
            text = content.decode(encoding)
        except ValueError as exc:
            raise DataError(
                f"{path}: is neither UTF-8 nor CP949 nor CP1252 text ({first_line(exc)}); save it "
                "as CSV in UTF-8"
            ) from None
    return Loader(encoding=encoding, delimiter=_delimiter(text))


def _delimiter(text: str) -> str:
    """The character that divides the first lines into most fields, as many in each line."""
    lines = text.splitlines()[:20]

    def fields(delimiter: str) -> int:
        try:
            counts = {len(row) for row in csv.reader(lines, delimiter=delimiter) if row}
        except csv.Error:
            return 0
        return counts.pop() if len(counts) == 1 else 0

    found = max(_DELIMITERS, key=fields)
    return found if fields(found) > 1 else _DELIMITERS[0]


def draft(path: Path, target: str | None, name: str, *, compiles: bool) -> Draft:
    """Write a recipe that predicts a column of a CSV or Parquet file from the others.

    Args:
        path: the file, as the recipe shall name it.
        target: the column to predict.
        name: the name of the recipe.
        compiles: whether the project can compile models.

    Raises `DataError` naming the file, and the column and the rule if there is no such target, if
    it cannot be predicted, or if no column is left to learn from.
    """
    loader = detect_loader(path)
    frame = read_table(path, loader=loader)
    columns = [str(column) for column in frame.columns]
    if target not in columns:
        more = f" and {len(columns) - _MOST_NAMED:,} more" if len(columns) > _MOST_NAMED else ""
        known = f"{', '.join(columns[:_MOST_NAMED])}{more}"
        if target is None:
            raise DataError(f"{path}: name the column to predict with --target; it has {known}")
        raise DataError(
            f"{path}: has no column '{target}' (--target); it has {known}"
            f"{did_you_mean(target, columns)}"
        )
    table = _Table(path, frame, loader, target)
    return table.recipe(name, compiles)


class _Table:
    """The columns of a table, each with a role, a type and the reason for both."""

    def __init__(self, path: Path, frame: pd.DataFrame, loader: Loader, target: str) -> None:
        self.path = path
        self.target = target
        self.types: dict[str, str] = {}
        self.formats: dict[str, str] = {}
        self.notes: dict[str, str] = {}
        self.features: list[str] = []
        self.entities: list[str] = []
        self.left_out: dict[str, str] = {}
        texts = leading_zeros(path, frame, loader)
        for column in frame.columns:
            self._find_form(str(column), frame[column].dropna(), texts.get(column))
        declared = {"types": self.types, "date_format": self.formats}
        self.loader = loader.model_copy(update=declared)
        self.frame = read_table(path, loader=self.loader) if self.loader.declared else frame
        self.frame = self.frame.dropna(subset=[target])
        self.task = self._task()
        for column in self.frame.columns:
            if column != target:
                self._give_role(str(column), self.frame[column])
        if not self.features:
            reasons = "; ".join(f"{one}: {why}" for one, why in list(self.left_out.items())[:5])
            raise DataError(f"{path}: no column is left to learn from ({reasons or 'one column'})")

    def _find_form(self, name: str, values: "pd.Series[Any]", zeros: Any) -> None:
        """Note the type of a column that does not follow from its values."""
        if not is_csv(self.path) or values.empty:
            return
        if zeros is not None:
            self.types[name] = "string"
            self.notes[name] = "numbers with leading zeros"
            return
        if types.is_integer_dtype(values.dtype) and is_compact_date(values):
            self.formats[name] = "%Y%m%d"
            return
        if not all(isinstance(value, str) for value in values):
            return
        found = written(values)
        if found is None:
            return
        if found.kind == "decimal commas":
            self.left_out[name] = "numbers with decimal commas; save the file with decimal points"
        elif found.others:
            kind = "dates" if found.kind == "dates" else "numbers"
            count = "one value" if found.others == 1 else f"{found.others:,} values"
            self.left_out[name] = (
                f"{kind} but for {count}; correct or empty these fields, and declare its type"
            )
        elif found.kind == "dates":
            self.formats[name] = found.formats[0]
            if len(found.formats) > 1:
                self.notes[name] = f"or is the format {found.formats[1]}?"
        else:
            self.types[name] = found.type
            what = "commas" if found.kind == "thousands" else "a percent sign: 22.3% is 22.3"
            self.notes[name] = f"written with {what}"

    def _task(self) -> Task:
        values = self.frame[self.target]
        where = f"{self.path}: the column '{self.target}' (--target)"
        if values.empty:
            raise DataError(f"{where} has no values")
        if reason := self.left_out.get(self.target):
            raise DataError(f"{where} holds {reason}")
        distinct = values.nunique()
        if distinct == 1:
            raise DataError(f"{where} has the same value in every row; there is nothing to predict")
        kind = infer_column(values, self.target).type
        if kind == "datetime" and self.types.get(self.target) != "string":
            raise DataError(f"{where} holds dates; only classes and numbers can be predicted")
        if kind == "string":
            if distinct > max(MOST_CLASSES, len(values) / 10):
                raise DataError(
                    f"{where} is text with {distinct:,} different values in {len(values):,} rows; "
                    "that is too many for classes"
                )
            return Task.CLASSIFICATION
        is_whole = kind in ("boolean", "long") or bool((values % 1 == 0).all())
        return Task.CLASSIFICATION if is_whole and distinct <= MOST_CLASSES else Task.REGRESSION

    def _give_role(self, name: str, series: "pd.Series[Any]") -> None:
        if name in self.left_out:
            return
        try:
            column = infer_column(series, name)
        except DataError as exc:
            self.left_out[name] = str(exc).partition("; ")[0].removeprefix(f"column '{name}' ")
            return
        values = series.dropna()
        is_text = column.type == "string" or self.types.get(name) == "string"
        if is_identifier(values, name):
            is_key = not is_text or values.str.len().mean() <= _LONGEST_KEY
            if is_key and column.type != "datetime" and column.required:
                self.entities.append(name)
            else:
                self.left_out[name] = "another text in each row"
        elif values.nunique() == 1:
            self.left_out[name] = "the same value in every row"
        elif is_text and values.nunique() > MOST_ENCODED:
            self.left_out[name] = f"text with {values.nunique():,} different values"
        elif score := self._gives_away(series):
            self.left_out[name] = f"gives the target away (alone it scores {score:.3f})"
        else:
            self.features.append(name)
            missing = series.isna().mean()
            kind = "text" if is_text else column.type
            said = [kind, *([f"{missing:.1%} missing"] if missing else [])]
            said += [self.notes[name]] if name in self.notes else []
            self.notes[name] = ", ".join(said)

    def _gives_away(self, series: "pd.Series[Any]") -> float | None:
        if len(self.frame) < FEWEST_ROWS:
            return None
        rows = self.frame.sample(min(SAMPLE_ROWS, len(self.frame)), random_state=0).index
        score = single_score(
            series.loc[rows],
            self.frame.loc[rows, self.target],
            is_regression=self.task is Task.REGRESSION,
        )
        return score if score >= GIVEN_AWAY else None

    def _texts(self) -> list[str]:
        return [
            name
            for name in self.features
            if self.types.get(name) == "string"
            or infer_column(self.frame[name], name).type == "string"
        ]

    def recipe(self, name: str, compiles: bool) -> Draft:
        text = "\n".join(self._lines(name, compiles)) + "\n"
        return Draft(text, self.task, self.features, self.entities, self.left_out)

    def _lines(self, name: str, compiles: bool) -> Iterator[str]:
        yield f"# Predicts {_comment(self.target)}. Written by 'mmp init-recipe'"
        yield f"# from {len(self.frame):,} rows: check the roles and types before you rely on it."
        yield f"name: {quoted(name)}"
        why = "few different values" if self._is_class else "many different numbers"
        yield f"task_choice: {self.task} # the target has {why}"
        yield ""
        yield "data:"
        yield from self._loader_lines()
        yield "  data_interface:"
        yield from self._role_lines()
        yield f"    target_column: {quoted(self.target)} # never part of a request"
        yield "  split: {strategy: random, train: 0.8, test: 0.2}"
        yield ""
        yield from self._step_lines()
        yield "model:"
        yield "  # Good on most tables without tuning. It takes missing numbers and any scale, so"
        yield "  # no step fills or scales numbers. A linear model needs both (docs/recipes.md)."
        kind = "Classifier" if self._is_class else "Regressor"
        yield f"  class_path: sklearn.ensemble.HistGradientBoosting{kind}"
        if compiles:
            yield "  compile: true # to ONNX, with a proof that the answers stay the same"
        yield "  hyperparameters:"
        yield "    values: {random_state: 42}"
        yield ""
        yield "evaluation:"
        yield "  random_state: 42"

    @property
    def _is_class(self) -> bool:
        return self.task is Task.CLASSIFICATION

    def _loader_lines(self) -> Iterator[str]:
        yield "  loader:"
        yield f"    source_uri: {json.dumps(str(self.path), ensure_ascii=False)}"
        if self.loader.encoding != Loader().encoding:
            yield f"    encoding: {self.loader.encoding} # guessed: the file is not UTF-8"
        if self.loader.delimiter != Loader().delimiter:
            yield f"    delimiter: {json.dumps(self.loader.delimiter)}"
        for key, found in (("types", self.types), ("date_format", self.formats)):
            if found:
                yield f"    {key}:"
            for column, value in found.items():
                yield f"      {quoted(column)}: {quoted(value)}"

    def _role_lines(self) -> Iterator[str]:
        keys = ", ".join(map(quoted, self.entities))
        note = "identify a row: part of a request, not learned from"
        yield f"    entity_columns: [{keys}] # {note if keys else 'no column identifies a row'}"
        yield "    feature_columns:"
        for column in self.features:
            yield f"      - {quoted(column)} # {self.notes[column]}"
        for column, reason in self.left_out.items():
            yield f"      # left out: {_comment(column)}: {_comment(reason)}"

    def _step_lines(self) -> Iterator[str]:
        texts = self._texts()
        if not texts:
            return
        gaps = [name for name in texts if self.frame[name].isna().any()]
        yield "preprocessor:"
        yield "  steps:"
        if gaps:
            names = ", ".join(map(quoted, gaps))
            yield f"    - {{type: simple_imputer, strategy: most_frequent, columns: [{names}]}}"
        yield "    - {type: one_hot_encoder} # every text column"
        yield ""


def _comment(text: str) -> str:
    """Text that stays within a comment."""
    return re.sub(r"[^\S ]|[\x00-\x1f\x7f-\x9f]", " ", text)
