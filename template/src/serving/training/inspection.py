"""What is in the columns of training data, and what looks wrong there.

Nothing here changes the data. A warning says what was seen and what to write in the recipe.
"""

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.preprocessing import OrdinalEncoder
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from serving.contract.columns import WRITTEN_NUMBER, Column, parse_datetime
from serving.contract.recipe import TARGET_ENCODER, Data, Recipe, Task
from serving.data.tables import infer_column, to_table
from serving.errors import DataError
from serving.training.profile import profile

MOST_ENCODED = 50
"""Text with more distinct values than this makes too many columns when it is one-hot encoded."""
FEWEST_ROWS = 20
"""With fewer rows than this, nothing is said about identifiers and about the target."""
MOSTLY = 0.8
"""From this share of its values on, text is called a column of numbers or of dates."""
GIVEN_AWAY = 0.99
"""A column whose single-column tree reaches this score (balanced accuracy, R2) on rows that the
tree has not seen gives the target away."""
SAMPLE_ROWS = 2000
"""Rows on which these trees are fitted."""

_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
_WRITTEN = re.compile(WRITTEN_NUMBER)
_DECIMAL_COMMA = re.compile(r"\s*[+-]?(\d+|\d{1,3}(\.\d{3})+),\d+\s*%?\s*")
_IDENTIFIER = re.compile(r"(^|[\W_])(id|uuid|guid|key|no|nr|number|code)$|id$|번호$", re.IGNORECASE)
_IDENTIFIER_CASE = re.compile(r"[a-z](Id|ID|No)$")
_DATES = (
    *("%Y.%m.%d", "%Y/%m/%d", "%Y-%m-%d", "%Y%m%d", "%y.%m.%d", "%Y. %m. %d", "%Y. %m. %d."),
    *("%Y년 %m월 %d일", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%d %b %Y"),
)
_TIMES = ("", " %H:%M", " %H:%M:%S", "T%H:%M:%S", " %I:%M %p")


@dataclass(frozen=True)
class Summary:
    """One column of the data."""

    name: str
    role: str
    """`feature`, `entity`, `target`, `timestamp`, `treatment`, `temporal` or `not used`."""
    type: str
    missing: float
    """Share of the rows without a value."""
    distinct: int
    """How many different values there are."""
    example: str
    """A typical value; empty where it may be personal."""


@dataclass(frozen=True)
class Inspection:
    """What was seen in a table."""

    rows: int
    columns: list[Summary]
    warnings: list[str]


@dataclass(frozen=True)
class Written:
    """Text that is nearly something else."""

    kind: str
    """`thousands`, `percentages`, `dates`, `decimal commas`, which no type can read, or `numbers`
    with some words among them."""
    type: str
    """The type to declare."""
    count: int
    """Values that are written so; for `numbers`, the values that are none."""
    example: str
    formats: tuple[str, ...] = ()
    """Formats that fit every date; several if day and month cannot be told apart."""
    others: int = 0
    """Values that would break the declared type."""


def written(values: "pd.Series[Any]") -> Written | None:
    """Find out whether text holds numbers or dates in a form that is not read as such.

    Args:
        values: the texts without missing values.
    """
    counts = values.value_counts()
    total = int(counts.sum())
    names = pd.Series(counts.index.astype(str), index=counts.index)
    plain = names.map(lambda text: bool(_NUMBER.fullmatch(text)))
    number = plain | names.map(lambda text: bool(_WRITTEN.fullmatch(text)))
    commas = ~number & names.map(lambda text: bool(_DECIMAL_COMMA.fullmatch(text)))
    if commas.any() and counts[number | commas].sum() >= MOSTLY * total:
        count, example = int(counts[commas].sum()), str(counts[commas].index[0])
        return Written("decimal commas", "double", count, example, others=count)
    if counts[number].sum() < MOSTLY * total:
        return _dates(counts)
    others = counts[~number]
    if not others.empty:
        return Written(
            "numbers", "double", int(others.sum()), str(others.index[0]), others=int(others.sum())
        )
    percent = counts[names.str.contains("%")]
    odd = percent if not percent.empty else counts[names.str.contains(",")]
    if odd.empty:
        return None
    fraction = names.str.contains(r"[.%]").any()
    kind = "thousands" if percent.empty else "percentages"
    return Written(kind, "double" if fraction else "long", int(odd.sum()), str(odd.index[0]))


def _dates(counts: "pd.Series[int]") -> Written | None:
    texts = pd.Series(counts.index.astype(str))
    fitting: dict[str, int] = {}
    if texts.head(20).str.match(r"\s*\d").mean() < MOSTLY:
        return None
    for form in (f"{day}{time}" for day in _DATES for time in _TIMES):
        first = pd.to_datetime(texts.head(20), format=form, errors="coerce")
        if first.notna().mean() < MOSTLY:
            continue
        parsed = pd.to_datetime(texts, format=form, errors="coerce").notna().to_numpy()
        fitting[form] = int(counts[parsed].sum())
    total, most = int(counts.sum()), max(fitting.values(), default=0)
    if most < MOSTLY * total:
        return None
    formats = tuple(form for form, count in fitting.items() if count == most)
    return Written("dates", "datetime", most, str(counts.index[0]), formats, total - most)


def is_compact_date(values: "pd.Series[Any]") -> bool:
    """Whether integers are dates such as 20240402."""
    numbers = values.drop_duplicates()
    if len(numbers) < 2 or not numbers.between(1900_01_01, 2100_12_31).all():
        return False
    texts = numbers.astype("int64").astype(str)
    return bool(pd.to_datetime(texts, format="%Y%m%d", errors="coerce").notna().all())


def is_identifier(values: "pd.Series[Any]", name: str) -> bool:
    """Whether every row has another text or integer that says who it is.

    Integers count as such only if they number the rows, or if the column is named like a key.
    """
    if len(values) < FEWEST_ROWS or not values.is_unique:
        return False
    if not types.is_numeric_dtype(values.dtype):
        return all(isinstance(value, str) for value in values)
    if not types.is_integer_dtype(values.dtype):
        return False
    dense = int(values.max()) - int(values.min()) < 2 * len(values)
    named = bool(_IDENTIFIER.search(name) or _IDENTIFIER_CASE.search(name))
    return named or (dense and bool(values.is_monotonic_increasing))


def inspect(
    recipe: Recipe,
    frame: pd.DataFrame,
    columns: Mapping[str, Column],
    zeros: "Mapping[str, pd.Series[Any]]",
) -> Inspection:
    """Summarize every column, and warn of what training would silently take as it is.

    Args:
        recipe: the roles of the columns.
        frame: the rows with a target; columns with a role have the types of `columns`.
        columns: the columns with a role.
        zeros: the texts with leading zeros, of columns that were read as numbers.
    """
    roles = _roles(recipe.data, columns)
    summaries = [
        _summary(frame[name], str(name), columns.get(str(name)), roles.get(str(name), "not used"))
        for name in frame.columns
    ]
    return Inspection(len(frame), summaries, list(_warnings(recipe, frame, columns, roles, zeros)))


def _roles(data: Data, columns: Mapping[str, Column]) -> dict[str, str]:
    roles = dict.fromkeys(data.features_of(list(columns)), "feature")
    for key, name in data.split:
        if key.endswith("_column") and name in columns:
            roles.setdefault(name, key.removesuffix("_column"))
    for name, key in data.data_interface.roles.items():
        roles[name] = "entity" if key == "entity_columns" else key.removesuffix("_column")
    return roles


def _summary(values: "pd.Series[Any]", name: str, column: Column | None, role: str) -> Summary:
    present = values.dropna()
    if column is None:
        try:
            column = infer_column(values, name)
            typed = to_table(values.to_frame(), [column], Path())
            present = pd.Series(typed[name], name=name).dropna()
        except DataError:
            column = None  # not of a type that training knows, which is no matter here
    typical = ""
    if column is not None and role != "entity" and not is_identifier(present, name):
        seen = profile(present.to_frame(), [column]) if column.type != "datetime" else {}
        found = seen.get(name, {}).get("typical", "")
        typical = f"{found:.6g}" if isinstance(found, float) else str(found)
    if column is not None and column.type == "datetime" and role != "entity":
        moments = sorted(map(parse_datetime, present.head(SAMPLE_ROWS)))
        typical = str(moments[len(moments) // 2].date())
    return Summary(
        name,
        role,
        column.type if column else "none",
        float(values.isna().mean()),
        _distinct(present),
        typical,
    )


def _distinct(values: "pd.Series[Any]") -> int:
    try:
        return int(values.nunique())
    except TypeError:  # lists and other values that cannot be hashed
        return int(values.astype(str).nunique())


def _warnings(
    recipe: Recipe,
    frame: pd.DataFrame,
    columns: Mapping[str, Column],
    roles: Mapping[str, str],
    zeros: "Mapping[str, pd.Series[Any]]",
) -> Iterator[str]:
    interface, declared = recipe.data.data_interface, recipe.data.loader.declared
    target = interface.target_column
    if target in (interface.feature_columns or []):
        yield (
            f"column '{target}': is the target and is listed as a feature, but is never learned "
            "from; remove it from data_interface.feature_columns"
        )
    learned = {name: column for name, column in columns.items() if roles[name] == "feature"}
    for name, column in columns.items():
        if roles[name] not in ("feature", "target", "treatment"):
            continue
        values = frame[name].dropna()
        if name in zeros:
            yield _about_zeros(name, zeros[name])
        elif name not in declared:
            yield from _about_form(name, column, values)
        if name in learned:
            yield from _about_feature(recipe, name, column, values)
    if target is not None and len(frame) >= FEWEST_ROWS:
        for name, score in _giving_away(recipe, frame, learned).items():
            if name in recipe.data.known_before_target:
                continue
            measure = "R2" if recipe.task_choice is Task.REGRESSION else "balanced accuracy"
            yield (
                f"column '{name}': gives the target away: on its own it predicts '{target}' with "
                f"a {measure} of {score:.3f}; leave it out of data_interface.feature_columns, or "
                "list it in data.known_before_target if it is known before the target"
            )


def _about_zeros(name: str, zeros: "pd.Series[Any]") -> str:
    return (
        f"column '{name}': {_counted(len(zeros))} leading zeros, such as "
        f'"{zeros.iloc[0]}", which are lost because the column is read as numbers; '
        f"write data.loader.types: {{{quoted(name)}: string}}"
    )


def _counted(count: int) -> str:
    return f"{count:,} value has" if count == 1 else f"{count:,} values have"


def quoted(name: str) -> str:
    """A name as it is written in YAML, in braces as well."""
    is_plain = re.fullmatch(r"[^\W\d][\w-]*", name) and not _YAML_WORD.fullmatch(name)
    return name if is_plain else json.dumps(name, ensure_ascii=False)


_YAML_WORD = re.compile(r"y|yes|n|no|true|false|on|off|null|none|nan", re.IGNORECASE)
"""Words that YAML does not read as text, and some that people may take for such."""


def _about_form(name: str, column: Column, values: "pd.Series[Any]") -> Iterator[str]:
    key = quoted(name)
    if types.is_integer_dtype(values.dtype) and is_compact_date(values):
        yield (
            f"column '{name}': all {len(values):,} values are dates such as "
            f'"{values.iloc[0]}", which are read as integers; write data.loader.date_format: '
            f'{{{key}: "%Y%m%d"}}'
        )
    if column.type != "string" or (found := written(values)) is None:
        return
    if found.kind == "decimal commas":
        yield (
            f"column '{name}': {_counted(found.count)} a decimal comma, such as "
            f'"{found.example}", which makes all of them text; save the file with decimal points'
        )
        return
    if found.kind == "numbers":
        yield (
            f"column '{name}': all values are numbers but {found.count:,} of {len(values):,}, "
            f'such as "{found.example}", which make all of them text; correct them or leave the '
            f"fields empty, and write data.loader.types: {{{key}: double}} (or string, if it "
            "is text)"
        )
        return
    if found.kind == "dates":
        remedy = f'data.loader.date_format: {{{key}: "{found.formats[0]}"}}'
        if len(found.formats) > 1:
            remedy += f' or "{found.formats[1]}" (both fit)'
        if found.others:
            remedy += f", and correct the other {found.others:,} values"
        yield (
            f"column '{name}': {found.count:,} values are dates such as \"{found.example}\", "
            f"which are read as text; write {remedy}"
        )
        return
    what = "commas between thousands" if found.kind == "thousands" else "a percent sign"
    yield (
        f"column '{name}': {_counted(found.count)} {what}, such as \"{found.example}\", which "
        f"makes all of them text; write data.loader.types: {{{key}: {found.type}}}"
    )


def needs_numbers(name: str, column: Column, values: "pd.Series[Any]") -> str:
    """What to do about a column that is nearly numbers, in parentheses; empty if it is not.

    Args:
        name: the column, whose type the recipe does not declare.
        column: its type.
        values: its values without missing ones.
    """
    found = written(values) if column.type == "string" else None
    if found is None or found.type not in ("long", "double"):
        return ""
    [warning] = _about_form(name, column, values)
    hint = warning.removeprefix(f"column '{name}': ")
    return f" ({hint})"


def _about_feature(
    recipe: Recipe, name: str, column: Column, values: "pd.Series[Any]"
) -> Iterator[str]:
    distinct = _distinct(values)
    is_declared = name in recipe.data.loader.declared
    if column.type == "string" and not is_declared and distinct > 1 and written(values):
        return  # has been told
    if distinct == 1:
        yield (
            f"column '{name}': has the same value in all {len(values):,} rows that have one; "
            "leave it out of data_interface.feature_columns"
        )
    elif is_identifier(values, name) and column.type in ("string", "long"):
        yield (
            f"column '{name}': each of the {len(values):,} rows has a value of its own, like an "
            "identifier; list it in data_interface.entity_columns, or leave it out"
        )
    elif column.type == "string" and distinct > MOST_ENCODED and _is_one_hot(recipe, name):
        has_target = recipe.task_choice is not Task.CLUSTERING
        encoder = TARGET_ENCODER if has_target else "ordinal_encoder"
        yield (
            f"column '{name}': is text with {distinct:,} different values, and one-hot encoding "
            f"makes a column of each; leave it out, or give it a step of its own: {{type: "
            f"{encoder}, columns: [{quoted(name)}]}}, before one_hot_encoder"
        )


def _is_one_hot(recipe: Recipe, name: str) -> bool:
    for step in recipe.preprocessor.steps if recipe.preprocessor else []:
        if step.columns is not None and name not in step.columns:
            continue
        if step.type in ("one_hot_encoder", "ordinal_encoder", TARGET_ENCODER):
            return step.type == "one_hot_encoder"
    return False


def _giving_away(
    recipe: Recipe, frame: pd.DataFrame, features: Mapping[str, Column]
) -> dict[str, float]:
    """The score of each feature that gives the target away; empty if most features do."""
    if recipe.task_choice not in (Task.CLASSIFICATION, Task.REGRESSION):
        return {}
    rows = frame.sample(min(SAMPLE_ROWS, len(frame)), random_state=0)
    target = rows[str(recipe.data.data_interface.target_column)]
    is_regression = recipe.task_choice is Task.REGRESSION
    scores = {
        name: single_score(rows[name], target, is_regression=is_regression)
        for name in features
        if not is_identifier(frame[name].dropna(), name)
    }
    found = {name: score for name, score in scores.items() if score >= GIVEN_AWAY}
    is_easy = len(scores) > 1 and len(found) > len(scores) / 2  # not the fault of one column
    return {} if is_easy else found


def single_score(
    values: "pd.Series[Any]", target: "pd.Series[Any]", *, is_regression: bool
) -> float:
    """How well one column alone predicts the target, on rows that its tree has not seen.

    Balanced accuracy, or R2 for a regression.
    """
    if types.is_datetime64_any_dtype(values.dtype):
        moments = values.to_numpy(dtype="datetime64[us]")
        codes = np.where(np.isnat(moments), np.nan, moments.astype("int64"))
    elif types.is_numeric_dtype(values.dtype):
        codes = values.to_numpy(dtype=float, na_value=np.nan)
    else:
        codes = OrdinalEncoder().fit_transform(values.astype(str).to_frame())
    table = np.where(np.isfinite(codes), codes, np.nan).reshape(-1, 1)
    labels = target.to_numpy(dtype=float) if is_regression else pd.factorize(target)[0]
    if not np.isfinite(labels).all():
        return 0.0  # training refuses such a target
    make = DecisionTreeRegressor if is_regression else DecisionTreeClassifier
    tree = make(min_samples_leaf=3, random_state=0)
    folds = KFold(2, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes that only one half has
        predicted = cross_val_predict(tree, table, labels, cv=folds)
        score = r2_score if is_regression else balanced_accuracy_score
        return float(score(labels, predicted))
