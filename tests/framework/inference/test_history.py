"""Batch inference of a time series: the history is one column of arrays, or a column per value."""

import json
from pathlib import Path
from typing import Any

import mlflow.sklearn
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import settings_for
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from serving.config.settings import Settings
from serving.contract.arrow import items
from serving.contract.metadata import RECIPE
from serving.contract.recipe import Recipe
from serving.data.series import arrange
from serving.errors import DataError, ExtensionError
from serving.inference.batch import Job, run_batch
from serving.inference.kernel import Kernel
from serving.inference.stream import Limit
from serving.model.hooks import PredictionHooks, Record
from serving.model.loading import load_model
from sklearn.linear_model import LinearRegression

SEATTLE = Path(__file__).parents[2] / "data" / "seattle.csv"
RECIPE_OF_SERIES: dict[str, Any] = {
    "name": "temperatures",
    "task_choice": "timeseries",
    "data": {
        "data_interface": {
            "entity_columns": ["station"],
            "target_column": "high",
            "timestamp_column": "date",
            "feature_columns": ["low"],
        },
        "forecasting": {"lags": [1, 3], "rolling": [], "calendar": []},
    },
    "model": {"class_path": "sklearn.linear_model.LinearRegression"},
}
LAGS = ["high_lag_3", "high_lag_2", "high_lag_1"]


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """One row for each day, with the three values before it."""
    frame = pd.read_csv(SEATTLE).assign(station="KSEA")
    return arrange(Recipe.model_validate(RECIPE_OF_SERIES), frame, "seattle.csv").frame


@pytest.fixture(scope="module")
def model(rows: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear model of a day's highest temperature."""
    path = tmp_path_factory.mktemp("series") / "model"
    columns = [*LAGS, "low"]
    mlflow.sklearn.save_model(
        LinearRegression().fit(rows[columns], rows["high"]),
        path,
        signature=ModelSignature(
            Schema([ColSpec("double", name) for name in columns]), Schema([ColSpec("double")])
        ),
        serialization_format="cloudpickle",
        metadata={RECIPE: RECIPE_OF_SERIES},
    )
    return path


def with_arrays(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop(columns=LAGS).assign(history=pd.Series(rows[LAGS].to_numpy().tolist()))


def test_both_forms_and_both_formats_get_the_answers_of_the_api(
    model: Path, rows: pd.DataFrame, tmp_path: Path
) -> None:
    settings = settings_for(model, tmp_path)
    served = load_model(settings)
    samples = json.loads(
        with_arrays(rows)[["station", "date", "low", "history"]].to_json(
            orient="records", date_format="iso", date_unit="s"
        )
    )
    answers = served.answer(
        [served.request_schema.model_validate_json(json.dumps(one)) for one in samples]
    )
    expected = [answer.model_dump()["prediction"] for answer in answers]

    arrays = with_arrays(rows)
    rows.to_csv(tmp_path / "lags.csv", index=False)
    rows.to_parquet(tmp_path / "lags.parquet")
    arrays.assign(history=arrays["history"].map(json.dumps)).to_csv(
        tmp_path / "arrays.csv", index=False
    )
    arrays.to_parquet(tmp_path / "arrays.parquet")
    for name in ("lags.csv", "lags.parquet", "arrays.csv", "arrays.parquet"):
        for workers in (1, 2):
            job = Job(
                data=str(tmp_path / name), output=str(tmp_path / "out.parquet"), workers=workers
            )
            assert run_batch(settings, job).rows == len(rows)
            found = pd.read_parquet(tmp_path / "out.parquet")
            assert found["prediction"].tolist() == pytest.approx(expected)
            assert ("history" in found) == name.startswith("arrays")


def test_a_wrong_history_is_rejected(model: Path, rows: pd.DataFrame, tmp_path: Path) -> None:
    wrong = with_arrays(rows.head(8))
    texts = [
        "[1, 2]",
        "1 2 3",
        "",
        "[1,,3]",
        "[1, two, 3]",
        "[1, 2, 3, 4]",
        " [1.5,2,3e1] ",
        "[]",
    ]
    wrong.assign(history=texts).to_csv(tmp_path / "in.csv", index=False)
    job = Job(data=str(tmp_path / "in.csv"), output=str(tmp_path / "out.csv"), limit=Limit())
    settings = settings_for(model, tmp_path)
    summary = run_batch(settings, job)
    assert (summary.rows, summary.rejected) == (8, 7)
    rejected = pd.read_csv(tmp_path / "out.rejected.csv")
    rule = "must be an array of 3 numbers, the oldest first"
    assert rejected["rejected_rule"].tolist() == [
        *(rule, rule, rule),
        *("a value is required", "must be a finite number"),
        *(rule, rule),
    ]
    assert rejected["rejected_column"].tolist()[3:5] == ["high_lag_2", "high_lag_2"]

    wrong.assign(history="none").drop(columns="history").to_csv(tmp_path / "in.csv", index=False)
    with pytest.raises(DataError, match="has no column 'history' with arrays of 3 numbers"):
        run_batch(settings, job)


@pytest.mark.parametrize(
    "type_", [pa.list_(pa.float64()), pa.large_list(pa.int32()), pa.list_(pa.float32(), 2)]
)
def test_items_of_every_kind_of_list(type_: pa.DataType) -> None:
    values = pa.array([[1, 2], None, [3, None], [5, 6]], type_)
    columns, wrong = items(values[1:], 2)
    assert [column.to_pylist() for column in columns] == [[None, 3, 5], [None, None, 6]]
    assert wrong.tolist() == [True, False, False]


def test_hooks_get_the_history_as_a_list(model: Path, rows: pd.DataFrame, tmp_path: Path) -> None:
    seen: list[Record] = []

    def warmer(records: list[Record], context: Any) -> list[Record]:
        seen.extend(dict(record) for record in records)
        return [record | {"history": [one + 1 for one in record["history"]]} for record in records]

    def kept(records: list[Record], context: Any) -> list[Record]:
        return records

    def shorter(records: list[Record], context: Any) -> list[Record]:
        return [record | {"history": record["history"][1:]} for record in records]

    def hooked(before: Any) -> Any:
        hooks = PredictionHooks(Settings(), None, None, before, None)
        return load_model(settings_for(model, tmp_path), hooks=hooks)

    batch = pa.RecordBatch.from_pandas(rows.head(5), preserve_index=False)
    warm = Kernel(hooked(warmer), batch.schema, is_text=False).predict(batch).answers
    plain = Kernel(hooked(kept), batch.schema, is_text=False).predict(batch).answers
    assert seen[0]["history"] == rows[LAGS].iloc[0].tolist()
    assert not set(LAGS) & set(seen[0])
    difference = np.subtract(warm["prediction"], plain["prediction"])
    served = load_model(settings_for(model, tmp_path))
    engine: Any = served.engine
    assert difference == pytest.approx(np.full(5, engine._model.coef_[:3].sum()))
    sample = served.request_schema.model_validate_json(
        json.dumps({"station": "KSEA", "date": "2012-01-04", "low": 1.0, "history": [1, 2, 3]})
    )
    with pytest.raises(ExtensionError, match="history must keep its 3 values"):
        hooked(shorter).answer([sample])
