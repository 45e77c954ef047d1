"""Random rows with columns of every type, and a model whose answer is the row as it sees it."""

import base64
import json
import math
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import settings_for
from pydantic import TypeAdapter, ValidationError
from serving.api.body import parse_json
from serving.config.settings import Settings
from serving.contract.columns import COLUMN_TYPES, MISSING, Column

COLUMNS = [
    Column(f"{type_}_{'required' if required else 'optional'}", type_, required)
    for type_ in COLUMN_TYPES
    for required in (True, False)
]

# --- a model whose answer is the row ---

ENGINE = """
import hashlib

import numpy as np
from serving.contract.columns import COLUMN_TYPES, Column, Signature
from serving.engines.base import Engine, Predictions


class Mirror(Engine):
    name = "mirror"
    independent_rows = True
    exact_integers = True  # doubles would hide differences beyond 2**53

    def predict(self, table):
        columns = [
            [_canonical(value, name.partition("_")[0]) for value in values.tolist()]
            for name, values in table.items()
        ]
        answers = [" ".join(row) for row in zip(*columns)]
        # Some rows are refused by the model itself.
        refused = [hashlib.sha256(one.encode()).digest()[0] == 0 for one in answers]
        return Predictions(np.array(answers, dtype=object), refused=np.array(refused, dtype=bool))

    def describe(self):
        return {"name": self.name, "estimator": "Mirror"}

    def signature(self, stored):
        inputs = (
            Column(f"{type_}_{'required' if required else 'optional'}", type_, required)
            for type_ in COLUMN_TYPES
            for required in (True, False)
        )
        return Signature(tuple(inputs), (Column("", "string"),))


def _canonical(value, type_):
    if value is None or value != value:
        return "-"
    if type_ == "boolean":  # a column with missing values is one of floats
        value = bool(value)
    text = value.hex() if isinstance(value, float) else repr(value)
    return text if len(text) < 50 else hashlib.sha256(text.encode()).hexdigest()


def load_engine(stored):
    return Mirror() if stored.identity == "m-mirror" else None
"""


@contextmanager
def serving_the_mirror(root: Path) -> Iterator[Settings]:
    """Settings that serve the mirror, which is the engine of the user's own package."""
    (root / "custom").mkdir(exist_ok=True)
    (root / "custom/__init__.py").write_text("")
    (root / "custom/engines.py").write_text(ENGINE)
    (root / "model").mkdir(exist_ok=True)
    (root / "model/MLmodel").write_text("flavors: {}\nmodel_id: m-mirror\n")

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "custom"]:
            del sys.modules[name]

    forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root)
        yield settings_for(root / "model", root)
    forget()


# --- values ---

INTEGERS = [0, 1, -1, 7, 127, 2**31 - 1, -(2**31), 2**31, -(2**31) - 1, 2**53 + 1, -(2**53) - 1]
INTEGERS += [2**63 - 1, -(2**63), 2**63, 2**64 - 1]
FLOATS = [0.0, -0.0, 1.0, 1.5, 0.1, -2.5, 1e-45, 5e-324, 1e39, -1e39, 1e308, 3.4028234663852886e38]
FLOATS += [3.4028235e38, 2.0**31, 2.0**53 + 2, 2.0**63, -(2.0**63), 65504.0, math.inf, -math.inf]
# A request has no exact decimals, so whole ones beyond 2**53 have no counterpart there.
DECIMALS = ["0.00", "1.00", "1.50", "-2.50", "0.10", "1e25", "2147483648.00", "9007199254740992.00"]
DECIMALS += ["9223372036854775808.00", "-9223372036854775808.00", "12345678901234567890.12"]
TEXTS = [
    "a",
    "é",
    "펭귄",
    "\uffff",
    "\uffffa",
    "x\x00y",
    "\x00",
    '"',
    '""',
    "'",
    "a,b",
    "a\nb",
    "\r",
]
TEXTS += [
    "x" * 5_000,
    " ",
    "\t",
    "AP8=",
    "AP8",
    "AA==",
    "***",
    "True",
    "true",
    "FALSE",
    "yes",
    "off",
]
TEXTS += [
    "None",
    "inf",
    "-Infinity",
    "-nan",
    "1e400",
    "1e-400",
    "{}",
    "[1]",
    "Null",
    "\ufeff",
    "😀",
]
NUMERALS = [
    "1",
    "007",
    " 1",
    "1 ",
    "+1",
    "-1",
    "-0",
    "1.",
    ".5",
    "1.0",
    "-0.0",
    "1.50",
    "1e2",
    "1E+2",
]
NUMERALS += [
    "1_000",
    "0x10",
    "\uff11",  # a full-width digit
    "٣",
    "1,5",
    "--1",
    "1e",
    "2147483648",
    "1e39",
    "9" * 19,
    "9" * 400,
]
NUMERALS += ["9223372036854775807", "-9223372036854775808", "-9223372036854775809", "0" * 30]
DATES = ["2026-01-31", "2026-01-31T12:00:00Z", "2026-01-31 12:00", "2026-01-31t12:00:00z"]
DATES += ["2026-01-31T12:00:00+09:00", "2026-01-31T12:00:00.5-23:59", "1969-12-31T23:59:59.9999999"]
DATES += [
    "2026-01-31T12:00:00.123456789Z",
    "2024-02-29",
    "0001-01-01",
    "9999-12-31T23:59:59.999999",
]
NO_DATES = ["2026-02-30", "2026-02-29", "0000-01-01", "2026-13-01", "2026-00-10", "2026-01-00"]
NO_DATES += ["2026-01-31T24:00", "2026-01-31T12:00:60", "2026-01-31T12:00:00+24:00", "20260131"]
NO_DATES += ["0001-01-01T00:00+09:00", "9999-12-31T23:59-00:01", "10000-01-01", "2026-01-31Z"]
NO_DATES += ["\uff12026-01-31", "2026-01-31\n", "2026-01-31T12", "2026-01-31T12:00:00."]
STRINGS = [*TEXTS, *NUMERALS, *DATES, *NO_DATES, "", *MISSING[1:]]
BYTES = [b"", b"\x00\xff", b"a", b"x" * 1_000, *(bytes([n, 255 - n]) for n in range(0, 250, 3))]
SECONDS = [0, -1, 1769860800, 951782400, -62135596800, 253402300799, 253402300800, -62135596801]

_EPOCH = datetime(1970, 1, 1)


@dataclass(frozen=True)
class Storage:
    """A way to keep values in Arrow."""

    type: pa.DataType
    values: list[Any]
    json: Callable[[Any], str]
    """A value as a request has it."""
    array: Callable[[list[Any]], pa.Array]


def float_json(value: float) -> str:
    return repr(value) if math.isfinite(value) else f"{'-' if value < 0 else ''}1e999"


def _seconds_json(ticks: int, unit: str, zone: str) -> str:
    digits = {"s": 0, "ms": 3, "us": 6, "ns": 9}[unit]
    seconds, rest = divmod(ticks, 10**digits)
    try:
        text = (_EPOCH + timedelta(seconds=seconds)).isoformat()
    except OverflowError:
        text = "10000-01-01T00:00:00"  # beyond the calendar
    return json.dumps(text + (f".{rest:0{digits}}" if digits else "") + zone)


def _ticks(unit: str, zone: str | None) -> Storage:
    scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    values = [s * scale + rest for s in SECONDS for rest in {0, scale // 2, scale - 1}]
    type_ = pa.timestamp(unit, zone)
    return Storage(
        type_,
        [value for value in values if abs(value) < 2**63],
        lambda value: _seconds_json(value, unit, "Z" if zone else ""),
        lambda values: pa.array(values, pa.int64()).view(type_),
    )


def _plain(type_: pa.DataType, values: list[Any], write: Callable[[Any], str]) -> Storage:
    return Storage(type_, values, write, lambda values: pa.array(values, type_))


def _dictionary(index: pa.DataType, values: list[Any], write: Callable[[Any], str]) -> Storage:
    def encoded(values: list[Any]) -> pa.Array:
        return pa.array(values).dictionary_encode().cast(type_)

    type_ = pa.dictionary(index, pa.array(values).type)
    return Storage(type_, values, write, encoded)


def _base64(value: bytes) -> str:
    return json.dumps(base64.b64encode(value).decode())


def _decimal(places: int) -> Storage:
    values = [Decimal(text).quantize(Decimal(1).scaleb(-places)) for text in DECIMALS]
    return _plain(pa.decimal128(38, places), values, str)


def _days(type_: pa.DataType) -> Storage:
    unit = 1 if type_ == pa.date32() else 86_400_000
    index = pa.int32() if unit == 1 else pa.int64()
    return Storage(
        type_,
        [second // 86_400 * unit for second in SECONDS],
        lambda value: _seconds_json(value // unit * 86_400, "s", "").replace("T00:00:00", ""),
        lambda values: pa.array(values, index).view(type_),
    )


INTS = {
    name: _plain(type_, [n for n in INTEGERS if low <= n <= high], str)
    for name, type_, low, high in (
        ("int8", pa.int8(), -128, 127),
        ("int32", pa.int32(), -(2**31), 2**31 - 1),
        ("int64", pa.int64(), -(2**63), 2**63 - 1),
        ("uint8", pa.uint8(), 0, 255),
        ("uint32", pa.uint32(), 0, 2**32 - 1),
        ("uint64", pa.uint64(), 0, 2**64 - 1),
    )
}
NUMBERS = {
    **INTS,
    "double": _plain(pa.float64(), FLOATS, float_json),
    "single": Storage(
        pa.float32(),
        [float(np.float32(x)) for x in FLOATS if abs(x) < 3.5e38 or math.isinf(x)],
        float_json,
        lambda values: pa.array(values, pa.float32()),
    ),
    "half": Storage(
        pa.float16(),
        [float(np.float16(x)) for x in FLOATS if abs(x) < 6e4 or math.isinf(x)],
        float_json,
        lambda values: pa.array(
            [None if value is None else np.float16(value) for value in values], pa.float16()
        ),
    ),
    "decimal": _decimal(2),
    "category": _dictionary(pa.int8(), [0, 1, -7, 2**53 + 1], str),
}
WORDS = {
    "text": _plain(pa.string(), STRINGS, json.dumps),
    "large": _plain(pa.large_string(), STRINGS, json.dumps),
    "category of text": _dictionary(pa.int16(), STRINGS, json.dumps),
}
FLAGS = {"flag": _plain(pa.bool_(), [True, False], json.dumps)}
RAW = {
    "raw": _plain(pa.binary(), BYTES, _base64),
    "large raw": _plain(pa.large_binary(), BYTES, _base64),
    "fixed": _plain(pa.binary(2), [b"\x00\xff", b"ab"], _base64),
}
TIMES = {
    **{
        f"{unit} {zone}": _ticks(unit, zone)
        for unit in ("s", "ms", "us", "ns")
        for zone in (None, "UTC")
    },
    "zone": _ticks("us", "Asia/Seoul"),
    "day": _days(pa.date32()),
    "day in ms": _days(pa.date64()),
}
NATURAL: dict[str, dict[str, Storage]] = {
    "boolean": FLAGS,
    "integer": NUMBERS,
    "long": NUMBERS,
    "float": NUMBERS,
    "double": NUMBERS,
    "string": WORDS,
    "binary": RAW | WORDS,
    "datetime": TIMES | WORDS,
    "any": NUMBERS | WORDS | FLAGS,
}
# A request has bytes and times as text, so as the value of a `string` or of `any` they have no
# counterpart; batch inference refuses them. Booleans are numbers for batch inference, because
# training turns booleans with missing values into numbers; a request must write 1 and 0.
FOREIGN: dict[str, dict[str, Storage]] = {
    "boolean": NUMBERS | WORDS,
    **dict.fromkeys(("integer", "long"), FLAGS | WORDS),
    **dict.fromkeys(("float", "double"), WORDS),
    "string": NUMBERS | FLAGS,
    "binary": NUMBERS | FLAGS,
    "datetime": NUMBERS | FLAGS,
    "any": {},
}


@cache
def is_valid(type_: str, text: str) -> bool:
    """Whether a request may have a value."""
    adapter: TypeAdapter[Any] = TypeAdapter(COLUMN_TYPES[type_].annotation, config={"strict": True})
    try:
        adapter.validate_python(parse_json(f'{{"a": {text}}}'.encode(), 10)["a"])
    except ValidationError:
        return False
    return True


@dataclass(frozen=True)
class Block:
    """Rows of the same Arrow types."""

    table: pa.Table
    rows: list[dict[str, str]]
    """The same rows with values as JSON; a missing one is `null` or left out."""

    @property
    def bodies(self) -> list[str]:
        return list(map(as_body, self.rows))


def as_body(row: dict[str, str]) -> str:
    return "{" + ", ".join(f'"{name}": {text}' for name, text in row.items()) + "}"


def make_block(choose: random.Random, storages: dict[str, Storage], count: int) -> Block:
    """Random rows with these storages; a column without one is left out."""
    arrays: dict[str, pa.Array] = {}
    rows: list[dict[str, str]] = [{} for _ in range(count)]
    for column in COLUMNS:
        if (storage := storages.get(column.name)) is None:
            continue
        written = {index: storage.json(value) for index, value in enumerate(storage.values)}
        fine = [n for n, text in written.items() if is_valid(column.type, text)]
        wrong = [n for n in written if n not in fine]
        missing = 0.001 if column.required else 0.3 if fine else 0.99
        values: list[Any] = []
        for row in rows:
            if choose.random() < missing:
                values.append(choose.choice([None, math.nan]) if _has_nan(storage) else None)
                if column.required or choose.random() < 0.5:
                    row[column.name] = "null"
                continue
            is_wrong = not fine or (wrong and choose.random() < 0.003)
            index = choose.choice(wrong if is_wrong else fine)
            values.append(storage.values[index])
            row[column.name] = written[index]
        arrays[column.name] = storage.array(values)
    return Block(pa.table(arrays), rows)


def _has_nan(storage: Storage) -> bool:
    return bool(pa.types.is_floating(storage.type)) and storage.type != pa.float16()


def random_storages(choose: random.Random) -> dict[str, Storage]:
    found = {}
    for column in COLUMNS:
        kinds = list(NATURAL[column.type].values())
        if not column.required:
            if choose.random() < 0.1:
                continue
            if choose.random() < 0.3:
                kinds = list(FOREIGN[column.type].values()) or kinds
        found[column.name] = choose.choice(kinds)
    return found


def csv_field(choose: random.Random, text: str | None) -> str:
    """A field for a value as JSON; numbers are written in several ways."""
    value = None if text is None else json.loads(text, parse_float=str, parse_int=str)
    if value is None:
        return choose.choice(MISSING)
    if value in MISSING and choose.random() < 0.9:
        return "AP8="  # so that not too many rows lack a required value
    if isinstance(value, bool):
        return choose.choice(
            {True: ["true", "True", "1", "yes"], False: ["false", "0", "N"]}[value]
        )
    if text and not text.startswith('"') and choose.random() < 0.01:
        return choose.choice([f" {value}", f"{value}\n", f"+{value}", f"00{value}", f"{value}.0"])
    return str(value).replace("\x00", "0")  # CSV files may not have zero bytes


def _in_calendar(storage: Storage) -> Storage:
    """The date-times of Python's calendar."""
    values = [one for one in storage.values if "10000-" not in storage.json(one)]
    return _plain(
        storage.type,
        [
            datetime.fromtimestamp(0, UTC).replace(tzinfo=None) + timedelta(microseconds=v)
            for v in values
            if v >= -62135596800 * 10**6
        ],
        lambda value: json.dumps(value.isoformat()),
    )


def common_storages() -> dict[str, Storage]:
    """One storage for each column, of a type that databases and Spark have as well."""
    # PostgreSQL's text has no zero bytes.
    text = _plain(pa.string(), [text for text in STRINGS if "\x00" not in text], json.dumps)
    kinds = {
        "boolean": FLAGS["flag"],
        **dict.fromkeys(("integer", "long"), INTS["int64"]),
        **dict.fromkeys(("float", "double"), NUMBERS["double"]),
        **dict.fromkeys(("string", "any"), text),
        "binary": RAW["raw"],
        "datetime": _in_calendar(_ticks("us", None)),
    }
    return {column.name: kinds[column.type] for column in COLUMNS}
