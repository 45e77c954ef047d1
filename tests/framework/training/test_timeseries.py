"""Time series: daily temperatures of Seattle, 2012 to 2015, trained, served and compiled."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import wait_until_loaded
from fastapi.testclient import TestClient
from matplotlib.axes import Axes
from pydantic import ValidationError
from serving.api.app import create_app
from serving.config.settings import ServingSettings, Settings
from serving.contract.recipe import Recipe
from serving.data.series import arrange
from serving.errors import DataError, RecipeError, ServingError
from serving.forecasting import SeriesFeatures
from serving.model.loading import load_model
from serving.training.baseline import SeasonalNaive
from serving.training.data import load_dataset
from serving.training.splitting import folds, split
from serving.training.trainer import TrainingResult, train

SEATTLE = Path(__file__).parents[2] / "data" / "seattle.csv"
LINEAR = "sklearn.linear_model.LinearRegression"
TREES = "sklearn.ensemble.HistGradientBoostingRegressor"
PLAN: dict[str, Any] = {
    "lags": [1, 2, 7],
    "rolling": [{"window": 7, "statistics": ["mean", "std"]}],
    "calendar": ["month", "dayofweek"],
}


@pytest.fixture(scope="module")
def seattle() -> pd.DataFrame:
    return pd.read_csv(SEATTLE, parse_dates=["date"])


@pytest.fixture(scope="module")
def two(seattle: pd.DataFrame) -> pd.DataFrame:
    """Two series: the highest and the lowest temperature of each day."""
    return seattle.melt("date", ["high", "low"], "kind", "temperature")


@pytest.fixture(scope="module")
def settings(local_store: Settings) -> Settings:
    return local_store


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def recipe(
    plan: dict[str, Any] | None = None,
    class_path: str = LINEAR,
    values: dict[str, Any] | None = None,
    *,
    data: dict[str, Any] | None = None,
    evaluation: dict[str, Any] | None = None,
    steps: list[dict[str, Any]] | None = None,
    compiled: bool = False,
    **interface: Any,
) -> Recipe:
    roles = {"target_column": "high", "timestamp_column": "date", "feature_columns": []}
    return Recipe.model_validate(
        {
            "name": "temperatures",
            "task_choice": "timeseries",
            "data": {
                "loader": {"source_uri": str(SEATTLE)},
                "data_interface": roles | interface,
                "forecasting": PLAN if plan is None else plan,
                **(data or {}),
            },
            "preprocessor": {"steps": steps or []},
            "model": {
                "class_path": class_path,
                "hyperparameters": {"values": values or {}},
                "compile": compiled,
            },
            "evaluation": evaluation or {},
        }
    )


KINDS: dict[str, Any] = {"entity_columns": ["kind"], "target_column": "temperature"}


def of(result: TrainingResult, settings: Settings, **serving: Any) -> Settings:
    chosen = ServingSettings(model_run_id=result.run_id, **serving)
    return settings.model_copy(update={"serving": chosen})


def artifact(result: TrainingResult, name: str) -> Path:
    assert result.report is not None
    return result.report.parent.parent / name


def past_of(frame: pd.DataFrame, row: int, count: int) -> list[float]:
    return frame["high"].tolist()[row - count : row]


@pytest.mark.parametrize(
    ("plan", "class_path"),
    [
        ({"horizon": 1}, TREES),
        ({"horizon": 3}, TREES),
        ({"horizon": 3}, LINEAR),
        ({"horizon": 3, "strategy": "recursive"}, TREES),
        ({"horizon": 3, "strategy": "recursive", "frequency": "D"}, LINEAR),
    ],
)
def test_a_forecast_is_trained_served_and_compiled(
    settings: Settings, seattle: pd.DataFrame, plan: dict[str, Any], class_path: str
) -> None:
    values = {"max_iter": 15} if class_path == TREES else {}
    steps = [{"type": "standard_scaler"}]
    result = train(recipe(PLAN | plan, class_path, values, steps=steps, compiled=True), settings)
    assert result.compiled is not None
    assert result.compiled.startswith("yes"), result.compiled
    horizon = plan["horizon"]
    answers = {}
    for engine in ("native", "onnx"):
        with TestClient(create_app(of(result, settings, engine=engine))) as client:
            wait_until_loaded(client)
            schemas = client.get("/openapi.json").json()["components"]["schemas"]
            request = schemas["PredictionRequest"]
            assert set(request["properties"]) == {"date", "history"}
            history = request["properties"]["history"]
            assert (history["minItems"], history["maxItems"]) == (7, 7)
            assert history["description"].startswith(
                "The 7 values of high before date, the oldest first; -1.6 to 35.6 in training"
            )
            assert client.post("/predict", json=request["example"]).status_code == 200
            rows = range(1_200, 1_300)
            samples = [
                {"date": str(seattle["date"][row].date()), "history": past_of(seattle, row, 7)}
                for row in rows
            ]
            batch = client.post("/predict/batch", json={"samples": samples}).json()["predictions"]
            one = client.post("/predict", json=samples[7]).json()
            assert one["prediction"] == pytest.approx(batch[7]["prediction"])
            records = [
                {"date": sample["date"]}
                | {f"high_lag_{7 - i}": value for i, value in enumerate(sample["history"])}
                for sample in samples
            ]
            invoked = client.post("/invocations", json={"dataframe_records": records}).json()
            assert invoked["predictions"] == [answer["prediction"] for answer in batch]
            answers[engine] = [answer["prediction"] for answer in batch]
    if horizon > 1:
        assert list(answers["onnx"][0]) == ["step_1", "step_2", "step_3"]
    first = [one["step_1"] if horizon > 1 else one for one in answers["native"]]
    assert np.corrcoef(first, seattle["high"][1_200:1_300])[0, 1] > 0.7
    for ours, theirs in zip(answers["native"], answers["onnx"], strict=True):
        assert ours == pytest.approx(theirs)


def test_the_backtest_is_what_the_metrics_say(settings: Settings, seattle: pd.DataFrame) -> None:
    result = train(recipe(PLAN | {"horizon": 3}), settings)
    table = pd.read_csv(artifact(result, "backtest.csv"), parse_dates=["origin", "time"])
    errors = (table["predicted"] - table["actual"]).abs()
    assert errors.mean() == pytest.approx(result.metrics["test_mae"])
    assert list(table["step"].unique()) == [1, 2, 3]
    assert (table["time"] == table["origin"] + pd.to_timedelta(table["step"] - 1, unit="D")).all()
    known = seattle.set_index("date")["high"]
    assert (known[table["time"]].to_numpy() == table["actual"]).all()
    assert result.metrics["test_mae"] < result.metrics["baseline_mae"]
    assert {file.name for file in artifact(result, "report").glob("*.png")} == {
        *("forecast.png", "error_by_step.png", "predicted_against_actual.png", "residuals.png")
    }
    page = artifact(result, "report/report.html").read_text(encoding="utf-8")
    assert "high_lag_7 to high_lag_1" in page
    assert "left out, because" not in page
    card = artifact(result, "report/model_card.md").read_text(encoding="utf-8")
    assert "the next 3 values of `high`, from the 7 values before" in card


def test_recursion_feeds_predictions_back(settings: Settings, seattle: pd.DataFrame) -> None:
    step = load_model(of(train(recipe(), settings), settings))
    several = load_model(
        of(train(recipe(PLAN | {"horizon": 3, "strategy": "recursive"}), settings), settings)
    )

    def predict(model: Any, day: int, history: list[float]) -> Any:
        sample = {"date": str(seattle["date"][day].date()), "history": history}
        [answer] = model.answer([model.request_schema.model_validate(sample)])
        return answer.model_dump(by_alias=True)["prediction"]

    # The two models were fitted on nearly the same rows: three steps need two more at the end.
    history, found = past_of(seattle, 700, 7), []
    for ahead in range(3):
        found.append(predict(step, 700 + ahead, history))
        history = [*history[1:], found[-1]]
    whole = predict(several, 700, past_of(seattle, 700, 7))
    assert list(whole.values()) == pytest.approx(found, abs=0.05)


def test_features_are_those_of_pandas(seattle: pd.DataFrame) -> None:
    past = pd.DataFrame({f"high_lag_{lag}": seattle["high"].shift(lag) for lag in range(9, 0, -1)})
    rows = pd.concat([seattle, past], axis=1).dropna()
    statistics = ("mean", "std", "min", "max")
    parts = ("year", "quarter", "month", "day", "dayofyear", "dayofweek", "hour", "minute")
    features = SeriesFeatures(
        "high",
        list(past.columns),
        "date",
        kept=["low"],
        lags=[1, 9],
        rolling=[(4, statistic) for statistic in statistics],
        calendar=[*parts, "is_weekend"],
    )
    found = features.fit(rows).transform(rows)
    assert list(found.columns[:4]) == ["low", "high_lag_1", "high_lag_9", "high_rolling_mean_4"]
    windows = seattle["high"].shift(1).rolling(4)
    for statistic in statistics:
        options = {"ddof": 0} if statistic == "std" else {}
        expected = getattr(windows, statistic)(**options)[rows.index]
        assert found[f"high_rolling_{statistic}_4"].to_numpy() == pytest.approx(
            expected.to_numpy(), abs=1e-6
        )
    for part in parts:
        assert (found[part] == getattr(rows["date"].dt, part)).all()
    assert (found["is_weekend"] == rows["date"].dt.dayofweek.isin([5, 6])).all()


def test_no_later_value_is_in_an_earlier_part(two: pd.DataFrame, tmp_path: Path) -> None:
    """Both series are divided at the same days; a forecast does not lead into the next part."""
    two.to_csv("two.csv", index=False)
    shares = {"train": 0.6, "validation": 0.2, "test": 0.2}
    plan = recipe(PLAN | {"horizon": 5}, data={"split": shares}, **KINDS)
    data = load_dataset(plan, "two.csv")
    assert data.time is not None
    parts = split(plan, data, "two.csv")
    days = pd.Timedelta(days=1)
    for earlier, later in (("train", "validation"), ("validation", "test")):
        last, first = data.time[parts[earlier]].max(), data.time[parts[later]].min()
        assert last + 5 * days == first
        assert data.entities.loc[parts[later], "kind"].nunique() == 2
    assert len(parts["test"]) == 2 * round(0.2 * data.time.nunique())
    divided = folds(plan, data, parts["train"], 4)
    assert len(divided) == 4
    time = data.time[parts["train"]].reset_index(drop=True)
    for fit, test in divided:
        assert time[fit].max() + 5 * days == time[test].min()


def test_weeks_are_compiled_from_any_day(settings: Settings, seattle: pd.DataFrame) -> None:
    days = pd.date_range("2010-01-03", periods=300, freq="W")
    frame = pd.DataFrame({"date": days, "high": seattle["high"][:300]})
    frame.to_csv("weeks.csv", index=False)
    plan = PLAN | {"horizon": 3, "strategy": "recursive", "calendar": ["dayofyear", "month"]}
    result = train(recipe(plan, compiled=True), settings, Path("weeks.csv"))
    assert result.compiled is not None
    assert result.compiled.startswith("yes"), result.compiled


@pytest.mark.parametrize("kind", ["rows", "2h"])
def test_series_of_other_times_do_not_leak_either(seattle: pd.DataFrame, kind: str) -> None:
    """A weekly and a daily series; and two series of which one has the odd hours."""
    one = seattle.rename(columns={"high": "temperature"}).assign(kind="one")
    if kind == "rows":
        other = one[one["date"].dt.dayofweek == 0].assign(kind="other")
    else:
        one["date"] = pd.date_range("2012-01-01", periods=len(one), freq="2h")
        other = one.assign(kind="other", date=one["date"] + pd.Timedelta(hours=1))
    pd.concat([one, other]).to_csv("two.csv", index=False)
    plan = recipe(PLAN | {"horizon": 6, "frequency": kind}, **KINDS)
    data = load_dataset(plan, "two.csv")
    assert data.time is not None
    assert data.until is not None
    for group, times in (("one", one["date"]), ("other", other["date"])):
        rows = data.entities["kind"] == group
        last = dict(zip(times[:-5], times[5:], strict=True))
        assert (data.time[rows].map(last) == data.until[rows]).all()
    parts = split(plan, data, "two.csv")
    assert data.until[parts["train"]].max() < data.time[parts["test"]].min()
    assert set(data.entities.loc[parts["train"], "kind"]) == {"one", "other"}
    time, until = data.time[parts["train"]].to_numpy(), data.until[parts["train"]].to_numpy()
    for fit, test in folds(plan, data, parts["train"], 3):
        assert until[fit].max() < time[test].min()


def test_the_longest_series_gives_the_frequency(two: pd.DataFrame) -> None:
    """In any order of the table; a series that is not learned from is named."""
    short = two[two["kind"] == "low"].iloc[[1, 2, 3, 4]]
    long = two[(two["kind"] == "high") & (two["date"].dt.dayofweek < 5)]
    for frame in (pd.concat([short, long]), pd.concat([long, short])):
        rows = arrange(recipe(**KINDS), frame, "f")
        assert rows.frequency == "B"
        assert set(rows.frame["kind"]) == {"high"}
        assert "1 series is not learned from" in rows.warnings[-1]
        assert rows.warnings[-1].endswith("the first is that of kind low")


def test_missing_holidays_are_the_reason_that_is_told(seattle: pd.DataFrame) -> None:
    working = seattle[seattle["date"].dt.dayofweek < 5].drop(index=[8, 22])
    with pytest.raises(DataError, match="times of the frequency D have no value"):
        arrange(recipe(), working, "f")


def test_the_plot_of_rows_shows_the_first_step(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[Any, int]] = []
    plot = Axes.plot

    def spy(self: Axes, *values: Any, **options: Any) -> Any:
        if options.get("label") in ("predicted", "actual"):
            drawn.append((options["label"], len(values[0])))
        return plot(self, *values, **options)

    monkeypatch.setattr(Axes, "plot", spy)
    result = train(recipe(PLAN | {"horizon": 3, "frequency": "rows"}), settings)
    assert drawn == [(label, result.rows["test"]) for label in ("actual", "predicted")]


def test_each_series_has_its_own_history(two: pd.DataFrame) -> None:
    shuffled = two.sample(frac=1, random_state=0)
    rows = arrange(recipe(PLAN | {"horizon": 2}, **KINDS), shuffled, "two.csv")
    assert len(rows.frame) == 2 * (1_461 - 7 - 1)
    assert (rows.frequency, rows.dropped, rows.warnings) == ("D", 0, [])
    for kind, one in two.groupby("kind"):
        found = rows.frame[rows.frame["kind"] == kind]
        values = one["temperature"].to_numpy()
        assert (found["temperature_lag_7"].to_numpy() == values[: len(found)]).all()
        assert (found["temperature_lag_1"].to_numpy() == values[6 : 6 + len(found)]).all()
        assert isinstance(rows.target, pd.DataFrame)
        steps = rows.target.loc[found.index]
        assert (steps["step_2"].to_numpy() == values[8 : 8 + len(found)]).all()


def test_rows_next_to_a_gap_are_left_out_and_told(seattle: pd.DataFrame) -> None:
    gaps = seattle.drop(index=[100, 500])
    gaps.loc[900, "high"] = np.nan
    rows = arrange(recipe(), gaps, "gaps.csv")
    # Each gap takes its own row, and the seven whose history it is in.
    assert len(rows.frame) == 1_461 - 7 - 3 * 8
    assert rows.dropped == 1
    [warning] = rows.warnings
    assert "3 times are missing between others, or without a value (frequency D; the" in warning
    assert "the first is 2012-04-10 00:00:00" in warning
    assert "and 1,430 rows remain" in warning
    counted = arrange(recipe(PLAN | {"frequency": "rows"}), gaps, "gaps.csv")
    assert len(counted.frame) == 1_459 - 7 - 8
    assert counted.frequency is None
    assert "1 time is missing between others, or without a value" in counted.warnings[0]


@pytest.mark.parametrize("strategy", ["direct", "recursive"])
def test_gaps_of_the_history_are_filled(
    settings: Settings, seattle: pd.DataFrame, strategy: str
) -> None:
    gaps = seattle.drop(index=[100, 101, 500])
    gaps.loc[900, "high"] = np.nan
    gaps.to_csv("gaps.csv", index=False)
    plan = recipe(
        PLAN | {"horizon": 2, "strategy": strategy},
        steps=[{"type": "forward_fill"}, {"type": "standard_scaler"}],
        compiled=True,
    )
    values = gaps.set_index("date")["high"].reindex(seattle["date"]).to_numpy()
    positions = range(7, len(values) - 1)
    usable = [i for i in positions if np.isfinite(values[[i - 7, i, i + 1]]).all()]
    assert len(arrange(plan, gaps, "gaps.csv").frame) == len(usable)
    result = train(plan, settings, Path("gaps.csv"))
    assert result.compiled is not None
    assert result.compiled.startswith("yes"), result.compiled
    found = []
    for engine in ("native", "onnx"):
        model = load_model(of(result, settings, engine=engine))
        samples = [
            {"date": "2016-01-01", "history": history}
            for history in ([1.0, None, 3.0, 4.0, None, None, 7.0], [1.0, 1, 3.0, 4.0, 4, 4, 7])
        ]
        bodies = [json.dumps(one) for one in samples]
        answers = model.answer([model.request_schema.model_validate_json(one) for one in bodies])
        with_gaps, without = (one.model_dump(by_alias=True)["prediction"] for one in answers)
        assert with_gaps == without
        found.append(list(without.values()))
    assert found[0] == pytest.approx(found[1])


@pytest.mark.parametrize(
    ("unit", "frequency"), [("h", "h"), ("D", "D"), ("7D", "W-SUN"), ("MS", "MS"), ("QS", "QS-JAN")]
)
def test_the_frequency_is_found(seattle: pd.DataFrame, unit: str, frequency: str) -> None:
    times = pd.date_range("2012-01-01", periods=60, freq=unit)
    frame = pd.DataFrame({"date": times, "high": seattle["high"][:60]})
    assert arrange(recipe(), frame, "f").frequency == frequency


def test_the_baseline_finds_the_season() -> None:
    history = [f"lag_{lag}" for lag in range(14, 0, -1)]
    waves = np.sin(np.arange(200) * 2 * np.pi / 7) + np.arange(200) % 2 * 0.01
    windows = np.lib.stride_tricks.sliding_window_view(waves, 14 + 3)
    rows = pd.DataFrame(windows[:, :14], columns=history)
    naive = SeasonalNaive(history, 3).fit(rows, windows[:, 14:])
    assert naive.period_ in (7, 14)
    assert np.abs(naive.predict(rows) - windows[:, 14:]).max() < 0.02


def test_the_defaults_are_the_features_of_modern_ml_pipeline() -> None:
    plan = Recipe.model_validate(
        {
            "name": "default",
            "task_choice": "timeseries",
            "data": {"data_interface": {"target_column": "high", "timestamp_column": "date"}},
            "model": {"class_path": LINEAR},
        }
    )
    assert plan.forecasting.lags == [1, 2, 3, 7, 14]
    assert plan.history_columns[0] == "high_lag_14"
    data = load_dataset(plan, SEATTLE)
    assert [column.name for column in data.feature_columns][-2:] == ["high_lag_1", "low"]


def test_tuning_and_folds_work_as_for_other_tasks(settings: Settings) -> None:
    plan = recipe(evaluation={"cross_validation": 3}).model_dump(exclude_unset=True)
    plan["model"] = {
        "class_path": "sklearn.linear_model.Ridge",
        "hyperparameters": {
            "tuning_enabled": True,
            "n_trials": 2,
            "tunable": {"alpha": {"type": "float", "range": [0.1, 10.0]}},
        },
    }
    results = [train(Recipe.model_validate(plan), settings) for _ in range(2)]
    assert results[0].metrics == results[1].metrics
    assert 1 < results[0].metrics["cv_mae_mean"] < 4


def test_mistakes_in_requests_are_named(settings: Settings) -> None:
    result = train(recipe(), settings)
    with TestClient(create_app(of(result, settings))) as client:
        wait_until_loaded(client)
        right = {"date": "2016-01-01", "history": [1.0, 2, 3, 4, 5, 6, 7]}
        assert client.post("/predict", json=right).status_code == 200
        for wrong, detail in (
            ({"history": [1, 2]}, "history: must have at least 7 items"),
            ({"history": [1] * 8}, "history: must have at most 7 items"),
            ({"history": 1}, "history: must be an array"),
            ({"history": [1, 2, 3, None, 5, 6, 7]}, "history/3: must not be null"),
            ({"history": [1, 2, 3, "4", 5, 6, 7]}, "history/3: must be a valid number"),
            ({"date": "yesterday"}, "date: must be an RFC 3339 date-time"),
            ({"high": 1}, "high: is the target, which the model predicts; leave it out"),
            ({"high_lag_7": 1}, "high_lag_7: is item 0 of history, counted from 0; send that"),
        ):
            answer = client.post("/predict", json=right | wrong)
            assert answer.status_code == 422
            assert answer.json()["detail"].startswith(detail), answer.text


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"data": {"split": {"strategy": "random"}}}, "a time series is split by time"),
        ({"data": {"split": {"temporal_column": "low"}}}, "must be the timestamp_column, 'date'"),
        ({"plan": {"lags": [0]}}, "must be from 1 (the last value) to 1000 (is 0)"),
        ({"entity_columns": ["date"]}, "'date' is the timestamp_column"),
        (
            {"plan": {"horizon": 2, "strategy": "recursive", "lags": [], "rolling": []}},
            "strategy recursive needs lags or rolling",
        ),
        ({"plan": {"horizon": 0}}, "greater than or equal to 1"),
        ({"plan": {"calendar": ["moon"]}}, "'year', 'quarter', 'month'"),
        ({"steps": [{"type": "forward_fill", "columns": ["low"]}]}, "fills the history of 'high'"),
        ({"timestamp_column": None}, "timestamp_column: is required for the task timeseries"),
    ],
)
def test_a_wrong_recipe_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as failure:
        recipe(**keys)
    assert message in str(failure.value)


def test_only_time_series_have_a_horizon() -> None:
    content = recipe().model_dump(exclude_unset=True) | {"task_choice": "regression"}
    with pytest.raises(ValidationError, match="is only for the task timeseries, not regression"):
        Recipe.model_validate(content)


@pytest.mark.parametrize(
    ("changes", "keys", "error", "message"),
    [
        ({"date": "not a day"}, {}, DataError, "must hold a date or a date-time in every row"),
        ({"date": None}, {}, DataError, "'date' has missing values"),
        ({"high": "warm"}, {}, DataError, "is a string; a time series needs numbers"),
        ({"history": 1}, {"feature_columns": None}, DataError, "'history' has the name of the"),
        ({"high_lag_1": 1}, {}, DataError, "'high_lag_1' has the name of a lag that is made"),
        ({"month": 1}, {"feature_columns": None}, RecipeError, "'month' is also a feature column"),
        ({}, {"plan": {"lags": [], "rolling": [], "calendar": []}}, DataError, "no column is left"),
        ({}, {"plan": PLAN | {"horizon": 900, "lags": [900]}}, DataError, "the longest series has"),
        ({}, {"plan": PLAN | {"frequency": "often"}}, RecipeError, "is not a frequency of pandas"),
        (
            {},
            {"plan": PLAN | {"frequency": "MS"}},
            RecipeError,
            "'MS' does not fit: date 2012-01-02 00:00:00 is none of its times",
        ),
        ({}, {"plan": PLAN | {"frequency": "0D"}}, RecipeError, "is not a frequency of pandas"),
        ({}, {"plan": PLAN | {"frequency": "us"}}, DataError, "times of the frequency us, and"),
        ({"step": 1}, {"entity_columns": ["step"]}, DataError, "has the name of a column of back"),
        (
            {"high_rolling_mean_7": 1},
            {"feature_columns": ["high_rolling_mean_7"]},
            RecipeError,
            "data.forecasting.rolling: 'high_rolling_mean_7' is also a feature column",
        ),
        (
            {},
            {"plan": PLAN | {"horizon": 2, "strategy": "recursive"}, "feature_columns": ["low"]},
            RecipeError,
            "recursive needs the later values of 'low'",
        ),
        (
            {},
            {"plan": PLAN | {"horizon": 2, "strategy": "recursive", "frequency": "rows"}},
            RecipeError,
            "so it cannot be rows",
        ),
        (
            {},
            {"data": {"split": {"train": 0.9999, "test": 0.0001}}},
            DataError,
            "has 1454 times from which all 1",
        ),
        ({}, {"class_path": "sklearn.linear_model.LogisticRegression"}, RecipeError, "is not for"),
    ],
)
def test_a_mistake_is_one_sentence(
    settings: Settings,
    seattle: pd.DataFrame,
    changes: dict[str, Any],
    keys: dict[str, Any],
    error: type[ServingError],
    message: str,
) -> None:
    frame = seattle.astype({"date": "object", "high": "object"})
    for name, value in changes.items():
        if name in frame:
            frame.loc[5, name] = value
        else:
            frame[name] = value
    frame.to_csv("wrong.csv", index=False)
    with pytest.raises(error) as failure:
        train(recipe(**keys), settings, Path("wrong.csv"))
    assert message in str(failure.value)
    assert "\n" not in str(failure.value)


def test_series_are_told_apart(settings: Settings, two: pd.DataFrame) -> None:
    two.to_csv("two.csv", index=False)
    with pytest.raises(DataError, match="is there more than once; if there are several series"):
        train(recipe(target_column="temperature"), settings, Path("two.csv"))
    two.assign(id=range(len(two))).to_csv("ids.csv", index=False)
    with pytest.raises(DataError, match="must name what tells the series apart"):
        train(recipe(**KINDS | {"entity_columns": ["id"]}), settings, Path("ids.csv"))
    irregular = two[two["kind"] == "low"].sample(300, random_state=0)
    irregular.to_csv("some.csv", index=False)
    with pytest.raises(RecipeError, match="is not always the same; set it"):
        train(recipe(**KINDS), settings, Path("some.csv"))
