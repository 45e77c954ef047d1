"""Read the body of a request, within limits."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import jiter
import numpy as np
from fastapi import Request

from serving.api.problem import MOST_CHARACTERS, ProblemError, invalid_values
from serving.errors import Overloaded
from serving.runtime.limits import LARGE_BYTES, ReservedBody

JSON = "application/json"

MOST_DEPTH = 32
"""Arrays and objects within each other; a valid body has four levels."""

_SCANNED_BYTES = 65_536


STALLED_BODY_SECONDS = 5
"""The longest pause between two pieces of a body."""


async def read_body(
    request: Request, max_bytes: int, reservation: ReservedBody, expect_more: Callable[[], None]
) -> bytes:
    """Return the whole body.

    Args:
        request: the request.
        max_bytes: the longest body that is accepted.
        reservation: counts the body's bytes; each piece is added before it is kept.
        expect_more: called after each piece except the last.

    Raises `ProblemError` (413) when the body is longer than `max_bytes`, and `Overloaded` when
    there is no room for it. A refused body is first read and dropped, because many clients read
    the response only after they have sent everything. This stops at `2 * max_bytes`.
    """
    pieces: list[bytes] = []
    length = 0
    more = True
    refusal: Overloaded | None = None
    # A dependency may have read the body already; it cannot be received twice.
    if (read := getattr(request, "_body", None)) is not None:
        more, length = False, len(read)
        if length <= max_bytes:
            reservation.add(length)
            pieces.append(read)
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ProblemError(HTTPStatus.BAD_REQUEST, "the client closed the connection")
        more = message.get("more_body", False)
        chunk = message.get("body", b"")
        length += len(chunk)
        if length > 2 * max_bytes:
            break
        if refusal is None and length <= max_bytes:
            try:
                if more and not pieces:
                    reservation.check(min(declared_length(request), max_bytes))
                reservation.add(len(chunk))
                pieces.append(chunk)
            except Overloaded as exc:
                refusal = exc
                pieces.clear()
                reservation.release()
        if more:
            expect_more()
    if length > max_bytes:
        raise ProblemError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the body has more than {max_bytes} bytes",
            headers={"Connection": "close"},  # the rest of the body is not read
        )
    if refusal is not None:
        raise refusal
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def declared_length(request: Request) -> int:
    """The length of the body by its Content-Length; 0 without that header."""
    for name, value in request.scope["headers"]:
        if name == b"content-length":
            return int(value)  # the parser has checked it
    return 0


def media_type(request: Request) -> str:
    """The media type of the body; JSON if the request does not name one.

    Raises `ProblemError`: 415 for a charset other than UTF-8, and for a compressed body.
    """
    content_type = JSON
    # One pass over the raw headers, because each lookup by name would be another search.
    for name, value in request.scope["headers"]:
        if name == b"content-type":
            content_type = value.decode("latin-1")
        elif name == b"content-encoding" and value.lower() not in (b"", b"identity"):
            detail = "the body must not be compressed (Content-Encoding)"
            raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail)
    type_, *parameters = content_type.lower().split(";")
    for parameter in parameters:
        key, _, charset = parameter.strip().partition("=")
        if key == "charset" and charset.strip('"') not in ("utf-8", "utf8"):
            raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must be UTF-8")
    return type_.strip()


def require_json(request: Request) -> None:
    """Raise `ProblemError` with status 415 if the Content-Type is not JSON."""
    if media_type(request) != JSON:
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"the body must be JSON, with the header Content-Type: {JSON}",
        )


def parse_json(body: bytes, most_values: int) -> Any:
    """Parse JSON (RFC 8259) in UTF-8, without `NaN`, `Infinity` and duplicate names.

    Args:
        body: the text.
        most_values: how many values a large body may have; see `check_structure`.

    Raises `ProblemError` with status 422.
    """
    if not body:
        raise invalid_values([((), "the body is empty; it must be JSON")])
    if len(body) > LARGE_BYTES:
        check_structure(body, most_values)
    try:
        return jiter.from_json(body, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as exc:
        # The parser's message gives the place, but it also quotes a duplicate key of any length.
        raise invalid_values([((), f"invalid JSON: {str(exc)[-MOST_CHARACTERS:]}")]) from None


def check_structure(body: bytes, most_values: int) -> None:
    """Refuse a body that is nested too deeply or has more values than a valid body can have.

    Millions of small arrays fit into a body of 10 MB. Parsing them takes a gigabyte, and blocks
    all other requests for many seconds. Counting brackets and commas outside strings takes a
    twentieth of a second.

    Raises `ProblemError` with status 422.
    """
    if b"\\" in body:  # an escaped quote does not end a string
        body = body.replace(b"\\\\", b"  ").replace(b'\\"', b"  ")
    values = depth = deepest = 0
    in_string = False
    for start in range(0, len(body), _SCANNED_BYTES):
        count = min(_SCANNED_BYTES, len(body) - start)
        text = np.frombuffer(body, dtype=np.uint8, count=count, offset=start)
        quotes = np.cumsum(text == ord('"'), dtype=np.uint32) + in_string
        inside = quotes % 2 == 1
        in_string = bool(inside[-1])
        # Brackets and braces differ by one bit.
        kinds = np.where(inside, 0, text | 0x20)
        opened, closed = kinds == ord("{"), kinds == ord("}")
        values += int(np.count_nonzero(opened) + np.count_nonzero(kinds == ord(",")))
        levels = np.cumsum(opened.view(np.int8) - closed.view(np.int8), dtype=np.int32) + depth
        depth, deepest = int(levels[-1]), max(deepest, int(levels.max()))
    if deepest > MOST_DEPTH:
        raise invalid_values([((), f"must not be nested more than {MOST_DEPTH} levels deep")])
    if values > most_values:
        raise invalid_values([((), f"must not have more than {most_values} values")])
