"""The routes that predict: `/predict`, `/predict/batch` and `/invocations`."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from serving.api import invocations, problem
from serving.api.body import JSON, LARGE_BYTES, media_type, parse_json, read_body, require_json
from serving.api.problem import Location, ProblemError
from serving.errors import Overloaded, RowError
from serving.model.hooks import PredictionContext, PredictionHooks, Record
from serving.model.served import ServedModel
from serving.runtime.service import Service
from serving.telemetry import metrics

Schema = TypeVar("Schema", bound=BaseModel)
Result = TypeVar("Result")
Endpoint = Callable[[Request], Awaitable[Response]]

LARGE_ROWS = 100
"""Answers to more rows are written off the event loop."""


PATHS = ("/predict", "/predict/batch", "/invocations")


class PredictionRoute(APIRoute):
    """A route whose endpoint takes the request as it is.

    FastAPI's handling of a request costs as much as a compiled model. It finds parameters, of which
    there are none here, and resolves dependencies: where there are any, of the application or of a
    router, the route is handled as any other.
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
        """As any route, without the regular expression for a path that has no parameters."""
        if scope["type"] != "http" or scope.get("root_path") or scope["path"] != self.path:
            return super().matches(scope)
        match = Match.FULL if scope["method"] in (self.methods or ()) else Match.PARTIAL
        return match, {"endpoint": self.endpoint, "path_params": {}, "route": self}


@dataclass(frozen=True)
class _Form:
    """What tells the routes apart."""

    parse: Callable[[ServedModel, Request], Callable[[bytes], list[BaseModel]]]
    """Checks the head of a request, and makes what turns its body into validated samples."""
    write: Callable[[ServedModel, Sequence[Record]], str]
    """Answers -> JSON."""
    locate: Callable[[int], Location]
    """The index of a sample -> where it is in the body."""


def _parse_one(model: ServedModel, request: Request) -> Callable[[bytes], list[BaseModel]]:
    require_json(request)
    return partial(_one, model)


def _parse_many(model: ServedModel, request: Request) -> Callable[[bytes], list[BaseModel]]:
    require_json(request)
    return partial(_many, model)


def _parse_rows(model: ServedModel, request: Request) -> Callable[[bytes], list[BaseModel]]:
    return partial(invocations.parse, model, media_type(request))


_ONE = _Form(_parse_one, ServedModel.write_one, lambda _: ())
_MANY = _Form(_parse_many, ServedModel.write_batch, lambda index: ("samples", index))
_ROWS = _Form(_parse_rows, ServedModel.write_invocation, lambda index: (index,))


def add_routes(router: APIRouter, service: Service) -> None:
    """Add the routes that predict, with all dependencies that the router has so far."""

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
        "Predict many samples; answers come in their order",
        "BatchPrediction",
    )
    add(rows, invoke, "Predict rows, in MLflow's protocol", "Invocation")


async def _predict(service: Service, request: Request, form: _Form) -> Response:
    """Read, validate and predict a request within all limits.

    Raises `ProblemError`: 408 body too slow, 413 too large, 422 invalid, 504 answer too slow;
    `Unavailable` (503) without a model and for too many requests, and `ModelFailed` (500).
    """
    model = service.require_answering()
    parse = form.parse(model, request)
    limits = service.settings.serving
    body = None
    with service.limits.reserve_body() as reserve:
        try:
            async with asyncio.timeout(limits.request_timeout_seconds) as timer:
                body = await read_body(request, limits.max_body_bytes, reserve)
                # Only now: callers who are slow to send keep nobody else from being answered.
                with service.limits.prediction_slot():
                    return await _answer(service, request, body, parse, form)
        except TimeoutError:
            if not timer.expired():  # one of the user's code
                raise
            within = f"within {limits.request_timeout_seconds:g} s"
            if body is None:
                raise ProblemError(
                    HTTPStatus.REQUEST_TIMEOUT,
                    f"the body did not arrive {within}",
                    headers={"Connection": "close"},
                ) from None
            raise ProblemError(
                HTTPStatus.GATEWAY_TIMEOUT, f"the model did not answer {within}"
            ) from None
        except Overloaded as exc:
            raise problem.unavailable(exc, body_is_read=body is not None) from None
        except RowError as exc:
            rule = "the model cannot predict from these values"
            raise problem.invalid_values([(form.locate(exc.index), rule)]) from None


async def _answer(
    service: Service,
    request: Request,
    body: bytes,
    parse: Callable[[bytes], list[BaseModel]],
    form: _Form,
) -> Response:
    """Validate and predict a body; see `_predict`."""
    is_large = len(body) > LARGE_BYTES
    samples = await service.offloader.run(partial(parse, body)) if is_large else parse(body)
    metrics.ROWS.observe(len(samples))
    model = service.require_model()
    if model.hooks:
        context = model.hooks.context(request.headers)
        return await _answer_with_hooks(service, model, model.hooks, samples, context, form)
    rows = model.rows(samples)
    with service.log_failures():
        predictions = await service.predict(rows)

        def write() -> str:
            return form.write(model, model.answers(rows, predictions))

        text = await _computed(service, len(rows), write)
    return Response(text, media_type=JSON)


async def _answer_with_hooks(
    service: Service,
    model: ServedModel,
    hooks: PredictionHooks,
    samples: list[BaseModel],
    context: PredictionContext,
    form: _Form,
) -> Response:
    """Predict samples with the user's code before and after the model."""
    records = await hooks.before(model.records(samples), context)
    rows = model.rows_of(records)
    with service.log_failures():
        predictions = await service.predict(rows)
        answers = await _computed(service, len(rows), partial(model.answers, rows, predictions))
    answers = await hooks.after(answers, records, context)
    with service.log_failures():
        text = await _computed(service, len(rows), partial(form.write, model, answers))
    return Response(text, media_type=JSON)


async def _computed(service: Service, rows: int, work: Callable[[], Result]) -> Result:
    """The result of work on so many rows, which must not hold the event loop for long."""
    return await service.offloader.run(work) if rows > LARGE_ROWS else work()


def _one(model: ServedModel, body: bytes) -> list[BaseModel]:
    return [_validated(model.request_schema, parse_json(body, model.schemas.most_values))]


def _many(model: ServedModel, body: bytes) -> list[BaseModel]:
    content = parse_json(body, model.schemas.most_values)
    batch: Any = _validated(model.batch_request_schema, content)
    samples: list[BaseModel] = batch.samples
    return samples


def _validated(schema: type[Schema], content: Any) -> Schema:
    try:
        return schema.model_validate(content)
    except ValidationError as exc:
        raise problem.invalid_request(exc) from None


def _documented(name: str) -> dict[str, Any]:
    """OpenAPI of a route whose schemas are the model's: references, resolved once it is loaded."""

    def content(schema: str) -> dict[str, Any]:
        return {JSON: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}

    return {
        "response_class": Response,
        "responses": {
            200: {"description": "The answer", "content": content(f"{name}Response")},
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
