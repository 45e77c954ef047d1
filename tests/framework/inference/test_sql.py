"""Databases as sources and sinks: a real PostgreSQL, and SQLite."""

import multiprocessing
import random
import re
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from postgresql import PASSWORD, QUOTED_PASSWORD, PostgreSQL
from serving.config.settings import DatabaseSettings
from serving.data.base import Part
from serving.data.database import Database
from serving.data.query import load_query
from serving.data.sql import SqlParts, SqlSink, SqlSource
from serving.errors import ConfigError, DataError
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

ROWS = pa.schema([("id", pa.int64()), ("name", pa.string())])


def database(uri: str, **settings: Any) -> Database:
    return Database(DatabaseSettings.model_validate({"connection_uri": uri, **settings}))


def execute(uri: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements without the code under test; return the rows of the last one."""
    url = make_url(uri)
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    engine = create_engine(url, execution_options={"no_parameters": True})
    rows: list[tuple[Any, ...]] = []
    with engine.begin() as connection:
        for statement in statements:
            result = connection.exec_driver_sql(statement)
            rows = [tuple(row) for row in result] if result.returns_rows else []
    engine.dispose()
    return rows


def batch(start: int, count: int) -> pa.RecordBatch:
    numbers = range(start, start + count)
    return pa.record_batch({"id": list(numbers), "name": [f"row {n}" for n in numbers]}, ROWS)


def read(source: SqlSource, size: int = 1_000, skip: int = 0) -> pa.Table:
    return pa.Table.from_batches(
        [chunk.rows for chunk in source.chunks(size, skip)], schema=source.schema
    )


# Starts processes quickly, from one that has imported what they need.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["pandas", "psycopg", "pytest", "serving.data.sql", "sqlalchemy.dialects.postgresql"]
)


def start(target: Callable[..., None], *arguments: Any) -> tuple[BaseProcess, Connection]:
    """Run the function in a process of its own; return what receives its messages."""
    receiver, sender = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=target, args=(sender, *arguments))
    process.start()
    sender.close()
    return process, receiver


def kill(process: BaseProcess) -> None:
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.fixture(params=["postgresql", "sqlite"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database; each test runs with both."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'test.db'}"
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    yield server.uri
    empty(server)


@pytest.fixture
def server(postgresql: PostgreSQL) -> Iterator[PostgreSQL]:
    """PostgreSQL alone, with an empty database."""
    yield postgresql
    empty(postgresql)


def empty(server: PostgreSQL) -> None:
    """Drop all tables; a test that has failed may still have a connection, which locks some."""
    others = "FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = 'postgres'"
    end_others = f"SELECT pg_terminate_backend(pid) {others}"
    execute(server.uri, end_others, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public")


# --- reading ---


def test_chunks_have_the_rows_in_order(uri: str) -> None:
    execute(uri, "CREATE TABLE t (id integer)", f"INSERT INTO t VALUES {values(range(1, 26))}")
    source = SqlSource(database(uri), "SELECT id FROM t ORDER BY id")
    chunks = list(source.chunks(10))
    assert [chunk.index for chunk in chunks] == [0, 1, 2]
    numbers = [list(range(1, 11)), list(range(11, 21)), list(range(21, 26))]
    assert [chunk.numbers.tolist() for chunk in chunks] == numbers
    assert [chunk.rows["id"].to_pylist() for chunk in chunks] == numbers
    [last] = source.chunks(10, skip=2)  # runs the query again
    assert (last.index, last.numbers.tolist()) == (2, numbers[2])
    assert last.rows["id"].to_pylist() == numbers[2]
    assert list(source.chunks(10, skip=3)) == []


def values(numbers: range) -> str:
    return ", ".join(f"({number})" for number in numbers)


def test_more_rows_than_are_fetched_at_once(uri: str) -> None:
    execute(
        uri,
        "CREATE TABLE t AS WITH RECURSIVE n(id) AS "
        "(SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < 23456) SELECT id FROM n",
    )
    source = SqlSource(database(uri), "SELECT id FROM t ORDER BY id")
    assert [chunk.rows.num_rows for chunk in source.chunks(9_000)] == [9_000, 9_000, 5_456]
    assert read(source, 9_000)["id"].to_pylist() == list(range(1, 23_457))
    assert read(source, 9_000, skip=1)["id"].to_pylist() == list(range(9_001, 23_457))


def test_types_of_postgresql(server: PostgreSQL) -> None:
    query = """
        SELECT 7::smallint AS small, 7::integer AS integer, 9007199254740993 AS bigint,
            0.1::real AS real, 0.1::float8 AS double, 1234.5678::numeric(10, 4) AS numeric,
            'Ä%s :x'::varchar AS text, 'c'::char(2) AS char, true AS bool,
            '2026-01-31 12:00:00.123456+09'::timestamptz AS zoned,
            '2026-01-31 12:00'::timestamp AS naive, '2026-01-31'::date AS day,
            '\\x00ff'::bytea AS bytes,
            '6ccd780c-baba-1026-9564-5b8c656024db'::uuid AS uuid, n.*
        FROM (SELECT NULL::integer AS no_integer, NULL::timestamptz AS no_time, NULL AS nothing) n
    """
    table = read(SqlSource(database(server.uri), query))
    assert {field.name: str(field.type) for field in table.schema} == {
        **dict.fromkeys(("small", "integer", "bigint", "no_integer"), "int64"),
        **dict.fromkeys(("real", "double", "numeric"), "double"),
        **dict.fromkeys(("text", "char", "uuid", "nothing"), "string"),
        **dict.fromkeys(("zoned", "naive", "no_time"), "timestamp[us]"),
        **{"bool": "bool", "day": "date32[day]", "bytes": "binary"},
    }
    assert table.to_pylist() == [
        {
            **{"small": 7, "integer": 7, "bigint": 2**53 + 1},
            **{"real": pytest.approx(0.1), "double": 0.1, "numeric": 1234.5678},
            **{"text": "Ä%s :x", "char": "c ", "bool": True},
            "zoned": datetime(2026, 1, 31, 3, 0, 0, 123456),
            "naive": datetime(2026, 1, 31, 12),
            **{"day": date(2026, 1, 31), "bytes": b"\x00\xff"},
            "uuid": "6ccd780c-baba-1026-9564-5b8c656024db",
            **dict.fromkeys(("no_integer", "no_time", "nothing")),
        }
    ]


def test_types_of_postgresql_do_not_depend_on_the_first_rows(server: PostgreSQL) -> None:
    query = """
        SELECT CASE WHEN n > 15000 THEN n END AS late, CASE WHEN n > 15000 THEN 0.5 END AS number
        FROM generate_series(1, 15001) n ORDER BY n
    """
    table = read(SqlSource(database(server.uri), query))
    assert table.schema == pa.schema([("late", pa.int64()), ("number", pa.float64())])
    assert table.slice(14_999).to_pylist() == [
        {"late": None, "number": None},
        {"late": 15_001, "number": 0.5},
    ]
    empty = SqlSource(database(server.uri), "SELECT 1 AS a, true AS b WHERE false")
    assert empty.schema == pa.schema([("a", pa.int64()), ("b", pa.bool_())])
    assert list(empty.chunks(10)) == []


def test_types_of_sqlite_are_those_of_the_first_values(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'test.db'}"
    query = (
        "SELECT NULL AS a, 1 AS b, 'x' AS c, NULL AS d, x'00' AS e "
        "UNION ALL SELECT 5, 1.5, NULL, NULL, NULL"
    )
    execute(uri, "CREATE TABLE t (a)")
    table = read(SqlSource(database(uri), query))
    types = ["int64", "double", "string", "string", "binary"]
    assert [str(type_) for type_ in table.schema.types] == types
    assert table.to_pydict() == {
        **{"a": [None, 5], "b": [1.0, 1.5], "c": ["x", None]},
        **{"d": [None, None], "e": [b"\x00", None]},
    }


@pytest.mark.parametrize(
    ("first", "later", "rule"),
    [
        ("1", "'two'", "is 'two', but the values before it make the column a 64-bit integer"),
        ("1", "1.5", "is 1.5, but the values before it make the column a 64-bit integer"),
        ("NULL", "1", "is 1, but the values before it make the column text"),
        ("0.5", "9007199254740993", "Integer value 9007199254740993 is outside of the range"),
        ("'one'", "x'00'", r"is b'\\x00', but the values before it make the column text"),
    ],
)
def test_a_later_value_of_another_type_is_named(
    tmp_path: Path, first: str, later: str, rule: str
) -> None:
    uri = f"sqlite:///{tmp_path / 'test.db'}"
    execute(
        uri,
        "CREATE TABLE t AS WITH RECURSIVE n(id, v) AS "
        f"(SELECT 1, {first} UNION ALL SELECT id + 1, {first} FROM n WHERE id < 12000) "
        "SELECT * FROM n",
        f"INSERT INTO t VALUES (12001, {later}), (12002, {later})",
    )
    source = SqlSource(database(uri), "SELECT v FROM t ORDER BY id", "late.sql")
    with pytest.raises(DataError, match=rf"^late\.sql: row 12001, column 'v': {rule}"):
        read(source)


def test_a_database_is_read_and_written_at_the_same_time(uri: str) -> None:
    """The rows do not fit into SQLite's cache, but it must not wait for its own reader."""
    rows = "SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < 10000"
    text = "'" + "x" * 500 + "'"
    execute(
        uri,
        f"CREATE TABLE t AS WITH RECURSIVE n(id) AS ({rows}) SELECT id, {text} AS text FROM n",
    )
    source = SqlSource(database(uri), "SELECT * FROM t ORDER BY id")
    settings = DatabaseSettings.model_validate({"connection_uri": uri})
    sink = SqlSink(Database(settings, is_read_meanwhile=True), "copy", source.schema)
    for chunk in source.chunks(1_000):
        sink.write(chunk.rows)
    sink.close()
    assert execute(uri, "SELECT count(*), max(id) FROM copy") == [(10_000, 10_000)]


def test_the_memory_does_not_grow_with_the_rows(server: PostgreSQL) -> None:
    def peak(rows: int) -> int:
        process, said = start(_read_all, server.uri, rows)
        kilobytes: int = said.recv()
        process.join()
        return kilobytes // 1024

    small, large = peak(50_000), peak(500_000)
    assert large - small < 15, f"{small} MB, then {large} MB"


def _read_all(said: Connection, uri: str, rows: int) -> None:
    query = f"SELECT n AS id, 'row ' || n AS name FROM generate_series(1, {rows}) n"
    chunks = SqlSource(database(uri), query).chunks(20_000)
    assert sum(chunk.rows.num_rows for chunk in chunks) == rows
    unit = 1 if sys.platform == "linux" else 1024
    said.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELEC 1", 'syntax error at or near "SELEC"'),
        ("SELECT 1 FROM nothing", 'relation "nothing" does not exist'),
        ("SELECT 1 AS a, 2 AS a", "the column 'a' appears twice; rename one of them with AS"),
        ("SET LOCAL work_mem = '1MB'", 'syntax error at or near "SET"'),
        ("SELECT '1 day'::interval AS i", "the column 'i' has values of the unsupported type time"),
        ("SELECT 'infinity'::date AS d", "date too large (after year 10K): 'infinity'"),
        (
            "SELECT 1 / (20000 - n) FROM generate_series(1, 30000) n",
            "after row 19000: division by zero",
        ),
    ],
)
def test_a_mistake_in_a_query_is_one_sentence(server: PostgreSQL, query: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"^bad\.sql: {re.escape(message)}[^\n]*$"):
        read(SqlSource(database(server.uri), query, "bad.sql"))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELEC 1", 'near "SELEC": syntax error'),
        ("SELECT 1 FROM missing", "no such table: missing"),
        ("CREATE TABLE t (a)", "returns no columns; it must be a SELECT"),
    ],
)
def test_a_mistake_in_a_query_of_sqlite(tmp_path: Path, query: str, message: str) -> None:
    uri = f"sqlite:///{tmp_path / 'test.db'}"
    execute(uri, "CREATE TABLE other (a)")
    with pytest.raises(DataError, match=rf"^bad\.sql: {re.escape(message)}$"):
        SqlSource(database(uri), query, "bad.sql")
    assert execute(uri, "SELECT name FROM sqlite_master") == [("other",)]


def test_a_slow_query_is_ended(server: PostgreSQL) -> None:
    with pytest.raises(
        DataError,
        match=r"^the query: canceling statement due to statement timeout; "
        r"data_source\.config\.query_timeout is 0\.2 seconds$",
    ):
        SqlSource(database(server.uri, query_timeout=0.2), "SELECT pg_sleep(30)")


def test_a_server_that_dies_is_one_sentence(server: PostgreSQL, caplog: Any) -> None:
    query = "SELECT n FROM generate_series(1, 100000) n"
    chunks = SqlSource(database(server.uri), query, "big.sql").chunks(1_000)
    sink = SqlSink(database(server.uri), "t", ROWS)
    sink.write(batch(0, 10))
    next(chunks)
    server.stop()
    try:
        with pytest.raises(DataError, match=r"^big\.sql: after row \d+: [^\n]+$"):
            list(chunks)
        with pytest.raises(DataError, match=r"^table t: [^\n]+$"):
            sink.write(batch(10, 10))
        sink.discard()
        with pytest.raises(
            DataError,
            match=r"^cannot connect to postgresql://127\.0\.0\.1:\d+/postgres: .*refused$",
        ):
            SqlSource(database(server.uri), query)
    finally:
        server.start()
    assert execute(server.uri, "SELECT to_regclass('t')") == [(None,)]
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((QUOTED_PASSWORD, "hunter2-hunter2"), "password authentication failed for user"),
        (("/postgres", "/other"), 'database "other" does not exist'),
        (("postgresql://", "postgres+psycopg://"), "SQLAlchemy does not know 'postgres+psycopg'"),
        (("postgresql://", "mysql://"), "the driver 'MySQLdb' is not installed; install it with"),
        ((QUOTED_PASSWORD, PASSWORD.replace("%", "%25")), "is not a valid URI; write postgresql:"),
        (("127.0.0.1:", "127.0.0.1:no"), "is not a valid URI; write postgresql:"),
        (("/postgres", "/postgres?sslmode=no"), 'invalid sslmode value: "no"'),
        (("/postgres", "/postgres?mode=no"), 'invalid connection option "mode"'),
    ],
)
def test_a_password_is_never_shown(
    server: PostgreSQL, change: tuple[str, str], message: str
) -> None:
    uri = change[1].join(server.uri.rsplit(change[0], maxsplit=1))
    with pytest.raises((ConfigError, DataError)) as error:
        SqlSource(database(uri), "SELECT 1")
    said = str(error.value)
    assert message in said
    assert "\n" not in said
    for secret in ("s3cr3t", "P@ss", "ss:w", "P%40ss", "hunter2"):
        assert secret not in said


def test_a_database_must_be_given() -> None:
    with pytest.raises(ConfigError, match=r"^no database is given; set DATA_SOURCE_CONNECTION_URI"):
        Database(DatabaseSettings())


def test_a_sqlite_file_must_exist_to_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^sqlite:////.*/no\.db: no such file"):
        SqlSource(database(f"sqlite:///{tmp_path / 'no.db'}"), "SELECT 1")
    assert not (tmp_path / "no.db").exists()


def test_a_query_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "query.sql"
    with pytest.raises(DataError, match=r"query\.sql: no such file"):
        load_query(file)
    file.write_text(" \n")
    with pytest.raises(DataError, match=r"query\.sql: the file is empty"):
        load_query(file)
    file.write_bytes(b"SELECT '\xff'")
    with pytest.raises(DataError, match=r"query\.sql: not UTF-8 text \(byte 8\)"):
        load_query(file)
    file.write_text("SELECT 'Ä'\n", encoding="utf-8")
    assert load_query(file).text == "SELECT 'Ä'\n"


@pytest.mark.parametrize(
    ("rest", "has_order"),
    [
        ("ORDER BY id", True),
        ("order\n  by id -- comment", True),
        ("WHERE name <> ')' ORDER BY (id)", True),
        ("", False),
        ("-- ORDER BY id", False),
        ("/* ORDER BY id */", False),
        ("WHERE name = 'ORDER BY id'", False),
        ('WHERE "ORDER BY id" = 1', False),
        ("JOIN (SELECT row_number() OVER (ORDER BY id) FROM t ORDER BY id) u ON true", False),
        ("WHERE border = byte", False),
    ],
)
def test_a_run_that_may_be_resumed_needs_an_order(uri: str, rest: str, has_order: bool) -> None:
    columns = '(id integer, name varchar(9), "ORDER BY id" integer, border integer, byte integer)'
    execute(uri, f"CREATE TABLE t {columns}")
    source = SqlSource(database(uri), f"SELECT t.id FROM t {rest}", "q.sql")
    if has_order:
        assert source.fingerprint()
    else:
        with pytest.raises(DataError, match=r"^q\.sql: has no ORDER BY, so a resumed run could"):
            source.fingerprint()
    source.close()


def test_a_fingerprint_is_of_the_query_and_the_place(server: PostgreSQL, tmp_path: Path) -> None:
    def fingerprint(uri: str, query: str) -> str:
        source = SqlSource(database(uri), query)
        source.close()
        return source.fingerprint()

    execute(server.uri, "CREATE USER other SUPERUSER PASSWORD 'other'")
    other_user = re.sub("//.*@", "//other:other@", server.uri)
    query = "SELECT 1 AS id ORDER BY id"
    same = {fingerprint(server.uri, query), fingerprint(other_user, query)}
    assert len(same) == 1  # logins are often renewed
    assert fingerprint(server.uri, query.replace("1", "2")) not in same
    execute(f"sqlite:///{tmp_path / 'a.db'}", "CREATE TABLE t (a)")
    assert fingerprint(f"sqlite:///{tmp_path / 'a.db'}", query) not in same
    execute(server.uri, "DROP USER other")


# --- writing ---

EVERY_TYPE = pa.table(
    {
        "int": pa.array([1, None, -(2**31)], pa.int32()),
        "bigint": pa.array([2**63 - 1, None, -(2**63)], pa.int64()),
        "uint": pa.array([2**32 - 1, None, 0], pa.uint32()),
        "double": [0.1, None, -1e300],
        "single": pa.array([0.5, None, 2.0], pa.float32()),
        "decimal": pa.array([Decimal("1.50"), None, Decimal("-2.25")], pa.decimal128(10, 2)),
        "text": ['a "b", c\r\n\\.\n%s :x \\N', None, ""],
        "kind": pa.array(["Adelie", None, "NULL"]).dictionary_encode(),
        "bool": [True, None, False],
        "naive": pa.array([datetime(2026, 1, 31, 12, 0, 0, 5), None, datetime(1900, 1, 1)]),
        "nanoseconds": pa.array([1_700_000_000_123_456_789, None, 0], pa.timestamp("ns")),
        "zoned": pa.array(
            [datetime(2026, 1, 31, 12, tzinfo=UTC), None, datetime(1900, 1, 1, tzinfo=UTC)],
            pa.timestamp("us", "Asia/Seoul"),
        ),
        "day": [date(2026, 1, 31), None, date(1900, 1, 1)],
        "bytes": [b"\x00\xff\\", None, b""],
        "Order by %": [1, 2, 3],
    }
)


def test_every_type_is_written_to_postgresql_and_read_again(server: PostgreSQL) -> None:
    write(SqlSink(database(server.uri), "t", EVERY_TYPE.schema), EVERY_TYPE)
    types = execute(
        server.uri,
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 't'",
    )
    assert dict(types) == {
        "int": "integer",
        **dict.fromkeys(("bigint", "uint", "Order by %"), "bigint"),
        **dict.fromkeys(("double", "single"), "double precision"),
        "decimal": "numeric",
        **dict.fromkeys(("text", "kind"), "text"),
        "bool": "boolean",
        **dict.fromkeys(("naive", "nanoseconds"), "timestamp without time zone"),
        "zoned": "timestamp with time zone",
        "day": "date",
        "bytes": "bytea",
    }
    assert read_again(server.uri) == expected()


def test_every_type_is_written_to_sqlite_and_read_again(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'test.db'}"
    table = EVERY_TYPE.drop_columns("decimal")  # SQLite has none, as SQLAlchemy warns
    write(SqlSink(database(uri), "t", table.schema), table)
    wanted = expected()
    del wanted["decimal"]
    wanted["bool"] = [1, None, 0]
    for name in ("naive", "nanoseconds", "zoned"):
        wanted[name] = [v and v.isoformat(" ", "microseconds") for v in wanted[name]]
    wanted["day"] = [v and v.isoformat() for v in wanted["day"]]
    assert read_again(uri) == wanted


def write(sink: SqlSink, table: pa.Table) -> None:
    for rows in table.to_batches():
        sink.write(rows)
    sink.close()


def read_again(uri: str) -> dict[str, list[Any]]:
    read_table = read(SqlSource(database(uri), 'SELECT * FROM t ORDER BY "Order by %"'))
    found: dict[str, list[Any]] = read_table.to_pydict()
    return found


def expected() -> dict[str, list[Any]]:
    wanted: dict[str, list[Any]] = EVERY_TYPE.drop_columns("nanoseconds").to_pydict()
    wanted["decimal"] = [1.5, None, -2.25]
    wanted["zoned"] = [v and v.astimezone(UTC).replace(tzinfo=None) for v in wanted["zoned"]]
    wanted["nanoseconds"] = [datetime(2023, 11, 14, 22, 13, 20, 123456), None, datetime(1970, 1, 1)]
    return wanted


def test_times_are_utc_whatever_the_zone_of_the_database(server: PostgreSQL) -> None:
    execute(
        server.uri,
        "CREATE TABLE t (at timestamptz)",
        "ALTER ROLE mmp SET timezone TO 'Asia/Seoul'",
    )
    try:
        rows = pa.table({"at": pa.array([datetime(2026, 1, 31, 12)], pa.timestamp("us"))})
        write(SqlSink(database(server.uri), "t", rows.schema), rows)
        found = execute(server.uri, "SELECT at AT TIME ZONE 'UTC' FROM t")
        assert found == [(datetime(2026, 1, 31, 12),)]
        assert read(SqlSource(database(server.uri), "SELECT at FROM t")) == rows
    finally:
        execute(server.uri, "ALTER ROLE mmp RESET timezone")


def test_rows_are_added_to_an_existing_table(uri: str) -> None:
    execute(
        uri,
        "CREATE TABLE t (name varchar(50), id bigint, note varchar(50), "
        "kind varchar(50) DEFAULT 'new' NOT NULL)",
        "INSERT INTO t VALUES ('row 0', 0, 'first', 'old')",
    )
    write(SqlSink(database(uri), "t", ROWS), pa.Table.from_batches([batch(1, 2)]))
    assert execute(uri, "SELECT * FROM t ORDER BY id") == [
        ("row 0", 0, "first", "old"),
        ("row 1", 1, None, "new"),
        ("row 2", 2, None, "new"),
    ]


def test_a_table_may_be_in_a_schema(server: PostgreSQL) -> None:
    execute(server.uri, 'CREATE SCHEMA "My %"')
    write(SqlSink(database(server.uri), "My %.t", ROWS), pa.Table.from_batches([batch(1, 2)]))
    assert execute(server.uri, 'SELECT id FROM "My %".t ORDER BY id') == [(1,), (2,)]
    with pytest.raises(DataError, match=r'^table no\.t: schema "no" does not exist$'):
        SqlSink(database(server.uri), "no.t", ROWS)
    execute(server.uri, 'DROP SCHEMA "My %" CASCADE')


@pytest.mark.parametrize("name", ["", "a.b.c", ".t", "t."])
def test_a_name_must_be_that_of_a_table(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"is not the name of a table; write TABLE or SCHEMA"):
        SqlSink(database(f"sqlite:///{tmp_path / 'test.db'}"), name, ROWS)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("id bigint, title varchar(9)", "has no column 'name'; it has id, title"),
        (
            "id bigint, name varchar(9), at varchar(9) NOT NULL",
            "requires the column 'at', which the rows do not have",
        ),
    ],
)
def test_other_columns_are_refused_before_anything_is_written(
    uri: str, columns: str, message: str
) -> None:
    execute(uri, f"CREATE TABLE t ({columns})")
    with pytest.raises(DataError, match=rf"^table t: {re.escape(message)}$"):
        SqlSink(database(uri), "t", ROWS)


def test_a_value_that_the_table_refuses_is_named_with_its_column(server: PostgreSQL) -> None:
    execute(server.uri, "CREATE TABLE t (id bigint, name integer)")
    sink = SqlSink(database(server.uri), "t", ROWS)
    with pytest.raises(
        DataError,
        match=r"^table t: column 'name': invalid input syntax for type integer: \"row 1\"$",
    ):
        sink.write(batch(1, 1))
    sink.discard()


def test_a_type_that_no_database_has_is_named(uri: str) -> None:
    schema = pa.schema([("tags", pa.list_(pa.string()))])
    with pytest.raises(DataError, match=r"^column 'tags' has the type list<.*no column of a SQL"):
        SqlSink(database(uri), "t", schema)


def test_nothing_is_visible_before_the_end(uri: str) -> None:
    execute(uri, "CREATE TABLE other (a integer)")
    sink = SqlSink(database(uri), "t", ROWS)
    sink.write(batch(0, 5_000))
    assert tables(uri) == {"other"}
    sink.write(batch(5_000, 10))
    sink.close()
    assert execute(uri, "SELECT count(*), max(id) FROM t") == [(5_010, 5_009)]

    sink = SqlSink(database(uri), "u", ROWS)
    sink.write(batch(0, 10))
    sink.discard()
    assert tables(uri) == {"other", "t"}


def tables(uri: str) -> set[str]:
    if uri.startswith("sqlite"):
        query = "SELECT name FROM sqlite_master WHERE type = 'table'"
    else:
        query = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
    return {name for (name,) in execute(uri, query)}


@pytest.mark.parametrize("exists", [True, False], ids=["existing", "new"])
def test_a_killed_run_leaves_the_table_as_it_was(uri: str, exists: bool) -> None:
    execute(uri, "CREATE TABLE other (a integer)")
    if exists:
        write(SqlSink(database(uri), "t", ROWS), pa.Table.from_batches([batch(0, 3)]))
    process, said = start(_write_for_long, uri)
    assert said.recv() == "writing"
    kill(process)
    assert tables(uri) == ({"other", "t"} if exists else {"other"})
    # A later run has nothing to wait for.
    write(SqlSink(database(uri), "t", ROWS), pa.Table.from_batches([batch(3, 3)]))
    first = 0 if exists else 3
    assert execute(uri, "SELECT id FROM t ORDER BY id") == [(n,) for n in range(first, 6)]


def _write_for_long(said: Connection, uri: str) -> None:
    sink = SqlSink(database(uri), "t", ROWS)
    for index in range(1_000):
        sink.write(batch(3 + 5_000 * index, 5_000))
        if index == 5:
            said.send("writing")


# --- parts ---

JOB: dict[str, Any] = {"the input": "1", "the number of rows in a part": 3}


def write_part(parts: SqlParts, index: int, *batches: pa.RecordBatch) -> Part:
    part = Part(sum(rows.num_rows for rows in batches), rejected=index)
    parts.begin(index)
    for rows in batches:
        parts.write(rows)
    parts.end(part)
    return part


def test_a_part_is_written_once(uri: str) -> None:
    parts = SqlParts(database(uri), "t", ROWS, "a job")
    assert parts.resume(JOB) == []
    first = [write_part(parts, 0, batch(0, 3), batch(3, 3)), write_part(parts, 1, batch(6, 1))]
    assert execute(uri, "SELECT count(*) FROM t") == [(7,)]
    parts.begin(2)
    parts.write(batch(7, 2))
    parts.discard()
    assert execute(uri, "SELECT count(*) FROM t") == [(7,)]

    other = SqlParts(database(uri), "t", ROWS, "another job")
    assert other.resume(JOB) == []
    write_part(other, 0, batch(100, 1))
    other.discard()

    parts = SqlParts(database(uri), "t", ROWS, "a job")
    assert parts.resume(JOB) == first
    write_part(parts, 2, batch(7, 4))
    write_part(parts, 3)  # all of its rows were rejected
    parts.finish()
    numbers = [*range(11), 100]
    assert execute(uri, "SELECT id FROM t ORDER BY id") == [(n,) for n in numbers]
    left = execute(uri, "SELECT job, part, rows, rejected FROM mmp_batch_parts")
    assert left == [("another job", 0, 1, 0)]

    again = SqlParts(database(uri), "t", ROWS, "a job")  # a finished job can be run again
    assert again.resume(JOB) == []
    again.discard()


def test_parts_of_another_job_are_refused(uri: str) -> None:
    parts = SqlParts(database(uri), "t", ROWS, "job")
    parts.resume(JOB)
    write_part(parts, 0, batch(0, 3))
    parts.discard()
    parts = SqlParts(database(uri), "t", ROWS, "job")
    with pytest.raises(
        DataError,
        match=r"^table t: cannot be resumed, because the number of rows in a part has changed from "
        r"3 to 4; to begin again, delete the rows of the first run, and those of job job in "
        r"mmp_batch_parts$",
    ):
        parts.resume(JOB | {"the number of rows in a part": 4})
    assert parts.resume(JOB) == [Part(3, 0)]
    parts.discard()


def test_parts_are_next_to_their_table(server: PostgreSQL) -> None:
    execute(server.uri, "CREATE SCHEMA s")
    parts = SqlParts(database(server.uri), "s.t", ROWS, "job")
    parts.resume(JOB)
    write_part(parts, 0, batch(0, 3))
    parts.discard()
    query = "SELECT job, part, rows, rejected FROM s.mmp_batch_parts"
    assert execute(server.uri, query) == [("job", 0, 3, 0)]
    execute(server.uri, "DROP SCHEMA s CASCADE")


def test_parts_of_a_table_that_was_dropped_are_written_again(uri: str) -> None:
    parts = SqlParts(database(uri), "t", ROWS, "job")
    parts.resume(JOB)
    write_part(parts, 0, batch(0, 3))
    parts.discard()
    execute(uri, "DROP TABLE t")
    parts = SqlParts(database(uri), "t", ROWS, "job")
    assert parts.resume(JOB) == []
    write_part(parts, 0, batch(0, 3))
    parts.finish()
    assert execute(uri, "SELECT count(*) FROM t") == [(3,)]


def test_a_part_that_fails_is_not_in_the_table(uri: str) -> None:
    execute(uri, "CREATE TABLE t (id bigint, name varchar(50) NOT NULL)")
    parts = SqlParts(database(uri), "t", ROWS, "job")
    parts.resume(JOB)
    first = write_part(parts, 0, batch(0, 3))
    parts.begin(1)
    parts.write(batch(3, 3))
    with pytest.raises(DataError, match=r"^table t: (?!table t)"):
        parts.write(pa.record_batch({"id": [6], "name": [None]}, ROWS))
    parts.discard()
    assert execute(uri, "SELECT count(*) FROM t") == [(3,)]

    parts = SqlParts(database(uri), "t", ROWS, "job")
    assert parts.resume(JOB) == [first]
    write_part(parts, 1, batch(3, 3))
    parts.finish()
    assert execute(uri, "SELECT count(*) FROM t") == [(6,)]


def test_of_two_processes_at_the_same_time_one_is_refused(server: PostgreSQL) -> None:
    parts = SqlParts(database(server.uri), "t", ROWS, "job")
    parts.resume(JOB)
    parts.begin(0)
    parts.write(batch(0, 100))
    process, said = start(_write_parts, server.uri, 2, 100)
    assert said.recv() == "writing"  # the same part: it waits for this process
    assert not said.poll(0.3)
    parts.end(Part(100, 0))
    assert said.recv() == "table t: another run of the same job is writing to it"
    process.join()
    write_part(parts, 1, batch(100, 100))
    parts.finish()
    assert execute(server.uri, "SELECT count(*), count(DISTINCT id) FROM t") == [(200, 200)]


def test_parts_are_written_once_whenever_the_run_is_killed(uri: str) -> None:
    count, rows = 400, 250  # so many that no run ends before it is killed
    chance = random.Random(time.time_ns())
    done: list[int] = []
    for _ in range(10):
        process, said = start(_write_parts, uri, count, rows)
        assert said.recv() == "writing"
        time.sleep(chance.uniform(0, 0.03))
        kill(process)
        parts = SqlParts(database(uri), "t", ROWS, "job")
        done.append(len(parts.resume(JOB)))
        assert execute(uri, "SELECT count(*) FROM t") == [(done[-1] * rows,)]
        parts.discard()
    assert done == sorted(done)
    process, said = start(_write_parts, uri, count, rows)
    assert [said.recv(), said.recv()] == ["writing", "end"]
    process.join()
    parts = SqlParts(database(uri), "t", ROWS, "job")
    assert parts.resume(JOB) == [Part(rows, index) for index in range(count)]
    parts.finish()
    found = execute(uri, "SELECT count(*), count(DISTINCT id), min(id), max(id) FROM t")
    assert found == [(count * rows, count * rows, 0, count * rows - 1)]
    assert execute(uri, "SELECT * FROM mmp_batch_parts") == []


def _write_parts(said: Connection, uri: str, count: int, rows: int) -> None:
    """Write the parts that are missing, but do not finish."""
    parts = SqlParts(database(uri), "t", ROWS, "job")
    done = len(parts.resume(JOB))
    said.send("writing")
    try:
        for index in range(done, count):
            write_part(parts, index, batch(rows * index, rows))
    except DataError as exc:
        said.send(str(exc))
    else:
        said.send("end")
