"""Column types: the form of each MLflow type in JSON, in a NumPy array and in a text file.

Requests are typed, frames are built and batch files are read from this one table.
Types are those of MLflow's column-based signatures (`mlflow.types.DataType`), by name.
"""

import base64
import binascii
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator, WithJsonSchema

from serving.errors import ContractError


@dataclass(frozen=True)
class ColumnType:
    """One column type in each of its forms."""

    annotation: Any
    """Type of a request field, for Pydantic's strict mode."""
    dtype: str
    """NumPy dtype of the column, exactly as the signature requires."""
    rule: str
    """What a value must be, in words."""
    made_up: Any
    """An invented example value, as in JSON."""
    arrow: str | None
    """Arrow type of the column, by its alias; None if values of several types may be mixed."""


RFC_3339 = (
    r"\d{4}-(0\d|1[0-2])-([0-2]\d|3[01])"
    r"([Tt ]([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d+)?)?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)?)?"
)
"""What a date-time or a date looks like; not every text that matches is a day of the calendar."""

_RFC_3339 = re.compile(RFC_3339, re.ASCII)


def parse_datetime(value: object) -> datetime:
    """Read an RFC 3339 date-time, or a date as its midnight, as naive UTC.

    Raises `ValueError` for anything else.
    """
    try:
        if isinstance(value, str) and _RFC_3339.fullmatch(value):
            value = datetime.fromisoformat(value.upper())
        if isinstance(value, datetime):
            return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
        if isinstance(value, date):
            return datetime(value.year, value.month, value.day)
    except (ValueError, OverflowError):
        pass  # month 13, or a time zone that moves the date out of the calendar
    raise ValueError("must be an RFC 3339 date-time such as 2026-01-31T12:00:00Z, or a date")


def is_datetime(value: object) -> bool:
    """Whether `parse_datetime` accepts the value."""
    try:
        parse_datetime(value)
    except ValueError:
        return False
    return True


def _integral(value: object) -> object:
    """1.0 is an integer in JSON (RFC 8259, section 6) and JSON Schema; 1.7 is not."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Int32 = Annotated[int, Field(ge=-(2**31), le=2**31 - 1), BeforeValidator(_integral)]
_Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1), BeforeValidator(_integral)]
_MAX32 = float(np.finfo(np.float32).max)
_Float32 = Annotated[float, Field(allow_inf_nan=False, ge=-_MAX32, le=_MAX32)]
_Float64 = Annotated[float, Field(allow_inf_nan=False)]
_DateTime = Annotated[
    datetime,
    PlainValidator(parse_datetime),
    PlainSerializer(
        lambda value: f"{value.isoformat()}Z", when_used="json"
    ),  # naive UTC internally
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


def parse_base64(value: object) -> bytes:
    """Read base64 (RFC 4648, section 4, with padding).

    Raises `ValueError` for anything else.
    """
    try:
        if isinstance(value, str):
            value = base64.b64decode(value, validate=True)
        if isinstance(value, bytes):
            return value
    except (binascii.Error, ValueError):  # a ValueError: for text that is not ASCII
        pass
    raise ValueError("must be base64 (RFC 4648) in a string")


_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_Binary = Annotated[
    bytes,
    PlainValidator(parse_base64),
    PlainSerializer(lambda value: base64.b64encode(value).decode(), when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "pattern": _BASE64}),
]


def _scalar(value: object) -> object:
    if value is None or isinstance(value, str | int | bool):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise ValueError("must be a string, a finite number, a boolean or null")


_Any = Annotated[
    Any,
    PlainValidator(_scalar),
    WithJsonSchema({"type": ["string", "number", "boolean", "null"]}),
]

COLUMN_TYPES: dict[str, ColumnType] = {
    "boolean": ColumnType(bool, "bool", "a boolean", True, "bool"),
    "integer": ColumnType(_Int32, "int32", "a 32-bit integer", 1, "int32"),
    "long": ColumnType(_Int64, "int64", "a 64-bit integer", 1, "int64"),
    "float": ColumnType(_Float32, "float32", "a finite single-precision number", 1.0, "float32"),
    "double": ColumnType(_Float64, "float64", "a finite number", 1.0, "float64"),
    "string": ColumnType(str, "object", "a string", "example", "string"),
    "binary": ColumnType(_Binary, "object", "base64 in a string", "AAAA", "binary"),
    "datetime": ColumnType(
        _DateTime,
        "datetime64[us]",
        "an RFC 3339 date-time or a date",
        "2026-01-01T00:00:00Z",
        "timestamp[us]",
    ),
    "any": ColumnType(_Any, "object", "a string, a number, a boolean or null", "example", None),
}
"""MLflow's scalar types, and `any` for a column without one."""

MISSING = ("", "NA", "NaN", "nan", "null")
"""CSV fields that count as missing values."""

WRITTEN_NUMBER = r"\s*[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?\s*%?\s*"
"""A number as people write it: perhaps with commas between thousands, or as a percentage."""

NOT_IN_NUMBERS = r"[,%\s]"
"""What is removed from such a number: `23,164` is 23164 and `22.3%` is 22.3."""


@dataclass(frozen=True)
class Column:
    """A named column of a table; one that is not required may be absent or null."""

    name: str
    type: str
    required: bool = True

    def __post_init__(self) -> None:
        if self.type not in COLUMN_TYPES:
            raise ContractError(
                f"column '{self.name}' has the type {self.type}; "
                f"supported types are {', '.join(COLUMN_TYPES)}"
            )

    @property
    def spec(self) -> ColumnType:
        """This column's type in each of its forms."""
        return COLUMN_TYPES[self.type]


@dataclass(frozen=True)
class Signature:
    """The model's own columns: its inputs, and its outputs for each row."""

    inputs: tuple[Column, ...]
    outputs: tuple[Column, ...] = ()
    """Empty if the model does not declare any; one output, or several with a name each."""


Row = Sequence[Any]
"""The values of a row as Python objects, in the order of its columns; None is missing."""

Table = dict[str, np.ndarray]
"""Columns by name, each of shape (rows,), of equal length, with the dtypes of `COLUMN_TYPES`.

Missing values are NaN, or NaT in date-times. An integer or boolean column with missing values is a
float array."""


def to_array(values: Sequence[Any], column: Column, *, exact_integers: bool = False) -> np.ndarray:
    """Build the array of a column from Python values; None is missing.

    With `exact_integers`, an integer column with missing values becomes an array of objects,
    because floats cannot hold all integers beyond 2**53.
    """
    dtype = column.spec.dtype
    if exact_integers and dtype in ("int32", "int64") and None in values:
        dtype = "object"
    if dtype == "object":
        array = np.empty(len(values), dtype=object)
        array[:] = [np.nan if value is None else value for value in values]
        return array
    if dtype in ("bool", "int32", "int64") and any(value is None for value in values):
        dtype = "float64"
    return np.array(values, dtype=dtype)


def to_table(
    rows: Iterable[Row], columns: Sequence[Column], *, exact_integers: bool = False
) -> Table:
    """Build a table of these columns from rows.

    `exact_integers`: see `to_array`.
    """
    by_column = list(zip(*rows, strict=True)) or [()] * len(columns)
    return {
        column.name: to_array(values, column, exact_integers=exact_integers)
        for column, values in zip(columns, by_column, strict=True)
    }
