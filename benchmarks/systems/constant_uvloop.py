# /// script
# dependencies = ["httptools==0.9.0", "uvloop==0.23.0"]
#
# [tool.bench]
# title = "bare uvloop protocol, constant answer"
# kind = "ceiling"
# command = ["python", "{file}"]
# path = "/"
# ///
"""A minimal HTTP server in Python: it shows the limit of the load generator itself."""

import asyncio
import os
from typing import cast

import httptools
import uvloop

BODY = b'{"prediction":"benign"}'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
ANSWER = ANSWER % (len(BODY), BODY)


class Constant(asyncio.Protocol):
    """Gives every request the same answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)  # uvloop's has another type
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.transport.write(ANSWER)


async def main() -> None:
    """Serve until the process is stopped."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Constant, "127.0.0.1", int(os.environ["PORT"]))
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
