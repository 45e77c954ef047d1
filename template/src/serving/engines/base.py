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

    def rows(self, which: slice) -> "Predictions":
        """The predictions of some of the rows."""
        probabilities = None if self.probabilities is None else self.probabilities[which]
        return replace(self, values=self.values[which], probabilities=probabilities)


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

        Raises one of `REFUSALS` where the model refuses a row's values.
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
