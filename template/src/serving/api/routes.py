"""The routes of the API."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.api import invocations, problem
from serving.api.body import JSON, media_type, parse_json, read_body, require_json
from serving.api.deadline import Deadline
from serving.api.problem import Location, ProblemError
from serving.contract.columns import Row
from serving.engines import base as engines
from serving.errors import RowError
from serving.model.served import ServedModel
from serving.runtime.service import Service
from serving.store.environment import installed
from serving.telemetry import metrics

Schema = TypeVar("Schema", bound=BaseModel)

LARGE_BODY_BYTES = 16_384
LARGE_ROWS = 100
"""Larger bodies are parsed, and answers to more rows are written, off the event loop: 10 MB take a
second, in which probes must be answered."""


class Health(BaseModel):
    """The process lives."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """A model is loaded, warmed up and its contract holds."""

    status: Literal["ready"] = "ready"
    model_version: str


def probes(service: Service) -> APIRouter:
    """What machines ask every few seconds; no key is needed."""
    router = APIRouter(tags=["probes"])
    unready = problem.documented(HTTPStatus.SERVICE_UNAVAILABLE)
    open_to_all: dict[str, Any] = {"openapi_extra": {"security": []}}

    @router.head("/health", include_in_schema=False)
    @router.get("/health", summary="The process lives", **open_to_all)
    async def health() -> Health:
        return Health()

    @router.head("/ready", include_in_schema=False)
    @router.get(
        "/ready",
        summary="A model is loaded, warmed up and its contract holds",
        responses=unready,
        **open_to_all,
    )
    async def ready() -> Ready:
        return Ready(model_version=service.require_ready().version)

    @router.head("/ping", include_in_schema=False)
    @router.get(
        "/ping",
        summary="As /ready, in MLflow's protocol",
        response_class=Response,
        responses=unready,
        **open_to_all,
    )
    async def ping() -> Response:
        service.require_ready()
        return Response()

    if service.settings.serving.metrics_enabled:

        @router.get(
            "/metrics",
            summary="Metrics for Prometheus",
            response_class=Response,
            responses={200: {"content": {"text/plain": {}}}},
            **open_to_all,
        )
        async def prometheus() -> Response:
            return Response(metrics.latest(), media_type=metrics.CONTENT_TYPE)

    return router


def model(service: Service) -> APIRouter:
    """What is served."""
    router = APIRouter(tags=["model"])
    Served = Annotated[ServedModel, Depends(service.require_model)]
    # Not by importing it, which takes seconds; a compiled model is served without it.
    mlflow_version = installed("mlflow") or installed("mlflow-skinny") or "none"

    @router.get(
        "/model",
        summary="What is being served",
        responses=problem.documented(HTTPStatus.SERVICE_UNAVAILABLE),
    )
    async def describe(model: Served) -> dict[str, Any]:
        return model.describe()

    @router.get(
        "/version",
        summary="The version of MLflow, in its protocol",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def version() -> Response:
        return Response(mlflow_version, media_type="text/plain")

    return router


class Predictions:
    """The routes that predict, as ASGI middleware inside all others.

    FastAPI documents them and is not asked for each request: what it does to find a route and its
    parameters costs as much as a compiled model, and there are none to find.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app = app
        routes = predictions(service).routes
        self._routes = {route.path: route for route in routes if isinstance(route, APIRoute)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._routes.get(scope["path"]) if scope["type"] == "http" else None
        if route is None or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        scope["route"] = route
        try:
            response = await route.endpoint(Request(scope, receive))
        except ProblemError as exc:
            response = exc.response()
        await response(scope, receive, send)


def predictions(service: Service) -> APIRouter:
    """The routes that predict, as FastAPI documents them."""
    router = APIRouter(tags=["model"])

    @router.post("/predict", summary="Predict one sample", **_documented("Prediction"))
    async def predict(request: Request) -> Response:
        model = service.require_model()
        require_json(request)
        parse = partial(_one, model.request_schema)
        return await _predict(service, request, parse, model.answer_one, lambda _: ())

    @router.post(
        "/predict/batch",
        summary="Predict many samples; answers come in their order",
        **_documented("BatchPrediction"),
    )
    async def predict_batch(request: Request) -> Response:
        model = service.require_model()
        require_json(request)
        parse = partial(_many, model.batch_request_schema)
        return await _predict(
            service, request, parse, model.answer_batch, lambda index: ("samples", index)
        )

    @router.post(
        "/invocations", summary="Predict rows, in MLflow's protocol", **_documented("Invocation")
    )
    async def invoke(request: Request) -> Response:
        model = service.require_model()
        parse = partial(invocations.parse, model, media_type(request))
        return await _predict(
            service, request, parse, model.answer_invocation, lambda index: (index,)
        )

    return router


async def _predict(
    service: Service,
    request: Request,
    parse: Callable[[bytes], list[BaseModel]],
    answer: Callable[[Sequence[Row], engines.Predictions], str],
    locate: Callable[[int], Location],
) -> Response:
    """Read, validate and predict a request within all limits.

    Args:
        service: the model and its limits.
        request: the request, whose body is not read yet.
        parse: the body -> validated samples.
        answer: rows and their predictions -> what is answered, as JSON.
        locate: the index of a sample -> where it is in the body.

    Raises `ProblemError`: 408 body too slow, 413 too large, 422 invalid, 500 the model failed,
    503 too many requests, 504 answer too slow.
    """
    limits = service.settings.serving
    body = None
    with service.memory() as reserve:
        try:
            with Deadline(limits.request_timeout_seconds):
                body = await read_body(request, limits.max_body_bytes, reserve)
                # Only now: callers who are slow to send keep nobody else from being answered.
                with service.one_prediction():
                    return await _answer(service, body, parse, answer)
        except TimeoutError:
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
        except RowError as exc:
            rule = "the model cannot predict from these values"
            raise problem.invalid_values([(locate(exc.index), rule)]) from None


async def _answer(
    service: Service,
    body: bytes,
    parse: Callable[[bytes], list[BaseModel]],
    answer: Callable[[Sequence[Row], engines.Predictions], str],
) -> Response:
    """Validate and predict a body; see `_predict`."""
    is_large = len(body) > LARGE_BODY_BYTES
    samples = await asyncio.to_thread(parse, body) if is_large else parse(body)
    metrics.ROWS.observe(len(samples))
    rows = service.require_model().rows(samples)
    with service.told_failures():
        predictions = await service.predict(rows)
        is_large = len(rows) > LARGE_ROWS
        written = partial(answer, rows, predictions)
        text = await asyncio.to_thread(written) if is_large else written()
    return Response(text, media_type=JSON)


def _one(schema: type[BaseModel], body: bytes) -> list[BaseModel]:
    return [_validated(schema, body)]


def _many(schema: type[BaseModel], body: bytes) -> list[BaseModel]:
    batch: Any = _validated(schema, body)
    samples: list[BaseModel] = batch.samples
    return samples


def _validated(schema: type[Schema], body: bytes) -> Schema:
    content = parse_json(body)
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
