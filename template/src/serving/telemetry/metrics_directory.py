"""The directory in which several workers add their metrics up; it lasts as long as they do.

Every process that uses it holds a lock, which the system releases however the process ends. The
last one to leave removes the directory, and a start removes those that nobody was left to remove.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Names the directory; prometheus-client reads it when it is imported."""

_PREFIX = "serving-metrics-"


@contextlib.contextmanager
def temporary_directory() -> Iterator[Path]:
    """Make a directory and use it as long as the block runs."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        _remove_if_unused(left)
    # It gets its name when it is locked: until then another start would take it for a leftover.
    new = Path(tempfile.mkdtemp(prefix=f"new-{_PREFIX}"))
    directory = new.with_name(new.name.removeprefix("new-"))
    try:
        with _lock(new):
            new.rename(directory)
            yield directory
    finally:
        _remove_if_unused(directory)


@contextlib.contextmanager
def in_use() -> Iterator[None]:
    """Use the directory as long as the block runs, unless it is one that the operator has named."""
    directory = Path(os.environ.get(VARIABLE, ""))
    if not directory.name.startswith(_PREFIX):
        yield
        return
    try:
        with _lock(directory):
            yield
    finally:
        _remove_if_unused(directory)


def _remove_if_unused(directory: Path) -> None:
    with contextlib.suppress(OSError), _lock(directory, alone=True):  # in use, or not ours
        shutil.rmtree(directory)


@contextlib.contextmanager
def _lock(directory: Path, *, alone: bool = False) -> Iterator[None]:
    """Lock the directory, with others or alone; raises `OSError` when others prevent the latter."""
    import fcntl  # Windows has none

    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)
