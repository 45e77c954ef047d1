"""Batch inference on a real Spark, in a rendered project."""

import os
import shutil
from pathlib import Path

import pytest
from helpers import ROOT, uv
from serving import logged_model

pytestmark = pytest.mark.slow

FRAMEWORK = ROOT / "tests" / "framework"


def test_spark_passes_its_tests(project: Path, penguins: str, tmp_path: Path) -> None:
    """Spark is installed into an environment of its own, with the versions of the lock."""
    if not os.environ.get("JAVA_HOME") and not shutil.which("java"):
        assert not os.environ.get("REQUIRE_JAVA"), "REQUIRE_JAVA is set, but there is no Java"
        pytest.skip("there is no Java 17 or newer")  # allowed on other machines, not in CI
    environment = {
        "UV_PROJECT_ENVIRONMENT": str(tmp_path / "venv"),
        "MODEL_DIRECTORY": str(logged_model(project, penguins)),
    }
    uv("sync", "--quiet", "--frozen", "--group", "spark", cwd=project, env=environment)
    options = ("-q", "-c", "pyproject.toml", f"--confcutdir={FRAMEWORK}", FRAMEWORK / "spark")
    uv("run", "--quiet", "--no-sync", "pytest", *options, cwd=project, env=environment)
    shutil.rmtree(tmp_path / "venv")  # 1 GB
