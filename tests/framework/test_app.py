"""The HTTP API."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import SAMPLE, settings_for, wait_until_loaded
from fastapi.testclient import TestClient
from serving.api.app import create_app


def test_probes(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    ready = client.get("/ready")
    assert ready.status_code == 200
    assert ready.json()["status"] == "ready"


def test_predict_answers_one_sample(client: TestClient) -> None:
    answer = client.post("/predict", json=SAMPLE)
    assert answer.status_code == 200
    body = answer.json()
    assert body["prediction"] == "setosa"
    assert body["confidence"] == max(body["probabilities"].values())
    assert set(body["probabilities"]) == {"setosa", "versicolor", "virginica"}
    assert sum(body["probabilities"].values()) == pytest.approx(1)
    assert body["entities"] == {"plant id": 7}
    assert body["model_version"] is client.get("/ready").json()["model_version"] is None
    assert body["model_id"] == client.get("/model").json()["model_id"]


def test_batch_answers_in_order_like_one_by_one(client: TestClient, irises: pd.DataFrame) -> None:
    samples = irises.drop(columns="species").sample(20, random_state=0).to_dict(orient="records")
    batch = client.post("/predict/batch", json={"samples": samples}).json()["predictions"]
    alone = [client.post("/predict", json=sample).json() for sample in samples]
    assert [answer["entities"]["plant id"] for answer in batch] == [s["plant id"] for s in samples]
    assert [answer["prediction"] for answer in batch] == [a["prediction"] for a in alone]
    assert [a["confidence"] for a in batch] == pytest.approx([a["confidence"] for a in alone])


TARGET = "is the target, which the model predicts; leave it out"


@pytest.mark.parametrize(
    ("change", "pointer", "rule"),
    [
        ({"petal width (cm)": "0.2"}, "/petal width (cm)", "must be a valid number"),
        ({"petal width (cm)": True}, "/petal width (cm)", "must be a valid number"),
        ({"petal width (cm)": None}, "/petal width (cm)", "must not be null"),
        ({"plant id": 1.7}, "/plant id", "must be a valid integer"),
        ({"species": "setosa"}, "/species", TARGET),
        ({"a/b~c": 1}, "/a~1b~0c", "unknown field"),
    ],
)
def test_a_wrong_value_is_refused_by_name(
    client: TestClient, change: dict[str, Any], pointer: str, rule: str
) -> None:
    answer = client.post("/predict", json=SAMPLE | change)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"] == [{"pointer": pointer, "detail": rule}]


@pytest.mark.parametrize("name", SAMPLE)
def test_every_column_is_required(client: TestClient, name: str) -> None:
    body = {key: value for key, value in SAMPLE.items() if key != name}
    answer = client.post("/predict", json=body)
    assert answer.json()["errors"] == [{"pointer": f"/{name}", "detail": "is required"}]


def test_a_wrong_sample_of_a_batch_is_named(client: TestClient) -> None:
    samples = [SAMPLE, SAMPLE | {"plant id": "x"}]
    answer = client.post("/predict/batch", json={"samples": samples})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/samples/1/plant id"


def test_only_the_first_wrong_sample_is_told(client: TestClient) -> None:
    samples = [SAMPLE, {"a": 1}, {"b": 1}]
    answer = client.post("/predict/batch", json={"samples": samples})
    assert {error["pointer"].split("/")[2] for error in answer.json()["errors"]} == {"1"}


def test_answers_stay_short_whatever_is_sent(client: TestClient) -> None:
    many = client.post("/predict", json=SAMPLE | {f"key {n}": 1 for n in range(5_000)})
    assert many.json()["detail"] == "5000 values are wrong"
    name = "x" * 1_000_000
    for body in (f'{{"{name}": 1}}', f'{{"{name}": 1, "{name}": 2}}'):
        answer = client.post("/predict", content=body)
        assert answer.status_code == 422
        assert len(answer.content) < 5_000


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b'{"plant id": NaN}'])
def test_a_body_that_is_not_a_json_object_is_refused(client: TestClient, body: bytes) -> None:
    answer = client.post("/predict", content=body)
    assert answer.status_code == 422
    assert answer.json()["status"] == 422


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", "/predict", 405)]
)
def test_other_errors_are_problem_documents(
    client: TestClient, method: str, path: str, status: int
) -> None:
    answer = client.request(method, path)
    assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert answer.headers["content-type"] == "application/problem+json"


def test_openapi_names_every_column_and_its_example_works(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    schema = document["components"]["schemas"]["PredictionRequest"]
    assert list(schema["properties"]) == list(SAMPLE)
    assert schema["properties"]["plant id"]["type"] == "integer"
    assert schema["properties"]["petal width (cm)"]["type"] == "number"
    assert "species" not in json.dumps(schema)
    assert client.post("/predict", json=schema["example"]).status_code == 200


def test_every_reference_of_the_openapi_document_resolves(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    text = json.dumps(document)
    for name in set(text.split('"#/components/schemas/')[1:]):
        assert name.partition('"')[0] in document["components"]["schemas"]


def test_model_says_what_is_served(client: TestClient) -> None:
    model = client.get("/model").json()
    assert model["recipe"]["name"] == "irises"
    assert model["engine"]["estimator"].endswith("LogisticRegression")
    assert [column["name"] for column in model["signature"]["inputs"]] == list(SAMPLE)[1:]


def test_without_a_model_the_process_lives_and_says_why_it_is_not_ready(tmp_path: Path) -> None:
    with TestClient(create_app(settings_for(tmp_path / "nowhere", tmp_path))) as client:
        wait_until_loaded(client)
        assert client.get("/health").status_code == 200
        for answer in (client.get("/ready"), client.post("/predict", json=SAMPLE)):
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
            assert "could not be loaded" in answer.json()["detail"]
            assert str(tmp_path) not in answer.text
        schemas = client.get("/openapi.json").json()["components"]["schemas"]
        assert "Not known yet" in schemas["PredictionRequest"]["description"]


def test_a_model_that_fails_is_a_500_without_details(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from serving.engines.sklearn import SklearnEngine

    def fail(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(SklearnEngine, "predict", fail)
    answer = client.post("/predict", json=SAMPLE)
    assert answer.status_code == 500
    assert "secret" not in answer.text
