"""Work on large bodies and answers, off the event loop."""

import asyncio
import contextlib
import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

Result = TypeVar("Result")


class Offloader:
    """Runs one piece of work at a time in a thread of its own.

    Parsing and writing hold the interpreter. Several at a time would end no sooner, and the event
    loop, which answers small requests and probes, would wait for each of them in turn.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="large")

    async def run(self, work: Callable[[], Result]) -> Result:
        """Do the work when all that came before is done; raises what it raises."""
        context = copy_context()  # the request's id, for logs
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, context.run, _without_collections, work)

    def close(self) -> None:
        """Begin no more work."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _without_collections(work: Callable[[], Result]) -> Result:
    with _no_collections():
        return work()


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """Let no garbage collection happen.

    What is parsed is not garbage, and a collection would walk all of it, again and again.
    """
    if not gc.isenabled():  # by the user
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
