"""The directory in which several workers share their metrics; it exists as long as they run.

Every process that uses it holds a lock, which the system releases however the process ends. The
last process to leave removes the directory, and each start removes abandoned ones.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable with the directory; prometheus-client reads it at import."""

_PREFIX = "serving-metrics-"


@contextlib.contextmanager
def temporary_directory() -> Iterator[Path]:
    """Create a directory and use it while the block runs."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        _remove_if_unused(left)
    # It gets its name once it is locked; before, another start would consider it abandoned.
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
    """Use the directory while the block runs, unless the operator has set it."""
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
    """Lock the directory, shared or alone; raise `OSError` if others prevent a lock alone."""
    import fcntl  # Windows has none

    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if alone else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)
