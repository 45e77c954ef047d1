"""From this checkout to a prediction: render, install, train, serve, predict.

Runs the commands that a user would type, on a project rendered with the default answers into
build/demo. On a terminal, the server runs until Ctrl-C; otherwise the demo stops it. If a step
fails, prints it and exits with 1.
"""

import contextlib
import csv
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import httpx
from uv import find_uv_bin

ROOT = Path(__file__).parents[1]
PROJECT = ROOT / "build" / "demo"
LOG = ROOT / "build" / "demo.log"
READY_WITHIN_SECONDS = 120

# The project must not use environments that the caller's shell has activated.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME"}
}


class DemoError(Exception):
    """A step failed; the message says which one and why."""


def main() -> int:
    """Run the demo and return the exit code."""
    try:
        render()
        uv("sync", "--quiet")
        run_id = train()
        serve_and_ask(run_id)
    except DemoError as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    print(f"\nAll steps succeeded. The project is in {PROJECT.relative_to(ROOT)}")
    return 0


def render() -> None:
    """Copy the template from the working tree, including uncommitted changes."""
    shutil.rmtree(PROJECT, ignore_errors=True)
    options = ["--defaults", "--quiet", "--vcs-ref", "HEAD"]
    run([sys.executable, "-W", "ignore", "-m", "copier", "copy", *options, str(ROOT), str(PROJECT)])


def train() -> str:
    """Train on the example's recipe and return the run id."""
    output = uv("run", "mmp", "train")
    print(output.rstrip())
    if match := re.search(r"^run_id: ([0-9a-f]{32})$", output, re.MULTILINE):
        return match[1]
    raise DemoError("`mmp train` printed no line `run_id: ...`")


def serve_and_ask(run_id: str) -> None:
    """Serve the run on a free port, send one row and a batch, and print the answers.

    On a terminal, the server then runs until Ctrl-C.
    """
    port = free_port()
    command = ["run", "mmp", "serve-api", "--run-id", run_id, "--port", str(port)]
    command = [find_uv_bin(), *command, "--host", "127.0.0.1"]
    announce(command)
    with LOG.open("w") as log:
        server = subprocess.Popen(
            command, cwd=PROJECT, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            wait_until_ready(client, server)
            openapi = client.get("/openapi.json").json()
            request = openapi["components"]["schemas"]["PredictionRequest"]
            post(client, "/predict", request["example"])
            post(client, "/predict/batch", {"samples": penguins(request["properties"])})
            expect_ok(client.get("/docs"))
            if sys.stdin.isatty() and sys.stdout.isatty():
                print(f"The server is still running: {client.base_url.join('/docs')}")
                print("Press Ctrl-C to stop it.", flush=True)
                with contextlib.suppress(KeyboardInterrupt):
                    server.wait()
    except (httpx.HTTPError, KeyError, ValueError) as error:
        raise DemoError(f"{type(error).__name__}: {error}\n{end_of_log()}") from error
    finally:
        server.terminate()
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()


def penguins(columns: Collection[str]) -> list[dict[str, Any]]:
    """Three rows of the example's data: the first, the middle and the last one."""
    with (PROJECT / "data" / "penguins.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    some = (rows[0], rows[len(rows) // 2], rows[-1])
    return [{name: value(row[name]) for name in columns} for row in some]


def value(cell: str) -> Any:
    """A cell as JSON has it: null, a number or text."""
    try:
        return json.loads(cell or "null")
    except ValueError:
        return cell


def wait_until_ready(client: httpx.Client, server: subprocess.Popen[bytes]) -> None:
    """Poll /ready until the model is loaded."""
    deadline = time.monotonic() + READY_WITHIN_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise DemoError(f"the server exited with {server.returncode}\n{end_of_log()}")
        try:
            if client.get("/ready").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.2)
    raise DemoError(f"/ready did not answer 200 within {READY_WITHIN_SECONDS} s\n{end_of_log()}")


def post(client: httpx.Client, path: str, body: Any) -> None:
    """Send a request, and print it and its answer."""
    response = client.post(path, json=body)
    print(f"\nPOST {client.base_url.join(path)}\n{json.dumps(body, indent=2)}")
    expect_ok(response)
    print(f"-> {response.status_code}\n{json.dumps(response.json(), indent=2)}\n")


def expect_ok(response: httpx.Response) -> None:
    """Fail with the body of an error response."""
    if not response.is_success:
        raise DemoError(f"{response.url} answered {response.status_code}: {response.text}")


def uv(*arguments: str) -> str:
    """Run uv in the project and return what it printed on stdout."""
    return run([find_uv_bin(), *arguments], cwd=PROJECT)


def run(command: list[str], cwd: Path = ROOT) -> str:
    """Announce and run a command, and return what it printed on stdout."""
    announce(command)
    result = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)
    if result.returncode != 0:
        output = (result.stdout + result.stderr)[-4000:]
        raise DemoError(f"exit code {result.returncode} of {shlex.join(command)}\n{output}")
    return result.stdout


def announce(command: list[str]) -> None:
    """Print a command as a user would type it."""
    typed = shlex.join([Path(command[0]).name, *command[1:]])
    print(f"\n$ {typed.replace(str(ROOT), '.')}", flush=True)


def end_of_log(lines: int = 30) -> str:
    """Return the last lines of the server's log."""
    return "\n".join(LOG.read_text(errors="replace").splitlines()[-lines:])


def free_port() -> int:
    """Return a port that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


if __name__ == "__main__":
    sys.exit(main())
