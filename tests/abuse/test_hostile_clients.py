"""The effect of one caller, or of the model, on all other callers, over real sockets."""

import contextlib
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
def penguin_server(project: Path, penguins: str) -> Iterator[tuple[httpx.Client, int]]:
    """A server of the example, and its process."""
    with serve(project, "--run-id", penguins) as http:
        log = (project / "server.log").read_text()
        [pid] = re.findall(r"Started server process \[(\d+)\]", log)
        yield http, int(pid)


@pytest.fixture(scope="module")
def penguin_api(penguin_server: tuple[httpx.Client, int]) -> httpx.Client:
    """A client of that server."""
    return penguin_server[0]


@pytest.fixture(scope="module")
def penguin_pid(penguin_server: tuple[httpx.Client, int]) -> int:
    """The process of that server."""
    return penguin_server[1]


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
        for _ in range(20):  # others get answers in the meantime
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


def batch_of(http: httpx.Client, count: int) -> bytes:
    """A batch that is valid and as large as a body may be."""
    example = example_of(http)
    length = BODY_BYTES // count - len(json.dumps(example)) - 20
    long = example | {"island": "x" * length}
    return json.dumps({"samples": [long] * count}).encode()


def resident_bytes(pid: int) -> int:
    """The current memory of a process."""
    [line] = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(line) * 1024


def peak_bytes(pid: int) -> int:
    """The peak memory of a process since `reset_peak`."""
    [line] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(line) * 1024


def reset_peak(pid: int) -> int:
    """Reset the peak, and return the current memory of the process."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return resident_bytes(pid)


def head_of(length: int) -> bytes:
    """The head of a batch of this length."""
    lines = "POST /predict/batch HTTP/1.1", "Host: a", "Content-Type: application/json"
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


def test_large_bodies_take_little_more_memory_than_their_bytes(
    penguin_api: httpx.Client, penguin_pid: int
) -> None:
    body = batch_of(penguin_api, 10_000)
    example = example_of(penguin_api)

    def send(_: int) -> int:
        while True:
            answer = penguin_api.post("/predict/batch", content=body)
            if answer.status_code != 503:
                return answer.status_code
            assert "retry-after" in answer.headers
            time.sleep(0.2)

    before = reset_peak(penguin_pid)
    with ThreadPoolExecutor(12) as pool:
        statuses = pool.map(send, range(12))
        for _ in range(20):
            assert penguin_api.post("/predict", json=example).status_code == 200
        assert set(statuses) == {200}
    assert peak_bytes(penguin_pid) - before < 250_000_000  # once 100 MB for each waiting body


def test_stalled_uploads_do_not_block_others(penguin_api: httpx.Client, penguin_pid: int) -> None:
    body = batch_of(penguin_api, 1)
    example = example_of(penguin_api)
    before = reset_peak(penguin_pid)
    with contextlib.ExitStack() as stack:
        port = penguin_api.base_url.port
        assert port
        stalled = []
        for _ in range(20):
            connection = socket.create_connection(("127.0.0.1", port), timeout=30)
            stack.enter_context(connection)
            connection.sendall(head_of(len(body)) + body[:-1])
            stalled.append(connection)
        for _ in range(100):
            assert penguin_api.post("/predict", json=example).status_code == 200
        answers = [connection.recv(65_536) for connection in stalled]
    assert {answer.split()[1] for answer in answers} <= {b"408", b"503"}
    assert b"no more of the body arrived for 5 s" in b"".join(answers)
    assert penguin_api.post("/predict/batch", content=body).status_code == 200
    assert peak_bytes(penguin_pid) - before < 150_000_000  # 8 of the 20 are kept


def test_answers_that_nobody_reads_are_bounded(penguin_api: httpx.Client, penguin_pid: int) -> None:
    example = example_of(penguin_api)
    [entity] = penguin_api.post("/predict", json=example).json()["entities"]
    long = example | {entity: "x" * 800}  # answers repeat it: 10 MB
    body = json.dumps({"samples": [long] * 10_000}).encode()
    before = reset_peak(penguin_pid)
    with contextlib.ExitStack() as stack:
        answers = []
        for _ in range(16):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(30)
            connection.connect(("127.0.0.1", penguin_api.base_url.port))
            connection.sendall(head_of(len(body)) + body)
            answers.append(connection.recv(20))  # the beginning of it
            assert penguin_api.post("/predict", json=example).status_code == 200
        assert [answer.split()[1] for answer in answers][:4] == [b"200"] * 4
        refused = penguin_api.post("/predict/batch", content=body)
        assert (refused.status_code, "responses" in refused.json()["detail"]) == (503, True)
        assert peak_bytes(penguin_pid) - before < 300_000_000
    deadline = time.monotonic() + 60
    while penguin_api.post("/predict/batch", content=body).status_code != 200:
        assert time.monotonic() < deadline, "what was never read is still counted"
        time.sleep(0.2)


def received(port: int, *parts: bytes) -> bytes:
    """Send some bytes; return the answer until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        answer = b""
        try:
            for part in parts:
                connection.sendall(part)
            while chunk := connection.recv(65_536):
                answer += chunk
        except ConnectionError:  # the server closed without reading all our bytes
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
    sent = [b"".join(parts)] if at_once else parts
    # A connection reset may overtake the answer to bytes that the server has not read.
    answers = [received(port, *sent) for _ in range(5)]
    assert all(one.startswith(b"HTTP/1.1 431 ") for one in answers if one), answers
    if len(b"".join(parts)) < 100_000:
        assert any(b'"status":431' in one for one in answers)
    assert penguin_api.get("/health", headers={"X": "a" * 60_000}).status_code == 200


def test_requests_without_end_on_one_connection_are_not_collected(
    penguin_api: httpx.Client,
) -> None:
    """Requests that arrive faster than their answers would fill the memory within seconds."""
    port = penguin_api.base_url.port
    request = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        with pytest.raises(ConnectionError):  # closed; a timeout would be another error
            connection.sendall(request * 1_000_000)
        assert penguin_api.get("/health").status_code == 200
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request * 50)
        answers = b""
        while answers.count(b"HTTP/1.1 200") < 50:
            answers += connection.recv(65_536)


def test_a_compressed_body_is_refused(penguin_api: httpx.Client) -> None:
    for path in ("/predict", "/predict/batch", "/invocations"):
        answer = penguin_api.post(path, content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
        assert answer.status_code == 415
        assert "Content-Encoding" in answer.json()["detail"]


@pytest.fixture(scope="module")
def hostile(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a model that does what its caller requests."""
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
