"""A rendered project on its own: it installs, and passes its own checks."""

import os
from pathlib import Path

import pytest
from conftest import Render
from helpers import ALL_STAGES, PYTHON_VERSIONS, uv

pytestmark = pytest.mark.slow

REPRESENTATIVE = [
    pytest.param(ALL_STAGES, "3.11", True, id="all-3.11"),
    pytest.param(("api", "training"), "3.12", False, id="api-training-3.12-no-example"),
    pytest.param(("api",), "3.13", True, id="api-3.13"),
    pytest.param(("api", "inference"), "3.13", True, id="api-inference-3.13"),
]


def find_python(version: str, cwd: Path) -> str:
    """Return an interpreter that is already here, or skip the test; CI has to have all."""
    # pyenv's shims fail for a version that is installed but not selected: look behind them.
    behind_shims = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin"))
    path = os.pathsep.join([*map(str, behind_shims), os.environ["PATH"]])
    found = uv("python", "find", version, cwd=cwd, env={"PATH": path}, check=False)
    if found.returncode != 0:
        assert not os.environ.get("CI"), f"CI needs Python {version}: {found.stderr.strip()}"
        pytest.skip(f"uv finds no Python {version}: {found.stderr.strip()}")
    return found.stdout.strip()


@pytest.mark.parametrize(("stages", "version", "include_example"), REPRESENTATIVE)
def test_fresh_project_passes_its_own_checks(
    render: Render, tmp_path: Path, stages: tuple[str, ...], version: str, include_example: bool
) -> None:
    python = find_python(version, tmp_path)
    # A name of its own: no other test sees the environment that is installed here.
    name = f"Own checks {version}"
    project = render(
        stages=stages, python_version=version, include_example=include_example, project_name=name
    )
    environment = {"UV_PYTHON": python}
    uv("sync", "--quiet", cwd=project, env=environment)
    for command in (
        ("ruff", "format", "--check"),
        ("ruff", "check"),
        ("mypy",),
        ("pytest", "-q"),
        ("mmp", "--help"),
    ):
        uv("run", *command, cwd=project, env=environment)


@pytest.mark.parametrize("version", PYTHON_VERSIONS)
def test_dependencies_resolve_to_wheels(render: Render, tmp_path: Path, version: str) -> None:
    """On every version offered, whether or not it is installed here."""
    project = render(python_version=version)
    resolved = tmp_path / "resolved.txt"
    groups = [option for group in ("dev", *ALL_STAGES) for option in ("--group", group)]
    options = ["--quiet", "--only-binary", ":all:", "--python-version", version, *groups]
    uv("pip", "compile", *options, "--output-file", resolved, "pyproject.toml", cwd=project)
    assert "scikit-learn==" in resolved.read_text()
