"""MLflow's protocol."""

from typing import Any

import pytest
from conftest import SAMPLE
from fastapi.testclient import TestClient

NAMES = [name for name in SAMPLE if name != "plant id"]
ROW = {name: SAMPLE[name] for name in NAMES}
OTHER = ROW | {"petal length (cm)": 6, "petal width (cm)": 2.5}
CSV = f"{','.join(NAMES)}\n" + "".join(
    ",".join(str(row[name]) for name in NAMES) + "\n" for row in (ROW, OTHER)
)
ANSWER = {"predictions": ["setosa", "virginica"]}


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_records": [ROW, OTHER]},
        {"instances": [ROW, OTHER]},
        {"inputs": [ROW, OTHER]},
        {"inputs": {name: [ROW[name], OTHER[name]] for name in NAMES}},
        {
            "dataframe_split": {
                "columns": NAMES,
                "index": [0, 1],
                "data": [[row[name] for name in NAMES] for row in (ROW, OTHER)],
            },
            "params": None,
        },
        {"instances": [ROW | {"plant id": "any"}, OTHER]},  # entities are ignored
    ],
)
def test_every_form_of_json_is_answered(client: TestClient, body: Any) -> None:
    answer = client.post("/invocations", json=body)
    assert answer.json() == ANSWER


def test_lines_are_separated_as_in_csv(client: TestClient) -> None:
    """Unicode has more line separators than CSV; a quoted field may contain any of them."""
    names = ",".join(f'"{name}"' for name in [*NAMES, "plant id"])
    content = f'{names}\r\n5.1,3.5,1.4,0.2,"a\r\nb"\r\n6,3,6,2.5,c\u2028d\x85e\x0cf\r\n'
    answer = client.post(
        "/invocations", content=content.encode(), headers={"content-type": "text/csv"}
    )
    assert answer.json() == ANSWER


def test_csv_is_answered(client: TestClient) -> None:
    for type_ in ("text/csv", "text/csv; charset=utf-8"):
        answer = client.post("/invocations", content=CSV, headers={"content-type": type_})
        assert answer.json() == ANSWER


@pytest.mark.parametrize(
    ("body", "pointer", "rule"),
    [
        ([], "", "exactly one of"),
        ({}, "", "exactly one of"),
        ({"instances": [ROW], "inputs": [ROW]}, "", "exactly one of"),
        ({"instances": [ROW], "params": {"a": 1}}, "/params", "not supported"),
        ({"instances": [ROW], "other": 1}, "/other", "unknown field"),
        ({"instances": []}, "/instances", "must not be empty"),
        ({"instances": [ROW, 1]}, "/instances/1", "must be an object"),
        ({"instances": [ROW | {"x": 1}]}, "/instances/0/x", "unknown field"),
        ({"inputs": {"petal width (cm)": 1}}, "/inputs/petal width (cm)", "a list"),
        ({"inputs": {"a": [1], "b": [1, 2]}}, "/inputs", "equal length"),
        (
            {"inputs": {name: [1] for name in NAMES} | {NAMES[1]: ["x"]}},
            f"/inputs/{NAMES[1]}/0",
            "valid number",
        ),
        ({"dataframe_split": 1}, "/dataframe_split", "must be an object"),
        ({"dataframe_split": {"data": [[1]]}}, "/dataframe_split/columns", "list of names"),
        ({"dataframe_split": {"columns": ["a", "a"]}}, "/dataframe_split/columns", "twice"),
        ({"dataframe_split": {"columns": NAMES}}, "/dataframe_split/data", "list of rows"),
        (
            {"dataframe_split": {"columns": NAMES, "data": [[1]]}},
            "/dataframe_split/data/0",
            "list of 4",
        ),
        (
            {"dataframe_split": {"columns": NAMES, "data": [[1, 1, "x", 1]]}},
            "/dataframe_split/data/0/2",
            "valid number",
        ),
        (
            {"dataframe_split": {"columns": NAMES[1:], "data": [[1, 1, 1]]}},
            "/dataframe_split/columns",
            "is required",
        ),
    ],
)
def test_what_is_wrong_is_named_where_it_is(
    client: TestClient, body: Any, pointer: str, rule: str
) -> None:
    answer = client.post("/invocations", json=body)
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert error["pointer"] == pointer
    assert rule in error["detail"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must have a header"),
        (CSV.replace("5.1", "x"), f"0/{NAMES[0]}: must be a valid number"),
        (CSV.replace(",0.2", ""), "0: must have 4 fields"),
        (CSV.replace("5.1", ""), f"0/{NAMES[0]}: must not be null"),
        (b"\xff", "not UTF-8 text (byte 0)"),
        ("a,a\n1,2\n", "must not name a column twice"),
    ],
)
def test_what_is_wrong_with_csv_is_named(
    client: TestClient, content: str | bytes, message: str
) -> None:
    answer = client.post("/invocations", content=content, headers={"content-type": "text/csv"})
    assert answer.status_code == 422
    assert message in answer.json()["detail"]


def test_other_media_types_are_415(client: TestClient) -> None:
    for path, type_ in (
        ("/invocations", "application/vnd.apache.parquet"),
        ("/invocations", "text/csv; charset=latin-1"),
        ("/predict", "text/plain"),
    ):
        answer = client.post(path, content=b"x", headers={"content-type": type_})
        assert answer.status_code == 415


def test_the_other_routes_of_the_protocol(client: TestClient) -> None:
    import mlflow

    assert client.get("/ping").status_code == 200
    assert client.get("/version").text == mlflow.__version__
