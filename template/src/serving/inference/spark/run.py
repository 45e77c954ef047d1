"""Predict all rows of a data set on Spark."""

import contextlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from uuid import uuid4

import pyarrow as pa

from serving.config.settings import Settings
from serving.errors import ConfigError, DataError
from serving.inference.batch import Job
from serving.inference.rejected import check_reasons
from serving.inference.spark.session import is_local, spark_session
from serving.inference.spark.storage import Storage, arrow_schema, is_csv, write
from serving.inference.spark.worker import (
    MALFORMED,
    REJECTED,
    ExecutorSpec,
    Predictor,
    predict,
    with_model,
)
from serving.inference.stream import Counts, Limit
from serving.inference.summary import Summary
from serving.model.hooks import PredictionHooks
from serving.model.loading import load_model
from serving.model.served import ServedModel
from serving.redaction import redact

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def predict_on_spark(settings: Settings, job: Job, master: str) -> Summary:
    """Predict all rows of the job on Spark.

    The input is Parquet or CSV in any file system that Spark knows. The output is a directory with
    one file for each partition, in no particular order: CSV if its name ends in `.csv`, else
    Parquet. It appears when it is whole. How many rows are wrong is known only then, so
    `Job.limit` is checked at the end.

    Args:
        settings: they name the model; the executors load their own.
        job: what to predict.
        master: `local[*]`, or the address of a cluster.

    Raises `ConfigError` for an option that Spark has no use for, `DataError` for wrong rows, for an
    output that exists and for data that cannot be read, `ServingError` if Spark fails, and what
    `load_model` raises. Then nothing is written.
    """
    started = time.monotonic()
    data, output = _files(job)
    model = load_model(settings, job.engine, PredictionHooks.load(settings))
    rejected = (job.rejected or _beside(output)) if job.sets_aside else None
    name = redact(data)
    with spark_session(master, debug=settings.logging.level == "DEBUG") as session:
        from serving.inference.spark.errors import one_sentence

        with one_sentence(name), _shipped(model.path, session, master) as archive:
            storage = Storage(session)
            for path in filter(None, (output, rejected)):
                if storage.exists(path):
                    raise DataError(f"{redact(path)}: exists already; delete it or name another")
            csv_format = job.csv_format(model)
            source = storage.read(data, model.schemas.columns, csv_format)
            job.check_csv_options(is_csv=source.header is not None)
            fields = [field for field in arrow_schema(source.rows) if field.name != MALFORMED]
            spec = ExecutorSpec(
                id=uuid4().hex,
                settings=with_model(settings, model.path.resolve()),
                archive=archive,
                engine=job.engine,
                model_id=model.model_id,
                version=model.version,
                data=name,
                columns=tuple(source.rows.columns),
                schema=pa.schema(fields),
                delimiter=csv_format.delimiter,
                header=source.header,
                output_is_text=is_csv(output),
                rejected_is_text=is_csv(rejected) if rejected else None,
            )
            answers = _predicted(source.rows, spec, model)
            counts = _write(answers, storage, name, output, rejected, job.limit)
    return Summary(
        rows=counts.rows,
        rejected=counts.rejected,
        seconds=time.monotonic() - started,
        engine=model.engine.name,
        model=redact(model.uri),
        model_id=model.model_id,
        output=redact(output),
        rejected_output=redact(rejected) if counts.rejected and rejected else None,
    )


def _files(job: Job) -> tuple[str, str]:
    """The input and the output; raises `ConfigError` for what only a local run does."""
    if job.resume:
        raise ConfigError("--resume is not for Spark, which repeats failed tasks itself")
    if job.workers:
        raise ConfigError("--workers is not for Spark; give --master local[4], for example")
    if job.data is None or job.has_query or job.output is None:
        raise ConfigError("databases are not for Spark; use --data-path and --output-path FILES")
    return job.data, job.output


def _beside(output: str) -> str:
    """The directory of the rejected rows: `predictions.rejected.parquet`, for example."""
    path = PurePosixPath(output)
    return f"{output.rstrip('/').removesuffix(path.suffix)}.rejected{path.suffix}"


def _predicted(rows: "DataFrame", spec: ExecutorSpec, model: ServedModel) -> "DataFrame":
    from pyspark.sql.pandas.types import from_arrow_schema

    try:
        if spec.rejected_is_text is not None:
            check_reasons(spec.schema)
        schema = Predictor(spec, model).schema
    except DataError as exc:
        raise DataError(f"{spec.data}: {exc}") from None

    def run(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return predict(batches, spec)

    # Numbers as names, because a dot in a name has a meaning for Spark.
    numbered = rows.toDF(*map(str, range(len(rows.columns))))
    return numbered.mapInArrow(run, from_arrow_schema(schema))


def _write(
    answers: "DataFrame",
    storage: Storage,
    name: str,
    output: str,
    rejected: str | None,
    limit: Limit,
) -> Counts:
    """Write what `Predictor` answers.

    If rejected rows are set aside, the answers are stored on the executors' disks on their way to
    the output, so that the model predicts only once.
    """
    from pyspark.sql import Observation, functions
    from pyspark.storagelevel import StorageLevel

    counted = [functions.count(functions.lit(1)).alias("rows")]
    if rejected:
        answers = answers.persist(StorageLevel.DISK_ONLY)
        counted.append(functions.count(REJECTED).alias("rejected"))
    # The counts of a repeated task replace those of the first attempt.
    seen = Observation()
    accepted = answers.observe(seen, *counted)
    if rejected:
        accepted = accepted.where(accepted[REJECTED].isNull()).drop(REJECTED)
    unfinished = storage.unfinished(output)
    set_aside = storage.unfinished(rejected) if rejected else None
    try:
        write(accepted, unfinished, as_csv=is_csv(output))
        counts = Counts(**seen.get)
        counts.check(limit, name)
        if rejected and set_aside and counts.rejected:
            wrong = answers.where(answers[REJECTED].isNotNull()).select(f"{REJECTED}.*")
            write(wrong, set_aside, as_csv=is_csv(rejected))
            storage.move(set_aside, rejected)
        storage.move(unfinished, output)
        return counts
    finally:
        with contextlib.suppress(Exception):  # the JVM may have ended
            for path in filter(None, (unfinished, set_aside)):
                storage.delete(path)


@contextlib.contextmanager
def _shipped(directory: Path, session: "SparkSession", master: str) -> Iterator[str | None]:
    """Give every executor the model's directory, once; yields its name there.

    Executors that are threads of this machine read the directory itself.
    """
    if is_local(master):
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        name = f"model-{uuid4().hex}"
        archive = shutil.make_archive(f"{folder}/{name}", "zip", directory)
        session.sparkContext.addArchive(f"{archive}#{name}")
        yield name
