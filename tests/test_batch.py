"""Interrupt `mmp batch-inference` in an installed project: nothing is lost, nothing is doubled."""

import contextlib
import csv
import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from helpers import run
from serving import train

pytestmark = pytest.mark.slow

ROWS = 200_000
"""So many that a run is still at work when a busy machine comes to interrupt it."""
BAD_ROWS = 60_000
PART_ROWS = 1_000
KILLS = 10
"""For each of CSV and Parquet."""
MILLION = 1_000_000


@pytest.fixture(scope="module")
def rows(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A large CSV file of real penguins, each with its own id."""
    return write_penguins(project, tmp_path_factory.mktemp("rows") / "rows.csv", ROWS)


@pytest.fixture(scope="module")
def bad_rows(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fewer, with a wrong value in every 97th."""
    path = tmp_path_factory.mktemp("rows") / "bad.csv"
    return write_penguins(project, path, BAD_ROWS, bad=True)


def write_penguins(project: Path, path: Path, count: int, *, bad: bool = False) -> Path:
    with (project / "data/penguins.csv").open(encoding="utf-8") as file:
        header, *penguins = csv.reader(file)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for number in range(count):
            name, *values = penguins[number % len(penguins)]
            if bad and number % 97 == 0:
                values[2] = "wide"
            writer.writerow([f"{name}-{number}", *values])
    return path


def command(project: Path, model: str, *options: str | Path) -> list[str | Path]:
    return [project / ".venv/bin/mmp", "batch-inference", "--run-id", model, *options]


def leftovers(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@contextlib.contextmanager
def started(
    project: Path, *arguments: str | Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        arguments,
        cwd=project,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def is_writing(process: subprocess.Popen[str]) -> bool:
    """Wait until a run with `--resume` has opened the directory of its parts, or has ended."""
    deadline = time.monotonic() + 60
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            open_files = Path(f"/proc/{process.pid}/fd").iterdir()
            if any(str(file.readlink()).endswith(".parts") for file in open_files):
                return True
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return False


def same(first: Path, second: Path, project: Path) -> bool:
    if first.suffix == ".csv":
        return first.read_bytes() == second.read_bytes()
    code = "import sys, pyarrow.parquet as p; print(p.read_table(sys.argv[1]).equals("
    code += "p.read_table(sys.argv[2])))"
    return run(project / ".venv/bin/python", "-c", code, first, second, cwd=project).stdout == (
        "True\n"
    )


def parts(output: Path) -> int:
    """The number of parts that a run has kept."""
    return len(list(Path(f"{output}.parts").glob(f"out-*{output.suffix}")))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_run_that_is_killed_at_any_moment_goes_on(
    project: Path, penguins: str, bad_rows: Path, tmp_path: Path, suffix: str
) -> None:
    """Each run gets a little further than the one before: the last ones join the parts."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, output = (tmp_path / name / f"out{suffix}" for name in ("whole", "killed"))
    part_rows, quarantine = ("--part-rows", str(PART_ROWS)), ("--on-bad-row", "quarantine")
    options = ("-d", bad_rows, "--resume", *part_rows, *quarantine)
    first = run(*command(project, penguins, *options, "-o", whole), cwd=project, check=False)
    assert first.returncode == 3, first.stderr
    dice = random.Random(suffix)
    kept = []
    # A run may end before a busy machine kills it; then the next one begins anew.
    for _ in range(3 * KILLS):
        further = min(parts(output) + dice.randint(0, 10), BAD_ROWS // PART_ROWS)
        with started(project, *command(project, penguins, *options, "-o", output)) as process:
            while is_writing(process) and parts(output) < further:
                time.sleep(0.001)
            time.sleep(dice.uniform(0, 0.005))
            process.kill()
            if process.wait() == -signal.SIGKILL:
                kept.append(parts(output))
        if len(kept) == KILLS:
            break
    assert len(kept) == KILLS, kept
    assert len(set(kept)) > 2, kept
    last = run(*command(project, penguins, *options, "-o", output), cwd=project, check=False)
    assert last.returncode == 3, last.stderr
    assert len(leftovers(whole.parent)) == 2
    assert leftovers(output.parent) == leftovers(whole.parent)
    for name in leftovers(whole.parent):
        assert same(output.parent / name, whole.parent / name, project), name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_after_its_part(
    project: Path, penguins: str, rows: Path, tmp_path: Path, number: signal.Signals
) -> None:
    output = tmp_path / "out.csv"
    options = ("-d", rows, "-o", output, "--resume", "--part-rows", "1000")
    with started(project, *command(project, penguins, *options)) as process:
        wait_for(tmp_path / "out.csv.parts/manifest.json", process)
        os.killpg(process.pid, number)
        _, message = process.communicate(timeout=60)
    assert process.returncode == 75, message
    assert message == (
        "mmp: stopped by a signal; finished parts are kept, go on with: uv run mmp batch-inference "
        f"--run-id {penguins} {' '.join(map(str, options))}\n"
    )
    again = run(*command(project, penguins, *options), cwd=project)
    assert re.search(r"^[\d,]+ rows already there$", again.stdout, re.MULTILINE)
    assert leftovers(tmp_path) == ["out.csv"]
    assert len(output.read_text(encoding="utf-8").splitlines()) == ROWS + 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_nothing_of_a_run_without_resume(
    project: Path, penguins: str, rows: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    options = ("-d", rows, "-o", tmp_path / "out.csv")
    with started(project, *command(project, penguins, *options)) as process:
        wait_for(tmp_path / ".out.csv.tmp", process)
        os.killpg(process.pid, number)
        assert process.wait(60) == status
    assert leftovers(tmp_path) == []


def test_two_runs_do_not_write_one_file(
    project: Path, penguins: str, rows: Path, tmp_path: Path
) -> None:
    options = ("-d", rows, "-o", tmp_path / "out.csv", "--resume", "--part-rows", "100")
    with started(project, *command(project, penguins, *options)) as process:
        # The directory is open a moment before it is locked; the manifest comes after the lock.
        wait_for(tmp_path / "out.csv.parts/manifest.json", process)
        process.send_signal(signal.SIGSTOP)
        other = run(*command(project, penguins, *options), cwd=project, check=False)
    assert other.returncode == 2
    assert other.stderr == f"mmp: {tmp_path}/out.csv: another run is writing it\n"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB; only root may mount one (REQUIRE_MOUNT=1: fail for others)."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", directory)
    mounted = run(*mount, cwd=tmp_path, check=False)
    if mounted.returncode:
        reason = f"no small disk can be mounted: {mounted.stderr}"
        if os.environ.get("REQUIRE_MOUNT"):
            pytest.fail(reason)
        pytest.skip(reason)  # not root
    yield directory
    run("umount", directory, cwd=tmp_path)


def test_a_full_disk(project: Path, penguins: str, rows: Path, small_disk: Path) -> None:
    output = small_disk / "out.csv"
    options: tuple[str | Path, ...] = ("-d", rows, "-o", output)
    whole = run(*command(project, penguins, *options), cwd=project, check=False)
    assert whole.returncode == 2
    assert whole.stderr == f"mmp: {output}: the disk is full\n"
    assert leftovers(small_disk) == []

    options += ("--resume", "--part-rows", "2000")
    parts = run(*command(project, penguins, *options), cwd=project, check=False)
    assert parts.returncode == 75, parts.stderr
    assert "the disk is full; finished parts are kept, go on with: " in parts.stderr
    run("mount", "-o", "remount,size=100m", small_disk, cwd=small_disk)
    again = run(*command(project, penguins, *options), cwd=project)
    assert "rows already there" in again.stdout
    assert leftovers(small_disk) == ["out.csv"]
    assert len(output.read_text(encoding="utf-8").splitlines()) == ROWS + 1


def test_another_job_is_not_resumed(project: Path, penguins: str, tmp_path: Path) -> None:
    data, output = write_penguins(project, tmp_path / "rows.csv", ROWS), tmp_path / "out.csv"
    first = ("-d", data, "-o", output, "--resume", "--part-rows", "1000")
    with started(project, *command(project, penguins, *first)) as process:
        wait_for(tmp_path / "out.csv.parts/manifest.json", process)
        os.killpg(process.pid, signal.SIGKILL)
    manifest = tmp_path / "out.csv.parts/manifest.json"
    written = manifest.read_text(encoding="utf-8")

    def refusal(*options: str | Path) -> str:
        done = run(*command(project, penguins, *first, *options), cwd=project, check=False)
        assert done.returncode == 2, done.stderr
        assert done.stderr.endswith(f"; delete the directory {output}.parts to begin again\n"), (
            done.stderr
        )
        return done.stderr

    assert "because the engine has changed from onnx to sklearn" in refusal("--engine", "native")
    assert "because the number of rows in a part has changed" in refusal("--part-rows", "500")
    assert "because what happens to wrong rows has changed" in refusal("--on-bad-row", "quarantine")
    for key in ("the model", "the model's columns"):
        content = json.loads(written)
        content["job"][key] = "another one"
        manifest.write_text(json.dumps(content), encoding="utf-8")
        assert f"because {key} has changed" in refusal()
    manifest.write_text(written[:-20], encoding="utf-8")
    assert "manifest.json: is damaged" in refusal()
    manifest.write_text(written, encoding="utf-8")
    write_penguins(project, data, ROWS + 1)
    assert "because the input has changed" in refusal()


FLOWERS = """
name: flowers
task_choice: classification
data:
  loader:
    source_uri: {data}
  data_interface:
    entity_columns: [id]
    target_column: tall
preprocessor:
  steps:
    - type: one_hot_encoder
    - type: standard_scaler
model:
  class_path: sklearn.linear_model.LogisticRegression
  compile: true
"""
NUMBER, INTEGER = "must be a finite number", "must be a 64-bit integer"
WRONG: list[tuple[dict[str, str], str, str]] = [
    ({"size": "wide"}, "size", NUMBER),
    ({"size": "-inf"}, "size", NUMBER),
    ({"visits": "2.5"}, "visits", INTEGER),
    ({"visits": str(2**63)}, "visits", INTEGER),
    ({"visits": ""}, "visits", "a value is required"),
    ({"wild": "maybe"}, "wild", "must be a boolean"),
    ({"site": ""}, "site", "a value is required"),
    ({"site": "bog,dune"}, "", "has 6 fields, the header has 5"),  # without quotes
]
"""The kinds of wrong rows: changed values, and the column and the rule that are said."""


def wrong(number: int) -> tuple[dict[str, str], str, str] | None:
    """How a row is wrong: one row in a hundred is, in each way in turn."""
    return WRONG[number // 100 % len(WRONG)] if number % 100 == 50 else None


def write_flowers(path: Path, count: int) -> Path:
    with path.open("w", encoding="utf-8") as file:
        file.write("id,size,visits,wild,site\n")
        for number in range(count):
            row = {"id": f"f-{number}", "size": f"{number % 613 / 100}", "visits": f"{number % 20}"}
            row |= {
                "wild": "false" if number % 3 else "true",
                "site": "dune" if number % 7 else "bog",
            }
            if kind := wrong(number):
                row |= kind[0]
            file.write(",".join(row.values()) + "\n")
    return path


def test_of_a_million_rows_the_wrong_ones_are_set_aside_in_constant_memory(
    project: Path, tmp_path: Path
) -> None:
    flowers = write_flowers(tmp_path / "flowers.csv", 50).read_text(encoding="utf-8").splitlines()
    tall = ["tall", *("no" if number % 2 else "yes" for number in range(50))]
    lines = (f"{row},{value}\n" for row, value in zip(flowers, tall, strict=True))
    (tmp_path / "tall.csv").write_text("".join(lines), encoding="utf-8")
    recipe = tmp_path / "flowers.yaml"
    recipe.write_text(FLOWERS.format(data=tmp_path / "tall.csv"), encoding="utf-8")
    model = train(project, "--recipe-path", recipe)

    def predict(count: int) -> tuple[Path, float]:
        """Return the output without its suffix, and the peak memory."""
        path = tmp_path / str(count)
        data = write_flowers(path.with_suffix(".csv"), count)
        options: list[str | Path] = ["-d", data, "-o", f"{path}.out.csv"]
        options += ("--on-bad-row", "quarantine", "--summary", path.with_suffix(".json"))
        done = run(*command(project, model, *options), cwd=project, check=False)
        assert done.returncode == 3, done.stderr
        found = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        assert (found["rows"], found["rejected"]) == (count, count // 100)
        return path, found["peak_memory_mb"]

    _, less = predict(MILLION // 5)
    path, more = predict(MILLION)
    assert more < 1.1 * less

    with open(f"{path}.out.rejected.csv", encoding="utf-8", newline="") as file:
        rejected = csv.DictReader(file)
        expected = ((number, kind) for number in range(MILLION) if (kind := wrong(number)))
        for one, (number, (fields, column, rule)) in zip(rejected, expected, strict=True):
            assert one["rejected_row"] == str(number + 1)
            assert (one["rejected_column"], one["rejected_rule"]) == (column, rule)
            if column:
                assert one["id"] == f"f-{number}"
                assert fields.items() <= one.items()
            else:
                assert one["rejected_line"].startswith(f"f-{number},")
    with open(f"{path}.out.csv", encoding="utf-8", newline="") as file:
        accepted = [one["id"] for one in csv.DictReader(file)]
    assert accepted == [f"f-{number}" for number in range(MILLION) if not wrong(number)]


def test_worker_processes(project: Path, penguins: str, rows: Path, tmp_path: Path) -> None:
    def options(name: str, workers: int) -> list[str | Path]:
        more = ("--engine", "native", "--workers", str(workers))
        return command(project, penguins, "-d", rows, "-o", tmp_path / name, *more)

    run(*options("one.csv", 1), cwd=project)
    run(*options("two.csv", 2), cwd=project)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()

    with started(project, *options("none.csv", 2)) as process:
        [worker, *_] = workers_of(process)
        os.kill(worker, signal.SIGKILL)
        _, message = process.communicate(timeout=60)
    assert process.returncode == 1
    assert message.startswith("mmp: a worker process has ended unexpectedly; ")
    assert message.count("\n") == 1

    with started(project, *options("none.csv", 2)) as process:
        children = workers_of(process)
        process.kill()
        deadline = time.monotonic() + 10
        while any(Path(f"/proc/{one}/cmdline").exists() for one in children):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Wait for the processes that the fork server of a run has started."""
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, process.communicate()
        found = [
            grandchild for child in children_of(process.pid) for grandchild in children_of(child)
        ]
        if len(found) == 2:
            return found
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children_of(process: int) -> list[int]:
    with contextlib.suppress(FileNotFoundError):
        tasks = Path(f"/proc/{process}/task").glob("*/children")
        return [int(one) for task in tasks for one in task.read_text().split()]
    return []
