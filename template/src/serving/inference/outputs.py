"""Where the answers go: as a whole, or in parts that outlive an interruption."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from serving.data.base import Part, Parts, Sink
from serving.data.files import join_parts, open_sink, part_file, parts_directory
from serving.data.locations import Location, writing
from serving.errors import DataError


class Output(ABC):
    """Receives the answers of one chunk after the other, and the rejected rows."""

    done: int = 0
    """How many chunks an earlier run has already written."""
    rows: int = 0
    """How many rows these chunks had; `rejected` of them were rejected."""
    rejected: int = 0
    can_be_resumed: bool = False
    """Whether finished parts are kept after an error."""

    @abstractmethod
    def write(self, index: int, answers: pa.RecordBatch, rejected: pa.RecordBatch | None) -> None:
        """Add a chunk; raises as `Sink.write`."""

    @abstractmethod
    def finish(self) -> None:
        """Make everything visible; raises as `Sink.write`."""

    @abstractmethod
    def discard(self) -> None:
        """Leave the destination as it was; finished parts stay."""

    @property
    def is_between_parts(self) -> bool:
        """Whether the run could stop now without losing what it has written."""
        return False


class WholeOutput(Output):
    """Everything or nothing. The file of rejected rows is kept only if there are any.

    Args:
        sink: receives the answers; it is discarded if the other file cannot be written.
        rejected: the file of the rejected rows; None if there is none.
        schema: the columns of rejected rows.

    Raises `DataError` if the file of rejected rows cannot be written.
    """

    def __init__(self, sink: Sink, rejected: Location | None, schema: pa.Schema) -> None:
        self._sink = sink
        try:
            self._rejected = RejectedSink(rejected, schema) if rejected else None
        except BaseException:
            sink.discard()
            raise

    def write(self, index: int, answers: pa.RecordBatch, rejected: pa.RecordBatch | None) -> None:
        """See `Output.write`."""
        if answers.num_rows:
            self._sink.write(answers)
        if rejected is not None and self._rejected:
            self._rejected.write(rejected)

    def finish(self) -> None:
        """See `Output.finish`."""
        self._sink.complete()
        if self._rejected:
            self._rejected.complete()
            self._rejected.close()  # first: where there are answers, the other rows are there, too
        self._sink.close()

    def discard(self) -> None:
        """See `Output.discard`."""
        self._sink.discard()
        if self._rejected:
            self._rejected.discard()


class RejectedSink(Sink):
    """A file that is kept only if it has rows; else an older one is removed as well."""

    def __init__(self, location: Location, schema: pa.Schema) -> None:
        self.name = location.name
        self._location = location
        self._sink = open_sink(location, schema)
        self._is_empty = True

    def write(self, rows: pa.RecordBatch) -> None:
        """See `Sink.write`."""
        self._is_empty = False
        self._sink.write(rows)

    def complete(self) -> None:
        """See `Sink.complete`."""
        if not self._is_empty:
            self._sink.complete()

    def close(self) -> None:
        """See `Sink.close`."""
        if self._is_empty:
            self._sink.discard()
            self._location.delete()
        else:
            self._sink.close()

    def discard(self) -> None:
        """See `Sink.discard`."""
        self._sink.discard()


class PartedOutput(Output):
    """Writes parts of a fixed number of chunks, which outlive an interruption.

    Args:
        parts: receives the answers.
        rejected: the file of the rejected rows; None if there is none. Its parts are files.
        schema: the columns of rejected rows.
        job: everything that the content of the parts depends on.
        part_chunks: how many chunks a part has.

    Raises `DataError` if there are parts of another job; it says what is different.
    """

    can_be_resumed = True

    def __init__(
        self,
        parts: Parts,
        rejected: Location | None,
        schema: pa.Schema,
        job: Mapping[str, Any],
        part_chunks: int,
    ) -> None:
        self._parts = parts
        self._rejected = rejected
        self._schema = schema
        self._part_chunks = part_chunks
        self._done = parts.resume(job)
        if rejected:
            self._check_rejected(parts_directory(rejected), rejected)
        self.done = len(self._done) * part_chunks
        self.rows = sum(part.rows for part in self._done)
        self.rejected = sum(part.rejected for part in self._done)
        self._rejects: RejectedSink | None = None
        self._has_begun = False
        self._counts = [0, 0]

    def _check_rejected(self, directory: Location, rejected: Location) -> None:
        with writing(directory):
            directory.files.create_dir(directory.path)
        for index, part in enumerate(self._done):
            file = part_file(directory, rejected, index)
            if part.rejected and not file.exists:
                raise DataError(
                    f"{file.name}: this part is missing; delete the parts of the output as well "
                    "to begin again"
                )

    @property
    def is_between_parts(self) -> bool:
        """See `Output.is_between_parts`."""
        return not self._has_begun

    def write(self, index: int, answers: pa.RecordBatch, rejected: pa.RecordBatch | None) -> None:
        """See `Output.write`."""
        if not self._has_begun:
            self._begin()
        self._parts.write(answers)
        self._counts[0] += answers.num_rows
        if rejected is not None and self._rejects:
            self._rejects.write(rejected)
            self._counts[0] += rejected.num_rows
            self._counts[1] += rejected.num_rows
        if (index + 1) % self._part_chunks == 0:
            self._end()

    def _begin(self) -> None:
        index = len(self._done)
        self._parts.begin(index)
        self._has_begun = True
        if self._rejected:
            directory = parts_directory(self._rejected)
            self._rejects = RejectedSink(part_file(directory, self._rejected, index), self._schema)

    def _end(self) -> None:
        if self._rejects:  # before the part counts as finished
            self._rejects.close()
            self._rejects = None
        part = Part(*self._counts)
        self._parts.end(part)
        self._done.append(part)
        self._has_begun, self._counts = False, [0, 0]

    def finish(self) -> None:
        """See `Output.finish`."""
        if self._has_begun:
            self._end()
        if self._rejected is None:
            self._parts.finish()
            return
        directory = parts_directory(self._rejected)
        indexes = [index for index, part in enumerate(self._done) if part.rejected]
        if indexes:
            join_parts(directory, self._rejected, indexes, self._schema)
        else:
            self._rejected.delete()
        self._parts.finish()
        directory.delete()  # only now: if this run is killed before, the next one joins them again

    def discard(self) -> None:
        """See `Output.discard`."""
        self._parts.discard()
        if self._rejects:
            self._rejects.discard()
