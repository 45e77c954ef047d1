"""Estimators of the effect of a treatment.

A model that was trained with one of them is pickled with the name of this module. So it belongs to
every stage, and it and its classes keep their names.
"""

import copy
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin, clone, is_classifier


class TLearner(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Two models of the outcome: one of the treated rows, one of the others.

    The predicted effect is the difference of what the two predict: an amount of the outcome, or,
    with a classifier, a difference of the probability of its second class.

    Args:
        estimator: an unfitted regressor, or a classifier of two classes; both models are copies.
    """

    independent_rows = True
    """As long as it is so for the models, which are parts of this one."""

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def fit(self, X: Any, y: Any, treatment: Any) -> Self:
        """Fit both models.

        Args:
            X: shape (rows, features).
            y: the outcome, shape (rows,).
            treatment: shape (rows,), 1 for treated rows and 0 for the others.

        Raises `ValueError` if there are no treated rows, or only those, and if a classifier does
        not see both classes among each.
        """
        outcome, treated = np.asarray(y), np.asarray(treatment) == 1
        if treated.all() or not treated.any():
            raise ValueError("TLearner needs rows with treatment and rows without")
        if is_classifier(self.estimator):
            classes = len(np.unique(outcome))
            fewest = min(len(np.unique(outcome[treated == is_in])) for is_in in (True, False))
            if classes != 2 or fewest != 2:
                raise ValueError(
                    f"TLearner of {type(self.estimator).__name__} needs an outcome of two classes, "
                    "both with treatment and without; use a regressor for a number"
                )
        self.with_treatment_ = clone(self.estimator).fit(X[treated], outcome[treated])
        self.without_treatment_ = clone(self.estimator).fit(X[~treated], outcome[~treated])
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The effect for each row, of shape (rows,)."""
        return self.predict_with_details(X)[0]

    def predict_with_details(self, X: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The effect, and the outcomes of which it is the difference, each of shape (rows,)."""
        treated, untreated = (
            _outcome(model, X) for model in (self.with_treatment_, self.without_treatment_)
        )
        return treated - untreated, {
            "outcome_with_treatment": treated,
            "outcome_without_treatment": untreated,
        }

    @property
    def detail_names(self) -> tuple[str, ...]:
        """The keys of the details."""
        return ("outcome_with_treatment", "outcome_without_treatment")


class EconML(RegressorMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """An estimator of the package econml, in scikit-learn's form.

    Args:
        estimator: an unfitted estimator of econml, with `fit(Y, T, X=X)` and `effect(X)`.
    """

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def fit(self, X: Any, y: Any, treatment: Any) -> Self:
        """Fit a copy of the estimator; the arguments are those of `TLearner.fit`."""
        features = np.asarray(X, dtype=np.float64)
        outcome = np.asarray(y, dtype=np.float64)
        self.estimator_ = copy.deepcopy(self.estimator)
        self.estimator_.fit(outcome, np.asarray(treatment), X=features)
        self.has_interval_ = self._gives_interval(features[:1])
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The effect for each row, of shape (rows,)."""
        return self.predict_with_details(X)[0]

    def predict_with_details(self, X: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The effect, and the bounds of its interval where there is one, each of shape (rows,)."""
        features = np.asarray(X, dtype=np.float64)
        found = [self.estimator_.effect(features)]
        if self.has_interval_:
            found += self.estimator_.effect_interval(features, alpha=0.05)
        effect, *bounds = (np.asarray(one, dtype=np.float64).reshape(len(one)) for one in found)
        return effect, dict(zip(self.detail_names, bounds, strict=True))

    @property
    def detail_names(self) -> tuple[str, ...]:
        """The keys of the details."""
        return ("effect_lower", "effect_upper") if self.has_interval_ else ()

    def _gives_interval(self, features: np.ndarray) -> bool:
        try:
            self.estimator_.effect_interval(features, alpha=0.05)
        except Exception:  # econml raises several kinds where inference is off or not known
            return False
        return True


def _outcome(model: Any, X: Any) -> np.ndarray:
    found = model.predict_proba(X)[:, 1] if is_classifier(model) else model.predict(X)
    return np.asarray(found, dtype=np.float64).reshape(len(found))
