"""From recipe and signature to a typed API: request, response and OpenAPI document."""

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.json_schema import models_json_schema

from serving.config.yaml_file import did_you_mean, first_problem
from serving.contract.columns import COLUMN_TYPES, Column, Signature
from serving.contract.details import Detail
from serving.contract.recipe import Recipe, Task
from serving.errors import ContractError, ExtensionError

HISTORY = "history"
"""The field of a request with the values of a time series before the sample's timestamp."""

OPEN_VALUES = 1_000_000
"""Lower bound of `most_values` for bodies that may have values other than those of columns."""


class Request(BaseModel):
    """Base of every request: strict, and by default without unknown fields.

    A column may have any name (with spaces, a keyword, an attribute of Pydantic). So fields are
    named by position and the column's name is the alias.
    """

    model_config = ConfigDict(strict=True, extra="forbid")


class LenientRequest(Request):
    """A request whose unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")


class Response(BaseModel):
    """Base of every response; numbers that JSON cannot represent (NaN, infinity) become null."""

    model_config = ConfigDict(ser_json_inf_nan="null", protected_namespaces=())


class APISchemaGenerator:
    """Generates the schemas of one model's API.

    Names and roles of the columns come from the recipe's DataInterface, their types from the
    model's signature. The target column is never part of a request, even if it is listed.

    Args:
        recipe: the recipe, or its content as a mapping; None for a model without one. Its features
            are then all inputs of its signature.
        signature: the model's columns; None types every column as a JSON scalar.
        entity_types: types of the entity columns, which the model itself does not receive.
        example: a valid request for the OpenAPI document; missing entities are invented.
        input_example: a valid row, used without `example`. It may be a row of the training data,
            so its entities are not shown.
        classes: labels that the model gives probabilities for.
        details: what the model answers besides.
        profile: the values of each column in training: `{"minimum": 1, "maximum": 9}` or
            `{"values": [...]}`. It only documents; no request is refused because of it.
        unknown_fields: whether unknown fields are refused or ignored.
        max_batch_rows: how many samples a batch may have.
        request_fields: the user's additional fields of a sample.
        response_fields: the user's additional fields of an answer.

    Raises:
        ContractError: recipe and signature do not match; the message names the column.
        ExtensionError: an additional field has the name of a column or of another field.
    """

    def __init__(
        self,
        recipe: Recipe | Mapping[str, Any] | None,
        signature: Signature | None = None,
        *,
        entity_types: Mapping[str, str] | None = None,
        example: Mapping[str, Any] | None = None,
        input_example: Mapping[str, Any] | None = None,
        classes: Sequence[Any] = (),
        details: Sequence[Detail] = (),
        profile: Mapping[str, Mapping[str, Any]] | None = None,
        unknown_fields: Literal["forbid", "ignore"] = "forbid",
        max_batch_rows: int = 10_000,
        request_fields: type[BaseModel] | None = None,
        response_fields: type[BaseModel] | None = None,
    ) -> None:
        self.recipe = _validated(recipe)
        self.signature = signature
        self._classes = [label_name(label) for label in classes]
        self.details = details
        self._profile = profile or {}
        request = Request if unknown_fields == "forbid" else LenientRequest
        # The framework's base comes last, so that its configuration takes precedence.
        self._request = (request_fields, request) if request_fields else (request,)
        self._response = (response_fields, Response) if response_fields else (Response,)
        self.max_batch_rows = max_batch_rows
        # Report one invalid sample, not thousands.
        self._samples = Field(min_length=1, max_length=max_batch_rows, fail_fast=True)
        self.inputs = self._input_columns()
        self.columns = self._context_columns(entity_types or {}) + self.inputs
        self.request_fields = _public_names(request_fields)
        self.response_fields = _public_names(response_fields)
        self.history = self._history_columns()
        """The inputs that a request has as one array, the oldest value first; empty if none."""
        names = [column.name for column in self.columns if column.name not in self.history]
        names += [HISTORY] if self.history else []
        _check_names("RequestFields", self.request_fields, names)
        taken = [*_RESPONSE_FIELDS, *(detail.name for detail in details)]
        _check_names("ResponseFields", self.response_fields, taken)
        made_up = {column.name: column.spec.made_up for column in self.entities}
        given: dict[str, Any] = {}
        if example:
            given = {**made_up, **example}
        elif input_example:
            given = {**input_example, **made_up}
        self.example = {name: given[name] for name in names if name in given}
        if self.history and all(name in given for name in self.history):
            self.example[HISTORY] = [given[name] for name in self.history]
        self.example |= _examples(request_fields)

    def generate_request_schema(self) -> type[BaseModel]:
        """Create the model of one sample: a flat object of columns, without the target.

        The history of a time series is one array of them.
        """
        fields = self._fields(self.columns)
        if self.history:
            fields = {
                key: field for key, field in fields.items() if field[1].alias not in self.history
            }
            fields[HISTORY] = self._history_field()
        return create_model(
            "PredictionRequest", __base__=self._request, __doc__="One sample.", **fields
        )

    def generate_batch_request_schema(self, sample: Any) -> type[BaseModel]:
        """Create the model of many samples; `sample` is the request schema of one.

        With `Any` it checks only the number of samples.
        """
        samples = (list[sample], self._samples)
        return create_model(
            "BatchPredictionRequest",
            __base__=self._request[-1],
            __doc__="Many samples.",
            samples=samples,
        )

    def generate_invocation_schema(self) -> type[BaseModel]:
        """Create the model of many rows in MLflow's protocol, which has no entity columns.

        Entity columns are not required, and are ignored if they are sent.
        """
        own = len(self.columns) - len(self.inputs)
        fields = self._fields(self.columns)
        for index, column in enumerate(self.columns[:own]):
            fields[f"column_{index}"] = (Any, Field(None, alias=column.name))
        row = create_model("InvocationRow", __base__=self._request, **fields)
        return self.generate_rows_schema(row)

    def generate_rows_schema(self, row: Any) -> type[BaseModel]:
        """Create the model of many rows; with `Any` it checks only their number."""
        return create_model("InvocationRows", __base__=Request, rows=(list[row], self._samples))

    def generate_invocation_response_schema(self) -> type[BaseModel]:
        """Create the model of many answers in MLflow's protocol."""
        prediction = self._prediction_type()
        return create_model(
            "InvocationResponse",
            __base__=Response,
            __doc__="Answers in the order of the rows.",
            predictions=(list[prediction], ...),  # type: ignore[valid-type]  # made at run time
        )

    def generate_response_schema(self) -> type[BaseModel]:
        """Create the model of one answer, typed by the task and the signature's output."""
        fields: dict[str, Any] = {
            "prediction": (self._prediction_type(), Field(description="The model's prediction")),
            "confidence": (
                float | None,
                Field(
                    None,
                    description="Probability of the prediction; null where the model gives none",
                ),
            ),
        }
        if self.classifies:
            fields["probabilities"] = (
                dict[str, float] | None,
                Field(
                    None,
                    description="Class -> probability; null where the model gives none",
                    examples=[dict.fromkeys(self._classes, 0.0)] if self._classes else None,
                ),
            )
        for detail in self.details:
            fields[detail.name] = _detail_field(detail)
        if self.entities:
            keys: dict[str, Any] = self._fields(self.entities)
            entities = create_model(
                "Entities", __base__=Response, __doc__="The sample's entity columns.", **keys
            )
            fields["entities"] = (entities, Field(description="Which sample this answers"))
        fields["model_version"] = (
            str | None,
            Field(
                description="Name and version in the model registry, NAME/VERSION; null for a "
                "model that was not loaded from the registry"
            ),
        )
        fields["model_id"] = (
            str,
            Field(
                description="Which model answered: MLflow's id of the logged model, or its UUID or "
                "the name of its directory where it has no id"
            ),
        )
        return create_model(
            "PredictionResponse", __base__=self._response, __doc__="One answer.", **fields
        )

    def generate_batch_response_schema(self, answer: type[BaseModel]) -> type[BaseModel]:
        """Create the model of many answers; `answer` is the response schema of one."""
        return create_model(
            "BatchPredictionResponse",
            __base__=Response,
            __doc__="Answers in the order of the samples.",
            predictions=(list[answer], ...),  # type: ignore[valid-type]  # made at run time
        )

    def generate_openapi_spec(self, document: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return an OpenAPI document whose components are this model's schemas.

        Args:
            document: the application's own document, whose paths refer to the components
                `PredictionRequest`, `PredictionResponse` and their `Batch` forms; without it,
                the returned document has components only.
        """
        spec: dict[str, Any] = copy.deepcopy(dict(document or {"openapi": "3.1.0", "paths": {}}))
        spec["info"] = spec.get("info", {"version": "1"}) | {
            "title": self.recipe.name if self.recipe else "Model",
            "description": self._description(),
        }
        request = self.generate_request_schema()
        response = self.generate_response_schema()
        _, definitions = models_json_schema(
            [
                (request, "validation"),
                (self.generate_batch_request_schema(request), "validation"),
                (self.generate_invocation_schema(), "validation"),
                (self.generate_invocation_response_schema(), "serialization"),
                (response, "serialization"),
                (self.generate_batch_response_schema(response), "serialization"),
            ],
            ref_template="#/components/schemas/{model}",
        )
        schemas = definitions["$defs"]
        del schemas["InvocationRows"]
        schemas["InvocationRequest"] = _invocation_request()
        if self.example:
            schemas["PredictionRequest"]["example"] = self.example
            schemas["BatchPredictionRequest"]["example"] = {"samples": [self.example]}
        spec.setdefault("components", {}).setdefault("schemas", {}).update(schemas)
        return spec

    def _description(self) -> str:
        """The description in the recipe's metadata, or else the task and class of the model."""
        if self.recipe is None:
            return "A model that was logged without a recipe."
        described = (self.recipe.metadata or {}).get("description")
        if isinstance(described, str) and described.strip():
            return described
        return f"Task: {self.task}. Model: {self.recipe.model.class_path}."

    @property
    def task(self) -> Task | None:
        """The recipe's task; None without a recipe."""
        return self.recipe.task_choice if self.recipe else None

    @property
    def classifies(self) -> bool:
        """Whether answers have a class and its probability."""
        may_classify = self.task in (None, Task.CLUSTERING)
        return self.task is Task.CLASSIFICATION or (may_classify and bool(self._classes))

    @property
    def entities(self) -> list[Column]:
        """The columns that identify a row."""
        names = self.recipe.data.data_interface.entity_columns if self.recipe else []
        return [column for column in self.columns if column.name in names]

    @cached_property
    def most_values(self) -> int:
        """The most values that a body may have, including objects and arrays.

        The largest batch, with a value for each field, has half as many. Ignored fields may hold
        any content, and the user's own fields may hold lists and objects.
        """
        fields = len(self.columns) + len(self.request_fields)
        most = 2 * (self.max_batch_rows * (fields + 1) + 8)
        is_open = self.request_fields or self._request[-1] is LenientRequest
        return max(most, OPEN_VALUES) if is_open else most

    def about(self, name: str) -> str:
        """The message for an unknown field of a request, to follow its name."""
        if self.recipe and name == self.recipe.data.data_interface.target_column:
            if self.task is Task.CLUSTERING:
                return "is the recipe's target, which clustering does not use; leave it out"
            return "is the target, which the model predicts; leave it out"
        if self.recipe and name == self.recipe.data.data_interface.treatment_column:
            return "is the treatment, whose effect the model predicts; leave it out"
        if name in self.history:
            return f"is item {self.history.index(name)} of {HISTORY}, counted from 0; send that"
        columns = [column.name for column in self.columns if column.name not in self.history]
        known = [*columns, *([HISTORY] if self.history else []), *self.request_fields.values()]
        return f"unknown field{did_you_mean(name, known)}"

    def role(self, column: Column) -> str:
        """The role of a column: `entity`, `timestamp`, `treatment`, `history` or `feature`."""
        if column.name in self.history:
            return "history"
        roles = self.recipe.data.data_interface.roles if self.recipe else {}
        name = roles.get(column.name, "feature")
        return name.removesuffix("_columns").removesuffix("_column")

    def _input_columns(self) -> list[Column]:
        """The model's input columns in its own order, checked against the recipe."""
        if self.recipe is None:
            if self.signature is None:
                raise ContractError(
                    "the model has neither a signature nor a recipe, so its columns are unknown; "
                    "log it with a signature (mlflow.models.infer_signature)"
                )
            return list(self.signature.inputs)

        interface = self.recipe.data.data_interface
        if self.signature is None:
            if interface.feature_columns is None:
                raise ContractError(
                    "the model has no signature and its recipe has no feature_columns, "
                    "so its columns are unknown; log it with a signature"
                )
            return [Column(name, "any") for name in interface.features_of([])]

        taken = [column.name for column in self.signature.inputs]
        if interface.target_column in taken:
            raise ContractError(
                f"the model's signature asks for the target column '{interface.target_column}'; "
                "train the model without it"
            )
        features = interface.features_of(taken)
        for name in features:
            if name not in taken:
                raise ContractError(
                    f"the recipe's feature column '{name}' is not in the model's signature "
                    f"({', '.join(taken)})"
                )
        for name in taken:
            if name not in (*features, *interface.roles, *self.recipe.history_columns):
                raise ContractError(
                    f"the model's signature asks for the column '{name}', "
                    "which the recipe's data_interface does not list"
                )
        return list(self.signature.inputs)

    def _history_columns(self) -> list[str]:
        """The columns of the history among the inputs, checked against the recipe."""
        wanted = self.recipe.history_columns if self.recipe else []
        taken = [column.name for column in self.inputs if column.name in wanted]
        first = [column.name for column in self.inputs].index(taken[0]) if taken else 0
        together = [column.name for column in self.inputs][first : first + len(wanted)]
        if taken and together != wanted:
            raise ContractError(
                f"the recipe's history is {', '.join(wanted)}, but the model's signature does not "
                f"have these columns one after the other; it has {', '.join(taken)}"
            )
        if taken and HISTORY in [column.name for column in self.columns]:
            raise ContractError(f"the column '{HISTORY}' has the name of the field of past values")
        return taken

    def _history_field(self) -> tuple[Any, Any]:
        assert self.recipe is not None
        interface = self.recipe.data.data_interface
        count = len(self.history)
        seen = [self._profile.get(name, {}) for name in self.history]
        description = (
            f"The {count} values of {interface.target_column} before {interface.timestamp_column}, "
            "the oldest first"
        )
        if all("minimum" in one for one in seen):
            low, high = min(one["minimum"] for one in seen), max(one["maximum"] for one in seen)
            description += f"; {low} to {high} in training"
        value: Any = COLUMN_TYPES["double"].annotation
        columns = [column for column in self.inputs if column.name in self.history]
        if not all(column.required for column in columns):
            value, description = value | None, f"{description}; values may be null"
        return list[value], Field(
            min_length=count, max_length=count, description=description, title=HISTORY
        )

    def _context_columns(self, entity_types: Mapping[str, str]) -> list[Column]:
        """Request columns that the model does not take: entities, and the time of a series."""
        if self.recipe is None:
            return []
        interface = self.recipe.data.data_interface
        types = {name: entity_types.get(name, "any") for name in interface.entity_columns}
        if self.task is Task.TIMESERIES and interface.timestamp_column:
            types.setdefault(interface.timestamp_column, "datetime")
        elsewhere = {interface.target_column, *(column.name for column in self.inputs)}
        return [Column(name, type_) for name, type_ in types.items() if name not in elsewhere]

    def _fields(self, columns: Sequence[Column]) -> dict[str, Any]:
        return {f"column_{index}": self._field(column) for index, column in enumerate(columns)}

    def _field(self, column: Column) -> tuple[Any, Any]:
        description = f"{self.role(column)}, {column.spec.rule}"
        if not column.required:
            description += "; may be missing"
        seen = self._profile.get(column.name, {})
        if "minimum" in seen:
            description += f"; {seen['minimum']} to {seen['maximum']} in training"
        elif "forecast" in seen:
            description += "; the forecasts are for {} to {}".format(*seen["forecast"])
        elif "values" in seen:
            description += "; the examples are the values in training"
        options: dict[str, Any] = {"title": column.name, "examples": seen.get("values")}
        if column.required:
            field = Field(alias=column.name, description=description, **options)
            return column.spec.annotation, field
        field = Field(None, alias=column.name, description=description, **options)
        return column.spec.annotation | None, field

    def _prediction_type(self) -> Any:
        """The type of `prediction`: a scalar, or an object or list for several outputs."""
        outputs = self.signature.outputs if self.signature else ()
        if not outputs:
            return Any
        if len(outputs) == 1:
            has_labels = self.classifies or self.task is Task.CLUSTERING
            is_label = has_labels and outputs[0].type in ("integer", "long")
            return int if is_label else _answer_type(outputs[0])
        if not all(output.name for output in outputs):
            types = {_answer_type(output) for output in outputs}
            return list[types.pop() if len(types) == 1 else Any]  # type: ignore[misc]  # made at run time
        fields: dict[str, Any] = {
            f"output_{index}": (_answer_type(output), Field(alias=output.name, title=output.name))
            for index, output in enumerate(outputs)
        }
        return create_model(
            "Outputs", __base__=Response, __doc__="Each output by its name.", **fields
        )


# An answer that is missing or that JSON cannot represent (NaN, infinity) is null. Answers are not
# checked against the range of their type.
_ANSWER_TYPES: dict[str, Any] = {
    "boolean": bool,
    "integer": int | None,
    "long": int | None,
    "float": float | None,
    "double": float | None,
    "string": str,
    "binary": COLUMN_TYPES["binary"].annotation,
    "datetime": COLUMN_TYPES["datetime"].annotation | None,
    "any": Any,
}


def _detail_field(detail: Detail) -> tuple[Any, Any]:
    if detail.labels is None:
        return float, Field(description=detail.description)
    example = {str(key): 0.0 for key in detail.columns.values()}
    return dict[str, float], Field(description=detail.description, examples=[example])


def _answer_type(output: Column) -> Any:
    return _ANSWER_TYPES[output.type] if output.required else _ANSWER_TYPES[output.type] | None


def _invocation_request() -> dict[str, Any]:
    """JSON Schema of MLflow's protocol; forms that a schema cannot express are in words."""
    rows = {"type": "array", "items": {"$ref": "#/components/schemas/InvocationRow"}, "minItems": 1}
    return {
        "description": "Rows as objects; or `dataframe_split` with `columns` (names) and `data` "
        "(lists of values); or `inputs` with a list of values for each column.",
        "anyOf": [
            {
                "type": "object",
                "properties": {name: rows},
                "required": [name],
                "additionalProperties": False,
            }
            for name in ("dataframe_records", "instances", "inputs")
        ],
    }


_RESPONSE_FIELDS = (
    "prediction",
    "confidence",
    "probabilities",
    "entities",
    "model_version",
    "model_id",
)


def _public_names(fields: type[BaseModel] | None) -> dict[str, str]:
    """Attribute -> name in JSON, for each field."""
    found = fields.model_fields if fields else {}
    return {name: field.alias or name for name, field in found.items()}


def _check_names(what: str, names: Mapping[str, str], taken: Sequence[str]) -> None:
    for name in names.values():
        if name in taken:
            raise ExtensionError(f"{what}: the field '{name}' already exists; rename yours")


def _examples(fields: type[BaseModel] | None) -> dict[str, Any]:
    """The first example of each field that has one."""
    found = fields.model_fields if fields else {}
    return {f.alias or name: f.examples[0] for name, f in found.items() if f.examples}


def label_name(label: Any) -> str:
    """A class as a JSON key."""
    return str(label).lower() if isinstance(label, bool) else str(label)


def _validated(recipe: Recipe | Mapping[str, Any] | None) -> Recipe | None:
    if recipe is None or isinstance(recipe, Recipe):
        return recipe
    try:
        return Recipe.model_validate(recipe)
    except ValidationError as exc:
        raise ContractError(f"the model's recipe: {first_problem(exc, Recipe)}") from None
