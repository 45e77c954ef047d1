"""Error responses: `application/problem+json` (RFC 9457), without stack traces or payloads."""

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, Field, ValidationError
from pydantic.json_schema import models_json_schema
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException

from serving.config.yaml_file import rule_of
from serving.errors import ModelFailed, Refused, Unavailable
from serving.telemetry.logging import request_id

MEDIA_TYPE = "application/problem+json"

_PHRASES = {
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "Content Too Large",
    HTTPStatus.UNPROCESSABLE_ENTITY: "Unprocessable Content",
}


def phrase(status: HTTPStatus) -> str:
    """The status in words (RFC 9110), the same in all Python versions; 3.13 renamed two of them."""
    return _PHRASES.get(status, status.phrase)


class FieldProblem(BaseModel):
    """One invalid value of a request."""

    pointer: str = Field(description="JSON Pointer (RFC 6901) to the value")
    detail: str = Field(description="The rule that the value breaks")


class Problem(BaseModel):
    """Why a request failed (RFC 9457)."""

    title: str = Field(description="The HTTP status in words")
    status: int = Field(description="The HTTP status code")
    detail: str = Field(description="What went wrong, in one sentence")
    request_id: str | None = Field(
        None, description="Id of the request, which the server's log also has"
    )
    errors: list[FieldProblem] | None = Field(None, description="Each invalid value")


class ProblemError(Exception):
    """Ends a request with a problem document."""

    def __init__(
        self,
        status: HTTPStatus,
        detail: str,
        errors: Sequence[FieldProblem] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = errors
        self.headers = headers

    def response(self) -> Response:
        """The HTTP response."""
        problem = Problem(
            title=phrase(self.status),
            status=self.status,
            detail=self.detail,
            request_id=request_id.get(),
            errors=list(self.errors) if self.errors else None,
        )
        return Response(
            problem.model_dump_json(exclude_none=True),
            status_code=self.status,
            headers=dict(self.headers or {}),
            media_type=MEDIA_TYPE,
        )


Location = tuple[int | str, ...]
"""Where a value is in a request's body: keys and indexes, outermost first."""

MOST_ERRORS = 100
"""The most errors that a response lists."""

MOST_CHARACTERS = 200
"""The most characters of a request's name that a response shows."""


def invalid_request(
    exc: ValidationError,
    locate: Callable[[Location], Location] = lambda location: location,
    about_unknown: Callable[[str], str] | None = None,
) -> ProblemError:
    """422, naming each invalid value and the rule that it breaks; values are not echoed.

    Args:
        exc: what Pydantic found.
        locate: maps the location of a validated value to its location in the body.
        about_unknown: the message for the first unknown name.
    """
    if exc.error_count() > MOST_ERRORS * 10:  # listing them would take seconds
        return invalid_values([((), f"{exc.error_count()} values are wrong")])
    # Unknown names come first: they explain why others are missing.
    found = sorted(exc.errors(include_url=False), key=lambda one: one["type"] != "extra_forbidden")
    errors = [(locate(error["loc"]), _rule(error)) for error in found[:MOST_ERRORS]]
    if about_unknown and found[0]["type"] == "extra_forbidden":
        errors[0] = (errors[0][0], about_unknown(str(found[0]["loc"][-1])))
    return invalid_values(errors, more=len(found) - 1)


def invalid_values(errors: Sequence[tuple[Location, str]], more: int = 0) -> ProblemError:
    """422 for values, each with the rule that it breaks; `more` counts those after the first."""
    location, rule = errors[0]
    name = "/".join(map(_shortened, location))
    detail = f"{name}: {rule}" if name else rule
    if more:
        detail += f" (and {more} more)"
    problems = [FieldProblem(pointer=_pointer(location), detail=rule) for location, rule in errors]
    return ProblemError(HTTPStatus.UNPROCESSABLE_ENTITY, detail, problems)


def install(app: FastAPI) -> None:
    """Answer every error that is raised deliberately with a problem document."""

    @app.exception_handler(ProblemError)
    async def problem(_: Request, exc: ProblemError) -> Response:
        return exc.response()

    @app.exception_handler(Unavailable)
    async def not_now(_: Request, exc: Unavailable) -> Response:
        headers = {"Retry-After": str(exc.retry_after)}
        return ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, str(exc), headers=headers).response()

    @app.exception_handler(ModelFailed)
    async def model_failed(_: Request, exc: ModelFailed) -> Response:
        detail = "the model failed; the server's log says why"
        return ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, detail).response()

    @app.exception_handler(Refused)
    async def refused(_: Request, exc: Refused) -> Response:
        return ProblemError(_status(exc.status), str(exc)).response()

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, exc: HTTPException) -> Response:
        status = _status(exc.status_code)
        detail = exc.detail
        if detail == status.phrase:  # it says nothing more than the status
            detail = _described(request, status, exc.headers)
        return ProblemError(status, str(detail or phrase(status)), None, exc.headers).response()


def _described(request: Request, status: HTTPStatus, headers: Mapping[str, str] | None) -> str:
    """A sentence for an error that the router raises, and nothing for one of the user's code."""
    if status is HTTPStatus.NOT_FOUND and "endpoint" not in request.scope:  # no route matched
        return "there is no such path; /docs lists all paths, and none of them ends with /"
    if status is HTTPStatus.METHOD_NOT_ALLOWED and headers and (allowed := headers.get("Allow")):
        return f"this path does not accept this method; use {allowed}"
    return ""


def _status(code: int) -> HTTPStatus:
    """The status; if it is not registered, 400 or 500 by its class (RFC 9110, section 15)."""
    try:
        return HTTPStatus(code)
    except ValueError:
        return HTTPStatus.BAD_REQUEST if 400 <= code < 500 else HTTPStatus.INTERNAL_SERVER_ERROR


def documented(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI `responses` of a route that may answer with these problems."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {int(status): {"description": phrase(status), "content": content} for status in statuses}


def _rule(error: ErrorDetails) -> str:
    match error["type"]:
        case "extra_forbidden":
            return "unknown field"
        case "missing":
            return "is required"
        case "value_error":
            return str(error["ctx"]["error"])
        case "model_type" | "dict_type":
            return "must be an object"
        case "list_type":
            return "must be an array"
        case "too_short" if error["ctx"]["min_length"] == 1:
            return "must not be empty"
        case "too_short":
            return f"must have at least {error['ctx']['min_length']} items"
        case "too_long":
            return f"must have at most {error['ctx']['max_length']} items"
        case _ if error["input"] is None:
            return "must not be null"
        case _:
            return rule_of(error)


def _shortened(part: int | str) -> str:
    """A key as responses show it; the caller's key may have megabytes."""
    text = str(part)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}..."


def _pointer(location: Location) -> str:
    parts = (_shortened(part).replace("~", "~0").replace("/", "~1") for part in location)
    return "".join(f"/{part}" for part in parts)


def schemas() -> dict[str, Any]:
    """The components that `documented` refers to."""
    _, definitions = models_json_schema(
        [(Problem, "serialization")], ref_template="#/components/schemas/{model}"
    )
    return dict(definitions["$defs"])
