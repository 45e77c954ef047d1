"""Convert scikit-learn's estimators to ONNX.

Linear models, neural networks and trees are converted here, in the same precision as in
scikit-learn. skl2onnx converts the others.
"""

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import TensorProto, helper
from sklearn.base import is_classifier, is_clusterer, is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import (
    GammaRegressor,
    LogisticRegression,
    LogisticRegressionCV,
    PoissonRegressor,
    SGDClassifier,
    TweedieRegressor,
)
from sklearn.linear_model._base import LinearClassifierMixin, LinearModel
from sklearn.multioutput import MultiOutputRegressor
from sklearn.tree import (
    DecisionTreeClassifier,
    DecisionTreeRegressor,
    ExtraTreeClassifier,
    ExtraTreeRegressor,
)

from serving.causal import EconML, TLearner
from serving.compilation import trees
from serving.compilation.answer import Answer
from serving.compilation.calibrators import calibrate
from serving.compilation.clusters import CLUSTERERS, predict_cluster
from serving.compilation.features import (
    Feature,
    features_of,
    numbers,
    refuse_not_finite,
    to_double,
    to_single,
)
from serving.compilation.graph import ML, Graph
from serving.compilation.others import predict_with_skl2onnx
from serving.errors import CompilationError
from serving.forecasting import SeriesForecaster

Features = list[Feature]


def predict(graph: Graph, estimator: Any, features: Features) -> Answer:
    """Convert a fitted classifier, regressor or model of clusters.

    Raises `CompilationError` naming what cannot be converted.
    """
    if type(estimator) in CLUSTERERS:
        return predict_cluster(graph, estimator, features)
    name = type(estimator).__name__
    # Estimators of other libraries may not declare their type.
    tells = hasattr(estimator, "__sklearn_tags__")
    if isinstance(estimator, EconML):
        inner = type(estimator.estimator)
        raise CompilationError(f"there is no converter for econml's {inner.__name__}")
    if isinstance(estimator, SeriesForecaster):
        raise CompilationError("forecasts are looked up, so there is nothing to compile")
    if tells and is_clusterer(estimator):
        raise CompilationError(f"there is no converter for sklearn.{name}")
    if not tells or not (is_classifier(estimator) or is_regressor(estimator)):
        raise CompilationError(f"{name} is neither a classifier nor a regressor of scikit-learn")
    if is_classifier(estimator) and not isinstance(estimator.classes_, np.ndarray):
        raise CompilationError(f"{name} classifies several outputs")
    answer = _converter(estimator)(graph, estimator, features)
    if answer.values is None:
        return replace(answer, classes=estimator.classes_.tolist())
    outputs = _count_outputs(estimator, len(features))
    values = graph.add("Reshape", answer.values, np.array([-1, outputs]))
    return replace(answer, values=values, outputs=outputs)


def _count_outputs(estimator: Any, width: int) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # these features have no names
        values = np.asarray(estimator.predict(np.zeros((1, width))))
    return values.size


_Converter = Callable[[Graph, Any, Features], Answer]


def _converter(estimator: Any) -> _Converter:
    if convert := _CONVERTERS.get(type(estimator)):
        return convert
    kind = type(estimator)
    if getattr(kind, "predict", None) is LinearModel.predict:
        return _linear_regressor
    if getattr(kind, "predict", None) is LinearClassifierMixin.predict and not hasattr(
        estimator, "predict_proba"
    ):
        return _linear_classifier
    return _classifier if is_classifier(estimator) else _regressor


def _linear(graph: Graph, estimator: Any, features: Features) -> str:
    """Shape (rows, outputs)."""
    x = numbers(graph, features, estimator)
    refuse_not_finite(graph, x, len(features))
    weights = np.atleast_2d(np.asarray(estimator.coef_, dtype=np.float64)).T
    bias = np.atleast_1d(np.asarray(estimator.intercept_, dtype=np.float64))
    return graph.add("Gemm", x, weights, bias)


def _linear_regressor(graph: Graph, estimator: Any, features: Features) -> Answer:
    return Answer(values=_linear(graph, estimator, features))


def _log_linear(graph: Graph, estimator: Any, features: Features) -> Answer:
    link = type(estimator._base_loss.link).__name__
    if link not in ("LogLink", "IdentityLink"):
        raise CompilationError(f"{type(estimator).__name__} has the link {link}")
    raw = _linear(graph, estimator, features)
    return Answer(values=graph.add("Exp", raw) if link == "LogLink" else raw)


def _linear_classifier(graph: Graph, estimator: Any, features: Features) -> Answer:
    return Answer(_choice(graph, _linear(graph, estimator, features), len(estimator.classes_)))


def _logistic(graph: Graph, estimator: Any, features: Features) -> Answer:
    raw = _linear(graph, estimator, features)
    classes = len(estimator.classes_)
    label = _choice(graph, raw, classes)
    if classes > 2 and not _is_one_vs_rest(estimator):
        return Answer(label, graph.add("Softmax", raw, axis=1))
    return Answer(label, _one_vs_rest(graph, raw, classes))


def _is_one_vs_rest(estimator: Any) -> bool:
    if isinstance(estimator, SGDClassifier):
        return True
    # Older releases of scikit-learn have other values than the default.
    return getattr(estimator, "multi_class", None) == "ovr" or estimator.solver == "liblinear"


def _one_vs_rest(graph: Graph, raw: str, classes: int) -> str:
    if classes <= 2:
        return _both(graph, graph.add("Sigmoid", raw))
    # Tiny numbers are normalized, and the error of `Sigmoid`, 1e-16, is not relative to them.
    exponential = graph.add("Exp", graph.add("Neg", raw))
    positive = graph.add("Div", np.array(1.0), graph.add("Add", exponential, np.array(1.0)))
    total = graph.add("ReduceSum", positive, np.array([1]), keepdims=1)
    none = graph.add("Equal", total, np.array(0.0))  # scikit-learn: all classes equally likely
    return graph.add("Where", none, np.array(1 / classes), graph.add("Div", positive, total))


def _sgd(graph: Graph, estimator: Any, features: Features) -> Answer:
    if estimator.loss == "log_loss":
        return _logistic(graph, estimator, features)
    if estimator.loss == "modified_huber":
        return _classifier(graph, estimator, features)
    return _linear_classifier(graph, estimator, features)


def _choice(graph: Graph, raw: str, classes: int, *, zero_is_positive: bool = False) -> str:
    """The class that the decision values choose, of shape (rows,)."""
    if classes > 2:
        return graph.add("ArgMax", raw, axis=1, keepdims=0)
    comparison = "GreaterOrEqual" if zero_is_positive else "Greater"
    positive = graph.add(comparison, raw, np.array(0.0))
    flat = graph.add("Reshape", positive, np.array([-1]))
    return graph.add("Cast", flat, to=TensorProto.INT64)


def _both(graph: Graph, positive: str) -> str:
    """The probabilities of both classes, from that of the second."""
    negative = graph.add("Sub", np.array(1.0), positive)
    return graph.add("Concat", negative, positive, axis=1)


def _tree_inputs(graph: Graph, estimator: Any, features: Features, *, missing: bool) -> str:
    """The inputs of scikit-learn's trees: numbers rounded to single precision."""
    x = to_single(graph, numbers(graph, features, estimator))
    if missing:
        infinite = graph.add("IsInf", x)
        faults = graph.add("Where", infinite, np.array(np.nan), np.array(0.0))
        graph.refuse_unless_zero(graph.add("ReduceSum", faults, np.array([1]), keepdims=1))
    else:
        refuse_not_finite(graph, x, len(features), np.float32)
    return to_double(graph, x)


def _forest(graph: Graph, estimator: Any, features: Features) -> Answer:
    """One tree, or the mean of many."""
    parts = getattr(estimator, "estimators_", [estimator])
    missing = parts[0]._support_missing_values(np.zeros((1, 1)))
    x = _tree_inputs(graph, estimator, features, missing=missing)
    ensemble = [trees.of_sklearn(part.tree_) for part in parts]
    count = np.array(float(len(parts)))
    if is_classifier(estimator):
        label, sums = trees.vote(graph, x, ensemble)
        return Answer(label, graph.add("Div", to_double(graph, sums), count))
    if ensemble[0].value.shape[1] == 1:
        sums = trees.add_up(graph, x, ensemble, [0] * len(ensemble))
    else:
        sums = to_double(graph, trees.add_up_many(graph, x, ensemble))
    return Answer(values=graph.add("Div", sums, count))


def _calibrated(graph: Graph, estimator: Any, features: Features) -> Answer:
    """The mean of the calibrated probabilities of copies of one estimator, or of a frozen one."""
    estimator = _thawed(estimator)
    parts = estimator.calibrated_classifiers_
    if not all(_has_scores(part.estimator) for part in parts):
        return _classifier(graph, estimator, features)
    each = [calibrate(graph, part, _scores(graph, part.estimator, features)) for part in parts]
    mean = each[0]
    if len(each) > 1:
        mean = graph.add("Div", graph.add("Sum", *each), np.array(float(len(each))))
    return Answer(graph.add("ArgMax", mean, axis=1, keepdims=0), mean)


def _thawed(calibrated: Any) -> Any:
    """A copy with the estimators themselves in place of frozen ones."""
    calibrated = copy.copy(calibrated)
    calibrated.calibrated_classifiers_ = list(map(copy.copy, calibrated.calibrated_classifiers_))
    for part in [calibrated, *calibrated.calibrated_classifiers_]:
        if isinstance(part.estimator, FrozenEstimator):
            part.estimator = part.estimator.estimator
    return calibrated


def _has_scores(estimator: Any) -> bool:
    is_linear = isinstance(estimator, LinearClassifierMixin)
    return type(estimator) in _RAW or is_linear or not hasattr(estimator, "decision_function")


def _scores(graph: Graph, estimator: Any, features: Features) -> str:
    """What calibration starts from, of shape (rows, classes), or (rows, 1) for two classes.

    These are the values of `decision_function`, or else the probabilities.
    """
    if type(estimator) in _RAW:
        return _RAW[type(estimator)](graph, estimator, features)
    if hasattr(estimator, "decision_function"):
        return _linear(graph, estimator, features)
    probabilities = predict(graph, estimator, features).probabilities
    if probabilities is None:
        raise CompilationError(f"{type(estimator).__name__} gives no probabilities")
    if len(estimator.classes_) > 2:
        return probabilities
    return graph.add("Gather", probabilities, np.array([1]), axis=1)


def _boosting(graph: Graph, estimator: Any, features: Features) -> Answer:
    raw = _boosting_raw(graph, estimator, features)
    if not is_classifier(estimator):
        return Answer(values=raw)
    classes = len(estimator.classes_)
    label = _choice(graph, raw, classes, zero_is_positive=True)
    if classes > 2:
        return Answer(label, graph.add("Softmax", raw, axis=1))
    if estimator.loss == "exponential":
        raw = graph.add("Mul", raw, np.array(2.0))
    return Answer(label, _both(graph, graph.add("Sigmoid", raw)))


def _boosting_raw(graph: Graph, estimator: Any, features: Features) -> str:
    if estimator.init_ != "zero" and type(estimator.init_).__name__ not in (
        "DummyClassifier",
        "DummyRegressor",
    ):
        raise CompilationError(
            f"{type(estimator).__name__} starts from a {type(estimator.init_).__name__}"
        )
    start = estimator._raw_predict_init(np.zeros((1, len(features)), np.float32))
    x = _tree_inputs(graph, estimator, features, missing=False)
    stages = estimator.estimators_
    ensemble = [trees.of_sklearn(one.tree_, estimator.learning_rate) for one in stages.ravel()]
    targets = list(range(stages.shape[1])) * len(stages)
    return graph.add("Add", trees.add_up(graph, x, ensemble, targets), start)


def _histogram_boosting(graph: Graph, estimator: Any, features: Features) -> Answer:
    raw = _histogram_boosting_raw(graph, estimator, features)
    if is_classifier(estimator):
        classes = len(estimator.classes_)
        label = _choice(graph, raw, classes)
        if classes > 2:
            return Answer(label, graph.add("Softmax", raw, axis=1))
        return Answer(label, _both(graph, graph.add("Sigmoid", raw)))
    if estimator.loss in ("poisson", "gamma"):
        raw = graph.add("Exp", raw)
    return Answer(values=raw)


def _histogram_boosting_raw(graph: Graph, estimator: Any, features: Features) -> str:
    name = type(estimator).__name__
    if estimator.is_categorical_ is not None and estimator.is_categorical_.any():
        raise CompilationError(
            f"{name} splits by categories itself; encode them in an earlier step instead"
        )
    x = numbers(graph, features, estimator)
    stages = estimator._predictors
    ensemble = [trees.of_histogram(one.nodes) for stage in stages for one in stage]
    targets = list(range(len(stages[0]))) * len(stages)
    sums = trees.add_up(graph, x, ensemble, targets)
    return graph.add("Add", sums, np.asarray(estimator._baseline_prediction, dtype=np.float64))


def _voting(graph: Graph, estimator: Any, features: Features) -> Answer:
    """The mean of the answers of several estimators."""
    if is_classifier(estimator) and estimator.voting == "hard":
        raise CompilationError(f"{type(estimator).__name__} counts labels; set voting to soft")
    answers = [predict(graph, part, features) for part in estimator.estimators_]
    tensors = [one.probabilities or one.values or "" for one in answers]
    weights = estimator._weights_not_none or [1.0] * len(tensors)
    weighted = [
        graph.add("Mul", t, np.array(float(w))) for t, w in zip(tensors, weights, strict=True)
    ]
    mean = graph.add("Div", graph.add("Sum", *weighted), np.array(float(sum(weights))))
    if is_classifier(estimator):
        return Answer(graph.add("ArgMax", mean, axis=1, keepdims=0), mean)
    return Answer(values=mean)


def _stacking(graph: Graph, estimator: Any, features: Features) -> Answer:
    """An estimator that learns from the answers of other estimators."""
    inputs: Features = []
    for part, method in zip(estimator.estimators_, estimator.stack_method_, strict=True):
        answer = predict(graph, part, features)
        if method == "predict_proba" and answer.probabilities:
            width = len(part.classes_)
            # With two classes, one probability determines the other.
            inputs += features_of(answer.probabilities, width)[1 if width == 2 else 0 :]
        elif method == "predict" and answer.values:
            inputs += features_of(answer.values, answer.outputs)
        else:
            raise CompilationError(
                f"{type(estimator).__name__} learns from {method} of {type(part).__name__}"
            )
    if estimator.passthrough:
        inputs += features
    return predict(graph, estimator.final_estimator_, inputs)


def _separate(graph: Graph, estimator: Any, features: Features) -> Answer:
    """A model for each output."""
    answers = [predict(graph, part, features).values or "" for part in estimator.estimators_]
    return Answer(values=graph.add("Concat", *answers, axis=1))


def _effect(graph: Graph, estimator: Any, features: Features) -> Answer:
    """The difference of two outcomes, and both of them."""
    outcomes = []
    for part in (estimator.with_treatment_, estimator.without_treatment_):
        answer = predict(graph, part, features)
        if answer.probabilities:
            outcomes.append(graph.add("Gather", answer.probabilities, np.array([1]), axis=1))
        else:
            outcomes.append(answer.values or "")
    details = dict(zip(estimator.detail_names, outcomes, strict=True))
    return Answer(values=graph.add("Sub", *outcomes), details=details)


def _classifier(graph: Graph, estimator: Any, features: Features) -> Answer:
    label, *others = predict_with_skl2onnx(graph, estimator, features)
    classes = estimator.classes_
    positions = list(range(len(classes)))
    if classes.dtype.kind in "OU":
        if not all(isinstance(one, str) for one in classes.tolist()):
            raise CompilationError(f"{type(estimator).__name__} has classes that are not text")
        label = graph.add(
            "LabelEncoder",
            label,
            domain=ML,
            keys_strings=classes.tolist(),
            values_int64s=positions,
        )
    elif classes.dtype.kind in "iu":
        if classes.tolist() != positions:
            label = graph.add(
                "LabelEncoder",
                label,
                domain=ML,
                keys_tensor=helper.make_tensor("k", TensorProto.INT64, [len(classes)], classes),
                values_tensor=helper.make_tensor("v", TensorProto.INT64, [len(classes)], positions),
                default_tensor=helper.make_tensor("d", TensorProto.INT64, [1], [0]),
            )
    elif classes.dtype.kind == "b":
        label = graph.add("Cast", label, to=TensorProto.INT64)
    else:
        raise CompilationError(
            f"{type(estimator).__name__} has classes of the type {classes.dtype}"
        )
    label = graph.add("Reshape", label, np.array([-1]))
    has_probabilities = others and hasattr(estimator, "predict_proba")
    return Answer(label, others[-1] if has_probabilities else None)


def _regressor(graph: Graph, estimator: Any, features: Features) -> Answer:
    return Answer(values=predict_with_skl2onnx(graph, estimator, features)[-1])


_RAW: dict[type, Callable[[Graph, Any, Features], str]] = {
    GradientBoostingClassifier: _boosting_raw,
    HistGradientBoostingClassifier: _histogram_boosting_raw,
}
_CONVERTERS: dict[type, _Converter] = {
    CalibratedClassifierCV: _calibrated,
    LogisticRegression: _logistic,
    LogisticRegressionCV: _logistic,
    SGDClassifier: _sgd,
    PoissonRegressor: _log_linear,
    GammaRegressor: _log_linear,
    TweedieRegressor: _log_linear,
    DecisionTreeClassifier: _forest,
    DecisionTreeRegressor: _forest,
    ExtraTreeClassifier: _forest,
    ExtraTreeRegressor: _forest,
    RandomForestClassifier: _forest,
    RandomForestRegressor: _forest,
    ExtraTreesClassifier: _forest,
    ExtraTreesRegressor: _forest,
    GradientBoostingClassifier: _boosting,
    GradientBoostingRegressor: _boosting,
    HistGradientBoostingClassifier: _histogram_boosting,
    HistGradientBoostingRegressor: _histogram_boosting,
    VotingClassifier: _voting,
    VotingRegressor: _voting,
    StackingClassifier: _stacking,
    StackingRegressor: _stacking,
    MultiOutputRegressor: _separate,
    TLearner: _effect,
}
