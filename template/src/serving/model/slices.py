"""Many rows in slices.

Pydantic holds the interpreter lock during a call, so small requests would wait for a whole large
one. With slices, most of the objects made from a large request also are not in memory at once.
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
