"""The interface of every engine: predict a table. Other packages use only this interface."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.contract.columns import Column, Row, Signature, to_table
from serving.contract.details import Detail
from serving.store.mlmodel import StoredModel

if TYPE_CHECKING:
    import pyarrow as pa

REFUSALS = (ValueError, ArithmeticError)
"""What a model raises for values that it cannot predict from."""


@dataclass(frozen=True)
class Predictions:
    """What a model answers for the rows of a table, in order."""

    values: np.ndarray
    """Shape (rows,), or (rows, outputs) for a model with several outputs."""
    probabilities: np.ndarray | None = None
    """Shape (rows, classes); None if the model gives no probabilities."""
    classes: tuple[Any, ...] = ()
    """The label of each column of `probabilities`."""
    names: tuple[str, ...] = ()
    """The name of each output, if the model itself names them."""
    refused: np.ndarray | None = None
    """Shape (rows,), true for rows that the model refuses; the other arrays have no meaning there.
    None if the model refuses no row."""
    positions: np.ndarray | None = None
    """Shape (rows,), the position of each value in `classes`; None if the engine does not know."""
    details: Mapping[str, np.ndarray] = field(default_factory=dict)
    """For each of `Engine.details` by name: shape (rows,), or (rows, labels)."""

    def rows(self, which: slice | np.ndarray) -> "Predictions":
        """The predictions of some of the rows: a slice, or a mask of shape (rows,)."""
        probabilities = None if self.probabilities is None else self.probabilities[which]
        refused = None if self.refused is None else self.refused[which]
        if refused is not None and not refused.any():
            refused = None
        positions = None if self.positions is None else self.positions[which]
        return replace(
            self,
            values=self.values[which],
            probabilities=probabilities,
            refused=refused,
            positions=positions,
            details={name: values[which] for name, values in self.details.items()},
        )

    @property
    def guessed(self) -> np.ndarray | None:
        """Shape (rows,), true where a probability or a detail is not finite; None if nowhere."""
        given = [one for one in (self.probabilities, *self.details.values()) if one is not None]
        finite = [np.isfinite(one) for one in given]
        if all(one.all() for one in finite):
            return None
        known = np.ones(len(self.values), dtype=bool)
        for one in finite:
            known &= one.all(axis=tuple(range(1, one.ndim)))
        return ~known

    @property
    def first_refused(self) -> int | None:
        """The index of the first row that the model refuses; None if it refuses no row."""
        if self.refused is None or not self.refused.any():
            return None
        return int(self.refused.argmax())

    @staticmethod
    def joined(parts: "Sequence[Predictions]") -> "Predictions":
        """Join the predictions of several parts; no part may have refused rows."""
        if len(parts) == 1:
            return parts[0]
        probabilities = [part.probabilities for part in parts if part.probabilities is not None]
        return replace(
            parts[0],
            values=np.concatenate([part.values for part in parts]),
            probabilities=np.concatenate(probabilities) if probabilities else None,
            positions=None,
            details={
                name: np.concatenate([part.details[name] for part in parts])
                for name in parts[0].details
            },
        )


class Engine(ABC):
    """A loaded model."""

    name: str
    independent_rows: bool = False
    """Whether the answer to a row is known not to depend on the other rows of the table. Only then
    may rows of several callers be predicted together."""
    inline: bool = False
    """Whether calls may run on the event loop: they end for all values."""
    classes: tuple[Any, ...] = ()
    """The labels of a model that gives a probability for each; empty for other models."""
    details: tuple[Detail, ...] = ()
    """What the model answers besides."""
    exact_integers: bool = False
    """Whether a column of integers with missing values is made of objects; else it is of floats."""

    def reader(self, columns: Sequence[Column]) -> Callable[[Sequence[Row]], Any]:
        """Make the function that turns rows of requests into what `predict` takes.

        It makes a `contract.columns.Table`; an engine may override it with something quicker.
        """
        return partial(to_table, columns=columns, exact_integers=self.exact_integers)

    def column_reader(self, columns: Sequence[Column]) -> "Callable[[Mapping[str, pa.Array]], Any]":
        """Make the function that turns Arrow columns into what `predict` takes.

        It gets the columns as `contract.arrow.convert` makes them, by name. It makes a
        `contract.columns.Table`; an engine that overrides `reader` overrides it, too.
        """
        from serving.contract import arrow  # batch inference has pyarrow, the API does not

        return partial(arrow.to_table, columns=columns, exact_integers=self.exact_integers)

    @abstractmethod
    def predict(self, table: Any) -> Predictions:
        """Predict every row of a table.

        Args:
            table: what `reader` or `column_reader` makes.

        An engine that knows which rows the model refuses sets `Predictions.refused`.

        Raises one of `REFUSALS` if it only knows that the model refuses at least one row.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Describe the engine for `GET /model`: at least `name` and `estimator`."""

    def signature(self, stored: StoredModel) -> Signature | None:
        """The model's columns: the logged signature, unless the engine knows better.

        Raises `ContractError` for inputs that are not named columns of scalars.
        """
        return stored.signature

    def metadata(self, stored: StoredModel) -> Mapping[str, Any]:
        """What training logged with the model; its keys are those of `contract.metadata`."""
        return stored.metadata


def single_output(values: np.ndarray) -> np.ndarray:
    """Values of shape (rows, 1) as (rows,); all others as they are."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
