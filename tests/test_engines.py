"""The two engines of a rendered project give the same answers, sequentially and concurrently."""

import json
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers import run
from serving import logged_model, serve, train

pytestmark = pytest.mark.slow

SAMPLE: dict[str, Any] = {
    "penguin_id": "PAL0708-N1A1",
    "island": "Torgersen",
    "bill_length_mm": 39.1,
    "bill_depth_mm": 18.7,
    "flipper_length_mm": 181,
    "body_mass_g": 3750,
    "sex": "male",
}
WRONG: list[dict[str, Any]] = [
    {name: value for name, value in SAMPLE.items() if name != "island"},
    SAMPLE | {"body_mass_g": "heavy"},
    SAMPLE | {"species": "Adelie"},
    SAMPLE | {"bill_length_mm": 1e308, "bill_depth_mm": -1e308},  # no probability is finite
]


def requests(count: int = 640) -> list[tuple[str, Any]]:
    """Requests to all routes: missing values, unknown categories, and a wrong one in four."""
    found: list[tuple[str, Any]] = []
    for index in range(count):
        sample = SAMPLE | {"penguin_id": str(index), "bill_length_mm": 30 + index / 20}
        if index % 5 == 0:
            sample |= {"sex": None, "body_mass_g": None}
        if index % 7 == 0:
            sample |= {"island": "Atlantis"}
        if index % 4 == 3:
            sample = WRONG[index // 4 % len(WRONG)]
        row = {name: value for name, value in sample.items() if name != "penguin_id"}
        forms = [
            ("/predict", sample),
            ("/predict/batch", {"samples": [SAMPLE, sample, SAMPLE]}),
            ("/invocations", {"instances": [row, row]}),
        ]
        found.append(forms[index % 3])
    return found


def ask(http: httpx.Client, request: tuple[str, Any]) -> tuple[int, Any]:
    """The status and document of the answer, without what differs between requests."""
    answer = http.post(request[0], json=request[1])
    document = answer.json()
    document.pop("request_id", None)
    return answer.status_code, document


def calls(http: httpx.Client) -> int:
    """How often the model was called so far."""
    found = re.search(r"^model_call_rows_count (\S+)$", http.get("/metrics").text, re.MULTILINE)
    assert found
    return int(float(found[1]))


def test_64_concurrent_requests_are_answered_as_sequential_ones(
    project: Path, penguins: str
) -> None:
    answers: dict[str, list[tuple[int, Any]]] = {}
    for engine, name in (("native", "sklearn"), ("onnx", "onnx")):
        with serve(project, "--run-id", penguins, "--engine", engine) as http:
            described = http.get("/model").json()["engine"]
            assert described["name"] == name
            alone = [ask(http, request) for request in requests()]
            before = calls(http)
            with ThreadPoolExecutor(64) as pool:
                together = list(pool.map(lambda request: ask(http, request), requests()))
            if engine == "native":  # the other finishes a request before the next one arrives
                good = sum(status == 200 for status, _ in together)
                assert calls(http) - before < good / 2, "nothing was shared"
        assert {200, 422} == {status for status, _ in alone}
        for one, other in zip(alone, together, strict=True):
            assert other == approximately(one, 1e-9)
        answers[engine] = together
    for one, other in zip(answers["native"], answers["onnx"], strict=True):
        assert other == approximately(one, 1e-5)


def approximately(wanted: Any, tolerance: float) -> Any:
    """Equal except for the last digits of numbers."""
    if isinstance(wanted, dict):
        return {key: approximately(value, tolerance) for key, value in wanted.items()}
    if isinstance(wanted, list | tuple):
        return type(wanted)(approximately(value, tolerance) for value in wanted)
    if isinstance(wanted, float):
        return pytest.approx(wanted, rel=tolerance, abs=tolerance)
    return wanted


def test_a_compiled_model_needs_no_other_library(project: Path, penguins: str) -> None:
    model = logged_model(project, penguins)
    code = (
        "import json, sys\n"
        "from serving.api.app import create_app\n"
        "from serving.model.loading import load_model\n"
        "from serving.config.settings import load_settings\n"
        "create_app(), load_model(load_settings())\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    imported = {}
    for engine in ("onnx", "native"):
        output = subprocess.run(
            [project / ".venv/bin/python", "-c", code],
            cwd=project,
            env={"MODEL_URI": str(model), "ENGINE": engine},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        imported[engine] = set(json.loads(output))
    heavy = {"sklearn", "scipy", "pandas", "mlflow", "joblib", "cloudpickle"}
    assert not heavy & imported["onnx"]
    assert "mlflow" not in imported["native"]


def test_the_engine_falls_back_and_says_why(project: Path) -> None:
    recipe = (project / "recipes/penguins.yaml").read_text()
    other = project / "plain.yaml"
    other.write_text(recipe.replace("compile: true", "compile: false"))
    run_id = train(project, "--recipe-path", other)
    with serve(project, "--run-id", run_id) as http:
        engine = http.get("/model").json()["engine"]
        assert engine["name"] == "sklearn"
        assert "mmp compile" in engine["not_compiled"]
        assert http.post("/predict", json=SAMPLE).status_code == 200
    with serve(project, "--run-id", run_id, settled=503, ENGINE="onnx") as http:
        assert "the model is not compiled" in http.get("/ready").json()["detail"]


def test_onnx_runtime_sends_no_reports(project: Path, penguins: str, tmp_path: Path) -> None:
    """It stores them in the home directory first, but not where a CI system sets its variables."""

    def files_at_home(*environment: str) -> list[str]:
        home = tmp_path / "-".join(["home", *environment])
        home.mkdir()
        command: list[str | Path] = [
            "env",
            "-i",
            f"HOME={home}",
            *environment,
            project / ".venv/bin/mmp",
        ]
        command += ["batch-inference", "--run-id", penguins, "--engine", "onnx"]
        run(*command, "-d", "data/penguins.csv", "-o", tmp_path / "out.csv", cwd=project)
        return [path.name for path in home.rglob("*")]

    assert files_at_home() == []
    assert "onnxruntime.db" in files_at_home("ORT_DISABLE_TELEMETRY=0")
