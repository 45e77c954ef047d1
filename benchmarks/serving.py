"""`make bench`: compare the speed of a rendered project with other servers of the same model.

Renders the template from the working tree, trains one model there, and measures one system after
the other. Each system has its own environment under build/bench/, which the next run reuses. A
full run writes its tables and its plot into benchmarks/ and README.md; with options, it writes
them into build/bench/ only.
"""

import argparse
import http.client
import json
import operator
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks import ours, report
from benchmarks.load import LAP, Result
from benchmarks.processes import Server, SystemFailed, free_port, run, serving
from benchmarks.programs import read_head
from benchmarks.project import (
    CONFIG,
    ENVS,
    ROOT,
    WORK,
    Project,
    binary,
    data_of,
    install,
    site_packages,
    versions,
)
from benchmarks.systems import System, body, read_systems

SECONDS = 5.0
WARM_UP = 3.0
STARTS = 3
LEAST_AGREEMENT = 0.8
"""The smallest share of equal answers of our model and a model that a system trains itself."""


@dataclass
class Figures:
    """The measurements of one system, or why there are none."""

    key: str
    title: str
    kind: str
    columns: int = 10
    failure: str = ""
    loads: list[Result] = field(default_factory=list)
    memory: int | None = None
    """PSS of all processes at 32 clients, in bytes."""
    ready: list[float] = field(default_factory=list)
    """Seconds until ready, for each start."""
    size: int | None = None
    """Bytes of site-packages."""
    versions: dict[str, str] = field(default_factory=dict)
    parts: dict[str, float] = field(default_factory=dict)
    """Ours: microseconds of each part of a request, in process."""
    not_profiled: str = ""
    """Why there are no parts."""


@dataclass
class Bench:
    """What all systems share in one run."""

    seconds: float
    warm_up: float
    starts: int
    project: Project = field(default_factory=Project)

    def prepare(self, columns: set[int]) -> None:
        """Render and install the project, and train a model for each number of columns."""
        self.project.render()
        for count in sorted(columns):
            self.project.train_table(count)

    # --------------------------------------------------------------------------- one system

    def measure(self, system: System) -> Figures:
        """Install, start, check and measure a system; the figures say what failed."""
        figures = Figures(system.key, system.title, system.kind, system.columns)
        print(f"{system.title}: installing", flush=True)
        try:
            self.install(system)
            figures.size = site_packages(system.env)
            figures.versions = versions(system.env)
            print(f"{system.title}: measuring", flush=True)
            if system.path:
                self.measure_server(system, figures)
            else:
                figures.loads = self.measure_in_process(system)
        except SystemFailed as exc:
            figures.failure = str(exc)
            print(f"{system.title}: FAILED: {exc}", flush=True)
        return figures

    def install(self, system: System) -> None:
        """Make the system's environment, unless the last run left the same one."""
        if system.compiled and (reason := self.project.not_compiled.get(system.columns)):
            raise SystemFailed(reason)
        if system.kind == "ours":
            self.project.sync(system.env, ours.GROUPS[system.env])
        elif system.own_model or not system.answer:  # it does not load our model
            needs = list(system.dependencies)
            install(system.env, self.project.python, needs, system.overrides)
        else:
            self.project.install(system.env, system.dependencies, system.overrides)
        if system.prepare:
            data = data_of(system.columns) / "data.csv"
            command = self.words(system, system.prepare, data=data)
            shutil.rmtree(WORK / "run" / system.env, ignore_errors=True)
            run(*command, cwd=self.directory(system), env=self.environment(system))

    def measure_server(self, system: System, figures: Figures) -> None:
        """Run every load on it, then start it a few more times."""
        rows = Rows(data_of(system.columns), system.form)
        first = rows.bodies[0].replace(LAP, "00000")
        with self.serving(system) as server:
            server.wait(system.path, first)
            check(system, server, rows)
            for clients in system.clients:
                loaded, memory = self.run_load(server, system, rows, "--clients", str(clients))
                figures.loads.append(loaded)
                figures.memory = memory if clients == max(system.clients) else None
            for rate in system.rates:
                loaded, _ = self.run_load(server, system, rows, "--rate", str(rate))
                figures.loads.append(loaded)
        for _ in range(self.starts):
            with self.serving(system) as server:
                figures.ready.append(server.wait(system.path, first))
        if system.profiled:
            try:
                figures.parts = self.profile(system, rows)
            except SystemFailed as exc:
                figures.not_profiled = str(exc)

    def run_load(
        self, server: Server, system: System, rows: "Rows", *mode: str
    ) -> tuple[Result, int]:
        """Run one load in its own process; return its result, and the server's memory under it."""
        command = [sys.executable, "-m", "benchmarks.load", "--port", str(server.port)]
        command += ["--path", system.path, "--bodies", str(rows.file), *mode]
        command += ["--warm-up", str(self.warm_up), "--seconds", str(self.seconds)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            try:
                time.sleep(self.warm_up + self.seconds / 2)
                memory = server.memory()
                output, _ = process.communicate(timeout=60 + 2 * self.seconds)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise SystemFailed("the load generator failed")
        result = Result(**json.loads(output))
        print(f"  {report.line(result)}", flush=True)
        if not result.answered:
            raise SystemFailed(f"it answered nothing under load: {result.errors}")
        return result, memory

    def profile(self, system: System, rows: "Rows") -> dict[str, float]:
        """Measure the parts of a request to our system, in a process without a server."""
        settings = {
            "MODEL_URI": str(self.project.models[system.columns]),
            "ENGINE": ours.ENGINES[system.env],
            "CONFIG_PATH": str(CONFIG),
        }
        script = ROOT / "benchmarks" / "profile_request.py"
        command = (binary(system.env, "python"), "-P", script, rows.file)
        output = run(*command, cwd=self.directory(system), env=settings)
        parts: dict[str, float] = json.loads(output)
        return parts

    def measure_in_process(self, system: System) -> list[Result]:
        """Run a system that measures itself, and read its result."""
        data = data_of(system.columns)
        words = self.words(system, system.command, data=data, seconds=self.seconds)
        output = run(*words, cwd=self.directory(system), env=self.environment(system))
        result = Result(**json.loads(output))
        print(f"  {report.line(result)}", flush=True)
        return [result]

    def serving(self, system: System) -> Any:
        """Run the system's server for the length of a block."""
        port = free_port()
        environment = self.environment(system) | {"PORT": str(port)}
        words = self.words(system, system.command, port=port)
        return serving(words, port, self.directory(system), environment)

    def words(self, system: System, command: tuple[str, ...], **words: object) -> list[str]:
        """A command of the system, with its words filled in and the path of its program."""
        given = {"model": self.project.models[system.columns], "config": CONFIG, **words}
        program, *rest = system.filled(command, **given)
        return [str(binary(system.env, program)), *rest]

    def environment(self, system: System) -> dict[str, str]:
        """Environment variables of the system's processes."""
        return {
            "PATH": os.pathsep.join([str(ENVS / system.env / "bin"), os.environ["PATH"]]),
            "MODEL": str(self.project.models[system.columns]),
            "DATA": str(data_of(system.columns)),
            **system.environment,
        }

    def directory(self, system: System) -> Path:
        """The working directory of the system's processes; variants share it."""
        directory = WORK / "run" / system.env
        directory.mkdir(parents=True, exist_ok=True)
        return directory


class Rows:
    """The request bodies of one form, as a file for the load generator."""

    def __init__(self, data: Path, form: str) -> None:
        content = json.loads((data / "rows.json").read_text())
        self.bodies = [body(form, content["columns"], values) for values in content["rows"]]
        self.labels: list[str] = json.loads((data / "labels.json").read_text())
        self.file = data / f"{form}.txt"
        self.file.write_text("\n".join(self.bodies))


def check(system: System, server: Server, rows: Rows) -> None:
    """Compare answers with the pipeline's own, sequentially and concurrently.

    Raises `SystemFailed` if they differ.
    """
    if not system.answer:
        return
    texts = [text.replace(LAP, "00000") for text in rows.bodies[: len(rows.labels)]]
    least = LEAST_AGREEMENT if system.own_model else 1
    for callers in (1, len(texts)):
        with ThreadPoolExecutor(callers) as threads:
            found = list(threads.map(lambda text: label_of(system, server, text), texts))
        right = sum(map(operator.eq, found, rows.labels))
        if right < least * len(texts):
            raise SystemFailed(f"only {right} of {len(texts)} answers are right")


def label_of(system: System, server: Server, text: str) -> Any:
    """Request one prediction on a new connection."""
    deadline = time.monotonic() + 30
    while True:
        try:
            status, answer = server.ask(system.path, text)
        except (OSError, http.client.HTTPException) as exc:
            raise SystemFailed(f"it does not answer: {exc!r}") from None
        if status == 200 or time.monotonic() > deadline:
            break
        time.sleep(0.1)  # one of several workers is still loading the model
    found = answer
    try:
        for step in system.answer:
            found = found[step]
    except (LookupError, TypeError):
        raise SystemFailed(f"its answer ({status}) has no label: {answer!s:.200}") from None
    return found


# --------------------------------------------------------------------------- the command


def main() -> None:
    """Measure the chosen systems, and write the report."""
    everything = [*ours.systems(), *read_systems()]
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    keys = ", ".join(system.key for system in everything)
    parser.add_argument("--systems", nargs="+", metavar="NAME", help=f"only those of: {keys}")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="length of each load")
    parser.add_argument("--warm-up", type=float, default=WARM_UP, help="seconds before it")
    parser.add_argument("--starts", type=int, default=STARTS, help="starts that are timed")
    given = parser.parse_args()
    chosen = [
        system
        for system in everything
        if not given.systems or any(system.key.startswith(name) for name in given.systems)
    ]
    if not chosen:
        parser.error(f"there is no such system; there are {keys}")
    signal.signal(signal.SIGTERM, _leave)
    WORK.mkdir(parents=True, exist_ok=True)
    bench = Bench(given.seconds, given.warm_up, given.starts)
    try:
        bench.prepare({system.columns for system in chosen})
    except SystemFailed as exc:
        raise SystemExit(f"the project could not be set up: {exc}") from None
    measured: list[Figures] = []
    for system in chosen:
        measured.append(bench.measure(system))
        results = {
            "machine": report.machine(),
            "python": bench.project.python,
            "seconds": bench.seconds,
            "warm_up": bench.warm_up,
            "systems": [asdict(figures) for figures in measured],
        }
        (WORK / "results.json").write_text(json.dumps(results, indent=1))
    is_full = not given.systems and given.seconds >= SECONDS
    write(results, bench.project.python, is_full)


def write(results: dict[str, Any], python: str, is_full: bool) -> None:
    """Write tables and plot into build/bench/; after a full run, also into the documents."""
    parts = [report.tables(results), report.profile(results), report.summary(results)]
    (WORK / "report.md").write_text("\n\n".join(parts))
    print("\n" + "\n\n".join(parts))
    plot = WORK / "serving.svg"
    script = ROOT / "benchmarks" / "plot.py"
    install("plot", python, read_head(script)["dependencies"])
    run(binary("plot", "python"), "-P", script, WORK / "results.json", plot, cwd=WORK)
    if is_full:
        report.put(ROOT / "benchmarks" / "README.md", "profile", report.profile(results))
        report.put(ROOT / "benchmarks" / "README.md", "serving", report.tables(results))
        report.put(ROOT / "README.md", "serving", report.summary(results))
        shutil.copy(plot, ROOT / "benchmarks" / "serving.svg")


def _leave(number: int, frame: FrameType | None) -> None:
    """On SIGTERM, end every process first, as on Ctrl-C."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    main()
