"""Convert scikit-learn's transformers to ONNX, in double precision as in scikit-learn.

Each converter takes a fitted transformer and its features, and returns the resulting features.
skl2onnx converts other transformers, if they take numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pandas as pd
from onnx import TensorProto, helper
from sklearn.compose import ColumnTransformer
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
    TargetEncoder,
)

from serving.compilation.features import (
    Feature,
    Imputed,
    Kind,
    all_single,
    features_of,
    matrix,
    numbers,
    refuse_not_finite,
    refuse_where,
    rounded,
)
from serving.compilation.forecasts import transform_series
from serving.compilation.graph import ML, Graph, text_tensor
from serving.compilation.others import transform_with_skl2onnx
from serving.engines.onnx import MISSING_TEXT
from serving.errors import CompilationError
from serving.forecasting import SeriesFeatures

Features = list[Feature]


def transform(graph: Graph, transformer: Any, features: Features) -> Features:
    """Convert a fitted transformer.

    Raises `CompilationError` naming what cannot be converted.
    """
    if transformer is None or isinstance(transformer, str):
        return [] if transformer == "drop" else features  # else "passthrough"
    convert = _CONVERTERS.get(type(transformer), transform_with_skl2onnx)
    result = convert(graph, transformer, features)
    return _named(transformer, result)


def _named(transformer: Any, features: Features) -> Features:
    """The features with names, if the transformer is set to return a DataFrame."""
    config = getattr(transformer, "_sklearn_output_config", {})
    if config.get("transform") not in ("pandas", "polars"):
        return features
    names = transformer.get_feature_names_out()
    return [replace(one, name=str(name)) for one, name in zip(features, names, strict=True)]


def _pipeline(graph: Graph, pipeline: Pipeline, features: Features) -> Features:
    for _, step in pipeline.steps:
        features = transform(graph, step, features)
    return features


def _columns(graph: Graph, transformer: ColumnTransformer, features: Features) -> Features:
    result = []
    for _, part, columns in transformer.transformers_:
        chosen = _choose(features, columns)
        if chosen and not (isinstance(part, str) and part == "drop"):
            result += transform(graph, part, chosen)
    return result


def _choose(features: Features, columns: Any) -> Features:
    if isinstance(columns, slice):
        if isinstance(columns.start, str) or isinstance(columns.stop, str):
            raise CompilationError("ColumnTransformer chooses columns by a slice of names")
        return features[columns]
    wanted = [columns] if isinstance(columns, str | int) else list(columns)
    if wanted and all(isinstance(one, bool | np.bool_) for one in wanted):
        return [feature for feature, is_chosen in zip(features, wanted, strict=True) if is_chosen]
    by_name = {feature.name: feature for feature in features}
    try:
        return [by_name[one] if isinstance(one, str) else features[one] for one in wanted]
    except (KeyError, IndexError, TypeError):
        raise CompilationError(
            f"ColumnTransformer chooses columns that are not among its inputs: {wanted}"
        ) from None


def _union(graph: Graph, union: FeatureUnion, features: Features) -> Features:
    result = []
    for _, part in union.transformer_list:
        if union.transformer_weights:
            raise CompilationError("FeatureUnion has transformer_weights")
        result += transform(graph, part, features)
    return result


_FUNCTIONS: dict[Any, str] = {
    np.log: "Log",
    np.exp: "Exp",
    np.sqrt: "Sqrt",
    np.abs: "Abs",
    np.sin: "Sin",
    np.cos: "Cos",
}


def _function(graph: Graph, transformer: FunctionTransformer, features: Features) -> Features:
    function, given = transformer.func, dict(transformer.kw_args or {})
    if function is None:
        return features
    # In the graph, booleans are already 0 and 1, and date-times are already seconds since 1970,
    # the result of the two pandas calls below.
    if function == pd.DataFrame.astype and given.get("dtype") in ("float64", "float", float):
        if all(feature.kind == "number" for feature in features):
            return features
    elif function == pd.DataFrame.sub and given == {"other": pd.Timestamp("1970-01-01")}:
        if all(feature.kind == "datetime" for feature in features):
            return [replace(feature, kind="duration") for feature in features]
    elif function == pd.DataFrame.truediv and given == {"other": pd.Timedelta(seconds=1)}:
        if all(feature.kind == "duration" for feature in features):
            return [replace(feature, kind="number") for feature in features]
    elif not given and function in (*_FUNCTIONS, np.log1p, np.square):
        x = numbers(graph, features, transformer)
        if function is np.log1p:
            y = graph.add("Log", graph.add("Add", x, np.array(1.0)))
        elif function is np.square:
            y = graph.add("Mul", x, x)
        else:
            y = graph.add(_FUNCTIONS[function], x)
        return features_of(y, len(features))
    name = getattr(function, "__qualname__", getattr(function, "__name__", repr(function)))
    raise CompilationError(f"FunctionTransformer calls {name}, a function without a converter")


def _imputer(graph: Graph, imputer: SimpleImputer, features: Features) -> Features:
    result: Features = []
    missing = imputer.missing_values
    is_dropped = [_is_nan(value) and _learns(imputer) for value in imputer.statistics_]
    # One imputer may fill columns of text and of numbers.
    for is_text in (False, True):
        own = [
            (feature, value)
            for feature, value, dropped in zip(
                features, imputer.statistics_, is_dropped, strict=True
            )
            if (feature.kind == "text") is is_text and not dropped
        ]
        if not own:
            continue
        chosen, fills = [feature for feature, _ in own], [value for _, value in own]
        x, flags = _missing(graph, chosen, missing, imputer)
        if is_text:
            _require_text(fills, imputer)
            filling = np.array(fills, dtype=object)
        else:
            filling = _as_doubles(fills, imputer)
            if all_single(features):
                filling = filling.astype(np.float32).astype(np.float64)
        filled = graph.add("Where", flags, filling[None, :], x)
        kind: Kind = "text" if is_text else "number"
        made = features_of(filled, len(chosen), kind, single=all_single(features))
        if is_text:
            marker = MISSING_TEXT if _is_nan(missing) else missing
            made = [
                replace(feature, imputed=Imputed(original, marker, fill))
                for feature, (original, fill) in zip(made, own, strict=True)
            ]
        result += made
    # In the order of the input.
    order = [f for f, dropped in zip(features, is_dropped, strict=True) if not dropped]
    positions = sorted(range(len(order)), key=lambda i: (order[i].kind == "text", i))
    by_position = dict(zip(positions, result, strict=True))
    result = [by_position[index] for index in range(len(order))]
    if imputer.add_indicator:
        result += _indicator(graph, imputer.indicator_, features)
    return result


def _learns(imputer: SimpleImputer) -> bool:
    """Whether the imputer leaves out columns without any value."""
    return imputer.strategy != "constant" and not imputer.keep_empty_features


def _indicator(graph: Graph, indicator: MissingIndicator, features: Features) -> Features:
    result: Features = []
    for index in indicator.features_:
        _, flags = _missing(graph, [features[index]], indicator.missing_values, indicator)
        result += features_of(graph.add("Cast", flags, to=TensorProto.DOUBLE), 1)
    return result


def _missing(graph: Graph, features: Sequence[Feature], missing: Any, part: Any) -> tuple[str, str]:
    """The features as one tensor, and whether each value is missing."""
    if all(feature.kind == "text" for feature in features):
        x = matrix(graph, features)
        if not _is_nan(missing) and not isinstance(missing, str):
            raise CompilationError(f"{type(part).__name__} fills {missing!r} in text")
        marker = MISSING_TEXT if _is_nan(missing) else missing
        return x, graph.add("Equal", x, np.array([marker], dtype=object))
    x = numbers(graph, features, part)
    if _is_nan(missing):
        return x, graph.add("IsNaN", x)
    return x, graph.add("Equal", x, _as_doubles([missing], part))


def _standard(graph: Graph, scaler: StandardScaler, features: Features) -> Features:
    centre = scaler.mean_ if scaler.with_mean else None
    return _scaled(graph, scaler, features, ("Sub", centre), ("Div", scaler.scale_))


def _min_max(graph: Graph, scaler: MinMaxScaler, features: Features) -> Features:
    result = _scaled(graph, scaler, features, ("Mul", scaler.scale_), ("Add", scaler.min_))
    return _clipped(graph, result, *scaler.feature_range) if scaler.clip else result


def _max_abs(graph: Graph, scaler: MaxAbsScaler, features: Features) -> Features:
    result = _scaled(graph, scaler, features, ("Div", scaler.scale_))
    return _clipped(graph, result, -1, 1) if getattr(scaler, "clip", False) else result


def _normalizer(graph: Graph, normalizer: Normalizer, features: Features) -> Features:
    x = numbers(graph, features, normalizer)
    refuse_not_finite(graph, x, len(features))
    if normalizer.norm == "max":
        size = graph.add("ReduceMax", graph.add("Abs", x), np.array([1]), keepdims=1)
    else:
        operator = {"l1": "ReduceL1", "l2": "ReduceL2"}[normalizer.norm]
        size = graph.add(operator, x, np.array([1]), keepdims=1)
    size = graph.add("Where", graph.add("Equal", size, np.array(0.0)), np.array(1.0), size)
    single = all_single(features)
    y = rounded(graph, graph.add("Div", x, size), single)
    return features_of(y, len(features), single=single)


def _robust(graph: Graph, scaler: RobustScaler, features: Features) -> Features:
    centre = scaler.center_ if scaler.with_centering else None
    scale = scaler.scale_ if scaler.with_scaling else None
    return _scaled(graph, scaler, features, ("Sub", centre), ("Div", scale))


def _scaled(
    graph: Graph, scaler: Any, features: Features, *operations: tuple[str, np.ndarray | None]
) -> Features:
    """Apply the operations in turn, each with a number for every column; None skips one."""
    x, single = numbers(graph, features, scaler), all_single(features)
    for operator, by in operations:
        if by is not None:
            x = rounded(graph, graph.add(operator, x, by.astype(np.float64)), single)
    return features_of(x, len(features), single=single)


def _clipped(graph: Graph, features: Features, low: float, high: float) -> Features:
    x = graph.add("Clip", matrix(graph, features), np.array(float(low)), np.array(float(high)))
    return features_of(x, len(features), single=all_single(features))


def _binarizer(graph: Graph, binarizer: Binarizer, features: Features) -> Features:
    x = numbers(graph, features, binarizer)
    refuse_not_finite(graph, x, len(features))
    flags = graph.add("Greater", x, np.array(float(binarizer.threshold)))
    return features_of(graph.add("Cast", flags, to=TensorProto.DOUBLE), len(features))


def _bins(graph: Graph, bins: KBinsDiscretizer, features: Features) -> Features:
    """The bin of a value is the number of inner edges that it reaches."""
    x = numbers(graph, features, bins)
    refuse_not_finite(graph, x, len(features))
    inner = [edges[1:-1] for edges in bins.bin_edges_]
    column = np.repeat(np.arange(len(inner)), [len(edges) for edges in inner])
    if len(column):
        repeated = graph.add("Gather", x, column, axis=1)
        reached = graph.add("GreaterOrEqual", repeated, np.concatenate(inner))
        counts = np.zeros((len(column), len(inner)))
        counts[np.arange(len(column)), column] = 1
        bin_ = graph.add("MatMul", graph.add("Cast", reached, to=TensorProto.DOUBLE), counts)
    else:
        bin_ = graph.add("Mul", x, np.array(0.0))
    if bins.encode == "ordinal":
        return features_of(bin_, len(features))
    which = np.repeat(np.arange(len(inner)), bins.n_bins_)
    value = np.concatenate([np.arange(n, dtype=np.float64) for n in bins.n_bins_])
    hot = graph.add("Equal", graph.add("Gather", bin_, which, axis=1), value)
    return features_of(graph.add("Cast", hot, to=TensorProto.DOUBLE), len(which))


def _polynomial(graph: Graph, poly: PolynomialFeatures, features: Features) -> Features:
    """Products of columns, multiplied in scikit-learn's order."""
    x = numbers(graph, features, poly)
    count = len(features)
    refuse_not_finite(graph, x, count)
    found: dict[tuple[int, ...], Feature] = {
        (index,): feature for index, feature in enumerate(features_of(x, count))
    }
    wanted = [tuple(np.repeat(np.arange(count), row).tolist()) for row in poly.powers_]
    for degree in range(2, max(map(len, wanted)) + 1):
        products = [
            product
            for product in combinations_with_replacement(range(count), degree)
            if not poly.interaction_only or len(set(product)) == degree
        ]
        rest = matrix(graph, [found[product[1:]] for product in products])
        first = graph.add("Gather", x, np.array([product[0] for product in products]), axis=1)
        block = features_of(graph.add("Mul", rest, first), len(products))
        found |= dict(zip(products, block, strict=True))
    if () in wanted:
        ones = graph.add("Add", graph.add("MatMul", x, np.zeros((count, 1))), np.array(1.0))
        found[()] = features_of(ones, 1)[0]
    return [found[product] for product in wanted]


def _one_hot(graph: Graph, encoder: OneHotEncoder, features: Features) -> Features:
    """Whether a value is a category, with a few nodes for all columns of a kind."""
    if encoder._infrequent_enabled:
        raise CompilationError("OneHotEncoder groups infrequent categories")
    result: dict[tuple[int, int], Feature] = {}
    for positions, ids, code_of in _identified(graph, encoder, features):
        column, wanted, keys = [], [], []
        for place, position in enumerate(positions):
            for index, category in enumerate(encoder.categories_[position]):
                if encoder.drop_idx_ is None or encoder.drop_idx_[position] != index:
                    column.append(place)
                    wanted.append(code_of(category))
                    keys.append((position, index))
        if not keys:
            continue
        repeated = graph.add("Gather", ids, np.array(column), axis=1)
        hot = graph.add("Equal", repeated, np.array(wanted))
        block = features_of(graph.add("Cast", hot, to=TensorProto.DOUBLE), len(keys))
        result |= dict(zip(keys, block, strict=True))
    if encoder.handle_unknown == "error":
        _refuse_unknown(graph, encoder, features)
    return [result[key] for key in sorted(result)]


def _ordinal(graph: Graph, encoder: OrdinalEncoder, features: Features) -> Features:
    """The position of a value among the categories, from one table for all columns of a kind."""
    if encoder._infrequent_enabled:
        raise CompilationError("OrdinalEncoder groups infrequent categories")
    unknown = np.nan if encoder.handle_unknown == "error" else float(encoder.unknown_value)
    result: dict[int, Feature] = {}
    for positions, ids, code_of in _identified(graph, encoder, features):
        table = np.full((len(positions), _size(encoder, positions, code_of) + 1), unknown)
        for place, position in enumerate(positions):
            for index, category in enumerate(encoder.categories_[position]):
                missing = position in encoder._missing_indices and _is_nan(category)
                code = encoder.encoded_missing_value if missing else index
                table[place, code_of(category)] = code
        block = features_of(_gather(graph, table, ids), len(positions))
        result |= dict(zip(positions, block, strict=True))
    if encoder.handle_unknown == "error":
        _refuse_unknown(graph, encoder, features)
    return [result[position] for position in range(len(features))]


def _target_means(graph: Graph, encoder: TargetEncoder, features: Features) -> Features:
    """The mean target of a value's category; with more than two classes, one for each class."""
    overall = np.atleast_1d(encoder.target_mean_)  # of an unknown value
    width = len(overall)
    result: dict[int, Features] = {}
    for positions, ids, code_of in _identified(graph, encoder, features):
        table = np.tile(overall, (len(positions), _size(encoder, positions, code_of) + 1, 1))
        for place, position in enumerate(positions):
            means = np.stack(encoder.encodings_[position * width : (position + 1) * width], axis=1)
            for category, mean in zip(encoder.categories_[position], means, strict=True):
                table[place, code_of(category)] = mean
        found = _gather(graph, table, ids)
        flat = graph.add("Reshape", found, np.array([0, len(positions) * width]))  # 0: the rows
        block = features_of(flat, len(positions) * width)
        for place, position in enumerate(positions):
            result[position] = block[place * width : (place + 1) * width]
    return [one for position in range(len(features)) for one in result[position]]


def _size(encoder: Any, positions: Sequence[int], code_of: Callable[[Any], int]) -> int:
    """How many numbers the categories of these features have."""
    categories = (one for position in positions for one in encoder.categories_[position])
    return 1 + max(map(code_of, categories), default=0)


def _gather(graph: Graph, table: np.ndarray, ids: str) -> str:
    """Look up numbers of values, of shape (rows, features).

    `table` has a place for each feature and each number, and a last one for all other values.
    """
    count, last = table.shape[0], table.shape[1] - 1
    known = graph.add("Where", graph.add("Less", ids, np.array(0)), np.array(last), ids)
    place_of = graph.add("Add", known, np.arange(count) * table.shape[1])
    return graph.add("Gather", table.reshape(count * table.shape[1], *table.shape[2:]), place_of)


_Identified = tuple[list[int], str, Callable[[Any], int]]


def _identified(graph: Graph, encoder: Any, features: Features) -> list[_Identified]:
    """Number the values, for text and for numbers.

    Each group has the positions of its features, a tensor with a number for each of their values
    (int64, shape (rows, features); -1 for a value that is not a category of any feature), and the
    function that gives a category's number.
    """
    groups = []
    for is_text in (False, True):
        positions = [i for i, feature in enumerate(features) if (feature.kind == "text") is is_text]
        if not positions:
            continue
        chosen = [features[position] for position in positions]
        codes: dict[Any, int] = {}
        for position in positions:
            for category in encoder.categories_[position]:
                key = _key(category, is_text, encoder)
                if key is not None:
                    codes.setdefault(key, len(codes))
        if is_text:
            ids = _look_up_text(graph, chosen, codes)
        else:
            ids = _look_up(graph, numbers(graph, chosen, encoder), codes, is_text)
        groups.append((positions, ids, _coder(codes, is_text, encoder)))
    return groups


def _coder(codes: dict[Any, int], is_text: bool, encoder: Any) -> Callable[[Any], int]:
    # No value equals the category None: a missing value is NaN here.
    none = len(codes)
    return lambda category: codes.get(_key(category, is_text, encoder), none)


_NAN = "nan"


def _key(category: Any, is_text: bool, encoder: Any) -> Any:
    """The category as in the graph: text, or a number (`_NAN` for NaN, which is never equal)."""
    if category is None:
        return None
    if is_text:
        if _is_nan(category):
            return MISSING_TEXT
        _require_text([category], encoder)
        return str(category)
    [number] = _as_doubles([category], encoder).tolist()
    return _NAN if _is_nan(number) else number


_REPLACED = -2
"""The number of the text that an imputer replaces."""


def _look_up_text(graph: Graph, features: Features, codes: dict[Any, int]) -> str:
    imputed = [feature.imputed for feature in features if feature.imputed]
    markers = {one.missing for one in imputed}
    if len(imputed) < len(features) or len(markers) > 1:
        return _look_up(graph, matrix(graph, features), codes, True)
    x = matrix(graph, [one.original for one in imputed])
    ids = _look_up(graph, x, codes | dict.fromkeys(markers, _REPLACED), True)
    fills = np.array([[codes.get(one.fill, -1) for one in imputed]])
    return graph.add("Where", graph.add("Equal", ids, np.array(_REPLACED)), fills, ids)


def _look_up(graph: Graph, x: str, codes: dict[Any, int], is_text: bool) -> str:
    if is_text:
        keys = text_tensor(np.array(list(codes), dtype=object))
    else:
        doubles = [np.nan if key == _NAN else key for key in codes]
        keys = helper.make_tensor("", TensorProto.DOUBLE, [len(doubles)], doubles)
    return graph.add(
        "LabelEncoder",
        x,
        domain=ML,
        keys_tensor=keys,
        values_tensor=helper.make_tensor("", TensorProto.INT64, [len(codes)], [*codes.values()]),
        default_tensor=helper.make_tensor("", TensorProto.INT64, [1], [-1]),
    )


def _refuse_unknown(graph: Graph, encoder: Any, features: Features) -> None:
    for position, feature in enumerate(features):
        is_text = feature.kind == "text"
        keys = (_key(category, is_text, encoder) for category in encoder.categories_[position])
        codes = {key: index for index, key in enumerate(keys) if key is not None}
        if is_text:
            ids = _look_up_text(graph, [feature], codes)
        else:
            ids = _look_up(graph, matrix(graph, [feature]), codes, is_text)
        refuse_where(graph, graph.add("Less", ids, np.array(0)))


def _is_nan(value: Any) -> bool:
    return (isinstance(value, float | np.floating) and bool(np.isnan(value))) or value is pd.NA


def _require_text(values: Sequence[Any], part: Any) -> None:
    for value in values:
        if not isinstance(value, str):
            raise CompilationError(f"{type(part).__name__} has {value!r} in a column of text")
        # The first marks a missing value; ONNX Runtime truncates constants at the second.
        if value.startswith(MISSING_TEXT) or "\0" in value:
            raise CompilationError(
                f"{type(part).__name__} has the text {value!r}, which ONNX cannot represent here"
            )


_EXACT = 2**53


def _as_doubles(values: Sequence[Any], part: Any) -> np.ndarray:
    for value in values:
        if isinstance(value, str):
            raise CompilationError(f"{type(part).__name__} has {value!r} in a column of numbers")
        if isinstance(value, int | np.integer) and abs(int(value)) >= _EXACT:
            raise CompilationError(
                f"{type(part).__name__} has the integer {value}, which a double cannot hold exactly"
            )
    return np.array([float(value) for value in values])


_CONVERTERS: dict[type, Callable[[Graph, Any, Features], Features]] = {
    SeriesFeatures: transform_series,
    Pipeline: _pipeline,
    ColumnTransformer: _columns,
    FeatureUnion: _union,
    FunctionTransformer: _function,
    SimpleImputer: _imputer,
    MissingIndicator: _indicator,
    StandardScaler: _standard,
    MinMaxScaler: _min_max,
    MaxAbsScaler: _max_abs,
    Normalizer: _normalizer,
    RobustScaler: _robust,
    Binarizer: _binarizer,
    KBinsDiscretizer: _bins,
    PolynomialFeatures: _polynomial,
    OneHotEncoder: _one_hot,
    OrdinalEncoder: _ordinal,
    TargetEncoder: _target_means,
}
