"""Run the application with uvicorn."""

import signal
import socket
import sys

import uvicorn

from serving.errors import ConfigError
from serving.settings import Settings


def serve(settings: Settings) -> None:
    """Serve until a signal ends it.

    Raises `ConfigError` when no model is named or the address cannot be listened on.
    """
    serving = settings.serving
    _ = serving.model  # before any process is started
    _check_address(serving.host, serving.port)
    # uvicorn stops in order on SIGTERM and then raises it again: that is success, not a kill.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        "serving.app:create_app",
        factory=True,
        host=serving.host,
        port=serving.port,
        workers=serving.workers,
        log_config=None,  # uvicorn's loggers go where all others go
        server_header=False,
    )


def _check_address(host: str, port: int) -> None:
    """Say in one sentence what uvicorn would say in a traceback."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as exc:
        raise ConfigError(f"cannot listen on {host} port {port}: {exc.strerror}") from None
