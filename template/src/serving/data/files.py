"""CSV and Parquet files as sources and sinks, read and written in constant memory."""

import base64
import contextlib
import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow import fs

from serving.data.base import (
    Chunk,
    Malformed,
    Part,
    Parts,
    Sink,
    Source,
    check_names,
    difference,
)
from serving.data.encodings import described, guess_encoding, is_utf8, looks_like_utf8
from serving.data.locations import (
    Location,
    Lock,
    check_format,
    locate,
    matches,
    reading,
    writing,
)
from serving.errors import DataError
from serving.redaction import first_line

_BUFFER_BYTES = 1 << 20
"""The columns of a Parquet file on this machine are read in blocks of this size."""

_GROUP_VALUES = 1 << 20
"""Values of a row group of Parquet, in all columns: 8 MB of numbers."""

_BLOCK_BYTES = 1 << 19
"""A CSV file is read in blocks of this size, up to 32 of them ahead. A row may not be longer."""


_MOST_MALFORMED = 1 << 20
"""More malformed rows than this, one after the other, mean a wrong header; they stay in memory."""


@dataclass(frozen=True)
class CsvFormat:
    """How the text of a CSV file is read."""

    encoding: str = "utf-8"
    """A codec of Python; UTF-8 may have a byte order mark."""
    delimiter: str = ","
    named_by: str | None = None
    """Who names the encoding, for messages; None: nobody, so it is the usual one."""
    is_certain: bool = True
    """Whether the encoding was named for this file; otherwise UTF-8 in its place is noticed."""


_USUAL = CsvFormat()


def open_source(text: str, csv_format: CsvFormat = _USUAL) -> Source:
    """Open a CSV or Parquet file, or a directory or a pattern of Parquet files.

    Args:
        text: the path, the pattern or the address.
        csv_format: how a CSV file is read.

    Raises `DataError` naming the file and what is wrong with it.
    """
    location = locate(text)
    with reading(location):
        if "*" in location.path or "?" in location.path or "[" in location.path:
            found = matches(location)
            if not found:
                raise DataError(f"{location.name}: no file matches this pattern")
            _check_parquet(location, found)
            return ParquetSource(location, found)
        if location.is_directory:
            inside = location.files.get_file_info(fs.FileSelector(location.path))
            _check_parquet(location, [one.path for one in inside if one.type == fs.FileType.File])
            return ParquetSource(location, location.path)
        check_format(location.path)
        if location.is_csv:
            return CsvSource(location, csv_format)
        return ParquetSource(location, [location.path])


def _check_parquet(location: Location, paths: list[str]) -> None:
    names = [PurePosixPath(path).name for path in paths]
    # As in Arrow, names that begin like this are left out.
    if any(name.lower().endswith(".csv") and name[0] not in "._" for name in names):
        raise DataError(f"{location.name}: has CSV files, but only Parquet files are read together")


def open_sink(location: Location, schema: pa.Schema) -> Sink:
    """Start to write a file of the format that its extension names.

    Raises `DataError` naming the file and what is wrong with it.
    """
    check_format(location.path)
    return CsvSink(location, schema) if location.is_csv else ParquetSink(location, schema)


class CsvSource(Source):
    """A CSV file with a header; every value is text.

    Raises `DataError` if the file has no header, or is in another encoding.
    """

    is_text = True

    def __init__(self, location: Location, csv_format: CsvFormat = _USUAL) -> None:
        self._location = location
        self._format = csv_format
        self.name = location.name
        self.delimiter = csv_format.delimiter
        self._is_utf8 = is_utf8(csv_format.encoding)
        with reading(location):
            if not csv_format.is_certain and not self._is_utf8 and looks_like_utf8(self._start()):
                raise DataError(self._not_decoded("utf-8"))
            names = self._header()
        self.schema = pa.schema([pa.field(name, pa.string()) for name in names])

    def chunks(self, size: int, skip: int = 0) -> Iterator[Chunk]:
        """See `Source.chunks`. The rows before are parsed, too, because only they say where the
        others begin."""
        malformed: list[Malformed] = []

        def note(row: Any) -> str:
            rule = f"has {row.actual_columns} fields, the header has {row.expected_columns}"
            malformed.append(Malformed(row.number - 1, rule, row.text))
            return "skip" if len(malformed) < _MOST_MALFORMED else "error"

        with (
            reading(self._location),
            self._decoding(),
            self._text() as text,
            arrow_csv.open_csv(
                pa.lib.TransformInputStream(text, self._without_zero_bytes),
                # Only a single thread knows the numbers of rows.
                arrow_csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES),
                arrow_csv.ParseOptions(
                    delimiter=self.delimiter,
                    newlines_in_values=True,
                    invalid_row_handler=note,
                ),
                arrow_csv.ConvertOptions(
                    column_types=self.schema,
                    include_columns=self.schema.names,
                    strings_can_be_null=False,
                    null_values=[],
                ),
            ) as reader,
        ):
            yield from _chunks(_numbered(reader, malformed, self.schema), size, skip)

    def _text(self) -> pa.NativeFile:
        """The file's text in UTF-8, perhaps with a byte order mark."""
        file = self._location.files.open_input_stream(self._location.path)
        if self._is_utf8:
            return file
        return pa.transcoding_input_stream(file, self._format.encoding, "utf-8")

    def _header(self) -> list[str]:
        with self._decoding(), self._text() as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            rows = csv.reader(text, delimiter=self.delimiter)
            try:
                names = next((row for row in rows if row), [])
            except csv.Error as exc:
                raise DataError(f"{self.name}: the header cannot be read: {exc}") from None
        if not names:
            raise DataError(f"{self.name}: the file is empty")
        check_names(names, self.name)
        return names

    @contextlib.contextmanager
    def _decoding(self) -> Iterator[None]:
        """Explain text that is not in the expected encoding."""
        try:
            yield
        except UnicodeError:
            raise DataError(self._not_decoded()) from None
        except pa.ArrowInvalid as exc:
            if "invalid UTF8" not in str(exc):
                raise
            raise DataError(self._not_decoded()) from None

    def _not_decoded(self, found: str | None = None) -> str:
        """What to do about text in another encoding, perhaps in the one that was found."""
        start = self._start()
        if found is None:
            found = "utf-8" if looks_like_utf8(start) else guess_encoding(start)
        given = self._format
        if found is None or found == given.encoding:
            remedy = "name the file's encoding with --encoding"
            if given.named_by is None:
                remedy = f"save it as CSV in UTF-8, or {remedy}"
        else:
            remedy = f"use --encoding {found}"
            if given.named_by is None:
                remedy += ", or save it as CSV in UTF-8"
            remedy = f"it can be read as {described(found)}: {remedy}"
        what = "UTF-8" if self._is_utf8 else given.encoding
        why = f", which {given.named_by} names" if given.named_by else ""
        return f"{self.name}: not {what} text{why}; {remedy}"

    def _start(self) -> bytes:
        """The first lines of the file, as they are."""
        with self._location.files.open_input_stream(self._location.path) as file:
            content = bytes(file.read(_BLOCK_BYTES))
        # A character is not cut into two at the end of a line.
        return content if len(content) < _BLOCK_BYTES else content.rpartition(b"\n")[0]

    def _without_zero_bytes(self, block: pa.Buffer) -> pa.Buffer:
        # Arrow before version 26 misses commas and quotes beside them, and so divides rows wrongly:
        # https://github.com/apache/arrow/issues/50481
        if b"\0" in memoryview(block).tobytes():
            raise DataError(f"{self.name}: has a zero byte, which CSV files may not have")
        return block

    def fingerprint(self) -> str:
        """See `Source.fingerprint`."""
        return _fingerprint(self._location, [self._location.path])


_Piece = tuple[pa.RecordBatch, np.ndarray, list[Malformed]]
"""Rows, the number of each, and the malformed rows between and directly after them."""


def _numbered(
    batches: Iterable[pa.RecordBatch], malformed: list[Malformed], schema: pa.Schema
) -> Iterator[_Piece]:
    """Number the rows; `malformed` is filled while the file is parsed, ahead of the batches."""
    first = 1
    for batch in batches:
        end, between = first + batch.num_rows, 0
        while between < len(malformed) and malformed[between].number <= end:
            between += 1
            end += 1
        skipped, malformed[:between] = malformed[:between], []
        is_row = np.ones(end - first, dtype=bool)
        is_row[[one.number - first for one in skipped]] = False
        yield batch, first + np.flatnonzero(is_row), skipped
        first = end
    if malformed:
        yield pa.RecordBatch.from_pylist([], schema), np.empty(0, dtype=int), malformed


class ParquetSource(Source):
    """Parquet files with the same columns; those of a directory may be partitioned (Hive).

    Args:
        location: for messages.
        paths: the files in order, or a directory.
    """

    def __init__(self, location: Location, paths: list[str] | str) -> None:
        self._location = location
        self.name = location.name
        with reading(location):
            data = ds.dataset(
                paths, filesystem=location.files, format="parquet", partitioning="hive"
            )
            fragments = sorted(data.get_fragments(), key=lambda one: one.path)
            if not fragments:
                raise DataError(f"{location.name}: has no Parquet files")
            self._files = [
                (one.path, ds.get_partition_keys(one.partition_expression)) for one in fragments
            ]
            self.total = sum(one.count_rows() for one in fragments)
            self.schema = _common_schema([data.schema], location.name)
            for one in fragments:
                self.schema = _common_schema([self.schema, one.physical_schema], one.path)
        keys = {key for _, values in self._files for key in values}
        own = pa.schema([field for field in self.schema if field.name not in keys])
        with reading(location), location.files.open_input_file(fragments[0].path) as file:
            self._texts = set(_repeated_texts(file, own))

    def chunks(self, size: int, skip: int = 0) -> Iterator[Chunk]:
        """See `Source.chunks`."""
        with reading(self._location):
            yield from _chunks(self._pieces(size, skip * size), size, index=skip)

    def fingerprint(self) -> str:
        """See `Source.fingerprint`."""
        return _fingerprint(self._location, [path for path, _ in self._files])

    def _pieces(self, size: int, skip: int) -> Iterator[_Piece]:
        first = 1
        for path, keys in self._files:
            with self._location.files.open_input_file(path) as file:
                metadata = pq.ParquetFile(file).metadata
                texts = sorted(self._texts.intersection(metadata.schema.names))
                for group in range(metadata.num_row_groups):
                    rows = metadata.row_group(group).num_rows
                    if skip >= rows:
                        skip, first = skip - rows, first + rows
                        continue
                    for batch in self._row_group(file, metadata, group, size, texts):
                        kept = batch.slice(min(skip, batch.num_rows))
                        left_out = batch.num_rows - kept.num_rows
                        skip, first = skip - left_out, first + left_out
                        numbers = np.arange(first, first + kept.num_rows)
                        yield self._completed(kept, keys, path), numbers, []
                        first += kept.num_rows

    def _row_group(
        self,
        file: pa.NativeFile,
        metadata: pq.FileMetaData,
        group: int,
        size: int,
        texts: list[str],
    ) -> Iterator[pa.RecordBatch]:
        # A reader that fetches ahead keeps what it has read, so each has one row group. On this
        # machine, blocks of each column are read as they are needed.
        content = pq.ParquetFile(
            file,
            metadata=metadata,
            read_dictionary=texts,
            pre_buffer=not self._location.is_local,
            buffer_size=_BUFFER_BYTES if self._location.is_local else 0,
        )
        yield from content.iter_batches(size, row_groups=[group])

    def _completed(self, rows: pa.RecordBatch, keys: dict[str, Any], path: str) -> pa.RecordBatch:
        """The rows with all columns of the schema, those of the partition included."""
        given = dict(zip(rows.schema.names, rows.columns, strict=True))
        columns = []
        for field in self.schema:
            if field.name in keys:
                value = pa.scalar(keys[field.name]).cast(field.type)
                columns.append(pa.repeat(value, rows.num_rows))
                continue
            if field.name in self._texts:
                field = field.with_type(pa.dictionary(pa.int32(), field.type))
            if field.name in given:
                columns.append(_cast(given[field.name], field, path))
            else:
                columns.append(pa.nulls(rows.num_rows, field.type))
        return pa.RecordBatch.from_arrays(columns, names=self.schema.names)


def _common_schema(schemas: list[pa.Schema], path: str) -> pa.Schema:
    """All columns of the files, each with the widest of its types; `path` is the last file."""
    plain = []
    for schema in schemas:
        check_names(schema.names, path)
        fields = [field for field in schema if not _is_index(field.name)]
        plain.append(pa.schema([field.with_type(_decoded(field.type)) for field in fields]))
    try:
        return pa.unify_schemas(plain, promote_options="permissive")
    except pa.ArrowException as exc:
        raise DataError(f"{path}: is not like the files before it: {first_line(exc)}") from None


def _decoded(type_: pa.DataType) -> pa.DataType:
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def _cast(values: pa.Array, field: pa.Field, path: str) -> pa.Array:
    if values.type == field.type:
        return values
    given, wanted = _decoded(values.type), _decoded(field.type)
    try:
        if _is_text(given) and not _is_text(wanted):  # text is not bytes
            raise pa.ArrowInvalid
        return values.cast(field.type)
    except pa.ArrowException:
        raise DataError(
            f"{path}: the column '{field.name}' is of the type {given}, "
            f"in other files it is {wanted}"
        ) from None


def _repeated_texts(file: pa.NativeFile, schema: pa.Schema) -> list[str]:
    """The columns of text with few values, which are quicker to read in dictionaries."""
    metadata = pq.ParquetFile(file).metadata
    if not metadata.num_row_groups:
        return []
    group = metadata.row_group(0)
    columns = {one.path_in_schema: one for one in map(group.column, range(group.num_columns))}
    return [
        field.name
        for field in schema
        if _is_text(field.type)
        and (column := columns.get(field.name))
        and column.total_uncompressed_size < _REPEATED_BYTES * column.num_values
    ]


_REPEATED_BYTES = 2
"""A column with fewer bytes for each value has less than 65,536 different ones."""


def _is_text(type_: pa.DataType) -> bool:
    is_text = pa.types.is_string(type_) or pa.types.is_large_string(type_)
    return bool(is_text or type_ == pa.string_view())


def _is_index(name: str) -> bool:
    """Whether pandas stored an index without a name in the column."""
    return name.startswith("__index_level_")


def _chunks(pieces: Iterable[_Piece], size: int, skip: int = 0, index: int = 0) -> Iterator[Chunk]:
    """Divide pieces of any size into chunks, and leave out the first ones.

    The first row of the pieces is the first one of the chunk `index`.
    """
    rows: list[pa.RecordBatch] = []
    numbers: list[np.ndarray] = []
    malformed: list[Malformed] = []
    read = index * size
    """The number of the last row."""

    def chunk(last: int) -> Chunk:
        nonlocal rows, numbers, malformed
        all_rows, all_numbers = _concatenated(rows), np.concatenate(numbers)
        stop = int(np.searchsorted(all_numbers, last, side="right"))
        bad = tuple(one for one in malformed if one.number <= last)
        part = Chunk(index, all_numbers[:stop], all_rows.slice(0, stop), bad)
        malformed = malformed[len(bad) :]
        rows, numbers = [all_rows.slice(stop)], [all_numbers[stop:]]
        return part

    for batch, numbering, bad in pieces:
        rows.append(batch)
        numbers.append(numbering)
        malformed += bad
        read += batch.num_rows + len(bad)
        while read >= (index + 1) * size:
            part = chunk((index + 1) * size)
            if skip:
                skip -= 1
            else:
                yield part
            index += 1
    if read > index * size and not skip:
        yield chunk(read)


def _concatenated(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    table = pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()
    [batch] = table.to_batches() or [batches[0]]
    return batch


def _fingerprint(location: Location, paths: list[str]) -> str:
    """A digest of names, sizes and times of change, and of the ends of each file."""
    digest = hashlib.sha256()
    with reading(location):
        for path in paths:
            info = location.files.get_file_info(path)
            digest.update(f"{path} {info.size} {info.mtime_ns}\n".encode())
            with location.files.open_input_file(path) as file:
                digest.update(file.read_at(min(info.size, _END_BYTES), 0))
                digest.update(file.read_at(_END_BYTES, max(0, info.size - _END_BYTES)))
    return digest.hexdigest()


_END_BYTES = 1 << 16


class _FileSink(Sink):
    """Writes under another name until the file is whole."""

    def __init__(self, location: Location, schema: pa.Schema) -> None:
        self.name = location.name
        self._location = location
        self._schema = schema
        self._unfinished = location.unfinished()
        self._is_complete = self._is_closed = False
        with writing(location):
            location.make_parents()
            self._lock = Lock(self._unfinished, location)
            self._file = location.files.open_output_stream(self._unfinished.path)

    def complete(self) -> None:
        """See `Sink.complete`."""
        if not self._is_complete:
            with writing(self._location):
                self._end()
                self._file.close()
                self._unfinished.sync()
            self._is_complete = True

    def close(self) -> None:
        """See `Sink.close`."""
        self.complete()
        with writing(self._location):
            self._unfinished.move_to(self._location)
        self._is_closed = True
        self._lock.release()

    def discard(self) -> None:
        """See `Sink.discard`."""
        if self._is_closed:  # the other name may already be that of another run
            return
        with contextlib.suppress(OSError):  # a full disk
            self._file.close()
        self._unfinished.delete()
        self._is_closed = True
        self._lock.release()

    def _end(self) -> None:
        """Write what follows the rows."""


class ParquetSink(_FileSink):
    """Writes a Parquet file, in row groups of up to `_GROUP_VALUES` values."""

    def __init__(self, location: Location, schema: pa.Schema) -> None:
        super().__init__(location, schema)
        self._writer: pq.ParquetWriter | None = None
        self._pending: list[pa.RecordBatch] = []

    def write(self, rows: pa.RecordBatch) -> None:
        """See `Sink.write`."""
        self._pending.append(rows)
        if sum(one.num_rows for one in self._pending) * rows.num_columns >= _GROUP_VALUES:
            with writing(self._location):
                self._write_group()

    def _write_group(self) -> None:
        if self._pending:
            group = pa.Table.from_batches(self._pending).unify_dictionaries()
            self._pending = []
            self._writer = self._writer or self._open(group.schema)
            self._writer.write_table(group, group.num_rows)

    def _open(self, schema: pa.Schema) -> pq.ParquetWriter:
        writer = pq.ParquetWriter(
            self._file,
            schema,
            store_schema=False,
            # For values that hardly repeat, such as keys and measurements, it only costs time.
            use_dictionary=[f.name for f in schema if pa.types.is_dictionary(f.type)],
            # The smallest and the largest text help few readers, and take a fifth of the time.
            write_statistics=[f.name for f in self._schema if not _is_text(f.type)],
        )
        # Text may come in dictionaries, but readers shall find the types of `self._schema`: the
        # file says them under this key. https://arrow.apache.org/docs/cpp/parquet.html
        types = base64.b64encode(self._schema.serialize())
        writer.add_key_value_metadata({"ARROW:schema": types})
        return writer

    def _end(self) -> None:
        self._write_group()
        self._writer = self._writer or self._open(self._schema)
        self._writer.close()

    def discard(self) -> None:
        """See `Sink.discard`."""
        if self._writer:
            self._writer.is_open = False  # else its destructor complains that the file is closed
        super().discard()


class CsvSink(_FileSink):
    """Writes a CSV file in UTF-8; lists and structures are written as JSON, bytes as base64."""

    def __init__(self, location: Location, schema: pa.Schema) -> None:
        super().__init__(location, schema)
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow(schema.names)
        self._header = header.getvalue().encode()
        self._has_header = False

    def _write_header(self) -> None:
        if not self._has_header:
            self._file.write(self._header)
            self._has_header = True

    def _end(self) -> None:
        self._write_header()

    def write(self, rows: pa.RecordBatch) -> None:
        """See `Sink.write`."""
        with writing(self._location):
            self._write_header()
            columns = [printable(one) for one in rows.columns]
            table = pa.Table.from_arrays(columns, names=rows.schema.names)
            try:
                text = _csv(table, "none")
            except pa.ArrowInvalid:  # a text with a comma, a quote or a line break
                text = _csv(table, "needed")
            self._file.write(text)

    def append(self, file: Location) -> None:
        """Add the rows of another file that was written like this one."""
        with writing(self._location), file.files.open_input_stream(file.path) as content:
            self._write_header()
            content.read(len(self._header))
            while block := content.read(_BLOCK_BYTES):
                self._file.write(block)


def _csv(table: pa.Table, quoting: str) -> pa.Buffer:
    buffer = pa.BufferOutputStream()
    options = arrow_csv.WriteOptions(include_header=False, quoting_style=quoting)
    arrow_csv.write_csv(table, buffer, options)
    return buffer.getvalue()


_BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)


def printable(values: pa.Array) -> pa.Array:
    """Values as CSV has them: plain, lists and structures as JSON, bytes as base64."""
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if values.type == pa.string_view():
        return values.cast(pa.string())
    if pa.types.is_nested(values.type):
        return pa.array(map(as_json, values.to_pylist()), pa.string())
    if any(is_kind(values.type) for is_kind in _BYTES):
        encoded = [None if v is None else base64.b64encode(v).decode() for v in values.to_pylist()]
        return pa.array(encoded, pa.string())
    return values


def as_json(value: Any) -> str | None:
    """A value that has no column type of its own, as JSON text."""
    return None if value is None else json.dumps(value, default=str, ensure_ascii=False)


def as_text(value: Any) -> str | None:
    """A value that has no column type of its own: what JSON writes as a string without quotes, the
    others as JSON."""
    text = as_json(value)
    return json.loads(text) if text and text.startswith('"') else text


class FileParts(Parts):
    """Keeps parts as files in the directory `OUTPUT.parts`, and joins them at the end.

    A part is written under another name, brought to the disk, renamed, and then entered in the
    manifest. So a run that is killed at any moment leaves only whole parts in the manifest.
    """

    def __init__(self, output: Location, schema: pa.Schema) -> None:
        self.name = output.name
        self._output = output
        self._schema = schema
        self.directory = parts_directory(output)
        self._manifest = self.directory.within("manifest.json")
        self._job: Mapping[str, Any] = {}
        self._parts: list[Part] = []
        self._sink: Sink | None = None
        self._lock: Lock | None = None

    def resume(self, job: Mapping[str, Any]) -> list[Part]:
        """See `Parts.resume`."""
        self._job = job
        with writing(self.directory):
            self.directory.files.create_dir(self.directory.path)
            self._lock = Lock(self.directory, self._output)
        with reading(self._manifest):
            if not self._manifest.exists:
                return []
            text = self._manifest.read()
        again = f"delete the directory {self.directory.name} to begin again"
        try:
            content = json.loads(text)
            earlier = dict(content["job"])
            self._parts = [Part(int(one["rows"]), int(one["rejected"])) for one in content["parts"]]
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{self._manifest.name}: is damaged; {again}") from None
        if changed := difference(job, earlier):
            raise DataError(f"{self.name}: cannot be resumed, because {changed}; {again}")
        for index in range(len(self._parts)):
            part = part_file(self.directory, self._output, index)
            if not part.exists:
                raise DataError(f"{part.name}: this part is missing; {again}")
        return list(self._parts)

    def begin(self, index: int) -> None:
        """See `Parts.begin`."""
        self._sink = open_sink(part_file(self.directory, self._output, index), self._schema)

    def write(self, rows: pa.RecordBatch) -> None:
        """See `Parts.write`."""
        assert self._sink is not None
        self._sink.write(rows)

    def end(self, part: Part) -> None:
        """See `Parts.end`."""
        assert self._sink is not None
        self._sink.close()
        self._sink = None
        self._parts.append(part)
        content = {"job": self._job, "parts": [asdict(one) for one in self._parts]}
        self._manifest.write_whole(json.dumps(content, indent=1).encode())

    def finish(self) -> None:
        """See `Parts.finish`. If it is killed on its way, it can be repeated."""
        join_parts(self.directory, self._output, range(len(self._parts)), self._schema)
        self._manifest.delete()  # first: it must not name parts that are gone
        self.directory.delete()
        self._release()

    def discard(self) -> None:
        """See `Parts.discard`."""
        if self._sink:
            self._sink.discard()
        self._release()

    def _release(self) -> None:
        if self._lock:
            self._lock.release()


def parts_directory(output: Location) -> Location:
    """Where the parts of a file are kept."""
    return output.beside(f"{output.path.rpartition('/')[2]}.parts")


def part_file(directory: Location, output: Location, index: int) -> Location:
    """The file of a part."""
    stem = PurePosixPath(output.path).stem
    return directory.within(f"{stem}-{index:06}{output.suffix}")


def join_parts(
    directory: Location, output: Location, indexes: Iterable[int], schema: pa.Schema
) -> None:
    """Write the rows of these parts into the file."""
    sink = open_sink(output, schema)
    try:
        for index in indexes:
            part = part_file(directory, output, index)
            if isinstance(sink, CsvSink):
                sink.append(part)
            else:
                for rows in _row_groups(part, schema):
                    sink.write(rows)
        sink.close()
    except BaseException:
        sink.discard()
        raise


def _row_groups(part: Location, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    with reading(part), part.files.open_input_file(part.path) as file:
        content = pq.ParquetFile(file, read_dictionary=_repeated_texts(file, schema))
        for number in range(content.num_row_groups):
            yield from content.read_row_group(number).combine_chunks().to_batches()
