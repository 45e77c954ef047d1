"""A connection to a database, and its errors as sentences without secrets."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from serving.config.settings import DatabaseSettings
from serving.errors import ConfigError, DataError
from serving.redaction import first_line

_SETTING = "data_source.config.connection_uri"

_PACKAGES = {"psycopg": "psycopg[binary]", "MySQLdb": "mysqlclient"}
"""The package of a driver whose module has another name."""

_PLACE = ("host", "port", "dbname", "service", "options")
"""The parameters of a URI that say which database it is; others may be secret."""

_COLUMN = re.compile(r"^CONTEXT:.*\bcolumn (\S+?)(?::|$)", re.MULTILINE)
"""Where PostgreSQL names the column of a value that it refuses."""

_CANCELED = "57014"
"""PostgreSQL's error code for a statement that takes too long."""


class Database:
    """A database; each connection is opened when it is needed.

    Args:
        settings: where it is.
        is_read_meanwhile: whether this run reads it while it writes.

    Raises `ConfigError` if the URI is missing or wrong, or its driver is not installed.
    """

    def __init__(self, settings: DatabaseSettings, *, is_read_meanwhile: bool = False) -> None:
        if settings.connection_uri is None:
            raise ConfigError(
                f"no database is given; set DATA_SOURCE_CONNECTION_URI, or {_SETTING} in the "
                "config file"
            )
        self._uri = settings.connection_uri.get_secret_value()
        self._password: str | None = None
        self.query_timeout = settings.query_timeout
        try:
            url = make_url(self._uri)
            if url.host and "@" in f"{url.host}{url.database}":
                raise ValueError("a part of the password is taken for the host")
        except (ArgumentError, ValueError):  # a ValueError: for a port that is not a number
            raise ConfigError(
                f"{_SETTING}: is not a valid URI; write "
                "postgresql://USER:PASSWORD@HOST:5432/DATABASE, and special characters of the "
                "password as %XX, for example @ as %40"
            ) from None
        self._password = url.password
        # SQLAlchemy's default for `postgresql` depends on its version, and it refuses `postgres`.
        if url.drivername in ("postgresql", "postgres"):
            url = url.set(drivername="postgresql+psycopg")
        self._engine = self._create_engine(url)
        if self._engine.dialect.name == "sqlite":
            _use_real_transactions(self._engine)
            if is_read_meanwhile:
                _wait_only_at_the_end(self._engine)

    def _create_engine(self, url: URL) -> Engine:
        try:
            # Without a pool, and for SQLite: rows are read in one thread and written in another.
            arguments = {"check_same_thread": False} if url.get_backend_name() == "sqlite" else {}
            return create_engine(url, poolclass=NullPool, connect_args=arguments)
        except NoSuchModuleError:
            raise ConfigError(
                f"{_SETTING}: SQLAlchemy does not know '{url.drivername}'; "
                "its names are in https://docs.sqlalchemy.org/en/20/dialects/"
            ) from None
        except ImportError as exc:
            module = (exc.name or url.get_driver_name()).partition(".")[0]
            raise ConfigError(
                f"{_SETTING}: the driver '{module}' is not installed; install it with "
                f"uv add --group GROUP '{_PACKAGES.get(module, module)}', where GROUP is the stage "
                "that uses it: training or inference"
            ) from None
        except (ArgumentError, TypeError, ValueError) as exc:
            raise ConfigError(f"{_SETTING}: {self._reason(exc)}") from None

    @property
    def name(self) -> str:
        """The address without user, password and parameters that may be secret."""
        url = self._engine.url
        query = {key: value for key, value in url.query.items() if key in _PLACE}
        place = URL.create(url.get_backend_name(), None, None, url.host, url.port, url.database)
        return place.set(query=query).render_as_string()

    @property
    def is_postgresql(self) -> bool:
        """Whether it is PostgreSQL, with any driver."""
        return self._engine.dialect.name == "postgresql"

    @property
    def has_copy(self) -> bool:
        """Whether the driver is psycopg 3, which can `COPY`."""
        return self.is_postgresql and self._engine.dialect.driver == "psycopg"

    def connect(self, *, must_exist: bool = False) -> Connection:
        """Open a connection.

        Args:
            must_exist: refuse a SQLite file that does not exist, which would be created.

        Raises `DataError` if the database does not answer or refuses the login.
        """
        url = self._engine.url
        if must_exist and url.get_backend_name() == "sqlite" and url.database:
            is_file = url.database != ":memory:" and not url.database.startswith("file:")
            if is_file and not Path(url.database).exists():
                raise DataError(f"{self.name}: no such file (looked in {Path.cwd()})")
        with self.explained(f"cannot connect to {self.name}"):
            return self._engine.connect()

    @contextlib.contextmanager
    def explained(self, where: str) -> Iterator[None]:
        """Raise an error of the database or its driver as a `DataError`.

        Args:
            where: the beginning of the message.
        """
        driver: Any = self._engine.dialect.loaded_dbapi
        try:
            yield
        except (SQLAlchemyError, driver.Error) as exc:
            raise DataError(f"{where}: {self._reason(exc)}") from None

    def _reason(self, exc: Exception) -> str:
        cause = getattr(exc, "orig", None) or exc
        decoded = f"://:{self._password}@" if self._password else ""
        reason = first_line(cause, self._uri, decoded).removeprefix("connection failed: ")
        if found := _COLUMN.search(str(cause)):
            reason = f"column '{found[1]}': {reason}"
        if getattr(cause, "sqlstate", None) == _CANCELED and self.query_timeout is not None:
            reason += f"; data_source.config.query_timeout is {self.query_timeout:g} seconds"
        if reason == "database is locked":
            reason += "; SQLite cannot write to a database while it is read"
        return reason


def _use_real_transactions(engine: Engine) -> None:
    """Make `CREATE TABLE` part of a transaction, which Python's sqlite3 does not do.

    https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#transactions-with-sqlite-and-the-sqlite3-driver
    """

    @event.listens_for(engine, "connect")
    def _begin_nothing(connection: Any, _: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")


def _wait_only_at_the_end(engine: Engine) -> None:
    """Keep a transaction of SQLite in memory until it ends.

    SQLite would otherwise wait for the reader, which is the same run, before each page that it
    writes.
    """

    @event.listens_for(engine, "connect")
    def _keep_pages(connection: Any, _: object) -> None:
        connection.execute("PRAGMA cache_spill = OFF")
