"""Requests that share calls of the model get the same answers as if they were alone."""

import asyncio
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import SAMPLE, settings_for, wait_until_loaded
from fastapi.testclient import TestClient
from serving.api.app import create_app
from serving.contract.columns import Row
from serving.engines.base import Predictions
from serving.engines.sklearn import SklearnEngine
from serving.errors import RowError
from serving.model.loading import load_model
from serving.runtime import adaptive_batching
from serving.runtime.adaptive_batching import AdaptiveBatcher
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

BAD = {
    "missing": {k: v for k, v in SAMPLE.items() if k != "petal width (cm)"},
    "type": SAMPLE | {"petal width (cm)": "wide"},
    "unknown": SAMPLE | {"species": "setosa"},
    "refused": SAMPLE | {"sepal length (cm)": 1e308, "petal width (cm)": -1e308},
}


def requests() -> list[tuple[str, Any]]:
    """64 requests to all routes; one in four is wrong in some way."""
    found: list[tuple[str, Any]] = []
    wrong = list(BAD.values())
    for index in range(64):
        sample = SAMPLE | {"plant id": index, "petal width (cm)": 0.1 + index / 20}
        if index % 4 == 3:
            sample = wrong[index // 4 % len(wrong)]
        match index % 3:
            case 0:
                found.append(("/predict", sample))
            case 1:
                found.append(("/predict/batch", {"samples": [SAMPLE, sample, SAMPLE]}))
            case 2:
                row = {k: v for k, v in sample.items() if k != "plant id"}
                found.append(("/invocations", {"instances": [row, row]}))
    return found


def test_answers_together_are_those_one_by_one(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: list[int] = []
    predict = SklearnEngine.predict

    def slowly(self: SklearnEngine, table: Any) -> Predictions:
        time.sleep(0.02)  # so that requests queue
        shared.append(len(next(iter(table.values()))))
        return predict(self, table)

    def ask(request: tuple[str, Any]) -> tuple[int, Any]:
        answer = client.post(request[0], json=request[1])
        return answer.status_code, without_ids(answer.json())

    alone = [ask(request) for request in requests()]
    monkeypatch.setattr(SklearnEngine, "predict", slowly)
    with ThreadPoolExecutor(64) as pool:
        together = list(pool.map(ask, requests()))
    assert {200, 422} == {status for status, _ in alone}
    for one, other in zip(alone, together, strict=True):
        assert other[0] == one[0]
        assert_equal(other[1], one[1])
    assert max(shared) > 10, "nothing was shared"  # no request has more than three rows


def without_ids(document: Any) -> Any:
    document.pop("request_id", None)
    return document


def assert_equal(found: Any, wanted: Any) -> None:
    """Equal except for the last digits of numbers."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key in wanted:
            assert_equal(found[key], wanted[key])
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_equal(one, other)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    else:
        assert found == wanted


class Model:
    """Doubles numbers slowly, and refuses negative numbers."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def __call__(self, rows: Sequence[Row]) -> Predictions:
        self.calls.append([row[0] for row in rows])
        time.sleep(0.01)
        if any(row[0] < 0 for row in rows):
            raise ValueError("negative")
        return Predictions(np.array([row[0] * 2 for row in rows]))


async def answers(calls: AdaptiveBatcher, *requests: list[int]) -> list[Any]:
    """Send all requests at once; return for each a list of values, or the error."""
    made = [calls.predict([(value,) for value in request]) for request in requests]
    found = await asyncio.gather(*made, return_exceptions=True)
    return [one.values.tolist() if isinstance(one, Predictions) else one for one in found]


@pytest.mark.parametrize("inline_rows", [0, 100])
def test_a_bad_request_fails_alone(inline_rows: int) -> None:
    model = Model()
    calls = AdaptiveBatcher(model, model, max_rows=100, inline_rows=inline_rows)
    found = asyncio.run(answers(calls, [1], [2, 3], [-4], [5], [-6, 7]))
    assert found[:2] == [[2], [4, 6]]
    assert isinstance(found[2], ValueError)
    assert found[3] == [10]
    assert isinstance(found[4], ValueError)
    assert model.calls[0] == [1, 2, 3, -4, 5, -6, 7]


def test_a_call_has_no_more_rows_than_allowed() -> None:
    model = Model()
    calls = AdaptiveBatcher(model, model, max_rows=3)
    found = asyncio.run(answers(calls, [1, 2], [3], [4], [5, 6, 7, 8], [9]))
    assert found == [[2, 4], [6], [8], [10, 12, 14, 16], [18]]
    assert model.calls == [[1, 2, 3], [5, 6, 7, 8], [4, 9]]


def test_a_large_request_takes_turns_with_small_ones() -> None:
    model = Model()
    calls = AdaptiveBatcher(model, model, max_rows=3, slice_rows=2)
    found = asyncio.run(answers(calls, [1, 2, 3, 4, 5], [6, 6, 6, 6], [7, 7], [8], [9, 9, 9]))
    assert found == [[2, 4, 6, 8, 10], [12] * 4, [14] * 2, [16], [18] * 3]
    assert model.calls == [[7, 7, 8], [1, 2], [9, 9, 9], [6, 6], [3, 4], [6, 6], [5]]


def test_a_row_of_a_large_request_is_named_by_its_place_in_it() -> None:
    def refuse(rows: Sequence[Row]) -> Predictions:
        values = np.array([row[0] for row in rows])
        if (values < 0).any():
            raise RowError(int((values < 0).argmax()))
        return Predictions(values)

    calls = AdaptiveBatcher(refuse, refuse, max_rows=3, slice_rows=2)
    found = asyncio.run(answers(calls, [1, 2, 3, 4, 5, -6, 7]))
    assert isinstance(found[0], RowError)
    assert found[0].index == 5


def test_rows_that_a_model_names_as_refused_cost_no_further_call() -> None:
    calls_made = []

    def model(rows: Sequence[Row]) -> Predictions:
        calls_made.append(len(rows))
        values = np.array([row[0] for row in rows])
        return Predictions(values, refused=values < 0)

    calls = AdaptiveBatcher(model, model, max_rows=10)
    found = asyncio.run(answers(calls, [1, 2], [3, -4], [5]))
    assert (found[0], found[2]) == ([1, 2], [5])
    assert isinstance(found[1], RowError)
    assert found[1].index == 1
    assert calls_made == [5]


def test_a_caller_whose_row_failed_shares_no_calls_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Model()
    calls = AdaptiveBatcher(model, model, max_rows=100)

    async def scenario() -> None:
        for value in (1, 2):
            made = [calls.predict([(-value,)], "bad"), calls.predict([(value,)], "good")]
            await asyncio.gather(*made, return_exceptions=True)
        monkeypatch.setattr(adaptive_batching, "APART_SECONDS", 0.0)
        await asyncio.gather(calls.predict([(3,)], "bad"), calls.predict([(4,)], "good"))

    asyncio.run(scenario())
    assert model.calls == [[-1, 1], [-1], [1], [-2], [2], [3, 4]]


def test_a_caller_who_has_left_is_not_predicted() -> None:
    model = Model()
    calls = AdaptiveBatcher(model, model, max_rows=1)

    async def scenario() -> None:
        first = asyncio.create_task(calls.predict([(1,)]))
        gone = asyncio.create_task(calls.predict([(2,)]))
        last = asyncio.create_task(calls.predict([(3,)]))
        while not model.calls:
            await asyncio.sleep(0.001)
        gone.cancel()
        await asyncio.gather(first, last)
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(scenario())
    assert model.calls == [[1], [3]]


def test_a_panic_fails_one_call() -> None:
    class Panic(BaseException):
        """An exception like those of Rust libraries."""

    def panic(_: Sequence[Row]) -> Predictions:
        raise Panic

    async def scenario() -> list[Any]:
        calls = AdaptiveBatcher(panic, panic, max_rows=10)
        return [*await answers(calls, [1]), *await answers(calls, [2], [3])]

    found = asyncio.run(asyncio.wait_for(scenario(), 10))
    assert [type(one) for one in found] == [RuntimeError] * 3


@pytest.mark.parametrize(
    ("first_step", "is_shared"),
    [
        (StandardScaler(), True),
        (FunctionTransformer(np.log1p), True),
        (FunctionTransformer(pd.DataFrame.astype, kw_args={"dtype": "float64"}), True),
        (FunctionTransformer(pd.DataFrame.astype, kw_args={"dtype": "str"}), False),
        (FunctionTransformer(pd.DataFrame.rank), False),
        (make_pipeline(FunctionTransformer(pd.DataFrame.rank)), False),
    ],
)
def test_only_independent_rows_share_a_call(
    irises: pd.DataFrame, tmp_path: Path, first_step: Any, is_shared: bool
) -> None:
    features = irises.drop(columns=["plant id", "species"])
    model = make_pipeline(first_step, LinearRegression()).fit(features, range(len(irises)))
    save_model(model, tmp_path, features)
    assert load_model(settings_for(tmp_path / "model", tmp_path)).engine.independent_rows is (
        is_shared
    )


@pytest.mark.parametrize("is_declared", [True, False])
def test_what_is_inside_a_calibrated_model_counts(
    irises: pd.DataFrame, tmp_path: Path, is_declared: bool
) -> None:
    class Own(LogisticRegression):  # type: ignore[misc]  # scikit-learn has no types
        """A class of which nobody but itself knows how it predicts."""

        independent_rows = is_declared

    features = irises.drop(columns=["plant id", "species"])
    # Within a pipeline, because the parameters of a frozen estimator are not listed.
    frozen = FrozenEstimator(make_pipeline(Own(max_iter=1000)).fit(features, irises["species"]))
    model = CalibratedClassifierCV(frozen, cv=2).fit(features, irises["species"])
    save_model(model, tmp_path, features)
    engine = load_model(settings_for(tmp_path / "model", tmp_path)).engine
    assert engine.independent_rows is is_declared


def save_model(model: Any, directory: Path, features: pd.DataFrame) -> None:
    import mlflow.sklearn
    from mlflow.models import infer_signature

    mlflow.sklearn.save_model(
        model,
        directory / "model",
        serialization_format="cloudpickle",
        signature=infer_signature(features, [1.0]),
        pip_requirements=["scikit-learn"],
    )


@pytest.mark.parametrize(
    ("rows", "is_refused"),
    [
        ([0, None, 1e39, 2], [False, False, True, False]),  # trees use single precision
        ([0, 1e39], [False, True]),
        ([1e39, -1e39], [True, True]),
    ],
)
def test_only_rows_beyond_single_precision_are_refused(
    irises: pd.DataFrame, tmp_path: Path, rows: list[float | None], is_refused: list[bool]
) -> None:
    features = irises.drop(columns=["plant id", "species"])
    model = make_pipeline(StandardScaler(), RandomForestClassifier(n_estimators=5))
    model.fit(features, irises["species"])
    save_model(model, tmp_path, features.mask(features > features.max().min()))
    served = load_model(settings_for(tmp_path / "model", tmp_path))
    width = len(features.columns)
    predictions = served.predict_rows([[row] * width for row in rows])
    assert predictions.refused is not None
    assert predictions.refused.tolist() == is_refused
    for index, row in enumerate(rows):
        if not is_refused[index]:
            alone = served.predict_rows([[row] * width])
            assert predictions.values[index] == alone.values[0]
            assert predictions.probabilities is not None
            assert alone.probabilities is not None
            assert predictions.probabilities[index].tolist() == alone.probabilities[0].tolist()


@pytest.mark.parametrize("is_sparse", [False, True])
def test_no_row_is_refused_for_its_neighbour(tmp_path: Path, is_sparse: bool) -> None:
    table = pd.DataFrame({"number": [0.1, 0.2, 0.3, 0.4], "text": list("abab")})
    columns = make_column_transformer(
        (StandardScaler(), ["number"]),
        (OneHotEncoder(sparse_output=is_sparse), ["text"]),
        sparse_threshold=float(is_sparse),
    )
    model = make_pipeline(columns, LinearRegression()).fit(table, [1, 2, 3, 4])
    save_model(model, tmp_path, table)
    served = load_model(settings_for(tmp_path / "model", tmp_path))
    served.predict_or_blame([(1e39, "a")])  # this estimator accepts it
    predictions = served.predict_rows([(1e39, "a"), (0.1, "b"), (1.7e308, "a"), (1e39, "b")])
    assert predictions.refused is not None
    assert predictions.refused.tolist() == [False, False, True, False]
    assert predictions.values[1] == served.predict_rows([(0.1, "b")]).values[0]


def test_missing_values_are_found_if_the_model_refuses_them(
    irises: pd.DataFrame, tmp_path: Path
) -> None:
    features = irises.drop(columns=["plant id", "species"])
    model = make_pipeline(StandardScaler(), LinearRegression())
    model.fit(features, range(len(irises)))
    save_model(model, tmp_path, features.mask(features > features.max().min()))
    served = load_model(settings_for(tmp_path / "model", tmp_path))
    width = len(features.columns)
    predictions = served.predict_rows([[1.0] * width, [None] * width, [2.0] * width])
    assert predictions.refused is not None
    assert predictions.refused.tolist() == [False, True, False]
    assert predictions.values[2] == served.predict_rows([[2.0] * width]).values[0]


def test_no_caller_gets_the_answer_to_another(tmp_path: Path) -> None:
    table = pd.DataFrame({"u": [1.0, 2.0, None, 4.0], "v": [1.0, 2.0, 3.0, 5.0]})
    model = make_pipeline(FunctionTransformer(pd.DataFrame.dropna), LinearRegression())
    known = table.dropna()
    model.fit(known, known["u"] * 100)
    save_model(model, tmp_path, table.astype({"v": "float64"}))
    served = load_model(settings_for(tmp_path / "model", tmp_path))
    with pytest.raises(RowError) as refused:  # the model drops the second row
        served.predict_or_blame([(5.0, 1.0), (None, 1.0), (7.0, 1.0)])
    assert refused.value.index == 1


def test_metrics_show_the_queue(model_directory: Path, tmp_path: Path) -> None:
    with TestClient(create_app(settings_for(model_directory, tmp_path))) as client:
        wait_until_loaded(client)
        body = json.dumps({"samples": [SAMPLE] * 5})
        assert client.post("/predict/batch", content=body).status_code == 200
        text = client.get("/metrics").text
        assert "predictions_waiting 0.0" in text
        assert 'model_call_rows_bucket{le="5.0"}' in text
