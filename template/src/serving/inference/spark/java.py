"""The Java process that Spark runs in."""

import os
import pwd
import re
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serving.errors import ServingError
from serving.redaction import redact

if TYPE_CHECKING:
    from pyspark import SparkConf

_WANTED = "Spark needs Java 17 or newer"


def require_java() -> None:
    """Raise `ServingError` if there is no Java, before Spark says so in several lines."""
    home = os.environ.get("JAVA_HOME")
    if home and not Path(home, "bin/java").is_file():
        raise ServingError(f"{_WANTED}, and JAVA_HOME ({home}) has no bin/java")
    if not home and not shutil.which("java"):
        raise ServingError(f"{_WANTED}, and there is no Java here")


def launch(conf: "SparkConf") -> Any:
    """Start Java, and return the gateway to it.

    Raises `ServingError` with Java's own reason if it ends.
    """
    from pyspark import java_gateway
    from pyspark.errors import PySparkException

    launch_gateway: Callable[..., Any] = java_gateway.launch_gateway  # it has no types
    reader, writer = os.pipe()
    messages = _Messages(reader)
    try:
        gateway = launch_gateway(conf, {"stderr": writer})
    except PySparkException as exc:
        os.close(writer)
        raise ServingError(f"Java does not start: {messages.reason()}; {_WANTED}") from exc
    os.close(writer)
    messages.pass_on()
    if not has_name():
        users = gateway.jvm.org.apache.hadoop.security.UserGroupInformation
        users.setLoginUser(users.createRemoteUser(str(os.getuid())))
    return gateway


def has_name() -> bool:
    """Whether the user has a name. In a container often not, and Hadoop's file systems want one."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    return True


class _Messages:
    """What Java, and the Python processes that it starts, write to stderr.

    It is shown only after the start: before, Java warns of things that Spark does, and an error is
    a page of text.
    """

    def __init__(self, reader: int) -> None:
        self._reader = reader
        self._first = b""
        self._passes_on = False
        self._thread = threading.Thread(target=self._read, name="java-stderr", daemon=True)
        self._thread.start()

    def pass_on(self) -> None:
        """Write further messages to stderr."""
        self._passes_on = True

    def reason(self) -> str:
        """The line that says why Java has ended."""
        self._thread.join(timeout=10)
        lines = [line.strip() for line in self._first.decode(errors="replace").splitlines()]
        errors = [line for line in lines if re.search(r"\w(?:Error|Exception): ", line)]
        return redact((errors or lines or ["without a message"])[0])

    def _read(self) -> None:
        while block := os.read(self._reader, 65_536):
            if self._passes_on:
                sys.stderr.write(block.decode(errors="replace"))
                sys.stderr.flush()
            else:
                self._first += block
        os.close(self._reader)
