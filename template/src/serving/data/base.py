"""Where rows come from and where they go: the interfaces of files, databases and object stores."""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from serving.config.yaml_file import did_you_mean
from serving.errors import DataError


@dataclass(frozen=True)
class Malformed:
    """A row of a CSV file that does not have one field for each column."""

    number: int
    """Counted from 1, without the header."""
    rule: str
    text: str
    """The row as it is in the file."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a source."""

    index: int
    """Position among the chunks of the source, counted from 0."""
    numbers: np.ndarray
    """Shape (rows,): the number of each row, counted from 1 and with the malformed rows."""
    rows: pa.RecordBatch
    """Text may be dictionary-encoded, whatever the schema of the source says."""
    malformed: tuple[Malformed, ...] = ()


class Source(ABC):
    """Rows in a fixed order, read in constant memory."""

    name: str
    """For messages; without secrets."""
    schema: pa.Schema
    """The columns and their types; all are text in CSV."""
    is_text: bool = False
    """Whether values are text that has to be parsed (CSV)."""
    total: int | None = None
    """The number of rows, where it is known without reading them."""
    delimiter: str = ","
    """The character between the fields of a row, in CSV."""

    @abstractmethod
    def chunks(self, size: int, skip: int = 0) -> Iterator[Chunk]:
        """Read the rows in chunks.

        Args:
            size: rows of each chunk, malformed ones included; only the last one has fewer.
            skip: how many chunks to leave out; the first one read has this index.

        Raises `DataError` if the rows cannot be read.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Identify the content, so that an interrupted run goes on only with the same rows."""


class Sink(ABC):
    """Receives rows, and keeps all of them or none."""

    name: str
    """For messages; without secrets."""

    @abstractmethod
    def write(self, rows: pa.RecordBatch) -> None:
        """Add rows; their text may be dictionary-encoded.

        Raises `DataError` if they cannot be written.
        """

    def complete(self) -> None:  # noqa: B027  most sinks have nothing to do
        """Write whatever is left, so that `close` has hardly anything to do; raises as `write`."""

    @abstractmethod
    def close(self) -> None:
        """Make what was written visible; raises as `write` does."""

    @abstractmethod
    def discard(self) -> None:
        """Leave the destination as it was."""


@dataclass(frozen=True)
class Part:
    """A finished part of the rows."""

    rows: int
    """Rows of the source in it, rejected ones included."""
    rejected: int


class Parts(ABC):
    """Receives rows in parts, and keeps each finished part once, whenever the run ends."""

    name: str
    """For messages; without secrets."""

    @abstractmethod
    def resume(self, job: Mapping[str, Any]) -> list[Part]:
        """Find the parts that an earlier run has finished, in order.

        Args:
            job: everything that the content of the parts depends on, as JSON values. The keys are
                words for messages.

        Raises `DataError` if there are parts of another job; it says what is different.
        """

    @abstractmethod
    def begin(self, index: int) -> None:
        """Begin a part, counted from 0; raises as `Sink.write`."""

    @abstractmethod
    def write(self, rows: pa.RecordBatch) -> None:
        """Add rows to the part; raises as `Sink.write`."""

    @abstractmethod
    def end(self, part: Part) -> None:
        """Keep the part, whatever happens afterwards; raises as `Sink.write`."""

    @abstractmethod
    def finish(self) -> None:
        """Make the whole visible, and forget the parts; raises as `Sink.write`."""

    @abstractmethod
    def discard(self) -> None:
        """Drop the part that has begun."""


def difference(job: Mapping[str, Any], earlier: Mapping[str, Any]) -> str | None:
    """What is different between two jobs, as half a sentence; None if they are equal."""
    for key, value in job.items():
        before = earlier.get(key)
        if before != value:
            is_short = len(f"{before}{value}") < _SHORT
            return f"{key} has changed" + (f" from {before} to {value}" if is_short else "")
    return None


_SHORT = 60


def check_names(names: Sequence[str], where: str) -> None:
    """Raise `DataError` naming a column that appears twice."""
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(f"{where}: the column '{name}' appears twice")


_MOST_NAMES = 50

_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "the character |", ",": "commas"}


def require_columns(
    names: Sequence[str],
    required: Sequence[str],
    why: str,
    *,
    delimiter: str = ",",
    remedy: str,
) -> None:
    """Raise `DataError` naming the first missing column, and the columns that there are.

    Args:
        names: the columns that there are.
        required: the columns that are needed.
        why: who needs them.
        delimiter: the character that was taken for the one between the columns.
        remedy: what to do if the columns are separated by another one, which replaces `{}`.
    """
    known = set(names)
    others = [one for one in _SEPARATORS if one != delimiter]
    for name in required:
        if name in known:
            continue
        if len(names) == 1 and (found := next((s for s in others if s in names[0]), None)):
            also = "" if found == "," else ", or separate them by commas"
            raise DataError(
                f"the columns are separated by {_SEPARATORS[found]}; "
                f"{remedy.format(json.dumps(found))}{also}"
            )
        more = f" and {len(names) - _MOST_NAMES:,} more" if len(names) > _MOST_NAMES else ""
        raise DataError(
            f"has no column '{name}' ({why}); it has {', '.join(names[:_MOST_NAMES])}{more}"
            f"{did_you_mean(name, names)}"
        )
