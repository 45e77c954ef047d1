"""Find the model that the settings name: a directory, a run's model, or a registered model.

`serving.store.sqlite` reads a local store within milliseconds. MLflow reads all other stores, and
local stores that `serving.store.sqlite` does not understand.
"""

import contextlib
import itertools
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from serving.config.settings import Settings
from serving.errors import ModelNotFound, ServingError
from serving.redaction import first_line, redact
from serving.store.runs import LATEST, FoundModel, Run, Store, worth_listing
from serving.store.sqlite import NotUnderstood, SqliteStore, file_of
from serving.store.tracking import TrackingStore

logger = logging.getLogger("serving")

Result = TypeVar("Result")

_NAMED = 3
"""How many of the latest runs are named if a run is not found."""

_LOOKED_AT = 20
"""How many of the latest runs are searched for them."""


def find_model(settings: Settings) -> FoundModel:
    """Find the model that the settings name, and bring it to this machine.

    Raises `ConfigError` if they name no model or two, `ModelNotFound` with one sentence if the
    store has no such run or model, and what MLflow raises.
    """
    settings.serving.require_named_model()
    uri = settings.serving.model_uri
    if uri and (":" not in uri or Path(uri).is_dir()):
        path = Path(uri).resolve()  # MLflow does not follow links
        if not path.is_dir():
            raise FileNotFoundError(
                "there is no such directory; for a registered model write models:/NAME@ALIAS"
            )
        return FoundModel(uri, path)
    if not _is_in_store(settings):
        return TrackingStore(settings).model(str(uri))
    return ask_store(settings, lambda store: store.model(_uri(store, settings)))


def find_local_model(settings: Settings) -> FoundModel | None:
    """Find the model that the settings name, if it is in a local store.

    Returns None for directories and other stores, which may appear later, and for whatever cannot
    be read now. Raises `ModelNotFound` as `find_model` does.
    """
    if not _is_in_store(settings):
        return None
    try:
        with _local_store(settings) as store:
            return store.model(_uri(store, settings))
    except ServingError:
        raise
    except Exception as exc:
        logger.debug("the model is not looked up in a local store: %s", exc)
        return None


def ask_store(settings: Settings, ask: Callable[[Store], Result]) -> Result:
    """Query the store of the settings: a local store directly, any other through MLflow."""
    try:
        with _local_store(settings) as store:
            return ask(store)
    except NotUnderstood as exc:
        logger.debug("the store is read through MLflow: %s", exc)
    return ask(TrackingStore(settings))


@contextlib.contextmanager
def one_sentence(settings: Settings) -> Iterator[None]:
    """Raise `ServingError` with one sentence for whatever MLflow raises."""
    try:
        yield
    except ServingError:
        raise
    except Exception as exc:
        uri = settings.mlflow.tracking_uri
        raise ServingError(f"MLflow at {redact(uri)} failed: {first_line(exc, uri)}") from exc


def latest_run(store: Store, settings: Settings) -> Run:
    """The latest finished run with a model, in the experiment of the settings.

    Raises `ModelNotFound` if there is none.
    """
    experiment = settings.mlflow.experiment_name
    for run in store.runs(experiment):
        if run.status == "FINISHED" and run.models:
            logger.info(
                "the latest run of the experiment '%s' is %s, started %s, of the recipe %s",
                *(experiment, run.run_id, f"{run.started:%Y-%m-%d %H:%M:%S} UTC", run.recipe),
            )
            return run
    raise ModelNotFound(
        f"the experiment '{experiment}' (MLFLOW_EXPERIMENT_NAME) has no finished run with a model "
        f"in {redact(settings.mlflow.tracking_uri)}; {_latest(store)}"
    )


def _is_in_store(settings: Settings) -> bool:
    """Whether the settings name a run's model or a registered model, not a directory or address."""
    uri = settings.serving.model_uri
    if not uri:
        return True
    scheme, _, path = uri.partition(":/")
    return scheme in ("runs", "models") and not path.startswith("/")


@contextlib.contextmanager
def _local_store(settings: Settings) -> Iterator[SqliteStore]:
    file = file_of(settings.mlflow.tracking_uri)
    if file is None:
        raise NotUnderstood("it is not a SQLite file")
    uri = settings.serving.model_uri or ""
    registry = os.environ.get("MLFLOW_REGISTRY_URI", settings.mlflow.tracking_uri)
    if uri.startswith("models:/") and registry != settings.mlflow.tracking_uri:
        raise NotUnderstood("MLFLOW_REGISTRY_URI names another registry")
    with SqliteStore(file) as store:
        yield store


def _uri(store: Store, settings: Settings) -> str:
    """The URI of the model that the settings name, with the run id and the model's name."""
    run_id, uri = settings.serving.model_run_id, settings.serving.model_uri
    name = ""
    if uri:
        scheme, _, path = uri.partition(":/")
        if scheme != "runs":
            return uri
        run_id, _, name = path.partition("/")
    if run_id == LATEST and not uri:
        run = latest_run(store, settings)
    else:
        run = _existing_run(store, str(run_id), settings)
    return f"runs:/{run.run_id}/{_name(run, name.rstrip('/'))}"


def _existing_run(store: Store, run_id: str, settings: Settings) -> Run:
    run = store.run(run_id)
    where = redact(settings.mlflow.tracking_uri)
    if run is None:
        raise ModelNotFound(f"there is no run '{run_id}' in {where}; {_latest(store)}")
    if run.is_deleted:
        raise ModelNotFound(f"run {run_id} was deleted in {where}; {_latest(store)}")
    return run


def _name(run: Run, name: str) -> str:
    """The name of the run's model: the one that is asked for, or else the only one."""
    known = ", ".join(f"'{model}'" for model in run.models)
    if not known:
        state = "" if run.status == "FINISHED" else f" (its status is {run.status})"
        raise ModelNotFound(f"run {run.run_id} has logged no model{state}")
    if name.partition("/")[0] in run.models:
        return name
    if name:
        raise ModelNotFound(f"run {run.run_id} has no model '{name}'; it has {known}")
    if len(run.models) > 1:
        raise ModelNotFound(
            f"run {run.run_id} has several models, {known}; choose one with --model-uri "
            f"(MODEL_URI), for example runs:/{run.run_id}/{run.models[0]}"
        )
    return run.models[0]


def _latest(store: Store) -> str:
    """A sentence about the latest runs with a model."""
    latest = itertools.islice(worth_listing(store.runs()), _LOOKED_AT)
    runs = (run for run in latest if run.models)
    known = [f"{run.run_id} ({run.recipe})" for run in itertools.islice(runs, _NAMED)]
    if not known:
        return "none of its latest runs has a model"
    return f"the latest runs with a model: {', '.join(known)}; 'mmp runs' lists more"
