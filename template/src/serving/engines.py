"""How a table is predicted. The rest of the project sees only the `Engine` interface."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from serving.columns import Table
from serving.errors import ModelLoadError


@dataclass(frozen=True)
class Predictions:
    """What a model answers for the rows of a table, in order."""

    values: np.ndarray
    """Shape (rows,), or (rows, outputs) for a model of several outputs."""
    probabilities: np.ndarray | None = None
    """Shape (rows, classes); None where the model gives none."""
    classes: tuple[Any, ...] = ()
    """The label of each column of `probabilities`."""


class Engine(Protocol):
    """A loaded model."""

    name: str

    def predict(self, table: Table) -> Predictions:
        """Predict every row of the table, whose columns are the model's inputs."""
        ...

    def describe(self) -> dict[str, Any]:
        """What runs here, for `GET /model`."""
        ...


class SklearnEngine:
    """A model of MLflow's scikit-learn flavour, called directly."""

    name = "sklearn"

    def __init__(self, path: Path) -> None:
        import mlflow.sklearn

        self._model = mlflow.sklearn.load_model(str(path))
        # In a pipeline the steps before the estimator cost most: they run once, for the labels
        # and the probabilities together.
        is_pipeline = hasattr(self._model, "steps") and len(self._model.steps) > 1
        self._transform = self._model[:-1].transform if is_pipeline else None
        self._estimator = self._model[-1] if is_pipeline else self._model

    def predict(self, table: Table) -> Predictions:
        import pandas as pd

        rows: Any = pd.DataFrame(table)
        if self._transform is not None:
            rows = self._transform(rows)
        values = np.asarray(self._estimator.predict(rows))
        if values.ndim > 1 or not hasattr(self._estimator, "predict_proba"):
            return Predictions(values)
        probabilities = self._estimator.predict_proba(rows)
        return Predictions(values, probabilities, tuple(self._estimator.classes_.tolist()))

    def describe(self) -> dict[str, Any]:
        estimator = type(self._estimator)
        return {
            "name": self.name,
            "estimator": f"{estimator.__module__}.{estimator.__qualname__}",
        }


class PyfuncEngine:
    """Any other model that MLflow loads as a Python function."""

    name = "pyfunc"

    def __init__(self, path: Path) -> None:
        import mlflow.pyfunc

        self._model = mlflow.pyfunc.load_model(str(path))

    def predict(self, table: Table) -> Predictions:
        import pandas as pd

        answer = np.asarray(self._model.predict(pd.DataFrame(table)))
        one_output = answer.ndim == 2 and answer.shape[1] == 1
        return Predictions(answer[:, 0] if one_output else answer)

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "loader": self._model.metadata.flavors["python_function"]}


def load_engine(path: Path, flavors: dict[str, Any]) -> Engine:
    """Load the model directory `path` with the engine that suits its flavours.

    Raises `ModelLoadError` when there is none.
    """
    if "sklearn" in flavors:
        return SklearnEngine(path)
    if "python_function" in flavors:
        return PyfuncEngine(path)
    raise ModelLoadError(
        f"the model has the flavours {', '.join(flavors) or 'none'}; "
        "sklearn or python_function is needed"
    )
