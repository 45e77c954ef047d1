"""The user's own code: every example in docs/customization.md works, and survives updates."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Render
from helpers import commit_all, copier, copy_template, data_options, git, run, uv
from images import HARDENED, ask, build, connect, remove_images, started, wait_for_health
from serving import serve, train

pytestmark = pytest.mark.slow

PENGUIN: dict[str, Any] = {
    "penguin_id": "PAL0708-N1A1",
    "island": "Torgersen",
    "bill_length_mm": 39.1,
    "bill_depth_mm": 18.7,
    "flipper_length_mm": 181,
    "body_mass_g": 3750,
    "sex": "male",
}


def write_examples(project: Path) -> None:
    """Write each code block of the guide into the file that it names."""
    guide = (project / "docs/customization.md").read_text()
    places = {
        "yaml": {
            "custom:": "custom.yaml",
            "name:": "recipes/own.yaml",
            "flavors:": "rules/MLmodel",
        },
        "json": {"[": "rules/rules.json"},
    }
    for language, content in re.findall(r"^```(\w+)\n(.*?)^```$", guide, re.DOTALL | re.MULTILINE):
        if language == "python":
            head, _, content = content.partition("\n")
            name = head.removeprefix("# ")
        else:
            [name] = [p for start, p in places[language].items() if content.startswith(start)]
        file = project / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
    config = project / "configs/development.yaml"
    config.write_text(f"{config.read_text()}\n{(project / 'custom.yaml').read_text()}")
    (project / "custom.yaml").unlink()
    (project / "src/custom/commands/__init__.py").write_text('"""Own commands."""\n')


@pytest.fixture(scope="module")
def project(render: Render) -> Path:
    """A project with all examples, installed."""
    project = render(project_name="Own code")
    write_examples(project)
    uv("sync", "--quiet", cwd=project)
    return project


@pytest.fixture(scope="module")
def own(project: Path) -> str:
    """The run id of a model whose estimator and transformer are the project's own."""
    return train(project, "--recipe-path", "recipes/own.yaml")


def test_the_examples_pass_the_projects_checks(project: Path) -> None:
    uv("run", "ruff", "format", "--check", cwd=project)
    uv("run", "ruff", "check", cwd=project)
    uv("run", "mypy", cwd=project)
    uv("run", "pytest", "-q", "--renew-openapi", cwd=project)
    assert "mass_unit" in (project / "recipes/own.openapi.json").read_text()


def test_every_example_works(project: Path, own: str, tmp_path: Path) -> None:
    forms = {
        "/predict": PENGUIN,
        "/predict/batch": {"samples": [PENGUIN]},
        "/invocations": {"instances": [PENGUIN]},
    }
    with serve(project, "--run-id", own, CUSTOM_CONTACT="me@example.org") as http:
        for path, body in forms.items():
            answer = http.post(path, json=body)
            assert (answer.status_code, answer.headers["x-station"]) == (200, "Palmer")
            for headers, status in (
                ({"X-Tenant": "blocked"}, 403),  # a dependency
                ({"X-Tenant": "winter"}, 409),  # an error handler
                ({"X-Read-Only": "true"}, 403),  # a hook
            ):
                assert http.post(path, json=body, headers=headers).status_code == status
        assert http.get("/about").json() == {"contact": "me@example.org"}

        first = http.post("/predict", json=PENGUIN).json()
        heavy = PENGUIN | {"body_mass_g": 3.75, "mass_unit": "kg"}
        assert http.post("/predict", json=heavy).json() == first
        assert first["review"] == (first["confidence"] < 0.95)  # set in configs/development.yaml
        schemas = http.get("/openapi.json").json()["components"]["schemas"]
        assert "mass_unit" in schemas["PredictionRequest"]["properties"]
        assert "review" in schemas["PredictionResponse"]["required"]
        engine = http.get("/model").json()["engine"]
        assert (engine["name"], engine["estimator"]) == (
            "sklearn",
            "custom.estimators.MeanClassifier",
        )

    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    header, values = ",".join(heavy), ",".join(str(value) for value in heavy.values())
    source.write_text(f"{header}\n{values}\n")
    files = ("--data-path", source, "--output-path", target)
    uv("run", "mmp", "batch-inference", "--run-id", own, *files, cwd=project)
    names, answers = (line.split(",") for line in target.read_text().splitlines())
    row = dict(zip(names, answers, strict=True))
    assert row["prediction"] == first["prediction"]
    assert row["review"] == str(first["review"]).lower()
    assert float(row["confidence"]) == pytest.approx(first["confidence"])

    counted = uv("run", "mmp", "species", cwd=project).stdout
    assert counted == "Adelie: 152\nGentoo: 124\nChinstrap: 68\n"


def test_an_own_engine_serves_its_models(project: Path) -> None:
    with serve(project, "--model-uri", str(project / "rules")) as http:
        assert http.get("/model").json()["engine"]["name"] == "rules"
        for length, species in ((181, "Adelie"), (220, "Gentoo")):
            answer = http.post("/predict", json={"flipper_length_mm": length}).json()
            assert (answer["prediction"], answer["review"]) == (species, True)
        refused = http.post("/predict/batch", json={"samples": [{"flipper_length_mm": -1}]})
        assert refused.json()["errors"][0]["pointer"] == "/samples/0"


def test_an_own_engine_predicts_files(project: Path, tmp_path: Path) -> None:
    """It does so with hooks and without."""
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("flipper_length_mm\n181\n220\n")

    def predicted() -> list[str]:
        files = ("--data-path", source, "--output-path", target)
        uv("run", "mmp", "batch-inference", "--model-uri", "rules", *files, cwd=project)
        return [line.split(",")[1] for line in target.read_text().splitlines()]

    assert predicted() == ["prediction", "Adelie", "Gentoo"]
    hooks = project / "src/custom/prediction.py"
    aside = hooks.rename(hooks.with_suffix(".aside"))
    try:
        assert predicted() == ["prediction", "Adelie", "Gentoo"]
    finally:
        aside.rename(hooks)


BROKEN = [
    pytest.param("api.py", "def extend(app:\n", "src/custom/api.py:1: ", "1", id="syntax"),
    pytest.param("api.py", "import nowhere\n", "src/custom/api.py:1: ", "2", id="import"),
    pytest.param("prediction.py", "1 / 0\n", "src/custom/prediction.py:1: ", "2", id="prediction"),
    pytest.param(
        "settings.py", "x = 1\n", "src/custom/settings.py: does not define", "1", id="settings"
    ),
    pytest.param("engines.py", "import nowhere\n", "src/custom/engines.py:1: ", "1", id="engines"),
    pytest.param("commands/species.py", "x\n", "src/custom/commands/species.py:1: ", "1", id="mmp"),
]


@pytest.mark.parametrize(("file", "code", "message", "workers"), BROKEN)
def test_a_broken_module_stops_the_start_with_one_sentence(
    project: Path, own: str, file: str, code: str, message: str, workers: str
) -> None:
    path = project / "src/custom" / file
    good = path.read_text()
    path.write_text(code)
    try:
        command = (project / ".venv/bin/mmp", "serve-api", "--run-id", own, "--workers", workers)
        stopped = run(*command, cwd=project, check=False)
    finally:
        path.write_text(good)
    assert stopped.returncode == 2, stopped.stderr
    [line] = [line for line in stopped.stderr.splitlines() if line.startswith("mmp: ")]
    assert line.startswith(f"mmp: {message}")
    assert "Traceback" not in stopped.stderr


@pytest.fixture
def image(project: Path, own: str) -> Iterator[str]:
    """An image with the project's own code and a model made with it."""
    engine = connect()
    [model] = [
        file.parent
        for file in project.glob("mlruns/*/models/*/artifacts/MLmodel")
        if own in file.read_text()
    ]
    yield build(project, "--target", "api-with-model", "--build-context", f"model={model}")
    remove_images(engine, "org.opencontainers.image.title=own-code")


@pytest.mark.docker
def test_own_code_works_in_the_image(image: str) -> None:
    options = HARDENED | {"environment": {"CUSTOM_SURE_FROM": "1"}, "user": "54321"}
    with started(connect(), image, **options) as container:
        wait_for_health(container, "healthy")
        assert ask(container, "/about") == {"contact": "penguins@example.org"}
        heavy = PENGUIN | {"body_mass_g": 3.75, "mass_unit": "kg"}
        answer = ask(container, "/predict", heavy)
        assert (answer["prediction"], answer["review"]) == ("Adelie", True)
        shown: Any = container.exec_run(["mmp", "--help"]).output
        assert b"species" in shown


def test_own_code_survives_an_update_of_the_framework(tmp_path: Path) -> None:
    template = copy_template(tmp_path / "template")
    commit_all(template, tag="v1.0.0")
    framework = template / "template/src/serving"
    for name in ("__init__.py", "extensions.py", "api/app.py", "model/hooks.py"):
        with (framework / name).open("a") as file:
            file.write("\n# Changed in v2.\n")
    with (template / "template/src/custom/__init__.py").open("a") as file:
        file.write("\n# Changed in v2.\n")
    commit_all(template, tag="v2.0.0")

    project = tmp_path / "project"
    options = (
        "--quiet",
        "--defaults",
        "--vcs-ref",
        "v1.0.0",
        *data_options(project_name="Updated"),
    )
    copier("copy", *options, template, project, cwd=tmp_path)
    write_examples(project)
    own = project / "src/own_package"
    own.mkdir()
    (own / "__init__.py").write_text("ANSWER = 42\n")
    pyproject = project / "pyproject.toml"
    anchor = "  # Your own packages go below this line.\n"
    text = pyproject.read_text()
    assert anchor in text
    pyproject.write_text(text.replace(anchor, f'{anchor}  "src/own_package",\n'))
    commit_all(project)
    mine = {path: path.read_bytes() for path in sorted((project / "src/custom").rglob("*.py"))}
    copier("update", "--defaults", "--quiet", cwd=project)
    git("diff", "--check", cwd=project)
    assert {
        path: path.read_bytes() for path in sorted((project / "src/custom").rglob("*.py"))
    } == mine
    assert "# Changed in v2." in (project / "src/serving/api/app.py").read_text()
    assert '"src/own_package"' in pyproject.read_text()

    uv("sync", "--quiet", cwd=project)
    uv("build", "--quiet", "--wheel", cwd=project)
    code = "import own_package, custom.estimators, serving; print(own_package.ANSWER)"
    environment = {"UV_PROJECT_ENVIRONMENT": os.fspath(project / ".venv")}
    assert uv("run", "python", "-c", code, cwd=project, env=environment).stdout == "42\n"
    run_id = train(project, "--recipe-path", "recipes/own.yaml")
    with serve(project, "--run-id", run_id) as http:
        assert http.get("/about").json() == {"contact": "penguins@example.org"}
        assert json.loads(http.post("/predict", json=PENGUIN).text)["prediction"] == "Adelie"
