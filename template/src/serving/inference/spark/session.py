"""A Spark session: how Spark is started, and what is said if it cannot be."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from serving.errors import ServingError
from serving.inference.spark.java import has_name, launch, require_java

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

BATCH_ROWS = 32_768
"""Rows of the record batches that executors get."""


@contextlib.contextmanager
def spark_session(master: str, *, debug: bool = False) -> "Iterator[SparkSession]":
    """Start Spark, and stop it at the end.

    Further settings come from Spark's own sources: `SPARK_CONF_DIR` with `spark-defaults.conf`, and
    `PYSPARK_SUBMIT_ARGS`.

    Args:
        master: `local[*]`, or the address of a cluster.
        debug: leave Spark's log as it is.

    Raises `ServingError` if Spark is not installed or does not start.
    """
    if find_spec("pyspark") is None:
        raise ServingError(
            "pyspark is not installed; it is in the group spark: uv sync --group spark"
        )
    require_java()
    # Executors on this machine, or in the same image, use this environment.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if is_local(master):
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    # What goes wrong between Python and Java is raised as well.
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        # About pandas 3, which nothing here hands to Spark.
        warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas")
        session = _start(master, debug)
        try:
            yield session
        finally:
            with contextlib.suppress(Exception):  # the JVM may have ended
                session.stop()


def _start(master: str, debug: bool) -> "SparkSession":
    from pyspark import SparkConf, SparkContext
    from pyspark.sql import SparkSession

    from serving.inference.spark.errors import describe

    conf = SparkConf()
    for name, value in _settings(master, debug).items():
        conf.set(name, value)
    # Java lives as long as this process.
    gateway = None if SparkContext._gateway else launch(conf)
    try:
        return SparkSession(SparkContext(conf=conf, gateway=gateway))
    except Exception as exc:
        no_answer = "stopped SparkContext" in str(exc)
        why = "it does not answer" if no_answer else describe(exc)
        raise ServingError(f"Spark does not start with the master {master}: {why}") from exc


def is_local(master: str) -> bool:
    """Whether the executors are threads on this machine."""
    return master.partition("[")[0] == "local"


def _settings(master: str, debug: bool) -> dict[str, str]:
    settings = {
        "spark.master": master,
        "spark.app.name": "mmp batch-inference",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.caseSensitive": "true",
        # Directories such as code=007 are text; the contract gives the types.
        "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
        # Spark's own default, INT96, is deprecated and not read by every tool.
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
        "spark.sql.execution.arrow.maxRecordsPerBatch": str(BATCH_ROWS),
        # Answers are stored for a moment only; compressing them takes longer.
        "spark.sql.inMemoryColumnarStorage.compressed": "false",
        "spark.ui.showConsoleProgress": str(sys.stderr.isatty()).lower(),
    }
    if is_local(master):
        settings |= {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.ui.enabled": "false",
        }
    options = []
    if not debug:
        log = Path(__file__).with_name("log4j2.properties")
        options.append(f'"-Dlog4j2.configurationFile={log.as_uri()}"')
    if not has_name():
        options.append(f'"-Duser.home={Path.home()}"')  # else Java does not know it
    return settings | {"spark.driver.defaultJavaOptions": " ".join(options)}
