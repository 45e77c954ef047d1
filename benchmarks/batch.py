"""`make bench-batch`: compare batch inference of a rendered project with others on one model.

Renders the template from the working tree, trains the example's recipe there, and writes tables
drawn from the example's data. Runs one program after the other on each of them, and checks what
it wrote before its figures count. Each program has its own environment under build/bench/, which
the next run reuses. A full run writes its tables into benchmarks/README.md; with options, it
writes them into build/bench/ only.
"""

import argparse
import json
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks import batch_report, ours, report
from benchmarks.batch_systems import Batch, read_batches
from benchmarks.processes import SystemFailed, measure, run
from benchmarks.project import CONFIG, ENVS, PROJECT, ROOT, WORK, Project, binary, data_of, versions

ROWS = (1_000_000, 10_000_000)
INPUTS = ("parquet", "csv", "wide")
WIDE = 100
MASTER = "local[2]"
RUNS = 3
REPEATED_WITHIN_SECONDS = 30
"""A program that is done sooner runs again, up to `RUNS` times; its median counts."""
STOPPED_AFTER_SECONDS = 1200
DATA = WORK / "batch"
SCRIPT = ROOT / "benchmarks" / "batch_data.py"


@dataclass(frozen=True)
class Input:
    """A table in a file."""

    name: str
    rows: int

    @property
    def columns(self) -> int:
        """How many columns it has."""
        return WIDE if self.name == "wide" else 8

    @property
    def file(self) -> Path:
        """Where it is."""
        return self.parquet.with_suffix(".csv") if self.name == "csv" else self.parquet

    @property
    def parquet(self) -> Path:
        """The file with the same rows as Parquet."""
        return DATA / f"{self.columns}-columns-{self.rows}-rows.parquet"

    @property
    def answers(self) -> Path:
        """The pipeline's own answers for some of its rows."""
        return self.parquet.with_suffix(".answers.parquet")


@dataclass
class Figures:
    """The measurements of one program on one input, or why there are none."""

    key: str
    title: str
    is_spark: bool
    is_yardstick: bool
    input: str
    rows: int
    seconds: list[float] = field(default_factory=list)
    """Of each run, from the start of the process to its end."""
    memory: int = 0
    """The peak of all its processes together in bytes, of all runs."""
    probabilities: bool = False
    """Whether its answers have a probability for each class."""
    failure: str = ""


@dataclass
class Bench:
    """What all programs share in one run."""

    project: Project = field(default_factory=Project)
    models: dict[int, Path] = field(default_factory=dict)
    """The directory of the model, by the number of columns of the input."""
    installed: dict[str, str] = field(default_factory=dict)
    """Why an environment could not be installed, by its name; empty if it could."""
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    """The versions in each environment, by title of the program."""

    def prepare(self, inputs: list[Input]) -> None:
        """Render the project, train its models, and write every input with its answers."""
        self.project.render()
        shutil.rmtree(DATA, ignore_errors=True)
        for one in inputs:
            if one.columns not in self.models:
                self.models[one.columns] = self.train(one)
            sample = data_of(WIDE) / "data.csv" if one.columns == WIDE else _example()
            for file in (one.parquet, one.file):
                if not file.exists():
                    print(f"writing {file.name}", flush=True)
                    _script("make", sample, one.rows, file)
            _script("answer", self.models[one.columns], one.parquet, one.answers)

    def train(self, one: Input) -> Path:
        """Train the model of an input, with its compiled form."""
        if one.columns != WIDE:
            return self.project.train(PROJECT / "recipes" / "penguins.yaml", _example())
        self.project.train_table(WIDE)
        if reason := self.project.not_compiled.get(WIDE):
            raise SystemFailed(reason)
        return self.project.models[WIDE]

    def measured(self, programs: list[Batch], inputs: list[Input]) -> Iterator[Figures]:
        """Measure every program on each of its inputs."""
        for one in inputs:
            print(f"{one.name}, {one.rows:,} rows", flush=True)
            for program in programs:
                if one.name in program.inputs:
                    yield self.measure(program, one)

    def install(self, program: Batch) -> None:
        """Make the program's environment, unless this run or the last one left the same one.

        Raises `SystemFailed`.
        """
        if program.env not in self.installed:
            print(f"{program.title}: installing", flush=True)
            self.installed[program.env] = ""
            try:
                if program.groups:
                    self.project.sync(program.env, *program.groups)
                else:
                    self.project.install(program.env, program.dependencies, program.overrides)
            except SystemFailed as exc:
                self.installed[program.env] = str(exc)
        if reason := self.installed[program.env]:
            raise SystemFailed(reason)
        self.versions[program.title] = versions(program.env)

    def measure(self, program: Batch, one: Input) -> Figures:
        """Install, run and check a program on an input; the figures say what failed."""
        names = (program.key, program.title, program.is_spark, program.is_yardstick)
        figures = Figures(*names, one.name, one.rows)
        try:
            self.install(program)
            while len(figures.seconds) < RUNS:
                self.run(program, one, figures)
                if sum(figures.seconds) > REPEATED_WITHIN_SECONDS:
                    break
        except SystemFailed as exc:
            figures.failure = str(exc)
        print(batch_report.line(asdict(figures)), flush=True)
        return figures

    def run(self, program: Batch, one: Input, figures: Figures) -> None:
        """Run a program once, add its figures, and remove what it wrote."""
        directory = WORK / "run" / program.env
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        output = directory / (program.output or f"answers{one.file.suffix}")
        words = {"model": self.models[one.columns], "config": CONFIG, "master": MASTER}
        name, *rest = program.filled(program.command, input=one.file, output=output, **words)
        path = os.pathsep.join([str(ENVS / program.env / "bin"), os.environ["PATH"]])
        os.sync()  # nobody waits for what an earlier program wrote
        usage = measure(
            [str(binary(program.env, name)), *rest],
            directory,
            {"PATH": path, **program.environment},
            STOPPED_AFTER_SECONDS,
        )
        found: dict[str, Any] = json.loads(_script("check", one.answers, one.rows, output))
        figures.seconds.append(usage.seconds)
        figures.memory = max(figures.memory, usage.memory)
        figures.probabilities = found["probabilities"]
        shutil.rmtree(directory)


def _example() -> Path:
    """The data of the project's example."""
    return PROJECT / "data" / "penguins.csv"


def _script(*words: object) -> str:
    python = binary("training", "python")
    return run(python, "-P", SCRIPT, *map(str, words), cwd=WORK)


# --------------------------------------------------------------------------- the command


def main() -> None:
    """Measure the chosen programs, and write the report."""
    everything = [*read_batches(), *ours.batches()]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    keys = ", ".join(program.key for program in everything)
    parser.add_argument("--systems", nargs="+", metavar="NAME", help=f"only those of: {keys}")
    parser.add_argument("--inputs", nargs="+", choices=INPUTS, help="only these")
    parser.add_argument("--rows", nargs="+", type=int, metavar="N", help="of the inputs")
    given = parser.parse_args()
    chosen = [
        program
        for program in everything
        if not given.systems or any(program.key.startswith(name) for name in given.systems)
    ]
    if not chosen:
        parser.error(f"there is no such system; there are {keys}")
    signal.signal(signal.SIGTERM, _leave)
    WORK.mkdir(parents=True, exist_ok=True)
    is_full = not (given.systems or given.inputs or given.rows)
    rows = sorted(given.rows or ROWS)
    inputs = list(_inputs(chosen, given.inputs or INPUTS, rows))
    bench = Bench()
    results: dict[str, Any] = {"machine": report.machine(), "figures": []}
    try:
        bench.prepare(inputs)
        for figures in bench.measured(chosen, inputs):
            results["figures"].append(asdict(figures))
            results |= {"python": bench.project.python, "versions": bench.versions}
            (WORK / "batch.json").write_text(json.dumps(results, indent=1))
    except SystemFailed as exc:
        raise SystemExit(f"the benchmark could not be set up: {exc}") from None
    finally:
        shutil.rmtree(DATA, ignore_errors=True)
    text = batch_report.tables(results)
    (WORK / "batch.md").write_text(text)
    print(f"\n{text}")
    if is_full:
        report.put(ROOT / "benchmarks" / "README.md", "batch", text)


def _inputs(programs: list[Batch], names: Sequence[str], rows: Sequence[int]) -> Iterator[Input]:
    """Parquet with each number of rows, the others with the least."""
    for name in names:
        if any(name in program.inputs for program in programs):
            yield from (Input(name, count) for count in (rows if name == "parquet" else rows[:1]))


def _leave(number: int, frame: FrameType | None) -> None:
    """On SIGTERM, end every process first, as on Ctrl-C."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
