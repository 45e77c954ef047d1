"""Models of MLflow's scikit-learn flavour, called directly."""

import os
import pickle
from dataclasses import replace
from typing import Any

import numpy as np

from serving.contract.columns import Table
from serving.contract.details import Detail, details_of
from serving.engines.base import Engine, Predictions, single_output
from serving.store.mlmodel import StoredModel

_LIBRARIES_BY_ROW = {"catboost", "lightgbm", "sklearn", "xgboost"}


class SklearnEngine(Engine):
    """A model of MLflow's scikit-learn flavour, called directly."""

    name = "sklearn"

    def __init__(self, model: StoredModel) -> None:
        self._model = _loaded(model) if is_plain(model) else _loaded_by_mlflow(model)
        self.independent_rows = _is_by_row(self._model)
        # The steps before a pipeline's estimator cost most, so they run once for both the labels
        # and the probabilities.
        is_pipeline = hasattr(self._model, "steps")
        has_steps = is_pipeline and len(self._model.steps) > 1
        self._transform = self._model[:-1].transform if has_steps else None
        self._estimator = self._model[-1] if is_pipeline else self._model
        self.classes: tuple[Any, ...] = _classes_of(self._estimator)
        self.details: tuple[Detail, ...] = details_of(getattr(self._estimator, "detail_names", ()))
        if hasattr(self._estimator, "cluster_centers_") and hasattr(self._estimator, "transform"):
            clusters = range(len(self._estimator.cluster_centers_))
            self.details = (Detail("distances", tuple(clusters)),)

    def predict(self, table: Table) -> Predictions:
        import pandas as pd

        rows: Any = pd.DataFrame(table)
        if self._transform is not None:
            rows = self._transform(rows)
        try:
            return self._estimate(rows)
        except ValueError:
            if (predictions := self._estimate_most(rows)) is None:
                raise
            return predictions

    def _estimate(self, rows: Any) -> Predictions:
        # See serving.causal and serving.forecasting.
        if hasattr(self._estimator, "predict_with_details"):
            found, details = self._estimator.predict_with_details(rows)
            return Predictions(found, details=details)
        values = single_output(np.asarray(self._estimator.predict(rows)))
        details = {one.name: self._estimator.transform(rows) for one in self.details}
        if values.ndim > 1 or not self.classes:
            return Predictions(values, details=details)
        probabilities = self._estimator.predict_proba(rows)
        return Predictions(values, probabilities, self.classes, details=details)

    def _estimate_most(self, rows: Any) -> Predictions | None:
        """Estimate the rows, without those with numbers that the estimator refuses.

        An estimator refuses kinds of numbers: infinite, missing, or beyond single precision, which
        trees use. One row of each kind is tried, which costs a few calls. Bisecting the rows to
        find each bad one would cost dozens of calls, and the callers of all other rows would wait
        for them.

        Returns None if such numbers are not the cause.
        """
        if hasattr(rows, "tocsr"):
            rows = rows.tocsr()
        try:
            kinds = _kinds_of_numbers(rows)
        except (TypeError, ValueError):  # an estimator that takes text
            return None
        count = len(kinds)
        if count == 1:
            return None
        refused = np.zeros(count, dtype=bool)
        for kind in np.unique(kinds[kinds > 0]):
            is_kind = kinds == kind
            try:
                self._estimate(_some(rows, np.flatnonzero(is_kind)[:1]))
            except ValueError:
                refused |= is_kind
        if not refused.any():
            return None
        if refused.all():
            return Predictions(np.zeros(count), refused=refused)
        try:
            found = self._estimate(_some(rows, np.flatnonzero(~refused)))
        except ValueError:
            return None
        return _with_gaps(found, refused)

    def describe(self) -> dict[str, Any]:
        estimator = type(self._estimator)
        return {
            "name": self.name,
            "estimator": f"{estimator.__module__}.{estimator.__qualname__}",
        }


def _classes_of(estimator: Any) -> tuple[Any, ...]:
    """The labels of the columns of `predict_proba`; empty if there is no single probability."""
    if not hasattr(estimator, "predict_proba"):
        return ()
    if not hasattr(estimator, "classes_"):  # a mixture, which numbers its components
        return tuple(range(len(getattr(estimator, "weights_", ()))))
    # A model with several outputs has one array of labels each.
    labels = estimator.classes_
    return tuple(labels.tolist()) if isinstance(labels, np.ndarray) else ()


def _kinds_of_numbers(rows: Any) -> np.ndarray:
    """Which kinds of unusual numbers each row has, as bits; shape (rows,).

    Raises `TypeError` or `ValueError` if the rows are not numbers.
    """
    numbers = np.asarray(rows.data if hasattr(rows, "indptr") else rows, dtype=np.float64)
    with np.errstate(over="ignore"):
        is_beyond = np.isinf(numbers.astype(np.float32))
    is_infinite = np.isinf(numbers)
    bits = np.isnan(numbers) + 2 * is_infinite + 4 * (is_beyond & ~is_infinite)
    if numbers.ndim > 1:
        return np.asarray(np.bitwise_or.reduce(bits, axis=1))
    kinds = np.zeros(rows.shape[0], dtype=bits.dtype)  # a sparse matrix stays sparse
    np.bitwise_or.at(kinds, np.repeat(np.arange(len(kinds)), np.diff(rows.indptr)), bits)
    return kinds


def _some(rows: Any, positions: np.ndarray) -> Any:
    return rows.iloc[positions] if hasattr(rows, "iloc") else rows[positions]


def _with_gaps(found: Predictions, refused: np.ndarray) -> Predictions:
    """Spread the predictions of the accepted rows over all rows."""
    # Each refused row repeats the accepted row before it; its values have no meaning.
    positions = np.maximum(np.cumsum(~refused) - 1, 0)
    return replace(found.rows(positions), refused=refused)


def _is_by_row(model: Any) -> bool:
    """Whether all parts of a model treat each row on its own.

    The classes of known libraries do. A custom class may declare it with the attribute
    `independent_rows = True`. A custom function (`FunctionTransformer`) may use other rows, so
    only the functions with which this project's training converts booleans and dates are accepted.
    """
    parts = [model, *(part for part in model.get_params().values() if hasattr(part, "fit"))]
    for part in parts:
        # The parameters of a calibrated, frozen estimator are not among those of the model.
        if type(part).__name__ == "FrozenEstimator" and not _is_by_row(part.estimator):
            return False
        library = type(part).__module__.partition(".")[0]
        if library not in _LIBRARIES_BY_ROW and not getattr(part, "independent_rows", False):
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


def is_plain(model: StoredModel) -> bool:
    """Whether MLflow would only read one file to load the model.

    Importing MLflow takes two seconds and 60 MB. It is needed for other formats, for models that
    bring code, and if it is configured to allow or forbid pickles.
    """
    flavor = model.flavors.get("sklearn", {})
    return (
        flavor.get("serialization_format") in ("pickle", "cloudpickle", "skops")
        and not flavor.get("code")
        and "MLFLOW_ALLOW_PICKLE_DESERIALIZATION" not in os.environ
    )


def _loaded(model: StoredModel) -> Any:
    assert model.sklearn_file is not None
    flavor = model.flavors["sklearn"]
    if flavor["serialization_format"] == "skops":
        import skops.io

        return skops.io.load(model.sklearn_file, trusted=flavor.get("skops_trusted_types"))
    with model.sklearn_file.open("rb") as file:
        return pickle.load(file)


def _loaded_by_mlflow(model: StoredModel) -> Any:
    import mlflow.sklearn

    return mlflow.sklearn.load_model(str(model.path))
