"""Read the body of a request, within limits."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import jiter
from fastapi import Request

from serving.api.problem import MOST_CHARACTERS, ProblemError, invalid_values

JSON = "application/json"


async def read_body(request: Request, max_bytes: int, reserve: Callable[[int], None]) -> bytes:
    """Return the whole body.

    Args:
        request: the request.
        max_bytes: the longest body that is taken.
        reserve: called with the length of each piece before it is kept; may raise.

    Raises `ProblemError`: 413 when the body is longer than `max_bytes`. As much again is read and
    dropped before, since many clients see an answer only once they have sent everything.
    """
    body = bytearray()
    length = 0
    more = True
    # What a dependency has read already does not come again.
    if (read := getattr(request, "_body", None)) is not None:
        more, length = False, len(read)
        if length <= max_bytes:
            reserve(length)
            body += read
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ProblemError(HTTPStatus.BAD_REQUEST, "the client went away")
        more = message.get("more_body", False)
        chunk = message.get("body", b"")
        length += len(chunk)
        if length <= max_bytes:
            reserve(len(chunk))
            body += chunk
        elif length > 2 * max_bytes:
            break
    if length > max_bytes:
        raise ProblemError(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"the body has more than {max_bytes} bytes",
            headers={"Connection": "close"},  # the rest of it is not read
        )
    return bytes(body)


def media_type(request: Request) -> str:
    """The media type of the body; JSON where the request does not say it.

    Raises `ProblemError`: 415 for text that is not UTF-8.
    """
    type_, *parameters = request.headers.get("content-type", JSON).lower().split(";")
    for parameter in parameters:
        name, _, value = parameter.strip().partition("=")
        if name == "charset" and value.strip('"') not in ("utf-8", "utf8"):
            raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must be UTF-8")
    return type_.strip()


def require_json(request: Request) -> None:
    """Raise `ProblemError` with status 415 for a body that says that it is no JSON."""
    if media_type(request) != JSON:
        raise ProblemError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the body must be {JSON}")


def parse_json(body: bytes) -> Any:
    """Parse JSON (RFC 8259) in UTF-8, without `NaN`, `Infinity` and names that are there twice.

    Raises `ProblemError` with status 422.
    """
    try:
        return jiter.from_json(body, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as exc:
        # The parser's message names where, but also a key that is there twice, however long.
        raise invalid_values([((), f"invalid JSON: {str(exc)[-MOST_CHARACTERS:]}")]) from None
