"""Files as Spark sees them, in any of Hadoop's file systems."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pyarrow as pa

from serving.contract.columns import Column
from serving.data.encodings import is_utf8
from serving.data.files import CsvFormat
from serving.errors import DataError
from serving.inference.spark.worker import MALFORMED
from serving.redaction import redact

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_CSV: Any = {"escape": '"', "multiLine": True, "encoding": "UTF-8"}
"""As in RFC 4180; Spark's own default escapes a quote by a backslash."""

_INDEX = "__index_level_"
"""So pandas calls an index without a name."""


@dataclass(frozen=True)
class Source:
    """Rows of Parquet or CSV."""

    rows: "DataFrame"
    header: int | None = None
    """How many columns the header of CSV has; None for Parquet."""


class Storage:
    """The file systems of a Spark session."""

    def __init__(self, session: "SparkSession") -> None:
        self._session = session
        context: Any = session.sparkContext
        self._path = context._jvm.org.apache.hadoop.fs.Path
        self._configuration = context._jsc.hadoopConfiguration()

    def exists(self, path: str) -> bool:
        """Whether there is a file or a directory."""
        files, at = self._at(path)
        return bool(files.exists(at))

    def unfinished(self, path: str) -> str:
        """A name beside a directory, for as long as it is not whole; readers ignore such names."""
        _, at = self._at(path)
        return str(self._path(at.getParent(), f".mmp-{uuid4().hex}.tmp").toString())

    def move(self, source: str, target: str) -> None:
        """Rename a directory; in an object store its files are copied.

        Raises `DataError` if the target exists.
        """
        files, at = self._at(target)
        files.mkdirs(at.getParent())
        if files.exists(at) or not files.rename(self._path(source), at):
            raise DataError(f"{redact(target)}: cannot be written: it exists already")

    def delete(self, path: str) -> None:
        """Remove a directory if there is one."""
        files, at = self._at(path)
        files.delete(at, True)

    def read(self, path: str, columns: Sequence[Column], csv_format: CsvFormat) -> "Source":
        """Read Parquet or CSV: a file, a directory, or a pattern.

        All columns of CSV are text, and `MALFORMED` is one more. A column that is part of
        directory names, as in `year=2026/`, is text as well; in Parquet it is cast to the type of
        its contract.

        Raises `DataError` if there is no file, or if it is CSV in another encoding than UTF-8, and
        what Spark raises.
        """
        first, partitions = self._first_file(path)
        if is_csv(first):
            return self._read_csv(path, csv_format)
        rows = self._session.read.parquet(path)
        rows = rows.drop(*(name for name in rows.columns if name.startswith(_INDEX)))
        for column in columns:
            if column.name in partitions and (type_ := _PARTITION_TYPES.get(column.type)):
                rows = rows.withColumn(column.name, rows[f"`{column.name}`"].cast(type_))
        return Source(rows)

    def _read_csv(self, path: str, csv_format: CsvFormat) -> "Source":
        from pyspark.sql.types import StringType, StructField, StructType

        if not is_utf8(csv_format.encoding):
            # Spark refuses most other encodings, and never says that a text is not in one.
            raise DataError(
                f"{redact(path)}: Spark reads CSV files in UTF-8 only, and {csv_format.named_by} "
                f"names {csv_format.encoding}; leave out --on spark, or convert the file and use "
                "--encoding utf-8"
            )
        options = _CSV | {"sep": csv_format.delimiter}
        lines = self._session.read.csv(path, header=False, **options)
        header = lines.first()
        if header is None:
            raise DataError(f"{redact(path)}: the file is empty")
        # Columns that are part of directory names follow, under their own names.
        names = [
            text or ""
            for name, text in zip(lines.columns, header, strict=True)
            if name.startswith("_c")
        ]
        for name in names:
            if names.count(name) > 1:
                raise DataError(f"{redact(path)}: the column '{name}' appears twice")
        rows = self._session.read.csv(
            path,
            schema=StructType([StructField(name, StringType()) for name in (*names, MALFORMED)]),
            header=True,
            enforceSchema=False,  # compares the header of each file
            columnNameOfCorruptRecord=MALFORMED,
            **options,
        )
        return Source(rows, len(names))

    def _first_file(self, path: str) -> tuple[str, set[str]]:
        """The name of one file, and the columns that are part of the directories' names."""
        files, at = self._at(path)
        for match in files.globStatus(at) or []:
            if match.isFile():
                return match.getPath().getName(), set()
            base = match.getPath().toUri().getPath()
            found = files.listFiles(match.getPath(), True)
            while found.hasNext():
                parts = Path(found.next().getPath().toUri().getPath()).relative_to(base).parts
                if not any(part[0] in "._" for part in parts):
                    return parts[-1], {part.partition("=")[0] for part in parts if "=" in part}
        where = f" (looked in {Path.cwd()})" if "://" not in path else ""
        raise DataError(f"{redact(path)}: no such file{where}")

    def _at(self, path: str) -> tuple[Any, Any]:
        at = self._path(path)
        return at.getFileSystem(self._configuration), at


_PARTITION_TYPES = {
    "boolean": "boolean",
    "integer": "int",
    "long": "bigint",
    "float": "double",
    "double": "double",
}
"""Spark's types of contract types that have another form than text."""


def is_csv(path: str) -> bool:
    """Whether a name says CSV, perhaps compressed; else it is Parquet."""
    return re.search(r"\.csv(\.(gz|bz2|zst))?/?$", path, re.IGNORECASE) is not None


def write(rows: "DataFrame", path: str, *, as_csv: bool) -> None:
    """Write rows into a new directory, with one file for each partition."""
    if as_csv:
        rows.write.csv(
            path,
            header=True,
            escape='"',
            ignoreLeadingWhiteSpace=False,
            ignoreTrailingWhiteSpace=False,
        )
    else:
        rows.write.parquet(path)


def arrow_schema(rows: "DataFrame") -> pa.Schema:
    """The columns of rows, as executors get them."""
    from pyspark.sql.pandas.types import to_arrow_schema

    return to_arrow_schema(rows.schema, timezone="UTC")
