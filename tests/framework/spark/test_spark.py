"""Batch inference on Spark gives what it gives without.

tests/test_spark.py starts these tests in a project that has trained and compiled its example, in an
environment with PySpark. The Java process is shared.
"""

import csv
import os
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import PROJECT, settings_for
from every_type import COLUMNS, common_storages, csv_field, make_block, serving_the_mirror
from serving.config.settings import EngineChoice, Settings
from serving.errors import ConfigError, DataError, ServingError
from serving.inference.batch import Job, run_batch
from serving.inference.spark.java import launch, require_java
from serving.inference.spark.run import predict_on_spark
from serving.inference.stream import Limit
from serving.inference.summary import Summary

MODEL = os.environ["MODEL_DIRECTORY"]
LOCAL = "local[2]"


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return settings_for(MODEL, tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session", autouse=True)
def mirror_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of the mirror; Java hands its path to the Python processes that it starts."""
    root = tmp_path_factory.mktemp("mirror")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(root))
        yield root


@pytest.fixture(scope="session")
def penguins() -> pd.DataFrame:
    """344 rows, some with missing values, and columns that the model does not know."""
    rows = pd.read_csv(PROJECT / "data/penguins.csv").drop(columns="species")
    rows["dotted.name"] = 'x,"y"\nz'
    rows["Year"] = rows["year"] % 7  # differs from a column of the model only in its case
    return rows


def write_parquet(rows: pd.DataFrame, directory: Path, files: int = 4) -> str:
    """Write rows into several files, and add columns of further types."""
    directory.mkdir()
    table = pa.Table.from_pandas(rows, preserve_index=False)
    count = table.num_rows
    for name, value, type_ in (
        ("list", [1, 2], pa.list_(pa.int64())),
        ("day", date(1, 1, 1), pa.date32()),
        ("local", datetime(2026, 1, 31, 12, 0, 0, 123456), pa.timestamp("us")),
        ("zoned", datetime(1500, 1, 31, tzinfo=UTC), pa.timestamp("us", "UTC")),
        ("bytes", b"\x00\xff", pa.binary()),
        ("small", 7, pa.int8()),
    ):
        table = table.append_column(name, pa.array([value] * count, type_))
    size = -(-count // files)
    for index in range(files):
        pq.write_table(table.slice(index * size, size), directory / f"{index}.parquet")
    return str(directory)


def spark(settings: Settings, master: str = LOCAL, **job: Any) -> Summary:
    return predict_on_spark(settings, Job(**job), master)


def unfinished(directory: Path) -> list[str]:
    """What a failed run has left."""
    return [path.name for path in directory.iterdir() if path.name.startswith(".")]


def sorted_rows(path: Path) -> pa.Table:
    return pq.read_table(path).sort_by("penguin_id").replace_schema_metadata()


def csv_rows(path: Path) -> list[list[str]]:
    """The header, then the rows in the order of their text."""
    files = sorted(path.glob("part-*")) if path.is_dir() else [path]
    tables = []
    for file in files:
        with file.open(newline="", encoding="utf-8") as content:
            tables.append(list(csv.reader(content)))
    [header] = {tuple(table[0]) for table in tables}
    return [list(header), *sorted(row for table in tables for row in table[1:])]


@pytest.mark.parametrize("engine", ["onnx", "native"])
def test_parquet_is_the_same_as_without_spark(
    settings: Settings, penguins: pd.DataFrame, tmp_path: Path, engine: EngineChoice
) -> None:
    data = write_parquet(penguins, tmp_path / "rows")
    run_batch(settings, Job(data=data, output=str(tmp_path / "local.parquet"), engine=engine))
    done = spark(settings, data=data, output=str(tmp_path / "spark"), engine=engine)
    assert (done.rows, done.rejected) == (344, 0)
    assert done.engine == ("onnx" if engine == "onnx" else "sklearn")
    expected, found = sorted_rows(tmp_path / "local.parquet"), sorted_rows(tmp_path / "spark")
    types = [pa.string() if pa.types.is_large_string(t) else t for t in expected.schema.types]
    assert found.schema.types[:8] == types[:8]  # Spark has one type of text
    assert found.cast(expected.schema).equals(expected)
    assert len(list((tmp_path / "spark").glob("part-*"))) > 1
    assert unfinished(tmp_path) == []


def test_csv_and_wrong_rows_are_the_same_as_without_spark(
    settings: Settings, penguins: pd.DataFrame, tmp_path: Path
) -> None:
    rows = penguins.astype({"body_mass_g": object, "bill_depth_mm": object})
    rows.loc[3, "body_mass_g"] = "heavy"
    rows.loc[200, "bill_depth_mm"] = "inf"
    rows.loc[201, "bill_depth_mm"] = "+017.50"
    data = tmp_path / "rows.csv"
    rows.to_csv(data, index=False, encoding="utf-8-sig")
    with data.open("a") as file:
        file.write('short,Torgersen\nlong,"two\nlines",39.1,18.7,181,3750,male,2007,x,1,2,3\n')
    for directory, predict in (("local", run_batch), ("spark", spark)):
        (tmp_path / directory).mkdir()
        output = str(tmp_path / directory / "out.csv")
        job: dict[str, Any] = {"data": str(data), "output": output, "limit": Limit(rows=4)}
        done = spark(settings, **job) if predict is spark else run_batch(settings, Job(**job))
        assert (done.rows, done.rejected) == (346, 4)
        assert done.rejected_output == str(tmp_path / directory / "out.rejected.csv")
    assert csv_rows(tmp_path / "spark/out.csv") == csv_rows(tmp_path / "local/out.csv")
    header, *expected = csv_rows(tmp_path / "local/out.rejected.csv")
    assert header[0] == "rejected_row"  # which Spark does not know
    assert csv_rows(tmp_path / "spark/out.rejected.csv") == [
        header[1:],
        *sorted(row[1:] for row in expected),
    ]


def test_a_delimiter_is_the_same_as_without_spark(
    settings: Settings, penguins: pd.DataFrame, tmp_path: Path
) -> None:
    data = tmp_path / "rows.csv"
    penguins.to_csv(data, index=False, sep=";")
    with data.open("a") as file:
        file.write("short;Torgersen\n")
    for directory in ("local", "spark"):
        (tmp_path / directory).mkdir()
        output = str(tmp_path / directory / "out.csv")
        job = Job(data=str(data), output=output, limit=Limit(rows=1), delimiter=";")
        is_local = directory == "local"
        done = run_batch(settings, job) if is_local else predict_on_spark(settings, job, LOCAL)
        assert (done.rows, done.rejected) == (345, 1)
    assert csv_rows(tmp_path / "spark/out.csv") == csv_rows(tmp_path / "local/out.csv")
    header, rejected = csv_rows(tmp_path / "local/out.rejected.csv")
    assert csv_rows(tmp_path / "spark/out.rejected.csv") == [header[1:], rejected[1:]]


def test_other_encodings_than_utf_8_are_refused(
    settings: Settings, penguins: pd.DataFrame, tmp_path: Path
) -> None:
    data, output = str(tmp_path / "rows.csv"), str(tmp_path / "out.csv")
    penguins.to_csv(data, index=False, encoding="cp949")
    message = (
        "rows.csv: Spark reads CSV files in UTF-8 only, and --encoding names cp949; leave out "
        "--on spark, or convert the file and use --encoding utf-8"
    )
    with pytest.raises(DataError, match=message):
        spark(settings, data=data, output=output, encoding="cp949")


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_rows_of_every_type_are_the_same_as_without_spark(
    mirror_root: Path, tmp_path: Path, suffix: str
) -> None:
    """10,000 random rows; test_equality.py shows that those without Spark are those of the API."""
    choose = random.Random(suffix)
    block = make_block(choose, common_storages(), 10_000)
    data = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        pq.write_table(block.table.append_column("n", pa.array(range(10_000))), data)
    else:
        with data.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*(column.name for column in COLUMNS), "n"])
            for n, row in enumerate(block.rows):
                writer.writerow([*(csv_field(choose, row.get(c.name)) for c in COLUMNS), n])
    found: dict[str, list[Any]] = {}
    with serving_the_mirror(mirror_root) as mirror:
        for name in ("local", "spark"):
            output, rejected = (
                str(tmp_path / f"{name}.{kind}.parquet") for kind in ("out", "rejected")
            )
            job = Job(data=str(data), output=output, rejected=rejected, limit=Limit())
            done = (
                run_batch(mirror, job) if name == "local" else predict_on_spark(mirror, job, LOCAL)
            )
            assert done.rows == 10_000
            assert 100 < done.rejected < 5_000
            answers = pq.read_table(output).select(["n", "prediction"])
            refused = pq.read_table(rejected).select(["n", "rejected_column", "rejected_rule"])
            assert answers.num_rows + refused.num_rows == 10_000
            found[name] = [one.sort_by("n").to_pylist() for one in (answers, refused)]
    assert found["spark"] == found["local"]


def test_csv_becomes_parquet_with_the_types_of_the_contract(
    settings: Settings, penguins: pd.DataFrame, tmp_path: Path
) -> None:
    """The second of two directories is partitioned, by a column of the model."""
    data = tmp_path / "rows.csv"
    penguins.to_csv(data, index=False)
    run_batch(settings, Job(data=str(data), output=str(tmp_path / "local.parquet")))
    for year, rows in penguins.groupby("year"):
        (tmp_path / f"rows/year={year}").mkdir(parents=True)
        rows.drop(columns="year").to_csv(tmp_path / f"rows/year={year}/rows.csv", index=False)
    spark(settings, data=str(tmp_path / "rows"), output=str(tmp_path / "spark"))
    expected, found = sorted_rows(tmp_path / "local.parquet"), sorted_rows(tmp_path / "spark")
    assert found.select(expected.column_names).cast(expected.schema).equals(expected)
    assert found.schema.field("year").type == expected.schema.field("year").type


@pytest.mark.skipif(not os.environ.get("LONG_TESTS"), reason="takes minutes: LONG_TESTS=1")
def test_executors_of_a_cluster_get_the_model(
    settings: Settings, penguins: pd.DataFrame, tmp_path: Path
) -> None:
    """The executors are processes of their own; the wrong row is in one of their files."""
    penguins = penguins.copy()
    penguins.loc[100, "bill_depth_mm"] = float("inf")
    data = write_parquet(penguins, tmp_path / "rows")
    local, output = str(tmp_path / "local.parquet"), str(tmp_path / "spark.parquet")
    run_batch(settings, Job(data=data, output=local, limit=Limit()))
    done = spark(
        settings, "local-cluster[2,1,1024]", data=data, output=output, limit=Limit(share=0.1)
    )
    assert (done.rows, done.rejected) == (344, 1)
    expected, found = sorted_rows(Path(local)), sorted_rows(Path(output))
    assert found.cast(expected.schema).equals(expected)
    assert done.rejected_output
    [rejected] = pq.read_table(done.rejected_output).to_pylist()
    assert rejected["rejected_column"] == "bill_depth_mm"
    assert rejected["rejected_rule"] == "must be a finite number"
    assert rejected["penguin_id"] == penguins.loc[100, "penguin_id"]


def test_a_wrong_row_ends_the_run_without_output(
    settings: Settings, penguins: pd.DataFrame, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    penguins = penguins.copy()
    penguins.loc[343, "bill_depth_mm"] = float("inf")  # other files are predicted before
    data = write_parquet(penguins, tmp_path / "rows", files=8)
    with pytest.raises(DataError) as stopped:
        spark(settings, data=data, output=str(tmp_path / "out"))
    assert str(stopped.value) == (
        f"{data}: column 'bill_depth_mm': must be a finite number, is inf (Spark does not number "
        "rows; --on-bad-row quarantine sets wrong rows aside)"
    )
    with pytest.raises(DataError, match=r"1 of 344 rows are wrong, which is more than 0.10% of"):
        spark(settings, data=data, output=str(tmp_path / "out"), limit=Limit(share=0.001))
    assert [path.name for path in tmp_path.iterdir()] == ["rows"]
    assert "Exception" not in capfd.readouterr().err


def test_what_cannot_be_read_or_written_is_said_in_one_sentence(
    settings: Settings, penguins: pd.DataFrame, tmp_path: Path
) -> None:
    rows = str(tmp_path / "rows.parquet")
    penguins.to_parquet(rows)
    without, nanoseconds = tmp_path / "without.parquet", tmp_path / "nanoseconds.parquet"
    penguins.drop(columns="island").to_parquet(without)
    penguins.assign(seen=pd.Timestamp("2026-01-31")).astype({"seen": "datetime64[ns]"}).to_parquet(
        nanoseconds
    )
    (tmp_path / "text.parquet").write_text("this is text")
    for name, header in (("twice.csv", "a,a"), ("one.csv", "a,b"), ("other.csv", "b,a")):
        (tmp_path / name).write_text(f"{header}\n1,2\n")
    (tmp_path / "empty.csv").touch()
    new = tmp_path / "new"
    for data, output, message in (
        (tmp_path / "none.parquet", new, f"none.parquet: no such file (looked in {PROJECT})"),
        (tmp_path / "n*.csv", new, "n*.csv: no such file"),
        (without, new, "without.parquet: has no column 'island' (which the model needs)"),
        (nanoseconds, new, "date-times in nanoseconds, which Spark cannot read"),
        (tmp_path / "text.parquet", new, "is not a Parquet file"),
        (tmp_path / "twice.csv", new, "twice.csv: the column 'a' appears twice"),
        (tmp_path / "empty.csv", new, "empty.csv: the file is empty"),
        ("nowhere://rows.parquet", new, 'No FileSystem for scheme "nowhere"'),
        (rows, tmp_path, "exists already; delete it or name another"),
        (rows, tmp_path / "empty.csv/new", "Parent path is not a directory"),
    ):
        with pytest.raises(ServingError) as refused:
            spark(settings, data=str(data), output=str(output))
        text = str(refused.value)
        assert message in text
        assert "\n" not in text
    assert not new.exists()
    assert unfinished(tmp_path) == []


def test_files_with_different_headers_are_refused(settings: Settings, tmp_path: Path) -> None:
    rows = pd.read_csv(PROJECT / "data/penguins.csv").drop(columns="species")
    rows.to_csv(tmp_path / "1.csv", index=False)
    rows[sorted(rows.columns)].to_csv(tmp_path / "2.csv", index=False)
    with pytest.raises(DataError, match="the headers of the files are different"):
        spark(settings, data=str(tmp_path / "*.csv"), output=str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resume": True}, "--resume is not for Spark"),
        ({"workers": 2}, "--workers is not for Spark"),
        ({"data": "query.sql"}, "databases are not for Spark"),
    ],
)
def test_what_only_a_local_run_does_is_refused(
    settings: Settings, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        spark(settings, **{"data": "rows.csv", "output": "out", **options})


def test_a_wrong_master_is_refused(settings: Settings) -> None:
    with pytest.raises(ServingError, match="the master nonsense: Could not parse Master URL"):
        spark(settings, "nonsense", data="rows.csv", output="out")


def test_a_missing_or_old_java_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from pyspark import SparkConf

    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ServingError, match="Spark needs Java 17 or newer, and JAVA_HOME"):
        require_java()
    java = tmp_path / "bin/java"
    java.parent.mkdir()
    java.write_text(
        "#!/bin/sh\n"
        "echo 'Error: LinkageError occurred while loading main class' >&2\n"
        "echo '\tjava.lang.UnsupportedClassVersionError: Main (class file version 61)' >&2\n"
        "exit 1\n"
    )
    java.chmod(0o755)
    with pytest.raises(ServingError) as refused:
        launch(SparkConf())
    assert str(refused.value) == (
        "Java does not start: java.lang.UnsupportedClassVersionError: Main (class file version "
        "61); Spark needs Java 17 or newer"
    )
