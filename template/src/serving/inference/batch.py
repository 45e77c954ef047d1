"""Batch inference on this machine: put source, model and output together."""

import contextlib
import fnmatch
import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from serving import extensions
from serving.config.settings import EngineChoice, Settings
from serving.contract.recipe import Loader
from serving.data.base import Parts, Sink, Source
from serving.data.encodings import is_utf8
from serving.data.files import CsvFormat, FileParts, open_sink
from serving.data.locations import Location, check_format, locate
from serving.data.query import Query, is_query
from serving.data.sources import open_source, run_query
from serving.errors import ConfigError, DataError
from serving.inference.kernel import Kernel
from serving.inference.outputs import Output, PartedOutput, WholeOutput
from serving.inference.rejected import check_reasons, rejected_schema
from serving.inference.signals import never
from serving.inference.stream import STOP, Limit, predict_stream
from serving.inference.summary import Summary, peak_memory_mb
from serving.inference.workers import KernelSpec, Workers, cores
from serving.model.hooks import PredictionHooks
from serving.model.loading import load_model
from serving.model.served import ServedModel
from serving.redaction import redact

if TYPE_CHECKING:
    from serving.data.database import Database

_CHUNK_VALUES = 1 << 20
_MOST_CHUNK_ROWS = 1 << 14


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to predict, and how."""

    data: str | None = None
    """Path, pattern or address of the rows, or path of a file with a query (`.sql`, `.sql.j2`)."""
    query: str | None = None
    """A query, instead of `data`."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The variables of a query's template (`.sql.j2`)."""
    encoding: str | None = None
    """The encoding of a CSV file; None: that of the model's recipe."""
    delimiter: str | None = None
    """The character between the fields of a CSV file; None: that of the model's recipe."""
    output: str | None = None
    """Path or address of the file to write."""
    table: str | None = None
    """`TABLE` or `SCHEMA.TABLE` of the database, instead of `output`."""
    engine: EngineChoice = "auto"
    workers: int | None = None
    """How many chunks are predicted at the same time; None: what suits the engine."""
    resume: bool = False
    part_rows: int = 1_000_000
    limit: Limit = STOP
    """How many rows may be rejected."""
    rejected: str | None = None
    """Path or address of the file of rejected rows; None: beside the output."""

    @property
    def has_query(self) -> bool:
        """Whether the rows come from a database."""
        return self.query is not None or is_query(str(self.data))

    def csv_format(self, model: ServedModel) -> CsvFormat:
        """How a CSV file is read: as the model's recipe says, or as the job says."""
        recipe = model.schemas.recipe
        loader = recipe.data.loader if recipe else Loader()
        named_by = (
            None if is_utf8(loader.encoding) else "data.loader.encoding of the model's recipe"
        )
        return CsvFormat(
            encoding=self.encoding or loader.encoding,
            delimiter=self.delimiter or loader.delimiter,
            named_by="--encoding" if self.encoding else named_by,
            is_certain=self.encoding is not None,
        )

    def check_csv_options(self, *, is_csv: bool) -> None:
        """Raise `ConfigError` if the job says how to read CSV, but the input is none."""
        for name, value in (("encoding", self.encoding), ("delimiter", self.delimiter)):
            if value and not is_csv:
                raise ConfigError(f"--{name} (CSV_{name.upper()}) is only for CSV files")

    @property
    def sets_aside(self) -> bool:
        """Whether wrong rows are written to a separate file."""
        return self.limit != STOP


def run_batch(settings: Settings, job: Job, stop_asked: Callable[[], bool] = never) -> Summary:
    """Predict all rows of the job.

    Args:
        settings: which model, from where.
        job: what to predict.
        stop_asked: whether the run shall end after the part that it is writing.

    Raises `DataError` for data that cannot be read, predicted or written, `InterruptedRun` if the
    run can be resumed, and what `load_model` raises.
    """
    started = time.monotonic()
    # Arrow's other allocators are no faster here, and keep 100 MB more.
    pa.set_memory_pool(pa.system_memory_pool())
    output, rejected = _destinations(job)
    model = load_model(settings, job.engine, PredictionHooks.load(settings))
    source = _open_source(settings, job, job.csv_format(model))
    job.check_csv_options(is_csv=source.is_text)
    keep_text = source.is_text and output is not None and output.is_csv
    spec = KernelSpec(
        model.path,
        model.model_id,
        model.version,
        job.engine,
        source.schema,
        source.is_text,
        keep_text,
    )
    try:
        if job.sets_aside:
            check_reasons(source.schema)
        kernel = Kernel(
            model,
            source.schema,
            is_text=spec.is_text,
            keep_text=spec.keep_text,
            delimiter=source.delimiter,
        )
    except DataError as exc:
        raise DataError(f"{source.name}: {exc}") from None
    chunk_rows = _chunk_rows(source.schema, job)
    # ONNX Runtime lets other threads run, scikit-learn mostly does not.
    releases = model.engine.inline
    count = job.workers or (cores() if releases else 1)
    workers = Workers(kernel, spec, count, in_processes=not releases)
    with contextlib.closing(model), workers:
        destination: Output
        if job.resume:
            parts = _open_parts(settings, job, output, kernel.schema)
            fixed = _fixed(job, source, model, kernel, chunk_rows, rejected)
            part_chunks = math.ceil(job.part_rows / chunk_rows)
            destination = PartedOutput(
                parts, rejected, rejected_schema(source.schema), fixed, part_chunks
            )
        else:
            sink = _open_sink(settings, job, output, kernel.schema)
            destination = WholeOutput(sink, rejected, rejected_schema(source.schema))
        counts = predict_stream(
            source,
            workers,
            destination,
            chunk_rows=chunk_rows,
            limit=job.limit,
            stop_asked=stop_asked,
        )
    return Summary(
        rows=counts.rows,
        rejected=counts.rejected,
        seconds=time.monotonic() - started,
        engine=model.engine.name,
        model=redact(model.uri),
        model_id=model.model_id,
        output=output.name if output else f"table {job.table}",
        rejected_output=rejected.name if counts.rejected and rejected else None,
        resumed_rows=destination.rows,
        peak_memory_mb=peak_memory_mb(),
    )


def _destinations(job: Job) -> tuple[Location | None, Location | None]:
    """The file of the answers, unless it is a table, and that of the rejected rows."""
    output = _destination(locate(job.output), job) if job.output else None
    if not job.sets_aside:
        return output, None
    if job.rejected:
        rejected = _destination(locate(job.rejected), job)
        if output and rejected.path == output.path:
            raise DataError(f"{rejected.name}: is the output; name another file for wrong rows")
        return output, rejected
    if output is None:
        raise ConfigError("wrong rows need a separate file; use --rejected-path FILE")
    path = PurePosixPath(output.path)
    return output, _destination(output.beside(f"{path.stem}.rejected{path.suffix}"), job)


def _destination(location: Location, job: Job) -> Location:
    """A file that may be written: no directory, and none of the input files."""
    check_format(location.name)
    output = location.resolved()
    if output.is_local and output.is_directory:
        raise DataError(f"{output.name}: is a directory; name a file")
    if job.data:
        data = locate(job.data).resolved()
        is_within = PurePosixPath(output.path).is_relative_to(data.path) and data.is_directory
        if output.path == data.path or is_within or fnmatch.fnmatch(output.path, data.path):
            raise DataError(
                f"{output.name}: is the input file, or one of them; "
                "name another file for the output"
            )
    return output


def _open_source(settings: Settings, job: Job, csv_format: CsvFormat) -> Source:
    if job.query is not None:
        return run_query(Query(job.query, "the query"), settings)
    return open_source(str(job.data), settings, job.parameters, csv_format)


# The modules for databases are imported only where they are needed: they take 20 MB.


def _open_sink(settings: Settings, job: Job, output: Location | None, schema: pa.Schema) -> Sink:
    if output is not None:
        return open_sink(output, schema)
    from serving.data.sql import SqlSink

    database = _database(settings, is_read_meanwhile=job.has_query)
    return SqlSink(database, str(job.table), schema)


def _open_parts(settings: Settings, job: Job, output: Location | None, schema: pa.Schema) -> Parts:
    if output is not None:
        return FileParts(output, schema)
    from serving.data.sql import SqlParts

    about = json.dumps([job.query or job.data, job.parameters, job.table])
    name = hashlib.sha256(about.encode()).hexdigest()[:16]
    return SqlParts(_database(settings), str(job.table), schema, name)


def _database(settings: Settings, *, is_read_meanwhile: bool = False) -> "Database":
    from serving.data.database import Database

    return Database(settings.data_source.config, is_read_meanwhile=is_read_meanwhile)


def _chunk_rows(schema: pa.Schema, job: Job) -> int:
    """Rows of a chunk: fewer for wide tables, so that memory does not depend on the width."""
    rows = min(_MOST_CHUNK_ROWS, max(1_024, _CHUNK_VALUES // max(len(schema), 1)))
    return min(rows, job.part_rows) if job.resume else rows


def _fixed(
    job: Job,
    source: Source,
    model: ServedModel,
    kernel: Kernel,
    chunk_rows: int,
    rejected: Location | None,
) -> dict[str, Any]:
    """Everything that the content of the parts depends on, by the words for it in a message."""
    csv_format = job.csv_format(model)
    columns = [[one.name, one.type, one.required] for one in model.schemas.columns]
    return {
        "the input": source.fingerprint(),
        "the encoding of the input": csv_format.encoding,
        "the delimiter of the input": csv_format.delimiter,
        "the model": model.model_id,
        "the engine": model.engine.name,
        "the model's columns": columns,
        "the columns of the output": kernel.schema.to_string(),
        "the number of rows in a part": job.part_rows,
        "the number of rows in a block": chunk_rows,
        "what happens to wrong rows": "quarantine" if job.sets_aside else "stop",
        "the file of wrong rows": rejected.name if rejected else None,
        "the code in the package custom": extensions.fingerprint(),
    }
