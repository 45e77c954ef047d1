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
"""A body of which nothing more comes for so long is not waited for."""


async def read_body(
    request: Request, max_bytes: int, reservation: ReservedBody, expect_more: Callable[[], None]
) -> bytes:
    """Return the whole body.

    Args:
        request: the request.
        max_bytes: the longest body that is taken.
        reservation: told of the length of the body, and of each piece before it is kept.
        expect_more: called after each piece but the last.

    Raises `ProblemError` (413) when the body is longer than `max_bytes`, and `Overloaded` when
    there is no room for it. What is refused is read and dropped before, since many clients see an
    answer only once they have sent everything; of a body that is too long as much again as is
    allowed.
    """
    pieces: list[bytes] = []
    length = 0
    more = True
    refusal: Overloaded | None = None
    # What a dependency has read already does not come again.
    if (read := getattr(request, "_body", None)) is not None:
        more, length = False, len(read)
        if length <= max_bytes:
            reservation.add(length)
            pieces.append(read)
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ProblemError(HTTPStatus.BAD_REQUEST, "the client went away")
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
            headers={"Connection": "close"},  # the rest of it is not read
        )
    if refusal is not None:
        raise refusal
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def declared_length(request: Request) -> int:
    """How long the body is by its head; 0 where that does not say it."""
    for name, value in request.scope["headers"]:
        if name == b"content-length":
            return int(value)  # the parser has checked it
    return 0


def media_type(request: Request) -> str:
    """The media type of the body; JSON where the request does not say it.

    Raises `ProblemError`: 415 for text that is not UTF-8, and for a body that is compressed.
    """
    content_type = JSON
    # Once over the raw headers: each lookup by name would be a search of its own.
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
    """Raise `ProblemError` with status 415 for a body that says that it is no JSON."""
    if media_type(request) != JSON:
        raise ProblemError(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
            f"the body must be JSON, with the header Content-Type: {JSON}",
        )


def parse_json(body: bytes, most_values: int) -> Any:
    """Parse JSON (RFC 8259) in UTF-8, without `NaN`, `Infinity` and names that are there twice.

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
        # The parser's message names where, but also a key that is there twice, however long.
        raise invalid_values([((), f"invalid JSON: {str(exc)[-MOST_CHARACTERS:]}")]) from None


def check_structure(body: bytes, most_values: int) -> None:
    """Refuse a body that is nested too deep, or has more values than a valid one can have.

    Millions of small arrays fit into a body of 10 MB. To parse them takes a gigabyte, and many
    seconds in which nobody else is answered. To count brackets and commas outside of strings takes
    a twentieth of a second.

    Raises `ProblemError` with status 422.
    """
    if b"\\" in body:  # a quote that is escaped ends no string
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
