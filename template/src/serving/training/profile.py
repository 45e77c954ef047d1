"""What training saw in each column, and the example of a request that is made of it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from serving.contract.columns import Column
from serving.errors import RecipeError

MOST_VALUES = 20
"""Text with more different values than this is no category, and may be personal: not told."""
FEWEST_ROWS = 5
"""A text that fewer rows have may be about one person: not told."""

Profile = dict[str, dict[str, Any]]
"""By column, as JSON has it: `minimum` and `maximum`, or the `values` of a category; `typical`."""


def profile(features: pd.DataFrame, columns: Sequence[Column]) -> Profile:
    """Tell what was seen in each feature, for the API's documentation and its example."""
    return {column.name: _seen(features[column.name].dropna(), column) for column in columns}


def _seen(values: "pd.Series[Any]", column: Column) -> dict[str, Any]:
    if column.type == "string":
        counts = values.value_counts()
        told = counts[counts >= FEWEST_ROWS]
        if told.empty or len(counts) > MOST_VALUES:
            return {}
        return {"values": sorted(told.index.tolist()), "typical": values.mode().iloc[0]}
    if column.type == "boolean":
        return {"typical": bool(values.mode().iloc[0])}
    ordered = np.sort(values.to_numpy())
    middle = ordered[len(ordered) // 2].item()
    if column.type == "datetime":
        return {"typical": f"{middle.date().isoformat()}T00:00:00Z"}
    return {"minimum": ordered[0].item(), "maximum": ordered[-1].item(), "typical": middle}


def make_example(
    own: Mapping[str, Any], columns: Sequence[Column], seen: Profile
) -> dict[str, Any]:
    """Make a request, as JSON has it, that is no row of the data.

    Args:
        own: values that the recipe gives.
        columns: entities and features. Where there is neither a value of the recipe's nor a
            typical one, it is made up.
        seen: the profile of the features.

    Raises `RecipeError` naming the column and the rule that a value of the recipe's breaks.
    """
    names = [column.name for column in columns]
    for name in own:
        if name not in names:
            raise RecipeError(
                f"data.example.{name}: is not a column of a request; "
                f"the columns are {', '.join(names)}"
            )
    return {
        column.name: _own_value(own[column.name], column)
        if column.name in own
        else seen.get(column.name, {}).get("typical", column.spec.made_up)
        for column in columns
    }


def _own_value(value: Any, column: Column) -> Any:
    if value is None and not column.required:
        return None
    adapter = TypeAdapter(column.spec.annotation)
    try:
        return adapter.dump_python(adapter.validate_python(value, strict=True), mode="json")
    except ValidationError:
        raise RecipeError(f"data.example.{column.name}: must be {column.spec.rule}") from None
