"""The rows that are set aside, with the reasons."""

from collections.abc import Sequence

import pyarrow as pa

from serving.data.base import Chunk
from serving.errors import DataError
from serving.inference.kernel import Reject

_REASONS = pa.schema(
    [
        ("rejected_row", pa.int64()),
        ("rejected_column", pa.string()),
        ("rejected_rule", pa.string()),
        ("rejected_line", pa.string()),
    ]
)


def rejected_schema(source: pa.Schema) -> pa.Schema:
    """The reasons, then the columns of the source.

    `rejected_row` counts from 1. `rejected_line` is the text of a CSV row that does not have one
    field for each column.
    """
    return pa.schema([*_REASONS, *source])


def check_reasons(source: pa.Schema) -> None:
    """Raise `DataError` for a column with the name of a reason."""
    for name in _REASONS.names:
        if name in source.names:
            raise DataError(
                f"there already is a column '{name}'; rename or drop it, the rejected rows need "
                "the name"
            )


def rejected_rows(chunk: Chunk, rejects: Sequence[Reject]) -> pa.RecordBatch:
    """The rejected and the malformed rows of a chunk, in the order of the source."""
    rows = chunk.rows.take(pa.array([one.index for one in rejects], pa.int64()))
    reasons: list[tuple[int, str | None, str, str | None]] = [
        (int(chunk.numbers[one.index]), one.column, one.rule, None) for one in rejects
    ]
    reasons += [(one.number, None, one.rule, one.text) for one in chunk.malformed]
    order = sorted(range(len(reasons)), key=lambda index: reasons[index][0])
    columns = zip(*(reasons[index] for index in order), strict=True)
    arrays = [
        pa.array(values, type_) for values, type_ in zip(columns, _REASONS.types, strict=True)
    ]
    # A malformed row has no values: its position is beyond the others, which is null here.
    positions = pa.array([index if index < len(rejects) else None for index in order], pa.int64())
    arrays += [column.take(positions) for column in rows.columns]
    return pa.RecordBatch.from_arrays(arrays, names=[*_REASONS.names, *rows.schema.names])
