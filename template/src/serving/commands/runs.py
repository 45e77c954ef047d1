"""`mmp runs`."""

from typing import TYPE_CHECKING, Annotated

import typer

from serving.commands._options import ConfigPath, settings_with
from serving.config.settings import DEFAULT_CONFIG

if TYPE_CHECKING:
    from serving.store.runs import Run, Store

_MAIN_METRICS = ("test_accuracy", "test_r2", "test_rmse")
"""The first of these is shown; without them the first metric of the test data, or any metric."""

_COMPILED = {True: "yes", False: "no", None: "?"}

_HEADER = ("RUN ID", "STARTED", "EXPERIMENT", "RECIPE", "STATUS", "MODEL", "METRIC", "COMPILED")


def run(
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many runs to list.")] = 10,
    config_path: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """List the latest runs in the MLflow store and their models.

    'mmp serve-api --run-id RUN_ID' serves the model of a run.
    """
    settings = settings_with(config_path)

    import itertools

    from serving.redaction import redact
    from serving.store.finding import ask_store, one_sentence
    from serving.store.runs import worth_listing

    def lines(store: "Store") -> list[tuple[str, ...]]:
        return [_line(run, store) for run in itertools.islice(worth_listing(store.runs()), count)]

    with one_sentence(settings):
        found = ask_store(settings, lines)
    if not found:
        print(f"no runs in {redact(settings.mlflow.tracking_uri)} yet")
        return
    table = [_HEADER, *(tuple(map(_printable, line)) for line in found)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


def _line(run: "Run", store: "Store") -> tuple[str, ...]:
    return (
        run.run_id,
        f"{run.started.astimezone():%Y-%m-%d %H:%M}",
        run.experiment,
        run.recipe,
        run.status.lower(),
        _model(run),
        _metric(run.metrics),
        _COMPILED[store.is_compiled(run)] if run.models else "-",
    )


def _printable(cell: str) -> str:
    """The cell without line breaks and escape sequences, which anyone who logs a run may use."""
    return "".join(character if character.isprintable() else "?" for character in cell)


def _model(run: "Run") -> str:
    """The estimator's class, and the names of the models if they are not just `model`."""
    if not run.models:
        return "-"
    class_name = run.params.get("class_path", "").rpartition(".")[2]
    if class_name and run.models == ("model",):
        return class_name
    return f"{class_name} ({', '.join(run.models)})" if class_name else ", ".join(run.models)


def _metric(metrics: dict[str, float]) -> str:
    names = [*_MAIN_METRICS, *sorted(metrics, key=lambda name: not name.startswith("test_"))]
    for name in names:
        if name in metrics and name != "fit_seconds":
            return f"{name}={metrics[name]:.4g}"
    return "-"
