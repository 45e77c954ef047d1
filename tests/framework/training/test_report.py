"""What a run logs, its report, and registration behind a gate."""

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from serving.config.settings import ServingSettings, Settings
from serving.contract.recipe import Recipe, Registration, load_recipe
from serving.errors import RecipeError
from serving.model.loading import load_model
from serving.training.data import load_dataset
from serving.training.gate import missed
from serving.training.provenance import commit_of, fingerprint
from serving.training.registration import register
from serving.training.report.tables import metrics
from serving.training.trainer import TrainingResult, train
from sklearn.datasets import load_breast_cancer, load_diabetes

LOGISTIC = "sklearn.linear_model.LogisticRegression"


@pytest.fixture(scope="session")
def settings(local_store: Settings) -> Settings:
    return local_store


@pytest.fixture(scope="module")
def store(settings: Settings) -> Path:
    """The directory of the store."""
    return Path(settings.mlflow.tracking_uri.removeprefix("sqlite:///")).parent


@pytest.fixture(autouse=True)
def _in_the_store(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(store)  # MLflow keeps artifacts in the working directory


@pytest.fixture(scope="module")
def tumours(store: Path) -> Path:
    """Wisconsin breast cancer: 569 rows; names and classes that HTML, TeX and fonts dislike."""
    data = load_breast_cancer(as_frame=True)
    frame = data.data[["mean radius", "mean texture", "mean symmetry", "worst area"]].copy()
    frame.columns = ["<b>radius</b> & $x_1$", "질감", "symmetry|`*", "area"]
    frame["patient"] = [f"Ada Lovelace {n}" for n in range(len(frame))]
    frame["진단"] = data.target.map({0: "악성 <malignant>", 1: "양성"})
    frame.to_csv(store / "tumours.csv", index=False)
    return store / "tumours.csv"


def recipe(
    target: str,
    task: str = "classification",
    class_path: str = LOGISTIC,
    values: dict[str, Any] | None = None,
    *,
    entities: tuple[str, ...] = (),
    gate: Any = None,
    registration: Any = None,
    split: Any = None,
) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "a <report> & more",
            "task_choice": task,
            "data": {
                "data_interface": {"entity_columns": list(entities), "target_column": target},
                "split": split,
            },
            "preprocessor": {"steps": [{"type": "standard_scaler"}]},
            "model": {
                "class_path": class_path,
                "hyperparameters": {"values": values},
                "registration": registration,
            },
            "evaluation": {"gate": gate},
            "metadata": {"description": "a <description>", "intended_use": "By nurses | doctors"},
        }
    )


class Page(HTMLParser):
    """Collects what a page would load, its scripts, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def trained(settings: Settings, store: Path, tumours: Path) -> Iterator[TrainingResult]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(store)
        yield train(recipe("진단", entities=("patient",)), settings, tumours)


def artifacts(result: TrainingResult) -> Path:
    assert result.report is not None
    return result.report.resolve().parent


def test_the_page_opens_offline_and_shows_every_plot(trained: TrainingResult) -> None:
    plots = {file.stem: file.read_bytes() for file in artifacts(trained).glob("*.png")}
    names = ["calibration", "confusion_matrix", "permutation_importance", "precision_recall", "roc"]
    assert sorted(plots) == names
    assert all(png.startswith(b"\x89PNG") for png in plots.values())
    assert trained.report is not None
    page = Page(trained.report.read_text(encoding="utf-8"))
    assert len(page.addresses) == len(plots)
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not page.tags & {"script", "link", "b", "report", "malignant", "description"}
    assert "<b>radius</b> & $x_1$" in page.text
    assert "악성 <malignant>" in page.text
    assert f"{trained.metrics['test_accuracy']:.4g}" in page.text
    assert "114 rows of test" in page.text


def test_the_report_has_no_row(trained: TrainingResult, tumours: Path) -> None:
    text = "".join(file.read_text() for file in artifacts(trained).glob("*.[hm][td]*"))
    assert "patient" in text
    assert "Lovelace" not in text


def test_the_model_card_says_what_the_recipe_says(trained: TrainingResult) -> None:
    card = (artifacts(trained) / "model_card.md").read_text()
    assert r"By nurses \| doctors" in card
    assert r"\<b\>radius\</b\>" in card
    assert f"mmp serve-api --run-id {trained.run_id}" in card
    rows = [re.findall(r"(?<!\\)\|", line) for line in card.splitlines() if line[:1] == "|"]
    assert {len(bars) for bars in rows} == {5, 7}  # the metrics and the columns


def test_data_and_environment_are_logged(trained: TrainingResult, tumours: Path) -> None:
    import mlflow

    inputs: Any = mlflow.get_run(trained.run_id).inputs
    [entry] = inputs.dataset_inputs
    profile = json.loads(entry.dataset.profile)
    assert (profile["num_rows"], profile["num_elements"]) == (569, 569 * 5)
    assert profile["sha256"].startswith(entry.dataset.digest)
    assert json.loads(entry.dataset.source)["uri"] == str(tumours)
    directory = artifacts(trained).parent
    environment = json.loads((directory / "environment.json").read_text())
    assert {"python", "numpy", "pandas", "scikit-learn"} <= environment.keys()
    assert load_recipe(directory / "recipe.yaml").name == "a <report> & more"


def test_the_fingerprint_is_that_of_the_content(tumours: Path) -> None:
    frame = pd.read_csv(tumours)
    frame.to_parquet("same.parquet")
    frame["area"] = frame["area"].where(frame.index != 3, 0.5)
    frame.to_csv("changed.csv", index=False)
    plan = recipe("진단", entities=("patient",))
    files = (tumours, Path("same.parquet"), Path("changed.csv"))
    first, same, changed = (fingerprint(load_dataset(plan, file)) for file in files)
    assert first == same != changed


def test_a_variable_stays_a_variable_in_everything_that_is_logged(
    settings: Settings, tumours: Path, monkeypatch: pytest.MonkeyPatch, store: Path
) -> None:
    secret = hashlib.sha256(b"secret").hexdigest()
    monkeypatch.setenv("WHERE", str(tumours))
    monkeypatch.setenv("OWNER", secret)
    content = recipe("진단", entities=("patient",)).model_dump(mode="json", exclude_unset=True)
    content["data"]["loader"] = {"source_uri": "${WHERE}"}
    content["metadata"] = {"description": "of ${OWNER}", "owner": "${OWNER}"}
    file = Path("secret.yaml")
    file.write_text(yaml.safe_dump(content, allow_unicode=True))
    result = train(load_recipe(file), settings)
    texts = [file for file in artifacts(result).parent.rglob("*") if file.is_file()]
    assert {"report.html", "model_card.md", "recipe.yaml"} <= {file.name for file in texts}
    files = [*texts, store / "mlflow.db"]
    assert [file.name for file in files if secret.encode() in file.read_bytes()] == []
    assert "${OWNER}" in (artifacts(result) / "report.html").read_text()


def test_the_commit_and_whether_the_work_tree_was_changed(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        command = ["git", *identity, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    assert commit_of(tmp_path) is None
    git("init")
    assert commit_of(tmp_path) is None  # no commit yet
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "a")
    commit = commit_of(tmp_path)
    assert commit is not None
    assert (commit.id, commit.is_dirty) == (git("rev-parse", "HEAD"), False)
    (tmp_path / "a").write_text("2")
    commit = commit_of(tmp_path)
    assert commit is not None
    assert commit.is_dirty


@pytest.mark.parametrize(
    ("class_path", "missing"),
    [
        ("sklearn.svm.LinearSVC", {"roc", "precision_recall", "calibration"}),
        ("sklearn.dummy.DummyClassifier", {"calibration"}),
    ],
)
def test_a_plot_that_makes_no_sense_is_left_out_with_the_reason(
    settings: Settings, tumours: Path, class_path: str, missing: set[str]
) -> None:
    plan = recipe("진단", class_path=class_path, entities=("patient",))
    result = train(plan, settings, tumours)
    there = {file.stem for file in artifacts(result).glob("*.png")}
    assert there.isdisjoint(missing)
    assert "confusion_matrix" in there
    text = (artifacts(result) / "report.html").read_text()
    assert text.count("left out, because") == len(missing)
    reason = "gives no probabilities" if "roc" in missing else "nearly all rows get the same"
    assert reason in text


def test_a_test_part_with_one_class_loses_no_model(settings: Settings) -> None:
    frame = pd.DataFrame({"x": range(60), "y": ["a", "b"] * 20 + ["a"] * 20})
    frame["day"] = frame["x"]
    frame.to_csv("late.csv", index=False)
    split = {"strategy": "temporal", "temporal_column": "day", "train": 0.7, "test": 0.3}
    result = train(recipe("y", split=split), settings, Path("late.csv"))
    text = (artifacts(result) / "report.html").read_text()
    assert "ROC curve: left out, because the rows of test have only one class." in text
    assert (artifacts(result) / "confusion_matrix.png").is_file()


def test_metrics_of_parts_folds_and_baseline_share_a_row() -> None:
    values = {"test_r2": 0.5, "train_r2": 0.75, "baseline_r2": 0.0, "other": 7.0}
    values |= {"cv_r2_mean": 0.45, "cv_r2_std": 0.051}
    table = metrics(values)
    assert table.heading == ("metric", "test", "train", "cross-validation", "baseline", "value")
    assert table.rows == [
        ("r2", "0.5", "0.75", "0.45 ± 0.051", "0", ""),
        ("other", "", "", "", "", "7"),
    ]


# ------------------------------------------------------------------------ gate and registration


def test_an_alias_moves_to_a_model_that_reaches_the_gate(settings: Settings, tumours: Path) -> None:
    """Good, then worse, then as good as the first one: the second is logged and not registered."""
    from mlflow import MlflowClient

    client = MlflowClient()
    gate = [
        {"metric": "test_accuracy", "minimum": 0.5},
        {"metric": "test_accuracy", "not_worse_than": "champion", "tolerance": 0.01},
    ]

    def attempt(class_path: str) -> TrainingResult:
        registration = {"name": "tumours", "alias": "champion"}
        plan = recipe(
            "진단",
            class_path=class_path,
            entities=("patient",),
            gate=gate,
            registration=registration,
        )
        return train(plan, settings, tumours)

    def champion() -> str:
        return str(client.get_model_version_by_alias("tumours", "champion").version)

    first = attempt(LOGISTIC)
    assert (first.version, first.missed) == ("1", None)
    worse = attempt("sklearn.dummy.DummyClassifier")
    assert worse.version is None
    assert worse.missed is not None
    assert re.fullmatch(
        r"test_accuracy is 0\.\d{4} and must not be worse by more than 0\.01 than 0\.\d{4}, that "
        r"of version 1 \(champion\)",
        worse.missed,
    )
    run = client.get_run(worse.run_id)
    assert (run.info.status, run.data.tags["gate"]) == ("FAILED", "failed")
    assert run.data.tags["gate.reason"] == worse.missed
    assert champion() == "1"
    assert attempt(LOGISTIC).version == "2"
    assert champion() == "2"

    serving = ServingSettings(model_uri="models:/tumours@champion")
    model = load_model(settings.model_copy(update={"serving": serving}))
    assert model.version == "tumours/2"
    worse_but_logged = ServingSettings(model_run_id=worse.run_id)
    load_model(settings.model_copy(update={"serving": worse_but_logged}))


def test_regression_in_which_less_is_better_for_an_error(settings: Settings) -> None:
    from mlflow import MlflowClient

    data = load_diabetes(as_frame=True)
    data.frame.to_csv("diabetes.csv", index=False)
    gate = {"metric": "test_rmse", "not_worse_than": "best"}
    plan = recipe(
        "target",
        "regression",
        "sklearn.linear_model.Ridge",
        {"alpha": 0.1},
        gate=gate,
        registration={"name": "diabetes", "alias": "best"},
    )
    result = train(plan, settings, Path("diabetes.csv"))
    assert result.version == "1"
    assert {file.stem for file in artifacts(result).glob("*.png")} == {
        "predicted_against_actual",
        "residuals",
        "permutation_importance",
    }
    error = result.metrics["test_rmse"]
    assert missed(plan, {"test_rmse": error - 1}, MlflowClient()) is None
    assert missed(plan, {"test_rmse": error + 1}, MlflowClient()) is not None


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (
            {"metric": "test_acuracy", "minimum": 0.5},
            "evaluation.gate.metric: 'test_acuracy' is unknown; this recipe logs "
            "train_accuracy, .*; did you mean test_accuracy?",
        ),
        (
            {"metric": "test_r2", "not_worse_than": "best"},
            "evaluation.gate.not_worse_than: version 1 (best) of by test_r2 has no test_r2 to "
            "compare with, its run has .*fit_seconds, .*; move the alias, or name a metric of both",
        ),
    ],
)
def test_a_gate_that_cannot_be_decided_is_refused_before_training(
    settings: Settings,
    tumours: Path,
    trained: TrainingResult,
    gate: dict[str, Any],
    message: str,
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient()
    registration = Registration(name=f"by {gate['metric']}", alias="best")
    register(registration, trained.model_id, trained.run_id, client)
    is_regression = gate["metric"] == "test_r2"
    plan = recipe(
        "area" if is_regression else "진단",
        *(("regression", "sklearn.linear_model.Ridge") if is_regression else ()),
        entities=("patient", "진단") if is_regression else ("patient",),
        gate=gate,
        registration=registration.model_dump(),
    )
    experiment = client.get_run(trained.run_id).info.experiment_id
    before = len(client.search_runs([experiment]))
    with pytest.raises(RecipeError) as caught:
        train(plan, settings, tumours)
    assert re.fullmatch(re.escape(message).replace(r"\.\*", ".*"), str(caught.value))
    assert len(client.search_runs([experiment])) == before


@pytest.mark.parametrize(
    ("evaluation", "registration", "message"),
    [
        ({"metric": "test_r2"}, None, "needs minimum, maximum or not_worse_than"),
        ({"metric": "test_r2", "minimum": 1, "maximum": 0}, None, "minimum 1 is above maximum 0"),
        ({"metric": "test_r2", "minimum": 1, "tolerance": 0.1}, None, "tolerance needs not_wor"),
        ({"metric": "test_r2", "not_worse_than": "a"}, None, "needs model.registration.name"),
        ({"metric": "test_r2", "minimum": float("nan")}, None, "finite number"),
        (None, {"name": "a/b"}, "'a/b' cannot be part of models:/NAME@ALIAS"),
        (None, {"name": "a", "alias": "latest"}, "'latest' is reserved by MLflow"),
        (None, {"name": "a", "alias": "V2"}, "'V2' is reserved by MLflow"),
        (None, {"name": "a", "alias": "the best"}, "may have only letters, digits, _ and -"),
    ],
)
def test_a_wrong_gate_or_name_is_explained(
    evaluation: Any, registration: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        recipe("y", gate=evaluation, registration=registration)


def test_git_that_is_not_installed_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shutil.which("git")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(tmp_path) is None
