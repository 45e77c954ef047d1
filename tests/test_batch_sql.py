"""Batch inference from a query into a table of a real PostgreSQL, in a rendered project."""

import csv
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from framework.postgresql import PASSWORD, QUOTED_PASSWORD, PostgreSQL
from helpers import run

pytestmark = pytest.mark.slow

COPIES = 100  # of the 344 penguins
ROWS = COPIES * 344
MANY = "SELECT * FROM many ORDER BY number"

# Run with the project's Python, which has the driver: prints the rows of the statement, if any.
STATEMENT = """
import csv, sys, psycopg

with psycopg.connect(sys.argv[1]) as connection:
    found = connection.execute(sys.argv[2])
    if found.description:
        csv.writer(sys.stdout).writerows(found)
"""

# Waits until an expression of SQL is true, with one connection, so that it notices it at once.
WAIT = """
import contextlib, sys, time, psycopg

deadline = time.monotonic() + 60
with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    while time.monotonic() < deadline:
        with contextlib.suppress(psycopg.errors.UndefinedTable):
            if connection.execute(f"SELECT {sys.argv[2]}").fetchone()[0]:
                sys.exit()
        time.sleep(0.002)
sys.exit("timed out")
"""


class Penguins:
    """The project, and a database with its penguins, once and many times."""

    def __init__(self, project: Path, run_id: str, server: PostgreSQL) -> None:
        self.project = project
        self.server = server
        self._options = ["batch-inference", "--run-id", run_id]

    def execute(self, statement: str) -> list[list[str]]:
        """Run a statement; return the rows of its result, as text."""
        python = self.project / ".venv/bin/python"
        answer = run(python, "-c", STATEMENT, self.server.uri, statement, cwd=self.project)
        return list(csv.reader(answer.stdout.splitlines()))

    def start(self, *options: str, uri: str | None = None) -> "subprocess.Popen[str]":
        """Start `mmp batch-inference` itself, which can be killed."""
        return subprocess.Popen(
            [self.project / ".venv/bin/mmp", *self._options, *options],
            cwd=self.project,
            env={**os.environ, "DATA_SOURCE_CONNECTION_URI": uri or self.server.uri},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def predict(self, *options: str, uri: str | None = None) -> tuple[int, str]:
        """Return the exit status and the messages."""
        process = self.start(*options, uri=uri)
        _, messages = process.communicate()
        return process.returncode, messages

    def kill(self, *options: str, once: str) -> None:
        """Kill the command once an expression of SQL is true."""
        process = self.start(*options)
        python = self.project / ".venv/bin/python"
        with subprocess.Popen([python, "-c", WAIT, self.server.uri, once]) as waiting:
            while waiting.poll() is None and process.poll() is None:
                time.sleep(0.001)
            process.kill()
            _, messages = process.communicate()
            assert process.returncode == -signal.SIGKILL, messages  # it had not ended before
            assert waiting.wait() == 0


@pytest.fixture(scope="module")
def database(project: Path, penguins: str, postgresql: PostgreSQL) -> Iterator[Penguins]:
    them = Penguins(project, penguins, postgresql)
    with (project / "data/penguins.csv").open(encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    kinds = {name: "double precision" for name in header if name.endswith(("_mm", "_g"))}
    kinds["year"] = "integer"
    columns = ", ".join(f'"{name}" {kinds.get(name, "text")}' for name in header)
    quoted = [", ".join(f"'{value}'" if value else "NULL" for value in row) for row in rows]
    values = ", ".join(f"({row})" for row in quoted)
    them.execute(
        f"CREATE TABLE penguins ({columns}); INSERT INTO penguins VALUES {values}; "
        "CREATE TABLE many AS SELECT row_number() OVER (ORDER BY copy, penguin_id) AS number, p.* "
        f"FROM penguins p CROSS JOIN generate_series(1, {COPIES}) copy"
    )
    yield them
    them.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")


def test_a_table_gets_the_answers_of_a_file(database: Penguins) -> None:
    query = ("--query", "SELECT * FROM penguins ORDER BY penguin_id")
    status, messages = database.predict(*query, "--output-table", "answers")
    assert status == 0, messages
    file = database.project / "sql.csv"
    status, messages = database.predict("-d", "data/penguins.csv", "-o", file.name)
    assert status == 0, messages
    with file.open(encoding="utf-8") as stream:
        wanted = {row["penguin_id"]: row for row in csv.DictReader(stream)}
    found = database.execute("SELECT penguin_id, prediction, confidence FROM answers")
    assert len(found) == len(wanted) == 344
    for name, prediction, confidence in found:
        assert prediction == wanted[name]["prediction"]
        assert float(confidence) == float(wanted[name]["confidence"])


def test_each_row_is_written_once_however_often_the_run_is_killed(database: Penguins) -> None:
    options = ("--query", MANY, "--output-table", "resumed", "--resume", "--part-rows", "50")
    dice = random.Random(13)
    kept = [0]
    for _ in range(3):
        wanted = kept[-1] + dice.randint(1, ROWS // 4)
        database.kill(*options, once=f"(SELECT count(*) FROM resumed) >= {wanted}")
        [[count]] = database.execute("SELECT count(*) FROM resumed")
        kept.append(int(count))
        assert wanted <= kept[-1] < ROWS
        assert kept[-1] % 50 == 0
    status, messages = database.predict(*options)
    assert status == 0, messages
    figures = "SELECT count(*), count(DISTINCT number), min(number), max(number) FROM resumed"
    assert database.execute(figures) == [[str(ROWS), str(ROWS), "1", str(ROWS)]]
    different = database.execute(
        "SELECT count(*) FROM (SELECT DISTINCT penguin_id, prediction FROM resumed) one"
    )
    assert different == [["344"]]  # each copy gets the same answer


def test_a_killed_run_without_parts_leaves_the_table_as_it_was(database: Penguins) -> None:
    numbers = ("confidence", *(f"probability_{name}" for name in ("Adelie", "Chinstrap", "Gentoo")))
    added = ", ".join(f'0.5::float8 AS "{name}"' for name in numbers)
    database.execute(
        f"CREATE TABLE whole AS SELECT *, 'x' AS prediction, {added} FROM many WHERE number <= 3"
    )
    # The table stops the run in the middle, when it has written many rows.
    database.execute(
        "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql "
        "AS $$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$; "
        "CREATE TRIGGER stop BEFORE INSERT ON whole FOR EACH ROW "
        "WHEN (NEW.number = 30000) EXECUTE FUNCTION stop()"
    )
    activity = "FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND pid <> pg_backend_pid()"
    database.kill("--query", MANY, "--output-table", "whole", once=f"EXISTS (SELECT {activity})")
    # PostgreSQL itself would notice it after the pause.
    database.execute(f"SELECT pg_terminate_backend(pid) {activity}")
    assert database.execute("SELECT number, prediction FROM whole ORDER BY number") == [
        ["1", "x"],
        ["2", "x"],
        ["3", "x"],
    ]


def test_mistakes_are_one_sentence(database: Penguins) -> None:
    options = ("--query", MANY, "--output-table", "none")
    status, messages = database.predict(*options, "--on-bad-row", "quarantine")
    wanted = "mmp: wrong rows need a separate file; use --rejected-path FILE\n"
    assert (status, messages) == (2, wanted)

    uri = database.server.uri.replace(QUOTED_PASSWORD, "hunter2-hunter2")
    status, messages = database.predict(*options, uri=uri)
    assert status == 2
    assert messages.startswith("mmp: cannot connect to postgresql://127.0.0.1:")
    assert "password authentication failed" in messages
    assert messages.count("\n") == 1
    for secret in ("hunter2", PASSWORD, QUOTED_PASSWORD):
        assert secret not in messages
    assert database.execute("SELECT to_regclass('none')") == [[""]]
