"""Where a model comes from: its data, its code and its environment, logged with the run."""

import hashlib
import json
import os
import platform
import subprocess
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from serving.contract.columns import Column
from serving.contract.recipe import Recipe
from serving.training.data import Dataset

_LONGEST_DIGEST = 36
"""MLflow refuses longer digests of a data set."""

_GIT_SECONDS = 10
"""Longest wait for git; the work tree may be on a slow network drive."""


@dataclass(frozen=True)
class Commit:
    """The state of the git repository in which training runs."""

    id: str
    is_dirty: bool
    """Whether files were changed or added since the commit."""


@dataclass(frozen=True)
class Provenance:
    """The data, the code and the environment of a run."""

    source: str
    """The path or address of the data, as the recipe or the option gives it."""
    rows: int
    columns: int
    """Features, and target and treatment if there are any."""
    sha256: str
    """Of the content, not of the file: see `fingerprint`."""
    commit: Commit | None
    """None outside of a git repository."""
    libraries: Mapping[str, str]
    """Version of Python and of the libraries that the model needs."""


def provenance_of(data: Dataset, source: str, requirements: Sequence[str]) -> Provenance:
    """Collect the provenance of a run.

    Args:
        data: the rows that the model learns from and is evaluated on.
        source: where they come from, without secrets.
        requirements: the model's libraries, as `name==version`.
    """
    pinned = dict(one.split("==", 1) for one in requirements if "==" in one)
    return Provenance(
        source=source,
        rows=len(data.features),
        columns=len(_learned(data)),
        sha256=fingerprint(data),
        commit=commit_of(Path.cwd()),
        libraries={"python": platform.python_version(), **pinned},
    )


def fingerprint(data: Dataset) -> str:
    """SHA-256 of names, types and values of what the model learns from, in this order.

    The same rows have the same fingerprint in a CSV file, a Parquet file or a table.
    """
    digest = hashlib.sha256()
    learned = _learned(data)
    digest.update(json.dumps([[column.name, column.type] for column, _ in learned]).encode())
    for _, values in learned:
        digest.update(pd.util.hash_pandas_object(values, index=False).to_numpy().tobytes())
    return digest.hexdigest()


def _learned(data: Dataset) -> "list[tuple[Column, pd.Series[Any] | pd.DataFrame]]":
    """The columns that the model learns from, and their values."""
    found: list[tuple[Column, pd.Series[Any] | pd.DataFrame]] = [
        (column, data.features[column.name]) for column in data.feature_columns
    ]
    if data.target_column is not None and data.target is not None:
        found.append((data.target_column, data.target))
    if data.treatment is not None:
        found.append((Column(str(data.treatment.name), "long"), data.treatment))
    return found


def commit_of(directory: Path) -> Commit | None:
    """The commit that is checked out; None if there is no git, no repository or no commit."""
    command = ("git", "status", "--porcelain=v2", "--branch")
    try:
        status = subprocess.run(
            command,
            cwd=directory,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # do not write to the repository
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_GIT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    first, _, rest = status.stdout.partition("\n")
    commit = first.removeprefix("# branch.oid ")
    if status.returncode or commit == first or commit == "(initial)":
        return None
    return Commit(commit, any(line[:1] not in ("", "#") for line in rest.splitlines()))


def log_provenance(mlflow: Any, recipe: Recipe, data: Dataset, provenance: Provenance) -> None:
    """Log the data set as the run's input, the commit as tags, and the recipe and environment.

    The recipe has `${VAR}` in place of values from the environment.
    """
    import yaml

    columns = [column for column, _ in _learned(data)]
    mlflow.log_input(_as_mlflow(recipe, columns, provenance), "training")
    if commit := provenance.commit:
        mlflow.set_tags(
            {
                "mlflow.source.git.commit": commit.id,
                "mlflow.source.git.dirty": str(commit.is_dirty).lower(),
            }
        )
    mlflow.log_dict({"platform": platform.platform(), **provenance.libraries}, "environment.json")
    written = yaml.safe_dump(recipe.as_written(), sort_keys=False, allow_unicode=True)
    mlflow.log_text(written, "recipe.yaml")


def _as_mlflow(recipe: Recipe, columns: Sequence[Column], provenance: Provenance) -> Any:
    """MLflow's description of the data; it has no rows."""
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.types import ColSpec, Schema

    class Description(MetaDataset):
        @property
        def profile(self) -> dict[str, Any]:
            size = provenance.rows * provenance.columns
            shape = {"num_rows": provenance.rows, "num_elements": size}  # MLflow's UI shows these
            return shape | {"sha256": provenance.sha256}

        def to_dict(self) -> dict[str, str]:
            return {**super().to_dict(), "profile": json.dumps(self.profile)}

    return Description(
        _source(provenance.source),
        name=recipe.name,
        digest=provenance.sha256[:_LONGEST_DIGEST],
        schema=Schema([ColSpec(c.type, c.name, required=c.required) for c in columns]),
    )


def _source(text: str) -> Any:
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.data.dataset_source_registry import resolve_dataset_source
    from mlflow.exceptions import MlflowException

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two of MLflow's names for the same local source
        try:
            return resolve_dataset_source(text)
        except MlflowException:  # a database, for example
            return CodeDatasetSource({"source": text})
