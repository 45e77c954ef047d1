"""How a table is predicted. The rest of the project sees only the `Engine` interface."""

import os
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from serving.columns import Column, Row, Table, to_table
from serving.errors import ModelLoadError
from serving.mlmodel import StoredModel


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


class Engine(Protocol):
    """A loaded model."""

    name: str
    independent_rows: bool
    """Whether a row is answered alike whatever rows stand beside it, as far as can be known: only
    then may rows of several callers be predicted together."""
    inline: bool
    """Whether calls may be made on the event loop: they end, whatever the values."""
    classes: tuple[Any, ...]
    """The labels of a model that gives a probability for each; else empty."""

    def reader(self, columns: Sequence[Column]) -> Callable[[Sequence[Row]], Any]:
        """Make the function that turns rows of these columns into what `predict` takes."""
        ...

    def predict(self, table: Any) -> Predictions:
        """Predict every row of a table."""
        ...

    def describe(self) -> dict[str, Any]:
        """What runs here, for `GET /model`."""
        ...


class SklearnEngine:
    """A model of MLflow's scikit-learn flavour, called directly."""

    name = "sklearn"
    inline = False

    def __init__(self, model: StoredModel) -> None:
        self._model = _unpickled(model) if is_plain_pickle(model) else _loaded_by_mlflow(model)
        self.independent_rows = _is_by_row(self._model)
        # In a pipeline the steps before the estimator cost most: they run once, for the labels
        # and the probabilities together.
        is_pipeline = hasattr(self._model, "steps") and len(self._model.steps) > 1
        self._transform = self._model[:-1].transform if is_pipeline else None
        self._estimator = self._model[-1] if is_pipeline else self._model
        self.classes: tuple[Any, ...] = ()
        if hasattr(self._estimator, "predict_proba"):
            labels = self._estimator.classes_
            # One array of labels for each output of a model of several: no one probability then.
            self.classes = tuple(labels.tolist()) if isinstance(labels, np.ndarray) else ()

    def reader(self, columns: Sequence[Column]) -> Callable[[Sequence[Row]], Table]:
        return partial(to_table, columns=columns)

    def predict(self, table: Table) -> Predictions:
        import pandas as pd

        rows: Any = pd.DataFrame(table)
        if self._transform is not None:
            rows = self._transform(rows)
        values = _one_output(np.asarray(self._estimator.predict(rows)))
        if values.ndim > 1 or not self.classes:
            return Predictions(values)
        return Predictions(values, self._estimator.predict_proba(rows), self.classes)

    def describe(self) -> dict[str, Any]:
        estimator = type(self._estimator)
        return {
            "name": self.name,
            "estimator": f"{estimator.__module__}.{estimator.__qualname__}",
        }


def _is_by_row(model: Any) -> bool:
    """Whether all parts of a model are of libraries that look at one row at a time.

    A function of somebody's (`FunctionTransformer`) may look at its neighbours; the only ones that
    are known are those with which this project's training makes numbers of booleans and dates.
    """
    parts = [model, *(part for part in model.get_params().values() if hasattr(part, "fit"))]
    for part in parts:
        if type(part).__module__.partition(".")[0] not in _LIBRARIES_BY_ROW:
            return False
        if type(part).__name__ == "FunctionTransformer" and not _is_by_value(part):
            return False
    return True


def _is_by_value(transformer: Any) -> bool:
    function = transformer.func
    if function is None or isinstance(function, np.ufunc):
        return True
    import pandas as pd

    if function == pd.DataFrame.astype:
        return bool(transformer.kw_args == {"dtype": "float64"})
    return function in (pd.DataFrame.sub, pd.DataFrame.truediv)


_INTEGERS = ("integer", "long")
_LIBRARIES_BY_ROW = {"catboost", "lightgbm", "sklearn", "xgboost"}
_BY_ROW = ("mlflow.catboost", "mlflow.lightgbm", "mlflow.xgboost")


class PyfuncEngine:
    """Any other model that MLflow loads as a Python function, which enforces its signature."""

    name = "pyfunc"
    inline = False
    classes: tuple[Any, ...] = ()

    def __init__(self, path: Path) -> None:
        import mlflow.pyfunc

        self._model = mlflow.pyfunc.load_model(str(path))
        loader = self._model.metadata.flavors["python_function"]["loader_module"]
        self.independent_rows = loader in _BY_ROW
        schema = self._model.metadata.get_input_schema()
        optional = [column for column in schema or () if not column.required]
        self._integers = {c.name: c.type.to_numpy() for c in optional if c.type.name in _INTEGERS}
        self._booleans = [c.name for c in optional if c.type.name == "boolean"]

    def reader(self, columns: Sequence[Column]) -> Callable[[Sequence[Row]], Table]:
        return partial(to_table, columns=columns, exact_integers=True)

    def predict(self, table: Table) -> Predictions:
        import pandas as pd

        frame = pd.DataFrame(table)
        for name in self._booleans:
            known = [None if value != value else bool(value) for value in frame[name]]
            frame[name] = pd.Series(known, dtype=object)
        if not self._integers:
            return self._call(frame)

        # MLflow has integer columns that are absent, but none with a missing value in some rows:
        # rows that lack the same ones are predicted together.
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
            # The columns are right, so it is about values: a year that nanoseconds cannot hold.
            raise ValueError("MLflow refuses the values") from exc
        names: tuple[str, ...] = ()
        if isinstance(answer, pd.DataFrame):
            names = tuple(map(str, answer.columns))
            answer = answer.to_numpy(dtype=object)  # each value as its column has it
        values = np.asarray(answer)
        if values.ndim == 0 or len(values) != len(frame):
            raise TypeError("the model did not answer every row")
        return Predictions(_one_output(values), names=names)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "loader": self._model.metadata.flavors["python_function"]}


def _one_output(values: np.ndarray) -> np.ndarray:
    """Shape (rows, 1) as (rows,)."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def is_plain_pickle(model: StoredModel) -> bool:
    """Whether unpickling is all that MLflow would do to load the model.

    Importing MLflow takes two seconds and 60 MB. It is asked for the other formats, for models
    that bring code, and where it has been told whether pickles may be loaded.
    """
    flavor = model.flavors.get("sklearn", {})
    return (
        flavor.get("serialization_format") in ("pickle", "cloudpickle")
        and not flavor.get("code")
        and "MLFLOW_ALLOW_PICKLE_DESERIALIZATION" not in os.environ
        and _is_called_by_predict(model)
    )


def load_engine(model: StoredModel) -> Engine:
    """Load a model with the engine that suits its flavours.

    Raises `ModelLoadError` when there is none.
    """
    if "sklearn" in model.flavors and _is_called_by_predict(model):
        return SklearnEngine(model)
    if "python_function" in model.flavors:
        return PyfuncEngine(model.path)
    raise ModelLoadError(
        f"the model has the flavours {', '.join(model.flavors) or 'none'}; "
        "sklearn or python_function is needed"
    )


def _is_called_by_predict(model: StoredModel) -> bool:
    """A model may be logged to answer with another method than `predict`; MLflow calls that."""
    method: str = model.flavors.get("python_function", {}).get("predict_fn", "predict")
    return method == "predict"


def _unpickled(model: StoredModel) -> Any:
    with (model.path / model.flavors["sklearn"]["pickled_model"]).open("rb") as file:
        return pickle.load(file)


def _loaded_by_mlflow(model: StoredModel) -> Any:
    import mlflow.sklearn

    return mlflow.sklearn.load_model(str(model.path))
