"""Values of a source in the types of the contract; text in the forms that the recipe allows.

The recipe travels with the model, so a CSV file is read like the one that it was trained on.
"""

from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from serving.contract.arrow import Converted, convert
from serving.contract.columns import NOT_IN_NUMBERS, WRITTEN_NUMBER, Column
from serving.contract.recipe import Loader, Recipe

_WRITTEN_NUMBER = f"^(?:{WRITTEN_NUMBER})$"
_TIMESTAMP = pa.timestamp("us")


class ValueReader:
    """Converts columns to the types of the contract.

    In the text of a CSV file, a column with a `date_format` may have dates in this format, and one
    that the recipe declares as a number may have numbers such as `23,164` and `22.3%`.

    Args:
        recipe: says how CSV files are read.
        is_text: whether the values are the text of a CSV file.
    """

    def __init__(self, recipe: Recipe | None, *, is_text: bool) -> None:
        loader = recipe.data.loader if recipe and is_text else Loader()
        self.is_text = is_text
        self._formats = loader.date_format
        self._numbers = {
            name for name, type_ in loader.types.items() if type_ in ("long", "double")
        }

    def convert(self, values: pa.Array, column: Column) -> Converted:
        """Convert a column; see `contract.arrow.convert`."""
        if form := self._format_of(column):
            return self._dates(values, column, form)
        if column.name in self._numbers:
            is_written = pc.match_substring_regex(values, _WRITTEN_NUMBER)
            plain = pc.replace_substring_regex(values, NOT_IN_NUMBERS, "")
            values = pc.if_else(is_written, plain, values)
        return convert(values, column, from_text=self.is_text)

    def rule(self, column: Column) -> str:
        """What a value must be, in words."""
        form = self._format_of(column)
        if form is None:
            return column.spec.rule
        if _is_like_iso(form):
            return f"a date-time in the format {form}"
        return f"a date-time in the format {form}, or {column.spec.rule}"

    def _format_of(self, column: Column) -> str | None:
        return self._formats.get(column.name) if column.type == "datetime" else None

    def _dates(self, values: pa.Array, column: Column, form: str) -> Converted:
        encoded = values.dictionary_encode()
        different = [_parsed(text, form) for text in encoded.dictionary.to_pylist()]
        found = pa.array(different, _TIMESTAMP).take(encoded.indices)
        others = convert(values, column, from_text=True)
        if others.missing is not None:
            found = pc.if_else(pa.array(others.missing), None, found)
        if not _is_like_iso(form):
            found = pc.coalesce(found, others.values)
        wrong = np.asarray(pc.is_null(found).to_numpy(zero_copy_only=False))
        if others.missing is not None:
            wrong = wrong & ~others.missing
        return Converted(found, others.missing, wrong if wrong.any() else None)


def _parsed(text: str | None, form: str) -> datetime | None:
    """A date-time; None if the text is not in the format."""
    try:
        return datetime.strptime(text or "", form)
    except ValueError:
        return None


def _is_like_iso(form: str) -> bool:
    """Whether an ISO date could be meant in this format, with day and month the other way round."""
    return form.startswith("%Y-")
