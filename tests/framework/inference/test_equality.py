"""Batch inference and the API are equal: the same answers, and the same refusals by row and column.

Seeded random rows with a column of every type go through all ways in. The model's answer is the row
as the model sees it, so every difference shows.
"""

import csv
import json
import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from every_type import (
    COLUMNS,
    NATURAL,
    Block,
    as_body,
    common_storages,
    csv_field,
    float_json,
    is_valid,
    make_block,
    random_storages,
    serving_the_mirror,
)
from fastapi.testclient import TestClient
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from postgresql import PostgreSQL
from pydantic import TypeAdapter
from serving.api.app import create_app
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


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    with serving_the_mirror(tmp_path_factory.mktemp("mirror")) as settings:
        yield settings


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
            return float_json(float(trimmed))
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
    block = make_block(random.Random(2), common_storages(), 1_000)
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
