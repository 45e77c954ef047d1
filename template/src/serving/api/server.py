"""Run the application with uvicorn."""

import contextlib
import errno
import os
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.supervisors import Multiprocess

from serving import extensions
from serving.api.protocol import Protocol
from serving.config.settings import Settings
from serving.errors import ConfigError
from serving.runtime.draining import ALL_STOP
from serving.store.finding import ask_store, find_local_model, latest_run, one_sentence
from serving.store.runs import LATEST
from serving.telemetry import metrics_directory

# One thread per call of the model: more threads would compete for the cores with the event loop and
# the other workers. The libraries read these variables when they are imported.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")


def serve(settings: Settings) -> None:
    """Serve until a signal ends it.

    Raises `ConfigError` when no model is given or the server cannot listen on the address,
    `ModelNotFound` when a local store has no such model, and `ExtensionError` when the user's own
    code cannot be used.
    """
    serving = settings.serving
    serving.require_named_model()  # before any process is started
    _check_address(serving.host, serving.port)
    _choose_run(settings)
    for name in _THREADS:
        os.environ.setdefault(name, "1")
    # uvicorn shuts down on SIGTERM and then raises it again; the exit status must be 0.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    options: dict[str, Any] = {
        "app": "serving.api.app:create_app",
        "factory": True,
        "http": Protocol,
        "host": serving.host,
        "port": serving.port,
        "workers": serving.workers,
        # The wait for requests in progress, after the application has drained.
        "timeout_graceful_shutdown": serving.shutdown_timeout_seconds,
        # Loading a model blocks the interpreter for seconds at a time.
        "timeout_worker_healthcheck": 10,
        "access_log": False,  # serving.api.middleware has its own
        "log_config": None,  # uvicorn logs through the root logger, like all others
        "server_header": False,
    }
    with _shared_metrics(serving.workers):
        if serving.workers == 1:
            uvicorn.run(**options)
            return
        if extensions.found():
            from serving.api.app import create_app

            create_app(settings)  # reports mistakes once, not in every worker
        config = uvicorn.Config(**options)
        Supervisor(config, sockets=[config.bind_socket()]).run()


class Supervisor(Multiprocess):
    """uvicorn's supervisor of several workers, which signals them when all of them stop.

    It also stops single workers to replace them; the other workers then continue to listen.
    """

    def terminate_all(self) -> None:
        """Stop every worker."""
        for process in self.processes:
            if process.pid is not None and ALL_STOP is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, ALL_STOP)
        super().terminate_all()


@contextlib.contextmanager
def _shared_metrics(workers: int) -> Iterator[None]:
    """Give several workers a directory in which they share their metrics."""
    variable = metrics_directory.VARIABLE
    if given := os.environ.get(variable):
        try:
            os.makedirs(given, exist_ok=True)
        except OSError as exc:
            raise ConfigError(f"{variable}: {given}: {exc.strerror}") from None
    if workers == 1 or given or sys.platform == "win32":  # Windows cannot lock directories
        yield
        return
    with metrics_directory.temporary_directory() as directory:
        os.environ[variable] = str(directory)
        yield


def _choose_run(settings: Settings) -> None:
    """Look for the model in a local store, and let all workers serve the same run.

    A tracking server may be down for a while. A single worker waits for it while loading. Several
    workers could each get a different latest run, so the server has to answer here.
    """
    found = find_local_model(settings)
    if settings.serving.model_run_id != LATEST:
        return
    if found:
        run_id = found.uri.split("/")[1]
    elif settings.serving.workers > 1:
        with one_sentence(settings):
            run_id = ask_store(settings, lambda store: latest_run(store, settings)).run_id
    else:
        return
    os.environ["MODEL_RUN_ID"] = run_id  # workers read it from there


def _check_address(host: str, port: int) -> None:
    """Report in one sentence an error for which uvicorn would print a traceback."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as exc:
        hint = "another address with --host (HOST)"
        if exc.errno in (errno.EADDRINUSE, errno.EACCES):
            hint = "another port with --port (PORT)"
        raise ConfigError(
            f"cannot listen on {host} port {port}: {exc.strerror}; choose {hint}"
        ) from None
