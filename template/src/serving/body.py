"""Read the body of a request, within limits."""

from http import HTTPStatus
from typing import Any

import jiter
from fastapi import Request
from starlette.requests import ClientDisconnect

from serving.problem import ProblemError, invalid_values

JSON = "application/json"


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the whole body.

    Raises `ProblemError`: 413 when it is longer than `max_bytes`, as soon as that is known.
    """
    too_large = ProblemError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body has more than {max_bytes} bytes",
        headers={"Connection": "close"},  # the rest of it is not read
    )
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > max_bytes:
        raise too_large
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_bytes:
                raise too_large
    except ClientDisconnect:
        raise ProblemError(HTTPStatus.BAD_REQUEST, "the client went away") from None
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
        reason = str(exc)
        raise invalid_values([((), f"invalid JSON: {reason[0].lower()}{reason[1:]}")]) from None
