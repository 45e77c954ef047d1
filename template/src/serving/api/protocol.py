"""uvicorn's HTTP protocol, with one write per response and with additional limits."""

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.api.problem import ProblemError

LAST_REQUEST_SECONDS = 0.5
"""How long an idle connection stays open when the server stops."""

MOST_HEAD_BYTES = 65_536
MOST_HEADERS = 100
"""Requests with more headers are refused (431)."""

MOST_PIPELINED = 100
"""Most pipelined requests that may wait for earlier responses. One more ends the connection."""

STALLED_SECONDS = 30
"""A connection is closed when its caller takes longer to send the headers of a request, or reads
less than `LEAST_BYTES` of its response in this time."""

LEAST_BYTES = 32_768
"""A response of any size is held for a limited time, because its caller reads at least 1 KB/s."""


class _HeadTooLarge(Exception):
    """Stops the parser."""


class _TooManyPipelined(Exception):
    """Stops the parser."""


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, with four differences.

    - The headers and body of a response are written together. Each write wakes the caller; one
      write instead of two saves a tenth of the cost of a small response.
    - The headers of a request have a limit (431), and so does the number of pipelined requests.
      uvicorn reads more pipelined requests with each response that it sends.
    - A connection is closed when its caller is too slow to send headers or to read a response.
    - When the server stops, an idle connection stays open a little longer.
    """

    _lingers = False
    _in_head = False
    _in_message = False
    _has_progressed = False
    _is_head_too_large = False
    _is_flooded = False
    _chunk_bytes = 0
    _overhead_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(  # type: ignore[override]  # as in uvicorn
        self, transport: asyncio.Transport
    ) -> None:
        self._one_write = _OneWrite(transport)
        super().connection_made(self._one_write)  # type: ignore[arg-type]  # acts as one
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    # -------------------------------------------------------------------- request headers

    def data_received(self, data: bytes) -> None:
        self._chunk_bytes = len(data)
        self._has_progressed = False
        super().data_received(data)
        # This is neither a new request nor part of a body, but more headers, or trailers after a
        # body. uvicorn would collect both without a limit.
        is_overhead = self._in_message and not self._has_progressed
        self._overhead_bytes = self._overhead_bytes + len(data) if is_overhead else 0
        if self._overhead_bytes > MOST_HEAD_BYTES:
            self._refuse_head()
        elif self._in_head or not self._is_answering():
            self._expect_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.pipeline:  # answer these before reading more
            self.flow.pause_reading()

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= MOST_PIPELINED:
            self._is_flooded = True
            raise _TooManyPipelined
        super().on_message_begin()
        self._in_head = self._in_message = self._has_progressed = True

    def on_headers_complete(self) -> None:
        # Headers that arrived in one small chunk, as nearly all do, cannot be too large.
        may_be_large = not self._has_progressed or self._chunk_bytes > MOST_HEAD_BYTES
        if len(self.headers) > MOST_HEADERS or (
            may_be_large and self._head_size() > MOST_HEAD_BYTES
        ):
            self._is_head_too_large = True
            raise _HeadTooLarge
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._has_progressed = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        super().on_message_complete()

    def _head_size(self) -> int:
        lines = sum(len(name) + len(value) + len(": \r\n") for name, value in self.headers)
        return len(self.url) + lines

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def send_400_response(self, msg: str) -> None:
        """Answer a request that the parser has rejected."""
        if self._is_head_too_large:
            self._refuse_head()
        elif self._is_flooded:
            self.transport.close()
        else:
            super().send_400_response(msg)

    def _refuse_head(self) -> None:
        """Answer 431, unless another response is being sent, and close the connection."""
        if self._in_head and not self._is_answering():
            detail = f"the headers have more than {MOST_HEAD_BYTES} bytes or {MOST_HEADERS} lines"
            answer = ProblemError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, detail).response()
            answer.headers["connection"] = "close"
            lines = [b"HTTP/1.1 431 Request Header Fields Too Large"]
            lines += [name + b": " + value for name, value in answer.raw_headers]
            self.transport.write(b"\r\n".join([*lines, b"", bytes(answer.body)]))
        self.transport.close()

    def _expect_head(self) -> None:
        """Give the caller a limited time to send the headers of the next request."""
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(STALLED_SECONDS, self._end_of_wait)

    def _end_of_wait(self) -> None:
        self._head_timer = None
        if self._is_answering():  # the headers belong to a later request
            self._expect_head()
        else:
            self.transport.close()
            self._watch_answer()

    # ------------------------------------------------------------------- end of a response

    def pause_writing(self) -> None:
        """Watch the connection once its write buffer is full."""
        super().pause_writing()
        self._watch_answer()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection, even if the caller never reads the response."""
        super().timeout_keep_alive_handler()
        self._watch_answer()

    def _watch_answer(self, least: int = 0) -> None:
        """Cut the connection if the caller has read less than `least` bytes of all responses."""
        waiting = self.transport.get_write_buffer_size()
        taken = self._one_write.written - waiting
        if taken < least:
            self.transport.abort()
        elif waiting:
            if self._write_timer is not None:
                self._write_timer.cancel()
            least = taken + min(waiting, LEAST_BYTES)
            self._write_timer = self.loop.call_later(STALLED_SECONDS, self._watch_answer, least)

    def shutdown(self) -> None:
        """Close the connection when the server stops, but answer a request that is on its way.

        Otherwise a caller that has just sent one would see a reset.
        """
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and not self._lingers:
            self._lingers = True
            self.loop.call_later(LAST_REQUEST_SECONDS, self.shutdown)
        else:
            super().shutdown()


class _OneWrite:
    """A transport that sends everything written in one loop iteration together."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []
        self.written = 0
        """Bytes passed to the transport so far."""

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
            data = b"".join(parts)
            self.written += len(data)
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
