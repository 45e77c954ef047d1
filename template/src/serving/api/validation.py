"""Validate the content of a body; errors become a problem document."""

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from serving.api.problem import Location, invalid_request
from serving.model.slices import sliced

Schema = TypeVar("Schema", bound=BaseModel)
Locate = Callable[[Location], Location]
Collect = Callable[[list[BaseModel]], list[Any]]
"""Converts validated samples to the form that is kept."""


def validated(
    schema: type[Schema],
    content: Any,
    locate: Locate = lambda location: location,
    *,
    about_unknown: Callable[[str], str] | None = None,
    strict: bool | None = None,
) -> Schema:
    """Validate content against a schema.

    Args:
        schema: the schema.
        content: the content of a body.
        locate: maps the location of a validated value to its location in the body.
        about_unknown: the message for an unknown name.
        strict: as in Pydantic.

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
    """Validate samples in slices and return the results of `collect`, joined.

    Args:
        schema: a model with one field, a list of samples.
        samples: the samples, whose number has been checked.
        collect: called with each slice of validated samples.
        locate: maps (index, column) to the location of the value in the body.
        about_unknown: the message for an unknown name.
        strict: as in Pydantic.

    Raises `ProblemError` (422) for the first slice with an invalid sample.
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
