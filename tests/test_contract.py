"""The API of rendered projects under generated and malformed requests over HTTP."""

import json
import random
import re
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers import LONG, ROOT, run, uv
from serving import client, serve, wait_for_workers

pytestmark = pytest.mark.slow

MODELS = ("classes", "forest", "outputs", "clusters", "quantiles")
EXAMPLES = 250 if LONG else 40
CASES = 3.6 * EXAMPLES
"""The fewest requests that are generated for each model and for the example."""
MALFORMED = 10_000
SECRET = "hunter2-4711"


@pytest.fixture(scope="module")
def models(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of models logged without the project."""
    directory = tmp_path_factory.mktemp("models")
    uv("run", "python", ROOT / "tests/foreign_models.py", directory, cwd=project)
    return directory


@pytest.mark.parametrize("name", ["penguins", *MODELS])
def test_generated_requests_keep_to_the_openapi_document(
    project: Path, models: Path, penguins: str, name: str, tmp_path: Path
) -> None:
    """No server error, answers fit the schema, and exactly the valid requests are accepted."""
    model = ("--run-id", penguins) if name == "penguins" else ("--model-uri", models / name)
    hooks = {"SCHEMATHESIS_HOOKS": "schemathesis_checks", "PYTHONPATH": str(ROOT / "tests")}
    with serve(project, *model, LOG_LEVEL="WARNING") as http:
        found = run(
            Path(sys.executable).with_name("schemathesis"),
            "run",
            f"{http.base_url}/openapi.json",
            *("--max-examples", str(EXAMPLES), "--seed", "1", "--no-color"),
            *("--checks", "all", "--exclude-checks", "positive_data_acceptance"),
            cwd=tmp_path,
            env=hooks,
            check=False,
        )
    assert found.returncode == 0, found.stdout[-5000:]
    passed = re.search(r"(\d+) generated, (\d+) passed", found.stdout)
    assert passed, found.stdout[-5000:]
    assert int(passed[1]) == int(passed[2]) >= CASES


def malformed(example: dict[str, Any]) -> Iterator[tuple[bytes, str]]:
    """Yield bodies that are malformed in many ways, and their content types."""
    dice = random.Random(0)
    good = json.dumps(example).encode()
    # Each replaces a value.
    values = [
        *(b"1" * digits for digits in (20, 400, 5_000)),
        *(b"1e400", b"-1e400", b"1e-400", b"0x10", b"01", b"+1", b".5", b"1.", b"1e", b"--1"),
        *(b"NaN", b"Infinity", b"-Infinity", b"None", b"True", b"undefined", b"'a'", b"\xff\xfe"),
        *(
            b'"\\ud800"',
            b'"\\udfff\\ud800"',
            b'"\\u12"',
            b'"\xed\xa0\x80"',
            b'"\xc0\xaf"',
            b'"\x00"',
        ),
        *(b"[" * depth + b"]" * depth for depth in (1, 100, 10_000)),
        *(b'{"a":' * depth + b"1" + b"}" * depth for depth in (1, 100, 10_000)),
        *(f'"{SECRET}"'.encode(), b'"' + b"x" * 100_000 + b'"', b'{"$ref": "#"}', b"{}", b""),
        *(
            b'"9999-99-99"',
            b'"2026-02-30"',
            b'"' + "🐧".encode() * 1_000 + b'"',
            b"// comment",
            b"1,",
        ),
    ]

    def replaced() -> bytes:
        name = dice.choice(list(example))
        body = json.dumps(example | {name: "@"}).encode()
        return body.replace(b'"@"', dice.choice(values))

    def cut() -> bytes:
        return good[: dice.randrange(len(good))]

    def flipped() -> bytes:
        body = bytearray(good)
        for _ in range(dice.randint(1, 5)):
            body[dice.randrange(len(body))] = dice.randrange(256)
        return bytes(body)

    def twice() -> bytes:
        name = dice.choice(list(example))
        return good[:-1] + f', {json.dumps(name)}: "{SECRET}"}}'.encode()

    def encoded() -> bytes:
        return good.decode().encode(
            dice.choice(["utf-16", "utf-32", "utf-8-sig", "utf-7", "cp037"])
        )

    def noise() -> bytes:
        return dice.randbytes(dice.randrange(200))

    def wrapped() -> bytes:
        around = dice.choice(
            [b"[%s]", b'{"samples": %s}', b'{"samples": [[%s]]}', b'{"inputs": %s}']
        )
        return around % replaced()

    ways: list[Callable[[], bytes]] = [replaced, cut, flipped, twice, encoded, noise, wrapped]
    types = ["application/json"] * 6 + ["text/csv", "text/plain", "", "application/json; charset=x"]
    while True:
        yield dice.choice(ways)(), dice.choice(types)


def test_malformed_bodies_are_refused_without_harm(project: Path, penguins: str) -> None:
    def memory() -> float:
        found = re.search(r"^process_resident_memory_bytes (\S+)", http.get("/metrics").text, re.M)
        assert found
        return float(found[1])

    def send(body: tuple[bytes, str]) -> tuple[int, str]:
        content, type_ = body
        path = ("/predict", "/predict/batch", "/invocations")[len(content) % 3]
        answer = http.post(path, content=content, headers={"Content-Type": type_})
        return answer.status_code, answer.text

    with serve(project, "--run-id", penguins) as http, ThreadPoolExecutor(8) as pool:
        schemas = http.get("/openapi.json").json()["components"]["schemas"]
        bodies = malformed(schemas["PredictionRequest"]["example"])
        statuses: Counter[int] = Counter()
        used = 0.0
        for _ in range(10):
            batch = [next(bodies) for _ in range(MALFORMED // 10)]
            for status, text in pool.map(send, batch):
                statuses[status] += 1
                assert SECRET not in text
                assert "Traceback" not in text
            used = used or memory()  # after the first tenth, when everything is warm
        # A flipped byte in a name or digit may leave a body valid.
        assert set(statuses) <= {200, 400, 413, 415, 422}, statuses
        assert sum(statuses.values()) == MALFORMED
        assert statuses[422] > MALFORMED / 2
        assert memory() < used + 50e6
    assert SECRET not in (project / "server.log").read_text()


def test_slow_clients_time_out_and_disturb_nobody(project: Path, penguins: str) -> None:
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 500\r\n\r\n{"
    with serve(project, "--run-id", penguins, REQUEST_TIMEOUT_SECONDS="2") as http:
        port = http.base_url.port
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
        for connection in slow:
            connection.sendall(head)
        schemas = http.get("/openapi.json").json()["components"]["schemas"]
        example = schemas["PredictionRequest"]["example"]
        assert http.post("/predict", json=example).status_code == 200
        for connection in slow:
            with connection:
                connection.settimeout(30)
                answer = connection.makefile("rb").read()
                assert answer.startswith(b"HTTP/1.1 408 ")
                assert b"did not arrive within 2 s" in answer
        assert "predictions_in_progress 0.0" in http.get("/metrics").text


def test_workers_share_their_metrics(project: Path, penguins: str) -> None:
    with serve(project, "--run-id", penguins, "--workers", "2") as first:
        wait_for_workers(first, 2)
        port = first.base_url.port
        assert port
        for _ in range(40):
            with client(port) as http:  # new connections, so that any worker may answer
                assert http.get("/model").json()["run_id"] == penguins
        text = first.get("/metrics").text
        assert 'http_requests_total{method="GET",route="/model",status="200"} 40.0' in text
        assert f'run_id="{penguins}"' in text
