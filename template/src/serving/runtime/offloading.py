"""Processing of large bodies and responses outside the event loop."""

import asyncio
import contextlib
import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

Result = TypeVar("Result")


class Offloader:
    """Runs one function at a time in its own thread.

    Parsing and writing hold the interpreter. Several at a time would not end sooner, and the event
    loop, which answers small requests and probes, would have to wait for each of them.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="large")

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run the work after all earlier work is done; raises what it raises."""
        context = copy_context()  # the request's id, for logs
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, context.run, _without_collections, work)

    def close(self) -> None:
        """Start no more work."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def _without_collections(work: Callable[[], Result]) -> Result:
    with _no_collections():
        return work()


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """Disable garbage collection.

    Parsed objects are not garbage, and collections would traverse all of them repeatedly.
    """
    if not gc.isenabled():  # by the user
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
