"""Limits and protection: size, rows, concurrency, time, key, origins."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import SAMPLE, settings_for, wait_until_loaded
from fastapi.testclient import TestClient
from serving.api.app import create_app
from serving.config.settings import CorsSettings
from serving.engines.sklearn import SklearnEngine
from serving.errors import Overloaded
from serving.runtime import limits as limits_room
from serving.runtime.limits import LARGE_BYTES, Limits

KEY = "a-key-of-some-length"


@pytest.fixture
def limited(
    request: pytest.FixtureRequest, model_directory: Path, tmp_path: Path
) -> Iterator[TestClient]:
    """The API with the settings in the test's parameter."""
    settings = settings_for(model_directory, tmp_path)
    serving = settings.serving.model_copy(update=getattr(request, "param", {}))
    settings = settings.model_copy(update={"serving": serving})
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_loaded(client)
        yield client


def serving(**settings: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("limited", [settings], indirect=True, ids=[""])


@serving(max_body_bytes=200)
def test_a_body_that_is_too_large_is_413(limited: TestClient) -> None:
    def chunks() -> Iterator[bytes]:  # no Content-Length
        for _ in range(300):
            yield b" "

    assert limited.post("/predict", json=SAMPLE).status_code == 200
    for body in (b" " * 201, chunks()):
        answer = limited.post("/predict", content=body)
        assert answer.status_code == 413
        assert "200 bytes" in answer.json()["detail"]


@serving(max_batch_rows=2)
def test_a_batch_of_too_many_rows_is_refused(limited: TestClient) -> None:
    answer = limited.post("/predict/batch", json={"samples": [SAMPLE] * 3})
    assert answer.status_code == 422
    assert answer.json()["detail"] == "samples: must have at most 2 items"
    row = {name: value for name, value in SAMPLE.items() if name != "plant id"}
    answer = limited.post("/invocations", json={"instances": [row] * 3})
    assert answer.json()["detail"] == "instances: must have at most 2 items"
    schema = limited.get("/openapi.json").json()["components"]["schemas"]["BatchPredictionRequest"]
    assert schema["properties"]["samples"]["maxItems"] == 2


def slow_down(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    predict = SklearnEngine.predict

    def slowly(self: SklearnEngine, table: Any) -> Any:
        time.sleep(seconds)
        return predict(self, table)

    monkeypatch.setattr(SklearnEngine, "predict", slowly)


@serving(max_concurrent_requests=2)
def test_more_requests_than_allowed_get_a_503(
    limited: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_down(monkeypatch, 0.5)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: limited.post("/predict", json=SAMPLE), range(4)))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [200, 200, 503, 503]
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.headers["retry-after"] == "1"
    assert limited.post("/predict", json=SAMPLE).status_code == 200


@serving(request_timeout_seconds=0.3)
def test_a_model_that_is_too_slow_is_504(
    limited: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_down(monkeypatch, 1)
    answer = limited.post("/predict", json=SAMPLE)
    assert answer.status_code == 504
    assert answer.json()["detail"] == "the model did not answer within 0.3 s"


def test_a_key_is_required_except_for_probes(
    model_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", KEY)
    monkeypatch.setenv("API_KEY_HEADER", "X-Token")
    with TestClient(create_app(settings_for(model_directory, tmp_path))) as client:
        wait_until_loaded(client)
        for path in ("/health", "/ready", "/ping", "/metrics"):
            assert client.get(path).status_code == 200
        wrong: list[dict[str, str]] = [{}, {"X-Token": KEY[:-1]}, {"X-API-Key": KEY}]
        for given in wrong:
            for path in ("/model", "/openapi.json", "/nowhere"):
                assert client.get(path, headers=given).status_code == 401
            answer = client.post("/predict", json=SAMPLE, headers=given)
            assert (answer.status_code, answer.json()["status"]) == (401, 401)
        given = {"X-Token": KEY}
        assert client.post("/predict", json=SAMPLE, headers=given).status_code == 200
        document = client.get("/openapi.json", headers=given).json()
        assert document["components"]["securitySchemes"]["key"]["name"] == "X-Token"
        assert document["paths"]["/ready"]["get"]["security"] == []
        assert "401" in document["paths"]["/predict"]["post"]["responses"]


@serving(cors=CorsSettings(enabled=True, allow_origins=["https://a.example"]))
def test_pages_of_named_origins_may_call(limited: TestClient) -> None:
    asked = {"Access-Control-Request-Method": "POST"}
    for origin, status in (("https://a.example", 200), ("https://b.example", 400)):
        answer = limited.options("/predict", headers=asked | {"Origin": origin})
        assert answer.status_code == status
    answer = limited.post("/predict", json=SAMPLE, headers={"Origin": "https://a.example"})
    assert answer.headers["access-control-allow-origin"] == "https://a.example"


def test_no_page_may_call_unless_it_is_named(client: TestClient) -> None:
    answer = client.post("/predict", json=SAMPLE, headers={"Origin": "https://a.example"})
    assert "access-control-allow-origin" not in answer.headers


@serving(unknown_fields="ignore")
def test_unknown_fields_may_be_ignored(limited: TestClient) -> None:
    assert limited.post("/predict", json=SAMPLE | {"more": 1}).status_code == 200


@serving(metrics_enabled=False)
def test_metrics_may_be_off(limited: TestClient) -> None:
    assert limited.get("/metrics").status_code == 404


def counted(limits: Limits, length: int) -> ExitStack:
    """Reserve a body of this many bytes, in two pieces, until the block ends."""
    stack = ExitStack()
    reserved = stack.enter_context(limits.reserve_body())
    try:
        reserved.add(length - 1)
        reserved.add(1)
    except Overloaded:
        stack.close()
        raise
    return stack


def test_large_bodies_leave_room_for_small_ones() -> None:
    limits = Limits(max_requests=2, max_body_bytes=100_000, max_batch_rows=10)
    with ExitStack() as stack:
        for _ in range(limits_room.MOST_LARGE_BODIES):
            stack.enter_context(counted(limits, 100_000))
        with pytest.raises(Overloaded, match="large"):
            counted(limits, 20_000)
        with pytest.raises(Overloaded, match="large"):  # before a byte of it is read
            limits.reserve_body().check(20_000)
        for _ in range(100):
            stack.enter_context(counted(limits, LARGE_BYTES))
    counted(limits, 100_000).close()


def test_small_bodies_are_limited_by_themselves() -> None:
    limits = Limits(max_requests=2, max_body_bytes=100_000, max_batch_rows=10)
    with ExitStack() as stack:
        for _ in range(limits_room.MOST_SMALL_BODIES):
            stack.enter_context(counted(limits, LARGE_BYTES))
        with pytest.raises(Overloaded):
            counted(limits, 2)
    counted(limits, LARGE_BYTES).close()


def test_unread_answers_have_their_own_limit() -> None:
    limits = Limits(max_requests=2, max_body_bytes=100_000, max_batch_rows=10)
    with limits.answer(10_000_000):  # a single answer may have any length
        with pytest.raises(Overloaded), limits.answer(20_000):
            pass
        counted(limits, 100_000).close()
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(limits.answer(400_000))
        with pytest.raises(Overloaded):
            stack.enter_context(limits.answer(20_000))
    with limits.answer(800_000):
        pass


def test_large_requests_and_rows_are_counted_apart() -> None:
    limits = Limits(max_requests=1, max_body_bytes=100_000, max_batch_rows=10)
    with limits.prediction_slot(is_large=True) as add_rows:
        add_rows(60)
        with limits.prediction_slot(is_large=False) as add_more:
            with pytest.raises(Overloaded, match="requests"):
                limits.prediction_slot(is_large=False).__enter__()
            with pytest.raises(Overloaded, match="rows"):
                add_more(41)
            add_more(40)
    with limits.prediction_slot(is_large=True) as add_rows:
        add_rows(100)


def test_large_bodies_take_turns_in_their_order() -> None:
    limits = Limits(max_requests=100, max_body_bytes=100, max_batch_rows=10)
    log: list[str] = []

    async def work(name: str, length: int) -> None:
        async with limits.turn(length):
            log.append(f"{name} begins")
            await asyncio.sleep(0.01)
            log.append(f"{name} ends")

    async def scenario() -> None:
        lengths = {"a": 60, "b": 40, "c": 100, "given up": 60, "d": 10}
        tasks = {name: asyncio.create_task(work(name, n)) for name, n in lengths.items()}
        await asyncio.sleep(0)
        tasks["given up"].cancel()
        await asyncio.wait_for(asyncio.gather(*tasks.values(), return_exceptions=True), 10)

    asyncio.run(scenario())
    assert log == [
        *("a begins", "b begins", "a ends", "b ends"),
        *("c begins", "c ends", "d begins", "d ends"),
    ]
