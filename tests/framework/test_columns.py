"""Column types: a value has the same meaning in JSON, in an array and in a file."""

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from conftest import PROJECT
from pydantic import TypeAdapter, ValidationError
from serving.api.body import parse_json
from serving.api.problem import ProblemError
from serving.contract.columns import (
    COLUMN_TYPES,
    Column,
    Signature,
    parse_datetime,
    to_array,
    to_table,
)
from serving.contract.schema import APISchemaGenerator
from serving.errors import ContractError

TYPED = sorted(COLUMN_TYPES.keys() - {"any"})
TAKEN: dict[str, list[tuple[str, Any]]] = {
    "boolean": [("true", True), ("false", False)],
    "integer": [("1", 1), ("1.0", 1), ("-2147483648", -(2**31))],
    "long": [("1", 1), ("9223372036854775807", 2**63 - 1)],
    "float": [("1", 1.0), ("1.5", 1.5)],
    "double": [("1", 1.0), ("1.5", 1.5), ("1e308", 1e308)],
    "string": [('"a"', "a"), ('""', "")],
    "binary": [('"AP8="', b"\x00\xff"), ('""', b"")],
    "datetime": [
        ('"2026-01-31"', datetime(2026, 1, 31)),
        ('"2026-01-31T12:00:00Z"', datetime(2026, 1, 31, 12)),
        ('"2026-01-31T12:00:00+09:00"', datetime(2026, 1, 31, 3)),
        ('"2026-01-31 12:00:00.5"', datetime(2026, 1, 31, 12, 0, 0, 500000)),
    ],
}
REFUSED = {
    "boolean": ["1", '"true"', "null"],
    "integer": ["1.7", "true", '"1"', "2147483648"],
    "long": ["1.7", "1e300", "true", '"1"', "9223372036854775808"],
    "float": ["true", '"1"', "NaN", "1e39"],
    "double": ["true", '"1"', "NaN", "Infinity", "1e309"],
    "string": ["1", "true", "null", "[]"],
    "binary": ["1", '"AP8"', '"***"', '"\u00e9"', "null"],
    "datetime": ["1", '"20260131"', '"2026-13-01"', '"tomorrow"', '"0001-01-01T00:00+09:00"'],
}


@pytest.mark.parametrize("name", TYPED)
def test_json_values(name: str) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(COLUMN_TYPES[name].annotation, config={"strict": True})
    for text, value in TAKEN[name]:
        assert adapter.validate_json(text) == value
    for text in REFUSED[name]:
        with pytest.raises(ValidationError):
            adapter.validate_json(text)


def rows_of_the_guide() -> Iterator[tuple[str, list[str], list[str], str]]:
    """Yield type, accepted values, refused values and the missing value, from docs/api.md."""
    guide = (PROJECT / "docs/api.md").read_text(encoding="utf-8")
    names = "|".join(TYPED)
    for line in re.findall(rf"^\| `(?:{names})` \|.*\| `Na[NT]` \|$", guide, re.MULTILINE):
        name, taken, refused, missing = (
            re.findall(r"`([^`]+)`", cell) for cell in line.strip("|").split("|")
        )
        yield name[0], taken, refused, missing[0]


def test_the_guide_has_every_type() -> None:
    assert sorted(name for name, *_ in rows_of_the_guide()) == TYPED


@pytest.mark.parametrize(("name", "taken", "refused", "missing"), list(rows_of_the_guide()))
def test_the_guide_is_true(name: str, taken: list[str], refused: list[str], missing: str) -> None:
    signature = Signature((Column("a", name), Column("b", name, required=False)))
    schema = APISchemaGenerator(None, signature).generate_request_schema()
    assert taken
    for value in taken:
        for body in (f'{{"a": {value}}}', f'{{"a": {value}, "b": null}}'):
            sample = schema.model_validate(parse_json(body.encode(), 100))
            table = to_table([list(sample.model_dump().values())], signature.inputs)
            assert table["a"].dtype == np.dtype(COLUMN_TYPES[name].dtype)
            assert repr(table["b"].tolist()[0]) == {"NaN": "nan", "NaT": "None"}[missing]
    assert refused
    for value in [*refused, "null"]:
        with pytest.raises((ValidationError, ProblemError)):
            schema.model_validate(parse_json(f'{{"a": {value}}}'.encode(), 100))


@pytest.mark.parametrize("name", TYPED)
def test_arrays_have_exactly_the_dtype_of_the_type(name: str) -> None:
    values = [value for _, value in TAKEN[name]]
    array = to_array(values, Column("a", name))
    assert array.dtype == np.dtype(COLUMN_TYPES[name].dtype)
    assert array.tolist() == values


@pytest.mark.parametrize("name", TYPED)
def test_missing_values_are_nan(name: str) -> None:
    value = TAKEN[name][0][1]
    array = to_array([value, None], Column("a", name, required=False))
    assert [bool(item != item) for item in array] == [False, True]


def test_rows_become_columns() -> None:
    columns = [Column("a", "long"), Column("b", "string")]
    table = to_table([[1, "x"], [2, "y"]], columns)
    assert {name: array.tolist() for name, array in table.items()} == {"a": [1, 2], "b": ["x", "y"]}


def test_no_rows_make_empty_columns() -> None:
    assert len(to_table([], [Column("a", "long")])["a"]) == 0


def test_an_unknown_type_is_refused_by_name() -> None:
    with pytest.raises(ContractError, match=r"column 'a' has the type Array"):
        Column("a", "Array(double)")


def test_datetimes_are_kept_to_the_microsecond() -> None:
    value = parse_datetime("9999-12-31T23:59:59.999999Z")
    assert to_array([value], Column("a", "datetime")).tolist() == [value]
