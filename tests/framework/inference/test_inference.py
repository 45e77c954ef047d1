"""Batch inference: every row in order, by the rules of the API."""

import csv
import io
import random
import sys
from collections.abc import Callable, Iterator
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import SAMPLE, settings_for
from pydantic import BaseModel
from serving.contract.columns import Column, Signature, Table
from serving.contract.schema import APISchemaGenerator
from serving.data import files
from serving.data.files import open_source
from serving.engines.base import Engine, Predictions
from serving.errors import DataError, ExtensionError, Refused, ServingError
from serving.inference import batch
from serving.inference.batch import Job, run_batch
from serving.inference.kernel import Kernel, Outcome
from serving.inference.stream import Limit
from serving.inference.summary import Summary
from serving.model.hooks import PredictionHooks, Record
from serving.model.loading import load_model
from serving.model.served import ServedModel

Predict = Callable[..., Summary]
ADDED = [
    "prediction",
    "confidence",
    "probability_setosa",
    "probability_versicolor",
    "probability_virginica",
]
QUARANTINE = Limit()


@pytest.fixture
def predict(model_directory: Path, tmp_path: Path) -> Predict:
    """Predicts a file with the irises' model: `predict("in.csv", "out.csv", **options)`."""

    def predict(data: str | Path, output: str | Path = "out.csv", **options: Any) -> Summary:
        settings = settings_for(model_directory, tmp_path)
        job = Job(data=str(tmp_path / data), output=str(tmp_path / output), **options)
        return run_batch(settings, job)

    return predict


def write(rows: pd.DataFrame | pa.Table, path: Path) -> Path:
    if isinstance(rows, pa.Table):
        pq.write_table(rows, path)
    else:
        rows.to_csv(path, index=False) if path.suffix == ".csv" else rows.to_parquet(path)
    return path


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)


def texts(path: Path) -> list[list[str]]:
    """The fields of a CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> int:
    """Chunks of 7 rows, and blocks of CSV that end within rows."""
    monkeypatch.setattr(batch, "_MOST_CHUNK_ROWS", 7)
    monkeypatch.setattr(files, "_BLOCK_BYTES", 200)
    return 7


# --- rows in, rows and predictions out ---


@pytest.mark.parametrize("source", ["in.csv", "in.parquet"])
@pytest.mark.parametrize("target", ["out/out.csv", "out.parquet"])
def test_rows_keep_their_order_and_columns(
    predict: Predict,
    irises: pd.DataFrame,
    tmp_path: Path,
    small_chunks: int,
    source: str,
    target: str,
) -> None:
    rows = irises.sample(frac=1, random_state=0).reset_index(drop=True)
    write(rows, tmp_path / source)
    assert predict(source, target).rows == 150
    answer = read(tmp_path / target)
    pd.testing.assert_frame_equal(answer[list(rows)], rows, check_dtype=False)
    assert (answer["prediction"] == rows["species"]).mean() > 0.95
    assert list(answer)[len(list(rows)) :] == ADDED


def test_the_answers_are_those_of_the_api(
    predict: Predict, model_directory: Path, irises: pd.DataFrame, tmp_path: Path
) -> None:
    model = load_model(settings_for(model_directory, tmp_path))
    write(irises, tmp_path / "in.csv")
    predict("in.csv", "out.parquet")
    answer = pd.read_parquet(tmp_path / "out.parquet")
    samples = [
        model.request_schema.model_validate(row)
        for row in irises.drop(columns="species").to_dict(orient="records")
    ]
    online: list[Any] = model.answer(samples)
    assert answer["prediction"].tolist() == [one.prediction for one in online]
    assert answer["confidence"].tolist() == pytest.approx([one.confidence for one in online])
    for label in ("setosa", "versicolor", "virginica"):
        expected = [one.probabilities[label] for one in online]
        assert answer[f"probability_{label}"].tolist() == pytest.approx(expected)


def test_every_field_of_a_csv_file_keeps_its_text(
    predict: Predict, tmp_path: Path, small_chunks: int
) -> None:
    header = [*SAMPLE, "note", 'a "quoted"\nname', ""]
    notes = ["007", " 1 ", "NA", "", "1e5", "x,y", 'say "no"', "two\nlines", "\r", "'", "é\uffff"]
    rows = [
        [f"{n:04}", "5.10", " 3.5", "+1.4", ".2", note, "1", ""] for n, note in enumerate(notes)
    ]
    with (tmp_path / "in.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    predict("in.csv", "out.csv")
    first, *others = texts(tmp_path / "out.csv")
    assert first == [*header, *ADDED]
    assert [row[: len(header)] for row in others] == rows
    assert {row[len(header)] for row in others} == {"setosa"}


def test_a_csv_file_becomes_typed_columns_by_the_types_of_the_model(
    predict: Predict, irises: pd.DataFrame, tmp_path: Path
) -> None:
    rows = irises[:3].assign(note=["007", "", "NA"], **{"plant id": ["001", "2.0", "+3"]})
    write(rows, tmp_path / "in.csv")
    predict("in.csv", "out.parquet")
    answer = pq.read_table(tmp_path / "out.parquet")
    assert answer["plant id"].type == pa.int64()
    assert answer["plant id"].to_pylist() == [1, 2, 3]
    assert answer["petal width (cm)"].type == pa.float64()
    assert answer["note"].to_pylist() == ["007", "", "NA"]  # the model does not know it


@pytest.mark.parametrize("index", ["shuffled", "filtered", "repeated", "named"])
def test_the_index_of_a_parquet_file_moves_no_answer(
    predict: Predict, irises: pd.DataFrame, tmp_path: Path, index: str
) -> None:
    rows = irises.sample(frac=1, random_state=0)
    if index == "filtered":
        rows = rows[rows["plant id"] > 40]
    if index == "repeated":
        rows.index = pd.Index([0] * len(rows))
    write(rows.set_index("plant id") if index == "named" else rows, tmp_path / "in.parquet")
    predict("in.parquet", "out.parquet")
    answer = pd.read_parquet(tmp_path / "out.parquet")
    assert set(answer) == {*rows, *ADDED}
    assert answer["plant id"].tolist() == rows["plant id"].tolist()
    assert (answer["prediction"] == rows["species"].to_numpy()).mean() > 0.95


@pytest.mark.parametrize(
    ("id_type", "measure_type"),
    [
        (pa.uint64(), pa.float32()),
        (pa.int8(), pa.float16()),
        (pa.float64(), pa.decimal128(5, 2)),
        (pa.decimal128(10, 0), pa.decimal256(40, 10)),
        (pa.dictionary(pa.int8(), pa.int64()), pa.dictionary(pa.int16(), pa.float64())),
    ],
)
def test_numbers_of_other_types_are_accepted_and_kept(
    predict: Predict,
    irises: pd.DataFrame,
    tmp_path: Path,
    id_type: pa.DataType,
    measure_type: pa.DataType,
) -> None:
    rows = pa.Table.from_pandas(irises.drop(columns="species")[:100], preserve_index=False)
    types = [id_type] + [measure_type] * 4
    columns = [_cast(one, kind) for one, kind in zip(rows.columns, types, strict=True)]
    other = pa.table(columns, names=rows.column_names)
    write(rows, tmp_path / "in.parquet")
    write(other, tmp_path / "other.parquet")
    predict("in.parquet", "out.parquet")
    predict("other.parquet", "other_out.parquet")
    out, other_out = (pq.read_table(tmp_path / n) for n in ("out.parquet", "other_out.parquet"))
    assert other_out["prediction"] == out["prediction"]
    for one in other.column_names:
        kept = other_out[one].combine_chunks()
        assert kept.to_pylist() == other[one].combine_chunks().to_pylist()


def _cast(values: pa.ChunkedArray, kind: pa.DataType) -> pa.Array:
    one = values.combine_chunks()
    if pa.types.is_dictionary(kind):
        return one.dictionary_encode().cast(kind)
    if pa.types.is_decimal(kind):
        return pa.array([Decimal(str(value)) for value in one.to_pylist()], kind)
    return pa.array(one.to_numpy().astype(np.float16)) if kind == pa.float16() else one.cast(kind)


# --- several files ---


def test_a_directory_a_pattern_and_partitions(
    predict: Predict, irises: pd.DataFrame, tmp_path: Path, small_chunks: int
) -> None:
    for part, rows in irises.groupby(irises["plant id"] // 40):
        (tmp_path / f"rows/species_id={part}").mkdir(parents=True)
        pq.write_table(
            pa.Table.from_pandas(rows), tmp_path / f"rows/species_id={part}/a.parquet", 9
        )
        write(rows, tmp_path / f"part-{part}.parquet")
    predict("rows", "of_directory.parquet")
    predict("part-*.parquet", "of_pattern.parquet")
    directory, pattern = (
        pd.read_parquet(tmp_path / f"of_{n}.parquet") for n in ("directory", "pattern")
    )
    assert directory["plant id"].tolist() == pattern["plant id"].tolist() == list(range(150))
    assert directory["species_id"].tolist() == [n // 40 for n in range(150)]
    assert list(directory)[-6:] == ["species_id", *ADDED]
    assert (pattern["prediction"] == irises["species"]).mean() > 0.95


def test_files_may_lack_columns_and_have_narrower_types(
    predict: Predict, irises: pd.DataFrame, tmp_path: Path, small_chunks: int
) -> None:
    (tmp_path / "rows").mkdir()
    first = irises[:20].assign(n=1).astype({"n": "int8"}).drop(columns="species")
    second = irises[20:40].assign(n=300, species=irises["species"].astype("category"), extra="e")
    third = irises[40:60].assign(n=None, extra=None)
    for number, rows in enumerate((first, second, third)):
        write(rows.reset_index(drop=True), tmp_path / f"rows/{number}.parquet")
    predict("rows", "out.parquet")
    answer = pd.read_parquet(tmp_path / "out.parquet")
    assert answer["plant id"].tolist() == list(range(60))
    assert answer["n"].fillna(0).tolist() == [1] * 20 + [300] * 20 + [0] * 20
    assert answer["species"].isna().tolist() == [True] * 20 + [False] * 40
    assert answer["extra"].fillna("").tolist() == [""] * 20 + ["e"] * 20 + [""] * 20


def test_files_with_types_that_do_not_fit_are_refused(
    predict: Predict, irises: pd.DataFrame, tmp_path: Path
) -> None:
    (tmp_path / "rows").mkdir()
    write(irises[:20], tmp_path / "rows/a.parquet")
    write(irises[20:].astype({"plant id": str}), tmp_path / "rows/b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet: is not like .*plant id.*int64 vs .*string"):
        predict("rows")
    write(irises[:20].assign(b=b"AAAA"), tmp_path / "rows/a.parquet")
    write(irises[20:].assign(b="AAAA"), tmp_path / "rows/b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet: the column 'b' is of the type .*string, in"):
        predict("rows")
    assert not (tmp_path / "out.csv").exists()


# --- files that cannot be used ---


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("plant id,a,a\n1,2,3\n", "the column 'a' appears twice"),
        ("plant id;sepal length (cm)\n1;2\n", "the columns are separated by semicolons"),
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        (",".join(SAMPLE) + "\n", "has no rows"),
        (",".join(SAMPLE), "has no rows"),
        ('"plant id,a\n', "has no column 'plant id'"),
    ],
)
def test_a_csv_file_that_would_be_misread_is_refused(
    predict: Predict, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "in.csv").write_text(content)
    with pytest.raises(DataError, match=message) as error:
        predict("in.csv")
    assert str(error.value).startswith(str(tmp_path / "in.csv"))
    assert not (tmp_path / "out.csv").exists()


def test_a_byte_order_mark_and_blank_lines_are_skipped(
    predict: Predict, irises: pd.DataFrame, tmp_path: Path
) -> None:
    text = irises[:2].to_csv(index=False).replace("\n", "\r\n\r\n")
    (tmp_path / "in.csv").write_bytes(b"\xef\xbb\xbf\r\n" + text.encode())
    assert predict("in.csv").rows == 2


@pytest.mark.parametrize("where", ["header", "rows"])
def test_text_that_is_not_utf_8_is_refused(
    predict: Predict, irises: pd.DataFrame, tmp_path: Path, where: str
) -> None:
    rows = irises.assign(**{"é" if where == "header" else "e": "é"})
    (tmp_path / "in.csv").write_text(rows.to_csv(index=False), encoding="latin-1")
    with pytest.raises(DataError, match=r"in\.csv: not UTF-8 text; save it as CSV in UTF-8"):
        predict("in.csv")


def test_a_csv_file_with_a_zero_byte_is_refused(
    predict: Predict, irises: pd.DataFrame, tmp_path: Path
) -> None:
    # Arrow would divide the rows after it wrongly: https://github.com/apache/arrow/issues/50481
    write(irises.assign(note="a note\0,", other="of some length"), tmp_path / "in.csv")
    with pytest.raises(DataError, match=r"in\.csv: has a zero byte, which CSV files may not have"):
        predict("in.csv")


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_row_that_is_longer_than_a_block_is_refused(
    predict: Predict, irises: pd.DataFrame, tmp_path: Path, small_chunks: int, quote: str
) -> None:
    text = irises.to_csv(index=False).replace("versicolor", f"{quote}{'x' * 300}", 1)
    (tmp_path / "in.csv").write_text(text)
    with pytest.raises(DataError, match="a row has more than 512 KB, or a quoted field has no end"):
        predict("in.csv")


@pytest.mark.parametrize("column", SAMPLE)
@pytest.mark.parametrize("source", ["in.csv", "in.parquet"])
def test_a_missing_column_is_named(
    predict: Predict, irises: pd.DataFrame, tmp_path: Path, column: str, source: str
) -> None:
    write(irises.drop(columns=column), tmp_path / source)
    with pytest.raises(DataError, match="which the model needs") as error:
        predict(source)
    assert f"{source}: has no column '{column}'" in str(error.value)


@pytest.mark.parametrize("name", ADDED)
def test_a_column_that_would_be_there_twice_is_refused(
    predict: Predict, irises: pd.DataFrame, tmp_path: Path, name: str
) -> None:
    write(irises.assign(**{name: "mine"}), tmp_path / "in.csv")
    with pytest.raises(DataError, match=f"in.csv: there already is a column '{name}'; rename it"):
        predict("in.csv")


def test_a_rejected_file_has_to_lose_its_reasons_before_it_is_predicted(
    predict: Predict, irises: pd.DataFrame, tmp_path: Path
) -> None:
    write(irises.assign(rejected_row=1), tmp_path / "in.csv")
    assert predict("in.csv").rows == 150
    with pytest.raises(DataError, match="there already is a column 'rejected_row'"):
        predict("in.csv", limit=QUARANTINE)


@pytest.mark.parametrize(
    "name", ["in.txt", "in.xlsx", "nowhere.csv", "broken.parquet", "none-*.parquet", "nothing"]
)
def test_a_file_that_cannot_be_read_is_named(predict: Predict, tmp_path: Path, name: str) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError) as error:
        predict(name)
    assert name in str(error.value)


@pytest.mark.parametrize("name", ["rows", "rows/*"])
def test_several_csv_files_are_refused(predict: Predict, tmp_path: Path, name: str) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows/1.CSV").write_text("plant id\n")
    with pytest.raises(DataError, match=r"has CSV files, but only Parquet files are read together"):
        predict(name)


def test_a_parquet_file_with_a_column_twice_is_refused(predict: Predict, tmp_path: Path) -> None:
    write(pa.table([[1], [2]], names=["plant id", "plant id"]), tmp_path / "in.parquet")
    with pytest.raises(DataError, match=r"in\.parquet: .*duplicate|appears twice"):
        predict("in.parquet")


def test_a_parquet_file_without_rows_is_refused(
    predict: Predict, irises: pd.DataFrame, tmp_path: Path
) -> None:
    write(irises[:0], tmp_path / "in.parquet")
    with pytest.raises(DataError, match=r"in\.parquet: has no rows"):
        predict("in.parquet")


def test_the_source_is_not_overwritten(
    predict: Predict, irises: pd.DataFrame, tmp_path: Path
) -> None:
    write(irises, tmp_path / "in.csv")
    (tmp_path / "sub").mkdir()
    for name in ("in.csv", "sub/../in.csv"):
        with pytest.raises(DataError, match="is the input file"):
            predict("in.csv", name)
        with pytest.raises(DataError, match="is the input file"):
            predict("in.csv", "out.csv", limit=QUARANTINE, rejected=str(tmp_path / name))
    with pytest.raises(DataError, match="is the output; name another file for wrong rows"):
        predict("in.csv", "out.csv", limit=QUARANTINE, rejected=str(tmp_path / "out.csv"))
    assert len(read(tmp_path / "in.csv")) == 150


def test_a_place_that_cannot_be_written_is_named(
    predict: Predict, irises: pd.DataFrame, tmp_path: Path
) -> None:
    write(irises, tmp_path / "in.csv")
    with pytest.raises(DataError, match=r"in\.csv/out\.csv: cannot be written"):
        predict("in.csv", "in.csv/out.csv")


# --- wrong rows ---


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("petal width (cm)", "wide", "row 3: column 'petal width (cm)': must be a finite number"),
        ("petal width (cm)", None, "row 3: column 'petal width (cm)': a value is required"),
        ("plant id", "1.7", "row 3: column 'plant id': must be a 64-bit integer, is '1.7'"),
    ],
)
@pytest.mark.parametrize("source", ["in.csv", "in.parquet"])
def test_a_wrong_value_is_named_and_nothing_is_written(
    predict: Predict,
    irises: pd.DataFrame,
    tmp_path: Path,
    column: str,
    value: str | None,
    message: str,
    source: str,
) -> None:
    rows = irises.astype({column: object})
    rows.loc[2, column] = value
    if value and source == "in.parquet":
        rows[column] = rows[column].astype(str)
        message = message.replace("row 3", "row 1").partition(", is ")[0]
    write(rows, tmp_path / source)
    (tmp_path / "out.csv").write_text("of an earlier run")
    with pytest.raises(DataError) as error:
        predict(source)
    assert f"{source}: {message}" in str(error.value)
    assert (tmp_path / "out.csv").read_text() == "of an earlier run"
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".db") == [
        source,
        "out.csv",
    ]


def test_a_date_that_python_does_not_have_is_named(tmp_path: Path) -> None:
    kernel = Kernel(
        small(inputs=[Column("a", "datetime")]), pa.schema([("a", TIME)]), is_text=False
    )
    outcome = kernel.predict(pa.record_batch({"a": pa.array([10**12], TIME)}))
    assert [str(one) for one in outcome.rejects] == [
        "column 'a': must be an RFC 3339 date-time or a date, "
        "is '1000000000000 of timestamp[s, tz=UTC]'"
    ]


TIME = pa.timestamp("s", "UTC")


def wrong_rows(count: int) -> tuple[str, dict[int, tuple[str, str]], dict[int, str]]:
    """A CSV file whose rows are wrong in several ways.

    Returns the text, column and rule of each wrong row by its number, and the text of malformed
    rows by their number.
    """
    choose = random.Random(0)
    names = [*SAMPLE, "note"]
    wrong: dict[int, tuple[str, str]] = {}
    malformed: dict[int, str] = {}
    lines = [",".join(names)]
    for number in range(1, count + 1):
        fields = [
            str(number),
            "5.1",
            "3.5",
            "1.4",
            "0.2",
            choose.choice(["", '"a\n\nb"', '"a""b"']),
        ]
        match choose.randrange(10):
            case 0:
                fields[0] = choose.choice(["x", "1.7", "9223372036854775808"])
                wrong[number] = ("plant id", "must be a 64-bit integer")
            case 1:
                fields[3] = choose.choice(["", "NA"])
                wrong[number] = ("petal length (cm)", "a value is required")
            case 2 | 3:
                fields = choose.choice([fields[:-1], [*fields, ""], ["x"], [",,,,,,,"]])
                malformed[number] = ",".join(fields)
        lines += [",".join(fields)] + [""] * choose.randrange(2)
    return "\n".join(lines) + "\n", wrong, malformed


@pytest.mark.parametrize("target", ["out.csv", "out.parquet"])
def test_wrong_rows_are_set_aside_with_their_numbers(
    predict: Predict, tmp_path: Path, small_chunks: int, target: str
) -> None:
    text, wrong, malformed = wrong_rows(300)
    (tmp_path / "in.csv").write_text(text)
    done = predict("in.csv", target, limit=QUARANTINE)
    assert done.rows == 300
    assert done.rejected == len(wrong) + len(malformed) > 80
    rejected_path = tmp_path / target.replace("out.", "out.rejected.")
    assert done.rejected_output == str(rejected_path)
    if target == "out.csv":
        rejected = pd.read_csv(rejected_path, dtype=str, keep_default_na=False)
    else:
        rejected = pd.read_parquet(rejected_path).astype(object).fillna("").astype(str)
    names = [*SAMPLE, "note"]
    reasons = ["rejected_row", "rejected_column", "rejected_rule", "rejected_line"]
    assert list(rejected) == [*reasons, *names]
    assert rejected["rejected_row"].tolist() == [str(n) for n in sorted(wrong | malformed)]
    rows = {int(row[0]): row[1:] for row in rejected.to_numpy().tolist()}
    for number, (column, rule) in wrong.items():
        assert rows[number][:3] == [column, rule, ""]
        assert rows[number][3 + names.index("sepal length (cm)")] == "5.1"
    for number, line in malformed.items():
        count = len(next(csv.reader(io.StringIO(line, newline=""))))
        assert rows[number] == ["", f"has {count} fields, the header has 6", line, *[""] * 6]
    ids = [n for n in range(1, 301) if n not in wrong | malformed]
    assert read(tmp_path / target)["plant id"].tolist() == ids


def test_without_wrong_rows_an_earlier_file_of_rejected_rows_is_removed(
    predict: Predict, irises: pd.DataFrame, tmp_path: Path
) -> None:
    write(irises, tmp_path / "in.csv")
    (tmp_path / "out.rejected.csv").write_text("of an earlier run")
    done = predict("in.csv", limit=QUARANTINE)
    assert (done.rejected, done.rejected_output) == (0, None)
    assert not (tmp_path / "out.rejected.csv").exists()


def test_the_rejected_rows_of_a_parquet_file_keep_their_types(
    predict: Predict, irises: pd.DataFrame, tmp_path: Path, small_chunks: int
) -> None:
    rows = irises.assign(tag=pd.Series([["a"]] * 150), species=irises["species"].astype("category"))
    rows.loc[[3, 140], "petal width (cm)"] = np.inf
    write(rows, tmp_path / "in.parquet")
    done = predict("in.parquet", "out.csv", limit=QUARANTINE, rejected=str(tmp_path / "r.parquet"))
    assert done.rejected == 2
    rejected = pq.read_table(tmp_path / "r.parquet")
    assert rejected["rejected_row"].to_pylist() == [4, 141]
    assert rejected["tag"].type == pa.list_(pa.string())
    assert rejected["species"].to_pylist() == ["setosa", "virginica"]
    assert pd.read_csv(tmp_path / "out.csv")["tag"].tolist() == ['["a"]'] * 148


def test_rows_that_are_all_wrong_are_all_set_aside(
    predict: Predict, tmp_path: Path, small_chunks: int
) -> None:
    (tmp_path / "in.csv").write_text(",".join(SAMPLE) + "\n" + "1,2\n" * 1_000)
    source = open_source(str(tmp_path / "in.csv"))
    chunks = list(source.chunks(small_chunks))
    assert {len(chunk.malformed) for chunk in chunks[:-1]} == {7}  # memory stays bounded
    assert predict("in.csv", "out.parquet", limit=QUARANTINE).rejected == 1_000
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0
    with pytest.raises(DataError, match=r"in\.csv: row 1: has 2 fields, the header has 5"):
        predict("in.csv")


def test_chunks_that_are_left_out_are_the_same_ones(tmp_path: Path, small_chunks: int) -> None:
    (tmp_path / "in.csv").write_text(wrong_rows(100)[0])
    source = open_source(str(tmp_path / "in.csv"))
    chunks = list(source.chunks(small_chunks))
    for skip in (*range(len(chunks) + 2), 50):
        left = list(source.chunks(small_chunks, skip))
        assert [one.index for one in left] == [one.index for one in chunks[skip:]]
        assert [one.rows for one in left] == [one.rows for one in chunks[skip:]]
        assert [one.malformed for one in left] == [one.malformed for one in chunks[skip:]]
        assert [one.numbers.tolist() for one in left] == [
            one.numbers.tolist() for one in chunks[skip:]
        ]


@pytest.mark.parametrize(
    ("limit", "is_enough"),
    [
        (Limit(rows=10), True),
        (Limit(rows=9), False),
        (Limit(share=0.1), True),
        (Limit(share=0.099), False),
    ],
)
def test_so_many_rows_may_be_wrong(
    predict: Predict,
    irises: pd.DataFrame,
    tmp_path: Path,
    small_chunks: int,
    limit: Limit,
    is_enough: bool,
) -> None:
    rows = irises[:100].copy()
    rows.loc[rows.index % 10 == 3, "petal width (cm)"] = np.nan
    write(rows, tmp_path / "in.csv")
    if is_enough:
        assert predict("in.csv", limit=limit).rejected == 10
        assert len(read(tmp_path / "out.csv")) == 90
        return
    with pytest.raises(DataError, match=f"more than {limit}"):
        predict("in.csv", limit=limit)
    assert not list(tmp_path.glob("*out*"))


# --- models of all kinds ---


class Small(Engine):
    """An engine whose answers come from a function."""

    name = "small"

    def __init__(self, answer: Callable[[Table], Predictions], classes: tuple[Any, ...]) -> None:
        self._answer = answer
        self.classes = classes

    def predict(self, table: Table) -> Predictions:
        return self._answer(table)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "estimator": "Small"}


def doubled(table: Table) -> Predictions:
    return Predictions(np.asarray(table["x"]) * 2)


X = Column("x", "double")
ROWS = pa.record_batch({"x": [1.0, -2.0, 3.0, -4.0, 5.0]})


def small(
    answer: Callable[[Table], Predictions] = doubled,
    *,
    inputs: list[Column] | None = None,
    outputs: tuple[Column, ...] = (),
    classes: tuple[Any, ...] = (),
    example: dict[str, Any] | None = None,
    hooks: PredictionHooks | None = None,
    recipe: dict[str, Any] | None = None,
) -> ServedModel:
    signature = Signature(tuple(inputs or [X]), outputs)
    return ServedModel(
        uri="small",
        path=Path(),
        model_id="small",
        run_id=None,
        version=None,
        engine=Small(answer, classes),
        hooks=hooks,
        schemas=APISchemaGenerator(
            recipe,
            None if recipe else signature,
            example=example,
            classes=classes,
            request_fields=hooks.request_fields if hooks else None,
            response_fields=hooks.response_fields if hooks else None,
        ),
    )


def outcome_of(model: ServedModel, rows: pa.RecordBatch = ROWS) -> Outcome:
    kernel = Kernel(model, rows.schema, is_text=False)
    outcome = kernel.predict(rows)
    assert outcome.answers.schema.names == kernel.schema.names
    return outcome


def added(outcome: Outcome) -> dict[str, list[Any]]:
    """The columns of the answers, without those of the rows."""
    return {name: values for name, values in outcome.answers.to_pydict().items() if name != "x"}


def test_a_model_that_refuses_rows_loses_only_those() -> None:
    def refusing(table: Table) -> Predictions:
        if (table["x"] < 0).any():
            raise ValueError("x is negative\nmore")
        return doubled(table)

    outcome = outcome_of(small(refusing, outputs=(Column("", "double"),), example={"x": 1.0}))
    assert added(outcome) == {"prediction": [2.0, 6.0, 10.0]}
    assert outcome.answers["x"].to_pylist() == [1.0, 3.0, 5.0]
    assert [(one.index, one.column, one.rule) for one in outcome.rejects] == [
        (index, None, "the model cannot predict from these values: x is negative")
        for index in (1, 3)
    ]


def test_a_model_that_knows_which_rows_it_refuses() -> None:
    def refusing(table: Table) -> Predictions:
        return Predictions(table["x"] * 2, refused=table["x"] < 0)

    model = small(refusing, outputs=(Column("", "double"),))
    outcome = outcome_of(model)
    assert added(outcome) == {"prediction": [2.0, 6.0, 10.0]}
    assert [(one.index, one.rule) for one in outcome.rejects] == [
        (index, "the model cannot predict from these values") for index in (1, 3)
    ]
    wrong = pa.record_batch({"x": [-1.0, None, -3.0]})
    assert [one.column for one in outcome_of(model, wrong).rejects] == [None, "x", None]


def test_irises_that_are_all_refused_are_all_rejected(
    model_directory: Path, tmp_path: Path
) -> None:
    model = load_model(settings_for(model_directory, tmp_path), "native")
    huge = {name: [1.7e308] * 3 for name in SAMPLE} | {"plant id": [1, 2, 3]}
    kernel = Kernel(model, pa.RecordBatch.from_pydict(huge).schema, is_text=False)
    outcome = kernel.predict(pa.RecordBatch.from_pydict(huge))
    assert len(outcome.rejects) == 3
    assert outcome.answers.num_rows == 0


def test_a_model_that_fails_on_its_example_too_ends_the_run() -> None:
    def failing(table: Table) -> Predictions:
        raise ValueError("out of order")

    model = small(failing, outputs=(Column("", "double"),), example={"x": 1.0})
    with pytest.raises(ServingError, match="the model failed: out of order"):
        outcome_of(model)


@pytest.mark.parametrize("error", [RuntimeError("gone"), KeyError("x"), IndexError()])
def test_a_model_that_fails_ends_the_run(error: Exception) -> None:
    def failing(table: Table) -> Predictions:
        raise error

    with pytest.raises(ServingError, match="the model failed: "):
        outcome_of(small(failing, outputs=(Column("", "double"),)))


def test_a_model_that_leaves_rows_out_ends_the_run() -> None:
    model = small(lambda table: Predictions(table["x"][1:]), outputs=(Column("", "double"),))
    with pytest.raises(ServingError, match="the model did not answer every row"):
        outcome_of(model)


@pytest.mark.parametrize(
    ("type_", "values", "found"),
    [
        ("double", np.array([1.5, np.nan, np.inf]), [1.5, None, None]),
        ("float", np.array([1.5, np.nan, 2], np.float32), [1.5, None, 2.0]),
        ("long", np.array([1.0, np.nan, 3.0]), [1, None, 3]),
        ("integer", np.array([1, 2, 2**40]), [1, 2, 2**40]),
        ("boolean", np.array([True, False, True]), [True, False, True]),
        ("string", np.array(["a", "é", ""]), ["a", "é", ""]),
        ("string", np.array(["a", "b", "c"], dtype=object), ["a", "b", "c"]),
        ("binary", np.array([b"a", b"\x00", b""], dtype=object), [b"a", b"\x00", b""]),
        (
            "datetime",
            np.array(["2026-01-01T00:00:00.123456789", "NaT", "1969-12-31"], "datetime64[ns]"),
            [datetime(2026, 1, 1, 0, 0, 0, 123456), None, datetime(1969, 12, 31)],
        ),
        (
            "any",
            np.array(["a", 1, [1.5, None]], dtype=object),
            ["a", "1", "[1.5, null]"],
        ),
        ("any", np.array(["a", b"a", date(2026, 1, 1)], dtype=object), ["a", "YQ==", "2026-01-01"]),
        ("any", np.array([1.5, np.nan, np.inf]), ["1.5", None, None]),
    ],
)
def test_predictions_have_the_type_of_the_output(
    type_: str, values: np.ndarray, found: list[Any]
) -> None:
    model = small(lambda _: Predictions(values), outputs=(Column("", type_),))
    assert added(outcome_of(model, ROWS[:3])) == {"prediction": found}


@pytest.mark.parametrize(
    ("type_", "values"),
    [
        ("double", np.array(["a", "b", "c"])),
        ("long", np.array([1.5, 2.0, 3.0])),
        ("long", np.array([1, 2, 2**70], dtype=object)),
        ("string", np.array([1, 2, 3])),
        ("double", np.array([[1, 2, 3]] * 3)),
    ],
)
def test_an_answer_of_another_type_ends_the_run(type_: str, values: np.ndarray) -> None:
    model = small(lambda _: Predictions(values), outputs=(Column("", type_),))
    with pytest.raises(ServingError, match="signature"):
        outcome_of(model, ROWS[:3])


@pytest.mark.parametrize("names", [("low", "high"), ("", "")])
def test_each_of_several_outputs_is_a_column(names: tuple[str, str]) -> None:
    def both(table: Table) -> Predictions:
        return Predictions(np.stack([table["x"] - 1, table["x"] + 1], axis=1))

    model = small(both, outputs=(Column(names[0], "double"), Column(names[1], "double")))
    first, second = (f"prediction_{name or index}" for index, name in enumerate(names))
    assert added(outcome_of(model, ROWS[:2])) == {first: [0.0, -3.0], second: [2.0, -1.0]}


def test_the_type_of_an_unknown_output_comes_from_the_example() -> None:
    assert added(outcome_of(small(example={"x": 1.0})))["prediction"] == [2, -4, 6, -8, 10]
    several = small(lambda t: Predictions(np.stack([t["x"], t["x"]], axis=1)), example={"x": 1.0})
    assert list(added(outcome_of(several))) == ["prediction_0", "prediction_1"]
    assert added(outcome_of(small()))["prediction"] == ["2.0", "-4.0", "6.0", "-8.0", "10.0"]


def test_without_a_signature_values_of_all_types_are_passed_on() -> None:
    seen: list[Any] = []

    def look(table: Table) -> Predictions:
        seen.extend(table["x"].tolist())
        return Predictions(np.zeros(len(table["x"])))

    interface = {"target_column": "y", "feature_columns": ["x"]}
    recipe = {
        "name": "any",
        "task_choice": "regression",
        "data": {"data_interface": interface},
        "model": {"class_path": "a.B"},
    }
    model = small(look, recipe=recipe)
    values = [["a", None], [True, False], [1, 2**62], [0.5, None]]
    for given in values:
        assert not outcome_of(model, pa.record_batch({"x": given})).rejects
    kernel = Kernel(model, pa.schema([("x", pa.string())]), is_text=True)
    kernel.predict(pa.record_batch({"x": ["a", "true", "1", "0.5", "007", "NA"]}))
    expected = ["a", None, True, False, 1, 2**62, 0.5, None, "a", True, 1, 0.5, "007", None]
    assert [None if value != value else value for value in seen] == expected
    assert [type(value) for value in seen[8:12]] == [str, bool, int, float]
    for wrong in (pa.array([np.inf]), pa.array([datetime(2026, 1, 1)]), pa.array([[1]])):
        [reject] = outcome_of(model, pa.record_batch({"x": wrong})).rejects
        assert reject.rule == "must be a string, a number, a boolean or null"


@pytest.mark.parametrize(
    ("labels", "type_"), [((False, True), "boolean"), ((3, 7), "long"), (("a", "b"), "string")]
)
@pytest.mark.parametrize("knows_positions", [True, False])
def test_labels_of_every_type_have_probabilities(
    labels: tuple[Any, Any], type_: str, knows_positions: bool
) -> None:
    def classify(table: Table) -> Predictions:
        positions = (table["x"] > 0).astype(np.int64)
        table_ = np.where(positions[:, None] == [0, 1], 0.75, 0.25)
        values = np.array(labels, dtype=object)[positions]
        return Predictions(values, table_, labels, positions=positions if knows_positions else None)

    model = small(classify, outputs=(Column("", type_),), classes=labels)
    assert added(outcome_of(model, ROWS[:2])) == {
        "prediction": [labels[1], labels[0]],
        "confidence": [0.75, 0.75],
        f"probability_{str(labels[0]).lower()}": [0.25, 0.75],
        f"probability_{str(labels[1]).lower()}": [0.75, 0.25],
    }


# --- the user's hooks ---


class Further(BaseModel):
    note: str = "none"
    seen: int | None = None
    tags: list[str] = []
    at: datetime | None = None


class Asked(BaseModel):
    station: str
    scale: float = 1.0


def hooks_of(
    before: Callable[..., Any] | None = None,
    after: Callable[..., Any] | None = None,
    request_fields: type[BaseModel] | None = None,
    response_fields: type[BaseModel] | None = None,
) -> PredictionHooks:
    from serving.config.settings import Settings

    return PredictionHooks(Settings(), request_fields, response_fields, before, after)


def test_hooks_have_fields_of_their_own() -> None:
    def after(answers: list[Record], rows: list[Record], _: object) -> list[Record]:
        own = {"seen": 7, "tags": ["é"], "at": datetime(2026, 1, 1), "unknown": 1}
        return [
            answer | own | {"note": f"{row['station']} {row['scale']}"}
            for answer, row in zip(answers, rows, strict=True)
        ]

    hooks = hooks_of(None, after, Asked, Further)
    model = small(outputs=(Column("", "double"),), hooks=hooks)
    rows = pa.record_batch(
        {"x": [1.0, 2.0, 3.0], "station": ["007", "b", None], "scale": [2, None, 1]}
    )
    outcome = outcome_of(model, rows)
    assert outcome.answers.schema.names[3:] == ["prediction", "note", "seen", "tags", "at"]
    assert outcome.answers.to_pylist()[0] == {
        **{"x": 1.0, "station": "007", "scale": 2, "prediction": 2.0},
        **{"note": "007 2.0", "seen": 7, "tags": '["é"]', "at": datetime(2026, 1, 1)},
    }
    assert outcome.answers["note"].to_pylist() == ["007 2.0", "b 1.0"]
    [reject] = outcome.rejects
    assert (reject.index, reject.column) == (2, None)
    assert "station" in reject.rule

    text = pa.record_batch({"x": ["1", "2"], "station": ["007", "b"], "scale": ["2", "NA"]})
    answers = Kernel(model, text.schema, is_text=True).predict(text).answers
    assert answers["note"].to_pylist() == ["007 2.0", "b 1.0"]
    typed = pa.record_batch({"x": [1.0], "station": ["007"], "scale": ["2"]})
    assert len(outcome_of(model, typed).rejects) == 1  # as in a request, "2" is not a number


def test_a_hook_that_refuses_a_row_sees_the_others_unchanged() -> None:
    def before(rows: list[Record], _: object) -> list[Record]:
        for row in rows:
            row["x"] *= 10
        if any(row["x"] < 0 for row in rows):
            raise Refused("x must be positive", status=400)
        return rows

    outcome = outcome_of(small(outputs=(Column("", "double"),), hooks=hooks_of(before)))
    assert added(outcome) == {"prediction": [20.0, 60.0, 100.0]}
    assert [(one.index, one.rule) for one in outcome.rejects] == [
        (1, "x must be positive"),
        (3, "x must be positive"),
    ]


def test_hooks_see_the_values_of_a_request() -> None:
    seen: list[Record] = []

    def before(rows: list[Record], _: object) -> list[Record]:
        seen.extend(rows)
        return rows

    inputs = [X, Column("f", "float"), Column("t", "datetime"), Column("n", "integer", False)]
    model = small(inputs=inputs, outputs=(Column("", "double"),), hooks=hooks_of(before))
    sample = {"x": 1, "f": 0.1, "t": "2026-01-01T09:00:00+09:00", "n": None}
    model.answer([model.request_schema.model_validate(sample)])
    outcome_of(model, pa.record_batch({"x": [1], "f": [0.1], "t": [sample["t"]]}))
    text = pa.record_batch({"x": ["1"], "f": ["0.1"], "t": [sample["t"]], "n": ["NA"]})
    Kernel(model, text.schema, is_text=True).predict(text)
    assert seen[0] == seen[1] == seen[2]
    assert [type(one["x"]) for one in seen] == [float] * 3


def test_a_model_behind_hooks_refuses_rows_as_without_them() -> None:
    def refusing(table: Table) -> Predictions:
        if (table["x"] == -2).any():
            raise ValueError("is -2")
        return Predictions(table["x"] * 2, refused=table["x"] == -4)

    output = (Column("", "double"),)
    plain = outcome_of(small(refusing, outputs=output, example={"x": 1.0}))
    hooked = outcome_of(small(refusing, outputs=output, example={"x": 1.0}, hooks=hooks_of()))
    assert plain.answers == hooked.answers
    assert plain.rejects == hooked.rejects
    assert [one.index for one in plain.rejects] == [1, 3]


@pytest.mark.parametrize("type_", ["double", "any", "string", "boolean", "datetime", "binary"])
def test_answers_look_the_same_behind_hooks(type_: str) -> None:
    values: dict[str, list[Any]] = {
        "double": [1.5, np.nan],
        "any": ["a", 1],
        "string": ["a", "1"],
        "boolean": [True, False],
        "datetime": [np.datetime64("2026-01-01"), np.datetime64("2026-01-02")],
        "binary": [b"a", b""],
    }
    array = np.array(values[type_], dtype=object if type_ in ("any", "binary") else None)
    output = (Column("", type_),)
    both = [
        outcome_of(small(lambda _: Predictions(array), outputs=output, hooks=hooks), ROWS[:2])
        for hooks in (None, hooks_of())
    ]
    assert both[0].answers == both[1].answers


def test_several_outputs_and_probabilities_pass_through_hooks() -> None:
    def both(table: Table) -> Predictions:
        return Predictions(np.stack([table["x"], -table["x"]], axis=1))

    def classify(table: Table) -> Predictions:
        labels = np.where(table["x"] > 0, "a_b", "c")
        return Predictions(
            labels, np.where(table["x"] > 0, [[0.9], [0.1]], [[0.2], [0.8]]).T, ("a_b", "c")
        )

    for names in (("low", "high"), ("", "")):
        outputs = tuple(Column(name, "double") for name in names)
        plain, hooked = (
            outcome_of(small(both, outputs=outputs, hooks=h)) for h in (None, hooks_of())
        )
        assert plain.answers == hooked.answers
    label = (Column("", "string"),)
    plain, hooked = (
        outcome_of(small(classify, outputs=label, classes=("a_b", "c"), hooks=hooks))
        for hooks in (None, hooks_of())
    )
    assert plain.answers == hooked.answers
    assert plain.answers.schema.names[1:] == [*ADDED[:2], "probability_a_b", "probability_c"]


def test_an_answer_of_a_hook_that_breaks_the_contract_ends_the_run() -> None:
    def after(answers: list[Record], rows: list[Record], _: object) -> list[Record]:
        return [answer | {"prediction": "many"} for answer in answers]

    model = small(outputs=(Column("", "double"),), hooks=hooks_of(None, after))
    with pytest.raises(ServingError, match=r"an answer of the hooks: .*prediction"):
        outcome_of(model)


def test_a_field_with_the_name_of_a_column_of_answers_is_refused() -> None:
    class Own(BaseModel):
        probability_a: float = 0

    def classify(table: Table) -> Predictions:
        return Predictions(np.array(["a"]), np.array([[1.0]]), ("a",))

    model = small(
        classify,
        outputs=(Column("", "string"),),
        classes=("a",),
        hooks=hooks_of(None, None, None, Own),
    )
    with pytest.raises(ExtensionError, match="a column 'probability_a'; rename yours"):
        outcome_of(model)


@pytest.fixture
def custom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of the user's hooks."""
    package = tmp_path / "own" / "custom"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")

    def forget() -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "custom"]:
            del sys.modules[name]

    forget()
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.chdir(package.parent)
    yield package / "prediction.py"
    forget()


def test_hooks_of_a_project_apply_to_files(
    predict: Predict, irises: pd.DataFrame, tmp_path: Path, custom: Path
) -> None:
    custom.write_text(
        dedent("""
        from pydantic import BaseModel
        from serving.errors import Refused

        class RequestFields(BaseModel):
            station: str
            scale: float = 1.0

        class ResponseFields(BaseModel):
            note: str = "none"

        def before_predict(rows, context):
            if any(row["station"] == "closed" for row in rows):
                raise Refused("the station is closed")
            return rows

        def after_predict(answers, rows, context):
            return [a | {"note": f"{r['station']} {r['scale']}"} for a, r in zip(answers, rows)]
        """)
    )
    write(
        irises[:3].assign(station=["007", "closed", "x"], scale=["2", "", ""]), tmp_path / "in.csv"
    )
    assert predict("in.csv", limit=QUARANTINE).rejected == 1
    answer = pd.read_csv(tmp_path / "out.csv")
    assert answer["note"].tolist() == ["007 2.0", "x 1.0"]
    assert list(answer)[-1] == "note"
    assert answer["prediction"].tolist() == ["setosa"] * 2
    rejected = pd.read_csv(tmp_path / "out.rejected.csv")
    assert rejected["rejected_rule"].tolist() == ["the station is closed"]
    custom.write_text("def before_predict(rows, context):\n    raise KeyError('boom')\n")
    sys.modules.pop("custom.prediction")
    with pytest.raises(ServingError, match=r"custom/prediction\.py:2: .*'boom'"):
        predict("in.csv")


# --- files made to break it ---


def test_ten_thousand_columns(predict: Predict, irises: pd.DataFrame, tmp_path: Path) -> None:
    more = pd.DataFrame({f"c{n}": [str(n)] * 3 for n in range(10_000)})
    write(irises[:3].join(more), tmp_path / "in.csv")
    predict("in.csv", "out.parquet")
    assert pq.read_schema(tmp_path / "out.parquet").names[-6:] == ["c9999", *ADDED]
    write(more, tmp_path / "in.csv")
    with pytest.raises(DataError, match=r"has no column 'plant id'.* and 9,950 more") as error:
        predict("in.csv")
    assert len(str(error.value)) < 1_000


def test_columns_that_the_model_does_not_know_may_be_of_any_type(
    predict: Predict, irises: pd.DataFrame, tmp_path: Path, small_chunks: int
) -> None:
    rows = pa.Table.from_pandas(irises, preserve_index=False)
    others = {
        'a "name"\n, odd': pa.array([{"a": [1, None]}] * 150),
        "": pa.nulls(150),
        "bytes": pa.array([b"\x00"] * 150, pa.binary(1)),
        "large": pa.array(["x"] * 150, pa.large_string()),
        "view": pa.array(["x"] * 150, pa.string_view()),
        "duration": pa.array([1] * 150, pa.duration("s")),
        "decimal": pa.array([Decimal("1.50")] * 150),
        "half": pa.array(np.ones(150, np.float16)),
        "map": pa.array([[("a", 1)]] * 150, pa.map_(pa.string(), pa.int64())),
        "category": pa.array(["x", "y", None] * 50).dictionary_encode(),
    }
    for name, values in others.items():
        rows = rows.append_column(name, values)
    pq.write_table(rows, tmp_path / "in.parquet", row_group_size=1)
    predict("in.parquet", "out.parquet")
    answer = pq.read_table(tmp_path / "out.parquet")
    for name, values in others.items():
        assert answer[name].to_pylist() == values.to_pylist()
    predict("in.parquet", "out.csv")
    header, first, *_ = texts(tmp_path / "out.csv")
    assert header[6:16] == list(others)
    assert first[6:16] == [
        '{"a": [1, null]}',
        "",
        "AA==",
        "x",
        "x",
        "1",
        "1.50",
        "1",
        '[["a", 1]]',
        "x",
    ]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([[1.0]] * 2),
        pa.array([{"a": 1}] * 2),
        pa.array([date(2026, 1, 1)] * 2),
        pa.array([b"1"] * 2),
        pa.array(["1"] * 2).dictionary_encode(),
        pa.array([[("a", 1)]] * 2, pa.map_(pa.string(), pa.int64())),
        pa.array([1] * 2, pa.duration("s")),
        pa.array([1] * 2, pa.time64("ns")),
        pa.array([(1, 2, 3)] * 2, pa.month_day_nano_interval()),
    ],
)
@pytest.mark.parametrize("type_", ["double", "long", "boolean", "datetime", "string", "binary"])
def test_columns_of_types_that_the_model_does_not_take(values: pa.Array, type_: str) -> None:
    fits = {"datetime": ["date32"], "string": ["dictionary"], "binary": ["binary", "dictionary"]}
    model = small(
        lambda table: Predictions(np.zeros(len(table["x"]))),
        inputs=[Column("x", type_)],
        outputs=(Column("", "double"),),
    )
    outcome = outcome_of(model, pa.record_batch({"x": values}))
    name = str(values.type).partition("[")[0].partition("<")[0]
    if name in fits.get(type_, []) and not (type_ == "binary" and name == "dictionary"):
        assert not outcome.rejects
    else:
        assert [one.index for one in outcome.rejects] == [0, 1]
        assert str(outcome.rejects[0]).startswith("column 'x': must be ")
