"""The routes of the API."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from serving import invocations, metrics, problem
from serving.body import JSON, media_type, parse_json, read_body, require_json
from serving.columns import Row
from serving.engines import Predictions
from serving.errors import RowError
from serving.model import ServedModel
from serving.problem import Location, ProblemError
from serving.service import Service

Schema = TypeVar("Schema", bound=BaseModel)

LARGE_BODY_BYTES = 65_536
"""Larger bodies are parsed off the event loop: 10 MB take a second, in which probes must answer."""


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
        from mlflow.version import VERSION

        return Response(VERSION, media_type="text/plain")

    return router


class PredictionRoute(APIRoute):
    """A route that FastAPI documents, and that is called without its work for each request.

    Resolving parameters and dependencies costs more than a compiled model, and there are none.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, **options)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            response = await endpoint(Request(scope, receive))
            await response(scope, receive, send)

        self.app = app

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        if scope["type"] != "http" or scope["path"] != self.path:
            return super().matches(scope)
        match = Match.FULL if scope["method"] == "POST" else Match.PARTIAL
        return match, {"endpoint": self.endpoint, "path_params": {}, "route": self}


def add_predictions(app: FastAPI, service: Service) -> None:
    """Add the routes that predict."""

    async def predict(request: Request) -> Response:
        model = service.require_model()
        require_json(request)
        parse = partial(_one, model.request_schema)
        return await _predict(service, request, parse, model.answer_one, lambda _: ())

    async def predict_batch(request: Request) -> Response:
        model = service.require_model()
        require_json(request)
        parse = partial(_many, model.batch_request_schema)
        return await _predict(
            service, request, parse, model.answer_batch, lambda index: ("samples", index)
        )

    async def invoke(request: Request) -> Response:
        model = service.require_model()
        parse = partial(invocations.parse, model, media_type(request))
        return await _predict(
            service, request, parse, model.answer_invocation, lambda index: (index,)
        )

    routes = [
        ("/predict", predict, "Predict one sample", "Prediction"),
        (
            "/predict/batch",
            predict_batch,
            "Predict many samples; answers come in their order",
            "BatchPrediction",
        ),
        ("/invocations", invoke, "Predict rows, in MLflow's protocol", "Invocation"),
    ]
    app.router.routes[:0] = [  # before all others: they are asked most
        PredictionRoute(
            path, endpoint, methods=["POST"], tags=["model"], summary=summary, **_documented(name)
        )
        for path, endpoint, summary, name in routes
    ]


async def _predict(
    service: Service,
    request: Request,
    parse: Callable[[bytes], list[BaseModel]],
    answer: Callable[[Sequence[Row], Predictions], str],
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
    within = f"within {limits.request_timeout_seconds:g} s"
    deadline = asyncio.get_running_loop().time() + limits.request_timeout_seconds
    with service.memory() as reserve:
        try:
            async with asyncio.timeout_at(deadline):
                body = await read_body(request, limits.max_body_bytes, reserve)
        except TimeoutError:
            raise ProblemError(
                HTTPStatus.REQUEST_TIMEOUT,
                f"the body did not arrive {within}",
                headers={"Connection": "close"},
            ) from None
        # Only now: callers who are slow to send keep nobody else from being answered.
        with service.one_prediction():
            try:
                async with asyncio.timeout_at(deadline):
                    return await _answer(service, body, parse, answer)
            except TimeoutError:
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
    answer: Callable[[Sequence[Row], Predictions], str],
) -> Response:
    """Validate and predict a body; see `_predict`."""
    is_large = len(body) > LARGE_BODY_BYTES
    samples = await asyncio.to_thread(parse, body) if is_large else parse(body)
    metrics.ROWS.observe(len(samples))
    rows = service.require_model().rows(samples)
    predictions = await service.predict(rows)
    text = (
        await asyncio.to_thread(answer, rows, predictions)
        if is_large
        else answer(rows, predictions)
    )
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
