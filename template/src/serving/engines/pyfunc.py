"""Any model that MLflow loads as a Python function."""

from typing import Any

import numpy as np

from serving.contract.columns import Table
from serving.engines.base import Engine, Predictions, single_output
from serving.store.mlmodel import StoredModel

_INTEGERS = ("integer", "long")
_BY_ROW = ("mlflow.catboost", "mlflow.lightgbm", "mlflow.xgboost")


class PyfuncEngine(Engine):
    """Any other model that MLflow loads as a Python function; MLflow enforces its signature."""

    name = "pyfunc"
    exact_integers = True

    def __init__(self, model: StoredModel) -> None:
        import mlflow.pyfunc

        self._model = mlflow.pyfunc.load_model(str(model.path))
        loader = self._model.metadata.flavors["python_function"]["loader_module"]
        self.independent_rows = loader in _BY_ROW
        schema = self._model.metadata.get_input_schema()
        optional = [column for column in schema or () if not column.required]
        self._integers = {c.name: c.type.to_numpy() for c in optional if c.type.name in _INTEGERS}
        self._booleans = [c.name for c in optional if c.type.name == "boolean"]

    def predict(self, table: Table) -> Predictions:
        import pandas as pd

        frame = pd.DataFrame(table)
        for name in self._booleans:
            known = [None if value != value else bool(value) for value in frame[name]]
            frame[name] = pd.Series(known, dtype=object)
        if not self._integers:
            return self._call(frame)

        # MLflow allows an integer column to be absent, but not to lack values in some rows only.
        # So rows that lack the same columns are predicted together.
        names = np.array(list(self._integers), dtype=object)
        patterns, group = np.unique(frame[names].isna(), axis=0, return_inverse=True)
        rows, parts = [], []
        for index, missing in enumerate(patterns):
            rows.append(np.flatnonzero(group == index))
            part = frame.iloc[rows[-1]].drop(columns=names[missing]).reset_index(drop=True)
            parts.append(self._call(part.astype({n: self._integers[n] for n in names[~missing]})))
        order = np.argsort(np.concatenate(rows))
        values = np.concatenate([part.values for part in parts])
        return Predictions(values[order], names=parts[0].names)

    def _call(self, frame: Any) -> Predictions:
        import pandas as pd
        from mlflow.exceptions import MlflowException

        try:
            answer = self._model.predict(frame)
        except MlflowException as exc:
            # The columns are right, so a value is wrong: a year that nanoseconds cannot hold.
            raise ValueError("MLflow refuses the values") from exc
        names: tuple[str, ...] = ()
        if isinstance(answer, pd.DataFrame):
            names = tuple(map(str, answer.columns))
            answer = answer.to_numpy(dtype=object)  # each value keeps the type of its column
        values = np.asarray(answer)
        if values.ndim == 0 or len(values) != len(frame):
            raise TypeError("the model did not answer every row")
        return Predictions(single_output(values), names=names)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "loader": self._model.metadata.flavors["python_function"]}
