"""The prediction routes: `/predict`, `/predict/batch` and `/invocations`."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from serving.api import invocations, problem
from serving.api.body import (
    JSON,
    STALLED_BODY_SECONDS,
    media_type,
    parse_json,
    read_body,
    require_json,
)
from serving.api.problem import Location, ProblemError, invalid_values
from serving.api.validation import Collect, validated, validated_samples
from serving.errors import RowError
from serving.model.hooks import Record
from serving.model.served import ServedModel
from serving.runtime.limits import LARGE_BYTES, Limits
from serving.runtime.service import Service
from serving.telemetry import metrics

Result = TypeVar("Result")
Endpoint = Callable[[Request], Awaitable[Response]]

LARGE_ROWS = 100
"""Responses with more rows are written in a thread, not on the event loop."""

PIECE_BYTES = 262_144
"""Large responses are sent in pieces of this size."""

PATHS = ("/predict", "/predict/batch", "/invocations")


class PredictionRoute(APIRoute):
    """A route that passes the request straight to its endpoint.

    FastAPI's handling of a request costs as much as a compiled model. It extracts parameters, which
    these routes do not have, and resolves dependencies. If the application or a router has
    dependencies, FastAPI handles the route as usual.
    """

    def __init__(self, path: str, endpoint: Endpoint, **options: Any) -> None:
        super().__init__(path, endpoint, **options)
        if self.dependant.dependencies or getattr(self, "max_body_size", None) is not None:
            return

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            response = await endpoint(Request(scope, receive, send))
            await response(scope, receive, send)

        self.app = app

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match the path like any route, but compare it without a regular expression."""
        if scope["type"] != "http" or scope.get("root_path") or scope["path"] != self.path:
            return super().matches(scope)
        match = Match.FULL if scope["method"] in (self.methods or ()) else Match.PARTIAL
        return match, {"endpoint": self.endpoint, "path_params": {}, "route": self}


@dataclass(frozen=True)
class _Form:
    """What differs between the prediction routes."""

    parse: Callable[[ServedModel, Request, Collect], Callable[[bytes], list[Any]]]
    """Checks the headers and returns a function that turns the body into validated samples."""
    write: Callable[[ServedModel, Iterable[Record]], bytes]
    """Answers -> JSON."""
    locate: Callable[[int], Location]
    """The index of a sample -> where it is in the body."""


def _parse_one(
    model: ServedModel, request: Request, collect: Collect
) -> Callable[[bytes], list[Any]]:
    require_json(request)
    return partial(_one, model, collect)


def _parse_many(
    model: ServedModel, request: Request, collect: Collect
) -> Callable[[bytes], list[Any]]:
    require_json(request)
    return partial(_many, model, collect)


def _parse_rows(
    model: ServedModel, request: Request, collect: Collect
) -> Callable[[bytes], list[Any]]:
    return partial(invocations.parse, model, media_type(request), collect)


_ONE = _Form(_parse_one, ServedModel.write_one, lambda _: ())
_MANY = _Form(_parse_many, ServedModel.write_batch, lambda index: ("samples", index))
_ROWS = _Form(_parse_rows, ServedModel.write_invocation, lambda index: (index,))


def add_routes(router: APIRouter, service: Service) -> None:
    """Add the prediction routes, with all dependencies that the router has so far."""

    async def predict(request: Request) -> Response:
        return await _predict(service, request, _ONE)

    async def predict_batch(request: Request) -> Response:
        return await _predict(service, request, _MANY)

    async def invoke(request: Request) -> Response:
        return await _predict(service, request, _ROWS)

    def add(path: str, endpoint: Endpoint, summary: str, schema: str) -> None:
        router.add_api_route(
            path,
            endpoint,
            methods=["POST"],
            summary=summary,
            tags=["model"],
            route_class_override=PredictionRoute,
            **_documented(schema),
        )

    one, many, rows = PATHS
    add(one, predict, "Predict one sample", "Prediction")
    add(
        many,
        predict_batch,
        "Predict many samples; the answers keep their order",
        "BatchPrediction",
    )
    add(rows, invoke, "Predict rows, in MLflow's protocol", "Invocation")


async def _predict(service: Service, request: Request, form: _Form) -> Response:
    """Read, validate and predict a request within all limits.

    Raises `ProblemError`: 408 body too slow, 413 too large, 422 invalid, 504 model too slow;
    `Unavailable` (503) without a model or with too many requests, and `ModelFailed` (500).
    """
    model = service.require_answering()
    parse = form.parse(model, request, model.records if model.hooks else model.rows)
    limits = service.settings.serving
    is_read = False
    with service.limits.reserve_body() as reservation:
        try:
            async with asyncio.timeout(limits.request_timeout_seconds) as timer:
                wait = _BodyWait(timer)
                body = await read_body(request, limits.max_body_bytes, reservation, wait.for_more)
                wait.end()
                is_read = True
                is_large = len(body) > LARGE_BYTES
                # Taken only now, so that slow senders do not block other callers.
                with service.limits.prediction_slot(is_large=is_large) as add_rows:
                    if not is_large:
                        samples = parse(body)
                        add_rows(len(samples))
                        return await _answer(service, request, samples, form, is_large=False)
                    async with service.limits.turn(len(body)):
                        if await request.is_disconnected():
                            raise ProblemError(
                                HTTPStatus.BAD_REQUEST, "the client closed the connection"
                            )
                        samples = await service.offload(partial(parse, body), is_large=True)
                        del body  # only the parsed samples are needed now
                        add_rows(len(samples))
                        return await _answer(service, request, samples, form, is_large=True)
        except TimeoutError:
            if not timer.expired():  # raised by the user's code
                raise
            if not is_read:
                raise ProblemError(
                    HTTPStatus.REQUEST_TIMEOUT,
                    wait.failure(limits.request_timeout_seconds),
                    headers={"Connection": "close"},
                ) from None
            raise ProblemError(
                HTTPStatus.GATEWAY_TIMEOUT,
                f"the model did not answer within {limits.request_timeout_seconds:g} s",
            ) from None
        except RowError as exc:
            rule = "the model cannot predict from these values"
            raise problem.invalid_values([(form.locate(exc.index), rule)]) from None


class _BodyWait:
    """How long to wait for a body: each piece has a shorter limit than the whole request."""

    def __init__(self, timer: asyncio.Timeout) -> None:
        self._timer = timer
        self._end = timer.when()
        self._is_short = False

    def for_more(self) -> None:
        """A piece has arrived and more will follow."""
        assert self._end is not None
        soon = asyncio.get_running_loop().time() + STALLED_BODY_SECONDS
        self._is_short = soon < self._end
        self._timer.reschedule(min(soon, self._end))

    def end(self) -> None:
        """The body is complete."""
        if self._is_short:
            self._timer.reschedule(self._end)

    def failure(self, seconds: float) -> str:
        """Which time limit the body exceeded."""
        if self._is_short:
            return f"no more of the body arrived for {STALLED_BODY_SECONDS} s"
        return f"the body did not arrive within {seconds:g} s"


async def _answer(
    service: Service, request: Request, samples: list[Any], form: _Form, *, is_large: bool
) -> Response:
    """Predict validated samples; see `_predict`."""
    metrics.ROWS.observe(len(samples))
    model = service.require_model()
    caller = request.scope["client"]

    async def computed(work: Callable[[], Result]) -> Result:
        """Do work on all rows; with many rows in a thread, so as not to block the event loop."""
        if len(samples) > LARGE_ROWS:
            return await service.offload(work, is_large=is_large)
        return work()

    if model.hooks:
        context = model.hooks.context(request.headers)
        records = await model.hooks.before(samples, context)
        rows = model.rows_of(records)
        with service.log_failures():
            predictions = await service.predict(rows, caller)
            answers = await computed(lambda: list(model.answers(rows, predictions)))
        answers = await model.hooks.after(answers, records, context)
        with service.log_failures():
            content = await computed(lambda: form.write(model, answers))
    else:
        with service.log_failures():
            predictions = await service.predict(samples, caller)
            content = await computed(lambda: form.write(model, model.answers(samples, predictions)))
    if len(content) > LARGE_BYTES:
        return LargeResponse(content, service.limits)
    return Response(content, media_type=JSON)


class LargeResponse(Response):
    """A large response, which counts against the limits until the caller has received it."""

    media_type = JSON

    def __init__(self, content: bytes, limits: Limits) -> None:
        super().__init__(content)
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response in pieces; each waits until the caller has received most of the last.

        Raises `Overloaded` before anything is sent, when others have not yet received too much.
        """
        content = memoryview(self.body)
        with self._limits.answer(len(content)):
            head = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **head})
            for start in range(0, len(content), PIECE_BYTES):
                piece = bytes(content[start : start + PIECE_BYTES])
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                await asyncio.sleep(0)  # lets the transport write it
            await send({"type": "http.response.body"})


def _one(model: ServedModel, collect: Collect, body: bytes) -> list[Any]:
    content = parse_json(body, model.schemas.most_values)
    if isinstance(content, list):
        raise invalid_values([((), f"must be an object, one sample; {_SEVERAL}")])

    def about(name: str) -> str:
        return f"unknown field; {_SEVERAL}" if name == "samples" else model.schemas.about(name)

    return collect([validated(model.request_schema, content, about_unknown=about)])


def _many(model: ServedModel, collect: Collect, body: bytes) -> list[Any]:
    content = parse_json(body, model.schemas.most_values)
    if not isinstance(content, dict):
        raise invalid_values([((), 'must be an object of the form {"samples": [...]}')])
    if "samples" not in content:
        form = 'the body must have the form {"samples": [...]}; one sample goes to /predict'
        raise invalid_values([(("samples",), f"is required; {form}")])
    batch: Any = validated(model.batch_form, content)
    return validated_samples(
        model.batch_request_schema,
        batch.samples,
        collect,
        lambda location: ("samples", *location),
        about_unknown=model.schemas.about,
    )


_SEVERAL = 'several samples go to /predict/batch as {"samples": [...]}'


def _documented(name: str) -> dict[str, Any]:
    """OpenAPI of a route: references to the model's schemas, which exist once it is loaded."""

    def content(schema: str) -> dict[str, Any]:
        return {JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}

    return {
        "response_class": Response,
        "responses": {
            200: {"description": "The prediction", "content": content(f"{name}Response")},
            **problem.documented(
                HTTPStatus.BAD_REQUEST,
                HTTPStatus.REQUEST_TIMEOUT,
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                HTTPStatus.UNPROCESSABLE_ENTITY,
                HTTPStatus.INTERNAL_SERVER_ERROR,
                HTTPStatus.SERVICE_UNAVAILABLE,
                HTTPStatus.GATEWAY_TIMEOUT,
            ),
        },
        "openapi_extra": {"requestBody": {"required": True, "content": content(f"{name}Request")}},
    }
