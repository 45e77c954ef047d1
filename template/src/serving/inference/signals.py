"""Signals that ask a run to stop."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


def never() -> bool:
    """Nobody asks the run to stop."""
    return False


@contextmanager
def remembered_signals() -> Iterator[Callable[[], bool]]:
    """Remember SIGTERM and SIGINT instead of acting at once.

    Yields a function that says whether one has come. The next one acts at once.
    """
    asked = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(number, before[signal.Signals(number)])

    signals = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, remember) for number in signals}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
