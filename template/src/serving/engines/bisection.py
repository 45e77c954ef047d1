"""Find what makes a joint call fail."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def bisect(
    call: Callable[[Sequence[Item]], Result],
    items: Sequence[Item],
    failures: tuple[type[BaseException], ...],
) -> Iterator[tuple[slice, Result | BaseException]]:
    """Call with all items; if that fails, call with each half, down to single items.

    Args:
        call: called with some of the items.
        items: in order; must not be empty.
        failures: the exceptions that count as a failure; others are raised.

    Yields, in order, the slice of items that a call got, with its result, or with its exception if
    the call got a single item.
    """
    pending = [slice(0, len(items))]
    while pending:
        part = pending.pop()
        try:
            result = call(items[part])
        except failures as exc:
            if part.stop - part.start <= 1:
                yield part, exc
            else:
                middle = (part.start + part.stop) // 2
                pending += [slice(middle, part.stop), slice(part.start, middle)]
        else:
            yield part, result
