"""Import what a container imports before it is ready, so that the image holds its bytecode.

    PYTHONPYCACHEPREFIX=/app/.pycache ENVIRONMENT/bin/python rehearse.py REQUIREMENTS

REQUIREMENTS is the list of requirements.py, whose first line says what pyproject.toml names.

A read-only container cannot write bytecode, and starts three times as slowly without. That of
everything would cost the API's image 80 MB; this costs 60 (with a compiled model inside 15), and
covers the standard library, whose bytecode the official Python images leave out. What is missing
here costs time at the start, never correctness.

A library that pyproject.toml names has to be importable: the build fails where it lacks a module,
so that nobody finds that out in a running container. What it lacks here and may find there, such as
a GPU or a library of the system, is none of this.
"""

import contextlib
import importlib
import pkgutil
import re
import sys
import tempfile
from importlib.metadata import Distribution, distributions
from importlib.util import find_spec
from pathlib import Path

# Imported late or by name. What needs a library is imported where that is installed.
LATE = {
    "fastapi": [
        "anyio._backends._asyncio",
        "fastapi.openapi.docs",
        "http.client",
        "packaging.requirements",
        "prometheus_client.multiprocess",
        "pydantic.functional_serializers",
        "pythonjsonlogger.json",
        "sqlite3",
        "starlette.middleware.cors",
        "urllib.request",
        "uvicorn.lifespan.on",
        "uvicorn.loops.auto",
        "uvicorn.protocols.http.auto",
        "uvicorn.protocols.http.httptools_impl",
        "uvicorn.protocols.websockets.auto",
        "uvicorn.supervisors",
    ],
    "mlflow": [
        "mlflow.artifacts",
        "mlflow.store.artifact.mlflow_artifacts_repo",
        "mlflow.store.artifact.models_artifact_repo",
        "mlflow.store.artifact.runs_artifact_repo",
        "mlflow.store.model_registry.rest_store",
        "mlflow.store.tracking.rest_store",
    ],
    "sklearn": ["mlflow.tracing.processor.base_mlflow", "mlflow.tracing.processor.otel"],
    "skops": ["skops.io"],
    "sqlalchemy": [
        "mlflow.store.model_registry.sqlalchemy_store",
        "mlflow.store.tracking.sqlalchemy_store",
        "sqlalchemy.dialects.sqlite",
    ],
    "flask": ["mlflow.cli", "mlflow.server.fastapi_app", "mlflow.server.handlers"],
    "pyarrow": ["pyarrow.dataset", "pyarrow.parquet"],
}

# What some distributions install beside their own modules, and nothing imports.
STRAY = {"benchmarks", "conftest", "docs", "examples", "scripts", "setup", "test", "tests"}


def main() -> None:
    """Import everything of that kind which this environment has."""
    for distribution in own_dependencies(Path(sys.argv[1])):
        for name in modules_of(distribution):
            import_own(name, distribution.name)
    late = [name for library, names in LATE.items() if find_spec(library) for name in names]
    for name in [*late, *families_of_estimators()]:
        with contextlib.suppress(Exception):  # not importable here
            importlib.import_module(name)
    if all(map(find_spec, ("mlflow", "pandas", "sklearn"))):
        predict_once()


def import_own(module: str, distribution: str) -> None:
    """Import a module of a library that pyproject.toml names; end the build if it lacks one."""
    try:
        importlib.import_module(module)
    except ImportError as exc:
        lacks = isinstance(exc, ModuleNotFoundError) or str(exc).startswith("cannot import name")
        if lacks:
            sys.exit(f"{distribution}, which pyproject.toml names, cannot be imported: {exc}")
    except Exception:
        pass  # it wants what only the container will have


def own_dependencies(requirements: Path) -> list[Distribution]:
    """Everything here that pyproject.toml names, so that your own libraries count too."""
    first, _, _ = requirements.read_text(encoding="utf-8").partition("\n")
    named = set(first.partition(": ")[2].split())
    found = [one for one in distributions() if normal(one.name) in named]
    return sorted(found, key=lambda one: normal(one.name))


def modules_of(distribution: Distribution) -> list[str]:
    """Its outermost modules: of google-cloud-storage not `google`, which others share."""
    found: set[tuple[str, ...]] = set()
    for file in distribution.files or []:
        *folders, name = file.parts
        if name == "__init__.py":
            found.add(tuple(folders))
        elif not folders and file.suffix in (".py", ".so"):
            found.add((name.partition(".")[0],))
    return [
        ".".join(path)
        for path in sorted(found)
        if not any(path[:length] in found for length in range(1, len(path)))
        and all(part.isidentifier() and part[0] != "_" for part in path)
        and not STRAY.intersection(path)
    ]


def normal(name: str) -> str:
    """The normalised name of a distribution such as `PyYAML`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def families_of_estimators() -> list[str]:
    """scikit-learn's public subpackages, so that every model loads equally fast."""
    try:
        import sklearn
    except ImportError:
        return []
    names = [module.name for module in pkgutil.iter_modules(sklearn.__path__)]
    without = {"conftest", "datasets", "inspection"}
    return [f"sklearn.{name}" for name in names if name[0] != "_" and name not in without]


def predict_once() -> None:
    """Fit, save, load and ask a small model: that imports what no name above shows."""
    import mlflow.pyfunc
    import mlflow.sklearn
    import pandas as pd
    from mlflow.models import infer_signature
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    table = pd.DataFrame({"number": [0.0, 1.0, 2.0, 3.0], "text": list("abab")})
    columns = make_column_transformer((StandardScaler(), ["number"]), (OneHotEncoder(), ["text"]))
    model = make_pipeline(columns, LogisticRegression()).fit(table, [0, 1, 0, 1])
    with tempfile.TemporaryDirectory() as directory:
        mlflow.sklearn.save_model(
            model,
            f"{directory}/model",
            signature=infer_signature(table, model.predict(table)),
            serialization_format="cloudpickle",
            pip_requirements=[],
        )
        mlflow.pyfunc.load_model(f"{directory}/model").predict(table)


if __name__ == "__main__":
    main()
