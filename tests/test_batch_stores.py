"""Read and write an S3 server with `mmp batch-inference`, over HTTP and with a login.

The server is moto's, which checks the signature of each request.
"""

import csv
import json
import logging
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import boto3
import httpx
import pytest
from helpers import run
from moto.server import ThreadedMotoServer
from test_batch import command, same, started, write_penguins

pytestmark = pytest.mark.slow

MULTIPART_BYTES = 10_000_000
"""Arrow uploads larger files in several parts of this size, or less."""

LOGIN = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY")

EVERYTHING = {"Effect": "Allow", "Action": "s3:*", "Resource": "*"}


@dataclass(frozen=True)
class Bucket:
    """A bucket of the server."""

    name: str
    client: Any
    environment: Mapping[str, str]
    """What the command needs to know."""

    def address(self, key: str) -> str:
        return f"s3://{self.name}/{key}"

    def put(self, key: str, file: Path) -> str:
        self.client.upload_file(str(file), self.name, key)
        return self.address(key)

    def get(self, key: str, directory: Path) -> Path:
        """Bring an object here."""
        self.client.download_file(self.name, key, str(directory / Path(key).name))
        return directory / Path(key).name

    def objects(self) -> list[str]:
        """The keys of all objects, the empty ones that stand for directories included."""
        answer = self.client.list_objects_v2(Bucket=self.name)
        return [one["Key"] for one in answer.get("Contents", [])]

    def uploads(self) -> list[str]:
        """The objects whose upload has no end: nobody sees them, but they are paid for."""
        answer = self.client.list_multipart_uploads(Bucket=self.name)
        return [one["Key"] for one in answer.get("Uploads", [])]


@pytest.fixture(scope="module")
def store() -> Iterator[Bucket]:
    """The server, with one login."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # one line for each request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield bucketless(f"http://{host}:{port}")
    finally:
        server.stop()


def bucketless(address: str) -> Bucket:
    """A login of the server, which checks it from now on."""
    anyone = {"aws_access_key_id": "any", "aws_secret_access_key": "any"}
    place = {"endpoint_url": address, "region_name": "us-east-1"}
    iam = boto3.client("iam", **place, **anyone)
    iam.create_user(UserName="tester")
    policy = json.dumps({"Version": "2012-10-17", "Statement": [EVERYTHING]})
    iam.put_user_policy(UserName="tester", PolicyName="s3", PolicyDocument=policy)
    key = iam.create_access_key(UserName="tester")["AccessKey"]
    headers = {"Content-Type": "application/octet-stream"}
    answer = httpx.post(
        f"{address}/moto-api/reset-auth", content=b"0", headers=headers, trust_env=False
    )
    answer.raise_for_status()
    login = (key["AccessKeyId"], key["SecretAccessKey"])
    client = boto3.client("s3", **place, aws_access_key_id=login[0], aws_secret_access_key=login[1])
    environment = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ENDPOINT_URL_S3": address,
        "NO_PROXY": "127.0.0.1",
        "LOG_LEVEL": "WARNING",  # without the progress of a slow run
        "AWS_ACCESS_KEY_ID": login[0],
        "AWS_SECRET_ACCESS_KEY": login[1],
        "AWS_SESSION_TOKEN": "",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    return Bucket("", client, environment)


@pytest.fixture
def bucket(store: Bucket, request: pytest.FixtureRequest) -> Bucket:
    """An empty bucket."""
    name = re.sub("[^a-z0-9]+", "-", request.node.name.lower())[:60].strip("-")
    store.client.create_bucket(Bucket=name)
    return Bucket(name, store.client, store.environment)


TO_PARQUET = """
import pandas

rows = pandas.read_csv("rows.csv")
rows.to_parquet("rows.parquet", index=False)
for index in range(3):
    rows[1_000 * index : 1_000 * (index + 1)].to_parquet(f"{index}.parquet", index=False)
"""


@pytest.fixture(scope="module")
def rows(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the same rows as CSV and as Parquet, and the first ones in three files."""
    directory = tmp_path_factory.mktemp("rows")
    write_penguins(project, directory / "rows.csv", 100_000)
    run(project / ".venv/bin/python", "-c", TO_PARQUET, cwd=directory)
    return directory


def predict(
    project: Path, model: str, bucket: Bucket, *options: str | Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    environment = {**bucket.environment, **environment}
    return run(*command(project, model, *options), cwd=project, env=environment, check=False)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_is_the_same_as_on_this_machine(
    project: Path, penguins: str, rows: Path, bucket: Bucket, tmp_path: Path, suffix: str
) -> None:
    here = tmp_path / f"here{suffix}"
    run(*command(project, penguins, "-d", rows / f"rows{suffix}", "-o", here), cwd=project)
    assert suffix == ".parquet" or here.stat().st_size > MULTIPART_BYTES
    source = bucket.put(f"rows{suffix}", rows / f"rows{suffix}")
    target = bucket.address(f"out{suffix}")
    done = predict(project, penguins, bucket, "-d", source, "-o", target)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"100,000 rows predicted: {target}\n" in done.stdout
    assert bucket.objects() == [f"out{suffix}", f"rows{suffix}"]
    assert bucket.uploads() == []
    assert same(bucket.get(f"out{suffix}", tmp_path), here, project)


@pytest.mark.parametrize("name", ["rows", "rows/*.parquet"])
def test_a_directory_and_a_pattern(
    project: Path, penguins: str, rows: Path, bucket: Bucket, tmp_path: Path, name: str
) -> None:
    for index in range(3):
        bucket.put(f"rows/{index}.parquet", rows / f"{index}.parquet")
    if name != "rows":  # a pattern leaves other files out
        bucket.put("rows/notes.txt", rows / "rows.csv")
    target = bucket.address("answers/out.csv")
    done = predict(project, penguins, bucket, "-d", bucket.address(name), "-o", target)
    assert (done.returncode, done.stderr) == (0, "")
    found = identifiers(bucket.get("answers/out.csv", tmp_path))
    assert found == identifiers(rows / "rows.csv")[:3_001]


def test_training_reads_the_store(
    project: Path, rows: Path, bucket: Bucket, tmp_path: Path
) -> None:
    """From CSV, from which it makes a copy, and from a directory; a missing file is named."""
    environment = {**bucket.environment, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}

    def train(key: str) -> subprocess.CompletedProcess[str]:
        mmp = (project / ".venv/bin/mmp", "train", "-d", bucket.address(key))
        return run(*mmp, cwd=project, env=environment, check=False)

    bucket.put("penguins.csv", project / "data/penguins.csv")
    bucket.put("rows/0.parquet", rows / "0.parquet")
    for key, count in (("penguins.csv", 344), ("rows", 1_000)):
        done = train(key)
        assert done.returncode == 0, done.stderr
        assert sum(map(int, re.findall(r"(\d+) (?:train|test)\b", done.stdout))) == count
    missing = train("no.csv")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr == f"mmp: {bucket.address('no.csv')}: no such file\n"


def identifiers(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return [row[0] for row in csv.reader(file)]


def test_wrong_rows_are_set_aside_in_the_store(
    project: Path, penguins: str, bucket: Bucket, tmp_path: Path
) -> None:
    data = write_penguins(project, tmp_path / "data.csv", 1_000, bad=True)
    options = ("-o", bucket.address("a/out.csv"), "--on-bad-row", "quarantine")
    done = predict(project, penguins, bucket, "-d", bucket.put("data.csv", data), *options)
    assert (done.returncode, done.stderr) == (3, "")
    wrong = list(range(1, 1_001, 97))
    names = identifiers(data)
    assert identifiers(bucket.get("a/out.rejected.csv", tmp_path))[1:] == [str(n) for n in wrong]
    assert identifiers(bucket.get("a/out.csv", tmp_path)) == [
        name for number, name in enumerate(names) if number not in wrong
    ]


def test_a_run_that_is_ended_goes_on(
    project: Path, penguins: str, bucket: Bucket, tmp_path: Path
) -> None:
    """Whatever has been uploaded at that moment, the rows are the same, and no part is left."""
    data = write_penguins(project, tmp_path / "data.csv", 20_000, bad=True)
    parts = ("--resume", "--part-rows", "1000", "--on-bad-row", "quarantine")
    here = command(project, penguins, "-d", data, "-o", tmp_path / "here.csv", *parts)
    assert run(*here, cwd=project, check=False).returncode == 3
    login = ":".join(quote(bucket.environment[f"AWS_{name}"], safe="") for name in LOGIN)
    source, target = bucket.put("data.csv", data), f"s3://{login}@{bucket.name}/out.csv"
    options = ("-d", source, "-o", target, *parts)
    environment = {**os.environ, **bucket.environment}
    for kept, number, status in ((1, signal.SIGKILL, -signal.SIGKILL), (7, signal.SIGTERM, 75)):
        part = f"out.csv.parts/out-{kept:06}.csv"
        arguments = command(project, penguins, *options)
        with started(project, *arguments, env=environment) as process:
            deadline = time.monotonic() + 60
            while part not in bucket.objects():
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < deadline
            process.send_signal(number)
            _, message = process.communicate(timeout=60)
            assert process.returncode == status
        assert "out.csv" not in bucket.objects()
    assert message == "mmp: stopped by a signal; finished parts are kept, go on with: " + (
        shlex.join(["uv", "run", *map(str, arguments)])
        .replace(str(arguments[0]), "mmp")
        .replace(target, f"'s3://***@{bucket.name}/out.csv'")
        + "\n"
    )
    last = predict(project, penguins, bucket, *options)
    assert (last.returncode, last.stderr) == (3, "")
    assert re.search(r"^\d+,000 rows already there$", last.stdout, re.MULTILINE), last.stdout
    assert bucket.objects() == ["data.csv", "out.csv", "out.rejected.csv"]
    for name in ("out", "out.rejected"):
        there = bucket.get(f"{name}.csv", tmp_path)
        assert same(there, tmp_path / f"{name.replace('out', 'here')}.csv", project), name


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_run_that_fails_leaves_nothing(
    project: Path, penguins: str, rows: Path, bucket: Bucket, tmp_path: Path, suffix: str
) -> None:
    """The wrong row is the last one, when much of a CSV file is uploaded already."""
    data = tmp_path / "data.csv"
    shutil.copyfile(rows / "rows.csv", data)
    with data.open("a", encoding="utf-8") as file:
        file.write("last,Adelie,Biscoe,wide,18.7,181,3750,male,2007\n")
    target = bucket.address(f"out{suffix}")
    done = predict(project, penguins, bucket, "-d", data, "-o", target)
    assert done.returncode == 2
    assert re.fullmatch(r"mmp: .*/data\.csv: row 100,001: .*\n", done.stderr), done.stderr
    assert bucket.objects() == []
    assert bucket.uploads() == []


NO_LOGIN = "the store refuses the login, or the login has no right to do this"

NOWHERE = dict.fromkeys(("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"), "http://127.0.0.1:PORT")

REFUSALS = {
    "no such key": (
        ("-d", "s3://BUCKET/none.csv", "-o", "out.csv"),
        {},
        "s3://BUCKET/none.csv: no such file",
    ),
    "no such bucket to read": (
        ("-d", "s3://no-such-bucket/rows.csv", "-o", "out.csv"),
        {},
        "s3://no-such-bucket/rows.csv: there is no such bucket",
    ),
    "no such bucket to write": (
        ("-d", "data/penguins.csv", "-o", "s3://no-such-bucket/out.csv"),
        {},
        "s3://no-such-bucket/out.csv: cannot be written: there is no such bucket",
    ),
    "a wrong key to read": (
        ("-d", "s3://BUCKET/rows.csv", "-o", "out.csv"),
        {"AWS_SECRET_ACCESS_KEY": "wr0ng-s3cr3t"},
        f"s3://BUCKET/rows.csv: cannot be read: {NO_LOGIN} (ACCESS_DENIED)",
    ),
    "a wrong key to write": (
        ("-d", "data/penguins.csv", "-o", "s3://BUCKET/out.csv"),
        {"AWS_SECRET_ACCESS_KEY": "wr0ng-s3cr3t"},
        f"s3://BUCKET/out.csv: cannot be written: {NO_LOGIN} (SIGNATURE_DOES_NOT_MATCH)",
    ),
    "a wrong login in the address": (
        ("-d", "data/penguins.csv", "-o", "s3://UNKNOWN:wr0ng-s3cr3t@BUCKET/out.csv", "--resume"),
        {},
        f"s3://***@BUCKET/out.csv.parts: cannot be written: {NO_LOGIN} (ACCESS_DENIED)",
    ),
    "no server to read": (
        ("-d", "s3://BUCKET/rows", "-o", "s3://BUCKET/rows/out.csv"),
        NOWHERE,
        "s3://BUCKET/rows: cannot be read: the store cannot be reached (REASON)",
    ),
    "no server to write": (
        ("-d", "data/penguins.csv", "-o", "s3://BUCKET/out.csv"),
        NOWHERE,
        "s3://BUCKET/out.csv: cannot be written: the store cannot be reached (REASON)",
    ),
}
"""Options, environment and message; nobody listens on PORT, and REASON is Arrow's."""


@pytest.fixture(scope="module")
def refusals(
    project: Path, penguins: str, store: Bucket
) -> Mapping[str, subprocess.CompletedProcess[str]]:
    """What the command answers to each case; they are run together, because some only wait."""
    store.client.create_bucket(Bucket="existing")
    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))  # nobody else gets the port
    port = str(closed.getsockname()[1])

    def result(name: str) -> subprocess.CompletedProcess[str]:
        options, environment, _ = REFUSALS[name]
        given = [one.replace("BUCKET", "existing") for one in options]
        known = {key: value.replace("PORT", port) for key, value in environment.items()}
        done = predict(project, penguins, store, *given, **known)
        done.stderr = re.sub(r"\(Failed to connect .*\)", "(REASON)", done.stderr)
        done.stderr = done.stderr.replace("existing", "BUCKET")
        return done

    with closed, ThreadPoolExecutor(4) as threads:
        return dict(zip(REFUSALS, threads.map(result, REFUSALS), strict=True))


@pytest.mark.parametrize("name", REFUSALS)
def test_a_store_that_refuses(
    refusals: Mapping[str, subprocess.CompletedProcess[str]], name: str
) -> None:
    *_, message = REFUSALS[name]
    done = refusals[name]
    assert done.stderr == f"mmp: {message}\n"
    assert done.returncode == 2
    assert done.stdout == ""
