"""Read all rows of a source into one table: for training, and to prove a compiled model."""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
import pyarrow as pa

from serving.config.settings import Settings
from serving.data.locations import Location, locate, reading
from serving.data.query import is_query
from serving.data.sources import open_source
from serving.errors import DataError

_CHUNK_ROWS = 65_536


def read_source(
    source: str,
    settings: Settings | None,
    parameters: Mapping[str, Any],
    read_file: Callable[[Path], pd.DataFrame],
) -> pd.DataFrame:
    """Read all rows.

    Args:
        source: a CSV or Parquet file, a directory or pattern of Parquet files, the address of one
            of these in an object store, or a file with a query.
        settings: which database runs a query; None: none.
        parameters: the variables of a query's template.
        read_file: reads a CSV or Parquet file of this machine.

    Raises `DataError` naming the source and what is wrong with it, and `ConfigError` if there is
    no database for a query.
    """
    if not is_query(source) and not parameters:
        location = locate(source)
        if location.is_local and Path(location.path).is_file():
            return read_file(Path(location.path))
        if location.is_csv and not location.is_directory:
            return _read_copy(location, read_file)
    rows = open_source(source, settings or Settings(), parameters)
    batches = [chunk.rows.cast(rows.schema) for chunk in rows.chunks(_CHUNK_ROWS)]
    if not batches:
        raise DataError(f"{rows.name}: has no rows")
    frame: pd.DataFrame = pa.Table.from_batches(batches).to_pandas()
    return frame


def _read_copy(location: Location, read_file: Callable[[Path], pd.DataFrame]) -> pd.DataFrame:
    """Read a CSV file of an object store from a copy, because its types need two passes."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory) / PurePosixPath(location.path).name
        with (
            reading(location),
            location.files.open_input_stream(location.path) as content,
            copy.open("wb") as file,
        ):
            shutil.copyfileobj(content, file)
        try:
            return read_file(copy)
        except DataError as exc:
            raise DataError(str(exc).replace(str(copy), location.name)) from None
