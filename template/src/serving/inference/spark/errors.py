"""What Spark and Java raise, as one sentence."""

import contextlib
import re
from collections.abc import Iterator

from py4j.protocol import Py4JError, Py4JJavaError
from pyspark.errors import PySparkException

from serving import errors
from serving.errors import DataError, ServingError
from serving.redaction import first_line, redact

_OWN = re.compile(r"^serving\.errors\.(\w+): (.*)$", re.MULTILINE)
"""The last line of a traceback in an executor, of one of our exceptions."""

_PYTHONS = re.compile(r"^  File .*(?:\n +.*)*\n(?P<error>\w[\w.]*(?:: .*)?)$", re.MULTILINE)
"""The last line of any traceback."""

_MOST_CAUSES = 20


@contextlib.contextmanager
def one_sentence(data: str) -> Iterator[None]:
    """Raise `ServingError` with one sentence for whatever Spark raises while it reads `data`.

    An exception of an executor is raised again: its class is kept if it is one of ours.
    """
    try:
        yield
    except (Py4JError, PySparkException) as exc:
        raise _translated(exc, data) from exc


def _translated(exc: Exception, data: str) -> ServingError:
    messages = _messages(exc)
    for message in messages:
        if found := _OWN.findall(message):
            name, text = found[-1]
            kind: type[ServingError] = getattr(errors, name, ServingError)
            return kind(text) if issubclass(kind, ServingError) else ServingError(text)
    for message in messages:
        if found := _PYTHONS.findall(message):
            return ServingError(f"{data}: the job failed: {redact(found[-1])}")
    if any("TIMESTAMP(NANOS" in message for message in messages):
        return DataError(
            f"{data}: has date-times in nanoseconds, which Spark cannot read; write them in "
            "microseconds"
        )
    if any("CSV header does not conform" in message for message in messages):
        return DataError(f"{data}: the headers of the files are different")
    return ServingError(f"{data}: Spark failed: {describe(exc)}")


def _messages(exc: Exception) -> list[str]:
    """The messages of an exception and its causes, the outermost first."""
    found = [str(exc)]
    cause = exc.java_exception if isinstance(exc, Py4JJavaError) else getattr(exc, "_origin", None)
    with contextlib.suppress(Py4JError):  # the JVM may have ended
        while cause is not None and len(found) < _MOST_CAUSES:
            found.append(cause.getMessage() or cause.toString())
            cause = cause.getCause()
    return found


def describe(exc: Exception) -> str:
    """Why Spark failed: the innermost cause, in one line."""
    return _plain(_messages(exc)[-1])


def _plain(message: str) -> str:
    """A message without Spark's codes and hints."""
    line = first_line(Exception(message))
    line = re.sub(r"^(?:[\w.$]+(?:Exception|Error): )?\[[A-Z_.0-9]+\] ", "", line)
    return re.sub(r"\.? SQLSTATE: \w+$", "", line)
