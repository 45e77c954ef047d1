"""What every engine does: predict a table. The other rooms see only this interface."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from serving.contract.columns import Column, Row, Signature, to_table
from serving.store.mlmodel import StoredModel

REFUSALS = (ValueError, ArithmeticError)
"""What a model raises for values that it cannot predict from."""


@dataclass(frozen=True)
class Predictions:
    """What a model answers for the rows of a table, in order."""

    values: np.ndarray
    """Shape (rows,), or (rows, outputs) for a model of several outputs."""
    probabilities: np.ndarray | None = None
    """Shape (rows, classes); None where the model gives none."""
    classes: tuple[Any, ...] = ()
    """The label of each column of `probabilities`."""
    names: tuple[str, ...] = ()
    """The name of each output, where the model itself gives them."""
    refused: np.ndarray | None = None
    """Shape (rows,), true where the model refuses a row: the other arrays say nothing there. None
    where it refuses none."""

    def rows(self, which: slice) -> "Predictions":
        """The predictions of some of the rows."""
        probabilities = None if self.probabilities is None else self.probabilities[which]
        refused = None if self.refused is None else self.refused[which]
        if refused is not None and not refused.any():
            refused = None
        return Predictions(self.values[which], probabilities, self.classes, self.names, refused)

    @property
    def first_refused(self) -> int | None:
        """The index of the first row that the model refuses; None where it refuses none."""
        if self.refused is None or not self.refused.any():
            return None
        return int(self.refused.argmax())

    @staticmethod
    def joined(parts: "Sequence[Predictions]") -> "Predictions":
        """The predictions of the rows of several parts, none of which has refused rows."""
        if len(parts) == 1:
            return parts[0]
        probabilities = [part.probabilities for part in parts if part.probabilities is not None]
        return replace(
            parts[0],
            values=np.concatenate([part.values for part in parts]),
            probabilities=np.concatenate(probabilities) if probabilities else None,
        )


class Engine(ABC):
    """A loaded model."""

    name: str
    independent_rows: bool = False
    """Whether a row gets the same answer whatever rows stand beside it, as far as can be known:
    only then may rows of several callers be predicted together."""
    inline: bool = False
    """Whether calls may run on the event loop: they end, whatever the values."""
    classes: tuple[Any, ...] = ()
    """The labels of a model that gives a probability for each; else empty."""

    def reader(self, columns: Sequence[Column]) -> Callable[[Sequence[Row]], Any]:
        """Make the function that turns rows of requests into what `predict` takes.

        It makes a `contract.columns.Table`; an engine may have a quicker way for requests.
        """
        return partial(to_table, columns=columns)

    @abstractmethod
    def predict(self, table: Any) -> Predictions:
        """Predict every row of a table.

        Args:
            table: what `reader` makes of requests; a `contract.columns.Table` of a file's rows.

        An engine that knows which rows the model refuses says so (`Predictions.refused`).

        Raises one of `REFUSALS` where it only knows that the model refuses one of them.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What runs here, for `GET /model`: at least `name` and `estimator`."""

    def signature(self, stored: StoredModel) -> Signature | None:
        """The model's columns: those that were logged, unless the engine knows better.

        Raises `ContractError` for inputs that are not named columns of scalars.
        """
        return stored.signature

    def metadata(self, stored: StoredModel) -> Mapping[str, Any]:
        """What training logged with the model; its keys are those of `contract.metadata`."""
        return stored.metadata


def single_output(values: np.ndarray) -> np.ndarray:
    """Values of shape (rows, 1) as (rows,); all others as they are."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
