"""The table of the columns of training data, as aligned text."""

import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from serving.training.inspection import Inspection, Summary

MOST_SHOWN = 40
"""Columns in the table; the others are only counted."""
_LONGEST_CELL = 32


def table_of(found: "Inspection") -> Iterator[str]:
    """The lines of a table with one row for each of the first columns."""
    head = ("column", "role", "type", "missing", "distinct", "example")
    rows = [head, *(_cells(one) for one in found.columns[:MOST_SHOWN])]
    widths = [max(_width(row[place]) for row in rows) for place in range(len(head))]
    for row in rows:
        cells = [
            _padded(cell, width, right=head[place] in ("missing", "distinct"))
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
    if (more := len(found.columns) - MOST_SHOWN) > 0:
        yield f"and {more:,} more columns"


def _cells(column: "Summary") -> tuple[str, ...]:
    share = f"{column.missing:.1%}" if column.missing > 0 else "0%"
    return (
        _shortened(column.name),
        column.role,
        column.type,
        share,
        f"{column.distinct:,}",
        _shortened(column.example),
    )


def _shortened(text: str) -> str:
    text = "".join(char if char.isprintable() else " " for char in text)
    if _width(text) <= _LONGEST_CELL:
        return text
    while _width(text) > _LONGEST_CELL - 1:
        text = text[:-1]
    return f"{text}…"


def _width(text: str) -> int:
    """Columns of a terminal; Chinese, Japanese and Korean characters take two."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)


def _padded(text: str, width: int, *, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
