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
    """Call with all items; where that fails, with each half of them, down to single items.

    Args:
        call: what is called with some of the items; the items must not be empty.
        items: in order.
        failures: the exceptions that count as a failure; others are raised.

    Yields, in order, which items a call had, with its result, or with its exception where it had
    one item only.
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
