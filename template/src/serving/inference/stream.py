"""Predict all rows of a source, in order and in constant memory.

Reading, predicting and writing overlap: while the workers predict some chunks, this thread reads
the next one and another thread writes the last one.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from serving.data.base import Chunk, Source
from serving.errors import DataError, InterruptedRun, TemporaryFailure
from serving.inference.kernel import Outcome
from serving.inference.outputs import Output
from serving.inference.progress import Progress
from serving.inference.rejected import rejected_rows
from serving.inference.signals import never
from serving.inference.workers import Workers


@dataclass(frozen=True)
class Limit:
    """How many rows may be rejected: a number, or a share of all rows."""

    rows: int | None = None
    share: float | None = None

    def exceeded(self, rejected: int, rows: int) -> bool:
        """Whether too many of `rows` rows are rejected."""
        if self.rows is not None:
            return rejected > self.rows
        return self.share is not None and rejected > self.share * rows

    def __str__(self) -> str:
        return f"{self.rows:,}" if self.rows is not None else f"{self.share:.2%} of the rows"


STOP = Limit(rows=0)
"""The first wrong row ends the run."""


@dataclass
class Counts:
    """The rows so far; `rejected` of them were rejected."""

    rows: int = 0
    rejected: int = 0

    def check(self, limit: Limit, name: str) -> None:
        """Raise `DataError` if the source `name` has no rows, or too many wrong ones."""
        if not self.rows:
            raise DataError(f"{name}: has no rows")
        if limit.exceeded(self.rejected, self.rows):
            raise DataError(
                f"{name}: {self.rejected:,} of {self.rows:,} rows are wrong, "
                f"which is more than {limit}"
            )


def predict_stream(
    source: Source,
    workers: Workers,
    output: Output,
    *,
    chunk_rows: int,
    limit: Limit,
    stop_asked: Callable[[], bool] = never,
) -> Counts:
    """Predict the rows of a source that the output does not have yet.

    Args:
        source: the rows.
        workers: predict the chunks.
        output: receives the answers; it is finished, or discarded after an error.
        chunk_rows: rows of a chunk.
        limit: how many rows may be rejected.
        stop_asked: whether the run shall end after the part that it is writing.

    Raises:
        DataError: a row is wrong and none may be rejected, or too many are; or the source cannot
            be read, or the output cannot be written.
        InterruptedRun: the run was asked to stop, or there was a `TemporaryFailure`, and the parts
            that are finished are kept.
        WorkerLost: a worker process has ended.
    """
    counts = Counts(output.rows, output.rejected)
    try:
        with (
            Progress(source.total, counts.rows) as progress,
            ThreadPoolExecutor(1, "write") as writing,
        ):
            written: Future[None] | None = None
            for chunk, outcome in _predicted(source, workers, chunk_rows, output.done):
                if written:
                    written.result()
                if stop_asked() and output.is_between_parts:
                    raise InterruptedRun("stopped by a signal")
                rejected = len(outcome.rejects) + len(chunk.malformed)
                counts.rows += chunk.rows.num_rows + len(chunk.malformed)
                counts.rejected += rejected
                if rejected and limit.rows is not None and limit.exceeded(counts.rejected, 0):
                    raise DataError(_first_reject(source, chunk, outcome, limit))
                set_aside = rejected_rows(chunk, outcome.rejects) if rejected else None
                written = writing.submit(output.write, chunk.index, outcome.answers, set_aside)
                progress.advance(chunk.rows.num_rows + len(chunk.malformed), rejected)
            if written:
                written.result()
        counts.check(limit, source.name)
        output.finish()
    except TemporaryFailure as exc:
        output.discard()
        if output.can_be_resumed:
            raise InterruptedRun(str(exc)) from None
        raise
    except BaseException:
        output.discard()
        raise
    return counts


def _predicted(
    source: Source, workers: Workers, size: int, skip: int
) -> Iterator[tuple[Chunk, Outcome]]:
    """Each chunk with its outcome, in order; a few chunks are on their way at any time."""
    pending: deque[tuple[Chunk, Callable[[], Outcome]]] = deque()
    for chunk in source.chunks(size, skip):
        pending.append((chunk, workers.submit(chunk.rows)))
        if len(pending) > workers.count:
            first, outcome = pending.popleft()
            yield first, outcome()
    while pending:
        first, outcome = pending.popleft()
        yield first, outcome()


def _first_reject(source: Source, chunk: Chunk, outcome: Outcome, limit: Limit) -> str:
    wrong = [(int(chunk.numbers[one.index]), str(one)) for one in outcome.rejects]
    wrong += [(one.number, one.rule) for one in chunk.malformed]
    number, rule = min(wrong)
    more = "" if limit == STOP else f"; more than {limit} rows are wrong"
    return f"{source.name}: row {number:,}: {rule}{more}"
