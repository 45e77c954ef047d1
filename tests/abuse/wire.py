"""HTTP/1.1 as bytes on a socket, so that a client can also violate it. Standard library only."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """An answer from the server."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class Connection:
    """One connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes in pieces, to notice a server that refuses the rest."""
        content = memoryview(data)
        for start in range(0, len(data), 262_144):
            self._writer.write(content[start : start + 262_144])
            await self._writer.drain()

    async def read(self, count: int) -> bytes:
        """Read up to `count` bytes; none if the server has closed."""
        return await self._reader.read(count)

    async def answer(self) -> Answer:
        """Read one answer. Raises `OSError` or `EOFError` if the server closes before its end."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *lines = head.rstrip().split("\r\n")
        fields = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in fields}
        body = await self._reader.readexactly(int(headers["content-length"]))
        return Answer(int(status.split()[1]), headers, body)

    async def closed(self) -> None:
        """Read until the server closes."""
        while await self._reader.read(65_536):
            pass


@contextlib.asynccontextmanager
async def connected(port: int, receive_buffer: int | None = None) -> AsyncIterator[Connection]:
    """Open a connection; abort it at the end without a proper close.

    A small `receive_buffer` keeps the kernel from taking an answer that nobody reads.
    """
    connection = socket.socket()
    connection.setblocking(False)
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    try:
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    except BaseException:
        connection.close()
        raise
    reader, writer = await asyncio.open_connection(sock=connection, limit=receive_buffer or 65_536)
    try:
        yield Connection(reader, writer)
    finally:
        writer.transport.abort()


def get(path: str) -> bytes:
    """A request without a body."""
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def post(path: str, body: bytes, *, length: int | None = None, headers: str = "") -> bytes:
    """A request with a body, which may lie about its length."""
    length = len(body) if length is None else length
    lines = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{headers}"
    return f"{lines}Content-Length: {length}\r\n\r\n".encode() + body
