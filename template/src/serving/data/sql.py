"""Rows from a query of a database, and rows into one of its tables.

Date-times are naive UTC, and decimals are 64-bit floats.
"""

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from pyarrow import csv
from sqlalchemy import Connection, CursorResult

from serving.data.base import Chunk, Part, Parts, Sink, Source, difference
from serving.data.database import Database
from serving.errors import DataError
from serving.redaction import first_line

PARTS_TABLE = "mmp_batch_parts"
"""Which parts of which job are in a table; next to that table."""

_BLOCK = 2_000
"""Rows that are Python objects at the same time; more take longer, by garbage collection."""

_FIRST = 10_000
"""Rows whose values give the types of columns that the database does not describe."""

_OF_OID: dict[int, pa.DataType] = {
    16: pa.bool_(),
    **dict.fromkeys((20, 21, 23, 26), pa.int64()),  # int8, int2, int4, oid
    **dict.fromkeys((700, 701, 1700), pa.float64()),  # float4, float8, numeric
    **dict.fromkeys((18, 19, 25, 1042, 1043, 2950), pa.string()),  # kinds of text, uuid
    17: pa.binary(),  # bytea
    1082: pa.date32(),
    **dict.fromkeys((1114, 1184), pa.timestamp("us")),  # without and with time zone
}
"""PostgreSQL's types by their constant numbers: `SELECT oid, typname FROM pg_type`."""

_OF_VALUE: dict[type, pa.DataType] = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    Decimal: pa.float64(),
    str: pa.string(),
    UUID: pa.string(),
    bytes: pa.binary(),
    memoryview: pa.binary(),
    datetime: pa.timestamp("us"),
    date: pa.date32(),
}

_WORDS = {
    pa.bool_(): "a boolean",
    pa.int64(): "a 64-bit integer",
    pa.float64(): "a number",
    pa.string(): "text",
    pa.binary(): "bytes",
    pa.timestamp("us"): "a date-time",
    pa.date32(): "a date",
}

_Values = Sequence[Any]


class SqlSource(Source):
    """The rows of a query, read with a server-side cursor.

    PostgreSQL describes the types of a result. With another database, a column has the type of its
    first 10,000 values, and is text if all of them are NULL. A later value of another type is an
    error.

    A query has no order of its own. So a run that may be resumed needs an `ORDER BY` whose columns
    identify a row, and rows that do not change until the run has ended.

    Args:
        database: where the query runs, at once.
        query: a `SELECT`.
        name: the query in messages, such as its file.
        parameters: the value of each `:NAME` of the query; without any, a colon is just a colon.

    Raises `DataError` if the query fails.
    """

    def __init__(
        self,
        database: Database,
        query: str,
        name: str = "the query",
        parameters: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self._database = database
        self._query = query
        self._parameters = parameters or {}
        self._rows = self._run()
        self.schema = self._rows.schema

    def _run(self) -> "_Rows":
        return _Rows(self._database, self._query, self.name, self._parameters)

    def chunks(self, size: int, skip: int = 0) -> Iterator[Chunk]:
        rows = self._run() if self._rows.has_ended else self._rows
        try:
            rows.drop(skip * size)
            index = skip
            while batch := rows.read(size):
                first = index * size + 1
                yield Chunk(index, np.arange(first, first + batch.num_rows), batch)
                index += 1
        finally:
            rows.close()

    def close(self) -> None:
        """End the query if its rows have not been read."""
        self._rows.close()

    def fingerprint(self) -> str:
        """Identify the query and the database; the rows are not compared.

        Raises `DataError` if the query has no `ORDER BY`.
        """
        if not _has_order(self._query):
            raise DataError(
                f"{self.name}: has no ORDER BY, so a resumed run could read the rows in another "
                "order; order them by columns that identify a row, or run without --resume"
            )
        content = json.dumps([self._database.name, self._query, self._parameters], default=str)
        return f"sql:{hashlib.sha256(content.encode()).hexdigest()}"


_NO_KEYWORDS = re.compile(
    r"""--[^\n]* | /\*.*?\*/ | '(?:[^']|'')*' | "(?:[^"]|"")*" | \$(\w*)\$.*?\$\1\$""",
    re.VERBOSE | re.DOTALL,
)
"""Comments, text and quoted names."""

_PARENTHESES = re.compile(r"\([^()]*\)")


def _has_order(query: str) -> bool:
    """Whether the query itself, not one within it, has an `ORDER BY`."""
    rest = _NO_KEYWORDS.sub(" ", query)
    while _PARENTHESES.search(rest):
        rest = _PARENTHESES.sub(" ", rest)
    return re.search(r"\border\s+by\b", rest, re.IGNORECASE) is not None


class _Rows:
    """The rows of a running query as Arrow batches."""

    def __init__(
        self, database: Database, query: str, name: str, parameters: Mapping[str, Any]
    ) -> None:
        self._database = database
        self._name = name
        self._parameters = parameters
        self._read = 0
        """How many rows have been read."""
        self.has_ended = False
        self._connection = database.connect(must_exist=True)
        try:
            self._result = self._execute(query)
            self._described = self._describe()
            self._waiting = self._fetch(_FIRST)
            """Rows that were read to find the types."""
            self.schema = self._find_schema()
        except BaseException:
            self.close()
            raise

    def _execute(self, query: str) -> CursorResult[Any]:
        with self._database.explained(self._name):
            if self._database.is_postgresql and self._database.query_timeout is not None:
                milliseconds = max(1, round(self._database.query_timeout * 1000))
                self._connection.exec_driver_sql(f"SET LOCAL statement_timeout = {milliseconds}")
            result = self._start(query)
        if not result.returns_rows or not result.keys():
            raise DataError(f"{self._name}: returns no columns; it must be a SELECT")
        return result

    def _start(self, query: str) -> CursorResult[Any]:
        if not self._parameters:
            # So that % and : in the query mean what they mean in SQL.
            options = {"yield_per": _BLOCK, "no_parameters": True}
            return self._connection.exec_driver_sql(query, execution_options=options)
        # Without a type, so that the database compares a text with a date, for example.
        bound = [
            sa.bindparam(name, value, sa.types.NULLTYPE, expanding=isinstance(value, list))
            for name, value in self._parameters.items()
        ]
        statement = sa.text(query).bindparams(*bound)
        return self._connection.execute(statement, execution_options={"yield_per": _BLOCK})

    def _describe(self) -> list[pa.DataType | None]:
        """The type of each column by the driver's description; None if that is not known."""
        cursor: Any = self._result.cursor
        if not self._database.is_postgresql:
            return [None] * len(cursor.description)
        return [_OF_OID.get(column[1]) for column in cursor.description]

    def _find_schema(self) -> pa.Schema:
        names = list(self._result.keys())
        for name in names:
            if names.count(name) > 1:
                raise DataError(
                    f"{self._name}: the column '{name}' appears twice; rename one of them with AS"
                )
        columns: Sequence[_Values] = list(zip(*self._waiting, strict=True)) or [()] * len(names)
        return pa.schema(
            (name, type_ or self._find_type(name, values))
            for name, type_, values in zip(names, self._described, columns, strict=True)
        )

    def _find_type(self, name: str, values: _Values) -> pa.DataType:
        found: pa.DataType | None = None
        for kind in dict.fromkeys(map(type, values)):  # in the order of the rows
            if kind is type(None):
                continue
            type_ = _OF_VALUE.get(kind)
            if type_ is None:
                raise DataError(
                    f"{self._name}: the column '{name}' has values of the unsupported type "
                    f"{kind.__name__}; convert it in the query, for example to text"
                )
            if found is None or (found, type_) == (pa.int64(), pa.float64()):
                found = type_
        return found or pa.string()

    def _fetch(self, count: int) -> Sequence[_Values]:
        where = f"{self._name}: after row {self._read}" if self._read else self._name
        with self._database.explained(where):
            return self._result.fetchmany(count)

    def _next(self, count: int) -> Sequence[_Values]:
        rows = self._waiting[:count] or self._fetch(count)
        self._waiting = self._waiting[count:]
        return rows

    def drop(self, count: int) -> None:
        """Leave out the next rows."""
        while count and (rows := self._next(min(count, _BLOCK))):
            self._read += len(rows)
            count -= len(rows)

    def read(self, count: int) -> pa.RecordBatch | None:
        """The next rows: as many as `count`, fewer before the end, None at the end."""
        batches = []
        while count and (rows := self._next(min(count, _BLOCK))):
            columns = zip(zip(*rows, strict=True), self.schema, strict=True)
            arrays = [self._convert(values, field) for values, field in columns]
            batches.append(pa.RecordBatch.from_arrays(arrays, schema=self.schema))
            self._read += len(rows)
            count -= len(rows)
        return pa.concat_batches(batches) if batches else None

    def _convert(self, values: _Values, field: pa.Field) -> pa.Array:
        try:
            return _to_array(values, field.type)
        except _UNFIT:
            pass
        for index, value in enumerate(values):
            try:
                _to_array([value], field.type)
            except _UNFIT as exc:
                row, reason = self._read + index + 1, first_line(exc)
                raise DataError(
                    f"{self._name}: row {row}, column '{field.name}': {reason}"
                ) from None
        raise AssertionError(f"each value of the column '{field.name}' fits, but not all of them")

    def close(self) -> None:
        """End the query."""
        self.has_ended = True
        with contextlib.suppress(DataError), self._database.explained(self._name):
            self._connection.close()


_UNFIT = (TypeError, ValueError, OverflowError)


def _to_array(values: _Values, type_: pa.DataType) -> pa.Array:
    """Convert without loss, except for decimals; raises one of `_UNFIT` if that is not possible."""
    for kind in {*map(type, values)} - {type(None)}:
        given = _OF_VALUE.get(kind)
        if given != type_ and (given, type_) != (pa.int64(), pa.float64()):
            value = next(value for value in values if type(value) is kind)
            raise TypeError(
                f"is {value!r:.100}, but the values before it make the column {_WORDS[type_]}; "
                "give it one type in the query, with CAST"
            )
        if kind is Decimal:
            values = [float(value) if type(value) is Decimal else value for value in values]
        elif kind is UUID:
            values = [str(value) if type(value) is UUID else value for value in values]
    return pa.array(values, type_)


class _Table:
    """A table that rows are added to, within a transaction."""

    def __init__(self, database: Database, name: str, schema: pa.Schema) -> None:
        parts = name.split(".")
        if not all(parts) or len(parts) > 2:
            raise DataError(f"'{name}' is not the name of a table; write TABLE or SCHEMA.TABLE")
        self.name = name
        self.schema_name = parts[0] if len(parts) == 2 else None
        self._database = database
        columns = [sa.Column(field.name, _sql_type(field.type, field.name)) for field in schema]
        self._table = sa.Table(parts[-1], sa.MetaData(schema=self.schema_name), *columns)

    def prepare(self, connection: Connection) -> bool:
        """Create the table if it does not exist, or else compare its columns.

        Returns whether the table was created.

        Raises `DataError` naming a column that is missing in the table or in the rows.
        """
        with self._database.explained(f"table {self.name}"):
            inspector = sa.inspect(connection)
            if not inspector.has_table(self._table.name, self.schema_name):
                self._table.create(connection)
                return True
            found = inspector.get_columns(self._table.name, self.schema_name)
        names = [column["name"] for column in found]
        for name in self._table.columns.keys():  # noqa: SIM118  its iterator yields columns
            if name not in names:
                raise DataError(
                    f"table {self.name}: has no column '{name}'; it has {', '.join(names)}"
                )
        for column in found:
            is_needed = not column["nullable"] and column.get("default") is None
            generated = column.get("identity") or column.get("computed")
            if is_needed and not generated and column["name"] not in self._table.columns:
                raise DataError(
                    f"table {self.name}: requires the column '{column['name']}', "
                    "which the rows do not have"
                )
        return False

    def insert(self, connection: Connection, rows: pa.RecordBatch) -> None:
        """Add rows.

        Raises `DataError` if the database refuses them.
        """
        with self._database.explained(f"table {self.name}"):
            if self._database.has_copy:
                self._copy(connection, rows)
                return
            statement = sa.insert(self._table)
            for block in _blocks(rows):
                connection.execute(statement, block.to_pylist())

    def _copy(self, connection: Connection, rows: pa.RecordBatch) -> None:
        """Send the rows as CSV, in which text is quoted and NULL is not."""
        names = [part for part in (self.schema_name, self._table.name) if part]
        statement = (
            f"COPY {'.'.join(map(_quoted, names))} "
            f"({', '.join(map(_quoted, self._table.columns.keys()))}) "
            "FROM STDIN (FORMAT csv, ENCODING 'UTF8')"
        )
        options = csv.WriteOptions(include_header=False)
        driver: Any = connection.connection.driver_connection
        with driver.cursor() as cursor, cursor.copy(statement) as copy:
            for block in _blocks(rows):
                text = io.BytesIO()
                csv.write_csv(_with_hexadecimal_bytes(block), text, options)
                copy.write(text.getbuffer())


def _sql_type(type_: pa.DataType, name: str) -> sa.types.TypeEngine[Any]:
    types = pa.types
    if types.is_dictionary(type_):
        return _sql_type(type_.value_type, name)
    if types.is_boolean(type_):
        return sa.Boolean()
    if types.is_uint64(type_):
        return sa.Numeric(20, 0)
    if types.is_integer(type_):
        return sa.BigInteger() if type_.bit_width > 32 or type_ == pa.uint32() else sa.Integer()
    if types.is_floating(type_):
        return sa.Double()
    if types.is_decimal(type_):
        return sa.Numeric(type_.precision, type_.scale)
    if types.is_timestamp(type_):
        return sa.DateTime(timezone=type_.tz is not None)
    if types.is_date(type_):
        return sa.Date()
    if types.is_time(type_):
        return sa.Time()
    if _is_binary(type_):
        return sa.LargeBinary()
    if types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_):
        return sa.Text()
    if types.is_null(type_):
        return sa.Text()
    raise DataError(
        f"column '{name}' has the type {type_}, which no column of a SQL table can hold"
    )


def _is_binary(type_: pa.DataType) -> bool:
    types = pa.types
    variable = types.is_binary(type_) or types.is_large_binary(type_) or types.is_binary_view(type_)
    return bool(variable or types.is_fixed_size_binary(type_))


def _blocks(rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The rows in blocks; date-times are naive UTC in microseconds, and nothing is encoded."""
    for start in range(0, rows.num_rows, _BLOCK):
        block = rows.slice(start, _BLOCK)
        arrays = [_plain(array) for array in block.columns]
        yield pa.RecordBatch.from_arrays(arrays, names=block.schema.names)


def _plain(array: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.timestamp("us"), safe=False)  # databases have no nanoseconds
    return array


def _with_hexadecimal_bytes(rows: pa.RecordBatch) -> pa.RecordBatch:
    for index, field in enumerate(rows.schema):
        if _is_binary(field.type):
            values = rows.column(index).to_pylist()
            texts = [None if value is None else f"\\x{value.hex()}" for value in values]
            rows = rows.set_column(index, field.name, pa.array(texts, pa.string()))
    return rows


def _quoted(name: str) -> str:
    # Not by SQLAlchemy, which doubles % for statements with parameters.
    return '"' + name.replace('"', '""') + '"'


@contextlib.contextmanager
def _transaction(database: Database, connection: Connection, name: str) -> Iterator[None]:
    """Commit what is done within, or nothing of it."""
    with database.explained(name), connection.begin():
        _use_utc(database, connection)
        yield


def _use_utc(database: Database, connection: Connection) -> None:
    if database.is_postgresql:  # or else a column with a time zone would take another one's
        connection.exec_driver_sql("SET LOCAL TIME ZONE 'UTC'")


class SqlSink(Sink):
    """Adds rows to a table in a single transaction.

    Args:
        database: where the table is.
        table: `TABLE` or `SCHEMA.TABLE`; it is created if it does not exist.
        schema: of the rows that will be written.

    Raises `DataError` if the table cannot hold such rows.
    """

    def __init__(self, database: Database, table: str, schema: pa.Schema) -> None:
        self._database = database
        self._table = _Table(database, table, schema)
        self.name = f"table {table}"
        self._connection = database.connect()
        try:
            with database.explained(self.name):
                self._connection.begin()
                _use_utc(database, self._connection)
            self._table.prepare(self._connection)
        except BaseException:
            self.discard()
            raise

    def write(self, rows: pa.RecordBatch) -> None:
        self._table.insert(self._connection, rows)

    def close(self) -> None:
        with self._database.explained(self.name):
            self._connection.commit()
        self.discard()  # nothing is left but the connection

    def discard(self) -> None:
        with contextlib.suppress(DataError), self._database.explained(self.name):
            self._connection.close()


class SqlParts(Parts):
    """Adds the parts of a job to a table, each of them once, whenever the run is interrupted.

    A part and its row in `mmp_batch_parts`, a table in the same schema, are one transaction. The
    rows of other jobs in both tables are left alone.

    Args:
        database: where the table is.
        table: `TABLE` or `SCHEMA.TABLE`; it is created if it does not exist.
        schema: of the rows that will be written.
        identity: identifies the job and its resumptions; at most 255 characters.

    Raises `DataError` if the table cannot hold such rows.
    """

    def __init__(self, database: Database, table: str, schema: pa.Schema, identity: str) -> None:
        self._database = database
        self._table = _Table(database, table, schema)
        self.name = f"table {table}"
        self._identity = identity
        self._job = ""
        self._index = 0
        self._parts = sa.Table(
            PARTS_TABLE,
            sa.MetaData(schema=self._table.schema_name),
            sa.Column("job", sa.String(255), primary_key=True),
            sa.Column("part", sa.Integer, primary_key=True, autoincrement=False),
            sa.Column("rows", sa.BigInteger, nullable=False),
            sa.Column("rejected", sa.BigInteger, nullable=False),
            sa.Column("settings", sa.Text, nullable=False),
        )
        self._connection = database.connect()
        try:
            with self._transaction():
                is_new = self._table.prepare(self._connection)
                self._parts.create(self._connection, checkfirst=True)
                if is_new:  # a table of this name was dropped, together with the parts in it
                    self._forget()
        except BaseException:
            self.discard()
            raise

    def _transaction(self) -> contextlib.AbstractContextManager[None]:
        return _transaction(self._database, self._connection, self.name)

    def _forget(self) -> None:
        self._connection.execute(sa.delete(self._parts).where(self._parts.c.job == self._identity))

    def resume(self, job: Mapping[str, Any]) -> list[Part]:
        """See `Parts.resume`."""
        self._job = json.dumps(job)
        columns = self._parts.c
        query = sa.select(columns.rows, columns.rejected, columns.settings)
        query = query.where(columns.job == self._identity).order_by(columns.part)
        with self._transaction():
            found = self._connection.execute(query).tuples().all()
        for _, _, settings in found:
            if changed := difference(job, json.loads(settings)):
                raise DataError(
                    f"{self.name}: cannot be resumed, because {changed}; to begin again, delete "
                    f"the rows of the first run, and those of job {self._identity} in {PARTS_TABLE}"
                )
        return [Part(rows, rejected) for rows, rejected, _ in found]

    def begin(self, index: int) -> None:
        """See `Parts.begin`."""
        self._index = index
        entry = sa.insert(self._parts).values(
            job=self._identity, part=index, rows=0, rejected=0, settings=self._job
        )
        with self._database.explained(self.name):
            self._connection.begin()
            _use_utc(self._database, self._connection)
            try:  # first, so that another process with the same part waits here
                self._connection.execute(entry)
            except sa.exc.IntegrityError:
                raise DataError(
                    f"{self.name}: another run of the same job is writing to it"
                ) from None

    def write(self, rows: pa.RecordBatch) -> None:
        """See `Parts.write`."""
        self._table.insert(self._connection, rows)

    def end(self, part: Part) -> None:
        """See `Parts.end`."""
        columns = self._parts.c
        entry = sa.update(self._parts).where(
            columns.job == self._identity, columns.part == self._index
        )
        with self._database.explained(self.name):
            self._connection.execute(entry.values(rows=part.rows, rejected=part.rejected))
            self._connection.commit()

    def finish(self) -> None:
        """See `Parts.finish`."""
        with self._transaction():
            self._forget()
        self.discard()

    def discard(self) -> None:
        """See `Parts.discard`."""
        with contextlib.suppress(DataError), self._database.explained(self.name):
            self._connection.close()
