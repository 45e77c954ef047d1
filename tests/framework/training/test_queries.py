"""Queries with parameters: every value is bound, and nothing else can be a parameter."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from postgresql import PostgreSQL
from serving.config.settings import DatabaseSettings
from serving.data.database import Database
from serving.data.query import load_query
from serving.data.sql import SqlSource
from serving.errors import DataError
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url


def rows(tmp_path: Path, uri: str, template: str, **parameters: Any) -> list[tuple[Any, ...]]:
    """Run a template, and return the rows."""
    path = tmp_path / "query.sql.j2"
    path.write_text(template, encoding="utf-8")
    query = load_query(path, parameters)
    database = Database(DatabaseSettings.model_validate({"connection_uri": uri}))
    source = SqlSource(database, query.text, query.name, query.parameters)
    table = pa.Table.from_batches([c.rows for c in source.chunks(10)], schema=source.schema)
    return [tuple(row.values()) for row in table.to_pylist()]


@pytest.fixture(params=["postgresql", "sqlite"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with five orders; each test runs with both kinds."""
    if request.param == "sqlite":
        address = f"sqlite:///{tmp_path / 'orders.db'}"
    else:
        server: PostgreSQL = request.getfixturevalue("postgresql")
        address = server.uri
    url = make_url(address)
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    engine = create_engine(url, execution_options={"no_parameters": True})
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS orders")
        connection.exec_driver_sql(
            "CREATE TABLE orders (id integer, region text, amount float, day date)"
        )
        connection.exec_driver_sql(
            "INSERT INTO orders VALUES (1, 'north', 10, '2026-01-01'), (2, 'south', 20, "
            "'2026-01-02'), (3, 'o''hare', 30, '2026-01-03'), (4, NULL, 40, '2026-01-04'), "
            "(5, '100%:x', 50, '2026-01-05')"
        )
    engine.dispose()
    return address


def test_values_are_bound(tmp_path: Path, uri: str) -> None:
    ids = "SELECT id FROM orders WHERE "
    end = " ORDER BY id"
    assert rows(tmp_path, uri, ids + "day >= {{ since }}" + end, since="2026-01-04") == [(4,), (5,)]
    assert rows(tmp_path, uri, ids + "amount > {{ least }}" + end, least=25.5) == [(3,), (4,), (5,)]
    assert rows(tmp_path, uri, ids + "region = {{ r }}" + end, r="o'hare") == [(3,)]
    injected = "north' OR '1'='1"
    assert rows(tmp_path, uri, ids + "region = {{ r }}" + end, r=injected) == []
    assert rows(tmp_path, uri, ids + "region IN {{ r }}" + end, r=["south", "o'hare"]) == [
        (2,),
        (3,),
    ]
    assert rows(tmp_path, uri, ids + "id > 2" + end + " LIMIT {{ n }}", n=2) == [(3,), (4,)]


def test_the_rest_of_the_query_means_what_it_says(tmp_path: Path, uri: str) -> None:
    template = (
        "SELECT id, 'a:b %s \\:c' AS text, CAST('12:30' AS text) AS time -- {{ unused }} :x\n"
        "FROM orders WHERE region LIKE '100%:%' AND id < {{ n }}"
    )
    assert rows(tmp_path, uri, template, n=9, unused=1) == [(5, "a:b %s \\:c", "12:30")]


def test_jinja_chooses_and_repeats(tmp_path: Path, uri: str) -> None:
    template = (
        "SELECT id FROM orders WHERE 1 = 1 {% if region is defined %}AND region = {{ region }}"
        "{% endif %} {% for day in days %}AND day <> {{ day }} {% endfor %} ORDER BY id"
    )
    days = ["2026-01-01", "2026-01-02"]
    assert rows(tmp_path, uri, template, days=days) == [(3,), (4,), (5,)]
    assert rows(tmp_path, uri, template, days=[], region="north") == [(1,)]


@pytest.mark.parametrize(
    ("template", "parameters", "message"),
    [
        ("SELECT * FROM {{ t }}", {"t": "orders"}, "'t' is in the place of a name, in the clause"),
        ("SELECT * FROM a, {{ t }}", {"t": "b"}, "'t' is in the place of a name, in the clause"),
        ("SELECT * FROM a JOIN {{ t }} ON 1=1", {"t": "b"}, "in the clause JOIN; only values can"),
        ("SELECT * FROM s.{{ t }}", {"t": "b"}, "the parameter 't' is a part of a name; only"),
        ("SELECT * FROM t_{{ t }}", {"t": "b"}, "the parameter 't' is a part of a name"),
        ("SELECT {{ c }}(a) FROM t", {"c": "f"}, "the parameter 'c' is a part of a name"),
        ("SELECT {{ c }} FROM t", {"c": "a"}, "'c' is in the place of a column, in the clause SEL"),
        ("SELECT a, {{ c }}, b FROM t", {"c": "a"}, "'c' is in the place of a column"),
        (
            "SELECT a FROM t ORDER BY {{ c }}",
            {"c": "a"},
            "in the place of a name, in the clause BY",
        ),
        ("SELECT a FROM t GROUP BY f(a), {{ c }}", {"c": "a"}, "name, in the clause BY"),
        ("SELECT a FROM t WHERE b = '{{ v }}'", {"v": "a"}, "'v' is in quotes; leave out the quot"),
        ('SELECT "{{ v }}" AS a', {"v": "a"}, "'v' is in quotes; leave out the quotes"),
        (
            "SELECT a FROM t WHERE b = {{ v }}",
            {},
            "the parameter 'v' has no value; give it in data",
        ),
        ("SELECT a FROM t WHERE b = {{ v.w }}", {"v": 1}, "has no attribute 'w'"),
        ("SELECT a WHERE b = {{ value }}", {"vaule": 1}, "does not use the parameter 'vaule'; it "),
        ("SELECT a WHERE b = {{ v }}", {"v": {"a": 1}}, "the parameter 'v' must be a text, a numb"),
        ("SELECT a WHERE b IN {{ v }}", {"v": []}, "the parameter 'v' is a list without values"),
        ("SELECT a WHERE b = {{ v }}", {"v": "a\0b"}, "the parameter 'v' must be a text"),
        ("SELECT {% if %} a", {}, "line 1: "),
        ("SELECT a WHERE b = {{ v + 1 }}", {"v": "a"}, "can only concatenate str"),
        ("SELECT a WHERE b = {{ 1 / v }}", {"v": 0}, "division by zero"),
    ],
)
def test_anything_else_is_refused(
    tmp_path: Path, template: str, parameters: dict[str, Any], message: str
) -> None:
    path = tmp_path / "query.sql.j2"
    path.write_text(template, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        load_query(path, parameters)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "template",
    [
        "SELECT {{ v }} AS a FROM t",
        "SELECT coalesce(a, {{ v }}) FROM t",
        "SELECT a FROM f({{ v }}) ORDER BY a",
        "SELECT a FROM t WHERE a IS DISTINCT FROM {{ v }}",
        "SELECT a FROM t JOIN u ON t.a = u.a AND u.b = {{ v }} ORDER BY a LIMIT {{ v }}",
        "SELECT a FROM t WHERE a BETWEEN {{ v }} AND {{ v }} + 1",
        "SELECT a FROM t WHERE (a, b) = ({{ v }}, {{ v }})",
        "SELECT a FROM t WHERE day = {{ v }}::date",
        "SELECT a FROM t ORDER BY CASE WHEN a = {{ v }} THEN 1 ELSE 2 END",
        "SELECT a, sum(b) FROM t GROUP BY a HAVING sum(b) > {{ v }}",
    ],
)
def test_values_may_be_wherever_sql_takes_values(tmp_path: Path, template: str) -> None:
    path = tmp_path / "query.sql.j2"
    path.write_text(template, encoding="utf-8")
    query = load_query(path, {"v": 7})
    assert list(query.parameters.values()) == [7] * template.count("{{ v }}")
    assert "{{" not in query.text


def test_only_a_template_has_parameters(tmp_path: Path) -> None:
    path = tmp_path / "query.sql"
    path.write_text("SELECT '{{ v }}' AS a", encoding="utf-8")
    assert load_query(path).text == "SELECT '{{ v }}' AS a"
    assert json.loads(json.dumps(load_query(path).parameters)) == {}
    with pytest.raises(DataError, match=r"query\.sql: is not a template, so it has no parameter"):
        load_query(path, {"v": 1})
