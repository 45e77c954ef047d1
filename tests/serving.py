"""Run a rendered project: its commands, and its server over real HTTP."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from helpers import uv

READY_WITHIN_SECONDS = 120


def train(project: Path, *options: str | Path) -> str:
    """Run `mmp train` and return the run id that it prints."""
    output = uv("run", "mmp", "train", *options, cwd=project).stdout
    found = re.search(r"^run_id: ([0-9a-f]{32})$", output, re.MULTILINE)
    assert found, output
    return found[1]


def logged_model(project: Path, run_id: str) -> Path:
    """Return the directory of the model that a run logged into the project's local store."""
    models = project.glob("mlruns/*/models/*/artifacts/MLmodel")
    [found] = [model.parent for model in models if run_id in model.read_text(encoding="utf-8")]
    return found


def free_port() -> int:
    """Return a port that is currently free."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@contextlib.contextmanager
def serve(
    project: Path, *options: str | Path, settled: int = 200, **environment: str
) -> Iterator[httpx.Client]:
    """Run `mmp serve-api`, wait until `/ready` answers `settled`, and yield a client.

    Keyword arguments are environment variables. At the end SIGTERM must stop the server with exit
    code 0.
    """
    port = free_port()
    log = project / "server.log"
    server = start(project, log, "--port", str(port), *options, **environment)
    try:
        with client(port) as http:
            wait_until(http, settled, server, log)
            yield http
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=30) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        server.kill()
        server.wait()


def start(
    project: Path, log: Path, *options: str | Path, **environment: str
) -> subprocess.Popen[bytes]:
    """Start `mmp serve-api` in its own process group, and return at once."""
    with log.open("w") as output:
        return subprocess.Popen(
            # The command itself, not `uv run`, because it must receive the signal.
            [project / ".venv/bin/mmp", "serve-api", *options],
            cwd=project,
            env={**os.environ, "HOST": "127.0.0.1", "DRAIN_SECONDS": "0.5", **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )


def client(port: int) -> httpx.Client:
    """Return a client of a local server; threads may share it."""
    return httpx.Client(
        base_url=f"http://127.0.0.1:{port}",
        trust_env=False,
        timeout=30,
        # When httpcore closes surplus idle connections, it may also close one that another
        # thread has just received ("Bad file descriptor").
        limits=httpx.Limits(max_keepalive_connections=None),
    )


def wait_until(http: httpx.Client, status: int, server: subprocess.Popen[bytes], log: Path) -> None:
    """Poll `/ready` until the model is loaded or loading has failed."""
    deadline = time.monotonic() + READY_WITHIN_SECONDS
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text()
        with contextlib.suppress(httpx.TransportError):
            answer = http.get("/ready")
            if answer.status_code == status and "being loaded" not in answer.text:
                return
        time.sleep(0.2)
    raise AssertionError(f"/ready never answered {status}\n{log.read_text()}")


def wait_for_workers(http: httpx.Client, count: int) -> None:
    """Poll `/metrics` until `count` workers have the model; `/ready` is one worker's answer."""
    deadline = time.monotonic() + READY_WITHIN_SECONDS
    while f"model_ready {count}.0" not in http.get("/metrics").text:
        assert time.monotonic() < deadline, http.get("/metrics").text
        time.sleep(0.2)
