"""A rendered project installs and passes its own checks."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import Render
from helpers import ALL_STAGES, LONG, PYTHON_VERSIONS, ROOT, uv

pytestmark = pytest.mark.slow

FRAMEWORK = ROOT / "tests" / "framework"
# The directory of the framework's tests for each stage; those of api are in FRAMEWORK itself.
TESTS_OF_STAGE = {"training": "training", "inference": "inference", "compile": "compilation"}


def _project(stages: tuple[str, ...], version: str, *, include_example: bool = True) -> Any:
    name = f"{'all' if stages == ALL_STAGES else '-'.join(stages)}-{version}"
    return pytest.param((stages, version, include_example), id=name)


EVERYTHING = [_project(ALL_STAGES, version) for version in ("3.11", "3.12", "3.13")]
API_ALONE = _project(("api",), "3.13")
OTHERS = [
    _project(("api", "training"), "3.11"),
    _project(("api", "training"), "3.12", include_example=False),
    _project(("api", "inference", "compile"), "3.13"),
]


def find_python(version: str, cwd: Path) -> str:
    """Return an installed interpreter, or skip the test; CI must have all versions."""
    # pyenv's shims fail for a version that is installed but not selected, so bypass them.
    behind_shims = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin"))
    path = os.pathsep.join([*map(str, behind_shims), os.environ["PATH"]])
    found = uv("python", "find", version, cwd=cwd, env={"PATH": path}, check=False)
    if found.returncode != 0:
        assert not os.environ.get("CI"), f"CI needs Python {version}: {found.stderr.strip()}"
        pytest.skip(f"uv finds no Python {version}: {found.stderr.strip()}")
    return found.stdout.strip()


@dataclass(frozen=True)
class Installed:
    """A fresh project with its environment."""

    project: Path
    stages: tuple[str, ...]
    python: str

    def run(self, *command: str | Path) -> None:
        """Run a command in the environment."""
        uv("run", "--quiet", *command, cwd=self.project, env={"UV_PYTHON": self.python})


@pytest.fixture(scope="module")
def installed(request: pytest.FixtureRequest, render: Render) -> Installed:
    """One of the projects above, installed."""
    stages, version, include_example = request.param
    python = find_python(version, ROOT)
    # A unique name, so that no other test sees the environment that is installed here.
    project = render(
        stages=stages,
        python_version=version,
        include_example=include_example,
        project_name=f"Own {version} {' '.join(stages)} {include_example}",
    )
    uv("sync", "--quiet", cwd=project, env={"UV_PYTHON": python})
    return Installed(project, stages, python)


@pytest.mark.parametrize("installed", [*EVERYTHING, API_ALONE, *OTHERS], indirect=True)
def test_fresh_project_passes_its_own_checks(installed: Installed) -> None:
    installed.run("ruff", "format", "--check")
    installed.run("ruff", "check")
    installed.run("mypy")
    installed.run("pytest", "-q")
    installed.run("mmp", "--help")


# By default, with the oldest and the newest Python.
ALWAYS = [EVERYTHING[0], EVERYTHING[-1], API_ALONE]


@pytest.mark.parametrize(
    "installed", [*EVERYTHING, API_ALONE, *OTHERS] if LONG else ALWAYS, indirect=True
)
def test_framework_passes_its_tests(installed: Installed) -> None:
    """Run the tests of the project's stages, in its environment and from its directory."""
    left_out = [name for stage, name in TESTS_OF_STAGE.items() if stage not in installed.stages]
    left_out.append("spark")  # tests/test_spark.py
    ignored = [f"--ignore={FRAMEWORK / name}" for name in left_out]
    options = ("-q", "-c", "pyproject.toml", f"--confcutdir={FRAMEWORK}")
    installed.run("pytest", *options, *ignored, FRAMEWORK)


@pytest.mark.parametrize("installed", EVERYTHING[:1], indirect=True)
def test_framework_tests_are_typed(installed: Installed) -> None:
    installed.run("mypy", "src", FRAMEWORK)


def test_compile_without_its_stage_is_refused_before_training(render: Render) -> None:
    project = render(stages=("api", "training"), project_name="Without compile")
    uv("sync", "--quiet", cwd=project)
    recipe = (project / "recipes/penguins.yaml").read_text()
    (project / "wanted.yaml").write_text(recipe.replace("model:\n", "model:\n  compile: true\n"))
    command = ("run", "mmp", "train", "--recipe-path", "wanted.yaml")
    refused = uv(*command, cwd=project, check=False)
    assert refused.returncode == 2
    assert refused.stderr.strip().endswith(
        "mmp: wanted.yaml: model.compile: this project does not have the stage compile; set it to "
        "false, or add the stage: uvx copier update --data 'stages=[api, training, compile]'"
    )
    assert not (project / "mlflow.db").exists()


@pytest.mark.parametrize("version", PYTHON_VERSIONS)
def test_dependencies_resolve_to_wheels(render: Render, tmp_path: Path, version: str) -> None:
    """Check every offered version, even if it is not installed here."""
    project = render(python_version=version)
    resolved = tmp_path / "resolved.txt"
    groups = [option for group in ("dev", *ALL_STAGES) for option in ("--group", group)]
    options = ["--quiet", "--only-binary", ":all:", "--python-version", version, *groups]
    uv("pip", "compile", *options, "--output-file", resolved, "pyproject.toml", cwd=project)
    assert "scikit-learn==" in resolved.read_text()
