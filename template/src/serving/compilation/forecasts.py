"""Convert the parts of models that forecast time series to ONNX."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from serving.compilation.answer import Answer
from serving.compilation.features import Feature, features_of, matrix
from serving.compilation.graph import Graph
from serving.errors import CompilationError
from serving.forecasting import RecursiveForecaster, SeriesFeatures, step_of

Features = list[Feature]


def transform_series(graph: Graph, transformer: SeriesFeatures, features: Features) -> Features:
    """Lags, rolling statistics and parts of the calendar; see `SeriesFeatures`."""
    by_name = {feature.name: feature for feature in features}
    past = [by_name[name] for name in transformer.history]
    if transformer.fill:
        past = _filled(graph, past)
    result = [by_name[name] for name in transformer.kept]
    result += [past[-lag] for lag in transformer.lags]
    for window, statistic in transformer.rolling:
        values = matrix(graph, past[-window:])
        result += features_of(_STATISTICS[statistic](graph, values, window), 1)
    if transformer.calendar:
        calendar = _Calendar(graph, matrix(graph, [by_name[transformer.timestamp]]))
        result += [features_of(getattr(calendar, part)(), 1)[0] for part in transformer.calendar]
    names = transformer.get_feature_names_out()
    return [replace(one, name=str(name)) for one, name in zip(result, names, strict=True)]


def _filled(graph: Graph, past: Features) -> Features:
    """The values, each replaced by the one before it where it is missing."""
    tensors = [matrix(graph, [one]) for one in past]
    for position in range(1, len(tensors)):
        value, before = tensors[position], tensors[position - 1]
        tensors[position] = graph.add("Where", graph.add("IsNaN", value), before, value)
    return [features_of(tensor, 1)[0] for tensor in tensors]


def predict_recursively(
    graph: Graph,
    model: RecursiveForecaster,
    features: Features,
    predict: Callable[[Graph, Any, Features], tuple[Any, Answer]],
) -> Answer:
    """The model once for each step, which gets the values of the earlier steps.

    Raises `CompilationError` if the time between two steps varies, as that of months does.
    """
    by_name = {feature.name: feature for feature in features}
    past = [by_name[name] for name in model.history]
    if model.fill:
        past = _filled(graph, past)
    values: list[str] = []
    for step in range(model.horizon):
        changed = dict(zip(model.history, past, strict=True))
        if step and model.timestamp:
            time = graph.add(
                "Add",
                matrix(graph, [by_name[model.timestamp]]),
                np.array(step * _seconds(str(model.frequency))),
            )
            [changed[model.timestamp]] = features_of(time, 1, "datetime")
        rows = [
            replace(changed[str(name)], name=name) if name in changed else feature
            for name, feature in by_name.items()
        ]
        _, answer = predict(graph, model.estimator_, rows)
        assert answer.values is not None
        values.append(answer.values)
        past = [*past, *features_of(answer.values, 1)][1:]
    return Answer(values=graph.add("Concat", *values, axis=1), outputs=model.horizon)


def _seconds(frequency: str) -> float:
    try:
        return pd.Timedelta(step_of(frequency)).total_seconds()
    except ValueError:
        raise CompilationError(
            f"RecursiveForecaster adds the frequency {frequency} to times, and its length varies; "
            "use strategy direct"
        ) from None


def _mean(graph: Graph, values: str, window: int) -> str:
    """Adds one value after the other, as `SeriesFeatures` does; `ReduceMean` has its own order."""
    each = graph.add_all("Split", window, values, axis=1, num_outputs=window)
    return graph.add("Div", graph.add("Sum", *each), np.array(float(window)))


def _deviation(graph: Graph, values: str, window: int) -> str:
    from_mean = graph.add("Sub", values, _mean(graph, values, window))
    return graph.add("Sqrt", _mean(graph, graph.add("Mul", from_mean, from_mean), window))


_STATISTICS: dict[str, Callable[[Graph, str, int], str]] = {
    "mean": _mean,
    "std": _deviation,
    "min": lambda graph, values, _: graph.add("ReduceMin", values, np.array([1]), keepdims=1),
    "max": lambda graph, values, _: graph.add("ReduceMax", values, np.array([1]), keepdims=1),
}


class _Calendar:
    """Parts of the proleptic Gregorian calendar, of shape (rows, 1), from seconds since 1970.

    Whole numbers below 2**53 are exact in doubles. The algorithm counts years from March, so that
    the leap day is the last one: https://howardhinnant.github.io/date_algorithms.html
    """

    def __init__(self, graph: Graph, seconds: str) -> None:
        self._graph = graph
        self._days = self._whole(seconds, 86_400)
        self._second = self._sum((1, seconds), (-86_400, self._days))
        shifted = self._sum((1, self._days), constant=719_468)  # since 0000-03-01
        era = self._whole(shifted, 146_097)
        day_of_era = self._sum((1, shifted), (-146_097, era))
        corrected = self._sum(
            (1, day_of_era),
            (-1, self._whole(day_of_era, 1_460)),
            (1, self._whole(day_of_era, 36_524)),
            (-1, self._whole(day_of_era, 146_096)),
        )
        year_of_era = self._whole(corrected, 365)
        self._day_of_year = self._sum(  # from March 1, counted from 0
            (1, day_of_era),
            (-365, year_of_era),
            (-1, self._whole(year_of_era, 4)),
            (1, self._whole(year_of_era, 100)),
        )
        self._month = self._whole(self._sum((5, self._day_of_year), constant=2), 153)
        self._is_next_year = self._is_at_least(self._month, 10)
        self._year = self._sum((1, year_of_era), (400, era), (1, self._is_next_year))

    def year(self) -> str:
        return self._year

    def quarter(self) -> str:
        return self._sum((1, self._whole(self._sum((1, self.month()), constant=-1), 3)), constant=1)

    def month(self) -> str:
        return self._sum((1, self._month), (-12, self._is_next_year), constant=3)

    def day(self) -> str:
        before = self._whole(self._sum((153, self._month), constant=2), 5)
        return self._sum((1, self._day_of_year), (-1, before), constant=1)

    def dayofyear(self) -> str:
        year = self._year
        leap = self._sum(
            (1, self._divides(year, 4)),
            (-1, self._divides(year, 100)),
            (1, self._divides(year, 400)),
        )
        # March 1 is day 60, or 61 in a leap year; January 1 is 306 days after March 1.
        from_march = self._sum((1, self._day_of_year), (1, leap), constant=60)
        from_january = self._sum((1, self._day_of_year), constant=-305)
        is_next = self._graph.add("Cast", self._is_next_year, to=9)
        return self._graph.add("Where", is_next, from_january, from_march)

    def dayofweek(self) -> str:
        shifted = self._sum((1, self._days), constant=3)  # 1970-01-01 was a Thursday
        return self._sum((1, shifted), (-7, self._whole(shifted, 7)))

    def is_weekend(self) -> str:
        return self._is_at_least(self.dayofweek(), 5)

    def hour(self) -> str:
        return self._whole(self._second, 3_600)

    def minute(self) -> str:
        rest = self._sum((1, self._second), (-3_600, self.hour()))
        return self._whole(rest, 60)

    def _whole(self, value: str, divisor: int) -> str:
        """The quotient, rounded down."""
        return self._graph.add("Floor", self._graph.add("Div", value, np.array(float(divisor))))

    def _divides(self, value: str, divisor: int) -> str:
        """1 where the divisor divides the value, else 0."""
        rest = self._sum((1, value), (-divisor, self._whole(value, divisor)))
        return self._graph.add("Cast", self._graph.add("Equal", rest, np.array(0.0)), to=11)

    def _is_at_least(self, value: str, limit: int) -> str:
        """1 where it is so, else 0."""
        flags = self._graph.add("GreaterOrEqual", value, np.array(float(limit)))
        return self._graph.add("Cast", flags, to=11)

    def _sum(self, *terms: tuple[int, str], constant: int = 0) -> str:
        """The sum of the tensors, each times its factor."""
        parts = [
            tensor if factor == 1 else self._graph.add("Mul", tensor, np.array(float(factor)))
            for factor, tensor in terms
        ]
        if constant:
            return self._graph.add("Add", self._sum_of(parts), np.array(float(constant)))
        return self._sum_of(parts)

    def _sum_of(self, parts: list[str]) -> str:
        return parts[0] if len(parts) == 1 else self._graph.add("Sum", *parts)
