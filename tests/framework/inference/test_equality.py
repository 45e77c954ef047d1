"""Batch inference and the API are equal: the same answers, and the same refusals by row and column.

Seeded random rows with a column of every type go through all ways in. The model's answer is the row
as the model sees it, so every difference shows.
"""

import base64
import csv
import json
import math
import random
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import mlflow.sklearn
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import settings_for, wait_until_loaded
from fastapi.testclient import TestClient
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from postgresql import PostgreSQL
from pydantic import TypeAdapter, ValidationError
from serving.api.app import create_app
from serving.api.body import parse_json
from serving.compilation.compiler import compile_model
from serving.config.settings import DatabaseSettings, Settings
from serving.contract import arrow
from serving.contract.columns import COLUMN_TYPES, MISSING, Column, to_table
from serving.data.base import Source
from serving.data.database import Database
from serving.data.files import open_source
from serving.data.sql import SqlSink, SqlSource
from serving.inference.batch import Job, run_batch
from serving.inference.kernel import Kernel
from serving.inference.stream import Limit
from serving.model.loading import load_model
from serving.model.served import ServedModel
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

COUNT = 10_000
BLOCK = 250
"""So many rows have the same Arrow types."""

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


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings that serve the mirror, which is the engine of the user's own package."""
    root = tmp_path_factory.mktemp("mirror")
    (root / "custom").mkdir()
    (root / "custom/__init__.py").write_text("")
    (root / "custom/engines.py").write_text(ENGINE)
    (root / "model").mkdir()
    (root / "model/MLmodel").write_text("flavors: {}\nmodel_id: m-mirror\n")

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "custom"]:
            del sys.modules[name]

    forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root)
        yield settings_for(root / "model", root)
    forget()


@pytest.fixture(scope="module")
def api(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as client:
        wait_until_loaded(client)
        yield client


@pytest.fixture(scope="module")
def model(settings: Settings) -> ServedModel:
    return load_model(settings)


@dataclass(frozen=True)
class Refusal:
    """A row without an answer; the column is None if the model refuses the row."""

    column: str | None


Answer = str | Refusal


def ask(api: TestClient, rows: Sequence[str]) -> list[Answer]:
    """The answers of `/predict/batch` to rows of JSON."""
    answers: list[Answer] = [Refusal("not asked")] * len(rows)
    left = list(range(len(rows)))
    while left:
        body = '{"samples": [' + ",".join(rows[index] for index in left[:50]) + "]}"
        response = api.post("/predict/batch", content=body.encode())
        if response.status_code == 200:
            for index, one in zip(left, response.json()["predictions"], strict=False):
                answers[index] = one["prediction"]
            left = left[50:]
            continue
        assert response.status_code == 422, response.text
        pointer = response.json()["errors"][0]["pointer"]
        _, _, position, *column = pointer.split("/")
        answers[left.pop(int(position))] = Refusal(column[0] if column else None)
    return answers


def ask_one(api: TestClient, row: str) -> Answer:
    """The answer of `/predict`."""
    response = api.post("/predict", content=row.encode())
    if response.status_code == 200:
        return str(response.json()["prediction"])
    assert response.status_code == 422, response.text
    pointer = str(response.json()["errors"][0]["pointer"])
    return Refusal(pointer.removeprefix("/") or None)


def through(model: ServedModel, source: Source) -> list[Answer]:
    """The answers of batch inference."""
    kernel = Kernel(model, source.schema, is_text=source.is_text)
    answers: list[Answer] = []
    for chunk in source.chunks(1_000):
        assert not chunk.malformed
        outcome = kernel.predict(chunk.rows)
        refused = {one.index: Refusal(one.column) for one in outcome.rejects}
        accepted = iter(outcome.answers["prediction"].to_pylist())
        count = chunk.rows.num_rows
        answers += [refused[n] if n in refused else next(accepted) for n in range(count)]
        assert next(accepted, None) is None
    return answers


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


def _float_json(value: float) -> str:
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
    "double": _plain(pa.float64(), FLOATS, _float_json),
    "single": Storage(
        pa.float32(),
        [float(np.float32(x)) for x in FLOATS if abs(x) < 3.5e38 or math.isinf(x)],
        _float_json,
        lambda values: pa.array(values, pa.float32()),
    ),
    "half": Storage(
        pa.float16(),
        [float(np.float16(x)) for x in FLOATS if abs(x) < 6e4 or math.isinf(x)],
        _float_json,
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


@pytest.fixture(scope="module")
def blocks() -> list[Block]:
    choose = random.Random(13)
    return [make_block(choose, random_storages(choose), BLOCK) for _ in range(COUNT // BLOCK)]


@pytest.fixture(scope="module")
def answers(api: TestClient, blocks: list[Block]) -> list[Answer]:
    """What the API answers to all rows."""
    return ask(api, [body for block in blocks for body in block.bodies])


def assert_equal(
    found: Sequence[Answer], expected: Sequence[Answer], rows: Sequence[dict[str, str]]
) -> None:
    pairs = enumerate(zip(found, expected, strict=True))
    wrong = [(index, one, other) for index, (one, other) in pairs if one != other]
    assert not wrong, f"{len(wrong)} rows, the first one is {wrong[0]} for {rows[wrong[0][0]]}"


# --- the ways in ---


def test_the_rows_show_something(answers: list[Answer]) -> None:
    refused = [one.column for one in answers if isinstance(one, Refusal)]
    assert set(refused) > {column.name for column in COLUMNS if column.type != "any"}
    assert None in refused  # by the model
    assert 0.03 * COUNT < len(refused) < 0.5 * COUNT
    assert len(set(answers)) > 0.5 * COUNT


def test_one_sample_is_answered_like_many(
    api: TestClient, blocks: list[Block], answers: list[Answer]
) -> None:
    bodies = [body for block in blocks for body in block.bodies]
    sample = random.Random(0).sample(range(COUNT), 200)
    assert [ask_one(api, bodies[index]) for index in sample] == [answers[index] for index in sample]


def test_parquet_is_equal_to_the_api(
    model: ServedModel, blocks: list[Block], answers: list[Answer], tmp_path: Path
) -> None:
    found: list[Answer] = []
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(block.table, path, row_group_size=random.Random(number).randint(40, 300))
        found += through(model, open_source(str(path)))
    assert_equal(found, answers, [row for block in blocks for row in block.rows])


_WHITESPACE = " \t\n\v\f\r"


def meaning(text: str, type_: str) -> str:
    """What a field of a CSV file stands for, as JSON: a field is text and has no type of its own.

    This is what the guide says: `2.0` is an integer, `True`, `yes` and `1` are booleans, and the
    fields of `MISSING` are missing values. What is left is a string, which the API refuses for
    other types.
    """
    trimmed = text.strip(_WHITESPACE)
    if text in MISSING:
        return "null"
    if type_ == "boolean":
        words = {"true": "1 on t true y yes", "false": "0 off f false n no"}
        for value, others in words.items():
            if trimmed.lower() in others.split():
                return value
    elif type_ in ("integer", "long"):
        if found := re.fullmatch(r"([+-]?)0*(\d+)(\.0*)?", trimmed, re.ASCII):
            return f"{found[1].strip('+')}{found[2]}"
    elif type_ in ("float", "double"):
        if trimmed in ("True", "true", "False", "false"):
            return str(int(trimmed in ("True", "true")))
        if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", trimmed, re.ASCII):
            return _float_json(float(trimmed))
    elif type_ == "any":
        if text in ("true", "false"):
            return text
        if re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", text, re.ASCII):
            if re.fullmatch(r"-?\d{1,20}", text) and -(2**63) <= int(text) < 2**63:
                return text
            # Beyond 64 bits, integers are doubles; beyond doubles, numbers are text.
            return repr(float(text)) if math.isfinite(float(text)) else json.dumps(text)
    return json.dumps(text)


@cache
def value_of(text: str, type_: str) -> object:
    """Equal for values that are the same to the API, such as `1` and `1.0` of an integer."""
    value = json.loads(text)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and type_ in ("float", "double"):
        return repr(float(value))
    return value if is_number and type_ in ("integer", "long") else (type(value), repr(value))


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


def test_csv_is_equal_to_the_api(
    api: TestClient,
    settings: Settings,
    blocks: list[Block],
    answers: list[Answer],
    tmp_path: Path,
) -> None:
    choose = random.Random(1)
    rows = [row for block in blocks for row in block.rows]
    fields = [[csv_field(choose, row.get(column.name)) for column in COLUMNS] for row in rows]
    with (tmp_path / "in.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([[column.name for column in COLUMNS], *fields])
    meant = [
        {c.name: meaning(text, c.type) for c, text in zip(COLUMNS, one, strict=True)}
        for one in fields
    ]
    # Most fields stand for the value that they were written from, and need not be asked again.
    changed = [
        index
        for index, (one, row) in enumerate(zip(meant, rows, strict=True))
        if any(
            value_of(one[c.name], c.type) != value_of(row.get(c.name, "null"), c.type)
            for c in COLUMNS
        )
    ]
    expected = list(answers)
    asked = ask(api, [as_body(meant[index]) for index in changed])
    for index, answer in zip(changed, asked, strict=True):
        expected[index] = answer
    assert 0 < len(changed) < COUNT

    job = Job(data=str(tmp_path / "in.csv"), output=str(tmp_path / "out.parquet"), limit=Limit())
    done = run_batch(settings, job)
    rejected = pq.read_table(tmp_path / "out.rejected.parquet")
    refused = dict(
        zip(
            rejected["rejected_row"].to_pylist(),
            rejected["rejected_column"].to_pylist(),
            strict=True,
        )
    )
    assert (done.rows, done.rejected) == (COUNT, len(refused))
    accepted = iter(pq.read_table(tmp_path / "out.parquet")["prediction"].to_pylist())
    found = [Refusal(refused[n]) if n in refused else next(accepted) for n in range(1, COUNT + 1)]
    assert_equal(found, expected, meant)
    # The rejected rows are there as they were.
    values = rejected.select([column.name for column in COLUMNS]).to_pylist()
    assert [list(row.values()) for row in values] == [fields[n - 1] for n in refused]


def test_a_query_is_equal_to_the_api(
    api: TestClient, model: ServedModel, postgresql: PostgreSQL
) -> None:
    choose = random.Random(2)
    kinds = {
        "boolean": FLAGS["flag"],
        **dict.fromkeys(("integer", "long"), INTS["int64"]),
        **dict.fromkeys(("float", "double"), NUMBERS["double"]),
        # PostgreSQL's text has no zero bytes.
        **dict.fromkeys(
            ("string", "any"),
            _plain(pa.string(), [text for text in STRINGS if "\x00" not in text], json.dumps),
        ),
        "binary": RAW["raw"],
        "datetime": _in_postgresql(_ticks("us", None)),
    }
    block = make_block(choose, {c.name: kinds[c.type] for c in COLUMNS}, 1_000)
    numbered = block.table.append_column("n", pa.array(range(1_000)))
    database = Database(DatabaseSettings.model_validate({"connection_uri": postgresql.uri}))
    sink = SqlSink(database, "equality", numbered.schema)
    for batch in numbered.to_batches():
        sink.write(batch)
    sink.close()
    try:
        source = SqlSource(database, "SELECT * FROM equality ORDER BY n")
        assert_equal(through(model, source), ask(api, block.bodies), block.rows)
    finally:
        with database.connect() as connection:
            connection.exec_driver_sql("DROP TABLE equality")
            connection.commit()


def _in_postgresql(storage: Storage) -> Storage:
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


# --- the arrays that engines get ---


@pytest.mark.parametrize("type_", COLUMN_TYPES)
@pytest.mark.parametrize("exact_integers", [True, False])
@pytest.mark.parametrize("has_missing", [True, False])
def test_engines_get_the_same_arrays(type_: str, exact_integers: bool, has_missing: bool) -> None:
    column = Column("a", type_, required=False)
    adapter: TypeAdapter[Any] = TypeAdapter(COLUMN_TYPES[type_].annotation, config={"strict": True})
    for storage in NATURAL[type_].values():
        given = [v for v in storage.values if is_valid(type_, storage.json(v))]
        values: list[Any] = given + [None] * has_missing
        parsed = [
            None if v is None else adapter.validate_python(json.loads(storage.json(v)))
            for v in values
        ]
        expected = to_table([[v] for v in parsed], [column], exact_integers=exact_integers)["a"]
        converted = arrow.convert(storage.array(values), column).values
        found = arrow.to_table({"a": converted}, [column], exact_integers=exact_integers)["a"]
        assert found.dtype == expected.dtype
        assert list(map(repr, found.tolist())) == list(map(repr, expected.tolist()))


# --- a real model, native and compiled ---

FLOWERS = {
    "size": "double",
    "weight": "float",
    "visits": "long",
    "wild": "boolean",
    "site": "string",
}


@pytest.fixture(scope="module")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled model of scikit-learn with numbers, text and missing values."""
    root = tmp_path_factory.mktemp("flowers")
    random_ = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "size": random_.normal(size=200),
            "weight": random_.normal(size=200).astype("float32"),
            "visits": random_.integers(0, 20, 200),
            "wild": random_.random(200) < 0.5,
            "site": random_.choice(["bog", "dune", "Über"], 200),
        }
    )
    labels = np.where(rows["size"] + rows["visits"] / 10 > 1, "yes", "no")
    numbers = [name for name in FLOWERS if name != "site"]
    columns = make_column_transformer(
        (SimpleImputer(strategy="median"), numbers),
        (OneHotEncoder(handle_unknown="ignore"), ["site"]),
    )
    fitted = make_pipeline(columns, LogisticRegression()).fit(rows, labels)
    required = {"visits", "wild"}
    mlflow.sklearn.save_model(
        fitted,
        root / "model",
        serialization_format="cloudpickle",
        signature=ModelSignature(
            Schema([ColSpec(kind, name, name in required) for name, kind in FLOWERS.items()]),
            Schema([ColSpec("string")]),
        ),
        pip_requirements=["scikit-learn"],
        input_example=rows[:1],
    )
    rows.to_csv(root / "rows.csv", index=False)
    compile_model(settings_for(root / "model", root), root / "rows.csv")
    return root


@pytest.mark.parametrize("engine", ["native", "onnx"])
def test_a_real_model_answers_files_like_requests(
    flowers: Path, tmp_path: Path, engine: Any
) -> None:
    choose = random.Random(3)
    model = load_model(settings_for(flowers / "model", flowers), engine)
    pools: dict[str, list[Any]] = {
        "size": [0.0, -0.0, 1.5, -3e3, None],
        "weight": [0.1, 1.0, -7.25, None],
        "visits": [0, 7, 19, 2**53 + 1],
        "wild": [True, False],
        "site": ["bog", "dune", "Über", "moon", "\uffff", "x" * 300, None],
    }
    rows = [{name: choose.choice(pool) for name, pool in pools.items()} for _ in range(500)]
    online: list[Any] = model.answer([model.request_schema.model_validate(row) for row in rows])
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    pd.DataFrame(rows).astype({"visits": object}).to_csv(tmp_path / "in.csv", index=False)
    for name in ("in.parquet", "in.csv"):
        job = Job(data=str(tmp_path / name), output=str(tmp_path / "out.parquet"), engine=engine)
        assert run_batch(settings_for(flowers / "model", flowers), job).engine == model.engine.name
        found = pq.read_table(tmp_path / "out.parquet").to_pylist()
        assert [one["prediction"] for one in found] == [one.prediction for one in online]
        assert [one["confidence"] for one in found] == [one.confidence for one in online]
        for label in ("no", "yes"):
            assert [one[f"probability_{label}"] for one in found] == [
                one.probabilities[label] for one in online
            ]
