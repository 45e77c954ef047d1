"""What a converted estimator answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answer:
    """The output tensors of an estimator."""

    label: str | None = None
    """Position in `classes`, int64, shape (rows,)."""
    probabilities: str | None = None
    """Shape (rows, classes)."""
    values: str | None = None
    """Shape (rows, outputs)."""
    outputs: int = 1
    classes: Sequence[Any] | None = None
    """The labels; None without `label`."""
    details: Mapping[str, str] = field(default_factory=dict)
    """Tensors by the names of `contract.details`, of shape (rows, labels), or (rows, 1)."""
