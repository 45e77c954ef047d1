"""Read and write CSV and Parquet files, with the types of a model's columns."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from pandas.api import types
from pydantic import TypeAdapter, ValidationError

from serving.contract.columns import (
    COLUMN_TYPES,
    MISSING,
    NOT_IN_NUMBERS,
    WRITTEN_NUMBER,
    Column,
    Table,
    is_datetime,
    to_array,
)
from serving.contract.recipe import Loader
from serving.data import base
from serving.data.encodings import described, guess_encoding, is_utf8
from serving.data.locations import check_format
from serving.errors import DataError
from serving.redaction import first_line

_PLAIN = Loader()


def _opened(path: Path) -> BinaryIO:
    return path.open("rb")


def read_table(
    path: Path,
    as_text: Collection[str] = (),
    loader: Loader = _PLAIN,
    open_file: Callable[[Path], BinaryIO] = _opened,
) -> pd.DataFrame:
    """Read a CSV or Parquet file.

    Args:
        path: the file; its extension gives the format.
        as_text: columns of a CSV file that are read as text; the types of others are inferred.
        loader: how a CSV file is read, and the types of columns, which take priority.
        open_file: opens a CSV file, and may watch how it is read.

    Raises `DataError` with one sentence that names the file and what is wrong; for a value that
    breaks its declared type, also the row, the column and the rule.
    """
    if path.is_dir():
        raise DataError(f"{path}: is a directory, not a CSV or Parquet file")
    check_format(str(path))
    try:
        if is_csv(path):
            frame = _read_csv(path, as_text, loader, open_file)
        else:
            frame = _read_parquet(path, loader)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file (looked in {Path.cwd()})") from None
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: the file is empty") from None
    except UnicodeDecodeError as exc:
        raise DataError(f"{path}: {_not_decoded(path, loader, exc)}") from None
    except OSError as exc:
        raise DataError(f"{path}: {exc.strerror or exc}") from None
    except ValueError as exc:  # pandas' parser errors and pyarrow's are ValueErrors
        kind, reason = path.suffix[1:], first_line(exc).rpartition("C error: ")[2]
        raise DataError(f"{path}: not a readable {kind} file: {reason}") from None
    if frame.empty:
        raise DataError(f"{path}: has no rows")
    for name in frame.columns:
        if not isinstance(name, str):
            raise DataError(f"{path}: the column name {name!r} is not text")
    return frame


def _options(loader: Loader) -> dict[str, Any]:
    """How pandas reads the text of a CSV file."""
    return {
        "keep_default_na": False,
        "encoding": "utf-8-sig" if is_utf8(loader.encoding) else loader.encoding,
        "sep": loader.delimiter,
    }


def _read_csv(
    path: Path,
    as_text: Collection[str],
    loader: Loader,
    open_file: Callable[[Path], BinaryIO],
) -> pd.DataFrame:
    options = _options(loader)
    # pandas would rename the second of two columns with the same name. If rows are longer than
    # the header, it would use their first column as the index.
    header = pd.read_csv(path, header=None, nrows=1, dtype=str, **options).iloc[0].tolist()
    for name in header:
        if header.count(name) > 1:
            raise DataError(f"{path}: the column '{name}' appears twice")
    for key in ("types", "date_format"):
        _require(header, list(getattr(loader, key)), path, f"named in data.loader.{key}")
    with open_file(path) as file:
        frame: pd.DataFrame = pd.read_csv(
            file,
            dtype=dict.fromkeys([*as_text, *loader.declared], str),
            na_values=list(MISSING),
            low_memory=False,
            **options,
        )
    if not isinstance(frame.index, pd.RangeIndex):
        _require(header, [""] if len(header) == 1 else [], path, "")  # another delimiter
        raise DataError(f"{path}: the rows have more fields than the header has names")
    converted = {
        name: _declared(frame[name], Column(name, type_, required=False), loader, path)
        for name, type_ in loader.declared.items()
        if type_ != "string"
    }
    return frame.assign(**converted)


def _declared(texts: "pd.Series[Any]", column: Column, loader: Loader, path: Path) -> np.ndarray:
    """Convert texts to the type that the recipe declares."""
    if form := loader.date_format.get(column.name):
        found = pd.to_datetime(texts, format=form, errors="coerce")
        if (wrong := (found.isna() & texts.notna()).to_numpy()).any():
            row = int(wrong.argmax())
            raise DataError(
                f"{path}: row {row + 1}, column '{column.name}': must be a date-time in the "
                f"format {form}, is {texts.iloc[row]!r}"
            )
        texts = found
    elif column.type in ("long", "double"):
        texts = texts.where(~texts.str.fullmatch(WRITTEN_NUMBER, na=False), plain_number(texts))
    return _convert(texts.to_frame(), column, path, from_text=True)


def plain_number(texts: "pd.Series[Any]") -> "pd.Series[Any]":
    """Remove commas and `%`: `23,164` is 23164 and `22.3%` is 22.3."""
    return texts.str.replace(NOT_IN_NUMBERS, "", regex=True)


def leading_zeros(path: Path, frame: pd.DataFrame, loader: Loader) -> dict[str, "pd.Series[Any]"]:
    """The texts with leading zeros, such as `01089`, in columns that were read as numbers.

    Args:
        path: the file that `frame` was read from; only CSV files have such texts.
        frame: the rows with inferred types.
        loader: how the file is read.
    """
    inferred = [
        name
        for name in frame.columns
        if types.is_numeric_dtype(frame[name].dtype)
        and not types.is_bool_dtype(frame[name].dtype)
        and name not in loader.declared
    ]
    if not is_csv(path) or not inferred:
        return {}
    texts = pd.read_csv(path, usecols=inferred, dtype=str, **_options(loader))
    found = {name: texts.loc[texts[name].str.fullmatch(r"0\d+"), name] for name in inferred}
    return {name: zeros for name, zeros in found.items() if len(zeros)}


def _not_decoded(path: Path, loader: Loader, exc: UnicodeDecodeError) -> str:
    if loader.encoding != _PLAIN.encoding:
        return (
            f"not {loader.encoding} text (byte {exc.start}), which data.loader.encoding names; "
            "name its encoding there"
        )
    if (encoding := guess_encoding(path.read_bytes())) is not None:
        return (
            f"not UTF-8 text (byte {exc.start}), but it can be read as {described(encoding)}: "
            f"set data.loader.encoding: {encoding}, or save it as CSV in UTF-8"
        )
    return (
        f"not UTF-8 text (byte {exc.start}); save it as CSV in UTF-8, or name its encoding in "
        "data.loader.encoding"
    )


def _read_parquet(path: Path, loader: Loader) -> pd.DataFrame:
    if loader.declared:
        key = "types" if loader.types else "date_format"
        raise DataError(
            f"{path}: data.loader.{key} is for CSV files only; a Parquet file has types, so change "
            "them there"
        )
    frame = pd.read_parquet(path)
    # pandas stores its index in the file: a named index is a column, any other has no meaning.
    is_named = all(name is not None for name in frame.index.names)
    return frame.reset_index(drop=not is_named)


def is_csv(path: Path) -> bool:
    """Whether the file is CSV; else it is Parquet."""
    return path.suffix.lower() == ".csv"


def require_columns(frame: pd.DataFrame, names: Sequence[str], path: Path | str, why: str) -> None:
    """Raise `DataError` naming the file, the first missing column, and the columns of the file."""
    _require(list(frame.columns), names, path, why)


def _require(known: list[str], names: Sequence[str], path: Path | str, why: str) -> None:
    try:
        base.require_columns(known, names, why, remedy="set data.loader.delimiter: {}")
    except DataError as exc:
        raise DataError(f"{path}: {exc}") from None


def infer_column(series: "pd.Series[Any]", name: str) -> Column:
    """Find the type of a column of training data; one with missing values is not required.

    Integers and booleans with missing values are doubles, because NumPy's integers and booleans
    cannot be missing.

    Raises `DataError` for a type that a request cannot have, and for a column without values.
    """
    values = series.dropna()
    missing = len(values) < len(series)
    if values.empty:
        raise DataError(f"column '{name}' has no values; leave it out, or add values")
    return Column(name, _type_of(values, name, missing), required=not missing)


def _type_of(values: "pd.Series[Any]", name: str, missing: bool) -> str:
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(values.cat.categories.dtype)
    if types.is_bool_dtype(values.dtype) or all(isinstance(v, bool) for v in values):
        return "double" if missing else "boolean"
    if types.is_integer_dtype(values.dtype):
        return "double" if missing else "long"
    if types.is_float_dtype(values.dtype):
        return "double"
    if all(map(is_datetime, values)):
        return "datetime"
    if all(isinstance(value, str) for value in values):
        return "string"
    kinds = sorted({type(value).__name__ for value in values})
    if len(kinds) > 1:
        raise DataError(f"column '{name}' mixes values of the types {', '.join(kinds)}")
    raise DataError(
        f"column '{name}' holds values of the unsupported type {kinds[0]}; "
        f"the types are {', '.join(COLUMN_TYPES)}"
    )


def to_table(
    frame: pd.DataFrame, columns: Sequence[Column], path: Path | str, *, from_text: bool = False
) -> Table:
    """Convert the frame's columns to exactly the types of `columns`.

    The rules are those of the API: values are not rounded, truncated or guessed, and only a column
    that is not required may have missing values. If it is absent, all its values are missing.

    Args:
        frame: the rows.
        columns: the wanted columns.
        path: the file that the rows came from, for messages.
        from_text: the values are text and have to be parsed.

    Raises `DataError` naming the file, the column, the rule and the first row that breaks it
    (counted from 1, without the header).
    """
    required = [column.name for column in columns if column.required]
    require_columns(frame, required, path, "which the model needs")
    return {column.name: _convert(frame, column, path, from_text) for column in columns}


_BOOLEANS = {True: 1.0, False: 0.0, "True": 1.0, "False": 0.0, "true": 1.0, "false": 0.0}


def _convert(frame: pd.DataFrame, column: Column, path: Path | str, from_text: bool) -> np.ndarray:
    if column.name not in frame.columns:
        return to_array([None] * len(frame), column)
    series = frame[column.name]
    present = series.notna().to_numpy()
    if column.required and not present.all():
        row = int(present.argmin()) + 1
        raise DataError(f"{path}: row {row}, column '{column.name}': a value is required")

    adapter = TypeAdapter(list[column.spec.annotation])  # type: ignore[name-defined]
    given = series[present].tolist()
    if column.type in ("float", "double"):
        # Training turns booleans with missing values into numbers. A request must use 1 and 0.
        given = [_BOOLEANS.get(value, value) for value in given]
    try:
        # Text from a CSV file is parsed without strict mode, so that "1.5" is a number.
        parsed = adapter.validate_python(given, strict=not from_text)
    except ValidationError as exc:
        position = int(exc.errors(include_url=False)[0]["loc"][0])
        row = int(present.nonzero()[0][position]) + 1
        raise DataError(
            f"{path}: row {row}, column '{column.name}': "
            f"must be {column.spec.rule}, is {given[position]!r}"
        ) from None
    values: list[Any] = [None] * len(frame)
    for index, value in zip(present.nonzero()[0], parsed, strict=True):
        values[index] = value
    return to_array(values, column)
