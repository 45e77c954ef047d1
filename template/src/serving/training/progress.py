"""What training does at the moment: a line on a terminal, or else lines in the log."""

import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed
from rich.progress_bar import ProgressBar

logger = logging.getLogger(__name__)

_shown: Progress | None = None
"""The line on the terminal. There is one terminal, so there is at most one line."""


class _Bar(ProgressColumn):
    """A bar for a step that is counted, and nothing for any other."""

    def render(self, task: Task) -> RenderableType:
        total = task.fields["of"]
        return ProgressBar(total, task.fields["done"], width=30) if total else ""


@contextmanager
def shown() -> Iterator[None]:
    """Within this context, show the steps on stderr if it is a terminal; else, log them."""
    global _shown
    terminal = sys.stderr
    if not terminal.isatty():
        yield
        return
    line = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        _Bar(),
        Elapsed(),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=False,  # it may be a file
    )
    line.add_task("starting", total=None, done=0, of=None)
    handlers = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is terminal
    ]
    try:
        line.start()
        for handler in handlers:
            handler.setStream(sys.stderr)  # rich's, which writes above the line
        _shown = line
        yield
    finally:
        _shown = None
        for handler in handlers:
            handler.setStream(terminal)
        line.stop()


@contextmanager
def paused() -> Iterator[None]:
    """Within this context, take the line away, so that something else can be printed."""
    if _shown is not None:
        _shown.stop()
    try:
        yield
    finally:
        if _shown is not None:
            _shown.start()


def step(text: str, done: int = 0, total: int | None = None) -> None:
    """Say what is done now.

    Args:
        text: for example `fitting LogisticRegression`.
        done: how many of `total` are done, if the step is counted.
        total: how many there are.
    """
    if _shown is None:
        logger.info(text)
    else:
        _shown.update(_shown.task_ids[0], description=text, done=done, of=total)


def opened(path: Path) -> io.BufferedReader:
    """Open a file to read it as bytes; a bar shows how much of it has been read.

    Raises `OSError` as `open` does.
    """
    return io.BufferedReader(_WatchedFile(path), _BUFFER_BYTES)


_BUFFER_BYTES = 1 << 18


class _WatchedFile(io.FileIO):
    def readinto(self, buffer: Any) -> int | None:
        count = super().readinto(buffer)
        if _shown is not None:
            size = os.fstat(self.fileno()).st_size
            _shown.update(_shown.task_ids[0], done=self.tell(), of=size)
        return count
