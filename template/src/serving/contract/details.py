"""What an answer says besides the prediction and its probability: distances and outcomes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_DESCRIPTIONS = {
    "distances": "Cluster -> distance to its centre, in units of the preprocessed features",
    "effect_lower": "Lower bound of the effect's 95 % confidence interval",
    "effect_upper": "Upper bound of the effect's 95 % confidence interval",
    "prediction_lower": "Lower bound of the 95 % prediction interval",
    "prediction_upper": "Upper bound of the 95 % prediction interval",
    "outcome_with_treatment": "The outcome that is predicted with the treatment",
    "outcome_without_treatment": "The outcome that is predicted without the treatment",
}
_COLUMN_PREFIXES = {"distances": "distance"}


@dataclass(frozen=True)
class Detail:
    """A field of an answer: a number, or an object with a number for each label."""

    name: str
    labels: tuple[Any, ...] | None = None
    """The labels of an object; None for a single number."""

    @property
    def description(self) -> str:
        """What the field is, for callers of the API."""
        return _DESCRIPTIONS[self.name]

    @property
    def columns(self) -> dict[str, str | None]:
        """Column of batch inference -> key of the object; None for a single number."""
        if self.labels is None:
            return {self.name: None}
        return {f"{_COLUMN_PREFIXES[self.name]}_{label}": str(label) for label in self.labels}


def details_of(outputs: Sequence[str], labels: Sequence[Any] = ()) -> tuple[Detail, ...]:
    """The details among the named outputs of a model, whose labels are `labels`."""
    return tuple(
        Detail(name, tuple(labels) if name in _COLUMN_PREFIXES else None)
        for name in _DESCRIPTIONS
        if name in outputs
    )
