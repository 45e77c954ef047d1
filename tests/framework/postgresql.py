"""A real PostgreSQL server for tests, on a port of its own, which is removed at the end.

Needs only the standard library and pytest, so that every test suite can use it.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

USER = "mmp"
PASSWORD = "s3cr3t/P@ss:w%rd"
QUOTED_PASSWORD = "s3cr3t%2FP%40ss%3Aw%25rd"


class PostgreSQL:
    """A server that listens on the loopback interface and asks for a password."""

    def __init__(self, programs: Path, directory: Path, account: str | None) -> None:
        self.port = _free_port()
        self._programs = programs
        self._directory = directory
        self._options: dict[str, Any] = {"cwd": directory}
        if account:
            group = pwd.getpwnam(account).pw_gid
            self._options |= {"user": account, "group": group, "extra_groups": []}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """The address with the password, as in a config file."""
        return f"postgresql://{USER}:{QUOTED_PASSWORD}@127.0.0.1:{self.port}/postgres"

    def create(self) -> None:
        """Create the server's files."""
        password = self._directory / "password"
        password.write_text(PASSWORD)
        login = ("--username", USER, "--pwfile", password, "--auth", "scram-sha-256")
        initdb = (self._programs / "initdb", "--pgdata=data", "--encoding=UTF8", "--locale=C")
        done = subprocess.run(
            [*initdb, "--no-sync", *login], capture_output=True, text=True, **self._options
        )
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        """Start the server; it answers when this returns."""
        log = self._directory / "log"
        place = ("-h", "127.0.0.1", "-p", str(self.port), "-k", self._directory)
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                # -F does not wait for the disk: only a crash of the whole machine loses data.
                [self._programs / "postgres", "-D", "data", "-F", *place],
                stdout=stream,
                stderr=stream,
                **self._options,
            )
        program = str(self._programs / "pg_isready")
        ready = [program, "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        deadline = time.monotonic() + 60
        while subprocess.run(ready).returncode != 0:
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """End the server at once, as if it had failed; it may be started again."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def running_postgresql() -> Iterator[PostgreSQL]:
    """Start a new server; without PostgreSQL's programs, skip the test, or fail if CI needs it."""
    programs = _find_programs()
    if programs is None:
        reason = "PostgreSQL is not installed (Debian: apt-get install postgresql)"
        if os.environ.get("REQUIRE_POSTGRES"):
            pytest.fail(reason)
        pytest.skip(reason)  # not installed
    # It refuses to run as root, whose temporary directories are closed to others.
    account = _other_account() if os.geteuid() == 0 else None
    directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # short, for the socket's path
    server = PostgreSQL(programs, directory, account)
    try:
        if account:
            shutil.chown(directory, account)
        server.create()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory)


def _find_programs() -> Path | None:
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    of_debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return of_debian[-1].parent if of_debian else None


def _other_account() -> str:
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
