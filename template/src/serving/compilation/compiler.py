"""Compile a logged model, prove the result and store it with the model."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from serving.config.settings import Settings
from serving.config.yaml_file import fill_in, filled_in, hidden_values
from serving.contract.columns import Column, Row
from serving.contract.recipe import Loader, Recipe
from serving.data import series
from serving.data.frames import read_source
from serving.data.query import is_query
from serving.data.tables import is_csv, read_table, require_columns, to_table
from serving.engines.onnx import (
    DESCRIPTION,
    DIRECTORY,
    GRAPH,
    Compiled,
    NotCompiledError,
    OnnxEngine,
    digest,
)
from serving.errors import CompilationError, DataError, ServingError
from serving.model.loading import load_model
from serving.model.served import ServedModel
from serving.redaction import first_line, redact
from serving.store import mlmodel, tracking
from serving.store.finding import find_model
from serving.store.mlmodel import StoredModel
from serving.store.runs import FoundModel

LONGEST_REASON = 200
"""How many characters of a library's own message are kept."""

_LIBRARIES = ("scikit-learn", "skl2onnx", "onnx", "onnxruntime")


def compile_model(settings: Settings, data_path: str | Path | None = None) -> Compiled:
    """Convert the model that the settings name, prove it on data and store it.

    Args:
        settings: which model, and where it is kept.
        data_path: the rows; by default those that the model's recipe names.

    Returns what was stored in the model's directory `compiled/`.

    Raises `CompilationError` naming what cannot be converted or where the answers differ, and
    another `ServingError` for models and data that cannot be read. Then nothing is stored.
    """
    found = _find(settings)
    uri = found.uri
    directory = found.path
    stored = mlmodel.read(directory)
    if found.files is not None and stored.model_id is None:
        raise CompilationError(
            f"model {redact(uri)}: it was logged before MLflow 3, which could not add "
            "to a model; download it, and compile the directory"
        )
    native = _load(found, settings)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            compiled = _compile(stored, native, settings, data_path, Path(scratch) / DIRECTORY)
        except CompilationError as exc:
            raise CompilationError(f"model {redact(uri)} cannot be compiled: {exc}") from exc
        target = directory if found.files is None else None
        _store(Path(scratch) / DIRECTORY, target, stored, settings)
    return compiled


def _find(settings: Settings) -> FoundModel:
    try:
        return find_model(settings)
    except Exception:
        load_model(settings, engine="native")  # raises an error of one sentence
        raise


def _load(found: FoundModel, settings: Settings) -> ServedModel:
    """The model as it is served without being compiled."""
    update = {"model_uri": str(found.path), "model_run_id": None}
    serving = settings.serving.model_copy(update=update)
    try:
        return load_model(settings.model_copy(update={"serving": serving}), engine="native")
    except ServingError as exc:
        raise type(exc)(str(exc).replace(str(found.path), redact(found.uri))) from exc


def _compile(
    stored: StoredModel,
    native: ServedModel,
    settings: Settings,
    data_path: str | Path | None,
    directory: Path,
) -> Compiled:
    source = stored.sklearn_file
    if not stored.is_sklearn or source is None:
        flavors = ", ".join(stored.flavors)
        raise CompilationError(f"it has the flavours {flavors}; sklearn is needed")
    columns = native.schemas.inputs
    try:
        import mlflow.sklearn
        import onnx

        from serving.compilation.convert import convert
        from serving.compilation.proof import prove
    except ImportError as exc:
        raise CompilationError(
            f"the Python module '{exc.name}' is not installed here: uv sync --group compile"
        ) from exc
    model: Any = mlflow.sklearn.load_model(str(stored.path))
    with _one_sentence("it cannot be converted"):
        conversion = convert(model, columns)

    data, rows = _rows(native, columns, settings, data_path)
    directory.mkdir()
    onnx.save(conversion.model, directory / GRAPH)
    compiled = Compiled(
        estimator=conversion.estimator,
        source=digest(source),
        graph=digest(directory / GRAPH),
        types={column.name: column.type for column in columns},
        numbers=conversion.numbers,
        texts=conversion.texts,
        classes=conversion.classes,
        versions={name: version(name) for name in _LIBRARIES},
        proof={},
    )
    _write(compiled, directory)
    try:
        engine = OnnxEngine(replace(stored, path=directory.parent))
    except NotCompiledError as exc:
        message = str(exc)
        if exc.__cause__:
            message += f" ({first_line(exc.__cause__)[:LONGEST_REASON]})"
        raise CompilationError(message) from exc
    with _one_sentence("it cannot be proved"):
        proof = prove(native.engine, engine, columns, rows, data)
    compiled = compiled.model_copy(update={"proof": proof.model_dump(mode="json")})
    _write(compiled, directory)
    return compiled


@contextlib.contextmanager
def _one_sentence(what: str) -> Iterator[None]:
    """Turn any exception that libraries raise for unforeseen models into one sentence."""
    try:
        yield
    except ServingError:
        raise
    except Exception as exc:
        reason = f"{type(exc).__name__}: {first_line(exc)}"
        raise CompilationError(f"{what} ({reason[:LONGEST_REASON]})") from exc


def _write(compiled: Compiled, directory: Path) -> None:
    content = json.dumps(compiled.model_dump(mode="json"), indent=2, ensure_ascii=False)
    (directory / DESCRIPTION).write_text(f"{content}\n", encoding="utf-8")


def _rows(
    native: ServedModel, columns: list[Column], settings: Settings, data_path: str | Path | None
) -> tuple[str, list[Row]]:
    """The name of the data as written, and its rows as requests would have them.

    Rows that a request cannot have are left out.
    """
    recipe = native.schemas.recipe
    loader = recipe.data.loader if recipe else Loader()
    written = str(data_path) if data_path is not None else loader.source_uri
    if not written:
        raise CompilationError(
            "its answers are compared on data, and its recipe names none; "
            "give --data-path FILE (DATA_PATH)"
        )
    with hidden_values([written, str(loader.parameters)]):
        source = fill_in(written) if data_path is None else written
        try:
            frame, is_text = _read(source, columns, settings, recipe)
            if recipe and native.schemas.history and not is_text:
                frame = series.arrange(recipe, frame, redact(source)).frame
        except DataError as exc:
            if data_path is not None:
                raise
            raise CompilationError(
                f"its answers are compared on data, and that of its recipe cannot be read: {exc}; "
                "give --data-path FILE (DATA_PATH)"
            ) from exc
        return redact(written), _as_requests(frame, columns, redact(source), is_text)


def _read(
    source: str, columns: list[Column], settings: Settings, recipe: Recipe | None
) -> tuple[pd.DataFrame, bool]:
    """All rows, and whether their values are text that has to be parsed."""
    is_text = False
    loader = recipe.data.loader if recipe else Loader()

    def read_file(path: Path) -> pd.DataFrame:
        nonlocal is_text
        if recipe and recipe.history_columns:  # the table of a series is read as in training
            return read_table(
                path, as_text=recipe.data.data_interface.entity_columns, loader=loader
            )
        is_text = is_csv(path)
        how = loader if is_text else Loader()
        return read_table(path, as_text=[column.name for column in columns], loader=how)

    parameters = filled_in(loader.parameters) if is_query(source) else {}
    return read_source(source, settings, parameters, read_file), is_text


def _as_requests(frame: pd.DataFrame, columns: list[Column], name: str, is_text: bool) -> list[Row]:
    required = [column.name for column in columns if column.required]
    require_columns(frame, required, name, "which the model needs")
    frame = frame.dropna(subset=required).reset_index(drop=True)
    if frame.empty:
        raise CompilationError(f"no row of {name} has all values that the model requires")
    table = to_table(frame, columns, name, from_text=is_text)
    values = [
        [None if value != value else value for value in table[column.name].tolist()]
        for column in columns
    ]
    return list(zip(*values, strict=True))


def _store(made: Path, target: Path | None, stored: StoredModel, settings: Settings) -> None:
    if target is not None:
        try:
            shutil.rmtree(target / DIRECTORY, ignore_errors=True)
            shutil.copytree(made, target / DIRECTORY)
        except OSError as exc:
            raise CompilationError(f"{target} cannot be written: {exc.strerror or exc}") from exc
        return
    tracking.connect(settings)
    from mlflow import MlflowClient

    try:
        MlflowClient().log_model_artifacts(str(stored.model_id), str(made), DIRECTORY)
    except Exception as exc:
        raise CompilationError(
            f"the compiled form could not be stored with the logged model {stored.model_id}: "
            f"{first_line(exc, settings.mlflow.tracking_uri)}"
        ) from exc
