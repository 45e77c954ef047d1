"""What runs in the executors: one kernel for each Python process."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from serving.config.settings import EngineChoice, Settings
from serving.data.files import printable
from serving.errors import DataError
from serving.inference.kernel import Kernel
from serving.model.hooks import PredictionHooks
from serving.model.loading import load_model
from serving.model.served import ServedModel

MALFORMED = "_malformed"
"""The column of a CSV input with the text of rows without one field for each column."""

REJECTED = "_rejected"
"""The column of marked answers: null in accepted rows, else the reasons and the row itself."""

_REASONS = [
    pa.field("rejected_column", pa.string()),
    pa.field("rejected_rule", pa.string()),
    pa.field("rejected_line", pa.string()),
]


@dataclass(frozen=True)
class ExecutorSpec:
    """What an executor has to know. It is pickled, which a model cannot be."""

    id: str
    """Unique, because Spark's Python processes outlive a run."""
    settings: Settings
    """They name the model's directory on the driver."""
    archive: str | None
    """The name of that directory among an executor's files; None to read the driver's."""
    engine: EngineChoice
    model_id: str
    version: str | None
    data: str
    """The input, for messages."""
    columns: tuple[str, ...]
    """The names of the columns of the batches."""
    schema: pa.Schema
    """The same without `MALFORMED`, and with their types."""
    delimiter: str
    """The character between the fields of a row of CSV."""
    header: int | None
    """How many fields a row of CSV has; None for Parquet."""
    output_is_text: bool
    """Whether the output is CSV."""
    rejected_is_text: bool | None
    """Whether the rejected rows are written as CSV; None if the first one ends the run."""


class Predictor:
    """Predicts record batches of the input.

    Raises `DataError` as `Kernel` does.
    """

    schema: pa.Schema
    """The columns of the answers; the last one is `REJECTED` if rejected rows are written."""

    def __init__(self, spec: ExecutorSpec, model: ServedModel) -> None:
        self._spec = spec
        is_text = spec.header is not None
        self._kernel = Kernel(
            model,
            spec.schema,
            is_text=is_text,
            keep_text=is_text and spec.output_is_text,
            delimiter=spec.delimiter,
        )
        fields = _as_written(self._kernel.schema, spec.output_is_text)
        if spec.rejected_is_text is not None:
            row = [*_REASONS, *_as_written(spec.schema, spec.rejected_is_text)]
            fields.append(pa.field(REJECTED, pa.struct(row)))
        self.schema = pa.schema(fields)

    def predict(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        """Predict a batch; the answers come first, then the rejected rows.

        Raises `DataError` for a rejected row if none are written.
        """
        rows, lines = self._split(batch.rename_columns(list(self._spec.columns)))
        outcome = self._kernel.predict(rows)
        reasons: list[tuple[str | None, str, str | None]] = [
            (one.column, one.rule, None) for one in outcome.rejects
        ]
        reasons += [(None, self._wrong_length(line), line) for line in lines]
        if reasons and self._spec.rejected_is_text is None:
            first = str(outcome.rejects[0]) if outcome.rejects else f"{reasons[0][1]}: {lines[0]!r}"
            raise DataError(
                f"{self._spec.data}: {first} (Spark does not number rows; "
                "--on-bad-row quarantine sets wrong rows aside)"
            )
        if outcome.answers.num_rows:
            columns = list(outcome.answers.columns)
            if self._spec.rejected_is_text is not None:
                columns.append(pa.nulls(outcome.answers.num_rows, self.schema.types[-1]))
            yield self._batch(columns)
        if reasons:
            # The values of a malformed row are unknown: null.
            positions = pa.array(
                [one.index for one in outcome.rejects] + [None] * len(lines), pa.int64()
            )
            row = [pa.array(column, pa.string()) for column in zip(*reasons, strict=True)]
            row += [column.take(positions) for column in rows.columns]
            fields = self.schema.types[-1].fields
            cast = [_cast(one, field.type) for one, field in zip(row, fields, strict=True)]
            nothing = [pa.nulls(len(reasons), type_) for type_ in self.schema.types[:-1]]
            yield self._batch([*nothing, pa.StructArray.from_arrays(cast, fields=fields)])

    def _split(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, list[str]]:
        """The rows with one field for each column, and the text of the others."""
        if self._spec.header is None:
            return batch, []
        lines = batch.column(MALFORMED)
        rows = batch.drop_columns([MALFORMED])
        if lines.null_count == len(lines):
            return rows, []
        return rows.filter(pc.is_null(lines)), lines.drop_null().to_pylist()

    def _wrong_length(self, line: str) -> str:
        [fields] = csv.reader(io.StringIO(line, newline=""), delimiter=self._spec.delimiter)
        return f"has {len(fields)} fields, the header has {self._spec.header}"

    def _batch(self, columns: list[pa.Array]) -> pa.RecordBatch:
        cast = [_cast(one, type_) for one, type_ in zip(columns, self.schema.types, strict=True)]
        return pa.RecordBatch.from_arrays(cast, schema=self.schema)


def predict(batches: Iterator[pa.RecordBatch], spec: ExecutorSpec) -> Iterator[pa.RecordBatch]:
    """Predict the batches of a partition in an executor; see `Predictor`."""
    for batch in batches:
        yield from _predictor(spec).predict(batch)


_predictors: dict[str, Predictor] = {}
"""That of the last run in this process."""


def _predictor(spec: ExecutorSpec) -> Predictor:
    if spec.id not in _predictors:
        _predictors.clear()
        _predictors[spec.id] = Predictor(spec, _load(spec))
    return _predictors[spec.id]


def _load(spec: ExecutorSpec) -> ServedModel:
    settings = spec.settings
    if spec.archive:
        from pyspark import SparkFiles

        settings = with_model(settings, Path(SparkFiles.get(spec.archive)))
    model = load_model(settings, spec.engine, PredictionHooks.load(settings))
    # A directory does not say where it came from.
    model.model_id, model.version = spec.model_id, spec.version
    return model


def with_model(settings: Settings, directory: Path) -> Settings:
    """The settings with another model; they can be pickled."""
    serving = settings.serving.model_copy(
        update={"model_uri": str(directory), "model_run_id": None}
    )
    # The class may have been made at run time, with the user's section.
    return Settings.model_construct(**{**dict(settings), "serving": serving})


def _as_written(fields: pa.Schema, is_text: bool) -> list[pa.Field]:
    """CSV is text already here, so that it looks the same as without Spark."""
    return [pa.field(field.name, pa.string() if is_text else field.type) for field in fields]


def _cast(values: pa.Array, type_: pa.DataType) -> pa.Array:
    if values.type == type_:
        return values
    return (printable(values) if pa.types.is_string(type_) else values).cast(type_)
