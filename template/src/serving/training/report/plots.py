"""Plots of a fitted pipeline's answers, as PNG."""

import io
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn import metrics
from sklearn.calibration import calibration_curve
from sklearn.inspection import permutation_importance

from serving.contract.recipe import Task
from serving.engines.base import single_output
from serving.redaction import first_line
from serving.training.backtest import backtest, error_by_step
from serving.training.baseline import make_baseline
from serving.training.causal import qini_curve
from serving.training.report.labels import fonts, labels

if TYPE_CHECKING:
    from serving.training.report import Facts

logger = logging.getLogger(__name__)

MOST_ROWS = 20_000
"""Rows that are plotted; of more, a random sample."""
MOST_CLASSES = 20
"""Classes of a confusion matrix; the least frequent ones share the last cell."""
MOST_CURVES = 10
"""Classes that get a curve each."""
MOST_POINTS = 3_000
IMPORTANCE_ROWS = 1_000
IMPORTANCE_REPEATS = 5
IMPORTANCE_SECONDS = 20.0
MOST_BARS = 20

_BLUE, _ORANGE, _GREY = "#2b6cb0", "#dd6b20", "#a0aec0"
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#718096",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 11,
    "figure.dpi": 130,
    "font.size": 9,
    "grid.color": "#e2e8f0",
    "legend.fontsize": 8,
    "legend.frameon": False,
    "text.parse_math": False,  # a `$` in a name is a dollar
}


@dataclass(frozen=True)
class Plot:
    """One picture, and how to read it."""

    name: str
    title: str
    explanation: str
    png: bytes
    names: Mapping[str, str] = field(default_factory=dict)
    """The texts of labels such as `#3`, which stand for texts that do not fit."""


class _LeftOut(Exception):
    """A plot that makes no sense for this model or these rows; the message says why."""


@dataclass(frozen=True)
class _Drawing:
    title: str
    explanation: str
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass
class _Answers:
    """What the pipeline answers for the part that is plotted."""

    facts: "Facts"

    @cached_property
    def part(self) -> str:
        """The part of the data that is plotted: the one that the model knows least."""
        return next(name for name in ("test", "validation", "train") if name in self.facts.parts)

    @cached_property
    def backtest(self) -> pd.DataFrame | None:
        """That of a forecaster, which does not answer for past times; None for other models."""
        if not self.facts.recipe.is_forecaster:
            return None
        if "model" not in self.facts.backtests:
            raise _LeftOut("no rows were kept for a backtest")
        return self.facts.backtests["model"]

    @cached_property
    def rows(self) -> "pd.Index[Any]":
        return self._sample(self.facts.parts[self.part], MOST_ROWS)

    @cached_property
    def where(self) -> str:
        """The rows, in words."""
        if self.backtest is not None:
            return f"{len(self.backtest):,} values of {self.part}"
        of = len(self.facts.parts[self.part])
        count = len(self.rows)
        return f"{of:,} rows of {self.part}" if count == of else f"{count:,} rows of {self.part}"

    @cached_property
    def actual(self) -> Any:
        if self.backtest is not None:
            return self.backtest["actual"].to_numpy()
        target = self.facts.data.target_of(self.rows)
        assert target is not None
        return target.to_numpy()

    @cached_property
    def predicted(self) -> Any:
        if self.backtest is not None:
            return self.backtest["predicted"].to_numpy()
        predicted = self.facts.pipeline.predict(self.facts.data.features.loc[self.rows])
        return single_output(np.asarray(predicted))  # some regressors answer with a column

    @cached_property
    def classes(self) -> list[Any]:
        """The classes that the model knows, in the order of the probabilities."""
        return list(self.facts.pipeline.classes_)

    @cached_property
    def probabilities(self) -> Any:
        """Shape (rows, classes)."""
        if not hasattr(self.facts.pipeline, "predict_proba"):
            raise _LeftOut("the model gives no probabilities")
        return self.facts.pipeline.predict_proba(self.facts.data.features.loc[self.rows])

    @property
    def curves(self) -> Iterator[tuple[Any, Any, Any]]:
        """Class, whether each row has it, and its probability, for each class with a curve.

        Of two classes only the second one: the first is its mirror image.
        """
        if len(self.classes) > MOST_CURVES:
            raise _LeftOut(f"the target has more than {MOST_CURVES} classes")
        kept = range(1, 2) if len(self.classes) == 2 else range(len(self.classes))
        found = [(self.classes[i], self.actual == self.classes[i], i) for i in kept]
        usable = [(name, is_class, i) for name, is_class, i in found if 0 < is_class.mean() < 1]
        if not usable:
            raise _LeftOut(f"the rows of {self.part} have only one class")
        for name, is_class, i in usable:
            yield name, is_class, self.probabilities[:, i]

    def _sample(self, rows: "pd.Index[Any]", most: int) -> "pd.Index[Any]":
        if len(rows) <= most:
            return rows
        random = np.random.default_rng(self.facts.recipe.evaluation.random_state)
        return rows[np.sort(random.choice(len(rows), most, replace=False))]


def draw(facts: "Facts") -> tuple[list[Plot], list[str]]:
    """The plots of the recipe's task, and a sentence about each that is left out."""
    answers = _Answers(facts)
    plots, left_out = [], []
    for name, (title, make) in _PLOTS[facts.recipe.task_choice].items():
        try:
            with warnings.catch_warnings(), rc_context({**_STYLE, "font.family": fonts()}):
                warnings.simplefilter("ignore")
                figure = Figure(figsize=(5.4, 4.2), layout="constrained")
                drawing = make(answers, figure)
                png = io.BytesIO()
                figure.savefig(png, format="png")
        except _LeftOut as exc:
            left_out.append(f"{title}: left out, because {exc}.")
        except Exception as exc:  # the user's own estimator may raise anything
            logger.debug("the plot %s failed", name, exc_info=True)
            left_out.append(f"{title}: left out, because it failed: {first_line(exc)}.")
        else:
            plots.append(
                Plot(name, drawing.title, drawing.explanation, png.getvalue(), drawing.names)
            )
    return plots, left_out


def _confusion_matrix(answers: _Answers, figure: Figure) -> _Drawing:
    actual, predicted = pd.Series(answers.actual), pd.Series(answers.predicted)
    classes = sorted({*actual.unique(), *predicted.unique()})
    texts = [str(one) for one in classes]
    if len(classes) > MOST_CLASSES:
        frequent = actual.value_counts().index[: MOST_CLASSES - 1]
        classes = sorted(frequent)
        texts = [*map(str, classes), f"{len(texts) - len(classes)} others"]
    position = {one: i for i, one in enumerate(classes)}
    last = len(classes)
    matrix = metrics.confusion_matrix(
        [position.get(one, last) for one in actual],
        [position.get(one, last) for one in predicted],
        labels=range(len(texts)),
    )
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)

    size = len(texts)
    short, names = labels(texts)
    side = min(4.4 + 0.22 * max(size - 4, 0), 8.5)
    figure.set_size_inches(side + 0.9, side)
    figure.set_layout_engine("compressed")  # the squares have a fixed shape
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for row, column in np.ndindex(size, size):
        if matrix[row, column]:
            axes.text(
                column,
                row,
                f"{matrix[row, column]:,}",
                ha="center",
                va="center",
                color="white" if shares[row, column] > 0.5 else "#1a202c",
                fontsize=9 if size <= 12 else 7,
            )
    upright = size <= 10 and max(map(len, short)) <= 48 // size
    axes.set_xticks(
        range(size),
        short,
        rotation=0 if upright else 45,
        ha="center" if upright else "right",
        rotation_mode="anchor" if not upright else None,
    )
    axes.set_yticks(range(size), short)
    axes.set_xlabel("predicted")
    axes.set_ylabel("actual")
    bar = figure.colorbar(image, ax=axes, fraction=0.045, pad=0.03)
    bar.ax.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    bar.outline.set_visible(False)
    return _Drawing(
        f"Confusion matrix, {answers.where}",
        "Each cell counts the rows of the actual class (row) that got the predicted class "
        "(column), and its colour is the share of the actual class. All counts on the diagonal "
        "would be a model without mistakes.",
        names,
    )


def _roc(answers: _Answers, figure: Figure) -> _Drawing:
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", label="chance")

    def curve(is_class: Any, score: Any) -> tuple[Any, Any, float]:
        false, true, _ = metrics.roc_curve(is_class, score)
        return false, true, metrics.auc(false, true)

    names = _curves(axes, answers, curve, "AUC")
    axes.set_xlabel("false positive rate")
    axes.set_ylabel("true positive rate")
    _unit_square(axes, "lower right")
    return _Drawing(
        f"ROC {_of_class(answers)}, {answers.where}",
        "The share of the class that is found (upwards) against the share of the other rows that "
        "are wrongly taken for it (to the right), for every threshold. A good model comes close "
        "to the upper left corner; the area under the curve (AUC) is 1 there, and 0.5 for chance.",
        names,
    )


def _precision_recall(answers: _Answers, figure: Figure) -> _Drawing:
    axes = figure.subplots()

    def curve(is_class: Any, score: Any) -> tuple[Any, Any, float]:
        precision, recall, _ = metrics.precision_recall_curve(is_class, score)
        return recall, precision, float(metrics.average_precision_score(is_class, score))

    names = _curves(axes, answers, curve, "AP")
    if len(answers.classes) == 2:
        share = float(np.mean(answers.actual == answers.classes[1]))
        axes.axhline(share, color=_GREY, linestyle="--", label="chance")
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    _unit_square(axes, "lower left")
    return _Drawing(
        f"Precision and recall {_of_class(answers)}, {answers.where}",
        "How many of the rows that are taken for the class really have it (precision), against "
        "how many of the class are found (recall), for every threshold. A good model comes close "
        "to the upper right corner; AP is the average precision.",
        names,
    )


def _curves(
    axes: Axes,
    answers: _Answers,
    curve: Callable[[Any, Any], tuple[Any, Any, float]],
    area: str,
) -> Mapping[str, str]:
    """Draw one curve for each class; returns the texts of numbered labels."""
    curves = list(answers.curves)
    short, names = labels([name for name, _, _ in curves])
    for i, (one, (_, is_class, score)) in enumerate(zip(short, curves, strict=True)):
        x, y, value = curve(is_class, score)
        # A line that starts or ends with a step shows what the thresholds really give.
        axes.plot(
            x,
            y,
            drawstyle="steps-post",
            color=_BLUE if len(curves) == 1 else f"C{i}",
            label=f"{one} ({area} {value:.3f})",
            linewidth=1.6,
        )
    return names


def _of_class(answers: _Answers) -> str:
    """What a curve is about, for the title."""
    if len(answers.classes) > 2:
        return "of each class against the others"
    return f"of the class {answers.classes[1]}"


def _unit_square(axes: Axes, legend: Literal["lower left", "lower right"]) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.legend(loc=legend)


def _calibration(answers: _Answers, figure: Figure) -> _Drawing:
    probabilities = answers.probabilities
    if len(answers.classes) == 2:
        probability, is_right = probabilities[:, 1], answers.actual == answers.classes[1]
        [short], names = labels([answers.classes[1]])
        x, y = f"probability of {short}", "share of rows that have it"
        what = "the probability of the class"
    else:
        probability = probabilities.max(axis=1)
        is_right = np.asarray(answers.classes)[probabilities.argmax(axis=1)] == answers.actual
        x, y, names = "probability of the predicted class", "share of right answers", {}
        what = "the probability of the predicted class"
    bins = int(np.clip(len(probability) // 20, 2, 10))
    share, mean = calibration_curve(is_right, probability, n_bins=bins, strategy="quantile")
    if len(mean) < 2:
        raise _LeftOut("nearly all rows get the same probability")
    axes, counts = figure.subplots(
        2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1], "hspace": 0.04}
    )
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle="--", label="calibrated")
    axes.plot(mean, share, color=_BLUE, marker="o", label="model", linewidth=1.6)
    axes.set_ylabel(y)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(-0.02, 1.02)
    axes.legend(loc="upper left")
    counts.hist(probability, bins=np.linspace(0, 1, 21), color=_BLUE, alpha=0.6)
    counts.set_ylabel("rows")
    counts.set_xlabel(x)
    return _Drawing(
        f"Calibration, {answers.where}",
        f"Rows in {len(mean)} groups by {what}. On the dashed line, of the rows with a "
        "probability of 80% really 80% are so; below it the model is too sure. The bars count "
        "the rows.",
        names,
    )


def _predicted_against_actual(answers: _Answers, figure: Figure) -> _Drawing:
    actual, predicted = _points(answers)
    axes = figure.subplots()
    low, high = min(actual.min(), predicted.min()), max(actual.max(), predicted.max())
    axes.plot([low, high], [low, high], color=_GREY, linestyle="--")
    axes.scatter(actual, predicted, s=12, color=_BLUE, alpha=_alpha(actual), linewidths=0)
    axes.set_xlabel("actual")
    axes.set_ylabel("predicted")
    return _Drawing(
        f"Predicted against actual, {answers.where}",
        "Each point is a row. A point on the dashed line is predicted exactly; a cloud that is "
        "flatter than the line means that high values are predicted too low and low ones too high.",
    )


def _residuals(answers: _Answers, figure: Figure) -> _Drawing:
    actual, predicted = _points(answers)
    residuals = actual - predicted
    axes, counts = figure.subplots(
        1, 2, sharey=True, gridspec_kw={"width_ratios": [3, 1], "wspace": 0.04}
    )
    axes.axhline(0, color=_GREY, linestyle="--")
    axes.scatter(predicted, residuals, s=12, color=_BLUE, alpha=_alpha(actual), linewidths=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("actual minus predicted")
    everything = (answers.actual - answers.predicted).ravel()
    counts.hist(everything, bins="auto", orientation="horizontal", color=_BLUE, alpha=0.6)
    counts.set_xlabel("rows")
    return _Drawing(
        f"Residuals, {answers.where}",
        "The error of each row against its prediction, and how often each error occurs. Without "
        "a trend and with the same width everywhere, the model has used what the columns say; a "
        "curve or a funnel means that something is missing.",
    )


def _points(answers: _Answers) -> tuple[Any, Any]:
    """Actual and predicted values, few enough for a scatter plot."""
    actual, predicted = answers.actual.ravel(), answers.predicted.ravel()
    step = -(-len(actual) // MOST_POINTS)
    return actual[::step], predicted[::step]


def _alpha(points: Any) -> float:
    return 0.7 if len(points) < 500 else 0.35


def _importance(answers: _Answers, figure: Figure) -> _Drawing:
    facts = answers.facts
    scoring, score = _score(answers)
    rows = answers._sample(answers.rows, IMPORTANCE_ROWS)
    features, target = facts.data.features.loc[rows], facts.data.target_of(rows)
    assert target is not None
    if facts.recipe.task_choice is Task.CLASSIFICATION and target.nunique() < 2:
        raise _LeftOut(f"the rows of {answers.part} have only one class")
    count = features.shape[1]
    started = time.perf_counter()
    facts.pipeline.predict(features)
    once = time.perf_counter() - started
    if once * count > IMPORTANCE_SECONDS:
        raise _LeftOut(
            f"it would take more than {IMPORTANCE_SECONDS:g} s: one prediction of {len(rows):,} "
            f"rows takes {once:.2g} s, and there are {count:,} columns"
        )
    found = permutation_importance(
        facts.pipeline,
        features,
        target,
        scoring=scoring,
        n_repeats=min(IMPORTANCE_REPEATS, max(1, int(IMPORTANCE_SECONDS / (once * count)))),
        random_state=facts.recipe.evaluation.random_state,
    )
    order = np.argsort(found.importances_mean)[-MOST_BARS:]
    short, names = labels(features.columns)
    figure.set_size_inches(5.4, max(2.2, 1.0 + 0.28 * len(order)))
    axes = figure.subplots()
    axes.barh(
        [short[i] for i in order],
        found.importances_mean[order],
        xerr=found.importances_std[order],
        color=_BLUE,
        error_kw={"ecolor": "#4a5568", "elinewidth": 1},
    )
    axes.axvline(0, color="#718096", linewidth=0.8)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(f"loss of {score}")
    of = f"the {len(order)} most important of {count:,} columns, " if count > len(order) else ""
    return _Drawing(
        f"Permutation importance, {of}{len(rows):,} rows of {answers.part}",
        f"How much {score} the model loses when the values of one column are shuffled; the thin "
        "line is the spread over the repetitions. Columns that say the same share their "
        "importance, so each of them can look unimportant.",
        {one: text for one, text in names.items() if one in {short[i] for i in order}},
    )


def _score(answers: _Answers) -> tuple[str, str]:
    """The score whose loss is the importance: scikit-learn's name, and in words."""
    if answers.facts.recipe.task_choice is Task.REGRESSION:
        return "r2", "R²"
    pipeline = answers.facts.pipeline
    is_scored = hasattr(pipeline, "predict_proba") or hasattr(pipeline, "decision_function")
    if len(answers.classes) == 2 and is_scored:
        return "roc_auc", "ROC AUC"
    return "balanced_accuracy", "balanced accuracy"


def _qini_curve(answers: _Answers, figure: Figure) -> _Drawing:
    treatment = answers.facts.data.treatment
    assert treatment is not None
    given = treatment.loc[answers.rows].to_numpy()
    if len(np.unique(given)) < 2:
        raise _LeftOut(f"the rows of {answers.part} are all treated, or none of them is")
    shares, curve = qini_curve(answers.actual.astype(np.float64), given, answers.predicted)
    axes = figure.subplots()
    axes.plot([0, 1], [0, curve[-1]], color=_GREY, linestyle="--", label="a random order")
    axes.plot(shares, curve, color=_BLUE, linewidth=1.6, label="the model's order")
    axes.set_xlabel("share of the rows that is treated")
    axes.set_ylabel("outcome added, per row")
    axes.legend()
    return _Drawing(
        f"Qini curve, {answers.where}",
        "How much outcome the treatment adds if it goes to the rows with the largest predicted "
        "effect first. The higher the curve is above the dashed line, the better the model finds "
        "the rows for which the treatment is worth it. It is right only if the treatment was given "
        "at random.",
    )


def _effects(answers: _Answers, figure: Figure) -> _Drawing:
    axes = figure.subplots()
    axes.hist(answers.predicted, bins="auto", color=_BLUE, alpha=0.6)
    axes.axvline(0, color="#718096", linewidth=0.8)
    axes.axvline(answers.predicted.mean(), color=_ORANGE, linestyle="--", label="mean")
    axes.set_xlabel("predicted effect")
    axes.set_ylabel("rows")
    axes.legend()
    return _Drawing(
        f"Predicted effects, {answers.where}",
        "How many rows have which effect. A narrow distribution means that the model sees hardly "
        "any difference between rows.",
    )


def _cluster_sizes(answers: _Answers, figure: Figure) -> _Drawing:
    found, counts = np.unique(answers.predicted, return_counts=True)
    kept = np.argsort(-counts)[:MOST_BARS]
    axes = figure.subplots()
    axes.bar([str(found[i]) for i in kept], counts[kept], color=_BLUE, alpha=0.8)
    axes.grid(visible=False, axis="x")
    axes.set_xlabel("cluster")
    axes.set_ylabel("rows")
    of = f"the {MOST_BARS} largest of {len(found):,} clusters, " if len(found) > MOST_BARS else ""
    return _Drawing(
        f"Sizes of the clusters, {of}{answers.where}",
        "How many rows each cluster has. One cluster with nearly all rows, or many with a few "
        "rows, seldom say anything about the data.",
    )


def _forecast(answers: _Answers, figure: Figure) -> _Drawing:
    facts = answers.facts
    data, horizon = facts.data, facts.recipe.forecasting.horizon
    assert data.time is not None
    made = answers.backtest
    source = data.entities.loc[facts.parts[answers.part]] if made is None else made
    rows, which = source.index, ""
    if keys := list(data.entities.columns):
        names = source[keys].astype(str).agg(", ".join, axis=1)
        chosen = names.mode().iloc[0]
        rows = names.index[names == chosen]
        [short], named = labels([chosen])
        which = f" of {', '.join(keys)} {short}, one of {names.nunique()} series"
    else:
        named = {}
    if made is None:
        table = backtest(facts.pipeline, facts.recipe, data, rows[-MOST_POINTS:])
    else:
        table = made.loc[rows]
    is_whole = horizon > 1 and data.frequency is not None  # else only the first step has a time
    time = "time" if data.frequency is not None else "origin"
    # Forecasts that do not overlap: those of each horizon-th time.
    origins = np.unique(table["origin"].to_numpy())[::horizon]
    if not is_whole:
        table = table[table["step"] == 1]
    elif made is None:
        table = table[table["origin"].isin(origins)]
    known = table if made is None else _values_around(facts, table)
    figure.set_size_inches(7.4, 3.6)
    axes = figure.subplots()
    axes.plot(known[time], known["actual"], color=_GREY, linewidth=1.4, label="actual")
    for i, (_, one) in enumerate(table.groupby("origin") if is_whole else [(None, table)]):
        label = "predicted" if i == 0 else None
        axes.plot(one[time], one["predicted"], color=_BLUE, linewidth=1.4, label=label)
    axes.set_ylabel(str(facts.recipe.data.data_interface.target_column))
    axes.legend()
    axes.tick_params(axis="x", rotation=30)
    title = f"Forecast against actual{which}, {answers.part}"
    if made is not None:
        return _Drawing(title, "Each blue line is forecast from all values before it.", named)
    each = f"Each blue line is one forecast of {horizon} steps. " if is_whole else ""
    return _Drawing(
        title,
        f"{each}Where the blue line follows the grey one only one step later, the model does "
        "little more than repeat the last value.",
        named,
    )


def _values_around(facts: "Facts", table: pd.DataFrame) -> pd.DataFrame:
    """All values of a series in the time of its backtest, also those between the forecasts."""
    data = facts.data
    assert data.time is not None
    is_chosen = data.time.between(table["time"].min(), table["time"].max())
    for key in data.entities:
        is_chosen &= data.entities[key] == table[key].iloc[0]
    actual = data.target_of(is_chosen)
    return pd.DataFrame({"time": data.time[is_chosen], "actual": actual})[-MOST_POINTS:]


def _error_by_step(answers: _Answers, figure: Figure) -> _Drawing:
    facts = answers.facts
    if facts.recipe.forecasting.horizon == 1:
        raise _LeftOut("the model predicts one step")
    tables = facts.backtests
    if answers.backtest is None:
        data, train = facts.data, facts.parts["train"]
        naive = make_baseline(facts.recipe).fit(data.features.loc[train], data.target_of(train))
        tables = {
            label: backtest(model, facts.recipe, data, answers.rows)
            for label, model in (("baseline", naive), ("model", facts.pipeline))
        }
    axes = figure.subplots()
    for label, color in (("baseline", _GREY), ("model", _BLUE)):
        errors = error_by_step(tables[label])
        axes.plot(errors.index, errors, color=color, marker="o", markersize=3, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("mean absolute error")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return _Drawing(
        f"Error by step, {answers.where}",
        "How far the prediction of each step is off on average. Later steps are harder; from the "
        "step on at which the model reaches the baseline, it knows no more than past values say.",
    )


_PLOTS: dict[Task, dict[str, tuple[str, Callable[[_Answers, Figure], _Drawing]]]] = {
    Task.CLASSIFICATION: {
        "confusion_matrix": ("Confusion matrix", _confusion_matrix),
        "roc": ("ROC curve", _roc),
        "precision_recall": ("Precision-recall curve", _precision_recall),
        "calibration": ("Calibration", _calibration),
        "permutation_importance": ("Permutation importance", _importance),
    },
    Task.REGRESSION: {
        "predicted_against_actual": ("Predicted against actual", _predicted_against_actual),
        "residuals": ("Residuals", _residuals),
        "permutation_importance": ("Permutation importance", _importance),
    },
    Task.TIMESERIES: {
        "forecast": ("Forecast against actual", _forecast),
        "error_by_step": ("Error by step", _error_by_step),
        "predicted_against_actual": ("Predicted against actual", _predicted_against_actual),
        "residuals": ("Residuals", _residuals),
    },
    Task.CLUSTERING: {"cluster_sizes": ("Sizes of the clusters", _cluster_sizes)},
    Task.CAUSAL: {
        "qini": ("Qini curve", _qini_curve),
        "effects": ("Predicted effects", _effects),
    },
}
