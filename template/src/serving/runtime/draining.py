"""What happens between SIGTERM and the end of the process."""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from serving.runtime.listener import stop_listening

logger = logging.getLogger("serving")

ALL_STOP = getattr(signal, "SIGUSR1", None)  # Windows has none
"""Tells a worker, before SIGTERM, that all workers stop and none will listen any longer."""

LONGEST_END_SECONDS = 3


@contextlib.contextmanager
def drain_on_sigterm(
    begin: Callable[[], None], seconds: Callable[[], float], *, is_alone: bool
) -> Iterator[None]:
    """On SIGTERM, begin to drain at once and stop the server a little later.

    A worker does the same when its supervisor ends for any reason. Load balancers, which poll
    `/ready` every few seconds, then stop sending requests before connections are refused. Requests
    on connections made until then are answered.

    Args:
        begin: called once, in the event loop, when the signal arrives.
        seconds: how long to wait before the server stops; 0 if it was never ready.
        is_alone: whether no other process listens on the same socket.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # no signal arrives here
        return
    loop = asyncio.get_running_loop()
    stop = signal.getsignal(signal.SIGTERM)
    stopping: list[asyncio.Task[None]] = []
    nobody_listens = is_alone

    async def stop_later(number: int) -> None:
        try:
            begin()
            await asyncio.sleep(seconds())
            if nobody_listens:
                await stop_listening()
        finally:  # the server stops even if draining fails
            if callable(stop):
                stop(number, None)

    def drain(number: int, frame: FrameType | None) -> None:
        # Not in the signal handler, because locks of metrics and logs may be held here.
        loop.call_soon_threadsafe(drain_once, number)

    def drain_once(number: int) -> None:
        if not stopping:
            stopping.append(loop.create_task(stop_later(number)))

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal nobody_listens
        nobody_listens = True

    if ALL_STOP is not None:
        signal.signal(ALL_STOP, note)
    signal.signal(signal.SIGTERM, drain)
    _stop_with_supervisor()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, stop)
    if stopping:
        # Otherwise Python would wait forever for a model that does not return, or for MLflow's
        # threads when the store does not answer.
        end = threading.Timer(LONGEST_END_SECONDS, os._exit, [0])
        end.daemon = True
        end.start()


def _stop_with_supervisor() -> None:
    """In a worker, stop when the supervisor ends, because it can then no longer stop the worker."""
    supervisor = multiprocessing.parent_process()
    if supervisor is None:
        return

    def stop_after() -> None:
        supervisor.join()
        logger.warning("the supervisor of the workers has ended")
        for number in (ALL_STOP, signal.SIGTERM):  # the signals that it would have sent
            if number is not None:
                os.kill(os.getpid(), number)

    threading.Thread(target=stop_after, name="supervisor", daemon=True).start()
