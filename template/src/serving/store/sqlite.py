"""MLflow's local store, a SQLite file, read without MLflow, whose import takes seconds.

`SqliteStore` writes nothing, and raises `NotUnderstood` for everything that MLflow must read.
MLflow's tables: https://github.com/mlflow/mlflow/blob/master/mlflow/store/tracking/dbmodels/models.py
"""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, quote, urlsplit
from urllib.request import url2pathname

from serving.errors import ModelNotFound, ServingError
from serving.store import mlmodel
from serving.store.runs import PARENT, FoundModel, Run

ARTIFACTS = "mlruns"
"""MLflow keeps the artifacts of a local store in this directory, next to the database."""

_PREFIX = "sqlite:///"

# The tables and columns read here. MLflow adds some with most versions and rarely removes any, so
# checking for these columns is more reliable than checking a version number.
_COLUMNS = {
    "experiments": {"experiment_id", "name", "artifact_location", "lifecycle_stage"},
    "runs": {
        *("run_uuid", "name", "status", "start_time"),
        *("lifecycle_stage", "artifact_uri", "experiment_id"),
    },
    "params": {"run_uuid", "key", "value"},
    "tags": {"run_uuid", "key"},
    "latest_metrics": {"run_uuid", "key", "value", "is_nan"},
    "logged_models": {
        *("model_id", "name", "artifact_location", "creation_timestamp_ms"),
        *("status", "lifecycle_stage", "source_run_id"),
    },
    "model_versions": {"name", "version", "source", "storage_location", "current_stage"},
    "registered_model_aliases": {"name", "alias", "version"},
}

_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("logged_models", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""The columns with absolute paths."""

_READY = 2
"""The status of a complete logged model."""

_MODELS_OF = f"""
    SELECT * FROM logged_models
    WHERE source_run_id = ? AND lifecycle_stage = 'active' AND status = {_READY}
    ORDER BY creation_timestamp_ms DESC, model_id
"""

_RUNS = """
    SELECT runs.*, experiments.name AS experiment
    FROM runs JOIN experiments USING (experiment_id)
"""


class NotUnderstood(Exception):
    """Only MLflow can read this; the message says why."""


def file_of(uri: str) -> Path | None:
    """The file of a tracking URI `sqlite:///FILE`; None for another store."""
    if not uri.startswith(_PREFIX) or "?" in uri or uri.endswith(":memory:"):
        return None
    return Path(uri.removeprefix(_PREFIX)).absolute() if uri != _PREFIX else None


def is_relative(uri: str) -> bool:
    """Whether a tracking URI names a SQLite file of this project: one with a relative path."""
    return file_of(uri) is not None and not uri.startswith(f"{_PREFIX}/")


class SqliteStore:
    """A store in a SQLite file, and the artifacts that it names.

    MLflow records absolute paths. In a project that was moved or copied since, the artifacts are
    next to the file. So what is there is used first, then the recorded path.

    Raises `NotUnderstood` if the file is not a SQLite file with the tables of MLflow 3, and
    `ModelNotFound` if there is no such file.
    """

    def __init__(self, file: Path) -> None:
        if not os.path.isfile(file):
            raise ModelNotFound(
                f"there is no MLflow store at {file}, so there are no runs yet; "
                "MLFLOW_TRACKING_URI names another store"
            )
        if os.environ.get("MLFLOW_WORKSPACE"):
            raise NotUnderstood("MLFLOW_WORKSPACE is set")
        self.file = file
        self._connection = _reading(lambda: sqlite3.connect(_address(file, "ro"), uri=True))
        self._connection.row_factory = sqlite3.Row
        try:
            self._check_columns()
        except NotUnderstood:
            self._connection.close()
            raise

    def __enter__(self) -> "SqliteStore":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def run(self, run_id: str) -> Run | None:
        """See `Store.run`."""
        rows = self._rows(f"{_RUNS} WHERE run_uuid = ?", run_id)
        return self._run(rows[0]) if rows else None

    def runs(self, experiment: str | None = None) -> Iterator[Run]:
        """See `Store.runs`."""
        where = "runs.lifecycle_stage = 'active' AND experiments.lifecycle_stage = 'active'"
        names = [] if experiment is None else [experiment]
        if names:
            where += " AND experiments.name = ?"
        order = "ORDER BY start_time DESC, run_uuid"
        yield from map(self._run, self._rows(f"{_RUNS} WHERE {where} {order}", *names))

    def is_compiled(self, run: Run) -> bool | None:
        """See `Store.is_compiled`."""
        try:
            found = [self._of_run(run.run_id, name) for name in run.models]
        except (NotUnderstood, ModelNotFound):
            return None
        return any(path and os.path.isfile(path / mlmodel.COMPILED) for path in found)

    def model(self, uri: str) -> FoundModel:
        """See `Store.model`.

        Raises `ModelNotFound`, or `NotUnderstood`.
        """
        address = _parsed(uri)
        parts = address.path.strip("/").split("/")
        if address.netloc or not all(parts):
            raise NotUnderstood(f"the URI {uri}")
        if address.scheme == "runs" and len(parts) == 2:
            run_id, name = parts
            path = self._of_run(run_id, name)
            if path is None:
                raise NotUnderstood(f"run {run_id} has no model '{name}'")
            return FoundModel(uri, path)
        if address.scheme == "models" and len(parts) == 1 and "@" not in parts[0]:
            return FoundModel(uri, self._logged(parts[0]))
        if address.scheme == "models":
            name, number = self._version(parts)
            return FoundModel(uri, self._registered(name, number), f"{name}/{number}")
        raise NotUnderstood(f"the URI {uri}")

    def _check_columns(self) -> None:
        for table, columns in _COLUMNS.items():
            found = {row["name"] for row in self._rows(f"PRAGMA table_info({table})")}
            if missing := columns - found:
                raise NotUnderstood(f"its table {table} has no column {', '.join(sorted(missing))}")

    def _rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        rows: list[sqlite3.Row] = _reading(
            lambda: self._connection.execute(query, values).fetchall()
        )
        return rows

    def _run(self, row: sqlite3.Row) -> Run:
        run_id = row["run_uuid"]
        metrics = self._rows("SELECT * FROM latest_metrics WHERE run_uuid = ?", run_id)
        params = self._rows("SELECT * FROM params WHERE run_uuid = ?", run_id)
        parents = self._rows("SELECT key FROM tags WHERE run_uuid = ? AND key = ?", run_id, PARENT)
        models = [model["name"] for model in self._rows(_MODELS_OF, run_id)]
        return Run(
            run_id=run_id,
            name=row["name"] or "",
            experiment=row["experiment"],
            status=row["status"],
            started=datetime.fromtimestamp((row["start_time"] or 0) / 1000, UTC),
            is_deleted=row["lifecycle_stage"] != "active",
            models=tuple(dict.fromkeys(models or self._in_artifacts(row["artifact_uri"]))),
            is_nested=bool(parents),
            params={param["key"]: param["value"] for param in params},
            metrics={
                metric["key"]: float("nan") if metric["is_nan"] else metric["value"]
                for metric in metrics
            },
        )

    def _in_artifacts(self, location: str) -> list[str]:
        """The models among a run's artifacts, where MLflow 2 kept them."""
        try:
            files = self._here(location).glob(f"*/{mlmodel.FILE}")
            return sorted(file.parent.name for file in files)
        except (NotUnderstood, OSError):
            return []

    def _of_run(self, run_id: str, name: str) -> Path | None:
        """The directory of a run's model; the latest if several have the name, as in MLflow."""
        rows = self._rows("SELECT artifact_uri FROM runs WHERE run_uuid = ?", run_id)
        if not rows:
            return None
        among_artifacts = self._here(rows[0]["artifact_uri"]) / name
        for model in self._rows(_MODELS_OF, run_id):
            if model["name"] == name:
                if os.path.exists(among_artifacts):  # MLflow would merge the two directories
                    raise NotUnderstood(f"run {run_id} has two kinds of artifacts in '{name}'")
                return self._there(model["artifact_location"], f"model '{name}' of run {run_id}")
        return among_artifacts if os.path.isfile(among_artifacts / mlmodel.FILE) else None

    def _logged(self, model_id: str) -> Path:
        if not model_id.startswith("m-"):
            raise ModelNotFound(
                f"models:/{model_id} has no version; write models:/{model_id}/VERSION or "
                f"models:/{model_id}@ALIAS"
            )
        query = "SELECT * FROM logged_models WHERE model_id = ? AND lifecycle_stage = 'active'"
        for model in self._rows(query, model_id):
            return self._there(model["artifact_location"], f"model {model_id}")
        raise ModelNotFound(f"there is no logged model {model_id} in {self.file}")

    def _version(self, parts: list[str]) -> tuple[str, int]:
        """Name and version number of a registered model: `NAME/1` or `NAME@alias`."""
        if len(parts) == 2 and parts[1].isdecimal():
            return parts[0], int(parts[1])
        name, at, alias = parts[0].rpartition("@")
        if not at or len(parts) > 1:
            raise NotUnderstood(f"the URI models:/{'/'.join(parts)}")
        query = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?"
        rows = self._rows(query, name, alias)
        if not rows:
            raise ModelNotFound(
                f"the registry in {self.file} has no model '{name}' with the alias '{alias}'"
            )
        return name, self._only(rows)["version"]

    def _registered(self, name: str, number: int) -> Path:
        query = """
            SELECT * FROM model_versions
            WHERE name = ? AND version = ? AND current_stage != 'Deleted_Internal'
        """
        rows = self._rows(query, name, number)
        if not rows:
            raise ModelNotFound(f"the registry in {self.file} has no model '{name}/{number}'")
        version = self._only(rows)
        location = version["storage_location"] or version["source"] or ""
        if location.startswith("models:/m-"):
            return self._logged(location.removeprefix("models:/"))
        return self._there(location, f"model '{name}/{number}'")

    @staticmethod
    def _only(rows: list[sqlite3.Row]) -> sqlite3.Row:
        if len(rows) > 1:
            raise NotUnderstood("there are several workspaces")
        return rows[0]

    def _there(self, location: str, what: str) -> Path:
        """The directory of a model.

        Raises `ModelNotFound`, which says what to do, if it holds no model.
        """
        path = self._here(location)
        if os.path.isfile(path / mlmodel.FILE):
            return path
        if os.path.isdir(path):
            raise NotUnderstood(f"{path} has no {mlmodel.FILE}")
        raise ModelNotFound(
            f"{what} is not in {path}, where MLflow has recorded it as an absolute path; "
            f"move the directory {ARTIFACTS} beside {self.file}, or serve the model's directory "
            "with --model-uri DIRECTORY"
        )

    def _here(self, location: str) -> Path:
        """The path of an artifact location, even if the project was moved."""
        path = _local(location)
        beside = self._beside(path)
        return beside if beside and os.path.exists(beside) else path

    def _beside(self, path: Path) -> Path | None:
        """Where a path is after a move; None if it is not in another directory `mlruns`."""
        root, inside = _split(path)
        if root is None or os.path.realpath(root) == os.path.realpath(self.artifacts):
            return None
        return self.artifacts / inside

    @property
    def artifacts(self) -> Path:
        """MLflow's directory of artifacts, if the working directory is that of the file."""
        return self.file.parent / ARTIFACTS

    def outdated(self) -> list[tuple[str, str, str, str]]:
        """Recorded locations that are not right after a move of the project.

        Returns the table, the column, the old and the new location of each. A location stays if it
        still exists and has not been copied.
        """
        recorded = [
            (table, column, location, path, beside)
            for table, column in _LOCATIONS
            for location, path in self._locations(table, column)
            if (beside := self._beside(path))
        ]
        moved = {
            _split(path)[0]
            for table, _, _, path, beside in recorded
            # The directory of an experiment has a number, which many projects have.
            if (table != "experiments" and os.path.exists(beside)) or not _project_exists(path)
        }
        return [
            (table, column, location, beside.as_uri() if ":" in location else str(beside))
            for table, column, location, path, beside in recorded
            if _split(path)[0] in moved
            and (table == "experiments" or os.path.exists(beside) or not os.path.exists(path))
        ]

    def _locations(self, table: str, column: str) -> Iterator[tuple[str, Path]]:
        for row in self._rows(f"SELECT DISTINCT {column} AS location FROM {table}"):
            with contextlib.suppress(NotUnderstood):
                yield row["location"], _local(row["location"] or "")


def follow_move(file: Path) -> Path | None:
    """Correct the paths in the store of a moved project, so that MLflow finds its artifacts, too.

    Otherwise MLflow would write new runs to the project's old directory.

    Returns the old directory of artifacts, or None if nothing had to be changed.

    Raises `ServingError` if the file cannot be written.
    """
    try:
        with SqliteStore(file) as store:
            outdated = store.outdated()
    except (NotUnderstood, ModelNotFound):
        return None
    if not outdated:
        return None
    try:
        with (
            contextlib.closing(sqlite3.connect(_address(file, "rw"), uri=True)) as connection,
            connection,  # all changes or none
        ):
            for table, column, old, new in outdated:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (new, old)
                )
    except sqlite3.Error as exc:
        raise ServingError(f"{file}: cannot update the paths of the moved project: {exc}") from exc
    return _split(_local(outdated[0][2]))[0]


def _project_exists(path: Path) -> bool:
    root, _ = _split(path)
    return root is not None and os.path.exists(root.parent)


def _address(file: Path, mode: str) -> str:
    return f"file:{quote(str(file))}?mode={mode}"


def _reading(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (sqlite3.Error, OverflowError, UnicodeError) as exc:
        raise NotUnderstood(f"SQLite says: {exc}") from exc


def _parsed(uri: str) -> SplitResult:
    try:
        return urlsplit(uri)
    except ValueError as exc:
        raise NotUnderstood(f"the URI {uri}: {exc}") from exc


def _local(location: str) -> Path:
    """The path that an artifact location names.

    Raises `NotUnderstood` for a location that is not on this machine.
    """
    address = _parsed(location)
    if address.scheme == "file" and address.netloc in ("", "localhost"):
        path = Path(url2pathname(address.path))
    elif not address.scheme:
        path = Path(location)
    else:
        raise NotUnderstood(f"artifacts at {address.scheme}:")
    if not path.is_absolute():
        raise NotUnderstood("it has a relative artifact path")
    return path


def _split(path: Path) -> tuple[Path | None, Path]:
    """Split a path into the part up to `mlruns` and the rest; None if it has no `mlruns`."""
    for root in path.parents:
        if root.name == ARTIFACTS:
            return root, path.relative_to(root)
    return None, path
