"""A rendered project with trained models, and the virtual environments of all systems."""

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from uv import find_uv_bin

from benchmarks.processes import SystemFailed, run

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "bench"
PROJECT = WORK / "project"
CONFIG = PROJECT / "configs" / "development.yaml"
ENVS = WORK / "envs"
LIBRARIES = ("cloudpickle", "numpy", "pandas", "scikit-learn", "scipy")
"""Libraries that every system with our model has in the version that trained the model."""
UV = find_uv_bin()


@dataclass
class Project:
    """The project that every system of one run shares."""

    python: str = ""
    libraries: dict[str, str] = field(default_factory=dict)
    models: dict[int, Path] = field(default_factory=dict)
    """The directory of the model of the synthetic table, by its number of columns."""
    not_compiled: dict[int, str] = field(default_factory=dict)
    """Why there is no compiled model, by the number of columns."""

    def render(self) -> None:
        """Render the template from the working tree, and install what training needs."""
        shutil.rmtree(PROJECT, ignore_errors=True)
        options = ["--defaults", "--quiet", "--vcs-ref", "HEAD", "--data", "project_name=Bench"]
        copier = (sys.executable, "-W", "ignore", "-m", "copier", "copy")
        run(*copier, *options, ROOT, PROJECT, cwd=ROOT)
        self.python = (PROJECT / ".python-version").read_text().strip()
        self.sync("training", "training", "dev")
        installed = versions("training")
        self.libraries = {name: installed[name] for name in LIBRARIES}

    def sync(self, env: str, *groups: str) -> None:
        """Install the project with these groups into one of our environments."""
        command = (UV, "sync", "--quiet", "--compile-bytecode", "--no-default-groups")
        given = [word for group in groups for word in ("--group", group)]
        run(*command, *given, cwd=PROJECT, env={"UV_PROJECT_ENVIRONMENT": str(ENVS / env)})

    def train(self, recipe: Path, data: Path) -> Path:
        """Train a recipe and return the model's directory."""
        command = (binary("training", "mmp"), "train", "--recipe-path", recipe)
        output = run(*command, "--data-path", data, cwd=PROJECT)
        model_id = output.partition("model_id: ")[2].split()[0]
        [model] = PROJECT.glob(f"mlruns/*/models/{model_id}/artifacts")
        return model

    def train_table(self, columns: int) -> None:
        """Make the table with this number of columns, train on it, and compile if possible."""
        data = data_of(columns)
        script = ROOT / "benchmarks" / "data.py"
        run(binary("training", "python"), "-P", script, "make", data, str(columns), cwd=WORK)
        model = self.train(data / "recipe.yaml", data / "data.csv")
        run(binary("training", "python"), "-P", script, "label", data, model, cwd=WORK)
        try:
            data_path = ("--data-path", data / "data.csv")
            run(binary("training", "mmp"), "compile", "--model-uri", model, *data_path, cwd=PROJECT)
        except SystemFailed as exc:
            self.not_compiled[columns] = str(exc)
        self.models[columns] = model

    def install(
        self, env: str, dependencies: tuple[str, ...], overrides: tuple[str, ...] = ()
    ) -> None:
        """Make the environment of a system that loads our model, with the model's libraries."""
        known = (f"{name}=={version}" for name, version in self.libraries.items())
        install(env, self.python, [*dependencies, *known], overrides)


def install(env: str, python: str, needs: list[str], overrides: tuple[str, ...] = ()) -> None:
    """Make a virtual environment with bytecode, unless one with the same requirements exists."""
    path = ENVS / env
    done = path / "needs.txt"
    wanted = "\n".join([f"python {python}", *needs, *overrides])
    if done.is_file() and done.read_text() == wanted:
        return
    run(UV, "venv", "--quiet", "--clear", "--python", python, path, cwd=WORK)
    (path / "overrides.txt").write_text("\n".join(overrides))
    command = (UV, "pip", "install", "--quiet", "--compile-bytecode", "--python", path)
    run(*command, "--overrides", path / "overrides.txt", *needs, cwd=WORK)
    done.write_text(wanted)


def versions(env: str) -> dict[str, str]:
    """The installed versions, by name."""
    command = (UV, "pip", "list", "--quiet", "--format", "json", "--python", ENVS / env)
    return {one["name"]: one["version"] for one in json.loads(run(*command, cwd=WORK))}


def site_packages(env: str) -> int:
    """The size of an environment's site-packages in bytes, including bytecode."""
    [directory] = (ENVS / env).glob("lib/python*/site-packages")
    files = (path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files)


def binary(env: str, program: str) -> Path:
    """The path of a program in an environment."""
    return ENVS / env / "bin" / program


def data_of(columns: int) -> Path:
    """The directory of the synthetic table with this number of columns."""
    return WORK / "data" / str(columns)
