"""Columns of files, databases and Spark: converted to a model's types by the rules of the API.

Each value must be exactly what a request may have (`contract.columns`): nothing is rounded,
truncated or guessed. Values are checked column by column with Arrow's functions, because a loop
over the values in Python takes ten times as long.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serving.contract.columns import (
    MISSING,
    RFC_3339,
    Column,
    Table,
    parse_base64,
)


class Converted(NamedTuple):
    """A column in the type that the contract wants."""

    values: pa.Array
    """Shape (rows,); null is a missing value, and stands for a wrong one. Text may be
    dictionary-encoded. Values of the type `any` keep the type of the column."""
    missing: np.ndarray | None
    """Shape (rows,), true for a missing value; None if there is none."""
    wrong: np.ndarray | None
    """Shape (rows,), true for a value that breaks the rule of its type; None if there is none."""


def convert(values: pa.Array, column: Column, *, from_text: bool = False) -> Converted:
    """Convert the values of a column.

    Args:
        values: shape (rows,), of any Arrow type.
        column: the wanted type.
        from_text: the values are fields of a CSV file, which have to be parsed.
    """
    if from_text:
        is_missing = pc.is_in(values, value_set=_MISSING)
        given = pc.if_else(is_missing, None, values) if pc.any(is_missing).as_py() else values
        found = _PARSERS[column.type](given)
    else:
        given = values
        if pa.types.is_dictionary(values.type):
            is_text = _is_text(values.type.value_type)
            if not is_text or values.dictionary.null_count:  # such nulls are not counted
                given = values.dictionary_decode()
        if pa.types.is_floating(given.type):
            given = _without_nan(given)
        found = _READERS[column.type](given)
    missing = _numpy(pc.is_null(given)) if given.null_count else None
    if (from_text and column.type == "any") or found.null_count == given.null_count:
        return Converted(found, missing, None)
    return Converted(found, missing, _numpy(pc.and_(pc.is_null(found), pc.is_valid(given))))


def items(values: pa.Array, count: int, *, from_text: bool = False) -> tuple[list[pa.Array], Any]:
    """The items of arrays that must have `count` of them, as that many columns.

    Args:
        values: shape (rows,), of lists, or of text as in JSON: `[1.5, 2]`.
        count: how many items.
        from_text: the values are fields of a CSV file.

    Returns the columns, each of shape (rows,), and a mask of the same shape, true for a value that
    is not such an array; its items are null. Missing items are null, too.
    """
    if from_text:
        is_array = pc.match_substring_regex(values, r"(?s)^\s*\[.*\]\s*$")
        inner = pc.replace_substring_regex(_where(is_array, values), r"^\s*\[|\]\s*$", "")
        values = pc.split_pattern(inner, ",")
    if pa.types.is_list_view(values.type) or pa.types.is_large_list_view(values.type):
        values = values.cast(pa.large_list(values.type.value_type))
    is_list = pa.types.is_list(values.type) or pa.types.is_large_list(values.type)
    if not is_list and not pa.types.is_fixed_size_list(values.type):
        return [pa.nulls(len(values))] * count, np.ones(len(values), dtype=bool)
    fits = pc.fill_null(pc.equal(pc.list_value_length(values), count), False)
    flat = values.filter(fits).flatten()
    is_fit = _numpy(fits)
    first = (np.cumsum(is_fit) - 1) * count
    return [
        flat.take(pa.array(first + position, mask=~is_fit)) for position in range(count)
    ], ~is_fit


def arrow_type(column: Column) -> pa.DataType | None:
    """The Arrow type of a column; None for the type `any`."""
    alias = column.spec.arrow
    return pa.type_for_alias(alias) if alias else None


def to_table(
    arrays: Mapping[str, pa.Array], columns: Sequence[Column], *, exact_integers: bool = False
) -> Table:
    """Build a table of these columns from converted ones.

    `exact_integers`: see `contract.columns.to_array`.
    """
    return {
        column.name: _to_numpy(arrays[column.name], column, exact_integers) for column in columns
    }


def texts(values: pa.Array, missing: Any, write: Callable[[str], str] | None = None) -> np.ndarray:
    """Text as an array of objects, shape (rows,).

    Args:
        values: text, plain or dictionary-encoded.
        missing: stands for a missing value.
        write: changes each text.
    """
    encoded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    different = encoded.dictionary.to_pylist()
    if write:
        different = [None if text is None else write(text) for text in different]
    objects = np.empty(len(different) + 1, dtype=object)
    objects[:] = [missing if text is None else text for text in (*different, None)]
    return np.take(objects, _numpy(encoded.indices.fill_null(len(different))))


def numbers(values: pa.Array) -> np.ndarray:
    """Numbers and booleans as float64, shape (rows,); a missing value is NaN.

    Date-times are microseconds since 1970.
    """
    if pa.types.is_timestamp(values.type):
        values = values.view(pa.int64())
    return _numpy(_as_double(values))


def _to_numpy(values: pa.Array, column: Column, exact_integers: bool) -> np.ndarray:
    dtype = column.spec.dtype
    if column.type == "string":
        return texts(values, np.nan)
    if dtype in ("bool", "int32", "int64") and values.null_count:
        if not exact_integers or dtype == "bool":
            return numbers(values)
        dtype = "object"
    if dtype == "object":
        array = np.empty(len(values), dtype=object)
        array[:] = [np.nan if value is None else value for value in values.to_pylist()]
        return array
    return _numpy(values).astype(dtype, copy=False)


def _numpy(values: pa.Array) -> np.ndarray:
    return np.asarray(values.to_numpy(zero_copy_only=False))


# ------------------------------------------------------------------ typed values
# Each function returns the values in the wanted type, with null for those that break its rule.


def _nothing(values: pa.Array, type_: pa.DataType) -> pa.Array:
    return pa.nulls(len(values), type_)


def _without_nan(values: pa.Array) -> pa.Array:
    return pc.if_else(pc.is_nan(values), None, values)


def _where(condition: pa.Array, values: pa.Array) -> pa.Array:
    return pc.if_else(condition, values, None)


def _as_double(values: pa.Array) -> pa.Array:
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    # Not safe: integers beyond 2**53 are rounded, as NumPy does.
    return values.cast(pa.float64(), safe=False)


def _read_boolean(values: pa.Array) -> pa.Array:
    return values if pa.types.is_boolean(values.type) else _nothing(values, pa.bool_())


def _integer_reader(type_: pa.DataType) -> Callable[[pa.Array], pa.Array]:
    limits = np.iinfo(str(type_))

    def read(values: pa.Array) -> pa.Array:
        if values.type == type_:
            return values
        if pa.types.is_floating(values.type):
            values = values.cast(pa.float64())
            # The largest integer is not a float, the first one beyond it is: 2.0**63.
            fits = pc.and_(
                pc.greater_equal(values, float(limits.min)), pc.less(values, limits.max + 1.0)
            )
            values = _where(pc.and_(fits, pc.equal(values, pc.floor(values))), values)
        elif pa.types.is_decimal(values.type):
            first, last = (pa.scalar(Decimal(int(one))) for one in (limits.min, limits.max))
            fits = pc.and_(pc.greater_equal(values, first), pc.less_equal(values, last))
            values = _where(pc.and_(fits, pc.equal(values, pc.floor(values))), values)
        elif pa.types.is_integer(values.type):
            if values.type.bit_width >= type_.bit_width:
                fits = pc.less_equal(values, pa.scalar(limits.max, type_).cast(_wide(values.type)))
                if pa.types.is_signed_integer(values.type):
                    fits = pc.and_(fits, pc.greater_equal(values, pa.scalar(limits.min, type_)))
                values = _where(fits, values)
        else:
            return _nothing(values, type_)
        return values.cast(type_)

    return read


def _wide(type_: pa.DataType) -> pa.DataType:
    return pa.uint64() if pa.types.is_unsigned_integer(type_) else pa.int64()


_MAX32 = float(np.finfo(np.float32).max)


def _read_double(values: pa.Array) -> pa.Array:
    """Numbers, and booleans: training turns booleans with missing values into numbers."""
    type_ = values.type
    if pa.types.is_decimal(type_):
        values = values.cast(pa.string())  # the only conversion that rounds correctly
    elif not (
        pa.types.is_floating(type_) or pa.types.is_integer(type_) or pa.types.is_boolean(type_)
    ):
        return _nothing(values, pa.float64())
    found = _as_double(values)
    finite = pc.is_finite(found)
    return found if pc.all(finite).as_py() in (True, None) else _where(finite, found)


def _single(values: pa.Array) -> pa.Array:
    """Doubles in single precision; null for those beyond its range."""
    return _where(pc.less_equal(pc.abs(values), _MAX32), values).cast(pa.float32(), safe=False)


def _is_text(type_: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(type_) or pa.types.is_large_string(type_) or type_ == pa.string_view()
    )


def _read_text(values: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(values.type):
        return values
    return values.cast(pa.string()) if _is_text(values.type) else _nothing(values, pa.string())


def _read_binary(values: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if _is_text(values.type):
        return pa.array([_or_none(parse_base64, one) for one in values.to_pylist()], pa.binary())
    is_binary = pa.types.is_binary(values.type) or pa.types.is_large_binary(values.type)
    is_binary = is_binary or pa.types.is_fixed_size_binary(values.type)
    return values.cast(pa.binary()) if is_binary else _nothing(values, pa.binary())


_TIMESTAMP = pa.timestamp("us")
_EPOCH = datetime(1970, 1, 1)
_FIRST, _LAST = (
    int((limit - _EPOCH).total_seconds()) * 1_000_000
    for limit in (datetime.min, datetime.max.replace(microsecond=0))
)


def _read_datetime(values: pa.Array) -> pa.Array:
    type_ = values.type
    if pa.types.is_dictionary(type_):
        values, type_ = values.dictionary_decode(), type_.value_type
    if _is_text(type_):
        return _parse_datetime(values.cast(pa.string()))
    if pa.types.is_date(type_):
        return _in_calendar(values.cast(pa.timestamp("s" if pa.types.is_date32(type_) else "ms")))
    return _in_calendar(values) if pa.types.is_timestamp(type_) else _nothing(values, _TIMESTAMP)


_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def _in_calendar(values: pa.Array) -> pa.Array:
    """Timestamps as naive UTC in microseconds; null outside of the years 1 to 9999."""
    factor = _PER_SECOND[values.type.unit]
    ticks = values.view(pa.int64())  # those of a timestamp with a zone are in UTC
    first, last = (limit // 1_000_000 * factor for limit in (_FIRST, _LAST + 1_000_000))
    low = max(first, -(2**63) + 1)
    ticks = _where(
        pc.and_(pc.greater_equal(ticks, low), pc.less(ticks, min(last, 2**63 - 1))), ticks
    )
    if factor < 1_000_000:
        ticks = pc.multiply(ticks, 1_000_000 // factor)
    elif factor > 1_000_000:
        # Division truncates, so times before 1970 would be rounded up.
        rest = pc.less(ticks, 0).cast(pa.int64())
        ticks = pc.subtract(pc.divide(pc.add(ticks, rest), 1_000), rest)
    return ticks.view(_TIMESTAMP)


def _read_any(values: pa.Array) -> pa.Array:
    type_ = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if pa.types.is_floating(type_) or pa.types.is_decimal(type_):
        return _read_double(values)
    is_scalar = pa.types.is_integer(type_) or pa.types.is_boolean(type_) or _is_text(type_)
    return values if is_scalar or pa.types.is_null(type_) else _nothing(values, pa.null())


_READERS: dict[str, Callable[[pa.Array], pa.Array]] = {
    "boolean": _read_boolean,
    "integer": _integer_reader(pa.int32()),
    "long": _integer_reader(pa.int64()),
    "float": lambda values: _single(_read_double(values)),
    "double": _read_double,
    "string": _read_text,
    "binary": _read_binary,
    "datetime": _read_datetime,
    "any": _read_any,
}


# ------------------------------------------------------------- the text of CSV files

_MISSING = pa.array(MISSING)
_TRUE = pa.array(["1", "on", "t", "true", "y", "yes"])
_FALSE = pa.array(["0", "off", "f", "false", "n", "no"])


def _parse_boolean(values: pa.Array) -> pa.Array:
    lower = pc.utf8_lower(pc.ascii_trim_whitespace(values))
    is_true = pc.is_in(lower, value_set=_TRUE)
    return _where(pc.or_(is_true, pc.is_in(lower, value_set=_FALSE)), is_true)


_INTEGER = r"^[+-]?\d+(\.0*)?$"
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"


def _parse_integer(values: pa.Array) -> pa.Array:
    """Parse 64-bit integers: `7`, `007`, `+7` and `7.0`."""
    try:
        found = values.cast(pa.int64())
        if not any(pc.any(pc.match_substring(values, one)).as_py() for one in "xX"):
            return found
    except pa.ArrowInvalid:
        pass
    return _parse_mostly(values, _USUAL_INTEGER, pa.int64(), _parse_unusual_integer)


def _parse_mostly(
    values: pa.Array, usual: str, type_: pa.DataType, parse: Callable[[pa.Array], pa.Array]
) -> pa.Array:
    """Cast texts that look as usual, and parse the others, which takes longer.

    Args:
        usual: regular expression of texts that Arrow casts.
        parse: the function for the others.
    """
    is_usual = pc.match_substring_regex(values, usual)
    found = _where(is_usual, values).cast(type_)
    is_unusual = pc.fill_null(pc.invert(is_usual), False)
    return pc.replace_with_mask(found, is_unusual, parse(values.filter(is_unusual)))


_USUAL_INTEGER = r"^-?\d{1,18}$"


def _parse_unusual_integer(values: pa.Array) -> pa.Array:
    trimmed = pc.ascii_trim_whitespace(values)
    trimmed = _where(pc.match_substring_regex(trimmed, _INTEGER), trimmed)
    digits = pc.replace_substring_regex(trimmed, r"^([+-]?)0*(\d+)(\.0*)?$", r"\1\2")
    digits = pc.replace_substring_regex(digits, r"^\+", "")
    # 20 digits fit into a decimal, which says whether they fit into an integer.
    digits = _where(pc.less_equal(pc.utf8_length(digits), 20), digits)
    return _READERS["long"](digits.cast(pa.decimal128(38)))


def _parse_double(values: pa.Array) -> pa.Array:
    """Parse finite numbers, and `True` and `False`.

    Training turns booleans with missing values into numbers.
    """
    try:
        found = values.cast(pa.float64())
    except pa.ArrowInvalid:
        found = _parse_mostly(values, _NUMBER, pa.float64(), _parse_unusual_double)
    return _where(pc.is_finite(found), found)


def _parse_unusual_double(values: pa.Array) -> pa.Array:
    trimmed = pc.ascii_trim_whitespace(values)
    is_true, is_false = (pc.is_in(trimmed, value_set=pa.array(w)) for w in _BOOLEANS)
    trimmed = pc.if_else(is_true, "1", pc.if_else(is_false, "0", trimmed))
    return _where(pc.match_substring_regex(trimmed, _NUMBER), trimmed).cast(pa.float64())


_BOOLEANS = (("True", "true"), ("False", "false"))


def _parse_datetime(values: pa.Array) -> pa.Array:
    try:
        if pc.all(pc.is_in(pc.binary_length(values), value_set=_PLAIN_LENGTHS)).as_py():
            return _in_calendar(values.cast(_TIMESTAMP))
    except pa.ArrowInvalid:
        pass
    return _parse_mostly(values, _USUAL_DATETIME, _TIMESTAMP, _parse_unusual_datetime)


_PLAIN_LENGTHS = pa.array([10, 19, None], pa.int32())
"""Only `2026-01-31` and `2026-01-31T12:00:00` are so long, among the texts that Arrow casts."""

_USUAL_DATETIME = (
    r"^(?:19|20)\d\d-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])"
    r"(?:[T ](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d)?$"
)
"""Each month has 28 days."""


def _parse_unusual_datetime(values: pa.Array) -> pa.Array:
    values = _where(pc.match_substring_regex(values, f"^({RFC_3339})$"), values)
    # Arrow takes no more than six digits of a second.
    plain = pc.replace_substring_regex(pc.utf8_upper(values), r"(\.\d{6})\d+", r"\1")
    try:
        return _parse_rfc_3339(plain)
    except pa.ArrowInvalid:
        return _parse_rfc_3339(_where(_is_day(plain), plain))


def _parse_rfc_3339(values: pa.Array) -> pa.Array:
    has_zone = pc.fill_null(pc.match_substring_regex(values, r":\d\d.*(Z|[+-]\d\d:\d\d)$"), False)
    local = pc.if_else(has_zone, None, values).cast(_TIMESTAMP).view(pa.int64())
    zoned = _where(has_zone, values).cast(pa.timestamp("us", "UTC")).view(pa.int64())
    return _in_calendar(pc.if_else(has_zone, zoned, local).view(_TIMESTAMP))


def _is_day(values: pa.Array) -> pa.Array:
    """Whether dates, which look like `2026-01-31`, have a month and a day of the calendar."""
    year, month, day = (
        _numpy(pc.utf8_slice_codeunits(values, *part).cast(pa.int64()).fill_null(1))
        for part in ((0, 4), (5, 7), (8, 10))
    )
    months = ((year - 1970) * 12 + month - 1).astype("datetime64[M]")
    days = (months + 1).astype("datetime64[D]") - months.astype("datetime64[D]")
    return pa.array((month > 0) & (day > 0) & (day <= days.astype(np.int64)))


_JSON_NUMBER = r"^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$"


def _parse_any(values: pa.Array) -> pa.Array:
    """Each value on its own: a number or a boolean if JSON would write it so, else text.

    Integers beyond 64 bits are doubles, and numbers beyond doubles are text.
    """
    is_boolean = pc.is_in(values, value_set=pa.array(["true", "false"]))
    number = _where(pc.match_substring_regex(values, _JSON_NUMBER), values)
    whole = _where(pc.match_substring_regex(number, r"^-?\d+$"), number)
    children = [
        values,
        _where(is_boolean, pc.equal(values, "true")),
        _parse_double(number),
        _parse_integer(whole),
    ]
    kinds = np.zeros(len(values), dtype=np.int8)
    for kind, child in enumerate(children[1:], start=1):
        kinds[_numpy(pc.is_valid(child))] = kind
    return pa.UnionArray.from_sparse(pa.array(kinds), children)


def _or_none(parse: Callable[[Any], Any], value: object) -> Any:
    try:
        return parse(value)
    except ValueError:
        return None


_PARSERS: dict[str, Callable[[pa.Array], pa.Array]] = {
    "boolean": _parse_boolean,
    "integer": lambda values: _READERS["integer"](_parse_integer(values)),
    "long": _parse_integer,
    "float": lambda values: _single(_parse_double(values)),
    "double": _parse_double,
    "string": lambda values: values,
    "binary": _read_binary,
    "datetime": _parse_datetime,
    "any": _parse_any,
}
