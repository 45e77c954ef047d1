"""The recipe: what is trained and served, in the format of Modern ML Pipeline."""

import contextlib
import math
import re
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    PrivateAttr,
    field_validator,
    model_validator,
)
from pydantic_core import to_jsonable_python

from serving.config import yaml_file
from serving.config.yaml_file import Location, Reference
from serving.errors import RecipeError

_CLASS_PATH = r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$"


class Section(BaseModel):
    """Part of a recipe; an unknown key is an error, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _null_is_default(cls, content: Any) -> Any:
        """Give a key that is null its default, unless null is a valid value."""
        if not isinstance(content, Mapping):
            return content
        fields = cls.model_fields
        return {
            key: value
            for key, value in content.items()
            if value is not None or key not in fields or fields[key].default is None
        }


class Task(StrEnum):
    """The kind of task that the model solves."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"
    TIMESERIES = "timeseries"
    CLUSTERING = "clustering"
    CAUSAL = "causal"


class DataInterface(Section):
    """Names and roles of the columns; their types come from the data (the model's signature)."""

    entity_columns: list[str] = []
    feature_columns: list[str] | None = None
    target_column: str | None = None
    timestamp_column: str | None = None
    treatment_column: str | None = None
    sequence_length: int | None = Field(default=None, ge=1)

    @field_validator("entity_columns", "feature_columns")
    @classmethod
    def _listed_once(cls, columns: list[str] | None) -> list[str] | None:
        for column in columns or []:
            if columns and columns.count(column) > 1:
                raise ValueError(f"column '{column}' is listed twice")
        return columns

    @model_validator(mode="after")
    def _one_role_each(self) -> Self:
        for column in self.feature_columns or []:
            if column in self.entity_columns:
                raise ValueError(
                    f"column '{column}' is in entity_columns and in feature_columns; "
                    "it can identify a row or be a feature, not both"
                )
        return self

    @property
    def roles(self) -> dict[str, str]:
        """Column name -> role, for every column that is not a feature."""
        named = {
            self.treatment_column: "treatment_column",
            self.timestamp_column: "timestamp_column",
            self.target_column: "target_column",
        }
        roles = dict.fromkeys(self.entity_columns, "entity_columns")
        return roles | {name: role for name, role in named.items() if name is not None}

    def features_of(self, columns: list[str]) -> list[str]:
        """The features among a table's `columns`, in the recipe's order, or else in the table's.

        The target is never a feature, even if the recipe lists it.
        """
        wanted = columns if self.feature_columns is None else self.feature_columns
        skip = {self.target_column} if self.feature_columns is not None else set(self.roles)
        return [column for column in wanted if column not in skip]


class Loader(Section):
    """Where the training data is, unless `--data-path` names other data.

    The last four keys say how a CSV file is read.
    """

    source_uri: str | None = None
    """File, directory or pattern, address in an object store, or file with a query."""
    parameters: dict[str, Any] = {}
    """The variables of a query's template (`.sql.j2`)."""
    encoding: str = "utf-8"
    """A codec of Python, for instance `cp949`; UTF-8 may have a byte order mark."""
    delimiter: str = ","
    types: dict[str, Literal["boolean", "long", "double", "string", "datetime"]] = {}
    """Column -> type, for columns whose type shall not follow from their values."""
    date_format: dict[str, str] = {}
    """Column -> format of its dates in the notation of `strptime`; its type is `datetime`."""

    @field_validator("encoding")
    @classmethod
    def _is_a_codec(cls, encoding: str) -> str:
        try:
            "a".encode(encoding)
        except (LookupError, ValueError):
            raise ValueError(
                f"'{encoding}' is no text encoding of Python; known are, for example, utf-8, "
                "utf-16, cp949 and cp1252"
            ) from None
        return encoding

    @field_validator("delimiter")
    @classmethod
    def _is_one_character(cls, delimiter: str) -> str:
        if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\0':
            raise ValueError(f'must be one ASCII character such as ";" or "\\t" (is {delimiter!r})')
        if delimiter.isalnum():
            raise ValueError(f"must not be a letter or a digit (is {delimiter!r})")
        return delimiter

    @field_validator("date_format")
    @classmethod
    def _can_be_parsed(cls, formats: dict[str, str]) -> dict[str, str]:
        for column, form in formats.items():
            try:
                day = datetime.strptime(datetime(2001, 12, 31).strftime(form), form).date()
            except (ValueError, re.error):
                day = None
            if day != datetime(2001, 12, 31).date():
                raise ValueError(
                    f"'{form}' of the column '{column}' is no format of a date; it needs a year, "
                    "a month and a day, for example %Y.%m.%d"
                )
        return formats

    @model_validator(mode="after")
    def _formats_are_of_dates(self) -> Self:
        for column in self.date_format:
            if (type_ := self.types.get(column, "datetime")) != "datetime":
                raise ValueError(
                    f"column '{column}' has a date_format, but its type in types is {type_}; "
                    "remove one of them"
                )
        return self

    @property
    def declared(self) -> dict[str, str]:
        """Column -> type, for every column whose type the recipe gives."""
        return {**dict.fromkeys(self.date_format, "datetime"), **self.types}


class Fetcher(Section):
    """How features are joined to the loaded rows; a feature store is not supported."""

    type: Literal["pass_through"] = "pass_through"

    @field_validator("type", mode="before")
    @classmethod
    def _no_feature_store(cls, value: Any) -> Any:
        if value == "feature_store":
            raise ValueError("feature_store is not supported; use pass_through")
        return value


class Split(Section):
    """Shares of the rows for each part; they must add up to 1."""

    strategy: Literal["random", "stratified", "grouped", "temporal"] = "random"
    temporal_column: str | None = None
    group_column: str | None = None
    """Rows with the same value stay together; by default, rows with the same entity do."""
    train: float = Field(default=0.8, gt=0, le=1)
    validation: float = Field(default=0.0, ge=0, lt=1)
    test: float = Field(default=0.2, ge=0, lt=1)
    calibration: float | None = Field(default=None, ge=0, lt=1)

    @property
    def time(self) -> str | None:
        """The column that a temporal split sorts by."""
        return self.temporal_column if self.strategy == "temporal" else None

    @model_validator(mode="after")
    def _shares(self) -> Self:
        total = self.train + self.validation + self.test + (self.calibration or 0)
        if abs(total - 1) > 1e-9:
            names = "train, validation, test and calibration"
            if not self.calibration:
                names = "train, validation and test"
            raise ValueError(f"{names} must add up to 1, not {total:g}")
        if self.group_column is not None and self.strategy != "grouped":
            raise ValueError(f"group_column needs strategy grouped, not {self.strategy}")
        return self


FORECASTERS = "statsforecast."
"""How the class path of a forecaster begins."""
_OF_FEATURES = ("strategy", "lags", "rolling", "calendar")
"""Keys that say from which features a regressor predicts a time series."""

Statistic = Literal["mean", "std", "min", "max"]
Calendar = Literal[
    "year", "quarter", "month", "day", "dayofyear", "dayofweek", "is_weekend", "hour", "minute"
]


class Rolling(Section):
    """Statistics of the last values of a series."""

    window: int = Field(ge=2, le=1_000)
    """How many values."""
    statistics: list[Statistic] = Field(default=["mean"], min_length=1)


class Forecasting(Section):
    """How far a time series is predicted, and from what.

    The defaults are the features that Modern ML Pipeline makes.
    """

    horizon: int = Field(default=1, ge=1, le=1_000)
    """How many values are predicted: that of the row's timestamp, and those that follow."""
    strategy: Literal["direct", "recursive"] = "direct"
    """A model for each step, or one model that also gets its own predictions."""
    frequency: str | None = None
    """The time between two values, as an alias of pandas such as `D` or `MS`; `rows`: any time."""
    lags: list[int] = [1, 2, 3, 7, 14]
    """Values that are features: 1 is the last one before the timestamp."""
    rolling: list[Rolling] = [
        Rolling(window=window, statistics=["mean", "std"]) for window in (3, 7, 14)
    ]
    calendar: list[Calendar] = ["year", "month", "day", "dayofweek", "quarter", "is_weekend"]
    """Parts of the timestamp that are features."""

    @field_validator("lags")
    @classmethod
    def _are_in_the_past(cls, lags: list[int]) -> list[int]:
        for lag in lags:
            if not 1 <= lag <= 1_000:
                raise ValueError(f"must be from 1 (the last value) to 1000 (is {lag})")
        return sorted(set(lags))

    @field_validator("calendar")
    @classmethod
    def _once(cls, calendar: list[Calendar]) -> list[Calendar]:
        return list(dict.fromkeys(calendar))

    @model_validator(mode="after")
    def _can_feed_back(self) -> Self:
        if self.strategy == "recursive" and self.horizon > 1 and not self.history:
            raise ValueError(
                "strategy recursive needs lags or rolling, through which predictions are fed back"
            )
        return self

    @property
    def statistics(self) -> list[tuple[int, Statistic]]:
        """The window and the statistic of each rolling feature."""
        pairs = [(one.window, how) for one in self.rolling for how in one.statistics]
        return list(dict.fromkeys(pairs))

    @property
    def history(self) -> int:
        """How many values before the timestamp are needed."""
        return max([0, *self.lags, *(one.window for one in self.rolling)])

    def history_columns(self, target: str) -> list[str]:
        """The model's columns of these values, the oldest first."""
        return [f"{target}_lag_{lag}" for lag in range(self.history, 0, -1)]


class Data(Section):
    """The table and the roles of its columns."""

    loader: Loader = Loader()
    fetcher: Fetcher = Fetcher()
    data_interface: DataInterface
    forecasting: Forecasting | None = None
    """Only for time series."""
    split: Split = Split()
    example: dict[str, Any] = {}
    """Column values for the API's example; the other values are typical or invented."""
    known_before_target: list[str] = []
    """Features that may give the target away: they are known before it, so they are no leak."""

    def features_of(self, columns: list[str]) -> list[str]:
        """The features among a table's `columns`.

        A column that the split sorts or groups by is a feature only if the recipe lists it.
        """
        features = self.data_interface.features_of(columns)
        if self.data_interface.feature_columns is not None:
            return features
        return [name for name in features if name not in (self.split.time, self.split.group_column)]


TARGET_ENCODER = "catboost_encoder"
"""The step that encodes by the target; its name is that of the format."""
FORWARD_FILL = "forward_fill"
"""The step that fills the history of a time series with the last value before a gap."""
_STEP_OPTIONS = {
    "simple_imputer": ("strategy", "create_missing_indicators"),
    "constant_fill": ("fill_value",),
    "one_hot_encoder": ("handle_unknown",),
    "ordinal_encoder": ("handle_unknown", "unknown_value"),
    TARGET_ENCODER: (),
    FORWARD_FILL: (),
    "standard_scaler": (),
    "min_max_scaler": (),
    "robust_scaler": (),
    "kbins_discretizer": ("n_bins", "strategy", "encode"),
    "polynomial_features": ("degree", "interaction_only"),
    "transformer": ("class_path", "values"),
}
_STRATEGIES = {
    "simple_imputer": ("mean", "median", "most_frequent"),
    "kbins_discretizer": ("uniform", "quantile", "kmeans"),
}


_USES_OTHER_ROWS = (
    "uses other rows, which a request does not have; use simple_imputer or constant_fill"
)


class Step(Section):
    """One preprocessing step; without `columns` it applies to every suitable column."""

    type: Literal[
        "simple_imputer",
        "constant_fill",
        "one_hot_encoder",
        "ordinal_encoder",
        "catboost_encoder",
        "forward_fill",
        "standard_scaler",
        "min_max_scaler",
        "robust_scaler",
        "kbins_discretizer",
        "polynomial_features",
        "transformer",
    ]
    columns: list[str] | None = Field(default=None, min_length=1)
    strategy: str | None = None
    fill_value: str | int | float | bool | None = None
    degree: int | None = Field(default=None, ge=2)
    interaction_only: bool = False
    """Only products of different columns, no powers."""
    n_bins: int | None = Field(default=None, ge=2)
    encode: Literal["ordinal", "onehot"] | None = None
    """A bin as its number, or as a column of its own."""
    create_missing_indicators: bool = False
    handle_unknown: str | None = None
    unknown_value: int | None = None
    class_path: str | None = Field(default=None, pattern=_CLASS_PATH)
    """A class of yours with scikit-learn's `fit` and `transform`."""
    values: dict[str, Any] | None = None
    """Arguments of its constructor."""

    @model_validator(mode="before")
    @classmethod
    def _servable(cls, content: Any) -> Any:
        """Refuse a type of the format before its options are looked at, which are unknown here."""
        value = content.get("type") if isinstance(content, Mapping) else None
        if value in ("drop_missing", "backward_fill", "interpolation"):
            raise ValueError(f"{value} {_USES_OTHER_ROWS}")
        if value == "tree_based_feature_generator":
            raise ValueError(
                f"{value} is not supported, because scikit-learn has no transformer that fits "
                "trees to the target and returns their leaves; set model.class_path to an ensemble "
                "of trees, or use {type: transformer} with a class of your own"
            )
        return content

    @model_validator(mode="after")
    def _own_options(self) -> Self:
        known = _STEP_OPTIONS[self.type]
        for key in self.model_fields_set - {"type", "columns", *known}:
            if getattr(self, key) not in (None, False):
                names = ", ".join(("columns", *known))
                raise ValueError(f"{self.type} has no option {key}; its options are {names}")
        strategies = _STRATEGIES.get(self.type)
        if strategies and self.strategy is not None and self.strategy not in strategies:
            hint = "; use constant_fill with fill_value" if self.strategy == "constant" else ""
            raise ValueError(f"strategy must be one of {', '.join(strategies)}{hint}")
        if self.type == "constant_fill" and self.fill_value is None:
            raise ValueError("constant_fill needs fill_value")
        if self.type == "transformer" and (self.class_path is None or self.columns is None):
            raise ValueError("transformer needs class_path and columns")
        return self


class Preprocessor(Section):
    """Ordered steps, fitted and saved in one pipeline with the model."""

    steps: list[Step] = []


class Calibration(Section):
    """Calibrated probabilities of a classifier, fitted on a part of the data of its own."""

    enabled: bool = False
    method: str | None = None
    """`sigmoid` or `isotonic`."""

    @model_validator(mode="after")
    def _known_method(self) -> Self:
        if not self.enabled or self.method in ("sigmoid", "isotonic"):
            return self
        if self.method == "beta":
            raise ValueError(
                "method beta is not supported, because scikit-learn has no beta calibration; "
                "use isotonic or sigmoid"
            )
        given = "" if self.method is None else f", not {self.method!r}"
        raise ValueError(f"method must be isotonic or sigmoid{given}")


class Tunable(Section):
    """The values among which tuning searches for one hyperparameter."""

    type: Literal["float", "int", "categorical"]
    range: list[Any] = Field(min_length=1)
    """The lowest and the highest value; for `categorical`, all values."""
    log: bool = False
    """Whether to search on a logarithmic scale."""

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.type == "categorical":
            if self.log:
                raise ValueError("log is only for the types float and int")
            return self
        low, high = self.limits
        if low > high:
            raise ValueError(f"range [{low}, {high}] is reversed; write [{high}, {low}]")
        if self.log and low <= 0:
            raise ValueError(f"log needs a range above 0, not [{low}, {high}]")
        return self

    @property
    def limits(self) -> tuple[float, float] | tuple[int, int]:
        """The lowest and the highest value of a number.

        YAML reads `1e-5` as text, so numbers in text are numbers here.
        """
        try:
            low, high = (float(limit) for limit in self.range)
        except (TypeError, ValueError):
            raise ValueError("range must be two numbers, the lowest and the highest") from None
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("range must be two finite numbers")
        if self.type == "float":
            return low, high
        if not (low.is_integer() and high.is_integer()):
            raise ValueError("range of the type int must be two integers")
        return int(low), int(high)

    @property
    def first(self) -> Any:
        """One of the values."""
        return self.range[0] if self.type == "categorical" else self.limits[0]


class Hyperparameters(Section):
    """Arguments of the estimator's constructor, and which of them are tuned."""

    tuning_enabled: bool = False
    values: dict[str, Any] = {}
    optimization_metric: str | None = None
    n_trials: int | None = Field(default=None, ge=1)
    timeout: float | None = Field(default=None, gt=0)
    """Seconds after which no trial starts."""
    fixed: dict[str, Any] = {}
    """As `values`; the format uses this key where it tunes."""
    tunable: dict[str, Tunable] = {}

    @model_validator(mode="after")
    def _said_once(self) -> Self:
        if self.tuning_enabled and not self.tunable:
            raise ValueError("tuning_enabled needs tunable, the hyperparameters to search for")
        if not self.tuning_enabled:
            for key in ("tunable", "fixed"):
                if getattr(self, key):
                    raise ValueError(
                        f"{key} needs tuning_enabled: true; without tuning, give values"
                    )
        for name in (*self.values, *self.fixed):
            keys = [key for key in ("values", "fixed", "tunable") if name in getattr(self, key)]
            if len(keys) > 1:
                raise ValueError(f"'{name}' is in {' and in '.join(keys)}; give it once")
        return self

    @property
    def given(self) -> dict[str, Any]:
        """The arguments that are not tuned."""
        return self.values | self.fixed


class Registration(Section):
    """Where the model is registered once it has been proven, and which alias then names it."""

    name: str = Field(min_length=1, max_length=255)
    alias: str | None = Field(default=None, max_length=255)

    @field_validator("name")
    @classmethod
    def _addressable(cls, name: str) -> str:
        if not re.fullmatch(r"[^/:@\s]([^/:@]*[^/:@\s])?", name) or name in (".", ".."):
            raise ValueError(
                f"'{name}' cannot be part of models:/NAME@ALIAS; leave out /, :, @ and outer blanks"
            )
        return name

    @field_validator("alias")
    @classmethod
    def _valid_alias(cls, alias: str | None) -> str | None:
        if alias is not None and not re.fullmatch(r"[\w-]+", alias):
            raise ValueError(f"'{alias}' may have only letters, digits, _ and -")
        if alias is not None and re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
            raise ValueError(f"'{alias}' is reserved by MLflow; choose another, such as champion")
        return alias


class Model(Section):
    """The estimator: any importable class with scikit-learn's `fit` and `predict`."""

    class_path: str = Field(pattern=_CLASS_PATH)
    library: str | None = None
    calibration: Calibration = Calibration()
    hyperparameters: Hyperparameters = Hyperparameters()
    compile: bool = False
    """Whether training also compiles the model, like `mmp compile`, if that is possible."""
    registration: Registration | None = None


class Gate(Section):
    """What a metric of the run must reach; otherwise training fails and registers nothing."""

    metric: str = Field(min_length=1)
    """With the part of the data, as it is logged: `test_accuracy`."""
    minimum: FiniteFloat | None = None
    maximum: FiniteFloat | None = None
    not_worse_than: str | None = None
    """An alias of the registered model: the version that it names now is the one to reach."""
    tolerance: FiniteFloat = Field(default=0.0, ge=0)
    """By how much the metric may be worse than that of the alias."""

    @model_validator(mode="after")
    def _demands_something(self) -> Self:
        if self.minimum is None and self.maximum is None and self.not_worse_than is None:
            raise ValueError("needs minimum, maximum or not_worse_than")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum:g} is above maximum {self.maximum:g}")
        if self.tolerance and self.not_worse_than is None:
            raise ValueError("tolerance needs not_worse_than")
        return self


class Evaluation(Section):
    """The metrics to log (null: the usual ones), the seed of all that is random, and the gate."""

    metrics: list[str] | None = None
    cross_validation: int | None = Field(default=None, ge=2)
    """The number of folds; null: no cross-validation."""
    random_state: int = Field(default=42, ge=0, le=2**32 - 1)
    gate: list[Gate] = []

    @field_validator("gate", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, Mapping) else value


class Recipe(Section):
    """What is trained and served."""

    name: str = Field(min_length=1)
    task_choice: Task
    data: Data
    preprocessor: Preprocessor | None = None
    model: Model
    evaluation: Evaluation = Evaluation()
    metadata: dict[str, Any] | None = None
    monitoring: dict[str, Any] | None = None

    _references: dict[Location, Reference] = PrivateAttr(default_factory=dict)
    """Values from the environment, by their location in the file."""

    @model_validator(mode="after")
    def _target_and_time(self) -> Self:
        interface = self.data.data_interface
        needed = {
            "target_column": self.task_choice is not Task.CLUSTERING,
            "timestamp_column": self.task_choice is Task.TIMESERIES,
            "treatment_column": self.task_choice is Task.CAUSAL,
        }
        for key, is_needed in needed.items():
            if is_needed and getattr(interface, key) is None:
                raise ValueError(
                    f"data.data_interface.{key}: is required for the task {self.task_choice}"
                )
        treatment = interface.treatment_column
        if self.task_choice is Task.CAUSAL and (
            treatment == interface.target_column
            or treatment in interface.entity_columns
            or treatment in (interface.feature_columns or [])
        ):
            raise ValueError(
                f"data.data_interface.treatment_column: '{treatment}' has another role, too; the "
                "effect of the treatment is predicted, so it is no feature, entity or target"
            )
        return self

    @model_validator(mode="after")
    def _is_split_by_time(self) -> Self:
        if self.task_choice is not Task.TIMESERIES:
            if self.data.forecasting is not None:
                raise ValueError(
                    f"data.forecasting: is only for the task timeseries, not {self.task_choice}"
                )
            return self
        plan, time = self.data.split, self.data.data_interface.timestamp_column
        if "strategy" in plan.model_fields_set and plan.strategy != "temporal":
            raise ValueError(
                f"data.split.strategy: a time series is split by time, never {plan.strategy}; "
                "leave it out, or set it to temporal"
            )
        if time in self.data.data_interface.entity_columns:
            raise ValueError(
                f"data.data_interface.entity_columns: '{time}' is the timestamp_column; the entity "
                "columns tell the series apart"
            )
        if plan.temporal_column not in (None, time):
            raise ValueError(
                f"data.split.temporal_column: must be the timestamp_column, '{time}', or be left "
                "out"
            )
        return self

    @property
    def forecasting(self) -> Forecasting:
        """The part `data.forecasting`, or its defaults."""
        return self.data.forecasting or Forecasting()

    @property
    def is_forecaster(self) -> bool:
        """Whether the model is a forecaster, which learns each series from its values alone."""
        is_series = self.task_choice is Task.TIMESERIES
        return is_series and self.model.class_path.startswith(FORECASTERS)

    @property
    def values_per_row(self) -> int:
        """How many values the model answers for one row."""
        is_series = self.task_choice is Task.TIMESERIES
        return self.forecasting.horizon if is_series and not self.is_forecaster else 1

    @property
    def history_columns(self) -> list[str]:
        """The columns of the values before a timestamp, the oldest first; none for other tasks."""
        target = self.data.data_interface.target_column
        if self.task_choice is not Task.TIMESERIES or self.is_forecaster or target is None:
            return []
        return self.forecasting.history_columns(target)

    @model_validator(mode="after")
    def _has_a_history_to_fill(self) -> Self:
        steps = self.preprocessor.steps if self.preprocessor else []
        for index, step in enumerate(steps):
            if step.type != FORWARD_FILL or self.is_forecaster:
                continue
            if self.task_choice is not Task.TIMESERIES:
                raise ValueError(f"preprocessor.steps.{index}: {FORWARD_FILL} {_USES_OTHER_ROWS}")
            target = self.data.data_interface.target_column
            if step.columns not in (None, [target]):
                raise ValueError(
                    f"preprocessor.steps.{index}.columns: {FORWARD_FILL} fills the history of "
                    f"'{target}', which a row has; other columns have no values before the row"
                )
        return self

    @property
    def fills_history(self) -> bool:
        """Whether gaps in the history of a time series are filled."""
        steps = self.preprocessor.steps if self.preprocessor else []
        return any(step.type == FORWARD_FILL for step in steps)

    @model_validator(mode="after")
    def _has_one_target_to_encode_by(self) -> Self:
        steps = self.preprocessor.steps if self.preprocessor else []
        for index, step in enumerate(steps):
            if step.type != TARGET_ENCODER:
                continue
            if self.task_choice is Task.CLUSTERING:
                raise ValueError(
                    f"preprocessor.steps.{index}: {TARGET_ENCODER} learns from the target, which "
                    "clustering does not have; use one_hot_encoder or ordinal_encoder"
                )
            if self.forecasting.horizon > 1 and self.forecasting.strategy == "direct":
                raise ValueError(
                    f"preprocessor.steps.{index}: {TARGET_ENCODER} learns from one target, but a "
                    f"horizon of {self.forecasting.horizon} has one for each step; use "
                    "one_hot_encoder or ordinal_encoder"
                )
        return self

    @model_validator(mode="after")
    def _forecaster_has_no_features(self) -> Self:
        if not self.is_forecaster:
            return self
        plan, given = self.forecasting, self.forecasting.model_fields_set
        features = [f"data.forecasting.{key}" for key in _OF_FEATURES if key in given]
        if self.data.data_interface.feature_columns:
            features.append("data.data_interface.feature_columns")
        if self.preprocessor and self.preprocessor.steps:
            features.append("preprocessor.steps")
        for key in features:
            raise ValueError(
                f"{key}: has no meaning for {self.model.class_path}, which learns a series from "
                "its values alone; leave it out"
            )
        if plan.frequency == "rows":
            raise ValueError(
                f"data.forecasting.frequency: {self.model.class_path} needs values at regular "
                "times, so it cannot be rows; name the frequency (h, D, W, MS, ...)"
            )
        if self.evaluation.cross_validation:
            raise ValueError(
                f"evaluation.cross_validation: {self.model.class_path} is evaluated by a backtest, "
                "which fits it several times already; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _groups_and_calibration(self) -> Self:
        plan = self.data.split
        entities = self.data.data_interface.entity_columns
        is_series = self.task_choice is Task.TIMESERIES
        if plan.strategy == "temporal" and plan.temporal_column is None and not is_series:
            raise ValueError(
                "data.split: strategy temporal needs temporal_column, the column to sort by"
            )
        if plan.strategy == "stratified" and self.task_choice is not Task.CLASSIFICATION:
            raise ValueError(
                "data.split.strategy: stratified is only for classification, "
                f"not {self.task_choice}"
            )
        if plan.strategy == "grouped" and plan.group_column is None and not entities:
            raise ValueError(
                "data.split: strategy grouped needs group_column, or entity_columns to group by"
            )
        if plan.group_column and plan.group_column == self.data.data_interface.target_column:
            raise ValueError("data.split.group_column: must not be the target column")
        is_calibrated = self.model.calibration.enabled
        if is_calibrated and self.task_choice is not Task.CLASSIFICATION:
            raise ValueError(
                f"model.calibration.enabled: is only for classification, not {self.task_choice}"
            )
        if is_calibrated and not plan.calibration:
            raise ValueError(
                "model.calibration.enabled: needs data.split.calibration, a share of the rows"
            )
        if plan.calibration and not is_calibrated:
            raise ValueError("data.split.calibration: needs model.calibration.enabled: true")
        return self

    @model_validator(mode="after")
    def _gate_has_a_registered_model(self) -> Self:
        if self.model.registration is None and any(g.not_worse_than for g in self.evaluation.gate):
            raise ValueError(
                "evaluation.gate.not_worse_than: needs model.registration.name, the registered "
                "model that has the alias"
            )
        return self

    def with_parameters(self, parameters: Mapping[str, Any]) -> Self:
        """The recipe with these variables of the query, besides its own."""
        if not parameters:
            return self
        loader = self.data.loader
        loader = loader.model_copy(update={"parameters": {**loader.parameters, **parameters}})
        return self.model_copy(update={"data": self.data.model_copy(update={"loader": loader})})

    @property
    def texts_with_variables(self) -> list[str]:
        """The texts that contain `${VAR}`, as written in the file."""
        return [reference.text for reference in self._references.values()]

    def as_written(self) -> dict[str, Any]:
        """The recipe as JSON for logging and display, with `${VAR}` as in the file.

        It is a valid recipe itself, so variables for keys outside `_OPEN` are replaced by their
        values, which are numbers.
        """
        content = self.model_dump(exclude_unset=True)
        for location, reference in self._references.items():
            if _OPEN.fullmatch(_key(location)):
                _replace(content, location, reference)
        written: dict[str, Any] = to_jsonable_python(content)
        return written


_OPEN = re.compile(
    r"data\.loader\.(source_uri|parameters\..*)"
    r"|model\.hyperparameters\.(values|fixed)\..*"
    r"|preprocessor\.steps\.\d+\.values\..*"
    r"|(metadata|monitoring)\..*",
    re.DOTALL,
)
"""Keys that accept any value from the environment, because serving does not depend on them."""


def load_recipe(path: Path) -> Recipe:
    """Read and validate a recipe file.

    Raises `RecipeError` with one sentence that names the file, the key and the rule.
    """
    document = yaml_file.read(path, RecipeError)
    for location, reference in document.references.items():
        is_text = not isinstance(reference.value, int | float | None)
        if is_text and not _OPEN.fullmatch(_key(location)):
            raise RecipeError(
                f"{path}: {_key(location)}: '{reference.text}' must be a number or boolean "
                "here; text from the environment is allowed only in data.loader.source_uri, "
                "data.loader.parameters, model.hyperparameters (values and fixed), the values of a "
                "step, metadata and monitoring"
            )
    recipe = document.validate(Recipe, RecipeError)
    recipe._references.update(document.references)
    return recipe


def _key(location: Location) -> str:
    return ".".join(map(str, location))


def _replace(content: Any, location: Location, reference: Reference) -> None:
    """Replace the value at a location by its text, unless the value has changed."""
    *parents, last = location
    with contextlib.suppress(LookupError, TypeError):
        for key in parents:
            content = content[key]
        if content[last] == reference.value:
            content[last] = reference.text
