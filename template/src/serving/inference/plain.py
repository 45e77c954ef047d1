"""Rows that go straight to the model, as columns."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from serving.engines.base import REFUSALS, Predictions
from serving.engines.bisection import bisect
from serving.errors import ServingError
from serving.inference.answers import AnswerColumns, joined
from serving.model.served import ServedModel
from serving.redaction import first_line

REFUSED = "the model cannot predict from these values"


class PlainAnswers:
    """Predicts columns with the model alone."""

    fields: list[pa.Field]
    """Name and type of each column of the answers."""

    def __init__(self, model: ServedModel) -> None:
        self._model = model
        self._inputs = [column.name for column in model.schemas.inputs]
        self._read = model.engine.column_reader(model.schemas.inputs)
        self._columns = AnswerColumns(model)
        self.fields = self._columns.fields

    def predict(
        self, rows: pa.RecordBatch, found: dict[str, pa.Array]
    ) -> tuple[list[pa.Array], dict[int, str]]:
        """Predict rows.

        Args:
            rows: the rows as they are in the source.
            found: the columns that the model knows, in the types of its contract.

        Returns the columns of the answers to the rows that are not refused, and the rule for each
        refused row, by its position.

        Raises `ServingError` if the model fails for another reason than the values of a row.
        """
        parts: list[list[pa.Array]] = []
        refused: dict[int, str] = {}
        for start, outcome in self._attempts(found, rows.num_rows):
            if isinstance(outcome, str):
                refused[start] = outcome
                continue
            if (known := outcome.refused) is not None:
                refused |= dict.fromkeys((start + np.flatnonzero(known)).tolist(), REFUSED)
                if known.all():
                    continue
                outcome = outcome.rows(~known)
            parts.append(self._columns.arrays(outcome))
        return joined(parts, self.fields), refused

    def _attempts(
        self, found: dict[str, pa.Array], count: int
    ) -> list[tuple[int, Predictions | str]]:
        """Predict rows; each result has the position of its first row.

        The result of a row that the model refuses on its own is the reason.
        """

        def call(positions: Sequence[int]) -> Predictions:
            part = (positions[0], len(positions))
            table = self._read({name: found[name].slice(*part) for name in self._inputs})
            predictions = self._model.predict(table)
            if len(predictions.values) != len(positions):
                raise ServingError("the model did not answer every row")
            return predictions

        attempts: list[tuple[int, Predictions | str]] = []
        try:
            for part, outcome in bisect(call, range(count), REFUSALS) if count else ():
                if isinstance(outcome, BaseException):
                    if self._model.fails_anyway():
                        raise outcome
                    attempts.append((part.start, f"{REFUSED}: {first_line(outcome)}"))
                else:
                    attempts.append((part.start, outcome))
        except ServingError:
            raise
        except Exception as exc:
            raise ServingError(f"the model failed: {first_line(exc)}") from exc
        return attempts
