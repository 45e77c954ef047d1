"""The recipe's preprocessing and estimator as one scikit-learn pipeline."""

import difflib
import importlib
import inspect
import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from sklearn.base import is_classifier, is_clusterer, is_outlier_detector, is_regressor
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.multioutput import MultiOutputRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    KBinsDiscretizer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)
from sklearn.utils import all_estimators

from serving import extensions
from serving.causal import EconML
from serving.config.yaml_file import did_you_mean
from serving.contract.columns import Column
from serving.contract.recipe import (
    FORECASTERS,
    FORWARD_FILL,
    TARGET_ENCODER,
    Model,
    Recipe,
    Step,
    Task,
)
from serving.errors import RecipeError
from serving.forecasting import RecursiveForecaster, SeriesFeatures
from serving.redaction import first_line
from serving.training.causal import check_learner, econml_defaults, is_of_econml
from serving.training.clustering import check_clusterer
from serving.training.forecasters import (
    ADD_STATSFORECAST,
    check_forecaster,
    check_library,
    is_forecaster,
    make_forecaster,
)
from serving.training.target_encoding import make_target_encoder

_ENCODERS = ("one_hot_encoder", "ordinal_encoder", TARGET_ENCODER)
_IMPUTERS = ("simple_imputer", "constant_fill")
_ANY_COLUMN = ("constant_fill", "transformer", *_ENCODERS)


def build_pipeline(
    recipe: Recipe,
    columns: Sequence[Column],
    tuned: Mapping[str, Any] | None = None,
    frequency: str | None = None,
) -> Pipeline:
    """Make the unfitted pipeline for a table of these columns.

    Every step works on single columns (polynomial features work on columns with the same steps).
    So columns with the same steps form one chain, and all chains form one `ColumnTransformer`: a
    single call at serving time for any number of steps.

    Args:
        recipe: its steps, its estimator and its seed.
        columns: the features.
        tuned: hyperparameters that tuning has chosen.
        frequency: the time between two values of a time series.

    Raises `RecipeError` naming the key if a step does not fit its columns or the estimator cannot
    be made.
    """
    if recipe.task_choice is Task.TIMESERIES:
        check_library(recipe.model.class_path)
    estimator = build_estimator(recipe.model, tuned or {})
    check_task(recipe, estimator)
    if recipe.is_forecaster:
        return make_forecaster(recipe, estimator, frequency)
    steps: list[tuple[str, Any]] = []
    if recipe.task_choice is Task.TIMESERIES:
        series = _series_features(recipe, columns)
        steps.append(("series", series))
        columns = _columns_after(series, columns)
    steps += [("columns", _preprocessing(recipe, columns)), ("model", estimator)]
    pipeline = Pipeline(steps)
    _seed(pipeline, recipe)
    if recipe.values_per_row > 1:
        return _several_steps(recipe, pipeline, frequency)
    return pipeline


def _series_features(recipe: Recipe, columns: Sequence[Column]) -> SeriesFeatures:
    plan, interface = recipe.forecasting, recipe.data.data_interface
    made = {*recipe.history_columns, interface.timestamp_column} - {
        *(interface.feature_columns or [])  # a timestamp that is listed is a feature itself
    }
    return SeriesFeatures(
        target=str(interface.target_column),
        history=recipe.history_columns,
        timestamp=str(interface.timestamp_column),
        kept=[column.name for column in columns if column.name not in made],
        lags=plan.lags,
        rolling=plan.statistics,
        calendar=plan.calendar,
        fill=recipe.fills_history,
    )


def _columns_after(series: SeriesFeatures, columns: Sequence[Column]) -> list[Column]:
    """The columns that the features of a series are, besides those that it keeps."""
    kept = {column.name: column for column in columns if column.name in series.kept}
    names = map(str, series.get_feature_names_out())
    return [kept.get(name, Column(name, "double")) for name in names]


def _several_steps(recipe: Recipe, pipeline: Pipeline, frequency: str | None) -> Pipeline:
    """A pipeline that predicts as many values as the horizon has, from one that predicts one."""
    plan, interface = recipe.forecasting, recipe.data.data_interface
    if plan.strategy == "direct":
        *before, (name, estimator) = pipeline.steps
        return Pipeline([*before, (name, MultiOutputRegressor(estimator))])
    forecaster = RecursiveForecaster(
        pipeline,
        plan.horizon,
        recipe.history_columns,
        interface.timestamp_column if plan.calendar else None,
        frequency,
        recipe.fills_history,
    )
    return Pipeline([("model", forecaster)])


def _preprocessing(recipe: Recipe, columns: Sequence[Column]) -> ColumnTransformer:
    steps = recipe.preprocessor.steps if recipe.preprocessor else []
    chains = _chains(steps, columns)
    _check_polynomial(steps, chains)
    transformers = [
        (f"columns_{i}", make_pipeline(*transformers) if transformers else "passthrough", names)
        for i, (transformers, names) in enumerate(
            (_transformers(recipe, chain, kind), names) for (chain, kind), names in chains.items()
        )
    ]
    return ColumnTransformer(transformers, verbose_feature_names_out=False)


def _seed(pipeline: Pipeline, recipe: Recipe) -> None:
    """Give the recipe's seed to every part that has none, so that a fit can be repeated."""
    unseeded = [
        name
        for name, value in pipeline.get_params().items()
        if name.rpartition("__")[2] == "random_state" and value is None
    ]
    if "random_state" in recipe.model.hyperparameters.given:  # null is a choice, too
        unseeded = [name for name in unseeded if name != "model__random_state"]
    pipeline.set_params(**dict.fromkeys(unseeded, recipe.evaluation.random_state))


def build_estimator(model: Model, tuned: Mapping[str, Any]) -> Any:
    """Import the estimator's class and call it with the recipe's and the tuned hyperparameters.

    Raises `RecipeError` naming the key and what is wrong with it.
    """
    _check_library(model.class_path)
    estimator_class = _import_class(model.class_path, "model.class_path")
    check_clusterer(model.class_path, estimator_class)
    is_econml = is_of_econml(estimator_class)
    if not (hasattr(estimator_class, "fit") and (hasattr(estimator_class, "predict") or is_econml)):
        raise RecipeError(
            f"model.class_path: '{model.class_path}' is not an estimator: "
            "it needs the methods fit and predict"
        )
    _check_names(estimator_class, model)
    values = {**model.hyperparameters.given, **tuned}
    # Estimators of effects, and some forecasters, are made of other estimators.
    takes_estimators = is_econml or hasattr(estimator_class, "predict_with_details")
    if takes_estimators or is_forecaster(estimator_class):
        values = {name: _nested(value, f"{_VALUES}.{name}") for name, value in values.items()}
    try:
        if is_econml:
            return EconML(estimator_class(**(econml_defaults(estimator_class) | values)))
        return estimator_class(**values)
    except Exception as exc:  # statsforecast raises this class itself
        raise RecipeError(f"model.hyperparameters.values: {first_line(exc)}") from None


_OTHER_INTERFACES = {
    "causalml": "use serving.causal.TLearner, or a class of econml",
    "mmp": "use a class of another package, for instance statsforecast.models.AutoARIMA for a "
    "time series",
}
"""Packages that recipes of Modern ML Pipeline name, and what to do instead."""


def _check_library(class_path: str) -> None:
    """Raise `RecipeError` for a package whose estimators cannot be used, even if it is there."""
    package = class_path.partition(".")[0]
    if package in _OTHER_INTERFACES:
        raise RecipeError(
            f"model.class_path: '{class_path}' cannot be used, because the estimators of {package} "
            f"do not have the interface of scikit-learn; {_OTHER_INTERFACES[package]}"
        )


_VALUES = "model.hyperparameters.values"


def class_path_of(value: Any) -> str | None:
    """The class path of a hyperparameter that is an estimator itself; None for other values.

    It is written as a class path, or as `{class_path: ..., values: {...}}`.
    """
    path = value.get("class_path") if isinstance(value, dict) else value
    return path if isinstance(path, str) and "." in path else None


def _nested(value: Any, key: str) -> Any:
    path = class_path_of(value)
    if path is None:
        return value
    given = value.get("values") if isinstance(value, dict) else None
    try:
        return _import_class(path, key)(**(given or {}))
    except (TypeError, ValueError) as exc:
        raise RecipeError(f"{key}: values of '{path}': {first_line(exc)}") from None


def _check_names(estimator_class: Any, model: Model) -> None:
    """Raise `RecipeError` for a hyperparameter that the constructor does not have."""
    try:
        parameters = inspect.signature(estimator_class).parameters
    except (TypeError, ValueError):  # not written in Python
        return
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return
    for key in ("values", "fixed", "tunable"):
        for name in getattr(model.hyperparameters, key):
            if name not in parameters:
                meant = did_you_mean(name, parameters)
                raise RecipeError(
                    f"model.hyperparameters.{key}.{name}: {estimator_class.__name__} has no such "
                    f"hyperparameter; it has {', '.join(parameters) or 'none'}{meant}"
                )


def _import_class(class_path: str, key: str) -> Any:
    """Import a class by its qualified name.

    Raises `RecipeError` naming the key and what is wrong, with file and line if the error is in
    the user's own package.
    """
    module_name, _, class_name = class_path.rpartition(".")
    if not module_name:
        example = _similar_class(class_name) or "sklearn.linear_model.LogisticRegression"
        raise RecipeError(f"{key}: '{class_path}' must be the full path of a class: {example}")
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except ModuleNotFoundError as exc:
        message = f"{key}: '{class_path}' cannot be imported: there is no module '{exc.name}'"
        is_package = exc.name == module_name.partition(".")[0]
        if similar := _similar_class(class_name, cutoff=1 if is_package else 0.8):
            message += f"; did you mean {similar}?"
        elif class_path.startswith(FORECASTERS):
            message += f"; add its package with: {ADD_STATSFORECAST}"
        elif is_package:
            message += "; add its package with 'uv add --group native'"
        raise RecipeError(message) from None
    except AttributeError:
        similar = _similar_class(class_name)
        meant = f"; did you mean {similar}?" if similar else ""
        raise RecipeError(
            f"{key}: the module '{module_name}' has no class '{class_name}'{meant}"
        ) from None
    except Exception as exc:
        place = extensions.place(exc)
        where = f"{place}: " if place else ""
        reason = f"{type(exc).__name__}: {first_line(exc)}"
        raise RecipeError(f"{key}: '{class_path}': {where}{reason}") from None


def _similar_class(name: str, cutoff: float = 0.8) -> str | None:
    """The full path of scikit-learn's class with this name, or a similar one."""
    classes = dict(all_estimators())
    nearest = difflib.get_close_matches(name, classes, n=1, cutoff=cutoff)
    if not nearest:
        return None
    path = classes[nearest[0]].__module__.split(".")
    public = itertools.takewhile(lambda part: not part.startswith("_"), path)
    return ".".join([*public, nearest[0]])


def check_task(recipe: Recipe, estimator: Any) -> None:
    """Raise `RecipeError` if the estimator says that it is for another task."""
    if recipe.task_choice is Task.CAUSAL:
        check_learner(recipe.model.class_path, estimator)
        return
    if hasattr(estimator, "predict_with_details"):
        raise RecipeError(
            f"model.class_path: '{recipe.model.class_path}' is not for {recipe.task_choice}; "
            "set task_choice to causal"
        )
    check_forecaster(recipe, type(estimator))
    if not hasattr(estimator, "__sklearn_tags__"):
        return  # estimators of other libraries may not declare their type
    if any(is_for_another(estimator) for is_for_another in _OTHER_TYPES[recipe.task_choice]):
        raise RecipeError(
            f"model.class_path: '{recipe.model.class_path}' is not for {recipe.task_choice}"
        )


_OTHER_TYPES: dict[Task, tuple[Callable[[Any], bool], ...]] = defaultdict(
    tuple,
    {
        Task.CLASSIFICATION: (is_regressor, is_clusterer),
        Task.REGRESSION: (is_classifier, is_clusterer),
        Task.TIMESERIES: (is_classifier, is_clusterer),
        Task.CLUSTERING: (is_classifier, is_regressor, is_outlier_detector),
    },
)
"""The types of estimator that are not for a task."""


def likely_cause(recipe: Recipe, columns: Sequence[Column]) -> str:
    """A hint at text or missing values that no step handles; most estimators do not accept them."""
    steps = recipe.preprocessor.steps if recipe.preprocessor else []

    def reached(column: Column, *types: str) -> bool:
        return any(step.type in types and _suits(step, column) for step in steps)

    for column in columns:
        if column.type == "string" and not reached(column, *_ENCODERS):
            return (
                f"; the column '{column.name}' is text that no preprocessor step encodes: "
                "add a step such as {type: one_hot_encoder}"
            )
    for column in columns:
        # An ordinal encoder leaves missing values missing.
        if not column.required and not reached(
            column, "one_hot_encoder", TARGET_ENCODER, *_IMPUTERS
        ):
            strategy = "most_frequent" if column.type == "string" else "median"
            return (
                f"; the column '{column.name}' has missing values that no preprocessor step fills: "
                f"add a step such as {{type: simple_imputer, strategy: {strategy}}}"
            )
    return ""


Chain = tuple[int, ...]
"""The steps that a column goes through, as positions in the recipe."""


def _chains(steps: Sequence[Step], columns: Sequence[Column]) -> dict[tuple[Chain, str], list[str]]:
    """Group columns by their kind (see `_kind`) and the steps that they go through."""
    known = {column.name for column in columns}
    for index, step in enumerate(steps):
        for name in step.columns or []:
            if name not in known and step.type != FORWARD_FILL:
                raise RecipeError(
                    f"preprocessor.steps.{index}.columns: '{name}' is not a feature column"
                )
    groups: dict[tuple[Chain, str], list[str]] = defaultdict(list)
    for column in columns:
        chain: list[int] = []
        encoded = column.type != "string"
        for index, step in enumerate(steps):
            is_again = step.type in _ENCODERS and any(steps[i].type in _ENCODERS for i in chain)
            if not _suits(step, column) or (is_again and step.columns is None):
                continue
            if not encoded and not _takes_text(step):
                raise RecipeError(
                    f"preprocessor.steps.{index}: {step.type} needs numbers, "
                    f"but column '{column.name}' is text; encode it in an earlier step"
                )
            # A custom transformer may return anything for text.
            encoded = encoded or step.type in (*_ENCODERS, "transformer")
            chain.append(index)
        groups[tuple(chain), _kind(column)].append(column.name)
    return groups


def _kind(column: Column) -> str:
    return column.type if column.type in ("string", "datetime", "boolean") else "number"


def _takes_text(step: Step) -> bool:
    return step.type in _ANY_COLUMN or (
        step.type == "simple_imputer" and step.strategy == "most_frequent"
    )


def _suits(step: Step, column: Column) -> bool:
    """Whether a step applies: it names the column, or names none and suits its kind."""
    if step.type == FORWARD_FILL:  # see SeriesFeatures
        return False
    if step.columns is not None:
        return column.name in step.columns
    if step.type in _ENCODERS:
        return column.type == "string"
    if step.type == "constant_fill":
        return isinstance(step.fill_value, str) == (column.type == "string")
    return column.type != "string" or _takes_text(step)


def _check_polynomial(steps: Sequence[Step], chains: dict[tuple[Chain, str], list[str]]) -> None:
    for index, step in enumerate(steps):
        sharing = [names for (chain, _), names in chains.items() if index in chain]
        if step.type == "polynomial_features" and len(sharing) > 1:
            raise RecipeError(
                f"preprocessor.steps.{index}: polynomial_features combines columns, so all of them "
                f"must go through the same steps; '{sharing[0][0]}' and '{sharing[1][0]}' do not"
            )


def _transformers(recipe: Recipe, chain: Chain, kind: str) -> list[Any]:
    steps = recipe.preprocessor.steps if recipe.preprocessor else []
    return [*_as_numbers(kind), *(_transformer(steps[index], recipe) for index in chain)]


def _as_numbers(kind: str) -> list[Any]:
    """Booleans as 0 and 1, date-times as seconds since 1970 (NaN where missing).

    Uses pandas' own methods, so that the model loads without this project.
    """
    if kind == "boolean":
        return [FunctionTransformer(pd.DataFrame.astype, kw_args={"dtype": "float64"})]
    if kind == "datetime":
        return [
            FunctionTransformer(pd.DataFrame.sub, kw_args={"other": pd.Timestamp("1970-01-01")}),
            FunctionTransformer(pd.DataFrame.truediv, kw_args={"other": pd.Timedelta(seconds=1)}),
        ]
    return []


def _transformer(step: Step, recipe: Recipe) -> Any:
    match step.type:
        case "transformer":
            return _own_transformer(step)
        case "simple_imputer":
            return SimpleImputer(
                strategy=step.strategy or "mean",
                fill_value=step.fill_value,
                add_indicator=step.create_missing_indicators,
            )
        case "constant_fill":
            return SimpleImputer(strategy="constant", fill_value=step.fill_value)
        case "one_hot_encoder":
            return OneHotEncoder(
                handle_unknown=step.handle_unknown or "ignore", sparse_output=False
            )
        case "ordinal_encoder":
            if step.handle_unknown == "error":
                return OrdinalEncoder()
            unknown = -1 if step.unknown_value is None else step.unknown_value
            return OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=unknown)
        case "catboost_encoder":
            return make_target_encoder(recipe)
        case "standard_scaler":
            return StandardScaler()
        case "min_max_scaler":
            return MinMaxScaler()
        case "robust_scaler":
            return RobustScaler()
        case "kbins_discretizer":
            return KBinsDiscretizer(
                n_bins=step.n_bins or 5,
                encode="onehot-dense" if step.encode == "onehot" else "ordinal",
                strategy=step.strategy or "quantile",
            )
        case "polynomial_features":
            return PolynomialFeatures(
                degree=step.degree or 2, interaction_only=step.interaction_only, include_bias=False
            )


def _own_transformer(step: Step) -> Any:
    class_path = str(step.class_path)
    transformer_class = _import_class(class_path, "preprocessor.steps: class_path")
    if not (hasattr(transformer_class, "fit") and hasattr(transformer_class, "transform")):
        raise RecipeError(
            f"preprocessor.steps: class_path: '{class_path}' is not a transformer: "
            "it needs the methods fit and transform"
        )
    try:
        return transformer_class(**(step.values or {}))
    except (TypeError, ValueError) as exc:
        reason = first_line(exc)
        raise RecipeError(f"preprocessor.steps: values of '{class_path}': {reason}") from None
