"""HTTP as uvicorn speaks it, with one write for each answer, and within limits of its own."""

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.api.problem import ProblemError

LAST_REQUEST_SECONDS = 0.5
"""How long a connection without a request in progress stays open when the server stops."""

MOST_HEAD_BYTES = 65_536
MOST_HEADERS = 100
"""Larger heads of requests are refused (431)."""

STALLED_SECONDS = 30
"""A connection is closed that takes longer to send the head of a request, or takes nothing of its
answer for so long."""


class _HeadTooLarge(Exception):
    """Stops the parser."""


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, with four differences.

    - The head of an answer and its body are written together. Each write wakes the caller; one
      instead of two saves a tenth of what a small answer costs.
    - The head of a request has a limit (431).
    - A connection is closed when its caller does not send a head, or does not take an answer.
    - When the server stops, a connection without a request in progress stays open a little longer.
    """

    _lingers = False
    _in_head = False
    _head_chunks = 0
    _head_bytes = 0
    _chunk_bytes = 0
    _is_head_too_large = False
    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(  # type: ignore[override]  # as uvicorn's own
        self, transport: asyncio.Transport
    ) -> None:
        super().connection_made(_OneWrite(transport))  # type: ignore[arg-type]  # acts as one
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    # ------------------------------------------------------------------ heads of requests

    def data_received(self, data: bytes) -> None:
        self._chunk_bytes = len(data)
        super().data_received(data)
        if self._in_head:  # and not over yet
            self._head_chunks += 1
            if self._head_chunks > 1:  # the first may have the end of another request, too
                self._head_bytes += len(data)
            if self._head_bytes > MOST_HEAD_BYTES:
                self._refuse_head()
            else:
                self._expect_head()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_chunks = self._head_bytes = 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        # A head that came at once, as nearly all do, is not larger than what came.
        may_be_large = self._head_chunks or self._chunk_bytes > MOST_HEAD_BYTES
        if len(self.headers) > MOST_HEADERS or (
            may_be_large and self._head_size() > MOST_HEAD_BYTES
        ):
            self._is_head_too_large = True
            raise _HeadTooLarge
        super().on_headers_complete()

    def _head_size(self) -> int:
        lines = sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)
        return len(self.url) + lines

    def send_400_response(self, msg: str) -> None:
        """Answer a request at which the parser has stopped."""
        if self._is_head_too_large:
            self._refuse_head()
        else:
            super().send_400_response(msg)

    def _refuse_head(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # else it would be in its answer
            detail = f"the head has more than {MOST_HEAD_BYTES} bytes or {MOST_HEADERS} headers"
            answer = ProblemError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail).response()
            answer.headers["connection"] = "close"
            lines = [b"HTTP/1.1 431 Request Header Fields Too Large"]
            lines += [name + b": " + value for name, value in answer.raw_headers]
            self.transport.write(b"\r\n".join([*lines, b"", bytes(answer.body)]))
        self.transport.close()

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(STALLED_SECONDS, self.transport.close)

    # -------------------------------------------------------------------- ends of answers

    def pause_writing(self) -> None:
        """More of an answer waits for the caller than is sent without looking."""
        super().pause_writing()
        self._watch_answer()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection, also when the caller never takes the answer."""
        super().timeout_keep_alive_handler()
        self._watch_answer()

    def _watch_answer(self, waiting: int | None = None) -> None:
        """Cut the connection when `waiting` bytes have not become fewer."""
        now = self.transport.get_write_buffer_size()
        if waiting is not None and now >= waiting:
            self.transport.abort()
        elif now:
            if self._write_timer is not None:
                self._write_timer.cancel()
            self._write_timer = self.loop.call_later(STALLED_SECONDS, self._watch_answer, now)

    def shutdown(self) -> None:
        """Close the connection when the server stops, but answer a request that is on its way.

        The caller may have sent one already, and would see a reset.
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
