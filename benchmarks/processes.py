"""Processes: start a server and wait until it is ready, run a command, measure time and memory."""

import contextlib
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

READY_WITHIN_SECONDS = 90
STOP_WITHIN_SECONDS = 10
SAMPLE_SECONDS = 0.05
"""Between two samples of a command's memory."""

# A server must not see environments or settings of the caller's shell.
_FOREIGN = (
    *("API_KEY", "BENTOML_", "CONFIG_PATH", "DATA_PATH", "ENGINE", "HOST", "LOG_", "MAX_"),
    *("MLFLOW_", "MODEL", "PORT", "PYTHON", "RECIPE_PATH", "UV_P", "VIRTUAL_ENV", "WORKERS"),
)
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}


class SystemFailed(Exception):
    """A system cannot be installed or started, or gives wrong answers; the message says why."""


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path
    started: float

    def ask(self, path: str, body: str) -> tuple[int, Any]:
        """Post a body; return the status, and the content if it is JSON.

        Raises `OSError` or `http.client.HTTPException` if there is no answer.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read().decode(errors="replace")
            try:
                return answer.status, json.loads(text)
            except ValueError:
                return answer.status, text

    def wait(self, path: str, body: str) -> float:
        """Query until the answer is 200; return the seconds since the start of the process.

        Raises `SystemFailed` with the end of the log.
        """
        last: object = "no answer"
        while time.monotonic() < self.started + READY_WITHIN_SECONDS:
            with contextlib.suppress(OSError, http.client.HTTPException):
                status, last = self.ask(path, body)
                if status == 200:
                    return time.monotonic() - self.started
            if self.process.poll() is not None:
                raise SystemFailed(f"it exited with {self.process.returncode}: {self.tail()}")
            time.sleep(0.05)
        raise SystemFailed(f"it was not ready in {READY_WITHIN_SECONDS} s: {last!s:.200}")

    def tail(self) -> str:
        """The last line of its log that names an exception, or else the last line."""
        return _tail(self.log)

    def memory(self) -> int:
        """The memory of all its processes in bytes; shared pages count once (PSS)."""
        return _memory(tree(self.process.pid))


@contextlib.contextmanager
def serving(
    command: Sequence[str], port: int, cwd: Path, environment: Mapping[str, str]
) -> Iterator[Server]:
    """Run a server until the block ends; then end all processes that it has started."""
    log = cwd / "server.log"
    with log.open("w") as output:
        started = time.monotonic()
        process = _start(command, cwd, environment, output)
    try:
        yield Server(process, port, log, started)
    finally:
        _end(process)


def _start(
    command: Sequence[str], cwd: Path, environment: Mapping[str, str], output: TextIO
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        cwd=cwd,
        env={**ENVIRONMENT, **environment},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM to the first process, and SIGKILL to what is left of its process tree."""
    everyone = tree(process.pid)
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_WITHIN_SECONDS)
    _kill(process, everyone)


def _kill(process: subprocess.Popen[bytes], everyone: Mapping[int, int]) -> None:
    """Send SIGKILL to the process and to what is left of its tree."""
    # Some processes start their own session, so a signal to the group would miss them.
    for pid, born in everyone.items():
        if _stat(pid)[1] == born:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@dataclass(frozen=True)
class Usage:
    """What a command took."""

    seconds: float
    """From its start to its end."""
    memory: int
    """The peak of the memory of all its processes together (PSS), sampled, in bytes."""


def measure(
    command: Sequence[str], cwd: Path, environment: Mapping[str, str], seconds: float
) -> Usage:
    """Run a command to its end, with its output in `cwd`/run.log, and measure it.

    Raises `SystemFailed` with the end of its output, or if it takes longer than `seconds`.
    """
    log = cwd / "run.log"
    everyone: dict[int, int] = {}
    peak = 0
    with log.open("w") as output:
        started = time.monotonic()
        process = _start(command, cwd, environment, output)
    ended = os.pidfd_open(process.pid)
    try:
        pause = SAMPLE_SECONDS
        while not select.select([ended], [], [], pause)[0]:
            sampled = time.monotonic()
            if sampled > started + seconds:
                raise SystemFailed(f"it took longer than {seconds:g} s")
            here = tree(process.pid)
            everyone |= here
            peak = max(peak, _memory(here))
            # The kernel walks all pages for a sample: large processes are sampled less often.
            pause = max(SAMPLE_SECONDS, 20 * (time.monotonic() - sampled))
        took = time.monotonic() - started
    finally:
        os.close(ended)
        _kill(process, everyone)
    if process.returncode:
        raise SystemFailed(f"it exited with {process.returncode}: {_tail(log)}")
    return Usage(took, peak)


def _tail(log: Path) -> str:
    """The last line of a log that names an exception, or else the last line."""
    lines = log.read_text(errors="replace").strip().splitlines() or ["no log"]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit)\b", line)]
    return (errors or lines)[-1].strip()[:300]


def _memory(processes: Iterable[int]) -> int:
    """The memory of these processes in bytes; shared pages count once (PSS)."""
    total = 0
    for pid in processes:
        with contextlib.suppress(OSError):  # the process has ended
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def tree(root: int) -> dict[int, int]:
    """The ids of a process and all its descendants, each with its start time."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            children.setdefault(_stat(int(entry.name))[0], []).append(int(entry.name))
    found: dict[int, int] = {}
    queue = [root]
    while queue:
        pid = queue.pop()
        found[pid] = _stat(pid)[1]
        queue += children.get(pid, [])
    return found


def _stat(pid: int) -> tuple[int, int]:
    """Parent and start time (clock ticks) of a process; -1 if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1, -1
    return int(fields[1]), int(fields[19])


def free_port() -> int:
    """A port that is currently free."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


def run(
    *command: str | Path, cwd: Path, env: Mapping[str, str] | None = None, seconds: float = 1800
) -> str:
    """Run a command to its end and return what it printed.

    Raises `SystemFailed` with the end of its output.
    """
    words = [str(word) for word in command]
    with subprocess.Popen(
        words,
        cwd=cwd,
        env={**ENVIRONMENT, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except BaseException:
            _end_group(process)
            raise
    if process.returncode:
        lines = (output + errors).strip().splitlines()
        name = " ".join(Path(word).name for word in words[:3])
        raise SystemFailed(f"`{name}` failed: {' '.join(lines[-3:])[-400:]}")
    return output


def _end_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
