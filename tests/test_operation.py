"""Rendered projects in operation: stops, dead tracking servers, MLflow's tools, other models."""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import Render
from helpers import LONG, ROOT, run, uv
from serving import client, free_port, serve, start, wait_for_workers, wait_until
from uv import find_uv_bin

pytestmark = pytest.mark.slow

DOWN = "trying again in"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def mlflow(project: Path) -> Path:
    """The `mlflow` command of an environment with all of MLflow."""
    environment = project / ".venv-mlflow"
    groups = ("--no-default-groups", "--no-install-project", "--group", "mlflow")
    settings = {"UV_PROJECT_ENVIRONMENT": str(environment)}
    uv("sync", "--quiet", *groups, "--group", "native", cwd=project, env=settings)
    return environment / "bin/mlflow"


@contextlib.contextmanager
def running(*command: str | Path, cwd: Path, url: str) -> Iterator[None]:
    """Run a server until the block ends; it counts as started when `url` answers 200."""
    log = cwd / "other.log"
    path = os.pathsep.join(
        [str(Path(command[0]).parent), os.environ["PATH"]]
    )  # mlflow needs uvicorn
    with log.open("w") as output:
        server = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env={**os.environ, "PATH": path},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        with httpx.Client(trust_env=False) as http:
            while True:
                with contextlib.suppress(httpx.TransportError):
                    if http.get(url).status_code == 200:
                        break
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def example_of(http: httpx.Client) -> dict[str, Any]:
    """The example of the OpenAPI document."""
    schemas = http.get("/openapi.json").json()["components"]["schemas"]
    example: dict[str, Any] = schemas["PredictionRequest"]["example"]
    return example


@pytest.mark.parametrize("workers", ["1", "2"])
def test_no_accepted_request_is_lost_when_sigterm_arrives(
    project: Path, penguins: str, workers: str
) -> None:
    """32 clients continue until a load balancer, which polls `/ready`, stops sending requests."""
    port = free_port()
    log = project / "server.log"
    options = ("--port", str(port), "--run-id", penguins, "--workers", workers)
    server = start(project, log, *options, DRAIN_SECONDS="3")
    answers: Counter[int | str] = Counter()
    red = threading.Event()

    def call(body: dict[str, Any]) -> None:
        with client(port) as http:
            while not red.is_set():
                try:
                    answers[http.post("/predict", json=body).status_code] += 1
                except httpx.TransportError as exc:
                    answers[repr(exc)] += 1

    try:
        with client(port) as http:
            wait_until(http, 200, server, log)
            wait_for_workers(http, int(workers))
            body = example_of(http)
        threads = [threading.Thread(target=call, args=[body]) for _ in range(32)]
        for thread in threads:
            thread.start()
        while answers[200] < 100:
            time.sleep(0.1)
        server.send_signal(signal.SIGTERM)
        with client(port) as http:  # raises if refused: /ready must turn red before that
            while http.get("/ready").status_code == 200:
                time.sleep(0.05)
        red.set()
        for thread in threads:
            thread.join(timeout=60)
        assert server.wait(timeout=60) == 0, log.read_text()
    finally:
        red.set()
        server.kill()
        server.wait()
    assert set(answers) == {200}, answers


class Caller(threading.Thread):
    """Sends requests until it is refused, and never checks `/ready`."""

    def __init__(self, port: int, body: str, *, keeps_alive: bool) -> None:
        super().__init__()
        self.answers: Counter[str] = Counter()
        self._port = port
        self._body = body
        self._keeps_alive = keeps_alive

    def run(self) -> None:
        connection: http.client.HTTPConnection | None = None
        while True:
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
                try:
                    connection.connect()
                except ConnectionRefusedError:
                    return
            try:
                connection.request("POST", "/predict", self._body, JSON)
                answer = connection.getresponse()
                answer.read()
                self.answers[str(answer.status)] += 1
                closes = answer.will_close or not self._keeps_alive
            except (OSError, http.client.HTTPException) as exc:
                self.answers[repr(exc)] += 1
                closes = True
            if closes:
                connection.close()
                connection = None


@contextlib.contextmanager
def under_load(
    project: Path, run_id: str, workers: int, **environment: str
) -> Iterator[tuple[subprocess.Popen[bytes], list[Caller]]]:
    """Run a server with 32 callers; half of them keep their connections."""
    port = free_port()
    log = project / "server.log"
    options = ("--port", str(port), "--run-id", run_id, "--workers", str(workers))
    server = start(project, log, *options, **environment)
    try:
        with client(port) as asking:
            wait_until(asking, 200, server, log)
            wait_for_workers(asking, workers)
            body = json.dumps(example_of(asking))
        callers = [Caller(port, body, keeps_alive=bool(index % 2)) for index in range(32)]
        for caller in callers:
            caller.start()
        yield server, callers
    finally:
        server.kill()
        server.wait()


def sum_of(callers: list[Caller]) -> Counter[str]:
    """The answers to all callers so far."""
    return sum((caller.answers for caller in callers), Counter())


@pytest.mark.parametrize("workers", [1, 2])
def test_nobody_is_reset_when_the_server_stops(project: Path, penguins: str, workers: int) -> None:
    """Callers who never check `/ready` get answers until they are refused."""
    for _ in range(10 if LONG else 2):
        with under_load(project, penguins, workers) as (server, callers):
            while sum_of(callers)["200"] < 200:
                time.sleep(0.05)
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=60) == 0
            for caller in callers:
                caller.join(timeout=60)
        answers = sum_of(callers)
        assert set(answers) == {"200"}, answers


def test_workers_that_are_replaced_do_not_stop_the_others(project: Path, penguins: str) -> None:
    with under_load(project, penguins, 2) as (server, callers):
        log = project / "server.log"
        server.send_signal(signal.SIGHUP)
        while log.read_text().count("Finished server process") < 2:
            assert server.poll() is None, log.read_text()
            time.sleep(0.2)
        before = sum_of(callers)["200"]
        while sum_of(callers)["200"] < before + 200:
            assert all(caller.is_alive() for caller in callers), sum_of(callers)
            time.sleep(0.05)
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=60) == 0
        for caller in callers:
            caller.join(timeout=60)
    # A new worker has no model yet; no connection is reset or refused.
    assert set(sum_of(callers)) <= {"200", "503"}, sum_of(callers)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_their_supervisor(
    project: Path, penguins: str, tmp_path: Path, number: signal.Signals
) -> None:
    """However it ends, workers answer until they stop, and leave no process and no file."""
    with under_load(project, penguins, 2, TMPDIR=str(tmp_path)) as (server, callers):
        assert directories(tmp_path, "*metrics*")
        while sum_of(callers)["200"] < 200:
            time.sleep(0.05)
        server.send_signal(number)
        server.wait(timeout=60)
        for caller in callers:  # until they are refused, as nothing listens any more
            caller.join(timeout=30)
            assert not caller.is_alive(), sum_of(callers)
        deadline = time.monotonic() + 30
        while is_running(server.pid) or directories(tmp_path):
            assert time.monotonic() < deadline, directories(tmp_path)
            time.sleep(0.1)
    answers = sum_of(callers)
    assert set(answers) == {"200"}, answers


def directories(path: Path, pattern: str = "*") -> set[Path]:
    """The subdirectories of a directory."""
    return {child for child in path.glob(pattern) if child.is_dir()}


def is_running(group: int) -> bool:
    """Whether the process group has a process."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_start_removes_what_killed_servers_have_left(
    project: Path, penguins: str, tmp_path: Path
) -> None:
    """All processes of one server are killed at once, while another keeps running."""
    options = ("--run-id", penguins, "--workers", "2")
    with serve(project, *options, TMPDIR=str(tmp_path)) as http:
        wait_for_workers(http, 2)
        [used] = directories(tmp_path, "*metrics*")
        port = free_port()
        log = project / "killed.log"
        killed = start(project, log, *options, "--port", str(port), TMPDIR=str(tmp_path))
        try:
            with client(port) as other:
                wait_until(other, 200, killed, log)
        finally:
            os.killpg(killed.pid, signal.SIGKILL)
            killed.wait()
        [left] = directories(tmp_path, "*metrics*") - {used}
        with serve(project, *options, TMPDIR=str(tmp_path)):
            assert not left.exists()
        assert "model_ready 2.0" in http.get("/metrics").text


def test_the_documented_command_opens_mlflows_ui(project: Path, penguins: str) -> None:
    """It is the command that `mmp train` prints, as the framework's tests show."""
    page = (project / "docs/development.md").read_text()
    [command] = re.findall(r"^uv (run .* mlflow ui .*)$", page, re.MULTILINE)
    url = f"http://127.0.0.1:{free_port()}"
    arguments = (*command.split(), "--workers", "1", "--port", url.rpartition(":")[2])
    with running(find_uv_bin(), *arguments, cwd=project, url=f"{url}/health"):
        assert "<title>MLflow</title>" in httpx.get(url, trust_env=False).text
        asked = {"run_id": penguins}
        address = f"{url}/api/2.0/mlflow/runs/get"
        found = httpx.get(address, params=asked, trust_env=False, timeout=60).json()
        assert found["run"]["info"]["run_id"] == penguins


def check_that_runs_are_found(project: Path, uri: str, run_id: str) -> None:
    """Check what is said of a missing run, and that the only run is the latest."""
    with serve(project, "--run-id", "0" * 32, settled=503, MLFLOW_TRACKING_URI=uri) as http:
        assert "the store has no such model" in http.get("/ready").json()["detail"]
        assert http.get("/health").status_code == 200
    assert f"latest runs with a model: {run_id}" in (project / "server.log").read_text()
    environment = {"MLFLOW_TRACKING_URI": uri}
    listed = run(project / ".venv/bin/mmp", "runs", cwd=project, env=environment).stdout
    assert listed.splitlines()[1].split()[0] == run_id
    assert listed.splitlines()[1].split()[-1] == "yes"
    options = ("--run-id", "latest", "--workers", "2")
    with serve(project, *options, MLFLOW_TRACKING_URI=uri) as http:
        assert http.get("/model").json()["run_id"] == run_id


def test_a_tracking_server_registers_what_reaches_the_gate(
    project: Path, mlflow: Path, tmp_path: Path
) -> None:
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    store = ("--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--serve-artifacts")
    files = ("--artifacts-destination", tmp_path / "artifacts", "--workers", "1")
    recipe = (project / "recipes/penguins.yaml").read_text()
    recipe = recipe.replace(
        "  compile: true", "  registration: {name: penguins, alias: champion}\n  compile: true"
    )

    def attempt(limit: str) -> subprocess.CompletedProcess[str]:
        gate = f"evaluation:\n  gate: {{metric: test_accuracy, {limit}}}\n"
        (tmp_path / "recipe.yaml").write_text(recipe.replace("evaluation:\n", gate))
        return subprocess.run(
            [project / ".venv/bin/mmp", "train", "--recipe-path", tmp_path / "recipe.yaml"],
            cwd=project,
            env={**os.environ, "MLFLOW_TRACKING_URI": uri},
            capture_output=True,
            text=True,
        )

    with running(
        *(mlflow, "server", "--port", str(port), *store, *files), cwd=tmp_path, url=f"{uri}/health"
    ):
        done = attempt("minimum: 0.9")
        assert done.returncode == 0, done.stderr
        assert "\nregistered: penguins version 1 (champion)\n" in done.stdout
        assert "\nreport: report/report.html among the artifacts of the run\n" in done.stdout
        assert list(tmp_path.glob("artifacts/**/report/report.html"))
        missed = attempt("maximum: 0.5")
        assert missed.returncode == 4
        assert re.fullmatch(
            r"mmp: evaluation\.gate: test_accuracy is \d\.\d{4} and must be at most 0\.5; the "
            r"model is logged in the run [0-9a-f]{32} and is not registered",
            missed.stderr.splitlines()[-1],  # after the steps
        )
        options = ("--model-uri", "models:/penguins@champion")
        with serve(project, *options, MLFLOW_TRACKING_URI=uri) as http:
            assert http.get("/model").json()["model_version"] == "penguins/1"


def test_a_tracking_server_may_come_late_go_away_and_come_back(
    project: Path, mlflow: Path, tmp_path: Path
) -> None:
    port, api = free_port(), free_port()
    uri = f"http://127.0.0.1:{port}"
    store = ("--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--serve-artifacts")
    files = ("--artifacts-destination", tmp_path / "artifacts", "--workers", "1")
    command = (mlflow, "server", "--port", str(port), *store, *files)
    environment = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    log = tmp_path / "server.log"

    def tracking() -> contextlib.AbstractContextManager[None]:
        return running(*command, cwd=tmp_path, url=f"{uri}/health")

    def until(http: httpx.Client, status: int, text: str) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                answer = http.get("/ready")
                if answer.status_code == status and text in answer.text:
                    assert str(port) not in answer.text
                    return
            assert server.poll() is None, log.read_text()
            time.sleep(0.1)
        raise AssertionError(log.read_text())

    with tracking():
        output = run(
            project / ".venv/bin/mmp", "train", cwd=project, env={"MLFLOW_TRACKING_URI": uri}
        ).stdout
        run_id = output.partition("run_id: ")[2].split()[0]
        check_that_runs_are_found(project, uri, run_id)

    options = ("--port", str(api), "--run-id", run_id)
    server = start(project, log, *options, **environment)
    try:
        with client(api) as http:
            until(http, 503, DOWN)  # it is down at the start
            assert http.get("/health").status_code == 200
            with tracking():
                until(http, 200, "ready")  # comes late
                body = example_of(http)
                assert http.post("/predict", json=body).status_code == 200
            # The tracking server goes away; the model is already loaded.
            assert http.get("/ready").status_code == 200
            assert http.post("/predict", json=body).status_code == 200

            server.kill()
            server.wait()
            server = start(project, log, *options, **environment)
            until(http, 503, DOWN)  # the API is killed and restarts without the tracking server
            with tracking():
                until(http, 200, "ready")

            server.kill()
            server.wait()
            server = start(project, log, *options, **environment)
            until(http, 503, "")  # SIGTERM arrives while it waits
            server.send_signal(signal.SIGTERM)
            assert server.wait(timeout=30) == 0, log.read_text()
    finally:
        server.kill()
        server.wait()


ASK = """
import json, sys
import pandas as pd
from mlflow.pyfunc.scoring_server.client import ScoringServerClient

client = ScoringServerClient("127.0.0.1", int(sys.argv[1]))
client.wait_server_ready(timeout=60)
answer = client.invoke(pd.read_json(sys.argv[2], orient="split"))
print(json.dumps(answer.get_predictions().to_dict("list")))
"""


def test_mlflows_protocol_answers_as_mlflow_does(
    project: Path, mlflow: Path, tmp_path: Path
) -> None:
    """MLflow's own client, and every form of the protocol; both servers have the same model."""
    python = mlflow.with_name("python")
    run(python, ROOT / "tests/foreign_models.py", tmp_path, cwd=project)
    columns = {
        "classes": [
            "sepal length (cm)",
            "sepal width (cm)",
            "petal length (cm)",
            "petal width (cm)",
        ],
        "outputs": ["Chins", "Situps", "Jumps"],
        "clusters": ["Chins", "Situps", "Jumps"],
    }
    for name, names in columns.items():
        data = [[5.1 + i, 3.5 - i / 10, 1.4 + i, 0.2 + i / 4][: len(names)] for i in range(7)]
        records = [dict(zip(names, row, strict=True)) for row in data]
        csv = "\n".join([",".join(names), *(",".join(map(str, row)) for row in data)])
        split = {"columns": names, "data": data}
        bodies = [
            *(json.dumps({form: records}) for form in ("dataframe_records", "instances")),
            json.dumps({"dataframe_split": split | {"index": list(range(7))}}),
            json.dumps({"inputs": {n: [row[n] for row in records] for n in names}}),
        ]
        requests = [(body, "application/json") for body in bodies] + [(csv, "text/csv")]
        frame = tmp_path / "frame.json"
        frame.write_text(json.dumps(split))

        def ask(
            url: str,
            requests: list[tuple[str, str]] = requests,
            frame: Path = frame,
        ) -> list[Any]:
            with httpx.Client(base_url=url, trust_env=False, timeout=60) as http:
                answers = [
                    http.post("/invocations", content=body, headers={"Content-Type": type_})
                    for body, type_ in requests
                ]
                assert http.get("/ping").status_code == 200
                version = http.get("/version").text
            invoked = run(python, "-c", ASK, url.rpartition(":")[2], frame, cwd=project).stdout
            return [*(answer.json() for answer in answers), json.loads(invoked), version]

        url = f"http://127.0.0.1:{free_port()}"
        theirs = (
            mlflow,
            "models",
            "serve",
            "--env-manager",
            "local",
            "--model-uri",
            tmp_path / name,
        )
        with running(*theirs, "--port", url.rpartition(":")[2], cwd=tmp_path, url=f"{url}/ping"):
            expected = ask(url)
        with serve(project, "--model-uri", tmp_path / name) as http:
            assert ask(str(http.base_url).rstrip("/")) == expected


def test_a_registered_model_is_served_by_its_alias(project: Path, penguins: str) -> None:
    register = f"""
import mlflow
mlflow.set_tracking_uri("sqlite:///mlflow.db")
version = mlflow.register_model("runs:/{penguins}/model", "birds").version
mlflow.MlflowClient().set_registered_model_alias("birds", "champion", version)
"""
    uv("run", "python", "-c", register, cwd=project)
    with serve(project, "--model-uri", "models:/birds@champion") as http:
        assert http.get("/ready").json()["model_version"] == "birds/1"
        answer = http.post("/predict", json=example_of(http)).json()
        assert answer["model_version"] == "birds/1"
        assert answer["model_id"] == http.get("/model").json()["model_id"]
        served = http.get("/openapi.json").json()
    shown = uv("run", "mmp", "check", "--model-uri", "models:/birds@champion", cwd=project).stdout
    assert "model_version: birds/1" in shown
    assert "island: feature, string" in shown
    key = {"API_KEY": "correct-horse-battery"}  # the document does not depend on it
    document = uv("run", "mmp", "schema", "--run-id", penguins, cwd=project, env=key).stdout
    assert json.loads(document) == served


BOOSTED = """
import sys
import lightgbm, mlflow, xgboost
from mlflow.models import infer_signature
from sklearn.datasets import load_iris

features, target = load_iris(return_X_y=True, as_frame=True)
models = {
    "xgboost": xgboost.XGBClassifier(n_estimators=5),
    "lightgbm": lightgbm.LGBMClassifier(n_estimators=5, verbose=-1),
}
print(features.iloc[::10].to_json(orient="records"))
for name, model in models.items():
    model.fit(features, target)
    flavor = getattr(mlflow, name)
    signature = infer_signature(features, model.predict(features))
    flavor.save_model(model, f"{sys.argv[1]}/{name}", signature=signature, pip_requirements=[name])
    print(model.predict(features.iloc[::10]).tolist())
"""


def test_models_of_other_libraries_are_served(interop: Path, tmp_path: Path) -> None:
    output = run(interop / ".venv/bin/python", "-c", BOOSTED, tmp_path, cwd=tmp_path).stdout
    data, *expected = [json.loads(line) for line in output.splitlines() if line[0] == "["]
    for name, labels in zip(("xgboost", "lightgbm"), expected, strict=True):
        with serve(interop, "--model-uri", tmp_path / name) as http:
            answer = http.post("/predict/batch", json={"samples": data}).json()
            assert [one["prediction"] for one in answer["predictions"]] == labels
            assert http.get("/model").json()["engine"]["name"] == "pyfunc"


@pytest.fixture(scope="module")
def interop(render: Render) -> Path:
    """A project with modern-ml-pipeline installed, whose script `mmp` is copied to `theirs`."""
    project = render(project_name="Interop", stages=("api",))
    pyproject = project / "pyproject.toml"
    override = "override-dependencies = [\"nvidia-nccl-cu12 ; sys_platform == 'never'\"]\n"
    text = pyproject.read_text()
    pyproject.write_text(text.replace("[tool.uv]\n", f"[tool.uv]\n{override}", 1))
    packages = ("modern-ml-pipeline==1.5.0", "lightgbm")  # the first brings XGBoost
    uv("add", "--quiet", "--no-sync", "--group", "native", *packages, cwd=project)
    tracing = ("opentelemetry-distro", "opentelemetry-instrumentation-fastapi")
    uv("add", "--quiet", "--no-sync", "--group", "api", *tracing, cwd=project)
    uv("sync", "--quiet", "--no-install-project", cwd=project)
    theirs = project / ".venv/bin/mmp"
    shutil.copy(theirs, theirs.with_name("theirs"))
    uv("sync", "--quiet", cwd=project)
    return project


def test_a_run_of_modern_ml_pipeline_is_served(interop: Path, tmp_path: Path) -> None:
    """The published package's own command trains it; both packages are in one environment."""
    shutil.copy(ROOT / "template/data/penguins.csv", tmp_path)
    (tmp_path / "config.yaml").write_text(MMP_CONFIG)
    (tmp_path / "recipe.yaml").write_text(MMP_RECIPE)
    trained = run(
        *(
            interop / ".venv/bin/theirs",
            "train",
            "-r",
            "recipe.yaml",
            "-c",
            "config.yaml",
            "-d",
            "penguins.csv",
        ),
        cwd=tmp_path,
    )
    run_id = trained.stdout.partition("Run ID: ")[2].split()[0]

    with serve(
        interop, "--run-id", run_id, MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/mlflow.db"
    ) as http:
        schema = http.get("/openapi.json").json()["components"]["schemas"]["PredictionRequest"]
        assert schema["required"][:3] == ["penguin_id", "island", "bill_length_mm"]
        assert schema["properties"]["bill_length_mm"]["type"] == "number"
        assert "species" not in schema["properties"]
        sample = schema["example"] | {"penguin_id": "N1A1"}
        answer = http.post("/predict", json=sample).json()
        assert answer["prediction"] == max(answer["probabilities"], key=answer["probabilities"].get)
        assert set(answer["probabilities"]) == {"Adelie", "Chinstrap", "Gentoo"}
        assert answer["entities"] == {"penguin_id": "N1A1"}
        refused = http.post("/predict", json=sample | {"bill_length_mm": "long"})
        assert refused.json()["errors"][0]["pointer"] == "/bill_length_mm"
        assert http.get("/model").json()["engine"]["name"] == "modern-ml-pipeline"
    shown = run(interop / ".venv/bin/python", "-m", "serving", "--help", cwd=interop).stdout
    assert "serve-api" in shown


def test_requests_are_traced_by_opentelemetry(interop: Path, project: Path, penguins: str) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    others = ("OTEL_METRICS_EXPORTER=none", "OTEL_LOGS_EXPORTER=none")
    settings = ("OTEL_TRACES_EXPORTER=console", *others)
    tracer = interop / ".venv/bin/opentelemetry-instrument"
    command = ("mmp", "serve-api", "--run-id", penguins, "--port", url.rpartition(":")[2])
    options = ("OTEL_BSP_SCHEDULE_DELAY=100", f"PATH={tracer.parent}")
    with running("env", *settings, *options, tracer, *command, cwd=project, url=f"{url}/ready"):
        assert httpx.get(f"{url}/model", trust_env=False).status_code == 200
        log = project / "other.log"
        deadline = time.monotonic() + 30
        while '"name": "GET /model"' not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)


MMP_CONFIG = """
environment: {name: local}
mlflow: {tracking_uri: "sqlite:///mlflow.db", experiment_name: interop}
data_source: {name: files, adapter_type: storage, config: {base_path: ./data}}
feature_store: {provider: none}
output:
  inference: {name: out, enabled: true, adapter_type: storage, config: {base_path: ./artifacts}}
"""
MMP_RECIPE = """
name: penguins
task_choice: classification
data:
  loader: {source_uri: null}
  fetcher: {type: pass_through}
  data_interface:
    entity_columns: [penguin_id]
    feature_columns: [island, bill_length_mm, bill_depth_mm, flipper_length_mm, body_mass_g, sex]
    target_column: species
  split: {strategy: random, train: 0.7, validation: 0.15, test: 0.15}
preprocessor:
  steps:
    - {type: simple_imputer, strategy: median}
    - {type: simple_imputer, strategy: most_frequent, columns: [island, sex]}
    - {type: one_hot_encoder, columns: [island, sex], handle_unknown: ignore}
    - {type: standard_scaler}
model:
  class_path: sklearn.linear_model.LogisticRegression
  library: scikit-learn
  hyperparameters: {tuning_enabled: false, values: {max_iter: 1000, random_state: 42}}
evaluation: {metrics: null, random_state: 42}
metadata: {author: someone, description: Species of a penguin}
"""
