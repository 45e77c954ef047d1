"""Validate what a body holds; what is wrong becomes a problem document."""

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from serving.api.problem import Location, invalid_request
from serving.model.slices import sliced

Schema = TypeVar("Schema", bound=BaseModel)
Locate = Callable[[Location], Location]
Collect = Callable[[list[BaseModel]], list[Any]]
"""What is kept of validated samples."""


def validated(
    schema: type[Schema],
    content: Any,
    locate: Locate = lambda location: location,
    *,
    about_unknown: Callable[[str], str] | None = None,
    strict: bool | None = None,
) -> Schema:
    """Validate content by a schema.

    Args:
        schema: the schema.
        content: what a body holds.
        locate: where in the body a value is, when that is not where it was validated.
        about_unknown: what to say of an unknown name.
        strict: as Pydantic has it.

    Raises `ProblemError` (422).
    """
    try:
        return schema.model_validate(content, strict=strict)
    except ValidationError as exc:
        raise invalid_request(exc, locate, about_unknown) from None


def validated_samples(
    schema: type[BaseModel],
    samples: list[Any],
    collect: Collect,
    locate: Locate,
    *,
    about_unknown: Callable[[str], str] | None = None,
    strict: bool | None = None,
) -> list[Any]:
    """Validate samples in slices and return what `collect` makes of each.

    Args:
        schema: a model with one field, a list of samples.
        samples: as many as there may be.
        collect: called with each slice of validated samples.
        locate: where in the body a value is that is at (index, column).
        about_unknown: what to say of an unknown name.
        strict: as Pydantic has it.

    Raises `ProblemError` (422) for the first slice with a wrong sample.
    """
    [name] = schema.model_fields
    found: list[Any] = []
    for part in sliced(samples):
        first = len(found)

        def in_body(location: Location, first: int = first) -> Location:
            _, index, *rest = location
            return locate((first + int(index), *rest))

        valid = validated(schema, {name: part}, in_body, about_unknown=about_unknown, strict=strict)
        found += collect(getattr(valid, name))
    return found
