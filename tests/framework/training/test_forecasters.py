"""Forecasters: the temperatures of Seattle, forecast by models of statsforecast.

Tests that need the package are skipped without it (tests/test_end_to_end.py installs it).
"""

import pickle
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import wait_until_loaded
from fastapi.testclient import TestClient
from pydantic import ValidationError
from serving.api.app import create_app
from serving.config.settings import ServingSettings, Settings
from serving.contract.recipe import Recipe
from serving.errors import DataError, RecipeError, TrainingError
from serving.forecasting import SeriesForecaster
from serving.model.loading import load_model
from serving.training.data import load_dataset
from serving.training.forecasters import RepeatedPeriod, backtest, make_forecaster
from serving.training.pipeline import build_pipeline
from serving.training.splitting import split
from serving.training.trainer import TrainingResult, train

SEATTLE = Path(__file__).parents[2] / "data" / "seattle.csv"
ETS = "statsforecast.models.AutoETS"
WEEKLY = {"season_length": 7}
IS_ABSENT = find_spec("statsforecast") is None
needs_statsforecast = pytest.mark.skipif(IS_ABSENT, reason="statsforecast is an optional package")


@pytest.fixture(scope="module")
def two() -> pd.DataFrame:
    """Two series: the highest and the lowest temperature of each day."""
    return pd.read_csv(SEATTLE).melt("date", ["high", "low"], "kind", "temperature")


@pytest.fixture(scope="module")
def settings(local_store: Settings) -> Settings:
    return local_store


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def recipe(
    class_path: str = ETS,
    hyperparameters: dict[str, Any] | None = None,
    plan: dict[str, Any] | None = None,
    *,
    split: dict[str, Any] | None = None,
    **parts: Any,
) -> Recipe:
    """The recipe of the series of `two`; `parts` are parts of the recipe."""
    return Recipe.model_validate(
        {
            "name": "temperatures",
            "task_choice": "timeseries",
            "data": {
                "loader": {"source_uri": "two.csv"},
                "data_interface": {
                    "entity_columns": ["kind"],
                    "target_column": "temperature",
                    "timestamp_column": "date",
                },
                "forecasting": {"horizon": 14, **(plan or {})},
                "split": split or {},
            },
            "model": {
                "class_path": class_path,
                "hyperparameters": hyperparameters or {"values": WEEKLY},
            },
            **parts,
        }
    )


def of(result: TrainingResult, settings: Settings) -> Settings:
    serving = ServingSettings(model_run_id=result.run_id)
    return settings.model_copy(update={"serving": serving})


def artifact(result: TrainingResult, name: str) -> Path:
    assert result.report is not None
    return result.report.parent.parent / name


@needs_statsforecast
def test_a_forecaster_is_trained_reloaded_and_served(
    settings: Settings, two: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = pytest.importorskip("statsforecast.models")
    two.to_csv("two.csv", index=False)
    result = train(recipe(), settings)
    for name in [name for name in sys.modules if name.partition(".")[0] == "statsforecast"]:
        monkeypatch.setitem(sys.modules, name, None)  # importing it fails from now on
    days = pd.date_range("2016-01-01", periods=14)
    samples = [
        {"kind": kind, "date": f"{day:%Y-%m-%d}"} for kind in ("low", "high") for day in days
    ]
    with TestClient(create_app(of(result, settings))) as client:
        wait_until_loaded(client)
        schemas = client.get("/openapi.json").json()["components"]["schemas"]
        request = schemas["PredictionRequest"]
        assert set(request["properties"]) == {"kind", "date"}
        assert request["properties"]["date"]["description"].endswith(
            "; the forecasts are for 2016-01-01T00:00:00Z to 2016-01-14T00:00:00Z"
        )
        assert request["properties"]["kind"]["examples"] == ["high", "low"]
        assert request["example"]["date"] == "2016-01-01T00:00:00Z"
        assert client.post("/predict", json=request["example"]).status_code == 200
        batch = client.post("/predict/batch", json={"samples": samples}).json()["predictions"]
        one = client.post("/predict", json=samples[-1]).json()
        assert one == batch[-1]
        invoked = client.post("/invocations", json={"dataframe_records": samples}).json()
        assert invoked["predictions"] == [answer["prediction"] for answer in batch]
        for wrong in ({"kind": "mean"}, {"date": "2015-12-31"}, {"date": "2016-01-15"}):
            refused = client.post("/predict", json=samples[0] | wrong)
            assert refused.status_code == 422
        missing = client.post("/predict", json={"date": "2016-01-01"})
        assert (missing.status_code, "kind" in missing.text) == (422, True)

    # The forecasts are those of the model for all values, in the order of time.
    for kind, answers in (("low", batch[:14]), ("high", batch[14:])):
        values = two.loc[two["kind"] == kind, "temperature"].to_numpy()
        expected = models.AutoETS(season_length=7).forecast(y=values, h=14, level=[95])
        for name, key in (
            *(("prediction", "mean"), ("prediction_lower", "lo-95")),
            ("prediction_upper", "hi-95"),
        ):
            assert [one[name] for one in answers] == pytest.approx(list(expected[key]))
        assert all(one["entities"] == {"kind": kind} for one in answers)


@needs_statsforecast
def test_what_a_run_of_a_forecaster_logs(settings: Settings, two: pd.DataFrame) -> None:
    two.to_csv("two.csv", index=False)
    result = train(recipe(evaluation={"metrics": ["mae", "smape"]}), settings)
    table = pd.read_csv(artifact(result, "backtest.csv"), parse_dates=["origin", "time"])
    errors = (table["predicted"] - table["actual"]).abs()
    assert set(result.metrics) == {"test_mae", "test_smape", "baseline_mae", "baseline_smape"}
    assert result.metrics["test_mae"] == pytest.approx(errors.mean())
    assert result.comparison is not None
    # Five forecasts of each series, spread over the test part.
    assert table.groupby(["kind", "origin"])["step"].agg(list).tolist() == [list(range(1, 15))] * 10
    assert (table["origin"].min(), table["time"].max()) == (
        *(pd.Timestamp("2015-03-15"), pd.Timestamp("2015-12-31")),
    )
    known = two.assign(date=pd.to_datetime(two["date"])).set_index(["kind", "date"])["temperature"]
    actual = known[pd.MultiIndex.from_frame(table[["kind", "time"]])]
    assert actual.tolist() == table["actual"].tolist()
    assert {file.stem for file in artifact(result, "report").glob("*.png")} == {
        *("forecast", "error_by_step", "predicted_against_actual", "residuals")
    }
    assert "left out, because" not in artifact(result, "report/report.html").read_text("utf-8")
    card = artifact(result, "report/model_card.md").read_text("utf-8")
    assert "`temperature` of each `kind` up to 2015-12-31 00:00:00" in card
    assert "statsforecast" in artifact(result, "environment.json").read_text("utf-8")
    libraries = [one.name for one in load_model(of(result, settings)).libraries]
    assert "statsforecast" not in libraries  # answering does not need it


@needs_statsforecast
def test_the_backtest_forecasts_from_earlier_values_only(two: pd.DataFrame) -> None:
    """Values after the origin of a forecast are changed, and it stays the same."""
    plan = recipe(split={"train": 0.98, "test": 0.02})
    tables = []
    for change in (0, 100):
        changed = two.copy()
        changed.loc[changed["date"] >= "2015-12-03", "temperature"] += change
        changed.to_csv("two.csv", index=False)
        data = load_dataset(plan, "two.csv")
        pipeline = build_pipeline(plan, data.feature_columns, frequency=data.frequency)
        rows = split(plan, data, "two.csv")["test"]
        tables.append(backtest(pipeline, plan, data, rows, "test"))
    before, after = (table[table["origin"] == table["origin"].min()] for table in tables)
    assert before["time"].max() == pd.Timestamp("2015-12-16")
    assert before["predicted"].tolist() == after["predicted"].tolist()
    assert (after["actual"] - before["actual"]).unique().tolist() == pytest.approx([100])


@needs_statsforecast
@pytest.mark.parametrize("shares", [{}, {"train": 0.8, "validation": 0.1, "test": 0.1}])
def test_hyperparameters_are_tuned_by_backtests(
    settings: Settings, two: pd.DataFrame, shares: dict[str, float]
) -> None:
    two.to_csv("two.csv", index=False)
    tuning = {
        "tuning_enabled": True,
        "n_trials": 3,
        "optimization_metric": "mae",
        "tunable": {"window_size": {"type": "categorical", "range": [1, 7, 1000]}},
    }
    plan = recipe("statsforecast.models.WindowAverage", tuning, split=shares)
    result = train(plan, settings)
    answers = load_model(of(result, settings)).predict_example()
    assert answers is not None
    assert not answers.details  # this model gives no interval
    last = two[two["kind"] == "high"]["temperature"].tail(7)
    assert answers.values == pytest.approx([last.mean()])


@needs_statsforecast
def test_a_model_may_be_made_of_others(settings: Settings, two: pd.DataFrame) -> None:
    two.to_csv("two.csv", index=False)
    values = {
        "season_length": [7, 365],
        "trend_forecaster": {
            "class_path": "statsforecast.models.SeasonalExponentialSmoothingOptimized",
            "values": {"season_length": 7},
        },
    }
    with pytest.raises((RecipeError, TrainingError), match="seasonal models"):
        train(recipe("statsforecast.models.MSTL", {"values": values}), settings)
    values = {
        "prediction_intervals": {
            "class_path": "statsforecast.utils.ConformalIntervals",
            "values": {"h": 14, "n_windows": 2},
        }
    }
    conformal = recipe(
        "statsforecast.models.SimpleExponentialSmoothingOptimized", {"values": values}
    )
    result = train(conformal, settings)
    answers = load_model(of(result, settings)).predict_example()
    assert answers is not None
    assert list(answers.details) == ["prediction_lower", "prediction_upper"]


@needs_statsforecast
def test_a_series_that_cannot_be_forecast_is_named(settings: Settings, two: pd.DataFrame) -> None:
    short = pd.DataFrame(
        {"date": ["2015-12-30", "2015-12-31"], "kind": "mean", "temperature": [3.0, 4.0]}
    )
    pd.concat([two, short]).to_csv("two.csv", index=False)
    with pytest.raises(TrainingError) as caught:
        train(recipe(), settings)
    assert str(caught.value).startswith(
        f"{ETS} could not be fitted: the series kind mean (2 values) cannot be forecast: "
    )
    assert "encode" not in str(caught.value)


@needs_statsforecast
@pytest.mark.parametrize(
    ("class_path", "message"),
    [
        ("statsforecast.StatsForecast", "does not forecast a series from its values alone"),
        ("statsforecast.models.SklearnModel", "does not forecast a series from its values alone"),
        ("statsforecast.models.AutoEts", "has no class 'AutoEts'"),
    ],
)
def test_other_classes_of_statsforecast_are_refused(
    settings: Settings, two: pd.DataFrame, class_path: str, message: str
) -> None:
    two.to_csv("two.csv", index=False)
    values: dict[str, Any] = {
        "StatsForecast": {"models": [], "freq": "D"},
        "SklearnModel": {"model": "sklearn.linear_model.LinearRegression"},
    }
    given = values.get(class_path.rpartition(".")[2], {})
    with pytest.raises(RecipeError, match=message):
        train(recipe(class_path, {"values": given}), settings)


@pytest.mark.parametrize("library", ["sktime.forecasting.arima.AutoARIMA", "prophet.Prophet"])
def test_forecasters_of_other_libraries_are_refused(
    settings: Settings, two: pd.DataFrame, library: str
) -> None:
    two.to_csv("two.csv", index=False)
    with pytest.raises(RecipeError) as caught:
        train(recipe(library, plan={"lags": [1]}), settings)
    assert str(caught.value) == (
        f"model.class_path: forecasters of {library.partition('.')[0]} are not supported; use one "
        "of statsforecast, such as statsforecast.models.AutoARIMA, or a regressor with lags"
    )


@needs_statsforecast
def test_a_forecaster_is_only_for_time_series(settings: Settings, two: pd.DataFrame) -> None:
    two.assign(wind=1.5).to_csv("two.csv", index=False)
    content = recipe().model_dump(exclude_unset=True) | {"task_choice": "regression"}
    del content["data"]["forecasting"]
    with pytest.raises(RecipeError, match="is not for regression; set task_choice to timeseries"):
        train(Recipe.model_validate(content), settings)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"plan": {"lags": [1]}}, "data.forecasting.lags: has no meaning for"),
        ({"plan": {"strategy": "direct"}}, "data.forecasting.strategy: has no meaning for"),
        ({"plan": {"calendar": []}}, "data.forecasting.calendar: has no meaning for"),
        ({"plan": {"frequency": "rows"}}, "so it cannot be rows; name the frequency"),
        ({"evaluation": {"cross_validation": 3}}, "evaluation.cross_validation: "),
        (
            {"preprocessor": {"steps": [{"type": "standard_scaler"}]}},
            "preprocessor.steps: has no meaning for",
        ),
    ],
)
def test_keys_without_a_meaning_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        recipe(**changed)
    assert message in str(caught.value)
    assert ETS in str(caught.value)


def test_feature_columns_are_refused() -> None:
    content = recipe().model_dump(exclude_unset=True)
    content["data"]["data_interface"]["feature_columns"] = ["wind"]
    with pytest.raises(ValidationError, match=r"data_interface\.feature_columns: has no"):
        Recipe.model_validate(content)


def test_the_first_and_last_values_may_be_missing(two: pd.DataFrame) -> None:
    is_outer = two["date"].isin(["2012-01-01", "2015-12-31"])
    values = two["temperature"].mask(is_outer)
    two.assign(temperature=values, wind=1.5).to_csv("two.csv", index=False)
    data = load_dataset(recipe(), "two.csv")
    assert (len(data.features), data.dropped) == (2 * 1459, 4)
    assert list(data.features) == ["kind", "date"]
    assert data.frequency == "D"
    assert data.example == {"kind": "high", "date": "2015-12-31T00:00:00Z"}
    roles = {column.name: column.role for column in data.inspection.columns}
    assert roles["wind"] == "not used"


def test_the_example_asks_for_one_of_many_series(two: pd.DataFrame) -> None:
    """The profile does not list that many names; the example needs one nevertheless."""
    many = [two[two["kind"] == "low"].assign(kind=number) for number in range(30)]
    many.append(two[two["kind"] == "high"][:-3].assign(kind=99))
    pd.concat(many).astype({"kind": str}).replace({"kind": {"0": "zero"}}).to_csv(
        "two.csv", index=False
    )
    data = load_dataset(recipe(), "two.csv")
    assert data.example == {"kind": "zero", "date": "2016-01-01T00:00:00Z"}
    assert "values" not in data.seen["kind"]
    assert data.seen["date"]["forecast"] == ["2015-12-29T00:00:00Z", "2016-01-14T00:00:00Z"]


def _drop_days(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[~((frame["kind"] == "low") & frame["date"].between("2013-03-01", "2013-03-03"))]


def _forget_value(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(
        temperature=frame["temperature"].where(frame["date"] != "2014-05-06", np.nan)
    )


def _forget_kind(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(kind=frame["kind"].where(frame["date"] != "2014-05-06", None))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _drop_days,
            "column 'date' of kind low: 3 times are missing between others, or without a value "
            "(frequency D; the first is 2013-03-01 00:00:00)",
        ),
        (_forget_value, "column 'date' of kind high: 1 time is missing between others"),
        (_forget_kind, "the entity column 'kind' has no value in 2 rows"),
        (lambda frame: frame.drop(columns="kind"), "has no column 'kind'"),
    ],
)
def test_a_series_must_be_complete(
    two: pd.DataFrame, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    change(two).to_csv("two.csv", index=False)
    with pytest.raises(DataError) as caught:
        load_dataset(recipe(), "two.csv")
    assert message in str(caught.value)


def test_a_backtest_needs_as_many_times_as_are_forecast(two: pd.DataFrame) -> None:
    two.to_csv("two.csv", index=False)
    plan = recipe(plan={"horizon": 400})
    data = load_dataset(plan, "two.csv")
    rows = split(plan, data, "two.csv")["test"]
    with pytest.raises(DataError) as caught:
        backtest(make_forecaster(plan, RepeatedPeriod(7), "D"), plan, data, rows, "test")
    assert str(caught.value) == (
        "data.forecasting.horizon: a backtest needs 400 times, and the test part has 292; set a "
        "shorter horizon, or a larger share in data.split"
    )


def test_each_series_is_forecast_from_its_own_end() -> None:
    """Months differ in length, one series ends before the other, and keys are several columns."""
    months = pd.DataFrame(
        {
            "shop": [1] * 4 + [2] * 6,
            "item": "tea",
            "month": pd.to_datetime(
                [f"2025-{month:02}-01" for month in (*range(9, 13), *range(4, 10))]
            ),
        }
    )
    sold = np.array([1.0, 2.0, 1.0, 2.0, 5.0, 6.0, 7.0, 5.0, 6.0, 7.0])
    order = np.random.default_rng(0).permutation(len(sold))
    forecaster = SeriesForecaster(RepeatedPeriod(3), ["shop", "item"], "month", 2, "MS")
    forecaster.fit(months.iloc[order], sold[order])
    asked = pd.DataFrame(
        {
            "shop": [1, 1, 2, 2],
            "item": "tea",
            "month": pd.to_datetime(["2026-02-01", "2026-01-01", "2025-10-01", "2025-11-01"]),
        }
    )
    for one in (forecaster, pickle.loads(pickle.dumps(forecaster))):
        assert one.predict(asked).tolist() == [2, 1, 5, 6]
        assert one.predict(asked[:0]).shape == (0,)
    for wrong, message in (
        ({"shop": 3}, "the model does not know the series shop 3, item tea"),
        (
            {"month": pd.Timestamp("2026-03-01")},
            "month 2026-03-01 00:00:00 is not forecast; the forecasts of shop 1, item tea are for "
            "2026-01-01 00:00:00 to 2026-02-01 00:00:00 (frequency MS)",
        ),
        ({"month": pd.Timestamp("2026-01-02")}, "month 2026-01-02 00:00:00 is not forecast"),
        ({"month": pd.Timestamp("2025-12-01")}, "month 2025-12-01 00:00:00 is not forecast"),
    ):
        with pytest.raises(ValueError, match=r"is not forecast|does not know") as caught:
            forecaster.predict(asked[:1].assign(**wrong))
        assert message in str(caught.value)


def test_the_baseline_finds_the_period() -> None:
    values = np.tile([1.0, 5.0, 3.0, 2.0, 8.0, 6.0, 7.0], 10)
    found = RepeatedPeriod(14).forecast(values, h=9)
    assert found["mean"].tolist() == [1, 5, 3, 2, 8, 6, 7, 1, 5]
    assert RepeatedPeriod(14).forecast(values[:2], h=3)["mean"].tolist() == [5, 5, 5]
