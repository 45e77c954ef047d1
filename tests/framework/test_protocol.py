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

LARGE = b"x" * 20_000_000  # more than the kernel's buffers hold


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """Twenty megabytes, or two bytes at `/small`."""
    assert scope["type"] == "http"
    body = b"ok" if scope["path"] == "/small" else LARGE
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


@contextlib.contextmanager
def served(send_buffer: int = 0) -> Iterator[tuple[int, uvicorn.Server]]:
    """Run a server of `answer` in a thread; return its port and the server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if send_buffer:  # connections inherit it
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
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
    """Shorten the time limits for stalls."""
    monkeypatch.setattr(protocol, "STALLED_SECONDS", 0.5)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost:"])
def test_a_connection_without_a_head_is_closed(sent: bytes) -> None:
    with served() as (port, _), socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(30)
        connection.sendall(sent)
        assert connection.recv(1) == b""


SMALL = b"GET /small HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("request_", "rest"),
    [
        pytest.param(SMALL + b"\r\n", b"\r\n", id="an empty line"),
        pytest.param(SMALL + b"Content-Length: 5\r\n\r\n", b"a", id="a part of a body"),
        pytest.param(SMALL + b"\r\n", b"GET", id="a part of a head"),
    ],
)
def test_a_connection_does_not_stay_open_after_an_answer(request_: bytes, rest: bytes) -> None:
    with served() as (port, _), socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(30)
        connection.sendall(request_)
        assert connection.recv(1000).endswith(b"ok")
        connection.sendall(rest)
        assert connection.recv(1) == b""


def send_without_end(connection: socket.socket, line: bytes) -> None:
    while True:
        connection.sendall(line)


def test_lines_after_a_body_have_an_end() -> None:
    head = SMALL + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
    with served() as (port, _):
        for line in (b"X: a\r\n" * 1000, b"X: " + b"a" * 5000, b"X" * 5000):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.settimeout(30)
                connection.sendall(head)
                assert connection.recv(1000).endswith(b"ok")
                with pytest.raises(ConnectionError):
                    send_without_end(connection, line)


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
def test_an_answer_that_is_read_in_drops_is_dropped() -> None:
    """Something is read in each period, but too little.

    The small buffer lets the server see small steps.
    """
    with served(send_buffer=16_384) as (port, server), socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", port))
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        reads = 0
        while reads < 1 or server.server_state.connections:  # until the server gives up
            assert connection.recv(2000)
            reads += 1
            assert reads < 100, "the server has held the answer for ten stalls"
            threading.Event().wait(0.05)
    assert reads > 1


@pytest.mark.usefixtures("impatient")
def test_an_answer_that_is_read_slowly_arrives() -> None:
    with served() as (port, _), socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(30)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        count = 0
        while chunk := connection.recv(1_000_000):
            count += len(chunk)
            threading.Event().wait(0.05)  # in total longer than a stall may be
    assert count > len(LARGE)
