"""Import the modules that a container imports at start, so that the image holds their bytecode.

    PYTHONPYCACHEPREFIX=/app/.pycache ENVIRONMENT/bin/python rehearse.py REQUIREMENTS

REQUIREMENTS is the output of requirements.py. Its first line lists the direct dependencies of
pyproject.toml.

A read-only container cannot write bytecode, and without bytecode it starts three times as slowly.
The bytecode of all modules would add 80 MB to the API's image. This adds 60 MB (15 MB to an image
with a compiled model), and includes the standard library, whose bytecode the official Python images
lack. A module that is missing here only makes the start slower.

All direct dependencies must be importable: the build fails if one of them lacks a module, so that
this is not discovered in a running container. Other failures are ignored, because the container may
have what the build lacks, such as a GPU or a system library.
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

# Modules that are imported late or by name, by the library that they need.
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

# Top-level modules that some distributions install by mistake, and that nothing imports.
STRAY = {"benchmarks", "conftest", "docs", "examples", "scripts", "setup", "test", "tests"}


def main() -> None:
    """Import all of these modules that this environment has."""
    for distribution in own_dependencies(Path(sys.argv[1])):
        for name in modules_of(distribution):
            import_own(name, distribution.name)
    late = [name for library, names in LATE.items() if find_spec(library) for name in names]
    for name in [*late, *families_of_estimators()]:
        with contextlib.suppress(Exception):  # not importable in this environment
            importlib.import_module(name)
    if all(map(find_spec, ("mlflow", "pandas", "sklearn"))):
        predict_once()


def import_own(module: str, distribution: str) -> None:
    """Import a module of a direct dependency; end the build if a module is missing."""
    try:
        importlib.import_module(module)
    except ImportError as exc:
        lacks = isinstance(exc, ModuleNotFoundError) or str(exc).startswith("cannot import name")
        if lacks:
            sys.exit(f"{distribution}, which pyproject.toml lists, cannot be imported: {exc}")
    except Exception:
        pass  # it may need something that only the container has


def own_dependencies(requirements: Path) -> list[Distribution]:
    """The installed direct dependencies of pyproject.toml, including your own."""
    first, _, _ = requirements.read_text(encoding="utf-8").partition("\n")
    named = set(first.partition(": ")[2].split())
    found = [one for one in distributions() if normal(one.name) in named]
    return sorted(found, key=lambda one: normal(one.name))


def modules_of(distribution: Distribution) -> list[str]:
    """Its topmost modules; for google-cloud-storage not the namespace `google`, which it shares."""
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
    """Fit, save, load and call a small model, to import modules that are not listed above."""
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
