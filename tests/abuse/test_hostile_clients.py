"""What one caller, or the model, does to all others: over real sockets."""

import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers import run
from serving import client, free_port, serve, start, wait_for_workers, wait_until

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
BODY_BYTES = 10_000_000
SECRET = "tell-nobody"


def example_of(http: httpx.Client) -> dict[str, Any]:
    """The example of the served model."""
    schemas = http.get("/openapi.json").json()["components"]["schemas"]
    example: dict[str, Any] = schemas["PredictionRequest"]["example"]
    return example


@pytest.fixture(scope="module")
def penguin_api(project: Path, penguins: str) -> Iterator[httpx.Client]:
    """A server of the example."""
    with serve(project, "--run-id", penguins) as http:
        yield http


@pytest.mark.parametrize(
    ("unit", "rule"),
    [
        pytest.param(b"[" * 150 + b"]" * 150, "nested", id="deep"),
        pytest.param(b"[]", "values", id="empty arrays"),
        pytest.param(b'{"a":0}', "values", id="objects"),
        pytest.param(b"0", "values", id="numbers"),
    ],
)
def test_millions_of_values_are_refused_before_they_are_parsed(
    penguin_api: httpx.Client, unit: bytes, rule: str
) -> None:
    count = BODY_BYTES // (len(unit) + 1) - 10
    body = b'{"samples":[' + b",".join([unit] * count) + b"]}"
    example = example_of(penguin_api)

    def send(_: int) -> httpx.Response:
        return penguin_api.post("/predict/batch", content=body)

    with ThreadPoolExecutor(3) as pool:
        answers = pool.map(send, range(3))
        for _ in range(20):  # others are answered meanwhile
            assert penguin_api.post("/predict", json=example).status_code == 200
        for answer in answers:
            assert (answer.status_code, rule in answer.json()["detail"]) == (422, True), answer.text


def test_brackets_in_text_are_no_structure(penguin_api: httpx.Client) -> None:
    example = example_of(penguin_api) | {"island": '[{"\\",\\\\"' * 20_000}
    assert penguin_api.post("/predict", json=example).status_code == 200
    body = json.dumps(example).replace("[", "\\u005b").encode()
    assert penguin_api.post("/predict", content=body).status_code == 200


def test_a_batch_of_the_largest_size_is_answered(penguin_api: httpx.Client) -> None:
    samples = {"samples": [example_of(penguin_api)] * 10_000}
    answer = penguin_api.post("/predict/batch", json=samples)
    assert (answer.status_code, len(answer.json()["predictions"])) == (200, 10_000)


def received(port: int, *parts: bytes) -> bytes:
    """What the server answers to some bytes until it closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        answer = b""
        try:
            for part in parts:
                connection.sendall(part)
            while chunk := connection.recv(65_536):
                answer += chunk
        except ConnectionError:  # it has closed with bytes of ours unread
            pass
        return answer


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([b"X: " + b"a" * 70_000 + b"\r\n", b"\r\n"], id="one that is long"),
        pytest.param([b"X: " + b"a" * 1000 + b"\r\n"] * 70 + [b"\r\n"], id="together"),
        pytest.param([b"X: a\r\n"] * 101 + [b"\r\n"], id="many"),
        pytest.param([b"X: " + b"a" * 500_000, b"a" * 500_000], id="one that never ends"),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_large_heads_are_refused(
    penguin_api: httpx.Client, lines: list[bytes], at_once: bool
) -> None:
    port = penguin_api.base_url.port
    assert port
    parts = [b"GET /health HTTP/1.1\r\nHost: a\r\n", *lines]
    answer = received(port, *([b"".join(parts)] if at_once else parts))
    # A reset may have overtaken the answer to bytes that the server has never read.
    assert not answer or answer.startswith(b"HTTP/1.1 431 "), answer
    if len(b"".join(parts)) < 100_000:
        assert b'"status":431' in answer
    assert penguin_api.get("/health", headers={"X": "a" * 60_000}).status_code == 200


def test_a_compressed_body_is_refused(penguin_api: httpx.Client) -> None:
    for path in ("/predict", "/predict/batch", "/invocations"):
        answer = penguin_api.post(path, content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
        assert answer.status_code == 415
        assert "Content-Encoding" in answer.json()["detail"]


@pytest.fixture(scope="module")
def hostile(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a model that does what its caller asks for."""
    model = tmp_path_factory.mktemp("hostile") / "model"
    run(project / ".venv/bin/python", HERE / "hostile_model.py", model, cwd=project)
    return model


def test_whatever_the_model_raises_the_next_request_is_answered(
    project: Path, hostile: Path
) -> None:
    with serve(project, "--model-uri", hostile) as http:
        for wish in ("stop", "exit", "interrupt", "time"):
            answer = http.post("/predict", json={"wish": f"{wish} {SECRET}"})
            assert answer.status_code == 500, wish
            assert SECRET not in answer.text
            assert http.post("/predict", json={"wish": ""}).json()["prediction"] == 1
        assert http.get("/ready").status_code == 200
    assert SECRET not in (project / "server.log").read_text()


def test_requests_do_not_queue_behind_a_call_that_hangs(project: Path, hostile: Path) -> None:
    def ask(wish: str) -> int:
        return http.post("/predict", json={"wish": wish}).status_code

    limited = serve(
        project,
        "--model-uri",
        hostile,
        REQUEST_TIMEOUT_SECONDS="1",
        MAX_CONCURRENT_REQUESTS="4",
    )
    with limited as http:
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(ask, ["hang"] * 4)) == {504}
        metrics = http.get("/metrics").text
        assert "predictions_waiting 0.0" in metrics
        assert "predictions_in_progress 0.0" in metrics
        answer = http.post("/predict", json={"wish": ""})
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
        assert "has not answered for more than 1 s" in answer.json()["detail"]
        assert http.get("/ready").status_code == 503
        assert http.get("/health").status_code == 200


@pytest.mark.parametrize("workers", [1, 2])
def test_a_call_that_hangs_may_end_the_process(project: Path, hostile: Path, workers: int) -> None:
    port, log = free_port(), project / "server.log"
    options = ("--port", str(port), "--model-uri", hostile, "--workers", str(workers))
    server = start(project, log, *options, EXIT_AFTER_SECONDS="1")
    try:
        with client(port) as http:
            wait_until(http, 200, server, log)
            wait_for_workers(http, workers)
        with client(port) as http, pytest.raises(httpx.TransportError):
            http.post("/predict", json={"wish": "hang"})
        if workers == 1:
            assert server.wait(timeout=30) == 1
        else:
            while len(re.findall("Started server process", log.read_text())) < workers + 1:
                assert server.poll() is None, log.read_text()
                time.sleep(0.2)
            with client(port) as http:
                wait_until(http, 200, server, log)
        assert "Timeout (0:00:01)!" in log.read_text()
        assert "mlflow/pyfunc/model.py" in log.read_text()  # where it hangs
    finally:
        server.terminate()
        server.wait(timeout=60)
