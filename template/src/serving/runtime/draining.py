"""What happens between SIGTERM and the end of the process."""

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

LONGEST_END_SECONDS = 3


@contextlib.contextmanager
def drain_on_sigterm(begin: Callable[[], None], seconds: Callable[[], float]) -> Iterator[None]:
    """On SIGTERM begin to drain at once, and let the server stop a while later.

    So load balancers, which look at `/ready` every few seconds, stop sending requests before
    connections are refused.

    Args:
        begin: called once, in the event loop, when the signal has come.
        seconds: how long to wait before the server stops.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # no signal arrives here
        return
    loop = asyncio.get_running_loop()
    stop = signal.getsignal(signal.SIGTERM)
    stopping = False

    def drain(number: int, frame: FrameType | None) -> None:
        nonlocal stopping
        if stopping or not callable(stop):
            return
        stopping = True
        # Not here, in the middle of anything: locks of metrics and logs may be held.
        loop.call_soon_threadsafe(begin)
        loop.call_soon_threadsafe(loop.call_later, seconds(), stop, number, frame)

    signal.signal(signal.SIGTERM, drain)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, stop)
    if stopping:
        # Python would wait for ever for a model that does not return, and MLflow's threads
        # for a store that does not answer.
        end = threading.Timer(LONGEST_END_SECONDS, os._exit, [0])
        end.daemon = True
        end.start()
