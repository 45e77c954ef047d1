"""Paths and addresses of object stores, behind Arrow's file systems.

https://arrow.apache.org/docs/python/filesystems.html
"""

import contextlib
import errno
import fcntl
import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import pyarrow as pa
from pyarrow import fs

from serving.errors import DataError, NoSpaceError, StoreFailed
from serving.redaction import first_line, redact

FORMATS = (".csv", ".parquet")
_SHEETS = (".xlsx", ".xls", ".ods")
_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "file")


@dataclass(frozen=True)
class Location:
    """A file or directory on this machine or in an object store."""

    name: str
    """As it was given, without secrets."""
    files: fs.FileSystem
    path: str
    """The path in the file system."""

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine."""
        return isinstance(self.files, fs.LocalFileSystem)

    @property
    def suffix(self) -> str:
        """The extension in lower case, for example `.csv`."""
        return PurePosixPath(self.path).suffix.lower()

    @property
    def is_csv(self) -> bool:
        """Whether the extension says CSV; else it is Parquet."""
        return self.suffix == ".csv"

    @property
    def is_directory(self) -> bool:
        """Whether there is a directory."""
        return bool(self.info.type == fs.FileType.Directory)

    def beside(self, name: str) -> "Location":
        """Another name in the same directory."""
        path = str(PurePosixPath(self.path).with_name(name))
        shown = self.name.rpartition("/")
        return replace(self, path=path, name=f"{shown[0]}{shown[1]}{name}")

    def within(self, name: str) -> "Location":
        """A name in this directory."""
        return replace(self, path=f"{self.path}/{name}", name=f"{self.name}/{name}")

    @property
    def info(self) -> fs.FileInfo:
        """Type, size and time of change; raises as `reading`."""
        with reading(self):
            return self.files.get_file_info(self.path)

    @property
    def exists(self) -> bool:
        """Whether there is a file or a directory."""
        return bool(self.info.type != fs.FileType.NotFound)

    def read(self) -> bytes:
        """The content of a small file."""
        with self.files.open_input_stream(self.path) as file:
            return bytes(file.read())

    def write_whole(self, content: bytes) -> None:
        """Replace the content of a small file: all of it, or nothing."""
        unfinished = self.unfinished()
        try:
            with writing(self):
                with self.files.open_output_stream(unfinished.path) as file:
                    file.write(content)
                unfinished.sync()
                unfinished.move_to(self)
        except BaseException:
            unfinished.delete()
            raise

    def unfinished(self) -> "Location":
        """The name under which this file is written until it is whole.

        It is always the same, so the next run replaces what a killed one has left.
        """
        return self.beside(f".{PurePosixPath(self.path).name}.tmp")

    def sync(self) -> None:
        """Bring a written file to the disk, or the entries of a directory."""
        if self.is_local:
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def move_to(self, other: "Location") -> None:
        """Give a file another name in its directory, where it replaces another file."""
        if self.is_local:
            Path(self.path).replace(other.path)
            replace(other, path=str(Path(other.path).parent)).sync()
        elif self._can_be_moved:
            self.files.move(self.path, other.path)
        else:
            self._copy_to(other)
            self.delete()

    @property
    def _can_be_moved(self) -> bool:
        is_s3 = self.files.type_name == "s3"
        return not is_s3 or self.files.get_file_info(self.path).size <= _MOST_COPIED

    def _copy_to(self, other: "Location") -> None:
        with self.files.open_input_stream(self.path) as content:
            try:
                with self.files.open_output_stream(other.path) as file:
                    while block := content.read(_BLOCK_BYTES):
                        file.write(block)
            except BaseException:
                other.delete()  # closing the stream has made an object of what there was
                raise

    def resolved(self) -> "Location":
        """The file itself, if this is a link; with an absolute path."""
        return replace(self, path=os.path.realpath(self.path)) if self.is_local else self

    def make_parents(self) -> None:
        """Create the directory of the file; object stores have none."""
        if self.is_local:
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)

    def delete(self) -> None:
        """Remove the file or the directory if there is one."""
        with contextlib.suppress(OSError, DataError):
            if self.is_directory:
                self.files.delete_dir(self.path)
            else:
                self.files.delete_file(self.path)


_MOST_COPIED = 5 << 30
"""S3 copies no larger object by itself: https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html"""

_BLOCK_BYTES = 4 << 20


class Lock:
    """Keeps other processes from a file or a directory, until this process ends or releases it.

    Object stores have no locks.

    Args:
        location: what is locked; a file is created if it does not exist.
        what: the file that is written, for the message.

    Raises `DataError` if another process has the lock.
    """

    def __init__(self, location: Location, what: Location) -> None:
        self._descriptor: int | None = None
        is_directory = location.is_local and Path(location.path).is_dir()
        flags = os.O_RDONLY if is_directory else os.O_RDWR | os.O_CREAT
        while location.is_local:
            self._descriptor = os.open(location.path, flags, 0o666)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.release()
                raise DataError(f"{what.name}: another run is writing it") from None
            except OSError:  # a file system without locks
                return
            # Between the two calls, another process may have given the file its final name.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(self._descriptor), os.stat(location.path)):
                    return
            self.release()

    def release(self) -> None:
        """Let other processes have it; may be called again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def locate(text: str) -> Location:
    """Find the file system of a path or of an address such as `s3://bucket/rows.parquet`.

    Raises `DataError` for an address of an unknown kind.
    """
    scheme, separator, _ = text.partition("://")
    if not separator:
        return Location(text, fs.LocalFileSystem(), str(Path(text)))
    if scheme not in _SCHEMES:
        raise DataError(
            f"{redact(text)}: addresses of the kind {scheme}:// are not supported; "
            f"supported are {', '.join(_SCHEMES)}"
        )
    try:
        files, path = fs.FileSystem.from_uri(text)
    except (pa.ArrowException, OSError) as exc:
        raise DataError(f"{redact(text)}: {_reason(exc, text)}") from None
    return Location(redact(text.partition("?")[0]), files, path)


def matches(location: Location) -> list[str]:
    """The paths of the files that a location with `*`, `?` or `[...]` stands for, in order."""
    if location.is_local:
        return sorted(glob.glob(location.path, recursive=True))
    base = PurePosixPath(location.path)
    while glob.has_magic(str(base)):
        base = base.parent
    selector = fs.FileSelector(str(base), recursive=True)
    pattern = PurePosixPath(location.path)
    return sorted(
        one.path
        for one in location.files.get_file_info(selector)
        if one.type == fs.FileType.File and PurePosixPath(one.path).match(str(pattern))
    )


def check_format(name: str) -> None:
    """Raise `DataError` unless the extension names a supported format."""
    suffix = PurePosixPath(name.partition("?")[0]).suffix.lower()
    if suffix not in FORMATS:
        hint = "; spreadsheet programs read and write CSV" if suffix in _SHEETS else ""
        raise DataError(f"{redact(name)}: the file name must end in .csv or .parquet{hint}")


_WORDS = {
    "Empty CSV file": "has no rows",
    "straddling object": "a row has more than 512 KB, or a quoted field has no end",
}
"""What Arrow says about a CSV file, and what it means."""


@contextlib.contextmanager
def reading(location: Location) -> Iterator[None]:
    """Turn the errors of reading into a `DataError` that names the file.

    Raises `StoreFailed` for those of an object store.
    """
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{location.name}: {_what_is_missing(location)}") from None
    except pa.ArrowInvalid as exc:
        kind = "CSV" if location.is_csv else "Parquet"
        for text, words in _WORDS.items():
            if text in str(exc):
                raise DataError(f"{location.name}: {words}") from None
        raise DataError(f"{location.name}: not a readable {kind} file: {first_line(exc)}") from None
    except (OSError, pa.ArrowException) as exc:
        kind_of_error = DataError if location.is_local else StoreFailed
        raise kind_of_error(f"{location.name}: cannot be read: {_reason(exc)}") from None


@contextlib.contextmanager
def writing(location: Location) -> Iterator[None]:
    """Turn the errors of writing into a `DataError` that names the file.

    Raises `NoSpaceError` if the disk is full, and `StoreFailed` for an object store.
    """
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(exc):
            raise NoSpaceError(f"{location.name}: the disk is full") from None
        kind_of_error = DataError if location.is_local else StoreFailed
        raise kind_of_error(f"{location.name}: cannot be written: {_reason(exc)}") from None
    except pa.ArrowException as exc:  # the format has no type for a column
        raise DataError(f"{location.name}: cannot be written: {first_line(exc)}") from None


def _what_is_missing(location: Location) -> str:
    if location.is_local:
        return f"no such file (looked in {Path.cwd()})"
    if location.files.type_name != "s3":
        return "no such file"
    bucket = location.path.partition("/")[0]
    # Who may read an object may not always ask for its bucket.
    with contextlib.suppress(OSError, pa.ArrowException):
        if bucket and location.files.get_file_info(bucket).type == fs.FileType.NotFound:
            return _NO_BUCKET
    return "no such file"


def _reason(exc: BaseException, *addresses: str) -> str:
    if number := getattr(exc, "errno", None):
        return os.strerror(number)
    text = first_line(exc, *addresses)
    if _BUCKET_NOT_FOUND.search(text):
        return _NO_BUCKET
    found = _S3_ERROR.search(text)
    words = found and _S3_WORDS.get(found["code"])
    return f"{words} ({found['details'] or found['code']})" if found and words else text


_NO_BUCKET = "there is no such bucket"

_BUCKET_NOT_FOUND = re.compile(r"Bucket '.*' not found|NO_SUCH_BUCKET")
_S3_ERROR = re.compile(r"AWS Error (?P<code>\w+) during \w+ (.*; Details: (?P<details>.*))?")
"""What Arrow writes; the details are those of the connection."""

_REFUSED = "the store refuses the login, or the login has no right to do this"
_S3_WORDS = {
    "NETWORK_CONNECTION": "the store cannot be reached",
    "ACCESS_DENIED": _REFUSED,
    "INVALID_ACCESS_KEY_ID": _REFUSED,
    "SIGNATURE_DOES_NOT_MATCH": _REFUSED,
}
"""What the codes of S3 mean."""
