"""Batch inference reads CSV files like the one that the model was trained on."""

import csv
import os
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from serving.cli import app
from serving.config.settings import MLflowSettings, ServingSettings, Settings
from serving.contract.recipe import Recipe
from serving.data import files
from serving.errors import ConfigError, DataError
from serving.inference import batch
from serving.inference.batch import Job, run_batch
from serving.inference.stream import Limit
from sklearn.datasets import load_wine

pytest.importorskip("serving.training", reason="these tests train their model")

ENCODING, DELIMITER = "cp949", ";"
LOADER: dict[str, Any] = {
    "encoding": ENCODING,
    "delimiter": DELIMITER,
    "types": {"proline": "long", "hue": "double"},
    "date_format": {"수확일": "%Y.%m.%d"},
}
GROWERS = ["김씨네", "이씨네", "박씨네"]


def wines() -> pd.DataFrame:
    """Analyses of 178 wines: numbers and dates as values, texts in Korean."""
    rows: pd.DataFrame = load_wine(as_frame=True).frame
    rows = rows[["alcohol", "proline", "hue", "target"]]
    rows = rows.astype({"proline": "int64"})
    rows.insert(0, "병", [f"병{n:03}" for n in range(len(rows))])
    rows["밭"] = rows["target"].map(["강가", "언덕", "들판"].__getitem__)
    rows["수확일"] = pd.date_range("2024-03-25", periods=len(rows)).astype("datetime64[us]")
    rows["target"] = rows["target"].map(GROWERS.__getitem__)
    return rows.rename(columns={"target": "농가"})


def as_exported(rows: pd.DataFrame) -> pd.DataFrame:
    """The same as people write it: 1,065 and 1.040% and 2024.03.25."""
    return rows.assign(
        proline=rows["proline"].map("{:,}".format),
        hue=rows["hue"].map("{:.3f}%".format),
        수확일=rows["수확일"].dt.strftime("%Y.%m.%d"),
    )


def write(rows: pd.DataFrame, path: Path, encoding: str = ENCODING, sep: str = DELIMITER) -> Path:
    rows.to_csv(path, index=False, encoding=encoding, sep=sep)
    return path


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A model that was trained on an export in CP949, with semicolons."""
    from serving.training.trainer import train

    recipe = {
        "name": "wines",
        "task_choice": "classification",
        "data": {
            "loader": {"source_uri": "wines.csv", **LOADER},
            "data_interface": {"entity_columns": ["병"], "target_column": "농가"},
        },
        "preprocessor": {
            "steps": [
                {"type": "simple_imputer", "strategy": "median"},
                {"type": "one_hot_encoder"},
                {"type": "standard_scaler"},
            ]
        },
        "model": {"class_path": "sklearn.linear_model.LogisticRegression"},
    }
    store = tmp_path_factory.mktemp("store")
    write(as_exported(wines()), store / "wines.csv")
    mlflow = MLflowSettings(tracking_uri=f"sqlite:///{store / 'mlflow.db'}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(store)  # MLflow keeps artifacts in the working directory
        run_id = train(Recipe.model_validate(recipe), Settings(mlflow=mlflow)).run_id
    return Settings(mlflow=mlflow, serving=ServingSettings(model_run_id=run_id))


@pytest.fixture
def predict(settings: Settings, tmp_path: Path) -> Callable[..., Any]:
    """Predicts a file: `predict("in.csv", "out.csv", **options)`."""

    def predict(data: str, output: str = "out.csv", **options: Any) -> Any:
        job = Job(data=str(tmp_path / data), output=str(tmp_path / output), **options)
        return run_batch(settings, job)

    return predict


def fields(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_like_that_of_training_is_predicted_like_typed_values(
    predict: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    monkeypatch.setattr(batch, "_MOST_CHUNK_ROWS", 50)
    monkeypatch.setattr(files, "_BLOCK_BYTES", 1000)  # ends within characters
    rows = wines().drop(columns="농가")
    rows.to_parquet(tmp_path / "typed.parquet")
    write(as_exported(rows), tmp_path / "in.csv")
    predict("typed.parquet", "expected.parquet")
    assert predict("in.csv", "out.parquet", workers=workers).rows == 178
    expected, found = (pq.read_table(tmp_path / f"{n}.parquet") for n in ("expected", "out"))
    assert found.to_pylist() == expected.to_pylist()  # with the types of the contract
    predicted = found["prediction"].to_pylist()
    assert predicted.count("김씨네") > 50

    predict("in.csv", "out.csv", workers=workers)
    header, *texts = fields(tmp_path / "out.csv")
    assert header[:6] == ["병", "alcohol", "proline", "hue", "밭", "수확일"]
    first = ["병000", "14.23", "1,065", "1.040%", "강가", "2024.03.25", predicted[0]]
    assert texts[0][:7] == first  # as in the input, but in UTF-8 and with commas


def test_options_describe_another_file(predict: Callable[..., Any], tmp_path: Path) -> None:
    rows = wines()
    write(as_exported(rows), tmp_path / "in.csv")
    predict("in.csv", "expected.csv")
    expected = [row[-5:] for row in fields(tmp_path / "expected.csv")]
    for encoding, sep in (("utf-8", ","), ("utf-8-sig", "\t"), ("utf-16", ";"), ("cp949", "|")):
        write(rows, tmp_path / "other.csv", encoding, sep)  # with ISO dates and plain numbers
        predict("other.csv", encoding=encoding, delimiter=sep)
        assert [row[-5:] for row in fields(tmp_path / "out.csv")] == expected


def test_wrong_rows_are_set_aside_with_their_numbers(
    predict: Callable[..., Any], tmp_path: Path
) -> None:
    rows = as_exported(wines())
    rows.loc[3, "수확일"] = "02.04.2024"
    rows.loc[4, "수확일"] = "2024-03-29"  # ISO is accepted besides
    rows.loc[5, "수확일"] = "2024.02.30"
    rows.loc[90, "proline"] = "1,06"
    rows.loc[91, "hue"] = "짙다"
    path = write(rows, tmp_path / "in.csv")
    with path.open("ab") as file:
        file.write("병999;쪽지\r\n".encode(ENCODING))
    message = (
        f"{path}: row 4: column '수확일': must be a date-time in the format %Y.%m.%d, or an RFC "
        "3339 date-time or a date, is '02.04.2024'"
    )
    with pytest.raises(DataError) as error:
        predict("in.csv")
    assert str(error.value) == message
    assert (predict("in.csv", limit=Limit()).rejected, len(rows)) == (5, 178)
    _, *rejected = fields(tmp_path / "out.rejected.csv")
    assert [(row[0], row[1]) for row in rejected] == [
        ("4", "수확일"),
        ("6", "수확일"),
        ("91", "proline"),
        ("92", "hue"),
        ("179", ""),
    ]
    assert rejected[3][7] == "짙다"
    assert rejected[4][2:4] == ["has 2 fields, the header has 7", "병999;쪽지"]


KEY = "data.loader.encoding of the model's recipe"


@pytest.mark.parametrize(
    ("written_in", "options", "message"),
    [
        ("utf-8", {}, f"not cp949 text, which {KEY} names; it can be read as UTF-8: use --en"),
        ("utf-8-sig", {}, f"not cp949 text, which {KEY} names; it can be read as UTF-8: use --en"),
        ("utf-16", {}, f"not cp949 text, which {KEY} names; it can be read as UTF-16: use --enc"),
        (
            "cp949",
            {"encoding": "utf-8"},
            "not UTF-8 text, which --encoding names; it can be read as CP949, as Excel writes it "
            "in Korea: use --encoding cp949",
        ),
        (
            "cp949",
            {"encoding": "ascii"},
            "not ascii text, which --encoding names; it can be read as CP949",
        ),
    ],
)
def test_text_in_another_encoding_is_named(
    predict: Callable[..., Any],
    tmp_path: Path,
    written_in: str,
    options: dict[str, str],
    message: str,
) -> None:
    write(as_exported(wines()), tmp_path / "in.csv", written_in)
    with pytest.raises(DataError) as error:
        predict("in.csv", **options)
    assert str(error.value).startswith(f"{tmp_path / 'in.csv'}: {message}")
    assert not (tmp_path / "out.csv").exists()


def test_a_damaged_character_after_many_rows_is_told(
    predict: Callable[..., Any], tmp_path: Path
) -> None:
    path = write(pd.concat([as_exported(wines())] * 100), tmp_path / "in.csv")
    path.write_bytes(path.read_bytes()[:-12] + b"\xff\r\n")
    message = f"not cp949 text, which {KEY} names; name the file's encoding with --encoding"
    with pytest.raises(DataError, match=message):
        predict("in.csv")
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("sep", "message"),
    [
        (",", 'the columns are separated by commas; use --delimiter ","'),
        ("|", 'the columns are separated by the character |; use --delimiter "|", or separate'),
    ],
)
def test_another_delimiter_is_named(
    predict: Callable[..., Any], tmp_path: Path, sep: str, message: str
) -> None:
    write(wines(), tmp_path / "in.csv", sep=sep)
    with pytest.raises(DataError) as error:
        predict("in.csv")
    assert str(error.value).startswith(f"{tmp_path / 'in.csv'}: {message}")


def test_a_run_is_not_resumed_with_another_encoding(
    predict: Callable[..., Any], tmp_path: Path
) -> None:
    path = write(as_exported(wines()), tmp_path / "in.csv")
    path.write_bytes(path.read_bytes()[:-8])  # the last date is cut off
    job = {"resume": True, "part_rows": 50}
    with pytest.raises(DataError, match="row 178: column"):
        predict("in.csv", **job)
    with pytest.raises(DataError, match="the encoding of the input has changed from cp949 to euc"):
        predict("in.csv", **job, encoding="euc-kr")


def test_day_and_month_are_never_guessed() -> None:
    import pyarrow as pa
    from serving.contract.columns import Column
    from serving.inference.values import ValueReader

    def read(form: str, *texts: str) -> list[datetime | None]:
        content: dict[str, Any] = {
            "name": "days",
            "task_choice": "clustering",
            "data": {"loader": {"date_format": {"day": form}}, "data_interface": {}},
            "model": {"class_path": "sklearn.cluster.KMeans"},
        }
        reader = ValueReader(Recipe.model_validate(content), is_text=True)
        found: list[datetime | None] = reader.convert(
            pa.array(texts), Column("day", "datetime")
        ).values.to_pylist()
        return found

    second = datetime(2024, 2, 1)
    assert read("%d/%m/%Y", "01/02/2024", "2024-02-01", "13/13/2024", "NA") == [
        second,
        second,
        None,
        None,
    ]
    assert read("%Y-%d-%m", "2024-01-02", "2024-02-22") == [second, None]
    assert read("%d %b %Y %H:%M", "01 Feb 2024 15:00") == [datetime(2024, 2, 1, 15)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--encoding", "excel"), "--encoding (CSV_ENCODING): 'excel' is no text encoding of"),
        (("--delimiter", ";;"), "--delimiter (CSV_DELIMITER): must be one ASCII character such as"),
    ],
)
def test_wrong_options_are_refused(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        app(["batch-inference", "-d", "in.csv", "-o", "out.csv", *options], standalone_mode=False)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("name", ["encoding", "delimiter"])
def test_the_options_are_refused_for_another_format(
    predict: Callable[..., Any], tmp_path: Path, name: str
) -> None:
    wines().to_parquet(tmp_path / "in.parquet")
    with pytest.raises(ConfigError, match=rf"--{name} \(CSV_{name.upper()}\) is only for CSV"):
        predict("in.parquet", **{name: "|" if name == "delimiter" else "cp949"})


def test_the_command_takes_a_tab(settings: Settings, tmp_path: Path) -> None:
    write(as_exported(wines()), tmp_path / "in.csv", sep="\t")
    os.environ["MLFLOW_TRACKING_URI"] = settings.mlflow.tracking_uri
    data, output = str(tmp_path / "in.csv"), str(tmp_path / "out.csv")
    command = ["batch-inference", "--data-path", data, "-o", output, "--delimiter", r"\t"]
    run_id = str(settings.serving.model_run_id)
    app([*command, "--run-id", run_id], standalone_mode=False)
    assert len(fields(tmp_path / "out.csv")) == 179
