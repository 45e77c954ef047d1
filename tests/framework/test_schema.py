"""From recipe and signature to a typed API."""

import json
from typing import Any

import pytest
from conftest import RECIPE
from pydantic import ValidationError
from serving.contract.columns import COLUMN_TYPES, Column, Signature
from serving.contract.schema import APISchemaGenerator
from serving.errors import ContractError


def recipe(task: str = "classification", **interface: Any) -> dict[str, Any]:
    return RECIPE | {"task_choice": task, "data": {"data_interface": interface}}


def signature(output: str = "string", **columns: str) -> Signature:
    return Signature(
        tuple(Column(name, type_) for name, type_ in columns.items()), (Column("", output),)
    )


def properties(generator: APISchemaGenerator) -> dict[str, Any]:
    document = generator.generate_openapi_spec()
    found: dict[str, Any] = document["components"]["schemas"]["PredictionRequest"]["properties"]
    return found


@pytest.mark.parametrize("role", ["feature_columns", "entity_columns", "timestamp_column"])
def test_the_target_is_excluded_whatever_lists_it(role: str) -> None:
    interface: dict[str, Any] = {"target_column": "y", "timestamp_column": "t"}
    interface[role] = "y" if role == "timestamp_column" else ["y"]
    if role == "feature_columns":
        interface[role].append("a")
    generator = APISchemaGenerator(recipe("timeseries", **interface), signature(a="double"))
    assert "y" not in properties(generator)
    assert "a" in properties(generator)


def test_entities_and_the_timestamp_are_required_beside_the_features() -> None:
    generator = APISchemaGenerator(
        recipe("timeseries", entity_columns=["id"], target_column="y", timestamp_column="t"),
        signature("double", a="double"),
        entity_types={"id": "long"},
    )
    assert list(properties(generator)) == ["id", "t", "a"]
    assert properties(generator)["t"]["format"] == "date-time"
    with pytest.raises(ValidationError, match="3 validation errors"):
        generator.generate_request_schema().model_validate_json("{}")


def test_an_optional_column_may_be_absent_or_null() -> None:
    inputs = (Column("a", "double", required=False),)
    generator = APISchemaGenerator(recipe(target_column="y"), Signature(inputs))
    schema = generator.generate_request_schema()
    for body in ("{}", '{"a": null}', '{"a": 1.5}'):
        schema.model_validate_json(body)


NAMES = ["with space", "a.b", "고객", "1st", "_x", "class", "model_config", "column_0", "'\""]


def test_a_column_may_have_any_name() -> None:
    generator = APISchemaGenerator(
        recipe(target_column="y", feature_columns=NAMES), signature(**dict.fromkeys(NAMES, "long"))
    )
    assert list(properties(generator)) == NAMES
    body = dict.fromkeys(NAMES, 1)
    sample = generator.generate_request_schema().model_validate(body)
    assert sample.model_dump(by_alias=True) == body


def test_without_a_signature_columns_are_json_scalars() -> None:
    generator = APISchemaGenerator(recipe(target_column="y", feature_columns=["a", "y"]))
    assert list(properties(generator)) == ["a"]
    schema = generator.generate_request_schema()
    for value in ("1", "1.5", "true", '"x"', "null"):
        schema.model_validate_json(f'{{"a": {value}}}')
    with pytest.raises(ValidationError):
        schema.model_validate_json('{"a": [1]}')


@pytest.mark.parametrize(
    ("interface", "columns", "message"),
    [
        ({}, {"a": "long", "y": "long"}, "asks for the target column 'y'"),
        ({"feature_columns": ["a", "b"]}, {"a": "long"}, "feature column 'b' is not in the model"),
        ({"feature_columns": ["a"]}, {"a": "long", "b": "long"}, "asks for the column 'b'"),
    ],
)
def test_recipe_and_signature_must_agree(
    interface: dict[str, Any], columns: dict[str, str], message: str
) -> None:
    with pytest.raises(ContractError, match=message):
        APISchemaGenerator(recipe(target_column="y", **interface), signature(**columns))


def test_without_recipe_and_signature_the_columns_are_unknown() -> None:
    with pytest.raises(ContractError, match="neither a signature nor a recipe"):
        APISchemaGenerator(None)


def test_without_a_recipe_the_signature_is_the_request() -> None:
    assert list(properties(APISchemaGenerator(None, signature(a="long", b="string")))) == ["a", "b"]


@pytest.mark.parametrize(
    ("given", "identifier"),
    [
        ({"example": {"id": 4711, "a": 1.5}}, 4711),  # a given example may name an entity
        ({"example": {"a": 1.5}}, 1),
        ({"input_example": {"id": 4711, "a": 1.5}}, 1),  # a row of the data
        ({"input_example": {"a": 1.5}}, 1),
    ],
)
def test_the_example_shows_no_entity_of_the_data(given: dict[str, Any], identifier: int) -> None:
    generator = APISchemaGenerator(
        recipe(entity_columns=["id"], target_column="y"),
        signature(a="double"),
        entity_types={"id": "long"},
        **given,
    )
    assert generator.example == {"id": identifier, "a": 1.5}


def test_without_anything_given_there_is_no_example() -> None:
    generator = APISchemaGenerator(
        recipe(entity_columns=["id"], target_column="y"), signature(a="double")
    )
    assert generator.example == {}


@pytest.mark.parametrize("type_", COLUMN_TYPES)
def test_what_is_made_up_is_valid(type_: str) -> None:
    column = Column("a", type_)
    generator = APISchemaGenerator(None, Signature((column,)))
    body = json.dumps({"a": column.spec.made_up})
    generator.generate_request_schema().model_validate_json(body)


@pytest.mark.parametrize(
    ("output", "type_"),
    [("string", "string"), ("long", "integer"), ("boolean", "boolean"), ("double", "number")],
)
def test_the_prediction_has_the_type_of_the_models_output(output: str, type_: str) -> None:
    generator = APISchemaGenerator(recipe(target_column="y"), signature(output, a="long"))
    document = generator.generate_openapi_spec()
    prediction = document["components"]["schemas"]["PredictionResponse"]["properties"]["prediction"]
    types = [prediction.get("type"), *(option["type"] for option in prediction.get("anyOf", []))]
    assert type_ in types


def test_only_classification_answers_probabilities() -> None:
    for task, expected in (("classification", True), ("regression", False)):
        generator = APISchemaGenerator(recipe(task, target_column="y"), signature(a="long"))
        assert ("probabilities" in generator.generate_response_schema().model_fields) is expected
