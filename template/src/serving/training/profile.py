"""What training saw in each column, and an example request made from it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from serving.contract.columns import Column
from serving.errors import RecipeError

MOST_VALUES = 20
"""Text with more distinct values than this is not a category. It may be personal, so the profile
does not list its values."""
FEWEST_ROWS = 5
"""A text in fewer rows than this may identify a person, so the profile does not list it."""

Profile = dict[str, dict[str, Any]]
"""For each column, as JSON values: `minimum` and `maximum`, or the `values` of a category; and
`typical`. A forecaster's timestamp has the first and the last time of its `forecast`."""


def profile(features: pd.DataFrame, columns: Sequence[Column]) -> Profile:
    """Summarize what was seen in each feature, for the API's documentation and its example."""
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
    """Make a request, as JSON values, that is not a row of the data.

    Args:
        own: values from the recipe.
        columns: entities and features. The value of a column is that of the recipe, or else the
            typical one, or else made up.
        seen: the profile of the features.

    Raises `RecipeError` naming the column and the rule if a value from the recipe breaks one.
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
