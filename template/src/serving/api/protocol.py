"""HTTP as uvicorn speaks it, with one write for each answer, and time for the last request."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

LAST_REQUEST_SECONDS = 0.5
"""How long a connection without a request in progress stays open when the server stops."""


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which writes the head of an answer and its body one by one.

    Each write wakes the caller; one instead of two saves a tenth of what a small answer costs.
    """

    _lingers = False

    def connection_made(  # type: ignore[override]  # as uvicorn's own
        self, transport: asyncio.Transport
    ) -> None:
        super().connection_made(_OneWrite(transport))  # type: ignore[arg-type]  # acts as one

    def shutdown(self) -> None:
        """Close the connection when the server stops, but answer a request that is on its way.

        uvicorn closes a connection at once that has no request in progress. The caller may have
        sent one already, and would see a reset.
        """
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and not self._lingers:
            self._lingers = True
            self.loop.call_later(LAST_REQUEST_SECONDS, self.shutdown)
        else:
            super().shutdown()


class _OneWrite:
    """A transport that sends what is written in one turn of the loop together."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if parts and not self._transport.is_closing():
            self._transport.write(b"".join(parts))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
