"""Many rows in slices.

What Pydantic does in one call, it does with the interpreter in its hands: small requests would
wait for the whole of it. Slices also keep most of what a large request becomes from being in memory
at the same time.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

SLICE_ROWS = 256

Item = TypeVar("Item")


def sliced(items: Iterable[Item]) -> Iterator[list[Item]]:
    """The items in lists of at most `SLICE_ROWS`."""
    rest = iter(items)
    while part := list(islice(rest, SLICE_ROWS)):
        yield part
