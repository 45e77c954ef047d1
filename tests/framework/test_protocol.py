"""Connections that stall, over real sockets."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from serving.api import protocol
from starlette.types import Receive, Scope, Send

LARGE = b"x" * 20_000_000  # more than the kernel's buffers take


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Twenty megabytes to everyone."""
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": LARGE})


@contextlib.contextmanager
def served() -> Iterator[tuple[int, uvicorn.Server]]:
    """The port and the server of `answer`, in a thread."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        options = {"http": protocol.Protocol, "lifespan": "off", "log_level": "error"}
        server = uvicorn.Server(uvicorn.Config(answer, **options))  # type: ignore[arg-type]  # mixed
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
        thread.start()
        try:
            yield listener.getsockname()[1], server
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stalls are over sooner."""
    monkeypatch.setattr(protocol, "STALLED_SECONDS", 0.5)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost:"])
def test_a_connection_without_a_head_is_closed(sent: bytes) -> None:
    with served() as (port, _), socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(30)
        connection.sendall(sent)
        assert connection.recv(1) == b""


@pytest.mark.usefixtures("impatient")
def test_an_answer_that_nobody_reads_is_dropped() -> None:
    with served() as (port, server), socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(30)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert connection.recv(10) == b"HTTP/1.1 2"
        while server.server_state.connections:  # until the server gives up
            threading.Event().wait(0.05)
        count = 0
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(1_000_000):
                count += len(chunk)
    assert count < len(LARGE)


@pytest.mark.usefixtures("impatient")
def test_an_answer_that_is_read_slowly_arrives() -> None:
    with served() as (port, _), socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(30)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        count = 0
        while chunk := connection.recv(1_000_000):
            count += len(chunk)
            threading.Event().wait(0.05)  # longer in all than a stall may be
    assert count > len(LARGE)
