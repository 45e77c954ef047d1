"""The life cycle of a served model, and what the service reports about it."""

import json
import logging
import threading
from pathlib import Path

import pandas as pd
import pytest
from conftest import RECIPE, SAMPLE, settings_for, wait_until_loaded, wait_while
from fastapi.testclient import TestClient
from serving.api.app import create_app
from serving.config.settings import LoggingSettings
from serving.engines.sklearn import SklearnEngine
from serving.errors import ContractError, ModelLoadError
from serving.model.loading import load_model
from serving.runtime import service
from serving.telemetry.logging import configure_logging
from sklearn.linear_model import LogisticRegression


def test_loading_is_tried_again_until_it_works(
    model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = tmp_path / "model"
    monkeypatch.setattr(service, "LONGEST_PAUSE_SECONDS", 0.1)
    with TestClient(create_app(settings_for(later, tmp_path))) as client:
        wait_until_loaded(client)
        wait_while(client, "attempt 1, trying again in 0.1 s")
        assert "trying again in 0.1 s" in client.get("/ready").json()["detail"]
        later.symlink_to(model_directory)
        wait_while(client, "trying again")
        assert client.post("/predict", json=SAMPLE).status_code == 200


def test_loading_is_given_up_after_a_while(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "nowhere", tmp_path)
    serving = settings.serving.model_copy(update={"load_timeout_seconds": 0})
    app = create_app(settings.model_copy(update={"serving": serving}))
    with TestClient(app) as client:
        wait_until_loaded(client)
        assert "attempt 1, gave up" in client.get("/ready").json()["detail"]


def test_a_broken_contract_is_final_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ContractError("the column 'a' is not there")

    monkeypatch.setattr(service, "load_model", broken)
    with TestClient(create_app(settings_for("models:/a/1", tmp_path))) as client:
        wait_until_loaded(client)
        assert client.get("/ready").json()["detail"] == "the column 'a' is not there"


def test_a_server_that_stops_is_not_ready_but_answers(
    model_directory: Path, tmp_path: Path
) -> None:
    app = create_app(settings_for(model_directory, tmp_path))
    with TestClient(app) as client:
        wait_until_loaded(client)
        assert "connection" not in client.get("/ready").headers
        app.state.service.draining = True
        for path in ("/ready", "/ping"):
            assert client.get(path).status_code == 503
        assert client.get("/health").status_code == 200
        answer = client.post("/predict", json=SAMPLE)
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")


def test_probes_may_ask_for_the_head_only(client: TestClient) -> None:
    for path in ("/health", "/ready", "/ping"):
        assert client.head(path).status_code == 200


def test_a_call_that_does_not_return_turns_ready_red(
    model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(model_directory, tmp_path)
    serving = settings.serving.model_copy(update={"request_timeout_seconds": 0.2})
    returned = threading.Event()
    with TestClient(create_app(settings.model_copy(update={"serving": serving}))) as client:
        wait_until_loaded(client)
        monkeypatch.setattr(SklearnEngine, "predict", lambda *_: returned.wait(30))
        assert client.post("/predict", json=SAMPLE).status_code == 504
        answer = client.get("/ready")
        assert answer.status_code == 503
        assert "has not answered" in answer.json()["detail"]
        returned.set()


def test_an_error_of_the_model_is_not_blamed_on_the_sample(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("it never works")

    monkeypatch.setattr(SklearnEngine, "predict", fail)
    assert client.post("/predict", json=SAMPLE).status_code == 500


def test_the_reason_shows_no_path(tmp_path: Path, irises: pd.DataFrame) -> None:
    import mlflow.sklearn
    from mlflow.models import infer_signature

    features = irises[["petal width (cm)"]]
    model = LogisticRegression().fit(features, irises["species"])
    signature = infer_signature(features, irises["species"])
    interface = {"feature_columns": ["size"], "target_column": "species"}
    metadata = {"recipe": RECIPE | {"data": {"data_interface": interface}}}
    mlflow.sklearn.save_model(
        model,
        tmp_path / "model",
        serialization_format="cloudpickle",
        signature=signature,
        pip_requirements=[],
        metadata=metadata,
    )
    settings = settings_for(tmp_path / "model", tmp_path)
    with pytest.raises(ContractError, match=f"^model {tmp_path}/model: .* column 'size' is not"):
        load_model(settings)
    with TestClient(create_app(settings)) as client:
        wait_until_loaded(client)
        assert client.get("/ready").json()["detail"].startswith("the recipe's feature column")


def test_a_sample_that_the_model_refuses_is_named(client: TestClient) -> None:
    """The values are finite in JSON, but their sum is not."""
    extreme = SAMPLE | dict.fromkeys(list(SAMPLE)[1:], 1.7e308)
    for path, body, pointer in (
        ("/predict", extreme, ""),
        ("/predict/batch", {"samples": [SAMPLE] * 5 + [extreme] + [SAMPLE] * 3}, "/samples/5"),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code == 422
        [error] = answer.json()["errors"]
        assert error == {
            "pointer": pointer,
            "detail": "the model cannot predict from these values",
        }


def test_a_request_has_an_id(client: TestClient) -> None:
    given = client.get("/nowhere", headers={"X-Request-ID": "order-4711"})
    assert given.headers["x-request-id"] == given.json()["request_id"] == "order-4711"
    for bad in ("", "a b", "x" * 129, "a\x7f"):
        made = client.get("/nowhere", headers={"X-Request-ID": bad}).headers["x-request-id"]
        assert len(made) == 32
        assert made != bad


def test_answers_have_safe_headers(client: TestClient) -> None:
    for answer in (client.get("/health"), client.get("/nowhere"), client.post("/predict")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"


def test_metrics_count_what_was_asked(client: TestClient) -> None:
    def metric(name: str) -> float:
        lines = client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    name = 'http_requests_total{method="POST",route="/predict",status="200"}'
    before, rows = metric(name), metric("prediction_rows_sum")
    client.post("/predict", json=SAMPLE)
    client.post("/predict/batch", json={"samples": [SAMPLE] * 3})
    assert metric(name) == before + 1
    assert metric("prediction_rows_sum") == rows + 4
    assert metric("model_ready") == 1
    client.request("BREW", "/made/up")
    assert metric('http_requests_total{method="other",route="unknown",status="404"}') >= 1


def test_logs_are_json_with_the_request_id_and_no_payload(
    model_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        configure_logging(LoggingSettings(format="json"))
        with TestClient(create_app(settings_for(model_directory, tmp_path))) as client:
            wait_until_loaded(client)
            secret = SAMPLE | {"petal width (cm)": "hunter2"}
            client.post("/predict", json=secret, headers={"X-Request-ID": "abc"})
    finally:
        root.handlers = handlers
    output = capsys.readouterr().err
    assert "hunter2" not in output
    records = [json.loads(line) for line in output.splitlines()]
    [asked] = [record for record in records if record.get("route") == "/predict"]
    assert (asked["request_id"], asked["status"], asked["level"]) == ("abc", 422, "INFO")
    assert asked["timestamp"]


def test_a_library_of_another_major_version_is_named(
    model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    model = tmp_path / "model"
    shutil.copytree(model_directory, model)
    requirements = "numpy==1.26.0\nmlflow==1.0\nrich==1\ncatboost==2\n--index-url x\npandas\n"
    (model / "requirements.txt").write_text(requirements)
    with pytest.raises(ContractError, match=r"trained with numpy 1.26.0, 2\S* is installed: "):
        load_model(settings_for(model, tmp_path))
    monkeypatch.setenv("ALLOW_OTHER_VERSIONS", "true")
    loaded = load_model(settings_for(model, tmp_path))
    libraries = loaded.describe()["libraries"]
    assert libraries["catboost"] == {"trained_with": "2", "installed": None}
    assert libraries["pandas"]["installed"]


def test_a_module_that_is_missing_is_named(
    model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_engine(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'xgboost'", name="xgboost")

    monkeypatch.setattr("serving.engines.loading.SklearnEngine", load_engine)
    with pytest.raises(ContractError, match=r"needs the Python module 'xgboost'.* uv add"):
        load_model(settings_for(model_directory, tmp_path))


def test_a_missing_model_is_not_a_contract_error(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError):
        load_model(settings_for(tmp_path / "nowhere", tmp_path))
