"""A real MLflow store, read with SQLite and through MLflow, gives the same answers."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import wait_until_loaded
from fastapi.testclient import TestClient
from serving.api.app import create_app
from serving.api.server import _choose_run
from serving.commands import runs as runs_command
from serving.commands._next import STARTED_BY, serve_command, ui_command
from serving.config.settings import DEFAULT_CONFIG, MLflowSettings, ServingSettings, Settings
from serving.errors import ModelNotFound
from serving.model.loading import load_model
from serving.store import finding, mlmodel
from serving.store.finding import find_local_model, find_model
from serving.store.runs import Store
from serving.store.sqlite import (
    NotUnderstood,
    SqliteStore,
    file_of,
    follow_move,
    is_relative,
)
from serving.store.tracking import TrackingStore

EXPERIMENT = "flowers"


@contextmanager
def inside(directory: Path) -> Iterator[None]:
    """MLflow puts artifacts into its working directory."""
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


def settings_of(project: Path, **serving: Any) -> Settings:
    """Settings that serve from a project's local store."""
    return Settings(
        serving=ServingSettings(**serving),
        mlflow=MLflowSettings(
            tracking_uri=f"sqlite:///{project / 'mlflow.db'}", experiment_name=EXPERIMENT
        ),
    )


@pytest.fixture(scope="module")
def store(model_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A project with a local store, and the ids of its runs."""
    from serving.store.tracking import connect

    project = tmp_path_factory.mktemp("project")
    made = SimpleNamespace(project=project)
    connect(settings_of(project))
    import mlflow.sklearn

    model = mlflow.sklearn.load_model(str(model_directory))
    signature = mlflow.models.get_model_info(str(model_directory)).signature
    metadata = mlflow.models.Model.load(str(model_directory)).metadata

    def log(run_name: str, *names: str, status: str = "FINISHED") -> str:
        with mlflow.start_run(run_name=run_name) as run:
            mlflow.log_params({"recipe": run_name, "class_path": "sklearn.linear_model.A"})
            mlflow.log_metrics({"fit_seconds": 1.0, "test_accuracy": 0.5})
            for name in names:
                mlflow.sklearn.log_model(
                    model,
                    name=name,
                    # MLflow's default is the other form.
                    serialization_format="skops" if name == "iris-model" else "cloudpickle",
                    signature=signature,
                    metadata=metadata,
                    pip_requirements=["scikit-learn"],
                )
        if status != "FINISHED":
            mlflow.MlflowClient().set_terminated(run.info.run_id, status)
        return str(run.info.run_id)

    with inside(project):
        mlflow.set_experiment("another")
        made.elsewhere = log("elsewhere", "model")
        mlflow.set_experiment(EXPERIMENT)
        made.usual = log("usual", "model")
        made.several = log("several", "one", "two")
        made.again = log("again", "model", "model")
        made.older = log("older")
        mlflow.MlflowClient().log_artifacts(made.older, str(model_directory), "model")
        made.named = log("named", "iris-model")
        made.without = log("without")
        made.failed = log("broken", "model", status="FAILED")
        client = mlflow.MlflowClient()
        experiment = client.get_run(made.usual).info.experiment_id
        made.trial = client.create_run(
            experiment, tags={"mlflow.parentRunId": made.usual}
        ).info.run_id
        made.deleted = log("deleted", "model")
        mlflow.delete_run(made.deleted)
        mlflow.register_model(f"runs:/{made.usual}/model", "iris")
        mlflow.register_model(f"runs:/{made.named}/iris-model", "iris")
        mlflow.register_model(f"runs:/{made.older}/model", "iris")
        mlflow.MlflowClient().set_registered_model_alias("iris", "champion", "2")
    logged = SqliteStore(project / "mlflow.db").model(f"runs:/{made.usual}/model")
    made.model_id = mlmodel.read(logged.path).model_id
    return made


@pytest.fixture
def through_mlflow(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Once called, MLflow also reads local stores."""
    return lambda: monkeypatch.setattr(finding, "file_of", lambda _: None)


def uris(store: Any) -> list[str]:
    """The models of the store, by all kinds of URIs."""
    return [
        f"runs:/{store.usual}/model",
        f"runs:/{store.named}/iris-model",
        f"runs:/{store.several}/two",
        f"runs:/{store.again}/model",
        f"runs:/{store.older}/model",
        f"models:/{store.model_id}",
        "models:/iris/1",
        "models:/iris/2",
        "models:/iris/3",
        "models:/iris@champion",
    ]


def test_runs_are_the_same_both_ways(store: Any) -> None:
    settings = settings_of(store.project)
    quick, mlflow = SqliteStore(store.project / "mlflow.db"), TrackingStore(settings)
    for experiment in (None, EXPERIMENT, "nowhere"):
        assert list(quick.runs(experiment)) == list(mlflow.runs(experiment))
    assert [run.name for run in quick.runs("another")] == ["elsewhere"]
    for run_id in [*vars(store).values(), "0" * 32, "no run id"]:
        assert quick.run(str(run_id)) == mlflow.run(str(run_id))
    run = quick.run(store.several)
    assert run is not None
    assert not run.is_nested
    trial = quick.run(store.trial)
    assert trial is not None
    assert trial.is_nested
    assert (run.models, run.recipe, run.metrics["test_accuracy"]) == (
        ("two", "one"),
        "several",
        0.5,
    )
    deleted = quick.run(store.deleted)
    assert deleted is not None
    assert deleted.is_deleted


def test_models_are_the_same_both_ways(store: Any) -> None:
    quick = SqliteStore(store.project / "mlflow.db")
    mlflow = TrackingStore(settings_of(store.project))
    for uri in uris(store):
        found, copied = quick.model(uri), mlflow.model(uri)
        assert found.files is None
        one, other = mlmodel.read(found.path), mlmodel.read(copied.path)
        assert (one.model_id, one.run_id) == (other.model_id, other.run_id), uri
        assert (found.version or one.version, found.uri) == (other.version, copied.uri)
        assert {file.name for file in found.path.iterdir()} == {
            file.name for file in copied.path.iterdir() if file.name != "registered_model_meta"
        }


@pytest.mark.parametrize(
    "serving",
    [
        {"model_run_id": "usual"},
        {"model_run_id": "named"},
        {"model_run_id": "older"},
        {"model_run_id": "latest"},
        {"model_uri": "models:/iris@champion"},
    ],
    ids=lambda serving: "-".join(serving.values()),
)
def test_get_model_is_the_same_both_ways(
    store: Any, serving: dict[str, str], through_mlflow: Callable[[], None]
) -> None:
    if name := serving.get("model_run_id"):
        serving = {"model_run_id": getattr(store, name, name)}
    answers = []
    for change in (None, through_mlflow):
        if change:
            change()
        with TestClient(create_app(settings_of(store.project, **serving))) as client:
            wait_until_loaded(client)
            answers.append(client.get("/model").json())
    assert answers[0] == answers[1]
    assert answers[0]["uri"] == (
        serving.get("model_uri")
        or {
            store.usual: f"runs:/{store.usual}/model",
            store.named: f"runs:/{store.named}/iris-model",
            store.older: f"runs:/{store.older}/model",
            "latest": f"runs:/{store.named}/iris-model",
        }[serving["model_run_id"]]
    )


def test_mlflow_is_not_imported(store: Any) -> None:
    code = f"""
import sys
from serving.config.settings import MLflowSettings, ServingSettings, Settings
from serving.model.loading import load_model
settings = Settings(
    serving=ServingSettings(model_run_id={store.usual!r}),
    mlflow=MLflowSettings(tracking_uri="sqlite:///mlflow.db"),
)
print(load_model(settings).model_id, "mlflow" in sys.modules)
"""
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=store.project, capture_output=True, text=True, check=True
    )
    assert answer.stdout.split() == [store.model_id, "False"]


def problems(store: Any) -> dict[str, tuple[dict[str, str], str]]:
    """Requested URIs, and the beginning of the answer."""
    uri = f"sqlite:///{store.project / 'mlflow.db'}"
    return {
        "unknown": (
            {"model_run_id": "0" * 32},
            f"there is no run '{'0' * 32}' in {uri}; the latest runs with a model: "
            f"{store.failed} (broken), {store.named} (named), {store.older} (older); "
            "'mmp runs' lists more",
        ),
        "unknown in a URI": ({"model_uri": "runs:/abc/model"}, f"there is no run 'abc' in {uri}; "),
        "deleted": ({"model_run_id": store.deleted}, f"run {store.deleted} was deleted in {uri}; "),
        "without a model": (
            {"model_run_id": store.without},
            f"run {store.without} has logged no model",
        ),
        "several models": (
            {"model_run_id": store.several},
            f"run {store.several} has several models, 'two', 'one'; choose one with --model-uri "
            f"(MODEL_URI), for example runs:/{store.several}/two",
        ),
        "another name": (
            {"model_uri": f"runs:/{store.named}/model"},
            f"run {store.named} has no model 'model'; it has 'iris-model'",
        ),
    }


@pytest.mark.parametrize("is_mlflow", [False, True], ids=["sqlite", "mlflow"])
def test_a_missing_model_is_reported_at_once(
    store: Any, is_mlflow: bool, through_mlflow: Callable[[], None]
) -> None:
    if is_mlflow:
        through_mlflow()
    for serving, message in problems(store).values():
        settings = settings_of(store.project, **serving)
        with pytest.raises(ModelNotFound) as error:
            load_model(settings)
        assert str(error.value).startswith(message)
        assert str(error.value).count("\n") == 0


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("models:/nothing/1", "has no model 'nothing/1'"),
        ("models:/iris@nobody", "has no model 'iris' with the alias 'nobody'"),
        ("models:/m-1", "there is no logged model m-1"),
        ("models:/iris", "models:/iris has no version; write models:/iris/VERSION or"),
    ],
)
def test_an_unregistered_model_is_reported_at_once(store: Any, uri: str, message: str) -> None:
    with pytest.raises(ModelNotFound, match=message):
        load_model(settings_of(store.project, model_uri=uri))


def test_a_server_of_a_local_store_does_not_start_without_its_model(
    store: Any, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFound, match="there is no run 'abc'"):
        _choose_run(settings_of(store.project, model_run_id="abc"))
    with pytest.raises(ModelNotFound, match="there is no MLflow store at"):
        _choose_run(settings_of(tmp_path, model_run_id="abc"))
    assert not list(tmp_path.iterdir())


def test_a_server_does_not_try_again_what_the_store_does_not_have(
    store: Any, through_mlflow: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    through_mlflow()
    with TestClient(create_app(settings_of(store.project, model_run_id="abc"))) as client:
        wait_until_loaded(client)
        assert client.get("/health").status_code == 200
        reason = "the store has no such model; the server's log has details"
        assert client.get("/ready").json()["detail"] == reason
    assert "there is no run 'abc'" in caplog.text


def test_all_workers_serve_the_same_latest_run(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for workers in (1, 2):
        monkeypatch.setenv("MODEL_RUN_ID", "latest")
        settings = settings_of(store.project, model_run_id="latest", workers=workers)
        _choose_run(settings)
        assert os.environ["MODEL_RUN_ID"] == store.named
    monkeypatch.setattr(finding, "file_of", lambda _: None)
    monkeypatch.setenv("MODEL_RUN_ID", "latest")
    _choose_run(settings)
    assert os.environ["MODEL_RUN_ID"] == store.named


def test_latest_names_the_experiment_where_there_is_none(store: Any) -> None:
    settings = settings_of(store.project, model_run_id="latest")
    other = settings.mlflow.model_copy(update={"experiment_name": "nowhere"})
    with pytest.raises(ModelNotFound, match=r"the experiment 'nowhere' .* has no finished run"):
        find_model(settings.model_copy(update={"mlflow": other}))


def copies(source: Path, target: Path) -> None:
    """Copy a project's store as `cp -r` does."""
    shutil.copytree(source, target)


def moves(source: Path, target: Path) -> None:
    """Move a project; nothing is left at the old path."""
    away = target.with_name("away")
    shutil.copytree(source, away)
    copies(source, target)
    with SqliteStore(target / "mlflow.db") as read:
        import sqlite3

        connection = sqlite3.connect(target / "mlflow.db")
        old, new = str(source), str(away)
        for run in read.runs():
            connection.execute(
                "UPDATE runs SET artifact_uri = replace(artifact_uri, ?, ?) WHERE run_uuid = ?",
                (old, new, run.run_id),
            )
        for table in ("logged_models", "experiments"):
            connection.execute(
                f"UPDATE {table} SET artifact_location = replace(artifact_location, ?, ?)",
                (old, new),
            )
        for column in ("source", "storage_location"):
            connection.execute(
                f"UPDATE model_versions SET {column} = replace({column}, ?, ?)", (old, new)
            )
        connection.commit()
        connection.close()
    shutil.rmtree(away)


@pytest.mark.parametrize("relocate", [copies, moves])
def test_a_project_may_be_moved_or_copied(
    store: Any, relocate: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    moved = tmp_path / "moved project"
    relocate(store.project, moved)
    with SqliteStore(moved / "mlflow.db") as quick:
        for uri in uris(store):
            assert quick.model(uri).path.is_relative_to(moved), uri

    # New runs are stored at the new path, and MLflow itself finds the old runs.
    assert follow_move(moved / "mlflow.db") is not None
    assert follow_move(moved / "mlflow.db") is None
    settings = settings_of(moved, model_run_id=store.usual)
    mlflow: Any = TrackingStore(settings)
    client = mlflow._client
    for run in mlflow.runs():
        assert Path(client.get_run(run.run_id).info.artifact_uri).is_relative_to(moved)
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    new = client.create_run(experiment).info
    client.log_text(new.run_id, "here", "note.txt")
    assert Path(new.artifact_uri, "note.txt").is_relative_to(moved)
    for uri in uris(store):
        assert mlmodel.read(mlflow.model(uri).path).is_sklearn
    _same(SqliteStore(moved / "mlflow.db"), mlflow)


@pytest.mark.parametrize("by", ["a link", "two dots"])
def test_another_name_of_the_same_directory_is_not_a_move(
    store: Any, tmp_path: Path, by: str
) -> None:
    (tmp_path / "link").symlink_to(store.project)
    other = tmp_path / "link" if by == "a link" else store.project / "mlruns" / ".."
    assert follow_move(other / "mlflow.db") is None


def test_a_model_that_was_not_copied_is_used_where_it_is(store: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copies(store.project, copy)
    uri = f"runs:/{store.usual}/model"
    with SqliteStore(copy / "mlflow.db") as quick:
        shutil.rmtree(quick.model(uri).path.parent)
    follow_move(copy / "mlflow.db")
    with SqliteStore(copy / "mlflow.db") as quick:
        assert quick.model(uri).path.is_relative_to(store.project)
        assert quick.model(f"runs:/{store.named}/iris-model").path.is_relative_to(copy)


def test_one_lost_model_does_not_hide_the_other_runs(
    store: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import sqlite3

    shutil.copy(store.project / "mlflow.db", tmp_path)
    connection = sqlite3.connect(tmp_path / "mlflow.db")
    where = "UPDATE logged_models SET artifact_location = ? WHERE source_run_id = ?"
    connection.execute(where, ("s3://bucket/model", store.usual))
    connection.execute(where, ("/nowhere/model", store.named))
    connection.commit()
    connection.close()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs_command.run(count=99)
    compiled = {line.split()[0]: line.split()[-1] for line in capsys.readouterr().out.splitlines()}
    assert (compiled[store.usual], compiled[store.named]) == ("?", "?")
    assert compiled[store.several] == "no"


def test_a_registry_of_its_own_is_left_to_mlflow(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(tmp_path, model_uri="models:/iris@champion")
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"sqlite:///{store.project / 'mlflow.db'}")
    assert find_local_model(settings) is None


@pytest.mark.parametrize(
    "uri",
    ["models:/iris/99999999999999999999", "models:/iris/\u00b2", "models://[x/1", "runs://a@b/c"],
)
def test_a_strange_uri_is_left_to_mlflow(store: Any, uri: str) -> None:
    assert find_local_model(settings_of(store.project, model_uri=uri)) is None


def test_only_a_relative_path_is_the_projects_own_store() -> None:
    uris = ("sqlite:///mlflow.db", "sqlite:////srv/mlflow.db", "http://localhost")
    assert [is_relative(uri) for uri in uris] == [True, False, False]


def _same(one: Store, other: Store) -> None:
    assert list(one.runs()) == list(other.runs())


def test_lost_artifacts_are_reported(store: Any, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moves(store.project, moved)
    shutil.rmtree(moved / "mlruns")
    with pytest.raises(ModelNotFound, match="recorded it as an absolute path; move the directory"):
        find_model(settings_of(moved, model_run_id=store.usual))


def test_a_store_that_is_not_understood_is_left_to_mlflow(
    store: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import sqlite3

    shutil.copy(store.project / "mlflow.db", tmp_path)
    connection = sqlite3.connect(tmp_path / "mlflow.db")
    connection.execute("ALTER TABLE logged_models RENAME COLUMN source_run_id TO run")
    connection.commit()
    connection.close()
    with pytest.raises(NotUnderstood, match="logged_models has no column source_run_id"):
        SqliteStore(tmp_path / "mlflow.db")
    assert find_local_model(settings_of(tmp_path, model_run_id=store.usual)) is None
    (tmp_path / "text").mkdir()
    (tmp_path / "text/mlflow.db").write_text("no database, but text")
    with pytest.raises(NotUnderstood, match="SQLite says"):
        SqliteStore(tmp_path / "text/mlflow.db")

    caplog.set_level("DEBUG", logger="serving")
    found = find_model(settings_of(store.project, model_uri="models:/iris/latest"))
    assert found.files is not None
    assert mlmodel.read(found.path).version == "iris/3"
    told = "the store is read through MLflow: the URI models:/iris/latest"
    assert told in caplog.text


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:////a/b.db", "/a/b.db"),
        ("sqlite:///b.db", "b.db"),
        ("sqlite:///b.db?mode=ro", None),
        ("sqlite:///:memory:", None),
        ("sqlite:///", None),
        ("http://localhost:5000", None),
        ("postgresql://a/b", None),
        ("mlruns", None),
    ],
)
def test_only_files_are_read_directly(uri: str, file: str | None) -> None:
    assert file_of(uri) == (Path.cwd() / file if file else None)


def test_runs_are_listed(
    store: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store.project / 'mlflow.db'}")
    runs_command.run(count=3)
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split("  ")[0] == "RUN ID"
    assert [line.split()[0] for line in lines] == [store.failed, store.without, store.named]
    assert [" ".join(line.split()[5:]) for line in lines] == [
        "failed A test_accuracy=0.5 no",
        "finished - test_accuracy=0.5 -",
        "finished A (iris-model) test_accuracy=0.5 no",
    ]
    starts = {
        line.index(word) for line in lines for word in ("finished", "failed ") if word in line
    }
    assert len(starts) == 1


def test_names_cannot_control_the_terminal(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copy(store.project / "mlflow.db", tmp_path)
    with contextlib.closing(sqlite3.connect(copy)) as database, database:
        name = "a\x1b[2J\nb\u202ec \u00e9"
        database.execute("UPDATE params SET value = ? WHERE key = 'recipe'", [name])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{copy}")
    runs_command.run(count=1)
    _, line = capsys.readouterr().out.splitlines()
    assert "  a?[2J?b?c \u00e9  " in line
    assert line.isprintable()


def test_next_is_right_where_the_command_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    command = partial(serve_command, config_path=DEFAULT_CONFIG)
    monkeypatch.delenv(STARTED_BY, raising=False)
    assert command(run_id="a") == "uv run mmp serve-api --run-id a"
    ui = "uv run --isolated --only-group mlflow mlflow ui --backend-store-uri"
    assert ui_command("sqlite:///mlflow.db") == f"{ui} sqlite:///mlflow.db"
    assert ui_command("sqlite:///my store/mlflow.db") == f"{ui} 'sqlite:///my store/mlflow.db'"
    assert ui_command("http://127.0.0.1:5000") is None
    assert command(model_uri="my model") == "uv run mmp serve-api --model-uri 'my model'"
    other = serve_command(config_path=Path("my configs/a.yaml"), run_id="a")
    assert other == "uv run mmp serve-api --run-id a --config-path 'my configs/a.yaml'"
    monkeypatch.setenv(STARTED_BY, "compose")
    up = "docker compose up -d --build --wait api"
    assert command(run_id="a") == f"MODEL_RUN_ID=a {up}"
    assert command(model_uri="a;b") == f"MODEL_URI='a;b' {up}"
    monkeypatch.setenv(STARTED_BY, "container")
    assert "MODEL_RUN_ID=a" in command(run_id="a")
    assert ui_command("sqlite:///mlflow.db") is None
