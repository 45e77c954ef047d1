"""Batch inference: every row in order, by the rules of the API."""

from pathlib import Path

import pandas as pd
import pytest
from conftest import SAMPLE, settings_for
from pydantic import BaseModel
from serving.errors import DataError
from serving.inference.batch import predict_file
from serving.model.hooks import PredictionContext, PredictionHooks, Record
from serving.model.loading import load_model
from serving.model.served import ServedModel


@pytest.fixture(scope="session")
def model(model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return load_model(settings_for(model_directory, tmp_path_factory.mktemp("store")))


def write(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path)
    return path


@pytest.mark.parametrize("source", ["in.csv", "in.parquet"])
@pytest.mark.parametrize("target", ["out/out.csv", "out.parquet"])
def test_rows_keep_their_order_and_columns(
    model: ServedModel, irises: pd.DataFrame, tmp_path: Path, source: str, target: str
) -> None:
    rows = irises.sample(frac=1, random_state=0).reset_index(drop=True)
    output = tmp_path / target
    assert predict_file(model, write(rows, tmp_path / source), output) == 150
    answer = pd.read_csv(output) if output.suffix == ".csv" else pd.read_parquet(output)
    pd.testing.assert_frame_equal(answer[list(rows)], rows, check_dtype=False)
    assert (answer["prediction"] == rows["species"]).mean() > 0.95
    assert list(answer)[len(list(rows)) :] == [
        "prediction",
        "confidence",
        "probability_setosa",
        "probability_versicolor",
        "probability_virginica",
    ]


def test_a_further_field_is_read_as_its_type_says(
    model_directory: Path, irises: pd.DataFrame, tmp_path: Path
) -> None:
    class Fields(BaseModel):
        station: str
        scale: float = 1

    class Further(BaseModel):
        note: str = "none"
        seen: int

    def after(answers: list[Record], rows: list[Record], _: PredictionContext) -> list[Record]:
        return [answer | {"seen": 7, "unknown": 1} for answer in answers]

    seen: list[tuple[object, object]] = []

    def before(rows: list[Record], _: PredictionContext) -> list[Record]:
        seen.extend((row["station"], row["scale"]) for row in rows)
        return rows

    settings = settings_for(model_directory, tmp_path)
    hooks = PredictionHooks(settings, Fields, Further, before, after)
    rows = irises[:2].assign(station=["007", "x"], scale=["2", ""])
    hooked = load_model(settings, hooks=hooks)
    seen.clear()  # rows of the warm-up
    predict_file(hooked, write(rows, tmp_path / "in.csv"), tmp_path / "out.csv")
    assert seen == [("007", 2.0), ("x", 1.0)]
    answer = pd.read_csv(tmp_path / "out.csv")
    assert answer[["note", "seen"]].to_numpy().tolist() == [["none", 7], ["none", 7]]
    assert "unknown" not in answer
    assert list(answer)[-2:] == ["note", "seen"]


def test_the_answers_are_those_of_the_api(
    model: ServedModel, irises: pd.DataFrame, tmp_path: Path
) -> None:
    source = write(irises, tmp_path / "in.csv")
    predict_file(model, source, tmp_path / "out.parquet")
    answer = pd.read_parquet(tmp_path / "out.parquet")
    samples = [
        model.request_schema.model_validate(row)
        for row in irises.drop(columns="species").to_dict(orient="records")
    ]
    online = [one.model_dump() for one in model.answer(samples)]
    assert answer["prediction"].tolist() == [one["prediction"] for one in online]
    assert answer["confidence"].tolist() == pytest.approx([one["confidence"] for one in online])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("petal width (cm)", "wide", "row 3, column 'petal width (cm)': must be a finite number"),
        ("petal width (cm)", None, "row 3, column 'petal width (cm)': a value is required"),
        ("plant id", "1.7", "row 3, column 'plant id': must be a 64-bit integer, is '1.7'"),
    ],
)
def test_a_wrong_value_is_named_and_nothing_is_written(
    model: ServedModel,
    irises: pd.DataFrame,
    tmp_path: Path,
    column: str,
    value: str | None,
    message: str,
) -> None:
    rows = irises.astype(object)
    rows.loc[2, column] = value
    with pytest.raises(DataError) as error:
        predict_file(model, write(rows, tmp_path / "in.csv"), tmp_path / "out.csv")
    assert message in str(error.value)
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize("column", SAMPLE)
def test_a_missing_column_is_named(
    model: ServedModel, irises: pd.DataFrame, tmp_path: Path, column: str
) -> None:
    source = write(irises.drop(columns=column), tmp_path / "in.csv")
    with pytest.raises(DataError, match="which the model needs") as error:
        predict_file(model, source, tmp_path / "out.csv")
    assert f"has no column '{column}'" in str(error.value)


@pytest.mark.parametrize("index", ["shuffled", "filtered", "repeated", "named"])
def test_the_index_of_a_parquet_file_moves_no_answer(
    model: ServedModel, irises: pd.DataFrame, tmp_path: Path, index: str
) -> None:
    rows = irises.sample(frac=1, random_state=0)
    if index == "filtered":
        rows = rows[rows["plant id"] > 40]
    if index == "repeated":
        rows.index = pd.Index([0] * len(rows))
    stored = rows.set_index("plant id") if index == "named" else rows
    predict_file(model, write(stored, tmp_path / "in.parquet"), tmp_path / "out.parquet")
    answer = pd.read_parquet(tmp_path / "out.parquet")
    assert answer["plant id"].tolist() == rows["plant id"].tolist()
    assert (answer["prediction"] == rows["species"].to_numpy()).mean() > 0.95


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("plant id,a,b\n1,2,3,4\n", "the rows have more fields than the header has names"),
        ("plant id,a,a\n1,2,3\n", "the column 'a' appears twice"),
        ("plant id\n", "has no rows"),
    ],
)
def test_a_csv_file_that_would_be_misread_is_refused(
    model: ServedModel, tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "in.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        predict_file(model, tmp_path / "in.csv", tmp_path / "out.csv")


def test_text_in_a_csv_file_is_kept(
    model: ServedModel, irises: pd.DataFrame, tmp_path: Path
) -> None:
    rows = irises.astype({"plant id": str})
    rows["plant id"] = rows["plant id"].str.zfill(4)
    predict_file(model, write(rows, tmp_path / "in.csv"), tmp_path / "out.csv")
    answer = pd.read_csv(tmp_path / "out.csv", dtype=str)
    assert answer["plant id"].tolist() == rows["plant id"].tolist()


def test_a_column_that_would_be_overwritten_is_refused(
    model: ServedModel, irises: pd.DataFrame, tmp_path: Path
) -> None:
    source = write(irises.assign(prediction="mine"), tmp_path / "in.csv")
    with pytest.raises(DataError, match="already has a column 'prediction'"):
        predict_file(model, source, tmp_path / "out.csv")


@pytest.mark.parametrize("name", ["in.txt", "nowhere.csv", "empty.csv", "broken.parquet"])
def test_a_file_that_cannot_be_read_is_named(model: ServedModel, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty.csv").touch()
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=name):
        predict_file(model, tmp_path / name, tmp_path / "out.csv")


def test_the_source_is_not_overwritten(
    model: ServedModel, irises: pd.DataFrame, tmp_path: Path
) -> None:
    source = write(irises, tmp_path / "in.csv")
    with pytest.raises(DataError, match="is the input file"):
        predict_file(model, source, tmp_path / "." / "in.csv")


def test_a_place_that_cannot_be_written_is_named(
    model: ServedModel, irises: pd.DataFrame, tmp_path: Path
) -> None:
    source = write(irises, tmp_path / "in.csv")
    with pytest.raises(DataError, match=r"in\.csv/out\.csv: cannot be written"):
        predict_file(model, source, source / "out.csv")
