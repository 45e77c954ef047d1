"""How an image's environment is made: docker/*.py of a rendered project, run without Docker."""

import os
import re
import shutil
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
from conftest import Render
from helpers import ROOT, WRONG_RECORDS, run, uv
from uv import find_uv_bin

pytestmark = pytest.mark.slow

SCRIPTS = ROOT / "template/docker"
LEAN = {"databricks-sdk", "google-auth", "cryptography", "gitpython", "rich", "pygments"}
"""The packages that are left out."""


@pytest.fixture
def project(render: Render, tmp_path: Path) -> Path:
    """A project with a lock and without an environment; a test may change it."""
    project = shutil.copytree(render(project_name="Environments"), tmp_path / "project")
    uv("lock", "--quiet", cwd=project)
    return project


def printed(project: Path, *options: str) -> str:
    """The output of requirements.py."""
    path = f"{Path(find_uv_bin()).parent}:{os.environ['PATH']}"
    script = project / "docker/requirements.py"
    return run(sys.executable, script, *options, cwd=project, env={"PATH": path}).stdout


def requirements(project: Path, *options: str) -> set[str]:
    """The packages installed in an image."""
    return set(re.findall(r"^([\w.-]+)==", printed(project, *options), re.MULTILINE))


def test_nothing_but_its_packages_changes_the_list_of_an_environment(
    project: Path, render: Render, tmp_path: Path
) -> None:
    """Docker installs an environment again if its list has changed."""
    group = ("--group", "inference")
    before = printed(project, *group)
    first, *lines = before.splitlines()
    heading, _, named = first.partition(": ")
    assert heading == "# named in pyproject.toml"
    assert {"pyarrow", "pydantic"} < set(named.split())
    assert "pydantic-core" not in named.split()
    assert not [line for line in lines if line.startswith("#")]

    other = shutil.copytree(render(project_name="Other"), tmp_path / "other")
    shutil.copy(project / "uv.lock", other)  # so that both have the same versions
    uv("add", "--quiet", "--no-sync", "--group", "dev", "six", cwd=other)
    assert printed(other, *group) == before


def test_an_api_gets_what_it_asks_for_alone(project: Path) -> None:
    everything = requirements(project, "--group", "api")
    assert everything - requirements(project, "--lean", "--group", "api") >= LEAN
    assert everything >= LEAN
    compiled = requirements(project, "--group", "compiled")
    assert compiled - requirements(project, "--lean", "--group", "compiled") >= {"rich", "pygments"}


def test_an_api_gets_what_runs_compiled_models_where_the_project_compiles(
    project: Path, render: Render, tmp_path: Path
) -> None:
    group = ("--lean", "--group", "api")
    assert "onnxruntime" in requirements(project, *group)
    without = shutil.copytree(render(stages=("api", "training")), tmp_path / "without")
    uv("lock", "--quiet", cwd=without)
    assert "onnxruntime" not in requirements(without, *group)


@pytest.mark.parametrize(
    ("added", "kept"),
    [
        ("google-cloud-storage", {"google-auth", "cryptography"}),  # needs google-auth
        ("databricks-sdk", {"databricks-sdk", "google-auth", "cryptography"}),
        ("rich", {"rich", "pygments"}),
    ],
)
def test_what_a_dependency_of_the_users_needs_is_kept(
    project: Path, added: str, kept: set[str]
) -> None:
    uv("add", "--quiet", "--no-sync", "--group", "native", added, cwd=project)
    found = requirements(project, "--lean", "--group", "api")
    assert found >= {added, *kept}
    assert not found & LEAN - kept


def site_packages(environment: Path) -> Path:
    [packages] = environment.glob("lib/python3*/site-packages")
    return packages


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An empty virtual environment."""
    uv("venv", "--quiet", tmp_path / "env", "--python", sys.executable, cwd=tmp_path)
    return tmp_path / "env"


def test_record_lists_what_is_left(environment: Path) -> None:
    packages = site_packages(environment)
    python = environment / "bin/python"
    # Copies, because changing a link would change the file in uv's cache.
    options = ("--quiet", "--python", python, "--link-mode", "copy")
    uv("pip", "install", *options, "numpy", "httptools", cwd=environment)

    def listed() -> set[str]:
        return {
            str(file) for one in distributions(path=[str(packages)]) for file in one.files or ()
        }

    before = listed()
    run(sys.executable, SCRIPTS / "slim.py", environment, cwd=environment)
    assert "numpy/tests/test_reloading.py" in before - listed()
    tests = {file for file in before - listed() if file.endswith(".so")}
    assert {file.partition(".")[0] for file in tests} >= {
        "numpy/_core/_multiarray_tests",
        "numpy/_core/_simd",
    }
    assert not [file for file in tests if file.partition(".")[0].endswith("_umath")]
    assert "numpy/__init__.py" in listed()
    assert run(python, "-I", "-c", WRONG_RECORDS, cwd=environment).stdout == ""
    run(python, "-c", "import numpy, httptools", cwd=environment)


@pytest.mark.parametrize("with_flask", [False, True])
def test_mlflows_server_goes_where_it_cannot_be_imported(
    environment: Path, with_flask: bool
) -> None:
    packages, python = site_packages(environment), environment / "bin/python"
    options = ("--quiet", "--no-deps", "--python", python, "--link-mode", "copy")
    uv("pip", "install", *options, "mlflow-skinny>=3.16,<4", cwd=environment)
    if with_flask:
        install(packages, "flask", {"flask/__init__.py": ""})
    run(sys.executable, SCRIPTS / "slim.py", environment, cwd=environment)
    assert (packages / "mlflow/server/__init__.py").exists() == with_flask
    assert (packages / "mlflow/tracking/client.py").exists()
    assert run(python, "-I", "-c", WRONG_RECORDS, cwd=environment).stdout == ""


def install(packages: Path, name: str, files: dict[str, str]) -> None:
    """Install a distribution of these files, given by path."""
    listed = ""
    for path, text in {**files, f"{name}-1.dist-info/METADATA": f"Name: {name}\n"}.items():
        (packages / path).parent.mkdir(parents=True, exist_ok=True)
        (packages / path).write_text(text)
        listed += f"{path},,\n"
    (packages / f"{name}-1.dist-info/RECORD").write_text(listed)
    assert Distribution.at(packages / f"{name}-1.dist-info").files


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (
            {"shared/cloud/store/__init__.py": "import shared.auth"},  # `shared` itself is empty
            "No module named 'shared.auth'",
        ),
        ({"store.py": "from json import nothing"}, "cannot import name 'nothing' from 'json'"),
        ({"store/__init__.py": "from . import dropped"}, "cannot import name 'dropped'"),
    ],
)
def test_a_dependency_that_lacks_a_module_ends_the_build(
    environment: Path, files: dict[str, str], reason: str
) -> None:
    install(site_packages(environment), "my_store", files)
    (environment / "requirements.txt").write_text("# named in pyproject.toml: my-store\n")
    rehearse = (environment / "bin/python", SCRIPTS / "rehearse.py", "requirements.txt")
    found = run(*rehearse, cwd=environment, check=False)
    assert found.returncode == 1
    assert found.stderr.startswith(
        f"my_store, which pyproject.toml lists, cannot be imported: {reason}"
    )
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "files",
    [
        {"store/__init__.py": "raise ImportError('libcuda.so.1: cannot open shared object file')"},
        {"store/__init__.py": "raise OSError('libgomp.so.1: cannot open shared object file')"},
        {"store/__init__.py": "raise RuntimeError('no GPU')"},
        {"store/__init__.py": "", "tests/__init__.py": "import nowhere"},
        {"store/__init__.py": "", "store/extra.py": "import nowhere", "_own.py": "import nowhere"},
        {"my-stubs/__init__.pyi": "", "share/data.txt": "", "share/conf.py": "import nowhere"},
    ],
)
def test_what_only_the_container_has_is_not_missed(
    environment: Path, files: dict[str, str]
) -> None:
    install(site_packages(environment), "my_store", files)
    (environment / "requirements.txt").write_text("# named in pyproject.toml: my-store\n")
    rehearse = (environment / "bin/python", SCRIPTS / "rehearse.py", "requirements.txt")
    run(*rehearse, cwd=environment)
