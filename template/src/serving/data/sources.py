"""Open whatever holds rows: a file, a directory, an object store, a query of a database."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.config.settings import Settings
from serving.data import files
from serving.data.base import Source
from serving.data.files import CsvFormat
from serving.data.query import Query, is_query, load_query
from serving.errors import DataError

_USUAL = CsvFormat()


def open_source(
    text: str,
    settings: Settings,
    parameters: Mapping[str, Any] | None = None,
    csv_format: CsvFormat = _USUAL,
) -> Source:
    """Open the rows that a path, a pattern or an address names.

    Args:
        text: a CSV or Parquet file, a directory or pattern of Parquet files, the address of one of
            these in an object store, or a file with a query (`.sql`, `.sql.j2`).
        settings: which database runs the query.
        parameters: the variables of a query's template.
        csv_format: how a CSV file is read.

    Raises `DataError` naming the source and what is wrong with it, and `ConfigError` if there is
    no database for the query.
    """
    if is_query(text):
        return run_query(load_query(Path(text), parameters), settings)
    if parameters:
        raise DataError(
            f"{text}: is not a query, so it has no parameter '{next(iter(parameters))}'"
        )
    return files.open_source(text, csv_format)


def run_query(query: Query, settings: Settings) -> Source:
    """Run a query; raises as `open_source`."""
    # Imported only where they are needed: they take 20 MB, and some projects do not have them.
    try:
        from serving.data.database import Database
        from serving.data.sql import SqlSource
    except ModuleNotFoundError as exc:
        raise DataError(
            f"{query.name}: databases are read only in projects with the stage training or "
            f"inference (there is no module '{exc.name}')"
        ) from None
    return SqlSource(
        Database(settings.data_source.config), query.text, query.name, query.parameters
    )
