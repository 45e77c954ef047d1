"""Half an hour of mixed traffic, long enough to show slow growth."""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import httpx
import pytest
from ground import HERE, assert_unharmed, forest, known_answers, write_report
from helpers import LONG
from serving import client, free_port, start, wait_until

SECONDS = float(os.environ.get("SOAK_SECONDS", "1800"))
INTERVAL_SECONDS = 2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not LONG, reason="takes half an hour for each engine: LONG_TESTS=1"),
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc"),
]


@dataclass(frozen=True)
class Sample:
    """The server's resources at one moment, or the median of several moments."""

    memory: float
    """Private memory in bytes: without mapped files."""
    descriptors: float
    threads: float
    waiting: float
    """Requests in the queue of the model."""


# Attacks come and go, and an allocator keeps a varying part of their memory.
MAY_GROW = Sample(memory=64 * 2**20, descriptors=15, threads=2, waiting=10)


def look(pid: int, http: httpx.Client) -> Sample:
    """The current state of the server."""
    status = Path(f"/proc/{pid}/status").read_text()
    queue = re.search(r"^predictions_waiting (\S+)$", http.get("/metrics").text, re.MULTILINE)
    assert queue
    return Sample(
        memory=1024 * number(r"RssAnon:\s+(\d+)", status),
        descriptors=len(os.listdir(f"/proc/{pid}/fd")),
        threads=number(r"Threads:\s+(\d+)", status),
        waiting=float(queue[1]),
    )


def number(pattern: str, text: str) -> int:
    """The number that a pattern finds."""
    found = re.search(pattern, text)
    assert found, text
    return int(found[1])


def median(samples: Sequence[Sample]) -> Sample:
    """The median of each figure."""
    figures = zip(*map(astuple, samples), strict=True)
    return Sample(*map(statistics.median, figures))


@pytest.mark.parametrize("kind", ["native", "onnx"])
def test_nothing_grows_under_mixed_traffic(project: Path, tmp_path: Path, kind: str) -> None:
    model = forest(project, tmp_path)
    known = known_answers(project, model, tmp_path)
    port, log = free_port(), tmp_path / "server.log"
    options = ("--port", str(port), "--model-uri", model, "--engine", kind)
    server = start(project, log, *options)
    samples: list[Sample] = []
    try:
        with client(port) as http:
            wait_until(http, 200, server, log)
            script = str(HERE / "traffic.py")
            command = [sys.executable, script, str(port), str(SECONDS), str(known)]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as traffic:
                while traffic.poll() is None:
                    samples.append(look(server.pid, http))
                    time.sleep(INTERVAL_SECONDS)
                assert traffic.stdout
                report = json.load(traffic.stdout)
            rest = look(server.pid, http)
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=60) == 0
    finally:
        server.kill()
        server.wait()
    fifths = [
        median(samples[len(samples) * part // 5 : len(samples) * (part + 1) // 5])
        for part in range(5)
    ]
    write_report(f"soak-{kind}.md", table(kind, [*fifths, rest], report))
    assert_unharmed(report)
    assert "Traceback" not in log.read_text()
    # The first fifth is the warm-up.
    for name, may_grow in vars(MAY_GROW).items():
        early, late = (getattr(fifths[part], name) for part in (1, 4))
        assert late <= early + may_grow, (name, fifths)


def table(kind: str, moments: Sequence[Sample], report: dict[str, object]) -> list[str]:
    """The medians of each fifth of the time, the state after it, and what clients saw."""
    names = [*(f"fifth {part}" for part in range(1, 6)), "at rest"]
    lines = [f"{kind}, {SECONDS:g} s of mixed traffic", ""]
    lines += ["| | memory, MiB | descriptors | threads | waiting |", "| --- " + "| ---: " * 4 + "|"]
    for name, one in zip(names, moments, strict=True):
        figures = (one.memory / 2**20, one.descriptors, one.threads, one.waiting)
        lines.append(f"| {name} | {' | '.join(f'{figure:.0f}' for figure in figures)} |")
    return [*lines, "", "```json", json.dumps(report, indent=1), "```"]
