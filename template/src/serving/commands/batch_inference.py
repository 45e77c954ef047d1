"""`mmp batch-inference`."""

import contextlib
import errno
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from serving.commands._next import STARTED_BY
from serving.commands._options import (
    ConfigPath,
    DataPath,
    ModelUri,
    Parameters,
    RunId,
    choose_model,
    parameters_of,
    settings_with,
)
from serving.config.settings import DEFAULT_CONFIG, EngineChoice, Settings
from serving.errors import ConfigError, InterruptedRun
from serving.inference.signals import never, remembered_signals
from serving.redaction import redact

if TYPE_CHECKING:
    from serving.inference.batch import Job
    from serving.inference.stream import Limit
    from serving.inference.summary import Summary

REJECTED_STATUS = 3
"""Exit status of a run that has set rows aside."""


def run(
    run_id: RunId = None,
    model_uri: ModelUri = None,
    config_path: ConfigPath = DEFAULT_CONFIG,
    data_path: DataPath = None,
    query: Annotated[
        str | None,
        typer.Option(envvar="QUERY", help="SQL query to read, instead of a file."),
    ] = None,
    params: Parameters = None,
    encoding: Annotated[
        str | None,
        typer.Option(
            envvar="CSV_ENCODING",
            help="Encoding of a CSV file, such as utf-8 or cp949.  [default: that of the model's "
            "recipe]",
        ),
    ] = None,
    delimiter: Annotated[
        str | None,
        typer.Option(
            envvar="CSV_DELIMITER",
            help="Character between the fields of a CSV file, such as ';' or '\\t'.  [default: "
            "that of the model's recipe]",
        ),
    ] = None,
    output_path: Annotated[
        str | None,
        typer.Option(
            "--output-path", "-o", envvar="OUTPUT_PATH", help="CSV or Parquet file to write."
        ),
    ] = None,
    output_table: Annotated[
        str | None,
        typer.Option(
            envvar="OUTPUT_TABLE",
            help="[SCHEMA.]TABLE of the database to add the rows to, instead of a file.",
        ),
    ] = None,
    engine: Annotated[
        EngineChoice | None,
        typer.Option(
            envvar="ENGINE",
            help="onnx: the compiled model; native: the model itself; auto: the compiled one if "
            "there is one.",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            envvar="BATCH_WORKERS",
            help="How many blocks of rows are predicted at the same time; with the native engine, "
            "each in its own process.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            envvar="RESUME",
            help="Keep finished parts, so that the same command continues after an interruption.",
        ),
    ] = False,
    part_rows: Annotated[
        int, typer.Option(min=1, envvar="PART_ROWS", help="Rows in a part of --resume.")
    ] = 1_000_000,
    on_bad_row: Annotated[
        Literal["stop", "quarantine"],
        typer.Option(
            envvar="ON_BAD_ROW",
            help="stop: the first wrong row ends the run; quarantine: wrong rows go to a separate "
            "file.",
        ),
    ] = "stop",
    rejected_path: Annotated[
        str | None,
        typer.Option(
            envvar="REJECTED_PATH",
            help="File for wrong rows; default: NAME.rejected.csv for the output NAME.csv.",
        ),
    ] = None,
    max_rejected: Annotated[
        str | None,
        typer.Option(
            envvar="MAX_REJECTED",
            help="How many rows may be wrong: a number, or a share such as 1%. Needs "
            "--on-bad-row quarantine.",
        ),
    ] = None,
    on: Annotated[
        Literal["local", "spark"],
        typer.Option(
            envvar="BATCH_ON", help="local: this machine; spark: Spark, which writes a directory."
        ),
    ] = "local",
    master: Annotated[
        str,
        typer.Option(
            envvar="SPARK_MASTER",
            help="Spark's master: local[*], spark://HOST:PORT, yarn, k8s://...",
        ),
    ] = "local[*]",
    summary: Annotated[
        Path | None,
        typer.Option(envvar="SUMMARY_PATH", help="JSON file for the figures of the run."),
    ] = None,
) -> None:
    """Predict all rows of a file or a query, in order.

    Writes the rows with all their columns, and adds the predictions. Exit status: 0 if all rows
    are predicted, 2 after an error, 3 if wrong rows went to a separate file, 75 if the run was
    interrupted and the same command continues it.
    """
    _require_one(
        "data", {"--data-path FILE (DATA_PATH)": data_path, "--query SELECT (QUERY)": query}
    )
    _require_one(
        "output",
        {
            "--output-path FILE (OUTPUT_PATH)": output_path,
            "--output-table TABLE (OUTPUT_TABLE)": output_table,
        },
    )
    parameters = parameters_of(params)
    if parameters and not str(data_path).lower().endswith(".sql.j2"):
        raise ConfigError("--params (PARAMS) is only for a query in a template (.sql.j2)")
    csv_options = _csv_options(encoding, delimiter)
    if summary:
        _check_summary(summary)
    choose_model(run_id, model_uri)

    with _resumable(resume) as stop_asked:
        limit = _limit(on_bad_row, max_rejected, rejected_path)
        settings = settings_with(config_path, ENGINE=engine)
        from serving.inference.batch import Job, run_batch

        job = Job(
            data=data_path,
            query=query,
            parameters=parameters,
            **csv_options,
            output=output_path,
            table=output_table,
            engine=settings.serving.engine,
            workers=workers,
            resume=resume,
            part_rows=part_rows,
            limit=limit,
            rejected=rejected_path,
        )
        try:
            if on == "spark":
                done = _run_on_spark(settings, job, master)
            else:
                done = run_batch(settings, job, stop_asked)
        except SystemExit as exc:  # SIGTERM
            if resume:
                raise
            # Everything is cleaned up. Threads of Arrow may still call Python, so the interpreter
            # must not be taken apart under them.
            sys.stderr.flush()
            os._exit(int(exc.code or 0))
    print(done)
    if summary:
        _write_summary(summary, done.as_dict())
    if done.rejected:
        raise typer.Exit(REJECTED_STATUS)


def _run_on_spark(settings: Settings, job: "Job", master: str) -> "Summary":
    from serving.inference.spark.run import predict_on_spark

    return predict_on_spark(settings, job, master)


def _require_one(what: str, options: dict[str, str | None]) -> None:
    given = [name for name, value in options.items() if value is not None]
    if not given:
        raise ConfigError(f"no {what} is given; use {' or '.join(options)}")
    if len(given) > 1:
        raise ConfigError(f"{' and '.join(given)} are both given; keep one")


def _csv_options(encoding: str | None, delimiter: str | None) -> dict[str, str]:
    """The options that say how a CSV file is read, checked as the keys of a recipe are."""
    tab = "\t" if delimiter == "\\t" else delimiter
    given = {key: value for key, value in (("encoding", encoding), ("delimiter", tab)) if value}
    if not given:
        return {}
    from pydantic import ValidationError

    from serving.config.yaml_file import first_problem
    from serving.contract.recipe import Loader

    for key, value in given.items():
        try:
            Loader.model_validate({key: value})
        except ValidationError as exc:
            rule = first_problem(exc, Loader).removeprefix(f"{key}: ")
            raise ConfigError(f"--{key} (CSV_{key.upper()}): {rule}") from None
    return given


def _limit(on_bad_row: str, max_rejected: str | None, rejected_path: str | None) -> "Limit":
    from serving.inference.stream import STOP, Limit

    if on_bad_row == "stop":
        for name, value in (("--max-rejected", max_rejected), ("--rejected-path", rejected_path)):
            if value is not None:
                raise ConfigError(f"{name} has a meaning only with --on-bad-row quarantine")
        return STOP
    if max_rejected is None:
        return Limit()
    is_share = max_rejected.endswith("%")
    try:
        number = float(max_rejected.removesuffix("%")) / 100 if is_share else int(max_rejected)
    except ValueError:
        number = -1
    if not number >= 0 or (is_share and number > 1):  # also refuses NaN
        raise ConfigError(
            f"--max-rejected must be a number of rows, or a share such as 1%, is '{max_rejected}'"
        )
    return Limit(share=number) if is_share else Limit(rows=int(number))


@contextlib.contextmanager
def _resumable(resume: bool) -> Iterator[Callable[[], bool]]:
    """Name the command that goes on, for an interrupted run with `--resume`.

    Yields a function that says whether a signal has asked the run to stop.
    """
    if not resume:
        yield never
        return
    try:
        with remembered_signals() as stop_asked:
            yield stop_asked
        return
    except InterruptedRun as exc:
        reason = str(exc)
    except (KeyboardInterrupt, SystemExit):  # a second signal; see `serving.cli`
        reason = "stopped by a signal"
    raise InterruptedRun(f"{reason}; finished parts are kept, go on with: {_again()}")


def _again() -> str:
    """The command that was given, which with `--resume` goes on; without logins."""
    addresses = re.compile(r"(--[a-z-]+=)?\w+://")
    given = [redact(one) if addresses.match(one) else one for one in sys.argv[1:]]
    command = shlex.join(["mmp", *given])
    return command if os.environ.get(STARTED_BY) else f"uv run {command}"


def _check_summary(path: Path) -> None:
    """Raise `ConfigError` if the file cannot be written; it is too late for that after the run."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be written: {exc.strerror}") from None
    if path.is_dir():
        raise ConfigError(f"{path}: is a directory; name a file")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ConfigError(f"{path}: cannot be written: {os.strerror(errno.EACCES)}")


def _write_summary(path: Path, figures: dict[str, object]) -> None:
    try:
        path.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be written: {exc.strerror}") from None
