"""Tuning, cross-validation, calibration and the baseline, from the recipe to MLflow."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import RECIPE
from pydantic import ValidationError
from serving.config.settings import MLflowSettings, ServingSettings, Settings
from serving.contract.recipe import Recipe, load_recipe
from serving.errors import DataError, RecipeError, TrainingError, TrainingStopped
from serving.model.loading import load_model
from serving.training.trainer import train
from serving.training.tuning import tune
from sklearn.datasets import load_breast_cancer, load_diabetes

BIOPSIES, PATIENTS = Path("biopsies.csv"), Path("patients.csv")
FOREST = "sklearn.ensemble.RandomForestClassifier"
LOGISTIC = "sklearn.linear_model.LogisticRegression"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """One store and its data for this module."""
    store = tmp_path_factory.mktemp("store")
    tumours = load_breast_cancer(as_frame=True).frame
    tumours["target"] = tumours["target"].map({0: "malignant", 1: "benign"})
    tumours.to_csv(store / BIOPSIES, index=False)
    load_diabetes(as_frame=True).frame.to_csv(store / PATIENTS, index=False)
    return Settings(mlflow=MLflowSettings(tracking_uri=f"sqlite:///{store / 'mlflow.db'}"))


@pytest.fixture(autouse=True)
def _beside_the_store(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(settings.mlflow.tracking_uri.removeprefix("sqlite:///")).parent)


def recipe(
    class_path: str = LOGISTIC,
    hyperparameters: dict[str, Any] | None = None,
    *,
    task: str = "classification",
    split: dict[str, Any] | None = None,
    calibration: dict[str, Any] | None = None,
    **evaluation: Any,
) -> Recipe:
    return Recipe.model_validate(
        RECIPE
        | {
            "task_choice": task,
            "data": {"data_interface": {"target_column": "target"}, "split": split},
            "preprocessor": {"steps": [{"type": "standard_scaler"}]},
            "model": {
                "class_path": class_path,
                "hyperparameters": hyperparameters,
                "calibration": calibration,
            },
            "evaluation": evaluation,
        }
    )


def tuned(tunable: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {"tuning_enabled": True, "n_trials": 4, "tunable": tunable} | others


def runs_below(run_id: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_runs(
        [experiment], f"tags.`mlflow.parentRunId` = '{run_id}'", order_by=["start_time"]
    )
    return list(found)


def logged(run_id: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient().get_run(run_id).data


C = {"type": "float", "range": ["1e-3", 10], "log": True}  # YAML reads 1e-3 as text


def test_the_best_trial_is_fitted_and_logged(settings: Settings) -> None:
    plan = recipe(
        hyperparameters=tuned({"C": C}, fixed={"max_iter": 300}, optimization_metric="log_loss"),
        split={"train": 0.6, "validation": 0.2, "test": 0.2},
    )
    result = train(plan, settings, BIOPSIES)
    trials = runs_below(result.run_id)
    losses = {run.data.params["C"]: run.data.metrics["log_loss"] for run in trials}
    assert [run.info.run_name for run in trials] == [f"trial {n}" for n in (1, 2, 3, 4)]
    assert all(set(run.data.params) == {"C"} for run in trials)
    parent = logged(result.run_id)
    assert parent.params["C"] == min(losses, key=lambda c: losses[c])
    assert parent.params["max_iter"] == "300"
    assert parent.metrics["tuning_log_loss"] == min(losses.values())
    assert parent.metrics["tuning_trials"] == 4
    # The final model is that of the best trial.
    assert result.metrics["validation_log_loss"] == pytest.approx(min(losses.values()))
    assert all(1e-3 <= float(c) <= 10 for c in losses)


def test_without_a_validation_part_trials_are_cross_validated(settings: Settings) -> None:
    depth = {"type": "int", "range": [1, 6]}
    plan = recipe(
        "sklearn.tree.DecisionTreeRegressor",
        tuned({"max_depth": depth}),
        task="regression",
        cross_validation=3,
    )
    result = train(plan, settings, PATIENTS)
    parent = logged(result.run_id)
    assert parent.metrics["tuning_r2"] == pytest.approx(parent.metrics["cv_r2_mean"])
    assert parent.metrics["tuning_r2"] == max(
        run.data.metrics["r2"] for run in runs_below(result.run_id)
    )
    assert int(parent.params["max_depth"]) in range(1, 7)


def test_trials_that_fail_are_told_and_skipped(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    solver = {"type": "categorical", "range": ["lbfgs", "nope"]}
    result = train(recipe(hyperparameters=tuned({"solver": solver})), settings, BIOPSIES)
    assert logged(result.run_id).params["solver"] == "lbfgs"
    states = [run.info.status for run in runs_below(result.run_id)]
    assert set(states) == {"FINISHED", "FAILED"}
    assert "of 4 failed and is skipped: The 'solver' parameter of Logistic" in caplog.text

    plan = recipe(hyperparameters=tuned({"solver": solver | {"range": ["nope", "no"]}}))
    with pytest.raises(TrainingError, match="all trials failed: The 'solver' parameter of Logis"):
        train(plan, settings, BIOPSIES)


def test_a_failing_trial_shows_no_value_of_the_environment(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import yaml

    monkeypatch.setenv("SOLVER", "hunter2-the-solver")
    plan = recipe(hyperparameters=tuned({"C": C}, fixed={"solver": "${SOLVER}"}))
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(plan.as_written()), encoding="utf-8")
    with pytest.raises(TrainingError, match=r"Got '\${SOLVER}' instead"):
        train(load_recipe(file), settings, BIOPSIES)
    assert "hunter2" not in caplog.text


def test_ctrl_c_keeps_the_best_trial_so_far(caplog: pytest.LogCaptureFixture) -> None:
    scores = [0.5, 0.75, 0.25]
    asked = []

    def attempt(number: int, values: Any) -> float:
        asked.append(values["C"])
        if number > len(scores):
            raise KeyboardInterrupt
        return scores[number - 1]

    plan = recipe(hyperparameters=tuned({"C": C}, n_trials=9))
    best = tune(plan, attempt)
    assert (best.values, best.score, best.complete) == ({"C": asked[1]}, 0.75, 3)
    assert "tuning was stopped in trial 4 of 9; the best trial so far is used" in caplog.text

    def stopped(number: int, values: Any) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(plan, stopped)


def test_no_trial_starts_after_the_timeout() -> None:
    best = tune(recipe(hyperparameters=tuned({"C": C}, timeout=1e-9)), lambda *_: 1.0)
    assert best.complete == 1


def test_a_loss_is_minimized() -> None:
    losses = iter([3.0, 1.0, 2.0, 4.0])
    plan = recipe(hyperparameters=tuned({"C": C}, optimization_metric="log_loss"))
    assert tune(plan, lambda *_: next(losses)).score == 1.0


NOT_TUNED = {"tunable": {"C": C}}


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        (NOT_TUNED, "tunable needs tuning_enabled: true; without tuning, give values"),
        ({"fixed": {"C": 1}}, "fixed needs tuning_enabled: true"),
        ({"tuning_enabled": True}, "tuning_enabled needs tunable, the hyperparameters to search"),
        (tuned({"C": C}, values={"C": 1}), "'C' is in values and in tunable; give it once"),
        (
            tuned({"C": C}, values={"tol": 1}, fixed={"tol": 1}),
            "'tol' is in values and in fixed; give it once",
        ),
        (tuned({"C": C | {"range": [10, 1]}}), "range [10.0, 1.0] is reversed"),
        (tuned({"C": C | {"range": [0, 1]}}), "log needs a range above 0"),
        (tuned({"C": C | {"range": [1, 2, 3]}}), "range must be two numbers"),
        (tuned({"C": C | {"range": ["a", 3]}}), "range must be two numbers"),
        (tuned({"C": C | {"range": [1, ".inf"]}}), "range must be two "),
        (tuned({"C": {"type": "int", "range": [1, 2.5]}}), "must be two integers"),
        (tuned({"C": {"type": "categorical", "range": []}}), "at least 1 item"),
        (tuned({"C": {"type": "categorical", "range": [1], "log": True}}), "log is only for"),
        (tuned({"C": {"type": "number", "range": [1, 2]}}), "'float', 'int' or 'categorical'"),
        (tuned({"C": C}, n_trials=0), "greater than or equal to 1"),
        (tuned({"C": C}, timeout=0), "greater than 0"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused(
    hyperparameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        recipe(hyperparameters=hyperparameters)
    assert message in str(caught.value)


def test_an_unknown_key_of_a_range_is_named(tmp_path: Path) -> None:
    import yaml

    plan = recipe(hyperparameters=tuned({"C": C})).as_written()
    plan["model"]["hyperparameters"]["tunable"]["C"]["lower"] = 1
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(plan), encoding="utf-8")
    with pytest.raises(RecipeError, match=r"tunable\.C\.lower: unknown key; known keys: type, "):
        load_recipe(file)


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        (tuned({"c": C}), "model.hyperparameters.tunable.c: LogisticRegression has no such"),
        (tuned({"C": C}, fixed={"iter": 1}), "model.hyperparameters.fixed.iter: LogisticRegr"),
        (
            tuned({"C": C}, optimization_metric="rmse"),
            "model.hyperparameters.optimization_metric: 'rmse' is unknown for classification",
        ),
    ],
)
def test_a_search_for_what_there_is_not_is_refused(
    settings: Settings, hyperparameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        train(recipe(hyperparameters=hyperparameters), settings, BIOPSIES)
    assert str(caught.value).startswith(message)


def test_a_metric_of_probabilities_needs_a_model_that_gives_them(settings: Settings) -> None:
    machine = "sklearn.svm.LinearSVC"
    search = tuned({"C": C}, optimization_metric="roc_auc")
    for plan in (recipe(machine, search), recipe(machine, metrics=["roc_auc"])):
        with pytest.raises(RecipeError, match="'roc_auc' needs probabilities, which LinearSVC"):
            train(plan, settings, BIOPSIES)


def test_cross_validation_logs_mean_and_spread(settings: Settings) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score, train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    result = train(recipe(cross_validation=4), settings, BIOPSIES)
    frame = pd.read_csv(BIOPSIES)
    rows, _ = train_test_split(
        frame.index, test_size=114, random_state=42, stratify=frame["target"]
    )
    scores = cross_val_score(
        make_pipeline(StandardScaler(), LogisticRegression(random_state=42)),
        frame.iloc[rows, :-1],
        frame.iloc[rows, -1],
        cv=StratifiedKFold(4, shuffle=True, random_state=42),
        scoring="f1_weighted",
    )
    metrics = logged(result.run_id).metrics
    assert metrics["cv_f1_weighted_mean"] == pytest.approx(scores.mean())
    assert metrics["cv_f1_weighted_std"] == pytest.approx(scores.std())
    assert result.rows == {"train": 455, "test": 114}  # the final fit has all of the train part


@pytest.mark.parametrize("seed", [{}, {"random_state": None}])
def test_a_seed_gives_the_same_model_twice(settings: Settings, seed: dict[str, Any]) -> None:
    """A forest without a seed differs from fit to fit; null in the recipe asks for this."""
    plan = recipe(
        FOREST, {"values": {"n_estimators": 5} | seed}, cross_validation=2, random_state=7
    )
    results = [train(plan, settings, BIOPSIES) for _ in range(2)]
    first, second = (probabilities(settings, result.run_id) for result in results)
    assert np.array_equal(first, second) is not bool(seed)
    assert (results[0].metrics == results[1].metrics) is not bool(seed)


def probabilities(settings: Settings, run_id: str) -> np.ndarray:
    """What the model of a run answers for all rows, shape (rows, classes)."""
    serving = ServingSettings(model_run_id=run_id)
    engine = load_model(settings.model_copy(update={"serving": serving})).engine
    features = pd.read_csv(BIOPSIES).drop(columns="target")
    found = engine.predict({name: features[name].to_numpy() for name in features}).probabilities
    assert found is not None
    return found


def test_tuning_repeats_itself(settings: Settings) -> None:
    depth = {"type": "int", "range": [1, 9]}
    plan = recipe(FOREST, tuned({"max_depth": depth}, n_trials=3, fixed={"n_estimators": 5}))
    first, second = (train(plan, settings, BIOPSIES) for _ in range(2))
    assert first.metrics == second.metrics
    depths = [
        [run.data.params["max_depth"] for run in runs_below(result.run_id)]
        for result in (first, second)
    ]
    assert depths[0] == depths[1]


CALIBRATED = {"train": 0.5, "calibration": 0.25, "test": 0.25}


@pytest.mark.parametrize("method", ["sigmoid", "isotonic"])
@pytest.mark.parametrize("class_path", ["sklearn.naive_bayes.GaussianNB", "sklearn.svm.LinearSVC"])
def test_a_calibrated_model_is_served(settings: Settings, class_path: str, method: str) -> None:
    plan = recipe(class_path, split=CALIBRATED, calibration={"enabled": True, "method": method})
    result = train(plan, settings, BIOPSIES)
    metrics = logged(result.run_id).metrics
    gives_probabilities = class_path.endswith("NB")
    assert ("calibration_log_loss_before" in metrics) is gives_probabilities
    if gives_probabilities:  # which naive Bayes is known to exaggerate
        assert metrics["calibration_log_loss_after"] < metrics["calibration_log_loss_before"]
    assert metrics["calibration_log_loss_after"] == metrics["test_log_loss"]
    assert not any(name.startswith("calibration_accuracy") for name in metrics)

    served = settings.model_copy(update={"serving": ServingSettings(model_run_id=result.run_id)})
    model = load_model(served)
    assert model.engine.independent_rows
    [answer] = model.answer([model.request_schema.model_validate(model.schemas.example)])
    assert set(answer.model_dump()["probabilities"]) == {"malignant", "benign"}


def test_what_cannot_be_calibrated_is_told_before_the_fit(settings: Settings) -> None:
    on = {"enabled": True, "method": "sigmoid"}
    plan = recipe("custom_labels.Labels", split=CALIBRATED, calibration=on)
    Path("custom_labels.py").write_text(
        "from sklearn.base import BaseEstimator, ClassifierMixin\n"
        "class Labels(ClassifierMixin, BaseEstimator):\n"
        "    def fit(self, x, y):\n        raise RuntimeError\n"
        "    def predict(self, x):\n        raise RuntimeError\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path.cwd())
        with pytest.raises(RecipeError, match="neither predict_proba nor decision_function"):
            train(plan, settings, BIOPSIES)

    frame = pd.read_csv(BIOPSIES)
    frame.loc[0, "target"] = "unknown"
    frame.to_csv("rare.csv", index=False)
    with pytest.raises(DataError, match="the class 'unknown' has 0 rows in the calibration part"):
        train(recipe(split=CALIBRATED, calibration=on), settings, Path("rare.csv"))


def test_a_model_is_told_beside_the_baseline(settings: Settings) -> None:
    from sklearn.metrics import f1_score

    result = train(recipe(), settings, BIOPSIES)
    metrics = logged(result.run_id).metrics
    assert metrics["baseline_accuracy"] == pytest.approx(72 / 114)
    benign = ["benign"] * 114
    expected = f1_score([*benign[:72], *["malignant"] * 42], benign, average="weighted")
    assert result.comparison == (
        f"test f1_weighted: {metrics['test_f1_weighted']:.4f} "
        f"(always the most frequent class: {expected:.4f})"
    )
    assert result.warnings == []


def test_a_model_that_has_learned_nothing_is_told(settings: Settings) -> None:
    plan = recipe("sklearn.linear_model.Lasso", {"values": {"alpha": 1e6}}, task="regression")
    result = train(plan, settings, PATIENTS)
    assert result.comparison is not None
    assert result.comparison.startswith("test rmse: ")
    assert result.warnings == [f"the model is not better than the baseline; {result.comparison}"]


def test_without_held_out_rows_nothing_is_compared(settings: Settings) -> None:
    result = train(recipe(split={"train": 1, "test": 0}), settings, BIOPSIES)
    assert (result.comparison, result.warnings) == (None, [])
    assert not any(name.startswith("baseline_") for name in result.metrics)


def test_the_metrics_of_the_recipe_are_logged(settings: Settings) -> None:
    names = ["f1", "average_precision"]
    result = train(recipe(metrics=names), settings, BIOPSIES)
    assert result.comparison is not None
    assert result.comparison.startswith("test f1: ")
    assert set(result.metrics) == {
        f"{part}_{name}" for part in ("train", "test", "baseline") for name in names
    }


def test_a_stopped_run_is_killed(settings: Settings) -> None:
    from mlflow import MlflowClient

    Path("stopped_estimator.py").write_text(
        "from sklearn.linear_model import LogisticRegression\n"
        "class Stopped(LogisticRegression):\n"
        "    def fit(self, x, y):\n        raise KeyboardInterrupt\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path.cwd())
        with pytest.raises(TrainingStopped) as caught:
            train(recipe("stopped_estimator.Stopped"), settings, BIOPSIES)
    assert caught.value.status == 130
    run_id = str(caught.value).split("its run ")[1].split()[0]
    assert MlflowClient().get_run(run_id).info.status == "KILLED"


def test_the_command_says_what_is_done_and_how_good_the_model_is(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import yaml
    from serving.commands import train as train_command

    plan = recipe("sklearn.dummy.DummyClassifier", metrics=["accuracy"], cross_validation=2)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(plan.as_written()), encoding="utf-8")
    (tmp_path / "config.yaml").write_text("environment: {name: local}\n")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", settings.mlflow.tracking_uri)
    caplog.set_level("INFO", "serving.training.progress")
    train_command.run(tmp_path / "recipe.yaml", tmp_path / "config.yaml", str(BIOPSIES))
    steps = [one.message for one in caplog.records if one.name == "serving.training.progress"]
    assert steps == [
        "reading the rows",
        "checking the columns of 569 rows",
        "opening the MLflow store",
        "fold 1 of 2",
        "fold 2 of 2",
        "fitting DummyClassifier on 455 rows",
        "evaluating",
        "logging the model",
        "drawing the report",
    ]
    output, told = capsys.readouterr()
    compared = "test accuracy: 0.6316 (always the most frequent class: 0.6316)"
    assert f"\n\n{compared}\n\nNext: " in output
    assert "baseline_" not in output
    warnings = [line for line in told.splitlines() if line.startswith("warning: ")]
    assert warnings == [f"warning: the model is not better than the baseline; {compared}"]
