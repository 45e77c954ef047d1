"""Runs and their models: the interface of all stores."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

PARENT = "mlflow.parentRunId"
"""The tag of a run that is part of another one."""

LATEST = "latest"
"""In place of a run id: the latest finished run with a model, in the settings' experiment."""


@dataclass(frozen=True)
class Run:
    """A training run."""

    run_id: str
    name: str
    experiment: str
    status: str
    """MLflow's status: `RUNNING`, `FINISHED`, `FAILED`, ..."""
    started: datetime
    """With a time zone."""
    is_deleted: bool
    models: tuple[str, ...]
    """The names of its models, without duplicates, the latest first."""
    is_nested: bool = False
    """Whether it is part of another run, such as a trial of tuning."""
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    """The last value of each."""

    @property
    def recipe(self) -> str:
        """The recipe that the run trained, or else the run's name."""
        return self.params.get("recipe") or self.name


def worth_listing(runs: Iterable[Run]) -> Iterator[Run]:
    """Leave out the parts of other runs that have no model: tuning makes dozens of them."""
    return (run for run in runs if run.models or not run.is_nested)


@dataclass(frozen=True)
class FoundModel:
    """A model's directory on this machine."""

    uri: str
    """Where it was found, with the run and the model's name spelled out."""
    path: Path
    version: str | None = None
    """`name/version`, for a model from the registry."""
    files: TemporaryDirectory[str] | None = None
    """The copy that holds `path`; None if `path` is the store's own directory."""


class Store(Protocol):
    """A store of runs and models. Each class reads it in its own way; the answers are the same."""

    def run(self, run_id: str) -> Run | None:
        """A run, even a deleted one; None if there is no such run."""
        ...

    def runs(self, experiment: str | None = None) -> Iterator[Run]:
        """The runs of all experiments or of one, the latest first, without deleted ones."""
        ...

    def is_compiled(self, run: Run) -> bool | None:
        """Whether one of the run's models has a compiled form; None if that cannot be read."""
        ...

    def model(self, uri: str) -> FoundModel:
        """A model by its URI: `runs:/ID/NAME`, `models:/NAME/1`, `models:/NAME@alias`, ..."""
        ...
