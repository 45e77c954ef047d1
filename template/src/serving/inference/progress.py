"""How far a run is: a bar on a terminal, now and then a line in a log."""

import logging
import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar

logger = logging.getLogger(__name__)

LOG_SECONDS = 30.0


class Progress:
    """Shows rows, rows per second and the time left, on stderr.

    Args:
        total: how many rows there are; None if it is not known.
        done: how many of them an earlier run has predicted.
    """

    def __init__(self, total: int | None, done: int = 0) -> None:
        self._total = total
        self._done = self._first = done
        self._rejected = 0
        self._started = self._logged = time.monotonic()
        self._bar = _bar(total, done) if sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, rows: int, rejected: int) -> None:
        """Count rows that are written, of which some were rejected."""
        self._done += rows
        self._rejected += rejected
        if self._bar:
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=self._done, rejected=self._rejected)
        elif time.monotonic() - self._logged > LOG_SECONDS:
            self._logged = time.monotonic()
            self._log()

    def _log(self) -> None:
        speed = (self._done - self._first) / (time.monotonic() - self._started)
        text = f"{self._done:,} rows predicted, {speed:,.0f} rows/s"
        if self._total:
            left = (self._total - self._done) / speed
            text += f", {self._done / self._total:.0%}, {left:,.0f} s left"
        if self._rejected:
            text += f", {self._rejected:,} rejected"
        logger.info(text)


def _bar(total: int | None, done: int) -> Bar:
    bar = Bar(
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        MofNCompleteColumn(),
        TextColumn("rows, {task.fields[rejected]:,} rejected"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    bar.add_task("", total=total, completed=done, rejected=0)
    return bar
