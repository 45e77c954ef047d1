"""All attacks at once, and a model that leaks, within Compose's memory limit."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import docker
import pytest
from attacks import ATTACKS
from conftest import Render
from docker.models.containers import Container
from ground import HERE, assert_unharmed, forest, known_answers, write_report
from helpers import LONG, run, uv
from images import HARDENED, SESSION, build, connect, remove_images, started, wait_for_health

pytestmark = pytest.mark.docker

SECONDS = 60 if LONG else 5  # for each of two rounds
PORT = 8000
MEBIBYTE = 2**20
LIMIT = 1024 * MEBIBYTE
GROWTH = 96 * MEBIBYTE
"""How much a worker's memory may grow from the first to the second round. The memory that an
allocator keeps depends on what was allocated at the same time."""

# As in compose.yaml, which test_image.py checks.
COMPOSE: dict[str, Any] = HARDENED | {
    "init": True,
    "tmpfs": {"/tmp": "mode=1777,size=512m"},
    "mem_limit": LIMIT,
    "memswap_limit": LIMIT,  # no swap
    "nano_cpus": 10**9,
    "pids_limit": 256,
}


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    client = connect()
    yield client
    remove_images(client, SESSION)


@dataclass(frozen=True)
class Ground:
    """Shared by the containers."""

    project: Path
    images: dict[str, str]
    model: Path
    known: Path


@pytest.fixture(scope="module")
def ground(
    render: Render, engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Ground:
    # The same project as in test_image.py, so that slow build steps are cached.
    project = render(project_name="Image")
    uv("sync", "--quiet", cwd=project)
    directory = tmp_path_factory.mktemp("ground")
    model = forest(project, directory)
    return Ground(
        project=project,
        images={
            "native": build(project, "--target", "api"),
            "onnx": build(project, "--target", "compiled"),
        },
        model=model,
        known=known_answers(project, model, directory),
    )


@dataclass
class Memory:
    """The memory of a container in bytes."""

    now: int = 0
    """Without the kernel's page cache, which can be reclaimed."""
    peak: int = 0
    """The maximum of `now`, sampled about twice a second."""

    def look(self, container: Container) -> None:
        """Read the current figures from the engine."""
        stats: Any = container.stats(stream=False, one_shot=True)
        details = stats["memory_stats"]["stats"]
        # The names of cgroup v1, and of v2.
        self.now = details["rss"] if "rss" in details else details["anon"]
        self.peak = max(self.peak, self.now)


@dataclass(frozen=True)
class Round:
    """One round of traffic."""

    kind: str
    workers: int
    report: dict[str, Any]
    memory: Memory
    at_rest: tuple[int, ...]
    """Bytes before all rounds, and after each of them."""


def beside(server: Container) -> dict[str, Any]:
    """Options of a container that runs Python on the server's loopback, with its own memory."""
    return {
        "entrypoint": ["python"],
        "network_mode": f"container:{server.id}",
        "healthcheck": {"test": ["NONE"]},
    }


def round_of_traffic(
    engine: docker.DockerClient, server: Container, ground: Ground, memory: Memory
) -> dict[str, Any]:
    """Run traffic.py on the server's loopback interface, which nothing else reaches."""
    options: dict[str, Any] = beside(server) | {
        "command": ["/abuse/traffic.py", str(PORT), str(SECONDS), "/known.json"],
        "volumes": [f"{HERE}:/abuse:ro", f"{ground.known}:/known.json:ro"],
    }
    with started(engine, ground.images["onnx"], **options) as load:
        while load.status != "exited":
            memory.look(server)
            time.sleep(0.5)
            load.reload()
        assert load.wait()["StatusCode"] == 0, load.logs().decode()
        report: dict[str, Any] = json.loads(load.logs(stderr=False))
    memory.look(server)
    return report


@pytest.fixture(scope="module")
def rounds() -> Iterator[list[Round]]:
    """The measurements; they are written at the end."""
    measured: list[Round] = []
    yield measured
    write_report("abuse.md", tables(measured))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", ["native", "onnx"])
def test_honest_requests_are_answered_while_others_attack(
    engine: docker.DockerClient, ground: Ground, kind: str, workers: int, rounds: list[Round]
) -> None:
    options = COMPOSE | {
        "environment": {"MODEL_URI": "/model", "ENGINE": kind, "WORKERS": str(workers)},
        "volumes": [f"{ground.model}:/model:ro"],
    }
    memory = Memory()
    with started(engine, ground.images[kind], **options) as server:
        wait_for_health(server, "healthy")
        wait_for_all(server, workers)
        memory.look(server)
        at_rest = [memory.now]
        for _ in range(2):
            report = round_of_traffic(engine, server, ground, memory)
            at_rest.append(memory.now)
            rounds.append(Round(kind, workers, report, replace(memory), tuple(at_rest)))
            assert_unharmed(report)
        server.reload()
        assert server.status == "running"
        assert not server.attrs["State"]["OOMKilled"]
        log = server.logs().decode()
    assert log.count("Started server process") == workers  # no worker was replaced
    assert "Traceback" not in log
    assert memory.peak < LIMIT
    if LONG or workers == 1:  # in a few seconds, one of two workers may get little traffic
        assert at_rest[2] < at_rest[1] + workers * GROWTH


LEAK = f"""
import http.client, time

def wish(what):
    connection = http.client.HTTPConnection("127.0.0.1", {PORT}, timeout=60)
    headers = {{"Content-Type": "application/json"}}
    try:
        connection.request("POST", "/predict", '{{"wish": "%s"}}' % what, headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None

while wish("leak"):  # a 503 from a worker that has just started is not the end
    pass
deadline = time.monotonic() + 60
while wish("") != 200:
    assert time.monotonic() < deadline
    time.sleep(0.2)
"""


def test_a_model_that_leaks_ends_workers_and_never_the_server(
    engine: docker.DockerClient, ground: Ground, tmp_path: Path
) -> None:
    """The kernel kills the process with the most memory, and the supervisor starts another.

    That may not be the worker that allocates, which then continues until it has the most.
    """
    model = tmp_path / "model"
    run(ground.project / ".venv/bin/python", HERE / "hostile_model.py", model, cwd=tmp_path)
    options = COMPOSE | {
        "environment": {"MODEL_URI": "/model", "WORKERS": "2"},
        "volumes": [f"{model}:/model:ro"],
    }
    with started(engine, ground.images["native"], **options) as server:
        wait_for_health(server, "healthy")
        wait_for_all(server, 2)
        with started(engine, ground.images["onnx"], **beside(server), command=["-c", LEAK]) as wish:
            assert wish.wait(timeout=180)["StatusCode"] == 0, wish.logs().decode()
        wait_for_a_third_process(server)
        wait_for_all(server, 2)
        server.reload()
        assert (server.status, server.attrs["RestartCount"]) == ("running", 0)


def wait_for_a_third_process(server: Container) -> None:
    """Wait until a killed worker is replaced: the other one answers before that is noticed."""
    deadline = time.monotonic() + 60
    while (log := server.logs().decode()).count("Started server process") < 3:
        assert time.monotonic() < deadline, log
        time.sleep(0.2)


def wait_for_all(server: Container, workers: int) -> None:
    """Wait until each worker has its model; `/ready` is the answer of one worker."""
    script = (
        "import urllib.request as u; "
        f"print(u.urlopen('http://127.0.0.1:{PORT}/metrics').read().decode())"
    )
    deadline = time.monotonic() + 60
    while f"model_ready {workers}.0" not in str(server.exec_run(["python", "-c", script]).output):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def tables(rounds: list[Round]) -> list[str]:
    """The results of honest requests, and of the attacks next to them."""
    lines = [
        f"Rounds of {SECONDS} s on containers with 1 GiB and 1 CPU. Times in ms; memory in MiB,",
        "without the cache of files: before and after each round, and at most.",
        "",
        "| engine | workers | honest requests | sent | answered | wrong | told to wait | p50 | p99 "
        "| memory at rest | peak | client's own lag |",
        "| --- | --- | --- " + "| ---: " * 9 + "|",
    ]
    for one in rounds:
        for name, tally in one.report["honest"].items():
            numbers = ("sent", "answered", "wrong", "told_to_wait", "p50", "p99")
            lines.append(
                f"| {one.kind} | {one.workers} | {name} | "
                + " | ".join(f"{tally[number]}" for number in numbers)
                + f" | {', '.join(mebibytes(count) for count in one.at_rest)}"
                + f" | {mebibytes(one.memory.peak)} | {one.report['own_lag_ms']} |"
            )
    runs = list(dict.fromkeys((one.kind, one.workers) for one in rounds))
    heads = " | ".join(f"{kind}, {workers}" for kind, workers in runs)
    lines += ["", f"| attack | clients | {heads} |", "| --- | ---: " + "| --- " * len(runs) + "|"]
    for name, force in ATTACKS.items():
        cells = []
        for run_ in runs:
            outcomes: Counter[str] = Counter()
            for one in rounds:
                if (one.kind, one.workers) == run_:
                    outcomes.update(one.report["attacks"][name])
            cells.append(", ".join(f"{outcome}: {n}" for outcome, n in sorted(outcomes.items())))
        lines.append(f"| {name} | {force.clients} | {' | '.join(cells)} |")
    return lines


def mebibytes(count: int) -> str:
    """A number of bytes as text."""
    return f"{count // MEBIBYTE}"
